"""What the weights of a Griffin layer say: of its recurrent block, and of its MLP."""

from collections.abc import Mapping

import numpy as np
from scipy.linalg import block_diag

from lsrl.backends.residual.paths import Path
from lsrl.backends.strength import Sources, sigmoid, strength, sums_of
from lsrl.ir.numbers import Array


def recurrent_path(own: Mapping[str, Array], below: Sources) -> Path:
    """Of the recurrent block: its values, its branch that opens them, and its gates."""
    block = "temporal_block."
    gain = 1 + own["temporal_pre_norm.weight"]
    gate, values = (
        below.write @ (own[f"{block}linear_{branch}.weight"] * gain).T for branch in "yx"
    )
    reads = strength(values, own[f"{block}linear_x.bias"], below)
    opens = strength(gate, own[f"{block}linear_y.bias"], below)
    inner = sums_of(values, below)
    paths = [reads, opens]
    hold = np.zeros(values.shape[1])
    for name in ("input", "recurrent"):
        weight = own[f"{block}rg_lru.{name}_gate_weight"]
        gate_strength = strength(
            block_diag(*weight), own[f"{block}rg_lru.{name}_gate_bias"].ravel(), inner
        )
        paths.append((reads[:, :, None] * gate_strength[None]).max(axis=1))
        hold = np.maximum(hold, gate_strength.max(axis=0))
    opened = sigmoid(own[f"{block}rg_lru.recurrent_gate_bias"].ravel())
    decay = np.exp(-8 * opened * np.logaddexp(0, own[f"{block}rg_lru.recurrent_param"]))
    memory = np.maximum(decay, np.minimum(1.0, hold))
    return Path(np.maximum.reduce(paths), memory, own[f"{block}linear_out.weight"])


def mlp_path(own: Mapping[str, Array], below: Sources) -> Path:
    """Of the MLP: its two factors."""
    gain = 1 + own["channel_pre_norm.weight"]
    parts = [
        strength(
            below.write @ (own[f"mlp_block.{name}_proj.weight"] * gain).T,
            own[f"mlp_block.{name}_proj.bias"],
            below,
        )
        for name in ("gate", "up")
    ]
    inner = np.maximum(*parts)
    return Path(inner, np.zeros(inner.shape[1]), own["mlp_block.down_proj.weight"])
