"""What a machine did, as plain data to show: memory, and what each instruction reads and writes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

from lsrl.language.run import Run
from lsrl.machine.fleq import FleqImage, FleqStep, Told, cell_text, plain_cell
from lsrl.machine.fleq_bus import FleqBus
from lsrl.machine.image import Image
from lsrl.machine.session import Subject, ahead_of, loaded, spoken, trace
from lsrl.machine.subleq import GUARD, Step
from lsrl.machine.subleq_words import SubleqWords

S = TypeVar("S")


class Frame(NamedTuple):
    """One instruction that was done. Cells are numbered in the order of the addresses.

    Attributes:
      pc: where it stands.
      text: the instruction, as in the machine's text.
      effect: what it did.
      code: the cells that hold it; none where instructions lie outside the memory.
      reads: the cells that it computes with.
      write: the cell that it writes.
      value: what it writes there: a number, or the rows of a matrix.
      said: the code that it printed.
      key: the code that it took.
      next: where the next one stands; the machine halts below 0.

    Example:
      print(film.frames[0].effect)
    """

    pc: int
    text: str
    effect: str
    code: tuple[int, ...]
    reads: tuple[int, ...]
    write: int | None
    value: Told
    said: int | None
    key: int | None
    next: int


class Film(NamedTuple):
    """A machine at work, from its prompt on.

    Attributes:
      addresses: of the cells.
      names: of the cells; empty where there is none.
      memory: what each holds ahead of the first instruction: a number, or the rows of a matrix.
      frames: one an instruction.
      steps: how many instructions there were; the frames may be the first of them.
      ends: how they ended: "halted", "waiting" for a key, or "going" on.
      ahead: how many tokens of the prompt are ahead of the first instruction.
      pace: how many tokens an instruction takes.

    Example:
      print(film.frames[0].text)
    """

    addresses: Sequence[int]
    names: Sequence[str]
    memory: Sequence[Told]
    frames: Sequence[Frame]
    steps: int
    ends: str
    ahead: int
    pace: int


def film(
    subject: Subject,
    run: Run[S],
    image: Image | FleqImage | None = None,
    *,
    steps: int | None = None,
) -> Film:
    """What a run did, to be shown: memory as it was, and one change an instruction.

    Replaying the writes on the memory gives `run.memory`.

    Args:
      subject: the program or the model that ran.
      run: of one machine, from a prompt on.
      image: that ran, whose labels are the cells' names; a FLEQ machine needs it.
      steps: how many instructions to tell at most, from the first on; all by default.

    Returns:
      Plain data.

    Raises:
      InputError: the program is no machine, the run is of a batch or went on from another, or the
        image is missing or of another machine.

    Example:
      film = machine.film(model, run, times.image(x=3, y=4))
      print(len(film.frames))
    """
    bus, done = spoken(subject), trace(subject, run, image, steps=steps)
    held = loaded(subject, run)
    shape: tuple[int, ...] = ()
    if isinstance(bus, FleqBus):
        own = bus.image(image)
        names, shape = [*own.cells], own.shape
        addresses = [*range(len(names))]
        frames = [_fleq_frame(cast(FleqStep, step), own) for step in done]
    else:
        addresses = [*range(bus.cells)] if isinstance(bus, SubleqWords) else bus.addresses()
        labels = image.labels if isinstance(image, Image) else {}
        known = _first(labels)
        names = [known.get(address, "") for address in addresses]
        places = {address: place for place, address in enumerate(addresses)}
        frames = [_frame(cast(Step, step), known, places) for step in done]
    memory = [plain_cell(cell.reshape(shape)) for cell in held[: len(names)]]
    ends = "halted" if run.halted else "waiting" if run.waiting else "going"
    count = len(run.outputs) // bus.pace
    return Film(addresses, names, memory, frames, count, ends, ahead_of(run), bus.pace)


def _frame(step: Step, names: Mapping[int, str], places: Mapping[int, int]) -> Frame:
    """An instruction of SUBLEQ, with addresses by their names and cells by their places."""
    words = [step.a, step.b, step.c]
    shown = words[:2] if step.c == step.pc + 3 else words
    texts = [
        special if word == GUARD else names.get(word, str(word))
        for word, special in zip(shown, ("in", "out", "halt"), strict=False)
    ]
    into, reads = names.get(step.b, f"mem[{step.b}]"), [step.a, step.b]
    if step.key is not None:
        effect, reads = f"{into} = key {_letter(step.key)}", []
    elif step.said is not None:
        effect, reads = f"prints {_letter(step.said)}", [step.a]
    else:
        effect = f"{into} = {step.at_b} - {step.at_a} = {step.new}".replace("- -", "+ ")
    return Frame(
        step.pc,
        " ".join(texts),
        effect + _onward(step.next, step.pc + 3, names),
        tuple(places[at] for at in range(step.pc, step.pc + 3) if at in places),
        tuple(dict.fromkeys(places[at] for at in reads if at in places)),
        places.get(step.b),
        step.new,
        step.said,
        step.key,
        step.next,
    )


def _fleq_frame(step: FleqStep, image: FleqImage) -> Frame:
    """An instruction of FLEQ, with lines by their labels and cells by their places."""
    names = _first(image.labels)
    to = image.lines[step.pc].to
    jump = "halt" if to is None else names.get(to, str(to))
    condition = "" if to is None and step.flag == "1" else f" if {step.flag} goto {jump}"
    text = f"{step.c} = {step.function} {step.a} {step.b}{condition}"
    effect = f"{step.c} = {cell_text(step.new)}{_onward(step.next, step.pc + 1, names)}"
    if text.startswith("0 = add 0 0 if 0 "):  # as the assembler has it
        text, effect = f"goto {jump}", effect.removeprefix("0 = 0, ")
    return Frame(
        step.pc,
        text,
        effect,
        (),
        tuple(dict.fromkeys(map(image.address, (step.a, step.b, step.flag)))),
        image.address(step.c),
        step.new,
        None,
        None,
        step.next,
    )


def _first(labels: Mapping[str, int]) -> dict[int, str]:
    """The first label of each place that has one."""
    return {place: label for label, place in reversed([*labels.items()])}


def _onward(place: int, expected: int, names: Mapping[int, str]) -> str:
    """Where it goes, if not to the next instruction."""
    if place < 0:
        return ", halts"
    return "" if place == expected else f", to {names.get(place, str(place))}"


def _letter(code: int) -> str:
    """A code that is printed or typed."""
    return repr(chr(code & 255))
