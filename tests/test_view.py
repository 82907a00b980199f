"""The page to look at: what lies in the file, and what a browser makes of it."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import lsrl
from lsrl.cli import app
from lsrl.errors import InputError
from lsrl.interpret import Circuit, capture, page, variants, view
from tests.browser import Browser, browsing
from tests.test_damaged import said_in_model, write_model

pytestmark = pytest.mark.one_in(3)

# Names come from the keys of a dictionary, so they can hold anything.
ODD = "</script><b>\"'&\\u003c"


@lsrl.program(max_length=30)
def odd_names(bit: lsrl.Token(2), shift: lsrl.Vector(2, low=-4, high=4, step=0.5)):
    """A docstring with </script> and "quotes"."""
    parts = {ODD: lsrl.cumsum(bit), "signed": lsrl.cumsum(shift)}  # </script><i>
    total = lsrl.relu(parts[ODD] + parts["signed"][0] - 1)
    other = lsrl.relu(parts["signed"][1])
    return total - other


LINES = Path(__file__).read_text().splitlines()
LINE = next(number for number, line in enumerate(LINES, 1) if "total = lsrl.relu" in line)
NAME = f"parts[{ODD!r}]"


PANELS = [page.Panel("noise", ("layer", "level"), [("<b>0</b>", 0.5), ("1", float("inf"))])]


def odd_inputs() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 2, (3, 20)), rng.integers(-8, 9, (3, 20, 2)) / 2]


@pytest.fixture(scope="module")
def model() -> lsrl.Model:
    return lsrl.compile(odd_names, "linear_rnn", inspectable=True)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("view") / "page.html"
    view(model, *odd_inputs(), path=path, panels=PANELS)
    return path


def embedded(path: Path) -> dict[str, Any]:
    text = path.read_text()
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert len(found) == 1
    return json.loads(found[0])


def test_the_file_asks_for_nothing_from_anywhere(path):
    text = path.read_text()
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert "default-src 'none'" in text
    # No name or source line ends a script early or starts an element.
    assert text.count("</script>") == 2
    assert "<b>" not in text and "<i>" not in text


def test_the_data_is_what_the_model_has(model, path):
    data, known = embedded(path), capture(model, *odd_inputs())
    circuit = Circuit.from_json(json.dumps(data["circuit"]))
    assert circuit.channels == model.circuit.channels
    assert circuit.edges == model.circuit.edges
    assert [one.name for one in circuit.signals] == [one.name for one in model.circuit.signals]
    assert circuit.by_name["total"].source == f"test_view.py:{LINE}"
    assert data["values"].keys() == known.keys()
    for name, values in known.items():
        flat = np.array(data["values"][name], float).reshape(values.shape)
        np.testing.assert_array_equal(flat, values)
    outputs = np.array(data["outputs"], float)
    np.testing.assert_array_equal(outputs, model.run(*odd_inputs())[..., 0])
    assert data["check"] == {"equal": True, "text": "every value here equals the program's"}
    assert data["lines"]["total"] == [["test_view.py", LINE]]
    (excerpt,) = data["sources"]
    assert excerpt["lines"][LINE - excerpt["first"]] == LINES[LINE - 1]
    assert excerpt["lines"][0] == "@lsrl.program(max_length=30)"
    assert str(Path(__file__).parent) not in path.read_text(), "folders stay at home"


def quoted(model: lsrl.Model, source: bool = False) -> list[str]:
    """The lines that a page of a model embeds."""
    data: Any = page.content(model, odd_inputs(), source=source)
    return [line for excerpt in data["sources"] for line in excerpt["lines"]]


@pytest.mark.parametrize("altered", [False, True])
def test_lines_that_a_file_names_are_not_looked_up_unasked(altered, model, tmp_path):
    """Whoever wrote the file chose them, and the page may be passed on."""
    secret = tmp_path / "secret.py"
    secret.write_text("def login():\n    password = 'hunter2'\n")
    forged = variants.permuted(model, seed=0) if altered else model
    forged.save(tmp_path / "model.lsrl")
    content = (tmp_path / "model.lsrl").read_bytes()
    header, arrays = said_in_model(tmp_path / "model.lsrl")
    text = json.dumps(header).replace(json.dumps(__file__)[1:-1], json.dumps(str(secret))[1:-1])
    text = re.sub(r"(secret\.py[\":, ]+)\d+", r"\g<1>2", text)
    write_model(tmp_path / "model.lsrl", json.loads(text), arrays)
    assert content != (tmp_path / "model.lsrl").read_bytes()
    loaded = lsrl.load(tmp_path / "model.lsrl")
    again = lsrl.compile(loaded.program, "lstm", inspectable=True)
    # `like` is of this process, and the circuit beside it of the file.
    for one in (loaded, again, lsrl.load(tmp_path / "model.lsrl", like=model)):
        assert "    password = 'hunter2'" not in quoted(one)
    assert page.content(loaded, odd_inputs())["lines"]["total"] == [["secret.py", 2]]
    assert "    password = 'hunter2'" in quoted(loaded, source=True)


def test_the_command_line_quotes_a_saved_model_if_asked(model, tmp_path):
    model.save(tmp_path / "model.lsrl")
    for options in ([], ["--source"]):
        command = ["view", str(tmp_path / "model.lsrl"), "-o", str(tmp_path / "page.html")]
        done = CliRunner().invoke(app, [*command, *options])
        assert done.exit_code == 0, done.output
        assert bool(embedded(tmp_path / "page.html")["sources"]) == bool(options)


def test_what_no_channel_holds_is_told_from_zero():
    @lsrl.program(max_length=8)
    def second(x: lsrl.Vector(3, low=0, high=4, step=1)):
        sums = lsrl.cumsum(x)
        return lsrl.relu(sums[1] - 1)

    model = lsrl.compile(second, "linear_rnn", inspectable=True)
    inputs = [np.ones((1, 2, 3))]
    data = page.content(model, inputs)
    assert data["values"]["sums"] == [[None, 1, None, None, 2, None]]
    assert data["check"]["equal"]


def test_a_broken_promise_is_shown():
    @lsrl.program
    def promised(x: lsrl.Vector(1, low=0, high=9, step=1)):
        small = lsrl.bound(x, 0, 3)
        return lsrl.relu(small - 1)

    data = page.content(lsrl.compile(promised, "linear_rnn"), [np.full((1, 2, 1), 7.0)])
    assert not data["check"]["equal"]
    assert "break a promise" in data["check"]["text"]


def test_wrong_weights_are_shown():
    model = lsrl.compile(odd_names, "linear_rnn", inspectable=True)
    arrays = model.module.parameter_arrays()
    model.module.replace_parameters({name: 2 * array for name, array in arrays.items()})
    data = page.content(model, odd_inputs())
    assert data["check"]["text"].startswith("differs from the program by up to")


@pytest.mark.parametrize("target", ["linear_rnn", "lstm", "mamba"])
def test_every_signal_and_layer_is_there(target):
    entry = lsrl.programs.catalogue()["reverse"]
    model = lsrl.compile(entry.program(), target)
    inputs = [array[None] for array in entry.sample(np.random.default_rng(0), 12)]
    data = json.loads(json.dumps(page.content(model, inputs), allow_nan=False))
    assert data["circuit"]["units"] == list(model.circuit.units)
    named = {one.name for one in model.circuit.signals if one.kind != "constant"}
    assert data["values"].keys() == named | {one.name for one in model.circuit.derived}
    assert data["check"]["equal"]


def test_without_its_file_a_program_has_no_lines(model, monkeypatch):
    monkeypatch.setattr(page, "_source_text", lambda path: [])
    data = page.content(model, odd_inputs())
    assert data["sources"] == []


def test_only_python_is_quoted(tmp_path):
    secret = tmp_path / "passwords.txt"
    secret.write_text("secret")
    assert page._source_text(str(secret)) == []


def test_errors(model, tmp_path):
    bits, shifts = odd_inputs()
    wanted = tmp_path / "page.html"
    with pytest.raises(InputError, match=r"expected ints from 0 to 1 .* got 7 at"):
        view(model, np.full_like(bits, 7), shifts, path=wanted)
    with pytest.raises(InputError, match="max_length"):
        view(model, np.ones(31, int), np.ones((31, 2)), path=wanted)
    with pytest.raises(InputError, match=r"values, and a page holds at most .* fewer or shorter"):
        view(model, np.ones((40_000, 20), int), np.ones((40_000, 20, 2)), path=wanted)
    assert not wanted.exists(), "nothing half written"
    with pytest.raises(OSError, match="there is no folder"):
        view(model, bits, shifts, path=tmp_path / "nowhere" / "page.html")
    with pytest.raises(OSError, match="director"):
        view(model, bits, shifts, path=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_panels_are_tables_of_any_study(model, path):
    (panel,) = embedded(path)["panels"]
    assert panel == {
        "title": "noise",
        "columns": ["layer", "level"],
        "rows": [["<b>0</b>", 0.5], ["1", "inf"]],
    }
    torn = page.Panel("torn", ("layer", "level"), [("0",)])
    with pytest.raises(InputError, match="row 0 of the panel 'torn' has 1 cells, expected 2"):
        page.content(model, odd_inputs(), [torn])


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["view", *arguments], env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return result.output

    arguments = ("binary_adder", "-t", "lstm", "-o", "page.html")
    run(*arguments, "--inputs", "1 1 0", "--inputs", "1 0 0", "--inspectable")
    data = embedded(Path("page.html"))
    assert [one["texts"] for one in data["inputs"]] == [[["1", "1", "0"]], [["1", "0", "0"]]]
    run(*arguments)
    data = embedded(Path("page.html"))
    assert data["sequences"] > 1 and data["check"]["equal"]
    assert "expected 2 input(s)" in run(*arguments, "--inputs", "1 1", code=2)


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(browser, path) -> Iterator[Browser]:
    """The page, anew; in the end its console must be empty, and nothing was asked for."""
    browser.open("about:blank")
    browser.open(path.as_uri())
    yield browser
    assert browser.console() == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


def row(name: str) -> str:
    return f'.row[data-signal="{name}"]'


def shown_values(browser: Browser) -> dict[str, list[float]]:
    return {
        name: json.loads(text)
        for name, text in browser.run(
            "return [...document.querySelectorAll('.row')].filter(r => r.querySelector('.value')"
            ".dataset.value).map(r => [r.dataset.signal, r.querySelector('.value').dataset.value])"
        )
    }


def rows_with(browser: Browser, mark: str) -> set[str]:
    return set(
        browser.run(
            "return [...document.querySelectorAll('.row.' + arguments[0])]"
            ".map(r => r.dataset.signal)",
            mark,
        )
    )


def expected_values(model, sequence: int, token: int) -> dict[str, list[float]]:
    known = capture(model, *odd_inputs())
    outputs = model.run(*odd_inputs())
    return {name: values[sequence, token].tolist() for name, values in known.items()} | {
        "output": outputs[sequence, token].tolist()
    }


def test_values_follow_the_slider(opened, model):
    assert shown_values(opened) == expected_values(model, 0, 0)
    opened.run(
        "const s = document.getElementById('token'); s.value = 13;"
        "s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert shown_values(opened) == expected_values(model, 0, 13)
    opened.click("#after")
    assert shown_values(opened) == expected_values(model, 0, 14)
    opened.press("end")
    opened.press("left")
    assert shown_values(opened) == expected_values(model, 0, 18)
    opened.press("]")
    assert shown_values(opened) == expected_values(model, 1, 18)
    assert opened.run("return location.hash") == "#token=18&sequence=1"


def test_a_click_shows_path_line_and_value(opened, model):
    circuit = model.circuit
    opened.press("end")
    opened.click(f"{row('total')} .name")
    graph = circuit.graph()
    reads = {a for a, b in circuit.signal_edges() if b == "total"}
    above = {name for name in graph if name != "total" and _reaches(circuit, name, "total")}
    assert reads <= above
    assert rows_with(opened, "selected") == {"total"}
    assert rows_with(opened, "ancestor") == above
    assert rows_with(opened, "descendant") == {"output"}
    assert "other" in rows_with(opened, "dim"), "what has no part in it steps back"
    strong = opened.run(
        "return [...document.querySelectorAll('path.edge.strong')]"
        ".map(p => [p.dataset.source, p.dataset.target])"
    )
    assert {tuple(pair) for pair in strong} == {
        (a, b) for a, b in circuit.signal_edges() if "total" in (a, b)
    }
    current = opened.run(
        "return [...document.querySelectorAll('.code.current')].map(l => l.textContent)"
    )
    assert current == [f"{LINE}{LINES[LINE - 1]}"]
    value = expected_values(model, 0, 19)["total"]
    assert float(opened.run("return document.getElementById('now').textContent")) == value[0]
    opened.press("escape")
    assert rows_with(opened, "selected") == rows_with(opened, "dim") == set()


def _reaches(circuit: Circuit, start: str, end: str) -> bool:
    pairs, seen, pending = circuit.signal_edges(), set(), [start]
    while pending:
        name = pending.pop()
        seen.add(name)
        pending += [b for a, b in pairs if a == name and b not in seen]
    return end in seen


def test_a_line_selects_its_signals(opened):
    opened.click(f'.code[data-line="test_view.py:{LINE}"]')
    assert rows_with(opened, "selected") == {"total"}


def test_panels_are_shown_as_text(opened):
    cells = "return [...document.querySelectorAll('#panels td')].map(td => td.textContent)"
    assert opened.run(cells) == ["<b>0</b>", "0.5", "1", "inf"]


def test_names_are_text(opened):
    names = opened.run("return [...document.querySelectorAll('.row b')].map(b => b.textContent)")
    assert NAME in names
    assert opened.run("return document.querySelectorAll('b b, .code b, .code i i').length") == 0
    text = opened.run("return document.getElementById('source').textContent")
    assert "# </script><i>" in text
    assert 'A docstring with </script> and "quotes".' in opened.run(
        "return document.getElementById('certificate').textContent"
    )


def test_an_edge_tells_its_weight(opened, model):
    (edge,) = (edge for edge in model.circuit.edges if (edge.source, edge.target) == ("bit", NAME))
    # The middle of a curve's box need not lie on the curve, so the event is made by hand.
    tip = opened.run(
        "const p = [...document.querySelectorAll('path.edge')].find("
        "p => p.dataset.source === 'bit' && p.dataset.target === arguments[0]).nextSibling;"
        "for (const kind of ['pointerenter', 'pointermove'])"
        "  p.dispatchEvent(new PointerEvent(kind, {clientX: 200, clientY: 200}));"
        "return [document.getElementById('tip').textContent, document.querySelectorAll("
        "'path.edge.strong').length]",
        NAME,
    )
    assert tip == [f"bit → {NAME}\n{edge.kind}\nweight: {edge.weight:g}", 1]


def test_pointing_at_a_value_tells_it(opened, model):
    opened.hover(f"{row('total')} canvas")
    text = opened.run("return document.getElementById('tip').textContent")
    found = re.fullmatch(r"total = ([\d.]+)\ntoken (\d+)", text)
    assert found is not None, text
    assert [float(found[1])] == expected_values(model, 0, int(found[2]))["total"]


def test_search_and_keys(opened):
    opened.press("/")
    opened.type("#search", "TOT")
    assert rows_with(opened, "match") == {"total"}
    assert opened.run("return document.getElementById('matches').textContent") == "1 signal"
    opened.type("#search", "\ue007")
    assert rows_with(opened, "selected") == {"total"}
    opened.type("#search", "\ue00c")
    assert rows_with(opened, "miss") == set()
    order = opened.run("return [...document.querySelectorAll('.row')].map(r => r.dataset.signal)")
    opened.press("down")
    assert rows_with(opened, "selected") == {order[order.index("total") + 1]}
    opened.press("up", "up")
    assert rows_with(opened, "selected") == {order[order.index("total") - 1]}


def test_the_address_brings_back_what_was_shown(browser, path, model):
    browser.open("about:blank")
    browser.open(f"{path.as_uri()}#signal=total&token=7&sequence=2")
    assert rows_with(browser, "selected") == {"total"}
    assert shown_values(browser) == expected_values(model, 2, 7)
    browser.open("about:blank")
    browser.open(f"{path.as_uri()}#signal=nobody&token=1e9&sequence=-4&theme=dark")
    assert shown_values(browser) == expected_values(model, 0, 1)
    assert browser.console() == []


def test_what_a_cell_reads_has_frames(browser, tmp_path):
    """A taps its own past tokens, so the frames lie at other tokens than the one that is shown."""
    model = lsrl.compile(lsrl.programs.catalogue()["reverse"].program(), "mamba")
    signal = next(edge.target for edge in model.circuit.edges if edge.kind == "lag")
    entry = lsrl.programs.catalogue()["reverse"]
    inputs = [array[None] for array in entry.sample(np.random.default_rng(0), 12)]
    view(model, *inputs, path=tmp_path / "page.html")
    browser.open("about:blank")
    browser.open(f"{(tmp_path / 'page.html').as_uri()}#token=5")

    def frames(kind: str) -> set[tuple[str, int]]:
        script = (
            "return [...document.querySelectorAll('.cell.' + arguments[0])]"
            ".map(c => [c.dataset.signal, Number(c.dataset.token)])"
        )
        return {(name, token) for name, token in browser.run(script, kind)}

    assert frames("source") == frames("reader") == set()
    browser.click(f"{row(signal)} .name")
    edges = [e for e in model.circuit.edges if model.circuit.signal(e.source).kind != "constant"]
    read = {(edge.source, 5 - edge.lag) for edge in edges if edge.target == signal}
    readers = {(edge.target, 5 + edge.lag) for edge in edges if edge.source == signal}
    assert any(token < 5 for _, token in read)
    assert frames("source") == read
    assert frames("reader") == readers - read
    browser.press("right")
    assert frames("source") == {(name, token + 1) for name, token in read}
    sources = {name for name, _ in read} - {signal}
    assert rows_with(browser, "read") == sources
    browser.press("escape")
    assert frames("source") == rows_with(browser, "read") == set()


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_fits_its_window(browser, path, width):
    browser.open("about:blank")
    browser.resize(width, 900)
    try:
        browser.open(f"{path.as_uri()}#signal=total")
        wide = (
            "const e = document.querySelector(arguments[0]); return e.scrollWidth <= e.clientWidth"
        )
        for part in ("html", "#board", "aside", "#source pre"):
            assert browser.run(wide, part), f"{part} is wider than what shows it"
        shown = browser.run(
            "const c = document.querySelector('.row.selected canvas').getBoundingClientRect();"
            "return c.width >= 90 && c.right <= innerWidth"
        )
        assert shown
    finally:
        browser.resize(1440, 900)


def heat_line(browser: Browser, name: str, tokens: int) -> np.ndarray:
    """(tokens, 3) colours of the first element's line, off the middle, where no number stands."""
    return np.array(
        browser.run(
            "const c = document.querySelector(arguments[0]), n = arguments[1];"
            "const line = c.getContext('2d').getImageData(0, 2, c.width, 1).data;"
            "return Array.from({length: n}, (_, t) => Math.floor((t + 0.12) * c.width / n) * 4)"
            "  .map(start => [...line.slice(start, start + 3)])",
            f"{row(name)} canvas",
            tokens,
        ),
        float,
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_heat_map_has_the_values(opened, model, theme):
    """Zero is the background, signs have colours of their own, and more is stronger."""
    opened.run("location.hash = 'theme=' + arguments[0]", theme)
    opened.run("return new Promise(done => setTimeout(done, 100))")
    known = capture(model, *odd_inputs())
    values = known["total"][0, :, 0]
    colours = heat_line(opened, "total", len(values))
    zero = colours[values == 0][0]
    distance = np.abs(colours - zero).sum(axis=1)
    order = np.argsort(values, kind="stable")
    for here, there in pairwise(order):
        if values[here] == values[there]:
            assert distance[here] == distance[there]
        else:
            assert distance[here] < distance[there]
    signed = known["parts['signed']"][0, :, 0]
    red, _, blue = (heat_line(opened, "parts['signed']", len(signed)) - zero).T
    assert (signed < 0).any() and (signed > 0).any()
    np.testing.assert_array_equal(np.sign(blue - red), np.sign(signed))


@pytest.mark.parametrize(("program", "target"), [("tok2tok", "mamba"), ("parity", "linear_rnn")])
def test_pages_of_larger_models_open(browser, tmp_path, program, target):
    entry = lsrl.programs.catalogue()[program]
    model = lsrl.compile(entry.program(), target)
    inputs = [array[None] for array in entry.sample(np.random.default_rng(0), 30)]
    view(model, *inputs, path=tmp_path / "page.html")
    browser.open((tmp_path / "page.html").as_uri())
    shown = {one.name for one in model.circuit.signals} | {"output"}
    rows = browser.run("return [...document.querySelectorAll('.row')].map(r => r.dataset.signal)")
    assert shown | {one.name for one in model.circuit.derived} == set(rows)
    layers = browser.run("return document.querySelectorAll('#layers button[data-layer]').length")
    assert layers == len(model.circuit.units)
    browser.press("end", "down", "down", "down")
    assert browser.console() == []
    # Numbers of two digits have room, however narrow a cell is.
    browser.resize(400, 900)
    said = browser.run(
        "const drawn = [], brush = CanvasRenderingContext2D.prototype, old = brush.fillText;"
        "brush.fillText = function (text, ...place) { drawn.push([text, this.font]);"
        "  return old.call(this, text, ...place); };"
        "window.dispatchEvent(new Event('resize')); brush.fillText = old; return drawn"
    )
    wide = "const b = document.getElementById('board'); return b.scrollWidth - b.clientWidth"
    assert browser.run(wide) <= 0, "rows out of sight, too, fit a narrow window"
    browser.resize(1440, 900)
    texts, sizes = {text for text, _ in said}, {float(font.split("px")[0]) for _, font in said}
    assert any(len(text) == 2 for text in texts) and "…" not in texts
    assert min(sizes) >= 8
