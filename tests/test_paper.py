"""The paper's own forms at points worked out by hand, edges included, and its two programs."""

import inspect
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest

import lsrl
from lsrl import Vector, paper, programs
from lsrl.errors import ProgramError, UnsupportedOpError
from tests.grids import studied

pytestmark = pytest.mark.one_in(5)

# The step's end: 1000 times the float64 number next to 1/1000.
TOP = 1000 * Fraction(0.001)
CONDITION = Vector(1, low=0, high=1)
MODES = get_args(paper.Mode)


def program_of(body, *kinds, **options):
    """The program of a function whose parameters have these types."""
    body.__annotations__ = dict(zip(inspect.signature(body).parameters, kinds, strict=True))
    return lsrl.program(**options)(body)


def value(form, *arguments):
    """A form at one point, exactly; the arguments become input channels."""
    kind = Vector(len(arguments), low=-100, high=100)
    return program_of(lambda x: form(*x), kind).run([list(arguments)], exact=True)[0, 0]


def test_step_is_0_at_0_and_ends_at_one_over_scale():
    assert value(paper.f_step, 0.0) == 0
    assert value(paper.f_step, -3.0) == 0
    assert value(paper.f_step, 0.0005) == 1000 * Fraction(0.0005)
    assert value(paper.f_step, 0.001) == TOP
    assert value(paper.f_step, 7.0) == TOP
    assert 0 < TOP - 1 < 1e-16


def test_step_with_a_dyadic_scale_is_exact():
    assert [value(lambda x: paper.f_step(x, 8), v) for v in (0.0, 0.0625, 0.125, 1.0)] == [
        0, 0.5, 1, 1,
    ]  # fmt: skip


def test_step_knows_that_it_is_narrow():
    program = program_of(lambda x: paper.f_step(x), Vector(1, low=-100, high=100))
    facts = program.graph.facts[program.graph.output]
    assert facts.low == 0
    assert TOP <= facts.high < 1 + 1e-15


@pytest.mark.parametrize(
    ("form", "cases"),
    [
        (paper.f_not, {(0.0,): 1, (1.0,): 0}),
        (paper.f_larger, {(2.0, 1.0): 1, (1.0, 1.0): 0, (1.0, 2.0): 0, (1.0005, 1.0): 0.5}),
        (paper.f_smaller, {(2.0, 1.0): 0, (1.0, 1.0): 0, (1.0, 2.0): 1, (1.0, 1.00025): 0.25}),
        (paper.f_and, {(0, 0): 0, (0, 1): 0, (1, 0): 0, (1, 1): 1, (1, 0.0005): 0.5}),
        (paper.f_or, {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 1}),
        # One step inside another turns every difference into none or all.
        (paper.f_eq, {(3, 3): 1, (3, 4): 0, (4, 3): 0, (3, 3.0005): 1, (3, 3.001): 0}),
        (paper.f_neq, {(3, 3): 0, (3, 4): 1, (4, 3): 1, (3, 3.0005): 1}),
    ],
)
def test_comparisons_and_logic(form, cases):
    for arguments, expected in cases.items():
        assert float(value(form, *arguments)) == pytest.approx(expected, abs=1e-9), arguments


def test_bump_is_open_below_and_closed_above():
    def bump(x):
        return paper.f_bump(x, 1, 2)

    points = {0.9: 0, 1.0: 0, 1.0005: 0.5, 1.5: 1, 2.0: 1, 2.00025: 0.75, 2.1: 0}
    for point, expected in points.items():
        assert float(value(bump, point)) == pytest.approx(expected, abs=1e-9), point


CONDITIONALS = {
    "f_ifelse": paper.f_ifelse,
    "f_ifelse_step": paper.f_ifelse_step,
    "f_ifelse_mul": paper.f_ifelse_mul,
}


@pytest.mark.parametrize("form", CONDITIONALS.values(), ids=CONDITIONALS)
@pytest.mark.parametrize(("t", "f"), [(5.0, -7.0), (-0.25, 3.0), (0.0, 1.0)])
def test_conditionals(form, t, f):
    # A condition that ends at TOP leaves L·(TOP - 1) in the argument of a shut ReLU.
    near = pytest.approx
    for condition, both, only_t, only_f in ((1.0, t, t, 0), (0.0, f, 0, f)):
        assert float(value(form, condition, t, f)) == near(both, abs=1e-6)
        assert float(value(lambda c, v: form(c, v, None), condition, t)) == near(only_t, abs=1e-6)
        assert float(value(lambda c, v: form(c, None, v), condition, f)) == near(only_f, abs=1e-6)


def test_conditionals_take_numbers_and_vectors():
    def chosen(condition, v):
        return tuple(form(condition, v, 2) for form in CONDITIONALS.values())

    program = program_of(chosen, CONDITION, Vector(3, low=-4, high=4))
    vector = [1.0, -2.0, 3.0]
    got = program.run([[1.0], [0.0]], [vector, vector])
    np.testing.assert_allclose(got, [vector * 3, [2.0] * 9], atol=1e-6)


def test_conditionals_inside_the_edge_of_their_constant():
    # Between 0 and 1 the constant shuts both branches: the paper's form says nothing useful.
    assert value(paper.f_ifelse, 0.5, 5.0, 7.0) == 0
    assert value(lambda c, t, f: paper.f_ifelse(c, t, f, 4), 1.0, 5.0, 7.0) == 5 + 3
    assert value(paper.f_ifelse_mul, 0.25, 4.0, 8.0) == 7


def test_optimized_conditional_holds_positive_values_only():
    assert value(paper.f_ifelse_optimized, 1.0, 5.0) == 5
    assert value(paper.f_ifelse_optimized, 0.0, 5.0) == 0
    assert value(paper.f_ifelse_optimized, 1.0, -5.0) == 0


def test_ifeq():
    for x, expected in ((3.0, 9), (4.0, -1)):
        got = value(lambda x, t: paper.f_ifeq(x, 3, t, -1), x, 9.0)
        assert float(got) == pytest.approx(expected, abs=1e-6)


def test_modulo_counter_counts():
    lengths = (1, 2, 3, 5, 12, 70)
    clocks = program_of(
        lambda x: tuple(map(paper.f_modulo_counter, lengths)), CONDITION, max_length=150
    )
    got = clocks.run(np.zeros((150, 1)))
    for column, n in enumerate(lengths):
        np.testing.assert_allclose(got[:, column], np.arange(150) % n, atol=1e-9)


def test_modulo_counter_fails_past_70():
    # 1 - cos(pi/n) falls below the 1/1000 that a step needs.
    clock = program_of(lambda x: paper.f_modulo_counter(72), CONDITION, max_length=72)
    got = clock.run(np.zeros((72, 1)))[:, 0]
    assert np.abs(got - np.arange(72)).max() > 1


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: paper.f_step(x, 0),
        lambda x: paper.f_step(x, -1),
        lambda x: paper.f_ifelse(x, None, None),
        lambda x: paper.f_ifelse_step(x, None, None),
        lambda x: paper.f_ifelse_mul(x, None, None),
        lambda x: paper.f_modulo_counter(0),
        lambda x: paper.f_modulo_counter(True),
    ],
)
def test_misuse_names_the_users_line(mistake):
    with pytest.raises(ProgramError, match=r"test_paper\.py:\d+"):
        value(mistake, 1.0)


def test_the_compiler_keeps_slope_and_constant():
    gated = program_of(
        lambda c, x: paper.f_ifelse(paper.f_larger(c, 0.5), x, None),
        CONDITION,
        Vector(1, low=-9, high=9),
    )
    model = lsrl.compile(gated, "linear_rnn", dtype="float64")
    weights = np.concatenate([v.ravel() for v in model.module.parameter_arrays().values()])
    for constant in (paper.SCALE, paper.LARGE):
        assert np.isclose(np.abs(weights), constant).any()
    np.testing.assert_allclose(model.run([[1.0], [0.0]], [[4.0], [4.0]]), [[4.0], [0.0]], atol=1e-3)


def distinct_dictionary(rng, length, vocab, pairs):
    keys = rng.permutation(vocab**length)[:pairs]
    digits = [[int(k) // vocab**i % vocab for i in range(length)] for k in keys]
    values = rng.integers(vocab, size=(pairs, length)).tolist()
    return list(zip(digits, values, strict=True))


@pytest.mark.parametrize(("length", "vocab", "pairs"), [(1, 10, 4), (2, 3, 5), (3, 10, 8)])
def test_tok2tok_equals_ours_on_distinct_keys(length, vocab, pairs):
    old = paper.tok2tok(length, vocab, pairs, mode="multiplicative")
    new = programs.tok2tok(length, vocab, pairs)
    rng = np.random.default_rng(length)
    for known in range(3):
        dictionary = distinct_dictionary(rng, length, vocab, pairs)
        query = dictionary[known][0]
        prompt = programs.tok2tok_prompt(query, dictionary)
        assert old.max_length == new.max_length == len(prompt)
        np.testing.assert_array_equal(old.run(prompt), new.run(prompt))
        np.testing.assert_array_equal(old.run(prompt)[-length:, 0], dictionary[known][1])


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_tok2tok_answers(mode):
    dictionary = distinct_dictionary(np.random.default_rng(0), 2, 4, 3)
    prompt = programs.tok2tok_prompt(dictionary[1][0], dictionary)
    program = paper.tok2tok(2, 4, 3, mode=mode)
    expected = programs.tok2tok(2, 4, 3).run(prompt)
    np.testing.assert_allclose(program.run(prompt), expected, atol=1e-5)


@pytest.mark.parametrize("mode", studied(["direct", "optimized", "multiplicative"], "optimized"))
def test_tok2tok_compiles_but_is_not_certified(mode):
    dictionary = distinct_dictionary(np.random.default_rng(0), 2, 4, 3)
    prompt = programs.tok2tok_prompt(dictionary[1][0], dictionary)
    target = "gated_linear_rnn" if mode == "multiplicative" else "linear_rnn"
    model = lsrl.compile(paper.tok2tok(2, 4, 3, mode=mode), target, dtype="float64")
    assert not model.certificate.exact
    answer = model.run(prompt)[-2:, 0]
    if mode != "direct":  # 1e10 times the rounding of a step may cost the direct form its answer
        np.testing.assert_allclose(answer, dictionary[1][1], atol=1e-3)


def test_several_equal_keys_spoil_the_answer():
    pairs = [([1, 2], [3, 3]), ([1, 2], [2, 1]), ([0, 0], [1, 1])]
    prompt = programs.tok2tok_prompt([1, 2], pairs)
    program = paper.tok2tok(2, 4, 3, mode="multiplicative")
    assert program.run(prompt)[-2:, 0].tolist() != [3, 3]
    assert programs.tok2tok(2, 4, 3).run(prompt)[-2:, 0].tolist() == [3, 3]


def test_products_need_a_target_that_has_them():
    with pytest.raises(UnsupportedOpError, match="query_symbol") as error:
        lsrl.compile(paper.tok2tok(2, 4, 2, mode="multiplicative"), "linear_rnn")
    assert all("gated_linear_rnn" in offence.targets for offence in error.value.offences)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_vec2vec_answers(mode):
    def wave(x):
        return [np.sin(3 * x[0]) + x[1], -x[0] * x[1]]

    program = paper.vec2vec(2, 2, 4, mode=mode)
    x = np.array([0.3, 0.8])
    prompt = programs.vec2vec_prompt(wave, x, 2, 2, 4)
    assert program.max_length == len(prompt)
    centre = (np.floor(x * 4) + 0.5) / 4
    np.testing.assert_allclose(program.run(prompt)[-1], wave(centre), atol=1e-5)


def test_vec2vec_stands_at_the_very_edge():
    program = paper.vec2vec(1, 1, 4, mode="multiplicative")

    def answer(x):
        return program.run(programs.vec2vec_prompt({k: 1 + k / 2 for k in range(4)}, x))[-1, 0]

    assert answer([0.0]) == 0
    assert answer([0.5]) == pytest.approx(1.5), "an edge belongs to the cell on its left"
    assert answer([1.0]) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: paper.tok2tok(0), "length: expected an int >= 1, got 0"),
        (lambda: paper.tok2tok(3, mode="fast"), "mode: expected one of direct, optimized"),  # type: ignore[arg-type]
        (lambda: paper.vec2vec(cells=True), "cells: expected an int"),
        (lambda: paper.vec2vec(low=1, high=0), "low < high"),
        (lambda: paper.vec2vec(low=-1, mode="optimized"), "nonnegative x only"),
    ],
)
def test_parameters_out_of_range(build, message):
    with pytest.raises(ProgramError, match=message):
        build()
