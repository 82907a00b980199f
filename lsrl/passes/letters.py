"""What drives a threshold state: the letters of its automaton, and where a graph tells them apart.

The update of a threshold state is looked at back to its *sources*: token inputs, and channels with
a few values (bits, small numbers). Every combination of their values that can come up is a
*symbol*; symbols with one update are one letter.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from lsrl.automata.limits import TooLargeError
from lsrl.ir.arithmetic import Floats
from lsrl.ir.bounds import Facts
from lsrl.ir.graph import GraphBuilder
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array, lowest_bit_of
from lsrl.ir.ops import Affine, Bound, Constant, Extent, Lookup, Relu, Step, is_token
from lsrl.ir.types import Token
from lsrl.passes.parts import Row, Wiring, constant, plus, scaled, single

# Values of a source that is no token, and symbols of sources that are not one token alone.
MOST_VALUES = 16
MOST_SYMBOLS = 256
# How far an update is looked through: to what is bounded to a few values, as other states are; to
# the first ReLU, comparison or product; or to what is not made of this token alone.
Depth = Literal["bounds", "rows", "tokens"]
_DEPTHS: tuple[Depth, ...] = ("tokens", "rows", "bounds")


class Source(NamedTuple):
    """What an update is a function of.

    Attributes:
      node: of the graph.
      channel: of the node.
      values: that it can have, in order.
      members: of groups that are never on together: by root, the member that the channel belongs
        to.
    """

    node: int
    channel: int
    values: tuple[float, ...]
    members: dict[object, int]


class Letters(NamedTuple):
    """The letters of an automaton.

    Attributes:
      sources: what the update is a function of.
      symbols: combinations of their values.
      updates: (letters, width), different ones.
      letter: of each symbol.
    """

    sources: tuple[Source, ...]
    symbols: list[tuple[float, ...]]
    updates: Array
    letter: list[int]

    def told(self, letter: int, builder: GraphBuilder) -> str:
        """The first symbol with this letter, in words."""
        symbol = self.symbols[self.letter.index(letter)]
        parts = []
        for source, value in zip(self.sources, symbol, strict=True):
            op = builder.nodes[source.node].op
            name = builder.nodes[source.node].names
            if is_token(op):
                parts.append(f"{op.label} = {value:g}")  # type: ignore[attr-defined]
            else:
                place = f"{name[0] if name else op.name}[{source.channel}]"
                parts.append(f"{place} = {value:g}")
        return ", ".join(parts) or "every token"


def letters_of(builder: GraphBuilder, update: int, most: int) -> Letters:
    """The letters that the update of a threshold state stands for.

    Raises:
      TooLargeError: the update is no function of a few values, or there are too many letters.
    """
    cuts = [_sources(builder, update, depth) for depth in _DEPTHS]
    options = [_symbols(sources) for sources in cuts if sources is not None]
    found = [(s, symbols) for s, symbols in options if symbols is not None]
    if not found:
        raise TooLargeError(
            "its update is no function of one token, or of bits and small numbers that take at "
            f"most {MOST_SYMBOLS} values together"
        )
    sources, symbols = min(found, key=lambda option: len(option[1]))
    updates = _evaluated(builder, update, sources, symbols)
    different, letter = np.unique(updates, axis=0, return_inverse=True)
    # In the order in which symbols have them, so that messages and weights follow the text.
    order = list(dict.fromkeys(letter.ravel().tolist()))
    if len(order) > most:
        raise TooLargeError(
            f"{len(order):,} different updates, and at most {most:,} are told apart"
        )
    number = {own: place for place, own in enumerate(order)}
    of_symbol = [number[own] for own in letter.ravel().tolist()]
    return Letters(sources, symbols, different[order], of_symbol)


def _sources(builder: GraphBuilder, update: int, depth: Depth) -> tuple[Source, ...] | None:
    """What an update is made of, looked through so far."""
    width = builder.nodes[update].width
    pending: dict[int, set[int]] = {update: set(range(width))}
    found: list[Source] = []
    while pending:
        node = max(pending)
        channels = pending.pop(node)
        op = builder.nodes[node].op
        expands = isinstance(op, Affine | Bound | Lookup | Constant)
        expands |= depth == "tokens" and op.pointwise
        if depth == "bounds" and isinstance(op, Bound):
            expands = any(_values(builder.facts[node], channel) is None for channel in channels)
        if _given(builder, node) or not expands:
            for channel in sorted(channels):
                source = _source(builder, node, channel)
                if source is None:
                    return None
                found.append(source)
            continue
        for slot, operand in enumerate(builder.nodes[node].operands):
            read = _read(builder, node, slot, channels)
            pending.setdefault(operand, set()).update(read)
    return tuple(sorted(found, key=lambda source: (source.node, source.channel)))


def _given(builder: GraphBuilder, node: int) -> bool:
    """Whether a node is made of no others, and is no constant."""
    op, operands = builder.nodes[node].op, builder.nodes[node].operands
    return is_token(op) or (not operands and not isinstance(op, Constant))


def _read(builder: GraphBuilder, node: int, slot: int, channels: set[int]) -> set[int]:
    """Which channels of an operand some channels of a node are made of."""
    op = builder.nodes[node].op
    width = builder.nodes[builder.nodes[node].operands[slot]].width
    if isinstance(op, Affine):
        weight = op.weights[slot]
        wanted = np.isin(weight.entry_rows(), sorted(channels))
        return set(weight.indices[wanted].tolist())
    if isinstance(op, Relu | Step | Bound) or width == builder.nodes[node].width:
        return channels
    return set(range(width))


def _source(builder: GraphBuilder, node: int, channel: int) -> Source | None:
    op, fact = builder.nodes[node].op, builder.facts[node]
    if is_token(op) and isinstance(op.type, Token):  # type: ignore[attr-defined]
        return Source(node, 0, tuple(map(float, range(op.type.size))), {})  # type: ignore[attr-defined]
    values = _values(fact, channel)
    if values is None:
        return None
    members = {root: int(own[channel]) for root, own in fact.groups if own[channel] >= 0}
    return Source(node, channel, values, members)


def _values(fact: Facts, channel: int) -> tuple[float, ...] | None:
    low, high, step = (float(x[channel]) for x in (fact.low, fact.high, fact.step))
    if low == high:
        return (low,)
    if not 0 < step < np.inf or not high - low < MOST_VALUES * lowest_bit_of(step):
        return None
    # A promise may have ends between two values.
    grid = lowest_bit_of(step)
    values = np.arange(np.ceil(low / grid), np.floor(high / grid) + 1) * grid
    return tuple(values.tolist()) or None


def _symbols(
    sources: tuple[Source, ...],
) -> tuple[tuple[Source, ...], list[tuple[float, ...]] | None]:
    if len(sources) == 1:
        return sources, [(value,) for value in sources[0].values]
    if len(sources) > MOST_SYMBOLS:  # each of them has a value that makes a symbol more
        return sources, None
    found = list(itertools.islice(_combined(sources), MOST_SYMBOLS + 1))
    return sources, found if len(found) <= MOST_SYMBOLS else None


def _combined(
    sources: Sequence[Source], on: dict[object, int] | None = None
) -> Iterator[tuple[float, ...]]:
    """Combinations of values, without those whose channels are never on together."""
    if not sources:
        yield ()
        return
    source, on = sources[0], on or {}
    for value in source.values:
        members = source.members if value else {}
        if all(on.get(root, member) == member for root, member in members.items()):
            for rest in _combined(sources[1:], {**on, **members}):
                yield (value, *rest)


def _evaluated(
    builder: GraphBuilder, update: int, sources: Sequence[Source], symbols: list[tuple[float, ...]]
) -> Array:
    """(symbols, width): the update at each symbol."""
    extent = Extent((1, len(symbols)), Floats())
    columns = np.array(symbols, dtype=np.float64).reshape(len(symbols), len(sources)).T
    values: dict[int, Array] = {}
    for source, column in zip(sources, columns, strict=True):
        shape = (1, len(symbols), builder.nodes[source.node].width)
        values.setdefault(source.node, np.zeros(shape))[0, :, source.channel] = column

    pending, made = [update], set[int]()
    while pending:
        node = pending.pop()
        if node in values or node in made:
            continue
        if builder.nodes[node].op.stateful or _given(builder, node):
            # Nothing of it is read.
            values[node] = np.zeros((1, len(symbols), builder.nodes[node].width))
        else:
            made.add(node)
            pending.extend(builder.nodes[node].operands)
    for node in sorted(made):
        operands = [values[operand] for operand in builder.nodes[node].operands]
        values[node] = builder.nodes[node].op.evaluate(operands, extent)
    return np.asarray(values[update][0], dtype=np.float64)


def indicators(wiring: Wiring, letters: Letters, became: Sequence[int]) -> list[Row]:
    """Rows that are 1 where the letter is of a class, and else 0.

    Args:
      wiring: takes the nodes that are needed.
      letters: of the automaton.
      became: (letters,) the class of each.
    """
    classes = max(became) + 1
    of_symbol = [became[own] for own in letters.letter]
    if classes == 1:
        return [constant(1.0)]
    sources = letters.sources
    if len(sources) == 1:
        is_value = _tells(wiring, sources[0], of_symbol)
        if is_value is not None:
            return is_value
    parts = [_is_value(wiring, source) for source in sources]
    if len(sources) > 1:
        picked = [
            plus(
                *(
                    part[s.values.index(v)]
                    for part, s, v in zip(parts, sources, symbol, strict=True)
                ),
                constant(1.0 - len(sources)),
            )
            for symbol in letters.symbols
        ]
        symbols = wiring.conjunctions(picked)
    else:
        symbols = parts[0]
    return [
        plus(*(row for row, own in zip(symbols, of_symbol, strict=True) if own == each))
        for each in range(classes)
    ]


def _tells(wiring: Wiring, source: Source, of_value: Sequence[int]) -> list[Row] | None:
    """By a token, its class at once."""
    if not is_token(wiring.builder.nodes[source.node].op):
        return None
    table = np.zeros((len(of_value), max(of_value) + 1))
    table[np.arange(len(of_value)), of_value] = 1.0
    node = wiring.builder.add(Lookup(Matrix(table)), source.node)
    return [single(node, own) for own in range(table.shape[1])]


def _is_value(wiring: Wiring, source: Source) -> list[Row]:
    """A row for each value of a source: 1 where it has it."""
    own = _tells(wiring, source, range(len(source.values)))
    if own is not None:
        return own
    if len(source.values) == 1:
        return [constant(1.0)]
    row, low, second = single(source.node, source.channel), *source.values[:2]
    # All values are as far apart, by a power of two.
    over = [scaled(plus(row, constant(-v)), 1 / (second - low)) for v in source.values[:-1]]
    if len(over) == 1:
        return [plus(constant(1.0), scaled(over[0], -1.0)), over[0]]
    steps = wiring.relus(over)
    last = len(source.values) - 1
    at_least = [constant(1.0)]
    for k in range(last):  # relu(x - k) - relu(x - k - 1) is 1 from k + 1 on
        more = scaled(steps[k + 1], -1.0) if k + 1 < last else constant(0.0)
        at_least.append(plus(steps[k], more))
    return [
        plus(at_least[k], scaled(at_least[k + 1], -1.0)) if k < last else at_least[k]
        for k in range(last + 1)
    ]
