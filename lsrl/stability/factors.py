"""The primary experiment: what makes the paper's conditionals fragile, one factor at a time.

One program text, that of the paper's tok2tok, in every combination of

- the form of a conditional: one-sided relu(v - M u), two-sided relu(v - M u) - relu(-v - M u), or a
  gate c v, where c is 1 where the value v is taken and u is 1 where it isn't;
- the constant M of the ReLU forms: B, 10 B, 1000 B, 1e10, with B the tight bound of |v|;
- thresholds: the paper's (slope 1000, of booleans at the very edge of 0), or centred between the
  values that occur, with a slope of 4 over their distance, which leaves 3/8 of it on either side;

under noise on stored numbers, on these and all biases, or on all entries, in units of 1, of the
weight, or of signals. All are compiled for `gated_linear_rnn`, so the forms alone decide what is a
gate; equal arrays get equal noise. States are forced.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from rich.progress import Progress

import lsrl
from lsrl import programs
from lsrl.ir import ops
from lsrl.ir.types import Token
from lsrl.language.program import Program, program
from lsrl.language.signal import Signal, affine, constant, record, relu
from lsrl.language.sugar import concat, linear_state, position
from lsrl.paper import SCALE, f_step
from lsrl.stability.copies import MEMORY, run_copies
from lsrl.stability.measures import Critical, critical_level, wrong_tokens
from lsrl.stability.paper_experiment import VOCAB, tok2tok_prompts
from lsrl.stability.perturbations import WeightNoise
from lsrl.stability.store import Parts, Row, write_rows

FormName = Literal["one-sided", "two-sided", "gate"]
Thresholds = Literal["edge", "centred"]

LENGTH, PAIRS, PROMPTS = 3, 4, 20
DRAWS = 100
LEVELS = tuple(10.0**exponent for exponent in range(-13, 1))
CENTRED_SLOPE = 4
# Factors on B; a number that stands for itself where it is as large as the paper's.
CONSTANTS = (1.0, 10.0, 1e3, 1e10)
NOISES = (
    WeightNoise("stored", LEVELS, forced=True),
    WeightNoise("biases", LEVELS, forced=True, entries="biases"),
    WeightNoise("all", LEVELS, forced=True, entries="all"),
    WeightNoise("relative", LEVELS, forced=True, unit="relative"),
    WeightNoise("range", LEVELS, forced=True, unit="range"),
)
COLUMNS = ("form", "constant", "thresholds", "noise", "level", "seed", "wrong")


@dataclass(frozen=True)
class Factors:
    """One way of writing the program.

    Attributes:
      form: of the conditionals.
      constant: M over B; 1e10 stands for M itself. None for gates.
      thresholds: where steps stand, and how steep they are.
    """

    form: FormName
    constant: float | None
    thresholds: Thresholds

    def taken(self, value: Signal, when: Signal, unless: Signal, bound: float) -> Signal:
        """The value, of size at most `bound`, where `when` is 1 and `unless` is 0; else 0."""
        if self.constant is None:
            return when * value
        large = self.constant if self.constant == CONSTANTS[-1] else self.constant * bound
        kept = relu(value - large * unless)
        if self.form == "one-sided":
            return kept
        return kept - relu(-value - large * unless)

    def larger(self, x: Signal, edge: float | Signal, gap: float = 1.0) -> Signal:
        """1 where x > edge, for values that stay gap/2 away from it."""
        if self.thresholds == "edge":
            return f_step(x - edge)
        slope = CENTRED_SLOPE / gap
        scaled = slope * (x - edge)
        step = relu(scaled + 0.5) - relu(scaled - 0.5)
        ends = (0.0,) * step.width, (1.0,) * step.width
        return record(ops.Bound(*ends, proven=True), step)

    def smaller(self, x: Signal, edge: float | Signal, gap: float = 1.0) -> Signal:
        """1 where x < edge."""
        return self.larger(-x, -edge, gap)

    def both(self, x: Signal, y: Signal) -> Signal:
        """1 where both of two booleans are 1."""
        if self.thresholds == "edge":
            return relu(f_step(x) + f_step(y) - 1)
        return self.larger(x + y, 1.5)

    def either(self, x: Signal, y: Signal) -> Signal:
        """1 where one of two booleans is 1."""
        return f_step(x + y) if self.thresholds == "edge" else self.larger(x + y, 0.5)

    def modulo(self, n: int) -> Signal:
        """The position modulo n by rotation, as in `lsrl.paper.f_modulo_counter`."""
        angle = 2 * math.pi / n
        cosine, sine = math.cos(angle), math.sin(angle)
        rotation = np.array([[cosine, -sine], [sine, cosine]])
        cycler = linear_state(constant([0, 0]), rotation, initial=[cosine, -sine])
        turns = angle * np.arange(n)
        indicator = np.stack([np.cos(turns), np.sin(turns)], axis=1) @ cycler
        if self.thresholds == "edge":
            one_hot = f_step(indicator - math.cos(angle / 2))
        else:
            one_hot = self.larger(indicator, (1 + cosine) / 2, 1 - cosine)
        return affine([(np.arange(n)[None, :], one_hot)])


def combinations() -> Iterator[Factors]:
    """All forms, constants and thresholds."""
    for thresholds in get_args(Thresholds):
        for form in get_args(FormName)[:2]:
            for ratio in CONSTANTS:
                yield Factors(form, ratio, thresholds)
        yield Factors("gate", None, thresholds)


def tok2tok(factors: Factors, length: int = LENGTH, pairs: int = PAIRS) -> Program:
    """The paper's tok2tok (its listing 1, as `lsrl.paper.tok2tok`) with the factors given."""
    places, symbol, longest = range(length), VOCAB - 1.0, length * (1 + 2 * pairs)
    larger, smaller, both = factors.larger, factors.smaller, factors.both

    @program(name="factors_tok2tok", max_length=longest)
    def tok2tok(token: Annotated[Signal, Token(VOCAB)]) -> Signal:
        counter = position()
        place, phase = factors.modulo(length), factors.modulo(2 * length)
        is_prompt = larger(counter, length - 0.5)
        is_query = smaller(counter, length - 0.5)
        is_key = larger(phase, length - 0.5)
        is_value = both(is_prompt, 1 - is_key)
        is_value_start = both(is_value, smaller(place, 0.5))
        at_place = [both(larger(place, i - 0.5), smaller(place, i + 0.5)) for i in places]
        off_place = [
            factors.either(larger(place, i + 0.5), smaller(place, i - 0.5)) for i in places
        ]
        asked = factors.taken(token, is_query, is_prompt, symbol)
        update = [factors.taken(asked, at_place[i], off_place[i], symbol) for i in places]
        query = linear_state(concat(*update))
        expected = concat(
            *(factors.taken(query[i], at_place[i], off_place[i], symbol) for i in places)
        ).sum()
        same = both(larger(token, expected - 0.5), smaller(token, expected + 0.5))
        matching = both(same, is_key)
        entry = np.eye(1, length + 1, length).T
        buffer = linear_state(entry @ matching, np.eye(length + 1, k=1))
        all_matching = larger(buffer[:length].sum(), length - 0.5)
        starts = both(all_matching, is_value_start)
        started = linear_state(factors.taken(counter, starts, 1 - starts, float(longest)))
        copies = both(is_value, smaller(counter, started + (length - 0.5)))
        said = []
        for i in places:
            writes = both(copies, at_place[i])
            update_i = factors.taken(token, larger(writes, 0.5), smaller(writes, 0.5), symbol)
            register = linear_state(update_i)
            said.append(factors.taken(register, at_place[i], off_place[i], symbol))
        return concat(*said).sum()

    return tok2tok


def factors_experiment(
    folder: Path,
    *,
    draws: int = DRAWS,
    prompts: int = PROMPTS,
    noises: Sequence[WeightNoise] = NOISES,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> list[Row]:
    """Run the experiment, or what of it is not finished; writes factors.csv.

    Args:
      folder: of the results; finished combinations are kept in its folder factors_parts.
      draws: of the noise, each on all prompts.
      prompts: with words of 3 symbols and 4 pairs; the last 3 outputs of each count.
      noises: kinds of noise.
      memory: bytes that the copies at work may take.
      progress: to report to.

    Returns:
      One row a draw and level: form, constant, thresholds, noise, level, seed, wrong.
    """
    parts, rows = Parts(folder / "factors_parts", COLUMNS), []
    chosen = list(combinations())
    bar = None
    if progress is not None:
        bar = progress.add_task("primary experiment", total=len(chosen) * len(noises))
    for factors in chosen:
        models: list[Any] = []  # compiled once, and only if something is left to do
        for noise in noises:
            settings = {
                "factors": repr(factors), "noise": repr(noise), "draws": draws,
                "prompts": prompts, "sizes": (LENGTH, VOCAB, PAIRS, SCALE),
                "version": lsrl.__version__,
            }  # fmt: skip
            if progress is not None and bar is not None:
                progress.update(bar, description=f"{factors.form} {noise.name}")
            rows += parts.rows(
                settings,
                partial(_measure, factors, noise, models, draws, prompts, memory),
            )
            if progress is not None and bar is not None:
                progress.advance(bar)
    write_rows(folder / "factors.csv", COLUMNS, rows)
    return rows


def _measure(
    factors: Factors,
    noise: WeightNoise,
    models: list[Any],
    draws: int,
    prompts: int,
    memory: int,
) -> list[dict[str, Any]]:
    if not models:
        models.append(lsrl.compile(tok2tok(factors), "gated_linear_rnn", dtype="float64"))
    given = tok2tok_prompts(LENGTH, PAIRS, prompts)
    expected = programs.tok2tok(LENGTH, VOCAB, PAIRS).run(given)[:, -LENGTH:]
    rows: list[dict[str, Any]] = []
    for level in noise.levels:
        outputs = run_copies(
            models[0], [given], noise, [level] * draws, list(range(draws)),
            memory=memory, last=LENGTH,
        )  # fmt: skip
        wrong = wrong_tokens(outputs, expected).mean(axis=(1, 2)).tolist()
        rows += [
            {
                "form": factors.form,
                "constant": "" if factors.constant is None else factors.constant,
                "thresholds": factors.thresholds, "noise": noise.name,
                "level": level, "seed": seed, "wrong": share,
            }
            for seed, share in enumerate(wrong)
        ]  # fmt: skip
        if np.mean(wrong) > 0.6:
            break  # the level at 50 % is known, and stronger noise tells no more
    return rows


def critical_levels(
    rows: Sequence[Row], share: float = 0.05
) -> dict[tuple[str, str, str, str], Critical]:
    """σ at which a share of the tokens is wrong, with its 95 % interval over draws.

    Returns:
      By form, constant, thresholds and noise.
    """
    table: dict[tuple[str, str, str, str], dict[float, list[float]]] = {}
    for row in rows:
        key = (row["form"], row["constant"], row["thresholds"], row["noise"])
        table.setdefault(key, {}).setdefault(float(row["level"]), []).append(float(row["wrong"]))
    return {
        key: critical_level(list(levels), np.array(list(levels.values())), share)
        for key, levels in table.items()
    }
