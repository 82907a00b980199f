"""Lift: black boxes whose program is known, and networks that were trained and have none.

Recurrences whose state is hidden in another basis, random machines as networks, and trained
networks: the suite's (`lsrl suite train`), their natural twins, and small RNNs trained here.
Networks and rows are kept in build/lift, so a run that was broken off goes on.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import lsrl
from benchmarks.common import ROOT, Output, Table, say
from benchmarks.common import machine as this_machine
from benchmarks.mips import TASKS
from benchmarks.small_rnns import (
    TOKENS,
    Training,
    accuracy,
    classes_of,
    data_of,
    trained,
    trained_in_torch,
)
from lsrl import cache
from lsrl.errors import LsrlError
from lsrl.induction import Found, mealy
from lsrl.induction.boxes import Reading
from lsrl.interpret import variants
from lsrl.model import Model
from lsrl.suite import training

Array = NDArray[Any]
KEPT = ROOT / "build" / "lift"
BASES = ("integers", "rationals", "float32")
CELLS = ("lstm", "gru", "rnn")
LONG, SHORT = 200, 24
# A DeltaNet of a wider stream takes minutes to lift on a core.
WIDEST = 64
SMALL = (
    Training("Bitwise_Xor", "elman"), Training("Parity_Last2", "gru"),
    Training("Parity_All", "lstm"), Training("Add_Mod_3", "gru"),
    Training("Previous_Equals_Current", "gru"), Training("Alternating_Last3", "elman"),
    Training("Div_3", "lstm"), Training("Min_Seen", "gru"),
    Training("Balanced_Parenthesis", "gru"), Training("Diff_Last2", "linear"),
    *(Training(task, cell, steps=1500, torch=True) for task, cell in (
        ("Parity_Last3", "elman"), ("Parity_Last4", "gru"), ("Parity_Zeros", "gru"),
        ("Bit_Shift_Right", "elman"), ("Alternating_Last4", "lstm"), ("Bit_Dot_Prod_Mod2", "gru"),
        ("Evens_Detector", "gru"), ("Binary_Addition", "gru"), ("Base_3_Addition", "lstm"),
        ("Div_5", "gru"), ("Majority_0_1", "gru"), ("Majority_0_2", "lstm"), ("Dithering", "gru"),
        ("Parity_Bits_Mod2", "elman"),
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
      recurrences: how many, by basis.
      automata: how many, with a compiled and a permuted network each.
      suite: programs, each as a trained network and as a twin.
      small: networks that are trained here.
      seed: of all that is drawn.
    """

    recurrences: tuple[int, ...] = (100, 50, 50)
    automata: int = 100
    suite: tuple[str, ...] = ("flip_flop", "copy_delay", "copy_delay_far")
    small: tuple[Training, ...] = SMALL
    seed: int = 77


QUICK = Plan((4, 2, 2), 3, (), (Training("Bitwise_Not", "elman", 8, 250),))


# ---------------------------------------------------------------- hidden recurrences


@dataclass(frozen=True)
class Hidden:
    """A recurrence of integers, s_t = A s_{t-1} + B x_t and y_t = C s_t.

    Attributes:
      matrix: A, a companion.
      write: B.
      read: C.
    """

    matrix: Array
    write: Array
    read: Array

    def run(self, x: Array, kind: Any = object) -> Array:
        """Outputs (sequences, time, outputs) in some arithmetic; object is that of Python."""
        parts = (self.matrix, self.write, self.read)
        if kind is not object:
            parts = tuple(part.astype(np.float64).astype(kind) for part in parts)  # type: ignore[assignment]
        matrix, write, read = parts
        given, said = x.astype(np.int64).astype(kind), []
        state = np.zeros((len(x), len(matrix)), kind)
        for token in range(x.shape[1]):
            state = state @ matrix.T + given[:, token] @ write.T
            said.append(state @ read.T)
        return np.stack(said, axis=1)


def recurrence(rng: np.random.Generator) -> Hidden:
    """Random, of order 1 to 6, with one or two inputs and outputs."""
    order, inputs, outputs = (int(rng.integers(1, most)) for most in (7, 3, 3))
    matrix = np.eye(order, k=1, dtype=int)
    while True:
        matrix[-1] = rng.integers(-2, 3, order)
        if matrix[-1, 0] and np.abs(np.linalg.eigvals(matrix)).max() <= 1.5:
            break
    read = rng.integers(-2, 3, (outputs, order))
    read[0] = np.eye(order, dtype=int)[0]
    write = rng.integers(-3, 4, (order, inputs))
    return Hidden(*(part.astype(object) for part in (matrix, write, read)))


def hidden(true: Hidden, basis: str, rng: np.random.Generator) -> Callable[[Array], Array]:
    """The same function, its state in a random basis.

    Args:
      true: to hide.
      basis: "integers", a unimodular one, run in int64; "rationals", run in float64; "float32", a
        random matrix, with two more states that the outputs don't read.
      rng: draws it.
    """
    order = len(true.matrix)
    parts = [part.astype(float) for part in (true.matrix, true.write, true.read)]
    if basis == "float32":
        rest = rng.normal(size=(2, 2))
        rest *= 0.5 / np.linalg.norm(rest, 2)
        zeros = np.zeros((order, 2))
        matrix = np.block([[parts[0], zeros], [zeros.T, rest]])
        write = np.concatenate([parts[1], rng.normal(size=(2, parts[1].shape[1]))])
        read = np.concatenate([parts[2], np.zeros((len(parts[2]), 2))], axis=1)
        into = np.linalg.qr(rng.normal(size=(order + 2, order + 2))).Q
        into = into @ np.diag(rng.uniform(0.5, 2, order + 2))
        back = np.linalg.inv(into)
        small = Hidden(into @ matrix @ back, into @ write, read @ back)
        return lambda x: small.run(x, np.float32)
    into = np.eye(order, dtype=int).astype(object)
    back = into.copy()
    for _ in range(2 * order):
        i, j = rng.integers(0, order, 2)
        if i != j:
            times = int(rng.choice([-1, 1]))
            into[i], back[:, j] = into[i] + times * into[j], back[:, j] - times * back[:, i]
    if basis == "rationals":
        scales = [Fraction(int(a), int(b)) for a, b in rng.integers(1, 6, (order, 2))]
        into = np.array(scales, object)[:, None] * into
        back = back * np.array([1 / scale for scale in scales], object)
    kind = np.int64 if basis == "integers" else np.float64
    dense = Hidden(into @ true.matrix @ back, into @ true.write, true.read @ back)
    return lambda x: dense.run(x, kind)


def recurrences(plan: Plan) -> list[dict[str, object]]:
    """A row a basis."""
    rows: list[dict[str, object]] = []
    for basis, count in zip(BASES, plan.recurrences, strict=True):
        say(f"{count} recurrences, {basis}")
        name = f"recurrences-{plan.seed}-{basis}-{count}"
        rows += kept(name, partial(recurrences_in, basis, count, plan.seed))
    return rows


def recurrences_in(basis: str, count: int, seed: int) -> list[dict[str, object]]:
    """The row of a basis."""
    rng = np.random.default_rng([seed, BASES.index(basis)])
    start, equal, queries, reasons = time.process_time(), 0, 0, list[str]()
    for _ in range(count):
        true = recurrence(rng)
        kind = lsrl.Vector(true.write.shape[1], low=-4, high=4, step=1)
        found = lsrl.lift(hidden(true, basis, rng), inputs={"x": kind}, solvers=["affine"])
        queries += found.checked.queries if found.checked else 0
        if not found:
            reasons.append(_reason(found))
            continue
        x = rng.integers(-4, 5, (2, LONG, kind.width))
        same = bool((found.program.run(x.astype(float), exact=True) == true.run(x)).all())
        equal += same
        if not same:
            reasons.append(f"agrees, and is another recurrence: {found.expression[:60]}")
    return [{
        "basis": basis, "count": count, "equal": equal, "queries": queries / count,
        "seconds": time.process_time() - start, "reasons": "; ".join(reasons) or None,
    }]  # fmt: skip


# ---------------------------------------------------------------- automata


def automaton(rng: np.random.Generator) -> tuple[lsrl.Program, Callable[[Array], Array]]:
    """A random machine of 2 to 10 states, as a program and as a plain loop."""
    states, letters, outputs = rng.integers(2, 11), int(rng.integers(2, 4)), rng.integers(2, 5)
    follows = rng.integers(0, states, (states, letters))
    answers = rng.integers(0, outputs, (states, letters))

    @lsrl.program(max_length=LONG)
    def machine(x: lsrl.Token(letters)) -> lsrl.Signal:  # type: ignore[valid-type]
        return mealy(x, follows=follows.tolist(), answers=answers.tolist())

    def plain(x: Array) -> Array:
        state, said = np.zeros(len(x), int), np.zeros_like(x)
        for token in range(x.shape[1]):
            said[:, token] = answers[state, x[:, token]]
            state = follows[state, x[:, token]]
        return said

    return machine, plain


def networks(program: lsrl.Program, number: int) -> Iterator[tuple[str, Model]]:
    """Compiled, permuted, and rotated where a DeltaNet of at most WIDEST channels holds it."""
    target = CELLS[number % len(CELLS)]
    model = lsrl.compile(program, target)
    yield target, model
    yield f"{target}, permuted", variants.permuted(model, seed=number)
    try:
        deltanet = lsrl.compile(program, "deltanet")
    except LsrlError:
        return
    if deltanet.width > WIDEST:
        return
    basis = "random" if deltanet.width < 16 else "hadamard"
    yield "deltanet, rotated", variants.rotated(deltanet, seed=number, basis=basis)


def machines_of(number: int, seed: int) -> list[dict[str, Any]]:
    """A row a network of one machine."""
    rng = np.random.default_rng([seed, 10, number])
    program, plain = automaton(rng)
    x = rng.integers(0, program.inputs["x"].size, (100, LONG))  # type: ignore[union-attr]
    rows = []
    for kind, model in networks(program, number):
        start = time.process_time()
        # A DeltaNet goes token by token, on a wide stream.
        length = SHORT if kind.startswith("deltanet") else 50
        found = lsrl.lift(
            model, outputs="rounded", solvers=["automaton"], seed=number, length=length
        )
        seconds = time.process_time() - start
        same = bool(found) and np.array_equal(found.program.run(x)[..., 0], plain(x))
        checked = found.checked
        rows.append({
            "kind": kind, "same": same, "queries": checked.queries if checked else 0,
            "told": checked is not None and checked.states is not None, "seconds": seconds,
            "reason": None if found else _reason(found),
        })  # fmt: skip
    return rows


def automata(plan: Plan) -> list[dict[str, object]]:
    """A row a kind of network."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for number in range(plan.automata):
        rows = kept(f"machine-{plan.seed}-{number}", partial(machines_of, number, plan.seed))
        for row in rows:
            kinds.setdefault(row["kind"], []).append(row)
        if number % 10 == 9:
            say(f"{number + 1} machines")
    return [
        {"kind": kind, "count": len(each), "equal": sum(row["same"] for row in each),
         "told": sum(row["told"] for row in each),
         "queries": np.mean([row["queries"] for row in each]).item(),
         "seconds": np.mean([row["seconds"] for row in each]).item(),
         "reasons": "; ".join(row["reason"] for row in each if row["reason"]) or None}
        for kind, each in sorted(kinds.items())
    ]  # fmt: skip


def kept(name: str, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows out of their file if the code is the same, else made and kept there."""
    path, code = KEPT / "rows" / f"{name}.json", cache.code()
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["code"] == code:
            rows: list[dict[str, Any]] = held["rows"]
            return rows
    rows = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"code": code, "rows": rows}), encoding="utf-8")
    return rows


# ---------------------------------------------------------------- trained networks


def _row(
    name: str,
    found: Found,
    right: Callable[[lsrl.Program], bool],
    accurate: float,
    seconds: float,
) -> dict[str, object]:
    """What came of one trained network."""
    return {
        "network": name,
        "accuracy": accurate,
        "lifted": bool(found),
        "task": right(found.program) if found else None,
        "solver": found[0].solver if found else None,
        "tokens": found.checked.length if found.checked else None,
        "queries": found.checked.queries if found.checked else None,
        "seconds": seconds,
        "what": found.expression[:70] if found else _reason(found),
    }


def _reason(found: Found) -> str:
    """Each solver's, shortened."""
    return "; ".join(f"{each.solver}: {each.reason[:110]}" for each in found.refusals)


def of_the_suite(name: str, kind: str, target: str) -> dict[str, object]:
    """A network that `lsrl suite train` makes, on the length that it was trained at."""
    folder = KEPT / "suite"
    training.train(folder, names=[name], targets=[target], seeds=1, kinds=[kind])
    model = lsrl.load(folder / name / target / f"0-{kind}.lsrl")
    task = training.task_of(name)
    start = time.process_time()
    found = lsrl.lift(model, outputs="rounded", length=training.LENGTH)
    seconds = time.process_time() - start
    rng = np.random.default_rng(5)
    drawn = [task.sample(model.program, rng, training.LENGTH) for _ in range(256)]
    inputs = [np.stack(column) for column in zip(*drawn, strict=True)]
    truth = model.program.run(*inputs)
    accurate = float((np.rint(model.run(*inputs)) == truth).all(axis=2).mean())
    label = "by interchanges" if kind == "trained" else "by outputs alone"

    def right(program: lsrl.Program) -> bool:
        return bool(np.array_equal(program.run(*inputs), truth))

    return _row(f"{name} on {target}, {label}", found, right, accurate, seconds)


def of_mips(each: Training) -> dict[str, object]:
    """A small RNN that is trained here; of a linear one the numbers are lifted as they are."""
    make = trained_in_torch if each.torch else trained
    network, task = make(each, KEPT / "small"), TASKS[each.task]
    reading: Reading = "argmax" if classes_of(task) else "rounded"
    reading = "values" if each.cell == "linear" else reading
    start = time.process_time()
    found = lsrl.lift(network, inputs=task.types, outputs=reading, length=TOKENS)
    seconds = time.process_time() - start
    inputs, truth = data_of(task, 256, TOKENS, 6)

    def right(program: lsrl.Program) -> bool:
        return bool(np.array_equal(np.rint(program.run(*inputs)[..., 0]), truth))

    return _row(each.name, found, right, accuracy(network, task, TOKENS, 7), seconds)


def trained_networks(plan: Plan) -> Iterator[dict[str, object]]:
    """A row a network."""
    makes: dict[str, Callable[[], dict[str, object]]] = {}
    for number, name in enumerate(plan.suite):
        for kind in training.KINDS:
            target = CELLS[(number + (kind == "twin")) % 2]
            makes[f"{name}-{target}-{kind}"] = partial(of_the_suite, name, kind, target)
    for each in plan.small:
        makes[f"{each.task}-{each.cell}{'-torch' * each.torch}"] = partial(of_mips, each)
    for name, make in makes.items():
        say(name)
        yield from kept(name, partial(_alone, make))


def _alone(make: Callable[[], dict[str, object]]) -> list[dict[str, object]]:
    """The one row that is made."""
    return [make()]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A few of each.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder to write to.")] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = Plan.seed,
) -> None:
    """Lift black boxes, and say of each that was not lifted why."""
    about, base = this_machine(), QUICK if quick else Plan()
    plan = replace(base, seed=seed)
    hidden_rows, machines = recurrences(plan), automata(plan)
    rows = list(trained_networks(plan))
    tables = [
        Table(
            "recurrences", "Hidden recurrences",
            {"basis": "basis", "count": "recurrences", "equal": "lifted", "queries": "queries each",
             "seconds": "CPU s", "reasons": "not lifted"}, hidden_rows,
            "Order 1 to 6, coefficients of -2 to 2, one or two inputs and outputs, eigenvalues of "
            "at most 1.5; the state in another basis, of integers (int64), of rationals (float64), "
            "or of any numbers with two more states beside (float32). Lifted means that the "
            f"program equals the recurrence over {LONG} tokens, in exact integers.",
        ),
        Table(
            "automata", "Random machines as networks",
            {"kind": "network", "count": "networks", "equal": "lifted", "told": "told from others",
             "queries": "queries each", "seconds": "CPU s each", "reasons": "not lifted"}, machines,
            "2 to 10 states, 2 or 3 symbols, 2 to 4 outputs. Lifted means that the program equals "
            f"the machine over 100 sequences of {LONG} tokens; told from others, that the W-method "
            "asked every word that tells it from any machine of at most two states more. A "
            f"DeltaNet is there where the target holds the machine in at most {WIDEST} channels, "
            f"and is asked for sequences of {SHORT} tokens.",
        ),
        Table(
            "trained", "Trained networks",
            {"network": "network", "accuracy": "right tokens", "lifted": "lifted",
             "task": "its task", "solver": "solver", "tokens": "tokens", "queries": "queries",
             "seconds": "CPU s", "what": "program, or why there is none"}, rows,
            "Asked for sequences of the length that they were trained at. Lifted means that a "
            "program gives the network's answers, its errors too, at every token of 200 fresh "
            "sequences of that length; its task, that the program gives the task's.",
        ),
    ]  # fmt: skip
    Output.of("lift", quick, output).write("Lift", about, tables, findings(tables), None)


def findings(tables: list[Table]) -> list[str]:
    """Sentences for the top of the page."""
    hidden_rows, machines, rows = (table.rows for table in tables)
    lifted = [row for row in rows if row["lifted"]]
    right = [row for row in rows if row["accuracy"] == 1.0]
    return [
        f"{sum(row['equal'] for row in hidden_rows)} of {sum(row['count'] for row in hidden_rows)} "
        "hidden recurrences are lifted.",
        f"{sum(row['equal'] for row in machines)} of {sum(row['count'] for row in machines)} "
        "networks of random machines are lifted.",
        f"{len(lifted)} of {len(rows)} trained networks are lifted, "
        f"{sum(bool(row['task']) for row in lifted)} of them to their task; of the {len(right)} "
        "that make no error in their task, "
        f"{sum(bool(row['lifted']) for row in right)}.",
    ]


if __name__ == "__main__":
    typer.run(main)
