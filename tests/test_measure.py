"""`lsrl.stability.measure`: programs, perturbations and samplers of one's own, kept and drawn."""

from pathlib import Path

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import lsrl
from lsrl.cli import app
from lsrl.errors import InputError
from lsrl.stability import Change, Measurement, Row, WeightNoise, measure, sweep
from lsrl.stability.content import content
from tests.grids import studied

SIGMA = 1e-6


@lsrl.program(max_length=32)
def majority(bit: lsrl.Token(2)) -> lsrl.Token(2):
    ones = lsrl.cumsum(bit)
    return 2 * ones > lsrl.position() + 1


@lsrl.program
def remembered(cell: lsrl.Token(3)):
    return lsrl.latch(cell, cell != 0)


def noise(name, array, key, level):
    """What `WeightNoise` does, but for its random numbers."""
    if name.startswith(("inputs", "input_bias")) or name.endswith("initial_state"):
        return array
    return array + level * jax.random.normal(key, array.shape) * (array != 0)


def once(random, sequences, length):
    """A cell that is written at one token alone, as a latch promises."""
    cells = np.zeros((sequences, length), int)
    cells[np.arange(sequences), random.integers(0, length, sequences)] = 2
    return cells


@pytest.fixture(scope="module")
def found() -> Measurement:
    pruned = Change("all", function=lambda name, array, key: 0 * array)
    kinds = (noise, pruned, WeightNoise("weights", levels=(SIGMA, 1.0)))
    return measure(majority, ("linear_rnn", "gated_linear_rnn"), kinds, levels=(SIGMA, 1.0))


def test_one_level_is_a_number():
    one = measure(majority, "linear_rnn", "weights", levels=0.5, copies=1)
    assert {row.level for row in one.rows} == {0.0, 0.5}


def test_functions_change_parameters_as_they_say(found: Measurement) -> None:
    def of(kind: str, level: float) -> list[float]:
        return [r.wrong for r in found.rows if r.perturbation == kind and r.level == level]

    assert {row.perturbation for row in found.rows} == {"noise", "all", "weights"}
    # Without noise a model is right, all zeros answer nothing, and 1 drowns every weight.
    assert set(of("noise", 0.0)) == set(of("weights", 0.0)) == {0.0}
    assert len(of("noise", 1.0)) == len(of("weights", 1.0)) == 16
    assert min(of("all", 1.0)) > 0.2
    assert np.mean(of("noise", 1.0)) > 0.2
    assert max(of("noise", SIGMA)) == max(of("weights", SIGMA)) == 0


def test_a_draw_depends_on_the_seed_and_the_name_alone() -> None:
    keys: dict[tuple[str, float], list[list[int]]] = {}

    def noted(name, array, key, level):
        keys.setdefault((name, level), []).append(jax.random.key_data(key).tolist())
        return array

    measure(majority, "linear_rnn", Change("noted", (0.1, 1.0), function=noted), copies=2)
    assert all(keys[name, 0.1] == keys[name, 1.0] for name, _ in keys)
    first = [drawn[0] for (_, level), drawn in keys.items() if level == 1.0]
    assert len({*map(tuple, first)}) == len(first) > 5
    assert all(len({*map(tuple, drawn)}) == 2 for drawn in keys.values())


def test_what_is_borne_is_told_and_what_lies_outside_of_the_levels_is_marked() -> None:
    rows = [
        Row("p", "linear_rnn", kind, level, seed, wrong, 0.0, None)
        for kind, shares in {"weights": (0, 0.1), "none": (0, 0), "all": (1, 1)}.items()
        for level, wrong in zip((0.01, 0.1), shares, strict=True)
        for seed in range(2)
    ]
    found = Measurement((*rows, Row("p", "linear_rnn", "tf32", 1.0, 0, 0.5, 0.0, 3)), (("p", "x"),))
    borne = {each.perturbation: each for each in found.borne()}
    assert borne["weights"].level == pytest.approx(10**-1.5)
    marks = {name: each.censored for name, each in borne.items()}
    assert marks == {"weights": "", "none": "above", "all": "below"}
    text = str(found)
    for part in ("above 1e-01, the strongest", "below 1e-02, the weakest", "50.0 % wrong at 1",
                 "x                 can't hold it"):  # fmt: skip
        assert part in text


def test_a_sampler_draws_what_a_program_promises() -> None:
    found = measure(remembered, "gru", "weights", sampler=once, levels=(1e-6,), copies=1)
    assert [row.wrong for row in found.rows if row.level == 0] == [0.0]
    binary_adder = lsrl.programs.binary_adder()
    refused = measure(binary_adder, ("linear_rnn", "gru"), "weights", levels=(0.1,), copies=1)
    assert refused.refused == (("binary_adder", "linear_rnn"),)

    def twice(random, sequences, length):
        return np.ones((sequences, length), int)

    with pytest.raises(InputError, match=r"0 of 4 sequences .* give a sampler"):
        measure(remembered, "gru", sampler=twice)


def test_what_was_measured_is_kept_by_content(tmp_path: Path, monkeypatch) -> None:
    asked = []
    real = sweep.measured

    def noted(plan, group, kind, **options):
        asked.append(kind.name)
        return real(plan, group, kind, **options)

    monkeypatch.setattr(sweep, "measured", noted)

    def shaken(factor):
        def shake(name, array, key):
            return array * factor

        return measure(majority, "linear_rnn", shake, copies=1, folder=tmp_path)

    first = shaken(1.5)
    assert shaken(1.5) == first
    assert asked == ["shake"]
    assert shaken(0.5) != first
    assert asked == ["shake", "shake"]


FACTOR = 2


def test_functions_count_by_what_they_read(monkeypatch) -> None:
    def helper(x):
        return x * FACTOR

    def user(name, array, key, scale=1.0):
        return helper(array) * scale * np.float64(1)

    before = content(user)
    assert content(user) == before
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert content(user) != before
    with pytest.raises(InputError, match="can be told"):
        content(object())


@pytest.mark.parametrize("suffix", studied([".pdf", ".svg", ".png"], ".pdf"))
def test_figures_are_vectors_and_the_same_each_time(found, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    written = []
    for number in range(2):
        path = tmp_path / f"{number}{suffix}"
        figure = found.plot(path)
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith({".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG"}[suffix])
    if suffix == ".svg":
        assert b">weights</text>" in written[0] and b"prefers-color-scheme: dark" in written[0]
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["noise", "all", "weights"]
    shown = figure._repr_svg_()  # by notebooks
    assert shown.startswith("<?xml") and shown.rstrip().endswith("</svg>")
    with pytest.raises(InputError, match=r"\.pdf, \.svg, \.png"):
        found.plot(tmp_path / "figure.tiff")


def test_rows_are_a_frame(found: Measurement) -> None:
    pandas = pytest.importorskip("pandas")
    frame = found.to_frame()
    assert list(frame.columns) == list(Row._fields)
    assert len(frame) == len(found.rows)
    assert pandas.api.types.is_float_dtype(frame["wrong"])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((majority, "linear_rnn", "wieghts"), {}, "did you mean 'weights'"),
        ((majority, "nothing"), {}, "unknown target"),
        ((3,), {}, "made by @lsrl.program, got int"),
        ((majority, "linear_rnn"), {"copies": 0}, "at least one copy"),
        (([majority, majority], "linear_rnn"), {}, "have to differ"),
        ((majority, "linear_rnn", lambda n, a, k: a[:0]), {}, "expected an array of shape"),
    ],
)
def test_misuse_is_told(arguments, options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(*arguments, **options)


def test_levels_need_a_function_that_takes_them() -> None:
    with pytest.raises(InputError, match="fourth argument"):
        Change("scaled", (0.1,), function=lambda name, array, key: array)
    with pytest.raises(InputError, match="expected function="):
        Change("nothing")


@pytest.mark.studies
def test_bench_takes_a_program_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "mine.py"
    file.write_text(
        "import lsrl, numpy as np\n"
        "@lsrl.program\n"
        "def mine(x: lsrl.Token(2)):\n"
        "    return lsrl.delay(x, 1)\n"
        "def drawn(random, sequences, length):\n"
        "    return random.integers(0, 2, (sequences, length))\n"
    )
    options = ["--program", f"{file}:mine", "--sampler", f"{file}:drawn", "-t", "linear_rnn"]
    command = ["bench", "stability", "--out", str(tmp_path / "out"), "--figures", "svg", *options]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    assert "mine" in answer.output
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"sweep.csv", "levels.csv", "sweep.svg", "curves.svg"} <= written
