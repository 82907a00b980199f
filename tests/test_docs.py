"""The pages say what the code does: snippets run and print what they say, tables are generated.

The snippets of docs/add-a-target.md are taken from the code; `make golden` writes them anew.
"""

import ast
import contextlib
import io
import linecache
import re
import textwrap
from pathlib import Path

import jax
import pytest

from lsrl import errors, tables
from tests.grids import studied

ROOT = Path(__file__).resolve().parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
WALKS = (DOCS / "add-a-target.md",)
# A block that is run, and what it shows below; a comment above tells of one that isn't, and why.
BLOCK = re.compile(
    r"(?<!-->\n)^```python\n(.*?)^```\n(?:\n```\n(.*?)```)?", re.DOTALL | re.MULTILINE
)
# Pages whose snippets run, and what they need beside the package; `make test` runs two of them.
RUN = [path for path in PAGES if BLOCK.search(path.read_text(encoding="utf-8"))]
QUICK = (README, DOCS / "language.md")
NEEDED = {
    "README.md": ("torch", "transformers", "matplotlib"),
    "computer.md": ("torch", "transformers"),
    "exports.md": ("torch", "transformers"),
    "kernels.md": ("torch", "transformers"),
    "compiling.md": ("torch",),
    "library.md": ("torch", "transformers"),
    "torch.md": ("torch",),
    "nn.md": ("torch", "transformers"),
    "tutorial.md": ("torch", "transformers"),
    "interpretability.md": ("torch", "transformers", "sklearn"),
    "stability.md": ("matplotlib",),
}
# Pages that train: optax multiplies the steps that it counts with floats.
TRAIN = ("library.md", "nn.md")
# Pages that `make docs` makes, which checks the links that lead there.
MADE = r"(?:\.\./)?gallery/[\w-]+\.md$"
RAISED = re.compile(r"^# (\w+Error): \S+: (.*(?:\n#.*)*)", re.MULTILINE)
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
    linked = [name for name in linked if not re.match(MADE, name)]
    missing += [name for name in linked if not (path.parent / name).exists()]
    assert not missing


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_targets_table_is_the_generated_one():
    text = (DOCS / "targets.md").read_text(encoding="utf-8")
    assert tables.renewed(text, {"targets": tables.targets_table()}) == text


@pytest.mark.nightly
def test_programs_table_is_the_generated_one():
    text = (DOCS / "programs.md").read_text(encoding="utf-8")
    assert tables.renewed(text, {"programs": tables.programs_table()}) == text


@pytest.mark.parametrize("path", studied(RUN, *QUICK), ids=lambda path: path.name)
def test_snippets_run_and_print_what_the_page_says(path, tmp_path, monkeypatch):
    """Every Python block of a page, in order, in one namespace and an empty folder."""
    for module in NEEDED.get(path.name, ()):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    space: dict[str, object] = {"__name__": "page"}
    # Signals go by their text, as they do in a file of the reader's.
    lines = text.splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, path.name, (len(text), None, lines, path.name))
    promotion = "standard" if path.name in TRAIN else "strict"
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(1))
        code = compile("\n" * above + block[1], path.name, "exec")
        printed, error = io.StringIO(), RAISED.search(block[1])
        with contextlib.redirect_stdout(printed), jax.numpy_dtype_promotion(promotion):
            if error is None:
                exec(code, space)
            else:
                message = re.escape(" ".join(error[2].replace("\n#", "").split()))
                with pytest.raises(getattr(errors, error[1]), match=message):
                    exec(code, space)
        shown = re.findall(r"^print\(.*\)  # (.*)$", block[1], re.MULTILINE)
        check_shown([*shown, *(block[2] or "").splitlines()], printed.getvalue(), above)


def check_shown(lines: list[str], printed: str, above: int) -> None:
    """The lines are printed in this order, maybe with others between; … stands for anything."""
    place = 0
    for line in lines:
        wanted = re.escape(line.strip()).replace("…", ".*").replace(r"\ ", " +")
        found = re.compile(f"^ *{wanted} *$", re.MULTILINE).search(printed, place)
        assert found, f"the block below line {above} prints no {line!r}:\n{printed}"
        place = found.end()


if __name__ == "__main__":
    for path in WALKS:
        path.write_text(with_snippets(path.read_text(encoding="utf-8")), encoding="utf-8")
