"""Calls found from questions and answers, what routines can do, and whose fault an error is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from lsrl.errors import InputError, Unbindable
from lsrl.nn import Library, MooreTable
from lsrl.nn.annealing import Judge, Machines
from lsrl.nn.relabelling import relabelled

pytestmark = pytest.mark.one_in(3)

SUM, MAXIMUM, LAST = (
    [[step(state, digit) for digit in range(4)] for state in range(4)]
    for step in (lambda a, b: (a + b) % 3, max, lambda a, b: b)
)


def machine(follows, outputs=None):
    follows = np.array(follows, np.int32)
    said = np.arange(len(follows)) if outputs is None else outputs
    return MooreTable(follows, np.array(said, float)[:, None])


@pytest.fixture(scope="module")
def library():
    return Library([machine(SUM), machine(MAXIMUM), machine(LAST)])


# Tokens 0 to 3 are digits under a cipher, 4 and 5 name tasks, 6 asks.
CIPHER = np.array([2, 0, 3, 1])
TASKS = {4: SUM, 5: MAXIMUM}


def asked(rng, questions, longest, tasks=TASKS):
    pairs = []
    for _ in range(questions):
        name = int(rng.choice([*tasks]))
        digits = rng.integers(0, 4, rng.integers(1, longest + 1))
        state = 0
        for digit in CIPHER[digits]:
            state = tasks[name][state][digit]
        pairs.append(([name, *digits.tolist(), 6], state))
    return pairs


@pytest.fixture(scope="module")
def calls(library):
    return library.bind(asked(np.random.default_rng(0), 400, 8), longest=10, tries=1)


def test_calls_answer_questions_far_longer_than_those_they_were_bound_on(calls):
    assert calls.writers == (4, 5)
    assert [calls[4].name, calls[5].name] == ["machine 0", "machine 1"]
    assert all(call.explained == 1 for call in calls.calls)
    assert sum(each.questions for call in calls.calls for each in call.evidence) == 400
    pairs = asked(np.random.default_rng(1), 100, 200)
    said = calls.answers([question for question, _ in pairs])
    assert said.tolist() == [answer for _, answer in pairs]
    assert "explains 1–4 tokens: 1.00" in str(calls)


def test_wrong_labels_do_not_matter(library):
    rng = np.random.default_rng(2)
    pairs = [
        (question, int((answer + 1) % 4) if rng.random() < 0.1 else answer)
        for question, answer in asked(rng, 600, 8)
    ]
    found = library.bind(pairs, longest=10, tries=1, explains=0.8)
    clean = asked(rng, 100, 50)
    assert found.answers([q for q, _ in clean]).tolist() == [answer for _, answer in clean]
    assert all(0.8 < call.explained < 1 for call in found.calls)


def test_what_no_routine_does_is_refused_and_the_rest_is_kept():
    tasks = {4: SUM, 5: LAST}
    pairs = asked(np.random.default_rng(3), 600, 12, tasks)
    library = Library([machine(LAST), machine(MAXIMUM)])
    with pytest.raises(Unbindable, match=r"token 4: .*explains 1–4 tokens: .*; 9–16") as refused:
        library.bind(pairs, longest=14, tries=1)
    assert refused.value.calls.writers == (5,)
    assert refused.value.best.writers == (4, 5)
    # What holds is what can be done.
    assert set(library.can(machine(SUM), framed=True).values()) == {"no"}
    assert library.can(machine(LAST), framed=True)["machine 0"] != "no"


def test_a_register_gives_the_library_what_the_calls_say(library, calls):
    """The same three ways: the calls alone, the network, and the expected answer."""
    pairs = [pair for pair in asked(np.random.default_rng(4), 200, 8) if len(pair[0]) == 8]
    words, wanted = np.array([q for q, _ in pairs]), [answer for _, answer in pairs]
    content = jax.nn.one_hot(calls.register(words), 2)
    given, choice = calls.given(jnp.asarray(words), content)
    assert (given.argmax(-1) == calls.arguments(words)).all()
    network = calls.read(library(given, choice), content)
    assert network[:, -1].argmax(-1).tolist() == wanted
    expected = calls.expected(jnp.asarray(words), content)
    np.testing.assert_array_equal(expected[:, -1], network[:, -1])
    # Before a call is named, everything skips and nothing is chosen.
    given, choice = calls.given(jnp.asarray(words), jnp.zeros_like(content))
    assert (given.argmax(-1) == library.skip).all() and not choice.any()


def test_blame_finds_what_was_broken(library, calls):
    pairs = [pair for pair in asked(np.random.default_rng(5), 400, 8) if len(pair[0]) == 8]
    words, wanted = np.array([q for q, _ in pairs]), np.array([answer for _, answer in pairs])
    content = jax.nn.one_hot(calls.register(words), 2)
    given, choice = calls.given(jnp.asarray(words), content)

    def blame(said=None, given=given, choice=choice):
        if said is None:
            said = np.asarray(calls.read(library(given, choice), content)[:, -1].argmax(-1))
        return library.blame(calls, words, wanted, said, given, choice)

    assert blame().wrong == 0
    readout = blame(said=(wanted + 1) % 4)
    assert readout.wrong == len(pairs) and readout.share("read-out") == 1
    other = (choice.argmax(-1) + 1) % 3
    selection = blame(choice=jax.nn.one_hot(other, 3))
    assert selection.wrong > 0 and selection.share("selection") == 1
    shifted = np.where(words < 4, (calls.arguments(words) + 1) % 4, calls.arguments(words))
    mistaken = blame(given=jax.nn.one_hot(shifted, 5))
    assert mistaken.wrong > 0 and mistaken.share("arguments") == 1
    together = blame(given=jax.nn.one_hot(shifted, 5), choice=jax.nn.one_hot(other, 3))
    assert together.errors["both"] > 0 and together.errors["routine"] == 0
    assert f"{together.wrong} of {len(pairs)} answers are wrong" in str(together)
    assert together.svg.count("<rect") > 6 and "both" in together.svg
    wrong_labels = library.blame(calls, words, (wanted + 1) % 4, wanted, given, choice)
    assert wrong_labels.share("calls") == 1


# ---------------------------------------------------------------- what routines can do


@st.composite
def tables(draw):
    states, symbols = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    state = st.integers(0, states - 1)
    row = st.lists(state, min_size=symbols, max_size=symbols)
    follows = draw(st.lists(row, min_size=states, max_size=states))
    said = draw(st.lists(st.integers(0, 2), min_size=states, max_size=states))
    return machine(follows, said)


def does(task, routine, symbols, ends):
    """Whether a map does, by all words that could tell otherwise."""
    read = {}
    for length in range(1, task.states * routine.states + 2):
        words = np.array([*itertools.product(range(task.symbols), repeat=length)])
        wanted = task.ids[task.states_after(words)[:, -1]]
        asked = np.array(symbols)[words]
        if ends is not None:
            before, after = (np.full((len(words), 1), end) for end in ends)
            asked = np.concatenate([before, asked, after], axis=1)
        said = routine.ids[routine.states_after(asked)[:, -1]]
        for output, answer in zip(said.tolist(), wanted.tolist(), strict=True):
            if read.setdefault(output, answer) != answer:
                return False
    return True


@settings(max_examples=40, deadline=None)
@given(tables(), tables(), st.booleans())
def test_can_agrees_with_trying_every_map(task, routine, framed):
    routine = routine.with_skip()
    every = range(routine.symbols)
    ends = itertools.product(every, every) if framed else [None]
    known = any(
        does(task, routine, symbols, each)
        for each in ends
        for symbols in itertools.product(every, repeat=task.symbols)
    )
    found = relabelled(task, routine, framed)
    assert (found != "no") == known
    if known:
        words = np.array([*itertools.product(range(task.symbols), repeat=5)])
        wanted = task.ids[task.states_after(words)[:, -1]].tolist()
        ends = [[] if end is None else [end] for end in (found.before, found.after)]
        symbols = np.array(found.arguments)[words].tolist()
        asked = np.array([[*ends[0], *word, *ends[1]] for word in symbols])
        said = routine.ids[routine.states_after(asked)[:, -1]].tolist()
        assert [found.readout[output] for output in said] == wanted


def test_can_says_which_and_how_and_when_it_does_not_know(library):
    least = machine([[min(state, digit) for digit in range(4)] for state in range(4)])
    least = MooreTable(least.follows, least.outputs, initial=3)
    found = library.can(least)
    assert found["machine 0"] == "no" and found["machine 2"] == "no"
    assert found["machine 1"].arguments == (3, 2, 1, 0)
    assert found["machine 1"].readout == {0: 3, 1: 2, 2: 1, 3: 0}
    assert library.can(least, most=3)["machine 1"] == "not decided"
    parity = library.can(lsrl.programs.parity())
    assert set(parity.values()) == {"no"}


# ---------------------------------------------------------------- parts of the search


def test_machines_side_by_side_run_as_each_does_alone():
    rng = np.random.default_rng(6)
    alone = [
        MooreTable(rng.integers(0, n, (n, 3)).astype(np.int32), rng.integers(0, 4, (n, 1)) + 0.0, 1)
        for n in (2, 5, 3)
    ]
    machines = Machines(alone)
    words = rng.integers(0, 3, (7, 6))
    said = machines.run(machines.starts[:, None], np.moveaxis(np.tile(words, (3, 1, 1)), 2, 0))
    for row, table in zip(said, alone, strict=True):
        np.testing.assert_array_equal(row, table.run(words)[:, -1, 0])


def test_a_judge_weighs_the_best_readout():
    judge = Judge(outputs=2, answers=3)
    counts = judge.counts(np.array([[0, 0, 1, 1], [0, 0, 0, 0]]), np.array([2, 2, 0, 1]))
    np.testing.assert_array_equal(counts[0], [[0, 0, 2], [1, 1, 0]])
    assert judge.explained(counts).tolist() == [0.75, 0.5]
    assert judge.likelihood(counts)[0] > judge.likelihood(counts)[1]


# ---------------------------------------------------------------- what makes no sense


@pytest.mark.parametrize(
    ("pairs", "options", "says"),
    [
        ([], {}, "expected questions, got none"),
        (None, {}, "expected pairs of questions and answers"),
        ([([4, 1, 6], 0), [4, 1, 6]], {}, "expected pairs of a question"),
        ([([4, 1, 6], -1)], {}, "the answer of pair 0 must be an int from 0|>= 0"),
        ([([4, 1, 6], None)], {}, "the answer of pair 0"),
        ([([4, -1, 6], 0)], {}, "expected tokens from 0 to"),
        ([([4, 9, 6], 0)], {"vocabulary": 7}, "expected tokens from 0 to 6"),
        ([([], 0)], {}, "expected question 0 to be token ids"),
        ([([4, 0.5], 0)], {}, "expected question 0 to be token ids"),
        ([(list(range(17)), 0)], {}, "at most 16 tokens, got one of 17"),
        ([([4, 1, 6], 0)], {"longest": 0}, "longest must be an int >= 1"),
        ([([4, 1, 6], 0)], {"explains": 1.5}, "explains must be a share"),
        ([([4, 1, 6], 0)], {"tries": 0}, "tries must be"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(library, pairs, options, says):
    with pytest.raises(InputError, match=says):
        library.bind(pairs, **options)


def test_too_few_pairs_bind_nothing(library):
    with pytest.raises(Unbindable, match="no token names a task"):
        library.bind([([4, 1, 6], 0)] * 5)


def test_requests_that_make_no_sense_are_refused(library, calls):
    with pytest.raises(InputError, match="skip=True"):
        Library([machine(SUM)], skip=False).bind([([4, 1, 6], 0)])
    with pytest.raises(InputError, match="expected one of the tokens"):
        calls[6]
    with pytest.raises(InputError, match="expected tokens from 0 to 6"):
        calls.answers([[4, 7]])
    with pytest.raises(InputError, match="most must be"):
        library.can(machine(SUM), most=0)
    words = np.array([[4, 1, 6]])
    content = jax.nn.one_hot(calls.register(words), 2)
    right = calls.given(jnp.asarray(words), content)
    with pytest.raises(InputError, match="expected said to be 1 ints"):
        library.blame(calls, words, [0], [0, 1], *right)
    with pytest.raises(InputError, match="Calls"):
        library.blame(None, words, [0], [0], *right)
