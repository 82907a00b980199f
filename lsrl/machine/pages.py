"""Which addresses an image needs, so that a machine has cells there and nowhere else."""

from lsrl.arguments import count
from lsrl.language.memory import Segment
from lsrl.machine.checks import check_start
from lsrl.machine.image import image_of
from lsrl.machine.subleq import Subleq

# Instructions that are told at a time.
STRETCH = 4096
# By which memory is given out where no other size is asked for.
PAGE = 1024


def segments(
    memory: object,
    *,
    bits: int = 16,
    stdin: bytes = b"",
    steps: int = 1_000_000,
    page: int = PAGE,
    start: int = 0,
) -> tuple[Segment, ...]:
    r"""The addresses that an image needs, for a machine with holes: `subleq(segments=...)`.

    Whole pages in which it holds a word, or from which plain Python reads or to which it writes in
    a dry run: until the machine halts, wants a key that is not there, or did its steps. What it
    would reach later may lie elsewhere, so give it keys, or take larger pages.

    Args:
      memory: the image.
      bits: of a word.
      stdin: the keys of the dry run.
      steps: its instructions at most.
      page: addresses of a page.
      start: where the first instruction stands.

    Returns:
      Pairs of the first address and the one behind the last.

    Raises:
      InputError: the image does not fit words of so many bits.

    Example:
      print(machine.segments([12, 5000, 3, 5000, 13, 6, 13, -1, 9, 11, 11, -1, -7, 0], page=64))
    """
    size, width = count("page", page), count("bits", bits, 4, 20)
    top, left = 1 << (width - 1), count("steps", steps, 0)
    image = image_of(memory)
    plain = Subleq(image, cells=top, bits=width, start=check_start(start, top))
    used = {address // size for address in image} | {start // size}
    done = plain.trace(min(left, STRETCH), stdin)
    while done:
        read = {step.pc + word for step in done for word in range(3)}
        touched = read | {place for step in done for place in (step.a, step.b)}
        used |= {place // size for place in touched if 0 <= place < top}
        left -= len(done)
        done = [] if plain.waiting or plain.halted else plain.trace(min(left, STRETCH))
    found: list[Segment] = []
    for number in sorted(used):
        first, end = number * size, min((number + 1) * size, top)
        if found and found[-1][1] == first:
            first = found.pop()[0]
        found.append((first, end))
    return tuple(found)
