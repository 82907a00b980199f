"""What the variant `trained` learns from: runs of a program with its signals interchanged."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from lsrl.circuit import Circuit
from lsrl.errors import InputError
from lsrl.interpret.causal import Sampler, broken_rows, draw_rows
from lsrl.interpret.interventions import circuit_nodes
from lsrl.ir.evaluate import Intervention, evaluate
from lsrl.ir.numbers import Array
from lsrl.model import Model

# Sequences that the inputs of interchanges are drawn from, for each one that is interchanged.
POOL = 512
# The share of examples without an interchange.
PLAIN = 0.2
# How often as many interchanges as are wanted are tried, since some break a promise.
TRIES = 4


class Examples(NamedTuple):
    """Runs of a program, most of them with one signal interchanged, as a network should do them.

    Attributes:
      inputs: features, one array an input, (rows, time, ...).
      hooks: (rows, time, layers, width), what every unit should hold; interchanged ones hold what
        they are set to.
      outputs: (rows, time, outputs), the program's.
      units: (rows, layers, width) bool, which units are set.
      tokens: (rows, time) bool, when.
    """

    inputs: tuple[Array, ...]
    hooks: Array
    outputs: Array
    units: Array
    tokens: Array

    def taken(self, rows: Array) -> "Examples":
        """Some of the rows."""
        return jax.tree.map(lambda array: array[rows], self)


def examples(
    model: Model, circuit: Circuit, sampler: Sampler, rows: int, seed: int, *, plain: float = PLAIN
) -> Examples:
    """Run a model's program with its signals interchanged as causal tests do it.

    The circuit is that of the network to train, whose channels say what units hold. A share `plain`
    of the rows has no interchange; the rest is of all signals alike.

    Returns:
      Examples that break no promise, in random order.

    Raises:
      InputError: no interchange of any signal keeps the program's promises.
    """
    rng = np.random.default_rng(seed)
    pool = [np.asarray(array) for array in sampler(POOL, int(rng.integers(2**31)))]
    graph, nodes = model.schedule.graph, circuit_nodes(model)
    known = evaluate(graph, pool, wanted=graph.live())
    names = [signal.name for signal in circuit.signals if signal.owned]
    found = []
    count = round(rows * plain)
    if count or not names:
        base = rng.integers(0, POOL, count or rows)
        none = np.zeros((len(base), pool[0].shape[1]), bool)
        found.append(_rows(model, circuit, pool, base, {}, none, None))
        names = names if count < rows else []
    for name in names:
        wanted = -(-(rows - count) // len(names))
        node = nodes[name]
        drawn = draw_rows(rng, known[node], TRIES * wanted)
        new = known[node][drawn.source].astype(np.float64)
        mask = np.broadcast_to(drawn.tokens[..., None], new.shape)
        given = {node: Intervention(mask, new)}
        inputs = [array[drawn.base] for array in pool]
        values = evaluate(graph, inputs, wanted=graph.live(), interventions=given)
        legal = np.flatnonzero(~broken_rows(graph, values))[:wanted]
        if len(legal):
            some = {number: array[legal] for number, array in values.items()}
            base, tokens = drawn.base[legal], drawn.tokens[legal]
            found.append(_rows(model, circuit, pool, base, some, tokens, name))
    if not found:
        raise InputError(
            f"trained: no interchange of a signal of {model.program.name} keeps its promises"
        )
    whole: Examples = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    order = rng.permutation(len(whole.outputs))
    return whole.taken(np.resize(order, rows))


def _rows(
    model: Model,
    circuit: Circuit,
    pool: Sequence[Array],
    base: Array,
    values: Mapping[int, Array],
    tokens: Array,
    name: str | None,
) -> Examples:
    graph = model.schedule.graph
    inputs = [array[base] for array in pool]
    values = values or evaluate(graph, inputs, wanted=graph.live())
    units = np.zeros((len(base), len(circuit.units), max(circuit.units)), bool)
    for channel in () if name is None else circuit.channels_of(name):
        units[:, channel.layer, list(channel.units)] = True
    return Examples(
        tuple(np.asarray(feature) for feature in model.features(inputs)),
        hooks_of(model, circuit, values),
        values[graph.output].astype(np.float32),
        units,
        tokens,
    )


def hooks_of(model: Model, circuit: Circuit, values: Mapping[int, Array]) -> Array:
    """What every unit should hold, (rows, time, layers, width), of the values of all nodes."""
    nodes = circuit_nodes(model)
    shape = next(iter(values.values())).shape[:2]
    hooks = np.zeros((*shape, len(circuit.units), max(circuit.units)), np.float32)
    for channel in circuit.channels:
        if channel.signal in nodes:
            value = values[nodes[channel.signal]][..., channel.element].astype(np.float64)
        elif channel.directions:
            value = np.asarray(circuit.by_name[channel.signal].low[channel.element])
        else:
            continue
        codes = (value - channel.offset)[..., None] * np.array(channel.directions)
        hooks[:, :, channel.layer, list(channel.units)] += codes
    return hooks
