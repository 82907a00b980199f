"""What is known, in a dtype, of a legalised graph that a program was found in."""

from collections.abc import Callable, Mapping

import numpy as np

from lsrl.ir.bounds import Facts, facts
from lsrl.ir.numbers import sum_is_exact
from lsrl.ir.ops import (
    Affine,
    Constant,
    Delay,
    Hold,
    Input,
    LinearState,
    Lookup,
    Op,
    Periodic,
    Product,
    Recall,
    Relu,
)
from lsrl.rounding.channels import Channels, Kind, RoundingError, complement, negated, side
from lsrl.rounding.made import Made, held_exactly, is_flag, product_fits, take_in, terms_of
from lsrl.rounding.walk import NO_RULE, Walk

GIVEN = (Input, Constant, Lookup, Periodic)


def know(walk: Walk) -> Channels:
    """The channels of the graph that a finished walk went through.

    Raises:
      RoundingError: what it holds does not bear what the compiler took for granted.
    """
    made, channels = walk.made, walk.made.channels
    given = made.graph.facts_at(walk.tokens)
    for i in made.graph.live([made.graph.output, *made.graph.inputs]):
        node = made.graph.nodes[i]
        read = [channels.known(operand) for operand in node.operands]
        if channels.of(i).any():  # the outer ReLU of a comparison
            width = node.width
            channels.facts[i] = facts(np.zeros(width), np.ones(width), np.ones(width))
            _check_taken(channels, i, given[i])
            continue
        if _exact(walk, i, read, given[i]):
            channels.facts[i] = given[i]
            continue
        rule = _RULES.get(type(node.op))
        if rule is None:
            raise RoundingError(i, NO_RULE.format(node.op.name))
        rule(made, i)
        inferred = given[i] if isinstance(node.op, GIVEN) else node.op.infer(read, walk.tokens)
        channels.settle(i, given[i], _met(walk, i, inferred))
        _check_taken(channels, i, given[i])
    return channels


def _exact(walk: Walk, i: int, read: list[Facts], fact: Facts) -> bool:
    channels, node = walk.made.channels, walk.made.graph.nodes[i]
    if any(channels.of(operand).any() for operand in node.operands):
        return False
    sums, bits, tiny = node.op.sums(read, walk.tokens), walk.numerics.bits, walk.numerics.tiny
    fine = sum_is_exact(sums.magnitude, sums.grid, bits) & (sums.grid >= tiny)
    held = held_exactly(fact, walk.numerics)
    return bool((fine | (sums.magnitude == 0)).all() and held.all())


def _met(walk: Walk, i: int, inferred: Facts) -> Facts:
    """What is known of the program's signals that are this very node."""
    made, program = walk.made, walk.channels
    for origin in made.graph.nodes[i].origins:
        fact, width = program.facts[origin], made.graph.nodes[i].width
        if fact is None or fact.width != width:
            continue
        same = all(
            not walk.trail.lost[program.starts[origin] + channel]
            and walk.row(origin, channel) == made.row(i, channel)
            for channel in range(width)
        )
        if same:
            inferred = inferred.meet(fact)
    return inferred


def _check_taken(channels: Channels, i: int, taken: Facts) -> None:
    """Rounded numbers must have the signs and the grid that the compiler went by."""
    fact, unsure = channels.known(i), channels.of(i) != Kind.EXACT
    signs = ((taken.low < 0) | (fact.low >= 0)) & ((taken.high > 0) | (fact.high <= 0))
    fine = signs & (fact.step >= taken.step)
    fine &= (taken.low < taken.high) | ((fact.low == taken.low) & (fact.high == taken.high))
    if not ((not taken.boolean or fact.boolean) and fine[unsure].all()):
        raise RoundingError(i, "its bounds hold of real numbers, and not where they are rounded")


def _given(made: Made, i: int) -> None:
    take_in(made.channels, i, made.graph.facts[i])


def _affine(made: Made, i: int) -> None:
    node, channels = made.graph.nodes[i], made.channels
    if isinstance(node.op, Affine):
        for channel in range(node.width):
            terms = terms_of(channels, node, channel)
            channels.of(i)[channel] = channels.row(terms, node.op.bias[channel]).kind


def _relu(made: Made, i: int) -> None:
    channels, (operand,) = made.channels, made.graph.nodes[i].operands
    channels.of(i)[:] = np.minimum(channels.of(operand), Kind.REAL)
    for channel in range(len(channels.of(i))):
        row = made.row(operand, channel)
        channels.signs[channels.starts[i] + channel] = side(row, negated(row), "sign")


def _product(made: Made, i: int) -> None:
    channels, operands = made.channels, made.graph.nodes[i].operands
    read = [channels.known(operand) for operand in operands]
    kinds = np.maximum(*(channels.of(operand) for operand in operands))
    for channel, kind in enumerate(kinds.tolist()):
        fits = kind <= Kind.DECIDED and product_fits(read, channel, channels.numerics.bits)
        channels.of(i)[channel] = kind if fits else Kind.REAL
        for operand, fact in zip(operands, read, strict=True):
            if channels.of(operand)[channel] <= Kind.DECIDED and is_flag(fact, channel):
                row = made.row(operand, channel)
                own = channels.signs.setdefault(channels.starts[i] + channel, {})
                own.update(side(row, complement(row), "gate"))


def _memory(made: Made, i: int) -> None:
    channels, operands = made.channels, made.graph.nodes[i].operands
    kinds = np.maximum.reduce([channels.of(operand) for operand in operands])
    channels.of(i)[:] = np.minimum(kinds, Kind.REAL)


def _recall(made: Made, i: int) -> None:
    """Of which cell is said by numbers that are not rounded."""
    channels, (written, value, wanted) = made.channels, made.graph.nodes[i].operands
    if channels.of(written).any() or channels.of(wanted).any():
        raise RoundingError(i, NO_RULE.format("recall"))
    channels.of(i)[:] = np.minimum(channels.of(value), Kind.REAL)


def _register(made: Made, i: int) -> None:
    """A state whose rows take in one channel each, now or a token ago, does not add up."""
    node, channels = made.graph.nodes[i], made.channels
    if not isinstance(node.op, LinearState):
        return
    transition, (operand,) = node.op.transition, node.operands
    entries = np.diff(transition.indptr)
    zero = channels.known(operand).zero
    if (entries > 1).any() or ((entries == 1) & ~zero).any() or (transition.data != 1).any():
        raise RoundingError(i, "is a running sum of real numbers, which rounds at every token")
    channels.of(i)[:] = Kind.REAL


_RULES: Mapping[type[Op], Callable[[Made, int], None]] = {
    **dict.fromkeys(GIVEN, _given),
    Affine: _affine,
    Relu: _relu,
    Product: _product,
    Hold: _memory,
    Delay: _memory,
    LinearState: _register,
    Recall: _recall,
}
