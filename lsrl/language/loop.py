"""Loops: a program, or a network of it, whose outputs are its next input.

Whoever carries a program out is an `Engine`: the reference evaluator here, a network in
`lsrl.looping`. All else is one: which keys are there, who stops when, what was said and written.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar, final

import numpy as np
from numpy.typing import ArrayLike

from lsrl import arguments
from lsrl.arguments import choice
from lsrl.errors import InputError, PromiseError
from lsrl.ir.arithmetic import Floats, Numbers, Rationals
from lsrl.ir.evaluate import float64_is_exact
from lsrl.ir.graph import Graph
from lsrl.ir.incremental import Evaluator, Moment
from lsrl.ir.numbers import Array
from lsrl.ir.types import check_inputs
from lsrl.language.feedback import Feedback, MemoryMap
from lsrl.language.run import Ahead, Record, Run, Wiring, keys_of

S = TypeVar("S")  # of an engine
K = TypeVar("K")  # of a run


class Stretch(NamedTuple, Generic[S]):
    """What came of some tokens of some machines.

    Attributes:
      state: after them; of a machine that waits, before the token that it can't read.
      pending: what the next token reads.
      outputs: (machines, tokens, outputs), as many as were asked for.
      done: (machines,) tokens that each has read.
      halted: (machines,) bool.
      waiting: (machines,) bool, which of them want a key that is not there.
    """

    state: S
    pending: tuple[Array, ...]
    outputs: Array
    done: Array
    halted: Array
    waiting: Array


class Engine(Protocol[S]):
    """What carries out the tokens of machines, side by side.

    Attributes:
      most: tokens at a time.
    """

    most: int

    def read(self, state: S, inputs: Sequence[Array]) -> S:
        """The state after tokens (machines, time, ...), whose outputs are no matter."""

    def advance(self, state: S, ahead: Ahead, live: Array, count: int) -> Stretch[S]:
        """Let machines run for so many tokens, until they stop.

        Args:
          state: before them.
          ahead: what they read.
          live: (machines,) bool; others stay as they are.
          count: of tokens, at most `most`.
        """

    def picked(self, state: S, machines: Array) -> S:
        """The state of some machines, by number."""

    def joined(self, states: Sequence[S], order: Array) -> S:
        """The states of several groups of machines as one, in an order of them all."""


# ---------------------------------------------------------------- what is asked for

LOOP_OPTIONS = ("steps", "until", "stdin", "state")


class Asked(NamedTuple, Generic[K]):
    """A loop that was asked for, checked as far as the program can tell.

    Attributes:
      wiring: of the loop.
      prompt: per input (batch, time, ...); empty where a run goes on.
      run: to go on from.
      keys: of each machine, that were given now.
      batched: whether it is a batch of machines.
      steps: instructions at most.
    """

    wiring: Wiring
    prompt: tuple[Array, ...]
    run: Run[K] | None
    keys: tuple[Array, ...]
    batched: bool
    steps: int

    @property
    def machines(self) -> int:
        """How many run side by side."""
        return len(self.keys)


def requested(
    wiring: Wiring, prompt: Sequence[ArrayLike | Run[K]], steps: object, stdin: object
) -> Asked[K]:
    """What a caller asks for.

    Raises:
      InputError: says what is wrong with it.
    """
    steps = arguments.count("loop: steps", steps)
    if len(prompt) == 1 and isinstance(prompt[0], Run):
        run = prompt[0]
        if run.wiring._replace(until=wiring.until) != wiring:
            raise InputError("loop: expected a run of this program, got one of another")
        keys = keys_of(wiring, stdin, len(run.record.steps), run.batched)
        return Asked(wiring, (), run, keys, run.batched, steps)
    arrays, batched = check_inputs(dict(wiring.types), prompt, None)
    keys = keys_of(wiring, stdin, len(arrays[0]), batched)
    return Asked(wiring, tuple(arrays), None, keys, batched, steps)


def check_length(asked: Asked[K], position: int, limit: int | None) -> int:
    """How many tokens there are in all, if no machine stops by itself.

    Args:
      asked: the loop.
      position: how many were read before.
      limit: the program's max_length.

    Raises:
      InputError: more than the limit.
    """
    prompt = asked.prompt[0].shape[1] - 1 if asked.prompt else 0
    length = position + prompt + asked.steps
    if limit is not None and length > limit:
        read = f"{position} tokens are read, " if position else ""
        more = f"a prompt of {prompt + 1} and " if asked.prompt else ""
        raise InputError(
            f"loop: {read}{more}steps={asked.steps} exceed max_length={limit}; ask for at most "
            f"{max(limit - length + asked.steps, 0)} steps, or declare a larger one in "
            "@lsrl.program"
        )
    return length


def carried_out(engine: Engine[S], state: S, asked: Asked[K]) -> tuple[S, Record]:
    """Carry out a loop that was asked for, from a state.

    Raises:
      PromiseError: an instruction breaks a promise of the program; says which.
    """
    if asked.run is None:
        state, record = begun(engine, state, asked.wiring, asked.prompt, asked.keys)
    else:
        record = asked.run.record
        keys = [np.concatenate(own) for own in zip(record.ahead.keys, asked.keys, strict=True)]
        record = record._replace(ahead=record.ahead._replace(keys=tuple(keys)))
    return gone_on(engine, state, asked.wiring, record, asked.steps)


# ---------------------------------------------------------------- the loop


def begun(
    engine: Engine[S], state: S, wiring: Wiring, prompt: Sequence[Array], keys: tuple[Array, ...]
) -> tuple[S, Record]:
    """Read a prompt (batch, time, ...) but for its last token, which is the first instruction."""
    told = tuple(array[:, :-1] for array in prompt)
    if told[0].shape[1]:
        state = engine.read(state, told)
    ahead = Ahead(tuple(array[:, -1] for array in prompt), keys)
    batch, memory = len(prompt[0]), wiring.feedback.memory
    cells, nothing = np.zeros((batch, 0, 1)), np.zeros(batch, np.int64)
    if memory is not None:
        first, last = memory.values
        cells = np.full((batch, memory.cells, last - first), memory.initial)
        _write(memory, cells, prompt[wiring.fed], nothing + prompt[0].shape[1], wiring)
    outputs = np.zeros((batch, 0, wiring.width))
    none = nothing > 0
    return state, Record(
        told, ahead, outputs, nothing, none, none, nothing, (b"",) * batch, cells, ahead
    )


def gone_on(
    engine: Engine[S], state: S, wiring: Wiring, before: Record, steps: int
) -> tuple[S, Record]:
    """Let machines run until they stop, or for so many instructions more.

    Args:
      engine: what carries them out.
      state: of all machines.
      wiring: of the loop.
      before: what they did, with the keys that are there now ahead.
      steps: of each machine, at most.

    Raises:
      PromiseError: an instruction breaks a promise of the program; says which.
    """
    course = _Course(engine, state, wiring, before)
    count = 0
    while course.live.any() and count < steps:
        tokens = min(engine.most, steps - count)
        course.advance(tokens)
        count += tokens
    return course.end()


class _Course(Generic[S]):
    """Machines on their way: those that stop are dropped where half of them have stopped."""

    def __init__(self, engine: Engine[S], state: S, wiring: Wiring, before: Record) -> None:
        """All of them, but for those that had halted."""
        self.engine, self.state, self.wiring, self.before = engine, state, wiring, before
        batch = len(before.steps)
        self.pending = [np.array(array) for array in before.ahead.pending]
        self.keys = list(before.ahead.keys)
        self.done, self.waiting = np.zeros(batch, np.int64), np.zeros(batch, bool)
        self.halted = before.halted & wiring.halts
        self.parts: list[Array] = []
        self.dropped: list[tuple[Array, S]] = []
        self.rows = np.arange(batch)
        self.live = ~self.halted
        self.drop()

    def advance(self, tokens: int) -> None:
        """Let those that are alive run for so many tokens."""
        rows, live = self.rows, self.live
        ahead = Ahead(tuple(p[rows] for p in self.pending), tuple(self.keys[i] for i in rows))
        try:
            made = self.engine.advance(self.state, ahead, live, tokens)
        except PromiseError as error:
            machine = int(rows[error.sequence])
            number = int(self.before.steps[machine] + self.done[machine]) + 1
            which = "" if len(self.done) == 1 else f" of machine {machine}"
            text = f"loop, instruction {number}{which}: {error}"
            raise PromiseError(text, error.keeper, machine, error.token) from None
        self.state = made.state
        done = np.where(live, made.done, 0)
        ran = np.arange(tokens) < done[:, None]
        part = np.zeros((len(self.done), tokens, self.wiring.width), made.outputs.dtype)
        part[rows] = np.where(ran[..., None], made.outputs, 0)
        self.parts.append(part[:, : done.max()])
        pairs = zip(self.pending, made.pending, strict=True)
        self.pending = [_with_rows(own, rows, now) for own, now in pairs]
        if self.wiring.feedback.keys is not None:
            taken = ran & (made.outputs[..., self.wiring.feedback.keys[1]] == 1)
            for machine, count in zip(rows.tolist(), taken.sum(axis=1).tolist(), strict=True):
                self.keys[machine] = self.keys[machine][count:]
        self.done[rows] += done
        self.halted[rows] |= made.halted & live
        self.waiting[rows] |= made.waiting & live
        self.live = live & ~made.halted & ~made.waiting
        if self.live.sum() <= len(rows) // 2:
            self.drop()

    def drop(self) -> None:
        """Set those that have stopped aside, so that they cost nothing more."""
        if self.live.all():
            return
        away = np.flatnonzero(~self.live)
        self.dropped.append((self.rows[away], self.engine.picked(self.state, away)))
        left = np.flatnonzero(self.live)
        self.state = self.engine.picked(self.state, left)
        self.rows, self.live = self.rows[left], self.live[left]

    def end(self) -> tuple[S, Record]:
        """The state of all machines, and what they did."""
        state, before, wiring = self.state, self.before, self.wiring
        if self.dropped:
            groups = [*self.dropped, *([(self.rows, state)] if len(self.rows) else [])]
            order = np.argsort(np.concatenate([rows for rows, _ in groups]))
            state = self.engine.joined([part for _, part in groups], order)
        empty = np.zeros((len(self.done), 0, wiring.width), before.outputs.dtype)
        outputs = np.concatenate(self.parts, axis=1) if self.parts else empty
        cells, memory = before.cells.copy(), wiring.feedback.memory
        if memory is not None:
            _write(memory, cells, outputs, self.done)
        said = _said(wiring.feedback, outputs, self.done)
        text = tuple(old + new for old, new in zip(before.text, said, strict=True))
        start = before.ahead
        told = before.told
        if before.outputs.shape[1] or before.steps.any():
            told = tuple(array[:, :0] for array in told)
        return state, Record(
            told, start, outputs, self.done, self.halted, self.waiting, before.steps + self.done,
            text, cells, Ahead(tuple(self.pending), tuple(self.keys)),
        )  # fmt: skip


def _write(
    memory: MemoryMap, cells: Array, rows: Array, done: Array, prompt: Wiring | None = None
) -> None:
    """Carry out the writes of rows (batch, tokens, ...), of which so many are each machine's.

    Args:
      memory: what they write.
      cells: (batch, cells, values), which change.
      rows: outputs; or of a prompt the input that is fed.
      done: (batch,).
      prompt: the wiring, if rows are those of a prompt.
    """
    offset = 0 if prompt is None else prompt.feedback.output[0]
    rows = rows if rows.ndim == 3 else rows[..., None]
    places = memory.places(np.rint(rows[..., memory.address - offset].astype(np.float64)))
    written = (places >= 0) & (np.arange(rows.shape[1]) < done[:, None])
    if memory.where is not None:
        written &= np.asarray(rows[..., memory.where[0] - offset] == memory.where[1], bool)
    machine, token = np.nonzero(written)
    first, last = memory.values
    # Of several writes to one cell the last stays, since they come in the order of the tokens.
    cells[machine, places[machine, token]] = rows[machine, token, first - offset : last - offset]


def _said(feedback: Feedback, outputs: Array, done: Array) -> list[bytes]:
    """What each machine says."""
    if feedback.text is None:
        return [b""] * len(outputs)
    output, nothing = feedback.text
    said = np.asarray(outputs[..., output] != nothing, bool)
    said &= np.arange(outputs.shape[1]) < done[:, None]
    return [bytes(round(code) % 256 for code in own[at, output].tolist())
            for own, at in zip(outputs, said, strict=True)]  # fmt: skip


def _with_rows(own: Array, rows: Array, now: Array) -> Array:
    """Other rows of what is read next; rationals stay what they are, which floats would round."""
    if now.dtype == object != own.dtype:
        own = Rationals().converted(own)
    own[rows] = now
    return own


# ---------------------------------------------------------------- the reference


@final
class Reference(Engine[Moment[Array]]):
    """The incremental evaluator as an engine: each token checked, in any arithmetic."""

    most = 1

    def __init__(self, graph: Graph, wiring: Wiring, numbers: Numbers, tokens: int) -> None:
        """Of a program, over so many tokens."""
        self._wiring, self._graph = wiring, graph
        self._evaluator: Evaluator[Array] = Evaluator(graph, numbers, tokens=tokens)

    def start(self, machines: int) -> Moment[Array]:
        """Before the first token."""
        return self._evaluator.start((machines,))

    def read(self, state: Moment[Array], inputs: Sequence[Array]) -> Moment[Array]:
        """The state after tokens (machines, time, ...)."""
        for token in range(inputs[0].shape[1]):
            _, state = self._evaluator.advance(state, [array[:, token] for array in inputs])
        return state

    def advance(
        self, state: Moment[Array], ahead: Ahead, live: Array, count: int
    ) -> Stretch[Moment[Array]]:
        """One token; there are none that have stopped."""
        wiring, pending = self._wiring, list(ahead.pending)
        if wiring.key is not None:
            keys = np.array([own[0] if len(own) else 0.0 for own in ahead.keys])
            pending[wiring.key] = keys.astype(pending[wiring.key].dtype).reshape(
                pending[wiring.key].shape
            )
        values, after = self._evaluator.advance(state, pending)
        outputs = values[self._graph.output]
        waiting = np.zeros(len(outputs), bool)
        if wiring.feedback.keys is not None:
            none = np.array([not len(own) for own in ahead.keys])
            waiting = none & np.asarray(outputs[:, wiring.feedback.keys[1]] == 1, bool)
        if waiting.any():
            machines = np.arange(len(outputs))
            groups = [self.picked(after, machines[~waiting]), self.picked(state, machines[waiting])]
            order = np.argsort(np.concatenate([machines[~waiting], machines[waiting]]))
            after = self.joined(groups, order)
        following = [
            np.where(waiting.reshape(-1, *[1] * (old.ndim - 1)), old, new)
            for old, new in zip(ahead.pending, wiring.next(outputs), strict=True)
        ]
        halted = np.asarray(wiring.stops(outputs), bool) & ~waiting
        return Stretch(
            after, tuple(following), outputs[:, None], (~waiting).astype(np.int64), halted, waiting
        )

    def picked(self, state: Moment[Array], machines: Array) -> Moment[Array]:
        """The state of some machines, by number."""
        memories = {i: tuple(part[machines] for part in own) for i, own in state.memories.items()}
        return Moment(state.tokens[machines], state.legal[machines], memories)

    def joined(self, states: Sequence[Moment[Array]], order: Array) -> Moment[Array]:
        """The states of several groups of machines as one."""

        def together(parts: Sequence[Array]) -> Array:
            return np.concatenate(parts)[order]

        memories = {
            i: tuple(map(together, zip(*(state.memories[i] for state in states), strict=True)))
            for i in states[0].memories
        }
        return Moment(
            together([state.tokens for state in states]),
            together([state.legal for state in states]),
            memories,
        )


def numbers_for(graph: Graph, tokens: int, exact: bool, dtype: object) -> Numbers:
    """The arithmetic that a loop of the reference is asked for.

    Args:
      graph: the program.
      tokens: how many there are at most.
      exact: rationals.
      dtype: "float32" or "float64"; None: float64 where that is proven exact, else rationals.

    Raises:
      InputError: another dtype, or rationals of one.
    """
    if dtype is not None:
        given = getattr(dtype, "name", getattr(dtype, "__name__", dtype))
        name = choice("loop: dtype", given, ("float32", "float64"))
        if exact:
            raise InputError(
                f"loop: exact=True is rationals, and dtype={name!r} is not; choose one"
            )
        return Floats(np.dtype(name))
    # Facts only grow with the length, and those of the greatest are known.
    known = float64_is_exact(graph, graph.tokens) or float64_is_exact(graph, tokens)
    return Rationals() if exact or not known else Floats()
