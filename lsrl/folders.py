"""Files and folders that appear whole or not at all, whoever else writes or reads them.

Everything is written to a draft beside its place, synced, and then put there in one step. A draft
has a random name, and whoever fills it holds a lock on it, which the system lets go of when the
process ends: so a draft that can be locked is of a killed process, and the next writer of the same
path removes it.

A folder is exchanged for the older one in one call where the system has one (Linux). Elsewhere the
older one steps aside first; a process that is killed at that moment leaves none, and `restore`
puts the older one back: whoever opens the folder next calls it.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

from lsrl.errors import FormatError, SuiteError

if sys.platform != "win32":
    import fcntl

PathLike: TypeAlias = str | os.PathLike[str]
Read = TypeVar("Read")

# Times that a folder is read, if it is replaced each time meanwhile.
ATTEMPTS = 100
_LINUX = sys.platform == "linux"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_LOOK = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def replace_file(path: PathLike, content: bytes) -> None:
    """Write a file whole or not at all: a failure leaves an older one as it was.

    The older one's mode stays, and so does a symbolic link to it.

    Raises:
      OSError: the file can't be written; names the path.
    """
    with _named(path):
        target, older = _place(path)
        if older is not None and stat.S_ISDIR(older.st_mode):
            raise IsADirectoryError(f"{os.fspath(path)}: this is a directory; name a file")
        if older is not None and not stat.S_ISREG(older.st_mode):
            # A device or a pipe can't be replaced, only written to.
            Path(path).write_bytes(content)
            return
        with _draft(target, lambda draft: os.open(draft, _NEW, _mode(older))) as (draft, opened):
            _fill(opened, content, older)
            os.replace(draft, target)
        _sync(target.parent)


def replace_folder(
    path: PathLike,
    files: Mapping[str, bytes],
    check_export: Callable[[Path], object],
    others: Collection[str] = (),
) -> None:
    """Write a folder whole or not at all: a failure leaves an older one as it was.

    The older one's mode and those of its files stay, and so does a symbolic link to it.

    Args:
      path: where to.
      files: contents by name.
      check_export: called with a folder that has no files but some of these names and `others`, to
        raise a FormatError if it is no older export.
      others: names of files that an older export may have, and this one has not.

    Raises:
      FormatError: the path holds something that is neither an older export nor an empty folder.
      OSError: the folder can't be written; names the path.
    """
    with _named(path):
        target, older = _place(path)
        with _draft(target, _make_folder) as (draft, _):
            for name, content in files.items():
                old_file = _status(target / name)
                opened = os.open(draft / name, _NEW, _mode(old_file))
                try:
                    _fill(opened, content, old_file)
                finally:
                    os.close(opened)
            if older is not None:
                draft.chmod(_mode(older))
            _sync(draft)
            with _locked(target.parent):
                _restore(target)
                if target.exists():
                    _check_replaceable(Path(path), {*files, *others}, check_export)
                _put(draft, target)
        _sync(target.parent)


def read_folder(path: PathLike, read: Callable[[], Read]) -> Read:
    """Read a folder that may be replaced meanwhile; if it was, it is read again.

    Args:
      path: the folder.
      read: reads it; raises FormatError for files of two exports, or FileNotFoundError.

    Returns:
      What `read` returns.
    """
    folder = Path(path)
    for _ in range(ATTEMPTS):
        restore(folder)
        # Open meanwhile, so that the system can't give its number to another.
        with _opened(folder):
            before = _status(folder)
            try:
                return read()
            except (FormatError, FileNotFoundError):
                # None at all may be the moment between two renames of another.
                if before is not None and _same(before, _status(folder)):
                    raise
    return read()


def restore(path: PathLike) -> None:
    """Put an older folder back that a killed process has left aside, if there is none now."""
    target = Path(os.path.realpath(path))
    with contextlib.suppress(OSError):
        if not target.exists() and _aside(target).exists():
            with _locked(target.parent):
                _restore(target)


@contextlib.contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keep others out of a folder who want it for the same, until the end or a kill.

    Args:
      folder: that they share.
      what: they do there, in one word.

    Raises:
      SuiteError: another is at it; says which.
      OSError: the folder can't be written.
    """
    path = folder / f".{what}.lock"
    while True:
        with _named(folder):
            opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _lock(opened) is False:
                other = os.read(opened, 1000).decode(errors="replace") or "of another process"
                raise SuiteError(
                    f"{folder}: expected to be alone, got another {what} at work there, {other}; "
                    "wait until it ends, or name another folder"
                )
            if not _same(_status(path), os.fstat(opened)):
                continue  # who had it has just removed it
            os.ftruncate(opened, 0)
            os.write(opened, f"of process {os.getpid()} on {socket.gethostname()}".encode())
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(opened)


# ---------------------------------------------------------------- paths


@contextlib.contextmanager
def _named(path: PathLike) -> Iterator[None]:
    """Errors of the system name the path that was asked for, and no draft."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _place(path: PathLike) -> tuple[Path, os.stat_result | None]:
    """Where a path leads, behind all links, and what lies there.

    Raises:
      FileNotFoundError: there is no folder for it.
      IsADirectoryError: it is the root of all folders.
    """
    target = Path(os.path.realpath(path))
    if not target.name:
        raise IsADirectoryError(f"{os.fspath(path)}: this is the root; name a path below it")
    older = _status(Path(path))
    if older is None and not target.parent.is_dir():
        raise FileNotFoundError(
            f"{os.fspath(path)}: there is no folder {Path(path).parent}; make it first"
        )
    return target, older


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _same(first: os.stat_result | None, second: os.stat_result | None) -> bool:
    if first is None or second is None:
        return first is second
    return os.path.samestat(first, second)


def _mode(older: os.stat_result | None) -> int:
    """The mode of a file in the place of an older one; the umask has its say on a new one."""
    return 0o666 if older is None else stat.S_IMODE(older.st_mode)


def _aside(target: Path) -> Path:
    """Where an older folder lies while another takes its place, if that needs two steps."""
    whole = hashlib.sha256(os.fsencode(target.name)).hexdigest()
    return target.with_name(f"{_prefix(target)}{whole[:16]}.older")


@contextlib.contextmanager
def _opened(path: PathLike, flags: int = os.O_RDONLY) -> Iterator[int | None]:
    """A descriptor; None where there is nothing, or the system opens no folders."""
    try:
        found = os.open(path, flags)
    except OSError:
        found = None
    try:
        yield found
    finally:
        if found is not None:
            os.close(found)


def _fill(opened: int, content: bytes, older: os.stat_result | None) -> None:
    with open(opened, "wb", closefd=False) as file:
        file.write(content)
    if older is not None and sys.platform != "win32":
        os.fchmod(opened, _mode(older))
    os.fsync(opened)


def _sync(folder: Path) -> None:
    """Names in a folder survive a loss of power, as far as the system can be asked for that."""
    with _opened(folder) as opened, contextlib.suppress(OSError):
        if opened is not None:
            os.fsync(opened)


def _remove(path: Path) -> None:
    """Remove what nobody wants any more, whoever else removes it meanwhile."""
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        path.chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)


# ---------------------------------------------------------------- locks and drafts


def _lock(opened: int | None, wait: bool = False) -> bool | None:
    """Lock a file or folder: False if another has it, None if the system can't lock it."""
    if sys.platform == "win32" or opened is None:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other thread or process is in here for this folder."""
    with _opened(folder) as opened:
        locked = _lock(opened, wait=True)
        try:
            yield
        finally:
            # Closing is not enough: a process that was forked meanwhile has it open, too.
            if locked and opened is not None and sys.platform != "win32":
                fcntl.flock(opened, fcntl.LOCK_UN)


@contextlib.contextmanager
def _draft(target: Path, make: Callable[[Path], int | None]) -> Iterator[tuple[Path, int]]:
    """A draft beside its place, locked; what lies there in the end is removed.

    Args:
      target: its place.
      make: makes it, and opens it if the system can.
    """
    _sweep(target)
    while True:
        draft = _draft_path(target)
        opened = make(draft)
        _lock(opened, wait=True)
        if draft.exists():
            break
        # Taken for one of a killed process before it was locked.
        if opened is not None:
            os.close(opened)
    try:
        yield draft, -1 if opened is None else opened
    finally:
        _remove(draft)
        if opened is not None:
            os.close(opened)


def _make_folder(draft: Path) -> int | None:
    draft.mkdir()
    try:
        return os.open(draft, os.O_RDONLY)
    except OSError:
        return None


def _draft_path(target: Path) -> Path:
    return target.with_name(f"{_prefix(target)}{secrets.token_hex(8)}.draft")


def _prefix(target: Path) -> str:
    """How names of drafts begin; not longer than a name may be."""
    return f".{target.name[:50]}."


def _sweep(target: Path) -> None:
    """Remove the drafts that killed processes have left for a place."""
    form = re.compile(re.escape(_prefix(target)) + r"[0-9a-f]{16}\.draft")
    with contextlib.suppress(OSError):
        for name in os.listdir(target.parent):
            if form.fullmatch(name):
                with _opened(target.with_name(name), _LOOK) as opened:
                    if _lock(opened):
                        _remove(target.with_name(name))


# ---------------------------------------------------------------- folders in each other's place


def _put(draft: Path, target: Path) -> None:
    """Put a draft in its place; where an older folder was there, it has the draft's name then."""
    if not target.exists():
        os.rename(draft, target)
    elif not _exchange(draft, target):
        aside = _aside(target)
        os.rename(target, aside)
        try:
            os.rename(draft, target)
        except BaseException:
            os.rename(aside, target)
            raise
        os.rename(aside, draft)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system or the file system can't."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if _LINUX else None
    if call is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    if call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), os.fspath(other))


def _restore(target: Path) -> None:
    """What a killed process has left aside takes its place, or goes if a newer one is there."""
    aside = _aside(target)
    if not aside.exists():
        return
    if target.exists():
        # By another name first: what is half removed must never be put back.
        left = _draft_path(target)
        os.rename(aside, left)
        _remove(left)
    else:
        os.rename(aside, target)


def _check_replaceable(
    folder: Path, expected: set[str], check_export: Callable[[Path], object]
) -> None:
    """An older export or an empty folder may go; nothing else is ours to remove."""
    why = ""
    if folder.is_dir():
        names = {entry.name for entry in folder.iterdir()}
        if not names:
            return
        if names <= expected:
            try:
                check_export(folder)
                return
            except FormatError as error:
                why = f" ({error})"
    raise FormatError(
        f"{folder}: expected no such path, an empty folder or an older export, got something else"
        f"{why}; choose another path, or remove it first"
    )
