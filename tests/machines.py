"""Small programs that run in loops, and what plain Python says that they do."""

import numpy as np

import lsrl
from lsrl import Vector

CELLS, LOW, HIGH = 12, -16, 15
SPAN = HIGH - LOW + 1
NOTHING = LOW - 1


@lsrl.program(feedback=lsrl.Feedback("count", 0, halt=(0, "==", 0)))
def countdown(count: Vector(1, low=0, high=9, step=1)):
    """One less at each token, down to 0."""
    return lsrl.relu(count - 1)


@lsrl.program(
    max_length=4096,
    feedback=lsrl.Feedback(
        "bus",
        output=slice(0, 4),
        halt=(3, "<", 0),
        keys=("key", 5),
        text=(4, NOTHING),
        memory=lsrl.MemoryMap(address=0, value=1, segments=[(0, CELLS)]),
    ),
)
def subleq(
    bus: Vector(4, low=(LOW, LOW, 1 - SPAN, LOW), high=(HIGH, HIGH, SPAN - 1, HIGH), step=1),
    key: Vector(1, low=0, high=HIGH, step=1),
):
    """One instruction a token, of a memory of twelve cells; -1 as a reads a key, as b says."""
    address, change, pc = bus[0], bus[2], bus[3]

    def place(where):
        return lsrl.concat(*[lsrl.equal(where, cell) for cell in range(CELLS)])

    def at(where):
        return lsrl.bound(lsrl.select(place(where), memory, 0).sum(), LOW, HIGH)

    memory = lsrl.bound(lsrl.cumsum(lsrl.select(place(address), change, 0)), LOW, HIGH)
    a, b, c = at(pc), at(pc + 1), at(pc + 2)
    typed, said = lsrl.equal(a, -1), lsrl.equal(b, -1)
    from_a, from_b = at(a), at(b)
    raw = lsrl.select(typed, key, from_b - from_a)
    new = raw - SPAN * (raw > HIGH) + SPAN * (raw < LOW)
    new = lsrl.bound(new, LOW, HIGH)
    jump = (new <= 0) & ~typed & ~said
    following = lsrl.bound(lsrl.select(jump, c, pc + 3), LOW, HIGH)
    told = lsrl.select(said, from_a, NOTHING)
    return b, new, new - from_b, following, told, typed


def prompt_of(image, start=0):
    """The tokens that write an image (cells,) or (machines, cells), and the keys beside them."""
    image = np.atleast_2d(np.asarray(image, float))
    bus = np.zeros((len(image), CELLS, 4))
    bus[..., 0], bus[..., 1], bus[..., 2] = np.arange(CELLS), image, image
    bus[:, -1, 3] = start
    return bus, np.zeros((len(image), CELLS, 1))


def interpreted(image, steps, keys=b"", start=0):
    """What a machine does: memory, instructions, text, and how it ends."""
    memory, pc, text, keys = list(map(int, image)), start, [], list(keys)

    def at(where):
        return memory[where] if 0 <= where < CELLS else 0

    for number in range(steps):
        a, b, c = at(pc), at(pc + 1), at(pc + 2)
        if a == -1 and not keys:
            return memory, number, bytes(text), "waiting"
        raw = keys.pop(0) if a == -1 else at(b) - at(a)
        new = raw - SPAN * (raw > HIGH) + SPAN * (raw < LOW)
        if b == -1:
            text.append(at(a) % 256)
        if 0 <= b < CELLS:
            memory[b] = new
        # The counter is promised to stay within a word; machines here keep to it.
        pc = c if new <= 0 and a != -1 and b != -1 else pc + 3
        if pc > HIGH:
            return memory, number + 1, bytes(text), "broken"
        if pc < 0:
            return memory, number + 1, bytes(text), "halted"
    return memory, steps, bytes(text), "going"


def drawn(machines, seed, steps=40):
    """Random images that run as they please, but never off the end of a word."""
    random, found = np.random.default_rng(seed), []
    while len(found) < machines:
        image = random.integers(-1, CELLS, CELLS)
        image[random.integers(0, CELLS, 3)] = random.integers(LOW, HIGH + 1, 3)
        if interpreted(image, steps, b"\x05\x07\x02")[3] != "broken":
            found.append(image)
    return np.array(found)
