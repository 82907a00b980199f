"""The export to torch: the same weights in torch's modules give equal outputs.

What torch does with a loaded module besides is in test_torch_module.py.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import lsrl
from lsrl import interpret, torch_folder
from lsrl.errors import FormatError, InputError, PrecisionError, UnsupportedOpError
from lsrl.programs import catalogue
from lsrl.testing.verification import sample_inputs
from tests.grids import thinned

pytestmark = pytest.mark.one_in(3)

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[1]
CELLS = ("rnn", "rnn_tanh", "lstm", "gru")
LINEAR = ("linear_rnn", "gated_linear_rnn")
TARGETS = CELLS + LINEAR
# docs/exports.md shows these lines; they run without LSRL.
PLAIN_TORCH = """\
import json, torch
from safetensors.torch import load_file
parts = json.load(open("majority/config.json"))["modules"].items()
model = torch.nn.ModuleDict({name: getattr(torch.nn, part["class"])(**part["arguments"]) for name, part in parts})
model.load_state_dict(load_file("majority/weights.safetensors"), assign=True)
print(model["output"](model["recurrent"](model["input_0"](torch.tensor([[1, 0, 1, 1]])))[0]).tolist())
"""  # noqa: E501


@pytest.fixture(autouse=True)
def _one_thread():
    """The tests share their machine, and the networks are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def exported(tmp_path):
    """A folder with an LSTM that counts majorities."""
    lsrl.compile(lsrl.programs.majority(), "lstm").export("torch", tmp_path / "majority")
    return tmp_path / "majority"


def in_torch(model, folder, **options):
    model.export("torch", folder, **options)
    return lsrl.load_torch(folder)


def outputs_of(module, *inputs):
    """As numpy has them; numpy has no bfloat16, and float64 holds all others."""
    with torch.no_grad():
        outputs = module.run(*inputs)
    assert str(outputs.dtype) == f"torch.{module.config['dtype']}"
    return outputs.double().numpy()


# ---------------------------------------------------------------- equal outputs


def assert_equals_its_reference(target, entry, parameters, dtype, folder):
    program = entry.program(**parameters)
    try:
        model = lsrl.compile(program, target, dtype=dtype)
    except (UnsupportedOpError, PrecisionError):
        pytest.skip("the target can't hold it")
    exact = model.certificate.exact
    allowed = 0.0 if exact else model.certificate.error_bound + entry.tolerance
    module = in_torch(model, folder)
    random = np.random.default_rng(2)
    cases = [*(entry.sample(random, 40, **parameters) for _ in range(3)),
             *entry.extremes(**parameters)]  # fmt: skip
    by_length = defaultdict(list)
    for inputs in cases:
        by_length[len(inputs[0])].append(inputs)
    for same in by_length.values():
        batch = [np.stack(arrays) for arrays in zip(*same, strict=True)]
        expected = np.stack([entry.expected(inputs, **parameters) for inputs in same])
        got = outputs_of(module, *batch)
        if exact and not entry.tolerance:
            np.testing.assert_array_equal(got, expected)
        else:
            np.testing.assert_array_less(np.abs(got - expected), allowed + 2**-1000)


@pytest.mark.parametrize(
    ("name", "target", "dtype"),
    thinned(
        [
            pytest.param(name, target, dtype, id=f"{name}-{target}-{dtype}")
            for name in catalogue()
            for target in TARGETS
            for dtype in ("float32", "float64")
        ],
        12,
        later=4,
    ),
)
def test_program_equals_its_reference(target, name, dtype, tmp_path):
    entry = catalogue()[name]
    assert_equals_its_reference(target, entry, entry.parameters[0], dtype, tmp_path / "model")


@pytest.mark.nightly
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("entry", "parameters"),
    [
        pytest.param(entry, parameters, id=f"{name}-{number}")
        for name, entry in catalogue().items()
        for number, parameters in enumerate(entry.parameters)
    ],
)
def test_program_with_other_parameters(target, entry, parameters, dtype, tmp_path):
    assert_equals_its_reference(target, entry, parameters, dtype, tmp_path / "model")


@pytest.mark.studies
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["majority", "flip_flop"])
def test_equals_the_model_on_1000_sequences_of_1000_tokens(target, name, dtype, tmp_path):
    program = catalogue()[name].program(max_length=1000)
    try:
        model = lsrl.compile(program, target, dtype=dtype)
    except UnsupportedOpError:
        pytest.skip("the target can't hold it")
    assert model.certificate.exact
    inputs = sample_inputs(program.inputs, 1000, 1000, seed=5)
    got = outputs_of(in_torch(model, tmp_path / "model"), *inputs)
    assert got.shape == (1000, 1000, 1)
    np.testing.assert_array_equal(got, model.run(*inputs).astype(np.float64))
    np.testing.assert_array_equal(got[:3], program.run(*(array[:3] for array in inputs)))


@pytest.mark.parametrize("target", TARGETS)
def test_bfloat16_is_exact_where_the_certificate_says_so(target, tmp_path):
    program = lsrl.programs.flip_flop() if target in CELLS else lsrl.programs.counter_mod(3, 300)
    model = lsrl.compile(program, target, dtype="bfloat16")
    assert model.certificate.exact
    (ids,) = sample_inputs(program.inputs, 5, 300, seed=1)
    got = outputs_of(in_torch(model, tmp_path / "model"), ids)
    np.testing.assert_array_equal(got, program.run(ids))


@pytest.mark.parametrize("target", CELLS)
def test_a_shut_gate_keeps_every_bit(target, tmp_path):
    """torch's GRU has h = (h - n) z + n, so n must not lose bits while z keeps h."""

    @lsrl.program(max_length=50)
    def kept(x: lsrl.Vector(1, low=-(2**18), high=2**14, step=1), on: lsrl.Token(2)):
        return lsrl.relu(x), on * x

    model = lsrl.compile(kept, target, dtype="float64")
    assert model.certificate.exact
    # Values of all sizes, since bits are lost where h - n reaches the next power of two.
    random = np.random.default_rng(3)
    x = np.trunc(random.choice([-1, 1], (50, 50, 1)) * 2.0 ** random.uniform(0, 18, (50, 50, 1)))
    x, on = np.minimum(x, 2**14), random.integers(0, 2, (50, 50))
    got = outputs_of(in_torch(model, tmp_path / "model"), x, on)
    np.testing.assert_array_equal(got, kept.run(x, on))


# ---------------------------------------------------------------- what an export holds


def stock_and_tensors(folder):
    """What plain torch and safetensors make of a folder: modules by name, and all tensors."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "weights.safetensors")
    stock = torch.nn.ModuleDict({
        name: getattr(torch.nn, module["class"])(**module["arguments"])
        for name, module in config["modules"].items()
    })  # fmt: skip
    stock.load_state_dict(weights, strict=True, assign=True)
    return stock, weights


@lsrl.program(max_length=20)
def three_inputs(
    a: lsrl.Token(4), x: lsrl.Vector(2, low=-1, high=1, step=0.25), unread: lsrl.Token(3)
):
    total = lsrl.cumsum(a)
    return lsrl.relu(total + x - 3), lsrl.delay(x[0], 2), total > 4


@lsrl.program(max_length=20)
def no_input(unread: lsrl.Vector(3, low=0, high=1)):
    return lsrl.cycle(4) + 0 * unread[0]


@lsrl.program(max_length=12)
def two_layers(a: lsrl.Token(3), x: lsrl.Vector(1, low=-1, high=1, step=0.5)):
    first = lsrl.relu(lsrl.cumsum(a) - 3)
    return lsrl.relu(lsrl.delay(first, 1) + x[0] - 1), first


@pytest.mark.parametrize("program", [three_inputs, no_input], ids=lambda program: program.name)
@pytest.mark.parametrize("target", TARGETS)
def test_several_inputs_vectors_and_inputs_that_are_not_read(target, program, tmp_path):
    model = lsrl.compile(program, target)
    assert model.certificate.exact
    module = in_torch(model, tmp_path / "model")
    inputs = sample_inputs(program.inputs, 6, 20, seed=4)
    np.testing.assert_array_equal(outputs_of(module, *inputs), program.run(*inputs))
    kinds = {type(module.get_submodule(f"input_{n}")) for n in range(len(program.inputs))}
    assert all(issubclass(kind, torch.nn.Embedding | torch.nn.Linear) for kind in kinds)
    if target in CELLS:
        recurrent = module.config["modules"]["recurrent"]
        classes = {"rnn": "RNN", "rnn_tanh": "RNN", "lstm": "LSTM", "gru": "GRU"}
        assert recurrent["class"] == classes[target]
        assert recurrent["arguments"]["num_layers"] == model.num_layers
        assert recurrent["arguments"]["hidden_size"] == model.width


@pytest.mark.parametrize("target", CELLS)
def test_padded_units_stay_at_zero(target, tmp_path):
    model = lsrl.compile(lsrl.programs.tok2tok(1), target)
    units = [cell.hidden_features for cell in model.module.cells]
    assert min(units) < max(units)
    module = in_torch(model, tmp_path / "model")
    prompt = catalogue()["tok2tok"].sample(np.random.default_rng(0), 20, length=1)[0]
    stock, _ = stock_and_tensors(tmp_path / "model")
    with torch.no_grad():
        features = module.input_0(torch.tensor(prompt[None]))
        hidden, final = stock["recurrent"](features)
        assert torch.equal(module.recurrent(features), hidden)
    for state in final if target == "lstm" else (final,):
        for layer, width in enumerate(units):
            assert not state[layer, :, width:].any()


@pytest.mark.parametrize("target", CELLS)
def test_layers_of_their_own_run_and_are_hooked_in_plain_torch(target, tmp_path):
    model = lsrl.compile(two_layers, target)
    module = in_torch(model, tmp_path / "model", layers="separate")
    stock, _ = stock_and_tensors(tmp_path / "model")
    assert [stock[f"layer_{k}"].hidden_size for k in range(1, model.num_layers + 1)] == [
        *model.circuit.units[1:]
    ]
    a, x = sample_inputs(two_layers.inputs, 1, 12, seed=3)
    with torch.no_grad():
        hidden = stock["input_0"](torch.tensor(a)) + stock["input_1"](torch.tensor(x).float())
        found = [hidden]
        for number in range(1, model.num_layers + 1):
            hidden, _ = stock[f"layer_{number}"](hidden)
            found.append(hidden)
        outputs = stock["output"](hidden)
    np.testing.assert_array_equal(outputs.numpy(), two_layers.run(a, x))
    np.testing.assert_array_equal(outputs_of(module, a, x), two_layers.run(a, x))
    for ours, theirs in zip(interpret.activations(model, a, x), found, strict=True):
        np.testing.assert_array_equal(theirs.numpy(), ours)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", CELLS)
def test_state_dicts_fit_the_stock_classes_and_back(target, dtype, tmp_path):
    model = lsrl.compile(three_inputs, target, dtype=dtype)
    module = in_torch(model, tmp_path / "model")
    stock, weights = stock_and_tensors(tmp_path / "model")
    assert {str(value.dtype) for value in weights.values()} == {f"torch.{dtype}"}
    stock["recurrent"].load_state_dict(module.recurrent.state_dict(), strict=True)
    inputs = [torch.tensor(x) for x in sample_inputs(three_inputs.inputs, 3, 20, seed=1)]
    with torch.no_grad():
        expected = module(*inputs)
        features = sum(
            stock[f"input_{n}"](x if x.dim() == 2 else x.to(expected.dtype))
            for n, x in enumerate(inputs)
        )
        assert torch.equal(stock["output"](stock["recurrent"](features)[0]), expected)
        for value in module.recurrent.parameters():
            value.zero_()
        module.recurrent.load_state_dict(stock["recurrent"].state_dict(), strict=True)
        assert torch.equal(module(*inputs), expected)


def test_config_says_what_the_export_is(exported):
    config = json.loads((exported / "config.json").read_text())
    model = lsrl.compile(lsrl.programs.majority(), "lstm")
    assert config["program"] == "majority"
    assert (config["target"], config["dtype"], config["max_length"]) == ("lstm", "float32", 1000)
    assert config["inputs"] == {"bit": {"token": 2}}
    assert config["output_token"] == 2
    assert config["labels"] == [list(layer) for layer in model.labels]
    assert config["certificate"] == str(model.certificate)
    assert config["lsrl"] == lsrl.__version__


def test_equal_models_are_exported_to_equal_bytes(exported, tmp_path):
    lsrl.compile(lsrl.programs.majority(), "lstm").export("torch", tmp_path / "again")
    for name in ("config.json", "weights.safetensors"):
        assert (exported / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_parameters_that_were_replaced_are_exported(tmp_path):
    model = lsrl.compile(lsrl.programs.majority(), "gru")
    bias = model.module.parameter_arrays()["output_bias"]
    model.module.replace_parameters({"output_bias": bias + 7})
    np.testing.assert_array_equal(
        outputs_of(in_torch(model, tmp_path / "model"), [1, 0]), [[8], [7]]
    )
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "not the compiled weights" in config["certificate"]


def test_plain_torch_runs_it_without_lsrl(exported):
    code = f"import sys; sys.modules['lsrl'] = None\n{PLAIN_TORCH}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=exported.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[[1.0], [0.0], [1.0], [1.0]]]


def test_the_page_shows_these_lines():
    assert PLAIN_TORCH in (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------- the loaded module


def test_run_takes_what_the_models_run_takes(tmp_path):
    model = lsrl.compile(three_inputs, "lstm")
    module = in_torch(model, tmp_path / "model")
    a, x, unread = sample_inputs(three_inputs.inputs, 4, 20, seed=0)
    expected = three_inputs.run(a, x, unread)
    given = {
        "arrays": (a, x, unread),
        "views": (a[:, ::-1][:, ::-1], x[:, ::-1][:, ::-1], unread),
        "tensors": (torch.tensor(a), torch.tensor(x), torch.tensor(unread)),
        "narrow tensors": (torch.tensor(a).byte(), torch.tensor(x).bfloat16(),
                           torch.tensor(unread).int()),
        "lists": (a.tolist(), x.tolist(), unread.tolist()),
    }  # fmt: skip
    for inputs in given.values():
        np.testing.assert_array_equal(outputs_of(module, *inputs), expected)
        single = outputs_of(module, *(value[0] for value in inputs))
        np.testing.assert_array_equal(single, expected[0])
    with torch.no_grad():
        for part in (slice(None), 0):
            got = module(*(value[part] for value in given["narrow tensors"]))
            np.testing.assert_array_equal(got.numpy(), expected[part])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (([0, 4], [[0.0, 0.0]] * 2, [0, 0]), r"'a'.*from 0 to 3.*got 4 at token 1"),
        (([0, 1], [[0.0, 0.0], [0.0, 1.25]], [0, 0]), r"'x'.*at most.*got 1\.25 at token 1"),
        (([0, 1], [[0.0, 0.0]], [0, 0]), "share their batch and time axes"),
        (([0] * 21, [[0.0, 0.0]] * 21, [0] * 21), "at most max_length=20 tokens"),
        (([0, 1],), r"expected 3 input\(s\)"),
    ],
)
def test_run_refuses_what_the_models_run_refuses(inputs, message, tmp_path):
    module = in_torch(lsrl.compile(three_inputs, "gru"), tmp_path / "model")
    with pytest.raises(InputError, match=message):
        module.run(*inputs)
    with pytest.raises(InputError, match=message):
        module.run(*(torch.tensor(value) for value in inputs))
    with pytest.raises(InputError, match=r"3 tensor\(s\).*module\.run takes lists"):
        module(*inputs)


@pytest.mark.parametrize("target", TARGETS)
def test_a_loaded_module_can_be_trained(target, tmp_path):
    model = lsrl.compile(three_inputs, target)
    module = in_torch(model, tmp_path / "model")
    inputs = sample_inputs(three_inputs.inputs, 4, 20, seed=0)
    x = torch.tensor(inputs[1], dtype=torch.float32, requires_grad=True)
    outputs = module.run(inputs[0], x, inputs[2])
    np.testing.assert_array_equal(outputs.detach().numpy(), three_inputs.run(*inputs))
    outputs.sum().backward()
    assert x.grad is not None
    gradients = {name: weight.grad for name, weight in module.named_parameters()}
    assert torch.equal(gradients["output.bias"], torch.full((4,), 80.0))


def test_loading_leaves_torch_as_it_was(exported):
    before = torch.get_rng_state()
    lsrl.load_torch(exported)
    assert torch.equal(before, torch.get_rng_state())


# ---------------------------------------------------------------- refusals and damage


def test_options_of_other_formats_are_refused(tmp_path):
    model = lsrl.compile(lsrl.programs.majority(), "gru")
    with pytest.raises(InputError, match=r"gru' has no format 'huggingface'.*mamba, .*griffin"):
        model.export("huggingface", tmp_path / "model")
    for format, meant in (("hf", "huggingface"), ("safetensors", "torch"), ("torhc", "torch")):
        with pytest.raises(InputError, match=f"{format}'.*view.*did you mean '{meant}'"):
            model.export(format, tmp_path / "model")
    for format, layers in (("torch", "apart"), ("huggingface", "separate")):
        with pytest.raises(InputError, match=f"'separate' with format 'torch', got.*{layers}"):
            model.export(format, tmp_path / "model", layers=layers)
    assert not any(tmp_path.iterdir())


def test_torch_is_an_extra(exported, monkeypatch, tmp_path):
    """Writing needs no torch; reading names the extra."""
    model = lsrl.compile(lsrl.programs.majority(), "lstm")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "lsrl.torch_module", raising=False)
    model.export("torch", tmp_path / "again")
    with pytest.raises(InputError, match=r"pip install 'lsrl\[torch\]'"):
        lsrl.load_torch(exported)


def rewrite(folder, **changes):
    """Change the config, and leave the checksum as it is."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def forge(folder, change):
    """Change the config, and the checksum with it."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    content = (folder / "weights.safetensors").read_bytes()
    file.write_text(json.dumps({**config, "checksum": torch_folder.checksum(config, content)}))


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


DAMAGE = {
    "cut weights": lambda folder: cut(folder / "weights.safetensors", -1),
    "no bytes of weights": lambda folder: cut(folder / "weights.safetensors", 0),
    "a bit of a weight": lambda folder: flip(folder / "weights.safetensors", -1),
    "a bit of the header": lambda folder: flip(folder / "weights.safetensors", 0),
    "no weights": lambda folder: (folder / "weights.safetensors").unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "cut config": lambda folder: cut(folder / "config.json", 100),
    "config of bytes": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
    "config is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "deep config": lambda folder: (folder / "config.json").write_text("[" * 100_000),
    "foreign config": lambda folder: rewrite(folder, format="something"),
    "newer version": lambda folder: rewrite(folder, version=3),
    "version of other modules": lambda folder: forge(
        folder, lambda config: config.update(version=2)
    ),
    "other length": lambda folder: rewrite(folder, max_length=2000),
    "other certificate": lambda folder: rewrite(folder, certificate="exact"),
    "other weights": lambda folder: shutil.copy(ROOT / "README.md", folder / "weights.safetensors"),
    "class that is no stock one": lambda folder: forge(
        folder, lambda config: config["modules"]["output"].update({"class": "Transformer"})
    ),
    "more layers": lambda folder: forge(
        folder, lambda config: config["modules"]["recurrent"]["arguments"].update(num_layers=2)
    ),
    "no modules": lambda folder: forge(folder, lambda config: config.pop("modules")),
    "inputs of no type": lambda folder: forge(
        folder, lambda config: config.update(inputs={"bit": {"token": 0}})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_refused(damage, exported):
    damage(exported)
    with pytest.raises(FormatError, match=r"expected a folder written by model\.export"):
        lsrl.load_torch(exported)


def test_what_is_no_export_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"no file config\.json"):
        lsrl.load_torch(tmp_path)
    (tmp_path / "file").write_text("{}")
    with pytest.raises(FormatError):
        lsrl.load_torch(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        lsrl.load_torch(tmp_path / "nothing")


# ---------------------------------------------------------------- whole or not at all


def contents(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_export_leaves_the_older_one(failing, exported, monkeypatch):
    before = contents(exported.parent)
    sync, calls = os.fsync, []

    def broken(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError("no space left")
        return sync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="no space left"):
        lsrl.compile(lsrl.programs.counter_mod(3), "gru").export("torch", exported)
    assert contents(exported.parent) == before
    assert list(exported.parent.iterdir()) == [exported]


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def broken(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="no space left"):
        lsrl.compile(lsrl.programs.counter_mod(3), "gru").export("torch", tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_only_exports_and_empty_folders_are_replaced(exported, tmp_path):
    model = lsrl.compile(lsrl.programs.counter_mod(3), "gru")
    model.export("torch", exported)
    assert lsrl.load_torch(exported).config["program"] == "counter_mod"
    (tmp_path / "empty").mkdir()
    model.export("torch", tmp_path / "empty")
    assert {path.name for path in tmp_path.iterdir()} == {"majority", "empty"}

    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (exported / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    for path in (tmp_path / "file", tmp_path / "folder", exported, tmp_path):
        with pytest.raises(FormatError, match="choose another path"):
            model.export("torch", path)
    assert contents(tmp_path) == before
    with pytest.raises(FileNotFoundError):
        model.export("torch", tmp_path / "no such folder" / "model")
