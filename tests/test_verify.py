"""`lsrl verify` on programs as users write them: what it tests, what it says, and when it fails."""

import numpy as np
import pytest
from typer.testing import CliRunner

import lsrl
from lsrl.cli import app
from lsrl.cli.subject import module_of
from lsrl.errors import InputError, SelfTestError
from lsrl.interpret.variants import noised
from lsrl.ir.evaluate import evaluate, evaluate_prefixes
from lsrl.testing.verification import compare, draw_inputs, sample_inputs

PROGRAMS = '''
import numpy as np

import lsrl

LENGTH = 16


@lsrl.program
def lexi(x: lsrl.Token(4)):
    """The first 3 is kept: there must be no second one."""
    return lsrl.latch(x, x == 3)


@lsrl.program(max_length=LENGTH)
def gauge(x: lsrl.Token(2)):
    level = lsrl.bound(lsrl.cumsum(x), 0, 3)
    return level


@lsrl.program(max_length=LENGTH)
def brackets(x: lsrl.Token(3)):
    """1 opens and 2 closes, at most four deep."""
    step = lsrl.lookup(x, [0, 1, -1])
    depth = lsrl.bound(lsrl.cumsum(step), 0, 4)
    closed = depth == 0
    return closed


@lsrl.program
def difference(a: lsrl.Token(10), b: lsrl.Token(10)):
    return lsrl.bound(a - b, 0, 9)


@lsrl.program
def narrow(x: lsrl.Vector(8, low=0, high=64, step=1)):
    small = lsrl.bound(x, 0, 2)
    return 3 * small


@lsrl.program(max_length=LENGTH)
def votes(x: lsrl.Vector(4, low=0, high=1, step=1)):
    """One entry a token is 1."""
    ballot = lsrl.bound(x[0] + x[1] + x[2] + x[3], 1, 1)
    return lsrl.concat(lsrl.cumsum(x), ballot)


@lsrl.program
def loud(x: lsrl.Vector(1, low=-1, high=1)):
    return lsrl.greater_equal(x, 0.5, ramp=0.25)


@lsrl.program(max_length=LENGTH)
def two_locks(x: lsrl.Token(6)):
    """1 opens the first lock and 2 the second, once each and in this order."""
    first = lsrl.latch(1, x == 1)
    second = lsrl.latch(1, x == 2)
    order = lsrl.bound(first - second, 0, 1)
    return lsrl.concat(order, first, second)


@lsrl.program
def memory(x: lsrl.Token(5)):
    return lsrl.hold(x, x > 0)


@lsrl.program
def rising(x: lsrl.Token(64)):
    gap = lsrl.bound(x - lsrl.delay(x), 0, 64)
    return gap


@lsrl.program(max_length=LENGTH)
def spent(x: lsrl.Vector(1, low=1, high=2)):
    """Which no second token can keep."""
    return lsrl.bound(lsrl.cumsum(x), 0, 1)


@lsrl.program
def password(x: lsrl.Token(5000)):
    secret = lsrl.periodic([17, 4711, 256, 3999])
    lsrl.bound(x - secret, 0, 0)
    return lsrl.delay(x)


@lsrl.program
def silent(x: lsrl.Token(3)):
    return lsrl.constant(7.0)


@lsrl.program
def starts(x: lsrl.Token(12)):
    """Every sequence begins with a 5."""
    first = lsrl.delay(lsrl.constant(1.0)) == 0
    lsrl.bound(lsrl.select(first, x - 5, 0), 0, 0)
    return lsrl.hold(x, x > 8)


@lsrl.program
def no_twins(x: lsrl.Token(2), y: lsrl.Vector(1, low=0, high=3, step=1)):
    lsrl.bound(lsrl.absolute(y - lsrl.delay(y, initial=-1)), 1, 4)
    return lsrl.select(x == 1, y, 0)


@lsrl.program(max_length=LENGTH)
def finished(x: lsrl.Token(4)):
    """Nothing but zeros follows the first 3."""
    ended = lsrl.delay(lsrl.hold(1, x == 3))
    lsrl.bound(lsrl.select(ended, x, 0), 0, 0)
    return lsrl.concat(ended, x)


@lsrl.program
def leaky(x: lsrl.Vector(1, low=-2, high=2, step=1)):
    return lsrl.recurrent_state(x, 1, low=0, high=3)


def scaled(factor):
    @lsrl.program
    def scaled(x: lsrl.Token(3)):
        return factor * x

    return scaled


@lsrl.program(max_length=LENGTH)
def tenths(x: lsrl.Vector(2, low=-1, high=1)):
    total = lsrl.bound(lsrl.cumsum(0.1 * x), -0.3, 0.3)
    return total


@lsrl.program(max_length=LENGTH)
def shy(x: lsrl.Token(1000)):
    """Leaves 0 for one symbol of a thousand alone, which must come but once."""
    seen = lsrl.latch(x, x == 777)
    lsrl.bound(lsrl.cumsum(x > 700), 0, 1)
    return seen


def keys(random, sequences, length):
    return np.resize([17, 4711, 256, 3999], (sequences, length))


def shown(random, sequences, length):
    x = random.integers(0, 700, (sequences, length))
    x[:, length // 2] = 777
    return [x]


def failing(random, sequences, length):
    return 1 / 0


def foreign(random, sequences, length):
    return np.full((sequences, length), 6000)
'''

WHOLE = ("equal at every token of 8 sequences, in both modes", "128 of 128 compared")
NOTHING = "next to nothing was tested"
# Program, target, exit code, and what verify has to say of 8 sequences of 16 tokens.
TABLE = [
    ("lexi", "gru", 0, (*WHOLE, "redrawn from the token on that broke a promise")),
    ("gauge", "linear_rnn", 0, (*WHOLE, "1 kept as drawn, 7 redrawn")),
    ("brackets", "linear_rnn", 0, (*WHOLE, "redrawn")),
    ("difference", "linear_rnn", 0, (*WHOLE, "redrawn")),
    ("narrow", "linear_rnn", 0, (*WHOLE, "redrawn")),
    ("votes", "linear_rnn", 0, (*WHOLE, "0 kept as drawn, 8 redrawn")),
    ("loud", "linear_rnn", 0, WHOLE),
    ("two_locks", "linear_rnn", 0, (*WHOLE, "redrawn")),
    ("memory", "gru", 0, (*WHOLE, "8 kept as drawn\n")),
    ("rising", "linear_rnn", 0, ("equal at every token", "redrawn")),
    (
        "spent", "linear_rnn", 1,
        (NOTHING, "beyond its first token", "--sampler", "8 cut", "outputs      never changed"),
    ),
    ("password", "linear_rnn", 1, (NOTHING, "--sampler", "8 dropped", "0 of 128 compared")),
    ("silent", "linear_rnn", 0, (*WHOLE, "outputs      never changed")),
    ("starts", "gru", 0, (*WHOLE, "0 kept as drawn, 8 redrawn")),
    ("no_twins", "gru", 0, (*WHOLE, "redrawn")),
    ("finished", "gru", 0, (*WHOLE, "redrawn")),
    ("leaky", "rnn", 0, (*WHOLE, "redrawn")),
    ("scaled", "linear_rnn", 0, (*WHOLE, "8 kept as drawn\n")),
    ("tenths", "linear_rnn", 0, ("within the error bound", "(greatest error ", "redrawn")),
    (
        "shy", "linear_rnn", 1,
        (NOTHING, "the outputs never changed", "--sampler", "never moved  seen"),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The programs as a user's file."""
    path = tmp_path_factory.mktemp("user") / "mine.py"
    path.write_text(PROGRAMS)
    return path


@pytest.fixture(scope="module")
def mine(file):
    """What the file defines."""
    return module_of(file)


def verify(*arguments, code=0):
    result = CliRunner().invoke(app, ["verify", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.stdout if code < 2 else result.stderr


@pytest.mark.parametrize(("name", "target", "code", "words"), TABLE, ids=[row[0] for row in TABLE])
def test_verify_says_what_it_tested(file, name, target, code, words):
    settings = ["-p", "factor=3"] if name == "scaled" else []
    said = verify(
        f"{file}:{name}", "-t", target, "--sequences", "8", "--length", "16", *settings, code=code
    )
    for word in words:
        assert word in said
    if code == 0 and name != "silent":
        assert "never" not in said, "signals and outputs changed"


@pytest.mark.parametrize(("name", "sampler"), [("password", "keys"), ("shy", "shown")])
def test_a_sampler_gives_what_random_inputs_do_not(file, name, sampler):
    said = verify(
        f"{file}:{name}", "-t", "linear_rnn", "--sequences", "9", "--length", "16",
        "--sampler", f"{file}:{sampler}",
    )  # fmt: skip
    assert "equal at every token of 9 sequences" in said
    assert "9 kept as drawn\n" in said
    assert "never" not in said


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ("failing", "ZeroDivisionError"),
        ("foreign", "expected ints from 0 to 4999"),
        ("absent", "expected a function of (random, sequences, length), got nothing of that name"),
        ("LENGTH", "got int"),
    ],
)
def test_a_sampler_that_is_none_is_named(file, sampler, words):
    said = verify(f"{file}:password", "-t", "linear_rnn", "--sampler", f"{file}:{sampler}", code=2)
    assert words in said


def test_the_library_brings_its_own_inputs_for_saved_models_too(tmp_path):
    """Random vectors break the promises of this one."""
    program = lsrl.programs.vec2vec()
    assert draw_inputs(program, 4, 5, 0).redrawn.any()
    model = lsrl.compile(program, "gated_linear_rnn")
    model.save(tmp_path / "model.lsrl")
    said = verify(str(tmp_path / "model.lsrl"), "--sequences", "4", "--length", "5")
    assert "4 kept as drawn\n" in said


@pytest.mark.parametrize("name", [row[0] for row in TABLE if row[0] != "scaled"])
def test_prefixes_are_as_long_as_the_promises_hold(mine, name):
    """Of random inputs as they come: the evaluator takes each prefix, and no token more."""
    program = getattr(mine, name)
    inputs = [a[2:] for a in sample_inputs(program.inputs, 8, 12, 3)]
    legal, values = evaluate_prefixes(program.graph, inputs, [program.graph.output])
    for row, length in enumerate(legal):
        sequence = [array[row : row + 1] for array in inputs]
        if length:
            expected = evaluate(program.graph, [array[:, :length] for array in sequence])
            got = values[program.graph.output][row : row + 1, :length]
            assert (got == expected[program.graph.output]).all()
        if length < 12:
            with pytest.raises(lsrl.errors.BoundsError, match=f"token {length}"):
                evaluate(program.graph, [array[:, : length + 1] for array in sequence])


def test_a_wrong_network_is_found_behind_a_promise(mine):
    """A latch that random inputs break at once, whose output is only wrong once it is set."""
    model = lsrl.compile(mine.lexi, "gru")
    compared = compare(model, sequences=6, length=20)
    assert compared.difference is None
    assert compared.sequences == compared.kept + compared.redrawn == 6
    assert compared.outputs_changed
    assert compared.changed == ("x",)
    kernel = model.module.parameter_arrays()["output_kernel"]
    model.module.replace_parameters({"output_kernel": 2 * kernel})
    found = compare(model, sequences=6, length=20).difference
    assert found is not None
    assert (found.expected, found.got, found.allowed) == ([3.0], [6.0], 0.0)
    with pytest.raises(SelfTestError, match=r"expected \[3.0\], got \[6.0\]"):
        model.self_test()


def test_what_stands_behind_a_broken_promise_is_not_compared(mine):
    model = lsrl.compile(mine.gauge, "linear_rnn")
    tokens = np.array(
        [[0, 1, 0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]]
    )
    compared = compare(model, inputs=[tokens])
    assert (compared.kept, compared.cut, compared.dropped) == (2, 1, 0)
    assert (compared.tokens, compared.offered) == (8 + 8 + 5, 24)
    assert compared.shortfall is None
    # A network that is wrong from the count of 4 on is wrong where nothing is promised.

    def wrong_above(most):
        def run(ids, runner):
            sums = np.cumsum(ids, axis=1)
            return np.where(sums > most, 9.0, sums)[..., None]

        return run

    model.run = wrong_above(3)
    assert compare(model, inputs=[tokens], steps=False).difference is None
    model.run = wrong_above(2)
    found = compare(model, inputs=[tokens], steps=False).difference
    assert (found.sequence, found.token, found.got) == (1, 2, [9.0])


def test_the_self_test_fails_on_next_to_nothing(mine):
    model = lsrl.compile(mine.password, "linear_rnn")
    with pytest.raises(SelfTestError, match=r"password on linear_rnn.*next to nothing was tested"):
        model.self_test(length=8)
    model.self_test(length=8, sampler=mine.keys)
    with pytest.raises(InputError, match="expected ints from 0 to 4999"):
        model.self_test(length=8, sampler=mine.foreign)


def test_few_legal_tokens_are_next_to_nothing():
    @lsrl.program(max_length=64)
    def gauge(x: lsrl.Token(2)):
        return lsrl.bound(lsrl.cumsum(x), 0, 3)

    model = lsrl.compile(gauge, "linear_rnn")
    ones = np.ones((8, 64), int)
    compared = compare(model, inputs=[ones], steps=False)
    assert compared.difference is None
    assert "only 24 of 512 tokens were compared, less than 12.5%" in compared.shortfall
    compared = compare(model, inputs=[ones[:, :24]], steps=False)
    assert compared.shortfall is None, "an eighth"
    assert compared.longest == 3


def test_a_network_of_which_nothing_is_proven_is_held_to_its_card():
    """Never to an infinite bound."""
    model = lsrl.compile(lsrl.programs.counter_mod(3), "linear_rnn")
    slightly, much = (noised(model, 0, sigma) for sigma in (1e-4, 1.0))
    assert slightly.allowed_error == slightly.card.tolerance == 0.5
    assert compare(slightly, sequences=4, length=20, steps=False).difference is None
    found = compare(much, sequences=4, length=20, steps=False).difference
    assert found is not None
    assert found.allowed == 0.5
