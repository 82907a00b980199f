"""Models of the suite outside LSRL: one of each kind, and that the sweep sees what differs."""

import json

import numpy as np
import pytest

import lsrl
from benchmarks.common import LOAD, Output
from lsrl.suite.manifest import Refusal
from tests.grids import studied

pytestmark = pytest.mark.one_in(5)

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")


@pytest.fixture
def sweep(transformers, tmp_path, monkeypatch):
    """The benchmark, with folders of its own."""
    from benchmarks import torch_suite

    threads = torch.get_num_threads()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch_suite, "KEPT", tmp_path / "kept")
    yield torch_suite
    torch.set_num_threads(threads)


RESIDUAL = ("griffin", "mamba2", "deltanet")


@pytest.mark.parametrize(
    ("target", "variant", "ways"),
    studied(
        [
            # Of more inputs and outputs than one token each there is no language model.
            pytest.param(target, variant, ways[: 1 if alone else None], id=f"{target}-{variant}")
            for target, ways in {
                "gru": ("torch.nn", "load_torch"),
                "gated_linear_rnn": ("load_torch",),
                **dict.fromkeys(RESIDUAL, ("without a head", "with a head")),
            }.items()
            for variant in ("permuted", "padded", "merged")
            for alone in [target in RESIDUAL and variant != "permuted"]
        ],
        "gru-permuted",
        "gated_linear_rnn-permuted",
    ),
)
def test_models_equal_theirs_at_every_layer(target, variant, ways, sweep):
    group = sweep.Group("since_last", target)
    assert sweep.sweep(group, [variant]) == len(ways)
    rows = sweep.rows_kept(group, None)
    assert {row["way"] for row in rows} == set(ways)
    for row in rows:
        assert (row["exact"], row["outputs"], row["hooks"]) == (True, "equal", "equal"), row
        assert row["long outputs"] == "equal"
    # What is finished is not done again.
    assert sweep.sweep(group, [variant]) == 0


def test_what_differs_and_what_there_is_not_is_told(sweep, tmp_path):
    group = sweep.Group("even_pairs", "lstm")
    assert sweep.sweep(group, ["rotated"]) == 1
    (row,) = sweep.rows_kept(group, None)
    (refusal,) = lsrl.suite.refusals([group.program], [group.target], ["rotated"])
    assert isinstance(refusal, Refusal) and row["reason"] == refusal.reason
    assert "no residual stream to rotate; choose one of mamba, mamba2, griffin" in refusal.reason

    model = lsrl.suite.load(*group)
    ours = sweep.ours_of(model, group.program)
    loaded = sweep.one_module(model, tmp_path / "model")
    found = sweep.compared(loaded, ours, exact=True)
    assert (found["outputs"], found["hooks"]) == ("equal", "equal")
    # Of what is not exact the outputs of long sequences may be off by the bound; hooks by rounding.
    turned = loaded._replace(hooks=loaded.hooks[::-1])
    assert sweep.compared(turned, ours, exact=False)["hooks"] == "differs"
    shifted = loaded._replace(run=lambda inputs: loaded.run(inputs) + 2**-10)
    for allowed, verdict in ((0.0, "differs"), (2**-10, "within")):
        found = sweep.compared(shifted, ours._replace(allowed=allowed), exact=False)
        assert (found["outputs"], found["long outputs"]) == (verdict, verdict)
    missing = loaded._replace(run=lambda inputs: loaded.run(inputs) * np.nan)
    assert sweep.compared(missing, ours, exact=False)["outputs"] == "differs"


def test_the_page_counts_models_by_their_worst(sweep, tmp_path):
    model = {"program": "a", "target": "gru", "code": "1"}
    rows = [
        {**model, "variant": variant, "way": way, "exact": True, "outputs": outputs,
         "hooks": "equal", "error": 0.0}
        for variant, way, outputs in [
            ("plain", "torch.nn", "equal"), ("plain", "load_torch", "equal"),
            ("soft", "torch.nn", "equal"), ("soft", "load_torch", "differs"),
        ]
    ]  # fmt: skip
    reason = "rotated: gru has 3 streams | none of a"
    rows.append({**model, "variant": "rotated", "way": None, "reason": reason})
    left = [sweep.Group("b", "gru")]
    sweep.write_page(rows, left, Output.of("torch_suite", True, tmp_path), {LOAD: "0"})
    data = json.loads((tmp_path / "torch_suite.json").read_text())
    assert "2 models of 1 programs; 1 further ones" in data["findings"][0]
    assert "of 1 equal ours" in data["findings"][1] and "1 differ;" in data["findings"][1]
    assert "Not finished: 1 programs on targets (b on gru)." in data["findings"]
    assert data["absent"][0]["reason"] == "rotated: <target> has N streams | none of <program>"
    assert [row["variant"] for row in data["unequal"]] == ["soft"]
