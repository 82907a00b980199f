"""Memory images as text."""

from lsrl.arguments import shown
from lsrl.errors import InputError
from lsrl.machine.fleq import FleqImage
from lsrl.machine.fleq_assembler import fleq_text
from lsrl.machine.image import Image, image_of
from lsrl.machine.subleq import GUARD


def disassemble(memory: object, *, start: int = 0) -> str:
    """The text of a memory image, which `assemble` makes into the same image.

    What can be reached from `start` by jumps and by going on is shown as instructions, all else as
    data; labels are those of the image's own text where it has one.

    Args:
      memory: the image, or any sequence of numbers or dict from address to number; or that of a
        FLEQ text.
      start: where the first instruction stands.

    Raises:
      InputError: it is no memory image, or start is no address.

    Returns:
      The text, one instruction or number a line, with its address behind it.

    Example:
      print(machine.disassemble([9, 9, -1]).splitlines()[0])
    """
    if isinstance(memory, FleqImage):
        return fleq_text(memory)
    image = image_of(memory)
    if not isinstance(start, int):
        raise InputError(f"disassemble: start must be an address, got {shown(start)}")
    reached = _reached(image, start)
    inside = {address + place for address in reached for place in (1, 2)}
    names = {
        address: name
        for name, address in sorted(image.labels.items(), reverse=True)
        if address in image and address not in inside
    }
    for address in sorted(reached):
        target = image[address + 2]
        if target in reached and target != address + 3:
            names.setdefault(target, f"at{target}")
    lines: list[str] = []
    expected = 0
    for address in image:
        if address in inside:
            continue
        if address != expected:
            lines.append(f"{'':7} .org {address}")
        words = [image[address]]
        text = f".data {words[0]}"
        if address in reached:
            words = [image[address + place] for place in range(3)]
            told = words[:2] if words[2] == address + 3 else words
            known = zip(told, ("in", "out", "halt"), strict=False)
            text = " ".join(name if w == GUARD else names.get(w, str(w)) for w, name in known)
        label = f"{names[address]}:" if address in names else ""
        lines.append(f"{label:7} {text:24} # {address}")
        expected = address + len(words)
    return "\n".join(lines) + "\n"


def _reached(image: Image, start: int) -> set[int]:
    """Addresses of the instructions that a machine may come to, none of which overlap."""
    reached: set[int] = set()
    taken: set[int] = set()
    ahead = [start]
    while ahead:
        address = ahead.pop()
        words = range(address, address + 3)
        if address in reached or any(w in taken or w not in image for w in words):
            continue
        reached.add(address)
        taken.update(words)
        a, b, c = (image[word] for word in words)
        if a == GUARD or b == GUARD or a != b:  # else the jump is taken for sure
            ahead.append(address + 3)
        if a != GUARD and b != GUARD:
            ahead.append(c)
    return reached
