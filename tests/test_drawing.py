"""Pictures of programs and circuits: what is in them, and where it lies."""

import html
import re
import shutil
from itertools import combinations, pairwise

import numpy as np
import pytest

import lsrl
from lsrl import placement
from lsrl.drawing import PAGE, PAGE_ROWS, Box, Drawing, Layer, drawing
from lsrl.errors import InputError
from lsrl.placement import Link, by_dot, layered

LAYOUTS = {"own": layered, "dot": by_dot}


@pytest.fixture(params=LAYOUTS)
def layout(request, monkeypatch):
    if request.param == "dot" and shutil.which("dot") is None:
        pytest.skip("needs graphviz")
    if request.param == "own":
        monkeypatch.setattr(placement, "by_dot", lambda *drawn: None)
    return LAYOUTS[request.param]


def compiled(program: str, target: str) -> lsrl.Model:
    return lsrl.compile(lsrl.programs.catalogue()[program].program(), target)


def random_links(seed: int) -> tuple[list[list[int]], list[Link]]:
    """Boxes in rows, with links down, up, within a row and from a box to itself."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 5, 7)
    keys = iter(range(counts.sum()))
    rows = [[next(keys) for _ in range(count)] for count in counts]
    ends = random.integers(0, counts.sum(), (30, 2)).tolist()
    kinds = random.choice(["same step", "gate"], 30).tolist()
    links = [Link(a, b, kind) for (a, b), kind in zip(ends, kinds, strict=True)]
    return rows, list(dict.fromkeys(links))


def along(path: list[tuple[float, float]]) -> np.ndarray:
    """(points, 2) of a path's curves."""
    share = np.linspace(0, 1, 40)[:, None]
    weights = np.hstack([(1 - share) ** 3, 3 * share * (1 - share) ** 2,
                         3 * share**2 * (1 - share), share**3])  # fmt: skip
    return np.vstack([weights @ np.array(path[i : i + 4]) for i in range(0, len(path) - 1, 3)])


def check_placed(rows, sizes, links, placed) -> None:
    """No box lies on another, links go from border to border, and run under no box."""
    half = {key: np.array(size) / 2 for key, size in sizes.items()}
    centres = {key: np.array(centre) for key, centre in placed.centres.items()}
    for one, other in combinations(centres, 2):
        assert (abs(centres[one] - centres[other]) >= half[one] + half[other] - 0.1).any()
    for above, below in pairwise(rows):
        assert max(centres[k][1] for k in above) < min(centres[k][1] for k in below)
    corner = np.array([placed.width, placed.height])
    for link, path in zip(links, placed.paths, strict=True):
        points = along(path)
        assert (points >= -1).all() and (points <= corner + 1).all()
        for key, end in ((link.start, path[0]), (link.end, path[-1])):
            outside = (abs(np.array(end) - centres[key]) - half[key]).max()
            assert abs(outside) < 1.5, "it begins and ends at a border"
        for key in centres:
            inside = (half[key] - abs(points - centres[key])).min(axis=1).max()
            assert inside < 1.5, f"{link} runs under {key}"


@pytest.mark.parametrize("seed", range(4))
def test_no_arrow_runs_under_a_box(seed):
    rows, links = random_links(seed)
    sizes = {key: (60.0 + 17 * (key % 5), 30.0 + 14 * (key % 3)) for row in rows for key in row}
    check_placed(rows, sizes, links, layered(rows, sizes, links))


@pytest.mark.parametrize(("program", "target"), [("tok2tok", "linear_rnn"), ("reverse", "mamba")])
def test_circuits_are_laid_out(program, target, layout):
    """Of graphviz what matters here: that what it says is read rightly."""
    made = compiled(program, target).circuit.draw()
    sizes = {key: box.size for key, box in made._boxes.items()}
    rows = [row.keys for row in made._rows]
    found = made._placed
    assert set(found.centres) == set(sizes) and len(found.paths) == len(made._links)
    if layout is layered:
        check_placed(rows, sizes, made._links, found)
    for link, path in zip(made._links, found.paths, strict=True):
        for key, (x, y) in ((link.start, path[0]), (link.end, path[-1])):
            away = abs(np.array([x, y]) - found.centres[key]) - np.array(sizes[key]) / 2
            assert abs(away.max()) < 2
    assert list(found.centres.values()) == list(made._placed.centres.values())


def test_a_graphviz_that_fails_is_done_without(monkeypatch):
    rows, links = random_links(0)
    sizes = {key: (60.0, 30.0) for row in rows for key in row}
    for answers_wrongly in ("false", "true"):
        monkeypatch.setattr(placement.shutil, "which", lambda _, tool=answers_wrongly: tool)
        assert by_dot(rows, sizes, links) is None
        assert placement.place(rows, sizes, links) == layered(rows, sizes, links)


def test_a_circuit_says_what_it_computes(tmp_path):
    circuit = compiled("reverse", "mamba").circuit
    made = circuit.draw(tmp_path / "circuit.svg")
    text = (tmp_path / "circuit.svg").read_text()
    assert text == made.svg == made._repr_svg_()
    assert len(repr(made)) < 100  # what a shell shows
    for one in circuit.signals:
        if one.kind != "constant":
            # A sum of the stream is called what it is.
            whole = one.expression == one.name
            said = one.name if whole else f"{one.name} = {one.expression}"
            assert html.escape(said) in text
    for kind in {edge.kind for edge in circuit.edges}:
        assert f">{kind}</text>" in text
    assert not list(tmp_path.glob("*.png")), "nothing is written unasked"
    pytest.importorskip("matplotlib")
    for suffix, start in {"png": b"\x89PNG", "pdf": b"%PDF"}.items():
        made.save(tmp_path / f"circuit.{suffix}")
        assert (tmp_path / f"circuit.{suffix}").read_bytes().startswith(start)
    printed = (tmp_path / "circuit.pdf").read_bytes()
    assert b"/Subtype /Image" not in printed, "vectors alone"
    assert b"/Type3" not in printed, "publishers refuse such fonts"
    with pytest.raises(InputError, match="can't draw"):
        circuit.draw(tmp_path / "circuit.xyz")
    for wrong, said in (({"path": 5}, "expected a path"), ({"whole": "no"}, "True or False")):
        with pytest.raises(InputError, match=said):
            circuit.draw(**wrong)


def test_a_program_draws_itself():
    program = lsrl.programs.catalogue()["majority"].program()
    made = program.draw()
    for node in program.graph.live():
        name = program.graph.label(node)
        cut = re.fullmatch(r"(.{20}).{10,}(#\d+)", name)  # long ones in the middle
        start, end = (cut[1], f"[^<]*…{cut[2]}") if cut else (name, "")
        assert re.search(f">{re.escape(html.escape(start))}{end}</text>", made.svg), name
    assert made.title == program.name and made.note == ""
    for line in ("ones[t−1] + bit", "lsrl.position() − 2·ones + 1", "lsrl.position() + 1#3)"):
        assert f">{line}</text>" in made.svg, "formulas have their weights, and break at blanks"


def boxes(layers: int, each: int, name: str = "x") -> tuple[list[Layer], dict[object, Box]]:
    found = [Layer(f"layer {i}", [(i, k) for k in range(each)]) for i in range(layers)]
    return found, {key: Box(name, "", "", "relu") for layer in found for key in layer.keys}


def names_in(made: Drawing) -> int:
    return made.svg.count("<title>")


def test_what_is_more_than_a_page_is_asked_for():
    layers, made = boxes(20, 10)
    links = [Link((i, k), (i + 1, k), "same step") for i in range(19) for k in range(10)]
    page = drawing("large", layers, made, links)
    assert names_in(page) == PAGE // 10 * 10
    assert page.note in page.svg and f"the first {PAGE // 10 * 10} of 200 signals" in page.note
    whole = drawing("large", layers, made, links, whole=True)
    assert names_in(whole) == 200 and whole.note == ""
    # A chain is too long for a page before it has too many boxes.
    tall = drawing("tall", *boxes(40, 1), [])
    assert names_in(tall) == PAGE_ROWS < PAGE and "of 40 signals" in tall.note
    # One layer alone may be too large, and so may what is asked for.
    assert names_in(drawing("wide", *boxes(1, 300), [])) == PAGE
    with pytest.raises(InputError, match="at most 1000 signals, and 1100 came"):
        drawing("huge", *boxes(11, 100), [], whole=True)


def test_names_may_hold_anything():
    odd = "</text><script>alert(1)</script>&\"'"
    made = drawing(odd, *boxes(2, 2, odd), [])
    assert "<script" not in made.svg
    plain = re.sub(r"<style>.*?</style>", "", made.svg)
    assert not re.search(r"(?:href|src)=|url\(|@import", plain)
    from xml.etree import ElementTree

    texts = [node.text for node in ElementTree.fromstring(made.svg).iter() if node.text]
    assert odd in texts
