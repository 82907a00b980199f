"""Target `griffin`: the recurrent layers of Griffin, which alone are Hawk (De et al. 2024).

As transformers' `RecurrentGemmaForCausalLM` has them, all layers recurrent:

    x = conv(linear_x(norm(stream))),  r, i = sigmoid(gates of x),  log a = -8 r softplus(param),
    h = a h + sqrt(1 - a^2) i x,  stream += linear_out(h GeLU(linear_y(norm(stream))))
    stream += down_proj(GeLU(gate_proj(norm(stream))) up_proj(norm(stream)))

GeLU(K u) / K is relu(u) for |K u| >= 16. Where a value passes, r = 1 and log a = -256, so that a is
0 and h = x. A hold has its flag for r and i: a is 1 and nothing enters, or h = x. A running sum has
r = 1 and log a between -2^-25 and -2^-26, where a rounds to 1 and a^2, computed as exp(2 log a), to
1 - 2^-24: what enters is scaled by exactly 2^-12.
"""

from typing import ClassVar

import numpy as np

from lsrl.backends.residual.griffin_network import INTEGRATOR, GriffinNetwork
from lsrl.backends.residual.griffin_packer import TEMPORAL, GriffinPacker
from lsrl.backends.residual.network import ResidualNetwork, ResidualWeights
from lsrl.backends.residual.stream import ONE, TAPS, Channel, Packer, Site, Stream
from lsrl.backends.residual.target import OPEN, Lowered, ResidualBackend
from lsrl.ir.numbers import Array

# Logits of r and i, and the parameters of the recurrence.
SATURATED = 128.0
REPLACING = 32.0
# What a running sum scales by what enters.
ENTERING = 2.0**-12


class Griffin(ResidualBackend):
    """Recurrent Griffin layers with one head."""

    name: ClassVar[str] = "griffin"
    cell: ClassVar[str] = (
        "the Hawk blocks of Griffin: norm, conv(4), RG-LRU, GeLU gate; norm, gated MLP; residuals"
    )
    packer: ClassVar[type[Packer]] = GriffinPacker
    saturates: ClassVar[float] = 16.0
    scales_embedding: ClassVar[bool] = True
    stored_gain: ClassVar[float] = 1.0

    def network(self, weights: ResidualWeights) -> ResidualNetwork:
        """The layers in flax."""
        return GriffinNetwork(weights)

    def inner_width(self, stream: Stream) -> int:
        """The RG-LRU is as wide as the stream."""
        return max(site.width for site in stream.sites if site.kind is TEMPORAL)

    def inner_scale(self, lowered: Lowered, channel: Channel) -> float:
        """What an integrator's inputs are multiplied by."""
        return _recurrence(channel.factor)[1] if channel.mode == "sum" else 1.0

    def blocks(self, lowered: Lowered) -> tuple[dict[str, Array], ...]:
        """Every layer's temporal block and MLP."""
        sites = lowered.stream.sites
        inner = max(1, *(site.width for site in sites[1::2]))
        norm = lowered.norm() - self.stored_gain
        return tuple(
            {
                "temporal_pre_norm.weight": norm,
                **_temporal_block(lowered, temporal),
                "channel_pre_norm.weight": norm,
                **_mlp(lowered, mlp, inner),
            }
            for temporal, mlp in zip(sites[::2], sites[1::2], strict=True)
        )


def _temporal_block(lowered: Lowered, site: Site) -> dict[str, Array]:
    width = lowered.width
    branch, gates, out = (np.zeros((width, width)) for _ in range(3))
    conv, parameter = np.zeros((width, 1, TAPS)), np.full(width, REPLACING)
    gate_weight, gate_bias = np.zeros((1, width, width)), np.full((1, width), SATURATED)
    decode = np.zeros(site.width)  # from a channel's output to its value
    for index, channel in enumerate(site.channels):
        branch[index] = lowered.reading(channel.row)
        conv[index, 0] = channel.taps[::-1]
        if channel.gate is None:
            gates[index, 0], decode[index] = OPEN, 1 / OPEN
        else:
            scale = lowered.scale(channel.gate)
            gates[index], decode[index] = scale * lowered.reading(channel.gate), 1 / scale
        if channel.mode == "sum":
            parameter[index], entering = _recurrence(channel.factor)
            decode[index] /= entering
        if channel.mode == "hold":
            gate_bias[0, index] = -SATURATED
            for flag, coefficient in channel.flag:
                gate_weight[0, site.index[flag], index] = 2 * SATURATED * float(coefficient)
    for place, terms in site.writes.items():
        for index, weight in terms:
            out[place, index] = weight * decode[index]
    nothing = np.zeros(width)
    parameters = {
        "linear_y.weight": gates,
        "linear_y.bias": nothing,
        "linear_x.weight": branch,
        "linear_x.bias": nothing,
        "linear_out.weight": out,
        "linear_out.bias": nothing,
        "conv_1d.weight": conv,
        "conv_1d.bias": nothing,
        "rg_lru.recurrent_param": parameter,
        "rg_lru.input_gate_weight": gate_weight,
        "rg_lru.input_gate_bias": gate_bias,
        "rg_lru.recurrent_gate_weight": gate_weight,
        "rg_lru.recurrent_gate_bias": gate_bias,
    }
    return {f"temporal_block.{name}": value for name, value in parameters.items()}


def _recurrence(factor: float) -> tuple[float, float]:
    """The parameter for a = factor, and what it scales by what enters."""
    if factor == 1:
        return INTEGRATOR, ENTERING
    return float(np.log(np.expm1(-np.log(factor) / 8))), float(np.sqrt(1 - factor**2))


def _mlp(lowered: Lowered, site: Site, inner: int) -> dict[str, Array]:
    width = lowered.width
    gate, up, down = np.zeros((inner, width)), np.zeros((inner, width)), np.zeros((width, inner))
    for index, channel in enumerate(site.channels):
        gate[index] = lowered.scale(channel.row) * lowered.reading(channel.row)
        up[index] = lowered.reading(channel.gate or ONE)
    for place, terms in site.writes.items():
        for index, weight in terms:
            down[place, index] = weight / lowered.scale(site.channels[index].row)
    return {
        "mlp_block.gate_proj.weight": gate,
        "mlp_block.gate_proj.bias": np.zeros(inner),
        "mlp_block.up_proj.weight": up,
        "mlp_block.up_proj.bias": np.zeros(inner),
        "mlp_block.down_proj.weight": down,
        "mlp_block.down_proj.bias": np.zeros(width),
    }


BACKEND = Griffin()
