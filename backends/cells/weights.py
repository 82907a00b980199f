"""What the weights of stock cells say, and those that they have before any training.

The gates of a cell lie side by side, in flax's order.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import nnx

from lsrl.backends.axes import Axes, Axis, Legend, Part, Role, Space, makes, reads
from lsrl.backends.strength import Gates, sigmoid
from lsrl.ir.numbers import Array

# The candidate makes the units, and has their sign; one gate keeps what they hold.
GATES: dict[str, tuple[Role, ...]] = {
    "lstm": ("follows", "keeps", "makes", "follows"),  # i, f, g, o
    "gru": ("follows", "keeps", "makes"),  # r, z, n
    "relu": ("makes",),
    "tanh": ("makes",),
}
# Cells with gates, which can be trained.
UNTRAINED = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}


def cell_legend(kind: str, shapes: Mapping[str, tuple[int, ...]]) -> Legend:
    """Units of every cell: those of a ReLU have a size to choose, all others a sign."""
    relu = kind == "relu"
    features = shapes.get("cells.0.dense_i.kernel", shapes["output_kernel"])[0]
    spaces, before = {"features": Space(features, True, True, hooks=(0,))}, "features"
    found = {
        name: Axes("table" if name.endswith("table") else "matrix", (reads(), makes(before)))
        for name in shapes
        if name.startswith("inputs.")
    }
    number = 0
    while (name := f"cells.{number}.dense_h.kernel") in shapes:
        number += 1
        units, layer = f"units {number}", number
        spaces[units] = Space(shapes[name][0], not relu, relu, hooks=(layer,), memory=layer)
        gates: Axis = tuple(Part(units, role) for role in GATES[kind])
        for side, read in (("i", before), ("h", units)):
            dense = f"cells.{number - 1}.dense_{side}."
            found[f"{dense}kernel"] = Axes("matrix", (reads(read), gates))
            if f"{dense}bias" in shapes:
                found[f"{dense}bias"] = Axes("bias", (gates,))
        before = units
    found["output_kernel"] = Axes("matrix", (reads(before), makes()))
    found["output_bias"] = Axes("bias", (makes(),))
    return Legend(spaces, found)


def cell_gates(
    kind: str, arrays: Mapping[str, Array], layer: int, read: Array, held: Array
) -> Gates | None:
    """The sigmoids and the candidates of a cell; None where it has no gates.

    Args:
      kind: of the cell.
      arrays: of the network.
      layer: the cell's number.
      read: (batch, time, features) what it reads.
      held: (batch, time, units) what it puts out.
    """
    if kind not in UNTRAINED:
        return None
    prefix = f"cells.{layer}."
    own = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    before = np.concatenate([np.zeros_like(held[:, :1]), held[:, :-1]], axis=1)
    outside, inside = read @ own["dense_i.kernel"], before @ own["dense_h.kernel"]
    if kind == "lstm":
        i, f, g, o = np.split(outside + inside + own["dense_h.bias"], 4, axis=-1)
        return Gates(sigmoid(np.stack([i, f, o])), np.tanh(g))
    outside = outside + own["dense_i.bias"]
    (ri, zi, ni), (rh, zh, nh) = np.split(outside, 3, -1), np.split(inside, 3, -1)
    reset = sigmoid(ri + rh)
    return Gates(np.stack([reset, sigmoid(zi + zh)]), np.tanh(ni + reset * nh))


def fresh_cells(
    kind: str, known: Mapping[str, Array], units: Sequence[int], seed: int
) -> dict[str, Array]:
    """As flax initialises its cells, and maps as its Embed and Linear have them.

    They are for the inputs and outputs of `known`; `units` begin with the features.
    """
    rng, keys = np.random.default_rng(seed), nnx.Rngs(seed)
    arrays: dict[str, Array] = {}
    features = units[0]
    for name, array in known.items():
        if name.startswith("inputs."):
            spread = 1.0 if name.endswith("table") else 1 / np.sqrt(array.shape[0])
            arrays[name] = spread * rng.standard_normal((array.shape[0], features))
    for number, size in enumerate(units[1:]):
        cell = UNTRAINED[kind](features, size, rngs=keys)
        for side in ("dense_i", "dense_h"):
            dense = getattr(cell, side)
            arrays[f"cells.{number}.{side}.kernel"] = np.asarray(dense.kernel.get_value())
            if dense.bias is not None:
                arrays[f"cells.{number}.{side}.bias"] = np.asarray(dense.bias.get_value())
        features = size
    outputs = known["output_bias"]
    arrays["output_kernel"] = rng.standard_normal((features, len(outputs))) / np.sqrt(features)
    arrays["output_bias"] = np.zeros_like(outputs)
    return arrays
