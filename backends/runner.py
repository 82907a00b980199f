"""Exact networks run by events: as an engine of loops, and token by token from state to state.

It gives what the network gives, bit for bit, *because* its certificate says that the order of sums
makes no difference; so never without one.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import NamedTuple, TypeVar, final

import jax
import numpy as np

from lsrl.backends.machines import Course, Machine, Wired, Wires
from lsrl.backends.network import Network
from lsrl.backends.reader import ParameterReader
from lsrl.backends.units import GRU, LSTM
from lsrl.errors import SelfTestError
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token
from lsrl.language.feedback import COMPARISONS, Feedback
from lsrl.language.loop import Engine, Stretch
from lsrl.language.run import Ahead, Wiring
from lsrl.numerics import numerics_of
from lsrl.pytrees import Tree

Made = TypeVar("Made")
# Tokens of a stretch, of one machine and of several.
MOST_ALONE, MOST_TOGETHER = 1 << 15, 1 << 11
# Entries of its parameters from which on a network runs faster by events in plain Python.
PLAIN_FROM = 1 << 20
# Units of a layer up to which it is asked whether whole sequences are faster unit by unit.
MOST_SWEPT = 128
# One token in and one out.
IDS = Wiring(Feedback("id", 0), (("id", Token(2**31)),), 1)


class Ready(NamedTuple):
    """What there is to run a network by events.

    Attributes:
      wired: its units; None if it can't be.
      why_not: in words; "" if it can be.
    """

    wired: Wired | None
    why_not: str


class _Begun(NamedTuple):
    """The initial state of one sequence, as it is and as rows of a sweep, if it may run so."""

    wired: Wired
    hidden: Tree
    rows: Array | None


@final
class Runner:
    """A model's network as units, made anew where its weights change, and machines on their way.

    For copies of a model it is nothing: each makes its own.
    """

    def __init__(self) -> None:
        self._reader: ParameterReader[Ready] = ParameterReader()
        self._sized: tuple[Network, bool, bool] | None = None
        self._begun: _Begun | None = None
        self.tokens = self.work = 0

    def __deepcopy__(self, memo: object) -> "Runner":
        return Runner()

    def pays(self, network: Network) -> bool:
        """Whether a network runs faster by events: compiled always, in plain Python a large one."""
        return self._size(network)[1]

    def sweeps(self, network: Network) -> bool:
        """Whether its units are of a kind to run one by one over whole sequences, and few.

        That does not change; to ask the network takes as long as a short run.
        """
        return self._size(network)[2]

    def _size(self, network: Network) -> tuple[Network, bool, bool]:
        if self._sized is None or self._sized[0] is not network:
            compiled = importlib.import_module("lsrl.backends.events").COMPILED
            pays = compiled or network.num_parameters >= PLAIN_FROM
            self._sized = network, pays, network.sweeps and network.width <= MOST_SWEPT
        return self._sized

    def forget(self) -> None:
        """Ask again what there is to run by events."""
        self._reader = ParameterReader()

    def ready(self, network: Network, why_not: Callable[[], str]) -> Ready:
        """The units of a network, unless something stands against it, which is asked only once."""

        def made() -> Ready:
            reason = why_not()
            stack = None if reason else network.stack()
            if stack is None:
                return Ready(None, reason or "its cell has no events")
            gates = stack.cell.kind in (LSTM, GRU)
            if gates and network.dtype != "float32":
                return Ready(None, "its gates run by events in float32 alone")
            if gates and different_activations():
                return Ready(None, "this machine's activations differ from those of events")
            return Ready(Wired(stack, network.dtype), "")

        return self._reader.read(network, made)

    def self_test(self, network: Network) -> None:
        """Check that activations, where the cells have any, are what jax makes of the same numbers.

        Raises:
          SelfTestError: says where they differ.
        """
        stack = network.stack()
        if stack is None or stack.cell.kind not in (LSTM, GRU) or network.dtype != "float32":
            return
        difference = different_activations()
        if difference:
            raise SelfTestError(difference)

    def going(self, network: Network, state: "Left") -> "Going | None":
        """The machines that are at a state, if the network has not changed since.

        They are kept there no longer: whoever takes them goes on.
        """
        going, ready = state.going, self._reader.held(network)
        if ready is None or ready.wired is not going.wired or going.kept is not self:
            return None
        return going if going.leaves(state) else None

    def generate(self, wired: Wired, hidden: Tree, inputs: Sequence[Array], steps: int) -> Array:
        """Continue prompts.

        Args:
          wired: of `ready`.
          hidden: the state before them.
          inputs: one token input, ids (batch, time).
          steps: how many tokens to add.

        Returns:
          int64 (batch, steps).
        """
        batch = len(inputs[0])
        engine = EventEngine(wired)
        machines = engine.start(hidden)
        rows = engine.outputs(machines, inputs)
        ids = np.rint(rows[:, -1, :1]).astype(np.int64)
        found, alive = [ids], np.ones(batch, bool)
        while (left := steps - sum(part.shape[1] for part in found)) > 0:
            ahead = Ahead((found[-1][:, -1],), (np.zeros(0),) * batch)
            made = engine.advance(machines, ahead, alive, min(left, engine.most))
            found.append(np.rint(made.outputs[..., 0]).astype(np.int64))
        self.count(machines)
        return np.concatenate(found, axis=1)

    def whole(
        self, network: Network, wired: Wired, hidden: Tree | None, inputs: Sequence[Array],
        with_state: bool,
    ) -> tuple[Array, Tree]:  # fmt: skip
        """Run whole sequences.

        Args:
          network: that runs.
          wired: of `ready`.
          hidden: the state before them, arrays (batch, ...); the initial one if None.
          inputs: per program input ids (batch, time) or vectors (batch, time, width).
          with_state: whether the last state is wanted; else it is ().

        Returns:
          (batch, time, outputs) and the state after the last token.
        """
        begun = self._first(network, wired)
        given = begun.hidden if hidden is None else hidden
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(given)]
        batch, structure = len(inputs[0]), jax.tree.structure(given)
        rows, sweep = begun.rows, wired.sweep
        if rows is not None and sweep is not None:
            rows = rows if hidden is None else sweep.started(leaves)
            outputs, after = sweep.run(inputs, rows, _cores(), with_state)
            self.tokens += outputs[..., 0].size
            self.work += wired.units.count * outputs[..., 0].size
            return outputs, jax.tree.unflatten(structure, after) if with_state else ()
        engine = EventEngine(wired, machines=batch)
        wide = [np.broadcast_to(leaf, (batch, *leaf.shape[1:])) for leaf in leaves]
        machines = engine.start(jax.tree.unflatten(structure, wide))
        outputs = engine.outputs(machines, inputs)
        self.count(machines)
        return outputs, engine.finish(machines, structure) if with_state else ()

    def hooks(
        self, network: Network, wired: Wired, inputs: Sequence[Array],
        watched: tuple[tuple[int, ...], ...],
    ) -> Array | None:  # fmt: skip
        """Entries of hooks (batch, time, entries) float64; None if they don't run by sweeps.

        Args:
          network: that runs.
          wired: of `ready`.
          inputs: per program input ids (batch, time) or vectors (batch, time, width).
          watched: of each hook, that of the input map first: which entries.
        """
        sweep = wired.watching(watched)
        if sweep is None:
            return None
        rows = sweep.started(jax.tree.leaves(self._first(network, wired).hidden))
        return sweep.run(inputs, rows, _cores(), False, np.float64)[0]

    def _first(self, network: Network, wired: Wired) -> "_Begun":
        """The initial state, which jax would make anew each time."""
        if self._begun is None or self._begun.wired is not wired:
            with network.mode():
                hidden = jax.tree.map(np.asarray, network.init_state((1,)))
            sweep = wired.sweep if wired.compiled else None
            rows = None if sweep is None else sweep.started(jax.tree.leaves(hidden))
            self._begun = _Begun(wired, hidden, rows)
        return self._begun

    def count(self, machines: Sequence[Machine]) -> None:
        """Take the units into account that machines looked at."""
        self.tokens += sum(machine.tokens for machine in machines)
        self.work += sum(machine.work for machine in machines)


@final
class Left:
    """The state that machines were at behind a token; they themselves are, until they go on.

    Attributes:
      going: the machines.
      number: of the state, among theirs.
    """

    __slots__ = ("_rows", "going", "number")

    def __init__(self, going: "Going", rows: Array, number: int) -> None:
        """Of rows that hold it, one a machine."""
        self.going, self._rows, self.number = going, rows, number

    def tree(self) -> Tree:
        """As the network has it."""
        return self.going.shape.of(self._rows)


@final
class Going:
    """Machines that go on from step to step, with all that a step takes made once.

    Attributes:
      kept: whose they are.
      wired: their units.
      most: tokens up to which they may.
      runner: that was asked for.
      shape: of their state.
    """

    def __init__(self, kept: Runner, wired: Wired, hidden: Tree, most: float, runner: str) -> None:
        """Take up a state, arrays (batch, ...)."""
        self.kept, self.wired, self.most, self.runner = kept, wired, most, runner
        self.shape = _Leaves(wired, jax.tree.structure(hidden))
        self._entries = wired.units.entries
        # The number of the state that they are at, until one takes them from there: of two threads
        # one gets it.
        self._at: dict[int, bool] = {}
        self._steps = 0
        machines = EventEngine(wired).start(hidden)
        count = len(machines)
        # What machines read and write, each its row.
        self._given = np.zeros((count, len(wired.units.slots)))
        self._outputs, self._row = wired.rows(count), self.shape.room(count)
        parts = [(slice(i, i + 1), self._row[i]) for i in range(count)]
        self._turners = [
            machine.turner(self._given[own], self._outputs[own], row)
            for machine, (own, row) in zip(machines, parts, strict=True)
        ]

    def leaves(self, state: Left) -> bool:
        """Whether they were at a state, where they are no longer."""
        return self._at.pop(state.number, False)

    def step(self, inputs: Sequence[Array]) -> tuple[Array, Left]:
        """One token of all sequences.

        Args:
          inputs: per program input ids (batch,) or vectors (batch, width).

        Returns:
          (batch, outputs) and the next state.
        """
        given, kept = self._given, self.kept
        for places, number in self._entries:
            given[:, places] = inputs[number]
        for turner in self._turners:
            kept.work += turner()
        kept.tokens += len(given)
        self._steps = number = self._steps + 1
        self._at[number] = True
        return self._outputs.copy(), Left(self, self._row.copy(), number)


@final
class _Leaves:
    """The state of a network, whose arrays lie one after another in a row of each machine."""

    def __init__(self, wired: Wired, structure: jax.tree_util.PyTreeDef) -> None:
        """Of a structure."""
        self._wired, self._structure = wired, structure
        self._places = [(slice(None), slice(*ends)) for ends in pairwise(wired.ends)]
        self._flat = structure == jax.tree.structure((0,) * len(self._places))

    def room(self, machines: int) -> Array:
        """Rows for so many machines."""
        return np.empty((machines, self._wired.ends[-1]), self._wired.number)

    def of(self, rows: Array) -> Tree:
        """That of rows, which nobody can change from now on: machines may be kept at it."""
        rows.setflags(write=False)
        leaves = tuple(map(rows.__getitem__, self._places))
        return leaves if self._flat else jax.tree.unflatten(self._structure, leaves)


@final
class EventEngine(Engine[list[Machine]]):
    """Machines of one network, each in its own time; in threads where the engine is compiled."""

    def __init__(self, wired: Wired, wiring: Wiring = IDS, machines: int = 1) -> None:
        """Of units, as outputs become inputs."""
        self._wired, self._wiring = wired, wiring
        self.most = MOST_ALONE if machines == 1 else MOST_TOGETHER
        self._wires: Wires | None = None

    def start(self, hidden: Tree) -> list[Machine]:
        """Machines at a network's state, arrays (batch, ...)."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(hidden)]
        found: list[Machine] = []
        axes = [tuple(range(1, leaf.ndim)) for leaf in leaves]
        pairs = zip(leaves, axes, strict=True)
        same = np.all([(leaf[1:] == leaf[:-1]).all(axis=rest) for leaf, rest in pairs], axis=0)
        for number, own in enumerate(zip(*leaves, strict=True)):
            if number and same[number - 1]:
                found.append(found[-1].copy())
            else:
                found.append(Machine(self._wired, own))
        return found

    def finish(self, machines: Sequence[Machine], structure: jax.tree_util.PyTreeDef) -> Tree:
        """The state of a network, of the structure, that machines are at."""
        leaves = _Leaves(self._wired, structure)
        rows = leaves.room(len(machines))
        for machine, row in zip(machines, rows, strict=True):
            machine.told(row)
        return leaves.of(rows)

    def read(self, state: list[Machine], inputs: Sequence[Array]) -> list[Machine]:
        """The state after tokens (machines, time, ...)."""
        self.outputs(state, inputs)
        return state

    def outputs(self, state: list[Machine], inputs: Sequence[Array]) -> Array:
        """(machines, time, outputs) of tokens (machines, time, ...)."""
        given = self._wired.units.numbers(inputs, 2)
        return np.stack(self._each(lambda i: state[i].follow(given[i]), len(state)))

    def advance(
        self, state: list[Machine], ahead: Ahead, live: Array, count: int
    ) -> Stretch[list[Machine]]:
        """Let machines run for so many tokens, until they stop."""
        engine, wiring = self._wired.engine, self._wiring
        wires = self._wires = self._wires or wires_of(self._wired, wiring)
        first = self._wired.units.numbers(ahead.pending, 1)
        outputs = self._wired.rows(len(state), count)

        def one(i: int) -> Course:
            if not live[i]:
                return Course(0, engine.WENT_ON)
            return state[i].advance(wires, first[i], ahead.keys[i], outputs[i])

        courses = self._each(one, len(state))
        done = np.array([course.done for course in courses], np.int64)
        ending = np.array([course.ending for course in courses])
        last = outputs[np.arange(len(done)), np.maximum(done - 1, 0)]
        pending = tuple(
            np.where((done > 0).reshape(-1, *[1] * (old.ndim - 1)), new, old).astype(old.dtype)
            for old, new in zip(ahead.pending, wiring.next(last), strict=True)
        )
        halted, waiting = ending == engine.HALTED, ending == engine.WAITING
        return Stretch(state, pending, outputs, done, halted, waiting)

    def picked(self, state: list[Machine], machines: Array) -> list[Machine]:
        """Some machines, by number."""
        return [state[i] for i in machines.tolist()]

    def joined(self, states: Sequence[list[Machine]], order: Array) -> list[Machine]:
        """Several groups of machines as one."""
        together = [machine for state in states for machine in state]
        return [together[i] for i in order.tolist()]

    def _each(self, run: Callable[[int], Made], count: int) -> list[Made]:
        if count == 1 or not self._wired.compiled:
            return [run(i) for i in range(count)]
        with ThreadPoolExecutor(min(_cores(), count)) as pool:
            return list(pool.map(run, range(count)))


@cache
def different_activations() -> str:
    """Where an activation of the engine is not jax's to the bit; "" if nowhere.

    Of the numbers that exact cells come by: tanh of small and of large ones, sigmoids far from 0.
    """
    engine, numerics = importlib.import_module("lsrl.backends.events"), numerics_of("float32")
    small = numerics.linear * 2.0 ** -(np.arange(200) / 8.0)
    large = numerics.shut * 2.0 ** (np.arange(60) / 4.0)
    far = numerics.gate * 2.0 ** (np.arange(60) / 4.0)
    for name, theirs, sizes in (
        ("tanh", jax.nn.tanh, np.concatenate([[0.0], small, large])),
        ("sigmoid", jax.nn.sigmoid, far),
    ):
        values = np.concatenate([sizes, -sizes]).astype(np.float32)
        mine = np.array([getattr(engine, name)(x) for x in values.tolist()], np.float32)
        wrong = np.flatnonzero(mine != np.asarray(jax.jit(theirs)(values)))
        if len(wrong):
            return f"{name} of {values[wrong[0]]} by events is not what jax makes of it"
    return ""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wires_of(wired: Wired, wiring: Wiring) -> Wires:
    """How outputs become inputs, as the engine takes it."""
    units, feedback = wired.units, wiring.feedback
    slots = units.slots
    start, stop = feedback.output
    told = np.array([start, 0, 0, 0, -1, -1, -1, 0], np.int64)
    fed = [number for number, slot in enumerate(slots) if slot.input == wiring.fed]
    if fed:
        told[1:4] = stop - start, fed[0], slots[fed[0]].token
    if feedback.keys is not None:
        keys = [number for number, slot in enumerate(slots) if slot.input == wiring.key]
        told[4], told[5] = keys[0] if keys else -1, feedback.keys[1]
    number = 0.0
    if wiring.halts and feedback.halt is not None:
        told[6], told[7] = feedback.halt[0], list(COMPARISONS).index(feedback.halt[1])
        number = feedback.halt[2]
    resting = feedback.resting(dict(wiring.types))
    rest = units.numbers(
        [np.asarray(resting[name], np.float64)[None] for name, _ in wiring.types], 1
    )
    return Wires(told, float(number), rest[0])
