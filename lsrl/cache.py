"""Compiled models on disk, so that an equal program is not scheduled twice.

An entry is a saved model; its name is a hash of all that a compilation depends on: the program
(without the lines it was written on), the target, the options, and this package. What takes long is
to find a schedule's levels; the rest is worked out again and is the same to the bit.

Entries lie in the user's cache directory (`directory`), which may be deleted at any time. The
command line asks for it before anything heavy is loaded, so storage loads when it is needed.
"""

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lsrl.errors import FormatError

if TYPE_CHECKING:
    from lsrl.language.program import Program
    from lsrl.levels import Levels


# Files and folders that only say or draw results, so that they don't depend on them.
TELLING = (
    "cli/",
    "demo.py",
    "stability/__init__.py",
    *(f"stability/{name}.py" for name in ("figures", "measurement", "report")),
)


def directory() -> Path:
    """Where caches of this package lie: in XDG_CACHE_HOME, else where the system keeps caches."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    if not chosen and sys.platform == "win32":
        chosen = os.environ.get("LOCALAPPDATA")
    if chosen:
        return Path(chosen) / "lsrl"
    home = Path.home()
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "lsrl"


def keep_compiled(folder: "str | os.PathLike[str] | None" = None) -> Path:
    """Let jax keep on disk what it compiles from now on, for this process and later ones.

    Nothing calls this for you: it sets jax's own options, `jax_compilation_cache_dir` and what goes
    with it, for all that the process compiles. The environment variable JAX_COMPILATION_CACHE_DIR
    does the same before jax is loaded. What is kept depends on shapes, not on weights, and jax
    looks at its own version and the device.

    Args:
      folder: where; if None, "jax" in this package's folder of the user's cache directory, which
        may be deleted at any time.

    Returns:
      The folder.

    Raises:
      OSError: the folder can't be made.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    place = directory() / "jax" if folder is None else Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(place))  # type: ignore[no-untyped-call]
    # Small networks compile in less than the second from which jax would keep them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)  # type: ignore[no-untyped-call]
    # What was compiled before this, jax took as a sign that nothing is kept.
    compilation_cache.reset_cache()
    return place


def key(program: "Program", options: Mapping[str, str], lines: bool = True) -> str:
    """A hash of all that a compilation depends on.

    Args:
      program: what is compiled.
      options: what else the result depends on, by name.
      lines: also of the lines that the program was written on, which messages name.
    """
    from lsrl.program_json import program_content

    content = [program_content(program, lines), dict(options), version("lsrl"), code()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def place(program: "Program", options: Mapping[str, str]) -> Path:
    """The file of an entry, whether it is there or not; see `key`."""
    return directory() / "models" / f"{key(program, options, lines=False)}.lsrl"


def levels(entry: Path) -> "Levels | None":
    """The schedule's levels that an entry holds; None if there is none, or it is damaged."""
    from lsrl import storage

    try:
        return storage.read(entry).levels
    except (FormatError, OSError):
        return None


def prepare(entry: Path) -> bool:
    """Make room for an entry; False, with a warning, where nothing can be written."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        tell(error)
        return False
    return True


def tell(error: OSError) -> None:
    """Warn that the cache can't be written, which costs time and nothing else."""
    warnings.warn(
        f"the model is compiled, but not cached: {error}; set XDG_CACHE_HOME to a directory that "
        "can be written, or compile with cache=False",
        stacklevel=3,
    )


@cache
def code() -> str:
    """The hash of the sources that results depend on: an editable installation changes under one.

    Of their bytes, comments too: messages, cards and saved programs name lines of them.
    """
    root = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(folder, name)
                place = path.relative_to(root).as_posix()
                if not place.startswith(TELLING):
                    content = path.read_bytes()
                    digest.update(f"{place} {len(content)}\n".encode() + content)
    return digest.hexdigest()
