"""`docs/view.svg`: a network's page as Chromium shows it, on light and on dark paper.

`python -m website.picture` takes it anew; it needs `chromium`, and Pillow, which comes with
matplotlib.
"""

import base64
import io
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

import lsrl
from website.places import ROOT

WIDTH, HEIGHT = 1440, 820
INPUTS = (8, 6, 5, 4, 1, 3, 2, 7, 0, 8, 6, 5, 9, 3, 1, 5, 5, 2, 4, 4, 8)
COLOURS = 256  # of a picture, which then takes a third of the bytes and looks the same
STYLE = (
    ".dark {display: none} @media (prefers-color-scheme: dark) "
    "{.light {display: none} .dark {display: inline}}"
)


def picture(page: Path, theme: str) -> bytes:
    """A page at a signal and a token, as a PNG file."""
    shot = page.with_suffix(f".{theme}.png")
    subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--hide-scrollbars",
            f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}",
            f"{page.as_uri()}#signal=match&token=11&theme={theme}",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    content = io.BytesIO()
    Image.open(shot).convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE).save(
        content, "PNG", optimize=True
    )
    return content.getvalue()


def main() -> None:
    """Compile, show, and write both pictures into one file, of which one is seen."""
    model = lsrl.compile(lsrl.programs.tok2tok(), "linear_rnn", inspectable=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "tok2tok.html")
        lsrl.interpret.view(model, [INPUTS], path=page)
        images = [
            f'<image class="{theme}" width="{WIDTH}" height="{HEIGHT}" '
            f'href="data:image/png;base64,{base64.b64encode(picture(page, theme)).decode()}"/>'
            for theme in ("light", "dark")
        ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
    lines = [head, f"<style>{STYLE}</style>", *images, "</svg>", ""]
    (ROOT / "docs" / "view.svg").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
