"""Attribution: gradients times the differences of two runs, for nodes and for edges.

Nanda 2023, "Attribution patching"; Syed et al. 2023, "Attribution patching outperforms automated
circuit discovery". Integrated gradients average the gradient over runs whose layer 0 lies between
those of the two runs (Hanna et al. 2024, "Have faith in faithfulness").
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsrl.interpret.basis import Effects
from lsrl.interpret.runs import TwoRuns, finite, grouped, in_parts
from lsrl.interpret.wiring import Prepared, Wiring
from lsrl.ir.numbers import Array

# Points between two runs at which integrated gradients look.
POINTS = 5
# What reads an entry, at a time.
READERS = 8


class _Path(NamedTuple):
    """Runs from the first of two to the second, those of all points one after another.

    Attributes:
      inputs: one array an input, (points * batch, time[, width]).
      shifts: what is added to hooks, (layers, points * batch, time, width).
      weights: of the outputs, (points * batch, time, outputs).
      read: see `Basis`.
      write: likewise.
      difference: of the items' values, (layers, batch, time, items).
    """

    inputs: list[Array]
    shifts: Array
    weights: Array
    read: Array
    write: Array
    difference: Array


def attributed(runs: TwoRuns) -> dict[str, Effects]:
    """By gradients at the first run ("attribution"), and averaged over runs ("integrated")."""
    path = _path(runs)
    passed = runs.wiring.passed_on if runs.basis.units else np.zeros_like(runs.varies)
    with runs.model.device_mode():
        found = runs.wiring.compiled(_node_gradients)(
            runs.wiring.prepared(path.inputs), path.shifts, path.weights, path.write
        )
        hooks, by_item = (np.asarray(array) for array in found)
        direct, onto = _edges(runs, path, hooks, by_item, passed)
    gradients = np.asarray(_by_point(by_item.astype(np.float64), runs.batch))
    # What is passed on reads itself and nothing else.
    onward = np.asarray(_by_point(finite(by_item[1:]), runs.batch))
    itself = np.abs(onward * path.difference[:-1])
    layer, item = np.nonzero(passed[1:] & runs.varies[1:])
    direct[:, 1, layer, item, item] = itself.mean(axis=(2, 3))[:, layer, item]
    results = {}
    for number, name in enumerate(("attribution", "integrated")):
        gradient = gradients[number]
        nodes = np.abs(finite(gradient) * path.difference)
        counted = gradient[path.difference != 0]
        shares = (
            float((counted == 0).mean()) if counted.size else 0.0,
            float((~np.isfinite(counted)).mean()) if counted.size else 0.0,
        )
        results[name] = runs.effects_of(
            nodes.mean(axis=(1, 2)), direct[number, 0], direct[number, 1], onto[number], shares
        )
    return results


def _path(runs: TwoRuns) -> _Path:
    # The first point is the run itself; the others lie in the middles of equal intervals.
    points = np.concatenate([[0.0], (np.arange(POINTS) + 0.5) / POINTS])
    other = np.einsum("liw,lntw->lnti", runs.basis.read, runs.other)
    difference = np.where(runs.varies[:, None, None], other - runs.values, 0.0)
    weights = np.sign(runs.other_outputs.astype(np.float64) - runs.outputs)
    weights /= runs.output_scale
    asked = np.isin(np.arange(weights.shape[-1]), runs.counted)
    weights = np.tile(np.where(asked, weights, 0.0), (len(points), 1, 1))
    shifts = np.zeros((len(runs.hooks), len(weights), *runs.hooks.shape[2:]))
    shifts[0] = np.concatenate([p * (runs.other[0] - runs.hooks[0]) for p in points])
    arrays = (shifts, weights, runs.basis.read, runs.basis.write, difference)
    return _Path(
        [np.concatenate([x] * len(points)) for x in runs.inputs],
        *(array.astype(runs.model.dtype) for array in arrays),
    )


def _edges(
    runs: TwoRuns, path: _Path, hooks: Array, by_item: Array, passed: Array
) -> tuple[Array, Array]:
    """What items do to the outputs by way of each item that reads them.

    Args:
      runs: of the network.
      path: between them.
      hooks: along it, (layers, points * batch, time, width).
      by_item: gradients of the outputs, (layers, points * batch, time, items).
      passed: (layers, items) bool, items that are left out.

    Returns:
      At the first point and over the rest: of items onto those of the same layer and of the next
      one, (2, 2, layers, items, items), and onto the outputs, (2, layers, items).
    """
    layers, items = runs.basis.read.shape[:2]
    direct, onto = np.zeros((2, 2, layers, items, items)), np.zeros((2, layers, items))
    edges_of = runs.wiring.compiled(_edge_gradients)
    for span, places in _readers(runs, passed):
        prepared = runs.wiring.prepared(path.inputs, span)
        arrays = (hooks, by_item, path.read, path.write, path.difference)
        own = [x[span.start : span.stop] for x in arrays]
        for some in in_parts(places, READERS):
            inside = (some - np.array([span.start, 0])).astype(np.int32)
            edges = np.asarray(edges_of(prepared, *own, path.weights, inside))
            for (layer, item), effect in zip(some, edges, strict=True):
                before = effect[:, layer - 1 - span.start]
                if layer == layers:
                    onto[:, -1] = before
                    continue
                direct[:, 1, layer - 1, :, item] = before
                direct[:, 0, layer, :, item] = effect[:, layer - span.start]
    return direct, onto


def _readers(runs: TwoRuns, passed: Array) -> list[tuple[range, Array]]:
    """What reads hooks, and the output as (layers, 0), by what has to run for it.

    Args:
      runs: of the network.
      passed: (layers, items) bool, items that are left out.
    """
    readers = np.argwhere(runs.varies[1:] & ~passed[1:]) + np.array([1, 0])
    readers = np.concatenate([readers, [[len(runs.varies), 0]]])
    return grouped(readers, [runs.wiring.span(layer - 1) for layer in readers[:, 0]])


def _by_point(rows: Array | jax.Array, batch: int) -> jax.Array:
    """(layers, points * batch, …) to those of the first point, and the mean of the rest."""
    parts = rows.reshape(rows.shape[0], -1, batch, *rows.shape[2:])
    return jnp.stack([parts[:, 0], parts[:, 1:].mean(axis=1)])


def _node_gradients(
    wiring: Wiring, prepared: Prepared, shifts: jax.Array, weights: jax.Array, write: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Hooks of a shifted run, and the gradients of its weighted outputs by the items of a basis."""

    def metric(shifts: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs, hooks = wiring.shifted(prepared, shifts)
        return (outputs * weights).sum(), hooks

    gradients, hooks = jax.grad(metric, has_aux=True)(shifts)
    return hooks, jnp.einsum("liw,lntw->lnti", write, gradients)


def _edge_gradients(
    wiring: Wiring,
    prepared: Prepared,
    hooks: jax.Array,
    by_item: jax.Array,
    read: jax.Array,
    write: jax.Array,
    difference: jax.Array,
    weights: jax.Array,
    readers: jax.Array,
) -> jax.Array:
    """What items do to the outputs by way of some readers.

    Args:
      wiring: of the network.
      prepared: of a span.
      hooks: of the span, (layers, points * batch, time, width).
      by_item: gradients of the outputs, (layers, points * batch, time, items).
      read: see `Basis`, of the span.
      write: likewise.
      difference: of the items' values in two runs, (layers, batch, time, items).
      weights: of the outputs, (points * batch, time, outputs).
      readers: (readers, 2), layers of the span and items; (layers, 0) is the output.

    Returns:
      (readers, 2, layers, items), at the first point and averaged over the rest.
    """
    _, pullback = jax.vjp(partial(wiring.remade, prepared), hooks)

    def effect(reader: jax.Array) -> jax.Array:
        layer, item = reader[0], reader[1]
        sensitive = by_item[layer, :, :, item]
        sensitive = jnp.where(jnp.isfinite(sensitive), sensitive, 0)
        row = sensitive[..., None] * read[layer, item][None, None]
        # The output is past the last layer.
        onto = jnp.where(layer == len(hooks), weights, 0)
        (back,) = pullback((onto, jnp.zeros_like(hooks).at[layer].set(row, mode="drop")))
        back = _by_point(jnp.einsum("liw,lntw->lnti", write, back), difference.shape[1])
        back = jnp.where(jnp.isfinite(back), back, 0)
        return jnp.abs(back * difference[None]).mean(axis=(2, 3))

    return jax.vmap(effect)(readers)
