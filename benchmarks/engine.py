"""Engines beside each other: whole sequences, one jitted loop, step by step, and only what changes.

A model runs whole sequences, known tokens in one jitted loop, single steps that Python asks for, or
its own outputs; where its certificate is exact also event by event (`runner="events"`). Here all of
them run the same programs in turns in one process, beside the machine's own limits and a fused loop
in C. Every engine gives the same outputs before its time counts, which is in CPU seconds.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import jax
import numpy as np
import typer

import lsrl
from benchmarks import contestants, fused
from benchmarks.common import (
    BLUE,
    GREEN,
    ORANGE,
    REPEATS,
    BenchmarkError,
    Data,
    Output,
    Table,
    legend_below,
    log_axes,
    machine,
    measure_together,
    measured_alone,
    number,
    panels,
    say,
    slope,
)
from benchmarks.computer import BITS, BUSY
from benchmarks.engine_studies import CAPTURED, compare_studies
from benchmarks.limits import SIZES, Limits, measure_limits
from benchmarks.roofline import row_of
from benchmarks.workloads import LENGTH, VOCAB, Array, workloads
from lsrl.backends.network import apply_sequence
from lsrl.cost import Mode
from lsrl.language.run import Run
from lsrl.looping import RunnerName
from lsrl.machine import Image, assemble, card
from lsrl.programs import copy_delay, histogram, subleq
from lsrl.state import State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Works = dict[str, Callable[[], Any]]
JAX: Final = "jax"
EVENTS: Final = "events"
FASTER = 20  # times as many instructions at a call by events
EVENT_TARGETS = ("linear_rnn", "gated_linear_rnn", "rnn", "lstm", "gru")
ENGINES = {
    "whole": "whole sequences",
    "scan": "a jitted loop",
    "step": "Model.step",
    EVENTS: "Model.step, events",
}


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
      known: program, target, batch and tokens, of engines that read known tokens.
      steps: most tokens of those that Python asks for one by one.
      loops: cells, target and machines side by side, of loops.
      machines: cells, target and how many machines, each with a program of its own.
      instructions: of each machine at a time, where it is alone; fewer where there are many.
      cells: of memory, for the growth of loops.
      units: delays, for the growth of steps.
      vocabulary: symbols, for the growth of steps.
      growing: tokens or instructions of those.
      steppers: targets whose `Model.step` is held against their network's.
      fused: batch and tokens beside the loop in C.
      memory: cells of the computers whose peak memory is taken.
      copies: noisy ones, of a study.
      captured: sequences and tokens of another one.
      arrays: bytes of those that the machine's limits are taken of.
      repeats: of each measurement.
    """

    known: tuple[tuple[str, str, int, int], ...] = (
        ("tok2tok", "linear_rnn", 1, 1000), ("tok2tok", "linear_rnn", 256, 1000),
        ("tok2tok", "lstm", 1, 300), ("tok2tok", "lstm", 64, 300),
        ("majority", "linear_rnn", 1, 1000), ("majority", "linear_rnn", 256, 1000),
        ("parity", "linear_rnn", 1, 1000), ("parity", "rnn", 1, 1000), ("dyck1", "gru", 1, 1000),
    )  # fmt: skip
    steps: int = 200
    loops: tuple[tuple[int, str, int], ...] = (
        (32, "linear_rnn", 1), (256, "linear_rnn", 1), (256, "linear_rnn", 128),
        (256, "gated_linear_rnn", 1), (256, "rnn", 1), (256, "lstm", 1), (256, "gru", 1),
    )  # fmt: skip
    machines: tuple[tuple[int, str, int], ...] = ((256, "linear_rnn", 1024),)
    instructions: int = 500
    cells: tuple[int, ...] = (64, 256, 1024, 4096)
    units: tuple[int, ...] = (64, 1024, 16_384)
    vocabulary: tuple[int, ...] = (64, 512, 4096)
    growing: int = 200
    steppers: tuple[str, ...] = tuple(info.name for info in lsrl.targets())
    fused: tuple[tuple[int, int], ...] = ((1, 1000), (256, 1000))
    memory: tuple[int, ...] = (256, 4096)
    copies: int = 256
    captured: tuple[int, int] = CAPTURED
    arrays: tuple[int, ...] = SIZES
    repeats: int = REPEATS


QUICK = Plan(
    known=(("majority", "linear_rnn", 2, 40),), steps=10, loops=((13, "linear_rnn", 2),),
    machines=((64, "linear_rnn", 3),),
    instructions=20, cells=(), units=(8,), vocabulary=(), growing=20, steppers=("linear_rnn",),
    fused=((2, 40),), memory=(), copies=2, captured=(2, 40), arrays=(2**14, 2**18), repeats=1,
)  # fmt: skip


def runners(model: lsrl.Model) -> tuple[RunnerName, ...]:
    """What `runner=` takes for this model."""
    return (JAX, EVENTS) if model.certificate.exact and model.target in EVENT_TARGETS else (JAX,)


def speeds(works: Works, tokens: Mapping[str, int], repeats: int) -> dict[str, float]:
    """Tokens a CPU second of works, timed in turns."""
    found = measure_together(works, repeats)
    return {name: tokens[name] / timing.cpu for name, timing in found.items()}


def require(same: bool, what: str) -> None:
    """Raise BenchmarkError unless an engine gives the same outputs as the others."""
    if not same:
        raise BenchmarkError(f"{what}: other outputs")


# ---------------------------------------------------------------- known tokens


def in_one_loop(model: lsrl.Model, ids: Array) -> Callable[[], Array]:
    """The model's own step over known tokens (batch, time) in one jitted loop."""
    step, structure = model.module.pure_step, model.module.structure
    features = model.features((ids,))

    @jax.jit
    def run(parameters: Any, state: Any, inputs: Any) -> Any:
        return apply_sequence(step, parameters, structure, state, inputs)[0]

    def work() -> Array:
        with model.device_mode():
            state = model.init_state(len(ids)).hidden
            return np.asarray(run(model.module.kept(), state, features))

    return work


def stepping(model: lsrl.Model, ids: Array, runner: RunnerName) -> Callable[[], Array]:
    """Tokens (batch, time) that Python asks for one by one, checks included."""

    def work() -> Array:
        state, outputs = model.init_state(len(ids)), []
        for place in range(ids.shape[1]):
            output, state = model.step(state, ids[:, place], runner=runner)
            outputs.append(output)
        return np.stack(outputs, axis=1)

    return work


def engines_of(model: lsrl.Model, ids: Array, steps: int) -> tuple[Works, dict[str, int]]:
    """Every engine on known tokens (batch, time), and how many tokens each reads."""
    few = ids[:, :steps]
    works: Works = {
        "whole": partial(model.run, ids),
        "scan": in_one_loop(model, ids),
        "step": stepping(model, few, JAX),
    }
    if EVENTS in runners(model):
        works[EVENTS] = stepping(model, few, EVENTS)
    wanted = model.run(ids)
    for name, work in works.items():
        found = work()
        require(np.array_equal(found, wanted[:, : found.shape[1]]), f"{model!r}, {name}")
    return works, {name: (ids if name in ("whole", "scan") else few).size for name in works}


def compare_engines(plan: Plan, limits: Limits) -> Table:
    """Programs on targets in every engine."""
    rows = []
    for name, target, batch, tokens in plan.known:
        workload = workloads()[name]
        model = lsrl.compile(workload.program(tokens), target)
        (ids,) = inputs = workload.inputs(batch, tokens)
        workload.check(model, inputs, model.run(ids))
        works, counts = engines_of(model, ids, plan.steps)
        found = speeds(works, counts, plan.repeats)
        row: dict[str, Any] = {
            "program": name, "target": target, "batch": batch, "tokens": tokens, **found
        }  # fmt: skip
        modes: tuple[Mode, ...] = ("whole", "scan", "step")
        for mode in modes:
            roof = row_of(model, mode, batch, found[mode], limits)
            row[f"{mode} ratio"] = roof["ratio"]
        rows.append(row)
        say(f"{name} on {target}, {batch} × {tokens}: {number(found['whole'])} tokens a CPU second")
    return Table(
        "engines",
        "Known tokens, a CPU second",
        {
            "program": "program", "target": "target", "batch": "batch", "tokens": "tokens",
            **ENGINES,
            **{f"{mode} ratio": f"{ENGINES[mode]}, to the roofline"
               for mode in ("whole", "scan", "step")},
        },
        rows,
        f"Of all sequences together; steps over the first {plan.steps} tokens. The roofline is "
        "that of `benchmarks.roofline`, of the weights that are not zero. The event-driven engine "
        "does less than the roofline counts, so it has none.",
    )  # fmt: skip


# ---------------------------------------------------------------- loops


def machines(count: int) -> list[Image]:
    """As many SUBLEQ programs that differ in a number."""
    image = assemble(BUSY)
    if not isinstance(image, Image):
        raise BenchmarkError("the text is no SUBLEQ")
    return [image.put(number=number + 1) for number in range(count)]


def left_behind(image: Image, cells: int, steps: int) -> list[int]:
    """The memory that plain Python leaves after so many instructions."""
    memory, top, place = [image.words.get(cell, 0) for cell in range(cells)], 1 << (BITS - 1), 0
    for _ in range(steps):
        a, b, c = memory[place : place + 3]
        memory[b] = ((memory[b] - memory[a] + top) & (2 * top - 1)) - top
        place = c if memory[b] <= 0 else place + 3
    return memory


def loops_of(model: lsrl.Model, count: int, instructions: int) -> tuple[Works, dict[str, int]]:
    """Machines that have begun, on every runner, and how many instructions they do at a call.

    Args:
      model: a computer.
      count: machines.
      instructions: of each at a call in jax; more where a call would be over at once.
    """
    images = machines(count)
    prompt = [np.stack(arrays) for arrays in zip(*(card(model, i) for i in images), strict=True)]
    works: Works = {}
    counts: dict[str, int] = {}
    for runner in runners(model):
        steps = instructions * (FASTER if runner == EVENTS else 1)
        run = model.loop(*prompt, steps=steps, runner=runner)
        cells = run.memory.shape[-1]
        same = [left_behind(image, cells, steps) for image in images] == run.memory.tolist()
        require(same, f"{model!r}, {runner}")
        works[runner], counts[runner] = going_on(model, run, steps, runner), count * steps
    return works, counts


def going_on(
    model: lsrl.Model, run: Run[State], steps: int, runner: RunnerName
) -> Callable[[], None]:
    """So many more instructions of a run at each call."""
    kept = [run]

    def work() -> None:
        kept[0] = model.loop(kept[0], steps=steps, runner=runner)

    return work


def compare_loops(plan: Plan, limits: Limits) -> Table:
    """Computers on targets, alone and side by side, on every runner."""
    rows = []
    for cells, target, count in plan.loops:
        model = lsrl.compile(subleq(cells, BITS), target)
        steps = max(plan.instructions // (10 if count > 1 else 1), 10)
        found = speeds(*loops_of(model, count, steps), plan.repeats)
        roof = row_of(model, "scan", count, found[JAX], limits)
        rows.append(
            {"cells": cells, "target": target, "machines": count, "layers": model.num_layers,
             "nonzero": model.num_nonzero_parameters, **found, "ratio": roof["ratio"],
             "faster": found[EVENTS] / found[JAX] if EVENTS in found else None}
        )  # fmt: skip
        told = ", ".join(f"{runner} {number(speed)}" for runner, speed in found.items())
        say(f"{cells} cells on {target}, {count} machines: {told} instructions a CPU second")
    return Table(
        "loops",
        f"SUBLEQ of {BITS} bits in `Model.loop`, instructions a CPU second",
        {
            "cells": "cells", "target": "target", "machines": "machines", "layers": "layers",
            "nonzero": "nonzero weights", JAX: "jax", EVENTS: "events",
            "ratio": "jax to the roofline", "faster": "events to jax",
        },
        rows,
        "Of all machines together, each with a program of its own; what counts is a loop that goes "
        "on. Every memory is what plain Python leaves.",
    )  # fmt: skip


def own_program(rng: np.random.Generator) -> tuple[Image, int]:
    """A program of its own that counts down and halts, and after how many instructions it does."""
    body, rounds, step = (int(rng.integers(*ends)) for ends in ((1, 9), (50, 250), (1, 99)))
    lines = ["again: one number -1", *["step total next"] * body, "zero zero again"]
    numbers = {"one": 1, "number": rounds, "step": step, "total": 0, "zero": 0}
    lines += [f"{name}: .data {value}" for name, value in numbers.items()]
    # Prompts are as long as the longest one.
    image = assemble("\n".join([*lines, *[".data 7"] * 3 * (8 - body)]))
    if not isinstance(image, Image):
        raise BenchmarkError("the text is no SUBLEQ")
    return image, (rounds - 1) * (body + 2) + 1


def compare_machines(plan: Plan) -> Table:
    """Machines side by side that differ in program, prompt and end, from prompt to halt."""
    rows = []
    rng = np.random.default_rng(0)
    for cells, target, count in plan.machines:
        model = lsrl.compile(subleq(cells, BITS), target)
        images, lengths = zip(*(own_program(rng) for _ in range(count)), strict=True)
        cards = [card(model, image) for image in images]
        prompt = [np.stack(arrays) for arrays in zip(*cards, strict=True)]
        model.loop(*(part[:1] for part in prompt), steps=2, runner=EVENTS)  # what is compiled once
        start = time.process_time()
        run = model.loop(*prompt, steps=max(lengths), runner=EVENTS)
        seconds = time.process_time() - start
        require(bool(np.all(run.halted)) and run.record.done.tolist() == list(lengths),
                f"{count} machines, ends")  # fmt: skip
        left = [left_behind(*each) for each in zip(images, [cells] * count, lengths, strict=True)]
        require(left == run.memory.tolist(), f"{count} machines, memory")
        row = {"cells": cells, "target": target, "machines": count, "instructions": sum(lengths),
               "prompts": count * prompt[0].shape[1], "speed": sum(lengths) / seconds}  # fmt: skip
        rows.append(row)
        say(f"{count} machines of their own: {number(row['speed'])} instructions a CPU second")
    return Table(
        "machines",
        "Machines that differ in program, prompt and end, by events",
        {
            "cells": "cells", "target": "target", "machines": "machines",
            "instructions": "instructions of all", "prompts": "tokens of prompts",
            "speed": "instructions a CPU second, prompts included",
        },
        rows,
        "Each halts by itself, after 148 to 2,491 instructions, and leaves the memory that plain "
        "Python leaves.",
    )  # fmt: skip


# ---------------------------------------------------------------- growth


def grown(plan: Plan) -> Table:
    """Microseconds a token against cells, units and symbols."""
    rows = []
    for cells in plan.cells:
        model = lsrl.compile(subleq(cells, BITS), "linear_rnn")
        rows.append(_grown("cells", cells, model, *loops_of(model, 1, plan.growing), plan))
    for units in plan.units:
        rows.append(_grown_steps("units", units, copy_delay(units, max_length=2 * units), plan))
    for symbols in plan.vocabulary:
        rows.append(_grown_steps("symbols", symbols, histogram(symbols), plan))
    return Table(
        "growth",
        "Growth on linear_rnn, CPU microseconds a token",
        {
            "what": "what grows", "size": "to", "units": "units", "nonzero": "nonzero weights",
            "whole": "whole sequences", JAX: "a jitted loop", EVENTS: "events",
        },
        rows,
        "Cells: of memory, `subleq` in `Model.loop`. Units: `copy_delay` of so many tokens. "
        f"Symbols: `histogram` of so many, with as many outputs. {plan.growing} tokens. Events: of "
        "cells in `Model.loop`, if the certificate is exact in float32; else in `Model.step`, "
        "which hands all units over at each token.",
    )  # fmt: skip


def _grown_steps(what: str, size: int, program: lsrl.Program, plan: Plan) -> dict[str, Any]:
    model = lsrl.compile(program, "linear_rnn")
    (kind,) = model.program.inputs.values()
    if not isinstance(kind, lsrl.Token):
        raise BenchmarkError(f"{program!r} reads no token")
    count = min(plan.growing, program.max_length or plan.growing)
    ids = np.random.default_rng(0).integers(kind.size, size=(1, count))
    works, counts = engines_of(model, ids, count)
    kept = {"whole": "whole", "scan": JAX, EVENTS: EVENTS}
    works = {name: works[key] for key, name in kept.items() if key in works}
    return _grown(what, size, model, works, dict.fromkeys(works, counts["whole"]), plan)


def _grown(
    what: str, size: int, model: lsrl.Model, works: Works, counts: Mapping[str, int], plan: Plan
) -> dict[str, Any]:
    found = speeds(works, counts, plan.repeats)
    times = {name: 1e6 / speed for name, speed in found.items()}
    say(f"{size} {what}: {', '.join(f'{name} {number(t)}' for name, t in times.items())} µs")
    units = sum(layer.width for layer in model.schedule.layers)
    nonzero = model.num_nonzero_parameters
    return {"what": what, "size": size, "units": units, "nonzero": nonzero, **times}


# ---------------------------------------------------------------- steps, C, memory


def compare_steps(plan: Plan) -> Table:
    """`Model.step`, with its checks, beside the step of its network."""
    rows = []
    for target in plan.steppers:
        model = lsrl.compile(lsrl.programs.majority(1000), target)
        (ids,) = workloads()["majority"].inputs(1, plan.steps)
        works: Works = {"model": stepping(model, ids, JAX), "network": _bare(model, ids)}
        if EVENTS in runners(model):
            works[EVENTS] = stepping(model, ids, EVENTS)
        wanted = model.run(ids)
        for name, work in works.items():
            require(np.array_equal(work(), wanted), f"majority on {target}, {name}")
        found = measure_together(works, plan.repeats)
        times = {name: 1e6 * timing.cpu / ids.size for name, timing in found.items()}
        rows.append({"target": target, **times, "ratio": times["model"] / times["network"]})
        say(f"a step on {target}: {number(times['model'])} µs")
    return Table(
        "steps",
        "A step of majority, one sequence, CPU microseconds",
        {
            "target": "target", "model": "Model.step", "network": "the network's step",
            EVENTS: "Model.step, events", "ratio": "Model.step to the network's",
        },
        rows,
        "Model.step checks the token, the state and the certificate; both fetch the output.",
    )  # fmt: skip


def _bare(model: lsrl.Model, ids: Array) -> Callable[[], Array]:
    (features,) = model.features((ids,))

    def work() -> Array:
        hidden, outputs = model.init_state(len(ids)).hidden, []
        for place in range(ids.shape[1]):
            output, hidden = model.module.step(hidden, (features[:, place],))
            outputs.append(np.asarray(output))
        return np.stack(outputs, axis=1)

    return work


def beside(model: lsrl.Model, ids: Array) -> dict[str, Callable[[Array], Array]]:
    """What tok2tok is held against, from numpy to numpy; all give the same outputs."""
    loop = in_one_loop(model, ids)
    runs: dict[str, Callable[[Array], Array]] = {
        "linear_rnn": model.run,
        "by hand": contestants.by_hand("tok2tok", "scan", length=LENGTH, vocab=VOCAB),
        "direct": contestants.directly(LENGTH),
        "scan": lambda _: loop(),
    }
    if fused.missing() is None:
        runs["C"] = fused.fused_loop(LENGTH, VOCAB)
    wanted = model.run(ids)
    for name, run in runs.items():
        require(np.array_equal(run(ids), wanted), f"tok2tok, {name}")
    return runs


def compare_fused(plan: Plan) -> Table:
    """tok2tok on whole sequences beside the same loop by hand, in jax and fused in C."""
    rows = []
    for batch, tokens in plan.fused:
        workload = workloads()["tok2tok"]
        (ids,) = inputs = workload.inputs(batch, tokens)
        model = lsrl.compile(workload.program(tokens), "linear_rnn")
        workload.check(model, inputs, model.run(ids))
        works: Works = {name: partial(run, ids) for name, run in beside(model, ids).items()}
        found = speeds(works, dict.fromkeys(works, ids.size), 4 * plan.repeats)
        row: dict[str, Any] = {"batch": batch, "tokens": tokens}
        row |= {name: speed / 1e6 for name, speed in found.items()}
        row["to hand"] = found["linear_rnn"] / found["by hand"]
        row["to scan"] = found["linear_rnn"] / found["scan"]
        row["to C"] = found["linear_rnn"] / found["C"] if "C" in found else None
        rows.append(row)
        say(f"tok2tok, {batch} × {tokens}: {number(row['to hand'])} of by hand, "
            f"{'no C' if row['to C'] is None else number(row['to C'])} of C")  # fmt: skip
    why = fused.missing()
    return Table(
        "fused",
        f"tok2tok({LENGTH}, {VOCAB}) on whole sequences, million tokens a CPU second",
        {
            "batch": "batch", "tokens": "tokens", "linear_rnn": "linear_rnn",
            "by hand": "by hand, a jitted scan", "scan": "its weights in a jitted loop",
            "direct": "direct", "C": "a fused loop in C", "to hand": "to by hand",
            "to scan": "to its weights", "to C": "to C",
        },
        rows,
        "By hand and in C: the same states and ReLUs; C with all states at hand, 8 bytes of memory "
        "a token. Direct: compare all keys, gather the value. All take numpy arrays and give numpy "
        f"arrays. {f'Without C here: {why}.' if why else ''}".strip(),
    )  # fmt: skip


def measure_memory(plan: Plan) -> Table:
    """Peak memory of computers, compiled and run in a process of their own."""
    rows = []
    for cells in plan.memory:
        row: dict[str, Any] = {"cells": cells, **measured_alone("loop", cells, "linear_rnn")}
        rows.append(row)
        say(f"{cells} cells: peak {number(row['peak'])} MiB")
    return Table(
        "memory",
        "Peak memory of SUBLEQ on linear_rnn, MiB",
        {
            "cells": "cells", "before": "before", "compiled": "compiled", "peak": "run",
            "seconds": "compile, CPU s",
        },
        rows,
        "The largest resident set of a process of its own; before: `majority` compiled and run.",
    )  # fmt: skip


# ---------------------------------------------------------------- the page


def exponents(growth: Table) -> dict[tuple[str, str], float]:
    """By what grows and engine: time a token grows as size^exponent."""
    found = {}
    for what in dict.fromkeys(row["what"] for row in growth.rows):
        rows = [row for row in growth.rows if row["what"] == what]
        for engine in ("whole", JAX, EVENTS):
            points = [(row["size"], row[engine]) for row in rows if engine in row]
            if len(points) > 1:
                found[what, engine] = slope(*zip(*points, strict=True))
    return found


def findings(tables: Mapping[str, Table]) -> list[str]:
    """What the tables say, in sentences; by their names."""
    engines, loops, steps = tables["engines"], tables["loops"], tables["steps"]
    highest = max(
        [row[f"{mode} ratio"] for row in engines.rows for mode in ("whole", "scan", "step")]
        + [row["ratio"] for row in loops.rows]
    )
    dearest = max(steps.rows, key=lambda row: row["ratio"])
    found = [
        f"tok2tok({LENGTH}, {VOCAB}) on linear_rnn, {row['batch']} × {row['tokens']:,}: "
        f"{number(row['linear_rnn'])} million tokens a CPU second, {number(row['to hand'])} of the "
        f"same states by hand in jax, {number(row['to scan'])} of its weights token by token"
        + (f", {number(row['to C'])} of a fused loop in C." if row["to C"] is not None else ".")
        for row in tables["fused"].rows
    ]
    found += [
        f"A computer of {row['cells']} cells on {row['target']}: {number(row[JAX])} instructions a "
        "CPU second in one jitted loop"
        + (f", {number(row[EVENTS])} by events." if EVENTS in row else ".")
        for row in loops.rows
        if row["machines"] == 1
    ]
    found += [
        f"{row['machines']:,} computers of {row['cells']} cells on {row['target']}, each with a "
        f"program, a prompt and an end of its own: {number(row['speed'])} instructions a CPU "
        "second in all, by events."
        for row in tables["machines"].rows
    ]
    found += [
        f"Time a token grows as {what}^{exponent:.2f} ({'events' if engine == EVENTS else engine})."
        for (what, engine), exponent in exponents(tables["growth"]).items()
    ]
    found += [
        f"{row['study'].capitalize()}, {row['shape']}: {number(row['took'])} times the CPU time of "
        f"{row['beside']}."
        for row in tables["studies"].rows
    ]
    found += [
        f"Nearest to the roofline: {number(highest)}.",
        f"Model.step takes at most {number(dearest['ratio'])} times its network's "
        f"({dearest['target']}).",
    ]
    return found


def draw(data: Data) -> "Figure":
    """Time a token against cells, units and symbols, a panel each."""
    figure, axes = panels(3, 4.5)
    labels = {"whole": "whole sequences", JAX: "a jitted loop", EVENTS: "events"}
    for panel, what in zip(axes, ("cells", "units", "symbols"), strict=True):
        rows = [row for row in data["growth"] if row["what"] == what]
        for (engine, label), colour in zip(labels.items(), (GREEN, BLUE, ORANGE), strict=True):
            points = [(row["size"], row[engine]) for row in rows if engine in row]
            if points:
                panel.plot(*zip(*points, strict=True), "o-", color=colour, label=label)
        log_axes(panel, f"Growth in {what}", what, "CPU µs a token")
        if rows:
            legend_below(panel)
    return figure


def measure_all(plan: Plan) -> list[Table]:
    """Every table."""
    limits = measure_limits(plan.repeats, plan.arrays)
    fused_ones, engines = compare_fused(plan), compare_engines(plan, limits)
    loops, own = compare_loops(plan, limits), compare_machines(plan)
    growth, steps = grown(plan), compare_steps(plan)
    studies = compare_studies(plan.copies, plan.captured, plan.repeats)
    tables = [limits.table(), fused_ones, engines, loops, own, growth, steps, studies]
    return [*tables, measure_memory(plan)] if plan.memory else tables


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement.")] = REPEATS,
) -> None:
    """Measure every engine beside the machine's limits."""
    described = machine()
    tables = measure_all(QUICK if quick else Plan(repeats=repeats))
    named = {table.name: table for table in tables}
    Output.of("engine", quick, output).write("Engines", described, tables, findings(named), draw)


if __name__ == "__main__":
    typer.run(main)
