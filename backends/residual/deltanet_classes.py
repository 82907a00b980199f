"""The classes of transformers with layers of Gated DeltaNet, and where they have our networks.

`OlmoHybridForCausalLM` has our names. Behind our layers it has one of attention, which it asks for,
and which adds 0. `Qwen3NextForCausalLM` has β = σ(b), which ends at 1, so no state is reflected.
"""

import numpy as np

from lsrl.backends.base import ExportRequest
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.reference import Arrays, CheckpointKind, Config, zeros
from lsrl.backends.residual.stream import Stream
from lsrl.errors import PrecisionError
from lsrl.ir.numbers import Array

# Rotary positions turn a quarter of a head's entries, at least two.
_TURNED = 8
# σ(128) is 1, and σ(128 - 2048) is 0, where 2 σ(0) is 1 and 2 σ(-2048) is 0.
_SHARP = 128.0
_BETWEEN = "post_attention_layernorm"
_ATTENDS = """\
Behind them stands one layer of attention whose weights are 0, which adds 0: the class counts there
how many tokens it has read. For whole texts its time grows with the square of their length: give
longer ones in parts, each with the cache of those before."""


def _layer(network: ResidualNetwork, number: int) -> str:
    return f"{network.layers_name}.{number}"


def _config(network: ResidualNetwork, arrays: Arrays) -> Config:
    """What both classes call alike."""
    mixer = f"{_layer(network, 0)}.linear_attn"
    heads, values = (len(arrays[f"{mixer}.{name}"]) for name in ("A_log", "o_norm.weight"))
    return {
        "num_hidden_layers": network.depth + 1,
        "layer_types": [*["linear_attention"] * network.depth, "full_attention"],
        "intermediate_size": len(arrays[f"{_layer(network, 0)}.mlp.gate_proj.weight"]),
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "linear_num_key_heads": heads,
        "linear_num_value_heads": heads,
        "linear_key_head_dim": len(arrays[f"{mixer}.q_proj.weight"]) // heads,
        "linear_value_head_dim": values,
        "linear_conv_kernel_dim": arrays[f"{mixer}.conv1d.weight"].shape[-1],
        "hidden_act": "silu",
        "rms_norm_eps": network.structure.eps,
    }


def _attention(network: ResidualNetwork, arrays: Arrays, rows: int, head: int) -> Arrays:
    """The layer behind the network's; queries may have more rows than keys."""
    last, width = _layer(network, network.depth), network.width
    mlp = [name for name in arrays if name.startswith(f"{_layer(network, 0)}.mlp.")]
    shapes = {
        "self_attn.q_proj": (rows, width),
        **dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (head, width)),
        "self_attn.o_proj": (width, head),
        **dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), (head,)),
        "post_attention_layernorm": (width,),
    }
    return zeros(
        {f"{last}.{name}.weight": shape for name, shape in shapes.items()}
        | {name.replace(_layer(network, 0), last): arrays[name].shape for name in mlp}
    )


# ---------------------------------------------------------------- OLMo Hybrid


def _olmo_config(network: ResidualNetwork, arrays: Arrays, _: int) -> Config:
    return {
        **_config(network, arrays),
        "head_dim": 1,
        "rope_parameters": None,
        "linear_allow_neg_eigval": True,
    }


def _olmo_parameters(network: ResidualNetwork, arrays: Arrays) -> Arrays:
    last = f"{_layer(network, network.depth)}.post_feedforward_layernorm.weight"
    return {
        **arrays,
        **_attention(network, arrays, 1, 1),
        **zeros({last: (network.width,)}),
    }


# ---------------------------------------------------------------- Qwen3-Next


def _qwen_config(network: ResidualNetwork, arrays: Arrays, _: int) -> Config:
    return {
        **_config(network, arrays),
        "head_dim": _TURNED,
        "num_experts": 0,
        "mlp_only_layers": [],
    }


def _qwen_parameters(network: ResidualNetwork, arrays: Arrays) -> Arrays:
    """Norms are stored less 1; a head's queries, keys, values and gates are one matrix."""
    found: Arrays = {}
    for name, array in arrays.items():
        if name.endswith("layernorm.weight") or name == network.final_norm_name:
            found[name] = _less_one(array)
        elif ".linear_attn." not in name:
            found[name] = array
    for number in range(network.depth):
        mixer = f"{_layer(network, number)}.linear_attn."
        own = {
            name.removeprefix(mixer): array
            for name, array in arrays.items()
            if name.startswith(mixer)
        }
        found |= {f"{mixer}{name}": array for name, array in _qwen_mixer(own).items()}
    last = f"{_layer(network, network.depth)}.input_layernorm.weight"
    return {
        **found,
        **_attention(network, arrays, 2 * _TURNED, _TURNED),
        **zeros({last: (network.width,)}),
    }


def _less_one(gain: Array) -> Array:
    """What a norm stores that multiplies by 1 more.

    Raises:
      PrecisionError: float32 has no such number.
    """
    stored = gain - np.float32(1)
    if (stored + np.float32(1) != gain).any():
        raise PrecisionError(
            "export: 'qwen3_next' stores the gains of norms less 1, and float32 has no such number "
            "for one of this network; export it as 'olmo_hybrid'"
        )
    return stored


def _qwen_mixer(own: Arrays) -> Arrays:
    heads = len(own["A_log"])
    width = own["q_proj.weight"].shape[-1]
    rates = own["b_proj.weight"].copy()
    rates[:, 0] += _SHARP

    def by_head(*names: str) -> Array:
        parts = [own[f"{name}_proj.weight"].reshape(heads, -1, width) for name in names]
        return np.concatenate(parts, axis=1).reshape(-1, width)

    return {
        "in_proj_qkvz.weight": by_head("q", "k", "v", "g"),
        "in_proj_ba.weight": np.stack([rates, own["a_proj.weight"]], 1).reshape(-1, width),
        "conv1d.weight": own["conv1d.weight"],
        "A_log": own["A_log"],
        "dt_bias": own["dt_bias"],
        "norm.weight": own["o_norm.weight"],
        "out_proj.weight": own["o_proj.weight"],
    }


def _no_reflections(stream: Stream, request: ExportRequest) -> str | None:
    """Why the class can't be this network, or None if it can.

    A β above 1 is of a sum, which turns the sign of its state at every token, or of a swap.
    """
    if request.alteration is not None or not request.exact:
        return "its β = σ(b) are made anew from a compiled network that is exact"
    for site in stream.sites:
        for place, terms in site.writes.items():
            modes = {site.channels[index].mode for index, _ in terms}
            if modes & {"sum", "swap"}:
                graph, node = stream.graph, stream.signals[place - 1].node
                return (
                    f"{graph.label(node)} ({graph.source(node)}) takes a β of 2, a reflection of "
                    "the state, and the class has β = σ(b), which ends at 1 (Grazzi et al. 2025)"
                )
    return None


CLASSES = (
    CheckpointKind(
        "olmo_hybrid",
        "OlmoHybridForCausalLM",
        "OlmoHybridModel",
        "olmo_hybrid",
        _BETWEEN,
        True,
        _olmo_config,
        _ATTENDS,
        parameters=_olmo_parameters,
    ),
    CheckpointKind(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        "Qwen3NextModel",
        "qwen3_next",
        _BETWEEN,
        True,
        _qwen_config,
        f"{_ATTENDS} There are no experts.",
        "The class reflects no state, so it has no sums and no permutations.",
        parameters=_qwen_parameters,
        refusal=_no_reflections,
    ),
)
