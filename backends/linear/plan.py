"""Plans: how a linear network with the parameters at hand runs whole sequences.

`prepare` looks at the numbers: the forms of `lsrl.backends.linear.recurrence` for the states;
single rows, gathers or dense products for the rest. What does not depend on the inputs (positions,
cycles, constants) is the same for every sequence of a batch, so it is computed once, with batch 1:
the *fixed* rows; the others are the *varying* rows.

A plan is a pytree: numbers are leaves, everything that shapes the computation is static. Networks
that differ in the numbers only, as in a sweep over noise, share one compilation.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from lsrl.backends.factors import picking
from lsrl.backends.linear import recurrence
from lsrl.backends.linear.cell import LayerStructure, NetworkStructure, Parameters
from lsrl.backends.linear.decomposition import Decomposition, Group, decompose
from lsrl.backends.linear.layers import (
    GroupPlan,
    Handed,
    LayerPlan,
    OutputPlan,
    Piece,
    Shape,
    pieces,
)
from lsrl.backends.linear.maps import (
    STATIC,
    Bank,
    BankAffine,
    Bias,
    BlockRows,
    FeaturePlan,
    are_whole,
    broadcast,
    plan_affine,
    plan_bank_affine,
    plan_bias,
    plan_features,
    pytree,
)
from lsrl.backends.network import on_device
from lsrl.parameters import thinned
from lsrl.pytrees import HashedOnce

# So that a chunk's sums of it are exact in float32, however many tokens it has.
_LARGEST_STEP = 2**24 // (2 * recurrence.MOST_TOKENS)
_LONGEST_TURN = 64
# Per layer and group (rows, history, 1 or batch), on the host or the device.
GroupCarry: TypeAlias = tuple[tuple[jax.Array | np.ndarray, ...], ...]


@pytree
@dataclass(frozen=True)
class NetworkPlan:
    """A whole network.

    Attributes:
      structure: of the network.
      num_outputs: of each hook, that of the input map first: outputs that are made of it.
      constants: features that read no input.
      features: the others.
      layers: as far as outputs read them.
      outputs: the maps from hooks to the outputs, where a hook has any.
    """

    structure: NetworkStructure = field(metadata=STATIC)
    num_outputs: tuple[int, ...] = field(metadata=STATIC)
    constants: Bias | None
    features: tuple[FeaturePlan, ...]
    layers: tuple[LayerPlan, ...]
    outputs: tuple[BankAffine | None, ...]

    def __call__(
        self,
        carry: tuple[tuple[jax.Array, ...], ...],
        inputs: tuple[jax.Array | None, ...],
        valid: jax.Array,
        shape: Shape,
        handed: Handed,
    ) -> tuple[jax.Array, tuple[tuple[jax.Array, ...], ...]]:
        """Run a chunk of which `valid` tokens count.

        Args:
          carry: per layer and group, of the chunk before.
          inputs: per program input, ids (1, t, s, b), vectors (width, t, s, b), or None if unread.
          valid: tokens of the chunk that count.
          shape: of the chunk.
          handed: what the carry of the next chunk must hold.

        Returns:
          (outputs, t, s, b) and the carry.
        """
        rounded, compute = self.structure.rounded, self.structure.compute_dtype
        read = enumerate(zip(self.structure.inputs, inputs, strict=True))
        signals = {
            number: rounded(signal.astype(compute)) if kind == "kernel" else signal
            for number, (kind, signal) in read
            if signal is not None
        }
        blocks = [
            block for feature in self.features for block in feature(signals).map(rounded).blocks
        ]
        bank = Bank(
            None if self.constants is None else self.constants.rows(),
            BlockRows(blocks) if blocks else None,
        )
        after, banks = [], [bank]
        for layer, layer_carry in zip(self.layers, carry, strict=True):
            bank, carried = layer(bank, layer_carry, shape, valid, handed, rounded)
            after.append(carried)
            banks.append(bank)
        found: list[jax.Array] = []
        for bank, count, output in zip(banks, self.num_outputs, self.outputs, strict=True):
            made = None if output is None else output(bank)
            found += [jnp.zeros((count, 1, 1, 1), compute)] if made is None else made.blocks
        rows = broadcast(BlockRows(found), shape.tokens, shape.segments, shape.batch)
        values = rounded(rows.stacked()).astype(self.structure.dtype)
        return values, tuple(after)


@dataclass(frozen=True, eq=False)
class Form(HashedOnce):
    """All of a plan but its numbers."""

    tree: jax.tree_util.PyTreeDef


class Extent(NamedTuple):
    """What says how a run is best cut.

    Attributes:
      width: most rows of any stack, which bounds the memory of a chunk; outputs count twice, as
        they are turned over.
      history: most tokens that any group looks back, which a segment must hold.
      turn: of so many tokens all rings make whole turns; 1 if that is too many for a segment.
      segments: whether time can be cut into segments.
      loops: whether any group runs in a loop over time.
      stretch: most layers in a row that have no such group; XLA makes one loop of them.
    """

    width: int
    history: int
    turn: int
    segments: bool
    loops: bool
    stretch: int


@dataclass(frozen=True)
class Prepared:
    """A plan, and what it takes to feed it.

    Attributes:
      plan: for jit.
      layers: the decomposition of each layer.
      starts: initial state of each layer (1, hidden), compute dtype.
      extent: of the plan.
      form: of the plan.
      numbers: of the plan.
    """

    plan: NetworkPlan
    layers: tuple[Decomposition, ...]
    starts: tuple[np.ndarray, ...]
    extent: Extent
    form: Form
    numbers: tuple[jax.Array, ...]
    _first: dict[int, GroupCarry] = field(default_factory=dict)

    def first_carry(self, batch: int) -> GroupCarry:
        """The carry before the first token, on the device."""
        if batch not in self._first:
            carry = self.carry(self.starts, batch)
            self._first[batch] = jax.tree.map(lambda x: on_device(x, x.dtype), carry)
        return self._first[batch]

    def carry(self, state: Sequence[np.ndarray], batch: int) -> GroupCarry:
        """Turn per layer (at most batch, hidden) into per group (rows, history, 1 or batch)."""
        carry = []
        for layer, values in zip(self.layers, state, strict=True):
            histories = []
            for group in layer.groups:
                heads = (values[:, group.members] * layer.sign[group.members]).astype(values.dtype)
                # The fixed rows need one sequence; else the first one also fills up the batch.
                count = batch if group.varying else 1
                heads = heads[np.minimum(np.arange(count), len(heads) - 1)]
                histories.append(np.moveaxis(heads[:, :, ::-1], 0, 2))
            carry.append(tuple(histories))
        return tuple(carry)

    def state(self, carry: GroupCarry, batch: int) -> tuple[np.ndarray, ...]:
        """Undo `carry`."""
        states = []
        for layer, groups in zip(self.layers, carry, strict=True):
            values = np.zeros((batch, len(layer.group)), self.plan.structure.compute_dtype)
            for group, history in zip(layer.groups, groups, strict=True):
                heads = np.moveaxis(np.asarray(history)[:, ::-1], 2, 0)
                values[:, group.members] = heads * layer.sign[group.members]
            states.append(values)
        return tuple(states)


def prepare(
    parameters: Parameters,
    structure: NetworkStructure,
    uniform: bool,
    watched: tuple[tuple[int, ...], ...] = (),
) -> Prepared:
    """Plan the runs of a network with these parameters.

    Args:
      parameters: concrete, by flat name.
      structure: of the network.
      uniform: every sequence starts in the same state, so that fixed rows exist.
      watched: of each hook, that of the input map first, the entries that are the outputs in place
        of the network's own; hooks behind the last one are left out.

    Returns:
      The plan.
    """
    dtype = structure.compute_dtype
    matrix = partial(_matrix, parameters, structure)

    def vector(name: str) -> np.ndarray:
        return np.asarray(parameters[name]).astype(np.float64)

    kernels = [matrix(f"layers.{i}.input_kernel") for i in range(len(structure.layers))]
    kernels.append(matrix("output_kernel"))
    depth = len(watched) - 1 if watched else len(structure.layers)
    units = [np.flatnonzero(np.diff(kernel.indptr)) for kernel in kernels[: depth + 1]]
    outputs: list[_Output | None] = [None] * depth
    outputs.append((kernels[-1].tocsc(), vector("output_bias")))
    if watched:
        outputs = [_picked(kernels[i].shape[0], some) for i, some in enumerate(watched)]
        units[-1] = np.zeros(0, np.int64)
        units = [np.union1d(a, b).astype(int) for a, b in zip(units, watched, strict=True)]
    output_plans: list[BankAffine | None] = []

    def plan_output(bank: tuple[np.ndarray, np.ndarray]) -> None:
        wanted = outputs[len(output_plans)]
        output_plans.append(None if wanted is None else plan_bank_affine(*wanted, bank, dtype))

    features = units[0]
    constants, feature_plans, fixed, varying = plan_features(
        features, structure, matrix, vector("input_bias"), dtype
    )
    layers, decompositions, starts = [], [], []
    width = len(fixed) + len(varying)
    plan_output((fixed, varying))
    for number, layer in enumerate(structure.layers[:depth]):
        name = f"layers.{number}."
        starts.append(vector(name + "initial_state").astype(dtype)[None])
        plan, decomposition, fixed, varying = _plan_layer(
            kernels[number],
            matrix(name + "recurrent_kernel"),
            vector(name + "bias"),
            layer,
            (fixed, varying),
            units[number + 1],
            uniform,
            dtype,
            None if watched else kernels[number + 1],
        )
        layers.append(plan)
        decompositions.append(decomposition)
        heads = sum(len(group.members) for group in decomposition.groups)
        # Reads of a register can be more than the units of the layer.
        reads = max((group.num_reads for group in plan.groups), default=0)
        width = max(width, heads, reads, len(fixed) + len(varying))
        plan_output((fixed, varying))
    counts = tuple(0 if output is None else len(output[1]) for output in outputs)
    network = NetworkPlan(
        structure, counts, constants, feature_plans, tuple(layers), tuple(output_plans)
    )
    numbers, tree = jax.tree.flatten(network)
    return Prepared(
        network,
        tuple(decompositions),
        tuple(starts),
        _extent(layers, decompositions, max(width, 2 * sum(counts))),
        Form(tree),
        tuple(numbers),
    )


# A map from a hook, (units, outputs), and its bias.
_Output: TypeAlias = tuple[sparse.csc_array, np.ndarray]


def _picked(units: int, some: tuple[int, ...]) -> _Output | None:
    """The map that picks some units; None for none."""
    if not some:
        return None
    return picking(units, some).tocsc(), np.zeros(len(some))


def _matrix(parameters: Parameters, structure: NetworkStructure, name: str) -> sparse.csr_array:
    """The entries of a parameter that are not 0, in float64."""
    values, pattern = np.asarray(parameters[name]), structure.pattern.get(name)
    if values.dtype == jnp.bfloat16:
        values = values.astype(np.float32)
    if pattern is not None:
        return thinned(pattern.matrix(values.astype(np.float64)))
    rows, places = np.nonzero(values)
    entries = values[rows, places].astype(np.float64)
    return sparse.csr_array((entries, (rows, places)), shape=values.shape)


def _extent(layers: list[LayerPlan], decompositions: list[Decomposition], width: int) -> Extent:
    """What says how runs of planned layers are best cut."""
    groups = [group for parts in decompositions for group in parts.groups]
    turn = math.lcm(*(group.stride for group in groups))
    loops = [
        any(
            planned.kind != "feed"
            and planned.counter is None
            and (group.driven or len(group.sources) > 0)
            for planned, group in zip(layer.groups, parts.groups, strict=True)
        )
        for layer, parts in zip(layers, decompositions, strict=True)
    ]
    return Extent(
        width,
        max((group.members.shape[1] for group in groups), default=1),
        turn if turn <= _LONGEST_TURN else 1,
        all(group.kind != "in_order" for group in groups),
        any(loops),
        max((len(list(run)) for looping, run in groupby(loops) if not looping), default=0),
    )


def _plan_layer(
    kernel: sparse.csr_array,
    recurrent: sparse.csr_array,
    bias: np.ndarray,
    structure: LayerStructure,
    bank: tuple[np.ndarray, np.ndarray],
    read: np.ndarray,
    uniform: bool,
    dtype: jnp.dtype,
    reader: sparse.csr_array | None,
) -> tuple[LayerPlan, Decomposition, np.ndarray, np.ndarray]:
    """Plan a layer, given the rows of the bank before; also lists those of the bank after.

    Where the map that alone reads the bank after (the reader) reads taps of a register alike, one
    row is the sum of them all, under the name of the first.
    """
    by_unit = kernel.tocsc()
    inputs = np.diff(by_unit.indptr) > 0
    varying = np.ones(len(bias), bool)
    if uniform:
        varying = np.diff(kernel[bank[1]].tocsc().indptr) > 0
    parts = decompose(recurrent, inputs, bias != 0, varying)

    groups, heads = _plan_groups(parts, bias, inputs, dtype)
    drives = []
    for half in (False, True):
        units = np.array(heads[half], np.int64)
        signs = parts.sign[units]
        columns = sparse.csc_array(by_unit[:, units] @ sparse.diags_array(signs.astype(float)))
        drives.append(plan_bank_affine(columns, bias[units] * signs, bank, dtype))
    left = np.asarray(structure.left, np.int64)
    right = np.asarray(structure.right, np.int64)
    relu = np.asarray(structure.relu, bool)
    spans = np.ones(len(left), np.int64)
    if reader is not None:
        plain = read[(right[read] < 0) & ~relu[read]]
        units = left[plain]
        places = np.stack([parts.group[units], parts.row[units], parts.lag[units]])
        first, sizes = _windows(places, reader[plain], parts.sign[units])
        spans[plain[first]] = sizes
        read = np.union1d(np.setdiff1d(read, plain), plain[first])
    left, right, relu, spans = left[read], right[read], relu[read], spans[read]
    unit_varying = np.array([group.varying for group in parts.groups], bool)[parts.group]
    output_varying = unit_varying[left] | (unit_varying[right] & (right >= 0))
    plans, ordered = [], []
    for half in (False, True):
        places = np.flatnonzero(output_varying == half)
        units = left[places]
        alike = parts.row[units], parts.lag[units], spans[places], parts.group[units]
        keys = (*alike, right[places] >= 0)
        places = places[np.lexsort(keys)]
        ordered.append(read[places])
        own = left[places], right[places], relu[places], spans[places]
        plans.append(_plan_outputs(parts, *own))
    layer = LayerPlan(tuple(groups), drives[0], drives[1], plans[0], plans[1])
    return layer, parts, ordered[0], ordered[1]


def _plan_groups(
    parts: Decomposition, bias: np.ndarray, inputs: np.ndarray, dtype: jnp.dtype
) -> tuple[list[GroupPlan], dict[bool, list[int]]]:
    """Plan the groups of a layer; also lists the units that fixed and varying rows drive."""
    heads: dict[bool, list[int]] = {False: [], True: []}
    groups = []
    for group in parts.groups:
        units = group.members[:, 0]
        drive = counter = None
        steps = bias[units] * parts.sign[units]
        counts = (
            group.kind == "ring"
            and group.members.shape[1] == group.stride == group.sign == 1
            and len(group.sources) == 0
            and not inputs[units].any()
            and are_whole(steps).all()
            and np.abs(steps).max(initial=0) <= _LARGEST_STEP
        )
        if group.driven and counts:
            counter = tuple(steps.astype(int).tolist())
        elif group.driven:
            start = len(heads[group.varying])
            heads[group.varying].extend(units.tolist())
            drive = (start, start + len(units))
        groups.append(_plan_group(group, parts, drive, counter, dtype))
    # A unit without memory is only read later where another unit of the layer reads it.
    for number, planned in enumerate(groups):
        read_later = any(
            piece.group == number
            for other in groups
            for piece in (*other.fixed_reads, *other.varying_reads)
        )
        memory = planned.kind != "feed" or parts.groups[number].members.shape[1] > 1
        groups[number] = dataclasses.replace(planned, remembered=memory or read_later)
    return groups, heads


def _plan_group(
    group: Group,
    parts: Decomposition,
    drive: tuple[int, int] | None,
    counter: tuple[int, ...] | None,
    dtype: jnp.dtype,
) -> GroupPlan:
    """Plan one group: what it reads of other groups, one token ago, and its own kernel."""
    sources = group.sources
    signs = sparse.diags_array(parts.sign[sources].astype(np.float64))
    kernel = sparse.csr_array(signs @ group.source_kernel)
    places = np.stack([parts.group[sources], parts.row[sources], parts.lag[sources] + 1])
    places, kernel = _merge_windows(places, kernel)
    order = np.lexsort((places[1], places[2], places[3], places[0]))  # rows of a lag together
    places, kernel = places[:, order], kernel[order]
    varying = np.array([parts.groups[number].varying for number in places[0]], bool)
    reads, maps = [], []
    for half in (False, True):
        reads.append(pieces(*places[:, varying == half]))
        maps.append(plan_affine(sparse.csc_array(kernel[varying == half]), dtype))
    powers = own = None
    if group.kind == "decay":
        powers = on_device(recurrence.decay_powers(np.asarray(group.kernel)), dtype)
    elif group.kind == "in_order":
        own = plan_affine(sparse.csc_array(group.kernel), dtype)
    return GroupPlan(
        kind=group.kind,
        varying=group.varying,
        rows=len(group.members),
        remembered=True,
        stride=group.stride,
        sign=group.sign,
        drive=drive,
        counter=counter,
        fixed_reads=reads[0],
        varying_reads=reads[1],
        reads=BankAffine(maps[0], maps[1], plan_bias(np.zeros(0), dtype)),
        powers=powers,
        kernel=own,
    )


def _merge_windows(
    places: np.ndarray, kernel: sparse.csr_array
) -> tuple[np.ndarray, sparse.csr_array]:
    """Make one source of the taps of a register that are read alike, as window sums read them.

    Args:
      places: (3, sources), the group, row and lag of each.
      kernel: (sources, rows).

    Returns:
      (4, fewer sources), with the span of each, and its kernel.
    """
    first, sizes = _windows(places, kernel, np.ones(places.shape[1]))
    return np.vstack([places[:, first], sizes]), kernel[first]


def _windows(
    places: np.ndarray, kernel: sparse.csr_array, signs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The taps of registers that are read alike: the first of each such window, and its span.

    Args:
      places: (3, sources), the group, row and lag of each.
      kernel: (sources, rows), what reads them.
      signs: (sources,) of each.
    """
    order = np.lexsort((places[2], places[1], places[0]))
    places, signs = places[:, order], signs[order]
    ordered = sparse.csr_array(kernel[order])
    ordered.sort_indices()
    alike = (np.diff(places) == [[0], [0], [1]]).all(axis=0) & (np.diff(signs) == 0)
    lengths = np.diff(ordered.indptr)
    alike &= lengths[1:] == lengths[:-1]
    # Entry by entry with the row before, of rows that have as many.
    row = np.repeat(np.arange(1, len(order)), np.where(alike, lengths[1:], 0))
    entry = np.flatnonzero(np.repeat(np.append(False, alike)[: len(order)], lengths))
    before = entry - lengths[row]
    differs = ordered.indices[entry] != ordered.indices[before]
    differs |= ordered.data[entry] != ordered.data[before]
    alike[row[differs] - 1] = False
    starts = np.flatnonzero(~np.append(False, alike)[: len(order)])
    return order[starts], np.diff(np.append(starts, len(order)))


def _plan_outputs(
    parts: Decomposition, left: np.ndarray, right: np.ndarray, relu: np.ndarray,
    spans: np.ndarray,
) -> OutputPlan:  # fmt: skip
    """Plan outputs that are in order, products last."""

    def read(units: np.ndarray, spans: np.ndarray | None = None) -> tuple[Piece, ...]:
        return pieces(parts.group[units], parts.row[units], parts.lag[units], spans)

    product = right >= 0
    sign = parts.sign[left] * np.where(product, parts.sign[right], 1)
    return OutputPlan(
        plain=read(left[~product], spans[~product]),
        left=read(left[product]),
        right=read(right[product]),
        sign=tuple(sign.tolist()),
        relu=tuple(relu.tolist()),
    )
