"""Golden states: every entry of a cache is what its label says, in our network and in torch."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import lsrl
from lsrl.errors import InputError
from lsrl.golden import IDLE, GoldenState
from lsrl.interpret import variants
from tests.grids import small_catalogue, studied

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "golden_kernels.py"
TARGETS = ("mamba", "mamba2", "deltanet", "griffin")
# With sums, holds, delays, gates, products, vectors, several inputs, and heads of a layer more.
PROGRAMS = (
    "associative_recall", "copy_delay", "counter_mod", "counting_sort", "cycle_navigation", "dyck",
    "dyck1", "first_repeated", "flip_flop", "function_table", "gradient_step", "induction_head",
    "majority", "modular_sum", "nearest_lookup", "parity", "reset_sum", "running_max",
    "selective_copy", "undo_flip_flop",
)  # fmt: skip
QUICK = ("flip_flop-mamba", "counter_mod-griffin", "reset_sum-griffin")


@lsrl.program(max_length=16)
def kept(x: lsrl.Token(4)) -> lsrl.Token(40):
    """A sum of what came two tokens ago, and the last token that was not 0."""
    total = lsrl.cumsum(lsrl.delay(x, 2))
    last = lsrl.hold(x, when=x >= 1)
    return lsrl.minimum(total + last, 39)


IDS = np.array([[1, 3, 0, 2, 0, 1], [0, 0, 2, 0, 0, 3]])


def texts_of(entry, lengths, sequences):
    """Sequences that keep the program's promises, as long as the shortest of them."""
    rng = np.random.default_rng(0)
    drawn = [entry.sample(rng, lengths) for _ in range(sequences)]
    shortest = min(len(row[0]) for row in drawn)
    return tuple(
        np.stack([array[:shortest] for array in each]) for each in zip(*drawn, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "target"),
    studied([pytest.param(n, t, id=f"{n}-{t}") for n in PROGRAMS for t in TARGETS], *QUICK),
)
def test_every_entry_is_what_its_label_says(name, target):
    entry = small_catalogue()[name]
    model = lsrl.compile(entry.program(), target)
    assert model.certificate.exact
    inputs = texts_of(entry, 16, 3)
    for token in (0, 1, 6, inputs[0].shape[1]):
        state = model.export_state(inputs, token)
        assert not [*map(str, state.differences())]
        labelled = {name: np.zeros(array.shape[1:], bool) for name, array in state.arrays.items()}
        for label in state.labels:
            assert label.text
            labelled[label.array][label.entry] = True
        for array, mask in labelled.items():
            assert not state.arrays[array][:, ~mask].any()
    assert sum(map(np.count_nonzero, state.arrays.values())) > 3


def entry_of(state, kind, text):
    """The one entry whose label has a text; its values in units of the signal."""
    (label,) = [one for one in state.labels if one.kind == kind and text in one.text]
    return label, state.arrays[label.array][:, *label.entry] / label.scale


@pytest.mark.parametrize("target", TARGETS)
def test_labels_are_in_the_program_s_signals(target, tmp_path):
    model = lsrl.compile(kept, target)
    state = model.export_state(IDS, 5)
    assert (state.token, state.exact, state.target) == (5, True, target)
    np.testing.assert_array_equal(state.outputs, kept.run(IDS))
    label, held = entry_of(state, "scan", "where last ")
    np.testing.assert_array_equal(held.reshape(2), [2, 2])
    assert ", for last; last#" in label.text and " = (0, 1, 1, 1)[x]" in label.text
    # Of the last tokens 3, 0, 2 and 0, and 0, 2, 0 and 0; Griffin keeps three.
    label, came = next(
        (label, state.arrays[label.array][:, *label.entry] / label.scale)
        for label in state.labels
        if label.kind == "conv" and label.text == "x"
    )
    np.testing.assert_array_equal(came[:, -3:], [[0, 2, 0], [2, 0, 0]])
    said = state.label(label.array, (*label.entry, -2 + came.shape[1]))
    assert said == f"conv: {label.scale:g} · (x), 1 token before the last"
    idle = state.expected[label.array].shape[1] - 1
    if target == "griffin":
        assert state.label(label.array, (idle, 0)) == IDLE
    _, total = entry_of(state, "scan", "sum of ")
    np.testing.assert_array_equal(total.reshape(2), {"mamba": [4, 2], "griffin": [4, 0]}[target])
    state.save(tmp_path / "state")
    again = GoldenState.load(tmp_path / "state")
    assert again.labels == state.labels and not [*again.differences()]
    np.testing.assert_array_equal(again.inputs, state.inputs)


def test_a_difference_has_a_name():
    state = lsrl.compile(kept, "mamba").export_state(IDS, 5)
    label, _ = entry_of(state, "scan", "where last ")
    wrong = {name: array.copy() for name, array in state.arrays.items()}
    wrong[label.array][1, *label.entry] += label.scale
    (found,) = state.differences(wrong)
    assert (found.array, found.entry) == (label.array, (1, *label.entry))
    assert found.got - found.expected == label.scale
    assert "of sequence 1: got " in str(found) and "where last" in str(found)
    with pytest.raises(InputError, match=r"expected .* of shape .*, got none"):
        next(state.differences({}))


REFUSED = {
    "target": (lambda m: lsrl.compile(kept, "lstm").export_state(IDS, 2), "'lstm' has no class"),
    "token": (lambda m: m.export_state(IDS, 7), "token must be an int from 0 to 6, got 7"),
    "head": (
        lambda m: m.export_state(IDS, 2, headless=True, tie_word_embeddings=True),
        "a head to tie",
    ),
    "input": (lambda m: m.export_state(IDS + 4, 2), "Token"),
    "altered": (lambda m: variants.padded(m, seed=1).export_state(IDS, 2), "was altered"),
}


@pytest.mark.parametrize(("use", "text"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_golden_state(use, text):
    with pytest.raises(InputError, match=text):
        use(lsrl.compile(kept, "mamba"))


# ---------------------------------------------------------------- in transformers


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The script for those who write kernels."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("golden_kernels", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkpoint(transformers, target, folder, token):
    """The class of a target, and what its cache holds after some tokens."""
    model = lsrl.compile(kept, target)
    model.export("huggingface", folder)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return loaded, model.export_state(IDS, token)


@pytest.mark.parametrize("target", studied(TARGETS, "mamba"))
def test_kernels_that_are_right_and_wrong(target, transformers, example, tmp_path, capsys):
    loaded, state = checkpoint(transformers, target, tmp_path, 3)
    assert example.report(loaded, state, parts=False), capsys.readouterr().out
    assert "cached               equal" in capsys.readouterr().out
    # Both classes begin anew in a part of several tokens.
    assert not example.report(loaded, state, parts=True)
    assert "in parts             token 3 of text 0, symbol" in capsys.readouterr().out


def test_a_kernel_that_forgets_is_told_of(transformers, example, tmp_path, capsys, monkeypatch):
    loaded, state = checkpoint(transformers, "mamba", tmp_path, 3)
    module = transformers.models.mamba.modeling_mamba
    scan = module.mamba_selective_scan

    def forgetting(*given, **options):
        made, last = scan(*given, **{**options, "return_last_state": True})
        return (made, last * (1 - 2.0**-20)) if options.get("return_last_state") else made

    monkeypatch.setattr(module, "mamba_selective_scan", forgetting)
    assert not example.report(loaded, state, parts=False)
    said = capsys.readouterr().out
    assert "full                 equal" in said and "stepped              token" not in said
    assert "prefilled, its cache layers.0.recurrent_states.0[" in said
    assert ", scan: " in said
