"""Golden states: every entry of a cache is what its label says, in our network and in torch."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import lsrl
from lsrl.errors import InputError
from lsrl.golden import IDLE, GoldenState
from lsrl.interpret import variants
from tests.grids import small_catalogue, studied

pytestmark = pytest.mark.one_in(5)

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "golden_kernels.py"
TARGETS = ("mamba", "mamba2", "deltanet", "griffin")
# With sums, holds, delays, gates, products, vectors, several inputs, and heads of a layer more.
PROGRAMS = (
    "associative_recall", "copy_delay", "counter_mod", "counting_sort", "cycle_navigation", "dyck",
    "dyck1", "first_repeated", "flip_flop", "function_table", "gradient_step", "induction_head",
    "majority", "modular_sum", "nearest_lookup", "parity", "reset_sum", "running_max",
    "selective_copy", "undo_flip_flop",
)  # fmt: skip
# What swaps and what recalls.
OWN = {"deltanet": ("dfa", "key_value_store", "permutations", "state_recall", "swaps")}
QUICK = {("flip_flop", "mamba"), ("reset_sum", "griffin"), ("key_value_store", "deltanet")}
STUDIED = ("counter_mod", "first_repeated", "swaps")


def cases():
    """Of all programs on all targets three by default, some in CI, and the others at night."""
    for target in TARGETS:
        for name in (*PROGRAMS, *OWN.get(target, ())):
            later = pytest.mark.studies if name in STUDIED else pytest.mark.nightly
            marks = () if (name, target) in QUICK else (later,)
            yield pytest.param(name, target, id=f"{name}-{target}", marks=marks)


@lsrl.program(max_length=16)
def kept(x: lsrl.Token(4)) -> lsrl.Token(40):
    """A sum of what came two tokens ago, and the last token that was not 0."""
    total = lsrl.cumsum(lsrl.delay(x, 2))
    last = lsrl.hold(x, when=x >= 1)
    return lsrl.minimum(total + last, 39)


KINDS = {"deltanet": "delta"}
IDS = np.array([[1, 3, 0, 2, 0, 1], [0, 0, 2, 0, 0, 3]])


def texts_of(entry, lengths, sequences):
    """Sequences that keep the program's promises, as long as the shortest of them."""
    rng = np.random.default_rng(0)
    drawn = [entry.sample(rng, lengths) for _ in range(sequences)]
    shortest = min(len(row[0]) for row in drawn)
    return tuple(
        np.stack([array[:shortest] for array in each]) for each in zip(*drawn, strict=True)
    )


@pytest.mark.parametrize(("name", "target"), [*cases()])
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


@pytest.mark.parametrize("target", studied(TARGETS, "mamba", "deltanet"))
def test_labels_are_in_the_program_s_signals(target, tmp_path):
    model = lsrl.compile(kept, target)
    state = model.export_state(IDS, 5)
    assert (state.token, state.exact, state.target) == (5, True, target)
    np.testing.assert_array_equal(state.outputs, kept.run(IDS))
    label, held = entry_of(state, KINDS.get(target, "scan"), ", for last")
    np.testing.assert_array_equal(held.reshape(2), [2, 2])
    said = r"last#\d, where last last#\d was 1, for last; .* = \(0, 1, 1, 1\)\[x\]"
    assert re.fullmatch(said, label.text)
    # Of the last tokens 3, 0, 2 and 0, and 0, 2, 0 and 0; Griffin keeps three.
    label, came = next(
        (label, state.arrays[label.array][:, *label.entry] / label.scale)
        for label in state.labels
        if label.kind == "conv" and label.text == "x"
    )
    np.testing.assert_array_equal(came[:, -3:], [[0, 2, 0], [2, 0, 0]])
    said = state.label(label.array, (*label.entry, -2 + came.shape[1]))
    assert said == f"conv: {label.scale:g} · (x), 1 token before the last"
    unused = next(
        place
        for place in np.ndindex(state.expected[label.array].shape[1:])
        if not any(one.array == label.array and one.entry == place[:1] for one in state.labels)
    )
    assert state.label(label.array, unused) == IDLE
    if target != "deltanet":  # there a sum turns its sign at every token
        _, total = entry_of(state, "scan", "sum of ")
        # An RG-LRU takes in a token late what it sums.
        late = {"griffin": [4, 0]}
        np.testing.assert_array_equal(total.reshape(2), late.get(target, [4, 2]))
    state.save(tmp_path / "state")
    again = GoldenState.load(tmp_path / "state")
    assert again.labels == state.labels and not [*again.differences()]
    np.testing.assert_array_equal(again.inputs, state.inputs)


def test_what_deltanet_keeps_of_swaps():
    @lsrl.program
    def moved(x: lsrl.Token(3)) -> lsrl.Token(4):
        """Where the first of three items is, behind swaps of the first or the last two."""
        return lsrl.swap_state(lsrl.lookup(x, [[0, 0, 0], [1, 1, 0], [0, 1, 1]]))[0]

    model = lsrl.compile(moved, "deltanet")
    state = model.export_state([[1, 2, 1]], 3)
    assert not [*state.differences()]
    held = np.zeros((3, 3))
    for label in state.labels:
        found = re.match(r"item (\d) on point (\d), ", label.text)
        if found:
            item, point = (int(number) - 1 for number in found.groups())
            held[point, item] = state.arrays[label.array][0, *label.entry] / label.scale
    # The first two swaps have put the items -2, -3 and 1 on the points, by columns of items.
    items = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    read = held.any(axis=0)
    assert read[0]
    np.testing.assert_array_equal(held[:, read], (np.eye(3) - items)[:, read])


def test_a_difference_has_a_name():
    state = lsrl.compile(kept, "mamba").export_state(IDS, 5)
    label, _ = entry_of(state, "scan", ", for last")
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


def checkpoint(transformers, target, folder, token, program=kept, **options):
    """A class with a target's weights, and what its cache holds after some tokens."""
    model = lsrl.compile(program, target)
    model.export("huggingface", folder, **options)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return loaded, model.export_state(IDS, token)


CONTINUES = {"mamba": False, "griffin": False}


@pytest.mark.studies
@pytest.mark.parametrize("target", TARGETS)
def test_classes_are_right_to_the_bit(target, transformers, example, tmp_path, capsys):
    loaded, state = checkpoint(transformers, target, tmp_path, 3)
    parts = loaded.config.lsrl["continues"]
    assert parts == CONTINUES.get(target, True)
    assert example.report(loaded, state, parts), capsys.readouterr().out
    assert "cached               equal" in capsys.readouterr().out
    if not parts:
        # Both classes begin anew in a part of several tokens.
        assert not example.report(loaded, state, parts=True)
        assert "in parts             token 3 of text 0, symbol" in capsys.readouterr().out


ARCHITECTURES = {
    "mamba2": ("granite", "falcon_h1", "nemotron_h", "bamba", "zamba2"),
    "deltanet": ("qwen3_next",),
}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("target", "name"), [(t, name) for t, names in ARCHITECTURES.items() for name in names]
)
def test_other_classes_keep_the_same_cache(target, name, transformers, example, tmp_path, capsys):
    # Qwen3-Next adds nothing up.
    program = lsrl.programs.undo_flip_flop() if name == "qwen3_next" else kept
    loaded, state = checkpoint(transformers, target, tmp_path, 3, program, architecture=name)
    assert example.report(loaded, state, parts=True), capsys.readouterr().out


WRONG = {
    "mamba": ("mamba.modeling_mamba", "mamba_selective_scan", "prefilled, its cache", "scan"),
    "deltanet": (
        "olmo_hybrid.modeling_olmo_hybrid", "torch_recurrent_gated_delta_rule",
        "stepped, its cache", "delta",
    ),
}  # fmt: skip


@pytest.mark.studies
@pytest.mark.parametrize("target", WRONG)
def test_a_kernel_that_forgets_is_told_of(
    target, transformers, example, tmp_path, capsys, monkeypatch
):
    loaded, state = checkpoint(transformers, target, tmp_path, 3)
    place, kernel, check, kind = WRONG[target]
    module = importlib.import_module(f"transformers.models.{place}")
    right = getattr(module, kernel)

    def wrong(*given, **options):
        found = right(*given, **options)
        if not isinstance(found, tuple) or found[1] is None:
            return found
        return found[0], found[1] * (1 - 2.0**-20)

    monkeypatch.setattr(module, kernel, wrong)
    assert not example.report(loaded, state, parts=False)
    said = capsys.readouterr().out
    assert "full                 equal" in said
    assert re.search(rf"{check} +layers\.0\.recurrent_states\.0\[.*, {kind}: ", said), said
