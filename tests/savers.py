"""Threads that save, export and load models at one path: `python -m tests.savers DIR N SECONDS`.

Prints how often each did what, and the errors.
"""

import collections
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import lsrl
from lsrl.errors import FormatError
from lsrl.folders import read_folder
from lsrl.storage import weights_digest

PROGRAMS: dict[str, Callable[[], lsrl.Program]] = {
    "majority": lsrl.programs.majority,
    "flip_flop": lsrl.programs.flip_flop,
}


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Savers:
    """What is done at the paths of a folder, with models of two programs in turn."""

    def __init__(self, root: Path) -> None:
        """Compile the models, and see what whole results look like."""
        self.root = root
        self.cells = {name: lsrl.compile(make(), "gru") for name, make in PROGRAMS.items()}
        self.texts = {name: lsrl.compile(make(), "mamba") for name, make in PROGRAMS.items()}
        self.digests = {
            name: weights_digest(model.module.parameter_arrays())
            for name, model in self.cells.items()
        }
        with tempfile.TemporaryDirectory() as scratch:
            self.exported = [
                self._exported(model, kind, Path(scratch, f"{name}-{kind}"))
                for name in PROGRAMS
                for kind, model in (("torch", self.cells[name]), ("huggingface", self.texts[name]))
            ]
        self.work: dict[str, Callable[[str], object]] = {
            "save": lambda name: self.cells[name].save(root / "model.lsrl"),
            "load": self.load,
            "export torch": lambda name: self.cells[name].export("torch", root / "torch"),
            "load torch": lambda name: lsrl.load_torch(root / "torch"),
            "read torch": lambda name: self.look(root / "torch"),
            "export huggingface": lambda name: self.texts[name].export(
                "huggingface", root / "huggingface"
            ),
            "read huggingface": lambda name: self.look(root / "huggingface"),
        }

    @staticmethod
    def _exported(model: lsrl.Model, kind: str, folder: Path) -> dict[str, bytes]:
        model.export(kind, folder)
        return contents(folder)

    def load(self, _: str) -> None:
        """Load the model, which must be one of the two."""
        model = lsrl.load(self.root / "model.lsrl")
        if weights_digest(model.module.parameter_arrays()) != self.digests[model.program.name]:
            raise FormatError("torn")

    def look(self, folder: Path) -> None:
        """Read a folder, which must be one of the exports, byte for byte."""

        def read() -> None:
            if contents(folder) not in self.exported:
                raise FormatError("torn")

        read_folder(folder, read)

    def run(self, number: int, until: float, found: collections.Counter[str]) -> None:
        """Do all in turn until it is time."""
        turn = number
        while time.monotonic() < until:
            for what, work in self.work.items():
                turn += 1
                try:
                    work(list(PROGRAMS)[turn // 2 % 2])
                    found[what] += 1
                except Exception as error:
                    found[f"error: {error!r}"] += 1


def main(root: Path, threads: int, seconds: float) -> None:
    """Let threads work, and print the counts."""
    savers = Savers(root)
    for name in PROGRAMS:
        for what, work in savers.work.items():
            if what.startswith(("save", "export")):
                work(name)
    counts = [collections.Counter[str]() for _ in range(threads)]
    until = time.monotonic() + seconds
    running = [
        threading.Thread(target=savers.run, args=(number, until, found))
        for number, found in enumerate(counts)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(json.dumps(sum(counts, collections.Counter[str]())))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
