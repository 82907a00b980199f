"""Target `mamba2`: the Mamba-2 block (Dao and Gu 2024), transformers' `Mamba2ForCausalLM`.

    z, x, B, C, dt = in_proj(norm(stream)),  x, B, C = SiLU(conv(x, B, C)),
    Δ = softplus(dt + bias),  h = exp(Δ A) h + Δ B x,
    y = norm((C h + D x) SiLU(z)),  stream += out_proj(y)

With one head a channel and one state a head, so that each inner channel has a Δ, an A and a D of
its own. Values are made as in `lsrl.backends.mamba`, with two differences. Steps Δ are read off the
stream, without convolution, so a flag is made a block earlier. And the values of a block pass a
norm: some inner channels are constant and so large that the norm divides by one power of two,
whatever the others hold. Their share is at most 2^-13, so B C is 2^-72, and where values are scaled
by much, D takes that away again. For products of real numbers on fine grids no D is small enough;
their gates are tiny instead, where SiLU halves them, whatever their sign.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np

from lsrl.backends.base import Exporter
from lsrl.backends.mamba import FORGETTING, NOTHING, STANDING, Mamba, Steps
from lsrl.backends.residual import checkpoint, mamba2_classes
from lsrl.backends.residual.mamba2_network import Mamba2Network, norm_size
from lsrl.backends.residual.mamba_packer import Mamba2Packer
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.packer import TAPS, Channel, Packer
from lsrl.backends.residual.reference import CheckpointKind, Config
from lsrl.backends.residual.rows import ONE, AtomRow
from lsrl.backends.residual.self_test import norm_digits
from lsrl.backends.residual.stream import Site
from lsrl.backends.residual.tables import InnerNorm, Scales
from lsrl.backends.residual.target import Drives, Lowered
from lsrl.ir.numbers import Array, power_of_two_above
from lsrl.target import Capabilities

# B C times the drives of a SiLU and of a switch: 2^-72 where these are as hard as compiled.
COUPLING = 2.0**-54
# What values are scaled to at most, of what the norm has room for, and what is multiplied by a tiny
# gate; and such gates.
ROOM, WIDE_ROOM, TINY = 2.0**40, 2.0**46, 2.0**-34
# Of the largest number of sums that float32 holds exactly, where bounds tell none.
UNBOUNDED = 2.0**24
# What the constant's gate reads; SiLU(32) = 32 however soft the others are.
OPEN = 32.0


class Mamba2(Mamba):
    """Mamba-2 blocks with one head a channel, a state size of 1 and a convolution of 4 tokens."""

    name: ClassVar[str] = "mamba2"
    cell: ClassVar[str] = (
        "the Mamba-2 block: norm, conv(4), SSD with one head a channel, gated norm, residual"
    )
    packer: ClassVar[type[Packer]] = Mamba2Packer
    network: ClassVar[type[ResidualNetwork]] = Mamba2Network
    capabilities: ClassVar[Capabilities] = Mamba2Packer.capabilities()

    def exporters(self) -> Mapping[str, Exporter]:
        """A checkpoint of transformers."""
        return {"huggingface": partial(checkpoint.write, CHECKPOINTS, self)}

    def inner_scale(self, lowered: Lowered, channel: Channel) -> float:
        """That of the SiLU, and what the scan or the skip past it multiplies by."""
        if channel.mode == "pass":
            return lowered.rectified(channel.row) * _skip(lowered, channel)
        return _held(lowered, channel) * _coupled(lowered.drives)

    def scales(self, lowered: Lowered, site: Site, channel: Channel) -> Scales:
        """Tiny gates have a scale of their own."""
        found = super().scales(lowered, site, channel)
        return found._replace(gate=_gate(lowered, channel).multiplies)

    def entry(self, lowered: Lowered, site: Site, index: int) -> tuple[int, float] | None:
        """The channel's own; C comes behind it."""
        return index, 1 / _held(lowered, site.channels[index])

    def constants(self, lowered: Lowered) -> dict[int, float]:
        """Those of the norm, and behind them B and C, of which SiLU leaves a half."""
        inner, twice = self._inner(lowered), 2 * _coupled(lowered.drives)
        size, digits = norm_size(inner), norm_digits(inner)
        norm = {inner - len(digits) + n: size * 2.0**d / OPEN for n, d in enumerate(digits)}
        return norm | {inner: twice, inner + 1: twice}

    def inner_norms(self, lowered: Lowered, site: Site) -> tuple[InnerNorm, ...]:
        """The gated norm, over all channels behind their gates."""
        inner = self._inner(lowered)
        scales = [self.scales(lowered, site, channel) for channel in site.channels]
        factors = tuple(scale.scanned * scale.gate for scale in scales)
        channels, size = tuple(range(site.width)), norm_size(inner)
        return (InnerNorm("the gated norm", channels, factors, inner, size, gated=True),)

    def block_shapes(self, lowered: Lowered) -> dict[str, tuple[int, ...]]:
        """All blocks are as wide as the widest needs."""
        return _shapes(lowered.width, self._inner(lowered))

    def least_block(self, width: int) -> dict[str, tuple[int, ...]]:
        """There are as many inner channels as the stream has, at least."""
        return _shapes(width, width)

    @staticmethod
    def _inner(lowered: Lowered) -> int:
        """The least multiple of the stream's width with room for the norm's constants."""
        most = max(site.width for site in lowered.stream.sites)
        inner = lowered.width
        while inner < most + len(norm_digits(inner)):
            inner += lowered.width
        return inner

    def _block(
        self, lowered: Lowered, site: Site, shapes: dict[str, tuple[int, ...]]
    ) -> dict[str, Array]:
        found = {name: np.zeros(shape) for name, shape in shapes.items()}
        norm, into, conv, conv_bias, dt_bias, decay, skip, gain, out = found.values()
        inner, drives = len(skip), lowered.drives
        steps = Steps.of(drives)
        norm[:], dt_bias[:], skip[:] = lowered.norm(), -drives.switched, 1.0
        gates, values, switches = into[:inner], into[inner : 2 * inner], into[2 * inner + 2 :]

        # The norm's constants come last, and behind them B and C, which are constant too.
        for place, value in self.constants(lowered).items():
            into[inner + place, 0], conv[place, 0, TAPS - 1] = value, 1.0
        values_end = inner - len(norm_digits(inner))
        gates[values_end:, 0] = OPEN
        gain[:values_end] = norm_size(inner)

        decode = np.zeros(site.width)  # from a channel's output to its value
        for index, channel in enumerate(site.channels):
            scale = lowered.scale(channel.row)
            values[index] = scale * lowered.reading(channel.row)
            conv[index, 0] = channel.taps[::-1]
            conv_bias[index] = scale * channel.offset
            gate = _gate(lowered, channel)
            gates[index] = gate.scale * lowered.reading(channel.gate or ONE)
            decode[index] = 1 / self.inner_scale(lowered, channel) / gate.multiplies
            if channel.mode == "pass":
                # What the scan takes in it gives back at once.
                skip[index] = _skip(lowered, channel) - steps.shut * _coupled(drives) ** 2
                decay[index] = np.log(FORGETTING / steps.shut) if steps.shut > NOTHING else 0.0
                continue
            skip[index] = 0.0
            if channel.mode == "sum":
                dt_bias[index] = drives.opened
                # So that exp(-exp(A_log) Δ) is the factor.
                rate = -np.log(channel.factor) / steps.integrating
                decay[index] = np.log(rate) if rate else STANDING
            elif channel.switch is not None:
                switches[index] = 2 * drives.switched * lowered.reading(channel.switch)
        for place, terms in site.writes.items():
            for index, weight in terms:
                out[place, index] = weight * decode[index]
        return found


class Gate(NamedTuple):
    """What opens a channel.

    Attributes:
      scale: what the row is multiplied by.
      multiplies: by what times the row a value then is multiplied.
    """

    scale: float
    multiplies: float


def _gate(lowered: Lowered, channel: Channel) -> Gate:
    """The gate of a channel; an open one reads the constant."""
    if channel.gate is None:
        return Gate(lowered.drives.opened, lowered.opened())
    if channel.linear:
        scale = TINY / power_of_two_above(_largest(lowered, channel.gate))
        return Gate(scale, scale / 2)
    return Gate(lowered.scale(channel.gate), lowered.rectified(channel.gate))


def _largest(lowered: Lowered, row: AtomRow) -> float:
    """The greatest size of a row; of what grows without bounds, that of the sums float32 holds."""
    hull = lowered.stream.hull(row)
    size = max(abs(hull.low), abs(hull.high))
    if size < np.inf:
        return size or 1.0
    return UNBOUNDED * (hull.step if 0 < hull.step < np.inf else 1.0)


def _skip(lowered: Lowered, channel: Channel) -> float:
    """D of what passes, so that the norm has room for it."""
    size = sum(map(abs, channel.taps)) * _largest(lowered, channel.row) + abs(channel.offset)
    opened = 1.0 if channel.gate is None else _largest(lowered, channel.gate)
    size *= lowered.scale(channel.row) * opened * _gate(lowered, channel).multiplies
    room = WIDE_ROOM if channel.linear else ROOM
    return min(1.0, room / power_of_two_above(size))


def _held(lowered: Lowered, channel: Channel) -> float:
    """What the state of a scan is multiplied by."""
    steps = Steps.of(lowered.drives)
    step = steps.integrating if channel.mode == "sum" else steps.replacing / steps.taken
    return lowered.rectified(channel.row) * step * _coupled(lowered.drives)


def _coupled(drives: Drives) -> float:
    """B, and C: a power of two."""
    coupling = COUPLING / (drives.rectified * drives.switched)
    return float(2.0 ** np.floor(np.log2(coupling) / 2))


def _shapes(width: int, inner: int) -> dict[str, tuple[int, ...]]:
    """Of a block's parameters, by the names of the reference class."""
    return {
        "norm.weight": (width,),
        "mixer.in_proj.weight": (3 * inner + 2, width),
        "mixer.conv1d.weight": (inner + 2, 1, TAPS),
        "mixer.conv1d.bias": (inner + 2,),
        "mixer.dt_bias": (inner,),
        "mixer.A_log": (inner,),
        "mixer.D": (inner,),
        "mixer.norm.weight": (inner,),
        "mixer.out_proj.weight": (width, inner),
    }


def _config(network: ResidualNetwork, arrays: dict[str, Array], _: int) -> Config:
    """What the class's configuration says of a network."""
    mixer = f"{network.layers_name}.0.mixer"
    inner, mixed = (len(arrays[f"{mixer}.{name}"]) for name in ("D", "conv1d.bias"))
    return {
        "expand": inner // network.width,
        "num_heads": inner,
        "head_dim": 1,
        "n_groups": 1,
        "state_size": (mixed - inner) // 2,
        "conv_kernel": arrays[f"{mixer}.conv1d.weight"].shape[-1],
        "chunk_size": mamba2_classes.CHUNK,
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "layer_norm_epsilon": network.structure.eps,
        "residual_in_fp32": True,
    }


CHECKPOINTS = (
    CheckpointKind("mamba2", "Mamba2ForCausalLM", "Mamba2Model", "mamba2", "", True, _config),
    *mamba2_classes.CLASSES,
)
BACKEND = Mamba2()
