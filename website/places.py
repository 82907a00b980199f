"""Where a file of the repository lies on the site, and links that hold in both places."""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Files outside docs/ that are pages, or pictures of pages: (as in the repository, as on the site).
MOVED = (
    (r"README\.md", "index.md"),
    (r"CHANGELOG\.md", "changelog.md"),
    (r"CONTRIBUTING\.md", "contributing.md"),
    (r"examples/README\.md", "examples/index.md"),
    (r"examples/(?:notebooks/)?(\w+)\.py", r"examples/\1.md"),
    (r"benchmarks/README\.md", "results/index.md"),
    (r"benchmarks/results/([\w.]+\.(?:md|png|svg))", r"results/\1"),
    (r"docs/(.+)", r"\1"),
)
FENCED = re.compile(r"(^(?P<mark> *```+).*?^(?P=mark)$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<to>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
NAMED = re.compile(r"(?<![`\[])`(?P<path>[\w./-]+\.md)`(?![`\]])")


def on_site(path: str) -> str | None:
    """The place of a file on the site, from its top; None if it is no part of it.

    Args:
      path: from the top of the repository, with `/`.
    """
    for pattern, place in MOVED:
        if found := re.fullmatch(pattern, path):
            return found.expand(place) if (ROOT / path).is_file() else None
    return None


def extra() -> dict[str, str]:
    """The files outside docs/ that the site has: their places on it by those in the repository."""
    files = [
        *ROOT.glob("*.md"),
        *ROOT.glob("examples/**/*.*"),
        *ROOT.glob("benchmarks/README.md"),
        *ROOT.glob("benchmarks/results/*.*"),
    ]
    names = sorted(path.relative_to(ROOT).as_posix() for path in files)
    places = {name: on_site(name) for name in names if name != "README.md"}
    return {name: place for name, place in places.items() if place is not None}


def relinked(text: str, path: str) -> str:
    """A page's text with links that hold on the site.

    A link to a file that the site lacks becomes the file's name, and the name of a page in
    backticks becomes a link. What stands in fences is left as it is.

    Args:
      text: Markdown, whose links hold in the repository.
      path: the page's file, from the top of the repository.
    """
    place = on_site(path)
    if place is None:
        raise ValueError(f"{path}: expected a file that the site has")
    folder, here = posixpath.dirname(path), posixpath.dirname(place)

    def relative(target: str) -> str:
        return posixpath.relpath(target, here or ".")

    def link(found: re.Match[str]) -> str:
        to = found["to"]
        if not to or re.match(r"[a-z]+:", to):
            return found[0]
        file = posixpath.normpath(posixpath.join(folder, to))
        if (ROOT / file).is_dir() and (ROOT / file / "README.md").exists():
            file = posixpath.join(file, "README.md")
        target = on_site(file)
        # What a hook makes lies on the site alone; mkdocs tells whether it does.
        if target is None and file.startswith("docs/") and not (ROOT / file).exists():
            target = file.removeprefix("docs/")
        if target is None:
            name = found["text"].strip("`")
            return f"`{file}`" if name in file else f"{found['text']} (`{file}`)"
        return f"{found['image']}[{found['text']}]({relative(target)}{found['anchor'] or ''})"

    def named(found: re.Match[str]) -> str:
        for file in (found["path"], posixpath.join("docs", found["path"])):
            target = on_site(posixpath.normpath(file))
            if target is not None and target != place and file != "README.md":
                return f"[{found[0]}]({relative(target)})"
        return found[0]

    return outside_fences(text, lambda part: NAMED.sub(named, LINK.sub(link, part)))


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """The text, with all but its fenced code changed."""
    parts, at = [], 0
    for fence in FENCED.finditer(text):
        parts += [change(text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, change(text[at:])])
