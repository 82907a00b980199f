"""A table in memory that programs write and read by address.

An address is decoded in two levels, to a row and a column of a grid of *places*, so that a read
takes about one gate a cell. Cells that are mapped lie in segments; before each segment and behind
the last there are places without a cell, as many as are read at once, to which all addresses
between segments come. They hold 0, and what is written there is lost.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import ProgramError, ShapeError
from lsrl.ir import ops
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array
from lsrl.language.signal import Operand, Signal, affine, as_signal, logical, record, relu
from lsrl.language.sugar import hold, known, row_of, select
from lsrl.language.trace import user_line

# Of one memory; the arrays of more would fill a machine.
MOST_CELLS = 2**20
# So many cells are decoded in one level.
FEW_CELLS = 24
# From so many on a write is let through by its row ahead of its column: fewer weights then read it,
# and one-hots that are signals of their own keep sums within what float32 holds.
MANY_CELLS = 1024
Segment = tuple[int, int]


@dataclass(frozen=True)
class _Grid:
    """Where the places of a memory lie.

    Attributes:
      segments: ascending and apart: the first address of each, and the one behind its last.
      words: the greatest number of addresses that are read at once.
      columns: places in a row.
      by_row: whether a write is let through by its row ahead of its column.
    """

    segments: tuple[Segment, ...]
    words: int
    columns: int
    by_row: bool = False

    @cached_property
    def starts(self) -> Array:
        """(segments,) the address from which on each segment's places are counted."""
        ends = [-np.inf, *(end for _, end in self.segments[:-1])]
        gaps = [start - end for (start, _), end in zip(self.segments, ends, strict=True)]
        starts = [
            start - min(gap, self.words)
            for (start, _), gap in zip(self.segments, gaps, strict=True)
        ]
        return np.array(starts, dtype=np.float64)

    @cached_property
    def ends(self) -> Array:
        """(segments,) the address behind each segment."""
        return np.array([end for _, end in self.segments], dtype=np.float64)

    @cached_property
    def addresses(self) -> Array:
        """(cells,) the address of each cell."""
        return np.concatenate([np.arange(*segment) for segment in self.segments])

    @property
    def last(self) -> int:
        """The greatest place that an address comes to."""
        return int((self.ends - self.starts).sum())

    @property
    def rows(self) -> int:
        """Of the grid, in which the places of all words that are read at once lie."""
        return -(-(self.last + 1) // self.columns)

    def places(self, addresses: Array) -> Array:
        """The place that each address comes to."""
        reached = np.clip(addresses[:, None], self.starts, self.ends) - self.starts
        return reached.sum(axis=1).astype(np.int64)

    @property
    def edges(self) -> Array:
        """(rows - 1,) the least address that comes to each row but the first."""
        places = self.columns * np.arange(1, self.rows)
        before = np.cumsum([0, *(self.ends - self.starts)])
        segment = np.searchsorted(before, places) - 1
        return self.starts[segment] + places - before[segment]


class Memory:
    """What `lsrl.memory` returns.

    Attributes:
      cells: all cells in the order of their addresses, each with as many channels as a value has.
      written: (cells) which of them is written at this token, at most one.
    """

    def __init__(
        self,
        grid: _Grid,
        cells: Signal,
        written: Signal,
        initial: tuple[float, ...],
        write: tuple[Signal, Signal, Signal],
    ) -> None:
        """Made by `memory`, of initial values of all cells, and of what tells of the write."""
        self.cells = cells
        self.written = written
        self._grid = grid
        self._op = ops.Read(grid.segments, initial)
        self._write = write

    def read(self, address: Operand, count: int = 1, when: Operand = 1) -> Signal:
        """What the cells at `count` addresses from this one on hold; 0 where there is no cell.

        Args:
          address: integers, width 1.
          count: at most the memory's `words`.
          when: a {0,1} signal of width 1; where it is 0, so is what is read.

        Returns:
          The words one after another, each as wide as a value; within the hull of what was
          written, the initial values and 0.

        Raises:
          ProgramError: more words than the memory was made for.
        """
        grid, what = self._grid, f"{user_line()}: count of read(address, count)"
        words = arguments.count(what, count, 1, kind=ProgramError)
        if words > grid.words:
            raise ProgramError(
                f"{user_line()}: read(address, {words}) of a memory for reads of {grid.words} "
                f"words; write lsrl.memory(..., words={words})"
            )
        (opens,) = logical("read", when)
        start = _address(address)
        row, column = _decoded(grid, start, opens)
        facts, cells = self.cells.facts, len(grid.addresses)
        low = np.minimum(facts.low.reshape(cells, -1).min(axis=0), 0.0)
        high = np.maximum(facts.high.reshape(cells, -1).max(axis=0), 0.0)
        # Numbers are lifted to start at 0, so that one ReLU shuts each, unless that rounds them.
        lift = -low if facts.counted and np.isfinite(low).all() else np.zeros(len(low))
        lifted = self.cells + np.tile(lift, cells) if lift.any() else self.cells
        places = np.arange(grid.rows * grid.columns + words - 1)
        cell = _cell_at(grid, places)
        of_column = np.tile(np.arange(grid.columns), words)
        of_word = np.repeat(np.arange(words), grid.columns)
        if row is not None:
            reach = np.arange(grid.columns + words - 1)
            starts = np.arange(grid.rows)[:, None] * grid.columns
            lifted = _read(
                row, np.repeat(np.arange(grid.rows), len(reach)), np.tile(reach, grid.rows),
                lifted, cell[(starts + reach).ravel()], lift,
            )  # fmt: skip
            cell = reach
        found = _read(column, of_column, of_word, lifted, cell[of_column + of_word], lift)
        # Where nothing is read, nothing was lifted.
        back = affine([(np.eye(found.width), found), (np.tile(-lift, words)[:, None], opens)])
        found = known(back, np.tile(low, words), np.tile(high, words))
        return record(self._op, *self._write, start, opens, found)


def _read(
    one_hot: Signal, opened_by: Array, slot: Array, values: Signal, source: Array, nothing: Array
) -> Signal:
    """Sums of values that a one-hot lets through.

    Args:
      one_hot: what lets through.
      opened_by: (entries,) which of its channels opens each entry.
      slot: (entries,) which sum it goes to.
      values: as many channels each as `nothing`.
      source: (entries,) which of the values each is; -1 for none.
      nothing: what stands in the place of none.

    Returns:
      The sums one after another.
    """
    kept = np.arange(len(source)) if nothing.any() else np.flatnonzero(source >= 0)
    width, sums = len(nothing), int(slot.max()) + 1
    opened_by, slot, source = opened_by[kept], slot[kept], source[kept]
    has = np.flatnonzero(source >= 0)
    shape = len(source), values.width // width
    pick = sp.csr_array((np.ones(len(has)), (has, source[has])), shape)
    entries = affine([(_wide(pick, width), values)], np.outer(source < 0, nothing).ravel())
    opens = Matrix.selection(np.repeat(opened_by, width), one_hot.width).csr
    shut = select(affine([(opens, one_hot)]), entries, 0)
    return affine([(_wide(Matrix.selection(slot, sums).csr.T, width), shut)])


def _wide(matrix: sp.csr_array, width: int) -> sp.csr_array:
    """A matrix for values of several channels each, entry by entry."""
    return matrix if width == 1 else sp.csr_array(sp.kron(matrix, sp.eye_array(width)))


def memory(
    address: Operand,
    value: Operand,
    write: Operand = 1,
    change: Operand | None = None,
    *,
    cells: int | None = None,
    segments: Sequence[Segment] | None = None,
    initial: ArrayLike = 0,
    words: int = 1,
    columns: int | None = None,
    by_row: bool | None = None,
    keeper: ops.Keeper = "prompt",
) -> Memory:
    """A table of cells, of which one is written at each token, and any are read.

    Args:
      address: integers, width 1: where this token writes. At an address without a cell what is
        written is lost.
      value: what it writes, of any width.
      write: a {0,1} signal of width 1: whether it writes at all.
      change: with it comes the checked promise that value is what the cell held before plus the
        change. Targets that can't overwrite need it; others don't read it.
      cells: their number; their addresses are 0, 1, …
      segments: or the addresses: for each segment the first, and the one behind the last.
      initial: what every cell holds before it is written, or one number a channel of all cells.
      words: the greatest number of addresses that are read at once.
      columns: of the grid that addresses are decoded in; by default about a square one.
      by_row: whether a write is let through by its row ahead of its column. It takes fewer weights
        a cell, and a level or two more; by default from 1,024 cells on. Of a grid with one row it
        is no matter.
      keeper: whose promise the change is, as for `bound`.

    Returns:
      The memory after this token's write: `.read(address)`, `.cells`, `.written`.

    Raises:
      ProgramError: neither cells nor segments, segments that overlap, or addresses that are not
        integers.

    Example:
      @lsrl.program
      def table(x: lsrl.Vector(3, low=(0, 0, -9), high=(3, 9, 9), step=1), wanted: lsrl.Token(4)):
          cells = lsrl.memory(x[0], x[1], change=x[2], cells=4)
          return cells.read(wanted)
    """
    grid = _grid_of(cells, segments, words, columns, by_row)
    written_value = as_signal(value)
    count, width = len(grid.addresses), written_value.width
    (writes,) = logical("memory", write)
    if writes.width != 1:
        raise ShapeError(f"{user_line()}: write has width 1, got {writes.width}")
    target = _address(address)
    row, column = _decoded(grid, target, writes)
    here = grid.places(grid.addresses)
    terms = [(Matrix.selection(here % grid.columns, grid.columns).csr, column)]
    if row is not None:
        terms.append((Matrix.selection(here // grid.columns, grid.rows).csr, row))
    opens = affine(terms, np.full(count, 1.0 - len(terms)))
    written = known(relu(opens) if len(terms) > 1 else opens, 0, 1, exclusive=True)
    each = _wide(sp.csr_array(np.ones((count, 1))), width)
    wide = (
        written
        if width == 1
        else affine([(sp.csr_array(sp.kron(sp.eye_array(count), np.ones((width, 1)))), written)])
    )
    added = None if change is None else _added(grid, row, _as_wide(change, width))
    start = row_of(initial, count * width, "initial")
    held = hold(affine([(each, written_value)]), wide, start, added, keeper)
    return Memory(grid, held, written, start, (target, written_value, writes))


def _added(grid: _Grid, row: Signal | None, change: Signal) -> Signal:
    """What each cell is changed by, if it is the one that is written."""
    count, width = len(grid.addresses), change.width
    if row is None or not grid.by_row:
        return affine([(_wide(sp.csr_array(np.ones((count, 1))), width), change)])
    everywhere = affine([(_wide(sp.csr_array(np.ones((grid.rows, 1))), width), change)])
    each = affine([(Matrix.selection(np.repeat(np.arange(grid.rows), width), grid.rows).csr, row)])
    here = Matrix.selection(grid.places(grid.addresses) // grid.columns, grid.rows).csr
    return affine([(_wide(here, width), select(each, everywhere, 0))])


def _as_wide(change: Operand, width: int) -> Signal:
    added = as_signal(change)
    if added.width != width:
        raise ShapeError(
            f"{user_line()}: change has the width of value, {width}, got {added.width}"
        )
    return added


def _address(address: Operand) -> Signal:
    found = as_signal(address)
    facts = found.facts
    if found.width != 1 or not facts.integer or not np.isfinite(facts.magnitude).all():
        raise ProgramError(
            f"{user_line()}: an address is one integer within finite bounds, got {found!r}; "
            "declare step=1 of the input, or narrow it with lsrl.bound"
        )
    return found


def _grid_of(
    cells: int | None,
    segments: Sequence[Segment] | None,
    words: int,
    columns: int | None,
    by_row: bool | None,
) -> _Grid:
    where = str(user_line())
    if (cells is None) == (segments is None):
        raise ProgramError(
            f"{where}: a memory has either cells or segments, got cells={shown(cells)} and "
            f"segments={shown(segments)}; write lsrl.memory(..., cells=16)"
        )
    most = arguments.count(f"{where}: words", words, 1, kind=ProgramError)
    if cells is not None:
        pairs = [(0, arguments.count(f"{where}: cells", cells, 1, kind=ProgramError))]
    else:
        given = segments if isinstance(segments, Sequence | np.ndarray) else [segments]
        pairs = [_segment(where, each) for each in given]
    if not pairs or any(a[1] > b[0] for a, b in itertools.pairwise(pairs)):
        raise ProgramError(
            f"{where}: segments ascend and lie apart, got {shown(segments)}; write for instance "
            "segments=((0, 16), (32, 48))"
        )
    many = sum(end - start for start, end in pairs)
    if many > MOST_CELLS:
        raise ProgramError(f"{where}: a memory has up to {MOST_CELLS} cells, got {shown(many)}")
    joined: list[Segment] = []
    for start, end in pairs:
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    grid = _Grid(tuple(joined), most, 1)
    if columns is not None:
        width = arguments.count(f"{where}: columns", columns, 1, kind=ProgramError)
    elif len(grid.addresses) <= FEW_CELLS:
        width = grid.last + 1
    else:
        width = 1 << int(np.round(np.log2(np.sqrt(grid.last + 1))))
    first = len(grid.addresses) >= MANY_CELLS
    if by_row is not None:
        first = arguments.flag(f"{where}: by_row", by_row, ProgramError)
    return _Grid(grid.segments, most, width, first)


def _segment(where: object, segment: object) -> Segment:
    if isinstance(segment, Sequence | np.ndarray) and len(segment) == 2:
        low, high = segment
        if all(isinstance(end, int | np.integer) for end in (low, high)) and low < high:
            return int(low), int(high)
    raise ProgramError(
        f"{where}: a segment is a pair of its first address and the one behind its last, got "
        f"{shown(segment)}"
    )


def _cell_at(grid: _Grid, places: Array) -> Array:
    """The number of the cell at each place, -1 where there is none."""
    found = np.full(max(int(places.max()), grid.last) + 1, -1)
    found[grid.places(grid.addresses)] = np.arange(len(grid.addresses))
    return found[places]


def _at_least(x: Signal, levels: Array) -> Signal:
    """1 where an integer reaches each level, in two levels, so that nothing exceeds the integer."""
    return 1 - relu(1 - relu(x - (levels - 1)))


def _decoded(grid: _Grid, address: Signal, when: Signal) -> tuple[Signal | None, Signal]:
    """One-hots of the row, None where there is one alone, and of the column, if it is wanted."""
    columns, index = grid.columns, _index(grid, address)
    if grid.rows == 1:
        return None, _column(index, columns, when)
    if grid.by_row:
        row = _row_alone(grid, address)
        before = columns * (np.arange(float(grid.rows)) @ row)
        place = known(index - before, 0, columns - 1)
        return row, _column_alone(place, columns, when)
    passed = _at_least(address, grid.edges)
    rise = np.eye(grid.rows, grid.rows - 1, -1) - np.eye(grid.rows, grid.rows - 1)
    row = affine([(rise, passed)], np.eye(grid.rows)[0])
    place = known(index - columns * passed.sum(), 0, columns - 1)
    return known(row, 0, 1, exclusive=True), _column(place, columns, when)


def _index(grid: _Grid, address: Signal) -> Signal:
    """The place that an address comes to."""
    low, high = address.facts.low[0], address.facts.high[0]
    total = as_signal(0)
    for sign, levels in ((1.0, grid.starts), (-1.0, grid.ends)):
        for level in levels:
            if high <= level:
                continue
            part = address - level if low >= level else relu(address - level)
            total = total + sign * part
    return known(total, 0, grid.last)


def _column(place: Signal, columns: int, when: Signal) -> Signal:
    """The one-hot of a place, by the bends of ReLUs, in one level; elsewhere none."""
    second = (
        np.eye(columns, columns + 2)
        - 2 * np.eye(columns, columns + 2, 1)
        + np.eye(columns, columns + 2, 2)
    )
    if not when.facts.constant or not when.facts.low.all():
        place = place + (columns + 1) * (1 - when)  # behind the last column
    hats = second @ relu(place - (np.arange(columns + 2) - 1.0))
    return known(hats, 0, 1, exclusive=True)


def _row_alone(grid: _Grid, address: Signal) -> Signal:
    """The one-hot of a row as a signal of its own, in two levels: 1 less how far it is off.

    Twice that is how far the address is below the row's least one less a half, or above the next
    row's; ReLUs that bend at those tell of both sides.
    """
    above = relu(2 * address - (2 * grid.edges - 1))
    after, until = np.eye(grid.rows, grid.rows - 1, -1), np.eye(grid.rows, grid.rows - 1)
    first = after.sum(axis=1)  # nothing is below the first row
    below = after @ (above + 2 * grid.edges - 1) - 2 * first * address
    return known(relu(1 - below - until @ above), 0, 1, exclusive=True)


def _column_alone(place: Signal, columns: int, when: Signal) -> Signal:
    """The same of a column; none where it is not wanted."""
    beyond = place - np.arange(float(columns))
    return known(relu(when + beyond - 2 * relu(beyond)), 0, 1, exclusive=True)
