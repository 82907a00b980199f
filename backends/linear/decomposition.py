"""The structure of a recurrent kernel: groups of units that take few operations a token.

`decompose` looks at the numbers: shift registers are slices of one sequence, self-loops of ±1 and
rings (signed cycles) are running sums, real decays are sums that shrink, rotations turn a ring, and
only what is left multiplies by a matrix at every token. What runs them is in
`lsrl.backends.linear.recurrence`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from lsrl.backends.linear.recurrence import DECAY_LIMIT

GroupKind = Literal["feed", "ring", "decay", "rotation", "in_order"]

# Beyond this many groups a layer is a tangle, where one loop over time compiles and runs faster.
GROUPS_LIMIT = 48


@dataclass(frozen=True)
class Group:
    """Units of one layer that one closed form runs together.

    A row is a head and the units that only repeat it later: unit members[r, k] is its head, k
    tokens ago, times the sign of the unit.

    Attributes:
      kind: "feed" (no memory), "ring" (a head adds to itself `stride` tokens later), "decay",
        "rotation" (the rows are one ring, in order) or "in_order" (any kernel among the rows).
      varying: the sequences of a batch differ here.
      members: (rows, history) units, the head first.
      stride: of a ring.
      sign: of a ring or rotation.
      kernel: (rows, rows) of "in_order", (rows,) decays of "decay", else None.
      driven: some head has inputs or a bias.
      sources: (s,) units outside of the group that heads read with a lag of one.
      source_kernel: (s, rows).
    """

    kind: GroupKind
    varying: bool
    members: np.ndarray
    stride: int
    sign: int
    kernel: sparse.csc_array | np.ndarray | None
    driven: bool
    sources: np.ndarray
    source_kernel: sparse.csc_array


@dataclass(frozen=True)
class Decomposition:
    """The groups of a layer, each after those that it reads, and where each unit is.

    Attributes:
      groups: in order of evaluation.
      group: (hidden,) the group of a unit.
      row: (hidden,) its row there.
      lag: (hidden,) how many tokens it is behind its head.
      sign: (hidden,) 1 or -1: the unit is sign * head, `lag` tokens ago.
    """

    groups: tuple[Group, ...]
    group: np.ndarray
    row: np.ndarray
    lag: np.ndarray
    sign: np.ndarray


@dataclass(frozen=True)
class _Block:
    """Units that can't be told apart by level: a head with its repeaters, a ring, or a knot."""

    kind: GroupKind
    units: tuple[int, ...]
    signs: tuple[int, ...]
    stride: int = 1
    sign: int = 1


def decompose(
    kernel: sparse.csr_array, inputs: np.ndarray, biased: np.ndarray, varying: np.ndarray
) -> Decomposition:
    """Cut the units of a layer into groups with a closed form over time.

    Args:
      kernel: (hidden, hidden) recurrent kernel, entry [source, target], without stored zeros.
      inputs: (hidden,) whether a unit has inputs.
      biased: (hidden,) whether a unit has a bias.
      varying: (hidden,) whether its inputs or initial state differ between sequences of a batch.

    Returns:
      The decomposition; every unit is in exactly one group.
    """
    hidden = kernel.shape[0]
    entries = kernel.tocoo()
    driven = inputs | biased
    blocks = _blocks(kernel, entries, driven)
    block_of = np.empty(hidden, np.int64)
    for number, block in enumerate(blocks):
        block_of[list(block.units)] = number
    sources, targets = block_of[entries.row], block_of[entries.col]
    across = sources != targets
    levels = _levels(sources[across], targets[across], len(blocks))
    block_varying, block_driven, block_inputs = (
        np.bincount(block_of[units], minlength=len(blocks)) > 0
        for units in (varying, driven, inputs)
    )
    block_varying = _spread(sources[across], targets[across], block_varying)
    block_reads = np.bincount(targets[across], minlength=len(blocks)) > 0

    keyed: dict[tuple[object, ...], list[int]] = {}
    for number, block in enumerate(blocks):
        key: tuple[object, ...] = (int(levels[number]), bool(block_varying[number]), block.kind)
        if block.kind == "rotation":
            key += (number,)
        elif block.kind != "in_order":
            shape = (block.stride, len(block.units), block.sign)
            key += (*shape, bool(block_driven[number]), bool(block_reads[number]))
            if block.kind == "ring":  # one that only counts needs no loop
                key += (bool(block_inputs[number]),)
        keyed.setdefault(key, []).append(number)
    if len(keyed) > GROUPS_LIMIT:
        knot = _Block("in_order", tuple(range(hidden)), (1,) * hidden)
        return _assemble([[knot]], kernel, driven, np.full(hidden, varying.any()))
    ordered = sorted(keyed.items(), key=lambda item: (item[0][:2], item[1][0]))
    return _assemble(
        [[blocks[number] for number in numbers] for _, numbers in ordered],
        kernel,
        driven,
        block_varying[block_of],
    )


def _blocks(
    kernel: sparse.csr_array, entries: sparse.coo_array, driven: np.ndarray
) -> list[_Block]:
    """Find rings, knots, and heads with their repeaters."""
    hidden = kernel.shape[0]
    count, component = csgraph.connected_components(kernel, directed=True, connection="strong")
    sizes = np.bincount(component, minlength=count)
    inside = component[entries.row] == component[entries.col]
    loops = kernel.diagonal()
    alone = sizes[component] == 1
    unit_weight = np.abs(entries.data) == 1

    blocks = []
    members: dict[int, list[int]] = {}
    for unit in np.flatnonzero(~alone):
        members.setdefault(int(component[unit]), []).append(int(unit))
    outside_reads = np.zeros(hidden, bool)
    outside_reads[entries.col[~inside]] = True
    edges = np.bincount(component[entries.row[inside]], minlength=count)
    plain = np.bincount(component[entries.row[inside & unit_weight]], minlength=count)
    for number, knot in members.items():
        # A strongly connected component with as many edges as units is one cycle.
        if edges[number] == plain[number] == len(knot):
            blocks.append(_ring(kernel, component, knot, driven | outside_reads))
        else:
            blocks.append(_Block("in_order", tuple(knot), (1,) * len(knot)))

    # A unit repeats another if it reads nothing else, with a weight of ±1.
    in_degree = np.bincount(entries.col, minlength=hidden)
    closed = alone & (np.abs(loops) <= DECAY_LIMIT)
    repeats = alone & (loops == 0) & ~driven & (in_degree == 1)
    follower: dict[int, tuple[int, int]] = {}
    repeaters = set()
    usable = closed[entries.row] & repeats[entries.col] & unit_weight
    for source, target, weight in zip(
        entries.row[usable], entries.col[usable], entries.data[usable], strict=True
    ):
        if int(source) not in follower:
            follower[int(source)] = (int(target), int(weight))
            repeaters.add(int(target))
    for head in np.flatnonzero(alone).tolist():
        if head in repeaters:
            continue
        units: list[int] = [head]
        signs = [1]
        while units[-1] in follower:
            tail, sign = follower[units[-1]]
            units.append(tail)
            signs.append(signs[-1] * sign)
        loop = float(loops[head])
        if loop == 0:
            kind: GroupKind = "feed"
        elif abs(loop) == 1:
            kind = "ring"
        else:
            kind = "decay" if abs(loop) <= DECAY_LIMIT else "in_order"
        blocks.append(_Block(kind, tuple(units), tuple(signs), sign=-1 if loop == -1 else 1))
    return blocks


def _ring(
    kernel: sparse.csr_array, component: np.ndarray, units: list[int], entered: np.ndarray
) -> _Block:
    """Order the units of a cycle, from the one that is driven."""
    entrances = [unit for unit in units if entered[unit]]
    order, signs = [entrances[0] if entrances else units[0]], [1]
    while True:
        row = slice(kernel.indptr[order[-1]], kernel.indptr[order[-1] + 1])
        for target, weight in zip(kernel.indices[row], kernel.data[row], strict=True):
            if component[target] == component[order[0]]:
                following, sign = int(target), signs[-1] * int(weight)
        if following == order[0]:
            break
        order.append(following)
        signs.append(sign)
    kind: GroupKind = "rotation" if len(entrances) > 1 else "ring"
    return _Block(kind, tuple(order), tuple(signs), len(order), sign)


def _levels(sources: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """Give each block the length of the longest path to it; the edges have no cycle."""
    levels = np.zeros(count, np.int64)
    # Deeper than the limit there are too many groups anyway, so the levels needn't be right.
    for _ in range(GROUPS_LIMIT + 1):
        before = levels.copy()
        np.maximum.at(levels, targets, levels[sources] + 1)
        if (levels == before).all():
            break
    return levels


def _spread(sources: np.ndarray, targets: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Mark all that can be reached from marked blocks."""
    while True:
        spread = marked.copy()
        np.logical_or.at(spread, targets, marked[sources])
        if (spread == marked).all():
            return spread
        marked = spread


def _assemble(
    batches: list[list[_Block]], kernel: sparse.csr_array, driven: np.ndarray, varying: np.ndarray
) -> Decomposition:
    """Make a group of each batch of blocks, and note where every unit went."""
    hidden = kernel.shape[0]
    place = {name: np.zeros(hidden, np.int64) for name in ("group", "row", "lag", "sign")}
    groups = []
    by_target = kernel.tocsc()
    for number, blocks in enumerate(batches):
        first = blocks[0]
        if first.kind in ("rotation", "in_order"):
            members = np.concatenate([block.units for block in blocks])[:, None]
            signs = np.concatenate([block.signs for block in blocks])[:, None]
        else:
            members = np.array([block.units for block in blocks])
            signs = np.array([block.signs for block in blocks])
        place["group"][members] = number
        place["row"][members] = np.arange(len(members))[:, None]
        place["lag"][members] = np.arange(members.shape[1])
        place["sign"][members] = signs
        heads = members[:, 0]
        incoming = sparse.csc_array(by_target[:, heads])
        own: sparse.csc_array | np.ndarray | None = None
        if first.kind == "decay":
            own = kernel.diagonal()[heads]
        elif first.kind == "in_order":
            own = sparse.csc_array(incoming[heads, :])
        outside = np.ones(hidden, bool)
        outside[members] = False
        reads = np.flatnonzero(outside & (np.diff(incoming.tocsr().indptr) > 0))
        # In a rotation a head has a sign of its own, and so has what drives it.
        scale = sparse.diags_array(signs[:, 0].astype(np.float64))
        groups.append(
            Group(
                kind=first.kind,
                varying=bool(varying[heads].any()),
                members=members,
                stride=first.stride,
                sign=first.sign,
                kernel=own,
                driven=bool(driven[heads].any()),
                sources=reads,
                source_kernel=sparse.csc_array(incoming[reads, :] @ scale),
            )
        )
    return Decomposition(tuple(groups), **place)
