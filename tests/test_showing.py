"""What notebooks show: HTML that is well formed, escaped, small and asks for nothing."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import lsrl
from lsrl.interpret import view
from lsrl.showing import MOST_ROWS, Table, card

ODD = "</td><script>alert(1)</script>&\"'"


@lsrl.program
def odd(bit: lsrl.Token(2)):
    """A line with </div><script>alert(2)</script>.

    More of it.
    """
    parts = {ODD: lsrl.relu(lsrl.delay(bit) - bit)}
    return lsrl.relu(2 * parts[ODD] + bit - 1)


class Reader(HTMLParser):
    """Texts, names of elements, and whether each that opens shuts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes += attrs

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def model() -> lsrl.Model:
    return lsrl.compile(odd, "linear_rnn")


def test_everything_shows_itself(model):
    shown = {
        "program": (odd, ["odd(bit: ", "A line with </div>", "parts["]),
        "model": (model, ["odd on linear_rnn", "yes, at any length", "layer"]),
        "certificate": (model.certificate, ["Certificate", "error bound"]),
        "circuit": (model.circuit, ["Circuit of odd", "layer 1", "output"]),
        "explanation": (lsrl.explain(odd, "linear_rnn"), ["yes", "no bit", "at any length"]),
        "a no": (lsrl.explain(odd, "gru", dtype="bfloat16"), ["odd on gru, bfloat16"]),
    }
    for name, (thing, expected) in shown.items():
        html = thing._repr_html_()
        read = Reader(html)
        for text in expected:
            assert text in read.text, name
        assert "script" not in read.tags, name
        assert len(html) < 20_000, name
        assert __file__.rpartition("/")[0] not in html, "folders stay at home"
        plain = re.sub(r'xmlns="[^"]*"', "", html)
        assert not re.search(r"https?:|url\(|@import|\bon[a-z]+=", plain), name
        assert not {"src", "href"} & {key for key, _ in read.attributes}, name
    assert repr(ODD) in Reader(model.circuit._repr_html_()).text
    assert "More of it" not in odd._repr_html_()


def test_large_ones_stay_small():
    model = lsrl.compile(lsrl.programs.tok2tok(200, 50), "linear_rnn")
    assert model.num_parameters > 500_000
    assert len(model._repr_html_()) < 10_000
    rows = [(number, "x" * 10_000) for number in range(1000)]
    html = card("many", (), Table("rows", ("a", "b"), rows))
    assert html.count("<tr>") == MOST_ROWS + 1 and "… 960 more" in html
    assert len(html) < 25_000


def test_what_is_said_is_what_is_printed(model):
    """One place tells what is certified, so a notebook cannot say otherwise than a terminal."""
    model = lsrl.compile(odd, "linear_rnn")
    arrays = model.module.parameter_arrays()
    model.module.replace_parameters({name: 2 * array for name, array in arrays.items()})
    text = Reader(model._repr_html_()).text
    for name, value in model.facts:
        assert name in text and value[:300] in text
        assert f"{name:<12} {value}" in model.summary()
    assert "not the compiled weights" in text


def test_a_page_shows_itself_in_a_frame(model, tmp_path):
    made = view(model, np.array([1, 0, 1, 1]))
    assert list(tmp_path.iterdir()) == []
    read = Reader(made._repr_html_())
    attributes = dict(read.attributes)
    assert attributes["srcdoc"] == made.html
    assert attributes["sandbox"] == "allow-scripts"
    assert read.tags == {"iframe"}
    assert len(repr(made)) < 200
    made.save(tmp_path / "page.html")
    assert view(model, np.array([1, 0, 1, 1]), path=tmp_path / "again.html") == made
    assert (tmp_path / "again.html").read_text() == made.html
    assert (tmp_path / "page.html").read_text() == made.html
