"""How fast compiled models run: whole sequences, token by token, and one very long sequence.

tok2tok runs beside the same algorithm written by hand in jax, the direct algorithm, its own weights
token by token, and a stock flax LSTM of the same number of parameters, in turns in one process;
models of stock cells beside a stock flax stack of the same shape. Every contestant must give the
right answers before its time counts (but the LSTM and the stack, which are not trained). Times are
CPU seconds of all threads, since machines are shared.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import numpy as np
import typer

import lsrl
from benchmarks import contestants, original
from benchmarks.common import (
    BLUE,
    BROWN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
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
    sample_together,
    say,
)
from benchmarks.limits import seconds
from benchmarks.workloads import LENGTH, VOCAB, Array, Workload, workloads
from lsrl.backends.network import apply_sequence, precision
from lsrl.errors import PrecisionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TARGETS = ("linear_rnn", "gated_linear_rnn")
CELL_TARGETS = ("rnn", "rnn_tanh", "lstm", "gru")
# Short runs are repeated within one sample, so that what the others left in the caches and threads
# that fell asleep meanwhile don't count.
SAMPLE_SECONDS = 0.02
MOST_CALLS = 100
# Token by token the same weights are so slow that longer sequences would take minutes.
LONGEST_LITERAL = 100_000


@dataclass(frozen=True)
class Plan:
    """The sizes of a run.

    Attributes:
      batches: of BATCH_TOKENS tokens each, for the comparison.
      lengths: of one sequence, for the comparison and the long sequences.
      batch: sequences of the table of programs.
      batch_tokens: tokens of each of them.
      stacks: of BATCH_TOKENS tokens each, beside stock stacks.
      steps: tokens in step mode.
      alone: tokens of one sequence beside programs by hand, and of the longest generation.
      memory: programs whose peak memory is taken.
      repeats: of each measurement.
    """

    batches: tuple[int, ...] = (1, 16, 256, 1024)
    lengths: tuple[int, ...] = (100, 10_000, 100_000, 1_000_000)
    batch: int = 256
    batch_tokens: int = 1000
    stacks: tuple[int, ...] = (1, 64)
    steps: int = 1000
    alone: int = 100_000
    memory: tuple[str, ...] = ("tok2tok", "majority")
    repeats: int = REPEATS

    @property
    def long_lengths(self) -> tuple[int, ...]:
        """The lengths whose cost a token is compared."""
        return tuple(length for length in self.lengths if length >= 10_000)


QUICK = Plan(
    batches=(1, 16), lengths=(100, 10_000, 100_000), batch=16, batch_tokens=300, steps=50,
    stacks=(1, 16), memory=("majority",), repeats=2, alone=10_000,
)  # fmt: skip


def speeds(
    runs: Mapping[str, tuple[Callable[[], Any], int]], repeats: int, most_calls: int = MOST_CALLS
) -> dict[str, float]:
    """Tokens a CPU second of runs, each given with its number of tokens, timed in turns."""
    calls = {name: _calls(work, most_calls) for name, (work, _) in runs.items()}
    works = {name: partial(_repeat, work, calls[name]) for name, (work, _) in runs.items()}
    timings = measure_together(works, repeats)
    return {
        name: calls[name] * tokens / seconds(timings[name]) for name, (_, tokens) in runs.items()
    }


def _calls(work: Callable[[], Any], most: int = MOST_CALLS) -> int:
    """How often to repeat some work within a sample."""
    if most == 1:
        return 1
    work()
    start = time.perf_counter()
    work()
    return min(math.ceil(SAMPLE_SECONDS / (time.perf_counter() - start)), most)


def _repeat(work: Callable[[], Any], calls: int) -> None:
    for _ in range(calls):
        work()


# ---------------------------------------------------------------- tok2tok beside others


def literal(model: lsrl.Model) -> Callable[[Array], Array]:
    """The model's own weights as dense matrices, in a scan over time."""
    module = model.module
    function = jax.jit(partial(apply_sequence, module.pure_step), static_argnums=1)

    def run(tokens: Array) -> Array:
        state = module.init_state((len(tokens),))
        inputs = (tokens.astype(np.int32),)
        return np.asarray(function(module.parameters(), module.structure, state, inputs)[0])

    return run


def compare_tok2tok(plan: Plan) -> Table:
    """tok2tok beside the same algorithm by hand, the direct one, a scan and an LSTM."""
    workload = workloads()["tok2tok"]
    shapes = [(batch, plan.batch_tokens) for batch in plan.batches]
    shapes += [(1, tokens) for tokens in plan.lengths if (1, tokens) not in shapes]
    rows = [_compare_at(workload, batch, tokens, plan.repeats) for batch, tokens in shapes]
    model = lsrl.compile(workload.program(plan.batch_tokens), "linear_rnn")
    lstm = contestants.lstm_of_size(VOCAB, model.num_parameters)
    return Table(
        "tok2tok",
        f"tok2tok({LENGTH}, {VOCAB}) on whole sequences, million tokens a CPU second",
        {
            "batch": "batch",
            "tokens": "tokens",
            "linear_rnn": "linear_rnn",
            "gated_linear_rnn": "gated_linear_rnn",
            "by hand": "by hand",
            "sum": "its fastest sum",
            "direct": "direct",
            "scan": "same weights, scan",
            "LSTM": "flax LSTM",
            "to hand": "ratio to hand",
            "to direct": "to direct",
            "to scan": "to scan",
            "to LSTM": "to LSTM",
            "to original": "to original's best",
        },
        rows,
        "By hand: the same states and ReLUs as a jitted array program, with the cumulative sum "
        "that is fastest there (jnp.cumsum, associative_scan, a scan over time, blocked products). "
        "Direct: compare all keys, gather the value; no recurrence, the ceiling. Same weights, "
        "scan: the literal cell with dense matrices, token by token, jitted. "
        f"LSTM: one layer of nnx.OptimizedLSTMCell in nnx.RNN, {lstm.readout.in_features} hidden "
        f"units, {lstm.num_parameters} parameters ({model.num_parameters} in tok2tok). Ratios are "
        f"of linear_rnn; the last to {original.BEST_TOKENS_PER_SECOND:g} tokens a second "
        f"({original.LABEL}). All columns take numpy arrays and give numpy arrays.",
    )


def _compare_at(workload: Workload, batch: int, tokens: int, repeats: int) -> dict[str, Any]:
    inputs = workload.inputs(batch, tokens)
    models = {target: lsrl.compile(workload.program(tokens), target) for target in TARGETS}
    runners: dict[str, Callable[[Array], Array]] = {
        target: model.run for target, model in models.items()
    }
    runners |= {
        f"by hand, {name}": contestants.by_hand("tok2tok", name, length=LENGTH, vocab=VOCAB)
        for name in contestants.CUMULATIVE_SUMS
    }
    runners["direct"] = contestants.directly(LENGTH)
    if tokens <= LONGEST_LITERAL:
        runners["scan"] = literal(models["linear_rnn"])
    workload.check(models["linear_rnn"], inputs, models["linear_rnn"].run(*inputs))
    expected = runners["direct"](*inputs)
    for name, run in runners.items():
        if not np.array_equal(run(*inputs), expected):
            raise BenchmarkError(f"{name} gives other answers at batch {batch} × {tokens} tokens")
    lstm = contestants.lstm_of_size(VOCAB, models["linear_rnn"].num_parameters)
    runners["LSTM"] = contestants.run_stock(lstm)
    runs = {name: (partial(run, *inputs), batch * tokens) for name, run in runners.items()}
    found = speeds(runs, repeats)
    sums = {name: found.pop(f"by hand, {name}") for name in contestants.CUMULATIVE_SUMS}
    fastest = max(sums, key=sums.__getitem__)
    found["by hand"] = sums[fastest]
    ours = found["linear_rnn"]
    row: dict[str, Any] = {"batch": batch, "tokens": tokens, "sum": fastest}
    row |= {name: speed / 1e6 for name, speed in found.items()}
    for other, name in (("by hand", "to hand"), ("direct", "to direct"), ("scan", "to scan"),
                        ("LSTM", "to LSTM")):  # fmt: skip
        row[name] = ours / found[other] if other in found else None
    row["to original"] = ours / original.BEST_TOKENS_PER_SECOND
    say(f"tok2tok, {batch} × {tokens}: {number(ours / 1e6)} million tokens/s, "
        f"{number(row['to hand'])} of by hand")  # fmt: skip
    return row


def compare_programs(plan: Plan) -> Table:
    """Other programs beside the same states and ReLUs by hand, and their weights in a scan."""
    rows = []
    for name in contestants.BY_HAND:
        workload = workloads()[name]
        for batch, tokens in ((plan.batch, plan.batch_tokens), (1, plan.alone)):
            inputs = workload.inputs(batch, tokens)
            model = lsrl.compile(workload.program(tokens), "linear_rnn")
            runners: dict[str, Callable[[Array], Array]] = {"linear_rnn": model.run}
            runners |= {
                f"by hand, {sums}": contestants.by_hand(name, sums)
                for sums in contestants.CUMULATIVE_SUMS
            }
            runners["scan"] = literal(model)
            workload.check(model, inputs, model.run(*inputs))
            expected = model.run(*inputs)
            for other, run in runners.items():
                if not np.array_equal(run(*inputs), expected):
                    raise BenchmarkError(f"{name}, {other}: other answers at {batch} × {tokens}")
            runs = {key: (partial(run, *inputs), batch * tokens) for key, run in runners.items()}
            found = speeds(runs, plan.repeats)
            sums = {key: found[f"by hand, {key}"] for key in contestants.CUMULATIVE_SUMS}
            fastest = max(sums, key=sums.__getitem__)
            row = {
                "program": name, "batch": batch, "tokens": tokens, "sum": fastest,
                "linear_rnn": found["linear_rnn"] / 1e6, "by hand": sums[fastest] / 1e6,
                "scan": found["scan"] / 1e6,
                "to hand": found["linear_rnn"] / sums[fastest],
                "to scan": found["linear_rnn"] / found["scan"],
            }  # fmt: skip
            rows.append(row)
            say(f"{name}, {batch} × {tokens}: {number(row['linear_rnn'])} million tokens/s, "
                f"{number(row['to hand'])} of by hand")  # fmt: skip
    return Table(
        "programs",
        "Other programs on linear_rnn, million tokens a CPU second",
        {
            "program": "program",
            "batch": "batch",
            "tokens": "tokens",
            "linear_rnn": "linear_rnn",
            "by hand": "by hand",
            "sum": "its fastest sum",
            "scan": "same weights, scan",
            "to hand": "ratio to hand",
            "to scan": "to scan",
        },
        rows,
        "As in the table above. Bars: 0.5 of by hand, 3 times the scan. By hand leaves out what "
        "Model.run does besides: to check every token, and to bound the memory.",
    )


# ---------------------------------------------------------------- programs


def measure_batches(plan: Plan) -> Table:
    """Every workload on both targets, many sequences at once."""
    rows = []
    batch, tokens = plan.batch, plan.batch_tokens
    for name, workload in workloads().items():
        inputs = workload.inputs(batch, tokens)
        for target in TARGETS:
            model = lsrl.compile(workload.program(tokens), target)
            equal = workload.check(model, inputs, model.run(*inputs))
            runs = {"run": (partial(model.run, *inputs), batch * tokens)}
            speed = speeds(runs, plan.repeats)["run"]
            rows.append(
                {
                    "program": name,
                    "target": target,
                    "layers": model.num_layers,
                    "width": model.width,
                    "speed": speed / 1e6,
                    "to original": speed / original.BEST_TOKENS_PER_SECOND,
                    "exact": model.certificate.exact,
                    "equal": equal,
                }
            )
            say(f"{name} on {target}: {number(speed / 1e6)} million tokens/s")
    return Table(
        "batches",
        f"Programs, batch {batch} × {tokens:,} tokens",
        {
            "program": "program",
            "target": "target",
            "layers": "layers",
            "width": "width",
            "speed": "million tokens a CPU second",
            "to original": f"times {original.BEST_TOKENS_PER_SECOND:g} tokens/s",
            "exact": "certified exact",
            "equal": "equal to the reference",
        },
        rows,
        f"Times {original.BEST_TOKENS_PER_SECOND:g} tokens/s: against the best figure of the "
        f"original ({original.LABEL}), which is of tok2tok.",
    )


def measure_long(plan: Plan) -> Table:
    """Time a token in one sequence, at growing lengths, of a model made for the longest."""
    lengths = plan.long_lengths
    rows = []
    for name, workload in workloads().items():
        if workload.longest is not None and workload.longest < lengths[-1]:
            continue
        inputs = workload.inputs(1, lengths[-1])
        for target in TARGETS:
            model = lsrl.compile(workload.program(lengths[-1]), target)
            equal = workload.check(model, inputs, model.run(*inputs))
            runs = {}
            for tokens in lengths:
                part = tuple(array[:, :tokens] for array in inputs)
                runs[str(tokens)] = (partial(model.run, *part), tokens)
            found = speeds(runs, plan.repeats)
            nanoseconds = {key: 1e9 / speed for key, speed in found.items()}
            ratio = nanoseconds[str(lengths[-1])] / nanoseconds[str(lengths[0])]
            rows.append(
                {
                    "program": name,
                    "target": target,
                    **nanoseconds,
                    "ratio": ratio,
                    "speed": found[str(lengths[-1])] / 1e6,
                    "exact": model.certificate.exact,
                    "equal": equal,
                }
            )
            say(
                f"{name} on {target}, {lengths[-1]} tokens: {number(ratio)} of the cost at "
                f"{lengths[0]}"
            )
    return Table(
        "long",
        "One sequence, CPU nanoseconds a token",
        {
            "program": "program",
            "target": "target",
            **{str(tokens): f"ns at {tokens:,}" for tokens in lengths},
            "ratio": f"{lengths[-1]:,} to {lengths[0]:,}",
            "speed": f"million tokens a CPU second at {lengths[-1]:,}",
            "exact": "certified exact",
            "equal": "equal to the reference",
        },
        rows,
        f"One model a row, compiled for {lengths[-1]:,} tokens. Bar: a ratio of at most 1.2.",
    )


# ---------------------------------------------------------------- stock cells beside stock cells


def compare_stacks(plan: Plan) -> Table:
    """Models of stock cells beside stock flax stacks of the same shape with random weights."""
    rows = [
        _compare_stack(name, target, batch, plan)
        for name in ("tok2tok", "majority")
        for target in CELL_TARGETS
        for batch in plan.stacks
    ]
    return Table(
        "stacks",
        f"Stock cells beside a stock flax stack of the same shape, {plan.batch_tokens:,} tokens",
        {
            "program": "program",
            "target": "target",
            "dtype": "dtype",
            "layers": "layers",
            "width": "width",
            "batch": "batch",
            "stock": "stock, ms",
            "network": "network, ms",
            "model": "Model.run, ms",
            "ratio": "network to stock",
            "cpu ratio": "in CPU time",
            "model ratio": "Model.run to stock",
            "highest ratio": "network to stock at highest precision",
        },
        rows,
        "Stock: flax's cells with random weights, nnx.Embed before and nnx.Linear after, all "
        "layers in one lax.scan, jitted, matrix products at the default precision. Network: what "
        "Model.run calls once it has checked the inputs. All three take numpy arrays and give "
        f"numpy arrays. Times are medians of {_stack_repeats(plan)} turns, ratios medians of the "
        "ratios within a turn. float64 where float32 has no room for the program.",
    )


def _stack_repeats(plan: Plan) -> int:
    """More than elsewhere: the ratios are near their bar."""
    return 2 * plan.repeats + 1


def _compare_stack(name: str, target: str, batch: int, plan: Plan) -> dict[str, Any]:
    workload = workloads()[name]
    program = workload.program(plan.batch_tokens)
    try:
        model = lsrl.compile(program, target)
    except PrecisionError:
        model = lsrl.compile(program, target, dtype="float64")
    (tokens,) = workload.inputs(batch, plan.batch_tokens)
    workload.check(model, (tokens,), model.run(tokens))
    ids = tokens.astype(np.int32)
    with precision(model.dtype):
        run = contestants.run_stock(contestants.StockStack(model.module))

        def highest() -> None:
            with jax.default_matmul_precision("highest"):
                run(ids)

        works = {
            "stock": partial(run, ids),
            "network": partial(model.module.run, (ids,)),
            "model": partial(model.run, tokens),
            "highest": highest,
        }
        calls = _calls(works["stock"])
        found = sample_together(
            {key: partial(_repeat, work, calls) for key, work in works.items()},
            _stack_repeats(plan),
        )

    def ratio(one: str, other: str, clock: str = "wall") -> float:
        pairs = zip(found[one], found[other], strict=True)
        return statistics.median(getattr(a, clock) / getattr(b, clock) for a, b in pairs)

    row = {
        "program": name, "target": target, "dtype": model.dtype, "layers": model.num_layers,
        "width": model.width, "batch": batch,
        **{
            key: 1e3 * statistics.median(timing.wall for timing in found[key]) / calls
            for key in ("stock", "network", "model")
        },
        "ratio": ratio("network", "stock"), "cpu ratio": ratio("network", "stock", "cpu"),
        "model ratio": ratio("model", "stock"), "highest ratio": ratio("network", "highest"),
    }  # fmt: skip
    say(f"{name} on {target}, {batch} × {plan.batch_tokens}: {number(row['ratio'])} of a stock "
        f"stack's time, {number(row['cpu ratio'])} of its CPU time")  # fmt: skip
    return row


# ---------------------------------------------------------------- token by token


def measure_steps(plan: Plan) -> Table:
    """Step mode, where every token is a call from Python."""
    rows = []
    found = workloads()
    for name in ("tok2tok", "majority", "histogram"):
        workload = found[name]
        program = workload.program(max(plan.steps, plan.batch_tokens))
        model = lsrl.compile(program, "linear_rnn")
        for batch in (1, plan.batch):
            (tokens,) = workload.inputs(batch, plan.steps)
            steps = partial(_step_through, model, tokens)
            if not np.array_equal(steps(), model.run(tokens)):
                raise BenchmarkError(f"{name}: step and run differ")
            runs = {"step": (steps, tokens.size)}
            if name == "tok2tok":
                lstm = contestants.lstm_of_size(VOCAB, model.num_parameters)
                runs["LSTM"] = (partial(contestants.step_lstm(lstm, batch), tokens), tokens.size)
            timed = speeds(runs, plan.repeats, most_calls=1)
            for mode, speed in timed.items():
                label = "flax LSTM, jitted cell" if mode == "LSTM" else f"{name}, model.step"
                rows.append(
                    {
                        "mode": label,
                        "batch": batch,
                        "speed": speed,
                        "microseconds": 1e6 * batch / speed,
                        "to original": speed / original.BEST_TOKENS_PER_SECOND,
                    }
                )
            say(f"{name}, step, batch {batch}: {number(timed['step'])} tokens/s")
    rows += _generation_rows(plan)
    return Table(
        "steps",
        "Token by token",
        {
            "mode": "what",
            "batch": "batch",
            "speed": "tokens a CPU second",
            "microseconds": "CPU µs a step",
            "to original": f"times {original.BEST_TOKENS_PER_SECOND:g} tokens/s",
            "to scan": "time to the scan's",
        },
        rows,
        "linear_rnn. Each step is a call from Python that checks its token and fetches its output "
        "as a numpy array; step and run agree at every token. generate feeds outputs back on the "
        "device; bar: 1.5 times the scan's time.",
    )


def _step_through(model: lsrl.Model, tokens: Array) -> Array:
    """(batch, time) ints to (batch, time, outputs)."""
    state = model.init_state(batch=len(tokens))
    outputs = []
    for place in range(tokens.shape[1]):
        output, state = model.step(state, tokens[:, place])
        outputs.append(output)
    return np.stack(outputs, axis=1)


def _generation_rows(plan: Plan) -> list[dict[str, Any]]:
    """generate, beside a scan of the same weights over as many known tokens."""
    workload = workloads()["tok2tok"]
    prompt_length = plan.batch_tokens
    model = lsrl.compile(workload.program(plan.alone + prompt_length), "linear_rnn")
    rows = []
    for batch in (1, plan.batch):
        (prompt,) = workload.inputs(batch, prompt_length)
        steps = plan.alone if batch == 1 else plan.steps
        (known,) = workload.inputs(batch, steps)
        runs = {
            "generate": (partial(model.generate, prompt, steps), batch * steps),
            "scan": (partial(literal(model), known), batch * steps),
        }
        found = speeds(runs, plan.repeats, most_calls=1)
        labels = {
            "generate": f"tok2tok, model.generate, {steps:,} tokens after {prompt_length:,}",
            "scan": f"tok2tok, a scan over {steps:,} known tokens",
        }
        for key, label in labels.items():
            rows.append(
                {
                    "mode": label,
                    "batch": batch,
                    "speed": found[key],
                    "microseconds": 1e6 * batch / found[key],
                    "to original": found[key] / original.BEST_TOKENS_PER_SECOND,
                    "to scan": found["scan"] / found[key],
                }
            )
        say(f"generate, batch {batch}: {number(found['generate'])} tokens/s, "
            f"{number(found['scan'] / found['generate'])} times the scan's time")  # fmt: skip
    return rows


# ---------------------------------------------------------------- memory


def measure_memory(plan: Plan) -> Table:
    """Peak memory of one sequence, each in a process of its own."""
    rows: list[dict[str, Any]] = []
    lengths = plan.long_lengths
    for name in plan.memory:
        for tokens in lengths:
            measured = measured_alone("run", name, "linear_rnn", tokens, lengths[-1])
            rows.append({"program": name, "tokens": tokens, **measured})
            say(f"{name}, {tokens} tokens: peak {number(measured['peak'])} MiB")
        first = next(row for row in rows if row["program"] == name)
        for row in rows:
            if row["program"] == name:
                row["ratio"] = row["peak"] / first["peak"]
    return Table(
        "memory",
        "Peak memory of one sequence on linear_rnn, MiB",
        {
            "program": "program",
            "tokens": "tokens",
            "before": "before the run",
            "peak": "peak",
            "outputs": "of which outputs",
            "ratio": f"peak to that at {lengths[0]:,}",
        },
        rows,
        "The largest resident set of a process of its own, with Python, jax and XLA in it; before "
        "the run: after compiling and 1,000 tokens.",
    )


# ---------------------------------------------------------------- the page


def findings(
    plan: Plan, comparison: Table, batches: Table, long: Table, memory: Table, stacks: Table
) -> list[str]:
    """What the tables say, in sentences."""
    found = []
    for batch, tokens in ((plan.batch, plan.batch_tokens), (1, plan.lengths[-1])):
        for row in comparison.rows:
            if (row["batch"], row["tokens"]) == (batch, tokens):
                beside = [
                    f"{number(row[key])} of {label}"
                    for key, label in (
                        ("to hand", f"the hand-written version ({row['sum']})"),
                        ("to direct", "the direct algorithm"),
                        ("to LSTM", "a flax LSTM of the same size"),
                        ("to scan", "the same weights token by token"),
                    )
                    if row[key] is not None
                ]
                found.append(
                    f"tok2tok({LENGTH}, {VOCAB}) on linear_rnn, batch {batch} × {tokens:,}: "
                    f"{number(row['linear_rnn'])} million tokens a CPU second, "
                    f"{', '.join(beside)}; "
                    f"{number(row['to original'])} times the original's best figure "
                    f"({original.BEST_TOKENS_PER_SECOND:g} tokens a second, {original.LABEL}; "
                    "bar at the batch: 10,000 times)."
                )
    slowest = min(batches.rows, key=lambda row: row["speed"])
    found.append(
        f"Over all programs, batch {plan.batch} × {plan.batch_tokens:,}: from "
        f"{number(slowest['speed'])} ({slowest['program']} on {slowest['target']}) to "
        f"{number(max(row['speed'] for row in batches.rows))} million tokens a CPU second."
    )
    first, last = plan.long_lengths[0], plan.long_lengths[-1]
    dearest = max(long.rows, key=lambda row: row["ratio"])
    found.append(
        f"A token in a sequence of {last:,} costs at most {number(dearest['ratio'])} times one in "
        f"{first:,} ({dearest['program']} on {dearest['target']}; bar: 1.2)."
    )
    worst = max(memory.rows, key=lambda row: row["ratio"])
    found.append(
        f"The peak memory of {last:,} tokens is at most {number(worst['ratio'])} times that of "
        f"{first:,} ({number(worst['peak'])} MiB)."
    )
    ratios = []
    for key, what in (
        ("ratio", "the time"),
        ("cpu ratio", "the CPU time"),
        ("model ratio", "with the checks of inputs the time"),
    ):
        dearest = max(stacks.rows, key=itemgetter(key))
        ratios.append(
            f"{number(dearest[key])} times {what} ({dearest['program']} on {dearest['target']}, "
            f"batch {dearest['batch']})"
        )
    found.append(
        f"Stock cells with compiled weights take at most {', '.join(ratios)} of a stock flax stack "
        "of the same shape (bar: 1.1)."
    )
    return found


def draw(data: Data) -> "Figure":
    """Tokens a second against length, against batch, and by program."""
    comparison = data["tok2tok"]
    # All but the long sequences come in batches of one length.
    each = max(comparison, key=itemgetter("batch"))["tokens"]
    figure, (length_axes, batch_axes, program_axes) = panels(3)
    styles = {
        "direct": ("direct algorithm (ceiling)", GREY, "--"),
        "by hand": ("by hand, same states and ReLUs", GREEN, "-"),
        "linear_rnn": ("compiled, linear_rnn", BLUE, "o-"),
        "gated_linear_rnn": ("compiled, gated_linear_rnn", ORANGE, "s--"),
        "LSTM": ("flax LSTM, same parameters", PURPLE, "-"),
        "scan": ("same weights, scan", BROWN, "-"),
    }
    views = (
        (length_axes, "tokens", [row for row in comparison if row["batch"] == 1]),
        (batch_axes, "batch", [row for row in comparison if row["tokens"] == each]),
    )
    log_axes(
        length_axes, f"tok2tok({LENGTH}, {VOCAB}), one sequence", "tokens", "tokens per second"
    )
    title = f"tok2tok({LENGTH}, {VOCAB}), {each:,} tokens each"
    log_axes(batch_axes, title, "sequences in the batch", "tokens per second")
    for axes, key, unordered in views:
        rows = sorted(unordered, key=lambda row: row[key])
        for name, (label, colour, style) in styles.items():
            points = [(row[key], 1e6 * row[name]) for row in rows if row.get(name) is not None]
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=4)
        axes.axhspan(
            original.SLOWEST_TOKENS_PER_SECOND, original.BEST_TOKENS_PER_SECOND,
            color=RED, alpha=0.25, label="original (2-core CPU)",
        )  # fmt: skip
    for axes in (length_axes, batch_axes):
        legend_below(axes)
    _draw_programs(program_axes, data["batches"], data["long"], each)
    return figure


def _draw_programs(
    axes: "Axes", batches: Sequence[Mapping[str, Any]], long: Sequence[Mapping[str, Any]], each: int
) -> None:
    """Bars: every program on linear_rnn, in a batch and in one long sequence."""
    in_batch = {r["program"]: r["speed"] for r in batches if r["target"] == "linear_rnn"}
    alone = {r["program"]: r["speed"] for r in long if r["target"] == "linear_rnn"}
    names = sorted(in_batch, key=in_batch.__getitem__)
    places = np.arange(len(names))
    axes.barh(
        places + 0.2, [1e6 * in_batch[name] for name in names], 0.38, color=BLUE,
        label=f"in a batch, {each:,} tokens each",
    )  # fmt: skip
    longest = max(int(key) for key in long[0] if key.isdigit())
    shown = [index for index, name in enumerate(names) if name in alone]
    axes.barh(
        places[shown] - 0.2, [1e6 * alone[names[index]] for index in shown], 0.38, color=GREEN,
        label=f"one sequence of {longest:,}",
    )  # fmt: skip
    axes.set_yticks(places, names)
    axes.set_xscale("log")
    axes.set_xlim(left=5)
    axes.axvspan(
        original.SLOWEST_TOKENS_PER_SECOND, original.BEST_TOKENS_PER_SECOND,
        color=RED, alpha=0.25, zorder=0, label="original, tok2tok (2-core CPU)",
    )  # fmt: skip
    axes.set_title("Programs on linear_rnn")
    axes.set_xlabel("tokens per second")
    legend_below(axes)


def main(
    quick: Annotated[bool, typer.Option(help="Small sizes, written to build/benchmarks.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Of each measurement.")] = None,
) -> None:
    """Measure how fast compiled models run."""
    described = machine()
    plan = QUICK if quick else Plan()
    plan = replace(plan, repeats=repeats or plan.repeats)
    comparison = compare_tok2tok(plan)
    programs = compare_programs(plan)
    batches = measure_batches(plan)
    long = measure_long(plan)
    stacks = compare_stacks(plan)
    steps = measure_steps(plan)
    memory = measure_memory(plan)
    Output.of("run", quick, output).write(
        "Running",
        described,
        [comparison, programs, batches, long, memory, steps, stacks],
        findings(plan, comparison, batches, long, memory, stacks),
        draw,
    )


if __name__ == "__main__":
    typer.run(main)
