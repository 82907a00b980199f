"""Machines at work inside a network: prompts, traces, single steps and breakpoints."""

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar, cast, final

import numpy as np
from numpy.typing import ArrayLike

from lsrl.arguments import instance, shown
from lsrl.errors import BoundsError, InputError
from lsrl.ir.numbers import Array
from lsrl.language.feedback import Halt
from lsrl.language.program import Program
from lsrl.language.run import Run
from lsrl.machine.checks import check_going, one_line
from lsrl.machine.fleq import Fleq, FleqImage, FleqStep
from lsrl.machine.fleq_bus import FleqBus
from lsrl.machine.image import Image
from lsrl.machine.subleq import Step, Subleq
from lsrl.machine.subleq_bus import SubleqBus
from lsrl.machine.subleq_words import SubleqWords

if TYPE_CHECKING:
    from lsrl.model import Model

S = TypeVar("S")
# Instructions that go on at a time, whose outputs are held; and between the first looks for a
# breakpoint, behind which none is done.
MOST, LOOK = 65_536, 512


Subject: TypeAlias = "Program | Model"


class Looping(Protocol[S]):
    """What runs in a loop: a program or a model."""

    def loop(
        self,
        *prompt: ArrayLike | Run[S],
        steps: int,
        until: str = ...,
        stdin: bytes | Sequence[bytes] = ...,
    ) -> Run[S]:
        """Go on for so many instructions."""


class Machine(Protocol):
    """A machine at some instruction, in plain Python or inside a network.

    Example:
      def last(at_work: machine.Machine) -> str:
          at_work.run()
          return str(at_work.trace(1)[0]) if not at_work.halted else "halted"
    """

    pc: int
    lost: int | None

    @property
    def steps(self) -> int:
        """How many instructions were done."""

    @property
    def text(self) -> bytes:
        """What was printed."""

    @property
    def halted(self) -> bool:
        """Whether it has stopped by itself."""

    @property
    def waiting(self) -> bool:
        """Whether the next instruction wants a key that is not there."""

    def dump(self) -> Array:
        """Every cell, in the order of the addresses."""

    def run(self, steps: int = ..., stdin: bytes = ..., *, stop: Collection[int] = ...) -> int:
        """Go on, and count the instructions."""

    def trace(
        self, steps: int = ..., stdin: bytes = ..., *, stop: Collection[int] = ...
    ) -> Sequence[Step | FleqStep]:
        """Go on, and tell what each instruction does."""


def program_of(subject: Subject) -> Program:
    """The program of a model, or itself.

    Raises:
      InputError: it is neither.
    """
    program = subject if isinstance(subject, Program) else getattr(subject, "program", subject)
    made_by = "lsrl.programs.subleq() and the like, or a model of one"
    return instance("a machine", program, Program, made_by)


def bus_of(subject: Subject) -> SubleqBus | FleqBus:
    """How a machine is spoken to.

    Raises:
      InputError: the program is no machine.
    """
    program = program_of(subject)
    bus = SubleqBus.of(program) or FleqBus.of(program)
    if bus is None:
        raise InputError(
            f"{program.name}: no machine with a bus: expected lsrl.programs.subleq(...) or "
            "lsrl.programs.fleq(...), or a model of one; lsrl.programs.subleq_lm(...) takes cards, "
            "one at a time, and no session"
        )
    return bus


def is_subleq(subject: Subject) -> bool:
    """Whether it is a SUBLEQ machine, whose runs can be told without an image."""
    program = program_of(subject)
    return (SubleqWords.of(program) or SubleqBus.of(program)) is not None


def spoken(subject: Subject) -> SubleqBus | FleqBus | SubleqWords:
    """How a machine is spoken to, in words too.

    Raises:
      InputError: the program is no machine.
    """
    return SubleqWords.of(program_of(subject)) or bus_of(subject)


def card(subject: Subject, memory: object, start: int = 0) -> tuple[Array, ...]:
    """The prompt of a memory image: each token writes a cell, and the last one starts the machine.

    Args:
      subject: such as lsrl.programs.subleq() or lsrl.programs.subleq_lm(), or a model of it.
      memory: the image: of `assemble`, a sequence of numbers from address 0 on, or a dict from
        address to number.
      start: where the first instruction stands.

    Returns:
      One array an input of the program, so that `model.loop(*card(model, image), steps=1000)` runs
      the image.

    Raises:
      InputError: the program is no machine, or the image does not fit its memory; an AssemblyError
        where the line is known.

    Example:
      model = lsrl.compile(lsrl.programs.subleq(cells=32, bits=8), "linear_rnn")
      run = model.loop(*machine.card(model, times.image(x=3, y=4)), steps=100)
      print(run.memory[17], run.steps)
    """
    program = program_of(subject)
    arrays = spoken(program).card(memory, start)
    return tuple(arrays[name] for name in program.inputs)


def cards(subject: Subject, memories: Sequence[object], start: int = 0) -> tuple[Array, ...]:
    """The prompts of several images, for a batch of machines: as those of `card`, of one length.

    Args:
      subject: as for `card`, but no language model.
      memories: one image a machine.
      start: where the first instruction of each stands.

    Returns:
      One array an input of the program, (machines, tokens, ...).

    Raises:
      InputError: as for `card`, or there is no image.

    Example:
      both = [times.image(x=3, y=4), times.image(x=2, y=2)]
      print(model.loop(*machine.cards(model, both), steps=100).memory[:, 17])
    """
    bus, names = bus_of(subject), program_of(subject).inputs
    several = isinstance(memories, Sequence | np.ndarray) and not isinstance(memories, str | bytes)
    if not several or len(memories) == 0:
        raise InputError(
            f"cards: expected a list of at least one image, one a machine, got {shown(memories)}; "
            "of one image, lsrl.machine.card makes the prompt"
        )
    tokens = max(len(card(subject, memory, start)[0]) for memory in memories)
    same = [bus.card(memory, start, tokens) for memory in memories]
    return tuple(np.stack([own[name] for own in same]) for name in names)


def interpret(
    subject: Subject,
    memory: object,
    start: int = 0,
    *,
    steps: int = 1_000_000,
    stdin: bytes = b"",
) -> Subleq | Fleq:
    """Run an image in plain Python, as the network of a program is to run it.

    Args:
      subject: as for `card`.
      memory: as for `card`.
      start: where the first instruction stands.
      steps: instructions at most; with 0 it is only loaded.
      stdin: the keys.

    Returns:
      The machine, as it is after the last instruction.

    Raises:
      InputError: as for `card`.

    Example:
      print(machine.interpret(model.program, times.image(x=3, y=4)).dump()[17])
    """
    machine = spoken(subject).plain(memory, start)
    machine.run(steps, stdin)
    return machine


def trace(
    subject: Subject,
    run: Run[S],
    image: Image | FleqImage | None = None,
    *,
    memory: ArrayLike | None = None,
    steps: int | None = None,
) -> list[Step] | list[FleqStep]:
    r"""What a run did, instruction by instruction.

    What an instruction wrote, and where it went, is as the network says; what it read is found by
    replay of the writes ahead of it.

    Args:
      subject: the program or the model that ran.
      run: of one machine; from a prompt, or from an earlier run on.
      image: that runs; for FLEQ, whose lines have names.
      memory: that of the earlier run, if this one went on from it.
      steps: how many instructions to tell, from the first on; all by default.

    Returns:
      One step an instruction.

    Raises:
      InputError: the run is of a batch, or it went on and memory is missing.
      BoundsError: an instruction answers what is no number.

    Example:
      print(machine.trace(model, run)[0])
    """
    instance("trace", run, Run, "loop")
    if run.wiring._replace(until="halt") != program_of(subject).wiring():
        raise InputError(f"trace: expected a run of {program_of(subject).name}, got one of another")
    if run.batched:
        raise InputError("trace: this run is of a batch of machines; run one of them alone")
    if memory is None and cast(int, run.steps) > len(run.outputs):
        raise InputError("trace: this run went on from an earlier one; pass memory=earlier.memory")
    bus, ahead = spoken(subject), ahead_of(run)
    first = loaded(subject, run)
    held = first if memory is None else np.asarray(memory)
    if held.shape != (own := first.shape):
        raise InputError(
            f"trace: memory must be that of the earlier run, {own} numbers, got {held.shape}"
        )
    count = len(run.outputs) if steps is None else min(steps * bus.pace, len(run.outputs))
    outputs = run.outputs[:count].astype(np.float64)
    broken = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(broken):
        number = broken[0] // bus.pace + 1
        raise BoundsError(
            f"trace: instruction {number} of this run answers what is no number, so a promise was "
            "broken there; loop(..., check=True) says which"
        )
    names = [name for name, _ in run.wiring.types]
    read = {name: each[: ahead + count] for name, each in zip(names, run.inputs, strict=True)}
    return bus.steps(read, outputs, held, image)


def ahead_of(run: Run[S]) -> int:
    """How many tokens of a run of one machine are ahead of the first that it answers."""
    return run.record.told[0].shape[1]


def loaded(subject: Subject, run: Run[S]) -> Array:
    """What every cell holds ahead of the first instruction of a run from a prompt."""
    record, names = run.record, [name for name, _ in run.wiring.types]
    pairs = zip(record.told, record.start.pending, strict=True)
    prompt = [np.concatenate([told[0], last]) for told, last in pairs]
    return spoken(subject).loaded(dict(zip(names, prompt, strict=True)))


@final
class Session(Generic[S]):
    """A machine inside a network, or in the reference evaluator, that is driven as `Subleq` is.

    Attributes:
      pc: where the next instruction stands.
      last: the loop's latest run, from which it goes on; None ahead of the first instruction. It
        holds the outputs of the last stretch alone.
      lost: the first address without a cell to which SUBLEQ wrote something, if any.

    Example:
      session = machine.Session(model, times.image(x=3, y=4))
      print(session.trace(1)[0])
    """

    def __init__(self, subject: Looping[S], memory: object, start: int = 0) -> None:
        """Load an image, as `card` does.

        Raises:
          InputError: as for `card`.
        """
        self.pc = start
        self.last: Run[S] | None = None
        self.lost: int | None = None
        self._image = memory
        self._looping, self._subject = subject, cast("Subject", subject)
        self._prompt = card(self._subject, memory, start)
        self._bus = bus_of(self._subject)
        self._plain = self._bus.plain(memory, start)

    def __repr__(self) -> str:
        """One line."""
        return one_line("Session", self.steps, self.halted, self.waiting)

    @property
    def halted(self) -> bool:
        """Whether it has stopped by itself."""
        return self.last is not None and bool(self.last.halted)

    @property
    def waiting(self) -> bool:
        """Whether the next instruction wants a key that is not there."""
        return self.last is not None and bool(self.last.waiting)

    @property
    def steps(self) -> int:
        """How many instructions were done."""
        return 0 if self.last is None else cast(int, self.last.steps)

    @property
    def text(self) -> bytes:
        """What was printed."""
        return b"" if self.last is None else cast(bytes, self.last.text)

    def dump(self) -> Array:
        """Every cell, in the order of the addresses."""
        return self._plain.dump() if self.last is None else cast(Array, self.last.memory)

    def run(self, steps: int = 1_000_000, stdin: bytes = b"", *, stop: Collection[int] = ()) -> int:
        """Go on until the machine halts, waits for a key, comes to a breakpoint, or did its steps.

        Args:
          steps: how many instructions at most.
          stdin: further keys.
          stop: addresses of instructions ahead of which to stop; not ahead of the first.

        Returns:
          How many instructions were done.

        Raises:
          InputError: more instructions than the certificate speaks of.
        """
        return sum(len(run.outputs) for run, _ in self._going(steps, stdin, stop))

    def trace(
        self, steps: int = 1_000_000, stdin: bytes = b"", *, stop: Collection[int] = ()
    ) -> list[Step | FleqStep]:
        """Go on as `run` does, and tell what was done, instruction by instruction."""
        image = self._image if isinstance(self._image, FleqImage) else None
        done: list[Step | FleqStep] = []
        for run, memory in self._going(steps, stdin, stop):
            done += trace(self._subject, run, image, memory=memory)
        return done

    def _going(
        self, steps: int, stdin: bytes, stop: Collection[int]
    ) -> Iterator[tuple[Run[S], Array | None]]:
        """Stretch by stretch: its run, and the memory ahead of it; None ahead of all."""
        check_going(steps, stdin, stop)
        done, most = 0, LOOK if stop else MOST
        while done < steps and not self.halted and not (done and self.pc in stop):
            memory = None if self.last is None else cast(Array, self.last.memory)
            run = self._stretch(min(steps - done, most), stdin, stop)
            yield run, memory
            done, stdin, most = done + len(run.outputs), b"", min(2 * most, MOST)
            if self.waiting:
                return

    def _stretch(self, count: int, stdin: bytes, stop: Collection[int]) -> Run[S]:
        """Go on for so many instructions at most, or to the first breakpoint among them."""
        before: Sequence[ArrayLike | Run[S]] = self._prompt if self.last is None else (self.last,)
        run = self._looping.loop(*before, steps=count, stdin=stdin)
        (place, _, _) = cast("Halt", run.wiring.feedback.halt)
        onward = run.outputs[:, place].astype(np.float64)
        if not np.isfinite(onward).all():
            raise BoundsError(
                "an instruction goes on at what is no number, so a promise was broken there; "
                "loop(..., check=True) says which"
            )
        ahead = np.flatnonzero(np.isin(onward, [*stop])) + 1
        if len(ahead) and ahead[0] < len(onward):
            return self._stretch(int(ahead[0]), stdin, ())
        self.last = run
        self.pc = int(onward[-1]) if len(onward) else self.pc
        if self.lost is None and isinstance(self._bus, SubleqBus):
            self.lost = self._bus.lost(run.outputs)
        return run
