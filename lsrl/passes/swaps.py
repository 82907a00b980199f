"""Automata written as states that swaps move, and as holds: the nodes of a `Plan`."""

from collections.abc import Sequence
from typing import NamedTuple

from lsrl.automata.levels import Level, Levels
from lsrl.automata.permutations import Permutation, Swap, identity, swaps_of
from lsrl.automata.plan import Plan, Tracks
from lsrl.automata.tracks import Track
from lsrl.ir.ops import Delay, Product, Recall, SwapState
from lsrl.passes.parts import Row, Wiring, constant, plus, scaled, single


def states_of(
    wiring: Wiring, plan: Plan, letters: Sequence[Row], states: int, start: int
) -> list[Row]:
    """Rows that are 1 where an automaton is in a state behind the present letter, and else 0.

    Args:
      wiring: takes the nodes.
      plan: of the automaton.
      letters: a row each, 1 where the letter is read.
      states: how many there are.
      start: the state before the first letter.
    """
    if isinstance(plan, Levels):
        return _LevelWiring(wiring, letters).states(plan, states)
    return _of_tracks(wiring, plan, letters, states, start)


class _Items(NamedTuple):
    """Where items stand, as sizes of rows.

    Attributes:
      rows: by item, its place from 1, with a sign.
      signed: whether there may be a sign.
      told: of items that do not move by themselves: by item and place, a row that is 1 there.
    """

    rows: list[Row]
    signed: bool = True
    told: dict[tuple[int, int], Row] | None = None


# ---------------------------------------------------------------- permutations


def _of_tracks(
    wiring: Wiring, plan: Tracks, letters: Sequence[Row], states: int, start: int
) -> list[Row]:
    made = [_moved(wiring, track, letters) for track in plan.tracks]
    if plan.reading == "element":
        return _of_elements(wiring, plan, made, states)
    seen = [
        _seen(wiring, items, points[start], track.size)
        for track, points, items in zip(plan.tracks, plan.points, made, strict=True)
    ]
    if plan.reading == "point":
        pairs = zip(plan.points, seen, strict=True)
        own, rows = next((own, rows) for own, rows in pairs if len(set(own)) == states)
        return [rows[own[state]] for state in range(states)]
    short = constant(1.0 - len(plan.tracks))
    return wiring.conjunctions([
        plus(*(rows[own[q]] for own, rows in zip(plan.points, seen, strict=True)), short)
        for q in range(states)
    ])  # fmt: skip


def _moved(wiring: Wiring, track: Track, letters: Sequence[Row]) -> _Items:
    """The items of a track, where the letters that are read move them."""
    make = _series if track.phases is None else _phased
    return make(wiring, track, letters)


def _of_elements(wiring: Wiring, plan: Tracks, made: Sequence[_Items], states: int) -> list[Row]:
    """One unit a product of letters: Σ p_j x_j is Σ p_j² where x = p, and else less.

    So it is for arrangements of the same numbers, by the inequality of Cauchy and Schwarz.
    """
    places = [_places(wiring, items) for items in made]
    rows = []
    for element in plan.elements:
        terms, norm = [], 0
        for own, permutation in zip(places, element, strict=True):
            terms += [scaled(row, image + 1) for row, image in zip(own, permutation, strict=True)]
            norm += sum((image + 1) ** 2 for image in permutation)
        rows.append(plus(*terms, constant(1.0 - norm)))
    units = wiring.conjunctions(rows)
    of_state: list[list[Row]] = [[] for _ in range(states)]
    for unit, state in zip(units, plan.elements.values(), strict=True):
        of_state[state].append(unit)
    return [plus(*own) for own in of_state]


def _places(wiring: Wiring, items: _Items) -> list[Row]:
    """Where each item stands, from 1; the last one stands where no other does."""
    if not items.signed:
        return items.rows
    count = len(items.rows)
    own = items.rows[:-1]
    halves = wiring.relus([*own, *(scaled(row, -1.0) for row in own)])
    return _completed(
        [plus(*pair) for pair in zip(halves, halves[count - 1 :], strict=False)],
        constant(count * (count + 1) / 2),
    )


def _completed(rows: Sequence[Row], total: Row) -> list[Row]:
    """The rows, and one more, so that they add up to a total."""
    return [*rows, plus(total, *(scaled(row, -1.0) for row in rows))]


def _seen(wiring: Wiring, items: _Items, item: int, points: int) -> list[Row]:
    """By place, a row that is 1 where one item stands there: hats of its size."""
    if items.told is not None:
        return [items.told[item, place] for place in range(points)]
    (found,) = _hats(wiring, [items.rows[item]], points)
    return found


def _all_seen(wiring: Wiring, items: _Items, points: int) -> list[list[Row]]:
    """The same for every item."""
    found = _hats(wiring, items.rows[:-1], points)
    left = [_completed([own[place] for own in found], constant(1.0)) for place in range(points)]
    return [[row[item] for row in left] for item in range(points)]


def _hats(wiring: Wiring, rows: Sequence[Row], points: int) -> list[list[Row]]:
    """By row and by v = 1, …, n: 1 where |row| = v, else 0, for rows of those sizes."""
    shifted = [
        plus(scaled(row, sign), constant(-float(knot)))
        for row in rows
        for knot in range(1, points)
        for sign in (1.0, -1.0)
    ]
    ramps = wiring.relus(shifted)
    found = []
    for j in range(len(rows)):
        own = ramps[2 * (points - 1) * j :]
        over = [plus(own[2 * k], own[2 * k + 1]) for k in range(points - 1)]
        over += [constant(0.0)] * 2
        hats = [plus(over[k], scaled(over[k + 1], -2.0), over[k + 2]) for k in range(points - 1)]
        (first,) = _completed(hats, constant(1.0))[-1:]
        found.append([first, *hats])
    return found


# ---------------------------------------------------------------- phases


def _phased(wiring: Wiring, track: Track, letters: Sequence[Row]) -> _Items:
    """Counts of the letters, and one swap a token that depends on them."""
    points, pairs = track.size, track.pairs
    units = dict(zip(pairs, _pairs(wiring, track, letters), strict=True))
    reads = [
        plus(*(scaled(units[pair], places[x] + 1.0) for pair, (_, places) in pairs.items()))
        for x in range(points)
    ]
    if track.still:
        told = {
            (x, y): plus(*(units[pair] for pair, (_, places) in pairs.items() if places[x] == y))
            for x in range(points)
            for y in range(points)
        }
        return _Items(reads, signed=False, told=told)
    swaps = [
        plus(*(units[pair] for pair, (swap, _) in pairs.items() if swap[x] != x))
        for x in range(points)
    ]
    return _Items(_swapped(wiring, swaps, reads))


def _swapped(wiring: Wiring, swaps: Sequence[Row], reads: Sequence[Row]) -> list[Row]:
    """Items that swaps move: what each reads where it is, with a sign."""
    points = len(swaps)
    swap = wiring.bounded(wiring.node(swaps), 0.0, 1.0)
    read = wiring.bounded(wiring.node(reads), 1.0, float(points))
    node = wiring.builder.add(SwapState(points), swap, read)
    return [single(node, item) for item in range(points)]


def _pairs(wiring: Wiring, track: Track, letters: Sequence[Row]) -> list[Row]:
    """A row for each letter and counts of all letters before it.

    A bit of a count is a state of two points: item 0 reads 1 where it is 0, and -2 where it is 1.
    So y - 1 is 0 where the bit is 0 and else -3, and -y - 2 the other way round.
    """
    bits = track.phases.bits if track.phases is not None else ()
    wrong: dict[tuple[int, int, int], Row] = {}  # by letter, bit and value
    turns = {a: letters[a] for a, count in enumerate(bits) if count}
    for bit in range(max(bits)):
        turns = {a: row for a, row in turns.items() if bits[a] > bit}
        for a, row in turns.items():
            item = _swapped(wiring, [row, row], [constant(1.0), constant(2.0)])[0]
            wrong[a, bit, 0] = plus(item, constant(-1.0))
            wrong[a, bit, 1] = plus(scaled(item, -1.0), constant(-2.0))
        on = [a for a in turns if bits[a] > bit + 1]
        carries = wiring.conjunctions([
            plus(letters[a], *(wrong[a, lower, 1] for lower in range(bit + 1))) for a in on
        ])  # fmt: skip
        turns = dict(zip(on, carries, strict=True))
    if not wrong:
        return [letters[a] for a, _ in track.pairs]
    return wiring.conjunctions([
        plus(letters[a], *(row for (b, bit, on), row in wrong.items() if z[b] >> bit & 1 == on))
        for a, z in track.pairs
    ])  # fmt: skip


# ---------------------------------------------------------------- series


def _series(wiring: Wiring, track: Track, letters: Sequence[Row]) -> _Items:
    """P = X1 ∘ X2 ∘ …, of which each X makes one swap of a letter.

    A letter σ1 ∘ σ2 ∘ … moves X_l by σ_l as seen through the X before it, one token ago: by the
    swap of the two points that they take to those of σ_l. Places are read through the letter, or
    for an early track as they are.

    Args:
      wiring: takes the nodes.
      track: the permutations.
      letters: rows that are 1 where a letter is read; exactly one of them is.
    """
    points, moves = track.size, track.letters
    reads = [identity(points)] * len(moves) if track.early else moves
    swaps = [swaps_of(move) for move in moves]
    depth = max(1, *map(len, swaps))
    first = range(len(letters))
    marked = [
        plus(*(letters[a] for a in first if swaps[a] and x in swaps[a][0])) for x in range(points)
    ]
    read = [_either(letters, [own[x] + 1.0 for own in reads]) for x in range(points)]
    for layer in range(depth):
        rows = _swapped(wiring, marked, read)
        if layer + 1 < depth:
            wanted = [
                _wanted(own, found, layer + 1) for own, found in zip(reads, swaps, strict=True)
            ]
            marked = _where(wiring, rows, letters, wanted, points)
            read = _places(wiring, _Items(rows))
    return _Items(rows)


def _wanted(read: Permutation, swaps: Sequence[Swap], layer: int) -> set[int]:
    """The places, as they are read, that the next swap is of."""
    return {read[x] + 1 for x in swaps[layer]} if layer < len(swaps) else set()


def _either(letters: Sequence[Row], values: Sequence[float]) -> Row:
    """The value of the letter that is read."""
    if len(set(values)) == 1:
        return constant(values[0])
    return _sum(letters, values)


def _where(
    wiring: Wiring,
    rows: Sequence[Row],
    letters: Sequence[Row],
    wanted: Sequence[set[int]],
    points: int,
) -> list[Row]:
    """By item, 1 where its place is wanted by the letter that is read; one item is on each place.

    A hat over places is a sum of ramps; its second differences, which are rows over the letters,
    multiply them, so that letters take no units.
    """
    bends = {}
    for knot in range(points):
        values = [(knot + 1 in own) - 2.0 * (knot in own) + (knot - 1 in own) for own in wanted]
        if any(values):
            bends[knot] = _sum(letters, values)
    if not bends:
        return [constant(0.0)] * len(rows)
    signed = [(row, sign, knot) for row in rows[:-1] for sign in (1.0, -1.0) for knot in bends]
    ramps = wiring.relus([plus(scaled(r, sign), constant(-float(k))) for r, sign, k in signed])
    products = wiring.builder.add(
        Product(), wiring.node(ramps), wiring.node([bends[knot] for _, _, knot in signed])
    )
    each = 2 * len(bends)
    found = [
        plus(*(single(products, each * j + k) for k in range(each))) for j in range(len(rows) - 1)
    ]
    return _completed(found, _sum(letters, [float(len(own)) for own in wanted]))


def _sum(rows: Sequence[Row], weights: Sequence[float]) -> Row:
    return plus(*(scaled(row, weight) for row, weight in zip(rows, weights, strict=True)))


# ---------------------------------------------------------------- levels


class _LevelWiring:
    """Levels that permute or reset labels, each driven by edges of the one before.

    All holds are a token late: what drives a level now, and its label before, tell the next edge.
    """

    def __init__(self, wiring: Wiring, letters: Sequence[Row]) -> None:
        self.wiring, self.edges = wiring, list(letters)

    def states(self, plan: Levels, states: int) -> list[Row]:
        """By state, where the last level leads to it."""
        for level in plan.levels:
            self.edges = self._level(level)
        pairs = list(zip(self.edges, plan.final, strict=True))
        return [plus(*(row for row, own in pairs if own == state)) for state in range(states)]

    def _level(self, level: Level) -> list[Row]:
        found: dict[int, list[Row]] = {then: [] for then in level.following.values()}
        asked = [(edge, label, then) for (edge, label), then in level.following.items()]
        for edge, label, then in asked:
            if label is None:
                found[then].append(self.edges[edge])
        asked = [each for each in asked if each[1] is not None]
        if asked:
            rows, owner = self._conjunctions(level, asked)
            for then, unit in zip(owner, self.wiring.conjunctions(rows), strict=True):
                found[then].append(unit)
        return [plus(*found[then]) for then in range(max(found) + 1)]

    def _conjunctions(
        self, level: Level, asked: Sequence[tuple[int, int | None, int]]
    ) -> tuple[list[Row], list[int]]:
        """Arguments of units that tell an edge and the label before it, and what each leads to."""
        track = level.track
        if track is None:
            is_label = self._late(level, [self._resetting(level, x) for x in range(level.labels)])
            made = [
                (plus(self.edges[edge], is_label[label or 0], constant(-1.0)), then)
                for edge, label, then in asked
            ]
        else:
            items = _moved(self.wiring, track, self._by_move(level, track))
            seen = _all_seen(self.wiring, items, level.labels)
            if not level.resetting:
                made = [
                    (plus(self.edges[edge], seen[level.initial][label or 0], constant(-1.0)), then)
                    for edge, label, then in asked
                ]
            else:
                is_item = self._late(level, self._items_at(level, items))
                made = [
                    (plus(self.edges[e], is_item[j], seen[j][label or 0], constant(-2.0)), then)
                    for e, label, then in asked
                    for j in range(level.labels)
                ]
        return [row for row, _ in made], [then for _, then in made]

    def _by_move(self, level: Level, track: Track) -> list[Row]:
        """Where an edge permutes the labels as each letter of a track."""
        pairs = list(zip(self.edges, level.moves, strict=True))
        return [plus(*(row for row, move in pairs if move == own)) for own in track.letters]

    def _resetting(self, level: Level, label: int) -> Row:
        """Where an edge resets to a label."""
        pairs = zip(self.edges, level.resets, strict=True)
        return plus(*(row for row, reset in pairs if reset == label))

    def _items_at(self, level: Level, items: _Items) -> list[Row]:
        """By item, where it stands on the label that an edge resets to."""
        wanted = [set() if reset is None else {reset + 1} for reset in level.resets]
        return _where(self.wiring, items.rows, self.edges, wanted, level.labels)

    def _late(self, level: Level, taken: Sequence[Row]) -> list[Row]:
        """By label or item, whether it is the one that the last token but this has left."""
        others = [x for x in range(level.labels) if x != level.initial]
        builder, pairs = self.wiring.builder, zip(self.edges, level.resets, strict=True)
        when = plus(*(row for row, reset in pairs if reset is not None))
        if not level.resetting:
            return [constant(float(x == level.initial)) for x in range(level.labels)]
        nothing = (0.0,) * len(others)
        value = self.wiring.bounded(self.wiring.node([taken[x] for x in others]), 0.0, 1.0)
        flag = self.wiring.bounded(self.wiring.node([when]), 0.0, 1.0)
        late = builder.add(Delay(1, (0.0,)), flag), builder.add(Delay(1, nothing), value)
        node = builder.add(Recall(nothing), *late, self.wiring.node([constant(1.0)]))
        found = {x: single(node, channel) for channel, x in enumerate(others)}
        rest = plus(constant(1.0), *(scaled(row, -1.0) for row in found.values()))
        return [found.get(x, rest) for x in range(level.labels)]
