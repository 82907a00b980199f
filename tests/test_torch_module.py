"""Loaded modules are as any of torch: exported, compiled, mapped, trained, saved and hooked."""

import io
import subprocess
import sys

import numpy as np
import pytest

import lsrl
from lsrl import interpret
from lsrl.errors import InputError, PrecisionError, UnsupportedOpError
from lsrl.interpret import variants
from lsrl.programs import catalogue
from lsrl.testing.verification import sample_inputs
from tests.grids import studied, thinned

pytestmark = pytest.mark.one_in(5)

torch = pytest.importorskip("torch")

CELLS = ("rnn", "lstm", "gru")
TARGETS = ("rnn", "rnn_tanh", "lstm", "gru", "linear_rnn", "gated_linear_rnn")
# The linear layers have the operator in common with the cells, and a step of their own.
KINDS = studied((*CELLS, "gated_linear_rnn"), "lstm", "gated_linear_rnn")


@pytest.fixture(autouse=True)
def _one_thread():
    """The tests share their machine, and the networks are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@lsrl.program(max_length=12)
def gated(a: lsrl.Token(3), x: lsrl.Vector(1, low=-1, high=1, step=0.5)):
    first = lsrl.relu(lsrl.cumsum(a) - 3)
    kept = (a > 1) * first + x[0]
    return lsrl.relu(lsrl.delay(kept, 1) + x[0] - 1), kept


@pytest.fixture
def module(kind, tmp_path):
    """A module with two inputs and several layers, whose weights are no special numbers."""
    found = in_torch(lsrl.compile(gated, kind), tmp_path / "model")
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in found.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=random))
    return found


def in_torch(model, folder, **options):
    model.export("torch", folder, **options)
    return lsrl.load_torch(folder)


def inputs_of(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 3, shape, generator=random)
    return ids, torch.randint(-2, 3, (*shape, 1), generator=random) / 2


def parameters_of(module):
    return {name: value.detach() for name, value in module.named_parameters()}


def loss_of(module, parameters, *inputs):
    outputs = torch.func.functional_call(module, parameters, inputs)
    return (outputs * torch.arange(1.0, 3.0)).sum()


def dynamic():
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}
    return {"dynamic_shapes": ((axes, axes),)}


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_have_dynamic_batch_and_time(kind, module, tmp_path):
    graph = torch.export.export(module, inputs_of(2, 6), **dynamic())
    path = tmp_path / "graph.pt2"
    torch.export.save(graph, path)
    loaded = torch.export.load(path).module()
    for shape in ((2, 6), (5, 11), (3, 40)):
        inputs = inputs_of(*shape, seed=1)
        assert torch.equal(graph.module()(*inputs), module(*inputs))
        assert torch.equal(loaded(*inputs), module(*inputs))
    # And it is trained as the module is.
    inputs = inputs_of(3, 7)
    for each in (module, loaded):
        (each(*inputs) * torch.arange(1.0, 3.0)).sum().backward()
    gradients = {name: value.grad for name, value in module.named_parameters()}
    assert all(torch.equal(v.grad, gradients[n]) for n, v in loaded.named_parameters())


@pytest.mark.studies
@pytest.mark.parametrize("kind", ["gru"])
def test_graphs_run_elsewhere_with_one_import(kind, module, tmp_path):
    inputs = inputs_of(3, 9)
    torch.export.save(torch.export.export(module, inputs_of(2, 6), **dynamic()), tmp_path / "g.pt2")
    torch.save((inputs, module(*inputs)), tmp_path / "values.pt")
    code = (
        "import torch{0}\n"
        "inputs, expected = torch.load('values.pt')\n"
        "print(torch.equal(torch.export.load('g.pt2').module()(*inputs), expected))"
    )
    for imported, good in ((", lsrl.torch_module", True), ("", False)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(imported)],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.stdout == "True\n") == good, done.stderr


@pytest.mark.parametrize("backend", studied(["inductor", "aot_eager"], "aot_eager"))
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_without_a_break(kind, backend, module):
    compiled = torch.compile(module, fullgraph=True, backend=backend, dynamic=True)
    for shape in ((2, 6), (3, 9)):
        inputs = inputs_of(*shape)
        found = []
        for each in (module, compiled):
            module.zero_grad()
            outputs = each(*inputs)
            outputs.square().sum().backward()
            found.append([outputs.detach(), *(value.grad for value in module.parameters())])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize("kind", KINDS)
def test_mapped_over_inputs_and_weights(kind, module):
    ids, x = inputs_of(4, 2, 6)
    rows = [module(*row) for row in zip(ids, x, strict=True)]
    torch.testing.assert_close(torch.vmap(module)(ids, x), torch.stack(rows))
    by_last = torch.vmap(module, in_dims=(None, 2))(ids[0], x.movedim(0, 2))
    expected = torch.stack([module(ids[0], row) for row in x])
    torch.testing.assert_close(by_last, expected)

    many = {name: torch.stack([v, 2 * v]) for name, v in parameters_of(module).items()}
    one = [{name: v[k] for name, v in many.items()} for k in range(2)]
    got = torch.vmap(lambda each: torch.func.functional_call(module, each, (ids[0], x[0])))(many)
    for k in range(2):
        torch.testing.assert_close(
            got[k], torch.func.functional_call(module, one[k], (ids[0], x[0]))
        )
    assert not torch.equal(got[0], got[1])

    def gradients(parameters, *inputs):
        return torch.func.grad(lambda p: loss_of(module, p, *inputs))(parameters)

    single = parameters_of(module)
    by_sample = torch.vmap(gradients, in_dims=(None, 0, 0))(single, ids, x)
    for k in range(4):
        for name, value in gradients(single, ids[k], x[k]).items():
            torch.testing.assert_close(by_sample[name][k], value)


@pytest.mark.parametrize("kind", [*CELLS, "rnn_tanh"])
def test_gradients_are_the_stock_modules(kind, module):
    config = module.config["modules"]["recurrent"]
    stock = getattr(torch.nn, config["class"])(**config["arguments"])
    stock.load_state_dict(module.recurrent.state_dict())
    random = torch.Generator().manual_seed(1)
    features = torch.randn(3, 7, config["arguments"]["input_size"], generator=random)
    found = []
    for each in (stock, module.recurrent):
        given = features.clone().requires_grad_()
        outputs = each(given)
        hidden = outputs[0] if isinstance(outputs, tuple) else outputs
        hidden.square().sum().backward()
        gradients = {name: value.grad for name, value in each.named_parameters()}
        found.append({"outputs": hidden, "inputs": given.grad, **gradients})
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
    with torch.no_grad():
        assert torch.equal(module.recurrent(features), stock(features)[0])


@pytest.mark.parametrize("kind", ["gated_linear_rnn"])
def test_gradients_of_linear_layers_are_those_of_differences(kind, module):
    module = module.double()
    ids, x = inputs_of(2, 4)
    names = list(parameters_of(module))

    def outputs(given, *values):
        return torch.func.functional_call(
            module, dict(zip(names, values, strict=True)), (ids, given)
        )

    values = [value.clone().requires_grad_() for value in parameters_of(module).values()]
    assert torch.autograd.gradcheck(outputs, (x.double().requires_grad_(), *values), fast_mode=True)


@pytest.mark.parametrize("kind", ["LSTM", "linear"])
def test_the_operator_keeps_to_its_rules(kind):
    from lsrl.torch_module import Recurrent

    random = torch.Generator().manual_seed(1)
    shapes = [p.shape for p in Recurrent("LSTM", 3, 2, 1, torch.float32).parameters()]
    if kind == "linear":
        shapes = [(3, 2), (2, 2), (2,), (2,)]
    given = [torch.randn(s, generator=random).requires_grad_() for s in [(2, 4, 3), *shapes]]
    operator = torch.ops.lsrl.recurrence
    checks = torch.library.opcheck(
        operator, (given[0], given[1:], kind, False), raise_exception=True
    )
    assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize("kind", ["gru"])
def test_second_derivatives_are_refused(kind, module):
    ids, x = inputs_of(2, 4)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(module(ids, x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_as_a_whole_and_made_without_memory(kind, module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    inputs = inputs_of(2, 6)
    assert type(again) is type(module)
    assert torch.equal(again(*inputs), module(*inputs))

    with torch.device("meta"):
        empty = type(module)(module.config)
    for meta in (empty, again.to("meta")):
        assert all(value.is_meta for value in [*meta.parameters(), *meta.buffers()])
        # There are no numbers to look at, so none are copied.
        outputs = meta(*(value.to("meta") for value in inputs))
        assert (outputs.device.type, outputs.shape) == ("meta", (2, 6, 2))


# ---------------------------------------------------------------- hooks


def assert_hooks_show_the_circuit(model, module, inputs):
    seen = {}
    for number in range(model.num_layers + 1):
        module.layer(number).register_forward_hook(
            lambda _module, _inputs, output, number=number: seen.update({number: output})
        )
    with torch.no_grad():
        outputs = module.run(*inputs)
    expected = interpret.activations(model, *inputs)
    allowed = 0.0 if model.certificate.exact else 1e-4
    np.testing.assert_allclose(
        outputs.double(), model.run(*inputs).astype(float), rtol=allowed, atol=allowed
    )
    assert len(seen) == len(expected)
    for number, ours in enumerate(expected):
        theirs = seen[number].double().numpy()
        units = ours.shape[-1]
        np.testing.assert_allclose(theirs[..., :units], ours, rtol=allowed, atol=allowed)
        assert not theirs[..., units:].any()
    with pytest.raises(InputError, match=f"from 0 to {model.num_layers}, got -1"):
        module.layer(-1)


@pytest.mark.parametrize(
    ("name", "target", "layers"),
    thinned(
        [
            pytest.param(name, target, layers, id=f"{name}-{target}-{layers}")
            for name in catalogue()
            for target in TARGETS
            for layers in ("stacked", "separate")
        ],
        48,
        later=12,
    ),
)
def test_hooks_show_what_the_circuit_holds(name, target, layers, tmp_path):
    entry = catalogue()[name]
    parameters = entry.parameters[0]
    try:
        model = lsrl.compile(entry.program(**parameters), target)
    except (UnsupportedOpError, PrecisionError):
        pytest.skip("the target can't hold it")
    module = in_torch(model, tmp_path / "model", layers=layers)
    assert_hooks_show_the_circuit(
        model, module, entry.sample(np.random.default_rng(1), 20, **parameters)
    )


@pytest.mark.parametrize("layers", ["stacked", "separate"])
@pytest.mark.parametrize("target", studied(TARGETS, "gated_linear_rnn", "gru"))
def test_altered_networks_are_exported_as_they_are(target, layers, tmp_path):
    model = variants.permuted(lsrl.compile(gated, target, inspectable=True), seed=1)
    module = in_torch(model, tmp_path / "model", layers=layers)
    assert_hooks_show_the_circuit(model, module, sample_inputs(gated.inputs, 2, 12, seed=0))
