"""The variant `permuted`: units in another order, with other signs, and scaled where that is exact.

A layer's units pass through a `Move`; all that writes them and all that reads them moves along, so
each sum has the same terms as before, in another order and times powers of two.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from lsrl.backends.cells.network import CellNetwork
from lsrl.backends.linear.network import LinearNetwork
from lsrl.backends.residual.griffin_network import GriffinNetwork
from lsrl.backends.residual.mamba_network import MambaNetwork
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.circuit import Channel, Circuit
from lsrl.errors import InputError
from lsrl.interpret.causal import Sampler
from lsrl.interpret.variants.base import check_seed, variant
from lsrl.ir.numbers import Array
from lsrl.model import Model

Arrays = dict[str, Array]
# Powers of two that units are scaled by: 2^-OCTAVES to 2^OCTAVES.
OCTAVES = 2
# flax's gates side by side, and which of them is the candidate, whose sign is the unit's.
GATES = {"lstm": (4, 2), "gru": (3, 2), "relu": (1, 0), "tanh": (1, 0)}


class Move(NamedTuple):
    """Unit k becomes scale[k] times what unit order[k] was.

    Attributes:
      order: (units,) int, a permutation, or some of the units.
      scale: (units,) float64, powers of two with a sign.
    """

    order: Array
    scale: Array

    @classmethod
    def only(cls, order: Array) -> "Move":
        """Units in another order, or some of them, as they are."""
        return cls(order, np.ones(len(order)))

    def written(self, array: Array, axis: int = -1) -> Array:
        """What writes the units, one entry a unit along an axis."""
        return np.asarray(array.take(self.order, axis) * self._along(array, axis))

    def read(self, array: Array, axis: int = 0) -> Array:
        """What reads the units, one entry a unit along an axis."""
        return np.asarray(array.take(self.order, axis) / self._along(array, axis))

    def reordered(self, array: Array, axis: int = -1) -> Array:
        """What belongs to the units and is not scaled with them."""
        return array.take(self.order, axis)

    def places(self) -> Array:
        """Where units went, by their old numbers; -1 for those that are left out."""
        found = np.full(self.order.max(initial=-1) + 1, -1)
        found[self.order] = np.arange(len(self.order))
        return found

    def _along(self, array: Array, axis: int) -> Array:
        shape = [1] * array.ndim
        shape[axis] = -1
        return self.scale.reshape(shape)


class Moved(NamedTuple):
    """A network with moved units.

    Attributes:
      arrays: of the network, as `rebuilt` takes them.
      hooks: per layer of the circuit how its units moved.
      memory: per layer of the circuit how the entries of its memory moved.
    """

    arrays: Arrays
    hooks: Sequence[Move]
    memory: Sequence[Move]


def permuted(model: Model, seed: int = 0, *, sampler: Sampler | None = None) -> Model:
    """Shuffle the units of every layer, flip their signs and scale them, where the cell allows it.

    Signs flip in tanh RNNs, in LSTMs and GRUs (through the candidate), where a linear target's
    output passes no ReLU, and in residual streams. The units of ReLU RNNs and of linear targets are
    scaled by powers of two. In Mamba and Griffin the inner channels are shuffled too. A model that
    is exact stays exact: each sum has the same terms.

    Args:
      model: compiled, or a variant.
      seed: of the shuffles.
      sampler: of the inputs that the card's figures come from.

    Raises:
      InputError: a seed that is none.
    """
    rng = np.random.default_rng(check_seed("permuted", seed))
    module = model.module
    made = _mover(module)(module, rng)
    if not _in_range(made.arrays, model):
        made = _mover(module)(module, np.random.default_rng(seed), scaled=False)
    circuit = moved_circuit(model.circuit, made.hooks, made.memory)
    return variant(
        model,
        "permuted",
        f"seed={seed}",
        module.rebuilt(made.arrays),
        circuit,
        exact=True,
        sampler=sampler,
    )


def moved_circuit(circuit: Circuit, hooks: Sequence[Move], memory: Sequence[Move]) -> Circuit:
    """The ground truth after units and entries of memories have moved; none in use is left out."""
    places = [move.places() for move in hooks]
    entries = [move.places() for move in memory]

    def moved(channel: Channel) -> Channel:
        layer = channel.layer
        units = places[layer][list(channel.units)]
        scale = hooks[layer].scale[units]
        held = entries[layer][list(channel.memory)] if channel.memory else np.zeros(0, int)
        held_scale = memory[layer].scale[held] if channel.memory else np.zeros(0)
        return replace(
            channel,
            units=tuple(units.tolist()),
            weights=tuple((np.array(channel.weights) / scale).tolist()),
            memory=tuple(held.tolist()),
            memory_weights=tuple((np.array(channel.memory_weights) / held_scale).tolist()),
            directions=tuple((np.array(channel.directions) * scale).tolist())
            if channel.directions
            else (),
        )

    return replace(circuit, channels=tuple(moved(channel) for channel in circuit.channels))


def _mover(module: object) -> Callable[..., Moved]:
    if isinstance(module, CellNetwork):
        return _moved_cells
    if isinstance(module, LinearNetwork):
        return _moved_linear
    if isinstance(module, MambaNetwork | GriffinNetwork):
        return _moved_residual
    raise InputError(f"permuted: {type(module).__name__} is no network of a target of LSRL")


def _in_range(arrays: Arrays, model: Model) -> bool:
    """Whether the dtype has normal numbers for every weight."""
    numerics = model.numerics
    for array in arrays.values():
        size = np.abs(array[array != 0].astype(np.float64))
        if ((size > numerics.largest) | (size < numerics.tiny)).any():
            return False
    return True


def _widened(arrays: Arrays) -> Arrays:
    return {
        name: array if array.dtype.kind in "bi" else array.astype(np.float64)
        for name, array in arrays.items()
    }


def _move(
    rng: np.random.Generator, units: int, signs: Array | bool = True, octaves: int = 0
) -> Move:
    """A random move; `signs` says whose sign may flip, by the old number of the unit."""
    order = rng.permutation(units)
    flips = np.where(rng.random(units) < 0.5, -1.0, 1.0)
    allowed = np.broadcast_to(np.asarray(signs, bool), (units,))[order]
    sizes = 2.0 ** rng.integers(-octaves, octaves + 1, units)
    return Move(order, np.where(allowed, flips, 1.0) * sizes)


# ---------------------------------------------------------------- stock cells


def _moved_cells(module: CellNetwork, rng: np.random.Generator, scaled: bool = True) -> Moved:
    arrays, kind = _widened(module.arrays()), module.structure.kind
    gates, candidate = GATES[kind]
    relu = kind == "relu"
    octaves = OCTAVES if scaled else 0
    first = arrays["cells.0.dense_i.kernel"].shape[0]
    moves = [_move(rng, first, octaves=octaves)]
    for name in [name for name in arrays if name.startswith("inputs.")]:
        arrays[name] = moves[0].written(arrays[name])
    for number in range(len(module.cells)):
        units = arrays[f"cells.{number}.dense_h.kernel"].shape[0]
        own = _move(rng, units, signs=not relu, octaves=octaves if relu else 0)
        for side, before in (("dense_i", moves[-1]), ("dense_h", own)):
            name = f"cells.{number}.{side}"
            read = before.read(arrays[f"{name}.kernel"], 0)
            arrays[f"{name}.kernel"] = _gates_written(own, read, gates, candidate)
            if f"{name}.bias" in arrays:
                bias = arrays[f"{name}.bias"]
                arrays[f"{name}.bias"] = _gates_written(own, bias, gates, candidate)
        moves.append(own)
    arrays["output_kernel"] = moves[-1].read(arrays["output_kernel"], 0)
    return Moved(arrays, moves, moves)


def _gates_written(move: Move, array: Array, gates: int, candidate: int) -> Array:
    """(…, gates * units): every gate moves, the candidate with its sign and size."""
    parts = np.split(array, gates, axis=-1)
    found = [
        move.written(part) if gate == candidate else move.reordered(part)
        for gate, part in enumerate(parts)
    ]
    return np.concatenate(found, axis=-1)


# ---------------------------------------------------------------- linear networks


def _moved_linear(module: LinearNetwork, rng: np.random.Generator, scaled: bool = True) -> Moved:
    arrays = _widened(module.arrays())
    octaves = OCTAVES if scaled else 0
    before = _move(rng, len(arrays["input_bias"]), octaves=octaves)
    hooks, memory = [before], [before]
    for name in [name for name in arrays if name.startswith("inputs.")]:
        arrays[name] = before.written(arrays[name])
    arrays["input_bias"] = before.written(arrays["input_bias"])
    for number in range(len(module.layers)):
        name = f"layers.{number}."
        relu, left, right = (arrays[name + each] for each in ("relu", "left", "right"))
        hidden = _hidden_move(rng, arrays[name + "recurrent_kernel"], left[relu], octaves)
        place = np.argsort(hidden.order)
        order = rng.permutation(len(left))
        new_left, new_right = (np.where(x >= 0, place[x], -1)[order] for x in (left, right))
        factor = np.where(new_right >= 0, hidden.scale[new_right], 1.0)
        outputs = Move(order, hidden.scale[new_left] * factor)
        arrays[name + "input_kernel"] = hidden.written(
            hooks[-1].read(arrays[name + "input_kernel"], 0)
        )
        arrays[name + "recurrent_kernel"] = hidden.written(
            hidden.read(arrays[name + "recurrent_kernel"], 0)
        )
        for each in ("bias", "initial_state"):
            arrays[name + each] = hidden.written(arrays[name + each])
        arrays |= {name + "relu": relu[order], name + "left": new_left, name + "right": new_right}
        hooks.append(outputs)
        memory.append(hidden)
    arrays["output_kernel"] = hooks[-1].read(arrays["output_kernel"], 0)
    return Moved(arrays, hooks, memory)


def _hidden_move(
    rng: np.random.Generator, recurrent: Array, rectified: Array, octaves: int
) -> Move:
    """Units that read each other are scaled alike: a ring then stays one, and runs as one."""
    units = len(recurrent)
    free = np.ones(units, bool)
    free[rectified] = False
    move = _move(rng, units, free)
    _, component = connected_components(sp.csr_array(recurrent), directed=False)
    sizes = 2.0 ** rng.integers(-octaves, octaves + 1, units)
    return Move(move.order, move.scale * sizes[component[move.order]])


# ---------------------------------------------------------------- residual streams


def _moved_residual(
    module: ResidualNetwork, rng: np.random.Generator, scaled: bool = True
) -> Moved:
    arrays = _widened(module.arrays())
    stream = _move(rng, module.width)
    arrays = streamed(module, arrays, stream.written, stream.read, stream.reordered)
    moves = []
    for block in module.by_layer(arrays):
        if isinstance(module, MambaNetwork):
            inner, ranks = block["mixer.dt_proj.weight"].shape
            found = (Move.only(rng.permutation(inner)), Move.only(rng.permutation(ranks)))
        else:
            found = (
                _move(rng, block["temporal_block.linear_x.weight"].shape[0]),
                _move(rng, block["mlp_block.up_proj.weight"].shape[0]),
            )
        moves.append(found)
    return moved_inside(module, arrays, stream, moves)


def moved_inside(
    module: ResidualNetwork, arrays: Arrays, stream: Move, moves: Sequence[tuple[Move, ...]]
) -> Moved:
    """Move what lies inside the layers of a residual network.

    Args:
      module: the network.
      arrays: of it.
      stream: how its channels moved already.
      moves: per layer, of Mamba those of the inner channels and of the ranks of Δ, which take no
        signs; of Griffin those of the RG-LRU's channels and of the MLP's.
    """
    still = Move.only(np.arange(0))
    hooks, memory, inside = [stream], [still], dict(arrays)
    change = _mamba_inner if isinstance(module, MambaNetwork) else _griffin_inner
    for number, (block, own) in enumerate(zip(module.by_layer(arrays), moves, strict=True)):
        prefix = f"{module.layers_name}.{number}."
        inside |= {prefix + name: array for name, array in change(block, *own).items()}
        hooks += [stream] * module.sites
        memory += [own[0]] + [still] * (module.sites - 1)
    return Moved(inside, hooks, memory)


# Parameters of a layer that read the stream along their last axis.
READS = (
    "mixer.in_proj.weight", "temporal_block.linear_y.weight", "temporal_block.linear_x.weight",
    "mlp_block.gate_proj.weight", "mlp_block.up_proj.weight",
)  # fmt: skip
Change = Callable[[Array, int], Array]


def streamed(
    module: ResidualNetwork, arrays: Arrays, written: Change, read: Change, gains: Change
) -> Arrays:
    """The arrays after a change of the stream's channels.

    Args:
      module: the network.
      arrays: of it.
      written: changes what writes the channels, along an axis.
      read: changes what reads them.
      gains: changes the gains of norms.
    """
    found, writes = dict(arrays), tuple(name for site in module.writes for name in site)
    for name in module.input_names():
        found[name] = written(found[name], -1)
    found["input_bias"] = written(found["input_bias"], -1)
    found["output_kernel"] = read(found["output_kernel"], 0)
    found[module.final_norm_name] = gains(found[module.final_norm_name], -1)
    for name, array in arrays.items():
        if name.startswith(module.layers_name):
            if name.endswith(READS):
                found[name] = read(array, -1)
            elif name.endswith(writes):
                found[name] = written(array, 0)
            elif name.endswith("norm.weight"):
                found[name] = gains(array, -1)
    return found


def _mamba_inner(block: Arrays, channels: Move, ranks: Move) -> Arrays:
    """Orders alone: convolution and gate take no signs."""
    found, inner = dict(block), len(block["mixer.A_log"])
    both = Move.only(np.concatenate([channels.order, inner + channels.order]))
    found["mixer.in_proj.weight"] = both.reordered(block["mixer.in_proj.weight"], 0)
    for name in ("conv1d.weight", "conv1d.bias", "dt_proj.bias", "A_log", "D"):
        found[f"mixer.{name}"] = channels.reordered(block[f"mixer.{name}"], 0)
    old = len(block["mixer.dt_proj.weight"][0])
    rows = np.concatenate([ranks.order, np.arange(old, len(block["mixer.x_proj.weight"]))])
    found["mixer.x_proj.weight"] = channels.reordered(block["mixer.x_proj.weight"][rows], 1)
    steps = channels.reordered(block["mixer.dt_proj.weight"], 0)
    found["mixer.dt_proj.weight"] = ranks.reordered(steps, 1)
    found["mixer.out_proj.weight"] = channels.reordered(block["mixer.out_proj.weight"], 1)
    return found


def _griffin_inner(block: Arrays, lru: Move, mlp: Move) -> Arrays:
    """Of the MLP the linear factor takes the sign."""
    found = dict(block)
    for name, change in (
        ("linear_x.weight", lru.written), ("linear_x.bias", lru.written),
        ("linear_y.weight", lru.reordered), ("linear_y.bias", lru.reordered),
        ("conv_1d.weight", lru.reordered), ("conv_1d.bias", lru.written),
        ("rg_lru.recurrent_param", lru.reordered),
    ):  # fmt: skip
        found[f"temporal_block.{name}"] = change(block[f"temporal_block.{name}"], 0)
    for gate in ("input", "recurrent"):
        name = f"temporal_block.rg_lru.{gate}_gate"
        found[f"{name}_weight"] = lru.reordered(lru.read(block[f"{name}_weight"], 1), 2)
        found[f"{name}_bias"] = lru.reordered(block[f"{name}_bias"], 1)
    found["temporal_block.linear_out.weight"] = lru.read(
        block["temporal_block.linear_out.weight"], 1
    )
    for side, change in (("up_proj", mlp.written), ("gate_proj", mlp.reordered)):
        for each in ("weight", "bias"):
            name = f"mlp_block.{side}.{each}"
            found[name] = change(block[name], 0)
    found["mlp_block.down_proj.weight"] = mlp.read(block["mlp_block.down_proj.weight"], 1)
    return found
