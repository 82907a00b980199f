"""States: a part of a sequence goes on where another left off, in memory or from a file."""

import copy
import json
import os

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import lsrl
from lsrl import Token, Vector, storage
from lsrl.errors import FormatError, InputError
from lsrl.model import Alteration
from lsrl.state import State
from tests.grids import studied

pytestmark = pytest.mark.one_in(2)

TARGETS = (
    "linear_rnn", "gated_linear_rnn", "rnn", "rnn_tanh", "lstm", "gru", "mamba", "griffin",
)  # fmt: skip
NEWER = ("mamba2", "deltanet")


@lsrl.program(max_length=40)
def balance(x: Token(3)) -> Token(3):
    """How many more ones than twos there were a token ago, at most two."""
    return lsrl.clip(lsrl.delay(lsrl.cumsum(x == 1) - lsrl.cumsum(x == 2)), 0, 2)


@lsrl.program(max_length=9)
def same_symbol(x: Token(3)) -> Token(3):
    return x


IDS = np.random.default_rng(0).integers(0, 3, (3, 24))


@pytest.fixture(scope="module", params=[*TARGETS, *studied(NEWER)])
def model(request):
    return lsrl.compile(balance, request.param)


@pytest.fixture(scope="module")
def linear():
    return lsrl.compile(balance, "linear_rnn")


def same(one, other):
    """Equal numbers in equal trees; a sum may end at -0.0 in one way of running."""
    assert (one.position, one.batch) == (other.position, other.batch)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(*map(jax.tree.leaves, (one.hidden, other.hidden)), strict=True):
        np.testing.assert_array_equal(left, right, strict=True)


def test_parts_are_the_whole(model, tmp_path):
    ids = IDS[:, :12]
    whole, last = model.run(ids, return_state=True)
    assert whole.tobytes() == balance.run(ids).astype(np.float32).tobytes()
    first, state = model.run(ids[:, :5], return_state=True)
    stepped = model.init_state(batch=3)
    for t in range(5):
        output, stepped = model.step(stepped, ids[:, t])
        assert output.tobytes() == first[:, t].tobytes()
    same(state, stepped)
    model.save_state(state, tmp_path / "state")
    state = model.load_state(tmp_path / "state")
    same(state, stepped)
    rest, after = model.run(ids[:, 5:], state=state, return_state=True)
    assert np.concatenate([first, rest], axis=1).tobytes() == whole.tobytes()
    same(after, last)
    expected = model.generate(ids, 6)
    np.testing.assert_array_equal(model.generate(ids[:, 5:], 6, state=stepped), expected)


def in_parts(model, inputs, sizes, **options):
    state, start, parts = None, 0, []
    for size in sizes:
        part = tuple(array[:, start : start + size] for array in inputs)
        output, state = model.run(*part, state=state, return_state=True, **options)
        parts.append(output)
        start += size
    return np.concatenate(parts, axis=1), state


def test_parts_of_any_size_are_the_whole():
    @lsrl.program(max_length=300)
    def mixed(v: Vector(2, low=-1, high=1, step=0.25), x: Token(4)):
        turned = lsrl.linear_state(lsrl.concat(x, 1), [[0, 1], [-1, 0]], initial=[3, 4])
        return lsrl.relu(lsrl.cumsum(v) - x), turned, lsrl.delay(v, 5, initial=2)

    random = np.random.default_rng(1)
    inputs = random.integers(-4, 5, (2, 300, 2)) / 4, random.integers(0, 4, (2, 300))
    model = lsrl.compile(mixed, "linear_rnn", dtype="float64")
    whole, last = model.run(*inputs, return_state=True)
    outputs, state = in_parts(model, inputs, (7, 129, 1, 163), chunk=100)
    assert outputs.tobytes() == whole.tobytes()
    same(state, last)


def test_one_sequence_goes_on_from_a_step(linear):
    one, state = linear.step(linear.init_state(), IDS[0, 0])
    rest, state = linear.run(IDS[0, 1:], state=state, return_state=True)
    assert (state.position, state.batch) == (24, None)
    assert np.concatenate([one[None], rest]).tobytes() == linear.run(IDS[0]).tobytes()


def test_a_network_without_layers_counts_tokens(tmp_path):
    compiled = lsrl.compile(same_symbol, "linear_rnn")
    arrays = compiled.module.arrays()
    bare = {name: array for name, array in arrays.items() if not name.startswith("layers.")}
    network = compiled.module.rebuilt(bare)
    model = compiled.altered(network, Alteration(compiled.circuit, None))
    outputs, state = in_parts(model, [IDS[:, :8]], (3, 5))
    np.testing.assert_array_equal(outputs[..., 0], IDS[:, :8])
    model.save_state(state, tmp_path / "state")
    state = model.load_state(tmp_path / "state")
    assert model.step(state, IDS[:, 8])[1].position == 9


def test_positions_count_on(linear):
    _, state = linear.run(IDS[0], return_state=True)
    assert linear.run(IDS[0, :16], state=state).shape == (16, 1)
    with pytest.raises(InputError, match=r"run: after 24 tokens, 17 .* max_length=40"):
        linear.run(IDS[0, :17], state=state)
    with pytest.raises(
        InputError, match=r"generate: after 24 tokens, 10 \+ 8 tokens exceed max_length=40"
    ):
        linear.generate(IDS[0, :10], 8, state=state)


MISUSE = {
    "a batch for one": (lambda m, s: m.run(IDS, state=s), "one sequence without .* a batch of 3"),
    "one for a batch": (lambda m, s: m.run(IDS[0], state=m.init_state(2)), "batch of 2, .* one"),
    "no state": (lambda m, s: m.run(IDS[0], state=s.hidden), "expected a state .* got tuple"),
    "of another model": (
        lambda m, s: lsrl.compile(balance, "lstm").run(IDS[0], state=s),
        "run: the state is of another model: expected arrays .*, got .*'float32', ",
    ),
    "checked": (lambda m, s: m.run(IDS[0], state=s, check=True), "check=True .* whole sequences"),
}  # fmt: skip


@pytest.mark.parametrize(("use", "text"), MISUSE.values(), ids=MISUSE)
def test_what_a_state_is_not_for(linear, use, text):
    _, state = linear.run(IDS[0, :3], return_state=True)
    with pytest.raises(InputError, match=text):
        use(linear, state)


def test_a_state_is_a_pytree(linear):
    _, state = linear.run(IDS, return_state=True)
    network, ids = linear.module, IDS[:, 0].astype(np.int32)

    @jax.jit
    def forward(parameters, state):
        outputs, hidden = network.pure_step(parameters, network.structure, state.hidden, (ids,))
        return outputs, State(state.position + 1, hidden, state.batch)

    with linear.device_mode():
        outputs, after = forward(network.parameters(), state)
    expected, stepped = linear.step(state, ids)
    np.testing.assert_array_equal(outputs, expected)
    same(after, stepped)
    copied = jax.tree.map(np.asarray, state)
    np.testing.assert_array_equal(linear.step(copied, ids)[0], expected)


def forged(path, change):
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["lsrl"].partition(" ")[2])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, arrays)
    text = json.dumps(header)
    save_file(arrays, path, {"lsrl": f"{storage._checksum(text, arrays)} {text}"})


FORGED = {
    "newer": (lambda h, a: h.update(version=2), "got version 2; read it with a newer LSRL"),
    "array gone": (lambda h, a: a.pop("0"), "arrays"),
    "array cut": (lambda h, a: a.update({"0": a["0"][:1]}), "0 has shape"),
    "before the start": (
        lambda h, a: h.update(position=-1),
        "position: expected an int >= 0, got -1",
    ),
    "no position": (lambda h, a: h.update(position="7"), "header can't be read"),
    "no batch": (lambda h, a: h.update(batch=0), "int >= 1"),
}


@pytest.mark.parametrize(("change", "text"), FORGED.values(), ids=FORGED)
def test_a_file_that_holds_no_state(linear, tmp_path, change, text):
    path = tmp_path / "state"
    linear.save_state(linear.init_state(2), path)
    forged(path, change)
    message = f"state: expected a state .*{text}.*(; |or )save it again"
    with pytest.raises(FormatError, match=message):
        linear.load_state(path)


def test_files_that_are_damaged_or_of_another_model(linear, tmp_path):
    path = tmp_path / "state"
    linear.save_state(linear.run(IDS, return_state=True)[1], path)
    lsrl.load(_model_file(linear, tmp_path)).load_state(path)
    others = {
        "program": lsrl.compile(same_symbol, "linear_rnn"),
        "target": lsrl.compile(balance, "gru"),
        "dtype": lsrl.compile(balance, "linear_rnn", dtype="float64"),
        "options": lsrl.compile(balance, "linear_rnn", inspectable=True),
    }
    changed = others["weights"] = lsrl.compile(balance, "linear_rnn")
    changed.module.replace_parameters({"output_bias": np.ones(1)})
    for what, other in others.items():
        with pytest.raises(FormatError, match=f"another model, whose {what} is .* load it with"):
            other.load_state(path)
    with pytest.raises(FormatError, match="a file of the format lsrl-state; save it again"):
        lsrl.load(path)
    content = path.read_bytes()
    for damaged in (content[:-5], content[:-1] + bytes([content[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"expected a state saved by model\.save_state"):
            linear.load_state(path)
    with pytest.raises(FormatError, match="a file of the format lsrl-model"):
        linear.load_state(tmp_path / "model.lsrl")
    with pytest.raises(InputError, match="save_state: the state is of another model"):
        linear.save_state(others["target"].init_state(), path)
    assert sorted(os.listdir(tmp_path)) == ["model.lsrl", "state"]


def _model_file(model, folder):
    path = folder / "model.lsrl"
    model.save(path)
    return path


def test_a_step_sees_what_was_changed_since_the_last():
    model = lsrl.compile(same_symbol, "mamba")
    _, first = model.step(model.init_state(), 1)
    row, state = model.step(first, 2)
    assert row.tolist() == [2.0]
    # Arrays in place of those that the step gave, and those back.
    held = state.hidden["position"]
    state.hidden["position"] = np.zeros(1)
    with pytest.raises(InputError, match="state is of another model"):
        model.step(state, 2)
    state.hidden["position"] = held
    assert model.step(state, 1)[0].tolist() == [1.0]
    # Weights, of the network or another network.
    row, state = model.step(first, 2)
    compiled, kernel = model.module, model.module.output_kernel
    compiled.output_kernel = kernel.get_value() * 2
    row, state = model.step(state, 2)
    assert row.tolist() == [4.0]
    model.module = compiled.rebuilt(compiled.arrays() | {"output_kernel": 3 * np.asarray(kernel)})
    row, state = model.step(state, 2)
    assert row.tolist() == [6.0]
    with pytest.raises(InputError, match="runs exact models alone"):
        model.step(state, 2, runner="events")
    compiled.output_kernel, model.module = kernel, compiled
    assert model.step(state, 1)[0].tolist() == [1.0]
    # A copy has weights of its own.
    _, state = model.step(first, 2)
    other = copy.deepcopy(model)
    other.module.output_kernel = other.module.output_kernel.get_value() * 2
    assert other.step(state, 1)[0].tolist() == [2.0]
    assert model.step(state, 1)[0].tolist() == [1.0]
