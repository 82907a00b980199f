"""Loops: outputs as the next input, on the evaluator and on every target."""

import numpy as np
import pytest

import lsrl
from tests.machines import drawn, interpreted, prompt_of, subleq

TARGETS = (
    "linear_rnn", "gated_linear_rnn", "rnn", "rnn_tanh", "lstm", "gru", "mamba", "griffin",
)  # fmt: skip
KEYS, STEPS = b"\x05\x07\x02", 40


def check_machines(run, images, keys=KEYS, steps=STEPS):
    for number, image in enumerate(images):
        memory, count, text, end = interpreted(image, steps, keys)
        assert run.steps[number] == count
        assert (run.halted[number], run.waiting[number]) == (end == "halted", end == "waiting")
        assert run.text[number] == text
        assert run.memory[number].tolist() == memory


@pytest.fixture(scope="module")
def reference():
    images = drawn(24, seed=3)
    return images, subleq.loop(*prompt_of(images), steps=STEPS, stdin=KEYS)


def test_the_evaluator_does_what_plain_python_does(reference):
    images, run = reference
    check_machines(run, images)
    assert run.halted.any() and run.waiting.any() and not (run.halted | run.waiting).all()


@pytest.mark.parametrize("target", TARGETS)
def test_machines_on_every_target(target, reference):
    images, expected = reference
    model = lsrl.compile(subleq, target)
    run = model.loop(*prompt_of(images), steps=STEPS, stdin=KEYS)
    check_machines(run, images)
    np.testing.assert_array_equal(run.outputs, expected.outputs)
