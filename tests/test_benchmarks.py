"""The benchmarks: ceilings that nothing beats, engines that agree, texts that say what pages do."""

import re
import shutil
from dataclasses import replace

import pytest

from benchmarks import __main__ as bench
from benchmarks import against, engine, figures, fused
from benchmarks.common import LOAD, BenchmarkError, Output
from benchmarks.limits import Limits
from benchmarks.workloads import workloads

pytestmark = pytest.mark.one_in(5)

LIMITS = Limits(operations=1e9, bandwidth={100: 50.0, 1000: 80.0, 10_000: 20.0}, call=1e-6)


@pytest.mark.parametrize(
    ("working_set", "speed"), [(1, 80), (100, 80), (1000, 80), (9999, 80), (10_000, 20), (1e9, 20)]
)
def test_the_ceiling_is_that_of_the_cache_that_holds_the_work(working_set, speed):
    # What fits a smaller array may be as fast as that; what is larger than all, as the largest.
    assert LIMITS.bytes(working_set) == speed


@pytest.mark.skipif(fused.missing() is not None, reason=str(fused.missing()))
def test_a_fused_loop_has_room_for_words_of_its_size_only():
    (tokens,) = workloads()["tok2tok"].inputs(2, 9)
    assert fused.fused_loop(3, 10)(tokens).shape == (2, 9, 1)
    with pytest.raises(BenchmarkError, match="no room for words of 65"):
        fused.fused_loop(65, 10)(tokens)


def test_without_a_compiler_the_page_says_why(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no C compiler" in fused.missing()


def test_engines_agree_and_stay_below_the_roofline(tmp_path):
    """The page of a quick run, each engine of which has given the outputs of the others."""
    named = {table.name: table for table in engine.measure_all(engine.QUICK)}
    tables, described = list(named.values()), {"cores": "2", LOAD: "0.0"}
    output = Output("engine", tmp_path, quick=True)
    output.write("Engines", described, tables, engine.findings(named), None)
    page = (tmp_path / "engine.md").read_text(encoding="utf-8")
    assert all(f"## {table.title}" in page for table in tables)
    ratios = [
        value for row in named["engines"].rows for key, value in row.items() if "ratio" in key
    ]
    ratios += [row["ratio"] for row in named["loops"].rows]
    assert ratios
    assert max(ratios) <= 1


def test_one_run_makes_all_pages_and_goes_on_where_it_stopped(tmp_path):
    made = {page for part in bench.PARTS for page in part.pages}
    pages = {path.stem for path in figures.RESULTS.glob("*.md")} - {
        "against"
    }  # which takes a revision
    assert pages <= made
    part, path = bench.Part("platform", ("page",), 1), tmp_path / "page.json"
    states = [bench.run(part, path, key, quick=False)[0] for key in ("one", "one", "other")]
    assert states[0] == states[2] == "ended" and states[1].startswith("ended before")
    failing = bench.Part("json.tool", (), 1, ("nowhere",))
    assert bench.run(failing, path, "third", quick=False)[0].startswith("failed")
    assert bench.run(part, path, "other", quick=False)[0].startswith("ended before")
    where = replace(part, needs=tmp_path / "nowhere")
    assert bench.run(where, path, "fourth", quick=False)[0].startswith("left out")
    modules = {file.stem for file in bench.sources("benchmarks.engine")}
    assert {"engine", "common", "fused", "workloads", "limits"} <= modules and "lift" not in modules


def test_texts_tell_what_the_pages_say():
    for path, text in figures.files().items():
        assert path.read_text(encoding="utf-8") == text, "`python -m benchmarks.figures` renews it"
        rows = re.findall(r"^\| (.*) \| \[(\w+)\]", text, re.MULTILINE)
        assert len(rows) >= 3, path
        for told, name in rows:
            numbers = re.findall(r"\d[\d,.]*(?:e[+-]\d+)?", told)
            page = (figures.RESULTS / f"{name}.md").read_text(encoding="utf-8")
            assert [number for number in numbers if number.rstrip(",.") not in page] == [], told


class Timed:
    """A side that takes so many seconds, call by call."""

    def __init__(self, *seconds):
        self.left, self.asked = list(seconds), []

    def ask(self, *request):
        assert request[:3] == ("timed", "a", "t")
        self.asked.append(request[3:])
        return {"seconds": self.left.pop(0)}


def test_speeds_are_medians_of_turns():
    once = against.LEAST  # so that a sample is one call
    # A slow time of the machine meets both; a sample that had it to itself, one.
    here = Timed(once, *[2, 2, 20, 20] * 3, 1, 2, 2, 2)
    before = Timed(once, *[3, 3, 30, 30] * 3, 3, 3, 3, 3)
    assert len(here.left) - 1 == against.SAMPLES
    assert against.speeds({"here": here, "before": before}, ("a", "t"), "run") == (2, 1.5)
    assert [request[-1] for request in here.asked[1:]] == list(range(against.SAMPLES))
    assert here.asked == before.asked, "on the same core, turn by turn"


def test_a_pair_that_looks_slow_is_measured_anew_whatever_comes_of_it(monkeypatch):
    found = {"run": [1.0, 0.5, 0.9, 0.9, 0.9], "step": [0.96, 1.1, 1.1, 1.1, 1.1]}
    counted = {work: list(ratios) for work, ratios in found.items()}
    monkeypatch.setattr(against, "speeds", lambda sides, pair, work: (3e-6, counted[work].pop(0)))
    row = {"program": "a", "target": "t", "tokens": 3, "alike": True, "times": {}, "ratios": {}}
    row = first = against.measured({}, ("a", "t"), row)
    assert against.doubtful(row) and against.rounds(row) == 1
    for number in range(against.AGAIN):
        row = against.measured({}, ("a", "t"), row)
        assert against.doubtful(row) and against.rounds(row) == 2 + number
    assert row["ratios"] == found
    assert (row["run_ratio"], row["step_ratio"]) == (0.9, 1.1)
    assert row["run"] == pytest.approx(1) and row["step"] == pytest.approx(1.5)
    assert against.rounds(first) == 1, "a row that is kept does not change"
    assert not against.doubtful({**row, "ratios": {"run": [0.97, 0.1], "step": [1.0, 0.1]}})
    assert not against.doubtful({"program": "a", "target": "t", "alike": True})


def test_a_side_makes_the_next_pair_while_the_other_makes_this_one():
    class Side:
        def __init__(self):
            self.asked = []

        def ask(self, *request):
            self.asked.append(request[1:])
            return {"of": request[1:]}

    sides = {"here": Side(), "before": Side()}
    pairs = [("a", "t"), ("b", "t"), ("c", "t")]
    for number, (pair, found) in enumerate(against.made(sides, pairs)):
        assert pair == pairs[number]
        assert found == {"here": {"of": pair}, "before": {"of": pair}}
        assert sides["here"].asked == pairs[: number + 2]
        assert sides["before"].asked == pairs[: number + 1]
    assert list(against.made(sides, [])) == []


def test_what_differs_from_a_revision_is_named():
    fine = {"program": "a", "target": "t", "alike": True, "run": 1.0, "run_ratio": 1.0}
    fine |= {"step": 1.0, "step_ratio": 2.0, "ratios": {"run": [1.0], "step": [2.0]}}
    slow = {**fine, "program": "b", "alike": False, "step_ratio": 0.9}
    slow["ratios"] = {work: [0.9] * (1 + against.AGAIN) for work in against.WORKS}
    refused = {"program": "c", "target": "t", "alike": True}
    told = against.findings([fine, slow, refused], 4, "0123456789abcdef")
    assert "3 of 4" in told[0]
    assert "1 are refused" in told[0]
    assert told[1].startswith(
        "1 of them were below 0.97 in the first pair of processes; 1 of these"
    )
    assert told[2] == "Weights, certificates or outputs differ: b on t."
    assert "below 0.95 nowhere" in told[3]
    assert "b on t 0.90" in told[4]
    assert told[:2] != against.findings([fine, refused], 4, "0123456789abcdef")[:2]
