"""Models that equal their program as it is run in their own dtype: said only where it is so."""

# mypy: disable-error-code="operator"

import numpy as np
import pytest

import lsrl
from lsrl import Token, Vector
from lsrl.ir.evaluate import evaluate_prefixes
from lsrl.rounding import channels
from lsrl.testing.verification import compare

pytestmark = pytest.mark.one_in(5)

STEP = 2.0**-60  # of real numbers: far below all that comes up
SIZE = 64.0
REAL = Vector(1, low=-8, high=8, step=STEP)
TARGETS = ("mamba", "griffin", "gated_linear_rnn", "linear_rnn", "mamba2")


def floats(random, shape, size=8.0):
    """Numbers of float32 of all sizes from 2^-12 on, some of them alike, and zeros."""
    values = random.uniform(-1, 1, shape) * 2.0 ** random.integers(-12, 4, shape)
    values = np.clip(values, -size, size).astype(np.float32)
    values = np.where(random.random(shape) < 0.1, np.float32(0.0), values)
    return np.where(random.random(shape) < 0.1, np.float32(0.75), values).astype(np.float64)


def inputs_of(random, sequences=24, length=16):
    shape = sequences, length
    return [
        floats(random, (*shape, 1)), floats(random, (*shape, 1)), random.integers(0, 4, shape)
    ]  # fmt: skip


def bounded(value):
    return lsrl.bound(value, -SIZE, SIZE, step=STEP)


def random_program(seed, memory=True):
    """Real numbers held, let through, added up by two, multiplied, rectified, compared."""
    random = np.random.default_rng(seed)

    @lsrl.program(max_length=32)
    def program(x: REAL, y: REAL, k: Token(4)):
        flags, pool = lsrl.one_hot(k, 4), [x, y]

        def pick():
            return pool[random.integers(len(pool))]

        def mix():
            return lsrl.select(flags, lsrl.concat(pick(), pick(), pick(), pick()), 0).sum()

        makers = [
            lambda: bounded(pick() + pick()),
            lambda: bounded(pick() - 2.0 ** int(random.integers(-2, 3)) * pick()),
            lambda: bounded(pick() * pick()),
            lambda: lsrl.relu(pick()),
            lambda: bounded(lsrl.relu(pick() - pick())),
            lambda: bounded(pick() + lsrl.relu(pick() - pick())),
            lambda: lsrl.absolute(pick()),
            lambda: bounded(pick() * float(random.choice([0.5, 3.0, -1.25]))),
            lambda: bounded(pick() + float(random.choice([1.0, 0.3125]))),
            lambda: lsrl.select(flags[int(random.integers(4))], pick(), pick()),
            lambda: lsrl.select(lsrl.greater_equal(pick(), 1.0, ramp=2.0**-8), pick(), 0),
            lambda: bounded(pick() + pick() - pick()),
            mix,
        ]
        if memory:
            makers += [
                lambda: lsrl.hold(pick(), flags[int(random.integers(4))]),
                lambda: lsrl.delay(pick(), int(random.integers(1, 3))),
                lambda: lsrl.hold(bounded(pick() + pick()), flags[0]),
            ]
        for _ in range(int(random.integers(3, 7))):
            pool.append(makers[random.integers(len(makers))]())
        return lsrl.concat(*pool[-3:])

    return program


def check(program, target, random):
    """Whether the verdict is given; where it is, the model has the reference's bits."""
    model = lsrl.compile(program, target)
    if not model.certificate.exact_in_dtype:
        return False
    found = compare(model, inputs=inputs_of(random))
    assert found.tokens > 40, found
    assert found.difference is None, (target, found.difference)
    return True


@pytest.mark.parametrize("target", TARGETS[:3])
def test_the_verdict_is_true(target):
    """Of some programs; the nightly sweep has more."""
    random = np.random.default_rng(0)
    memory = target != "gated_linear_rnn"
    for seed in (9,) if memory else (5, 10):
        assert check(random_program(seed, memory), target, random)


def test_products_are_rounded_before_they_are_added_to():
    """XLA fuses them with sums, which then round once, where nothing keeps them apart."""

    @lsrl.program(max_length=32)
    def program(x: REAL, y: REAL, z: REAL):
        return lsrl.relu(bounded(x * y) + z)

    model = lsrl.compile(program, "gated_linear_rnn")
    assert model.certificate.exact_in_dtype
    random = np.random.default_rng(0)
    found = compare(model, inputs=[floats(random, (24, 16, 1)) for _ in range(3)])
    assert found.difference is None, found.difference


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
def test_the_verdict_is_true_of_many(target):
    """And it is given often, where a target has gates."""
    random = np.random.default_rng(1)
    memory = target in ("mamba", "griffin", "mamba2")
    given = 0
    for seed in range(120):
        try:
            given += check(random_program(seed, memory), target, random)
        except lsrl.errors.UnsupportedOpError:
            continue
    print(f"{target}: the verdict is given {given} of 120 times")
    assert given >= {"linear_rnn": 1}.get(target, 30)


# ---------------------------------------------------------------- where it is refused


def compiled(make, target="griffin", **options):
    program = lsrl.program(max_length=32)(make)
    return lsrl.compile(program, target, **options)


def three_at_once(x: REAL, y: REAL, k: Token(4)):
    return bounded(np.array([[1.0, 1.0, 0.5]]) @ lsrl.concat(x, y, lsrl.relu(y)))


def like_terms(x: REAL, y: REAL, k: Token(4)):
    return bounded((x + y) - y)


def flattened(x: REAL, y: REAL, k: Token(4)):
    return lsrl.relu(lsrl.relu(x + 1) - 1)


def decided(x: REAL, y: REAL, k: Token(4)):
    return lsrl.relu(x + y + 16) - y


def tenth(x: REAL, y: REAL, k: Token(4)):
    return 0.1 * x


def total(x: REAL, y: REAL, k: Token(4)):
    return bounded(lsrl.linear_state(x, 1.0))


def inside_a_ramp(x: REAL, y: REAL, k: Token(4)):
    return lsrl.ramp(x, y, 1.0)


def by_relu(x: REAL, y: REAL, k: Token(4)):
    return lsrl.select(lsrl.one_hot(k, 4)[0], x, 0, via="relu")


def steep(x: REAL, y: REAL, k: Token(4)):
    return lsrl.greater_equal(x, y, ramp=2.0**-20)


def fine_comparison(x: REAL, y: REAL, k: Token(4)):
    return x >= y


REFUSED = {
    three_at_once: "adds up 3 numbers",
    like_terms: "another form|second time",
    flattened: "left nothing|another form|second time",
    decided: "another form|second time",
    tenth: "a weight is rounded",
    total: "real numbers",
    inside_a_ramp: "second time|adds up",
    by_relu: "by ReLUs",
    steep: "adds up 3 numbers",
    fine_comparison: "norms are not exact",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_it_is_refused(make):
    certificate = compiled(make).certificate
    assert not certificate.exact_in_dtype
    assert any(part in certificate.differs.condition for part in REFUSED[make].split("|"))


def test_numbers_without_a_grid_are_refused_and_cells_that_scale():
    def sum_of(x: Vector(1, low=-8, high=8), y: Vector(1, low=-8, high=8)):
        return x + y

    certificate = compiled(sum_of, "linear_rnn").certificate
    assert not certificate.exact_in_dtype
    assert "step=" in certificate.differs.condition

    def on_a_grid(x: REAL, y: REAL, k: Token(4)):
        return x + y

    assert compiled(on_a_grid, "linear_rnn").certificate.exact_in_dtype
    assert compiled(on_a_grid, "linear_rnn", dtype="float64").certificate.exact_in_dtype
    for target, dtype in (("lstm", "float32"), ("linear_rnn", "bfloat16")):
        assert not compiled(on_a_grid, target, dtype=dtype).certificate.exact_in_dtype


@pytest.mark.parametrize("make", [like_terms, decided])
def test_what_is_refused_does_differ(make):
    """Else these programs would say nothing of the conditions."""
    model = compiled(make, "linear_rnn")
    random = np.random.default_rng(0)
    arrays = inputs_of(random, 200, 8)
    legal, values = evaluate_prefixes(
        model.program.graph, arrays, [model.program.graph.output], dtype="float32"
    )
    assert (legal == 8).all()
    assert (values[model.program.graph.output] != model.run(*arrays)).any()


def test_a_condition_less_is_noticed(monkeypatch):
    """Where a sum is taken for a number as it is, the verdict is false, and comparing finds it."""

    def rounded(self, live, bias, most):
        return channels.Judged(channels.Kind.REAL, None, most)

    monkeypatch.setattr(channels.Channels, "_rounded", rounded)
    with pytest.raises(AssertionError, match="expected"):
        check(lsrl.program(max_length=32)(like_terms), "linear_rnn", np.random.default_rng(0))


# ---------------------------------------------------------------- what is told of it


def test_what_the_certificate_tells():
    def held(x: REAL, y: REAL, k: Token(4)):
        flag = lsrl.one_hot(k, 4)[0]
        large = lsrl.greater_equal(x, 2.0, ramp=2.0**-10)
        return lsrl.select(large, bounded(lsrl.hold(x, flag) * y), y)

    model = compiled(held)
    certificate = model.certificate
    assert certificate.verdict == "exact in float32" and "exact in float32" in repr(model)
    assert "in float32, bit for bit" in str(certificate)
    assert certificate.error_bound > 0 and certificate.reasons and not certificate.exact
    assert "by steps of" in str(certificate.promises)
    assert type(certificate).from_json(certificate.to_json()) == certificate
    arrays = inputs_of(np.random.default_rng(3), 4, 8)
    arrays[0] = np.where(np.abs(arrays[0] - 2) < 0.01, 1.0, arrays[0])
    model.run(*arrays, check=True)
    changed = {name: array * 1.25 for name, array in model.module.parameter_arrays().items()}
    model.module.replace_parameters({"output_kernel": changed["output_kernel"]})
    assert not model.certificate.exact_in_dtype
    with pytest.raises(lsrl.errors.SelfTestError, match="exact in float32"):
        model.run(*arrays, check=True)


@pytest.mark.parametrize("target", ["griffin", pytest.param("mamba", marks=pytest.mark.nightly)])
def test_a_computer_of_real_numbers_is_exact_in_float32(target):
    model = lsrl.compile(lsrl.programs.fleq(cells=8, lines=8), target)
    assert model.certificate.verdict == "exact in float32", model.certificate.differs
    assert model.num_layers <= 13
