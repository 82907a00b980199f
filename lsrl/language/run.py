"""What a loop did, and how a program's outputs become its inputs: plain data."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, NamedTuple, TypeAlias, TypeVar, cast, final

import numpy as np

from lsrl.arguments import shown
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token
from lsrl.language.feedback import Feedback

S = TypeVar("S")


class Wiring(NamedTuple):
    """How outputs become inputs, and when that stops: plain data, hashable, for jit.

    Attributes:
      feedback: as declared.
      types: of the inputs, by name.
      width: number of outputs.
      whole: whether the memory holds whole numbers alone.
      until: "halt", or "steps", which goes on where the loop halts.
    """

    feedback: Feedback
    types: tuple[tuple[str, InputType], ...]
    width: int
    whole: bool = True
    until: str = "halt"

    @property
    def fed(self) -> int:
        """The number of the input that is fed."""
        return [name for name, _ in self.types].index(self.feedback.input)

    @property
    def key(self) -> int | None:
        """The number of the input that holds the next key."""
        keys = self.feedback.keys
        return None if keys is None else [name for name, _ in self.types].index(keys[0])

    @property
    def halts(self) -> bool:
        """Whether a machine may stop by itself."""
        return self.until == "halt" and self.feedback.halt is not None

    def stops(self, outputs: Array) -> Array:
        """(...) bool, at which of some tokens (..., outputs) the loop stops by itself."""
        return self.feedback.stops(outputs) & self.halts

    def following(self, outputs: Array) -> Array:
        """What outputs (..., outputs) feed: the next ids (...) or vectors (..., width)."""
        start, stop = self.feedback.output
        if not isinstance(self.types[self.fed][1], Token):
            return outputs[..., start:stop]
        return np.rint(outputs[..., start].astype(np.float64)).astype(np.int64)

    def next(self, outputs: Array) -> tuple[Array, ...]:
        """Per input what the token after (batch, outputs) reads; of the keys' input 0."""
        resting = self.feedback.resting(dict(self.types)).values()
        wide = [np.broadcast_to(each, (len(outputs), *each.shape)) for each in resting]
        wide[self.fed] = self.following(outputs)
        return tuple(wide)


class Ahead(NamedTuple):
    """What a loop goes on with.

    Attributes:
      pending: per input what the next token reads, (batch, ...); of the keys' input anything.
      keys: of each machine (count,), those that it has not taken.
    """

    pending: tuple[Array, ...]
    keys: tuple[Array, ...]


class Record(NamedTuple):
    """What a loop did, of a batch of machines.

    Attributes:
      told: per input what was read before the first of the outputs, (batch, tokens, ...).
      start: what was ahead then.
      outputs: (batch, tokens, outputs).
      done: (batch,) how many of them are each machine's; the others are 0.
      halted: (batch,) bool.
      waiting: (batch,) bool.
      steps: (batch,) instructions in all.
      text: of each machine, in all.
      cells: (batch, cells, values) of the memory.
      ahead: what is ahead now.
    """

    told: tuple[Array, ...]
    start: Ahead
    outputs: Array
    done: Array
    halted: Array
    waiting: Array
    steps: Array
    text: tuple[bytes, ...]
    cells: Array
    ahead: Ahead


@final
@dataclass(frozen=True, eq=False)
class Run(Generic[S]):
    """What a loop did; `loop(run, steps=...)` goes on from it.

    Of a batch, each is one a machine, and rows of outputs past a machine's end are 0.

    Attributes:
      state: after the last instruction: a model's `State`, or an evaluator's `Moment`.
      batched: whether it is of a batch of machines.
      wiring: what is fed back.
      record: what was done, as plain arrays with a batch axis.
      keeper: writes the run to a file, where its model can.

    Example:
      print(run, run.steps, run.trace.shape)
    """

    state: S
    batched: bool
    wiring: Wiring
    record: Record
    keeper: "Keeper[S] | None" = field(default=None, repr=False)

    @property
    def outputs(self) -> Array:
        """((batch,) tokens, outputs) from the prompt's last token on, or from where it went on."""
        return self._own(self.record.outputs)

    @property
    def trace(self) -> Array:
        """((batch,) tokens, fed) what was fed back: the outputs that are the next input."""
        start, stop = self.wiring.feedback.output
        return self.outputs[..., start:stop]

    @property
    def halted(self) -> bool | Array:
        """Whether it has stopped by itself."""
        return self.record.halted if self.batched else bool(self.record.halted[0])

    @property
    def waiting(self) -> bool | Array:
        """Whether it wants a key that is not there.

        The instruction that wants it was not carried out and is not counted; going on with more
        keys carries it out.
        """
        return self.record.waiting if self.batched else bool(self.record.waiting[0])

    @property
    def steps(self) -> int | Array:
        """Instructions carried out in all; the first is the one at the last token of the prompt."""
        return self.record.steps if self.batched else int(self.record.steps[0])

    @property
    def text(self) -> bytes | tuple[bytes, ...]:
        """What it said in all; of a code above 255 the last byte."""
        return self.record.text if self.batched else self.record.text[0]

    @cached_property
    def memory(self) -> Array | None:
        """((batch,) cells) after the last instruction, in the order of the addresses.

        By replay of the writes of prompt and outputs, and not out of the network; what was read
        before the prompt does not count. int64 where all values are whole. ((batch,) cells, values)
        where a value is several outputs; None of a program without a `MemoryMap`.
        """
        memory = self.wiring.feedback.memory
        if memory is None:
            return None
        cells = self.record.cells.astype(np.int64) if self.wiring.whole else self.record.cells
        return self._own(cells if isinstance(memory.value, tuple) else cells[..., 0])

    @cached_property
    def inputs(self) -> tuple[Array, ...]:
        """Per input all that was read, ((batch,) tokens, ...): the prompt, what was fed, the keys.

        The program gives the run's outputs for it at its last tokens, and so does its model. Rows
        of a machine that stopped before others repeat its last.
        """
        wiring, record = self.wiring, self.record
        tokens = record.outputs.shape[1]
        own = np.minimum(np.arange(tokens), np.maximum(record.done[:, None] - 1, 0))
        rows = np.take_along_axis(record.outputs, own[..., None], axis=1)
        resting = list(wiring.feedback.resting(dict(wiring.types)).values())
        found = []
        for number, (told, first) in enumerate(zip(record.told, record.start.pending, strict=True)):
            if number == wiring.key:
                read = keys_read(wiring.feedback, record.start.keys, rows)
                read = read.reshape(len(rows), tokens, *told.shape[2:])
            else:
                later = wiring.following(rows) if number == wiring.fed else resting[number]
                shape = (len(rows), tokens, *told.shape[2:])
                later = np.broadcast_to(later, shape)[:, : max(tokens - 1, 0)]
                read = np.concatenate([first[:, None], later], axis=1)[:, :tokens]
            found.append(self._own(np.concatenate([told, read.astype(told.dtype)], axis=1)))
        return tuple(found)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what it takes to go on to one file, whole or not at all; see `Model.load_run`.

        Raises:
          InputError: it is a run of the reference evaluator, which has no files.
          OSError: the file can't be written.
        """
        if self.keeper is None:
            raise InputError("save: a run of the reference evaluator has no file; save a model's")
        self.keeper(self, path)

    def _own(self, array: Array) -> Array:
        return array if self.batched else cast(Array, array[0])

    def __repr__(self) -> str:
        """One line."""
        ends = "halted" if np.all(self.halted) else "waiting" if np.any(self.waiting) else "going"
        return f"Run({np.max(self.steps)} instructions, {ends})"


# Writes a run to a file.
Keeper: TypeAlias = Callable[[Run[S], str | os.PathLike[str]], None]

# ---------------------------------------------------------------- keys


def keys_of(wiring: Wiring, stdin: object, machines: int, batched: bool) -> tuple[Array, ...]:
    """The keys of each machine.

    Args:
      wiring: of the loop.
      stdin: bytes, for every machine the same; or of a batch a list with those of each.
      machines: how many.
      batched: whether they are a batch.

    Raises:
      InputError: something else, or the program reads none, or one that its input can't hold.
    """
    several = batched and isinstance(stdin, list | tuple)
    given = list(cast("Sequence[object]", stdin)) if several else [stdin] * machines
    if len(given) != machines or not all(isinstance(one, bytes | bytearray) for one in given):
        wanted = f"bytes, or a list with those of each of {machines}" if batched else "bytes"
        raise InputError(f"loop: stdin must be {wanted}, got {shown(stdin)}")
    keys = [np.frombuffer(cast(bytes, one), np.uint8) for one in given]
    seen = sorted({int(key) for each in keys for key in each})
    if seen and wiring.key is None:
        raise InputError("loop: the program reads no keys, and stdin has some; leave it out")
    if wiring.key is not None:
        name, kind = wiring.types[wiring.key]
        try:
            values = np.array(seen or [0])
            kind.check(values if isinstance(kind, Token) else values[:, None].astype(float), name)
        except InputError as error:
            raise InputError(f"loop: stdin has a key that is no legal input: {error}") from None
    return tuple(each.astype(np.float64) for each in keys)


def keys_read(feedback: Feedback, keys: Sequence[Array], outputs: Array) -> Array:
    """(batch, tokens) the key that each token of outputs (batch, tokens, outputs) read ahead."""
    taken = np.asarray(outputs[..., cast("tuple[str, int]", feedback.keys)[1]] == 1, np.int64)
    before = np.cumsum(taken, axis=1) - taken
    return np.stack([np.append(own, np.zeros(1))[np.minimum(at, len(own))]
                     for own, at in zip(keys, before, strict=True)])  # fmt: skip
