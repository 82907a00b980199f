"""Files and folders appear whole or not at all, whoever writes and reads them at once."""

import ctypes
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import lsrl
from lsrl import folders
from lsrl.errors import FormatError, SuiteError
from lsrl.folders import alone, read_folder, replace_file, replace_folder
from lsrl.suite.build import build

pytestmark = pytest.mark.one_in(2)

ROOT = Path(__file__).resolve().parents[1]
OLD, NEW = {"config": b"old", "weights": b"old"}, {"config": b"new", "weights": b"new"}


def is_export(folder):
    if not (folder / "config").is_file():
        raise FormatError(f"{folder}: no export")


def write(folder, files):
    replace_folder(folder, files, is_export)


def held(folder):
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def python(code, *arguments):
    """Run code in a process of its own, with nothing of JAX."""
    return subprocess.run(
        [sys.executable, *(("-c", code) if "\n" in code else (code,)), *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.fixture(params=["exchange", "two renames", "no such call", "no locks"])
def system(request, monkeypatch):
    """The systems that there are: some exchange no paths, or lock no files."""

    def refused(*_):
        ctypes.set_errno(errno.EINVAL)
        return -1

    if request.param in ("two renames", "no such call"):
        call = {} if request.param == "no such call" else {"renameat2": refused}
        library = type("Library", (), call)
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    if request.param == "no locks":
        fcntl = pytest.importorskip("fcntl")

        def unable(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", unable)
    return request.param


# ---------------------------------------------------------------- what stays


def test_the_mode_of_an_older_file_stays(tmp_path):
    old_mask = os.umask(0o027)
    try:
        path = tmp_path / "file"
        replace_file(path, b"old")
        assert mode(path) == 0o640, "as the umask has it"
        for kept in (0o600, 0o666, 0o400):
            path.chmod(kept)
            replace_file(path, b"new")
            assert mode(path) == kept
        write(tmp_path / "folder", OLD)
        assert mode(tmp_path / "folder") == 0o750
        (tmp_path / "folder").chmod(0o700)
        (tmp_path / "folder/weights").chmod(0o600)
        write(tmp_path / "folder", NEW)
        assert mode(tmp_path / "folder") == 0o700
        assert mode(tmp_path / "folder/weights") == 0o600
        assert mode(tmp_path / "folder/config") == 0o640
    finally:
        os.umask(old_mask)


def test_what_is_written_is_never_open_to_more_than_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch(0o600)
    sync, seen = os.fsync, []

    def look(descriptor):
        seen.extend(mode(entry) for entry in tmp_path.iterdir())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    replace_file(path, b"secret")
    assert set(seen) == {0o600}


def test_links_stay_and_what_they_lead_to_is_replaced(tmp_path, system):
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "to file").symlink_to("there/file")
    (tmp_path / "to folder").symlink_to(there / "folder")
    for files in (OLD, NEW):  # at first they lead nowhere
        replace_file(tmp_path / "to file", files["config"])
        write(tmp_path / "to folder", files)
        assert (tmp_path / "to file").is_symlink()
        assert (tmp_path / "to folder").is_symlink()
        assert (there / "file").read_bytes() == files["config"]
        assert held(there / "folder") == files
    assert {path.name for path in there.iterdir()} == {"file", "folder"}


def test_what_is_no_file_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    replace_file(tmp_path / "pipe", b"through")
    reader.join()
    assert found == [b"through"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode), "as it would be of /dev/null"


def test_all_is_synced_before_it_takes_its_place(tmp_path, monkeypatch):
    done = []

    def noted(name, call):
        def wrapped(first, *rest):
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(first).st_mode)
            done.append("folder" if folder else name)
            return call(first, *rest)

        monkeypatch.setattr(os, name, wrapped)

    for name in ("fsync", "replace", "rename"):
        noted(name, getattr(os, name))
    replace_file(tmp_path / "one", b"content")
    assert done == ["fsync", "replace", "folder"]
    done.clear()
    write(tmp_path / "two", OLD)
    assert done == ["fsync", "fsync", "folder", "rename", "folder"]


# ---------------------------------------------------------------- errors


def test_errors_name_the_path_that_was_asked_for(tmp_path, monkeypatch):
    target = tmp_path / "model"

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))

    for call in ("open", "mkdir"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(PermissionError) as error:
                replace_file(target, b"") if call == "open" else write(target, OLD)
        assert error.value.filename == str(target)
        assert "draft" not in str(error.value)
    for writer in (lambda path: replace_file(path, b""), lambda path: write(path, OLD)):
        with pytest.raises(FileNotFoundError, match=f"^{tmp_path}/a/b: there is no folder .*a; "):
            writer(tmp_path / "a/b")
        with pytest.raises(IsADirectoryError, match=r"^/: "):
            writer("/")
        with pytest.raises(OSError, match="File name too long") as error:
            writer(tmp_path / ("n" * 300))
        assert error.value.filename == str(tmp_path / ("n" * 300))
        writer(tmp_path / ("n" * 255))
        shutil.rmtree(tmp_path / ("n" * 255), ignore_errors=True)
        (tmp_path / ("n" * 255)).unlink(missing_ok=True)
    with pytest.raises(IsADirectoryError, match=f"^{tmp_path}: "):
        replace_file(tmp_path, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_model_says_where_it_can_not_be_written_or_read(tmp_path):
    model = lsrl.compile(lsrl.programs.majority(), "gru")
    writers = (
        model.save,
        lambda path: model.export("torch", path),
        model.circuit.save,
        lambda path: model.save_state(model.init_state(), path),
    )
    for writer in writers:
        with pytest.raises(FileNotFoundError, match=f"^{tmp_path}/no/model: there is no folder"):
            writer(tmp_path / "no/model")
    for reader in (lsrl.load, lsrl.load_torch):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}/no"):
            reader(tmp_path / "no")
    with pytest.raises(IsADirectoryError, match=f"{tmp_path}"):
        lsrl.load(tmp_path)


def test_an_unfinished_older_export_may_be_replaced(tmp_path, system):
    write(tmp_path / "model", {"config": b"old"})
    write(tmp_path / "model", NEW)
    assert held(tmp_path / "model") == NEW
    (tmp_path / "model/config").unlink()
    with pytest.raises(FormatError, match=r"no export\); choose another path"):
        write(tmp_path / "model", OLD)
    assert held(tmp_path / "model") == {"weights": b"new"}


# ---------------------------------------------------------------- failures and kills


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_leaves_the_older_folder(failing, tmp_path, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: None)
    write(tmp_path / "model", OLD)
    rename, calls = os.rename, []

    def broken(*paths):
        calls.append(paths)
        if len(calls) == failing:
            raise OSError("broken")
        return rename(*paths)

    monkeypatch.setattr(os, "rename", broken)
    with pytest.raises(OSError, match="broken"):
        write(tmp_path / "model", NEW)
    assert held(tmp_path / "model") == OLD
    assert os.listdir(tmp_path) == ["model"]


KILLED = """
import ctypes, os, sys
from pathlib import Path
from lsrl.folders import replace_file, replace_folder
place, call, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ctypes.CDLL = lambda *_, **__: None
real, done = getattr(os, call), []
def deadly(*arguments):
    real(*arguments)
    done.append(None)
    if len(done) == last:
        os._exit(9)
setattr(os, call, deadly)
if call == "replace":
    replace_file(place, b"new")
else:
    replace_folder(place, {"config": b"new", "weights": b"new"}, lambda _: None)
"""


@pytest.mark.parametrize("renames", [1, 2, 3])
def test_a_kill_between_renames_leaves_a_folder_to_whoever_opens_it_next(renames, tmp_path):
    folder = tmp_path / "model"
    write(folder, OLD)
    assert python(KILLED, folder, "rename", renames).returncode == 9
    assert folder.exists() == (renames > 1)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert read_folder(folder, lambda: held(folder)) == (OLD if renames == 1 else NEW)
    for place in (folder, tmp_path / "copy/model"):
        write(place, NEW)
        assert held(place) == NEW
        assert set(os.listdir(place.parent)) <= {"model", "copy"}


def test_what_a_killed_process_leaves_goes_with_the_next_write(tmp_path):
    folder, mine = tmp_path / "model", tmp_path / ".model.mine.draft"
    mine.touch()
    for amount in (1, 2):  # syncs of one file, and of a folder's first
        write(folder, OLD)
        assert python(KILLED, folder, "fsync", amount).returncode == 9
        assert held(folder) == OLD
        assert len(os.listdir(tmp_path)) == 3
    write(folder, NEW)
    assert held(folder) == NEW
    assert set(os.listdir(tmp_path)) == {"model", mine.name}
    assert python(KILLED, tmp_path / "file", "replace", 1).returncode == 9
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_draft_that_is_being_written_is_left_alone(tmp_path, system, monkeypatch):
    """Two threads at one path, the first held up in the middle of its draft."""
    sync, waiting, go_on = os.fsync, threading.Event(), threading.Event()

    def slow(descriptor):
        if threading.current_thread() is not threading.main_thread():
            waiting.set()
            go_on.wait()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    file, folder = tmp_path / "file", tmp_path / "model"
    for writer in (lambda files: replace_file(file, files["config"]), partial(write, folder)):
        waiting.clear()
        go_on.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(writer, OLD)
            waiting.wait()
            try:
                writer(NEW)
            finally:
                go_on.set()
            first.result()
    assert file.read_bytes() == b"old", "who ends last"
    assert held(folder) == OLD
    assert set(os.listdir(tmp_path)) == {"file", "model"}


# ---------------------------------------------------------------- readers


def test_a_folder_that_is_replaced_meanwhile_is_read_again(tmp_path):
    folder, looks = tmp_path / "model", []
    write(folder, OLD)

    def torn():
        config = (folder / "config").read_bytes()
        looks.append(config)
        if len(looks) < 4:
            write(folder, NEW if config == b"old" else OLD)
        if config != (folder / "weights").read_bytes():
            raise FormatError("of two exports")
        return config

    assert read_folder(folder, torn) == b"new"
    assert looks == [b"old", b"new", b"old", b"new"]


def test_a_damaged_folder_is_read_once_and_no_folder_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "ATTEMPTS", 4)
    folder, looks = tmp_path / "model", []
    write(folder, OLD)

    def damaged():
        looks.append(None)
        raise FormatError("damaged")

    with pytest.raises(FormatError, match="damaged"):
        read_folder(folder, damaged)
    assert len(looks) == 1
    with pytest.raises(FormatError, match="damaged"):
        read_folder(folder, lambda: (write(folder, NEW), damaged()))
    assert 1 + 4 <= len(looks) <= 1 + 4 + 1, "it is replaced each time"


def test_load_torch_takes_config_and_weights_of_one_export(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    folder = tmp_path / "model"
    models = [lsrl.compile(program(), "gru") for program in (lsrl.programs.majority,
                                                             lsrl.programs.flip_flop)]  # fmt: skip
    models[0].export("torch", folder)
    read, exports = Path.read_bytes, []

    def overtaken(path):
        content = read(path)
        if path == folder / "config.json" and not exports:
            exports.append(path)
            models[1].export("torch", folder)
        return content

    monkeypatch.setattr(Path, "read_bytes", overtaken)
    assert lsrl.load_torch(folder).config["program"] == "flip_flop"
    assert exports


# ---------------------------------------------------------------- one at a time


def test_two_builds_of_one_directory_are_refused_and_the_second_names_the_first(tmp_path):
    with alone(tmp_path, "build"):
        with pytest.raises(SuiteError, match=rf"another build .* process {os.getpid()} on .*wait"):
            build(tmp_path, programs=["majority"], targets=["gru"], variants=["plain"], workers=1)
        with alone(tmp_path, "other"):
            pass
    assert os.listdir(tmp_path) == []
    code = """
import os, sys
from pathlib import Path
from lsrl.folders import alone
with alone(Path(sys.argv[1]), "build"):
    os._exit(9)
"""
    assert python(code, tmp_path).returncode == 9
    assert os.listdir(tmp_path) == [".build.lock"]
    with alone(tmp_path, "build"):
        pass
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- many at once


def counts(what, folder, amount, *further):
    found = python(str(ROOT / "tests/writers.py"), what, folder, amount, *further)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


SYSTEMS = pytest.mark.parametrize(
    "system", [(), ("without-exchange",)], ids=["exchange", "renames"]
)


@SYSTEMS
def test_a_crowd_of_threads_and_processes_reads_nothing_but_whole_ones(system, tmp_path):
    assert counts("crowd", tmp_path, 5, *system) == {"failed": 0, "writes": 45, "left": 0}


@SYSTEMS
def test_kills_leave_the_old_or_the_new_one(system, tmp_path):
    found = counts("kills", tmp_path, 10, *system)
    assert (found["kills"], found["left"]) == (10, 0)


@pytest.mark.nightly
@SYSTEMS
def test_many_kills_leave_the_old_or_the_new_one(system, tmp_path):
    """Three at one path, whose writers are killed in turn while the others go on."""
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(counts, "kills", tmp_path, 70, *system) for _ in range(3)]
        found = [future.result() for future in running]
    assert sum(each["drafts"] for each in found) > 0
    assert (sum(each["aside"] for each in found) > 0) == bool(system)
    assert counts("crowd", tmp_path, 1, *system)["left"] == 0


@pytest.mark.nightly
def test_eight_threads_and_four_processes_save_export_and_load_one_path(tmp_path):
    pytest.importorskip("torch")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.savers", tmp_path, str(threads), "60"],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for threads in (8, 1, 1, 1, 1)
    ]  # fmt: skip
    found = sum((Counter(json.loads(process.communicate()[0])) for process in processes), Counter())
    print(dict(found))
    assert not [what for what in found if what.startswith("error")]
    assert len(found) == 7
    assert min(found.values()) > 0
    assert set(os.listdir(tmp_path)) == {"model.lsrl", "torch", "huggingface"}
