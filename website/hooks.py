"""What mkdocs asks while it builds the site: pages from all over the repository, links, pictures.

`docs/` holds the site's pages. Results, examples and the files at the top are pages, too, taken
from where they lie; the gallery is made of the library.
"""

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lsrl import cache
from website import places, scripts

ROOT = places.ROOT
WIDE = 700  # pixels; what is wider would be too small to read on the page of a telephone
SOURCE = '<details class="mkdocstrings-source"'
IMAGE = re.compile(r'<img (?P<rest>[^>]*?)src="(?P<source>[^":]+)"(?P<more>[^>]*)>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/, and the gallery."""
    made = places.extra().items()
    for path, place in made:
        source = ROOT / path
        if source.suffix == ".py":
            text = scripts.page(source.name, source.read_text(encoding="utf-8"))
            files.append(File.generated(config, place, content=text))
        else:
            files.append(File.generated(config, place, abs_src_path=str(source)))
    for place, text in _gallery().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links hold on the site, and tell of a result how it was made."""
    place = page.file.src_uri
    path = {place: path for path, place in places.extra().items()}.get(place, f"docs/{place}")
    if not (ROOT / path).is_file() or path.endswith(".py"):
        return markdown
    text = places.relinked(markdown, path)
    if place == "results/index.md":
        return f"{text}\n{_results()}"
    if place.startswith("results/"):
        text = re.sub(r"\A(# .*\n)", rf"\1\nMade by `{places.command(Path(place).stem)}`.\n", text)
    return text


def _results() -> str:
    """The pages of results, with the command of each."""
    rows = ["## The pages", "", "| page | made by |", "| --- | --- |"]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        rows.append(f"| [{title}]({path.name}) | `{places.command(path.stem)}` |")
    return "\n".join(rows) + "\n"


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Give every picture its size, so that nothing moves when it comes; hide what is of no use."""

    def sized(found: re.Match[str]) -> str:
        folder = Path(page.file.dest_uri).parent
        place = (folder / found["source"]).as_posix()
        file = next((each for each in files if each.dest_uri == _flat(place)), None)
        if file is None or "width=" in found[0]:
            return found[0]
        width, height = size(file.content_bytes)
        about = f'<img {found["rest"]}src="{found["source"]}"{found["more"].rstrip("/ ")}'
        wide = ' class="wide"' if width > WIDE else ""
        return f'{about} width="{width}" height="{height}"{wide} loading="lazy">'

    if not any(title.children for title in page.toc.items):
        page.meta.setdefault("hide", []).append("toc")  # tables take its room
    # Sources are there to be read, not to be found: they were a third of what a search loads.
    html = html.replace(SOURCE, f"{SOURCE} data-search-exclude")
    return IMAGE.sub(sized, html)


def size(picture: bytes) -> tuple[int, int]:
    """Width and height of a PNG or SVG, in pixels.

    Raises:
      ValueError: it is neither, or an SVG without a size.
    """
    if picture.startswith(b"\x89PNG"):
        return struct.unpack(">II", picture[16:24])
    box = re.search(rb'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', picture)
    if box is None:
        raise ValueError(f"expected a PNG, or an SVG with a viewBox, got {picture[:40]!r}")
    return round(float(box[1])), round(float(box[2]))


def _flat(place: str) -> str:
    """A path without `..`."""
    parts: list[str] = []
    for part in place.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _gallery() -> dict[str, Any]:
    """The gallery's files, kept in build/ as long as the code that makes them is the same."""
    digest = hashlib.sha256(cache.code().encode())
    for file in (*sorted((ROOT / "lsrl" / "interpret").glob("page*")), ROOT / "website/gallery.py"):
        digest.update(file.read_bytes())
    kept = ROOT / "build" / "gallery" / f"{digest.hexdigest()}.json"
    if not kept.exists():
        from website.gallery import gallery  # the compiler loads where there is work for it

        text = json.dumps(dict(gallery()))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text, encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))
