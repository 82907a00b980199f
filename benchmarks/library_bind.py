"""Sections of `benchmarks.library`: arguments given, arguments and selection bound, and the cost.

Every figure is of answers at the end of questions of so many tokens, drawn anew; the host was
trained on 2,000 questions of at most 16 tokens. Registers are hard and routines run exactly.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.stats import beta

from benchmarks.common import BenchmarkError, Section, Table, sample_together, say
from benchmarks.library_host import (
    BATCH,
    STEPS,
    WIDTH,
    Data,
    Trained,
    Training,
    exact,
    trained,
)
from benchmarks.library_rows import finished
from benchmarks.library_tasks import DIGITS, NEEDED, OTHERS, Language
from lsrl.errors import Unbindable
from lsrl.nn import Call, Calls, Host, Library

PAIRS, LONGEST = 2_000, 16
# Questions by tokens.
ASKED = {16: 500, 256: 250, 1_000: 100}
# Questions of which the most frequent answers are counted.
COUNTED = 2_000
SEEDS, FEW = 5, 3
NOISE = 0.1
# Tokens of a question where time is taken.
TIMED = 64


@dataclass(frozen=True)
class Case:
    """A library, and what is asked of it.

    Attributes:
      name: for the tables.
      routines: of the library; none for the host alone.
      seeds: how many.
      noise: share of the labels that are wrong.
    """

    name: str
    routines: Sequence[str]
    seeds: int = SEEDS
    noise: float = 0.0


CASES = (
    Case("13 routines", (*NEEDED, *OTHERS)),
    Case("none of the 5", (*OTHERS,), FEW),
    Case("3 of the 5", (*list(NEEDED)[:3], *OTHERS), FEW),
    Case("no library", (), FEW),
    Case("13 routines, 10 % wrong labels", (*NEEDED, *OTHERS), noise=NOISE),
)
ROUTINES = {**NEEDED, **OTHERS}


@dataclass
class Run:
    """One seed of a case.

    Attributes:
      case: which.
      seed: which.
      right: by task and tokens, right answers and questions.
      floor: by task and tokens, the share of the most frequent answer.
      bound: tasks whose calls hold; None where nothing is bound.
      seconds: CPU time of binding and of training.
      equal: whether the certified network gave what the machines gave; None where it wasn't asked.
      blames: what errors come from, of hosts that were trained for fewer steps, too.
    """

    case: str
    seed: int
    right: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    floor: dict[str, dict[int, float]] = field(default_factory=dict)
    bound: list[str] | None = None
    seconds: tuple[float, float] = (0.0, 0.0)
    equal: bool | None = None
    blames: list[dict[str, object]] = field(default_factory=list)

    @classmethod
    def of(cls, found: dict[str, Any]) -> "Run":
        """Of a row that was kept, whose keys are text."""
        for name in ("right", "floor"):
            found[name] = {
                task: {int(tokens): each for tokens, each in by_tokens.items()}
                for task, by_tokens in found[name].items()
            }
        return cls(**found)

    def share(self, tokens: int) -> float:
        """Mean of the tasks."""
        return float(np.mean([each[tokens][0] / each[tokens][1] for each in self.right.values()]))

    def constant(self, tokens: int) -> float:
        """What the best constant for each task gets."""
        return float(np.mean([each[tokens] for each in self.floor.values()]))


def interval(right: int, questions: int) -> tuple[float, float]:
    """95 % of Clopper & Pearson (1934)."""
    low = beta.ppf(0.025, right, questions - right + 1) if right else 0.0
    high = beta.ppf(0.975, right + 1, questions - right) if right < questions else 1.0
    return float(low), float(high)


def measure(run: Run, language: Language, host: Trained, quick: bool) -> None:
    """Ask questions of all lengths."""
    rng = np.random.default_rng(10_000 + run.seed)
    for tokens, count in ASKED.items():
        data = Data(*language.batch(rng, count // 5 if quick else count, tokens, fixed=True))
        said = host.answers(data.words, data.lengths)
        for name, token in zip(NEEDED, language.names.tolist(), strict=True):
            mine = data.words[:, 0] == token
            right = int((said == data.answers)[mine].sum())
            run.right.setdefault(name, {})[tokens] = right, int(mine.sum())
    run.floor = constants(language)


def constants(language: Language) -> dict[str, dict[int, float]]:
    """By task and tokens, the share of the most frequent answer of many questions."""
    found: dict[str, dict[int, float]] = {name: {} for name in NEEDED}
    for tokens in ASKED:
        words, _, answers = language.batch(np.random.default_rng(0), COUNTED, tokens, fixed=True)
        for name, token in zip(NEEDED, language.names.tolist(), strict=True):
            mine = answers[words[:, 0] == token]
            found[name][tokens] = float(np.bincount(mine).max() / len(mine))
    return found


def drawn(seed: int, noise: float = 0.0) -> tuple[Language, Data]:
    """A language, and the questions that all is learnt from."""
    language = Language.drawn(seed, list(NEEDED.values()))
    rng = np.random.default_rng(100 + seed)
    data = Data(*language.batch(rng, PAIRS, LONGEST))
    wrong = rng.random(PAIRS) < noise
    other = (data.answers + rng.integers(1, DIGITS, PAIRS)) % DIGITS
    return language, data._replace(answers=np.where(wrong, other, data.answers))


def pairs_of(data: Data) -> list[tuple[list[int], int]]:
    """As `Library.bind` takes them."""
    return [
        (word[:length].tolist(), int(answer))
        for word, length, answer in zip(data.words, data.lengths, data.answers, strict=True)
    ]


# ---------------------------------------------------------------- bound


def bind_and_train(case: Case, seed: int, quick: bool) -> Run:
    """One run of a case."""
    language, data = drawn(seed, case.noise)
    run, library, calls = Run(case.name, seed), None, None
    if case.routines:
        library = Library([ROUTINES[name] for name in case.routines])
        start = time.process_time()
        try:
            calls = held = library.bind(pairs_of(data), LONGEST, seed=seed)
        except Unbindable as refused:
            held, calls = refused.calls, refused.best
        run.seconds = (time.process_time() - start, 0.0)
        names = dict(zip(language.names.tolist(), NEEDED, strict=True))
        run.bound = [names.get(writer, "?") for writer in held.writers]
    host = trained(data, language.vocabulary, library, calls, seed)
    run.seconds = (run.seconds[0], host.seconds)
    measure(run, language, host, quick)
    if case is CASES[0] and seed == 0:
        run.equal = equal_to_network(host, language, seed)
        for steps in (50, 100):
            early = trained(data, language.vocabulary, library, calls, seed, steps)
            run.blames.append(blame_of(early, language, steps))
        run.blames.append(blame_of(host, language, STEPS))
    say(f"  bound {run.bound}, {[round(run.share(tokens), 3) for tokens in ASKED]}, {run.seconds}")
    return run


def able(routines: Sequence[str]) -> list[str]:
    """The tasks that some routine does under some renaming.

    Raises:
      BenchmarkError: one is not decided.
    """
    library = Library([ROUTINES[name] for name in routines])
    found = []
    for name, task in NEEDED.items():
        verdicts = library.can(task, framed=True).values()
        if any(verdict not in ("no", "not decided") for verdict in verdicts):
            found.append(name)
        elif "not decided" in verdicts:
            raise BenchmarkError(f"{name}: expected a decision for each routine")
    return found


def equal_to_network(host: Trained, language: Language, seed: int) -> bool:
    """Whether the certified network gives what the machines gave, over 1,000 tokens."""
    if host.library is None:
        raise BenchmarkError("the host alone has no network to compare")
    rng = np.random.default_rng(seed)
    words, _, _ = language.batch(rng, 5, max(ASKED), fixed=True)
    _, given, choice = host.inside(words)
    return bool((host.network(words) == exact(host.library, given.argmax(-1), choice)).all())


def blame_of(host: Trained, language: Language, steps: int) -> dict[str, object]:
    """What the errors of a host come from."""
    if host.library is None:
        raise BenchmarkError("the host alone has no library to blame")
    words, lengths, answers = language.batch(np.random.default_rng(5), 400, LONGEST, fixed=True)
    _, given, choice = host.inside(words)
    said = host.answers(words, lengths)
    found = host.library.blame(host.calls, words, answers, said, given, choice)
    return {"steps": steps, "wrong": found.wrong, **found.errors}


def bound(quick: bool) -> Section:
    """Arguments and selection together, from questions and answers alone."""

    def row(case: Case, seed: int) -> Run:
        name = f"bind, {case.name}, seed {seed}"
        return Run.of(finished(name, quick, lambda: asdict(bind_and_train(case, seed, quick))))

    runs = [row(case, seed) for case in CASES for seed in range(1 if quick else case.seeds)]
    can = {
        case.name: finished(f"can, {case.name}", quick, lambda case=case: able(case.routines))  # type: ignore[misc]
        for case in CASES
        if case.routines
    }
    blames = [blame for run in runs for blame in run.blames]
    (equal,) = (run.equal for run in runs if run.equal is not None)
    return Section(
        [_by_seed(runs), _by_task(runs), _abilities(runs, can), _blamed(blames)],
        _findings(runs, can, equal),
    )


def _by_seed(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        rows.append({
            "case": run.case, "seed": run.seed,
            "bound": None if run.bound is None else f"{len(run.bound)} of 5",
            **{str(tokens): run.share(tokens) for tokens in ASKED},
            "least": min(each[max(ASKED)][0] / each[max(ASKED)][1] for each in run.right.values()),
            "floor": run.constant(max(ASKED)),
            "binding": run.seconds[0], "training": run.seconds[1],
        })  # fmt: skip
    return Table(
        "bind_seeds", "Arguments and selection bound from questions and answers: by seed",
        {"case": "library", "seed": "seed", "bound": "calls that hold",
         **{str(tokens): f"right at {tokens:,}" for tokens in ASKED},
         "least": f"worst task at {max(ASKED):,}", "floor": f"constants at {max(ASKED):,}",
         "binding": "CPU s to bind", "training": "CPU s to train"}, rows,
        f"{PAIRS:,} questions of at most {LONGEST} tokens, of 14 tokens under a cipher drawn for "
        f"each seed; host of width 32, {STEPS} steps of {BATCH}. Right: mean of the five tasks. "
        "Constants: the best constant answer for each task. Where binding refuses, the host has "
        "the best calls that were found.",
    )  # fmt: skip


def _by_task(runs: Sequence[Run]) -> Table:
    rows: list[dict[str, Any]] = []
    for case in dict.fromkeys(run.case for run in runs):
        mine = [run for run in runs if run.case == case]
        for task in NEEDED:
            row: dict[str, Any] = {"case": case, "task": task, "seeds": len(mine)}
            for tokens in ASKED:
                right, asked = (sum(run.right[task][tokens][k] for run in mine) for k in range(2))
                low, high = interval(right, asked)
                row[str(tokens)] = f"{right / asked:.3f} [{low:.3f}, {high:.3f}]"
            row["floor"] = float(np.mean([run.floor[task][max(ASKED)] for run in mine]))
            rows.append(row)
    return Table(
        "bind_tasks", "By task, all seeds together",
        {"case": "library", "task": "task", "seeds": "seeds",
         **{str(tokens): f"right at {tokens:,}" for tokens in ASKED},
         "floor": f"constant at {max(ASKED):,}"}, rows,
        "With the 95 % interval of Clopper and Pearson.",
    )  # fmt: skip


def _abilities(runs: Sequence[Run], can: dict[str, list[str]]) -> Table:
    rows = [
        {
            "case": case,
            "can": ", ".join(tasks) or "none",
            "bound": "; ".join(
                dict.fromkeys(
                    ", ".join(task for task in NEEDED if task in (run.bound or ())) or "none"
                    for run in runs if run.case == case
                )
            ),
        }
        for case, tasks in can.items()
    ]  # fmt: skip
    return Table(
        "bind_able", "What a library can do, and what binds",
        {"case": "library", "can": "tasks that `can` says yes to", "bound": "tasks bound"}, rows,
        "All other verdicts are \"no\", each proven.",
    )  # fmt: skip


def _blamed(blames: Sequence[dict[str, object]]) -> Table:
    return Table(
        "blame", "What errors come from: 400 questions of 16 tokens, hosts of 13 routines",
        {"steps": "steps", "wrong": "wrong answers", "arguments": "arguments",
         "selection": "selection", "both": "both", "routine": "routine", "read-out": "read-out",
         "calls": "calls"}, blames,
    )  # fmt: skip


def _findings(runs: Sequence[Run], can: dict[str, list[str]], equal: bool | None) -> list[str]:
    found = []
    for case in dict.fromkeys(run.case for run in runs):
        mine = [run for run in runs if run.case == case]
        least = min(
            run.right[task][tokens][0] / run.right[task][tokens][1]
            for run in mine for task in NEEDED for tokens in ASKED if tokens > LONGEST
        )  # fmt: skip
        shares = ", ".join(f"{np.mean([r.share(t) for r in mine]):.3f} at {t:,}" for t in ASKED)
        seconds = max(sum(run.seconds) for run in mine)
        floor = np.mean([run.constant(max(ASKED)) for run in mine])
        found.append(
            f"{case}: {shares} tokens; the worst task of all seeds at 256 and 1,000 has "
            f"{least:.3f}, constants {floor:.2f}. At most {seconds:.0f} CPU s a seed."
        )
    for case, tasks in can.items():
        bound = {tuple(sorted(run.bound or ())) for run in runs if run.case == case}
        alike = bound == {tuple(sorted(tasks))}
        found.append(
            f"{case}: the tasks that bind are {'those' if alike else 'not those'} that `can` says "
            f"yes to ({', '.join(tasks) or 'none'})."
        )
    if equal is not None:
        found.append(
            f"The certified network gave {'the same' if equal else 'something else than'} as the "
            "machines that it equals, over 1,000 tokens of 5 questions."
        )
    return found


# ---------------------------------------------------------------- arguments given


def told(library: Library, language: Language) -> Calls:
    """Calls that tell what tokens mean; which to choose is not said."""
    symbols = np.full(language.vocabulary, library.skip)
    symbols[language.digits] = np.arange(DIGITS)
    readout = np.arange(library.features)
    calls = tuple(
        Call(-1 - number, number, name, symbols, readout, ())
        for number, name in enumerate(library.names)
    )
    return Calls(calls, library.tables, language.vocabulary)


GIVEN: dict[str, tuple[Sequence[str] | None, bool]] = {
    "five operations": ((*NEEDED,), False),
    "no library": (None, False),
    "other routines": ((*list(OTHERS)[:5],), False),
    "five operations, chosen by attention": ((*NEEDED,), True),
}


def _given_row(what: str, seed: int, quick: bool) -> dict[str, object]:
    routines, attends = GIVEN[what]
    language, data = drawn(seed)
    library = None if routines is None else Library([ROUTINES[name] for name in routines])
    calls = None if library is None else told(library, language)
    host = trained(data, language.vocabulary, library, calls, seed, attends=attends)
    run = Run(what, seed)
    measure(run, language, host, quick)
    return {
        "what": what, "seed": seed, **{str(tokens): run.share(tokens) for tokens in ASKED},
        "floor": run.constant(max(ASKED)), "seconds": host.seconds,
    }  # fmt: skip


def given(quick: bool) -> Section:
    """Five operations, of which a question names one; arguments are given."""
    rows: list[dict[str, object]] = [
        finished(
            f"arguments given, {what}, seed {seed}", quick,
            lambda what=what, seed=seed: _given_row(what, seed, quick),  # type: ignore[misc]
        )
        for what in GIVEN
        for seed in range(1 if quick else FEW)
    ]  # fmt: skip
    table = Table(
        "given", "Five operations in one library, arguments given, selection learnt",
        {"what": "library", "seed": "seed",
         **{str(tokens): f"right at {tokens:,}" for tokens in ASKED},
         "floor": f"constants at {max(ASKED):,}", "seconds": "CPU s to train"}, rows,
        f"{STEPS} steps on {PAIRS:,} questions of at most {LONGEST} tokens.",
    )  # fmt: skip
    mine = [row for row in rows if row["what"] == "five operations"]
    least = min(float(str(row[str(tokens)])) for row in mine for tokens in ASKED)
    return Section([table], [
        f"Arguments given: five operations in one library are right in at least {least:.3f} of the "
        f"answers at 16, 256 and 1,000 tokens, {len(mine)} seeds."
    ])  # fmt: skip


# ---------------------------------------------------------------- cost


def cost(quick: bool) -> Section:
    """A training step with a library and without."""
    rows = finished("cost", quick, lambda: _cost_rows(quick))
    table = Table(
        "cost", f"A training step, {BATCH} questions of {TIMED} tokens",
        {"what": "network", "milliseconds": "CPU ms", "ratio": "times the host alone"}, rows,
        "Medians of 30, in turns. The first takes what each call would have answered, as arguments "
        "are fixed; the second the chances of all states, which learnt arguments need.",
    )  # fmt: skip
    ratios = [row["ratio"] for row in rows[1:]]
    return Section([table], [
        f"A training step with a library of 5 routines takes {ratios[0]:.2f} times the host alone "
        f"at {TIMED} tokens, where arguments are fixed, and {ratios[1]:.2f} times where they are "
        "learnt by gradient."
    ])  # fmt: skip


def _drawn_by_token(library: Library, calls: Calls) -> Any:
    """Logits of a host whose symbols are drawn token by token, as learnt arguments need it."""

    def logits(host: Host, words: jax.Array, hardness: jax.Array) -> jax.Array:
        embedded = host.embedding(words)
        content = host.between.registers(embedded)["selection"]
        outputs = library.expected(*calls.given(words, content))
        found = jnp.concatenate([calls.read(outputs, content), content], axis=-1)
        return host.logits(words, found)

    return logits


def _cost_rows(quick: bool) -> list[dict[str, object]]:
    library = Library(list(NEEDED.values()))
    language = Language.drawn(0, list(NEEDED.values()))
    rng = np.random.default_rng(0)
    words, lengths, answers = language.batch(rng, BATCH, TIMED, fixed=True)
    contestants = {}
    calls, wanted = told(library, language), Data(words, lengths, answers).wanted
    for what, has, logits in (
        ("host alone", False, None),
        ("5 routines, `calls.expected`", True, None),
        ("5 routines, `library.expected`", True, _drawn_by_token(library, calls)),
    ):
        host = Host(
            language.vocabulary, DIGITS, width=WIDTH, library=library if has else None,
            calls=calls if has else None, rngs=nnx.Rngs(0),
        )  # fmt: skip
        training = Training(host, STEPS, logits)

        def step(training: Training = training) -> None:
            part = np.float32(0.5), words, wanted
            jax.block_until_ready(training.update(training.weights, training.state, *part))

        contestants[what] = step
    samples = sample_together(contestants, 3 if quick else 30)
    means = {what: float(np.median([each.cpu for each in samples[what]])) for what in samples}
    return [
        {"what": what, "milliseconds": 1e3 * mean, "ratio": mean / means["host alone"]}
        for what, mean in means.items()
    ]
