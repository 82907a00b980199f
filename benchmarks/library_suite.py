"""Sections of `benchmarks.library`: the suite of tasks by length and by depth, and its baselines.

One host learns ten tasks at once, told apart by the first token of a question or by words, from
questions of at most 16 tokens; sorting, and tasks of depth, are learnt one by one.
"""

import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from flax import nnx

from benchmarks.common import (
    BLUE,
    BROWN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    Data,
    Section,
    Table,
    panels,
)
from benchmarks.library_bind import interval
from benchmarks.library_depth_tasks import (
    QUICK,
    Plan,
    fibonacci_row,
    gcd_row,
    insertion_row,
    sorting_row,
    squaring_row,
)
from benchmarks.library_host import WIDTH, Trained, Training
from benchmarks.library_ponder import ponder
from benchmarks.library_rows import finished
from benchmarks.library_tasks import OTHERS
from lsrl.ir.numbers import Array
from lsrl.nn import Host, Library, MooreTable, Task, standard_tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["llama", "mamba", "gru"]
SEEDS, QUESTIONS, UPDATES = 3, 4_000, 700
# The share of the training in which registers are soft, and what a write costs after it, in nats:
# what is written once, at the name of a task, is right at any length.
SOFT, COST = 0.3, 0.02
# Questions by tokens, and lists by keys.
ASKED = {16: 400, 64: 300, 256: 100, 1_000: 60}
LISTS = {8: 200, 32: 100, 128: 50, 500: 20}
DEEP_ASKED = 100
# Whole lists that Saldyt and Kambhampati (2024) sort with the routine in the library.
PUBLISHED = (0.33, 0.37)


class Method(NamedTuple):
    """How the ten tasks are learnt.

    Attributes:
      kind: of the host.
      routines: "needed", "others", or "" for the host alone.
      select: of the host.
    """

    kind: Kind
    routines: str
    select: Literal["register", "token"] = "register"


METHODS = {
    "LLaMA and the library": Method("llama", "needed"),
    "Mamba and the library": Method("mamba", "needed"),
    "GRU and the library": Method("gru", "needed"),
    "LLaMA alone": Method("llama", ""),
    "Mamba alone": Method("mamba", ""),
    "GRU alone": Method("gru", ""),
    "LLaMA and another library": Method("llama", "others"),
    "LLaMA, chosen at each token": Method("llama", "needed", "token"),
}
TOOL = "LLaMA, tools called by text"


@cache
def suite() -> Mapping[str, Task]:
    """All tasks."""
    return standard_tasks()


@cache
def mixed() -> Task:
    """The ten tasks of length that finite machines do."""
    chosen = {
        name: task for name, task in suite().items() if task.axis == "length" and name != "sorting"
    }
    return Task.mixed(chosen)


def names() -> tuple[str, ...]:
    """Of the ten tasks, by the token that names them."""
    return tuple(name for name, task in suite().items() if name in mixed().tokens)


def library(which: str) -> Library | None:
    """Routines that read the symbols of all tasks."""
    found = [task.machine for task in suite().values() if task.machine is not None]
    symbols = max(table.symbols for table in found)
    tables = found if which == "needed" else list(OTHERS.values())
    return Library([_widened(table, symbols) for table in tables]) if which else None


def _widened(table: MooreTable, symbols: int) -> MooreTable:
    """With more symbols, at which it stays as it is."""
    stay = np.arange(table.states, dtype=np.int32)[:, None]
    more = np.repeat(stay, symbols - table.symbols, axis=1)
    return MooreTable(np.concatenate([table.follows, more], 1), table.outputs, table.initial)


# ---------------------------------------------------------------- length


def length_row(what: str, seed: int, quick: bool) -> dict[str, Any]:
    """Train a host on the ten tasks, and ask it at all lengths."""
    method, start = METHODS[what], time.process_time()
    task, routines = mixed(), library(method.routines)
    data = task.draw(np.random.default_rng(seed), QUESTIONS)
    host = Host(
        task.vocabulary, task.answers, kind=method.kind, width=WIDTH, library=routines,
        arguments=None if routines is None else task.arguments, select=method.select,
        context=True, rngs=nnx.Rngs(seed),
    )  # fmt: skip
    updates = 20 if quick else UPDATES
    made = Trained(
        Training(host, updates, soft=SOFT, cost=COST).run(data.words, data.wanted, updates, seed),
        routines,
        0.0,
    )
    seconds = time.process_time() - start
    by: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in names()}
    for size, count in ASKED.items():
        batch = task.draw(np.random.default_rng(1_000 + seed), count // (10 if quick else 1), size)
        right = batch.right(made.said(batch.words))
        for number, name in enumerate(names()):
            mine = batch.words[:, 0] == number
            by[name][size] = int(right[mine].sum()), int(mine.sum())
    return {"what": what, "seed": seed, "by": by, "seconds": seconds}


def _calls_as_text(words: Sequence[int], answer: int, task: Task) -> tuple[list[int], list[int]]:
    """A question with the call of a tool and its result behind it, and what the host has to say.

    Behind the vocabulary of the tasks come the tools, an end and the results.
    """
    tools, end = task.vocabulary, task.vocabulary + len(names())
    call = [tools + words[0], *(w for w in words[1:] if task.symbols[w] >= 0), end]
    text = [*words, *call, end + 1 + answer]
    said = [*[-1] * (len(words) - 1), *call, -1, answer]
    return text, said


def tool_row(seed: int, quick: bool) -> dict[str, Any]:
    """Tool use by text: the host writes the call, a tool runs it, and its result is read.

    It is told whole calls while it learns, which no other method is. Tasks with one answer.
    """
    start, task = time.process_time(), mixed()
    vocabulary = task.vocabulary + len(names()) + 1 + task.answers
    single = [
        name for name in names() if name not in ("addition", "multiplication", "told in words")
    ]

    def drawn(rng: np.random.Generator, count: int, size: int | None) -> tuple[Array, Array, Array]:
        batch = task.draw(rng, 2 * count, size)
        rows = [
            (row, _calls_as_text(words[:length].tolist(), int(wanted[length - 1]), task))
            for row, (words, length, wanted) in enumerate(zip(*batch, strict=True))
            if names()[words[0]] in single
        ]  # fmt: skip
        rows = rows[:count]
        time_ = max(len(text) for _, (text, _) in rows)
        texts, said = np.zeros((len(rows), time_), int), np.full((len(rows), time_), -1)
        for place, (_, (text, wanted)) in enumerate(rows):
            texts[place, : len(text)], said[place, : len(wanted)] = text, wanted
        return texts, said, texts[:, 0]

    texts, said, _ = drawn(np.random.default_rng(seed), QUESTIONS, None)
    updates = 20 if quick else 2 * UPDATES
    host = Host(vocabulary, vocabulary, kind="llama", width=WIDTH, rngs=nnx.Rngs(seed))
    made = Trained(Training(host, updates).run(texts, said, updates, seed), None, 0.0)
    seconds = time.process_time() - start
    by: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in single}
    for size, count in ASKED.items():
        count = count // (10 if quick else 2)
        texts, wanted, of = drawn(np.random.default_rng(1_000 + seed), count, size)
        right = ((made.said(texts) == wanted) | (wanted < 0)).all(1)
        for name in single:
            mine = of == names().index(name)
            by[name][size] = int(right[mine].sum()), int(mine.sum())
    return {"what": TOOL, "seed": seed, "by": by, "seconds": seconds}


def length(quick: bool, seeds: int = SEEDS) -> Section:
    """Ten tasks by the length of a question."""
    rows, methods = [], [*METHODS][:: 3 if quick else 1]
    for seed in range(1 if quick else seeds):
        for what in methods:
            rows.append(
                finished(
                    f"suite, {what}, seed {seed}", quick,
                    partial(length_row, what, seed, quick),
                )
            )  # fmt: skip
        rows.append(finished(f"suite, {TOOL}, seed {seed}", quick, partial(tool_row, seed, quick)))
    counted = 100 if quick else 500
    floors = finished(
        "suite, constants", quick,
        lambda: {n: {s: suite()[n].constant(s, counted) for s in ASKED} for n in names()},
    )  # fmt: skip
    means = {size: float(np.mean([each[str(size)] for each in floors.values()])) for size in ASKED}
    most, everything = max(ASKED), {what: _of(rows, what) for what in (*methods, TOOL)}
    table = [
        {
            "what": what, "seeds": len(mine), **_shares(mine, ASKED),
            "worst": min(_pooled(mine, name, most)[0] for name in mine[0]["by"]),
            "seconds": max(row["seconds"] for row in mine),
        }
        for what, mine in everything.items()
    ]  # fmt: skip
    table.append({"what": "best constants", **{str(s): f"{m:.3f}" for s, m in means.items()}})
    by_task = [
        {
            "task": name, **{what: _text(mine, name, most) for what, mine in everything.items()},
            "floor": floors[name][str(most)],
        }
        for name in names()
    ]  # fmt: skip
    note = (
        f"One host of width {WIDTH} learns all ten tasks from {QUESTIONS:,} questions of at most "
        f"16 tokens, in {UPDATES} updates; arguments are given, selection and read-out learnt. A "
        "question counts if all of its answers are right. Means of all questions, with the 95 % "
        "interval of Clopper and Pearson. Told in words: tests have phrases that training lacks. "
        "Tools called by text: on the seven tasks with one answer and a name; the host is shown "
        "whole calls, in twice the updates, and a call that is not written without a mistake "
        "counts as wrong; the tool's result is read as a token."
    )
    columns = {str(size): f"right at {size:,}" for size in ASKED}
    alone = _shares(everything["LLaMA alone"], ASKED)[str(most)]
    hosts = [
        f"{what.split(' ')[0]} {_shares(everything[what], ASKED)[str(most)]}"
        for what in methods
        if "the library" in what
    ]
    sections = [
        Table(
            "suite_length", "The suite by length: ten tasks in one host",
            {"what": "network", "seeds": "seeds", **columns, "worst": f"worst task at {most:,}",
             "seconds": "CPU s to train, at most"}, table, note,
        ),
        Table(
            "suite_tasks", f"By task, at {most:,} tokens",
            {"task": "task", **{what: what for what in everything}, "floor": "constant"}, by_task,
        ),
    ]  # fmt: skip
    return Section(sections, [
        f"Ten tasks of the suite in one host with the library, at {most:,} tokens: "
        f"{', '.join(hosts)}; LLaMA alone {alone}, constants {means[most]:.2f} "
        f"({len(everything['LLaMA alone'])} seeds).",
    ])  # fmt: skip


def _of(rows: Sequence[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["what"] == what]


def _pooled(rows: Sequence[dict[str, Any]], name: str | None, size: int) -> tuple[float, int, int]:
    """Share, right answers and questions of a task, or of all."""
    each = [by[str(size)] for row in rows for task, by in row["by"].items() if name in (None, task)]
    right, asked = (sum(pair[k] for pair in each) for k in range(2))
    return right / max(asked, 1), right, asked


def _text(rows: Sequence[dict[str, Any]], name: str | None, size: int) -> str | None:
    share, right, asked = _pooled(rows, name, size)
    if not asked:
        return None
    low, high = interval(right, asked)
    return f"{share:.3f} [{low:.3f}, {high:.3f}]"


def _shares(rows: Sequence[dict[str, Any]], sizes: Mapping[int, int]) -> dict[str, str | None]:
    return {str(size): _text(rows, None, size) for size in sizes}


# ---------------------------------------------------------------- sorting


SORTED = "sorting routine, letters learnt"


def alone_row(kind: Kind, name: str, sizes: Mapping[int, int], seed: int, quick: bool) -> Any:
    """A host alone on one task."""
    task, start = suite()[name], time.process_time()
    data = task.draw(np.random.default_rng(seed), QUESTIONS)
    updates = 20 if quick else 2 * UPDATES
    host = Host(task.vocabulary, task.answers, kind=kind, width=WIDTH, rngs=nnx.Rngs(seed))
    made = Trained(Training(host, updates).run(data.words, data.wanted, updates, seed), None, 0.0)
    seconds, by = time.process_time() - start, {}
    for size, count in sizes.items():
        asked = 2 * size if name == "sorting" else size
        batch = task.draw(
            np.random.default_rng(1_000 + seed), max(count // (10 if quick else 1), 2), asked
        )
        right = batch.right(made.said(batch.words))
        by[size] = int(right.sum()), len(right)
    return {"by": {name: by}, "seconds": seconds}


def _sorted_row(seed: int, quick: bool) -> dict[str, Any]:
    plan = QUICK if quick else Plan()
    found: dict[str, Any] = sorting_row(seed, plan)
    by = {size: (round(found[f"whole_{size}"] * plan.lists), plan.lists) for size in (8, 500)}
    return {"by": {"sorting": by}, "seconds": found["all"]}


def sorting(quick: bool, seeds: int = SEEDS) -> Section:
    """Whole lists, with the routine in the library and without."""
    rows = []
    for seed in range(1 if quick else seeds):
        work = {
            SORTED: lambda seed=seed: _sorted_row(seed, quick),
            "LLaMA alone": lambda seed=seed: alone_row("llama", "sorting", LISTS, seed, quick),
            "GRU alone": lambda seed=seed: alone_row("gru", "sorting", LISTS, seed, quick),
        }
        rows += [
            {"what": what, "seed": seed, **finished(f"sorting, {what}, seed {seed}", quick, each)}
            for what, each in work.items()
        ]
    table: list[dict[str, Any]] = [
        {"what": what, "seeds": len(_of(rows, what)), **_listed(_of(rows, what)),
         "seconds": max(row["seconds"] for row in _of(rows, what))}
        for what in dict.fromkeys(row["what"] for row in rows)
    ]  # fmt: skip
    low, high = PUBLISHED
    table.append(
        {"what": "published, with the routine in the library", "8": f"{low:.2f}–{high:.2f}"}
    )
    ours = _of(rows, SORTED)
    return Section(
        [
            Table("suite_sorting", "Sorting: whole lists",
                  {"what": "network", "seeds": "seeds",
                   **{str(size): f"{size} keys" for size in LISTS}, "seconds": "CPU s, at most"},
                  table,
                  "Hosts alone learn lists of up to 8 keys. Published: Saldyt and Kambhampati "
                  "(2024), whole lists with the routine in their library; they report modular "
                  "arithmetic by tables at 100 %, and circuits below tables."),
        ],
        [f"Sorting with the routine in the library: whole lists of 8 {_text(ours, None, 8)}, of "
         f"500 {_text(ours, None, 500)} ({len(ours)} seeds); published {low:.0%} to {high:.0%}."],
    )  # fmt: skip


def _listed(rows: Sequence[dict[str, Any]]) -> dict[str, str | None]:
    sizes = [size for size in LISTS if str(size) in rows[0]["by"]["sorting"]]
    return {str(size): _text(rows, None, size) for size in sizes}


# ---------------------------------------------------------------- depth

COMPILED, LEARNT = "compiled step and halting", "compiled step, learnt halting"
PONDERS, ALONE = "GRU with pondering", "LLaMA alone"
DEPTH_ROWS = {
    "Fibonacci": fibonacci_row,
    "repeated squaring": squaring_row,
    "gcd": gcd_row,
    "insertion sort": insertion_row,
}


def _depth_row(name: str, kind: str, seed: int, quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = DEPTH_ROWS[name](kind, seed, QUICK if quick else Plan())
    return {"by": {name: found["by"]}, "seconds": found["seconds"]}


def _ponder_row(name: str, seed: int, quick: bool) -> dict[str, Any]:
    found = ponder(suite()[name], seed, 20 if quick else 2 * UPDATES, DEEP_ASKED)
    return {"by": {name: found["by"]}, "seconds": found["seconds"], "depth": found["depth"]}


def depth(quick: bool, seeds: int = SEEDS) -> Section:
    """Tasks by the steps that they take."""
    rows = []
    for name in DEPTH_ROWS:
        sizes = dict.fromkeys(suite()[name].tested, DEEP_ASKED)
        for seed in range(1 if quick else seeds):
            work: dict[str, Any] = {
                COMPILED: lambda n=name, s=seed: _depth_row(n, "compiled", s, quick),
                LEARNT: lambda n=name, s=seed: _depth_row(n, "ponder", s, quick),
                ALONE: lambda n=name, s=seed, z=sizes: alone_row("llama", n, z, s, quick),
            }
            if name != "insertion sort":  # which has more than one answer
                work[PONDERS] = lambda n=name, s=seed: _ponder_row(n, s, quick)
            rows += [
                {"what": what, "task": name, "seed": seed,
                 **finished(f"depth, {name}, {what}, seed {seed}", quick, each)}
                for what, each in work.items()
            ]  # fmt: skip
    table = []
    for name in DEPTH_ROWS:
        task = suite()[name]
        for what in (COMPILED, LEARNT, PONDERS, ALONE):
            mine = [row for row in _of(rows, what) if row["task"] == name]
            shares = {
                f"right {place}": f"{size}: {_text(mine, name, size)}"
                for place, size in enumerate((task.tested[0], task.tested[1], task.tested[-1]))
                if mine and str(size) in mine[0]["by"][name]
            }
            if mine:
                table.append({"task": name, "what": what, "trained": task.trained,
                              "seeds": len(mine), **shares,
                              "floor": task.constant(task.tested[-1], 500),
                              "seconds": max(row["seconds"] for row in mine)})  # fmt: skip
    found = []
    for what in (COMPILED, LEARNT, PONDERS, ALONE):
        last = [
            f"{name} {_pooled(mine, name, suite()[name].tested[-1])[0]:.3f}"
            for name in DEPTH_ROWS
            if (mine := [row for row in _of(rows, what) if row["task"] == name])
        ]
        found.append(f"By depth, {what}, at the greatest: {', '.join(last)}.")
    return Section(
        [Table("suite_depth", "The suite by depth",
               {"task": "task", "what": "network", "trained": "steps in training", "seeds": "seeds",
                "right 0": "at the trained depth", "right 1": "at the next",
                "right 2": "at the greatest",
                "floor": "constant at the last", "seconds": "CPU s, at most"}, table,
               "Depth: terms, squarings, subtractions, keys of a list. The compiled rows are asked "
               "all depths from the one before on, the others exactly this one. Of gcd the deepest "
               "pairs have 1 as their divisor, so there a constant is right."),
         Table("suite_depth_rows", "By depth, every size",
               {"task": "task", "what": "network", "size": "depth", "right": "right"},
               [{"task": name, "what": what, "size": size, "right": _text(mine, name, size)}
                for name in DEPTH_ROWS for what in (COMPILED, LEARNT, PONDERS, ALONE)
                if (mine := [row for row in _of(rows, what) if row["task"] == name])
                for size in suite()[name].tested if str(size) in mine[0]["by"][name]])],
        found,
    )  # fmt: skip


# ---------------------------------------------------------------- the figure

COLOURS = dict(
    zip(("LLaMA and the library", "Mamba and the library", "GRU and the library", "LLaMA alone",
         "GRU alone", "LLaMA and another library", "LLaMA, chosen at each token", TOOL),
        (BLUE, GREEN, PURPLE, GREY, BROWN, RED, ORANGE, "#111111"), strict=True)
)  # fmt: skip


def _share(cell: str | None) -> tuple[float, float, float] | None:
    """The share and its interval, of a cell."""
    if not cell:
        return None
    share, low, high = (
        float(part) for part in cell.replace("[", " ").replace("]", " ").replace(",", " ").split()
    )
    return share, low, high


def draw(data: Data) -> "Figure":
    """Accuracy against length, of lists, and against depth, with intervals."""
    drawn, (left, middle, right) = panels(3)
    for row in data["suite_length"]:
        if row["what"] in COLOURS:
            _line(left, {s: _share(row[str(s)]) for s in ASKED}, row["what"], COLOURS[row["what"]])
    constants = data["suite_length"][-1]
    left.plot(
        list(ASKED),
        [float(constants[str(s)]) for s in ASKED],
        ":",
        color=GREY,
        label="best constants",
    )
    left.set_title("Ten tasks in one host, trained on 16 tokens")
    left.set_xlabel("tokens of a question")
    for row, colour in zip(data["suite_sorting"][:-1], (BLUE, GREY, BROWN), strict=True):
        _line(middle, {s: _share(row.get(str(s))) for s in LISTS}, row["what"], colour)
    middle.axhspan(*PUBLISHED, color=ORANGE, alpha=0.4, label="published, routine in the library")
    middle.set_title("Sorting: whole lists")
    middle.set_xlabel("keys of a list")
    colours = {COMPILED: BLUE, LEARNT: GREEN, PONDERS: RED, ALONE: GREY}
    styles = {"Fibonacci": "-", "repeated squaring": "--"}
    for name, style in styles.items():
        for what, colour in colours.items():
            points = {
                row["size"]: _share(row["right"])
                for row in data["suite_depth_rows"]
                if row["task"] == name and row["what"] == what
            }
            _line(right, points, f"{name}, {what}", colour, style)
    right.set_title("Depth, trained on 15 steps")
    right.set_xlabel("steps")
    for axes, sizes in ((left, ASKED), (middle, LISTS), (right, suite()["Fibonacci"].tested)):
        axes.set_xscale("log")
        axes.set_xticks([*sizes], [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("questions answered right")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
    return drawn


def _line(axes: Any, points: Mapping[int, Any], label: str, colour: str, style: str = "-") -> None:
    known = {size: each for size, each in points.items() if each is not None}
    shares = [each[0] for each in known.values()]
    axes.plot(list(known), shares, style, marker="o", markersize=3, color=colour, label=label)
    low, high = ([each[k] for each in known.values()] for k in (1, 2))
    axes.fill_between(list(known), low, high, color=colour, alpha=0.15, linewidth=0)
