"""Passes: one golden dump each, and what each promises, by hand.

That every pass preserves every value is tested on random programs in test_random_programs.
"""

# Programs are annotated with values, as users write them.
# mypy: disable-error-code="valid-type, operator, arg-type"

from textwrap import dedent

import numpy as np
import pytest

import lsrl
from lsrl import Token, Vector
from lsrl.backends import registry
from lsrl.errors import PrecisionError, UnsupportedOpError
from lsrl.ir.evaluate import evaluate
from lsrl.ir.ops import (
    Affine,
    Constant,
    LinearState,
    Lookup,
    Periodic,
    Product,
    Relu,
    Select,
    Step,
)
from lsrl.passes.affine import fuse_affine, split_rows
from lsrl.passes.comparison import lower_relus, lower_steps
from lsrl.passes.decided import drop_decided
from lsrl.passes.fold import fold_tables
from lsrl.passes.logic import flatten_conjunctions
from lsrl.passes.memory import drop_told, lower_memory
from lsrl.passes.pipeline import MAX_ROUNDS, Pipeline
from lsrl.passes.select import lower_selects
from lsrl.passes.unroll import unroll_states
from lsrl.target import Capabilities
from tests.grids import studied
from tests.strategies import inputs_of

pytestmark = pytest.mark.one_in(2)

LINEAR = registry.find("linear_rnn").capabilities
GATED = registry.find("gated_linear_rnn").capabilities
BARE = Capabilities(native=frozenset())

DIGIT = Vector(1, low=0, high=3, step=1)
SIGNED = Vector(1, low=-3, high=5, step=1)


def operations(graph, kind):
    """The live ops of one kind."""
    return [graph.nodes[i].op for i in graph.live() if isinstance(graph.nodes[i].op, kind)]


def check(program, transform, golden=None, tokens=12):
    """Apply a pass: the values stay as they are, and the dump is the golden one, inputs left out.

    Returns:
      The graph after the pass.
    """
    graph = transform(program.graph)
    tokens = min(tokens, program.max_length or tokens)
    inputs = inputs_of(program, tokens)
    (values,) = evaluate(graph, inputs, exact=True).values()
    np.testing.assert_array_equal(values, program.run(*inputs, exact=True))
    if golden is not None:
        shown = [line for line in graph.dump().splitlines() if "= input()" not in line]
        assert shown == dedent(golden).strip().splitlines()
    return graph


# ---------------------------------------------------------------------- fold


def test_functions_of_a_token_become_lookups_and_clocks_merge():
    @lsrl.program
    def fold(x: Token(4)):
        bent = lsrl.relu(2 * x - 3)
        clock = lsrl.relu(lsrl.cycle(2) + lsrl.cycle(3) - 1)
        return bent, clock, lsrl.constant(2) + 1

    golden = """
        %1 = lookup(%0) {table=[[0], [0], [1], [3]]} : 1 in [0, 3]  # bent
        %2 = periodic() {table=[[0], [1], [1], [0], [0], [2]]} : 1 in [0, 2]  # clock
        %3 = constant() {values=(3.0,)} : 1 in [3, 3]
        %4 = affine(%1, %2, %3) {weights=([[1], [0], [0]], [[0], [1], [0]], [[0], [0], [1]]), \
bias=(0.0, 0.0, 0.0)} : 3 in [0, 3]
        return %4
    """
    check(fold, fold_tables, golden)


def test_an_affine_map_of_an_id_stays_since_it_costs_nothing():
    @lsrl.program
    def scaled(x: Token(4)):
        return 2 * x

    assert not operations(check(scaled, fold_tables), Lookup)


def test_what_reads_two_tokens_or_the_past_is_no_table():
    @lsrl.program(max_length=20)
    def apart(x: Token(4), y: Token(3)):
        return lsrl.relu(x - y), lsrl.relu(lsrl.delay(x) - 1), lsrl.relu(lsrl.cumsum(x) - 2)

    graph = check(apart, fold_tables)
    assert not operations(graph, Lookup)
    assert len(operations(graph, Relu)) == 3


def test_long_periods_are_not_merged():
    @lsrl.program
    def primes(x: Token(2)):
        return lsrl.relu(lsrl.cycle(11) - lsrl.cycle(13)) + x

    graph = check(primes, fold_tables, tokens=150)
    assert sorted(op.table.rows for op in operations(graph, Periodic)) == [11, 13]


# ---------------------------------------------------------------------- decided


def test_ops_that_bounds_decide_go():
    @lsrl.program
    def decided(x: DIGIT, y: Vector(1, low=-2, high=2, step=1)):
        open_ = lsrl.relu(x + 1)
        shut = lsrl.relu(-1 - x)
        some = lsrl.relu(lsrl.concat(x, y))
        chosen = lsrl.select(x >= 0, x, y)
        return open_ + shut + chosen, some

    golden = """
        %2 = affine(%0) {weights=(I(1),), bias=(1.0,)} : 1 in [1, 4]  # open_
        %3 = constant() {values=(0.0,)} : 1 in [0, 0]  # shut
        %4 = affine(%0, %1) {weights=([[1], [0]], [[0], [1]]), bias=(0.0, 0.0)} : 2 in [-2, 3]
        %5 = affine(%4) {weights=([[0, 1]],), bias=(0.0,)} : 1 in [-2, 2]
        %6 = relu(%5) : 1 in [0, 2]
        %7 = affine(%4, %6) {weights=([[1, 0], [0, 0]], [[0], [1]]), bias=(0.0, 0.0)} : 2 in \
[0, 3]  # some
        %8 = affine(%2, %3) {weights=(I(1), I(1)), bias=(0.0,)} : 1 in [1, 4]
        %9 = affine(%8, %0) {weights=(I(1), I(1)), bias=(0.0,)} : 1 in [1, 7]
        %10 = affine(%9, %7) {weights=([[1], [0], [0]], [[0, 0], [1, 0], [0, 1]]), bias=(0.0, \
0.0, 0.0)} : 3 in [0, 7]
        return %10
    """
    check(decided, drop_decided, golden)


def test_channels_that_are_all_decided_need_no_relu():
    """Some open, some shut, none undecided: a ReLU without channels was made of it once."""

    @lsrl.program
    def halves(x: DIGIT):
        return lsrl.relu(lsrl.concat(x, -x))

    assert not operations(check(halves, drop_decided), Relu)
    lsrl.compile(halves, "linear_rnn")


def test_a_product_with_a_constant_is_an_affine_map():
    @lsrl.program
    def constant_factor(x: SIGNED):
        return x * lsrl.bound(lsrl.relu(x), 2, 2), lsrl.constant(3) * x

    for _ in range(2):
        graph = drop_decided(constant_factor.graph)
        assert not operations(graph, Product)


# ---------------------------------------------------------------------- affine


def test_affine_maps_merge():
    @lsrl.program
    def fuse(x: Vector(2, low=0, high=3, step=1)):
        total = x.sum()
        return 3 * (total - 1) + x[0]

    golden = """
        %1 = affine(%0) {weights=([[4, 3]],), bias=(-3.0,)} : 1 in [-3, 18]
        return %1
    """
    check(fuse, fuse_affine, golden)


def test_maps_stay_apart_where_nonzeros_would_multiply():
    @lsrl.program
    def window(x: DIGIT):
        total = lsrl.window_sum(x, 20)
        return np.ones((10, 1)) @ total, lsrl.relu(total - 30)

    graph = check(window, fuse_affine, tokens=30)
    assert sum(weight.nonzeros for op in operations(graph, Affine) for weight in op.weights) < 60


def test_maps_stay_apart_where_float64_would_round_the_product():
    @lsrl.program
    def fine(x: DIGIT):
        return (1 + 2.0**-40) * ((1 + 2.0**-40) * x)

    assert len(operations(check(fine, fuse_affine), Affine)) == 2


def test_what_is_known_of_a_map_stays_where_it_is_not_merged():
    # Three rows of three terms are more than a sum and three rows that read it.
    @lsrl.program
    def promised(x: Token(4), y: Token(4), z: Token(4)):
        return lsrl.relu(np.array([[1], [2], [3]]) @ lsrl.bound((x + y) + z, 0, 1) - 1)

    graph = fuse_affine(drop_told(promised.graph, BARE))
    apart, read = (i for i in graph.live() if isinstance(graph.nodes[i].op, Affine))
    assert graph.nodes[read].operands == (apart,)
    assert graph.facts[apart].high == 1


def test_a_long_sum_is_one_map():
    @lsrl.program
    def total(x: Vector(40, low=0, high=1, step=1)):
        return sum(lsrl.relu(x[k] - x[k - 1]) * k for k in range(1, 40))

    graph = check(total, fuse_affine)
    assert len(operations(graph, Affine)) == 40
    assert len(graph.nodes[graph.output].op.weights) == 39


@pytest.mark.parametrize("seed", range(12))
def test_chains_of_named_maps_merge_to_the_same_values(seed):
    rng = np.random.default_rng(seed)
    moves = [np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], (3, 1)) for _ in range(3)]

    @lsrl.program
    def chains(x: Vector(3, low=0, high=5, step=1)):
        found = [x, lsrl.relu(x - 1)]
        for _ in range(12):
            kind, place = rng.integers(9), rng.integers(2)
            total, term = found[place], lsrl.relu(x - int(rng.integers(1, 5)))
            if kind < 3:
                total = (total + term, term - total, total - 2 * term)[kind]
            elif kind < 5:
                total = moves[kind - 3] @ total + term
            elif kind == 5:
                total = lsrl.concat(total, term)[[5, 0, 2]]
            elif kind == 6:
                total = moves[2] @ lsrl.concat(term, total[1:3], total[0:1])[[3, 5, 4]] - total
            elif kind == 7:
                total = total * (0.5 + 2.0 ** -int(rng.integers(2, 40))) + term
            else:
                total = found[0] - found[1] + term
            found[place] = total
        return found[0], found[1]

    check(chains, fuse_affine)


def test_rows_worth_carrying_become_a_node():
    @lsrl.program
    def split(x: Vector(4, low=0, high=3, step=1), y: Vector(1, low=0, high=1, step=1)):
        wide = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 0, 0]]) @ x
        return wide + np.array([[1], [2], [3]]) @ y

    golden = """
        %2 = affine(%0) {weights=([[1, 2, 3, 4]],), bias=(0.0,)} : 1 in [0, 30]
        %3 = affine(%2) {weights=([[1], [1], [0]],), bias=(0.0, 0.0, 0.0)} : 3 in [0, 30]  # wide
        %4 = affine(%1) {weights=([[1], [2], [3]],), bias=(0.0, 0.0, 0.0)} : 3 in [0, 3]
        %5 = affine(%3, %4) {weights=(I(3), I(3)), bias=(0.0, 0.0, 0.0)} : 3 in [0, 32]
        return %5
    """
    check(split, split_rows, golden)


# ---------------------------------------------------------------------- memory


def test_a_bound_leaves_its_interval_behind():
    @lsrl.program(max_length=8)
    def promised(x: Token(2)):
        level = lsrl.bound(lsrl.cumsum(x), 0, 8)
        half = lsrl.bound(level / 2, 0, 2)
        return lsrl.relu(half - 1)

    golden = """
        %1 = linearstate(%0) {transition=I(1), initial=(0.0,)} : 1 in [0, 8]  # level
        %2 = affine(%1) {weights=([[0.5]],), bias=(0.0,)} : 1 in [0, 2]  # half
        %3 = affine(%2) {weights=(I(1),), bias=(-1.0,)} : 1 in [-1, 1]
        %4 = relu(%3) : 1 in [0, 1]
        return %4
    """
    check(promised, lambda g: drop_told(g, BARE), golden, tokens=4)


def test_delays_share_a_register_and_clocks_a_ring():
    @lsrl.program(max_length=8)
    def memory(x: Token(3)):
        return lsrl.delay(x, 1) + lsrl.delay(x, 3), lsrl.cycle(2) + lsrl.cycle(4)

    golden = """
        %1 = affine(%0) {weights=([[1], [0], [0], [0]],), bias=(0.0, 0.0, 0.0, 0.0)} : 4 in [0, 2]
        %2 = linearstate(%1) {transition=[[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, \
0]], initial=(0.0, 0.0, 0.0, 0.0)} : 4 in [0, 2]
        %3 = affine(%2) {weights=([[0, 1, 0, 0]],), bias=(0.0,)} : 1 in [0, 2]
        %4 = affine(%2) {weights=([[0, 0, 0, 1]],), bias=(0.0,)} : 1 in [0, 2]
        %5 = affine(%3, %4) {weights=(I(1), I(1)), bias=(0.0,)} : 1 in [0, 4]
        %6 = constant() {values=(0.0, 0.0, 0.0, 0.0)} : 4 in [0, 0]
        %7 = linearstate(%6) {transition=[[0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, \
0]], initial=(0.0, 0.0, 0.0, 1.0)} : 4 in [0, 1]
        %8 = affine(%7) {weights=([[0, 1, 0, 1]],), bias=(0.0,)} : 1 in [0, 1]
        %9 = affine(%7) {weights=([[0, 1, 2, 3]],), bias=(0.0,)} : 1 in [0, 3]
        %10 = affine(%8, %9) {weights=(I(1), I(1)), bias=(0.0,)} : 1 in [0, 4]
        %11 = affine(%5, %10) {weights=([[1], [0]], [[0], [1]]), bias=(0.0, 0.0)} : 2 in [0, 4]
        return %11
    """
    check(memory, lambda graph: lower_memory(graph, LINEAR), golden)


def test_delays_share_a_register_only_from_the_same_start():
    @lsrl.program(max_length=20)
    def starts(x: Token(3)):
        return lsrl.delay(x, 2), lsrl.delay(x, 4), lsrl.delay(x, 3, initial=1)

    graph = check(starts, lambda graph: lower_memory(graph, LINEAR))
    assert sorted(len(op.initial) for op in operations(graph, LinearState)) == [4, 5]


def test_a_delay_of_a_delay_shares_its_register_where_both_start_alike():
    @lsrl.program(max_length=20)
    def again(x: Token(3)):
        near = lsrl.delay(x, 2)
        return near, lsrl.delay(near, 3), lsrl.delay(near, 1, initial=2)

    graph = check(again, lambda graph: lower_memory(graph, LINEAR))
    assert sorted(len(op.initial) for op in operations(graph, LinearState)) == [2, 6]


def test_clocks_share_a_ring_only_where_one_period_divides_the_other():
    @lsrl.program(max_length=20)
    def clocks(x: Token(3)):
        return x + lsrl.cycle(3), lsrl.cycle(6), lsrl.cycle(4), lsrl.cycle(2)

    graph = check(clocks, lambda graph: lower_memory(graph, LINEAR))
    # 2 and 3 both divide 6.
    assert sorted(len(op.initial) for op in operations(graph, LinearState)) == [4, 6]


def test_a_latch_is_a_sum_of_what_it_lets_through():
    @lsrl.program(max_length=8)
    def latched(x: Token(3)):
        kept = lsrl.latch(x, lsrl.periodic([0, 0, 1, 0, 0, 0, 0, 0]), initial=2)
        return kept

    golden = """
        %1 = constant() {values=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)} : 8 in [0, 0]
        %2 = linearstate(%1) {transition=Matrix(8x8, 8 nonzeros), initial=(0.0, 0.0, 0.0, 0.0, \
0.0, 0.0, 0.0, 1.0)} : 8 in [0, 1]
        %3 = affine(%2) {weights=([[0, 0, 1, 0, 0, 0, 0, 0]],), bias=(0.0,)} : 1 in [0, 1]
        %4 = affine(%0) {weights=(I(1),), bias=(-2.0,)} : 1 in [-2, 0]
        %5 = constant() {values=(0.0,)} : 1 in [0, 0]
        %6 = select(%3, %4, %5) : 1 in [-2, 0]
        %7 = linearstate(%6) {transition=I(1), initial=(2.0,)} : 1 in [0, 2]  # kept
        return %7
    """
    check(latched, lambda graph: lower_memory(graph, LINEAR), golden)


# ---------------------------------------------------------------------- select


def choice(first, second, via="auto"):
    @lsrl.program
    def chosen(c: Token(2), a: first, b: second):
        return lsrl.select(c, a, b, via=via)

    return chosen


def test_select_by_relu_has_the_least_big_m():
    golden = """
    %3 = affine(%1, %0) {weights=(I(1), [[5]]), bias=(-5.0,)} : 1 in [-8, 5]
    %4 = relu(%3) : 1 in [0, 5]
    %5 = affine(%1, %0) {weights=([[-1]], [[3]]), bias=(-3.0,)} : 1 in [-8, 3]
    %6 = relu(%5) : 1 in [0, 3]
    %7 = affine(%4, %6) {weights=(I(1), [[-1]]), bias=(0.0,)} : 1 in [-3, 5]
    %8 = affine(%2, %0) {weights=(I(1), [[-3]]), bias=(0.0,)} : 1 in [-3, 3]
    %9 = relu(%8) : 1 in [0, 3]
    %10 = affine(%7, %9) {weights=(I(1), I(1)), bias=(0.0,)} : 1 in [-3, 5]
    return %10
    """
    check(choice(SIGNED, DIGIT), lambda graph: lower_selects(graph, LINEAR), golden)


def test_select_by_gate_is_one_product():
    golden = """
    %3 = affine(%1, %2) {weights=(I(1), [[-1]]), bias=(0.0,)} : 1 in [-6, 5]
    %4 = product(%0, %3) : 1 in [-6, 5]
    %5 = affine(%2, %4) {weights=(I(1), I(1)), bias=(0.0,)} : 1 in [-3, 5]
    return %5
    """
    check(choice(SIGNED, DIGIT), lambda graph: lower_selects(graph, GATED), golden)


@pytest.mark.parametrize(
    ("via", "target", "product"),
    [
        ("auto", LINEAR, 0),
        ("gate", LINEAR, 0),
        ("relu", LINEAR, 0),
        ("auto", GATED, 1),
        ("gate", GATED, 1),
        ("relu", GATED, 0),
    ],
)
def test_a_request_is_followed_where_the_target_can(via, target, product):
    program = choice(SIGNED, DIGIT, via=via)
    graph = check(program, lambda graph: lower_selects(graph, target))
    assert len(operations(graph, Product)) == product
    assert not operations(graph, Select)


def test_channels_with_one_floor_take_one_relu_each():
    wide = Vector(3, low=[-3, 0, -8], high=5, step=1)
    program = choice(wide, Vector(3, low=-2, high=[2, 7, 2], step=1))
    graph = check(program, lambda graph: lower_selects(graph, LINEAR))
    biases = sorted(tuple(op.bias) for op in operations(graph, Affine))
    # a - floor, shut by 5 - floor; b - floor, open where the condition is 0.
    assert (3 - 8, 2 - 7, 8 - 13) in biases
    assert (3, 2, 8) in biases
    assert len(operations(graph, Relu)) == 2


def test_continuous_values_get_a_power_of_two_with_a_margin():
    program = choice(Vector(1, low=0, high=3), Vector(1, low=0, high=1))
    graph = lower_selects(program.graph, LINEAR)
    assert sorted(op.bias for op in operations(graph, Affine) if any(op.bias)) == [(-4.0,)]


def test_a_product_with_a_bit_is_a_select():
    @lsrl.program
    def gated(c: Token(2), x: SIGNED):
        return x * c

    assert not operations(check(gated, lambda graph: lower_selects(graph, LINEAR)), Product)
    assert len(operations(check(gated, lambda graph: lower_selects(graph, GATED)), Product)) == 1


def test_select_between_zeros_is_zero():
    """Two values that the bounds know to be 0 left nothing to add up once."""

    @lsrl.program
    def nothing(c: Token(2), x: DIGIT):
        return lsrl.select(c, lsrl.relu(-x), 0) + x

    for target in (LINEAR, GATED):
        graph = check(nothing, lambda graph, target=target: lower_selects(graph, target))
        assert not operations(graph, Select)


def test_no_big_m_shuts_a_value_without_bounds():
    @lsrl.program(max_length=4000)
    def endless(c: Token(2), x: Vector(1, low=0, high=1)):
        return lsrl.select(c, lsrl.linear_state(x, 3), 0)

    with pytest.raises(PrecisionError, match=r"narrow it with lsrl\.bound"):
        lsrl.compile(endless, "linear_rnn")


# ---------------------------------------------------------------------- comparisons, logic


def test_a_comparison_is_two_relus():
    @lsrl.program
    def compared(x: Vector(1, low=-3, high=5, step=0.5)):
        return x >= 1

    golden = """
        %1 = affine(%0) {weights=([[-2]],), bias=(2.0,)} : 1 in [-8, 8]
        %2 = relu(%1) : 1 in [0, 8]
        %3 = affine(%2) {weights=([[-1]],), bias=(1.0,)} : 1 in [-7, 1]
        %4 = relu(%3) : 1 in [0, 1]
        return %4
    """
    check(compared, lambda graph: lower_steps(graph, LINEAR), golden)
    assert operations(lower_steps(compared.graph, Capabilities(frozenset({Step}))), Step)


def test_a_robust_comparison_stands_in_the_middle():
    """Exactly 1 from -1/8 on, and exactly 0 up to -3/8: a quarter step of 1/2 on either side."""

    @lsrl.program
    def compared(x: Vector(1, low=-3, high=5, step=0.5)):
        return x >= 1

    golden = """
        %1 = affine(%0) {weights=([[-4]],), bias=(3.5,)} : 1 in [-16.5, 15.5]
        %2 = relu(%1) : 1 in [0, 15.5]
        %3 = affine(%2) {weights=([[-1]],), bias=(1.0,)} : 1 in [-14.5, 1]
        %4 = relu(%3) : 1 in [0, 1]
        return %4
    """
    check(compared, lambda graph: lower_steps(graph, LINEAR, robust=True), golden)


def test_a_robust_conditional_shuts_with_a_step_to_spare():
    @lsrl.program
    def chosen(c: Token(2), x: Vector(1, low=0, high=5, step=0.5)):
        return lsrl.select(c, x, 0)

    (shut,) = operations(lower_selects(chosen.graph, LINEAR), Affine)[:1]
    (wide,) = operations(lower_selects(chosen.graph, LINEAR, robust=True), Affine)[:1]
    assert (shut.bias, wide.bias) == ((-5.0,), (-5.5,))


def test_robust_changes_no_ramp_of_continuous_values():
    @lsrl.program
    def compared(x: Vector(1, low=-3, high=5)):
        return lsrl.greater_equal(x, 1, ramp=0.25)

    graphs = [lower_steps(compared.graph, LINEAR, robust=robust) for robust in (False, True)]
    assert graphs[0].dump() == graphs[1].dump()


def test_a_relu_is_a_gate_for_cells_that_only_saturate():
    @lsrl.program
    def bent(x: Vector(1, low=-3, high=3, step=0.5)):
        return lsrl.relu(x)

    golden = """
        %1 = affine(%0) {weights=(I(1),), bias=(-0.5,)} : 1 in [-3.5, 2.5]
        %2 = step(%1) {slope=2.0, shift=0.0} : 1 in [0, 1]
        %3 = product(%2, %0) : 1 in [0, 3]
        return %3
    """
    check(bent, lambda graph: lower_relus(graph, BARE), golden)


def lowered(graph):
    return flatten_conjunctions(fuse_affine(lower_steps(graph, LINEAR)))


def test_a_conjunction_saves_a_level():
    @lsrl.program
    def both(x: DIGIT, y: DIGIT, c: Token(2)):
        return (x >= 2) & (y >= 1) & c

    golden = """
        %3 = affine(%0) {weights=([[-1]],), bias=(2.0,)} : 1 in [-1, 2]
        %4 = relu(%3) : 1 in [0, 2]
        %5 = affine(%1) {weights=([[-1]],), bias=(1.0,)} : 1 in [-2, 1]
        %6 = relu(%5) : 1 in [0, 1]
        %7 = affine(%2, %4, %6) {weights=(I(1), [[-1]], [[-1]]), bias=(0.0,)} : 1 in [-3, 1]
        %8 = relu(%7) : 1 in [0, 1]
        return %8
    """
    check(both, lowered, golden)


def test_a_disjunction_is_no_conjunction():
    @lsrl.program
    def either(x: DIGIT, y: DIGIT):
        return (x >= 2) | (y >= 1), lsrl.relu((x >= 1) + (y >= 2) - 0.5)

    graph = check(either, lowered)
    assert len(operations(graph, Relu)) == 2 * 4 + 2


def test_conjunctions_of_many_conditions_take_two_levels_in_all():
    for count in (2, 3, 5, 8):

        @lsrl.program
        def all_of(x: Vector(count, low=0, high=3, step=1)):
            result = x[0] >= 2
            for channel in range(1, len(x)):
                result = result & (x[channel] >= 2)
            return result

        assert lsrl.compile(all_of, "linear_rnn").num_layers == 2
        check(all_of, lowered)


# ---------------------------------------------------------------------- unroll


def test_a_held_value_unrolls_by_doubling():
    @lsrl.program(max_length=2)
    def held(x: Token(3), w: Token(2)):
        return lsrl.hold(x, w, initial=1)

    golden = """
        %2 = constant() {values=(0.0,)} : 1 in [0, 0]
        %3 = select(%1, %0, %2) : 1 in [0, 2]
        %4 = affine(%1) {weights=([[-1]],), bias=(1.0,)} : 1 in [0, 1]
        %5 = delay(%4) {steps=1, initial=(1.0,)} : 1 in [0, 1]
        %6 = delay(%3) {steps=1, initial=(0.0,)} : 1 in [0, 2]
        %7 = product(%4, %6) : 1 in [0, 2]
        %8 = affine(%3, %7) {weights=(I(1), I(1)), bias=(0.0,)} : 1 in [0, 4]
        %9 = bound(%8) {low=(0.0,), high=(2.0,), proven=True} : 1 in [0, 2]
        %10 = product(%4, %5) : 1 in [0, 1]
        %11 = affine(%10) {weights=(I(1),), bias=(0.0,)} : 1 in [0, 1]
        %12 = affine(%9, %11) {weights=(I(1), I(1)), bias=(0.0,)} : 1 in [0, 2]
        return %12
    """
    check(held, lambda graph: unroll_states(graph, LINEAR), golden)


def selective(max_length):
    @lsrl.program(max_length=max_length)
    def selective(x: Vector(2, low=-2, high=3, step=1), keep: Token(2)):
        written = lsrl.hold(x, keep, initial=[1, -1])
        return written, lsrl.selective_state(keep, x, initial=2)

    return selective


def automaton(max_length):
    @lsrl.program(max_length=max_length)
    def automaton(x: Token(2), y: Token(3)):
        update = lsrl.concat(2 * x - y, y - 1, x) - 0.5
        return lsrl.threshold_state(update, [[1, -1, 0], [0, 1, -1], [1, 0, 1]], [1, 0, 0])

    return automaton


@pytest.mark.parametrize("build", [selective, automaton])
@pytest.mark.parametrize("max_length", [1, 2, 3, 7, 8, 9])
def test_unrolled_states_equal_the_evaluator(build, max_length):
    graph = check(build(max_length), lambda graph: unroll_states(graph, LINEAR))
    levels = sum(1 for i in graph.live() if graph.nodes[i].op.name == "delay")
    states = 1 if build is automaton else 4
    assert levels == states * (max_length - 1).bit_length()


@pytest.mark.parametrize("build", [selective, automaton])
@pytest.mark.parametrize("target", studied(["linear_rnn", "gated_linear_rnn"], "linear_rnn"))
def test_unrolled_models_are_exact(build, target):
    program = build(9)
    model = lsrl.compile(program, target, legalise="unroll")
    inputs = inputs_of(program, 9)
    assert model.certificate.exact
    np.testing.assert_array_equal(model.run(*inputs), program.run(*inputs))


def test_states_that_read_more_than_tokens_are_refused():
    @lsrl.program(max_length=9)
    def deep(x: Token(2)):
        return lsrl.threshold_state(lsrl.cumsum(x) - 2.5, 1)

    with pytest.raises(UnsupportedOpError, match="threshold"):
        lsrl.compile(deep, "linear_rnn", legalise="unroll")


def test_too_many_states_are_refused():
    @lsrl.program(max_length=9)
    def register(x: Token(2)):
        entry = np.eye(5, 1) @ x - 0.5
        return lsrl.threshold_state(entry, np.eye(5, k=-1))

    with pytest.raises(UnsupportedOpError, match="more than 16 states"):
        lsrl.compile(register, "linear_rnn", legalise="unroll")


# ---------------------------------------------------------------------- the pipeline


def test_the_pipeline_settles_and_records():
    program = lsrl.programs.tok2tok(3)
    pipeline = Pipeline()
    graph = pipeline.simplify(program.graph)
    assert len(pipeline.records) <= 3 * MAX_ROUNDS
    again = Pipeline()
    assert again.simplify(graph).dump() == graph.dump()
    names = [record.name for record in pipeline.records]
    assert names[:3] == ["fold tables", "drop decided", "fuse affine"]
    assert pipeline.records[0].before == len(program.graph.live())
    assert pipeline.records[-1].after == len(graph.live())


def test_names_and_lines_survive():
    program = lsrl.programs.dyck1()
    pipeline = Pipeline()
    graph = pipeline.legalise(pipeline.simplify(program.graph), LINEAR)
    names = {name for node in graph.nodes for name in node.names}
    assert names <= {name for node in program.graph.nodes for name in node.names}
    assert len(names) > 1
    for i in graph.live():
        source = graph.source(i)
        assert "formal_languages.py" in source or isinstance(graph.nodes[i].op, Constant)


# ---------------------------------------------------------------------- what matrices look like


def test_maps_that_look_like_the_identity_are_kept():
    """A window sum of a window sum: as many ones as rows, in the order of the columns."""

    @lsrl.program(max_length=30)
    def twice(x: DIGIT):
        return lsrl.window_sum(lsrl.window_sum(lsrl.concat(x, -x), 6), 6)

    check(twice, fuse_affine, tokens=30)


def test_states_that_look_like_a_permutation_are_bounded():
    """A one a column, but not a row: the first channel gathers both."""

    @lsrl.program(max_length=20)
    def gathered(x: Vector(2, low=0, high=1, step=1)):
        return lsrl.linear_state(x, [[1, 1], [0, 0]])

    facts = gathered.graph.facts[gathered.graph.output]
    assert facts.high.tolist() == [20 + 19, 1]
    assert gathered.run(np.ones((20, 2)))[-1].tolist() == [39, 1]
