"""The surface's bounds are those of its definitions: proven, never promised."""

import numpy as np
import pytest

import lsrl
from lsrl.errors import ProgramError, RampError, ShapeError
from lsrl.ir.groups import greatest_sums, partitions
from lsrl.ir.matrix import Matrix
from tests.grids import studied
from tests.strategies import inputs_of

pytestmark = pytest.mark.one_in(3)

TARGETS = [target.name for target in lsrl.targets()]


@lsrl.program
def negated_xor(a: lsrl.Token(2), b: lsrl.Token(2)) -> lsrl.Token(2):
    return ~(a ^ b)


@lsrl.program
def xor_and(a: lsrl.Token(2), b: lsrl.Token(2), c: lsrl.Token(2)) -> lsrl.Token(2):
    return (a ^ b) & c


@lsrl.program
def xor_of_three(a: lsrl.Token(2), b: lsrl.Token(2), c: lsrl.Token(2)) -> lsrl.Token(2):
    return a ^ b ^ c


@lsrl.program
def select_by_xor(
    a: lsrl.Token(2), b: lsrl.Token(2), x: lsrl.Token(4), y: lsrl.Token(4)
) -> lsrl.Token(4):
    return lsrl.select(a ^ b, x, y)


@lsrl.program
def clipped(x: lsrl.Vector(1, low=-10, high=10, step=1)) -> lsrl.Token(6):
    return lsrl.clip(x, 0, 5)


@lsrl.program
def clipped_twice(x: lsrl.Vector(1, low=-10, high=10, step=1)) -> lsrl.Token(4):
    return lsrl.clip(lsrl.clip(x, 0, 5), 0, 3)


@lsrl.program(max_length=18)
def saturating_position(x: lsrl.Token(2)) -> lsrl.Token(13):
    return lsrl.minimum(lsrl.position(), 12)


@lsrl.program
def greater_token(x: lsrl.Token(4), y: lsrl.Token(4)) -> lsrl.Token(4):
    return lsrl.maximum(x, y)


@lsrl.program
def distance(x: lsrl.Token(4), y: lsrl.Token(4)) -> lsrl.Token(4):
    return lsrl.absolute(x - y)


@lsrl.program
def looked_up_sum(x: lsrl.Token(4), y: lsrl.Token(4)) -> lsrl.Token(2):
    return lsrl.lookup(x + y, [0, 1, 1, 0, 1, 0, 0])


@lsrl.program
def looked_up_in_64_rows(x: lsrl.Token(32), y: lsrl.Token(33)) -> lsrl.Token(2):
    return lsrl.lookup(x + y, np.arange(64) % 3 % 2)


@lsrl.program
def one_of_four_symbols(x: lsrl.Token(8)) -> lsrl.Token(2):
    return x.one_hot[2:6].sum()


@lsrl.program
def nothing(x: lsrl.Vector(1, low=-10, high=10, step=1)) -> lsrl.Token(1):
    return x - x


@lsrl.program
def second_term(x: lsrl.Token(4), y: lsrl.Token(4)) -> lsrl.Token(4):
    return (x + y) - x


@lsrl.program
def read_cell(x: lsrl.Token(4), cells: lsrl.Vector(4, low=0, high=7, step=1)) -> lsrl.Token(8):
    return lsrl.mux(x.one_hot, cells)


@lsrl.program
def read_full_cell(
    x: lsrl.Token(4), cells: lsrl.Vector(4, low=3, high=(4, 5, 6, 7), step=1)
) -> lsrl.Vector(2, low=(3, 2), high=(7, 9)):
    """Some cell is always read, so that no 0 is."""
    place = lsrl.one_hot(lsrl.delay(x, 2), 3 + 1)
    return lsrl.mux(x.one_hot, cells), lsrl.mux(place, [2, cells[0], cells[3] + 2, 9])


@lsrl.program
def greatest_channel(x: lsrl.Vector(6, low=0, high=7, step=1)) -> lsrl.Token(6):
    return lsrl.argmax(x)


@lsrl.program
def range_of_two(x: lsrl.Vector(2, low=0, high=7, step=1)) -> lsrl.Token(8):
    return x.max() - x.min()


@lsrl.program
def mod_off_the_grid(x: lsrl.Token(8)) -> lsrl.Token(2):
    return lsrl.mod(3 * x, 2)


@lsrl.program(max_length=100)
def permuted_sum(x: lsrl.Token(4)) -> lsrl.Token(4):
    return lsrl.mux(lsrl.one_hot(lsrl.mod(lsrl.cumsum(x), 4), 4), [3, 2, 1, 0])


@lsrl.program
def clipped_maximum(x: lsrl.Token(8), y: lsrl.Token(8)) -> lsrl.Token(8):
    return lsrl.minimum(lsrl.maximum(x, y), lsrl.clip(y, 2, 5))


@lsrl.program
def median_of_five(x: lsrl.Vector(5, low=0, high=255, step=1)) -> lsrl.Vector(
    1, low=0, high=255, step=1
):
    """Odd-even transposition: five rounds of neighbours that swap."""
    values = list(x)
    for each_round in range(5):
        for i in range(each_round % 2, 4, 2):
            pair = values[i], values[i + 1]
            values[i], values[i + 1] = lsrl.minimum(*pair), lsrl.maximum(*pair)
    return values[2]


ONE_LINERS = {
    program.name: program
    for program in (
        negated_xor, xor_and, xor_of_three, select_by_xor, clipped, clipped_twice,
        saturating_position, greater_token, distance, looked_up_sum, looked_up_in_64_rows,
        one_of_four_symbols, nothing, second_term, read_cell, read_full_cell, greatest_channel,
        range_of_two, mod_off_the_grid, permuted_sum, clipped_maximum,
    )
}  # fmt: skip
# Each program on one target; at night on all of them.
ON_TARGETS = [
    pytest.param(
        name,
        target,
        marks=() if (i - j) % len(TARGETS) == 0 else pytest.mark.nightly,
        id=f"{name}-{target}",
    )
    for i, name in enumerate(ONE_LINERS)
    for j, target in enumerate(TARGETS)
]


def check_exact(program: lsrl.Program, target: str, tokens: int = 16) -> lsrl.Model:
    """Certified exact without a promise, and equal to the reference."""
    model = lsrl.compile(program, target)
    assert model.certificate.exact, model.certificate
    assert model.certificate.promises == ()
    inputs = inputs_of(program, tokens)
    np.testing.assert_array_equal(model.run(*inputs), program.run(*inputs))
    return model


@pytest.mark.parametrize(("name", "target"), ON_TARGETS)
def test_one_liners_need_no_promise(name, target):
    """That they could be declared at all shows their bounds."""
    check_exact(ONE_LINERS[name], target)


@pytest.mark.parametrize("target", studied(TARGETS, *(t for t in TARGETS if t != "mamba2")))
def test_a_median_of_five_bytes_is_exact(target, xla_defaults):
    model = check_exact(median_of_five, target, 80)
    values = np.random.default_rng(0).integers(0, 256, (4, 80, 5))
    np.testing.assert_array_equal(model.run(values)[..., 0], np.median(values, axis=-1))


BOUNDS = {
    "xor": (lambda a, x, y: a ^ (x > 1), 0, 1),
    "clip of a sum": (lambda a, x, y: lsrl.clip(x - y, -1, 2), -1, 2),
    "minimum": (lambda a, x, y: lsrl.minimum(x, 2), 0, 2),
    "maximum": (lambda a, x, y: lsrl.maximum(x - 3, y), -3, 3),
    "maximum of three": (lambda a, x, y: lsrl.maximum(x, y, a + 4), 4, 5),
    "minimum of five": (lambda a, x, y: lsrl.minimum(x, y, a, x + 2, 7), -3, 1),
    "absolute": (lambda a, x, y: lsrl.absolute(x - y), 0, 6),
    "like terms": (lambda a, x, y: 3 * x - (2 * x + y), -3, 6),
    "like terms, nested": (lambda a, x, y: (x + y + a) - (y + a), 0, 3),
    "a sum of one-hot channels": (lambda a, x, y: 5 * x.one_hot[:2].sum(), 0, 5),
    "channels of one token": (lambda a, x, y: x.one_hot[0] + x.one_hot[3], 0, 1),
    "a difference of them": (lambda a, x, y: x.one_hot[0] - 2 * x.one_hot[3], -2, 1),
    "gated channels": (lambda a, x, y: lsrl.select(x.one_hot[:3], y, 0).sum(), -3, 3),
    "gates on slices": (
        lambda a, x, y: lsrl.select(x.one_hot[0], 2, 0) + lsrl.select(x.one_hot[2], y, 0), -3, 3,
    ),
    "products": (lambda a, x, y: (x.one_hot * lsrl.concat(y, y, a, y)).sum(), -3, 3),
    "delayed": (lambda a, x, y: lsrl.delay(x.one_hot, 2)[1:].sum(), 0, 1),
    "held": (lambda a, x, y: lsrl.hold(x.one_hot, a).sum(), 0, 1),
    "and": (lambda a, x, y: (x.one_hot & a).sum(), 0, 1),
    "concatenated": (lambda a, x, y: lsrl.concat(x.one_hot, x.one_hot).sum(), 0, 2),
    "lookup": (lambda a, x, y: lsrl.lookup(x + a, [2, 3, 2, 5, 9]), 2, 9),
    "mod": (lambda a, x, y: lsrl.mod(5 * x, 4), 0, 3),
    "clock": (lambda a, x, y: lsrl.one_hot(lsrl.cycle(4), 4)[:3].sum(), 0, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_those_of_the_definition(name):
    body, low, high = BOUNDS[name]

    @lsrl.program(max_length=8)
    def bounded(a: lsrl.Token(2), x: lsrl.Token(4), y: lsrl.Vector(1, low=-3, high=3, step=1)):
        return body(a, x, y)

    facts = bounded.graph.facts[bounded.graph.output]
    assert (facts.low.tolist(), facts.high.tolist()) == ([low], [high])
    values = bounded.run(*inputs_of(bounded, 8))
    assert low <= values.min() and values.max() <= high


@pytest.mark.parametrize(
    ("factor", "divisor"),
    [(3, 2), (6, 4), (7, 2), (2.5, 2), (10, 4), (12, 8), (5, 3), (9, 6), (3, 2.5), (4, 2), (1, 3)],
)
def test_mod_off_the_grid_of_its_operand(factor, divisor):
    @lsrl.program
    def remainder(x: lsrl.Token(8)):
        return lsrl.mod(factor * x, divisor)

    symbols = np.arange(8)
    expected = np.mod(factor * symbols, divisor)
    np.testing.assert_array_equal(remainder.run(symbols)[:, 0], expected)
    assert remainder.graph.facts[remainder.graph.output].high < divisor


def test_mod_of_channels_on_different_grids():
    @lsrl.program
    def remainders(x: lsrl.Vector(3, low=0, high=[8, 12, 9], step=[0.5, 4, 3])):
        return lsrl.mod(x, 2.5)

    values = np.array([[8, 12, 9], [7.5, 8, 6], [0.5, 4, 3], [0, 0, 0]])
    np.testing.assert_array_equal(remainders.run(values), np.mod(values, 2.5))
    model = lsrl.compile(remainders, "rnn")
    assert model.certificate.exact
    np.testing.assert_array_equal(model.run(values), np.mod(values, 2.5))


def test_a_bound_of_a_definition_follows_the_length():
    """Facts of fewer tokens are narrower, so a failure is found at its first token."""

    @lsrl.program(max_length=2**26)
    def least(x: lsrl.Token(2)):
        count = lsrl.cumsum(x)
        return lsrl.minimum(count, 3 * count)

    output = least.graph.output
    assert least.graph.facts_at(10)[output].high == 10
    assert lsrl.compile(least, "rnn").certificate.reasons[0].token > 2**20


@pytest.mark.parametrize(
    "target",
    studied(
        ["linear_rnn", "rnn", "lstm", "mamba", "mamba2", "griffin", "deltanet"],
        "linear_rnn",
        "rnn",
        "lstm",
        "mamba",
        "griffin",
    ),
)
def test_a_read_counts_one_cell(target):
    """64 cells together are past float32's integers, but only one of them is read."""

    @lsrl.program
    def read(at: lsrl.Token(64), cells: lsrl.Vector(64, low=0, high=2**20, step=1)):
        return lsrl.mux(at.one_hot, cells)

    model = lsrl.compile(read, target)
    assert model.certificate.exact, model.certificate
    inputs = inputs_of(read, 8)
    np.testing.assert_array_equal(model.run(*inputs), read.run(*inputs))


def test_sums_over_groups_take_the_largest_share():
    weight = Matrix([[1, 2, -3, 4, 0], [0, 1, 1, 1, 1]])
    terms = weight.data  # as of columns that are 1
    entries = weight.rows, weight.entry_rows(), weight.indices
    first = ("first", np.array([0, 0, 1, -1, -1]))
    second = ("second", np.array([-1, -1, 0, 1, 2]))
    # As "second", with members too many for rows and members to have one number together.
    crossed = ("second", np.array([-1, -1, 0, 1, 2**62]))
    for groups, sums in (
        ((), [4, 4]),
        ((first,), [7, 3]),
        ((second,), [7, 2]),
        ((first, second), [7, 2]),
        ((first, crossed), [7, 2]),
    ):
        assert greatest_sums(partitions(*entries, groups), terms).tolist() == sums


def test_a_bound_is_never_tighter_than_its_values():
    """Signals of several bounds meet in sums whose terms merge in part."""

    @lsrl.program
    def mixed(x: lsrl.Vector(1, low=-4, high=3, step=1), y: lsrl.Vector(1, low=-1, high=5, step=1)):
        z = lsrl.relu(x - y)
        w = lsrl.relu(y - 2 * x)
        return lsrl.concat(x - z + w, 2 * x + z - y, z - w - x, lsrl.maximum(x, y, z) - z)

    grid = np.stack(np.meshgrid(np.arange(-4, 4), np.arange(-1, 6)), axis=-1).reshape(-1, 2)
    values = mixed.run(grid[:, :1], grid[:, 1:])
    facts = mixed.graph.facts[mixed.graph.output]
    assert (facts.low <= values.min(axis=0)).all() and (values.max(axis=0) <= facts.high).all()
    # Some ends are met: they are no loose hull.
    assert facts.high[1] == values[:, 1].max() and facts.low[3] == values[:, 3].min()


def decayed(x):
    return lsrl.linear_state(x, 0.3)


REFUSED = {
    "mux of no one-hot": (lambda a, x: lsrl.mux(lsrl.concat(a, a), [1, 2]), ProgramError),
    "mux of too few": (lambda a, x: lsrl.mux(x.one_hot, [1, 2]), ShapeError),
    "mux of a narrow signal": (lambda a, x: lsrl.mux(x.one_hot, a), ShapeError),
    "maximum of nothing": (lambda a, x: lsrl.maximum(), ShapeError),
    "mod by 0": (lambda a, x: lsrl.mod(x, 0), ProgramError),
    "mod by 0.1": (lambda a, x: lsrl.mod(x, 0.1), ProgramError),
    "argmax of continuous": (
        lambda a, x: lsrl.argmax(lsrl.linear_state(x.one_hot, 0.3)),
        RampError,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused_at_its_line(case):
    body, error = REFUSED[case]
    with pytest.raises(error, match=r"test_bounds\.py:\d+"):

        @lsrl.program
        def wrong(a: lsrl.Token(2), x: lsrl.Token(4)):
            return body(a, x)


def test_maps_that_are_alike_have_facts_of_their_own():
    """Passes go by the identity of facts: a node must not pass for another that is like it."""

    @lsrl.program(max_length=10)
    def several(x: lsrl.Vector(3, low=-2, high=2, step=0.5)):
        return lsrl.concat(*(2 * x[k] + 1 for k in range(3)))

    made = zip(several.graph.nodes, several.graph.facts, strict=True)
    alike = [fact for node, fact in made if node.op.name == "affine" and node.width == 1]
    assert len(alike) >= 3
    assert len({id(fact) for fact in alike}) == len(alike)


@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 5001])
def test_states_that_turn_their_sign(tokens):
    """s = -s + u reaches what its updates of both parities do, however many there are."""

    @lsrl.program(max_length=tokens)
    def turning(x: lsrl.Token(3)):
        update = lsrl.concat(lsrl.lookup(x, [[-2], [3], [1]]), 1)
        return lsrl.linear_state(update, [[-1, 0], [0, -1]], initial=[5, 0])

    fact = turning.graph.facts[turning.graph.output]
    worst = np.where(np.arange(tokens) % 2 == tokens % 2, 1, 0)
    runs = [turning.run(ids[None])[0] for ids in (worst, 1 - worst)]
    reached = np.concatenate(runs)
    np.testing.assert_array_equal(fact.high, reached.max(axis=0))
    np.testing.assert_array_equal(fact.low, reached.min(axis=0))
