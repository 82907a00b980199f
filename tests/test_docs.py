"""The README says what the code does: its code runs, and its tables are the generated ones.

The snippets of docs/add-a-target.md are taken from the code; `make golden` writes them anew.
"""

import ast
import contextlib
import io
import re
import textwrap
from pathlib import Path

import pytest

from lsrl import errors, tables

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
WALKS = (ROOT / "docs" / "add-a-target.md",)
# The mark of a snippet, as in <!-- tests/plain_target.py: Plain.lower -->, and what follows it.
SNIPPET = re.compile(
    r"<!-- (\S+\.py): ([\w.]+)( \(head\))? -->\n(?:```python\n.*?```\n)?", re.DOTALL
)


def snippet(file: str, name: str, head: bool) -> str:
    """A class or function of a file, or what a class says before its first method."""
    source = (ROOT / file).read_text(encoding="utf-8")
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        (node,) = (each for each in node.body if getattr(each, "name", None) == part)
    methods = (n for n in node.body if isinstance(n, ast.FunctionDef) and n.decorator_list == [])
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    end = next(methods).lineno - 1 if head else node.end_lineno
    return textwrap.dedent("\n".join(source.splitlines()[start - 1 : end])).rstrip()


def with_snippets(text: str) -> str:
    """The text with each snippet as the code has it now."""

    def renew(mark: re.Match[str]) -> str:
        code = snippet(mark[1], mark[2], bool(mark[3]))
        return f"<!-- {mark[1]}: {mark[2]}{mark[3] or ''} -->\n```python\n{code}\n```\n"

    return SNIPPET.sub(renew, text)


@pytest.mark.parametrize("path", WALKS, ids=lambda path: path.name)
def test_snippets_are_the_code(path):
    text = path.read_text(encoding="utf-8")
    assert SNIPPET.search(text)
    assert with_snippets(text) == text, "`make golden` renews them"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    """Files that a page names in backticks or links to, from the root or from its own folder."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = re.findall(r"`((?:docs|tests|lsrl|backends|programs|benchmarks)/[\w./-]+)`", text)
    linked = re.findall(r"\]\(((?!https?:|#)[^)#]+)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [name for name in linked if not (path.parent / name).exists()]
    assert not missing


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


if __name__ == "__main__":
    for path in WALKS:
        path.write_text(with_snippets(path.read_text(encoding="utf-8")), encoding="utf-8")
