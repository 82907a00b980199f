"""The site: all pages are in it, pictures say what they show, and nothing comes from a network."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

import lsrl
from lsrl import errors, paper
from lsrl.interpret.wiring import quick_flags
from tests import browser
from website import docstrings, places, scripts

ROOT = Path(__file__).resolve().parents[1]
DOCS, CONFIG = ROOT / "docs", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
REFERENCE = sorted(DOCS.glob("reference/*.md"))
GALLERY = "gallery/"
# Somebody and a year: Petrov et al. 2024, Angluin (1987), Siems & Grazzi (2025).
CITED = re.compile(r"[A-Z][a-z]+(?: et al\.| and [A-Z]\w+| & [A-Z]\w+)? \(?(?:1[89]|20)\d\d\b")
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


def blocks() -> dict[str, list[str]]:
    """The code that stands below each name."""
    found = {}
    for path in REFERENCE:
        parts = re.split(r"^::: (\S+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for name, below in zip(parts[1::2], parts[2::2], strict=True):
            found[name] = re.findall(r"^```python\n(.*?)^```", below, re.DOTALL | re.MULTILINE)
    return found


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
    assert not [name for name, below in blocks().items() if not below]


def test_docstrings_tell_every_argument_and_have_an_example_that_is_run():
    """It is part of what stands below the name on its page, which tests/test_docs.py runs."""
    below = blocks()
    for place in sorted(public()):
        module, _, name = place.rpartition(".")
        found = inspect.unwrap(getattr(importlib.import_module(module), name))
        if not isinstance(found, types.FunctionType | type):
            continue
        said = inspect.getdoc(found) or ""
        assert re.match(r"\S.*[.:)]$", said.partition("\n")[0]), f"{place}: one summary line"
        if module != "lsrl.errors":
            example = docstrings.EXAMPLE.search(said)
            assert example, f"{place}: expected an example at the end"
            lines = textwrap.dedent(example["lines"]).strip()
            assert any(lines in block for block in below[place]), f"{place}: not on its page"
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


def test_whoever_is_cited_is_named_as_a_source():
    """In a line `Source:`, where readers look for it; what is in `lsrl.paper` always has one."""
    programs = {f"lsrl.programs.{entry.name}" for entry in lsrl.programs.catalogue().values()}
    lacking = set()
    for place in public() | programs:
        module, _, name = place.rpartition(".")
        said = inspect.getdoc(getattr(importlib.import_module(module), name)) or ""
        cites = module == "lsrl.paper" or CITED.search(said)
        if cites and not re.search(r"^Source: .*(?:\n.*)?\b(?:1[89]|20)\d\d\b", said, re.MULTILINE):
            lacking.add(place)
    assert not lacking


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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built without a warning."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    setting = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "XLA_FLAGS": quick_flags()}
    done = subprocess.run(command, cwd=ROOT, env=setting, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.studies
def test_it_asks_for_nothing(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = [next(filter(None, found), "") for found in FETCHED.findall(text)]
        assert not [link for link in fetched if re.match(r"['\"]?(https?:)?//", link)], page
        if "gallery/pages" in page.as_posix() or page.name == "404.html":
            continue
        inside = text[text.index("<article") : text.index("</article>")]
        for picture in re.findall(r"<img[^>]*>", inside):
            assert re.search(r'alt="[^"]{5,}"', picture) and "width=" in picture, (page, picture)


# Sums up what moves while a page loads, as browsers score it: below 0.1 is called good.
WATCH = """window.moved = 0; new PerformanceObserver(list => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
}).observe({type: "layout-shift", buffered: true});"""
LOOK = """const root = document.documentElement, entries = performance.getEntriesByType("resource");
return {
    moved: window.moved, beyond: root.scrollWidth - root.clientWidth,
    missing: [...document.images].filter(each => each.complete && !each.naturalWidth).length,
    foreign: entries.map(each => each.name).filter(name => !/^(file|data|blob):/.test(name)),
    dark: document.body.dataset.mdColorScheme === "slate",
    loaded: performance.getEntriesByType("navigation")[0].loadEventEnd,
};"""


@pytest.mark.studies
@pytest.mark.parametrize(("scheme", "width"), [("dark", 400), ("light", 1400)])
def test_every_page_in_a_browser(site, tmp_path, scheme, width):
    """What is right on any machine is asserted; how long pages take, `pytest -s` tells."""
    took = {}
    with browser.browsing(tmp_path) as window:
        window.devtools("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        window.devtools("Performance.enable", timeDomain="threadTicks")
        window.prefer(scheme)
        window.resize(width, 900)
        for path in sorted(site.rglob("*.html")):
            if "gallery/pages" in path.as_posix() or path.name == "404.html":
                continue
            window.open(path.as_uri())
            place = path.relative_to(site).as_posix()
            while not (seen := window.run(LOOK))["loaded"]:
                pass  # a page counts as open once its load event begins
            assert seen["dark"] == (scheme == "dark"), place
            assert seen["moved"] < 0.02 and seen["beyond"] <= 0, (place, seen)
            assert not seen["missing"] and not seen["foreign"] and not window.console(), place
            metrics = window.devtools("Performance.getMetrics")["metrics"]
            spent = {each["name"]: each["value"] for each in metrics}["TaskDuration"]
            took[place] = spent, seen["loaded"] / 1000
    by_thread, by_clock = ({place: both[k] for place, both in took.items()} for k in (0, 1))
    for name, found in (("thread", by_thread), ("clock", by_clock)):
        worst = max(found, key=found.__getitem__)
        print(f"{scheme}, {width} pixels, by the {name}: {worst} {found[worst]:.2f} s")


# The faintest text of a page against what it stands on, as WCAG 2.1 measures contrast (1.4.3), but
# for the marks that come with the mouse.
FAINTEST = """const parse = text => {
    const [red, green, blue, alpha] = text.match(/[\\d.]+/g).map(Number);
    return [red, green, blue, alpha ?? 1];
};
const over = (top, below) => [0, 1, 2].map(k => top[k] * top[3] + below[k] * (1 - top[3]));
const light = colour => colour.reduce((sum, value, k) => {
    const part = value / 255;
    return sum + [.2126, .7152, .0722][k] *
        (part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
}, 0);
const paper = element => element === null ? [255, 255, 255]
    : over(parse(getComputedStyle(element).backgroundColor), paper(element.parentElement));
let worst = [21, ""];
for (const element of document.querySelectorAll("article :not(.headerlink)")) {
    const own = [...element.childNodes].filter(node => node.nodeType === 3);
    const text = own.map(node => node.data).join("").trim();
    if (!text || !element.offsetParent) continue;
    const below = paper(element), ink = over(parse(getComputedStyle(element).color), below);
    const [dark, bright] = [light(ink), light(below)].sort((a, b) => a - b);
    const contrast = (bright + .05) / (dark + .05);
    if (contrast < worst[0]) worst = [contrast, text];
}
return worst;"""


@pytest.mark.studies
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_text_is_faint(site, tmp_path, scheme):
    """At least 4.5, which light comments in code have but for rounding."""
    with browser.browsing(tmp_path) as window:
        window.prefer(scheme)
        for place in ("index", "library", "gallery/index", "reference/nn", "results/engine"):
            window.open((site / f"{place}.html").as_uri())
            contrast, text = window.run(FAINTEST)
            assert contrast > 4.49, (place, text)


@pytest.mark.studies
def test_keys_reach_everything_and_show_where_they_are(site, tmp_path):
    focus = """const it = document.activeElement;
        if (it === document.body) return null;  // past the last one
        const label = it.matches(".md-option") ? it.nextElementSibling : it;
        return [it.className, getComputedStyle(label).outlineStyle];"""
    reached = []
    with browser.browsing(tmp_path) as window:
        window.open((site / "results" / "modern.html").as_uri())  # its tables scroll
        for _ in range(80):
            window.press("tab")
            if (at := window.run(focus)) is not None:
                assert at[1] != "none" or "md-search__input" in at[0], at
                reached += at[0].split()
    assert reached[0] == "md-skip"
    wanted = {"md-option", "md-search__input", "md-tabs__link", "md-nav__link", "md-footer__link"}
    assert wanted | {"md-typeset__scrollwrap"} <= {*reached}
