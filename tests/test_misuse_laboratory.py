"""Misuses of the laboratory, the suite and the noise: errors that say what to pass."""
# Arguments are wrong on purpose.
# mypy: disable-error-code="call-overload,dict-item,list-item,operator"

import pytest

import lsrl
from lsrl import interpret
from lsrl.cost import cost
from lsrl.errors import (
    InputError,
    ProgramError,
)
from lsrl.interpret import causal, variants
from lsrl.interpret.faithfulness import faithfulness
from lsrl.interpret.methods import evaluate_methods
from lsrl.interpret.score import NodeClaim, score
from lsrl.interpret.variants.train import Recipe, trained
from lsrl.noise.copies import run_copies
from lsrl.noise.perturbations import WeightNoise
from lsrl.noise.ranges import weight_ranges
from lsrl.stability.sweep import Plan, sweep
from lsrl.suite import held_back
from lsrl.suite import training as suite_training
from lsrl.suite.build import build
from lsrl.suite.datasets import read_dataset
from lsrl.suite.manifest import read_manifest
from lsrl.suite.programs import programs as suite_programs
from lsrl.suite.verify import verify
from tests.misuse import BITS, MADE, ONE, PATH, check_message, later, majority, model


def inspected():
    return model(inspectable=True)


def named():
    return next(s.name for s in inspected().circuit.signals if s.owned and s.width == 1)


LABORATORY = {
    "capture of a program": (
        lambda: interpret.capture(majority, BITS),
        ["capture expects a Model", MADE, "got Program"],
    ),
    "capture of a token": (lambda: interpret.capture(model(), 7), [ONE, "write [7]"]),
    "capture elsewhere": (
        lambda: interpret.capture(model(), BITS, on="net"),
        ["on must be 'network' or 'evaluator'", "did you mean 'network'?"],
    ),
    "patch of a program": (
        lambda: interpret.patch(majority, [BITS], {}),
        ["patch expects a Model", MADE],
    ),
    "patch without a list": (
        lambda: interpret.patch(inspected(), BITS, {}),
        ["expected 1 input(s) (bit)", "got 3", "in this order"],
    ),
    "patch of nothing": (
        lambda: interpret.patch(inspected(), None, {}),
        ["a list of arrays", "(bit)", "got None"],
    ),
    "patch of names": (
        lambda: interpret.patch(inspected(), [BITS], ["x"]),
        ["{name: value}", "got ['x']"],
    ),
    "patch of a number": (
        lambda: interpret.patch(inspected(), [BITS], {3: 1}),
        ["goes by its name", "got 3"],
    ),
    "patch with text": (
        lambda: interpret.patch(inspected(), [BITS], {named(): "a"}),
        ["takes real numbers", "<U1", "floats"],
    ),
    "patch with i": (
        lambda: interpret.patch(inspected(), [BITS], {named(): 1j}),
        ["takes real numbers", "complex128"],
    ),
    "patch with nothing": (
        lambda: interpret.patch(inspected(), [BITS], {named(): None}),
        ["takes real numbers", "NoneType"],
    ),
    "patch with a shape": (
        lambda: interpret.patch(inspected(), [BITS], {named(): [1, 2]}),
        ["takes values of shape", "got (2,)"],
    ),
    "patch with ragged": (
        lambda: interpret.patch(inspected(), [BITS], {named(): [[1], [1, 2]]}),
        ["rectangular"],
    ),
    "patch of later tokens": (
        lambda: interpret.patch(inspected(), [BITS], {named(): 1}, 9),
        ["[9] reaches past the end", "3 tokens"],
    ),
    "patch of half a token": (
        lambda: interpret.patch(inspected(), [BITS], {named(): 1}, 1.5),
        ["tokens: expected None, an int", "got 1.5"],
    ),
    "patch of a short mask": (
        lambda: interpret.patch(inspected(), [BITS], {named(): 1}, [True]),
        ["a mask has the shape (3,)", "got (1,)"],
    ),
    "patch of a fast model": (
        lambda: interpret.patch(model(), [BITS], {named(): 1}),
        ["inspectable=True"],
    ),
    "ablate somehow": (
        lambda: interpret.ablate(inspected(), [BITS], named(), "zeros"),
        ["'zero', 'mean' or 'resample'", "did you mean 'zero'?"],
    ),
    "ablate nothing": (
        lambda: interpret.ablate(inspected(), [BITS], None),
        ["a name or a list of names", "got None"],
    ),
    "ablate a number": (
        lambda: interpret.ablate(inspected(), [BITS], [3]),
        ["a name or a list of names", "got [3]"],
    ),
    "ablate by a seed": (
        lambda: interpret.ablate(inspected(), [BITS], named(), seed="a"),
        ["seed must be an int >= 0", "'a'"],
    ),
    "ablate one": (
        lambda: interpret.ablate(inspected(), [BITS], named(), "resample"),
        ["other sequences", "a batch of two"],
    ),
    "interchange of nothing": (
        lambda: interpret.interchange(inspected(), [BITS], None, named()),
        ["a list of arrays", "got None"],
    ),
    "interchange of lengths": (
        lambda: interpret.interchange(inspected(), [BITS], [[0]], named()),
        ["shapes", "sequences of one length"],
    ),
    "a signal by number": (
        lambda: model().circuit.signal(3),
        ["goes by its name", "got 3", "there are"],
    ),
    "causal test of a program": (
        lambda: causal.causal_test(majority, None),
        ["causal_test expects a Model", MADE],
    ),
    "causal test of no pairs": (
        lambda: causal.causal_test(inspected(), print, pairs=0),
        ["pairs must be an int >= 1"],
    ),
    "causal test's sampler": (
        lambda: causal.causal_test(inspected(), 3),
        ["sampler must be a function", "got 3"],
    ),
    "causal test on nothing": (
        lambda: causal.causal_test(inspected(), lambda *_: None),
        ["a list of arrays", "got None"],
    ),
    "score of nothing": (
        lambda: score(model().circuit, None),
        ["NodeClaim(...) or EdgeClaim(...)", "NoneType"],
    ),
    "score of a model": (
        lambda: score(model(), NodeClaim("signals")),
        ["expects a Circuit", "model.circuit", "got Model"],
    ),
    "faithfulness of nothing": (
        lambda: faithfulness(inspected(), None, [[BITS, BITS]], threshold=1),
        ["NodeClaim(...) or EdgeClaim(...)"],
    ),
    "no such method": (
        lambda: evaluate_methods([], ["weigths"]),
        ["'weights'", "got 'weigths'", "did you mean"],
    ),
    "methods on models": (lambda: evaluate_methods([model()]), ["a list of Case(...)", "Model"]),
    "permuted program": (lambda: variants.permuted(majority), ["permuted expects a Model", MADE]),
    "permuted by a seed": (
        lambda: variants.permuted(model(), "a"),
        ["seed must be an int >= 0", "'a'"],
    ),
    "rotated somehow": (
        lambda: variants.rotated(model(later, "mamba"), basis="x"),
        ["'hadamard' or 'random'", "got 'x'"],
    ),
    "soft at 0": (
        lambda: variants.soft(model(), temperature=0),
        ["temperature must be a finite number > 0", "got 0"],
    ),
    "noised by text": (
        lambda: variants.noised(model(), 0, "a"),
        ["sigma must be a finite number >= 0", "'a'"],
    ),
    "merged with a number": (
        lambda: variants.merged(model(), 0, [3]),
        ["others expects a Program", "got int"],
    ),
    "merged without a list": (
        lambda: variants.merged(model(), 0, later),
        ["a list of programs", "got Program"],
    ),
    "joined models": (lambda: variants.join([model()]), ["join expects a Program", "got Model"]),
    "padded by text": (
        lambda: variants.padded(model(), 0, "2"),
        ["distractors must be an int >= 1", "'2'"],
    ),
    "trained program": (lambda: trained(majority), ["trained expects a Model", MADE]),
    "a recipe of no rate": (lambda: Recipe(rate="a"), ["rate must be a finite number >= 0", "'a'"]),
    "cost of a program": (lambda: cost(majority, "step"), ["cost expects a Model", MADE]),
    "cost somehow": (
        lambda: cost(model(), "steps"),
        ["'whole', 'scan' or 'step'", "did you mean 'step'?"],
    ),
    "cost of half a batch": (
        lambda: cost(model(), "step", batch=0.5),
        ["batch must be an int >= 1", "0.5"],
    ),
    "copies of a program": (
        lambda: run_copies(majority, [[BITS]], WeightNoise("x"), [0.1], [0]),
        ["run_copies expects a Model"],
    ),
    "copies of no noise": (
        lambda: run_copies(model(), [[BITS]], "x", [0.1], [0]),
        ["a Perturbation, such as WeightNoise", "'x'"],
    ),
    "copies of one level": (
        lambda: run_copies(model(), [[BITS]], WeightNoise("x"), 0.1, [0]),
        ["levels must be a list", "0.1"],
    ),
    "copies of a seed": (
        lambda: run_copies(model(), [[BITS]], WeightNoise("x"), [0.1], ["a"]),
        ["a seed must be an int >= 0", "'a'"],
    ),
    "copies out of range": (
        lambda: run_copies(model(), [[[9]]], WeightNoise("x"), [0.1], [0]),
        ["'bit'", "got 9", "token 0"],
    ),
    "ranges of a program": (
        lambda: weight_ranges(majority),
        ["weight_ranges expects a Model", MADE],
    ),
    "noise of one level": (
        lambda: WeightNoise("x", levels=0.1),
        ["levels >= 0, at least one", "got 0.1"],
    ),
    "a plan of names": (
        lambda: Plan(programs=("majority",)),
        ["programs must be a tuple", "workloads", "'majority'"],
    ),
    "a plan of text": (lambda: Plan(batch="a"), ["batch must be an int", "'a'"]),
    "a sweep of nothing": (lambda: sweep(None, "x"), ["sweep expects a Plan", "NoneType"]),
    "a suite nowhere": (lambda: build(None), ["build: " + PATH, "NoneType"]),
    "a suite of a number": (
        lambda: build("x", targets=[3]),
        ["a name or a list of names", "got [3]"],
    ),
    "a suite of no workers": (
        lambda: build("x", workers="2"),
        ["workers must be an int >= 1", "'2'"],
    ),
    "a suite of half a program": (
        lambda: build("x", programs=[], held_back_programs=0.5),
        ["a seed and a count of at least 0", "0.5"],
    ),
    "a manifest nowhere": (lambda: read_manifest(None), ["read_manifest: " + PATH, "NoneType"]),
    "a dataset of a number": (lambda: read_dataset(3), ["read_dataset: " + PATH, "got int"]),
    "verify nowhere": (lambda: verify(None), ["verify: " + PATH, "NoneType"]),
    "verify by half a worker": (
        lambda: verify("x", workers=0.5),
        ["workers must be an int >= 1", "0.5"],
    ),
    "no such program": (
        lambda: suite_programs("majrity"),
        ["got 'majrity'", "did you mean 'majority'?"],
    ),
    "training of no seeds": (
        lambda: suite_training.train("x", seeds=0),
        ["seeds must be an int >= 1", "got 0"],
    ),
    "held back by text": (
        lambda: held_back.held_back("a", 1),
        ["a seed and a count of at least 0", "'a'"],
    ),
}


@pytest.mark.parametrize(("misuse", "fragments"), LABORATORY.values(), ids=LABORATORY)
def test_laboratory(misuse, fragments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        misuse()
    check_message(error, fragments)


RANDOM = {
    "ops": (lambda: lsrl.random_program(1, ops=3), ["ops must be a name", "got 3"]),
    "inputs": (
        lambda: lsrl.random_program(1, inputs=[3]),
        ["a list of Token(n) and Vector", "[3]"],
    ),
    "starting": (
        lambda: lsrl.random_program(1, starting="a"),
        ["starting must be a finite number", "'a'"],
    ),
    "depth": (lambda: lsrl.random_program(1, depth=True), ["depth must be an int >= 1", "True"]),
}


@pytest.mark.parametrize(("misuse", "fragments"), RANDOM.values(), ids=RANDOM)
def test_random_programs(misuse, fragments):
    with pytest.raises(ProgramError) as error:
        misuse()
    check_message(error, fragments)
