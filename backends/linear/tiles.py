"""Runs of whole sequences: batch and time in tiles that fit a cache, states from tile to tile.

A tile's time is cut into segments that run side by side, so that there are enough values for a step
of a loop even where the batch is small.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from lsrl.backends import buckets, xla
from lsrl.backends.linear import recurrence
from lsrl.backends.linear.cell import Hidden, NetworkStructure, Parameters
from lsrl.backends.linear.layers import Handed, Shape
from lsrl.backends.linear.plan import Extent, Form, GroupCarry, NetworkPlan, Prepared, prepare
from lsrl.backends.network import Inputs, precision

# ---------------------------------------------------------------- chunks


def _run_chunk(
    form: Form,
    numbers: Sequence[jax.Array],
    carry: tuple[tuple[jax.Array, ...], ...],
    inputs: tuple[jax.Array | None, ...],
    valid: jax.Array,
    shape: Shape,
    handed: Handed,
) -> tuple[jax.Array, tuple[tuple[jax.Array, ...], ...]]:
    """Run a chunk of a plan that is taken apart into its form and its numbers.

    Args:
      form: of the plan.
      numbers: of the plan.
      carry: of the chunk before.
      inputs: per program input ids or vectors, or None if it is not read: (t * 1 or width, s, b) if
        time is first, without axes s and b of one place, else (b, time) or (b, time, width).
      valid: tokens of the chunk that count.
      shape: of the chunk.
      handed: to the next chunk.

    Returns:
      (t * outputs, s, b) or (b, time, outputs), and the carry.
    """
    plan: NetworkPlan = jax.tree.unflatten(form.tree, numbers)

    def turn(signal: jax.Array) -> jax.Array:
        if shape.time_first:
            cut = signal.reshape(shape.tokens, -1, shape.segments, shape.batch)
            return jnp.transpose(cut, (1, 0, 2, 3))
        cut = signal.reshape(shape.batch, shape.segments, shape.tokens, -1)
        over = partial(jnp.transpose, cut, (3, 2, 1, 0))
        # Worked out once, rather than wherever a value is read; one segment takes no work.
        return over() if shape.segments == 1 else recurrence.kept(over, valid > 0)

    values, after = plan(carry, jax.tree.map(turn, inputs), valid, shape, handed)
    if shape.time_first:
        values = jnp.transpose(values, (1, 0, 2, 3))
        return values.reshape(-1, shape.segments, shape.batch), after
    over = partial(jnp.transpose, values, (3, 2, 1, 0))
    turned = over() if shape.segments == 1 else recurrence.kept(over, valid > 0)
    return turned.reshape(shape.batch, shape.length, -1), after


# So many layers are many operations, which threads may share; else whole chunks are shared.
_MANY_LAYERS = 6


# Of numbers, carry, inputs and how many tokens count.
_Chunk = Callable[..., tuple[jax.Array, GroupCarry]]


@lru_cache(maxsize=1024)
def _compiled(form: Form, shape: Shape, handed: Handed, on_one_core: bool) -> _Chunk:
    """Chunks of a form and a shape, jitted. To call a jit with static arguments takes longer."""
    run = partial(_run_chunk, form, shape=shape, handed=handed)
    return jax.jit(run, compiler_options=xla.understood(xla.ON_ONE_CORE) if on_one_core else None)


# ---------------------------------------------------------------- tiles

# Rows * batch * tokens of a stack. Half as many take up to 1.3 times as long: 256 × 1,000 tokens
# are then filled up to more, and twice as many arrays are made.
_CPU_VALUES = 2**20
_ACCELERATOR_VALUES = 2**26
# A step of a loop on a CPU costs as much as to add up some hundred values; on an accelerator, more.
_CPU_LANES = 272
_CONFLICT = 128  # of which lanes are better no multiple
_ACCELERATOR_LANES = 2**16
_LEAST_TOKENS = 128  # prefer fewer sequences a chunk to fewer tokens
_MOST_VALUES = 2**25  # rows * batch * tokens of a very wide stack
_LEAST_SHARED = 2**20  # rows * batch * tokens: for fewer, a second thread costs more than it saves
_LEAST_SEGMENT = 16
_LONG_SEGMENT = 64


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1024)
def _tile(
    batch: int, tokens: int, chunk: int | None, extent: Extent, cores: int
) -> tuple[Shape, int]:
    """Cut a run: the shape of its chunks, and how many threads; on an accelerator `cores` is 0.

    Where time is first, the host turns arrays over: numpy is faster at it than XLA is on a CPU.
    """
    on_cpu = cores > 0
    time_first = on_cpu and extent.loops
    several = on_cpu and batch * tokens * extent.width >= _LEAST_SHARED
    # Two of them are often one core that runs two threads, which is then shared with XLA's own.
    threads = min(max(cores // 2, 1), batch) if several else 1
    share = -(-batch // threads)
    values = _CPU_VALUES if on_cpu else _ACCELERATOR_VALUES
    lanes = _CPU_LANES if on_cpu else _ACCELERATOR_LANES
    width = max(extent.width, 1)
    positions = max(values // width, min(2048, max(_MOST_VALUES // width, _LEAST_TOKENS)))
    longest = chunk or max(positions // share, _LEAST_TOKENS)
    longest = min(longest, tokens, recurrence.MOST_TOKENS)
    rows = min(max(positions // longest, 1), share)
    rows = buckets.eighth(-(-share // -(-share // rows)))
    segments = 1
    if extent.segments and extent.loops:
        segments = max(min(lanes // rows, longest // max(extent.history, _LEAST_SEGMENT)), 1)
    if chunk is not None:
        return Shape(longest // segments, segments, rows, time_first), threads
    count = -(-tokens // longest)
    length = buckets.eighth(-(-tokens // (count * segments)), least=min(_LEAST_SEGMENT, tokens))
    grain = math.lcm(extent.turn, 8 if length >= _LONG_SEGMENT else 1)
    length = -(-length // grain) * grain
    # Columns of a power of two lie in the same few lines of a cache.
    if time_first and rows * segments % _CONFLICT == 0:
        rows += _CONFLICT // 16
    return Shape(length, segments, rows, time_first), threads


# ---------------------------------------------------------------- runs


class PlanCache:
    """Plans for the parameters that a module last ran with.

    Plans follow from the parameters, so for flax every cache is equal: a module with another one is
    the same module.

    Attributes:
      parameters: the very arrays that the plans are for.
      plans: by `uniform` and `watched`; see `prepare`.
    """

    def __init__(self) -> None:
        self.parameters: Parameters = {}
        self.plans: dict[tuple[bool, tuple[tuple[int, ...], ...]], Prepared] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlanCache)

    def __hash__(self) -> int:
        return hash(PlanCache)

    def __deepcopy__(self, memo: object) -> "PlanCache":
        return PlanCache()

    def find(
        self,
        parameters: Parameters,
        structure: NetworkStructure,
        uniform: bool,
        watched: tuple[tuple[int, ...], ...] = (),
    ) -> Prepared:
        """Plan anew if any parameter is another array than last time.

        Args:
          parameters: concrete, by flat name, in a dictionary that stays as it is. Arrays of jax
            never change in place; if any is another array, plans are not kept.
          structure: of the network.
          uniform: every sequence starts in the same state.
          watched: entries of hooks in place of the outputs.

        Returns:
          The plan.
        """
        known = self.parameters
        if parameters is not known and (
            known.keys() != parameters.keys()
            or any(
                value is not known[name] or not isinstance(value, jax.Array)
                for name, value in parameters.items()
            )
        ):
            self.parameters, self.plans = parameters, {}
        if (uniform, watched) not in self.plans:
            self.plans[uniform, watched] = prepare(parameters, structure, uniform, watched)
        return self.plans[uniform, watched]


def run_tiles(
    prepared: Prepared,
    inputs: Inputs,
    state: Hidden | None,
    chunk: int | None,
    with_state: bool,
    dtype: DTypeLike | None = None,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Run whole sequences.

    Args:
      prepared: the plan.
      inputs: per program input, ids (batch, time) or vectors (batch, time, width).
      state: per layer (batch, hidden); None for the initial state.
      chunk: most tokens at a time, or None.
      with_state: whether the last state is wanted.
      dtype: of the outputs; the network's if None.

    Returns:
      (batch, time, outputs), and per layer (batch, hidden) if wanted, else nothing.
    """
    plan, structure = prepared.plan, prepared.plan.structure
    batch, tokens = np.shape(inputs[0])[:2]
    outputs = np.empty((batch, tokens, sum(plan.num_outputs)), jnp.dtype(dtype or structure.dtype))
    starts = prepared.starts
    if state is not None:
        # Without layers a state only tells the batch.
        layers = state[: len(structure.layers)]
        starts = tuple(np.asarray(values).astype(structure.compute_dtype) for values in layers)
    finals: list[np.ndarray] = []
    if with_state:
        finals = [np.broadcast_to(start, (batch, start.shape[1])).copy() for start in starts]
    if batch == 0 or tokens == 0:
        return outputs, finals
    on_cpu = xla.on_cpu()
    room, extent = (batch, tokens), prepared.extent
    alone = batch * tokens * extent.width < _LEAST_SHARED
    if chunk is None and alone and buckets.is_small(batch, tokens):
        room = buckets.rows(batch, tokens), buckets.length(tokens)
    shape, threads = _tile(*room, chunk, extent, _cores() if on_cpu else 0)
    # What is not read is not sent.
    arrays = [
        np.asarray(x) if kind else None for x, kind in zip(inputs, structure.inputs, strict=True)
    ]
    first = prepared.first_carry(shape.batch) if state is None else None
    handed: Handed = "whole" if with_state else "read" if tokens > shape.length else "nothing"
    on_one_core = on_cpu and (threads > 1 or prepared.extent.stretch < _MANY_LAYERS)
    function = _compiled(prepared.form, shape, handed, on_one_core)

    def run_rows(row: int) -> None:
        rows = slice(row, row + shape.batch)
        carry = first
        if carry is None:
            carry = prepared.carry([start[rows] for start in starts], shape.batch)
        waiting = None
        for time in range(0, tokens, shape.length):
            valid = np.int32(min(shape.length, tokens - time))
            parts = tuple(
                None
                if array is None
                else _cut(array[rows, time : time + shape.length], shape, structure.compute_dtype)
                for array in arrays
            )
            values, carry = function(prepared.numbers, carry, parts, valid)
            # Fetch a chunk while the next one runs.
            if waiting is not None:
                _store(*waiting, shape)
            waiting = outputs[rows, time : time + shape.length], values
        if waiting is not None:
            _store(*waiting, shape)
        if with_state:
            for final, last in zip(finals, prepared.state(carry, shape.batch), strict=True):
                final[rows] = last[: len(final[rows])]

    starting_rows = iter(range(0, batch, shape.batch))

    def run_some() -> None:
        for row in starting_rows:
            run_rows(row)

    _in_threads(threads, run_some, structure.dtype)
    return outputs, finals


def _in_threads(count: int, work: Callable[[], None], dtype: str) -> None:
    """Do the same in so many threads, this one among them."""
    if count == 1:
        work()
        return
    device = jax.default_device.value

    def work_in_mode() -> None:
        # Modes of jax hold in one thread.
        with precision(dtype), jax.default_device(device):
            work()

    with ThreadPoolExecutor(count - 1) as pool:
        others = [pool.submit(work_in_mode) for _ in range(count - 1)]
        work()
        for other in others:
            other.result()


# ---------------------------------------------------------------- arrays of users and of chunks

_ALIGNMENT = 64  # bytes; of arrays that lie so, jax makes no copy on a CPU
_BLOCK_PLACES, _BLOCK_LANES = 256, 272  # values that are turned over at a time, within a cache


def _cut(part: np.ndarray, shape: Shape, compute_dtype: jnp.dtype) -> np.ndarray:
    """A part of an input, as the compiled function takes it."""
    dtype = np.int32 if np.issubdtype(part.dtype, np.integer) else compute_dtype
    if part.shape[:2] == (shape.batch, shape.length):
        filled = part.astype(dtype, copy=False)
    else:
        filled = _filled(part, shape.batch, shape.length, dtype)
    return _turned(filled, shape) if shape.time_first else filled


def _store(place: np.ndarray, values: jax.Array, shape: Shape) -> None:
    """Put what the compiled function gave in its place among all outputs."""
    if shape.time_first:
        _turn_back(np.asarray(values), place)
    else:
        place[...] = np.asarray(values)[: place.shape[0], : place.shape[1]]


def _filled(part: np.ndarray, rows: int, tokens: int, dtype: DTypeLike) -> np.ndarray:
    """(rows, tokens, ...), zero beyond a part; jax takes it as it is: write nothing to it later."""
    shape = (rows, tokens, *part.shape[2:])
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    filled = memory[start : start + size].view(dtype).reshape(shape)
    filled[: len(part), : part.shape[1]] = part
    filled[: len(part), part.shape[1] :] = 0
    filled[len(part) :] = 0
    return filled


def _turned(natural: np.ndarray, shape: Shape) -> np.ndarray:
    """Ids (b, time) or vectors (b, time, width) of a chunk, as `_run_chunk` takes them: a view.

    What jax takes that does not lie in order, it copies in blocks, faster than numpy does; with an
    axis of one place in the way, slower.
    """
    cut = natural.reshape(shape.batch, shape.segments, -1)
    if shape.batch == 1:
        return cut[0].T
    return cut[:, 0].T if shape.segments == 1 else cut.T


def _turn_back(turned: np.ndarray, outputs: np.ndarray) -> None:
    """Put the outputs of a chunk, (t * outputs, s, b), into a view (b, time, outputs) of all."""
    rows, tokens, wide = outputs.shape
    places, length = tokens * wide, turned.shape[0]
    natural = outputs.reshape(rows, places, copy=False)
    whole, rest = divmod(places, length)
    # To split an axis takes no copy.
    cut = natural[:, : whole * length].reshape(rows, whole, length)
    if whole <= rows:
        pairs = [(cut[:, segment], turned[:, segment, :rows]) for segment in range(whole)]
    else:
        pairs = [(cut[row], turned[:, :whole, row]) for row in range(rows)]
    if rest:
        pairs.append((natural[:, whole * length :], turned[:rest, whole, :rows]))
    for left, right in pairs:
        for place in range(0, left.shape[1], _BLOCK_PLACES):
            here = slice(place, place + _BLOCK_PLACES)
            for lane in range(0, left.shape[0], _BLOCK_LANES):
                lanes = slice(lane, lane + _BLOCK_LANES)
                left[lanes, here] = right[here, lanes].T
