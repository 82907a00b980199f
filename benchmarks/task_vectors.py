"""Tasks by prompt alone on one network, and which algorithm it follows once its prompt is patched.

A pipeline of skills is compiled once. Its prompt latches what each step does (`op_k`) and reads
(`a_k`, `b_k`), so these are task vectors that are known. Run: `python -m benchmarks.task_vectors`.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

import lsrl
from benchmarks import curricula, trained_prompts
from benchmarks.common import Output, Table, say
from benchmarks.common import machine as this_machine
from benchmarks.mips import Array
from lsrl import induction
from lsrl.errors import InductionError
from lsrl.induction import Skills, writing
from lsrl.induction.expressions import Expression
from lsrl.induction.operators import Operator
from lsrl.induction.prompting import commands_of
from lsrl.interpret import Case, interchange
from lsrl.interpret.methods import evaluate_methods
from lsrl.ir.evaluate import evaluate_prefixes
from lsrl.programs import pipeline, pipeline_prompt

STEPS, BOUND, LOW, HIGH = 7, 63, -5, 5
USED = (
    "increment", "decrement", "negative", "absolute", "is_zero", "is_positive", "total", "previous",
    "rise", "surplus", "greatest", "least", "remainder", "plus", "minus", "smaller", "larger",
    "same", "above",
)  # fmt: skip
X = Expression(leaf="x")


def skills() -> Skills:
    """Those of the tasks."""
    every = Skills.standard()
    return every.without(*(name for name in every if name not in USED))


def of(known: Skills) -> dict[str, Expression]:
    """Tasks as expressions of at most seven different skills on skills."""
    named = {skill.name: skill for skill in known.skills}

    def make(name: str, *operands: Expression, number: int | None = None) -> Expression:
        return Expression(Operator(named[name], number), operands)

    def odd(x: Expression) -> Expression:
        return make("remainder", x, number=2)

    def rises(x: Expression) -> Expression:
        return make("is_positive", make("rise", x))

    def falls(x: Expression) -> Expression:
        return make("is_positive", make("negative", make("rise", x)))

    def record(x: Expression) -> Expression:
        return make("above", x, make("previous", make("greatest", x)))

    def spread(x: Expression) -> Expression:
        return make("minus", make("greatest", x), make("least", x))

    def drop(x: Expression) -> Expression:
        return make("minus", make("greatest", x), x)

    def peak(x: Expression) -> Expression:
        return make("smaller", make("previous", rises(x)), falls(x))

    def counted(x: Expression) -> Expression:
        return make("total", x)

    def same(x: Expression) -> Expression:
        return make("same", x, make("previous", x))

    sum_of_two = make("plus", X, make("previous", X))
    even, walk, positive = make("is_zero", odd(X)), make("surplus", odd(X)), make("is_positive", X)
    change = make("rise", X)
    alternates = make("is_zero", same(rises(X)))
    return {
        "change": change, "rises": rises(X), "falls": falls(X), "even": even, "odd": odd(X),
        "sum_of_two": sum_of_two, "n_positive": counted(positive), "record": record(X),
        "spread": spread(X), "parity_positive": odd(counted(positive)),
        "n_zeros": counted(make("is_zero", X)), "distance": make("absolute", change),
        "same": same(X), "sum_of_sizes": counted(make("absolute", X)),
        "negative_part": make("smaller", X, Expression(leaf="0")), "double": make("plus", X, X),
        "sign_of_odd": make("decrement", make("plus", odd(X), odd(X))), "drop": drop(X),
        "walk": walk, "n_rises": counted(rises(X)), "parity_rises": odd(counted(rises(X))),
        "n_records": counted(record(X)), "peak": peak(X), "n_peaks": counted(peak(X)),
        "rises_less_falls": make("minus", counted(rises(X)), counted(falls(X))),
        "n_even": counted(even), "parity_even": odd(counted(even)), "change_of_change":
        make("rise", change), "spread_even": make("is_zero", odd(spread(X))),
        "growth_of_spread": make("rise", spread(X)), "at_greatest":
        make("same", X, make("greatest", X)),
        "walk_greatest": make("greatest", walk), "walk_zero": make("is_zero", walk),
        "greatest_sum_of_two": make("greatest", sum_of_two), "n_same": counted(same(X)),
        "alternates": alternates, "n_alternates": counted(alternates),
        "drop_of_sum": drop(counted(X)), "walk_drop": drop(walk),
        "greatest_drop": make("greatest", drop(counted(X))), "walk_spread": spread(walk),
        "record_sum_of_two": record(sum_of_two), "n_walk_records": counted(record(walk)),
        "parity_walk_records": odd(counted(record(walk))), "peak_of_sum": peak(counted(X)),
        "change_record": record(make("rise", change)), "third_change":
        make("rise", make("rise", change)), "greatest_walk_drop": make("greatest", drop(walk)),
        "late": make("above", Expression(leaf="lsrl.position()"), Expression(leaf="3")),
    }  # fmt: skip


def program_of(expression: Expression, max_length: int = 64) -> lsrl.Program:
    """An expression as a program of its own, as `lsrl.induce` writes it."""
    types: Mapping[str, lsrl.Vector] = {"x": lsrl.Vector(1, low=LOW, high=HIGH, step=1)}
    body = writing.Body(types)
    outputs = writing.composition(body, [expression])
    text = writing.text_of("composed", types, body, outputs, max_length, str(expression))
    return writing.program_of(text)


def prompts_of(program: lsrl.Program) -> dict[str, Array]:
    """The commands of each task that a pipeline has steps for, as tokens."""
    found = {}
    for name, expression in of(skills()).items():
        try:
            found[name] = pipeline_prompt(program, commands_of(expression, program))
        except InductionError:
            continue
    return found


def by_prompt(tokens: int, sequences: int) -> tuple[Table, lsrl.Model, str]:
    """One network, every task: its outputs beside those of the task's own program."""
    program = pipeline(skills(), steps=STEPS, bound=BOUND, constants=(2, 3))
    start = time.process_time()
    model = lsrl.compile(program, "rnn")
    seconds = time.process_time() - start
    say(f"compiled in {seconds:.1f} CPU s")
    tasks, prompts = of(skills()), prompts_of(program)
    x = np.random.default_rng(0).integers(LOW, HIGH + 1, (sequences, tokens))
    given = np.concatenate([_with(prompt, x + BOUND) for prompt in prompts.values()])
    legal, _ = evaluate_prefixes(program.graph, [given])
    kept = legal.reshape(len(prompts), sequences) == given.shape[1]
    said = np.asarray(model.run(given))[:, -tokens:].reshape(len(prompts), sequences, tokens)
    own = np.stack([program_of(tasks[name]).run(x[..., None])[..., 0] for name in prompts])
    equal = ((said == own).all(axis=2) | ~kept).all(axis=1) & kept.any(axis=1)
    row = {
        "skills": len(skills()), "steps": STEPS, "layers": model.num_layers, "width": model.width,
        "weights": model.num_nonzero_parameters, "exact": model.certificate.exact,
        "seconds": round(seconds, 1), "tasks": len(prompts), "equal": int(equal.sum()),
    }  # fmt: skip
    table = Table(
        "prompts", "Tasks by prompt alone, on `rnn`",
        {"skills": "skills", "steps": "steps", "layers": "layers", "width": "width",
         "weights": "nonzero weights", "exact": "certified exact", "seconds": "CPU s to compile",
         "tasks": "tasks", "equal": "equal at every token"}, [row],
        f"{sequences} sequences of {tokens} numbers from {LOW} to {HIGH} a task; those that leave "
        f"the bound of {BOUND} are left out.",
    )  # fmt: skip
    finding = (
        f"One network of {row['weights']:,} nonzero weights does {row['equal']} of {row['tasks']} "
        "tasks by their prompts alone, equal to their programs at every token."
    )
    return table, model, finding


def induced(model: lsrl.Model, most: int | None) -> tuple[Table, str]:
    """From examples to prompts: what a curriculum finds of the skills, carried out by the network.

    The tasks are plain functions, of which the search sees examples alone.
    """
    tasks = dict(list(curricula.TASKS.items())[:most])
    given = [
        induction.Task(
            task.name, task.data(100, 12, 0), inputs=task.types, validation=task.data(50, 36, 1)
        )
        for task in tasks.values()
    ]  # fmt: skip
    learnt = induction.Curriculum(given).learn(skills(), budget=100_000, solvers=["compose"])
    program, rows = model.program, list[dict[str, Any]]()
    for name, task in tasks.items():
        row: dict[str, Any] = {"task": name}
        rows.append(row)
        if (found := learnt.found.get(name)) is None:
            row["outcome"] = "nothing found"
            continue
        row["expression"] = found.expression
        try:
            prompt = found.prompt_for(program)
        except InductionError as error:
            row["outcome"] = str(error).partition(";")[0].removeprefix(f"{found.expression} ")
            continue
        (x,), outputs = task.data(64, 12, 2)
        words = _with(prompt, x + BOUND)
        legal, _ = evaluate_prefixes(program.graph, [words])
        kept = legal == words.shape[1]
        said = np.asarray(model.run(words))[:, len(prompt) :, 0]
        row["sequences"] = int(kept.sum())
        row["equal"] = int((said == outputs).all(axis=1)[kept].sum())
        row["outcome"] = "equal" if row["equal"] == row["sequences"] > 0 else "differs"
        say(f"{name}: {row}")
    right = sum(row["outcome"] == "equal" for row in rows)
    table = Table(
        "induced", "Prompts that were induced, on the same network",
        {"task": "task", "expression": "found from examples", "sequences": "sequences",
         "equal": "equal to the task", "outcome": "outcome"}, rows,
        "`benchmarks/curricula.py` has the tasks; 100 examples of 12 numbers, validation of 36. "
        f"Fresh sequences, those that stay within the bound of {BOUND}, against the task's own "
        "function.",
    )  # fmt: skip
    return table, (
        f"Of {len(tasks)} tasks given by examples, {right} become prompts by which the network "
        "equals them on fresh sequences."
    )


def _with(prompt: Array, data: Array) -> Array:
    """A prompt ahead of each row of data."""
    return np.concatenate([np.broadcast_to(prompt, (len(data), len(prompt))), data], axis=1)


def folded(program: lsrl.Program, most: int) -> tuple[Table, str]:
    """Prompts folded into the weights, beside the same programs compiled as they are."""
    tasks, rows = of(skills()), list[dict[str, Any]]()
    data = lsrl.Token(2 * BOUND + 1)
    for name, prompt in list(prompts_of(program).items())[:most]:
        start = time.process_time()
        known = lsrl.specialise(program, prompt, inputs={"token": data})
        seconds = time.process_time() - start
        plain = lsrl.compile(_read_by_token(program_of(tasks[name], 256), data), "rnn")
        small = lsrl.compile(known, "rnn")
        rows.append({
            "task": name, "weights": small.num_nonzero_parameters,
            "direct": plain.num_nonzero_parameters, "layers": small.num_layers,
            "ratio": round(small.num_nonzero_parameters / plain.num_nonzero_parameters, 2),
            "seconds": round(seconds, 2),
        })  # fmt: skip
        say(f"{name}: {rows[-1]}")
    worst = max(row["ratio"] for row in rows)
    table = Table(
        "folded", "Prompts folded into the weights, on `rnn`",
        {"task": "task", "weights": "nonzero weights", "direct": "compiled directly",
         "ratio": "ratio", "layers": "layers", "seconds": "CPU s to fold"}, rows,
    )  # fmt: skip
    return table, f"Folded in, {len(rows)} prompts take at most {worst} times the weights."


def _read_by_token(program: lsrl.Program, data: lsrl.Token) -> lsrl.Program:
    """A program of numbers that reads the tokens of a pipeline."""

    @lsrl.program(max_length=program.max_length)
    def direct(token: Annotated[lsrl.Signal, data]) -> lsrl.Signal:
        return program(lsrl.bound(token - BOUND, LOW, HIGH, "prompt"))

    return direct


class Pair(NamedTuple):
    """Two prompts, and the one that patching the first predicts.

    Attributes:
      signal: that is patched.
      base: prompt and data.
      source: likewise, with the same data.
      predicted: the base's, with one word of the source's.
    """

    signal: str
    base: Array
    source: Array
    predicted: Array


def pairs_of(program: lsrl.Program, steps: int, bound: int, count: int, tokens: int) -> list[Pair]:
    """Random pairs of tasks that differ in a word, all of whose prompts are legal."""
    rng, prompts = np.random.default_rng(1), list(prompts_of(program).values())
    found: list[Pair] = []
    while len(found) < count:
        drawn: list[Pair] = []
        while len(drawn) < 2 * count:
            first, second = rng.choice(len(prompts), 2, replace=False)
            step, field = int(rng.integers(steps)), int(rng.integers(3))
            place = 4 * step + field
            base, source = prompts[first], prompts[second]
            if base[place] == source[place]:
                continue
            mixed = base.copy()
            mixed[place] = source[place]
            data = rng.integers(-3, 4, tokens) + bound
            signal = f"{('op', 'a', 'b')[field]}_{step + 1}"
            both = (np.concatenate([each, data]) for each in (base, source, mixed))
            drawn.append(Pair(signal, *both))
        legal = np.ones(len(drawn), bool)
        for kind in ("base", "source", "predicted"):
            given = np.stack([getattr(pair, kind) for pair in drawn])
            legal &= evaluate_prefixes(program.graph, [given])[0] == given.shape[1]
        found += [pair for pair, kept in zip(drawn, legal, strict=True) if kept]
    return found[:count]


def patched(count: int, tokens: int) -> tuple[Table, str]:
    """Words of the prompt patched in the network, beside the program that has the word."""
    steps, bound = 3, 31
    program = pipeline(skills(), steps=steps, bound=bound)
    model = lsrl.compile(program, "rnn", inspectable=True)
    pairs, rows = pairs_of(program, steps, bound, count, tokens), list[dict[str, Any]]()
    for signal in sorted({pair.signal for pair in pairs}):
        some = [pair for pair in pairs if pair.signal == signal]
        base, source, predicted = (
            np.stack([getattr(pair, kind) for pair in some])
            for kind in ("base", "source", "predicted")
        )
        behind = np.arange(4 * steps, base.shape[1])
        said = interchange(model, [base], [source], signal, behind).outputs[:, behind]
        expected, before = (program.run(each)[:, behind] for each in (predicted, base))
        rows.append({
            "signal": signal, "pairs": len(some),
            "predicted": int((said == expected).all(axis=(1, 2)).sum()),
            "differ": int((expected != before).any(axis=(1, 2)).sum()),
        })  # fmt: skip
        say(f"{rows[-1]}")
    right, all_of = (sum(row[key] for row in rows) for key in ("predicted", "pairs"))
    table = Table(
        "patched", "Task vectors patched, three steps on `rnn`",
        {"signal": "signal", "pairs": "pairs", "predicted": "as predicted",
         "differ": "other than before"}, rows,
        "A signal of one prompt is set to what it is on another, at every token of the data; "
        "predicted are the outputs of the program whose prompt has that word.",
    )  # fmt: skip
    return table, f"Patching gives the predicted program in {right:,} of {all_of:,} pairs."


def scored() -> tuple[Table, str]:
    """The reference methods of `lsrl.interpret`, on what is true of a small pipeline."""
    entry = lsrl.programs.catalogue()["pipeline"]
    program = entry.program(max_length=40)
    model = lsrl.compile(program, "rnn", inspectable=True)

    def sampler(count: int, seed: int) -> list[Array]:
        rng, found = np.random.default_rng(seed), list[Array]()
        while len(found) < count:
            (tokens,) = entry.sample(rng, 24, max_length=40)
            found += [tokens] if len(tokens) == 24 else []
        return [np.stack(found)]

    scores = evaluate_methods([Case("pipeline", "rnn", "plain", model, sampler)])
    rows: list[dict[str, Any]] = [
        {
            "method": each.method, "kind": each.kind, "level": each.level,
            "roc_auc": None if each.roc_auc is None else round(each.roc_auc, 3),
            "pr_auc": None if each.pr_auc is None else round(each.pr_auc, 3),
        }
        for each in scores
    ]  # fmt: skip
    best = max(
        (row for row in rows if row["kind"] == "edges" and row["level"] == "signals"),
        key=lambda row: row["roc_auc"] or 0,
    )
    table = Table(
        "methods", "Methods scored on a pipeline of two steps",
        {"method": "method", "kind": "claims", "level": "of", "roc_auc": "ROC-AUC",
         "pr_auc": "PR-AUC"}, rows,
    )  # fmt: skip
    return table, f"Of the methods, {best['method']} finds the edges best: {best['roc_auc']}."


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A few tasks and pairs.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
) -> None:
    """Tasks by prompt alone, prompts folded in, and task vectors patched."""
    about = this_machine()
    prompts, model, first = by_prompt(12, 4 if quick else 16)
    searched, searching = induced(model, 4 if quick else None)
    small, second = folded(model.program, 4 if quick else 60)
    patches, third = patched(60 if quick else 1000, 12)
    methods, fourth = scored()
    learnt, fifth = trained_prompts.sections(quick)
    Output.of("task_vectors", quick, output).write(
        "Task vectors", about, [prompts, searched, small, patches, methods, *learnt],
        [first, searching, second, third, fourth, fifth], None,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
