"""The suite of tasks: answers are right, sizes are as said, and machines do what they stand for."""

import numpy as np
import pytest

from lsrl.errors import InputError
from lsrl.nn import Task, standard_tasks

pytestmark = pytest.mark.one_in(3)

TASKS = standard_tasks()


def words_of(task, text):
    return [task.tokens.index(word) for word in text.split(", " if "," in text else " ")]


@pytest.mark.parametrize(
    ("name", "text", "answers"),
    [
        ("parity", "3 4 6 ?", [1]),
        ("sum mod 5", "7 7 0 2 ?", [1]),
        ("maximum", "2 5 3 ?", [5]),
        ("words of S3", "1 1 1 1 1 1 ?", [0]),  # whether of two things or of three
        ("words of S3", "0 0 0 0 0 0 ?", [0]),
        ("saturating count", "7 7 7 7 7 7 0 ?", [3]),
        ("addition", "7 5 ? 9 0 ? 0 0 ?", [2, 0, 1]),  # 97 + 5
        ("multiplication", "3 4 ? 2 ? 0 ?", [2, 3, 1]),  # 3 times 24 in base 5 is 132
        ("stack", "push 1, push 2, pop, ?", [1]),
        ("stack", "push 0, pop, ?", [3]),
        ("reachability", "0-1 2-3 1-4 0…4?", [1]),
        ("reachability", "0-1 2-3 1-4 0…3?", [0]),
        ("sorting", "5 1 7 1 ? ? ? ?", [1, 1, 5, 7]),
        ("told in words", "please give largest digit 4 6 1 ?", [6]),
        ("told in words", "find total now hands 4 6 1 ?", [1]),
        ("Fibonacci", "1 1 0 1 2 ?", [1]),  # ten terms on, 89
        ("repeated squaring", "2 0 0 3 ?", [20]),  # 256 mod 59
        ("gcd", "3 0 2 2 ?", [6]),  # 24 and 18
        ("insertion sort", "3 0 2 ? ? ?", [0, 2, 3]),
    ],
)
def test_answers_by_hand(name, text, answers):
    words = words_of(TASKS[name], text)
    found = TASKS[name].answer(words)
    assert [each for each in found if each >= 0] == answers
    assert len(found) == len(words)


@pytest.mark.parametrize("name", TASKS)
def test_sizes_are_as_said_and_seeds_are_the_same_questions(name):
    task = TASKS[name]
    learnt = task.draw(np.random.default_rng(0), 60)
    again = task.draw(np.random.default_rng(0), 60)
    for one, two in zip(learnt, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert learnt.words.max() < task.vocabulary and learnt.wanted.max() < task.answers
    assert ((learnt.wanted >= 0).sum(1) > 0).all()
    large = task.draw(np.random.default_rng(1), 3, task.tested[-1])
    if task.axis == "length":
        assert learnt.lengths.max() <= max(task.trained, 8)
        assert (large.lengths > task.tested[-1] - 4).all()
        assert (large.lengths <= task.tested[-1]).all()
    assert large.right(np.where(large.wanted < 0, 0, large.wanted)).all()
    assert not large.right(large.wanted + 1).any()


@pytest.mark.parametrize("name", [name for name in TASKS if TASKS[name].machine])
def test_its_machine_does_the_task_at_any_length(name):
    task = TASKS[name]
    table = task.machine.with_skip()
    assert table.states <= 64
    symbols = np.array([table.symbols - 1 if each < 0 else each for each in task.symbols])
    for size in (None, 40, 200):
        batch = task.draw(np.random.default_rng(2), 20, size)
        assert batch.right(table.run(symbols[batch.words])[..., 0]).all()


def test_tasks_together_are_told_apart_by_their_names():
    chosen = {name: TASKS[name] for name in ("addition", "stack", "told in words")}
    mixed = Task.mixed(chosen)
    batch = mixed.draw(np.random.default_rng(0), 60)
    start = 3
    for number, task in enumerate(chosen.values()):
        for row in np.flatnonzero(batch.words[:, 0] == number):
            text = batch.words[row, 1 : batch.lengths[row]] - start
            assert task.answer(text) == batch.wanted[row, 1 : batch.lengths[row]].tolist()
        start += task.vocabulary
    assert mixed.tokens[:3] == tuple(chosen) and set(batch.words[:, 0]) == {0, 1, 2}
    digits = {token: symbol for token, symbol in mixed.arguments.items() if token < 3 + 11}
    assert digits == {3 + digit: digit for digit in range(10)}


def test_phrases_of_tests_are_not_those_of_training():
    task, seen = TASKS["told in words"], {False: set(), True: set()}
    for test, size in ((False, None), (True, 12)):
        for words in task.draw(np.random.default_rng(3), 300, size).words:
            said = [task.tokens[word] for word in words if word > 8]
            seen[test].add(
                tuple(w for w in said if w not in ("please", "now", "then", "of", "all"))
            )
    assert len(seen[True]) > 5 and not seen[True] & seen[False]


def test_constants_and_what_makes_no_sense():
    assert TASKS["parity"].constant(16, 400) < 0.58
    assert TASKS["sorting"].constant(64, 200) == 0
    assert TASKS["gcd"].constant(62, 50) == 1  # the deepest pairs have no other divisor
    lengths = [task for task in TASKS.values() if task.axis == "length"]
    assert np.mean([task.constant(64, 60) for task in lengths]) < 0.35
    with pytest.raises(InputError, match="parity: questions"):
        TASKS["parity"].draw(np.random.default_rng(0), 0)
    with pytest.raises(InputError, match="parity: size"):
        TASKS["parity"].draw(np.random.default_rng(0), 5, 0)
    with pytest.raises(InputError, match="expected tasks of one axis"):
        Task.mixed({name: TASKS[name] for name in ("parity", "gcd")})
    assert repr(TASKS["stack"]).startswith("Task(stack: what lies on top")
    assert TASKS["stack"].text([0, 3, 4]) == "push 0 pop ?"
