"""A prompt folded into a program: equal behind it at every token, and as small as what is left."""

import itertools

import numpy as np
import pytest

import lsrl
from lsrl import machine
from lsrl.errors import InexactError, InputError, ProgramError, PromiseError
from lsrl.ir import ops
from lsrl.ir.evaluate import evaluate, evaluate_prefixes
from lsrl.programs import pipeline, pipeline_prompt, random_dictionary, tok2tok, tok2tok_prompt
from lsrl.testing.random_ops import EDGE_OPS, FURTHER_OPS, OPS
from lsrl.testing.random_programs import random_program
from tests.strategies import each_turn, inputs_of

pytestmark = pytest.mark.one_in(2)

POOLS = (OPS, EDGE_OPS, (*OPS, *EDGE_OPS, *FURTHER_OPS))


def kinds(program):
    """The ops that it is made of."""
    graph = program.graph
    return {type(graph.nodes[i].op) for i in graph.live()}


def check_behind_prompts(seeds):
    """Random programs, with prompts of any length, go on as they would."""
    tried = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        limit = [24, 40, None][rng.integers(3)]
        program = random_program(
            seed, POOLS[seed % 3], depth=int(rng.integers(2, 9)), width=int(rng.choice([1, 2, 5])),
            max_length=limit, starting=float(rng.choice([0.4, 1.0])),
        )  # fmt: skip
        inputs = inputs_of(program, 24, seed)
        legal, _ = evaluate_prefixes(program.graph, inputs)
        cut = int(rng.integers(1, 20))
        row = int(legal.argmax())
        if legal[row] <= cut:
            continue
        given = [array[row, : legal[row]] for array in inputs]
        try:
            rest = lsrl.specialise(program, *(array[:cut] for array in given))
        except InexactError:
            continue
        behind = [array[cut:] for array in given]
        said = program.run(*given, exact=True)[cut:]
        assert (rest.run(*behind, exact=True) == said).all(), seed
        evaluate(rest.graph, [array[None] for array in behind], theorems=True)
        tried += 1
    assert tried >= len(seeds) // 2


@each_turn
def test_random_programs_go_on_behind_random_prompts(turn):
    check_behind_prompts(range(12 * turn, 12 * turn + 12))


@pytest.mark.nightly
def test_many_random_programs_go_on():
    check_behind_prompts(range(1000, 1600))


def test_a_latch_that_took_its_value_is_constant():
    program = lsrl.programs.function_table(3)
    told = lsrl.specialise(program, [2, 0, 1])
    assert told.run([0, 1, 2, 2]).ravel().tolist() == [2, 0, 1, 1]
    assert not any(kind.pointwise is False for kind in kinds(told))
    early = lsrl.specialise(program, [2, 0])  # one more value is to come
    assert ops.Latch in kinds(early)
    assert early.run([1, 0, 1, 2]).ravel().tolist() == [0, 2, 0, 1]


def test_what_promised_inputs_no_longer_do_is_gone():
    """A memory that only a command writes is a table once no command may come."""

    @lsrl.program
    def kept(token: lsrl.Token(6)):
        return lsrl.hold(lsrl.lookup(token, [0, 0, 0, 5, 6, 7]), token >= 3) + token

    whole = lsrl.specialise(kept, [3, 5])
    assert ops.SelectiveState in kinds(whole)
    narrow = lsrl.specialise(kept, [3, 5], inputs={"token": lsrl.Token(3)})
    assert ops.SelectiveState not in kinds(narrow)
    assert narrow.run([0, 2]).ravel().tolist() == whole.run([0, 2]).ravel().tolist() == [7, 9]


def test_a_state_without_inputs_becomes_a_clock_and_a_delay_what_it_holds():
    @lsrl.program(max_length=40)
    def timed(x: lsrl.Vector(1, low=0, high=9, step=1)):
        ring = lsrl.linear_state(lsrl.constant([0, 0, 0]), np.roll(np.eye(3), 1, 0), [1, 0, 0])
        return lsrl.concat(ring[0], lsrl.delay(x, 8), lsrl.delay(x, 30))

    x = np.arange(40)[:, None] % 10
    rest = lsrl.specialise(timed, x[:33])
    assert kinds(rest) & {ops.Delay, ops.LinearState} == set()  # 7 tokens are left
    longer = lsrl.specialise(timed, x[:5])
    assert ops.Periodic in kinds(longer)
    for made, cut in ((rest, 33), (longer, 5)):
        assert (made.run(x[cut:]) == timed.run(x)[cut:]).all()


def test_a_full_dictionary_is_as_small_as_a_table():
    length, vocab = 2, 3
    pairs = vocab**length
    program = tok2tok(length, vocab=vocab, max_pairs=pairs, prompt_first=True)
    rng = np.random.default_rng(0)
    keys = list(itertools.product(range(vocab), repeat=length))
    values = rng.integers(vocab, size=(pairs, length))
    prompt = tok2tok_prompt(keys[0], list(zip(keys, values.tolist(), strict=True)), True)
    dictionary = prompt[: 2 * length * pairs]
    known = lsrl.specialise(program, dictionary)
    for key, value in zip(keys, values, strict=True):
        said = known.run([*key, *[0] * length]).ravel()
        assert said.tolist() == [0] * length + value.tolist()
        whole = np.concatenate([dictionary, key, [1] * length])
        assert (program.run(whole)[-2 * length :] == known.run(whole[-2 * length :])).all()

    @lsrl.program(max_length=2 * length)
    def window(token: lsrl.Token(vocab)) -> lsrl.Token(vocab):
        code = vocab * lsrl.delay(token) + token
        word = lsrl.latch(lsrl.lookup(code, values), lsrl.periodic(np.arange(4) == length - 1))
        turn = lsrl.periodic(np.eye(4)[:, length:])
        return lsrl.mux(turn, word)

    assert (window.run([2, 1, 0, 0]) == known.run([2, 1, 0, 0])).all()
    sizes = [lsrl.compile(each, "linear_rnn").num_nonzero_parameters for each in (known, window)]
    assert sizes[0] <= 3 * sizes[1]
    # Its own signals, where they are wanted, are there.
    folded = lsrl.specialise(program, dictionary, tables=False)
    assert "matched" in folded.trace(prompt[-2 * length :])
    assert (folded.run(prompt[-2 * length :]) == known.run(prompt[-2 * length :])).all()


def test_a_query_that_comes_first_is_folded():
    program, rng = tok2tok(2, vocab=4, max_pairs=3), np.random.default_rng(1)
    for _ in range(3):
        prompt = tok2tok_prompt(*random_dictionary(rng, 2, 4, 3))
        known = lsrl.specialise(program, prompt[:2])
        assert (known.run(prompt[2:]) == program.run(prompt)[2:]).all()


COUNTING = """
loop:  one x
       minus y
       y minus
       z z loop
one:   .data 1
minus: .data -1
x:     .data 5
y:     .data 3
z:     .data 0
"""


@pytest.mark.parametrize(
    "steps", [60, pytest.param(1000, marks=pytest.mark.studies)], ids=["some", "thousand"]
)
def test_a_computer_goes_on_with_the_program_in_its_memory(steps):
    program = lsrl.programs.subleq(cells=32, bits=8, max_length=5000)
    (card,) = machine.card(program, machine.assemble(COUNTING))
    loaded = lsrl.specialise(program, card[:-1])
    expected = program.loop(card, steps=steps)
    run = loaded.loop(card[-1:], steps=steps)
    assert run.steps == steps
    assert (run.outputs == expected.outputs).all()


def test_a_pipeline_is_the_program_that_its_prompt_tells():
    program = pipeline(steps=3, bound=31)
    commands = pipeline_prompt(program, ["total x", "previous r_1", "above r_1 r_2"])
    data = lsrl.Token(63)
    known = lsrl.specialise(program, commands, inputs={"token": data})
    x = np.random.default_rng(0).integers(-3, 4, (4, 20)) + 31
    whole = np.concatenate([np.tile(commands, (4, 1)), x], axis=1)
    assert (known.run(x) == program.run(whole)[:, 12:]).all()
    assert ops.Latch not in kinds(known)

    @lsrl.program(max_length=244)
    def direct(token: lsrl.Token(63)):
        total = lsrl.bound(lsrl.cumsum(token - 31), -31, 31, "prompt")
        return total > lsrl.delay(total)

    small, wanted = (lsrl.compile(each, "rnn") for each in (known, direct))
    assert small.num_nonzero_parameters <= wanted.num_nonzero_parameters + 3
    assert small.num_layers == wanted.num_layers


def test_what_is_wrong_is_said():
    program = lsrl.programs.function_table(3, max_length=10)
    with pytest.raises(InputError, match=r"expected ints from 0 to 3.*got 7"):
        lsrl.specialise(program, [7])
    with pytest.raises(InputError, match="may read; declare a larger max_length"):
        lsrl.specialise(program, [0] * 10)
    with pytest.raises(InputError, match="one sequence of each input"):
        lsrl.specialise(program, [[0, 1]])
    with pytest.raises(InputError, match="no input 'tokens'; did you mean 'token'"):
        lsrl.specialise(program, [0], inputs={"tokens": lsrl.Token(2)})
    with pytest.raises(InputError, match="is not within it"):
        lsrl.specialise(program, [0], inputs={"token": lsrl.Token(9)})
    with pytest.raises(InputError, match="expects a Program"):
        lsrl.specialise(lambda x: x, [0])

    @lsrl.program(max_length=10)
    def promising(x: lsrl.Vector(1, low=0, high=9, step=1)):
        return lsrl.bound(lsrl.cumsum(x), 0, 20)

    with pytest.raises(PromiseError, match="token 2"):
        lsrl.specialise(promising, [[9], [9], [9]])

    @lsrl.program(max_length=100)
    def fading(x: lsrl.Vector(1, low=0, high=1, step=1)):
        return lsrl.linear_state(x, 2.0**-20)

    with pytest.raises(InexactError, match=r"state.*no float64 is|no float64 is"):
        lsrl.specialise(fading, [[1]] * 5)
    looping = lsrl.programs.subleq(cells=4, bits=5)
    kind = looping.inputs["bus"]
    with pytest.raises(ProgramError, match="back"):
        narrow = lsrl.Vector(4, low=kind.low, high=(3, *kind.high[1:]), step=1)
        lsrl.specialise(looping, [[0, 1, 1, -1]], inputs={"bus": narrow})
