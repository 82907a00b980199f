"""Feedback: outputs of a program that are its next input, and what a loop of them says.

The graph of a program stays causal and without a circle: that an output comes back is said beside
it. It is proven where the program is written, by its facts, that whatever comes back is a legal
input; so every token of a loop is, by induction from the prompt.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, final, get_args

import numpy as np

from lsrl.arguments import near, shown
from lsrl.errors import ProgramError
from lsrl.ir.bounds import Facts
from lsrl.ir.numbers import Array, exact_number
from lsrl.ir.types import InputType, Token

Comparison = Literal["<", "<=", "==", "!=", ">=", ">"]
Halt = tuple[int, Comparison, float]
# Of numpy's arrays, and as well of jax's.
COMPARISONS: Mapping[str, Callable[[Array, float], Array]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


@final
@dataclass(frozen=True)
class MemoryMap:
    """Where the writes of a loop go: outputs that tell what the next token writes.

    Both are outputs that are fed back, so that the tokens of the prompt, which write as well, hold
    them in the same places of their input.

    Attributes:
      address: the output that is the address; one outside all segments writes nothing.
      value: the output that is the value, or (start, stop) of several, the entries of a vector.
      segments: the addresses that there are: (first, one past the last) each, in order.
      initial: what a cell holds before it is written.
      where: (output, number): a token writes only where the output is the number; None: always.

    Example:
      print(written.loop([[0, 1]], steps=3).memory)
    """

    address: int
    value: int | tuple[int, int]
    segments: tuple[tuple[int, int], ...]
    initial: float = 0.0
    where: tuple[int, float] | None = None

    def __init__(
        self,
        address: int,
        value: int | slice | tuple[int, int],
        segments: Sequence[tuple[int, int]],
        initial: float = 0.0,
        where: tuple[int, float] | None = None,
    ) -> None:
        """Check each part by itself.

        Raises:
          ProgramError: an output that is no number of one, or segments that overlap or are empty.
        """
        what = "MemoryMap"
        several = isinstance(value, slice | tuple)
        own = _span(f"{what}: value", value) if several else _output(f"{what}: value", value)
        object.__setattr__(self, "address", _output(f"{what}: address", address))
        object.__setattr__(self, "value", own)
        object.__setattr__(self, "segments", _segments(segments))
        object.__setattr__(self, "initial", exact_number(initial, f"{what}: initial"))
        object.__setattr__(self, "where", _pair(f"{what}: where", where))

    @property
    def cells(self) -> int:
        """How many addresses there are."""
        return sum(stop - start for start, stop in self.segments)

    @property
    def values(self) -> tuple[int, int]:
        """(start, stop) of the outputs that are the value."""
        return self.value if isinstance(self.value, tuple) else (self.value, self.value + 1)

    def places(self, addresses: Array) -> Array:
        """Which cell each address is, in the order of the addresses; -1 of those that are none."""
        found = np.full(np.shape(addresses), -1)
        before = 0
        for start, stop in self.segments:
            inside = (addresses >= start) & (addresses < stop)
            found = np.where(inside, addresses - start + before, found)
            before += stop - start
        return found.astype(np.int64)


@final
@dataclass(frozen=True)
class Feedback:
    """Which outputs are the next token's input, and how a loop stops, reads and writes.

    Attributes:
      input: the name of the input that is fed; the outputs are the whole of it.
      output: (start, stop) of the outputs that are fed back.
      halt: (output, comparison, number): the loop stops at the token where this holds; None: never.
      keys: standard input: the input that holds the next key, which is read ahead, and the output
        that is 1 at the token that takes it; None: there is none.
      text: standard output: the output that holds the code of a character, and the number that says
        that there is none; None: there is none.
      memory: what the tokens write; None: the program has no memory that is told apart.
      idle: what the inputs hold while the loop runs that are neither fed nor the keys, by name; 0
        by default.

    Example:
      @lsrl.program(feedback=lsrl.Feedback("n", output=0, halt=(0, "==", 0)))
      def countdown(n: lsrl.Vector(1, low=0, high=9, step=1)):
          return lsrl.relu(n - 1)
    """

    input: str
    output: tuple[int, int]
    halt: Halt | None = None
    keys: tuple[str, int] | None = None
    text: tuple[int, float] | None = None
    memory: MemoryMap | None = None
    idle: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def __init__(
        self,
        input: str,
        output: int | slice | tuple[int, int],
        *,
        halt: Halt | None = None,
        keys: tuple[str, int] | None = None,
        text: tuple[int, float] | None = None,
        memory: MemoryMap | None = None,
        idle: Mapping[str, float | Sequence[float]] | None = None,
    ) -> None:
        """Check each part by itself; whether they fit a program, `prove` says.

        Raises:
          ProgramError: a part is not of its form; says which, and what it can be.
        """
        if not isinstance(input, str) or not input:
            raise ProgramError(f"Feedback: input must be the name of an input, got {shown(input)}")
        if memory is not None and not isinstance(memory, MemoryMap):
            raise ProgramError(f"Feedback: memory must be an lsrl.MemoryMap, got {shown(memory)}")
        if idle is not None and not isinstance(idle, Mapping):
            raise ProgramError(
                f"Feedback: idle must be {{input: number or numbers}}, got {shown(idle)}"
            )
        object.__setattr__(self, "input", input)
        object.__setattr__(self, "output", _span("Feedback: output", output))
        object.__setattr__(self, "halt", _halt(halt))
        object.__setattr__(self, "keys", _keys(keys))
        object.__setattr__(self, "text", _pair("Feedback: text", text))
        object.__setattr__(self, "memory", memory)
        object.__setattr__(self, "idle", tuple(_numbers(*one) for one in (idle or {}).items()))

    def stops(self, outputs: Array) -> Array:
        """(...) bool, at which of the tokens (..., outputs) the loop halts; of numpy or of jax."""
        if self.halt is None:
            return cast(Array, outputs[..., 0] != outputs[..., 0])
        output, comparison, number = self.halt
        return COMPARISONS[comparison](outputs[..., output], number)

    def resting(self, inputs: Mapping[str, InputType]) -> dict[str, Array]:
        """What each input holds while the loop runs, of those that are not fed; keys hold 0."""
        said, found = dict(self.idle), {}
        for name, kind in inputs.items():
            values = np.array(said.get(name, (0.0,)))
            wide = np.broadcast_to(values, (kind.width,))
            found[name] = wide.astype(np.int64)[0] if isinstance(kind, Token) else wide
        return found


# ---------------------------------------------------------------- the proof


def prove(feedback: Feedback, inputs: Mapping[str, InputType], output: Facts) -> None:
    """Refuse feedback that does not fit a program, or that may feed what is no legal input.

    Args:
      feedback: what comes back.
      inputs: declared types by name.
      output: what is proven of the outputs, at every token and for every legal input.

    Raises:
      ProgramError: says which part, what was expected, and how to mend it.
    """
    width = output.width
    for what, number in _named_outputs(feedback):
        if number >= width:
            raise ProgramError(
                f"Feedback: {what} names output {number}, and the program has {width}, which count "
                "from 0"
            )
    known = _known(feedback.input, "input", inputs)
    _check_fed(feedback, known, output)
    if feedback.keys is not None:
        _check_keys(feedback, inputs)
    if feedback.memory is not None:
        _check_memory(feedback, feedback.memory, output)
    others = set(inputs) - {feedback.input} - ({feedback.keys[0]} if feedback.keys else set())
    for name, values in feedback.idle:
        kind = _known(name, "idle", inputs)
        if name not in others:
            raise ProgramError(
                f"Feedback: idle says what {name!r} holds while the loop runs, which the loop "
                "itself does; leave it out"
            )
        if len(values) not in (1, kind.width):
            raise ProgramError(
                f"Feedback: idle gives {name!r} {len(values)} numbers, expected 1 or {kind.width}"
            )
    resting = feedback.resting(inputs)
    for name in sorted(others):
        _check_legal(name, inputs[name], resting[name], "while the loop runs", "say idle={...}")


def _check_fed(feedback: Feedback, kind: InputType, output: Facts) -> None:
    """The facts of what is fed back lie in the input's type: the step of the induction."""
    start, stop = feedback.output
    if stop - start != kind.width:
        raise ProgramError(
            f"Feedback: {feedback.input!r} is {kind}, {kind.width} wide, and outputs {start} to "
            f"{stop - 1} are {stop - start}; the outputs that are fed back are the whole input"
        )
    fed, declared = output.take(np.arange(start, stop)), kind.facts()
    low, high = fed.low < declared.low, fed.high > declared.high
    whole = np.isinf(declared.step) | (declared.step == 0)
    with np.errstate(invalid="ignore"):
        gridded = np.isinf(fed.step) | (np.mod(fed.step, np.where(whole, 1.0, declared.step)) == 0)
    off = ~whole & ~(gridded & (fed.step > 0)) | (np.isinf(declared.step) & ~fed.zero)
    if not (low | high | off).any():
        return
    entry = int(np.flatnonzero(low | high | off)[0])
    one = np.array([entry])
    cure = (
        "widen the type, or bring the output into it with lsrl.clip(x, low, high), or "
        "lsrl.bound(x, low, high) if you know that it lies there"
    )
    if off[entry]:
        cure = "give the type a finer step, or round the output onto its grid, as x // 1 does to 1"
    raise ProgramError(
        f"Feedback: output {start + entry} is {fed.take(one)}, and entry {entry} of "
        f"{feedback.input!r}, which it becomes at the next token, must be {declared.take(one)}: a "
        f"loop could leave the input's type; {cure}"
    )


def _check_keys(feedback: Feedback, inputs: Mapping[str, InputType]) -> None:
    name, _ = cast("tuple[str, int]", feedback.keys)
    kind = _known(name, "keys", inputs)
    if name == feedback.input or kind.width != 1:
        raise ProgramError(
            f"Feedback: keys come through an input of their own that is 1 wide, got {name!r}, "
            + ("which is fed back" if name == feedback.input else f"which is {kind}")
        )
    _check_legal(name, kind, np.zeros(kind.width), "where no key is left", "let its type hold 0")


def _check_memory(feedback: Feedback, memory: MemoryMap, output: Facts) -> None:
    start, stop = feedback.output
    first, last = memory.values
    outputs = [memory.address, first, last - 1, *([memory.where[0]] if memory.where else [])]
    outside = [number for number in outputs if not start <= number < stop]
    if outside:
        raise ProgramError(
            f"Feedback: memory reads output {outside[0]}, which is not fed back (outputs {start} "
            f"to {stop - 1} are), so that tokens of the prompt do not say what they write"
        )
    if not output.take(np.array([memory.address])).integer:
        raise ProgramError(
            f"Feedback: memory: addresses are whole numbers, and output {memory.address} is "
            f"{output.take(np.array([memory.address]))}"
        )


def _check_legal(name: str, kind: InputType, value: Array, when: str, cure: str) -> None:
    if isinstance(kind, Token):
        legal = 0 <= np.ravel(value)[0] < kind.size
    else:
        grid = kind.grid()
        off = np.mod(value, np.where(grid > 0, grid, 1.0)) * (grid > 0)
        inside = (value >= np.array(kind.low)) & (value <= np.array(kind.high))
        legal = bool((inside & (off == 0)).all())
    if not legal:
        raise ProgramError(
            f"Feedback: {name!r} holds {np.ravel(value).tolist()} {when}, which is no {kind}; "
            f"{cure}"
        )


def _named_outputs(feedback: Feedback) -> list[tuple[str, int]]:
    """Every output that is named, and by what."""
    memory = feedback.memory
    found = [("output", feedback.output[1] - 1)]
    found += [("halt", feedback.halt[0])] if feedback.halt else []
    found += [("keys", feedback.keys[1])] if feedback.keys else []
    found += [("text", feedback.text[0])] if feedback.text else []
    if memory is not None:
        found += [("memory", memory.address), ("memory", memory.values[1] - 1)]
        found += [("memory", memory.where[0])] if memory.where else []
    return found


def _known(name: str, what: str, inputs: Mapping[str, InputType]) -> InputType:
    if name not in inputs:
        raise ProgramError(
            f"Feedback: {what} names {name!r}, and the program's inputs are {', '.join(inputs)}"
            f"{near(name, inputs)}"
        )
    return inputs[name]


# ---------------------------------------------------------------- the forms of the parts


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _output(what: str, value: object) -> int:
    if not _whole(value) or cast(int, value) < 0:
        raise ProgramError(
            f"{what}: expected the number of an output, counted from 0, got {shown(value)}"
        )
    return int(cast(int, value))


def _span(what: str, value: object) -> tuple[int, int]:
    """(start, stop) of one output, of a slice, or of such a pair."""
    if _whole(value) and cast(int, value) >= 0:
        return int(cast(int, value)), int(cast(int, value)) + 1
    ends: tuple[object, ...] = ()
    if isinstance(value, slice) and value.step in (None, 1):
        ends = (0 if value.start is None else value.start, value.stop)
    elif isinstance(value, tuple | list):
        ends = tuple(value)
    if len(ends) == 2 and all(map(_whole, ends)):
        start, stop = (int(cast(int, end)) for end in ends)
        if 0 <= start < stop:
            return start, stop
    raise ProgramError(
        f"{what}: expected the number of an output or a slice of them, slice(0, 3), got "
        f"{shown(value)}"
    )


def _halt(value: object) -> Halt | None:
    if value is None:
        return None
    if isinstance(value, tuple | list) and len(value) == 3:
        output, comparison, number = value
        if isinstance(comparison, str) and comparison in COMPARISONS:
            return (
                _output("Feedback: halt", output),
                cast(Comparison, comparison),
                exact_number(number, "Feedback: halt"),
            )
    raise ProgramError(
        "Feedback: halt must be (output, comparison, number), such as (2, '<', 0), with one of "
        f"{', '.join(get_args(Comparison))}, got {shown(value)}"
    )


def _keys(value: object) -> tuple[str, int] | None:
    if value is None:
        return None
    if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str):
        return value[0], _output("Feedback: keys", value[1])
    raise ProgramError(
        "Feedback: keys must be (input, output): the name of the input that holds the next key, "
        f"and the number of the output that is 1 where it is taken, got {shown(value)}"
    )


def _pair(what: str, value: object) -> tuple[int, float] | None:
    if value is None:
        return None
    if isinstance(value, tuple | list) and len(value) == 2:
        return _output(what, value[0]), exact_number(value[1], what)
    raise ProgramError(f"{what} must be (output, number), got {shown(value)}")


def _numbers(name: object, values: object) -> tuple[str, tuple[float, ...]]:
    several = values if isinstance(values, Sequence | np.ndarray) else (values,)
    return str(name), tuple(exact_number(value, f"Feedback: idle of {name!r}") for value in several)


def _segments(value: object) -> tuple[tuple[int, int], ...]:
    given = list(value) if isinstance(value, Sequence | np.ndarray) else []
    found: list[tuple[int, int]] = []
    for one in given:
        pair = isinstance(one, Sequence | np.ndarray) and len(one) == 2
        if not pair or not all(map(_whole, one)) or one[0] >= one[1]:
            break
        if found and one[0] < found[-1][1]:
            break
        found.append((int(one[0]), int(one[1])))
    if not found or len(found) != len(given):
        raise ProgramError(
            "MemoryMap: segments must be (first, one past the last) of the addresses, in order and "
            f"apart, such as [(0, 256)], got {shown(value)}"
        )
    return tuple(found)
