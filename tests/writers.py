"""Writers of one file and one folder: a crowd of them, or one after another that is killed.

In a process of its own, which forks and has no other threads: `python tests/writers.py crowd DIR`.
"""

import collections
import ctypes
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lsrl.errors import FormatError
from lsrl.folders import read_folder, replace_file, replace_folder

LINES = 20_000
FILES = ("config", "weights")


def content(version: int) -> bytes:
    """Of a version, with which nothing else can be taken for whole."""
    return f"{version:020}\n".encode() * LINES


def version_of(found: bytes) -> bytes:
    """The version that some bytes are of.

    Raises:
      FormatError: they are none of a whole version.
    """
    if not found or found != found[:21] * LINES:
        raise FormatError(f"torn: {len(found)} bytes")
    return found[:21]


def write(root: Path, version: int) -> None:
    """Replace the file and the folder."""
    replace_file(root / "file", content(version))
    replace_folder(root / "folder", dict.fromkeys(FILES, content(version)), lambda _: None)


def read(root: Path) -> None:
    """Read the file and the folder.

    Raises:
      FormatError: one is not whole.
    """
    version_of((root / "file").read_bytes())
    read_folder(root / "folder", lambda: read_files(root / "folder"))


def read_files(folder: Path) -> None:
    """Read the folder's files, which must be of one version."""
    if len({version_of((folder / name).read_bytes()) for name in FILES}) > 1:
        raise FormatError("of two versions")


def without_exchange() -> None:
    """Make this system one that can't exchange two paths in one call."""
    ctypes.CDLL = lambda *_, **__: None  # type: ignore[assignment, misc]


def deadly(rename: Callable[..., None], chance: random.Random) -> Callable[..., None]:
    """A rename after which this process may be dead: moments too short to be met by chance."""

    def rename_and_die(*paths: Path) -> None:
        rename(*paths)
        if chance.random() < 0.3:
            os.kill(os.getpid(), signal.SIGKILL)

    return rename_and_die


def crowd(root: Path, rounds: int) -> dict[str, int]:
    """Three processes of three threads that all write and read; errors end with exit code 1."""
    write(root, 0)
    children = [os.fork() for _ in range(3) if os.getpid() == ME]
    if os.getpid() != ME:
        errors: list[Exception] = []

        def work(number: int) -> None:
            try:
                for turn in range(rounds):
                    write(root, (os.getpid() * 10 + number) * 1000 + turn)
                    read(root)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in errors:
            print(repr(error), file=sys.stderr)
        sys.stderr.flush()
        os._exit(bool(errors))
    failed = sum(bool(os.waitpid(child, 0)[1]) for child in children)
    return {"failed": failed, "writes": 9 * rounds, "left": len(os.listdir(root)) - 2}


def kills(root: Path, count: int) -> dict[str, int]:
    """Kill writers at random moments; each time the old or the new one must be there."""
    write(root, 0)
    chance, found = random.Random(0), collections.Counter(kills=count)
    for turn in range(count):
        child = os.fork()
        if not child:
            os.rename = deadly(os.rename, chance)  # type: ignore[assignment]
            version = turn * 10**6
            while True:
                version += 1
                write(root, version)
        time.sleep(chance.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        names = set(os.listdir(root))
        found["drafts"] += sum(name.endswith(".draft") for name in names)
        found["aside"] += "folder" not in names
        read(root)
    write(root, 1)
    return {**found, "left": len(os.listdir(root)) - 2}


ME = os.getpid()

if __name__ == "__main__":
    what, place, amount = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if "without-exchange" in sys.argv:
        without_exchange()
    print(json.dumps({"crowd": crowd, "kills": kills}[what](place, amount)))
