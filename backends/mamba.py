"""Target `mamba`: the Mamba block (Gu and Dao 2023), as transformers' `MambaForCausalLM` has it.

    x, z = in_proj(norm(stream)),  x = SiLU(conv(x)),  Δ = softplus(dt),  dt, B, C of x,
    h = exp(Δ A) h + Δ B x,  y = (C h + D x) SiLU(z),  stream += out_proj(y)

With one state a channel. SiLU(K u) / K is relu(u) for |K u| >= 128. One inner channel is constant,
and makes B = 2^-5 and C = 1. A running sum has Δ = 32, so that Δ B = 1, and A so small that
exp(Δ A) = 1. A hold has A = -1 and Δ = 0, which keeps its state, or 2048, which replaces it by
2^6 x. Everything else skips the scan by D = 1.

With softer drives Δ is softplus(±S), so exp(-Δ) = σ(∓S): a hold mixes a share σ(-S) of what it held
into what replaces it, and takes in a little at every token; what skips the scan does not skip all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from lsrl.backends.base import Exporter, Recorder
from lsrl.backends.residual import checkpoint
from lsrl.backends.residual.golden import Cell, Cells
from lsrl.backends.residual.mamba_network import MambaNetwork
from lsrl.backends.residual.mamba_packer import MambaPacker
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.packer import TAPS, Channel, Packer, Terms
from lsrl.backends.residual.reference import CheckpointKind, Config
from lsrl.backends.residual.rows import ONE
from lsrl.backends.residual.stream import Site, Stream
from lsrl.backends.residual.target import Drives, Lowered, ResidualBackend, in_float32, sigmoid
from lsrl.ir.numbers import Array
from lsrl.target import Capabilities

# exp(-exp(-100) * 32) is 1.
STANDING = -100.0
# exp(-32) is nothing beside 1.
FORGETTING = 32.0
# Products of scaled values may be as large; some are added up.
LARGEST_PRODUCT = 2.0**120
# A Δ that changes no float32, and 1 over which is a float32.
NOTHING = 2.0**-100


@dataclass(frozen=True)
class Steps:
    """What Δ is, by the drives: softplus is exactly 32 at 32, 0 at -2048, and 2048 at 2048.

    Attributes:
      integrating: of running sums, so B is 1 over it.
      replacing: of a hold that takes a value in.
      shut: of a hold that keeps its own, and of what does not scan.
      taken: the share that a value has in a hold that takes it in; the last one has the rest.
    """

    integrating: float
    replacing: float
    shut: float
    taken: float

    @staticmethod
    def of(drives: Drives) -> "Steps":
        """Softplus of the drives."""
        return Steps(
            in_float32(np.logaddexp(0.0, drives.opened)),
            in_float32(np.logaddexp(0.0, drives.switched)),
            in_float32(np.logaddexp(0.0, -drives.switched)),
            sigmoid(drives.switched),
        )


class Mamba(ResidualBackend):
    """Mamba blocks with a state size of 1 and a convolution of 4 tokens."""

    name: ClassVar[str] = "mamba"
    cell: ClassVar[str] = "the Mamba block: norm, conv(4), selective SSM, SiLU gate, residual"
    packer: ClassVar[type[Packer]] = MambaPacker
    network: ClassVar[type[ResidualNetwork]] = MambaNetwork
    capabilities: ClassVar[Capabilities] = MambaPacker.capabilities()
    # SiLU(u) = u from 128 on, and 0 below -128; it is open, SiLU(u) = u, from 32 on.
    drives = Drives(rectified=128.0, opened=32.0, switched=2048.0)

    def exporters(self) -> Mapping[str, Exporter]:
        """A checkpoint of transformers."""
        return {"huggingface": partial(checkpoint.write, CHECKPOINTS, self)}

    def recorder(self) -> Recorder:
        """Of a checkpoint's cache."""
        return partial(checkpoint.record, self)

    @staticmethod
    def activation(value: float) -> float:
        """SiLU."""
        return value * sigmoid(value)

    def inner_width(self, stream: Stream) -> int:
        """Inner channels are counted apart, in multiples of the stream's."""
        return 0

    def inner_scale(self, lowered: Lowered, channel: Channel) -> float:
        """That of the SiLU, and what a hold replaces by."""
        found = lowered.rectified(channel.row)
        if channel.mode == "pass" and _overflows(lowered, channel):
            return 1.0
        if channel.mode == "hold":
            steps = Steps.of(lowered.drives)
            found *= steps.replacing / steps.integrating / steps.taken
        return found

    def cells(self, lowered: Lowered, cells: Cells, layer: int) -> Iterator[Cell]:
        """The convolution keeps one token more than it needs; what passes skips the scan."""
        site = lowered.stream.sites[layer]
        conv, scan = (f"layers.{layer}.{name}" for name in self.network.cached)
        further = [0] * (1 + len(self.network.cached["recurrent_states.0"].axes))
        for index, value in self.constants(lowered).items():
            yield cells.row(conv, index, ONE, value, TAPS)
        for index, channel in enumerate(site.channels):
            yield cells.row(conv, index, channel.row, lowered.scale(channel.row), TAPS)
            entry = self.entry(lowered, site, index)
            if channel.mode != "pass" and entry is not None:
                yield cells.scan(scan, (entry[0], *further), site, channel, 1 / entry[1])

    def constants(self, lowered: Lowered) -> dict[int, float]:
        """The channels that a convolution is given a constant in, and which."""
        return {self.block_shapes(lowered)["mixer.D"][0] - 1: lowered.drives.opened}

    def block_shapes(self, lowered: Lowered) -> dict[str, tuple[int, ...]]:
        """All blocks are as wide, and have as many ranks of Δ, as the widest needs."""
        sites, width = lowered.stream.sites, lowered.width
        inner = width * -(-(1 + max(site.width for site in sites)) // width)
        return _shapes(width, inner, max(1, *(len(_flags(site)) for site in sites)))

    def least_block(self, width: int) -> dict[str, tuple[int, ...]]:
        """Inner channels are a multiple of the stream's."""
        return _shapes(width, width, 1)

    def blocks(self, lowered: Lowered) -> tuple[dict[str, Array], ...]:
        """One a site."""
        shapes = self.block_shapes(lowered)
        return tuple(self._block(lowered, site, shapes) for site in lowered.stream.sites)

    def _block(
        self, lowered: Lowered, site: Site, shapes: dict[str, tuple[int, ...]]
    ) -> dict[str, Array]:
        found = {name: np.zeros(shape) for name, shape in shapes.items()}
        norm, into, conv, conv_bias, ssm, dt_weight, dt_bias, decay, skip, out = found.values()
        (inner, ranks), flags, drives = dt_weight.shape, _flags(site), lowered.drives
        steps, opened = Steps.of(drives), lowered.opened()
        norm[:], dt_bias[:] = lowered.norm(), -drives.switched

        # The constant comes last: SiLU(32) = 32, and B and C are read off it.
        ((constant, value),) = self.constants(lowered).items()
        into[constant, 0], conv[constant, 0, TAPS - 1] = value, 1.0
        ssm[ranks, constant], ssm[ranks + 1, constant] = 1 / steps.integrating / opened, 1 / opened

        decode = np.zeros(site.width)  # from a channel's output to its value
        for index, channel in enumerate(site.channels):
            scale = lowered.scale(channel.row)
            into[index] = scale * lowered.reading(channel.row)
            conv[index, 0] = channel.taps[::-1]
            conv_bias[index] = scale * channel.offset
            decode[index] = 1 / self.inner_scale(lowered, channel)
            if channel.gate is None:
                into[inner + index, 0] = drives.opened
                decode[index] /= opened
            else:
                into[inner + index] = lowered.scale(channel.gate) * lowered.reading(channel.gate)
                decode[index] /= lowered.rectified(channel.gate)
            if channel.mode == "pass":
                # What the scan takes in it gives back at once.
                skip[index] = 1.0 - steps.shut / steps.integrating
                if _overflows(lowered, channel):
                    skip[index] /= lowered.rectified(channel.row)
                decay[index] = np.log(FORGETTING / steps.shut) if steps.shut > NOTHING else 0.0
            elif channel.mode == "sum":
                dt_bias[index] = drives.opened
                # So that exp(-exp(A_log) Δ) is the factor.
                rate = -np.log(channel.factor) / steps.integrating
                decay[index] = np.log(rate) if rate else STANDING
            else:
                dt_weight[index, flags.index(channel.flag)] = 2 * drives.switched
        for rank, flag in enumerate(flags):
            for channel, coefficient in flag:
                ssm[rank, site.index[channel]] = float(coefficient) / lowered.rectified(channel.row)
        for place, terms in site.writes.items():
            for index, weight in terms:
                out[place, index] = weight * decode[index]
        return found


def _overflows(lowered: Lowered, channel: Channel) -> bool:
    """Whether a product of two values on fine grids, both scaled, has no number in float32.

    Then what skips the scan gets rid of its scale there.
    """
    if channel.gate is None:
        return False
    size = 1.0
    for row in (channel.row, channel.gate):
        hull = lowered.stream.hull(row)
        size *= lowered.rectified(row) * max(abs(hull.low), abs(hull.high))
    return size > LARGEST_PRODUCT


def _shapes(width: int, inner: int, ranks: int) -> dict[str, tuple[int, ...]]:
    """Of a block's parameters, by the names of the reference class."""
    return {
        "norm.weight": (width,),
        "mixer.in_proj.weight": (2 * inner, width),
        "mixer.conv1d.weight": (inner, 1, TAPS),
        "mixer.conv1d.bias": (inner,),
        "mixer.x_proj.weight": (ranks + 2, inner),
        "mixer.dt_proj.weight": (inner, ranks),
        "mixer.dt_proj.bias": (inner,),
        "mixer.A_log": (inner, 1),
        "mixer.D": (inner,),
        "mixer.out_proj.weight": (width, inner),
    }


def _flags(site: Site) -> list[Terms]:
    """The distinct flags of a block's holds: one rank of Δ each."""
    return list(dict.fromkeys(c.flag for c in site.channels if c.mode == "hold"))


def _config(network: ResidualNetwork, arrays: dict[str, Array], _: int) -> Config:
    """What the class's configuration says of a network."""
    mixer = f"{network.layers_name}.0.mixer"
    inner, state = arrays[f"{mixer}.A_log"].shape
    return {
        "expand": inner // network.width,
        "state_size": state,
        "conv_kernel": arrays[f"{mixer}.conv1d.weight"].shape[-1],
        "time_step_rank": arrays[f"{mixer}.dt_proj.weight"].shape[1],
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "layer_norm_epsilon": network.structure.eps,
        "residual_in_fp32": True,
    }


CHECKPOINTS = (
    CheckpointKind(
        "mamba",
        "MambaForCausalLM",
        "MambaModel",
        "mamba",
        "",
        False,
        _config,
    ),
)
BACKEND = Mamba()
