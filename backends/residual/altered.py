"""The head of a language model for a network that the compiler did not make as it is.

Its units may be in another order, of other signs, or in another basis, so that all that is known of
them is what the circuit says. A head asks for two directions of the normed stream: the output's,
which the output kernel is, and the constant's.
"""

import numpy as np

from lsrl.backends.anatomy import ONE
from lsrl.backends.residual.certificate import SIZE
from lsrl.backends.residual.network import SHARPNESS, ResidualNetwork
from lsrl.circuit import Circuit
from lsrl.errors import InputError
from lsrl.ir.numbers import Array, lowest_bit, sum_is_exact
from lsrl.numerics import numerics_of


def constant_of(network: ResidualNetwork, circuit: Circuit) -> tuple[int, float]:
    """The unit of the constant channel, and by what the normed stream is multiplied there to be 1.

    Raises:
      InputError: there is no such unit, as in a network that was trained.
    """
    last, root = len(circuit.units) - 1, float(np.sqrt(network.width))
    found = [c for c in circuit.channels if c.layer == last and c.signal == ONE]
    if len(found) != 1 or [abs(weight) for weight in found[0].weights] != [1 / (SIZE * root)]:
        raise InputError(
            "export: a head needs the constant channel of a compiled network, and this one has "
            "none; write it without a head: export(..., headless=True)"
        )
    (unit,), (weight,) = found[0].units, found[0].weights
    return unit, float(np.sign(weight)) / (root * _gain(network)[unit])


def rounds(network: ResidualNetwork, circuit: Circuit, head: Array, exact: bool) -> bool:
    """Whether float32 adds up the logits of a head so that an answer may be lost.

    Args:
      network: an altered one.
      circuit: its ground truth, which says how large what units hold is, and on which grid.
      head: (rows, d), as float32 has it.
      exact: whether every sum has to keep every bit; else the lead of the answer must be far larger
        than what is rounded.
    """
    size, grid = np.zeros(network.width), np.full(network.width, np.inf)
    signals, last = circuit.by_name, len(circuit.units) - 1
    for channel in (c for c in circuit.channels if c.layer == last):
        signal, element = signals[channel.signal], channel.element
        units = list(channel.units)
        turned = np.array(channel.directions or [1 / weight for weight in channel.weights])
        size[units] += np.abs(turned) * max(abs(signal.low[element]), abs(signal.high[element]))
        grid[units] = np.minimum(grid[units], lowest_bit(turned) * signal.step[element])
    gain, bits = _gain(network) / SIZE, numerics_of("float32").bits
    used = (head != 0).any(axis=0)
    total = (np.abs(head[:, used]) @ (size * np.abs(gain))[used]).max()
    if not exact:
        return not 4 * len(gain) * total <= SHARPNESS * 2.0**bits
    bit = lowest_bit(head).min(axis=0)[used] * (grid * lowest_bit(gain))[used]
    return not sum_is_exact(total, bit.min(), bits)


def _gain(network: ResidualNetwork) -> Array:
    """Of the last norm, as float32 adds it up."""
    stored = network.parameter_arrays()[network.final_norm_name]
    gain: Array = (np.float32(network.gain_offset) + stored).astype(np.float64)
    return gain
