"""Classes of transformers that share a mixer: each gives our network's numbers, however it runs."""

import json
from functools import cache

import numpy as np
import pytest

import lsrl
from lsrl.errors import InputError, UnsupportedOpError
from lsrl.interpret import variants
from lsrl.programs import catalogue
from tests.test_headless import assert_equals_ours, drawn, of_many

pytestmark = pytest.mark.one_in(2)

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")

# By target the classes that run it, its own first, with the name of each in transformers.
CLASSES = {
    "mamba2": {
        "mamba2": "Mamba2ForCausalLM",
        "granite": "GraniteMoeHybridForCausalLM",
        "falcon_h1": "FalconH1ForCausalLM",
        "nemotron_h": "NemotronHForCausalLM",
        "bamba": "BambaForCausalLM",
        "zamba2": "Zamba2ForCausalLM",
    },
    "deltanet": {"olmo_hybrid": "OlmoHybridForCausalLM", "qwen3_next": "Qwen3NextForCausalLM"},
}
EACH = [(target, name) for target, names in CLASSES.items() for name in names]
# Beside holds: sums, delays, recall, products, and what one target alone has.
OTHERS = ("dyck1", "copy_delay", "associative_recall", "ngram", None)
SIXTH = {"mamba2": "counter_mod", "deltanet": "swaps"}


@lsrl.program
def of_each_kind(symbol: lsrl.Token(4)) -> lsrl.Token(4):
    """What is held, what is two tokens old, and their product, with ReLUs between."""
    held = lsrl.bound(lsrl.hold(symbol, symbol > 1), 0, 3)
    return lsrl.minimum(lsrl.delay(symbol, 2) * (held > 2) + held, 3)


@lsrl.program(max_length=64)
def that_counts(symbol: lsrl.Token(4)) -> lsrl.Token(4):
    """What is held, times whether more than two tokens were read, as a sum over time has it."""
    held = lsrl.bound(lsrl.hold(symbol, symbol > 1), 0, 3)
    return held * (lsrl.cumsum(1 + 0 * symbol) > 2)


@cache
def compiled(target, reflects):
    return lsrl.compile(that_counts if reflects else of_each_kind, target)


def card_of(folder):
    return " ".join((folder / "README.md").read_text().split())


def texts(sequences, tokens):
    return np.random.default_rng(0).integers(0, 4, (sequences, tokens))


@pytest.mark.parametrize(("target", "name"), EACH)
def test_a_class_gives_our_numbers_however_it_runs(target, name, transformers, tmp_path):
    """Whole, token by token, generated, in two parts, filled up, saved again: bit for bit."""
    from benchmarks.huggingface_classes import compared

    model = compiled(target, name != "qwen3_next")
    assert model.certificate.exact
    model.export("huggingface", tmp_path / "model", architecture=name)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == [CLASSES[target][name]]
    found = compared(model, tmp_path / "model", texts(4, 40), generated=6)
    assert found.total == 0 and found.generated == 0 and found.tokens == 160
    assert found.parts == 0
    card = card_of(tmp_path / "model")
    assert f"as a {CLASSES[target][name]}" in card and "Tried with transformers 5" in card
    assert "by one token or by several, and gives what it gives of a whole text" in card
    assert ("weights are 0" in card) == (name != "mamba2")


@pytest.mark.parametrize(
    ("sequences", "tokens"),
    [
        pytest.param(8, 100, marks=pytest.mark.studies),
        pytest.param(100, 1000, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize(
    "program", ["flip_flop", *(pytest.param(p, marks=pytest.mark.nightly) for p in OTHERS)]
)
@pytest.mark.parametrize(("target", "name"), EACH)
def test_six_programs_in_each_class(
    target, name, program, sequences, tokens, transformers, tmp_path
):
    from benchmarks.huggingface_classes import compared

    entry = catalogue()[program or SIXTH[target]]
    model = lsrl.compile(entry.program(), target)
    assert model.certificate.exact
    try:
        model.export("huggingface", tmp_path / "model", architecture=name)
    except UnsupportedOpError:
        assert name == "qwen3_next" and program in ("dyck1", None)
        return
    random = np.random.default_rng(1)
    ids = np.stack([entry.sample(random, tokens)[0] for _ in range(sequences)])
    found = compared(model, tmp_path / "model", ids, stepwise=4)
    assert found.total == 0 and found.tokens == ids.size


@pytest.mark.studies
@pytest.mark.parametrize(("target", "name"), EACH)
def test_a_class_without_its_head_gives_our_numbers(
    target, name, transformers, tmp_path, monkeypatch
):
    """Given inputs of all kinds, every hook holds what the circuit says."""
    model = lsrl.compile(of_many, target)
    inputs = drawn(model.program, np.random.default_rng(0))
    if name == "qwen3_next":
        with pytest.raises(UnsupportedOpError, match="total"):
            model.export("huggingface", tmp_path / "model", architecture=name)
        return
    assert_equals_ours(
        transformers, model, inputs, tmp_path / "model", monkeypatch, architecture=name
    )


@pytest.mark.studies
@pytest.mark.parametrize(("target", "name"), EACH)
def test_a_class_ties_its_head(target, name, transformers, tmp_path):
    from benchmarks.huggingface_classes import compared

    model = compiled(target, name != "qwen3_next")
    options = {"architecture": name, "tie_word_embeddings": True}
    if name == "nemotron_h":
        with pytest.raises(UnsupportedOpError, match=r"can't tie its head.*export it as 'mamba2'"):
            model.export("huggingface", tmp_path / "model", **options)
        return
    model.export("huggingface", tmp_path / "model", **options)
    assert compared(model, tmp_path / "model", texts(4, 40)).total == 0


@pytest.mark.studies
@pytest.mark.parametrize("make", [variants.permuted, variants.rotated, variants.noised])
@pytest.mark.parametrize(
    ("target", "name"), [pair for pair in EACH if pair[1] not in ("mamba2", "qwen3_next")]
)
def test_altered_networks_are_of_each_class(
    target, name, make, transformers, tmp_path, monkeypatch
):
    model = make(lsrl.compile(lsrl.programs.dyck1(max_length=12), target))
    inputs = drawn(model.program, np.random.default_rng(0))
    assert_equals_ours(
        transformers, model, inputs, tmp_path / "model", monkeypatch, architecture=name
    )


def test_a_class_that_ends_at_beta_1_reflects_nothing(tmp_path):
    """Given a sum, the error names its signal, its line, the theorem, and the class that has it."""
    model = compiled("deltanet", True)
    with pytest.raises(
        UnsupportedOpError,
        match=r"cumsum.*test_huggingface_classes.py:.*Grazzi.*export it as 'olmo_hybrid'",
    ):
        model.export("huggingface", tmp_path / "model", architecture="qwen3_next")
    other = lsrl.compile(lsrl.programs.copy_delay(1), "deltanet")
    kernel = other.module.parameter_arrays()["output_kernel"]
    other.module.replace_parameters({"output_kernel": 2 * kernel})
    with pytest.raises(UnsupportedOpError, match="from a compiled network that is exact"):
        other.export("huggingface", tmp_path / "model", architecture="qwen3_next")


def test_steps_of_nothing_are_not_clamped(tmp_path):
    """Nemotron-H and Zamba2 clamp Δ of whole texts, by 0.001 by default."""
    for name in ("nemotron_h", "zamba2"):
        compiled("mamba2", True).export("huggingface", tmp_path / name, architecture=name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["time_step_min"] > 0 and np.float32(config["time_step_min"]) == 0
        assert "less than `time_step_min`" in card_of(tmp_path / name)


def test_names_of_classes_are_checked(tmp_path):
    with pytest.raises(InputError, match=r"'granite', .*'zamba2', got 'granit'.*mean 'granite'"):
        compiled("mamba2", True).export("huggingface", tmp_path / "m", architecture="granit")
