"""Every program of the library on every target, against its plain-Python reference."""

import itertools

import numpy as np
import pytest

import lsrl
from lsrl.backends import registry
from lsrl.errors import LsrlError, UnsupportedOpError
from lsrl.numerics import numerics_of
from lsrl.programs import (
    catalogue,
    random_dictionary,
    tok2tok,
    tok2tok_prompt,
    vec2vec,
    vec2vec_prompt,
)
from tests.grids import studied, thinned

pytestmark = pytest.mark.one_in(3)

LINEAR = ("linear_rnn", "gated_linear_rnn")
CASES = [
    pytest.param(target, entry, parameters, id=f"{target}-{name}-{number}")
    for target in LINEAR
    for name, entry in catalogue().items()
    for number, parameters in enumerate(entry.parameters)
]
# Sample parameters on every target; the further ones are many.
CASES = [
    *(case for case in CASES if case.id.endswith("-0")),
    *thinned([case for case in CASES if not case.id.endswith("-0")], 9, later=3),
]

# Programs that no linear recurrence holds; products need the gated one.
NEEDS_MORE_THAN_LINEAR = {
    "flip_flop", "undo_flip_flop", "associative_recall", "recall_overwriting", "induction_head",
    "dyck", "dfa", "permutations", "binary_adder", "reset_sum", "nearest_lookup", "induction_hits",
    "subleq_lm", "state_recall", "swaps", "key_value_store",
}  # fmt: skip
NEEDS_PRODUCTS = {"gradient_step", "linear_interpolation", "fleq"}


def side_by_side(cases):
    """One array an input, (cases, tokens, ...), so that one shape compiles.

    Behind its end, which changes nothing before it, a case goes on with its last token.
    """
    longest = max(len(inputs[0]) for inputs in cases)
    place = [np.minimum(np.arange(longest), len(inputs[0]) - 1) for inputs in cases]
    return [
        np.stack([array[tokens] for array, tokens in zip(arrays, place, strict=True)])
        for arrays in zip(*cases, strict=True)
    ]


@pytest.mark.parametrize(("target", "entry", "parameters"), CASES)
def test_program_equals_its_reference(target, entry, parameters):
    """Random and extreme inputs, at max_length, whole sequences and token by token."""
    program = entry.program(**parameters)
    try:
        model = lsrl.compile(program, target)
    except UnsupportedOpError as error:
        unlimited_parity = (entry.name, program.max_length) == ("parity", None)
        assert entry.name in NEEDS_MORE_THAN_LINEAR | NEEDS_PRODUCTS or unlimited_parity
        assert error.offences
        assert all(".py:" in offence.source for offence in error.offences)
        return
    # Degenerate parameters fold some of these programs into tables.
    degenerate = parameters not in ({}, entry.parameters[0])
    assert entry.name not in NEEDS_MORE_THAN_LINEAR or degenerate
    allowed = 0.0 if model.certificate.exact else model.certificate.error_bound + entry.tolerance
    random = np.random.default_rng(1)
    limit = program.max_length or 100
    cases = [entry.sample(random, min(limit, 100), **parameters), *entry.extremes(**parameters)]
    expected = [entry.expected(inputs, **parameters) for inputs in cases]
    outputs = model.run(*side_by_side(cases))
    for wanted, got in zip(expected, outputs, strict=True):
        off = np.abs(got[: len(wanted)] - wanted)
        np.testing.assert_array_less(off, allowed + 2**-1000)
    inputs, expected = cases[0], expected[0]
    state = model.init_state()
    for t in range(min(len(inputs[0]), 6)):
        output, state = model.step(state, *(array[t] for array in inputs))
        np.testing.assert_array_less(np.abs(output - expected[t]), allowed + 2**-1000)


def test_refusals_name_every_offender_and_the_targets_that_would_do():
    @lsrl.program(max_length=10)
    def two_products(x: lsrl.Vector(1, low=-1, high=1), y: lsrl.Vector(1, low=-1, high=1)):
        first = x * y
        second = (x + 1) * (y - 1)
        return first, second

    with pytest.raises(UnsupportedOpError) as caught:
        lsrl.compile(two_products, "linear_rnn")
    offences = caught.value.offences
    assert [offence.signal for offence in offences] == ["first", "second"]
    assert all("test_targets.py:" in offence.source for offence in offences)
    assert all("gated_linear_rnn" in offence.targets for offence in offences)
    assert "Petrov" in str(caught.value)


def tok2tok_prompts(length, vocab, pairs, count, random):
    prompts = [
        tok2tok_prompt(*random_dictionary(random, length, vocab, pairs)) for _ in range(count)
    ]
    return np.stack(prompts)


TOK2TOK = [
    *((length, 100, dtype) for length, dtype in itertools.product(range(1, 13), ("float32",))),
    *((length, 20, "float64") for length in (1, 3, 8)),
    *((length, 5, "float32") for length in (36, 100, 200)),
]
# Those of `make test`; the others are studies.
QUICK_LENGTHS = (1, 3, 5, 12, 200)


@pytest.mark.parametrize("target", LINEAR)
@pytest.mark.parametrize(
    ("length", "dictionaries", "dtype"),
    [
        pytest.param(*case, marks=pytest.mark.studies if case[0] not in QUICK_LENGTHS else ())
        for case in TOK2TOK
    ],
)
def test_tok2tok_is_exact_at_every_token(target, length, dictionaries, dtype):
    program = tok2tok(length, 10)
    model = lsrl.compile(program, target, dtype=dtype)
    assert model.certificate.exact
    random = np.random.default_rng(length)
    # Full dictionaries, with absent and duplicate keys; then small ones, and none.
    prompts = side_by_side([
        (prompt,)
        for pairs, share in ((20, 0.8), (3, 0.2), (0, 0.05))
        for prompt in tok2tok_prompts(
            length, 10, pairs, max(1, round(dictionaries * share)), random
        )
    ])  # fmt: skip
    outputs = model.run(*prompts)
    assert outputs.dtype == dtype
    np.testing.assert_array_equal(outputs, program.run(*prompts))


@pytest.mark.nightly
@pytest.mark.parametrize("target", LINEAR)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [*range(1, 13), 36, 100, 200])
def test_tok2tok_on_a_hundred_dictionaries(target, length, dtype):
    program = tok2tok(length, 10)
    model = lsrl.compile(program, target, dtype=dtype)
    assert model.certificate.exact
    random = np.random.default_rng(1000 + length)
    for start in range(0, 100, 20):
        prompts = tok2tok_prompts(length, 10, 20 if start else 7, 20, random)
        np.testing.assert_array_equal(model.run(prompts), program.run(prompts))


def test_tok2tok_is_small():
    model = lsrl.compile(tok2tok(3, 10), "linear_rnn")
    assert (model.num_layers, model.width, model.num_parameters) == (7, 12, 443)
    assert model.num_layers == model.schedule.critical_path


@pytest.mark.parametrize("target", LINEAR)
@pytest.mark.parametrize(("in_dim", "out_dim"), [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("cells", studied([4, 5, 10], 4))
def test_vec2vec_is_within_its_bound_outside_the_ramps(target, in_dim, out_dim, cells):
    """Random points, cell edges, corners and both ends of the range."""
    random = np.random.default_rng(in_dim * 100 + cells)
    model = lsrl.compile(vec2vec(in_dim, out_dim, cells), target)
    assert model.certificate.error_bound < 1e-5
    values = random.uniform(-3, 3, (cells,) * in_dim + (out_dim,)).astype(np.float32)
    table = {index: values[index] for index in np.ndindex(*(cells,) * in_dim)}
    points = random.uniform(0, 1, (24, in_dim))
    edges = random.integers(0, cells + 1, (8, in_dim)) / cells
    points = np.concatenate([points, edges, np.zeros((1, in_dim)), np.ones((1, in_dim))])
    ramp = 2.0**-16
    scaled = points * cells
    below_edge = np.ceil(scaled) - scaled
    points = points[((below_edge == 0) | (below_edge > cells * ramp)).all(axis=1)]
    if in_dim == 1:
        table = {index[0]: value for index, value in table.items()}
    prompts = np.stack([vec2vec_prompt(table, x, in_dim, out_dim, cells) for x in points])
    got = model.run(prompts.astype(np.float32))[:, -1]
    # x on an edge belongs to the cell on its right, and x = high to the last cell.
    index = np.minimum(np.floor(points * cells + 1e-9).astype(int), cells - 1)
    expected = values[tuple(index.T)]
    np.testing.assert_array_less(np.abs(got - expected), model.certificate.error_bound)


def test_a_batch_is_equal_to_its_sequences():
    model = lsrl.compile(lsrl.programs.dyck1(), "gated_linear_rnn")
    tokens = np.random.default_rng(0).integers(0, 2, (7, 50))
    batch = model.run(tokens)
    np.testing.assert_array_equal(batch, np.stack([model.run(row) for row in tokens]))


def test_unrolled_states_are_exact():
    """Selective and threshold states on a linear RNN, by log2 T levels of composition."""
    for name, parameters in (("flip_flop", {"vocab": 3, "max_length": 20}),
                             ("dfa", {"max_length": 12})):  # fmt: skip
        entry = catalogue()[name]
        program = entry.program(**parameters)
        model = lsrl.compile(program, "linear_rnn", legalise="unroll")
        assert model.certificate.exact
        (kind,) = program.inputs.values()
        tokens = np.random.default_rng(3).integers(0, kind.size, (6, program.max_length))
        np.testing.assert_array_equal(model.run(tokens), program.run(tokens))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_self_test_passes_on_this_device(dtype):
    lsrl.compile(lsrl.programs.counter_mod(5), "linear_rnn", dtype=dtype).self_test()


def test_explain_answers_with_its_reasons():
    yes = lsrl.explain(lsrl.programs.counter_mod(5), "linear_rnn")
    bounded = lsrl.explain(lsrl.programs.majority(), "linear_rnn")
    no = lsrl.explain(lsrl.programs.permutations("S5"), "linear_rnn")
    assert (yes.answer, bounded.answer, no.answer) == ("yes", "bounded", "no")
    assert "Merrill" in no.reason
    needed = dict(bounded.bits)
    assert needed[1000] > needed[16]


def test_an_op_that_a_family_has_no_row_for_is_named():
    """Nothing that a table lacks is taken for something else."""

    @lsrl.program
    def gated(x: lsrl.Vector(1, low=-4, high=4, step=1)):
        return lsrl.select(x > 0, lsrl.delay(x), 0)

    schedule = lsrl.compile(gated, "gated_linear_rnn").schedule
    for target in ("linear_rnn", "rnn"):
        with pytest.raises(LsrlError, match=r"this cell has no .* for Product"):
            registry.find(target).lower(schedule, numerics_of("float32"))
    with pytest.raises(LsrlError, match="no block of this target makes a step"):
        registry.find("mamba").schedule(lsrl.compile(gated, "lstm").schedule.graph, None)


def test_remarks_stand_for_what_a_target_can_do():
    for backend in map(registry.find, registry.names()):
        plain = type("Plain", (type(backend),), {"remarks": {}})().features
        assert all(plain[column] != "no" for column in backend.remarks)
        assert plain.keys() == backend.features.keys()
