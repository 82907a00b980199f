"""What `benchmarks.eforth` measures, each in a process of its own: a line of JSON for each row.

    python -m benchmarks.eforth_alone compile|start|plain|session|resume ARGUMENT...

Nothing is there but what a user's own process would have; to read a command line takes 9 MiB.
"""

import hashlib
import json
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, BenchmarkError, peak_memory

IMAGE = ROOT.parent / "shared" / "data" / "eforth.dec"
KEYS = b"2 2 + . cr\nbye\n"
TEXT, STEPS = b" 4\r\n ok\r\n", 16_895_952
# Pages of 64 in which the image holds words, or which it reads or writes meanwhile, as
# `lsrl.machine.segments(image, stdin=KEYS, steps=STEPS, page=64)` finds them: 6,848 cells.
SEGMENTS = ((0, 6528), (32256, 32576))
BITS, TARGET = 16, "linear_rnn"
MILLION = 1_000_000
# Instructions of a loop, whose outputs are held; and of the source without its compiler.
STRETCH, WITHOUT_NUMBA = 50_000, 20_000


def words_of(image: Path) -> list[int]:
    """The numbers of an image."""
    return [int(word) for word in image.read_text(encoding="utf-8").split()]


class Plain:
    """A SUBLEQ machine in plain Python, with a cell at every address."""

    def __init__(self, words: list[int], keys: bytes, bits: int = BITS) -> None:
        """Load the words from address 0 on."""
        self.top = 1 << (bits - 1)
        # Behind the cells those of the addresses below 0, which hold 0 and stay so.
        self.cells = words + [0] * (2 * self.top - len(words))
        self.keys, self.pc = list(keys), 0

    def outputs(self, steps: int) -> np.ndarray[Any, Any]:
        """What a network is to answer: b, the new word, its change, onward, what is said, took."""
        # As numbers, each once: the peak of this process is to be that of the network's run.
        cells, top, pc, told = self.cells, self.top, self.pc, array("i")
        whole, nothing = 2 * top, -top - 1
        for _ in range(steps):
            if pc < 0:
                break
            a, b, c = cells[pc], cells[pc + 1], cells[pc + 2]
            mine, its = cells[a], cells[b]
            new = (its - mine + top) % whole - top
            said, took, onward = nothing, 0, c if new <= 0 else (pc + 3 + top) % whole - top
            if a == -1 or b == -1:
                onward = (pc + 3 + top) % whole - top
                if a == -1:
                    new, took = self.keys.pop(0), 1
                else:
                    said = mine
            if b >= 0:
                cells[b] = new
            told.extend((b, new, new - its, onward, said, took))
            pc = onward
        self.pc = pc
        return np.frombuffer(told, np.intc).reshape(-1, 6)

    def memory(self) -> np.ndarray[Any, Any]:
        """The cells that the network has; no other one holds anything.

        Raises:
          BenchmarkError: another one does.
        """
        cells = np.array(self.cells)
        mapped = np.concatenate([np.arange(*segment) for segment in SEGMENTS])
        if np.delete(cells, mapped).any():
            raise BenchmarkError("a cell outside the memory map holds something")
        return cells[mapped]


# ---------------------------------------------------------------- what is measured


def compiled() -> Any:
    """The network."""
    import lsrl

    return lsrl.compile(lsrl.programs.subleq(segments=SEGMENTS, bits=BITS, io=True), TARGET)


def digest(run: Any) -> str:
    """Of everything that a run goes on with: the network's state, memory, text and last outputs."""
    import jax

    found = hashlib.sha256(run.text)
    for leaf in [*jax.tree.leaves(run.state.hidden), run.memory, run.outputs]:
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def measure_compile(folder: Path) -> None:
    """CPU seconds and peak memory, above a process that has compiled and run `majority`.

    Behind that the network is saved, to go on with in another process.
    """
    import lsrl

    lsrl.compile(lsrl.programs.majority(), TARGET).run([[0, 1, 1]])
    before, start = peak_memory(), time.process_time()
    model = compiled()
    _told(
        seconds=time.process_time() - start,
        peak=peak_memory() - before,
        nonzero=model.num_nonzero_parameters,
        layers=model.num_layers,
        cells=sum(end - first for first, end in SEGMENTS),
        exact=bool(model.certificate.exact),
        tokens=model.certificate.tokens,
    )
    model.save(folder / "model")


def measure_start(image: Path, spawned: float) -> None:
    """From the start of a process to the first instruction, and the prompt by itself."""
    from lsrl import machine

    model = compiled()
    prompt = machine.card(model, words_of(image))
    run = model.loop(*prompt, steps=1, stdin=KEYS)
    first, wall = time.process_time(), time.time() - spawned
    start = time.process_time()
    again = model.loop(*prompt, steps=1, stdin=KEYS)
    if digest(run) != digest(again):
        raise BenchmarkError("two readings of the prompt differ")
    read = time.process_time() - start
    _told(cpu=first, wall=wall, prompt=len(prompt[0]), read=read, peak=peak_memory())


def measure_without_numba(image: Path) -> None:
    """Instructions a CPU second of a part, where numba is not installed."""
    sys.modules["numba"] = None  # type: ignore[assignment]
    from lsrl import machine

    model = compiled()
    run = model.loop(*machine.card(model, words_of(image)), steps=1, stdin=KEYS)
    start = time.process_time()
    run = model.loop(run, steps=WITHOUT_NUMBA)
    seconds = time.process_time() - start
    plain = Plain(words_of(image), KEYS)
    plain.outputs(1)
    if not np.array_equal(plain.outputs(WITHOUT_NUMBA), run.outputs):
        raise BenchmarkError("an output differs")
    _told(seconds=seconds, speed=WITHOUT_NUMBA / seconds)


def run_session(image: Path, folder: Path) -> None:
    """Run it to its end, compare all of it, and save it at a million."""
    from lsrl import machine

    model = compiled()
    for row in compared(model, machine.card(model, words_of(image)), image, folder):
        _told(**row)


def compared(model: Any, prompt: Any, image: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """A row a million instructions.

    Raises:
      BenchmarkError: an output or a cell is not that of the plain interpreter.
    """
    plain, run, total, seconds = Plain(words_of(image), KEYS), None, 0.0, 0.0
    while run is None or not (run.halted or run.waiting):
        start = time.process_time()
        before, keys = (prompt, KEYS) if run is None else ((run,), b"")
        run = model.loop(*before, steps=STRETCH, stdin=keys)
        seconds += time.process_time() - start
        if not np.array_equal(plain.outputs(len(run.outputs)), run.outputs):
            raise BenchmarkError(f"an output differs behind {run.steps - len(run.outputs)}")
        if run.steps % MILLION and not run.halted:
            continue
        if not np.array_equal(plain.memory(), run.memory):
            raise BenchmarkError(f"memory differs at {run.steps}")
        if run.steps == MILLION:
            run.save(folder / "run")
        total += seconds
        yield {
            "steps": run.steps,
            "seconds": seconds,
            "speed": (run.steps % MILLION or MILLION) / seconds,
            "average": run.steps / total,
            "peak": peak_memory(),
            "text": run.text.decode("latin-1"),
            "halted": bool(run.halted),
            "digest": digest(run) if run.steps == 2 * MILLION else "",
        }
        seconds = 0.0


def resume(folder: Path) -> None:
    """Go on in a new process from what was saved at a million, to two."""
    import lsrl

    model = lsrl.load(folder / "model")
    run = model.load_run(folder / "run")
    while run.steps < 2 * MILLION:
        run = model.loop(run, steps=STRETCH)
    _told(steps=run.steps, digest=digest(run))


def _told(**values: object) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    command, *given = sys.argv[1:]
    if command == "start":
        measure_start(Path(given[0]), float(given[1]))
    else:
        measured: dict[str, Callable[..., None]] = {
            "compile": measure_compile,
            "plain": measure_without_numba,
            "session": run_session,
            "resume": resume,
        }
        measured[command](*map(Path, given))
