"""Do states that correct themselves bear more noise than affine ones?

The same memory, written with a linear state, s = A s + u, whose errors add up, and with a threshold
state, h = [A h + u > 0], which is 0 or 1 again at every token; on the targets that have both. Equal
arrays get equal noise; what is compared is the σ at which 5 % of the tokens are wrong.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
from rich.progress import Progress

import lsrl
from benchmarks.stability import code
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.program import Program, program
from lsrl.language.signal import Signal, constant
from lsrl.language.sugar import delay, linear_state, threshold_state
from lsrl.model import Model
from lsrl.noise.copies import MEMORY
from lsrl.noise.perturbations import WeightNoise
from lsrl.stability.measures import Critical, clustered, critical_level, located
from lsrl.stability.store import CsvRow, Parts, write_rows

Writing = Literal["affine", "self-correcting"]

TARGETS = ("rnn", "rnn_tanh", "lstm", "gru")
TOKENS, SYMBOLS = 60, 5
PROMPTS, DRAWS = 20, 100
SHARE = 0.05
# Quarters of a decade.
LEVELS = tuple(10.0 ** (quarter / 4) for quarter in range(-40, 5))
NOISES = (
    WeightNoise("forced", LEVELS, forced=True),
    WeightNoise("free", LEVELS),
    WeightNoise("forced, relative", LEVELS, forced=True, unit="relative"),
    WeightNoise("free, relative", LEVELS, unit="relative"),
)
COLUMNS = ("program", "states", "target", "noise", "level", "seed", "wrong")

# From an update and a transition to a state of zeros and ones, initially as told.
MakeState = Callable[..., Signal]


def _seen(state: MakeState, token: Signal) -> Signal:
    """1 from the first symbol 1 on."""
    return state(token.one_hot[1], 1) >= 1


def _distinct(state: MakeState, token: Signal) -> Signal:
    """How many symbols have occurred."""
    return (state(token.one_hot, 1) >= 1).sum()


def _first(state: MakeState, token: Signal) -> Signal:
    """The first symbol."""
    begun = delay(constant(1), 1)
    kept = state(token.one_hot & (1 - begun), 1)
    return np.arange(SYMBOLS)[None] @ kept


def _ring(state: MakeState, token: Signal) -> Signal:
    """The position modulo the number of symbols."""
    turning = np.roll(np.eye(SYMBOLS), 1, axis=0)
    start = np.eye(SYMBOLS)[-1]
    ring = state(constant([0] * SYMBOLS), turning, initial=start)
    return np.arange(SYMBOLS)[None] @ ring


def _late(state: MakeState, token: Signal) -> Signal:
    """1 where the symbol of four tokens ago was 2 or more."""
    bit = token.one_hot[2:].sum()
    return state(np.eye(SYMBOLS, 1) @ bit, np.eye(SYMBOLS, k=-1))[SYMBOLS - 1]


def _answers(name: str, prompt: Sequence[int]) -> list[int]:
    """What a program answers, in plain Python."""
    tokens = list(range(len(prompt)))
    return {
        "seen": [int(1 in prompt[: t + 1]) for t in tokens],
        "distinct symbols": [len(set(prompt[: t + 1])) for t in tokens],
        "first symbol": [prompt[0] for _ in tokens],
        "ring": [t % SYMBOLS for t in tokens],
        "late bit": [int(t >= SYMBOLS - 1 and prompt[t - SYMBOLS + 1] >= 2) for t in tokens],
    }[name]


TEXTS: Mapping[str, Callable[[MakeState, Signal], Signal]] = {
    "seen": _seen,
    "distinct symbols": _distinct,
    "first symbol": _first,
    "ring": _ring,
    "late bit": _late,
}


def build(name: str, kind: Writing) -> Program:
    """A program with one kind of states.

    Args:
      name: of `TEXTS`.
      kind: affine states count where self-correcting ones hold 0 or 1.
    """
    state: MakeState = linear_state if kind == "affine" else threshold_state

    @program(name=f"{kind}_{name}".replace(" ", "_").replace("-", "_"), max_length=TOKENS)
    def text(token: Annotated[Signal, Token(SYMBOLS)]) -> Signal:
        return TEXTS[name](state, token)

    return text


def prompts(name: str, count: int) -> tuple[Array, Array]:
    """Random prompts, ints (count, TOKENS), and their answers, (count, TOKENS, 1).

    The symbol 1 comes once in twenty tokens, so that it is awaited for some time.
    """
    odds = np.where(np.arange(SYMBOLS) == 1, 0.05, 0.95 / (SYMBOLS - 1))
    given = np.random.default_rng(0).choice(SYMBOLS, p=odds, size=(count, TOKENS))
    answers = [_answers(name, prompt) for prompt in given.tolist()]
    return given, np.array(answers, dtype=np.float64)[..., None]


@dataclass
class _Case:
    """A program on a target; compiled only if something is left to do."""

    name: str
    kind: Writing
    target: str
    model: Model | None = None

    def measure(
        self, noise: WeightNoise, draws: int, count: int, memory: int
    ) -> list[dict[str, Any]]:
        """The rows of one kind of noise."""
        if self.model is None:
            self.model = lsrl.compile(build(self.name, self.kind), self.target)
        given, expected = prompts(self.name, count)
        names = {
            "program": self.name, "states": self.kind, "target": self.target, "noise": noise.name,
        }  # fmt: skip
        rows = located(self.model, given, expected, noise, draws, share=SHARE, memory=memory)
        return [{**names, **row} for row in rows]


def states_experiment(
    folder: Path,
    *,
    names: Sequence[str] = tuple(TEXTS),
    targets: Sequence[str] = TARGETS,
    draws: int = DRAWS,
    count: int = PROMPTS,
    noises: Sequence[WeightNoise] = NOISES,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> list[CsvRow]:
    """Run the experiment, or what of it is not finished; writes states.csv.

    Args:
      folder: of the results; finished tasks are kept in its folder states_parts.
      names: programs of `TEXTS`.
      targets: that have threshold states.
      draws: of the noise, each on all prompts.
      count: of prompts.
      noises: kinds of noise.
      memory: bytes that the copies at work may take.
      progress: to report to.

    Returns:
      One row a draw and level: program, states, target, noise, level, seed, wrong.
    """
    parts, rows = Parts(folder / "states_parts", COLUMNS), []
    cases = [
        _Case(name, kind, target)
        for target in targets
        for name in names
        for kind in get_args(Writing)
    ]
    bar = None
    if progress is not None:
        bar = progress.add_task("states", total=len(cases) * len(noises))
    for case in cases:
        for noise in noises:
            settings = {
                    "experiment": code(),
                "name": case.name, "states": case.kind, "target": case.target,
                "program": build(case.name, case.kind), "prompts": prompts(case.name, count),
                "noise": noise, "draws": draws, "share": SHARE,
            }  # fmt: skip
            if progress is not None and bar is not None:
                what = f"{case.name}, {case.kind}, on {case.target}: {noise.name}"
                progress.update(bar, description=what)
            rows += parts.rows(settings, partial(case.measure, noise, draws, count, memory))
            if progress is not None and bar is not None:
                progress.advance(bar)
        case.model = None
    write_rows(folder / "states.csv", COLUMNS, rows)
    return rows


class Correction(NamedTuple):
    """What self-correcting states gain on a target under one kind of noise.

    Attributes:
      target: of the models.
      noise: its kind.
      sigmas: by program, σ at 5 % with affine and with self-correcting states.
      ratio: log10 of self-correcting over affine, the mean over programs.
      low: of its 95 % interval, by bootstrap over programs.
      high: of it.
    """

    target: str
    noise: str
    sigmas: dict[str, tuple[float, float]]
    ratio: float
    low: float
    high: float


def corrections(rows: Sequence[CsvRow]) -> list[Correction]:
    """The gain by target and noise. A σ outside the levels tried counts as the nearest of them."""
    table: dict[tuple[str, str], dict[str, dict[str, dict[float, list[float]]]]] = {}
    for row in rows:
        if float(row["level"]) > 0:
            programs = table.setdefault((row["target"], row["noise"]), {})
            levels = programs.setdefault(row["program"], {}).setdefault(row["states"], {})
            levels.setdefault(float(row["level"]), []).append(float(row["wrong"]))
    found = []
    for (target, noise), programs in table.items():
        sigmas = {}
        for name, kinds in programs.items():
            affine, corrected = (_critical(kinds[kind]).level for kind in get_args(Writing))
            sigmas[name] = (affine, corrected)
        clipped = np.log10(np.clip(list(sigmas.values()), LEVELS[0], LEVELS[-1]))
        ratios = (clipped[:, 1] - clipped[:, 0]).tolist()
        found.append(Correction(target, noise, sigmas, *clustered(ratios)))
    return found


def _critical(levels: Mapping[float, Sequence[float]]) -> Critical:
    chosen = sorted(levels)
    return critical_level(chosen, np.array([levels[level] for level in chosen]), SHARE)
