"""Files and folders that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from lsrl.errors import FormatError


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file beside the old one, then put it in its place.

    A failure leaves an older file as it was.

    Raises:
      OSError: the file can't be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {target.parent}")
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    try:
        draft.write_bytes(content)
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def replace_folder(
    folder: Path, files: dict[str, bytes], check_export: Callable[[Path], object]
) -> None:
    """Write a folder beside the old one, then put it in its place.

    A failure leaves an older folder as it was.

    Args:
      folder: where to, as an absolute path.
      files: contents by name.
      check_export: called with a folder that has files of these names, to raise a FormatError if it
        is no older export.

    Raises:
      FormatError: the path holds something that is neither an older export nor an empty folder.
      OSError: the folder can't be written.
    """
    if folder.exists():
        _check_replaceable(folder, set(files), check_export)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        draft, old = Path(scratch, "draft"), Path(scratch, "old")
        draft.mkdir()
        for name, content in files.items():
            (draft / name).write_bytes(content)
        try:
            if folder.exists():
                folder.rename(old)
            draft.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise


def _check_replaceable(
    folder: Path, expected: set[str], check_export: Callable[[Path], object]
) -> None:
    """An older export or an empty folder may go; nothing else is ours to remove."""
    if folder.is_dir():
        names = {entry.name for entry in folder.iterdir()}
        if not names:
            return
        if names == expected:
            check_export(folder)
            return
    raise FormatError(
        f"{folder}: expected no such path, an empty folder or an older export, got something else; "
        "choose another path, or remove it first"
    )
