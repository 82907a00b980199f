"""The suite of test models: its programs, datasets and pairs, and a directory built from them."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load as load_arrays
from typer.testing import CliRunner

import lsrl
import lsrl.suite
from lsrl import errors, machine, sealed
from lsrl.backends.base import StackBackend
from lsrl.circuit import FORM
from lsrl.cli import app
from lsrl.interpret import Circuit, capture
from lsrl.suite import datasets, sampling, variants, verify
from lsrl.suite.build import build
from lsrl.suite.held_back import held_back
from lsrl.suite.manifest import FORM as MANIFEST
from lsrl.suite.manifest import ModelRecord, digest, read_manifest
from lsrl.suite.partners import PAIRS, partners
from lsrl.suite.programs import FAMILIES, programs
from lsrl.suite.variants import Varied

pytestmark = pytest.mark.one_in(5)

ROOT = Path(__file__).resolve().parents[1]
SUITE = programs()
# One program that all targets hold, one that the linear ones refuse, one that is not exact.
NAMES = ["majority", "flip_flop", "vec2vec"]
TARGETS = ["linear_rnn", "gru", "mamba"]
SMALL = {"train": 24, "validation": 8, "long": 8}


def contents(directory):
    """Every file of a tree by its relative path."""
    files = sorted(path for path in Path(directory).rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def build_small(directory, **settings):
    return build(
        directory,
        **{
            "programs": NAMES,
            "targets": TARGETS,
            "variants": ["plain"],
            "workers": 1,
            "seed": 3,
            **settings,
        },
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small suite, which tests read but do not change."""
    directory = tmp_path_factory.mktemp("suite") / "built"
    build_small(directory)
    return directory


@pytest.fixture
def copied(built, tmp_path):
    """A copy of it to spoil."""
    shutil.copytree(built, tmp_path / "copied")
    return tmp_path / "copied"


# ---------------------------------------------------------------- programs


def test_the_suite_has_forty_programs_and_every_family():
    assert len(SUITE) >= 40
    assert len({program.name for program in SUITE}) == len(SUITE)
    families = [program.family for program in SUITE]
    assert [family for family, _ in groupby(families)] == list(FAMILIES)
    assert all(families.count(family) >= 5 for family in FAMILIES)


@pytest.mark.parametrize("program", SUITE, ids=lambda program: program.name)
def test_data_are_right_and_tell_every_signal_apart(program):
    """Against the plain-Python reference; every signal that varies has pairs that differ in it."""
    dataset = sampling.make_dataset(program, 1, SMALL)
    pairs = sampling.make_counterfactuals(program, 1, pairs=4, candidates=64)
    splits = dataset.splits
    assert splits["train"].outputs.shape[1] == program.tokens
    assert ("long" in splits) == (program.long_tokens is not None)
    if program.long_tokens is not None:
        assert splits["long"].outputs.shape[1] == program.long_tokens > program.tokens
    assert (program.long_tokens or program.tokens) <= program.program().max_length
    for split in (*splits.values(), pairs.base, pairs.source):
        for row in range(0, len(split), 5):
            expected = program.expected(tuple(array[row] for array in split.arrays))
            np.testing.assert_allclose(split.outputs[row], expected, rtol=0, atol=program.tolerance)
    drawn = [
        b"".join(array[row].tobytes() for array in split.arrays)
        for split in (splits["train"], splits["validation"])
        for row in range(len(split))
    ]
    assert len(set(drawn)) == len(drawn)
    for number, name in enumerate(pairs.signals):
        different = (pairs.base.signals[name] != pairs.source.signals[name]).any(axis=2)
        np.testing.assert_array_equal(pairs.differs[:, number], different)
        if name in pairs.constant:
            values = splits["train"].signals[name]
            assert (values == values[:1]).all(), f"{name} varies, but no pair differs in it"
            assert not different.any()
        else:
            assert different.any(axis=1).sum() >= 2, name


def test_its_computers_run_programs():
    """Under its own name a program still knows what it feeds back."""
    image = [6, 7, 3, 6, 6, -1, 3, 5] + [0] * 4
    for task in programs(["subleq_of_12", "subleq_of_24"]):
        program = task.program()
        run = program.loop(*machine.card(program, image), steps=9)
        assert run.halted
        np.testing.assert_array_equal(run.memory, machine.interpret(program, image).dump())


def test_pairs_differ_in_few_other_signals():
    (program,) = programs(["flip_flop"])
    pairs = sampling.make_counterfactuals(program, 0)
    numbers = pairs.differs.any(axis=2).sum(axis=1)
    # A value that is ignored differs alone, besides the instruction that it stands in.
    assert numbers[pairs.pairs_of("value")[0]] == 2
    assert (np.diff(numbers[pairs.pairs_of("value")]) >= 0).all()
    for pair, number in enumerate(pairs.chosen_for):
        assert pair in pairs.pairs_of(pairs.signals[number])
    with pytest.raises(errors.InputError, match="did you mean 'writes'"):
        pairs.pairs_of("write")


def test_signals_that_are_always_equal_are_told():
    (program,) = programs(["tok2tok_symbols"])
    groups = sampling.make_dataset(program, 0, SMALL).indistinguishable()
    # Rings of one place are what is read from them.
    assert ("query_ring", "query") in groups
    (program,) = programs(["majority"])
    assert sampling.make_dataset(program, 0, SMALL).indistinguishable() == ()


def test_equal_seeds_give_equal_data_and_others_do_not():
    (program,) = programs(["flip_flop"])
    first, again = (sampling.make_dataset(program, 5, SMALL) for _ in range(2))
    assert datasets.dataset_bytes(first) == datasets.dataset_bytes(again)
    other = sampling.make_dataset(program, 6, SMALL)
    assert (first.splits["train"].outputs != other.splits["train"].outputs).any()
    pairs = [
        datasets.counterfactuals_bytes(sampling.make_counterfactuals(program, s)) for s in (5, 5, 6)
    ]
    assert pairs[0] == pairs[1] != pairs[2]


@pytest.mark.studies
@pytest.mark.parametrize("name", ["binary_adder", "gradient_step"])
def test_data_come_back_from_their_files_as_they_were(name, tmp_path):
    (program,) = programs([name])
    dataset = sampling.make_dataset(program, 0, SMALL)
    pairs = sampling.make_counterfactuals(program, 0, pairs=2, candidates=32)
    path = tmp_path / "file"
    path.write_bytes(datasets.dataset_bytes(dataset))
    read = datasets.read_dataset(path)
    assert (read.program, read.seed, list(read.splits)) == (name, 0, list(dataset.splits))
    for split, expected in zip(read.splits.values(), dataset.splits.values(), strict=True):
        assert_equal_splits(split, expected)
    path.write_bytes(datasets.counterfactuals_bytes(pairs))
    back = datasets.read_counterfactuals(path)
    assert_equal_splits(back.base, pairs.base)
    assert_equal_splits(back.source, pairs.source)
    assert (back.signals, back.constant) == (pairs.signals, pairs.constant)
    np.testing.assert_array_equal(back.differs, pairs.differs)
    np.testing.assert_array_equal(back.chosen_for, pairs.chosen_for)


def assert_equal_splits(split, expected):
    assert list(split.inputs) == list(expected.inputs)
    assert list(split.signals) == list(expected.signals)
    for name, array in split.flat("").items():
        np.testing.assert_array_equal(array, expected.flat("")[name], strict=True)


@pytest.mark.studies
def test_splits_are_frames_and_parquet(tmp_path):
    pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    (program,) = programs(["gradient_step"])
    dataset = sampling.make_dataset(program, 0, {**SMALL, "test": 5})
    split = dataset.splits["test"]
    assert len(split) == 5
    frame = split.to_pandas()
    assert frame.index.names == ["sequence", "token"]
    for name, array in split.flat("").items():
        name = name.removeprefix("/")
        wide = array.reshape(array.shape[0] * array.shape[1], -1)
        columns = [name] if wide.shape[1] == 1 else [f"{name}[{k}]" for k in range(wide.shape[1])]
        np.testing.assert_array_equal(frame[columns].to_numpy(), wide)
    files = dataset.to_parquet(tmp_path / "out")
    assert list(files) == list(dataset.splits)
    rows = parquet.read_table(files["test"]).to_pylist()
    for row, outputs in zip(rows, split.outputs, strict=True):
        np.testing.assert_array_equal(np.reshape(row["outputs"], outputs.shape), outputs)


@pytest.mark.studies
def test_single_models_are_those_of_a_build(built, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = lsrl.suite.load("majority", "gru", seed=3)
    same = lsrl.load(built / "counting/majority/gru/plain/model.safetensors")
    own, other = model.module.parameter_arrays(), same.module.parameter_arrays()
    assert all(np.array_equal(own[name], other[name]) for name in own | other)
    data = lsrl.suite.load_data("majority", seed=3)
    folder = built / "counting/majority"
    assert datasets.dataset_bytes(data) == (folder / "dataset.safetensors").read_bytes()
    pairs = datasets.counterfactuals_bytes(lsrl.suite.load_pairs("majority", seed=3))
    assert pairs == (folder / "counterfactuals.safetensors").read_bytes()
    monkeypatch.setattr(lsrl, "compile", None)  # what is there is not built again
    np.testing.assert_array_equal(
        lsrl.suite.load("majority", "gru", seed=3).run(*data.splits["long"].arrays),
        data.splits["long"].outputs,
    )
    with pytest.raises(errors.InputError, match="no residual stream to rotate"):
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        lsrl.suite.load("majority", "gru", "rotated")
    with pytest.raises(errors.InputError, match="did you mean 'majority'"):
        lsrl.suite.load("majorty", "gru")


# ---------------------------------------------------------------- building


def test_the_layout_is_as_documented(built):
    manifest = read_manifest(built)
    files = contents(built)
    assert {name: digest(content) for name, content in files.items()} == {
        **manifest.files,
        "manifest.json": digest(files["manifest.json"]),
    }
    folder = "memory/flip_flop/gru/plain"
    for name in ("model.safetensors", "circuit.json", "README.md"):
        assert f"{folder}/{name}" in files
    for name in ("dataset.safetensors", "counterfactuals.safetensors"):
        assert f"memory/flip_flop/{name}" in files
    models = {(model.program, model.target): model for model in manifest.models}
    assert {key for key in models if key[0] in NAMES} == {
        (name, target) for name in NAMES for target in TARGETS
    } - {("flip_flop", "linear_rnn"), ("vec2vec", "gru")}
    model = lsrl.load(built / folder / "model.safetensors")
    record = models["flip_flop", "gru"]
    assert (record.layers, record.width, record.exact) == (model.num_layers, model.width, True)
    assert not models["vec2vec", "mamba"].exact
    assert 0 < models["vec2vec", "mamba"].error_bound < 1e-3
    card = files[f"{folder}/README.md"].decode()
    assert "`flip_flop` on `gru`" in card
    assert str(model.certificate) in card


def test_refusals_are_recorded_with_their_reason(built):
    refusals = {(row.program, row.target): row.reason for row in read_manifest(built).refusals}
    assert "lsrl/programs/memory.py:" in refusals["flip_flop", "linear_rnn"]
    # A certificate that allows any output is none.
    assert "the outputs span 6" in refusals["vec2vec", "gru"]


def test_files_name_no_folder_of_this_machine(built):
    for name, content in contents(built).items():
        assert str(ROOT).encode() not in content, name
        assert str(built.parent).encode() not in content, name


@pytest.mark.studies
def test_the_lines_of_the_card_run(built, monkeypatch):
    folder = built / "counting/majority/mamba/plain"
    monkeypatch.chdir(folder)
    block = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    space: dict[str, object] = {}
    exec(block, space)
    np.testing.assert_array_equal(space["outputs"], space["train"].outputs)
    assert len(space["pairs"].base)


@pytest.mark.studies
def test_processes_of_their_own_build_the_same_bytes(built, tmp_path):
    build_small(tmp_path, programs=["majority", "flip_flop"], targets=["gru"], workers=2)
    ours, theirs = contents(tmp_path), contents(built)
    del ours["manifest.json"]
    assert len(ours) == 2 * 3 + 2 * 4
    assert ours == {name: theirs[name] for name in ours}


@pytest.mark.studies
def test_another_seed_builds_other_data_and_the_same_weights(built, tmp_path):
    build(tmp_path, programs=["majority"], targets=["gru"], variants=["plain"], seed=4, workers=1)
    ours, theirs = contents(tmp_path), contents(built)
    dataset = "counting/majority/dataset.safetensors"
    model = "counting/majority/gru/plain/model.safetensors"
    assert ours[dataset] != theirs[dataset]
    assert ours[model] == theirs[model]


@pytest.mark.studies
def test_a_spoilt_directory_is_mended_and_the_rest_is_kept(built, copied):
    (copied / "manifest.json").unlink()
    flip(copied / "counting/majority/gru/plain/model.safetensors")
    flip(copied / "memory/flip_flop/dataset.safetensors")
    (copied / "counting/majority/mamba/plain/README.md").unlink()
    (copied / "memory/flip_flop/mamba/plain/unit.json").write_text("{")
    shutil.rmtree(copied / "in_context_approximation/vec2vec/mamba")
    # What a killed build leaves.
    left = copied / "counting/majority/gru/.plain.0123456789abcdef.draft"
    left.mkdir()
    (left / "model.safetensors").touch()
    (copied / "memory/flip_flop/.dataset.safetensors.0123456789abcdef.draft").touch()
    (copied / ".build.lock").write_text("of process 1 on another machine")
    kept = copied / "counting/majority/linear_rnn/plain/model.safetensors"
    before = kept.stat().st_mtime_ns
    build_small(copied)
    assert contents(copied) == contents(built)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.studies
def test_a_killed_build_goes_on(built, tmp_path):
    code = (
        "from lsrl.suite.build import build\n"
        "if __name__ == '__main__':\n"
        f"    build('out', programs={NAMES}, targets={TARGETS}, variants=['plain'], seed=3,\n"
        "          workers=1)\n"
    )
    (tmp_path / "run.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, "run.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    first = tmp_path / "out/counting/majority/linear_rnn/plain/unit.json"
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.exists()
    build_small(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(built)


def test_what_no_build_wrote_is_not_replaced(tmp_path):
    folder = tmp_path / "counting/majority/gru/plain"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(errors.FormatError, match="something else"):
        build(tmp_path, programs=["majority"], targets=["gru"], variants=["plain"], workers=1)
    assert (folder / "thesis.tex").read_text() == "mine"
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.studies
def test_a_variant_is_one_row_of_the_registry(tmp_path, monkeypatch):
    def negated(model, request):
        assert request.sampler(3, 0)[0].shape == (3, 24)
        if model.target == "gru":
            raise errors.InputError("negated: no gate may be negated")
        assert request.seed != request.build_seed == 0
        return Varied(model, "Nothing was negated.", False, None, {"accuracy": 0.5})

    monkeypatch.setitem(variants.VARIANTS, "negated", variants.Variant("negated", negated))
    manifest = build(
        tmp_path, programs=["majority"], targets=["gru", "linear_rnn"],
        variants=["plain", "negated"], workers=1,
    )  # fmt: skip
    found = [(model.target, model.variant, model.measured) for model in manifest.models]
    assert found == [
        ("gru", "plain", {}), ("linear_rnn", "plain", {}),
        ("linear_rnn", "negated", {"accuracy": 0.5}),
    ]  # fmt: skip
    (refusal,) = manifest.refusals
    assert (refusal.target, refusal.variant) == ("gru", "negated")
    assert refusal.reason == "negated: no gate may be negated"
    folder = tmp_path / "counting/majority/linear_rnn/negated"
    assert "Nothing was negated." in (folder / "README.md").read_text()
    assert "accuracy: 0.5" in (folder / "README.md").read_text()
    assert verify.verify(tmp_path, workers=1).models == 3


@pytest.mark.studies
def test_variants_are_built_with_their_own_circuits_and_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "PAIRS", 20)
    monkeypatch.setattr(verify, "PAIRS_OF_VARIANTS", 20)
    manifest = build(
        tmp_path, programs=["dyck1"], targets=["lstm", "mamba"], workers=1,
        variants=["plain", "permuted", "rotated", "soft"],
    )  # fmt: skip
    found = {(model.target, model.variant): model for model in manifest.models}
    assert sorted(found) == [
        ("lstm", "permuted"), ("lstm", "plain"), ("lstm", "soft"),
        ("mamba", "permuted"), ("mamba", "plain"), ("mamba", "rotated"), ("mamba", "soft"),
    ]  # fmt: skip
    reasons = {(row.target, row.variant): row.reason for row in manifest.refusals}
    assert "lstm has no residual stream to rotate" in reasons["lstm", "rotated"]
    assert found["lstm", "permuted"].exact
    for target in ("lstm", "mamba"):
        assert not found[target, "soft"].exact
        assert 0.9 < found[target, "soft"].measured["accuracy"] <= 1
        assert found[target, "soft"].measured["agreement of interchanges"] > 0.99
        card = (tmp_path / found[target, "soft"].folder / "README.md").read_text()
        assert "every legal input of up to 12 tokens was run" in card
    for model in found.values():
        circuit = Circuit.load(tmp_path / model.folder / "circuit.json")
        loaded = lsrl.load(tmp_path / model.folder / "model.safetensors")
        assert loaded.circuit.to_json() == circuit.to_json()
    assert verify.verify(tmp_path, workers=1).models == 7


@pytest.mark.studies
def test_partners_read_the_same_inputs_and_none_has_two():
    for seed in range(4):
        pairs = partners(seed)
        assert len(pairs) == PAIRS
        names = [*pairs, *(other.name for other in pairs.values())]
        assert len(set(names)) == len(names)
        for name, other in pairs.items():
            (task,) = programs([name])
            first, second = task.program(), other.program()
            assert list(first.inputs.values()) == list(second.inputs.values())
            # The first one's inputs are legal, and none is too long, in the network of both.
            assert task.free and other.free
            assert (task.long_tokens or task.tokens) <= second.max_length
    assert partners(0) == partners.__wrapped__(0) != partners(1)


@pytest.mark.studies
def test_merged_models_are_built_on_every_target_that_holds_both(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "PAIRS_OF_VARIANTS", 20)
    (other,) = programs(["dfa"])
    monkeypatch.setattr(variants, "partners", lambda seed: {"even_pairs": other} if seed else {})
    names = ["even_pairs", "dfa", "majority"]
    manifest = build(
        tmp_path, programs=names, targets=["gru", "mamba"], variants=["merged"], seed=1, workers=1
    )
    (found,) = manifest.models
    assert (found.folder, found.exact) == ("formal_languages/even_pairs/gru/merged", True)
    reasons = {(row.program, row.target): row.reason for row in manifest.refusals}
    assert len(reasons) == 2 * len(names) - 1
    assert "can't hold 1 signal" in reasons["even_pairs", "mamba"]
    assert "second program of even_pairs's" in reasons["dfa", "gru"]
    assert "majority is in none of the 1 pairs" in reasons["majority", "gru"]
    # The dataset is the first program's, and so are the names in it.
    model = lsrl.load(tmp_path / found.folder / "model.safetensors")
    dataset = datasets.read_dataset(tmp_path / "formal_languages/even_pairs/dataset.safetensors")
    split = dataset.splits["validation"]
    outputs = model.run(*split.arrays)
    first = split.outputs.shape[-1]
    np.testing.assert_array_equal(outputs[..., :first], split.outputs)
    np.testing.assert_array_equal(outputs[..., first:], other.program().run(*split.arrays))
    captured = capture(model, *split.arrays)
    assert [name for name in captured if name.startswith("dfa.")]
    same = set(captured) & set(split.signals)
    assert len(same) > 1
    for name in same:
        np.testing.assert_array_equal(captured[name], split.signals[name])
    card = (tmp_path / found.folder / "README.md").read_text()
    assert "programs=even_pairs+dfa" in card and "dfa: 1 to 1" in card
    assert verify.verify(tmp_path, workers=1).models == 1


@pytest.mark.studies
def test_soft_networks_that_do_not_compute_their_program_are_refused(tmp_path):
    manifest = build(
        tmp_path, programs=["vec2vec"], targets=["mamba"], variants=["soft"], workers=1
    )
    assert manifest.models == ()
    (refusal,) = manifest.refusals
    assert "soft: vec2vec on mamba is right at 8" in refusal.reason


def test_a_lying_circuit_is_found(tmp_path, monkeypatch):
    """Interchanges by the wrong labels give other outputs."""
    monkeypatch.setattr(verify, "PAIRS", 20)
    monkeypatch.setattr(verify, "CHECKS", [verify.check_causes])
    build(tmp_path, programs=["majority"], targets=["lstm"], variants=["plain"], workers=1)

    truth = StackBackend.anatomy

    def lying(*arguments):
        circuit = truth(*arguments)
        channels = tuple(
            dataclasses.replace(c, offset=c.offset + 1) if c.signal == "ones" else c
            for c in circuit.channels
        )
        return dataclasses.replace(circuit, channels=channels)

    monkeypatch.setattr(StackBackend, "anatomy", lying)
    with pytest.raises(errors.ModelDifferenceError, match="interchanges of ones"):
        verify.verify(tmp_path, workers=1)


# ---------------------------------------------------------------- verifying


def flip(path):
    """Change one byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def restamp(directory, name):
    """Let the manifest agree with a file that was changed."""
    path = directory / "manifest.json"
    data = json.loads(path.read_text())
    data["files"][name] = digest((directory / name).read_bytes())
    path.write_text(json.dumps(sealed.seal(MANIFEST, data)))


@pytest.mark.studies
def test_what_was_built_is_verified_and_further_checks_see_every_model(built, monkeypatch):
    seen = []
    monkeypatch.setattr(verify, "CHECKS", [seen.append])
    found = verify.verify(built, workers=1)
    manifest = read_manifest(built)
    assert found.programs == 3
    assert found.models == len(manifest.models) == len(seen)
    assert found.exact == sum(model.exact for model in manifest.models) < found.models
    assert found.files == len(manifest.files)
    assert found.tokens > 1000 * found.models
    for subject in seen:
        assert subject.dataset.program == subject.counterfactuals.program == subject.record.program
        assert (subject.folder / "circuit.json").exists()
        nodes = subject.model.program.graph.nodes
        names = {name for node in nodes for name in node.names}
        assert set(subject.counterfactuals.signals) == names


def test_changed_files_are_named_with_both_hashes(copied):
    name = "memory/flip_flop/gru/plain/circuit.json"
    expected = digest((copied / name).read_bytes())
    flip(copied / name)
    with pytest.raises(errors.HashError, match=name) as caught:
        verify.verify(copied, workers=1)
    assert f"expected {expected}, got {digest((copied / name).read_bytes())}" in str(caught.value)


def test_missing_files_are_named(copied):
    name = "memory/flip_flop/gru/plain/circuit.json"
    (copied / name).unlink()
    with pytest.raises(errors.MissingFileError, match=name):
        verify.verify(copied, workers=1)
    (copied / "manifest.json").unlink()
    with pytest.raises(errors.MissingFileError, match="manifest"):
        verify.verify(copied, workers=1)


def test_newer_and_foreign_files_are_refused(copied, tmp_path):
    path = copied / "manifest.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "version": 3}))
    with pytest.raises(errors.NewerSchemaError, match="version: expected 2 at most, got 3"):
        verify.verify(copied, workers=1)
    changed = json.dumps(sealed.seal(MANIFEST, {**data, "models": [{}]}))
    for text in ("{", "[]", '{"format": "other"}', json.dumps({**data, "seed": 2}), changed):
        path.write_text(text)
        with pytest.raises(errors.FormatError, match=r"manifest\.json"):
            read_manifest(copied)
    dataset = copied / "memory/flip_flop/dataset.safetensors"
    content = dataset.read_bytes()
    with pytest.raises(errors.FormatError, match="lsrl-counterfactuals"):
        datasets.read_counterfactuals(dataset)
    dataset.write_bytes(content.replace(b'\\"version\\": 1', b'\\"version\\": 2'))
    with pytest.raises(errors.NewerSchemaError, match="got 2"):
        datasets.read_dataset(dataset)
    dataset.write_bytes(content[:100])
    with pytest.raises(errors.FormatError, match="damaged"):
        datasets.read_dataset(dataset)
    with pytest.raises(OSError, match="nowhere"):
        datasets.read_dataset(tmp_path / "nowhere")


def test_a_model_that_differs_is_found(copied):
    """As its hash is right, only running it tells."""
    name = "memory/flip_flop/mamba/plain/model.safetensors"
    model = lsrl.load(copied / name)
    changed = {key: array.copy() for key, array in model.module.parameter_arrays().items()}
    changed["output_kernel"] *= 2
    model.module.replace_parameters(changed)
    model.save(copied / name)
    restamp(copied, name)
    with pytest.raises(errors.ModelDifferenceError, match="flip_flop/mamba/plain, train: sequence"):
        verify.verify(copied, workers=1)


@pytest.mark.studies
def test_a_weight_that_differs_is_found(copied):
    """One entry of a hidden layer, by one part in eight."""
    name = "memory/flip_flop/gru/plain/model.safetensors"
    model = lsrl.load(copied / name)
    kernels = {k: a.copy() for k, a in model.module.parameter_arrays().items() if "dense_i" in k}
    kernel = next(a for a in kernels.values() if a.ndim == 2)
    place = np.unravel_index(
        np.abs(np.where(np.abs(kernel) < 16, kernel, 0)).argmax(), kernel.shape
    )
    kernel[place] *= 1.125
    model.module.replace_parameters(kernels)
    model.save(copied / name)
    restamp(copied, name)
    with pytest.raises(errors.ModelDifferenceError, match="flip_flop/gru/plain"):
        verify.verify(copied, workers=1)


@pytest.mark.studies
def test_a_network_that_is_right_less_often_than_its_card_says_is_found(tmp_path):
    """A soft one: no bound is certified, and what was measured is checked."""
    agreement = "agreement of interchanges"
    (program,) = programs(["flip_flop"])
    dataset = sampling.make_dataset(program, 0, SMALL)
    pairs = sampling.make_counterfactuals(program, 0, pairs=2, candidates=32)
    plain = lsrl.compile(program.program(), "gru", inspectable=True)
    model = lsrl.interpret.variants.soft(plain)
    record = ModelRecord(
        "flip_flop", "memory", "gru", "soft", "memory/flip_flop/gru/soft", False, None,
        1, 1, 1, 1, {"accuracy": model.card.measured.accuracy, agreement: 1.0},
    )  # fmt: skip
    subject = verify.Subject(model, record, tmp_path, dataset, pairs)
    train = dataset.splits["train"]
    assert verify.check_outputs(subject) == train.outputs[..., 0].size
    verify.check_causes(subject)
    arrays = model.module.parameter_arrays()
    model.module.replace_parameters({"output_kernel": arrays["output_kernel"] * 2})
    with pytest.raises(errors.ModelDifferenceError, match=r"soft: the card says that 100\.0%"):
        verify.check_outputs(subject)
    with pytest.raises(errors.ModelDifferenceError, match=r"100\.0% of the interchanges agree"):
        verify.check_causes(subject)
    # Of a card that says nothing of them, nothing is asked.
    silent = dataclasses.replace(record, measured={})
    verify.check_causes(dataclasses.replace(subject, record=silent))


@pytest.mark.studies
@pytest.mark.parametrize("what", ["weight", "lost", "channel"])
def test_a_circuit_that_differs_from_its_model_is_found(what, copied):
    name = "memory/flip_flop/gru/plain/circuit.json"
    data = json.loads((copied / name).read_text())
    if what == "weight":
        data["edges"][1]["weight"] *= 2
    elif what == "lost":
        del data["edges"][-1]
    else:
        data["channels"][-1]["offset"] += 1
    (copied / name).write_text(json.dumps(sealed.seal(FORM, data)))
    restamp(copied, name)
    expected = "the circuit of the model" if what == "channel" else "expected the edge .* got"
    with pytest.raises(errors.ModelDifferenceError, match=f"circuit.json: .*{expected}"):
        verify.verify(copied, workers=1)


@pytest.mark.parametrize("part", ["outputs", "signals/ones"])
def test_a_dataset_that_differs_is_found(copied, part):
    name = "counting/majority/dataset.safetensors"
    dataset = datasets.read_dataset(copied / name)
    split = dataset.splits["validation"]
    (split.outputs if part == "outputs" else split.signals["ones"])[2, 5] += 1
    (copied / name).write_bytes(datasets.dataset_bytes(dataset))
    restamp(copied, name)
    with pytest.raises(
        errors.ModelDifferenceError, match=r"majority, validation.*sequence 2, token 5"
    ):
        verify.verify(copied, workers=1)


# ---------------------------------------------------------------- the held-back set


@pytest.mark.studies
def test_held_back_programs_tell_nothing(tmp_path):
    """What is not under held_back_labels has neither operations nor signals."""
    built = tmp_path
    build(built, programs=[], targets=["gru"], variants=["plain"], held_back_programs=1, workers=1)
    assert verify.verify(built, workers=1).models == 1
    (record,) = [row for row in read_manifest(built).programs if row.held_back]
    assert record.signals == ()
    assert not record.settings
    shown = {name: content for name, content in contents(built).items() if record.name in name}
    shown = {name: content for name, content in shown.items() if not name.startswith("held_back_l")}
    assert {Path(name).name for name in shown} == {
        "dataset.safetensors", "unit.json", "weights.safetensors"
    }  # fmt: skip
    for name, content in shown.items():
        for word in (b"affine", b"relu", b"linear", b"signals/", b"s0"):
            assert word not in content.replace(b"linear_rnn", b""), name
    labels = built / "held_back_labels" / record.name
    weights = load_arrays(
        (built / f"held_back/{record.name}/gru/plain/weights.safetensors").read_bytes()
    )
    model = lsrl.load(labels / "gru/plain/model.safetensors")
    assert set(weights) == set(model.module.parameter_arrays())
    names = json.loads((labels / "names.json").read_text())["names"]
    dataset = datasets.read_dataset(labels / "dataset.safetensors")
    assert list(dataset.splits["train"].signals) == list(names)
    assert [name for name in names if name not in dataset.splits["train"].inputs] == [
        f"s{number}" for number in range(len(names) - len(dataset.splits["train"].inputs))
    ]


@pytest.mark.studies
def test_held_back_programs_follow_from_their_seed():
    first, again, other = held_back(11, 3), held_back(11, 3), held_back(12, 3)
    assert first == again != other
    assert held_back(11, 2) == first[:2]
    for program in first:
        neutral, generated = program.program(), program.generated()
        assert neutral.name == program.name
        inputs = program.sample(neutral, np.random.default_rng(0), 12)
        np.testing.assert_array_equal(neutral.run(*inputs), generated.run(*inputs))
        assert all("_" in name for name in list(program.names().values())[len(inputs) :])


# ---------------------------------------------------------------- bad input and the command line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"programs": ["majorty"]}, "did you mean 'majority'"),
        ({"targets": ["lstn"]}, "did you mean 'lstm'"),
        ({"variants": ["plane"]}, "did you mean 'plain'"),
        ({"seed": -1}, "seed must be an int >= 0, got -1"),
        ({"workers": 0}, "workers must be an int >= 1, got 0"),
        ({"held_back_programs": -1}, "count of at least 0"),
    ],
)
def test_bad_arguments_are_named(settings, message, tmp_path):
    with pytest.raises(errors.InputError, match=message):
        build(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.studies
def test_the_command_line_builds_verifies_and_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["suite", *arguments], env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return result

    listed = run("list").stdout
    assert all(program.name in listed for program in SUITE)
    chosen = ["-p", "majority", "-t", "gru", "--variant", "plain"]
    out = run("build", "out", *chosen, "--workers", "1").stdout
    assert "1 models of 1 programs" in out
    assert "1 models of 1 programs hold" in run("verify", "out", "--workers", "1").stdout
    name = "counting/majority/gru/plain/circuit.json"
    flip(Path("out") / name)
    assert name in run("verify", "out", "--workers", "1", code=2).stderr
    restamp(Path("out"), name)
    dataset = datasets.read_dataset("out/counting/majority/dataset.safetensors")
    dataset.splits["train"].outputs[0, 0] += 1
    changed = Path("out/counting/majority/dataset.safetensors")
    changed.write_bytes(datasets.dataset_bytes(dataset))
    restamp(Path("out"), "counting/majority/dataset.safetensors")
    assert "differs" in run("verify", "out", "--workers", "1", code=1).stderr
    assert "did you mean" in run("build", "other", "-p", "majorty", code=2).stderr


@pytest.mark.nightly
def test_the_whole_suite_builds_and_verifies(tmp_path):
    manifest = build(tmp_path, held_back_programs=10)
    assert len([model for model in manifest.models if not model.program.startswith("held")]) >= 400
    assert verify.verify(tmp_path).models == len(manifest.models)
