"""The README says what the code does: its code runs, and its tables are the generated ones."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from lsrl import errors, tables

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_targets_table_is_the_generated_one():
    assert tables.renewed(README, {"targets": tables.targets_table()}) == README


@pytest.mark.nightly
def test_programs_table_is_the_generated_one():
    assert tables.renewed(README, {"programs": tables.programs_table()}) == README


def test_the_tutorial_runs(tmp_path, monkeypatch):
    """Every Python block of the README up to the language, in order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tutorial = README[: README.index("## The language")]
    blocks = re.findall(r"```python\n(.*?)```", tutorial, re.DOTALL)
    assert len(blocks) == 4
    space: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks[:3]:
            exec(compile(block, "tutorial.py", "exec"), space)
        with pytest.raises(errors.RampError, match="give the width of a ramp"):
            exec(compile(blocks[3], "tutorial.py", "exec"), space)
    assert "parameters   443 (66 nonzero)" in printed.getvalue()
    assert "exact up to token 16777215" in printed.getvalue()
    assert (tmp_path / "majority.lsrl").exists()
