"""How far certificates reach, and that no model runs further unasked."""

# Programs are annotated with values, as users write them.
# mypy: disable-error-code="valid-type, operator, arg-type"

import numpy as np
import pytest

import lsrl
from lsrl import Token, Vector
from lsrl.certificate import Certificate
from lsrl.errors import InputError, ProgramError
from lsrl.language import trace

pytestmark = pytest.mark.one_in(2)

SMALL = Vector(1, low=-1, high=1, step=0.5)
REAL = Vector(1, low=-1, high=1)


def settled_ops():
    """By name, programs whose bounds and sums are the same at every length, without max_length."""

    @lsrl.program
    def clock(x: SMALL):
        return lsrl.cycle(3) + x

    @lsrl.program
    def delayed(x: SMALL):
        return lsrl.delay(x, 5)

    @lsrl.program
    def latched(x: SMALL, bit: Token(2)):
        return lsrl.latch(x, lsrl.delay(bit, 1) == 1)

    @lsrl.program
    def held(x: SMALL, bit: Token(2)):
        return lsrl.hold(x, bit == 1)

    @lsrl.program
    def faded(x: REAL):
        return lsrl.linear_state(x, 0.9)

    @lsrl.program
    def window(x: SMALL):
        return lsrl.window_sum(x, 4)

    return {p.name: p for p in (clock, delayed, latched, held, faded, window)}


COUNTED = {("clock", name) for name in ("mamba", "mamba2", "griffin", "deltanet")}


@pytest.mark.parametrize("name", settled_ops())
@pytest.mark.parametrize("target", ["linear_rnn", "lstm", "mamba", "mamba2", "griffin", "deltanet"])
def test_nothing_that_settles_has_a_length(name, target):
    program = settled_ops()[name]
    if (name, target) == ("held", "linear_rnn"):
        pytest.skip("a linear RNN holds no selective state")
    certificate = lsrl.compile(program, target).certificate
    assert certificate.tokens == (2**21 if (name, target) in COUNTED else None)
    assert ("at any length" in str(certificate)) == (certificate.tokens is None)
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_what_grows_is_refused_without_a_length_and_bounded_with_one():
    def growing(max_length):
        @lsrl.program(max_length=max_length)
        def growing(x: SMALL):
            return lsrl.cumsum(x)

        return growing

    with pytest.raises(ProgramError, match="grows with the number of tokens"):
        growing(None)
    for target in ("linear_rnn", "lstm", "mamba"):
        certificate = lsrl.compile(growing(30), target).certificate
        assert certificate.tokens == 30
        assert "yes, up to 30 tokens" in str(certificate)


@pytest.mark.parametrize("factor", [2.0, -1.0, 1 - 2.0**-30])
def test_states_that_never_come_to_rest_need_a_length(factor):
    with pytest.raises(ProgramError, match="declared length"):

        @lsrl.program
        def endless(x: SMALL):
            return lsrl.linear_state(x, factor)


def test_a_declared_length_that_decides_something_is_the_certificates():
    """What never comes up within the length is dropped, and with it all that told of the length."""

    @lsrl.program(max_length=10)
    def early(x: SMALL):
        return lsrl.select(lsrl.position() >= 12, 5 * x, x)

    model = lsrl.compile(early, "linear_rnn")
    assert model.certificate.tokens == 10


def test_unrolled_states_end_where_they_were_unrolled_to():
    program = lsrl.programs.flip_flop(3, max_length=20)
    assert lsrl.compile(program, "lstm").certificate.tokens is None
    assert lsrl.compile(program, "linear_rnn", legalise="unroll").certificate.tokens == 20


def test_the_rest_of_a_decay_is_counted_for_every_channel():
    """A small channel that reads a large one takes over what is left of that."""
    transition = [[0.5, 2.0**-20], [0, 0.99]]

    @lsrl.program
    def coupled(x: Vector(2, low=(0, 0), high=(0, 2.0**30))):
        return lsrl.linear_state(x, transition)

    facts = coupled.graph.facts[coupled.graph.output]
    limit = np.linalg.solve(np.eye(2) - np.array(transition), [0, 2.0**30])
    assert (facts.high >= limit).all()
    assert (facts.high <= limit * (1 + 2.0**-30)).all()


def test_a_run_past_the_certificate_is_asked_for(monkeypatch):
    monkeypatch.setattr(trace, "UNDECLARED_LENGTH", 4)

    @lsrl.program
    def clock(x: Token(3)) -> Token(3):
        return lsrl.cycle(3)

    model, ids = lsrl.compile(clock, "mamba"), np.zeros(6, dtype=int)
    assert model.certificate.tokens == 4
    with pytest.raises(InputError, match=r"run: 6 tokens, .* speaks of 4: .*beyond_certificate"):
        model.run(ids)
    assert model.run(ids[:4]).ravel().tolist() == [0, 1, 2, 0]
    assert len(model.run(ids, beyond_certificate=True)) == 6
    state = model.init_state()
    for symbol in ids[:4]:
        _, state = model.step(state, symbol)
    with pytest.raises(InputError, match=r"step: 5 tokens, .* speaks of 4: .*max_length"):
        model.step(state, 0)
    assert model.step(state, 0, beyond_certificate=True)[1].position == 5
    with pytest.raises(InputError, match=r"generate: 5 tokens, .* speaks of 4"):
        model.generate(ids[:3], 3)
    assert len(model.generate(ids[:3], 2)) == 2
    assert len(model.generate(ids[:3], 3, beyond_certificate=True)) == 3
    # Where nothing grows, there is nothing to ask for.
    assert len(lsrl.compile(clock, "lstm").run(ids)) == 6
