"""The wheel: it has every package and data file, and runs the demo where nothing else is."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from the files that are in the repository, in a copy of it."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    done("git", "archive", "--output", str(out / "tree.tar"), "HEAD", folder=ROOT)
    done("tar", "xf", str(out / "tree.tar"), folder=tree)
    done(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(out), ".", folder=tree)
    (found,) = out.glob("*.whl")
    return found


def done(*command: str, folder: Path) -> str:
    """What a command prints; it succeeds."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_module_and_data_file_is_in_it(wheel: Path) -> None:
    tracked = done("git", "ls-files", "lsrl", "backends", "programs", folder=ROOT).splitlines()
    links = ("backends", "programs")
    expected = {f"lsrl/{name}" if name.startswith(links) else name for name in tracked}
    expected -= {f"lsrl/{link}" for link in links}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert expected <= names, sorted(expected - names)
    assert {"lsrl/py.typed", "lsrl/interpret/page.css", "lsrl/backends/lstm.py"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "examples/"))]


def test_a_bare_environment_runs_the_demo(wheel: Path, tmp_path: Path) -> None:
    done(sys.executable, "-m", "venv", "bare", folder=tmp_path)
    python = str(tmp_path / "bare" / "bin" / "python")
    lock = str(ROOT / "constraints.txt")
    done(python, "-m", "pip", "install", "--constraint", lock, str(wheel), folder=tmp_path)
    printed = done(python, "-m", "lsrl.demo", "1", folder=tmp_path)
    assert "Equal to the reference evaluator at every token: True" in printed
    version = done(str(tmp_path / "bare" / "bin" / "lsrl"), "--version", folder=tmp_path)
    assert f"lsrl-{version.split()[1]}-" in wheel.name
