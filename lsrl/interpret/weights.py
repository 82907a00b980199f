"""Edges as the parameter arrays tell them: the baseline that a benchmark must not fall to.

An entry of a kernel counts in proportion to what it moves: |weight| times the spread of what it
multiplies, over the greatest term of the same sum, the bias and constants included (so that weights
of gates and of values, whose scales differ by many powers of two, compare). Gates of a unit count
as the strongest of them. A layer of a residual network is a path of such sums, and counts as the
product along it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lsrl.backends.cells.network import CellNetwork
from lsrl.backends.linear.network import LinearNetwork
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.errors import LsrlError
from lsrl.ir.numbers import Array
from lsrl.model import Model
from lsrl.parameters import dense


class Sources(NamedTuple):
    """What a layer reads, by directions of its hook; see `lsrl.interpret.methods.Basis`.

    Attributes:
      read: (items, units), from the hook to values.
      write: (items, units), from values to the hook.
      spread: (items,), standard deviations of the values.
      size: (items,), their root mean squares.
    """

    read: Array
    write: Array
    spread: Array
    size: Array


def read_weights(model: Model, layers: Sequence[Sources]) -> tuple[list[Array], list[Array]]:
    """The strength of every connection, from the parameter arrays.

    Args:
      model: of any target.
      layers: the input map's first.

    Returns:
      Per layer (items, items of the next layer), the last (items, outputs); and per layer (items,
      items) from a token to the next, that of the input map zeros.

    Raises:
      LsrlError: the network is of no kind that is known here.
    """
    module = model.module
    parameters = module.parameter_arrays().items()
    arrays = {name: np.asarray(dense(one), np.float64) for name, one in parameters}
    if isinstance(module, LinearNetwork):
        return _linear(module, arrays, layers)
    if isinstance(module, CellNetwork):
        return _cells(module, arrays, layers)
    if isinstance(module, ResidualNetwork):
        return _residual(module, arrays, layers)
    raise LsrlError(f"weights of target {model.target!r} can't be read")


def _strength(kernel: Array, bias: Array, sources: Sources) -> Array:
    """(items, columns) of a kernel (items, columns), each over the greatest term of its column."""
    return _shared([(kernel, sources)], bias)[0]


def _shared(parts: Sequence[tuple[Array, Sources]], bias: Array) -> list[Array]:
    """As `_strength`, of several kernels whose products are added."""
    greatest = np.abs(np.broadcast_to(bias, parts[0][0].shape[1:]))
    for kernel, sources in parts:
        terms = np.abs(kernel) * sources.size[:, None]
        greatest = np.maximum(greatest, terms.max(axis=0, initial=0.0))
    greatest = np.where(greatest == 0, 1.0, greatest)
    return [np.abs(kernel) * sources.spread[:, None] / greatest for kernel, sources in parts]


def _output(arrays: Mapping[str, Array], last: Sources) -> Array:
    bias = arrays.get("output_bias", np.zeros(1))
    return _strength(last.write @ arrays["output_kernel"], bias, last)


def _linear(
    module: LinearNetwork, arrays: Mapping[str, Array], layers: Sequence[Sources]
) -> tuple[list[Array], list[Array]]:
    forward, recurrent = [], [np.zeros((len(layers[0].read),) * 2)]
    for number, structure in enumerate(module.structure.layers):
        below, here = layers[number], layers[number + 1]
        left, right = np.array(structure.left, int), np.array(structure.right, int)
        kernel = below.write @ arrays[f"layers.{number}.input_kernel"]
        # Hidden units that an output shows as they are; the others are seen nowhere.
        shown = np.flatnonzero(right < 0)
        visible = np.zeros((len(left), kernel.shape[1]))
        visible[shown, left[shown]] = 1.0
        loops = here.write @ visible @ arrays[f"layers.{number}.recurrent_kernel"]
        found = _shared([(kernel, below), (loops, here)], arrays[f"layers.{number}.bias"])
        pair = np.where(right < 0, left, right)
        both = [np.maximum(part[:, left], part[:, pair]) for part in found]
        looks = np.abs(here.read) > 0
        forward.append(_onto(both[0], looks))
        recurrent.append(_onto(both[1], looks))
    return [*forward, _output(arrays, layers[-1])], recurrent


def _onto(strength: Array, looks: Array) -> Array:
    """(items, items of the next layer): the strongest of the units that the latter look at."""
    if strength.shape[1] == len(looks) and (looks == np.eye(len(looks), dtype=bool)).all():
        return strength
    found: Array = (strength[:, None, :] * looks[None]).max(axis=2, initial=0.0)
    return found


def _cells(
    module: CellNetwork, arrays: Mapping[str, Array], layers: Sequence[Sources]
) -> tuple[list[Array], list[Array]]:
    forward, recurrent = [], [np.zeros((len(layers[0].read),) * 2)]
    gated = {"lstm": "ifgo", "gru": "rzn"}.get(module.structure.kind, "h")
    for number in range(len(module.cells)):
        below, here = layers[number], layers[number + 1]
        name = f"cells.{number}."
        inputs, hidden = (arrays[f"{name}dense_{side}.kernel"] for side in "ih")
        side = "h" if module.structure.kind == "lstm" else "i"
        bias = arrays[f"{name}dense_{side}.bias"]
        units = hidden.shape[0]
        found = _shared([(below.write @ inputs, below), (here.write @ hidden, here)], bias)
        split = [part.reshape(len(part), len(gated), units).max(axis=1) for part in found]
        # What a cell keeps of its state is in no kernel but in the gate that keeps it.
        keeps = {"lstm": "f", "gru": "z"}.get(module.structure.kind)
        if keeps:
            gate = gated.index(keeps)
            columns = slice(gate * units, (gate + 1) * units)
            moved = [part[:, columns].max(axis=0, initial=0.0) for part in found]
            kept = np.maximum(1 / (1 + np.exp(-np.clip(bias[columns], -60, 60))), sum(moved))
            split[1] = np.maximum(split[1], (np.abs(here.write) > 0) * kept)
        looks = np.abs(here.read) > 0
        forward.append(_onto(split[0], looks))
        recurrent.append(_onto(split[1], looks))
    return [*forward, _output(arrays, layers[-1])], recurrent


# ---------------------------------------------------------------- residual networks


def _residual(
    module: ResidualNetwork, arrays: Mapping[str, Array], layers: Sequence[Sources]
) -> tuple[list[Array], list[Array]]:
    forward: list[Array] = []
    recurrent: list[Array] = [np.zeros((len(layers[0].read),) * 2)]
    for own in module.by_layer(arrays):
        for site in range(module.sites):
            below = layers[len(forward)]
            if "mixer.in_proj.weight" in own:
                inner, memory, out = _mamba(own, below)
            elif site == 0:
                inner, memory, out = _griffin(own, below)
            else:
                inner, memory, out = _mlp(own, below)
            here = layers[len(forward) + 1]
            out = np.abs(here.read @ out)
            out = out / np.maximum(out.max(axis=1, keepdims=True), 1e-300)
            forward.append((inner[:, None, :] * out[None]).max(axis=2))
            recurrent.append(np.diag((out * memory).max(axis=1)))
    gain = module.gain_offset + arrays[module.final_norm_name]
    kernel = layers[-1].write @ (gain[:, None] * arrays["output_kernel"])
    return [*forward, _strength(kernel, np.zeros(1), layers[-1])], recurrent


def _mamba(own: Mapping[str, Array], below: Sources) -> tuple[Array, Array, Array]:
    """(items, inner) what each inner channel reads, what it remembers, and (d, inner)."""
    weight = own["mixer.in_proj.weight"] * own["norm.weight"]
    values, gate = np.split(below.write @ weight.T, 2, axis=1)
    nothing = np.zeros(1)
    reads = _strength(values, own["mixer.conv1d.bias"], below)
    opens = _strength(gate, nothing, below)
    # Constant channels in the steps, too, take part by their size alone.
    rank = own["mixer.dt_proj.weight"].shape[1]
    steps = own["mixer.dt_proj.weight"] @ own["mixer.x_proj.weight"][:rank]
    inner = Sources(nothing, nothing, *_moved(values, below))
    times = _strength(steps.T, own["mixer.dt_proj.bias"], inner)
    decay = np.exp(
        -np.logaddexp(0, own["mixer.dt_proj.bias"]) * np.exp(own["mixer.A_log"]).min(axis=1)
    )
    memory = np.maximum(decay, np.minimum(1.0, times.max(axis=0)))
    paths = (reads[:, :, None] * times[None]).max(axis=1)
    return np.maximum.reduce([reads, opens, paths]), memory, own["mixer.out_proj.weight"]


def _moved(kernel: Array, below: Sources) -> tuple[Array, Array]:
    """The spread and the size of sums, as if their terms were independent."""
    return (
        np.sqrt(((kernel * below.spread[:, None]) ** 2).sum(axis=0)),
        np.sqrt(((kernel * below.size[:, None]) ** 2).sum(axis=0)),
    )


def _griffin(own: Mapping[str, Array], below: Sources) -> tuple[Array, Array, Array]:
    block = "temporal_block."
    gain = 1 + own["temporal_pre_norm.weight"]
    gate, values = (
        below.write @ (own[f"{block}linear_{branch}.weight"] * gain).T for branch in "yx"
    )
    reads = _strength(values, own[f"{block}linear_x.bias"], below)
    opens = _strength(gate, own[f"{block}linear_y.bias"], below)
    inner = Sources(np.zeros(1), np.zeros(1), *_moved(values, below))
    paths = [reads, opens]
    hold = np.zeros(values.shape[1])
    for name in ("input", "recurrent"):
        weight = own[f"{block}rg_lru.{name}_gate_weight"]
        heads, size, _ = weight.shape
        dense = np.zeros((heads * size, heads * size))
        for head in range(heads):
            own_part = slice(head * size, (head + 1) * size)
            dense[own_part, own_part] = weight[head]
        strength = _strength(dense, own[f"{block}rg_lru.{name}_gate_bias"].ravel(), inner)
        paths.append((reads[:, :, None] * strength[None]).max(axis=1))
        hold = np.maximum(hold, strength.max(axis=0))
    opened = 1 / (1 + np.exp(-np.clip(own[f"{block}rg_lru.recurrent_gate_bias"].ravel(), -60, 60)))
    decay = np.exp(-8 * opened * np.logaddexp(0, own[f"{block}rg_lru.recurrent_param"]))
    memory = np.maximum(decay, np.minimum(1.0, hold))
    return np.maximum.reduce(paths), memory, own[f"{block}linear_out.weight"]


def _mlp(own: Mapping[str, Array], below: Sources) -> tuple[Array, Array, Array]:
    gain = 1 + own["channel_pre_norm.weight"]
    parts = [
        _strength(
            below.write @ (own[f"mlp_block.{name}_proj.weight"] * gain).T,
            own[f"mlp_block.{name}_proj.bias"],
            below,
        )
        for name in ("gate", "up")
    ]
    inner = np.maximum(*parts)
    return inner, np.zeros(inner.shape[1]), own["mlp_block.down_proj.weight"]
