"""Bad input: named errors that say what, where, what was expected, what came, how to mend it."""

import inspect
import json
import os
import re
import sys
from typing import Annotated, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import lsrl
from lsrl import Signal, Token, Vector, storage
from lsrl.backends.residual.vocabulary import Vocabulary, tokenizer_files
from lsrl.errors import (
    BoundsError,
    FormatError,
    InputError,
    LsrlError,
    PrecisionError,
    ProgramError,
    RampError,
    ShapeError,
    UnknownTargetError,
    UnsupportedOpError,
)
from lsrl.interpret.score import NodeClaim, score

HERE = "test_bad_input.py:"
WORDS = Vocabulary(("a", "b"), ("a", "b"), 2, 2, ("[UNK]", "[PAD]"))


def program_of(body, *kinds, **options):
    """The program of a function whose parameters have these types."""
    body.__annotations__ = dict(zip(inspect.signature(body).parameters, kinds, strict=True))
    return lsrl.program(**options)(body)


MAJORITY = lsrl.programs.majority(max_length=10)
PAIR = program_of(
    lambda x, t: lsrl.concat(2 * x, t), Vector(2, low=-1, high=(1, 2), step=0.5), Token(3)
)
GENERAL_PRODUCT = program_of(lambda x: x[0] * x[1], Vector(2, low=0, high=9, step=1))


@pytest.fixture(scope="module")
def majority():
    return lsrl.compile(MAJORITY, "linear_rnn")


@pytest.fixture(scope="module")
def pair():
    return lsrl.compile(PAIR, "linear_rnn")


# Inputs of majority: one token input `bit` of 2 symbols, at most 10 tokens.
TOKENS = {
    "out of range": ([0, 1, 1, 2], ["'bit'", "ints from 0 to 1", "got 2", "token 3"]),
    "negative": ([0, -1], ["'bit'", "ints from 0 to 1", "got -1", "token 1"]),
    "out of range in a batch": ([[0, 1], [5, 0]], ["got 5", "sequence 1, token 0"]),
    "floats": ([0.0, 1.0], ["'bit'", "expected ints", "dtype float64", "pass token ids as ints"]),
    "nan": ([float("nan")], ["expected ints", "dtype float64"]),
    "booleans": ([True, False], ["expected ints", "dtype bool"]),
    "text": ("10", ["expected ints", "dtype <U2"]),
    "nothing": (None, ["expected ints", "dtype object"]),
    "a huge int": ([2**70], ["expected ints", "dtype object"]),
    "empty": ([], ["'bit'", "empty sequence", "at least one token"]),
    "empty sequences": (np.zeros((2, 0), int), ["'bit'", "empty sequence"]),
    "no sequences": (np.zeros((0, 2), int), ["'bit'", "empty"]),
    "a number": (1, ["'bit'", "(time, ...)", "(batch, time, ...)", "shape ()"]),
    "three axes": ([[[0, 1]]], ["'bit'", "(batch, time, ...)", "shape (1, 1, 2)"]),
    "different lengths": ([[0, 1], [0]], ["'bit'", "rectangular", "pad"]),
    "too long": ([0] * 11, ["max_length=10", "got 11", "declare a larger max_length"]),
    "too long in a batch": ([[0] * 11], ["max_length=10", "got 11"]),
}


@pytest.mark.parametrize(("tokens", "fragments"), TOKENS.values(), ids=TOKENS)
def test_bad_tokens(majority, tokens, fragments):
    for run in (MAJORITY.run, MAJORITY.trace, majority.run):
        with pytest.raises(InputError) as error:
            run(tokens)
        for fragment in fragments:
            assert fragment in str(error.value)


# First inputs of PAIR: vectors of width 2 in [-1, 1] x [-1, 2], in steps of 0.5.
VECTORS = {
    "nan": ([[0, 0], [0, np.nan]], ["'x'", "a finite number", "got nan", "token 1, entry 1"]),
    "infinite": ([[np.inf, 0], [0, 0]], ["'x'", "a finite number", "got inf", "token 0, entry 0"]),
    "wrong width": (np.zeros((2, 3)), ["'x'", "width 2", "shape (2, 3)"]),
    "no width": ([0.0, 1.0, 0.5], ["'x'", "width 2", "shape (3,)"]),
    "too low": ([[0, 0], [-1.5, 0]], ["'x'", "at least low=[-1.0, -1.0]", "got -1.5", "token 1"]),
    "too high": ([[1.5, 0], [0, 0]], ["'x'", "at most high=[1.0, 2.0]", "got 1.5", "entry 0"]),
    "off the grid": ([[0, 0.25], [0, 0]], ["'x'", "multiples of [0.5 0.5]", "got 0.25", "entry 1"]),
    "complex": ([[1j, 0], [0, 0]], ["'x'", "real numbers", "complex128"]),
    "text": ([["a", "b"]], ["'x'", "real numbers", "dtype <U1"]),
    "empty": (np.zeros((0, 2)), ["'x'", "empty sequence"]),
    "different lengths": ([[0, 0], [0]], ["'x'", "rectangular"]),
}  # fmt: skip


@pytest.mark.parametrize(("vectors", "fragments"), VECTORS.values(), ids=VECTORS)
def test_bad_vectors(pair, vectors, fragments):
    for run in (PAIR.run, pair.run):
        with pytest.raises(InputError) as error:
            run(vectors, [0, 1])
        for fragment in fragments:
            assert fragment in str(error.value)


@pytest.mark.parametrize(
    ("inputs", "fragments"),
    [
        ((), ["expected 2 input(s) (x, t)", "got 0"]),
        (([[0, 0]],), ["expected 2 input(s) (x, t)", "got 1"]),
        (([[0, 0]], [0], [0]), ["expected 2 input(s) (x, t)", "got 3"]),
        (([[0, 0]], [0, 1]), ["share their batch and time axes", "'x': (1, 1)", "'t': (1, 2)"]),
        (([[0, 0]], [[0]]), ["share their batch and time axes"]),
        (([[[0, 0]]] * 2, [[0]] * 3), ["share", "'x': (2, 1)", "'t': (3, 1)"]),
    ],
)
def test_inputs_that_do_not_go_together(pair, inputs, fragments):
    for run in (PAIR.run, pair.run):
        with pytest.raises(InputError) as error:
            run(*inputs)
        for fragment in fragments:
            assert fragment in str(error.value)


def after(model, tokens):
    state = model.init_state()
    for token in tokens:
        _, state = model.step(state, token)
    return state


MISUSE = {
    "step past the end": (
        lambda model: model.step(after(model, [0] * 10), 1),
        ["step 10", "max_length=10", "declare a larger one"],
    ),
    "step with a sequence": (
        lambda model: model.step(model.init_state(), [0, 1]),
        ["expected one token", "shapes [(2,)]"],
    ),
    "step with too few sequences": (
        lambda model: model.step(model.init_state(batch=3), [0, 1]),
        ["expected 3 tokens, one a sequence", "shapes [(2,)]", "init_state(batch=...)"],
    ),
    "step with one token for a batch": (
        lambda model: model.step(model.init_state(batch=3), 1),
        ["expected 3 tokens", "shapes [()]"],
    ),
    "step with a bad token": (
        lambda model: model.step(model.init_state(), 2),
        ["'bit'", "ints from 0 to 1", "got 2"],
    ),
    "step without a token": (
        lambda model: model.step(model.init_state()),
        ["expected 1 input(s) (bit)", "got 0"],
    ),
    "empty batch": (lambda model: model.init_state(batch=0), ["batch", "int >= 1", "got 0"]),
    "empty chunk": (lambda model: model.run([0], chunk=0), ["chunk", "int >= 1", "got 0"]),
    "generate nothing": (lambda model: model.generate([0], 0), ["steps", "int >= 1", "got 0"]),
    "generate too much": (
        lambda model: model.generate([0, 1], 10),
        ["2 + 10 tokens", "max_length=10"],
    ),
    "generate from a bad prompt": (lambda model: model.generate([7], 1), ["'bit'", "got 7"]),
    "export": (lambda model: model.export("onnx", "x"), ["linear_rnn", "'onnx'", "save"]),
}


@pytest.mark.parametrize(("use", "fragments"), MISUSE.values(), ids=MISUSE)
def test_misuse_of_a_model(majority, use, fragments):
    with pytest.raises(InputError) as error:
        use(majority)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_generate_needs_a_token_that_fits(pair):
    with pytest.raises(InputError, match=r"one Token input and a Token output.*-> lsrl\.Token"):
        pair.generate([0], 1)
    wider = program_of(lambda t: t + 1, Token(3))
    with pytest.raises(InputError, match="Token output"):
        lsrl.compile(wider, "linear_rnn").generate([0], 1)


def continuous(x):
    return x[0] > x[1]


def counts(x):
    return lsrl.cumsum(x)


COMPILING = {
    "unknown target": (
        lambda: lsrl.compile(MAJORITY, "liner_rnn"),
        UnknownTargetError,
        ["'liner_rnn'", "linear_rnn, gated_linear_rnn", "did you mean 'linear_rnn'?"],
    ),
    "no program": (
        lambda: lsrl.compile(lsrl.programs.majority, "linear_rnn"),  # type: ignore[arg-type]
        ProgramError,
        ["expects a Program", "@lsrl.program", "got function"],
    ),
    "unknown way to legalise": (
        lambda: lsrl.compile(MAJORITY, "linear_rnn", legalise="force"),  # type: ignore[arg-type]
        ProgramError,
        ["'native' or 'unroll'", "got 'force'"],
    ),
    "verbatim without ReLUs": (
        lambda: lsrl.compile(MAJORITY, "mamba", verbatim=True),
        ProgramError,
        ["verbatim=True", "'mamba'", "linear_rnn"],
    ),
    "unrolling without an end": (
        lambda: lsrl.compile(lsrl.programs.flip_flop(), "linear_rnn", legalise="unroll"),
        ProgramError,
        ["'flip_flop'", "max_length"],
    ),
    "unknown dtype": (
        lambda: lsrl.compile(MAJORITY, "linear_rnn", dtype="int8"),
        PrecisionError,
        ["'int8'", "float32, float64, bfloat16"],
    ),
    "dtype without room": (
        lambda: lsrl.compile(MAJORITY, "linear_rnn", dtype="float16"),
        PrecisionError,
        ["'float16'", "8 grid steps", "use bfloat16 or float32"],
    ),
    "weight without room": (
        lambda: lsrl.compile(
            program_of(lambda x: (2.0**130 * x).named("huge"), Vector(1, low=0, high=1)),
            "linear_rnn",
        ),
        PrecisionError,
        ["huge", HERE, "1.36113e+39", "float32", "lsrl.bound", "wider dtype"],
    ),
    "weight too small": (
        lambda: lsrl.compile(
            program_of(lambda x: (2.0**-130 * x).named("tiny"), Vector(1, low=0, high=1)),
            "linear_rnn",
        ),
        PrecisionError,
        ["tiny", HERE, "float32", "wider dtype"],
    ),
    "ops that a target can't hold": (
        lambda: lsrl.compile(GENERAL_PRODUCT, "linear_rnn"),
        UnsupportedOpError,
        ["'linear_rnn'", "can't hold 1 signal", HERE, "product", "would do: gated_linear_rnn"],
    ),
    "explain an unknown target": (
        lambda: lsrl.explain(MAJORITY, "gatedlinear_rnn"),
        UnknownTargetError,
        ["did you mean 'gated_linear_rnn'?"],
    ),
    "an op twice": (
        lambda: lsrl.compile(
            program_of(
                lambda x: (lsrl.hold(x, x[0] > 3), lsrl.threshold_state(x, 1)),
                Vector(1, low=0, high=9, step=1),
            ),
            "linear_rnn",
        ),
        UnsupportedOpError,
        ["can't hold 2 signal(s)", "selective state", "threshold state", "legalise='unroll'"],
    ),
}


@pytest.mark.parametrize(("compiling", "kind", "fragments"), COMPILING.values(), ids=COMPILING)
def test_bad_compilations(compiling, kind, fragments):
    with pytest.raises(kind) as error:
        compiling()
    for fragment in fragments:
        assert fragment in str(error.value)


def test_every_offence_is_listed_with_its_line():
    def body(x):
        product = x[0] * x[1]
        kept = lsrl.hold(x[0], x[1] > 0)
        flags = lsrl.threshold_state(x - 1, 1)
        return product + kept + flags

    line = inspect.getsourcelines(body)[1]
    program = program_of(body, Vector(2, low=0, high=3, step=1))
    with pytest.raises(UnsupportedOpError) as error:
        lsrl.compile(program, "linear_rnn")
    found = [(offence.signal, offence.source) for offence in error.value.offences]
    assert found == [
        ("product", f"{__file__}:{line + 1}"),
        ("kept", f"{__file__}:{line + 2}"),
        ("flags", f"{__file__}:{line + 3}"),
    ]
    product = error.value.offences[0]
    assert "gated_linear_rnn" in product.targets
    assert "linear_rnn" not in product.targets
    assert "Petrov" in product.reason


def declared(result: Any, output: Any = None, **options: Any) -> Any:
    """Record a program of one token whose body returns `result`."""

    def body(x: Annotated[Signal, Token(3)]) -> Any:
        return result(x)

    if output is not None:
        body.__annotations__["return"] = output
    return lsrl.program(**options)(body)


WRITING = {
    "dimension mismatch": (
        lambda: program_of(lambda x: np.eye(3) @ x, Vector(2, low=0, high=1)),
        ShapeError,
        [HERE, "2 columns", "width 2", "got shape (3, 3)"],
    ),
    "operands of different widths": (
        lambda: program_of(lambda x: x[:2] + x[:3], Vector(4, low=0, high=1)),
        ShapeError,
        [HERE, "widths [2, 3] do not match"],
    ),
    "continuous comparison": (
        lambda: program_of(continuous, Vector(2, low=0, high=1)),
        RampError,
        [HERE, "continuous", "ramp=2**-10", "step="],
    ),
    "accumulator without max_length": (
        lambda: program_of(counts, Token(2)),
        ProgramError,
        [HERE, "grows with the number of tokens", "@lsrl.program(max_length=...)"],
    ),
    "position without max_length": (
        lambda: program_of(lambda x: x + lsrl.position(), Token(2)),
        ProgramError,
        [HERE, "@lsrl.program(max_length=...)"],
    ),
    "impossible bound": (
        lambda: program_of(lambda x: lsrl.bound(x, 5, 9), Token(2)),
        BoundsError,
        [HERE, "bound(x, 5, 9)", "no possible value", "in [0, 1]"],
    ),
    "no annotation": (
        lambda: lsrl.program(lambda x: x),
        ProgramError,
        [HERE, "parameter 'x'", "lsrl.Token(n)", "got None"],
    ),
    "no parameters": (
        lambda: lsrl.program(lambda: lsrl.constant(1)),
        ProgramError,
        [HERE, "at least one input"],
    ),
    "no result": (lambda: declared(lambda x: None), ProgramError, [HERE, "got NoneType"]),
    "a number as result": (lambda: declared(lambda x: 1), ProgramError, [HERE, "got int"]),
    "numbers in a tuple": (lambda: declared(lambda x: (x, 1)), ProgramError, [HERE, "got tuple"]),
    "an output outside its type": (
        lambda: declared(lambda x: x + 1, Token(3)),
        ProgramError,
        [HERE, "Token(size=3)", "in [1, 3]", "lsrl.bound"],
    ),
    "a wide token": (
        lambda: declared(lambda x: x.one_hot, Token(3)),
        ProgramError,
        [HERE, "Token(size=3)", "width=3"],
    ),
    "a token off the grid": (
        lambda: declared(lambda x: x / 2, Token(3)),
        ProgramError,
        [HERE, "Token(size=3)", "step [0.5]"],
    ),
    "a return type that is none": (
        lambda: declared(lambda x: x, int),
        ProgramError,
        [HERE, "return annotation"],
    ),
    "max_length of zero": (
        lambda: declared(lambda x: x, max_length=0),
        ProgramError,
        [HERE, "max_length", "got 0"],
    ),
    "max_length as text": (
        lambda: declared(lambda x: x, max_length="10"),
        ProgramError,
        [HERE, "max_length", "got '10'"],
    ),
    "a signal outside": (lambda: lsrl.constant(1), ProgramError, ["@lsrl.program"]),
    "Token(0)": (lambda: Token(0), ProgramError, ["positive int", "got 0"]),
    "Token('a')": (lambda: Token("a"), ProgramError, ["positive int", "got 'a'"]),  # type: ignore[arg-type]
    "Vector(0)": (lambda: Vector(0, low=0, high=1), ProgramError, ["positive int", "got 0"]),
    "crossed bounds": (
        lambda: Vector(1, low=2, high=1),
        ProgramError,
        ["low must not exceed high", "low=2", "high=1"],
    ),
    "infinite bounds": (
        lambda: Vector(1, low=0, high=float("inf")),
        ProgramError,
        ["Vector high", "finite", "got inf"],
    ),
    "too few bounds": (
        lambda: Vector(3, low=[0, 0], high=1),
        ProgramError,
        ["low needs one number or 3", "got 2"],
    ),
    "a negative step": (
        lambda: Vector(1, low=0, high=1, step=-1),
        ProgramError,
        ["step must be positive", "got -1"],
    ),
}


@pytest.mark.parametrize(("writing", "kind", "fragments"), WRITING.values(), ids=WRITING)
def test_mistakes_in_a_program(writing, kind, fragments):
    with pytest.raises(kind) as error:
        writing()
    assert type(error.value) is kind
    for fragment in fragments:
        assert fragment in str(error.value)


def test_annotations_as_text_are_explained():
    namespace: dict[str, Any] = {}
    source = (
        "from __future__ import annotations\nimport lsrl\ndef build(n):\n    @lsrl.program\n"
        "    def inner(x: lsrl.Token(n)):\n        return x\n    return inner\n"
    )
    exec(compile(source, "future.py", "exec"), namespace)
    with pytest.raises(ProgramError, match=r"future\.py:\d+.*from __future__ import annotations"):
        namespace["build"](2)


def few(t):
    low = lsrl.bound(lsrl.cumsum(t), 0, 2)
    return low + 1


def test_a_broken_promise_with_check():
    program = program_of(few, Token(2), max_length=10)
    line = inspect.getsourcelines(few)[1] + 1
    model = lsrl.compile(program, "linear_rnn")
    promise = model.certificate.promises[0]
    assert (promise.signal, promise.source) == ("low", f"{__file__}:{line}")
    kept, broken = [1, 0, 1, 0], [1, 1, 0, 1]
    np.testing.assert_array_equal(model.run(kept, check=True), program.run(kept))
    assert model.run(broken).shape == (4, 1), "without check=True the promise is taken on trust"
    for run in (program.run, lambda tokens: model.run(tokens, check=True)):
        with pytest.raises(BoundsError) as error:
            run([kept, broken])
        for fragment in (
            "low",
            f"{HERE}{line}",
            "stays in [0, 2]",
            "got [3",
            "sequence 1, token 3",
        ):
            assert fragment in str(error.value)


def test_a_latch_that_fires_twice_with_check():
    program = program_of(lambda t: lsrl.latch(t, t >= 1).named("kept"), Token(3))
    model = lsrl.compile(program, "linear_rnn")
    with pytest.raises(BoundsError, match=r"kept.*at most once.*token 2"):
        model.run([0, 2, 1], check=True)


@pytest.fixture
def saved(tmp_path, majority):
    path = tmp_path / "majority.lsrl"
    majority.save(path)
    return path


def assert_refused(path):
    with pytest.raises(FormatError) as error:
        lsrl.load(path)
    message = str(error.value)
    for fragment in (path.name, "expected a model saved by model.save", "save it again"):
        assert fragment in message
    return message


def test_a_truncated_file(saved):
    content = saved.read_bytes()
    for length in [*range(0, len(content), 97), len(content) - 1]:
        saved.write_bytes(content[:length])
        assert_refused(saved)


def test_a_file_with_a_flipped_bit(saved):
    content = saved.read_bytes()
    for place in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        saved.write_bytes(damaged)
        assert_refused(saved)
    saved.write_bytes(content)
    assert lsrl.load(saved).certificate.exact


def test_a_file_with_something_after_its_end(saved):
    saved.write_bytes(saved.read_bytes() + b"more")
    assert_refused(saved)


def test_files_of_other_formats(tmp_path):
    path = tmp_path / "other.lsrl"
    for content in (b"", b"import lsrl\n", b"{}", b"\x89PNG\r\n", b"PK\x03\x04" * 100):
        path.write_bytes(content)
        assert_refused(path)
    save_file({"weight": np.zeros(3)}, path)
    assert "a safetensors file, but no saved LSRL model" in assert_refused(path)
    save_file({"weight": np.zeros(3)}, path, {"format": "pt"})
    assert_refused(path)
    np.savez(tmp_path / "arrays.npz", np.zeros(3))
    assert_refused(tmp_path / "arrays.npz")


def forge(path, change, drop=None):
    """Rewrite a saved model's header, and its checksum with it."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["lsrl"].partition(" ")[2])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays.pop(drop, None)
    change(header)
    text = json.dumps(header)
    save_file(arrays, path, {"lsrl": f"{storage._checksum(text, arrays)} {text}"})


FORGED = {
    "newer version": (lambda header: header.update(version=99), "version 99; read it with a newer"),
    "unknown target": (lambda header: header.update(target="abacus"), "abacus"),
    "unknown op": (lambda header: header["program"]["nodes"][1].update(op="Magic"), "Magic"),
    "missing fields": (lambda header: header["program"]["nodes"][1].update(fields={}), "header"),
    "missing operands": (
        lambda header: header["program"]["nodes"][1].update(operands=[77]),
        "header",
    ),
    "output": (lambda header: header["program"].update(output=99), "99"),
    "empty": (lambda header: header.clear(), "header"),
    "other levels": (lambda header: header.update(levels=[]), "compiles it to another network"),
    "levels of other nodes": (
        lambda header: header.update(levels=[[node + 1, *row] for node, *row in header["levels"]]),
        "compiles it to another network",
    ),
}


@pytest.mark.parametrize(("change", "fragment"), FORGED.values(), ids=FORGED)
def test_a_header_that_this_version_can_not_follow(saved, change, fragment):
    forge(saved, change)
    assert fragment in assert_refused(saved)


def test_a_file_without_one_of_its_arrays(saved):
    forge(saved, lambda header: None, drop="output_bias")
    assert "lacks the parameters output_bias" in assert_refused(saved)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.lsrl"):
        lsrl.load(tmp_path / "absent.lsrl")
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path)) + ".*load_torch"):
        lsrl.load(tmp_path)


def test_a_failed_save_leaves_the_old_file(saved, majority, monkeypatch):
    before = saved.read_bytes()
    other = lsrl.compile(MAJORITY, "gated_linear_rnn")

    def refuse(*_):
        raise OSError("the disk is full")

    for owner, name in ((os, "replace"), (os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            with pytest.raises(OSError, match="the disk is full"):
                other.save(saved)
        assert saved.read_bytes() == before
        assert os.listdir(saved.parent) == [saved.name], "no draft is left behind"
    other.save(saved)
    assert lsrl.load(saved).target == "gated_linear_rnn"
    with pytest.raises(OSError):
        majority.save(saved.parent / "no such folder" / "model.lsrl")


@pytest.mark.parametrize(
    ("module", "use", "said"),
    [
        ("torch", lambda model, path: lsrl.load_torch(path), "load_torch needs torch"),
        ("matplotlib", lambda model, path: model.program.draw(path / "x.pdf"), "lsrl[plot]"),
        ("sklearn", lambda model, path: score(model.circuit, NodeClaim(signals={})), "[interpret]"),
        ("tokenizers", lambda model, path: tokenizer_files(WORDS, 9), "lsrl[huggingface]"),
    ],
)
def test_a_package_that_is_not_there_is_named(module, use, said, majority, tmp_path, monkeypatch):
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as caught:
        use(majority, tmp_path)
    assert said in str(caught.value)
    assert f"needs {module}, which is not installed: pip install 'lsrl[" in str(caught.value)


def test_every_error_is_ours_and_public():
    kinds = [
        value
        for value in vars(lsrl.errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert len(kinds) > 8
    assert all(issubclass(kind, LsrlError) for kind in kinds)
    assert sys.modules["lsrl.errors"] is lsrl.errors


def test_symbols_with_names_are_told_by_number():
    @lsrl.program
    def named(letter: Token(3, "abc")):
        return letter == 1

    with pytest.raises(InputError, match=r"ids as ints: 'a' is 0, 'b' is 1, 'c' is 2$"):
        named.run("ab")

    @lsrl.program
    def many(letter: Token(9, "abcdefghi")):
        return letter == 1

    with pytest.raises(InputError, match=r"'h' is 7, …$"):
        many.run("ab")
