"""Misuses of the Python API: each has an answer of ours that says what to do, or the right one.

A row is a misuse, the error that it gets, and what its message says: where the fault lies, what
was expected, what came, and the cure. Those of a program name the user's line.
"""

import copy
import multiprocessing
import pickle  # noqa: TID251  models may be sent to other processes
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsrl
from lsrl import Token, Vector, interpret
from lsrl.errors import (
    InputError,
    PrecisionError,
    ProgramError,
    PromiseError,
    ShapeError,
    UnknownTargetError,
)
from lsrl.interpret import variants
from lsrl.state import State
from tests.misuse import (
    BITS,
    IDS,
    INTS,
    KNOWN,
    NAN,
    ONE,
    OTHER,
    PATH,
    REAL,
    STATE,
    check_message,
    exporting,
    lambda_of,
    later,
    majority,
    model,
    pair,
    state,
    tensor,
)

RUNNING = {
    "a token out of range": (lambda: majority.run(7), [ONE, "got 7, of shape ()", "write [7]"]),
    "of a model": (lambda: model().run(7), [ONE, "got 7, of shape ()", "write [7]"]),
    "a numpy scalar": (lambda: model().run(np.int64(-1)), [ONE, "got -1", "write [-1]"]),
    "a vector": (lambda: pair.run([9, 9], [0]), ["'x'", ONE, "got [9.0, 9.0]", "write [[9.0"]),
    "a number for a vector": (
        lambda: pair.run(9, [0]),
        ["'x'", "width 2", "got shape ()", "(time, 2)"],
    ),
    "nothing": (lambda: model().run(None), [INTS, "dtype object (NoneType)", IDS]),
    "text": (lambda: model().run("01"), [INTS, "dtype <U2", IDS]),
    "bytes": (lambda: model().run(b"01"), [INTS, "dtype |S2", IDS]),
    "letters": (lambda: model().run(["a"]), [INTS, "dtype <U1", IDS]),
    "a set": (lambda: model().run({0, 1}), [INTS, "dtype object (set)", IDS]),
    "a generator": (lambda: model().run(i for i in [0]), [INTS, "(generator)", IDS]),
    "objects": (lambda: model().run(np.array([0, None])), [INTS, "object (NoneType, int)", IDS]),
    "dates": (lambda: model().run(np.array(["2020"], "M8[D]")), [INTS, "datetime64[D]", IDS]),
    "masked": (
        lambda: model().run(np.ma.array([0, 1], mask=[0, 1])),
        ["'bit'", "masked", "x.filled"],
    ),
    "ragged": (
        lambda: majority.run([[0], [0, 1]]),
        ["'bit'", "rectangular", "different lengths", "pad"],
    ),
    "four axes": (lambda: majority.run([[[[0]]]]), ["'bit'", ONE, "shape (1, 1, 1, 1)", "axes"]),
    "an empty batch": (
        lambda: majority.run(np.zeros((0, 3), int)),
        ["an empty batch", "at least one sequence", "(0, 3)"],
    ),
    "an empty batch of vectors": (
        lambda: pair.run(np.zeros((0, 3, 2)), [0]),
        ["'x'", "an empty batch", "(0, 3, 2)"],
    ),
    "an empty sequence": (
        lambda: pair.run(np.zeros((3, 0, 2)), [0]),
        ["'x'", "empty sequence", "at least one token", "(3, 0, 2)"],
    ),
    "objects for vectors": (
        lambda: pair.run([[Fraction(1, 2), 0]], [0]),
        [REAL, "(Fraction, int)", "np.asarray(x, float)"],
    ),
    "complex numbers": (lambda: pair.run([[1j, 0]], [0]), [REAL, "complex128", "pass floats"]),
    "not a number": (
        lambda: pair.run([[0, 0], [NAN, 0]], [0, 0]),
        ["'x'", "finite", "got nan", "token 1, entry 0"],
    ),
    "one input too few": (
        lambda: pair.run([[0, 0]]),
        ["expected 2 input(s) (x, t)", "got 1", "in this order"],
    ),
    "one input too many": (
        lambda: majority.run([0], [1]),
        ["expected 1 input(s) (bit)", "got 2", "in this order"],
    ),
    "batched and not": (
        lambda: pair.run([[[0, 0]]], [0]),
        ["share their batch", "'x': (1, 1)", "t came without a batch axis"],
    ),
    "keyword": (
        lambda: majority.run(bit=[0]),
        ["run: inputs go by order", "'bit'", "write run(bit)"],
    ),
    "keyword of a model": (
        lambda: model().run(bit=[0]),
        ["run: inputs go by order", "write run(bit)"],
    ),
    "keyword of a step": (
        lambda: model().step(state(), bit=0),
        ["step: inputs go by order", "write step(bit)"],
    ),
    "keyword of a trace": (
        lambda: majority.trace(bit=[0]),
        ["trace: inputs go by order", "write trace(bit)"],
    ),
    "misspelt option": (
        lambda: model().run([0], chek=True),
        ["no option 'chek'", "did you mean 'check'?"],
    ),
    "exact='yes'": (
        lambda: majority.run([0], exact="yes"),
        ["exact must be True or False", "got 'yes'"],
    ),
    "check='no'": (
        lambda: model().run([0], check="no"),
        ["check must be True or False", "got 'no'"],
    ),
    "chunk=2.0": (lambda: model().run([0], chunk=2.0), ["chunk must be an int >= 1", "got 2.0"]),
    "mesh=8": (
        lambda: model().run([0], mesh=8),
        ["mesh must be a jax.sharding.Mesh", "got int", "jax.make_mesh"],
    ),
    "a tensor with gradients": (
        lambda: model(pair).run(tensor(requires_grad=True), [0]),
        ["'x'", KNOWN, "Tensor", "detach()"],
    ),
    "a tensor without numbers": (
        lambda: model(pair).run(tensor(device="meta"), [0]),
        ["'x'", KNOWN, "Tensor", "pass"],
    ),
    "a traced array": (
        lambda: jax.jit(lambda x: model(pair).run(x, [0]))(jnp.zeros((1, 2))),
        [KNOWN, "Tracer", "outside jax.jit"],
    ),
    "a signal": (
        lambda: lsrl.program(lambda_of(lambda x: model().run(x), Token(2))),
        [INTS, "(Signal)"],
    ),
    "step(None, 1)": (
        lambda: model().step(None, 1),
        ["step: " + STATE, "NoneType", "model.init_state()"],
    ),
    "swapped": (lambda: model().step(1, state()), ["step: " + STATE, "got int"]),
    "hidden alone": (lambda: model().step(state().hidden, 1), ["step: " + STATE, "got tuple"]),
    "a state of another model": (lambda: model().step(exporting().init_state(), 1), OTHER),
    "a state of another dtype": (
        lambda: model().step(model(dtype="float64").init_state(), 1),
        OTHER,
    ),
    "a state of another batch": (
        lambda: model().step(State(0, state(2).hidden, 3), [0, 0, 0]),
        OTHER,
    ),
    "a run's state of another": (lambda: model().run([0], state=exporting().init_state()), OTHER),
    "a run's state of a batch": (
        lambda: model().run([0], state=state(2)),
        ["a batch of 2", "one sequence", "init_state(batch=...)"],
    ),
    "a state of no position": (
        lambda: model().step(State("3", state().hidden, None), 1),
        ["position must be an int >= 0", "'3'"],
    ),
    "a state from before": (
        lambda: model().step(State(-3, state().hidden, None), 1),
        ["position must be an int >= 0", "-3"],
    ),
    "a state and check": (
        lambda: model().run([0], state=state(), check=True),
        ["check=True", "leave out check"],
    ),
    "step of a sequence": (
        lambda: model(pair).step(model(pair).init_state(), [[0, 0]], 1),
        ["one token", "[(1, 2), ()]"],
    ),
    "ragged step": (
        lambda: model().step(state(2), [[0], [0, 1]]),
        ["step: input 'bit'", "rectangular"],
    ),
    "init_state(True)": (
        lambda: model().init_state(True),
        ["batch must be an int >= 1", "got True"],
    ),
    "init_state('2')": (lambda: model().init_state("2"), ["batch must be an int >= 1", "got '2'"]),
    "a prompt that is a number": (lambda: model(later).generate(1, 3), ["'t'", ONE, "write [1]"]),
    "a prompt that is text": (lambda: model(later).generate("012", 3), ["'t': expected ints", IDS]),
    "half a step": (
        lambda: model(later).generate([0], 2.5),
        ["steps must be an int >= 1", "got 2.5"],
    ),
    "no steps": (
        lambda: model(later).generate([0], None),
        ["steps must be an int >= 1", "got None"],
    ),
    "steps without end": (
        lambda: model(later).generate([0], 10**30),
        ["steps must be an int from 1", "2147483647"],
    ),
    "generate's state": (
        lambda: model(later).generate([0], 3, state=3),
        ["generate: " + STATE, "got int"],
    ),
    "generate of vectors": (
        lambda: model(pair).generate([0], 3),
        ["one Token input", "-> lsrl.Token(n)"],
    ),
    "a self-test of nothing": (
        lambda: model().self_test(sequences=0),
        ["sequences must be an int >= 1"],
    ),
    "a self-test of no token": (
        lambda: model().self_test(length=0),
        ["length must be an int >= 1"],
    ),
    "a self-test's seed": (
        lambda: model().self_test(seed="a"),
        ["seed must be an int >= 0", "'a'"],
    ),
    "a self-test's sampler": (
        lambda: model().self_test(sampler=3),
        ["sampler must be a function of", "got 3"],
    ),
    "a sampler of nothing": (
        lambda: model().self_test(sampler=lambda *_: None),
        ["a list of arrays", "(bit)", "got None"],
    ),
}


@pytest.mark.parametrize(("misuse", "fragments"), RUNNING.values(), ids=RUNNING)
def test_running(misuse, fragments):
    with pytest.raises(InputError) as error:
        misuse()
    check_message(error, fragments)


FILES = {
    "save(None)": (lambda: model().save(None), ["save: " + PATH, "NoneType"]),
    "save(3)": (lambda: model().save(3), ["save: " + PATH, "got int"]),
    "save('')": (lambda: model().save(""), ["save: expected a path that names", "got ''"]),
    "save with a null": (lambda: model().save("a\0b"), ["a path that names", "'a\\x00b'"]),
    "load(None)": (lambda: lsrl.load(None), ["load: " + PATH, "NoneType"]),
    "load of a model": (lambda: lsrl.load(model()), ["load: " + PATH, "got Model"]),
    "load(b'abc')": (lambda: lsrl.load(b"abc"), ["load: " + PATH, "got bytes"]),
    "load like text": (
        lambda: lsrl.load("x", like="y"),
        ["like expects a Model", "lsrl.load", "got str"],
    ),
    "save_state(None)": (lambda: model().save_state(None, "x"), ["save_state: " + STATE]),
    "save_state swapped": (
        lambda: model().save_state("x", state()),
        ["save_state: " + STATE, "got str"],
    ),
    "save_state nowhere": (lambda: model().save_state(state(), None), ["save_state: " + PATH]),
    "load_state(3)": (lambda: model().load_state(3), ["load_state: " + PATH, "got int"]),
    "export nowhere": (lambda: exporting().export("torch", None), ["export: " + PATH]),
    "export to ''": (
        lambda: exporting().export("torch", ""),
        ["export: expected a path that names"],
    ),
    "export('pytorch')": (
        lambda: exporting().export("pytorch", "x"),
        ["no format 'pytorch'", "did you mean 'torch'?"],
    ),
    "export of several": (
        lambda: exporting().export(["torch"], "x"),
        ["no format ['torch']", "did you mean 'torch'?"],
    ),
    "export swapped": (
        lambda: exporting().export("x", "torch"),
        ["no format 'x'", "'torch'", "model.save"],
    ),
    "view into nothing": (lambda: interpret.view(model(), [0], path=""), ["view: ", "a path"]),
    "view of a program": (
        lambda: interpret.view(majority, [0], path="x"),
        ["view expects a Model", "lsrl.compile", "got Program"],
    ),
}


@pytest.mark.parametrize(("misuse", "fragments"), FILES.values(), ids=FILES)
def test_files(misuse, fragments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        misuse()
    check_message(error, fragments)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_torch_without_a_path():
    pytest.importorskip("torch")
    with pytest.raises(InputError, match=r"load_torch: expected a path, a str or os.PathLike"):
        lsrl.load_torch(None)


@pytest.mark.parametrize("target", [target.name for target in lsrl.targets()])
def test_models_go_to_other_processes(target):
    """As Python's protocol takes them, by what a file of them would hold."""
    compiled, tokens = model(later, target), [0, 2, 1]
    for made in (pickle.loads(pickle.dumps(compiled)), copy.deepcopy(compiled)):
        np.testing.assert_array_equal(made.run(tokens), compiled.run(tokens))
        assert made.certificate == compiled.certificate
        assert made.options == compiled.options
        assert made.labels == compiled.labels


def test_an_altered_model_goes_to_other_processes():
    altered = variants.permuted(model(later, "lstm"))
    made = pickle.loads(pickle.dumps(altered))
    np.testing.assert_array_equal(made.run([0, 2, 1]), altered.run([0, 2, 1]))
    assert made.card == altered.card
    assert made.circuit.to_json() == altered.circuit.to_json()


def test_what_else_goes_to_other_processes():
    explained = lsrl.explain(later, "lstm")
    things = (
        model().certificate,
        explained,
        Token(3),
        Vector(2, low=0, high=(1, 2), step=1),
        lsrl.targets()[0],
    )
    for thing in things:
        assert pickle.loads(pickle.dumps(thing)) == thing
    program, circuit, state = pickle.loads(pickle.dumps((majority, model().circuit, state_of())))
    np.testing.assert_array_equal(program.run(BITS), majority.run(BITS))
    assert circuit.to_json() == model().circuit.to_json()
    np.testing.assert_array_equal(model().step(state, 1)[0], model().step(state_of(), 1)[0])
    error = pickle.loads(pickle.dumps(PromiseError("broken", "prompt", 1, 2)))
    assert (str(error), error.keeper, error.sequence, error.token) == ("broken", "prompt", 1, 2)


def state_of():
    return model().step(state(), 1)[1]


@pytest.mark.nightly
def test_a_spawned_process_runs_a_model():
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.apply(exporting().run, ([0, 2, 1],))
    np.testing.assert_array_equal(found, exporting().run([0, 2, 1]))


TARGET = ["expected one of linear_rnn", "griffin"]
FLAG = "must be True or False"


def levels():
    return model(later).schedule.levels


COMPILING = {
    "no target": (lambda: lsrl.compile(later, None), UnknownTargetError, ["target None", *TARGET]),
    "capitals": (
        lambda: lsrl.compile(later, "LSTM"),
        UnknownTargetError,
        ["'LSTM'", "did you mean 'lstm'?"],
    ),
    "a list of targets": (
        lambda: lsrl.compile(later, ["lstm"]),
        UnknownTargetError,
        ["['lstm']", "did you mean 'lstm'?"],
    ),
    "swapped": (
        lambda: lsrl.compile("lstm", later),
        ProgramError,
        ["expects a Program", "@lsrl.program", "got str"],
    ),
    "a model": (
        lambda: lsrl.compile(model(), "lstm"),
        ProgramError,
        ["expects a Program", "got Model"],
    ),
    "robust='maybe'": (
        lambda: lsrl.compile(later, "lstm", robust="maybe"),
        ProgramError,
        ["robust " + FLAG, "got 'maybe'"],
    ),
    "inspectable=2": (
        lambda: lsrl.compile(later, "lstm", inspectable=2),
        ProgramError,
        ["inspectable " + FLAG, "got 2"],
    ),
    "verbatim=None": (
        lambda: lsrl.compile(later, "rnn", verbatim=None),
        ProgramError,
        ["verbatim " + FLAG, "got None"],
    ),
    "cache='no'": (
        lambda: lsrl.compile(later, "lstm", cache="no"),
        ProgramError,
        ["cache " + FLAG, "got 'no'"],
    ),
    "watch=3": (
        lambda: lsrl.compile(later, "lstm", watch=3),
        ProgramError,
        ["watch must be a function", "got 3"],
    ),
    "levels=3": (
        lambda: lsrl.compile(later, "lstm", levels=3),
        ProgramError,
        ["levels", "model.schedule.levels", "got 3"],
    ),
    "levels of another": (
        lambda: lsrl.compile(later, "linear_rnn", levels={99: (0, 99)}),
        ProgramError,
        ["levels: expected one for each of", "99", "or leave them out"],
    ),
    "levels that are none": (
        lambda: lsrl.compile(later, "linear_rnn", levels=dict.fromkeys(levels(), 1)),
        ProgramError,
        ["levels: expected those of an equal program", "or leave them out"],
    ),
    "most_parameters='all'": (
        lambda: lsrl.compile(later, "lstm", most_parameters="all"),
        ProgramError,
        ["most_parameters must be an int >= 1", "got 'all'"],
    ),
    "legalise='unrol'": (
        lambda: lsrl.compile(later, "rnn", legalise="unrol"),
        ProgramError,
        ["'native' or 'unroll'", "did you mean 'unroll'?"],
    ),
    "dtype=None": (
        lambda: lsrl.compile(later, "lstm", dtype=None),
        PrecisionError,
        ["'None'", "expected one of float32"],
    ),
    "a misspelt dtype": (
        lambda: lsrl.compile(later, "lstm", dtype="flaot32"),
        PrecisionError,
        ["'flaot32'", "did you mean 'float32'?"],
    ),
    "dtype=32": (
        lambda: lsrl.compile(later, "lstm", dtype=32),
        PrecisionError,
        ["'32'", "expected one of float32"],
    ),
    "a misspelt activation": (
        lambda: lsrl.compile(later, "rnn", activation="tahn"),
        UnknownTargetError,
        ["'tahn'", "'relu' or 'tanh'"],
    ),
    "explain a function": (
        lambda: lsrl.explain(lambda_of, "lstm"),
        ProgramError,
        ["expects a Program", "got function"],
    ),
    "explain no target": (
        lambda: lsrl.explain(later, None),
        UnknownTargetError,
        ["target None", *TARGET],
    ),
    "parameters in a list": (
        lambda: exporting().module.replace_parameters([1]),
        ShapeError,
        ["{name: array}", "got [1]"],
    ),
    "a misspelt parameter": (
        lambda: exporting().module.replace_parameters({"output_bais": 1}),
        ShapeError,
        ["'output_bais'", "did you mean 'output_bias'?"],
    ),
}


@pytest.mark.parametrize(("misuse", "kind", "fragments"), COMPILING.values(), ids=COMPILING)
def test_compiling(misuse, kind, fragments):
    with pytest.raises(kind) as error:
        misuse()
    check_message(error, fragments)


def test_compile_takes_what_targets_gives():
    for target in lsrl.targets():
        compiled = lsrl.compile(later, target)
        assert compiled.target == target.name
        assert lsrl.explain(later, target) == lsrl.explain(later, target.name)
