"""Target `mamba`: the Mamba block (Gu and Dao 2023), as transformers' `MambaForCausalLM` has it.

    x, z = in_proj(norm(stream)),  x = SiLU(conv(x)),  Δ = softplus(dt),  dt, B, C of x,
    h = exp(Δ A) h + Δ B x,  y = (C h + D x) SiLU(z),  stream += out_proj(y)

With one state a channel. SiLU(K u) / K is relu(u) for |K u| >= 128. One inner channel is constant,
and makes B = 2^-5 and C = 1. A running sum has Δ = 32, so that Δ B = 1, and A so small that
exp(Δ A) = 1. A hold has A = -1 and Δ = 0, which keeps its state, or 2048, which replaces it by
2^6 x. Everything else skips the scan by D = 1.
"""

from typing import ClassVar

import numpy as np

from lsrl.backends.residual.mamba_network import MambaNetwork
from lsrl.backends.residual.mamba_packer import MambaPacker
from lsrl.backends.residual.network import ResidualNetwork, ResidualWeights
from lsrl.backends.residual.stream import TAPS, Channel, Packer, Site, Stream, Terms
from lsrl.backends.residual.target import OPEN, Lowered, ResidualBackend
from lsrl.ir.numbers import Array

# The logits of Δ: softplus is exactly 32 at 32, 0 at -2048, and 2048 at 2048.
INTEGRATING, SHUT, REPLACING = 32.0, -2048.0, 2048.0
B, REPLACED = 1 / INTEGRATING, REPLACING / INTEGRATING
# exp(-exp(-100) * 32) is 1.
STANDING = -100.0


class Mamba(ResidualBackend):
    """Mamba blocks with a state size of 1 and a convolution of 4 tokens."""

    name: ClassVar[str] = "mamba"
    cell: ClassVar[str] = "the Mamba block: norm, conv(4), selective SSM, SiLU gate, residual"
    packer: ClassVar[type[Packer]] = MambaPacker
    saturates: ClassVar[float] = 128.0

    def network(self, weights: ResidualWeights) -> ResidualNetwork:
        """The blocks in flax."""
        return MambaNetwork(weights)

    def inner_width(self, stream: Stream) -> int:
        """Inner channels are counted apart, in multiples of the stream's."""
        return 0

    def inner_scale(self, lowered: Lowered, channel: Channel) -> float:
        """That of the SiLU, and what a hold replaces by."""
        return lowered.scale(channel.row) * (REPLACED if channel.mode == "hold" else 1.0)

    def blocks(self, lowered: Lowered) -> tuple[dict[str, Array], ...]:
        """All blocks are as wide, and have as many ranks of Δ, as the widest needs."""
        sites = lowered.stream.sites
        most = 1 + max(site.width for site in sites)
        inner = lowered.width * -(-most // lowered.width)
        ranks = max(1, *(len(_flags(site)) for site in sites))
        return tuple(self._block(lowered, site, inner, ranks) for site in sites)

    def _block(self, lowered: Lowered, site: Site, inner: int, ranks: int) -> dict[str, Array]:
        width, flags = lowered.width, _flags(site)
        into, conv = np.zeros((2 * inner, width)), np.zeros((inner, 1, TAPS))
        conv_bias, skip = np.zeros(inner), np.zeros(inner)
        ssm, dt_weight = np.zeros((ranks + 2, inner)), np.zeros((inner, ranks))
        dt_bias, decay = np.full(inner, SHUT), np.zeros((inner, 1))
        out = np.zeros((width, inner))

        # The constant comes last: SiLU(32) = 32, and B and C are read off it.
        constant = inner - 1
        into[constant, 0], conv[constant, 0, TAPS - 1] = OPEN, 1.0
        ssm[ranks, constant], ssm[ranks + 1, constant] = B / OPEN, 1 / OPEN

        decode = np.zeros(site.width)  # from a channel's output to its value
        for index, channel in enumerate(site.channels):
            scale = lowered.scale(channel.row)
            into[index] = scale * lowered.reading(channel.row)
            conv[index, 0] = channel.taps[::-1]
            conv_bias[index] = scale * channel.offset
            decode[index] = 1 / self.inner_scale(lowered, channel)
            if channel.gate is None:
                into[inner + index, 0] = OPEN
                decode[index] /= OPEN
            else:
                gate = lowered.scale(channel.gate)
                into[inner + index] = gate * lowered.reading(channel.gate)
                decode[index] /= gate
            if channel.mode == "pass":
                skip[index] = 1.0
            elif channel.mode == "sum":
                dt_bias[index] = INTEGRATING
                decay[index] = _log_rate(channel.factor)
            else:
                dt_weight[index, flags.index(channel.flag)] = REPLACING - SHUT
        for rank, flag in enumerate(flags):
            for channel, coefficient in flag:
                ssm[rank, site.index[channel]] = float(coefficient) / lowered.scale(channel.row)
        for place, terms in site.writes.items():
            for index, weight in terms:
                out[place, index] = weight * decode[index]
        return {
            "norm.weight": lowered.norm(),
            "mixer.in_proj.weight": into,
            "mixer.conv1d.weight": conv,
            "mixer.conv1d.bias": conv_bias,
            "mixer.x_proj.weight": ssm,
            "mixer.dt_proj.weight": dt_weight,
            "mixer.dt_proj.bias": dt_bias,
            "mixer.A_log": decay,
            "mixer.D": skip,
            "mixer.out_proj.weight": out,
        }


def _flags(site: Site) -> list[Terms]:
    """The distinct flags of a block's holds: one rank of Δ each."""
    return list(dict.fromkeys(c.flag for c in site.channels if c.mode == "hold"))


def _log_rate(factor: float) -> float:
    """A_log such that exp(-exp(A_log) Δ) is the factor."""
    return STANDING if factor == 1 else float(np.log(-np.log(factor) / INTEGRATING))


BACKEND = Mamba()
