"""How a linear network runs whole sequences, layer by layer and parallel over time.

`run` makes a plan from the numbers of the parameters at hand: closed forms of
`lsrl.backends.linear.recurrence` for the states, gathers or dense products for the rest. It cuts
batch and time into tiles that fit a cache, and carries the states from tile to tile.

Arrays are (rows, batch, time). What does not depend on the inputs (positions, cycles, constants)
is the same for every sequence of a batch, so it is computed once, with batch 1: the *fixed* rows;
the others are the *varying* rows.

Each plan is a pytree: numbers are leaves, everything that shapes the computation is static.
Networks that differ in the numbers only, as in a sweep over noise, share one compilation.
"""

import functools
import operator
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import sparse

from lsrl.backends.linear import recurrence
from lsrl.backends.linear.cell import (
    LayerStructure,
    NetworkStructure,
    Parameters,
    State,
)
from lsrl.backends.network import precision

# ---------------------------------------------------------------- plans

_plan = jax.tree_util.register_dataclass


_STATIC = {"static": True}  # for jax: part of the tree's structure, no leaf


@_plan
@dataclass(frozen=True)
class _Affine:
    """A matrix: `dense` (rows in, rows out), or few entries a column, or some columns each way.

    Attributes:
      index: for gather_mix, or None.
      weight: for gather_mix, or None.
      dense: for mix, or None.
      order: where both are there, puts the gathered columns and then the dense ones in order.
    """

    index: jax.Array | None
    weight: jax.Array | None
    dense: jax.Array | None
    order: jax.Array | None

    def __call__(self, rows: jax.Array) -> jax.Array:
        """(rows in, ...) -> (rows out, ...)."""
        parts = []
        if self.index is not None and self.weight is not None:
            parts.append(recurrence.gather_mix(self.index, self.weight, rows))
        if self.dense is not None:
            parts.append(recurrence.mix(self.dense, rows))
        if self.order is None:
            return parts[0]
        return jnp.concatenate(parts).at[self.order].get(mode="promise_in_bounds")


def _plan_affine(matrix: sparse.csc_array, dtype: jnp.dtype) -> _Affine | None:
    """Choose how to multiply by a matrix; None if it is zero.

    The costs are nanoseconds for one output row at one position, fitted on a CPU: a dense product
    takes about 0.30 + 0.006 n for n rows in, gathering k entries a column 0.20 + 0.08 k.
    """
    if matrix.nnz == 0:
        return None
    counts = np.diff(matrix.indptr)
    dense_cost = 0.30 + 0.006 * matrix.shape[0]
    long = 0.20 + 0.08 * counts > dense_cost
    if long.any() and (dense_cost < 0.5 or long.mean() > 0.5):
        long[:] = True  # one way is less work than two
    index = weight = dense = order = None
    if not long.all():
        entries = recurrence.columns(sparse.csc_array(matrix[:, ~long]))
        index, weight = jnp.asarray(entries[0]), jnp.asarray(entries[1], dtype)
    if long.any():
        dense = jnp.asarray(matrix[:, long].toarray(), dtype)
        if not long.all():
            # The places of the columns, were they sorted: gathered first, then dense.
            order = jnp.asarray(np.argsort(np.argsort(long, kind="stable")), jnp.int32)
    return _Affine(index, weight, dense, order)


@dataclass(frozen=True)
class _Piece:
    """Rows of one group, each some tokens behind.

    Attributes:
      group: number of the group in the layer.
      rows: of the group.
      lags: one for all rows, or one a row.
      span: more than 1 stands for the sum over so many tokens, the last `lags` behind.
    """

    group: int
    rows: range | tuple[int, ...]
    lags: int | tuple[int, ...]
    span: int = 1


class _Track:
    """The values of a group in one chunk.

    Attributes:
      sequence: (rows, b, t), the heads.
      history: (rows, b, history), the heads before the chunk, oldest first.
    """

    def __init__(self, sequence: jax.Array, history: jax.Array) -> None:
        self.sequence = sequence
        self.history = history
        self._padded: jax.Array | None = None

    @property
    def padded(self) -> jax.Array:
        """(rows, b, history + t)."""
        if self._padded is None:
            self._padded = jnp.concatenate([self.history, self.sequence], axis=-1)
        return self._padded

    def read(self, piece: _Piece) -> jax.Array:
        """(rows of the piece, b, t)."""
        tokens, history = self.sequence.shape[-1], self.history.shape[-1]
        if not isinstance(piece.lags, int):
            rows = jnp.asarray(piece.rows, jnp.int32)
            starts = history - jnp.asarray(piece.lags, jnp.int32)
            shape = (self.sequence.shape[1], tokens)

            def window(row: jax.Array, start: jax.Array) -> jax.Array:
                corner = (row, jnp.zeros_like(row), start)
                return lax.dynamic_slice(self.padded, corner, (1, *shape))[0]

            return jax.vmap(window)(rows, starts)
        values = self.sequence
        if piece.lags or piece.span > 1:
            start = history - piece.lags - piece.span + 1
            values = self.padded[..., start : start + tokens + piece.span - 1]
        if isinstance(piece.rows, range):
            values = values[piece.rows.start : piece.rows.stop]
        else:
            values = values.at[np.asarray(piece.rows)].get(mode="promise_in_bounds")
        return recurrence.window_sum(values, piece.span) if piece.span > 1 else values


_WINDOWS = 8  # beyond this many slices of a group, one gather compiles faster


def _pieces(
    group: np.ndarray, row: np.ndarray, lag: np.ndarray, span: np.ndarray | None = None
) -> tuple[_Piece, ...]:
    """Describe how to stack rows, in the order given."""
    if len(group) == 0:
        return ()
    span = np.ones_like(lag) if span is None else span
    pieces = []
    for run in _runs(group, span):
        same_lag = [run[part] for part in _runs(lag[run])]
        number, tokens = int(group[run[0]]), int(span[run[0]])
        if len(same_lag) > _WINDOWS and tokens == 1:
            pieces.append(_Piece(number, tuple(row[run].tolist()), tuple(lag[run].tolist())))
            continue
        for part in same_lag:
            rows: range | tuple[int, ...] = tuple(row[part].tolist())
            if rows == tuple(range(rows[0], rows[0] + len(rows))):
                rows = range(rows[0], rows[0] + len(rows))
            pieces.append(_Piece(number, rows, int(lag[part[0]]), tokens))
    return tuple(pieces)


def _runs(*keys: np.ndarray) -> list[np.ndarray]:
    """Cut places 0, 1, … where any key changes."""
    changes = np.zeros(len(keys[0]) - 1, bool)
    for key in keys:
        changes |= np.diff(key) != 0
    return np.split(np.arange(len(keys[0])), np.flatnonzero(changes) + 1)


def _stack(tracks: Sequence[_Track], pieces: Sequence[_Piece], batch: int) -> jax.Array:
    """(rows of all pieces, batch, t)."""
    parts = []
    for piece in pieces:
        values = tracks[piece.group].read(piece)
        parts.append(jnp.broadcast_to(values, (values.shape[0], batch, values.shape[2])))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


@dataclass(frozen=True)
class _Bank:
    """What a layer hands to the next: (rows, 1, t) and (rows, batch, t), or None for no rows."""

    fixed: jax.Array | None
    varying: jax.Array | None


@_plan
@dataclass(frozen=True)
class _BankAffine:
    """An affine map of a bank."""

    fixed: _Affine | None
    varying: _Affine | None
    bias: jax.Array | None  # (rows out, 1, 1)

    def __call__(self, bank: _Bank) -> jax.Array | None:
        """(rows out, 1 or batch, 1 or t); None if it is zero."""
        total = self.bias
        for affine, rows in ((self.fixed, bank.fixed), (self.varying, bank.varying)):
            if affine is not None and rows is not None:
                term = affine(rows)
                total = term if total is None else total + term
        return total


@_plan
@dataclass(frozen=True)
class _GroupPlan:
    """One group of recurrence.Decomposition."""

    kind: recurrence.Kind = field(metadata=_STATIC)
    varying: bool = field(metadata=_STATIC)
    rows: int = field(metadata=_STATIC)
    stride: int = field(metadata=_STATIC)
    sign: int = field(metadata=_STATIC)
    drive: tuple[int, int] | None = field(metadata=_STATIC)  # its rows in the layer's drive
    fixed_reads: tuple[_Piece, ...] = field(metadata=_STATIC)
    varying_reads: tuple[_Piece, ...] = field(metadata=_STATIC)
    reads: _BankAffine
    powers: jax.Array | None  # of a decay
    kernel: _Affine | None  # of an in-order group

    @property
    def num_reads(self) -> int:
        """Rows that it reads of other groups."""
        return sum(len(piece.rows) for piece in (*self.fixed_reads, *self.varying_reads))

    def __call__(
        self,
        drive: jax.Array | None,
        tracks: Sequence[_Track],
        history: jax.Array,
        batch: int,
        tokens: int,
        rounded: Callable[[jax.Array], jax.Array],
    ) -> _Track:
        """Run a chunk; see _Track."""
        inputs = None
        if drive is not None and self.drive is not None:
            inputs = drive[slice(*self.drive)]
        read = self.reads(
            _Bank(
                _stack(tracks, self.fixed_reads, 1) if self.fixed_reads else None,
                _stack(tracks, self.varying_reads, batch) if self.varying_reads else None,
            )
        )
        if read is not None:
            inputs = read if inputs is None else inputs + read
        shape = (self.rows, batch if self.varying else 1, tokens)
        if inputs is None and self.kind == "ring":
            sequence = recurrence.periodic(history[..., -self.stride :], self.sign, tokens)
            return _Track(jnp.broadcast_to(sequence, shape), history)
        if inputs is None:
            inputs = jnp.zeros(shape, history.dtype)
        inputs = jnp.broadcast_to(inputs, shape)
        if self.kind == "feed":
            sequence = inputs
        elif self.kind == "ring":
            count = min(self.stride, tokens)
            start = history.shape[-1] - self.stride
            carried = self.sign * history[..., start : start + count]
            sequence = recurrence.strided_sum(_add_first(inputs, carried), self.stride, self.sign)
        elif self.kind == "decay" and self.powers is not None:
            carried = history[..., -1:] * self.powers[0, :, 0, 1][:, None, None]
            sequence = recurrence.decaying_sum(_add_first(inputs, carried), self.powers)
        elif self.kind == "rotation":
            sequence = recurrence.rotation(inputs, history, self.sign)
        else:
            advance = self.kernel if self.kernel is not None else jnp.zeros_like
            sequence = recurrence.in_order(inputs, history, advance, rounded)
        return _Track(rounded(sequence), history)


def _add_first(inputs: jax.Array, carried: jax.Array) -> jax.Array:
    """Add to the first tokens."""
    missing = inputs.shape[-1] - carried.shape[-1]
    return inputs + jnp.pad(carried, [(0, 0), (0, 0), (0, missing)])


@_plan
@dataclass(frozen=True)
class _OutputPlan:
    """Outputs of a layer that the next one reads: plain ones first, then products."""

    plain: tuple[_Piece, ...] = field(metadata=_STATIC)
    left: tuple[_Piece, ...] = field(metadata=_STATIC)
    right: tuple[_Piece, ...] = field(metadata=_STATIC)
    sign: jax.Array | None  # (rows, 1, 1), None if all are 1
    floor: jax.Array | None  # (rows, 1, 1): 0 for a ReLU, -inf for none; None if there is no ReLU

    def __call__(
        self, tracks: Sequence[_Track], batch: int, rounded: Callable[[jax.Array], jax.Array]
    ) -> jax.Array | None:
        """(rows, batch, t); None for no rows."""
        parts = [_stack(tracks, self.plain, batch)] if self.plain else []
        if self.left:
            left = _stack(tracks, self.left, batch)
            parts.append(rounded(left * _stack(tracks, self.right, batch)))
        if not parts:
            return None
        values = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
        if self.sign is not None:
            values = values * self.sign
        if self.floor is not None:
            values = jnp.maximum(values, self.floor)
        return values


@_plan
@dataclass(frozen=True)
class _LayerPlan:
    """One layer: the drive of its groups, the groups, the outputs that are read."""

    groups: tuple[_GroupPlan, ...]
    fixed_drive: _BankAffine
    varying_drive: _BankAffine
    fixed_outputs: _OutputPlan
    varying_outputs: _OutputPlan

    def __call__(
        self,
        bank: _Bank,
        carry: tuple[jax.Array, ...],
        batch: int,
        tokens: int,
        valid: jax.Array,
        rounded: Callable[[jax.Array], jax.Array],
    ) -> tuple[_Bank, tuple[jax.Array, ...]]:
        """Run a chunk; carry holds per group (rows, 1 or batch, history)."""
        drives = {False: self.fixed_drive(bank), True: self.varying_drive(bank)}
        tracks: list[_Track] = []
        after = []
        for group, history in zip(self.groups, carry, strict=True):
            drive = drives[group.varying]
            tracks.append(group(drive, tracks, history, batch, tokens, rounded))
            if history.shape[-1] == 1:
                last = lax.dynamic_slice_in_dim(tracks[-1].sequence, valid - 1, 1, axis=-1)
            else:
                last = lax.dynamic_slice_in_dim(
                    tracks[-1].padded, valid, history.shape[-1], axis=-1
                )
            after.append(last)
        outputs = _Bank(
            self.fixed_outputs(tracks, 1, rounded), self.varying_outputs(tracks, batch, rounded)
        )
        return outputs, tuple(after)


@_plan
@dataclass(frozen=True)
class _FeaturePlan:
    """Features of the input map that read the same inputs.

    Attributes:
      inputs: at least one program input, by number.
      maps: of each, a table (rows, vocabulary) or a kernel.
      bias: (rows, 1, 1), or None for zero.
    """

    inputs: tuple[int, ...] = field(metadata=_STATIC)
    maps: tuple[jax.Array | _Affine | None, ...]
    bias: jax.Array | None

    def __call__(self, inputs: Sequence[Any]) -> jax.Array:
        """(rows, batch, t)."""
        terms = []
        for number, feature_map in zip(self.inputs, self.maps, strict=True):
            signal = inputs[number]
            if isinstance(feature_map, _Affine):
                terms.append(feature_map(jnp.moveaxis(signal, -1, 0)))
            elif feature_map is not None:
                terms.append(jnp.take(feature_map, signal, axis=1, mode="clip"))
        total = functools.reduce(operator.add, terms)
        return total if self.bias is None else total + self.bias


@_plan
@dataclass(frozen=True)
class _NetworkPlan:
    """A whole network."""

    structure: NetworkStructure = field(metadata=_STATIC)
    num_outputs: int = field(metadata=_STATIC)
    constants: jax.Array | None  # (rows, 1, 1), features that read no input
    features: tuple[_FeaturePlan, ...]
    layers: tuple[_LayerPlan, ...]
    output: _BankAffine

    def __call__(
        self,
        carry: tuple[tuple[jax.Array, ...], ...],
        inputs: tuple[jax.Array | None, ...],
        valid: jax.Array,
        batch: int,
        tokens: int,
    ) -> tuple[jax.Array, tuple[tuple[jax.Array, ...], ...]]:
        """Run a chunk of which `valid` tokens count: (batch, tokens, outputs) and the carry."""
        rounded, compute = self.structure.rounded, self.structure.compute_dtype
        signals = tuple(
            rounded(signal.astype(compute)) if kind == "kernel" and signal is not None else signal
            for kind, signal in zip(self.structure.inputs, inputs, strict=True)
        )
        rows = [rounded(feature(signals)) for feature in self.features]
        constants = self.constants
        if constants is not None:
            constants = jnp.broadcast_to(constants, (constants.shape[0], 1, tokens))
        bank = _Bank(constants, jnp.concatenate(rows) if rows else None)
        after = []
        for layer, layer_carry in zip(self.layers, carry, strict=True):
            bank, carried = layer(bank, layer_carry, batch, tokens, valid, rounded)
            after.append(carried)
        zeros = jnp.zeros((self.num_outputs, batch, tokens), compute)
        values = self.output(bank)
        values = zeros if values is None else rounded(jnp.broadcast_to(values, zeros.shape))
        return jnp.moveaxis(values, 0, -1).astype(self.structure.dtype), tuple(after)


# ---------------------------------------------------------------- planning


@dataclass(frozen=True)
class Prepared:
    """A plan, and what it takes to feed it.

    Attributes:
      plan: for jit.
      layers: the decomposition of each layer.
      starts: initial state of each layer (1, hidden), compute dtype.
      width: most rows of any stack, which bounds the memory of a chunk.
    """

    plan: _NetworkPlan
    layers: tuple[recurrence.Decomposition, ...]
    starts: tuple[np.ndarray, ...]
    width: int
    _first: dict[int, Any] = field(default_factory=dict)

    def first_carry(self, batch: int) -> Any:
        """The carry before the first token, on the device."""
        if batch not in self._first:
            carry = self.carry(self.starts, batch)
            self._first[batch] = jax.tree.map(jnp.asarray, carry)
        return self._first[batch]

    def carry(self, state: Sequence[np.ndarray], batch: int) -> tuple[tuple[np.ndarray, ...], ...]:
        """Turn per layer (at most batch, hidden) into per group (rows, 1 or batch, history)."""
        carry = []
        for layer, values in zip(self.layers, state, strict=True):
            histories = []
            for group in layer.groups:
                heads = (values[:, group.members] * layer.sign[group.members]).astype(values.dtype)
                # The fixed rows need one sequence; else the first one also fills up the batch.
                count = batch if group.varying else 1
                heads = heads[np.minimum(np.arange(count), len(heads) - 1)]
                histories.append(np.moveaxis(heads[:, :, ::-1], 0, 1))
            carry.append(tuple(histories))
        return tuple(carry)

    def state(self, carry: Sequence[Sequence[np.ndarray]], batch: int) -> tuple[np.ndarray, ...]:
        """Undo `carry`."""
        states = []
        for layer, groups in zip(self.layers, carry, strict=True):
            values = np.zeros((batch, len(layer.group)), self.plan.structure.compute_dtype)
            for group, history in zip(layer.groups, groups, strict=True):
                heads = np.moveaxis(np.asarray(history)[:, :, ::-1], 1, 0)
                values[:, group.members] = heads * layer.sign[group.members]
            states.append(values)
        return tuple(states)


def prepare(parameters: Parameters, structure: NetworkStructure, uniform: bool) -> Prepared:
    """Plan the runs of a network with these parameters.

    Args:
      parameters: concrete, by flat name.
      structure: of the network.
      uniform: every sequence starts in the same state, so that fixed rows exist.

    Returns:
      The plan.
    """
    dtype = structure.compute_dtype

    def vector(name: str) -> np.ndarray:
        return np.asarray(parameters[name]).astype(np.float64)

    def matrix(name: str) -> sparse.csr_array:
        values = np.asarray(parameters[name])
        if values.dtype == jnp.bfloat16:
            values = values.astype(np.float32)
        rows, places = np.nonzero(values)
        entries = values[rows, places].astype(np.float64)
        return sparse.csr_array((entries, (rows, places)), shape=values.shape)

    kernels = [matrix(f"layers.{i}.input_kernel") for i in range(len(structure.layers))]
    kernels.append(matrix("output_kernel"))
    features = np.flatnonzero(np.diff(kernels[0].indptr))
    constants, feature_plans, fixed, varying = _plan_features(
        features, structure, matrix, vector("input_bias"), dtype
    )
    layers, decompositions, starts = [], [], []
    width = len(fixed) + len(varying)
    for number, layer in enumerate(structure.layers):
        name = f"layers.{number}."
        starts.append(vector(name + "initial_state").astype(dtype)[None])
        read = np.flatnonzero(np.diff(kernels[number + 1].indptr))
        plan, decomposition, fixed, varying = _plan_layer(
            kernels[number],
            matrix(name + "recurrent_kernel"),
            vector(name + "bias"),
            layer,
            (fixed, varying),
            read,
            uniform,
            dtype,
        )
        layers.append(plan)
        decompositions.append(decomposition)
        heads = sum(len(group.members) for group in decomposition.groups)
        # Reads of a register can be more than the units of the layer.
        reads = max((group.num_reads for group in plan.groups), default=0)
        width = max(width, heads, reads, len(fixed) + len(varying))
    bias = vector("output_bias")
    output = _plan_drive(kernels[-1].tocsc(), bias, (fixed, varying), dtype)
    network = _NetworkPlan(structure, len(bias), constants, feature_plans, tuple(layers), output)
    return Prepared(network, tuple(decompositions), tuple(starts), width)


def _plan_features(
    features: np.ndarray,
    structure: NetworkStructure,
    matrix: Callable[[str], sparse.csr_array],
    bias: np.ndarray,
    dtype: jnp.dtype,
) -> tuple[jax.Array | None, tuple[_FeaturePlan, ...], np.ndarray, np.ndarray]:
    """Plan the input map; also lists which features its fixed and its varying rows are."""
    maps = {
        number: matrix(f"inputs.{number}.{kind}").tocsc()[:, features]
        for number, kind in enumerate(structure.inputs)
        if kind
    }
    # Features that read the same inputs go together; usually each reads one.
    counts = {number: np.diff(columns.indptr) for number, columns in maps.items()}
    readers: dict[tuple[int, ...], list[int]] = {}
    for place in range(len(features)):
        read = tuple(number for number, entries in counts.items() if entries[place])
        readers.setdefault(read, []).append(place)
    constant = readers.pop((), [])
    plans = []
    for numbers, places in readers.items():
        feature_maps: list[jax.Array | _Affine | None] = []
        for number in numbers:
            columns = sparse.csc_array(maps[number][:, places])
            if structure.inputs[number] == "table":
                feature_maps.append(jnp.asarray(columns.toarray().T, dtype))
            else:
                feature_maps.append(_plan_affine(columns, dtype))
        plans.append(
            _FeaturePlan(numbers, tuple(feature_maps), _column(bias[features[places]], dtype))
        )
    fixed = features[constant]
    varying = features[[place for places in readers.values() for place in places]]
    constants = jnp.asarray(bias[fixed][:, None, None], dtype) if len(fixed) else None
    return constants, tuple(plans), fixed, varying


def _plan_layer(
    kernel: sparse.csr_array,
    recurrent: sparse.csr_array,
    bias: np.ndarray,
    structure: LayerStructure,
    bank: tuple[np.ndarray, np.ndarray],
    read: np.ndarray,
    uniform: bool,
    dtype: jnp.dtype,
) -> tuple[_LayerPlan, recurrence.Decomposition, np.ndarray, np.ndarray]:
    """Plan a layer, given the rows of the bank before; also lists those of the bank after."""
    by_unit = kernel.tocsc()
    driven = (np.diff(by_unit.indptr) > 0) | (bias != 0)
    varying = np.ones(len(bias), bool)
    if uniform:
        varying = np.diff(kernel[bank[1]].tocsc().indptr) > 0
    parts = recurrence.decompose(recurrent, driven, varying)

    heads: dict[bool, list[int]] = {False: [], True: []}
    groups = []
    for group in parts.groups:
        units = group.members[:, 0]
        drive = None
        if group.driven:
            start = len(heads[group.varying])
            heads[group.varying].extend(units.tolist())
            drive = (start, start + len(units))
        groups.append(_plan_group(group, parts, drive, dtype))
    drives = []
    for half in (False, True):
        units = np.array(heads[half], np.int64)
        signs = parts.sign[units]
        columns = sparse.csc_array(by_unit[:, units] @ sparse.diags_array(signs.astype(float)))
        drives.append(_plan_drive(columns, bias[units] * signs, bank, dtype))

    left = np.asarray(structure.left, np.int64)[read]
    right = np.asarray(structure.right, np.int64)[read]
    relu = np.asarray(structure.relu, bool)[read]
    unit_varying = np.array([group.varying for group in parts.groups], bool)[parts.group]
    output_varying = unit_varying[left] | (unit_varying[right] & (right >= 0))
    plans, ordered = [], []
    for half in (False, True):
        places = np.flatnonzero(output_varying == half)
        units = left[places]
        keys = (parts.row[units], parts.lag[units], parts.group[units], right[places] >= 0)
        places = places[np.lexsort(keys)]
        ordered.append(read[places])
        plans.append(_plan_outputs(parts, left[places], right[places], relu[places], dtype))
    return (
        _LayerPlan(tuple(groups), drives[0], drives[1], plans[0], plans[1]),
        parts,
        ordered[0],
        ordered[1],
    )


def _plan_group(
    group: recurrence.Group,
    parts: recurrence.Decomposition,
    drive: tuple[int, int] | None,
    dtype: jnp.dtype,
) -> _GroupPlan:
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
        reads.append(_pieces(*places[:, varying == half]))
        maps.append(_plan_affine(sparse.csc_array(kernel[varying == half]), dtype))
    powers = own = None
    if group.kind == "decay":
        powers = jnp.asarray(recurrence.decay_powers(np.asarray(group.kernel)), dtype)
    elif group.kind == "in_order":
        own = _plan_affine(sparse.csc_array(group.kernel), dtype)
    return _GroupPlan(
        kind=group.kind,
        varying=group.varying,
        rows=len(group.members),
        stride=group.stride,
        sign=group.sign,
        drive=drive,
        fixed_reads=reads[0],
        varying_reads=reads[1],
        reads=_BankAffine(maps[0], maps[1], None),
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
    order = np.lexsort((places[2], places[1], places[0]))
    places, kernel = places[:, order], kernel[order]
    kernel.sort_indices()
    starts: list[int] = []
    spans: list[int] = []
    for number in range(len(order)):
        here = slice(kernel.indptr[number], kernel.indptr[number + 1])
        if starts:
            before = slice(kernel.indptr[number - 1], kernel.indptr[number])
            if (
                (places[:, number] - places[:, number - 1] == [0, 0, 1]).all()
                and np.array_equal(kernel.indices[here], kernel.indices[before])
                and np.array_equal(kernel.data[here], kernel.data[before])
            ):
                spans[-1] += 1
                continue
        starts.append(number)
        spans.append(1)
    return np.vstack([places[:, starts], np.array([spans], np.int64)]), kernel[starts]


def _plan_drive(
    columns: sparse.csc_array,
    bias: np.ndarray,
    bank: tuple[np.ndarray, np.ndarray],
    dtype: jnp.dtype,
) -> _BankAffine:
    """Plan an affine map of a bank whose rows are the given rows of the kernel."""
    by_row = columns.tocsr()
    fixed, varying = (_plan_affine(sparse.csc_array(by_row[rows]), dtype) for rows in bank)
    return _BankAffine(fixed, varying, _column(bias, dtype))


def _plan_outputs(
    parts: recurrence.Decomposition,
    left: np.ndarray,
    right: np.ndarray,
    relu: np.ndarray,
    dtype: jnp.dtype,
) -> _OutputPlan:
    """Plan outputs that are in order, products last."""

    def pieces(units: np.ndarray) -> tuple[_Piece, ...]:
        return _pieces(parts.group[units], parts.row[units], parts.lag[units])

    product = right >= 0
    sign = parts.sign[left] * np.where(product, parts.sign[right], 1)
    floor = np.where(relu, 0.0, -np.inf)[:, None, None]
    return _OutputPlan(
        plain=pieces(left[~product]),
        left=pieces(left[product]),
        right=pieces(right[product]),
        sign=None if (sign == 1).all() else jnp.asarray(sign[:, None, None], dtype),
        floor=jnp.asarray(floor, dtype) if relu.any() else None,
    )


def _column(values: np.ndarray, dtype: jnp.dtype) -> jax.Array | None:
    return jnp.asarray(values[:, None, None], dtype) if values.any() else None


# ---------------------------------------------------------------- chunks


def _run_chunk(
    plan: _NetworkPlan,
    carry: tuple[tuple[jax.Array, ...], ...],
    inputs: tuple[jax.Array | None, ...],
    valid: jax.Array,
    batch: int,
    tokens: int,
) -> tuple[jax.Array, tuple[tuple[jax.Array, ...], ...]]:
    return plan(carry, inputs, valid, batch, tokens)


_SHAPE = ("batch", "tokens")
_chunk = jax.jit(_run_chunk, static_argnames=_SHAPE)
# Operations of a chunk are too small to share among threads; whole chunks are not. Measured on 2
# cores: 13 million tokens a second with a chunk on each, 7 with both cores on one chunk.
_chunk_on_one_core = jax.jit(
    _run_chunk,
    static_argnames=_SHAPE,
    compiler_options={"xla_cpu_multi_thread_eigen": False},
)

_CPU_VALUES = 2**18  # rows * batch * tokens of a stack: about the second-level cache
_ACCELERATOR_VALUES = 2**26
_LEAST_TOKENS = 512  # prefer fewer sequences a chunk to fewer tokens
_MOST_TOKENS = recurrence.BLOCK**recurrence.DECAY_LEVELS


def _bucket(count: int, least: int = 1) -> int:
    """Round up to one of four sizes an octave, so that few shapes are ever compiled."""
    count = max(count, least)
    step = 1 << max(count.bit_length() - 3, 0)
    return -(-count // step) * step


@dataclass(frozen=True)
class _Tiling:
    """How a run is cut: `rows` sequences and `tokens` tokens at a time, on `threads` threads."""

    rows: int
    tokens: int
    threads: int


def _tile(batch: int, tokens: int, width: int, chunk: int | None) -> _Tiling:
    on_cpu = jax.default_backend() == "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = min(cores or 1, batch) if on_cpu else 1
    share = -(-batch // threads)
    values = _CPU_VALUES if on_cpu else _ACCELERATOR_VALUES
    positions = max(values // max(width, 1), 2048)
    longest = chunk or min(max(positions // share, _LEAST_TOKENS), _MOST_TOKENS)
    longest = min(longest, tokens, _MOST_TOKENS)
    count = -(-tokens // longest)
    length = longest if chunk else _bucket(-(-tokens // count), least=16)
    rows = min(max(positions // length, 1), share)
    rows = _bucket(-(-share // -(-share // rows)))
    return _Tiling(rows, length, threads)


class PlanCache:
    """Plans for the parameters that a module last ran with.

    Plans follow from the parameters, so for flax every cache is equal: a module with another one is
    the same module.

    Attributes:
      parameters: the very arrays that the plans are for.
      plans: by `uniform`.
    """

    def __init__(self) -> None:
        self.parameters: Parameters = {}
        self.plans: dict[bool, Prepared] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlanCache)

    def __hash__(self) -> int:
        return hash(PlanCache)

    def __deepcopy__(self, memo: object) -> "PlanCache":
        return PlanCache()

    def find(self, parameters: Parameters, structure: NetworkStructure, uniform: bool) -> Prepared:
        """Plan anew if any parameter is another array than last time.

        Args:
          parameters: concrete, by flat name. Arrays of jax never change in place; if any is another
            array, plans are not kept.
          structure: of the network.
          uniform: every sequence starts in the same state.

        Returns:
          The plan.
        """
        known = self.parameters
        if known.keys() != parameters.keys() or any(
            value is not known[name] or not isinstance(value, jax.Array)
            for name, value in parameters.items()
        ):
            self.parameters, self.plans = parameters, {}
        if uniform not in self.plans:
            self.plans[uniform] = prepare(parameters, structure, uniform)
        return self.plans[uniform]


def run_tiles(
    prepared: Prepared,
    inputs: Sequence[Any],
    state: State | None,
    chunk: int | None,
    with_state: bool,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Run whole sequences.

    Args:
      prepared: the plan.
      inputs: per program input, ids (batch, time) or vectors (batch, time, width).
      state: per layer (batch, hidden); None for the initial state.
      chunk: most tokens at a time, or None.
      with_state: whether the last state is wanted.

    Returns:
      (batch, time, outputs), and per layer (batch, hidden) if wanted, else nothing.
    """
    plan, structure = prepared.plan, prepared.plan.structure
    batch, tokens = np.shape(inputs[0])[:2]
    outputs = np.empty((batch, tokens, plan.num_outputs), jnp.dtype(structure.dtype))
    starts = prepared.starts
    if state is not None:
        # Without layers a state only tells the batch.
        layers = state[: len(structure.layers)]
        starts = tuple(np.asarray(values).astype(structure.compute_dtype) for values in layers)
    finals = [np.broadcast_to(start, (batch, start.shape[1])).copy() for start in starts]
    if batch == 0 or tokens == 0:
        return outputs, finals
    tiling = _tile(batch, tokens, prepared.width, chunk)
    function = _chunk_on_one_core if tiling.threads > 1 else _chunk
    # What is not read is not sent.
    arrays = [
        np.asarray(x) if kind else None for x, kind in zip(inputs, structure.inputs, strict=True)
    ]
    first = prepared.first_carry(tiling.rows) if state is None else None

    def cut(array: np.ndarray | None, row: int, time: int) -> np.ndarray | None:
        if array is None:
            return None
        part = array[row : row + tiling.rows, time : time + tiling.tokens]
        missing = [(0, tiling.rows - part.shape[0]), (0, tiling.tokens - part.shape[1])]
        if missing != [(0, 0), (0, 0)]:
            part = np.pad(part, missing + [(0, 0)] * (part.ndim - 2))
        integral = np.issubdtype(part.dtype, np.integer)
        return part.astype(np.int32 if integral else structure.compute_dtype, copy=False)

    def store(row: int, time: int, values: jax.Array) -> None:
        place = outputs[row : row + tiling.rows, time : time + tiling.tokens]
        place[...] = np.asarray(values)[: place.shape[0], : place.shape[1]]

    def run_rows(row: int) -> None:
        rows = slice(row, row + tiling.rows)
        carry: Any = first
        if carry is None:
            carry = prepared.carry([start[rows] for start in starts], tiling.rows)
        waiting = None
        with precision(structure.dtype):
            for time in range(0, tokens, tiling.tokens):
                valid = np.int32(min(tiling.tokens, tokens - time))
                parts = tuple(cut(array, row, time) for array in arrays)
                values, carry = function(
                    plan, carry, parts, valid, batch=tiling.rows, tokens=tiling.tokens
                )
                # Fetch a chunk while the next one runs.
                if waiting is not None:
                    store(*waiting)
                waiting = row, time, values
            if waiting is not None:
                store(*waiting)
        if with_state:
            for final, last in zip(finals, prepared.state(carry, tiling.rows), strict=True):
                final[rows] = last[: len(final[rows])]

    starting_rows = range(0, batch, tiling.rows)
    if tiling.threads == 1:
        for row in starting_rows:
            run_rows(row)
    else:
        with ThreadPoolExecutor(tiling.threads) as pool:
            list(pool.map(run_rows, starting_rows))
    return outputs, finals if with_state else []
