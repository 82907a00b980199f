"""The library of programs: every one equals its plain-Python reference, and tables made by hand."""

import inspect
from functools import cache

import numpy as np
import pytest

import lsrl
from lsrl import programs
from lsrl.certificate import promises_of
from lsrl.errors import InputError, ProgramError, PromiseError
from lsrl.ir.evaluate import evaluate
from lsrl.ir.types import check_inputs
from lsrl.testing.verification import sample_inputs

pytestmark = pytest.mark.one_in(2)

CATALOGUE = programs.catalogue()
CASES = [
    pytest.param(entry, dict(parameters), id=f"{entry.name}-{index}")
    for entry in CATALOGUE.values()
    for index, parameters in enumerate(entry.parameters)
]
RAMP = 2.0**-16


def built(entry, parameters):
    """The program, recorded once for all that is asked of it."""
    return _built(entry.name, *parameters.items())


@cache
def _built(name, *parameters):
    return CATALOGUE[name].program(**dict(parameters))


def assert_runs_as_expected(entry, program, inputs, parameters):
    got = program.run(*inputs)
    expected = entry.expected(inputs, **parameters)
    assert got.shape == expected.shape == (len(inputs[0]), program.num_outputs)
    if entry.tolerance:
        np.testing.assert_allclose(got, expected, rtol=0, atol=entry.tolerance)
    else:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("entry", "parameters"), CASES)
def test_equals_its_reference_on_random_inputs(entry, parameters):
    program = built(entry, parameters)
    rng = np.random.default_rng(0)
    longest = program.max_length or 200
    for length in (1, 2, 3, 7, 30, longest, longest):
        inputs = entry.sample(rng, length, **parameters)
        assert 1 <= len(inputs[0]) <= min(length, longest)
        assert_runs_as_expected(entry, program, inputs, parameters)


@pytest.mark.parametrize(("entry", "parameters"), CASES)
def test_equals_its_reference_on_extreme_inputs(entry, parameters):
    program = built(entry, parameters)
    extremes = entry.extremes(**parameters)
    longest = max(len(inputs[0]) for inputs in extremes)
    if program.max_length is not None and program.max_length <= 2000:
        assert longest == program.max_length
    for inputs in extremes:
        assert_runs_as_expected(entry, program, inputs, parameters)


@pytest.mark.parametrize(("entry", "parameters"), CASES)
def test_exact_rationals_agree(entry, parameters):
    program = built(entry, parameters)
    inputs = entry.sample(np.random.default_rng(1), 12, **parameters)
    np.testing.assert_array_equal(
        program.run(*inputs, exact=True).astype(np.float64), program.run(*inputs)
    )


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 36, 100, 200])
def test_tok2tok_equals_its_reference_at_every_length(length):
    entry, parameters = CATALOGUE["tok2tok"], {"length": length}
    program = built(entry, parameters)
    assert program.max_length == length * 41
    rng = np.random.default_rng(length)
    for _ in range(20 if length <= 12 else 2):
        inputs = entry.sample(rng, length * 41, **parameters)
        assert_runs_as_expected(entry, program, inputs, parameters)


def test_the_random_dictionaries_are_worth_testing_on():
    rng = np.random.default_rng(0)
    copies = []
    for _ in range(200):
        query, pairs = programs.random_dictionary(rng, length=3, vocab=10, num_pairs=20)
        copies.append(sum(key == query for key, _ in pairs))
    assert 20 < sum(count == 0 for count in copies) < 80
    assert sum(count > 1 for count in copies) > 40
    assert programs.random_dictionary(rng, 3, 10, 0)[1] == []


@pytest.mark.parametrize(("entry", "parameters"), CASES)
def test_what_is_proven_of_a_program_holds(entry, parameters):
    program = built(entry, parameters)
    rng = np.random.default_rng(2)
    for length in (5, 40):
        inputs = entry.sample(rng, length, **parameters)
        arrays, _ = check_inputs(program.inputs, inputs, program.max_length)
        values = evaluate(program.graph, arrays, theorems=True)[program.graph.output]
        np.testing.assert_array_equal(values[0].astype(np.float64), program.run(*inputs))


def unstructured(program, length):
    """Legal by type and by nothing else: all low, all high, both in turn, in stretches, random."""
    drawn = sample_inputs(program.inputs, 10, length, seed=3)
    for array in drawn:
        low, high = array[0].copy(), array[1].copy()
        array[2, ::2], array[2, 1::2] = low[::2], high[1::2]
        array[3, ::2], array[3, 1::2] = high[::2], low[1::2]
        for row, stretch in ((4, 2), (5, 5), (6, 11)):
            array[row] = np.repeat(array[row], stretch, axis=0)[:length]
    return drawn


@pytest.mark.parametrize(("entry", "parameters"), CASES)
def test_no_input_breaks_what_a_program_promises_of_itself(entry, parameters):
    program = built(entry, parameters)
    drawn = unstructured(program, min(program.max_length or 64, 64))
    for row in range(len(drawn[0])):
        sequence = [array[row] for array in drawn]
        while len(sequence[0]):
            try:
                program.run(*sequence)
                break
            except PromiseError as error:
                assert error.keeper == "prompt", error
                # Up to there the prompt is legal.
                sequence = [array[: error.token] for array in sequence]


def test_the_prompts_promises_are_few():
    prompts = {
        entry.name
        for entry in CATALOGUE.values()
        for promise in promises_of(entry.program().graph)
        if promise.keeper == "prompt"
    }
    # What the bus of a computer brings is the prompt's to keep: the change of a cell, and sizes. So
    # are the sizes of what a pipeline is told to compute.
    assert prompts == {"vec2vec", "subleq", "fleq", "pipeline"}


def test_the_catalogue_holds_every_program_of_the_library():
    builders = {
        name
        for name in programs.__all__
        if inspect.isfunction(getattr(programs, name))
        and inspect.signature(getattr(programs, name)).return_annotation is lsrl.Program
    }
    assert builders == set(CATALOGUE)
    assert len(builders) == 54


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE)
def test_every_program_has_defaults_and_documentation(entry):
    program = getattr(programs, entry.name)()
    assert program.name == entry.name
    documentation = inspect.getdoc(entry.build) or ""
    assert "Input:" in documentation
    assert "Output:" in documentation
    assert entry.shows.endswith(".")
    assert entry.reference.__doc__


# Tables made by hand: program, inputs, outputs.
GOLDEN = [
    # Of 1 4 -2 3 the sums, and then 1 where they are above 3.
    (
        "pipeline",
        {"steps": 2, "bound": 15},
        [[36, 38, 38, 15, 35, 41, 40, 18, 16, 19, 13, 18]],
        [0] * 8 + [0, 1, 0, 1],
    ),
    # @0 =3 @1 =4 @2 =-1 @3 =5 @4 =7 >0, and then @4 =2 >3: 7 - 5, and on to the next instruction.
    (
        "subleq_lm",
        {"cells": 8, "bits": 4},
        [[0, 21, 1, 22, 2, 33, 3, 23, 4, 25, 9, 4, 20]],
        [18, 9] * 5 + [4, 20, 12],
    ),
    # Cells 3, 4, -1, 5, 7; the last token does mem[4] -= mem[3], and goes on at 3.
    (
        "subleq",
        {"cells": 6, "bits": 5},
        [[[0, 3, 3, -1], [1, 4, 4, -1], [2, -1, -1, -1], [3, 5, 5, -1], [4, 7, 7, 0]]],
        [[3, -3, -3, 0], [3, -3, -3, 4], [3, -3, -3, 4], [3, 2, -3, 2], [4, 2, -5, 3]],
    ),
    # Cell 1 becomes 1.5 times -2, which is at most 0, so that the program halts.
    (
        "fleq",
        {"cells": 2, "lines": 1},
        [[[0, 1.5, 1.5, -1], [1, -2, -2, 0]], [[0, 2, 0, 1, 1, 1, -1], [-1, 0, 0, 0, 0, 0, 0]]],
        [[0, 0, -1.5, 0], [1, -3, -1, -1]],
    ),
    ("majority", {}, [[1, 0, 1, 1, 0, 0, 0]], [1, 0, 1, 1, 1, 0, 0]),
    ("parity", {}, [[0, 1, 1, 0, 1, 1, 1]], [0, 1, 0, 0, 1, 0, 1]),
    ("counter_mod", {"n": 3}, [[0, 1, 0, 0, 1]], [0, 1, 2, 0, 1]),
    ("histogram", {"vocab": 3}, [[0, 2, 0]], [[1, 0, 0], [1, 0, 1], [2, 0, 1]]),
    ("running_max", {"levels": 5}, [[0, 2, 1, 4, 3]], [0, 2, 2, 4, 4]),
    ("window_majority", {"window": 3}, [[1, 1, 0, 0, 1, 1, 1]], [0, 1, 1, 0, 0, 1, 1]),
    ("run_length", {"most": 3}, [[2, 2, 2, 2, 0, 1, 1]], [1, 2, 3, 3, 1, 1, 2]),
    # Symbols 1 and 2 share the greatest count for a while, in the end all three do.
    ("leader", {}, [[2, 1, 1, 2, 0, 0, 0]], [2, 1, 1, 1, 1, 0, 0]),
    ("since_last", {"most": 3}, [[0, 1, 0, 0, 0, 0, 1]], [3, 0, 1, 2, 3, 3, 0]),
    ("modular_sum", {"n": 5}, [[3, 4, 0, 3, 4]], [3, 2, 2, 0, 4]),
    # Token 3 is the reset.
    ("reset_sum", {"n": 3}, [[2, 2, 1, 3, 1, 2, 3]], [2, 1, 2, 0, 1, 0, 0]),
    ("cycle_navigation", {"n": 4}, [[2, 1, 1, 0, 2, 2]], [3, 0, 1, 1, 0, 3]),
    # 3 + 3 = 6, 5 + 3 = 8.
    ("binary_adder", {}, [[1, 1, 0, 0], [1, 1, 0, 0]], [0, 1, 1, 0]),
    ("binary_adder", {}, [[1, 0, 1, 0], [1, 1, 0, 0]], [0, 0, 0, 1]),
    (
        "gradient_step",
        {"dim": 1, "learning_rate": 0.5},
        [[[1.0, 0.5], [0.5, 1.0], [1.0, -1.0], [-1.0, 0.0]]],
        [0.0, 0.125, 0.5, 0.0],
    ),
    ("copy_delay", {"k": 2}, [[3, 1, 2, 3]], [0, 0, 3, 1]),
    ("first_token", {}, [[2, 0, 3]], [2, 2, 2]),
    # Read, write 1, ignore, write 0, read, write 2.
    ("flip_flop", {"vocab": 3}, [[0, 3, 1, 2, 0, 4]], [0, 1, 1, 0, 0, 2]),
    # Write 1, write 2, undo, undo, read, write 0, undo: what was undone is not brought back.
    ("undo_flip_flop", {"vocab": 3}, [[3, 4, 1, 1, 0, 2, 1]], [1, 2, 1, 1, 1, 0, 1]),
    ("first_repeated", {}, [[2, 0, 3, 0, 2, 1]], [0, 0, 0, 1, 1, 1]),
    # LEFT is 3 and RIGHT is 4; only the first of each points.
    (
        "marked_pair",
        {"vocab": 3},
        [[1, 4, 2, 3, 0, 3, 1]],
        [[0, 0], [0, 0], [0, 3], [0, 3], [1, 3], [1, 3], [1, 3]],
    ),
    ("marked_pair", {"vocab": 3}, [[3, 4, 2]], [[0, 0], [0, 0], [0, 3]]),
    # Blank, a, blank, b, marker, then 3 more tokens, one of them a symbol that is not read.
    (
        "selective_copy",
        {"length": 3, "vocab": 2},
        [[0, 1, 0, 2, 3, 1, 0, 3]],
        [0, 0, 0, 0, 1, 2, 0, 0],
    ),
    ("selective_copy", {"length": 1, "vocab": 2}, [[2, 1, 3, 0]], [0, 0, 2, 0]),
    ("reverse", {"length": 3, "vocab": 5}, [[4, 1, 2, 0, 0, 3]], [0, 0, 0, 2, 1, 4]),
    ("counting_sort", {"length": 3, "vocab": 5}, [[4, 1, 1, 0, 3, 3]], [0, 0, 0, 1, 1, 4]),
    # Value before any key; key 0; value 1; key 1; key 0; value 0 twice named; key 1.
    (
        "associative_recall",
        {"keys": 2, "values": 2},
        [[3, 0, 3, 1, 0, 2, 1]],
        [0, 0, 2, 0, 2, 1, 0],
    ),
    # Pairs 0:1, 1:0, 0:0 (over the first), a stray value, the end, then 0, 1, a value, 1.
    (
        "recall_overwriting",
        {"keys": 2, "values": 2},
        [[0, 3, 1, 2, 0, 2, 3, 4, 0, 1, 3, 1]],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1],
    ),
    ("induction_head", {"vocab": 4}, [[1, 2, 1, 3, 1, 2, 2, 2]], [0, 0, 2, 0, 3, 1, 2, 2]),
    # f is 2, 3, 0; then f(1), f(1), f(2), f(0), and 3 is no argument.
    ("function_table", {"arguments": 3}, [[2, 3, 0, 1, 1, 2, 0, 3]], [0, 0, 0, 3, 3, 0, 2, 0]),
    # The query is 2; distances 3, 2, 1, 0 and then 1 again.
    ("nearest_lookup", {}, [[2, 5, 0, 3, 2, 1], [3, 1, 2, 3, 1, 2]], [0, 1, 2, 3, 1, 1]),
    # 2 is below and 4 above, so 3 lies in the middle, which is not above it.
    ("threshold_learner", {}, [[2, 4, 3, 0, 5, 4], [0, 1, 2, 2, 1, 2]], [0, 1, 0, 0, 1, 1]),
    # Knots 1, -1, 0.5, asked for at 0, 1/2, 1, 3/2 and 2.
    (
        "linear_interpolation",
        {"cells": 2},
        [[[1.0], [-1.0], [0.5], [-1.0], [-0.5], [0.0], [0.5], [1.0]]],
        [0, 0, 0, 1, 0, -1, -0.25, 0.5],
    ),
    # Ones are ahead at tokens 0, 2, 3 and 4.
    ("majority_parity", {}, [[1, 0, 1, 1, 0, 0, 0]], [1, 1, 0, 1, 0, 0, 0]),
    ("pattern_count", {"pattern": (1, 1), "n": 2}, [[1, 1, 1, 0, 1, 1]], [0, 1, 0, 0, 0, 1]),
    ("longest_run", {"most": 3}, [[0, 1, 1, 0, 2, 2, 2, 2, 1]], [1, 1, 2, 2, 2, 2, 3, 3, 3]),
    ("echo_sum", {"k": 2, "n": 4}, [[3, 1, 2, 3]], [3, 1, 1, 0]),
    # It says 0, 0, 2, 1, 2 and 1, so it is right from token 3 on.
    ("induction_hits", {}, [[1, 2, 1, 2, 1, 2, 1]], [0, 0, 0, 0, 0, 0, 1]),
    ("dyck1", {}, [[0, 1, 0, 0, 1, 1, 1, 0]], [0, 1, 0, 0, 0, 1, 0, 0]),
    # Kinds may cross: ( [ ) ].
    ("shuffle_dyck", {"kinds": 2}, [[0, 1, 2, 3]], [0, 0, 0, 1]),
    ("dyck", {"kinds": 2, "depth": 2}, [[0, 1, 2, 3]], [0, 0, 0, 0]),
    ("dyck", {"kinds": 2, "depth": 2}, [[0, 1, 3, 2, 1, 3]], [0, 0, 0, 1, 0, 1]),
    ("dyck", {"kinds": 1, "depth": 2}, [[0, 0, 1, 1, 0, 0, 0, 1, 1, 1]], [0, 0, 0, 1] + [0] * 6),
    ("a_n_b_n", {}, [[0, 0, 1, 1, 1]], [0, 0, 0, 1, 0]),
    ("a_n_b_n", {}, [[0, 1, 0, 1]], [0, 1, 0, 0]),
    ("a_n_b_n", {}, [[1, 0]], [0, 0]),
    ("a_n_b_n_c_n", {}, [[0, 0, 1, 1, 2, 2, 2]], [0, 0, 0, 0, 0, 1, 0]),
    ("a_n_b_n_c_n", {}, [[0, 2, 1]], [0, 0, 0]),
    ("ngram", {"pattern": (1, 1, 0)}, [[1, 1, 1, 0, 1, 1, 0]], [0, 0, 0, 1, 0, 0, 1]),
    ("even_pairs", {}, [[1, 0, 0, 1, 1, 0]], [1, 0, 0, 1, 1, 0]),
    ("dfa", {"outputs": (1, 1, 0)}, [[1, 0, 1, 1, 0]], [1, 1, 1, 0, 0]),
    # Nothing leads back to the start.
    ("dfa", {"table": ((1, 2), (1, 2), (2, 1))}, [[1, 1, 0]], [2, 1, 1]),
    # Sorted: 012 021 102 120 201 210. Swap, swap, turn, turn, turn, then swap and turn.
    ("permutations", {"group": "S3"}, [[0, 0, 1, 1, 1, 0, 1]], [2, 0, 3, 4, 0, 2, 5]),
    # 2 under key 1; nothing under key 0, since no key came before it; 3 under key 1; 1 unread.
    ("key_value_store", {}, [[6, 0, 1, 6, 1, 7, 5, 1]], [0, 0, 0, 0, 3, 0, 0, 4]),
    ("swaps", {}, [[0, 1, 2, 3, 0]], [0, 2, 3, 5, 5]),
    # Stored at 1, then at 2; at 3 there is nothing.
    ("state_recall", {}, [[4, 1, 6, 0, 3, 2, 3, 1]], [1, 0, 3, 3, 0, 1, 1, 3]),
    # Query 34; pairs 12: 56, 34: 78, 34: 90 (the first wins), and then 12: 99.
    (
        "tok2tok",
        {"length": 2, "max_pairs": 4},
        [[3, 4, 1, 2, 5, 6, 3, 4, 7, 8, 3, 4, 9, 0, 1, 2, 9, 9]],
        [0] * 8 + [7, 8, 7, 8, 7, 8, 7, 8, 7, 8],
    ),
    # Value 0 with found: from the last token of the key on.
    (
        "tok2tok",
        {"length": 2, "max_pairs": 2, "with_found": True},
        [[3, 4, 3, 4, 0, 0, 1, 1]],
        [[0, 0], [0, 0], [0, 0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1]],
    ),
    # A key across two words is none: 34 within 13 45.
    ("tok2tok", {"length": 2, "max_pairs": 1}, [[3, 4, 1, 3, 4, 5]], [0] * 6),
    # Pairs 12: 56, 34: 78, then the query 34 and two more tokens.
    (
        "tok2tok",
        {"length": 2, "max_pairs": 2, "prompt_first": True},
        [[1, 2, 5, 6, 3, 4, 7, 8, 3, 4, 9, 9]],
        [0] * 10 + [7, 8],
    ),
    (
        "tok2tok",
        {"length": 1, "max_pairs": 2, "prompt_first": True, "with_found": True},
        [[3, 0, 3, 5, 3, 9]],
        [[0, 0], [0, 0], [0, 0], [0, 0], [0, 1], [0, 1]],
    ),
    # x = 0.3 lies in the second of four cells.
    (
        "vec2vec",
        {},
        [[[0.3, 0, 0], [0.25, 0, 1.5], [0.25, 0.25, -2], [0.25, 0.5, 3], [0.25, 0.75, 0.5]]],
        [0, 0, -2, -2, -2],
    ),
]


@pytest.mark.parametrize(("name", "parameters", "inputs", "outputs"), GOLDEN)
def test_golden_tables(name, parameters, inputs, outputs):
    entry = CATALOGUE[name]
    arrays = tuple(np.array(given) for given in inputs)
    expected = np.array(outputs, dtype=float).reshape(len(outputs), -1)
    np.testing.assert_array_equal(built(entry, parameters).run(*arrays), expected)
    np.testing.assert_array_equal(entry.expected(arrays, **parameters), expected)


def test_golden_tables_cover_the_library():
    assert {name for name, *_ in GOLDEN} == set(CATALOGUE) - {"country_capital"}


def last_value(x, cells=4, table=None, low=0.0, high=1.0, **parameters):
    """The answer of vec2vec for x, with each cell's value its number in product order."""
    dimensions = len(np.atleast_1d(x))
    indices = list(np.ndindex((cells,) * dimensions))
    if table is None:
        table = {index: number / len(indices) for number, index in enumerate(indices)}
    prompt = programs.vec2vec_prompt(table, x, dimensions, 1, cells, low, high)
    program = programs.vec2vec(dimensions, 1, cells, low, high, **parameters)
    return program.run(prompt)[-1, 0] * len(indices)


@pytest.mark.parametrize("cells", [1, 3, 4, 5, 10])
def test_vec2vec_cells_are_half_open_and_the_last_is_closed(cells):
    for edge in range(cells):
        at_edge = edge / cells
        assert last_value(at_edge, cells) == pytest.approx(edge)
        assert last_value(at_edge + 1e-12, cells) == pytest.approx(edge)
        if edge:
            assert last_value(at_edge - RAMP, cells) == pytest.approx(edge - 1)
    for below in (0.0, 1e-12, RAMP, 2 * RAMP, 3 * RAMP):
        assert last_value(1.0 - below, cells) == pytest.approx(cells - 1)


def test_vec2vec_orders_cells_with_the_last_dimension_fastest():
    assert last_value([0.0, 0.0]) == 0
    assert last_value([0.3, 0.9]) == 1 * 4 + 3
    assert last_value([1.0, 0.5]) == 3 * 4 + 2
    assert last_value([-0.4, -1.0], low=-1.0, high=0.0) == 2 * 4 + 0


def test_vec2vec_takes_a_wider_ramp_from_its_parameter():
    assert last_value(0.5 - 2.0**-6, ramp=2.0**-6) == 1
    assert last_value(0.5, ramp=2.0**-6) == 2


def test_vec2vec_approximates_a_function_of_its_prompt():
    program = programs.vec2vec(2, 2, cells=10)
    rng = np.random.default_rng(0)
    for _ in range(10):
        cell, place = rng.integers(10, size=2), rng.uniform(0, 0.99, size=2)
        prompt = programs.vec2vec_prompt(
            lambda x: [np.sin(3 * x[0]), x[0] * x[1]], (cell + place) / 10, 2, 2, cells=10
        )
        centre = (cell + 0.5) / 10
        expected = [np.sin(3 * centre[0]), centre[0] * centre[1]]
        np.testing.assert_allclose(program.run(prompt)[-1], expected, rtol=0, atol=1e-12)


def test_vec2vec_prompt_has_the_rows_that_the_program_wants():
    prompt = programs.vec2vec_prompt({1: 2.0}, 0.3, cells=2, low=-1.0)
    np.testing.assert_array_equal(prompt, [[0.3, 0, 0], [1, -1, 0], [1, 0, 2]])
    prompt = programs.vec2vec_prompt({(0, 1): [2.0, 3.0]}, [0.3, 0.4], 2, 2, cells=2)
    np.testing.assert_array_equal(
        prompt,
        [
            [0.3, 0.4, 0, 0, 0],
            [0.5, 0, 0, 0, 0],
            [0.5, 0, 0.5, 2, 3],
            [0.5, 0.5, 0, 0, 0],
            [0.5, 0.5, 0.5, 0, 0],
        ],
    )


def test_every_capital_is_found():
    program = programs.country_capital()
    assert program.max_length == 510
    for country, capital in programs.CAPITALS:
        prompt = programs.country_capital_prompt(country)
        answer = program.run(prompt)[-programs.WORD_LENGTH :]
        assert programs.decode_word(answer) == capital
    absent = program.run(programs.country_capital_prompt("atlantis"))
    assert programs.decode_word(absent[-programs.WORD_LENGTH :]) == ""


def test_a_dictionary_of_new_words_works_too():
    program = programs.country_capital(max_pairs=3)
    prompt = programs.country_capital_prompt("cat", [("dog", "woof"), ("cat", "meow")])
    assert programs.decode_word(program.run(prompt)[-programs.WORD_LENGTH :]) == "meow"


def test_tok2tok_prompts():
    pairs = [([1, 2], [5, 6]), ([3, 4], [7, 8])]
    query_first = programs.tok2tok_prompt([3, 4], pairs)
    np.testing.assert_array_equal(query_first, [3, 4, 1, 2, 5, 6, 3, 4, 7, 8])
    prompt_first = programs.tok2tok_prompt([3, 4], pairs, prompt_first=True)
    np.testing.assert_array_equal(prompt_first, [1, 2, 5, 6, 3, 4, 7, 8, 3, 4, 0, 0])
    np.testing.assert_array_equal(programs.tok2tok_prompt([3, 4], []), [3, 4])


BAD_PARAMETERS = [
    *(
        (name, {"max_length": 0})
        for name, entry in CATALOGUE.items()
        if "max_length" in inspect.signature(entry.build).parameters
    ),
    ("majority", {"max_length": None}),
    ("majority", {"max_length": 2.5}),
    ("majority", {"max_length": True}),
    ("counter_mod", {"n": 1}),
    ("histogram", {"vocab": 0}),
    ("running_max", {"levels": 1}),
    ("window_majority", {"window": 0}),
    ("run_length", {"most": 0}),
    ("leader", {"vocab": 1}),
    ("since_last", {"most": 0}),
    ("reset_sum", {"n": 1}),
    ("first_repeated", {"vocab": 0}),
    ("marked_pair", {"vocab": 0}),
    ("function_table", {"arguments": 0}),
    ("nearest_lookup", {"levels": 1}),
    ("threshold_learner", {"levels": 1}),
    ("linear_interpolation", {"cells": 0}),
    ("pattern_count", {"pattern": (2,)}),
    ("longest_run", {"most": 1}),
    ("echo_sum", {"k": 0}),
    ("subleq_lm", {"cells": 2}),
    ("subleq_lm", {"cells": 129}),
    ("subleq_lm", {"bits": 9}),
    ("induction_hits", {"vocab": 0}),
    ("modular_sum", {"n": 1}),
    ("cycle_navigation", {"n": 0}),
    ("gradient_step", {"dim": 0}),
    ("gradient_step", {"learning_rate": 0.0}),
    ("gradient_step", {"learning_rate": float("nan")}),
    ("gradient_step", {"low": 1.0, "high": 1.0}),
    ("gradient_step", {"step": -0.5}),
    ("copy_delay", {"k": 0}),
    ("first_token", {"vocab": 0}),
    ("flip_flop", {"vocab": "2"}),
    ("undo_flip_flop", {"vocab": 0}),
    ("selective_copy", {"length": 0}),
    ("reverse", {"length": 0}),
    ("counting_sort", {"vocab": 1}),
    ("associative_recall", {"keys": 0}),
    ("recall_overwriting", {"values": 0}),
    ("induction_head", {"vocab": 0}),
    ("key_value_store", {"keys": 1}),
    ("shuffle_dyck", {"kinds": 0}),
    ("dyck", {"depth": 0}),
    ("ngram", {"pattern": ()}),
    ("ngram", {"pattern": (0, 2)}),
    ("ngram", {"pattern": "01"}),
    ("ngram", {"pattern": 3}),
    ("dfa", {"table": ()}),
    ("dfa", {"table": None}),
    ("dfa", {"table": ((0, 1), (0,))}),
    ("dfa", {"table": ((0, 2), (0, 1))}),
    ("dfa", {"table": ((), ())}),
    ("dfa", {"outputs": (1, 0)}),
    ("dfa", {"outputs": (1, 0, -1)}),
    ("dfa", {"start": 3}),
    ("permutations", {"group": "S4"}),
    ("swaps", {"n": 9}),
    ("state_recall", {"n": 1}),
    ("state_recall", {"n": 1000}),
    ("tok2tok", {"length": 0}),
    ("tok2tok", {"vocab": 1}),
    ("tok2tok", {"max_pairs": 0}),
    ("tok2tok", {"prompt_first": "no"}),
    ("tok2tok", {"with_found": 1}),
    ("vec2vec", {"in_dim": 0}),
    ("vec2vec", {"out_dim": 0}),
    ("vec2vec", {"cells": 0}),
    ("vec2vec", {"low": 1.0, "high": 0.0}),
    ("vec2vec", {"high": float("inf")}),
    ("vec2vec", {"value_bound": 0}),
    ("vec2vec", {"ramp": 0.0}),
    ("vec2vec", {"ramp": 0.1}),
    ("country_capital", {"max_pairs": 0}),
    ("subleq", {"segments": 3}),
    ("subleq", {"segments": (("a", "b"),)}),
    ("subleq", {"segments": ((0, 5), (3, 8))}),
    ("fleq", {"shape": 2}),
    ("fleq", {"functions": [abs]}),
]


@pytest.mark.parametrize(("name", "parameters"), BAD_PARAMETERS)
def test_bad_parameters_are_named(name, parameters):
    with pytest.raises(ProgramError) as error:
        getattr(programs, name)(**parameters)
    assert any(str(error.value).startswith(parameter) for parameter in parameters)
    assert "expected" in str(error.value)
    assert "got" in str(error.value)


def test_bad_prompts_are_named():
    with pytest.raises(ProgramError, match="one length"):
        programs.tok2tok_prompt([1, 2], [([1, 2], [3])])
    with pytest.raises(ProgramError, match="one length"):
        programs.tok2tok_prompt([], [])
    with pytest.raises(ProgramError, match="expected 2"):
        programs.vec2vec_prompt({}, [0.5], in_dim=2)
    with pytest.raises(ProgramError, match="value of cell"):
        programs.vec2vec_prompt(lambda x: [1.0, 2.0], 0.5)
    with pytest.raises(ProgramError, match="expected keys"):
        programs.vec2vec_prompt({4: 1.0}, 0.5)
    with pytest.raises(ProgramError, match="letters"):
        programs.encode_word("saint lucia")
    with pytest.raises(ProgramError, match="letters"):
        programs.encode_word("")
    with pytest.raises(InputError):
        programs.vec2vec().run(programs.vec2vec_prompt({}, 1.5))


def test_reading_programs_by_their_traces():
    trace = programs.tok2tok(2).trace(programs.tok2tok_prompt([3, 4], [([3, 4], [7, 8])]))
    np.testing.assert_array_equal(trace["query"][:, 0], [3, 4, 3, 4, 3, 4])
    np.testing.assert_array_equal(trace["match"][:, 0], [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(trace["since_match"][:, 0], [0, 0, 0, 1, 2, 3])
