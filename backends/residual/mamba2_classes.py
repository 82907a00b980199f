"""The classes of transformers with a mixer of Mamba-2, and where they have our networks.

Each has what `Mamba2ForCausalLM` has, by other names, and more: attention, MLPs, norms. There stand
zeros, so that a layer adds what it adds in `Mamba2ForCausalLM`. All but Falcon-H1, which attends in
every layer, count the tokens of a cache in a layer of attention, and raise without one.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from lsrl.backends.base import ExportRequest
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.reference import (
    NEUTRAL_ATTENTION,
    Arrays,
    CheckpointKind,
    Config,
    zeros,
)
from lsrl.backends.residual.stream import Stream

# What Δ is clamped to from below, in whole sequences alone: 0 is out of the class's domain, and
# this is 0 in float32.
LEAST_STEP = 1e-60
# Tokens of which the classes add up at once what they write to a state. Their plain code takes the
# square of it; kernels of matrix units take no fewer than these.
CHUNK = 16
Shapes = dict[str, tuple[int, ...]]


class Sizes(NamedTuple):
    """What a network's arrays say.

    Attributes:
      width: d, channels of the stream.
      depth: its layers.
      inner: inner channels, each a head of its own.
      states: of a channel.
      taps: of the convolution.
      eps: of all norms.
    """

    width: int
    depth: int
    inner: int
    states: int
    taps: int
    eps: float


def sizes_of(network: ResidualNetwork, arrays: Arrays) -> Sizes:
    """The sizes of a network."""
    mixer = f"{network.layers_name}.0.mixer"
    inner, mixed, taps = len(arrays[f"{mixer}.D"]), *arrays[f"{mixer}.conv1d.weight"].shape[::2]
    states = (mixed - inner) // 2
    return Sizes(network.width, network.depth, inner, states, taps, network.structure.eps)


class Class(NamedTuple):
    """A class that has a network's mixers by other names.

    Attributes:
      norm: a layer's first norm.
      mixer: its mixer.
      embedding: behind "model.".
      final_norm: likewise.
      layer: what a layer of the network has more, by the sizes.
      last: what is behind the network's layers, by the sizes; nothing if it is empty.
      config: what the configuration says.
    """

    norm: str
    mixer: str
    embedding: str
    final_norm: str
    layer: Callable[[Sizes], Shapes]
    last: Callable[[Sizes], Shapes]
    config: Callable[[Sizes], Config]


def _parameters(layout: Class, network: ResidualNetwork, arrays: Arrays) -> Arrays:
    """The class's parameters: the network's by its names, and zeros."""
    parts = {"norm": layout.norm, "mixer": layout.mixer}
    outside = {
        network.embedding_name: f"model.{layout.embedding}.weight",
        network.final_norm_name: f"model.{layout.final_norm}.weight",
    }
    found: Arrays = {}
    for name, array in arrays.items():
        if name.startswith(f"{network.layers_name}."):
            number, part, rest = name.removeprefix(f"{network.layers_name}.").split(".", 2)
            found[f"model.layers.{number}.{parts[part]}.{rest}"] = array
        else:
            found[outside.get(name, name)] = array
    sizes = sizes_of(network, arrays)
    for layer in range(sizes.depth):
        found |= _zeros(layer, layout.layer(sizes))
    return found | _zeros(sizes.depth, layout.last(sizes))


def _zeros(layer: int, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    return zeros({f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()})


def _further(layout: Class, network: ResidualNetwork, arrays: Arrays, _: int) -> Config:
    sizes = sizes_of(network, arrays)
    more = 1 if layout.last(sizes) else 0
    return {"num_hidden_layers": sizes.depth + more, **layout.config(sizes)}


def _nothing(_: Sizes) -> Shapes:
    return {}


def _attention(width: int, head: int) -> Shapes:
    """One head of attention."""
    return {**dict.fromkeys(("q_proj", "k_proj", "v_proj"), (head, width)), "o_proj": (width, head)}


def _within(part: str, shapes: Shapes) -> Shapes:
    return {f"{part}.{name}": shape for name, shape in shapes.items()}


def _mlp(sizes: Sizes) -> Shapes:
    """A norm and a gated MLP of one unit."""
    row = 1, sizes.width
    return {
        "pre_ff_layernorm": (sizes.width,),
        "feed_forward.gate_proj": row,
        "feed_forward.up_proj": row,
        "feed_forward.down_proj": row[::-1],
    }


# ---------------------------------------------------------------- the classes


def _mamba(sizes: Sizes) -> Config:
    """The mixer, as Granite, Falcon-H1 and Bamba call it."""
    return {
        "mamba_n_heads": sizes.inner,
        "mamba_d_head": 1,
        "mamba_d_state": sizes.states,
        "mamba_n_groups": 1,
        "mamba_d_conv": sizes.taps,
        "mamba_expand": sizes.inner // sizes.width,
        "mamba_chunk_size": CHUNK,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "hidden_act": "silu",
        "rms_norm_eps": sizes.eps,
    }


_ONE_HEAD: Config = {"num_attention_heads": 1, "num_key_value_heads": 1}


def _granite_mlp(sizes: Sizes) -> Shapes:
    return {
        "post_attention_layernorm": (sizes.width,),
        "shared_mlp.input_linear": (2, sizes.width),
        "shared_mlp.output_linear": (sizes.width, 1),
    }


def _granite(sizes: Sizes) -> Config:
    return {
        **_mamba(sizes),
        **_ONE_HEAD,
        "head_dim": 1,
        "layer_types": [*["linear_attention"] * sizes.depth, "full_attention"],
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 1,
        "position_embedding_type": None,
    }


GRANITE = Class(
    "input_layernorm",
    "mamba",
    "embed_tokens",
    "norm",
    _granite_mlp,
    lambda sizes: {
        "input_layernorm": (sizes.width,),
        **_within("self_attn", _attention(sizes.width, 1)),
        **_granite_mlp(sizes),
    },
    _granite,
)


def _falcon(sizes: Sizes) -> Config:
    return {
        **_mamba(sizes),
        **_ONE_HEAD,
        "head_dim": 2,
        "mamba_d_ssm": sizes.inner,
        "mamba_rms_norm": True,
        "mamba_norm_before_gate": False,
        "intermediate_size": 1,
    }


FALCON = Class(
    "input_layernorm",
    "mamba",
    "embed_tokens",
    "final_layernorm",
    lambda sizes: {**_within("self_attn", _attention(sizes.width, 2)), **_mlp(sizes)},
    _nothing,
    _falcon,
)


def _nemotron(sizes: Sizes) -> Config:
    return {
        **_ONE_HEAD,
        "head_dim": 1,
        "layers_block_type": [*["linear_attention"] * sizes.depth, "full_attention"],
        "ssm_state_size": sizes.states,
        "mamba_num_heads": sizes.inner,
        "mamba_head_dim": 1,
        "mamba_hidden_act": "silu",
        "n_groups": 1,
        "conv_kernel": sizes.taps,
        "expand": sizes.inner // sizes.width,
        "chunk_size": CHUNK,
        "use_conv_bias": True,
        "use_bias": False,
        "time_step_min": LEAST_STEP,
        "layer_norm_epsilon": sizes.eps,
    }


NEMOTRON = Class(
    "norm",
    "mixer",
    "embeddings",
    "norm_f",
    _nothing,
    lambda sizes: {"norm": (sizes.width,), **_within("mixer", _attention(sizes.width, 1))},
    _nemotron,
)


def _bamba(sizes: Sizes) -> Config:
    return {
        **_mamba(sizes),
        **_ONE_HEAD,
        "head_dim": 4,
        "attn_layer_indices": [sizes.depth],
        "intermediate_size": 1,
    }


BAMBA = Class(
    "input_layernorm",
    "mamba",
    "embed_tokens",
    "final_layernorm",
    _mlp,
    lambda sizes: {
        "input_layernorm": (sizes.width,),
        **_within("self_attn", _attention(sizes.width, 4)),
        **_mlp(sizes),
    },
    _bamba,
)


def _zamba(sizes: Sizes) -> Config:
    return {
        **_ONE_HEAD,
        "layers_block_type": [*["linear_attention"] * (sizes.depth - 1), "hybrid"],
        "n_mamba_heads": sizes.inner,
        "mamba_d_state": sizes.states,
        "mamba_ngroups": 1,
        "mamba_d_conv": sizes.taps,
        "mamba_expand": sizes.inner // sizes.width,
        "chunk_size": CHUNK,
        "add_bias_linear": False,
        "intermediate_size": 1,
        "adapter_rank": 1,
        "time_step_min": LEAST_STEP,
        "rms_norm_eps": sizes.eps,
    }


def _zamba_attention(sizes: Sizes) -> Shapes:
    """What stands ahead of the last layer's mixer; it reads the embedding beside the stream."""
    width, both = sizes.width, 2 * sizes.width
    shared = {
        **_within("self_attn", {**_attention(both, both), "o_proj": (width, both)}),
        "input_layernorm": (both,),
        "pre_ff_layernorm": (width,),
        "feed_forward.gate_up_proj": (2, width),
        "feed_forward.down_proj": (width, 1),
        "feed_forward.gate_up_proj_adapter_list.0.0": (1, width),
        "feed_forward.gate_up_proj_adapter_list.0.1": (2, 1),
    }
    return {"linear": (width, width), **_within("shared_transformer", shared)}


ZAMBA = Class(
    "input_layernorm", "mamba", "embed_tokens", "final_layernorm", _nothing, _nothing, _zamba
)


def _zamba_parameters(network: ResidualNetwork, arrays: Arrays) -> Arrays:
    """Attention stands beside the last layer of the network, whose names are a level deeper."""
    sizes = sizes_of(network, arrays)
    last = f"model.layers.{sizes.depth - 1}."
    found = {
        name.replace(last, f"{last}mamba_decoder."): array
        for name, array in _parameters(ZAMBA, network, arrays).items()
    }
    return found | _zeros(sizes.depth - 1, _zamba_attention(sizes))


# ---------------------------------------------------------------- what an export offers

_CLAMPS = """\
In whole texts the class lets no Δ be less than `time_step_min`, of which this checkpoint has 1e-60;
with a larger one what is held would fade."""


def _no_ties(_: Stream, request: ExportRequest) -> str | None:
    """NemotronHForCausalLM looks at no such setting."""
    return "the class can't tie its head to its embedding" if request.tie_word_embeddings else None


def _kind(
    name: str, model: str, model_type: str, layout: Class, more: str, lacks: str = ""
) -> CheckpointKind:
    return CheckpointKind(
        name,
        f"{model}ForCausalLM",
        f"{model}Model",
        model_type,
        "",
        True,
        partial(_further, layout),
        more,
        lacks,
        partial(_parameters, layout),
    )


CLASSES = (
    _kind("granite", "GraniteMoeHybrid", "granitemoehybrid", GRANITE,
          "The class has an MLP beside every mixer, whose weights are 0, and no experts here. "
          f"{NEUTRAL_ATTENTION}"),
    _kind("falcon_h1", "FalconH1", "falcon_h1", FALCON, """\
The class has attention and an MLP beside every mixer, whose weights are 0. For whole texts the time
of the former grows with the square of their length."""),
    _kind("nemotron_h", "NemotronH", "nemotron_h", NEMOTRON, NEUTRAL_ATTENTION, _CLAMPS)._replace(
        refusal=_no_ties
    ),
    _kind("bamba", "Bamba", "bamba", BAMBA, f"""\
The class has an MLP beside every mixer, whose weights are 0. {NEUTRAL_ATTENTION}"""),
    _kind("zamba2", "Zamba2", "zamba2", ZAMBA, """\
The class has attention and an MLP ahead of some of its mixers, here of the last, whose weights are
0: it counts there how many tokens it has read, and has no cache without. For whole texts its time
grows with the square of their length.""", _CLAMPS)._replace(parameters=_zamba_parameters),
)  # fmt: skip
