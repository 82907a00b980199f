"""Studies beside what they are studies of: what a network holds, and noisy copies of it.

`capture` reads all signals of whole sequences off a network; beside it `Model.run`, and the
evaluator, which computes the same signals. Noisy copies are held against as many of the same
network by hand: dense matrices in a jitted scan, a `vmap` over copies, with jax's own draws.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lsrl
from benchmarks.common import BenchmarkError, Table, measure_together, number, say
from benchmarks.workloads import Array, workloads
from lsrl.backends.units import Stack
from lsrl.interpret import capture
from lsrl.noise.copies import run_copies
from lsrl.noise.perturbations import WeightNoise

# Of the noise, which is of single weights.
SIGMA = 1e-4
# Sequences, tokens and sequences a copy.
CAPTURED, COPIED = (256, 99), (4, 27)

Works = dict[str, Callable[[], Any]]
Layers = list[tuple[jax.Array, jax.Array, jax.Array]]


def stacked(stack: Stack) -> tuple[Any, Any]:
    """A linear network by hand: its matrices, and its step of one token."""
    (table,) = [given[1] for given in stack.maps if given is not None]

    def dense(matrix: Any) -> jax.Array:
        whole = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
        return jnp.asarray(whole, jnp.float32)

    weights = [
        (dense(each.inputs), dense(each.recurrent), dense(each.bias)) for each in stack.layers
    ]
    ends = (
        dense(table),
        dense(stack.input_bias),
        dense(stack.output_kernel),
        dense(stack.output_bias),
    )
    shown = [each.shown for each in stack.layers if each.shown is not None]
    if len(shown) < len(stack.layers):
        raise BenchmarkError("the network has other layers than linear ones")

    def step(parameters: tuple[Any, Layers], states: Any, ids: jax.Array) -> tuple[Any, jax.Array]:
        (inputs, bias, kernel, last), layers = parameters
        x, after = inputs[ids] + bias[None], []
        for (w, u, b), state, (relu, left, right) in zip(layers, states, shown, strict=True):
            held = x @ w + state @ u + b[None]
            after.append(held)
            x = held[:, left] * jnp.where((right >= 0)[None], held[:, right], 1)
            x = jnp.where((relu > 0)[None], jnp.maximum(x, 0), x)
        return after, x @ kernel + last[None]

    return (ends, weights), step


def copies_by_hand(model: lsrl.Model, ids: Array, copies: int) -> Any:
    """Copies of a linear network with noise on every weight, over tokens (batch, time)."""
    stack = model.module.stack()
    if stack is None:
        raise BenchmarkError("the network has no units")
    parameters, step = stacked(stack)
    leaves, structure = jax.tree.flatten(parameters)
    initial = [jnp.asarray(leaf) for leaf in jax.tree.leaves(model.init_state(len(ids)).hidden)]

    def one(key: jax.Array, tokens: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(leaves))
        drawn = [
            leaf + SIGMA * jnp.where(leaf != 0, jax.random.normal(own, leaf.shape), 0)
            for own, leaf in zip(keys, leaves, strict=True)
        ]
        own = partial(step, jax.tree.unflatten(structure, drawn))
        return jax.lax.scan(own, initial, tokens)[1]

    every = jax.jit(jax.vmap(one, in_axes=(0, None)))
    tokens = jnp.asarray(ids.T)
    # Without noise they are the network.
    clean = jax.lax.scan(partial(step, parameters), initial, tokens)[1]
    if not np.array_equal(np.moveaxis(np.asarray(clean), 0, 1), model.run(ids)):
        raise BenchmarkError("the network by hand gives other outputs")
    return lambda: np.asarray(every(jax.random.split(jax.random.key(0), copies), tokens))


def compare_studies(copies: int, captured: tuple[int, int], repeats: int) -> Table:
    """Studies of tok2tok on linear_rnn.

    Args:
      copies: noisy ones.
      captured: sequences and tokens of what is captured.
      repeats: of each measurement.
    """
    workload = workloads()["tok2tok"]
    rows: list[dict[str, Any]] = []
    model = lsrl.compile(workload.program(captured[1]), "linear_rnn")
    (ids,) = workload.inputs(*captured)
    works: Works = {
        "study": partial(capture, model, ids),
        "run": partial(model.run, ids),
        "jax": partial(model.run, ids, runner="jax"),
        "evaluator": partial(capture, model, ids, on="evaluator"),
    }
    held, meant = capture(model, ids), capture(model, ids, on="evaluator")
    # What no channel holds is not a number.
    if any(((held[name] != meant[name]) & ~np.isnan(held[name])).any() for name in meant):
        raise BenchmarkError("capture differs from the evaluator")
    works["copy"] = lambda: {name: values.copy() for name, values in held.items()}
    found = {name: timing.cpu for name, timing in measure_together(works, repeats).items()}
    shape = f"{captured[0]} × {captured[1]}"
    for name, label in (
        ("run", "Model.run, by events"), ("jax", "Model.run, by jax"),
        ("evaluator", "the evaluator"), ("copy", "a copy of what it gives"),
    ):  # fmt: skip
        ratio = found["study"] / found[name]
        rows.append({"study": "capture", "shape": shape, "beside": label, "took": ratio})
    model = lsrl.compile(workload.program(COPIED[1]), "linear_rnn")
    (ids,) = workload.inputs(*COPIED)
    by_hand = copies_by_hand(model, ids, copies)
    for forced in (True, False):
        noise = WeightNoise("noise", forced=forced)
        works = {
            "study": partial(run_copies, model, [ids], noise, [SIGMA] * copies, range(copies)),
            "by hand": by_hand,
        }
        found = {name: timing.cpu for name, timing in measure_together(works, repeats).items()}
        rows.append(
            {"study": f"noisy copies, states {'forced' if forced else 'free'}",
             "shape": f"{copies} × {COPIED[0]} × {COPIED[1]}", "beside": "a dense scan by hand",
             "took": found["study"] / found["by hand"]}
        )  # fmt: skip
    for row in rows:
        say(f"{row['study']}, {row['shape']}: {number(row['took'])} times {row['beside']}")
    return Table(
        "studies",
        "Studies of tok2tok on linear_rnn",
        {"study": "study", "shape": "sequences", "beside": "beside", "took": "times its CPU time"},
        rows,
        "Everything that the network holds is captured, and is what the evaluator says. Copies: "
        "noise on every weight that is not zero, drawn anew; by hand the same matrices, dense.",
    )
