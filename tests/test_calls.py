"""Programs called on signals: a call is the composition, whatever the programs are."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from lsrl import Token, Vector
from lsrl.errors import ProgramError, PromiseError, ShapeError
from lsrl.program_json import program_from_json, program_to_json
from lsrl.testing.random_programs import random_program
from tests.strategies import inputs_of

pytestmark = pytest.mark.one_in(2)

LENGTH = 12


def small_program(seed: int, **options) -> lsrl.Program:
    return random_program(seed, depth=4, width=3, max_length=LENGTH, **options)


def type_of_output(program: lsrl.Program) -> Vector:
    """What is proven of the output, as a type."""
    facts = program.graph.facts[program.graph.output]
    step = np.where(np.isfinite(facts.step), facts.step, 1.0)
    return Vector(facts.width, low=facts.low, high=facts.high, step=step if step.any() else None)


@settings(max_examples=8)
@given(seeds=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2, unique=True))
def test_a_call_is_the_composition(seeds):
    """Of random programs: values, named signals, and neither program changes."""
    inner = small_program(seeds[0])
    outer = small_program(seeds[1], inputs=[type_of_output(inner)])
    before = [(each.graph.dump(details=True), each.graph.called) for each in (inner, outer)]

    def both(x, y=None):
        return outer(inner(*([x] if y is None else [x, y])))

    both.__annotations__ = dict(inner.inputs)
    program = lsrl.program(max_length=LENGTH)(both)
    assert [(each.graph.dump(details=True), each.graph.called) for each in (inner, outer)] == before
    inputs = inputs_of(inner, LENGTH, seeds[0])
    between = inner.run(*inputs)
    np.testing.assert_array_equal(program.run(*inputs), outer.run(between))
    trace, labels = program.trace(*inputs), [*program.graph.called]
    assert len(set(labels)) == len(labels)
    for part, given_to in ((inner, inputs), (outer, [between])):
        for name, values in part.trace(*given_to).items():
            if name not in part.inputs:
                np.testing.assert_array_equal(trace[f"{part.name}.{name}"], values)


@lsrl.program(max_length=LENGTH)
def reader(symbol: Token(4), scale: Vector(1, low=-2, high=2, step=0.5)):
    """A token that is read as a number, as marks, by tables, and by what wants one-hot marks."""
    table = lsrl.lookup(symbol, [[3, 0], [0, -1], [0.5, 0], [0, 0]])
    counts = lsrl.cumsum(symbol.one_hot)
    own = lsrl.mux(symbol.one_hot, counts)
    return lsrl.delay(symbol), table, own, counts[1:3] * (scale > 0), symbol * 2 - scale


READER_LINE = reader.graph.source(0).rpartition(":")[2]
IDS = np.random.default_rng(0).integers(4, size=(3, LENGTH))
SCALES = np.random.default_rng(1).integers(-4, 5, size=(3, LENGTH, 1)) / 2
FEEDS = {
    "a token": lambda x: x,
    "a smaller token": lambda x: x,
    "integers": lambda x: lsrl.delay(x + 1) - 0 * x,
    "marks of a token": lambda x: x.one_hot,
    "marks": lambda x: lsrl.delay(x.one_hot),
    "a number": lambda x: 2,
}
FED = {
    "a token": IDS,
    "a smaller token": IDS % 3,
    "integers": np.pad(IDS % 3 + 1, ((0, 0), (1, 0)))[:, :-1],
    "marks of a token": IDS,
    "marks": np.pad(IDS, ((0, 0), (1, 0)))[:, :-1],  # where none is on it is symbol 0
    "a number": np.full_like(IDS, 2),
}


def fed(feed: str) -> lsrl.Program:
    size = 3 if feed in ("a smaller token", "integers") else 4

    @lsrl.program(max_length=LENGTH)
    def caller(x: Token(size), y: Vector(1, low=-2, high=2, step=1)):
        return reader(FEEDS[feed](x), scale=y)

    return caller


@pytest.mark.parametrize("feed", FEEDS)
def test_what_a_token_is_given(feed):
    inputs = (IDS % 3 if "smaller" in feed or feed == "integers" else IDS), np.floor(SCALES)
    program = fed(feed)
    np.testing.assert_array_equal(program.run(*inputs), reader.run(FED[feed], inputs[1]))
    # What was proven for every symbol is known here, however the symbols come.
    facts, theirs = (each.graph.facts[each.graph.output] for each in (program, reader))
    assert (facts.low >= theirs.low).all() and (facts.high <= theirs.high).all()


def test_signals_go_by_their_call():
    parity = lsrl.programs.parity(LENGTH)

    @lsrl.program(max_length=LENGTH)
    def thrice(bit: Token(2)):
        first = parity(bit)
        assert parity(bit).index == first.index, "an equal call is the same signals"
        return parity(parity(bit=first))

    names = {name for node in thrice.graph.nodes for name in node.names}
    assert names == {"bit", "first", "parity.ones", "parity#2.ones", "parity#3.ones"}
    assert thrice.graph.label(thrice.graph.output) == "parity#3: lsrl.mod(ones, 2)"
    # The line of the program comes first, then that of the call.
    ones = next(node for node in thrice.graph.nodes if "parity#2.ones" in node.names)
    assert [source.file == __file__ for source in ones.sources] == [False, True]

    @lsrl.program(max_length=LENGTH)
    def nested(bit: Token(2)):
        return thrice(bit)

    names = {name for node in nested.graph.nodes for name in node.names}
    assert "thrice.parity#2.ones" in names and "thrice.first" in names


def test_a_program_of_a_file_tells_no_lines_of_its_own():
    content = program_to_json(lsrl.programs.parity(LENGTH))
    nodes = [dict(node, sources=[["/a/secret", 1, "text"]]) for node in content["nodes"]]
    loaded = program_from_json({**content, "nodes": nodes})

    @lsrl.program(max_length=LENGTH)
    def calls(bit: Token(2)):
        return loaded(1 - bit)

    assert {each.file for node in calls.graph.nodes for each in node.sources} == {__file__}
    assert calls.graph.label(calls.graph.output) == "parity: text"


def test_promises_stay():
    @lsrl.program
    def promised(x: Vector(1, low=0, high=9, step=1)):
        return lsrl.bound(x, 0, 5, keeper="prompt")

    @lsrl.program
    def calls(x: Vector(1, low=0, high=9, step=1)):
        promised(x)  # which nothing reads
        return x

    calls.run([[5.0]])
    with pytest.raises(PromiseError, match=r"promised: lsrl.bound.*\[0, 5\].*legal prompt"):
        calls.run([[6.0]])


def test_several_outputs_come_apart():
    @lsrl.program
    def pair(x: Vector(1, low=0, high=9, step=1)):
        return x + 1, 2 * x

    @lsrl.program
    def calls(x: Vector(1, low=0, high=9, step=1)):
        more, double = pair(x)
        return double - more

    assert calls.run([[4.0], [7.0]]).ravel().tolist() == [3, 6]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda x: reader(x), ProgramError, r"takes 2 signal\(s\).*got 1; give it scale"),
        (lambda x: reader(x, 1, 1), ProgramError, r"takes 2 signal\(s\), one an input, got 3"),
        (lambda x: reader(x, scales=1), ProgramError, "no input 'scales'; did you mean 'scale'"),
        (lambda x: reader(x, 1, symbol=x), ProgramError, "given 'symbol' twice"),
        (
            lambda x: reader(x + 1, 1),
            ProgramError,
            r"symbol: Token\(size=4\).*0 to 3, got.*0, 1, 2|1, 4",
        ),
        (lambda x: reader(x / 2, 1), ProgramError, r"integers from 0 to 3, got.*step \[0.5\]"),
        (lambda x: reader(lsrl.concat(x, x), 1), ShapeError, "width 1, or a one-hot signal of wid"),
        (lambda x: reader(lsrl.concat(x, x, x, x), 1), ProgramError, "not known to be; make it"),
        (lambda x: reader(x, x), ProgramError, r"scale: Vector.*entry 0 is from -2 to 2 by.*bound"),
        (lambda x: reader(x, lsrl.delay(x, initial=0.25)), ProgramError, "by steps of 0.5, got"),
        (lambda x: reader(x, x.one_hot), ShapeError, "scale: Vector.*of width 1, got"),
        (lambda x: reader(x, None), ProgramError, "expected a number, got None"),
    ],
)
def test_a_wrong_call_says_both_lines(call, kind, message):
    with pytest.raises(kind, match=message) as raised:

        @lsrl.program(max_length=LENGTH)
        def caller(x: Token(4)):
            return call(x)

    here = rf"test_calls\.py:{call.__code__.co_firstlineno}: "
    assert re.search(here, str(raised.value))
    if kind is not ProgramError or "None" not in message:
        assert re.search(rf"test_calls\.py:{READER_LINE}\)", str(raised.value))


def test_lengths_and_places_of_calls_are_checked():
    for length in (None, LENGTH + 1):
        with pytest.raises(ProgramError, match=rf"reader .*max_length={LENGTH}.*(none|13); write"):

            @lsrl.program(max_length=length)
            def longer(x: Token(4)):
                return reader(x, 1)

    kept = []

    @lsrl.program(max_length=LENGTH - 1)
    def shorter(x: Token(4)):
        kept.append(x)
        return reader(x, 1)

    with pytest.raises(ProgramError, match="reader reads a signal of another program"):

        @lsrl.program(max_length=LENGTH)
        def stranger(x: Token(4)):
            return reader(kept[0], 1)

    with pytest.raises(ProgramError, match=r"reader makes a signal.*reader.run\(...\) runs it"):
        reader([0, 1], [[1.0], [1.0]])
    with pytest.raises(ProgramError, match="is a program already"):
        lsrl.program(reader)
