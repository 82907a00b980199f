"""Look at signals and intervene on them: on the network's channels, or on the program itself.

Both sides take the same calls. On the network an intervention sets the channels that hold a signal,
in the layer that makes it, before anything reads them, and the memory with them, so that a state
goes on from the new value. In the reference evaluator it replaces the signal. With a model compiled
`inspectable=True` the two give equal outputs wherever the certificate says exact and no promise is
broken; `lsrl.interpret.causal` tests it.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from lsrl import arguments
from lsrl.circuit import Channel, Circuit, Signal
from lsrl.errors import InputError
from lsrl.interpret.reading import derived_values, reading_of
from lsrl.interpret.wiring import Patch, Wiring
from lsrl.ir.evaluate import Intervention, evaluate
from lsrl.ir.numbers import Array
from lsrl.ir.types import check_inputs
from lsrl.model import Model

Side = Literal["network", "evaluator"]
Tokens = int | Sequence[int] | Array | None
Signals = str | Sequence[str]
Ablation = Literal["zero", "mean", "resample"]
# Signals that a message lists.
_TOLD = 8


class Outcome(NamedTuple):
    """What an intervention did.

    Attributes:
      outputs: (batch, time, outputs), or without the batch axis as the inputs were.
      signals: as from `capture`, after the intervention.

    Example:
      print(there.signals["follower"].shape)
    """

    outputs: Array
    signals: dict[str, Array]


def capture(
    model: Model, *inputs: ArrayLike, signals: Signals | None = None, on: Side = "network"
) -> dict[str, Array]:
    """The value of every named signal at every token.

    Args:
      model: any compiled model.
      *inputs: as for `Model.run`.
      signals: names of those that are wanted; all of them if None.
      on: "network" decodes the channels, "evaluator" evaluates the program.

    Returns:
      By signal name float64 (batch, time, width), without the batch axis if the inputs have none;
      affine maps that have a name and no channels are worked out of those that have some. In the
      network an element that no channel holds, since nothing reads it, is NaN.

    Raises:
      InputError: an input lies outside its declared type, or there is no such signal.

    Example:
      base, source = [[3, 1, 2, 3, 0, 3]], [[1, 3, 0, 1, 2, 3]]
      print(interpret.capture(model, base)["follower"].shape)
    """
    arrays, batched = _inputs("capture", model, inputs)
    arguments.choice("on", on, get_args(Side))
    wanted = None
    if signals is not None:
        wanted = {each: _seen(model, each) for each in arguments.names("capture: signals", signals)}
    found = _without(model, arrays, on, None if wanted is None else tuple(wanted.values()))
    if on == "network":
        for name, values in found.items():
            held = model.circuit.held[name]
            if not held.all():
                values[..., ~held] = np.nan
    if wanted is not None:
        found = {each: found[name] for each, name in wanted.items()}
    return found if batched else {name: values[0] for name, values in found.items()}


def activations(model: Model, *inputs: ArrayLike) -> list[Array]:
    """What the hook of every layer holds at every token, as `capture` reads signals from it.

    Args:
      model: any compiled model.
      *inputs: as for `Model.run`.

    Returns:
      Per layer, that of the input map first, (batch, time, units), without the batch axis if the
      inputs have none; `model.circuit.units` has the numbers of units.

    Raises:
      InputError: an input lies outside its declared type.

    Example:
      print(len(interpret.activations(model, base)) == len(circuit.units))
    """
    arrays, batched = check_inputs(model.program.inputs, inputs, model.program.max_length)
    wiring = wiring_of(model)
    _, hooks = wiring.run(arrays, [], hooks=True)
    units = zip(hooks, wiring.circuit.units, strict=True)
    return [np.asarray(hook)[..., :count][() if batched else 0] for hook, count in units]


def patch(
    model: Model,
    inputs: Sequence[ArrayLike],
    values: Mapping[str, ArrayLike],
    tokens: Tokens = None,
    *,
    on: Side = "network",
) -> Outcome:
    """Set signals to given values.

    Args:
      model: compiled with inspectable=True.
      inputs: one array an input, as for `Model.run`.
      values: by signal name (width,), (time, width) or (batch, time, width); a number for one.
      tokens: where: all of them (None), one, several, or a mask (time,) or (batch, time).
      on: the network or the reference evaluator.

    Raises:
      InputError: an unknown signal (says the nearest), one that has no channels of its own, a token
        past the end, a mask or values of the wrong shape.

    Source: Vig et al. (2020), "Investigating Gender Bias in Language Models Using Causal Mediation
    Analysis".

    Example:
      print(interpret.patch(model, [base], {"follower": [0, 0, 0, 1]}, 2).outputs.shape)
    """
    arrays, batched = _inputs("patch", model, inputs)
    shape = arrays[0].shape[:2]
    if not isinstance(values, Mapping):
        raise InputError(f"patch: expected values by signal name, {{name: value}}, got {values!r}")
    new = {}
    for name, value in values.items():
        signal = _owned(model, name)
        given = arguments.array(f"patch: {name}", value)
        if given.dtype.kind not in "iufb":
            raise InputError(
                f"patch: {name} takes real numbers, got {arguments.dtype_text(given)}; pass floats"
            )
        try:
            new[signal.name] = np.broadcast_to(given.astype(float), (*shape, signal.width))
        except ValueError as error:
            raise InputError(
                f"patch: {name} takes values of shape ({signal.width},), (time, {signal.width}) or "
                f"(batch, time, {signal.width}), got {np.shape(value)}"
            ) from error
    return _finished(_run(model, arrays, new, on, _mask(tokens, shape)), batched)


def ablate(
    model: Model,
    inputs: Sequence[ArrayLike],
    signals: Signals,
    how: Ablation = "zero",
    tokens: Tokens = None,
    *,
    seed: int = 0,
    on: Side = "network",
) -> Outcome:
    """Take the information out of signals.

    Args:
      model: compiled with inspectable=True.
      inputs: one array an input, as for `Model.run`; "resample" needs a batch.
      signals: names.
      how: set them to 0, to their mean over batch and time, or to another sequence's values.
      tokens: as for `patch`.
      seed: of the other sequences.
      on: the network or the reference evaluator.

    Raises:
      InputError: as for `patch`, or another way of ablating.

    Source: of "mean", Wang et al. (2022), "Interpretability in the Wild"; of "resample", Chan et
    al. (2022), "Causal Scrubbing".

    Example:
      print(interpret.ablate(model, [base], "follower", "zero").outputs[0, :, 0])
    """
    arrays, batched = _inputs("ablate", model, inputs)
    shape = arrays[0].shape[:2]
    arguments.choice("ablate: how", how, get_args(Ablation))
    arguments.count("ablate: seed", seed, 0)
    wanted = [_owned(model, name).name for name in arguments.names("ablate: signals", signals)]
    known = _without(model, arrays, on, tuple(wanted))
    new = {}
    for name in wanted:
        value = known[name]
        if how == "zero":
            value = np.zeros_like(value)
        elif how == "mean":
            value = np.broadcast_to(value.mean(axis=(0, 1)), value.shape)
        else:
            if shape[0] < 2:
                raise InputError(
                    "ablate: 'resample' takes values of other sequences; give a batch of two"
                )
            value = value[other_sequences(shape[0], seed)]
        new[name] = value
    return _finished(_run(model, arrays, new, on, _mask(tokens, shape)), batched)


def interchange(
    model: Model,
    base: Sequence[ArrayLike],
    source: Sequence[ArrayLike],
    signals: Signals,
    tokens: Tokens = None,
    *,
    on: Side = "network",
) -> Outcome:
    """Run `base` with signals as they are on `source` (interchange intervention).

    Source: Geiger et al. (2021), "Causal Abstractions of Neural Networks", section 3.

    Args:
      model: compiled with inspectable=True.
      base: one array an input, as for `Model.run`.
      source: the same, of the same shapes.
      signals: names.
      tokens: as for `patch`.
      on: the network or the reference evaluator.

    Raises:
      InputError: as for `patch`; base and source differ in shape.

    Example:
      there = interpret.interchange(model, [base], [source], "follower", [2, 3])
      program = interpret.interchange(model, [base], [source], "follower", [2, 3], on="evaluator")
      print((there.outputs == program.outputs).all())
    """
    arrays, batched = _inputs("interchange", model, base)
    others, _ = _inputs("interchange", model, source)
    if [a.shape for a in arrays] != [a.shape for a in others]:
        raise InputError(
            f"interchange: base and source have shapes {[a.shape for a in arrays]} and "
            f"{[a.shape for a in others]}; give sequences of one length"
        )
    wanted = [_owned(model, name).name for name in arguments.names("interchange: signals", signals)]
    new = _without(model, others, on, tuple(wanted))
    return _finished(_run(model, arrays, new, on, _mask(tokens, arrays[0].shape[:2])), batched)


# ---------------------------------------------------------------- arguments


def _signal(model: Model, name: str) -> Signal:
    """A signal of the circuit; one that only the program has is none of it."""
    circuit = model.circuit
    if not isinstance(name, str) or name in circuit.by_name:
        return circuit.signal(name)
    folded = any(name in node.names for node in model.program.graph.nodes)
    if folded and all(name != derived.name for derived in circuit.derived):
        held = list(circuit.by_name)
        raise InputError(
            f"{name!r} is a signal of {model.program.name}, and in no channel of this network: it "
            "is folded into what reads it; program.trace(...) has its values; what the network "
            f"holds are {', '.join(held[:_TOLD])}{', …' if len(held) > _TOLD else ''}"
        )
    return circuit.signal(name)


def _owned(model: Model, name: str) -> Signal:
    signal = _signal(model, name)
    if not signal.owned:
        if not model.options.inspectable:
            raise InputError(
                f"{name!r} can't be set alone in this network, since its layer may use it before "
                "its channels hold it; compile with inspectable=True"
            )
        raise InputError(
            f"{name!r} is not made here but worked out where it is read: {signal.expression}; name "
            "what it is made of instead"
        )
    return signal


def _seen(model: Model, name: str) -> str:
    """The name by which a signal is captured."""
    circuit = model.circuit
    if name in {derived.name for derived in circuit.derived}:
        return name
    signal = _signal(model, name)
    if signal.kind == "constant":
        raise InputError(
            f"{name!r} is {signal.expression} at every token, which no channel holds; name a "
            "signal that depends on the inputs"
        )
    return signal.name


def _inputs(what: str, model: object, inputs: Sequence[ArrayLike]) -> tuple[list[Array], bool]:
    """Inputs as `check_inputs` has them, of what has to be a model."""
    program = arguments.instance(what, model, Model, "lsrl.compile").program
    return check_inputs(program.inputs, inputs, program.max_length)


def _mask(tokens: Tokens, shape: tuple[int, ...]) -> Array:
    """(batch, time) bool."""
    time = shape[1]
    if tokens is None:
        return np.ones(shape, bool)
    array = arguments.array("tokens", tokens)
    if array.dtype == bool:
        if array.shape not in (shape, shape[1:]):
            raise InputError(
                f"tokens: a mask has the shape ({time},) or {tuple(shape)}, got {array.shape}"
            )
        return np.broadcast_to(array, shape)
    if array.ndim > 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise InputError(f"tokens: expected None, an int, several, or a bool mask, got {tokens!r}")
    array = array.astype(int)
    places = np.atleast_1d(array)
    if ((places < -time) | (places >= time)).any():
        raise InputError(
            f"tokens: {places.tolist()} reaches past the end; the sequences have {time} tokens"
        )
    mask = np.zeros(shape, bool)
    mask[:, places] = True
    return mask


def other_sequences(count: int, seed: int) -> Array:
    """(count,) int: for each of two or more sequences another one, and each of them once."""
    order = np.random.default_rng(seed).permutation(count)
    found = np.empty(count, int)
    found[order] = np.roll(order, 1)
    return found


# ---------------------------------------------------------------- running


def _run(
    model: Model, inputs: Sequence[Array], new: Mapping[str, Array], on: Side, mask: Array
) -> Outcome:
    if arguments.choice("on", on, get_args(Side)) == "evaluator":
        return _evaluated(model, inputs, new, mask)
    wiring = wiring_of(model)
    outputs, hooks = wiring.run(inputs, patches_of(wiring, new, mask), hooks=True)
    return Outcome(outputs, decoded(wiring.circuit, hooks))


def _without(
    model: Model, inputs: Sequence[Array], on: Side, names: tuple[str, ...] | None
) -> dict[str, Array]:
    """Signals without an intervention: those of some names, or all."""
    if arguments.choice("on", on, get_args(Side)) == "network":
        return wiring_of(model).signals(inputs, names)
    nodes, circuit = circuit_nodes(model), model.circuit
    derived = [one for one in circuit.derived if names is None or one.name in names]
    read = {source for one in derived for _, source, _, _ in one.terms}
    some = {n: node for n, node in nodes.items() if names is None or n in names or n in read}
    values = evaluate(model.schedule.graph, inputs, wanted=list(some.values()))
    found = {name: values[node].astype(np.float64) for name, node in some.items()}
    found |= derived_values(derived, found, inputs[0].shape[:2])
    return found if names is None else {name: found[name] for name in names}


@lru_cache(maxsize=32)
def wiring_of(model: Model) -> Wiring:
    """The wiring of a model; kept, since it holds what was compiled."""
    return Wiring(model, model.circuit)


class Block(NamedTuple):
    """Sequences in which one signal is set.

    Attributes:
      name: the signal's.
      values: (sequences, time, width), what to.
      tokens: (sequences, time) bool, when.
    """

    name: str
    values: Array
    tokens: Array


def patches_of(wiring: Wiring, new: Mapping[str, Array], mask: Array) -> list[Patch]:
    """What to set so that signals have new values (batch, time, width) where the mask is true."""
    return [
        patch
        for layer in sorted({c.layer for name in new for c in wiring.circuit.channels_of(name)})
        for patch in _slot(
            wiring,
            [
                _Placed(0, layer, channel, values[..., channel.element], mask)
                for name, values in new.items()
                for channel in wiring.circuit.channels_of(name)
                if channel.layer == layer
            ],
            mask.shape,
        )
    ]


def joint_patches(wiring: Wiring, blocks: Sequence[Block]) -> list[Patch]:
    """What to set so that in the sequences of each block, one after another, its signal is set.

    The shapes follow from the circuit and the number of sequences, whatever the signals are, so one
    compilation serves all signals.

    Args:
      wiring: of the network.
      blocks: at least one.
    """
    circuit = wiring.circuit
    owned = [signal.name for signal in circuit.signals if signal.owned]
    channels = {name: circuit.channels_of(name) for name in owned}
    layers = {name: sorted({c.layer for c in channels[name]}) for name in owned}
    directed = tuple(c for name in owned for c in channels[name] if circuit.shares(c))
    slots: list[list[_Placed]] = [[] for _ in range(max(len(found) for found in layers.values()))]
    start = 0
    for name, values, tokens in blocks:
        for channel in channels[name]:
            slot = slots[layers[name].index(channel.layer)]
            to = values[..., channel.element]
            slot.append(_Placed(start, channel.layer, channel, to, tokens))
        start += len(tokens)
    shape = (start, blocks[0].tokens.shape[1])
    plain = any(not circuit.shares(c) for name in owned for c in channels[name])
    return [patch for slot in slots for patch in _slot(wiring, slot, shape, directed, plain)]


class _Placed(NamedTuple):
    """A channel that is set in some sequences of a batch: from `start` on, as many as `values`."""

    start: int
    layer: int
    channel: Channel
    values: Array  # (sequences, time)
    tokens: Array  # (sequences, time) bool

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + len(self.values))


def _slot(
    wiring: Wiring,
    placed: Sequence[_Placed],
    shape: tuple[int, int],
    directed: Sequence[Channel] | None = None,
    plain: bool | None = None,
) -> Iterator[Patch]:
    """One patch for the channels that have units of their own, one for those that share units.

    Of the placed channels, of one layer a sequence, there is a first patch if any has units of its
    own, or if it is to be `plain`. The second can speak of the `directed` channels that share
    units, by default those placed; without any there is none.
    """
    own = [each for each in placed if not wiring.circuit.shares(each.channel)]
    shared = [each for each in placed if wiring.circuit.shares(each.channel)]
    directed = [each.channel for each in shared] if directed is None else directed
    if own or plain:
        units = np.zeros((shape[0], wiring.width), bool)
        to = np.zeros((*shape, wiring.width))
        for each in own:
            entries = list(each.channel.units)
            units[each.rows, entries] = True
            to[each.rows, :, entries] = encode(each.channel, each.values)
        yield Patch(*_when(own, shape), units, to)
    if directed:
        count = len(directed)
        decode, directions = np.zeros((wiring.width, count)), np.zeros((count, wiring.width))
        for place, channel in enumerate(directed):
            decode[channel.units, place] = channel.weights
            directions[place, channel.units] = channel.directions
        units, to = np.zeros((shape[0], count), bool), np.zeros((*shape, count))
        for each in shared:
            place = directed.index(each.channel)
            units[each.rows, place] = True
            to[each.rows, :, place] = each.values - each.channel.offset
        yield Patch(*_when(shared, shape), units, to, (decode, directions))


def _when(placed: Sequence[_Placed], shape: tuple[int, int]) -> tuple[Array, Array]:
    """The layer of each sequence, -1 for none, and its tokens."""
    layers, tokens = np.full(shape[0], -1), np.zeros(shape, bool)
    for each in placed:
        layers[each.rows], tokens[each.rows] = each.layer, each.tokens
    return layers, tokens


def encode(channel: Channel, values: Array) -> Array:
    """Units (..., units) whose weighted sum and offset are the values.

    A group of units holds them along its directions. Where a channel has units of both signs, those
    of one sign hold what lies above the offset and those of the other what lies below, as a pair of
    ReLUs does.
    """
    rest, weights = values - channel.offset, np.array(channel.weights)
    if channel.directions:
        return np.asarray(rest[..., None] * np.array(channel.directions))
    found = np.zeros((*values.shape, len(weights)))
    up, down = np.flatnonzero(weights > 0), np.flatnonzero(weights < 0)
    if len(up) and len(down):
        found[..., up[0]] = np.maximum(rest, 0) / weights[up[0]]
        found[..., down[0]] = np.minimum(rest, 0) / weights[down[0]]
    else:
        found[..., 0] = rest / weights[0]
    return found


def decoded(circuit: Circuit, hooks: Sequence[Array]) -> dict[str, Array]:
    """Signals (batch, time, width), float64, from the hooks of the layers that make them."""
    reading = reading_of(circuit)
    return reading.decoded(reading.picked(hooks))


def _evaluated(
    model: Model, inputs: Sequence[Array], new: Mapping[str, Array], mask: Array
) -> Outcome:
    graph, circuit = model.schedule.graph, model.circuit
    nodes = circuit_nodes(model)
    where = mask[..., None]
    interventions = {
        nodes[name]: Intervention(np.broadcast_to(where, values.shape), values)
        for name, values in new.items()
    }
    wanted = [graph.output, *nodes.values()]
    values = evaluate(graph, inputs, wanted=wanted, interventions=interventions)
    found = {name: values[node].astype(np.float64) for name, node in nodes.items()}
    shape = inputs[0].shape[:2]
    found |= derived_values(circuit.derived, found, shape)
    return Outcome(values[graph.output].astype(np.float64), found)


def circuit_nodes(model: Model) -> dict[str, int]:
    """The node of the compiled graph behind each signal of a circuit; sums of several have none."""
    names = {signal.name for signal in model.circuit.signals}
    graph = model.schedule.graph
    found = ((graph.label(node), node) for node in graph.live())
    return {name: node for name, node in found if name in names}


def _finished(outcome: Outcome, batched: bool) -> Outcome:
    if batched:
        return outcome
    return Outcome(outcome.outputs[0], {name: x[0] for name, x in outcome.signals.items()})
