"""The circuit of a network to train, with a group of units for each channel of the compiled one."""

from dataclasses import replace

from lsrl.circuit import Channel, Circuit
from lsrl.model import Model

# The greatest size of a unit's code: so small that tanh(c) is nearly c, since an intervention sets
# h and c of an LSTM to the same number.
AMPLITUDE = 0.5


def grouped(model: Model, size: int) -> Circuit:
    """The circuit of a network with a group of units for each channel of another.

    Args:
      model: as compiled.
      size: units a channel. Each holds the code of the channel's value, of sizes up to AMPLITUDE: 0
        where a state starts, and in the middle of the range of what is no state.
    """
    circuit, module = model.circuit, model.module
    stream, entries = module.legend().stream is not None, module.untrained_entries
    counts = [0] * len(circuit.units)
    remembered = [0] * len(circuit.units)
    channels = []
    for channel, units in zip(circuit.channels, _places(circuit, size, stream), strict=True):
        if not units:
            continue
        counts[channel.layer] = max(counts[channel.layer], units[-1] + 1)
        memory: tuple[int, ...] = ()
        if channel.memory and stream:
            # The first state of an inner channel for each unit.
            first = remembered[channel.layer]
            memory = tuple(entries * entry for entry in range(first, first + size))
            remembered[channel.layer] += size
        elif channel.memory:
            memory = units
        middle, slope = _code(circuit, channel)
        weights = (slope / size,) * size
        channels.append(
            replace(
                channel,
                units=units,
                weights=weights,
                offset=middle,
                memory=memory,
                memory_weights=weights if memory else (),
                directions=(1 / slope,) * size,
            )
        )
    if stream:
        counts = [max(counts)] * len(counts)
    return replace(circuit, units=tuple(counts), channels=tuple(channels))


def _places(circuit: Circuit, size: int, stream: bool) -> list[tuple[int, ...]]:
    """By channel the units of its group.

    In a residual stream a group stays where it is from layer to layer, and what no layer ever uses
    has none.
    """
    if stream:
        nothing = {s.name for s in circuit.signals if s.kind == "constant" and not any(s.high)}
        used = sorted({c.units[0] for c in circuit.channels if c.signal not in nothing})
        starts = {unit: size * number for number, unit in enumerate(used)}
        first = [starts.get(channel.units[0]) for channel in circuit.channels]
    else:
        counts = [0] * len(circuit.units)
        first = []
        for channel in circuit.channels:
            first.append(counts[channel.layer])
            counts[channel.layer] += size
    return [() if start is None else tuple(range(start, start + size)) for start in first]


def _code(circuit: Circuit, channel: Channel) -> tuple[float, float]:
    """The value whose code is 0, and what a value changes by with the code."""
    signal = circuit.by_name[channel.signal]
    low, high = signal.low[channel.element], signal.high[channel.element]
    # A cell starts with zeros, so these can't mean another value than the first of a state.
    middle = channel.offset if channel.memory else (low + high) / 2
    middle = 0.0 if signal.kind == "constant" else middle
    return middle, max(high - middle, middle - low) / AMPLITUDE or 1.0
