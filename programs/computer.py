"""Computers: fixed networks that carry out the program which their prompt holds."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np

import lsrl
from lsrl import Program, Signal, Vector
from lsrl.errors import ProgramError
from lsrl.programs import checks
from lsrl.programs.entry import LONGEST_EXTREME, Array, Entry, Inputs

# Of a key, where words hold it.
LARGEST_KEY = 255
# Instructions that a sample carries out at most.
SAMPLED = 300
# The powers of two between which a seed is told apart.
SEEDS = range(-6, 6)
# Up to what a flag counts as 0, as a share of the greatest number.
FLAG = 2.0**-25
# Cells and lines of `fleq` up to which an address is decoded in one level.
ONE_ROW = 64
Block = Callable[[Signal, Signal], Signal]
Shape = tuple[int, int]
Segments = Sequence[tuple[int, int]]


def subleq(
    cells: int = 256,
    bits: int = 16,
    segments: Segments | None = None,
    io: bool = False,
    max_length: int = 2**31,
    by_row: bool | None = None,
) -> Program:
    """A computer with one instruction, of which it carries out one a token.

    The instruction at `pc` is three words a, b, c: mem[b] -= mem[a], and if the result is at most 0
    the next one is at c, else at pc + 3. Words are integers of `bits` bits that wrap around; at
    addresses without a cell 0 is read, and what is written there is lost. A program halts by going
    to a negative address.

    Input: `bus`, four integers: write `value` to `address`, which changes that cell by `change`;
    then carry out the instruction at `pc`. Output: the bus of the next token, so that the network
    goes on by itself: address b, the new value and its change, the next pc. A prompt loads memory,
    a cell a token; its last token starts the program.

    With `io` there is an input `key`, and the output has two channels more, `said` and `took`. An
    instruction with a = -1 takes the key: mem[b] = key, on to pc + 3, and `took` is 1. Else one
    with b = -1 says mem[a], on to pc + 3: `said` holds it, and -2^(bits - 1) - 1 where nothing is
    said.

    Shows: memory that is read and written by address; a program that is data.

    Args:
      cells: number of cells, with the addresses 0, 1, …
      bits: of a word, from 4 to 20.
      segments: instead of `cells` the addresses that have one: pairs of the first and the one
        behind the last.
      io: whether there are keys and text.
      max_length: greatest number of tokens.
      by_row: whether a write is let through by the row of a grid of cells ahead of its column. It
        takes fewer weights a cell and one layer or two more; by default from 1,024 cells on, where
        the sums of the other form are more than float32 holds.

    Raises:
      ProgramError: a parameter out of range, or cells at addresses that no word holds.

    Source: Giannou et al. (2023), "Looped Transformers as Programmable Computers", arXiv
    2301.13196; a machine of one instruction is that of Mavaddat and Parhami (1988), "URISC: The
    Ultimate Reduced Instruction Set Computer".
    """
    top = 2 ** (checks.integer("bits", bits, 4, 20) - 1)
    talks, tokens = checks.flag("io", io), checks.max_length(max_length)
    mapped = _mapped(cells, bits, segments, least=0 if talks else -top)
    low, high, whole = -top, top - 1, 2 * top

    def instruction(bus: Signal, key: Signal | None) -> Signal:
        address, value, change, pc = bus
        memory = lsrl.memory(address, value, change=change, segments=mapped, words=3, by_row=by_row)
        a, b, c = memory.read(pc, 3)
        mine, its = memory.read(a), memory.read(b)
        raw = its - mine
        if key is not None:
            takes, says = _is_minus_one(a), _is_minus_one(b)
            # Nothing lies at -1, so nothing is taken away of a key.
            raw = memory.read(b, when=~takes) - mine + lsrl.select(takes, key, 0)
        over, fits, positive = (_at_least(raw, level) for level in (top, -top, 1))
        new = lsrl.bound(raw - whole * over + whole * (1 - fits), low, high)
        jumps = lsrl.bound(over + fits - positive, 0, 1)
        if key is not None:
            jumps = jumps & ~(takes | says)
        onward = lsrl.bound(pc + 3 - whole * _at_least(pc, top - 3), low, high)
        goes = lsrl.select(jumps, c, onward)
        bus = lsrl.concat(b, new, new - its, goes)
        if key is None:
            return bus
        return lsrl.concat(bus, lsrl.select(says & ~takes, mine, low - 1), takes)

    ends = (low, low, 1 - whole, low), (high, high, whole - 1, high)
    bus_type = Annotated[Signal, Vector(4, low=ends[0], high=ends[1], step=1)]
    key_type = Annotated[Signal, Vector(1, low=0, high=min(LARGEST_KEY, whole - 1), step=1)]

    feedback = lsrl.Feedback(
        "bus",
        output=slice(0, 4),
        halt=(3, "<", 0),
        keys=("key", 5) if talks else None,
        text=(4, low - 1) if talks else None,
        memory=lsrl.MemoryMap(address=0, value=1, segments=mapped),
    )

    if talks:

        @lsrl.program(max_length=tokens, feedback=feedback)
        def subleq(bus: bus_type, key: key_type) -> Signal:
            return instruction(bus, key)
    else:

        @lsrl.program(max_length=tokens, feedback=feedback)
        def subleq(bus: bus_type) -> Signal:
            return instruction(bus, None)

    return subleq


def _mapped(cells: int, bits: int, segments: Segments | None, least: int) -> Segments:
    """The addresses that have a cell, from `least` on."""
    top = 2 ** (bits - 1)
    given = [(0, checks.integer("cells", cells, 1, top))] if segments is None else segments
    try:
        mapped = lsrl.MemoryMap(0, 1, given).segments
    except ProgramError:
        raise ProgramError(
            "segments: expected pairs of the first address and the one behind the last, in order, "
            f"such as ((0, 16), (32, 48)), got {segments!r:.60}"
        ) from None
    if any(end > top or start < least for start, end in mapped):
        raise ProgramError(
            f"segments: expected addresses from {least} to {top - 1}, which words of {bits} bits "
            f"hold, got {mapped!r}; pass more bits"
        )
    return mapped


def _is_minus_one(address: Signal) -> Signal:
    return lsrl.relu(1 - lsrl.relu(address + 1) - lsrl.relu(-1 - address))


def _at_least(x: Signal, level: float) -> Signal:
    """1 where an integer reaches the level, in two levels, so that no sum exceeds the integer."""
    return 1 - lsrl.relu(1 - lsrl.relu(x - (level - 1)))


def subleq_reference(
    bus: Sequence[Sequence[int]],
    key: Sequence[Sequence[int]] | None = None,
    cells: int = 256,
    bits: int = 16,
    segments: Segments | None = None,
) -> list[tuple[int, ...]]:
    """Write into a dictionary, then carry out an instruction."""
    memory = dict.fromkeys(_addresses(cells, segments), 0)
    answers = []
    for token, (address, value, _, pc) in enumerate(bus):
        if address in memory:
            memory[address] = value
        answers.append(_carried_out(memory, pc, bits, None if key is None else key[token][0]))
    return answers


def _addresses(cells: int, segments: Segments | None) -> list[int]:
    return [a for segment in segments or [(0, cells)] for a in range(*segment)]


def _wrapped(value: int, top: int) -> int:
    return (value + top) % (2 * top) - top


def _carried_out(memory: Mapping[int, int], pc: int, bits: int, key: int | None) -> tuple[int, ...]:
    """What the network answers at an instruction; the key is None without keys and text."""
    top = 2 ** (bits - 1)
    a, b, c = (memory.get(pc + k, 0) for k in range(3))
    held = memory.get(b, 0)
    takes, says = key is not None and a == -1, key is not None and b == -1
    raw = (held if key is None or not takes else key) - memory.get(a, 0)
    new = _wrapped(raw, top)
    goes = c if new <= 0 and not takes and not says else _wrapped(pc + 3, top)
    told = (memory.get(a, 0) if says and not takes else -top - 1, int(takes))
    return (b, new, new - held, goes, *(() if key is None else told))


def _subleq_sample(
    rng: np.random.Generator, steps: int, cells: int, bits: int, segments: Segments | None, io: bool
) -> Inputs:
    """Random words, then what they do as a program, from a random place whenever it halted."""
    top, addresses = 2 ** (bits - 1), _addresses(cells, segments)
    # Mostly addresses, so that most instructions do something; some of any size.
    near = rng.choice([*addresses, -1, addresses[-1] + 1], len(addresses))
    far = rng.integers(-top, top, len(addresses))
    words = np.where(rng.random(len(addresses)) < 0.8, near, far)
    tokens = min(steps, len(words) + SAMPLED)
    keys = rng.integers(min(LARGEST_KEY + 1, 2 * top), size=tokens) if io else None
    return _run(addresses, words.tolist(), rng.choice(addresses, tokens), bits, keys)


def _subleq_edges(
    cells: int, bits: int, segments: Segments | None, io: bool, max_length: int
) -> list[Inputs]:
    """Words at both ends, which wrap around, and the greatest keys."""
    top, addresses = 2 ** (bits - 1), _addresses(cells, segments)
    starts = np.resize(addresses, min(max_length, LONGEST_EXTREME))
    keys = np.full(len(starts), min(LARGEST_KEY, 2 * top - 1)) if io else None
    patterns = [-top], [top - 1], [addresses[0], addresses[1], addresses[-1], -top, top - 1]
    words = [np.resize(pattern, len(addresses)).tolist() for pattern in patterns]
    return [_run(addresses, each, starts, bits, keys) for each in words]


def _run(
    addresses: list[int], words: list[int], starts: Array, bits: int, keys: Array | None
) -> Inputs:
    """Load the words, a cell a token, then go on from where it starts at the token's turn."""
    memory, rows = dict.fromkeys(addresses, 0), list[tuple[int, ...]]()
    writes = [(a, word, word) for a, word in zip(addresses, words, strict=True)]
    said: tuple[int, ...] = (*writes[0], -1)
    for token, start in enumerate(starts.tolist()):
        loads, last = token < len(writes), token == len(writes) - 1
        address, value, change, pc = (*writes[token], -1) if loads else said[:4]
        pc = start if last or (pc < 0 and not loads) else pc
        rows.append((address, value, change, pc))
        if address in memory:
            memory[address] = value
        said = _carried_out(memory, pc, bits, None if keys is None else int(keys[token]))
    return (np.array(rows), *(() if keys is None else (keys[:, None],)))


def _columns(cells: int) -> int | None:
    """Few cells are decoded in one level, which is more weights."""
    return cells + 2 if cells <= ONE_ROW else None


def in_order(*terms: Signal) -> Signal:
    """The sum of some signals, rounded after each: ((a + b) + c) + …, on every target.

    A sum is otherwise one row, whose terms a machine may add up in any order.

    Args:
      *terms: at least one signal; width 1 broadcasts.

    Example:
      @lsrl.program
      def added(x: lsrl.Vector(3, low=0, high=1)):
          return lsrl.programs.in_order(x[0], x[1], x[2])
    """
    total = terms[0]
    for term in terms[1:]:
        total = total + term
        total = lsrl.relu(total) - lsrl.relu(-total)  # no pass looks through it
    return total


def _seed(x: Signal, _: Signal) -> Signal:
    """A power of two from 1 / (2 |x|) to 1 / |x|: the first guess of a reciprocal."""
    size = lsrl.absolute(x)
    found = lsrl.constant(2.0 ** -SEEDS[0])
    for power in SEEDS:
        # 1 from 2^power on and 0 up to the float32 below it, in numbers that float32 holds.
        reached = lsrl.relu(1 - 2.0**24 * lsrl.relu(1 - 2.0**-power * size))
        found = found - 2.0 ** -(power + 1) * lsrl.bound(reached, 0, 1, "prompt", step=1)
    return found


def _shape(shape: object) -> Shape:
    if isinstance(shape, Sequence) and not isinstance(shape, str) and len(shape) == 2:
        rows, columns = (checks.integer("shape", each, 1) for each in shape)
        return rows, columns
    raise ProgramError(
        f"shape: expected (rows, columns) of a cell, got {shape!r:.60}; of numbers it is (1, 1)"
    )


def _called(name: str, block: Block, x: Signal, y: Signal) -> Signal:
    """What a function makes of two cells."""
    try:
        found = block(x, y)
    except TypeError as error:
        raise ProgramError(
            f"functions: {name!r} failed on two signals as wide as a cell, {y.width}: {error}"
        ) from error
    if not isinstance(found, Signal) or found.width != y.width:
        raise ProgramError(
            f"functions: {name!r} must give a signal as wide as a cell, {y.width}, got "
            f"{found!r:.60}; lsrl.constant makes one of a number"
        )
    return found


def _on_grid(x: Signal, step: float) -> Signal:
    """X, by the promise of a legal prompt that its numbers are multiples of a step."""
    return lsrl.bound(x, x.facts.low, x.facts.high, "prompt", step)


def fleq_functions(shape: Shape = (1, 1)) -> dict[str, Block]:
    """The functions of `fleq` that come with it, by name, for cells of a shape.

    Of every entry by itself: add, sub, mul, max, which is y + relu(x - y), and seed, a power of two
    from 1 / (2 |x|) to 1 / |x|, at least 2^-6 and at most 2^6. Of square matrices: matmul, whose
    sums go from the first column of x to its last, and transpose. Products that are added up keep
    to the step of the numbers, too.

    Args:
      shape: rows and columns of a cell.

    Returns:
      Functions of two signals of rows × columns channels, for `fleq(functions=...)`.

    Example:
      print([*lsrl.programs.fleq_functions()])
    """
    rows, columns = _shape(shape)
    found: dict[str, Block] = {
        "add": lambda x, y: x + y,
        "sub": lambda x, y: x - y,
        "mul": lambda x, y: x * y,
        "max": lambda x, y: y + lsrl.relu(x - y),
        "seed": _seed,
    }
    if rows == columns > 1:
        entry = np.arange(rows * columns).reshape(shape)
        found["matmul"] = lambda x, y: in_order(
            *(
                _on_grid(
                    x[entry[:, [k] * columns].ravel()] * y[entry[[k] * rows].ravel()],
                    float(x.facts.step.min()),
                )
                for k in range(rows)
            )
        )
        found["transpose"] = lambda x, y: x[entry.T.ravel()]
    return found


def fleq(
    cells: int = 24,
    lines: int = 48,
    functions: Mapping[str, Block] | None = None,
    shape: Shape = (1, 1),
    size: float = 64.0,
    step: float = 2.0**-80,
    max_length: int = 2**20,
) -> Program:
    """A computer on real numbers, which carries out one line of its program a token.

    A line is six integers (f, a, b, c, flag, to): cell c = function f of cells a and b, and then,
    if the first entry of cell `flag` is at most 0, on to line `to`, else to the next one. Line -1
    halts, and so does what comes behind the last of all lines; one that was not written is zeros.
    A flag counts as 0 up to size 2^-25, and none lies between that and twice as much.

    Input: `bus`: write a value to the cell at an address, which changes it by a change, then carry
    out a line: (address, value, change, line); at address -1 nothing is written. `line`: write a
    line, (number, f, a, b, c, flag, to), or with number -1 none; a line is written once. Output:
    the bus of the next token.

    Shows: memory of real numbers, and functions as blocks of a network.

    Args:
      cells: number of cells.
      lines: greatest number of lines.
      functions: of two signals as wide as a cell, by name; a line names them by their place. By
        default those of `fleq_functions`.
      shape: of a cell: (rows, columns); its entries stand row by row in the bus.
      size: no number is larger, which a legal prompt keeps.
      step: a power of two of which every number is a multiple, which a legal prompt keeps.
      max_length: greatest number of tokens.

    Raises:
      ProgramError: a parameter out of range.

    Source: Giannou et al. (2023), "Looped Transformers as Programmable Computers", arXiv
    2301.13196.
    """
    count, places = checks.integer("cells", cells, 1), checks.integer("lines", lines, 1)
    high, tokens = checks.number("size", size, above=0), checks.max_length(max_length)
    width = math.prod(_shape(shape))
    blocks = fleq_functions(shape) if functions is None else functions
    named = isinstance(blocks, Mapping) and all(map(callable, blocks.values()))
    if not named or not blocks:
        raise ProgramError(
            "functions: expected at least one function of two signals by name, got "
            f"{blocks!r:.60}; pass for instance fleq_functions()"
        )
    numbers = {"low": -high, "high": high, "step": step}
    cell = Vector(
        2 + 2 * width,
        low=(-1, *[-high] * width, *[-2 * high] * width, -1),
        high=(count - 1, *[high] * width, *[2 * high] * width, places - 1),
        step=(1, *[step] * 2 * width, 1),
    )
    last = (places - 1, len(blocks) - 1, *[count - 1] * 4, places - 1)
    written = Vector(7, low=(-1, 0, 0, 0, 0, 0, -1), high=last, step=1)

    @lsrl.program(
        max_length=tokens,
        feedback=lsrl.Feedback(
            "bus",
            output=slice(0, 2 + 2 * width),
            halt=(1 + 2 * width, "<", 0),
            memory=lsrl.MemoryMap(address=0, value=slice(1, 1 + width), segments=((0, count),)),
            idle={"line": (-1, 0, 0, 0, 0, 0, 0)},
        ),
    )
    def fleq(bus: Annotated[Signal, cell], line: Annotated[Signal, written]) -> Signal:
        value, change = bus[1 : 1 + width], bus[1 + width : 1 + 2 * width]
        memory = lsrl.memory(bus[0], value, change=change, cells=count, columns=_columns(count))
        program = lsrl.memory(
            line[0], line[1:], change=line[1:], cells=places, columns=_columns(places)
        )
        pc = bus[1 + 2 * width]
        function, a, b, c, flag, to = program.read(pc)
        x, y, before, decides = (memory.read(each) for each in (a, b, c, flag))
        # While a prompt loads memory, at line -1, no function is done.
        chosen = lsrl.one_hot(function, len(blocks)) & (pc >= 0)
        # Of what is not chosen a product is 0, so that none is too small for the grid.
        found = [
            _on_grid(_called(name, block, lsrl.select(k, x, 0), y), step)
            for k, (name, block) in zip(chosen, blocks.items(), strict=True)
        ]
        made = [lsrl.select(k, each, 0) for k, each in zip(chosen, found, strict=True)]
        result = lsrl.bound(sum(made[1:], made[0]), **numbers, keeper="prompt")
        decides = lsrl.select(flag == c, result[0], decides[0])
        onward = lsrl.bound(lsrl.select(pc >= places - 1, -1, pc + 1), -1, places - 1)
        jumps = lsrl.less_equal(decides, 0, ramp=2 * high * FLAG)
        after = lsrl.select(jumps, to, onward)
        return lsrl.concat(c, result, result - before, after)

    return fleq


def fleq_reference(
    bus: Sequence[Sequence[float]], line: Sequence[Sequence[int]], cells: int, lines: int
) -> list[tuple[float, ...]]:
    """Two lists, of cells and of lines; each function as it is on paper."""
    memory: list[float] = [0.0] * cells
    program: list[tuple[int, ...]] = [(0,) * 6] * lines
    answers = []
    for (address, value, _, pc), (number, *fields) in zip(bus, line, strict=True):
        if address >= 0:
            memory[int(address)] = value
        if number >= 0:
            program[number] = tuple(fields)
        answers.append(_line_done(memory, program, int(pc)))
    return answers


def _line_done(
    memory: Sequence[float], program: Sequence[tuple[int, ...]], pc: int
) -> tuple[float, ...]:
    function, a, b, c, flag, to = program[pc] if pc >= 0 else (0,) * 6
    x, y = memory[a], memory[b]
    done = (x + y, x - y, x * y, max(x, y), _seed_reference(x))
    result = done[function] if pc >= 0 else 0.0
    decides = result if flag == c else memory[flag]
    onward = pc + 1 if pc + 1 < len(program) else -1
    return c, result, result - memory[c], to if decides <= 0 else onward


def _seed_reference(x: float) -> float:
    return 2.0 ** -min(max(math.frexp(x)[1], SEEDS[0]), SEEDS[-1] + 1) if x else 2.0 ** -SEEDS[0]


def _fleq_sample(rng: np.random.Generator, steps: int, cells: int, lines: int) -> Inputs:
    """Lines and small numbers, then what they do, at another line where numbers would grow."""
    memory, program = [0.0] * cells, [(0,) * 6] * lines
    buses, loaded = list[tuple[float, ...]](), list[tuple[int, ...]]()
    said: tuple[float, ...] = (0, 0, 0, -1)
    for token in range(min(steps, 3 * (cells + lines))):
        number, address = token if token < lines else -1, int(said[0])
        if number >= 0:
            at = rng.integers(cells, size=4).tolist()
            program[number] = (int(rng.integers(5)), *at, int(rng.integers(-1, lines)))
        if token < cells:
            address, said = token, (token, float(rng.integers(-8, 9)) / 4, 0, -1)
        value = said[1]
        buses.append((address, value, value - memory[address], -1))
        memory[address] = value
        if token >= lines:
            tried = [int(said[3]), *rng.permutation(lines).tolist(), -1]
            found = [(pc, _line_done(memory, program, pc)) for pc in tried]
            pc, said = next(each for each in found if _is_calm(each[1][1]))
            buses[-1] = (*buses[-1][:3], pc)
        loaded.append((number, *(program[number] if number >= 0 else (0,) * 6)))
    return np.array(buses), np.array(loaded)


def _fleq_edges(cells: int, lines: int, max_length: int) -> list[Inputs]:
    """The greatest numbers, and every line at every token."""
    tokens, size = np.arange(min(max_length, LONGEST_EXTREME)), 64.0
    bus, line = np.zeros((len(tokens), 4)), np.zeros((len(tokens), 7), int)
    bus[:, 0], bus[:, 3] = tokens % cells, np.where(tokens < lines, -1, tokens % lines)
    bus[:, 1] = size * (-1) ** (tokens // cells)
    bus[cells:, 2] = 2 * bus[cells:, 1]
    bus[:cells, 2] = bus[:cells, 1]
    line[:, 0] = np.where(tokens < lines, tokens, -1)
    line[:lines] = [(number, 3, 0, cells - 1, 0, 0, lines - 1) for number in range(lines)]
    return [(bus, line)]


def _is_calm(value: float) -> bool:
    """A number that later lines can go on with."""
    return abs(value) <= 16 and value * 2.0**12 % 1 == 0


ENTRIES = (
    Entry(
        subleq,
        subleq_reference,
        parameters=(
            {"cells": 9, "bits": 5, "max_length": 50},
            {"segments": ((0, 5), (8, 14)), "bits": 5, "io": True, "max_length": 60},
        ),
        sampler=_subleq_sample,
        edges=_subleq_edges,
        free=False,
    ),
    Entry(
        fleq,
        fleq_reference,
        parameters=({"cells": 5, "lines": 6, "max_length": 40},),
        sampler=_fleq_sample,
        edges=_fleq_edges,
        free=False,
    ),
)
