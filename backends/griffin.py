"""Target `griffin`: the recurrent layers of Griffin, which alone are Hawk (De et al. 2024).

As transformers' `RecurrentGemmaForCausalLM` has them, all layers recurrent:

    x = conv(linear_x(norm(stream))),  r, i = sigmoid(gates of x),  log a = -8 r softplus(param),
    h = a h + sqrt(1 - a^2) i x,  stream += linear_out(h GeLU(linear_y(norm(stream))))
    stream += down_proj(GeLU(gate_proj(norm(stream))) up_proj(norm(stream)))

GeLU(K u) / K is relu(u) for |K u| >= 16. Where a value passes, r = 1 and log a = -256, so that a is
0 and h = x. A hold has its flag for r and i: a is 1 and nothing enters, or h = x. A running sum has
r = 1 and log a between -2^-25 and -2^-26, where a rounds to 1 and a^2, computed as exp(2 log a), to
1 - 2^-24: what enters is scaled by exactly 2^-12.

With softer drives r and i are σ(±S). A hold's param is then such that a is exp(-S/2 r): less, and
more of what it held would mix into what replaces it; more, and what it keeps would fade faster.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import numpy as np

from lsrl.backends.base import Exporter, Recorder
from lsrl.backends.residual import checkpoint
from lsrl.backends.residual.golden import Cell, Cells
from lsrl.backends.residual.griffin_network import INTEGRATOR, GriffinNetwork
from lsrl.backends.residual.griffin_packer import TEMPORAL, GriffinPacker
from lsrl.backends.residual.network import SHARPNESS, ResidualNetwork
from lsrl.backends.residual.packer import TAPS, Channel, Packer
from lsrl.backends.residual.reference import (
    NEUTRAL_ATTENTION,
    Arrays,
    CheckpointKind,
    Config,
    zeros,
)
from lsrl.backends.residual.rows import ONE
from lsrl.backends.residual.stream import Site, Stream
from lsrl.backends.residual.tables import Scales
from lsrl.backends.residual.target import Drives, Lowered, ResidualBackend, sigmoid
from lsrl.ir.numbers import Array, power_of_two_above
from lsrl.target import Capabilities

# recurrent_param of what passes: a is 0.
REPLACING = 32.0
# What a running sum scales by what enters.
ENTERING = 2.0**-12
# torch's tanh returns its argument below 2^-11.47.
TANH_IS_IDENTITY = 2.0**-13


class Griffin(ResidualBackend):
    """Recurrent Griffin layers with one head."""

    name: ClassVar[str] = "griffin"
    cell: ClassVar[str] = (
        "the Hawk blocks of Griffin: norm, conv(4), RG-LRU, GeLU gate; norm, gated MLP; residuals"
    )
    packer: ClassVar[type[Packer]] = GriffinPacker
    network: ClassVar[type[ResidualNetwork]] = GriffinNetwork
    capabilities: ClassVar[Capabilities] = GriffinPacker.capabilities()
    # GeLU(u) = u from 16 on, and 0 below -16; sigmoids are 0 and 1 at ±128.
    drives = Drives(rectified=16.0, opened=32.0, switched=128.0)
    scales_embedding: ClassVar[bool] = True
    stored_gain: ClassVar[float] = 1.0

    def inner_width(self, stream: Stream) -> int:
        """The RG-LRU is as wide as the stream."""
        return max(site.width for site in stream.sites if site.kind is TEMPORAL)

    def exporters(self) -> Mapping[str, Exporter]:
        """A checkpoint of transformers."""
        return {"huggingface": partial(checkpoint.write, CHECKPOINTS, self)}

    def recorder(self) -> Recorder:
        """Of a checkpoint's cache."""
        return partial(checkpoint.record, self)

    @staticmethod
    def activation(value: float) -> float:
        """GeLU, by tanh as the reference has it."""
        drive = np.sqrt(2 / np.pi) * value * (1 + 0.044715 * value**2)
        return 0.5 * value * (1 + float(np.tanh(drive)))

    def inner_scale(self, lowered: Lowered, channel: Channel) -> float:
        """What enters the recurrence is multiplied by, where it is taken in."""
        return _recurrence(channel, lowered.drives)[1]

    def scales(self, lowered: Lowered, site: Site, channel: Channel) -> Scales:
        """The temporal block scales no branch, and the MLP no gate."""
        found = super().scales(lowered, site, channel)
        if site.kind is TEMPORAL:
            return found._replace(branch=1.0)
        return found._replace(scanned=found.branch, gate=1.0)

    def cells(self, lowered: Lowered, cells: Cells, layer: int) -> Iterator[Cell]:
        """An RG-LRU holds what passes, too; the MLP keeps nothing."""
        site = lowered.stream.sites[2 * layer]
        conv, scan = (f"layers.{layer}.{name}" for name in GriffinNetwork.cached)
        for index, channel in enumerate(site.channels):
            yield cells.row(conv, index, channel.row, 1.0, TAPS - 1)
            scale = self.inner_scale(lowered, channel)
            yield cells.scan(scan, (index,), site, channel, scale)

    def block_shapes(self, lowered: Lowered) -> dict[str, tuple[int, ...]]:
        """The temporal block, as wide as the stream, and the MLP."""
        return _shapes(lowered.width, self._mlp_width(lowered))

    def least_block(self, width: int) -> dict[str, tuple[int, ...]]:
        """The MLP has a channel at least."""
        return _shapes(width, 1)

    @staticmethod
    def _mlp_width(lowered: Lowered) -> int:
        return max(1, *(site.width for site in lowered.stream.sites[1::2]))

    def blocks(self, lowered: Lowered) -> tuple[dict[str, Array], ...]:
        """Every layer's temporal block and MLP."""
        sites, inner = lowered.stream.sites, self._mlp_width(lowered)
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
    width, drives, opened = lowered.width, lowered.drives, lowered.opened()
    branch, gates, out = (np.zeros((width, width)) for _ in range(3))
    conv, parameter = np.zeros((width, 1, TAPS)), np.full(width, REPLACING)
    gate_weight, gate_bias = np.zeros((1, width, width)), np.full((1, width), drives.switched)
    decode = np.zeros(site.width)  # from a channel's output to its value
    for index, channel in enumerate(site.channels):
        branch[index] = lowered.reading(channel.row)
        conv[index, 0] = channel.taps[::-1]
        if channel.gate is None:
            gates[index, 0], decode[index] = drives.opened, 1 / opened
        else:
            gates[index] = lowered.scale(channel.gate) * lowered.reading(channel.gate)
            decode[index] = 1 / lowered.rectified(channel.gate)
        parameter[index], entering = _recurrence(channel, drives)
        decode[index] /= entering
        if channel.mode == "hold":
            gate_bias[0, index] = -drives.switched
            for flag, coefficient in channel.flag:
                gate_weight[0, site.index[flag], index] = 2 * drives.switched * float(coefficient)
    for place, terms in site.writes.items():
        for index, weight in terms:
            out[place, index] = weight * decode[index]
    parameters = {
        **_unbiased("linear_y", gates),
        **_unbiased("linear_x", branch),
        **_unbiased("linear_out", out),
        **_unbiased("conv_1d", conv),
        "rg_lru.recurrent_param": parameter,
        "rg_lru.input_gate_weight": gate_weight,
        "rg_lru.input_gate_bias": gate_bias,
        "rg_lru.recurrent_gate_weight": gate_weight,
        "rg_lru.recurrent_gate_bias": gate_bias,
    }
    return {f"temporal_block.{name}": value for name, value in parameters.items()}


def _recurrence(channel: Channel, drives: Drives) -> tuple[float, float]:
    """A channel's recurrent_param, and what it scales by what enters."""
    gate = sigmoid(drives.switched)
    if channel.mode == "pass" or (channel.mode == "hold" and gate == 1):
        return REPLACING, gate
    if channel.mode == "hold":
        rate = drives.switched / 2
        left = float(np.exp(-rate * gate))
        # Of what enters and what is left, the shares add up to 1.
        return _parameter(rate), gate * float(np.sqrt(1 - left**2)) / (1 - left)
    if channel.factor == 1:
        return INTEGRATOR - float(np.log(gate)), gate * ENTERING
    entering = float(np.sqrt(1 - channel.factor**2))
    return _parameter(-np.log(channel.factor) / gate), gate * entering


def _parameter(rate: float) -> float:
    """The recurrent_param at which log a = -rate r: softplus of it is rate / 8."""
    return float(np.log(np.expm1(rate / 8)))


def _mlp(lowered: Lowered, site: Site, inner: int) -> dict[str, Array]:
    width = lowered.width
    gate, up, down = np.zeros((inner, width)), np.zeros((inner, width)), np.zeros((width, inner))
    for index, channel in enumerate(site.channels):
        gate[index] = lowered.scale(channel.row) * lowered.reading(channel.row)
        up[index] = lowered.reading(channel.gate or ONE)
    for place, terms in site.writes.items():
        for index, weight in terms:
            down[place, index] = weight / lowered.rectified(site.channels[index].row)
    return {
        **_unbiased("mlp_block.gate_proj", gate),
        **_unbiased("mlp_block.up_proj", up),
        **_unbiased("mlp_block.down_proj", down),
    }


def _shapes(width: int, inner: int) -> dict[str, tuple[int, ...]]:
    """Of a layer's parameters, by the names of the reference class."""
    square = width, width
    return {
        "temporal_pre_norm.weight": (width,),
        **_biased("temporal_block.linear_y", *square),
        **_biased("temporal_block.linear_x", *square),
        **_biased("temporal_block.linear_out", *square),
        **_biased("temporal_block.conv_1d", width, 1, TAPS),
        "temporal_block.rg_lru.recurrent_param": (width,),
        "temporal_block.rg_lru.input_gate_weight": (1, *square),
        "temporal_block.rg_lru.input_gate_bias": (1, width),
        "temporal_block.rg_lru.recurrent_gate_weight": (1, *square),
        "temporal_block.rg_lru.recurrent_gate_bias": (1, width),
        "channel_pre_norm.weight": (width,),
        **_biased("mlp_block.gate_proj", inner, width),
        **_biased("mlp_block.up_proj", inner, width),
        **_biased("mlp_block.down_proj", width, inner),
    }


def _biased(name: str, rows: int, *columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, *columns), f"{name}.bias": (rows,)}


def _unbiased(name: str, weight: Array) -> dict[str, Array]:
    return {f"{name}.weight": weight, f"{name}.bias": np.zeros(len(weight))}


def _config(network: ResidualNetwork, arrays: dict[str, Array], symbols: int) -> Config:
    """What the class's configuration says of a network."""
    layer = f"{network.layers_name}.0"
    block = f"{layer}.temporal_block"
    heads = arrays[f"{block}.rg_lru.input_gate_bias"].shape[0]
    # |2 k y - k^2| is at most 3 V^2. Under so high a cap tanh is the identity, and as a power of
    # two it divides and multiplies exactly: logits are the same before and after the cap.
    cap = power_of_two_above(3.0 * symbols**2 * SHARPNESS / TANH_IS_IDENTITY)
    return {
        "lru_width": arrays[f"{block}.rg_lru.recurrent_param"].shape[0],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": 2 * arrays[f"{layer}.mlp_block.gate_proj.weight"].shape[0],
        "num_hidden_layers": network.depth + 1,
        "block_types": [*["recurrent"] * network.depth, "attention"],
        "conv1d_width": arrays[f"{block}.conv_1d.weight"].shape[-1],
        # No mask has to be made within a window this wide.
        "attention_window_size": 1 << 30,
        "hidden_activation": "gelu_pytorch_tanh",
        "logits_soft_cap": cap,
        "rms_norm_eps": network.structure.eps,
    }


def _with_attention(network: ResidualNetwork, arrays: Arrays) -> Arrays:
    """The class's parameters: behind the network's layers, one of attention that adds 0.

    transformers asks an attention layer how many tokens its cache holds, and raises where there is
    none.
    """
    names = network.layers_name
    first, last = f"{names}.0", f"{names}.{network.depth}"
    square = network.width, network.width
    alike = {
        name.replace(first, last): array.shape
        for name, array in arrays.items()
        if name.startswith(f"{first}.") and "temporal_block" not in name
    }
    attention = {f"{last}.temporal_block.{name}_proj.weight": square for name in "qkvo"}
    return {
        **arrays,
        **zeros({**alike, **attention, f"{last}.temporal_block.o_proj.bias": square[:1]}),
    }


CHECKPOINTS = (
    CheckpointKind(
        "recurrent_gemma",
        "RecurrentGemmaForCausalLM",
        "RecurrentGemmaModel",
        "recurrent_gemma",
        "channel_pre_norm",
        False,
        _config,
        NEUTRAL_ATTENTION,
        """\
The class keeps its states in its layers and not in the cache. Of several tokens it
reads the first ones as if nothing stood before them, and where a text of one token is given to
`generate`, it goes on from the states of the call before: fill such a text up to two tokens
(`padding="max_length", max_length=2`), or forget them by
`model._setup_cache(model.config, len(ids), model.device, model.dtype)`. No state follows a beam
other than the first.""",
        _with_attention,
    ),
)
BACKEND = Griffin()
