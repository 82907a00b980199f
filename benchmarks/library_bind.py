"""Sections of `benchmarks.library`: arguments given, arguments and selection bound, and the cost.

Every figure is of answers at the end of questions of so many tokens, drawn anew; the host was
trained on 2,000 questions of at most 16 tokens. Registers are hard and routines run exactly.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from scipy.stats import beta

from benchmarks.common import BenchmarkError, Section, Table, sample_together, say
from benchmarks.library_host import BATCH, STEPS, Data, Host, Trained, Training, exact, trained
from benchmarks.library_tasks import DIGITS, NEEDED, OTHERS, Language
from lsrl.errors import Unbindable
from lsrl.nn import Call, Calls, Library

PAIRS, LONGEST = 2_000, 16
# Questions by tokens.
ASKED = {16: 500, 256: 250, 1_000: 100}
# Questions of which the most frequent answers are counted.
COUNTED = 2_000
SEEDS, GIVEN_SEEDS = 5, 3
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
    Case("none of the 5", (*OTHERS,), 1),
    Case("3 of the 5", (*list(NEEDED)[:3], *OTHERS), 1),
    Case("no library", (), 1),
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
    """

    case: str
    seed: int
    right: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    floor: dict[str, dict[int, float]] = field(default_factory=dict)
    bound: list[str] | None = None
    seconds: tuple[float, float] = (0.0, 0.0)

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


def bind_and_train(case: Case, seed: int, quick: bool) -> tuple[Run, Trained, Language]:
    """One run of a case."""
    say(f"{case.name}, seed {seed}")
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
    say(f"  bound {run.bound}, {[round(run.share(tokens), 3) for tokens in ASKED]}, {run.seconds}")
    return run, host, language


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
    rng = np.random.default_rng(seed)
    words, _, _ = language.batch(rng, 5, max(ASKED), fixed=True)
    _, given, choice = host.inside(words)
    return bool((host.network(words) == exact(host.library, given.argmax(-1), choice)).all())


def blame_of(host: Trained, language: Language, calls: Calls, steps: int) -> dict[str, object]:
    """What the errors of a host come from."""
    words, lengths, answers = language.batch(np.random.default_rng(5), 400, LONGEST, fixed=True)
    _, given, choice = host.inside(words)
    said = host.answers(words, lengths)
    found = host.library.blame(calls, words, answers, said, given, choice)
    return {"steps": steps, "wrong": found.wrong, **found.errors}


def bound(quick: bool) -> Section:
    """Arguments and selection together, from questions and answers alone."""
    runs, blames, equal = [], [], None
    for case in CASES:
        for seed in range(1 if quick else case.seeds):
            run, host, language = bind_and_train(case, seed, quick)
            runs.append(run)
            if case is CASES[0] and seed == 0:
                equal = equal_to_network(host, language, seed)
                _, data = drawn(seed)
                for steps in (50, 100):
                    early = trained(
                        data, language.vocabulary, host.library, host.calls, seed, steps
                    )
                    blames.append(blame_of(early, language, host.calls, steps))
                blames.append(blame_of(host, language, host.calls, STEPS))
    can = {case.name: able(case.routines) for case in CASES if case.routines}
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


def given(quick: bool) -> Section:
    """Five operations, of which a question names one; arguments are given."""
    rows: list[dict[str, object]] = []
    five, others = list(NEEDED.values()), list(OTHERS.values())[:5]
    for what, routines, attends in (
        ("five operations", five, False),
        ("no library", None, False),
        ("other routines", others, False),
        ("five operations, chosen by attention", five, True),
    ):
        for seed in range(1 if quick or what != "five operations" else GIVEN_SEEDS):
            say(f"arguments given: {what}, seed {seed}")
            language, data = drawn(seed)
            library = None if routines is None else Library(routines)
            calls = None if library is None else told(library, language)
            host = trained(data, language.vocabulary, library, calls, seed, attends=attends)
            run = Run(what, seed)
            measure(run, language, host, quick)
            rows.append({
                "what": what, "seed": seed,
                **{str(tokens): run.share(tokens) for tokens in ASKED},
                "floor": run.constant(max(ASKED)), "seconds": host.seconds,
            })  # fmt: skip
            say(f"  {rows[-1]}")
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
    library = Library(list(NEEDED.values()))
    language = Language.drawn(0, list(NEEDED.values()))
    rng = np.random.default_rng(0)
    words, lengths, answers = language.batch(rng, BATCH, TIMED, fixed=True)
    contestants = {}
    calls = told(library, language)
    for what, drawn_by, soft in (
        ("host alone", None, None),
        ("5 routines, `calls.expected`", calls, None),
        ("5 routines, `library.expected`", calls, library),
    ):
        host = Host(language.vocabulary, DIGITS, drawn_by, 0)
        training = Training(host, drawn_by, STEPS, soft)

        def step(training: Training = training) -> None:
            part = np.float32(0.5), words, lengths - 1, answers
            jax.block_until_ready(training.update(training.weights, training.state, *part))

        contestants[what] = step
    samples = sample_together(contestants, 3 if quick else 30)
    means = {what: float(np.median([each.cpu for each in samples[what]])) for what in samples}
    ratios = [means[what] / means["host alone"] for what in list(means)[1:]]
    rows = [
        {"what": what, "milliseconds": 1e3 * mean, "ratio": mean / means["host alone"]}
        for what, mean in means.items()
    ]
    table = Table(
        "cost", f"A training step, {BATCH} questions of {TIMED} tokens",
        {"what": "network", "milliseconds": "CPU ms", "ratio": "times the host alone"}, rows,
        "Medians of 30, in turns. The first takes what each call would have answered, as arguments "
        "are fixed; the second the chances of all states, which learnt arguments need.",
    )  # fmt: skip
    return Section([table], [
        f"A training step with a library of 5 routines takes {ratios[0]:.2f} times the host alone "
        f"at {TIMED} tokens, where arguments are fixed, and {ratios[1]:.2f} times where they are "
        "learnt by gradient."
    ])  # fmt: skip
