"""The site: all pages are in it, pictures say what they show, and nothing comes from a network."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import lsrl
from lsrl import errors, paper
from lsrl.interpret.wiring import quick_flags
from website import places, scripts

ROOT = Path(__file__).resolve().parents[1]
DOCS, CONFIG = ROOT / "docs", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
REFERENCE = sorted(DOCS.glob("reference/*.md"))
GALLERY = "gallery/"
# What a browser fetches of a page before anybody clicks.
FETCHED = re.compile(
    r'<(?:script|img|iframe|source|embed)\b[^>]*?\bsrc="(?P<source>[^"]*)"'
    r'|<link\b[^>]*?\brel="(?:stylesheet|icon|preload|modulepreload)"[^>]*?\bhref="(?P<link>[^"]*)"'
    r'|url\((?P<style>["\']?https?:[^)]*)\)|@import\s+["\'](?P<other>https?:[^"\']*)'
)


def pages() -> dict[str, str]:
    """The text of every page of the repository, by its place on the site."""
    files = {path.relative_to(DOCS).as_posix(): path for path in DOCS.rglob("*.md")}
    files |= {place: ROOT / path for path, place in places.extra().items() if path[-3:] == ".md"}
    return {place: path.read_text(encoding="utf-8") for place, path in files.items()}


def in_navigation() -> list[str]:
    return re.findall(r"^ +- (?:[^:\n]+: )?([\w./-]+\.md)$", CONFIG, re.MULTILINE)


def documented() -> list[str]:
    text = "\n".join(path.read_text(encoding="utf-8") for path in REFERENCE)
    return re.findall(r"^::: (lsrl[\w.]*)$", text, re.MULTILINE)


def public() -> set[str]:
    """Public names, each where it is documented; programs are in the gallery."""
    modules = ("induction", "interpret", "machine", "nn", "programs", "stability", "suite")
    programs = {entry.name for entry in lsrl.programs.catalogue().values()}
    names = {f"lsrl.{name}" for name in lsrl.__all__}
    names -= {f"lsrl.{name}" for name in (*modules, "errors", "paper", "induce", "lift")}
    names |= {f"lsrl.{part}.{name}" for part in modules for name in getattr(lsrl, part).__all__}
    names |= {
        f"{module.__name__}.{name}"
        for module in (errors, paper)
        for name, value in vars(module).items()
        if name[0] != "_"
        and getattr(value, "__module__", "") == module.__name__
        and callable(value)
    }
    return names - {f"lsrl.programs.{name}" for name in programs}


def test_the_navigation_has_every_page_once():
    listed = in_navigation()
    families = {entry.family for entry in lsrl.programs.catalogue().values()}
    made = {f"{GALLERY}{family.replace(' ', '-')}.md" for family in families}
    made |= {f"{GALLERY}index.md", f"{GALLERY}machine-programs.md"}
    made |= {place for path, place in places.extra().items() if path.endswith(".py")}
    assert len(listed) == len(set(listed))
    assert set(listed) == made | pages().keys()


def test_the_reference_has_every_public_name_once():
    found = documented()
    assert len(found) == len(set(found))
    assert set(found) == public()


def test_every_name_has_an_example_that_is_run():
    """There is a block below it, which tests/test_docs.py runs."""
    lacking = set()
    for path in REFERENCE:
        parts = re.split(r"^::: (\S+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for name, below in zip(parts[1::2], parts[2::2], strict=True):
            blocks = re.findall(r"^```python\n.*?^```", below, re.DOTALL | re.MULTILINE)
            lacking |= set() if blocks else {name}
    assert not lacking


def test_docstrings_tell_every_argument_and_leave_examples_to_the_reference():
    """There they are run, and each stands once."""
    for place in sorted(public()):
        module, _, name = place.rpartition(".")
        found = inspect.unwrap(getattr(importlib.import_module(module), name))
        if not isinstance(found, types.FunctionType | type):
            continue
        said = inspect.getdoc(found) or ""
        assert re.match(r"\S.*[.:)]$", said.partition("\n")[0]), f"{place}: one summary line"
        assert not re.search("^Examples?:", said, re.MULTILINE), (
            f"{place}: its page has the example"
        )
        wanted = (
            inspect.signature(found).parameters
            if isinstance(found, types.FunctionType)
            else getattr(found, "__dataclass_fields__", ())
        )
        above = found.__mro__[1:-1] if isinstance(found, type) else ()
        said = "\n".join([said, *(inspect.cleandoc(each.__doc__ or "") for each in above)])
        told = {*re.findall(r"^  \*{0,2}(\w+)(?: \(.*\))?:", said, re.MULTILINE)}
        lacking = {each for each in wanted if each[0] != "_"} - told
        assert not lacking, f"{place}: what is {', '.join(sorted(lacking))}?"


def test_pictures_say_what_they_show():
    for place, text in pages().items():
        plain = places.outside_fences(text, lambda part: part.replace("\n", " "))
        for about, picture in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", plain):
            assert len(about) > 4, f"{place}: {picture}"
        assert "<img" not in re.sub(r"`[^`]*`", "", text), (
            f"{place}: write ![what it shows](picture)"
        )


def test_pictures_are_vectors_on_light_and_dark_paper():
    pictures = [*DOCS.glob("*.svg"), *(ROOT / "benchmarks/results").glob("*.svg")]
    assert len(pictures) > 10
    for picture in pictures:
        text = picture.read_text(encoding="utf-8")
        assert re.search(r"prefers-color-scheme: ?dark", text), f"{picture}: dark on dark"
        assert len(text) < 200_000, picture
    texts = [*pages().values(), (ROOT / "README.md").read_text(encoding="utf-8")]
    shown = {name for text in texts for name in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)}
    assert {Path(name).name for name in shown} == {picture.name for picture in pictures}


def test_nothing_is_taken_from_a_network():
    theme = [CONFIG, *(path.read_text() for path in (ROOT / "website/theme").rglob("*.css"))]
    assert "font: false" in CONFIG and "- offline" in CONFIG
    for text in theme:
        assert not re.search(r"https?://", text)


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("docs/speed.md", "[x](../benchmarks/results/run.md#a)", "[x](results/run.md#a)"),
        ("docs/design.md", "[it](../lsrl/compiler.py)", "it (`lsrl/compiler.py`)"),
        ("docs/design.md", "[`lsrl/compiler.py`](../lsrl/compiler.py)", "`lsrl/compiler.py`"),
        ("docs/install.md", "(`speed.md`)", "([`speed.md`](speed.md))"),
        ("CONTRIBUTING.md", "`docs/design.md` and", "[`docs/design.md`](design.md) and"),
        ("benchmarks/results/run.md", "![Running](run.svg)", "![Running](run.svg)"),
        ("examples/README.md", "[a](notebooks/2_in_context.py)", "[a](2_in_context.md)"),
        ("docs/decisions/README.md", "[d](../design.md)", "[d](../design.md)"),
        ("docs/language.md", "[g](gallery/counting.md)", "[g](gallery/counting.md)"),
        ("docs/torch.md", "```\n[x](../lsrl/a.py)\n```", "```\n[x](../lsrl/a.py)\n```"),
        ("docs/torch.md", "[w](https://a.org/b.md) [s](#a)", "[w](https://a.org/b.md) [s](#a)"),
    ],
)  # fmt: skip
def test_links_hold_on_the_site(path, before, after):
    assert places.relinked(before, path) == after


def test_every_result_has_its_command():
    for path in (ROOT / "benchmarks/results").glob("*.md"):
        for module in re.findall(r"python -m (benchmarks\.\w+)", places.command(path.stem)):
            place = ROOT / module.replace(".", "/")
            assert place.with_suffix(".py").exists() or place.is_dir(), path.name


def test_a_notebook_becomes_a_page():
    text = "# %% [markdown]\n# # Title\n# Words.\n\n# %%\nimport lsrl\n\n# %%\nprint(1)\n"
    assert scripts.page("a.py", text) == (
        "# Title\nWords.\n\nThe notebook `examples/notebooks/a.py`.\n\n"
        "```python\nimport lsrl\n```\n\n```python\nprint(1)\n```\n"
    )
    assert scripts.page("b.py", '"""What it does."""\n\nimport lsrl\n').startswith(
        "# b.py\n\nWhat it"
    )


@pytest.mark.studies
def test_it_is_built_without_a_warning_and_asks_for_nothing(tmp_path):
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    setting = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "XLA_FLAGS": quick_flags()}
    done = subprocess.run(command, cwd=ROOT, env=setting, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = [next(filter(None, found), "") for found in FETCHED.findall(text)]
        assert not [link for link in fetched if re.match(r"['\"]?(https?:)?//", link)], page
        if "gallery/pages" in page.as_posix() or page.name == "404.html":
            continue
        inside = text[text.index("<article") : text.index("</article>")]
        for picture in re.findall(r"<img[^>]*>", inside):
            assert re.search(r'alt="[^"]{5,}"', picture) and "width=" in picture, (page, picture)
