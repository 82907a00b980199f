"""The networks of the residual targets: equal to those of transformers, and exact where due."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsrl.backends.residual import griffin_network, network
from lsrl.backends.residual.griffin_network import INTEGRATOR, GriffinNetwork
from lsrl.backends.residual.mamba2_network import Mamba2Network
from lsrl.backends.residual.mamba_network import MambaNetwork
from lsrl.backends.residual.network import ResidualWeights, token_head
from lsrl.errors import SelfTestError, ShapeError
from tests.grids import studied

pytestmark = pytest.mark.one_in(3)

NETWORKS = {"mamba": MambaNetwork, "griffin": GriffinNetwork, "mamba2": Mamba2Network}
# The block of Mamba-2 is one more of the same kind.
KINDS = studied(list(NETWORKS), "mamba", "griffin")
TOKENS = 3000
SIZE = 2.0**40  # of the constant channel
FLAG = 64.0  # state of a latch for a value of 1
CAP = 2.0**20  # Griffin's soft cap on logits, too high to be felt


# ---------------------------------------------------------------- the reference


def reference(transformers, kind, weights):
    """The unmodified class with the weights of a network."""
    import torch

    block, symbols = weights.blocks[0], weights.tables[0].shape[0]
    common = {
        "vocab_size": symbols,
        "hidden_size": weights.final_norm.shape[0],
        "num_hidden_layers": len(weights.blocks),
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if kind == "mamba":
        inner, state = block["mixer.A_log"].shape
        config = transformers.MambaConfig(
            **common,
            state_size=state,
            expand=inner // weights.final_norm.shape[0],
            time_step_rank=block["mixer.dt_proj.weight"].shape[1],
            layer_norm_epsilon=weights.eps,
            use_cache=False,
        )
        model = transformers.MambaForCausalLM(config)
    elif kind == "mamba2":
        inner, mixed = len(block["mixer.D"]), len(block["mixer.conv1d.bias"])
        config = transformers.Mamba2Config(
            **common,
            state_size=(mixed - inner) // 2,
            expand=inner // weights.final_norm.shape[0],
            num_heads=inner,
            head_dim=1,
            n_groups=1,
            chunk_size=16,
            layer_norm_epsilon=weights.eps,
            use_cache=False,
        )
        model = transformers.Mamba2ForCausalLM(config)
    else:
        config = transformers.RecurrentGemmaConfig(
            **common,
            num_attention_heads=block["temporal_block.rg_lru.input_gate_bias"].shape[0],
            intermediate_size=2 * block["mlp_block.gate_proj.weight"].shape[0],
            block_types=["recurrent"],
            rms_norm_eps=weights.eps,
            logits_soft_cap=CAP,
            use_cache=False,
        )
        model = transformers.RecurrentGemmaForCausalLM(config)
    arrays = {
        name: torch.from_numpy(np.array(values))
        for name, values in NETWORKS[kind](weights).parameter_arrays().items()
        if name not in ("input_bias", "output_kernel")
    }
    head = token_head(weights.output_kernel, symbols).astype(np.float32)
    # Strict: every name, and no other.
    model.load_state_dict({**arrays, "lm_head.weight": torch.from_numpy(head)})
    return model.eval()


def logits_of(model, ids):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids.astype(np.int64))).logits.numpy()


# ---------------------------------------------------------------- random weights


def random_weights(kind, *, layers=3, width=16, symbols=7, heads=2, seed=0):
    """Weights of no meaning, of sizes that keep all activations busy."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return rng.normal(0, scale / np.sqrt(shape[-1]), shape)

    def mamba():
        inner, rank, state = 2 * width, 3, 2
        return {
            "norm.weight": rng.uniform(0.5, 1.5, width),
            "mixer.in_proj.weight": normal(2 * inner, width),
            "mixer.conv1d.weight": normal(inner, 1, 4),
            "mixer.conv1d.bias": normal(inner),
            "mixer.x_proj.weight": normal(rank + 2 * state, inner),
            "mixer.dt_proj.weight": normal(inner, rank),
            "mixer.dt_proj.bias": normal(inner),
            "mixer.A_log": normal(inner, state),
            "mixer.D": normal(inner),
            "mixer.out_proj.weight": normal(width, inner),
        }

    def mamba2():
        inner, mixed = 2 * width, 2 * width + 4
        return {
            "norm.weight": rng.uniform(0.5, 1.5, width),
            "mixer.in_proj.weight": normal(2 * inner + mixed, width),
            "mixer.conv1d.weight": normal(mixed, 1, 4),
            "mixer.conv1d.bias": normal(mixed),
            "mixer.dt_bias": normal(inner),
            # The class rounds sums of Δ A over a chunk.
            "mixer.A_log": rng.normal(-3, 1, inner),
            "mixer.D": rng.uniform(0.5, 1.5, inner),
            "mixer.norm.weight": rng.uniform(0.5, 1.5, inner),
            # Its norm makes large what is small, and how that was rounded.
            "mixer.out_proj.weight": normal(width, inner, scale=0.3),
        }

    def griffin():
        middle, size = 20, width // heads
        parts = {
            "temporal_pre_norm.weight": normal(width),
            "channel_pre_norm.weight": normal(width),
        }
        for name, shape in {
            "temporal_block.linear_y": (width, width),
            "temporal_block.linear_x": (width, width),
            "temporal_block.linear_out": (width, width),
            "temporal_block.conv_1d": (width, 1, 4),
            "mlp_block.gate_proj": (middle, width),
            "mlp_block.up_proj": (middle, width),
            "mlp_block.down_proj": (width, middle),
        }.items():
            parts[f"{name}.weight"], parts[f"{name}.bias"] = normal(*shape), normal(shape[0])
        for name in ("input_gate", "recurrent_gate"):
            parts[f"temporal_block.rg_lru.{name}_weight"] = normal(heads, size, size)
            parts[f"temporal_block.rg_lru.{name}_bias"] = normal(heads, size)
        parts["temporal_block.rg_lru.recurrent_param"] = rng.normal(-3, 1, width)
        return parts

    makers = {"mamba": mamba, "mamba2": mamba2, "griffin": griffin}
    return ResidualWeights(
        tables=(normal(symbols, width),),
        kernels=(None,),
        input_bias=np.zeros(width),
        blocks=tuple(makers[kind]() for _ in range(layers)),
        final_norm=rng.uniform(-0.5, 0.5, width) + (kind != "griffin"),
        output_kernel=normal(width, 2)[:, :1],
        embedding_scale=np.sqrt(width) if kind == "griffin" else 1.0,
        eps=1e-5,
    )


@pytest.fixture(scope="module")
def networks():
    return {kind: cls(random_weights(kind)) for kind, cls in NETWORKS.items()}


def steps(network, inputs):
    """Outputs (batch, time, outputs), token by token."""
    state, outputs = network.init_state(inputs[0].shape[:1]), []
    for t in range(inputs[0].shape[1]):
        output, state = network.step(state, tuple(x[:, t] for x in inputs))
        outputs.append(np.asarray(output))
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize("kind", KINDS)
class TestRandomWeights:
    ids = np.random.default_rng(1).integers(0, 7, (3, 40)).astype(np.int32)

    def test_logits_equal_the_reference(self, kind, networks, transformers):
        """Given equal weights, logits agree with the unmodified class of transformers."""
        expected = logits_of(reference(transformers, kind, random_weights(kind)), self.ids)

        got = networks[kind].logits((self.ids,), 7)

        assert got.shape == (3, 40, 7) and got.dtype == np.float32
        assert np.abs(got).max() > 1
        # 16 (2ky - k²) loses the bits of what it takes away, some hundreds, where it is near 0.
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())

    def test_steps_equal_the_run(self, kind, networks):
        network = networks[kind]
        whole = network.run((self.ids,))
        np.testing.assert_allclose(steps(network, (self.ids,)), whole, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("chunk", [1, 2, 7, 39, 64])
    def test_any_chunk_gives_the_same(self, kind, networks, chunk):
        network = networks[kind]
        got = network.run((self.ids,), chunk=chunk)
        np.testing.assert_allclose(got, network.run((self.ids,)), rtol=1e-5, atol=1e-6)

    def test_a_state_goes_on(self, kind, networks):
        """Given the state after a run, a step and a second run go on from there."""
        network = networks[kind]
        whole = network.run((self.ids,))

        head, state = network.run_with_state((self.ids[:, :17],))
        rest = network.run((self.ids[:, 17:],), state=state)
        output, after = network.step(state, (self.ids[:, 17],))

        np.testing.assert_allclose(
            np.concatenate([head, rest], axis=1), whole, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(output, whole[:, 17], rtol=1e-5, atol=1e-6)
        assert np.asarray(after["position"]).tolist() == [18] * 3

    @pytest.mark.parametrize("shape", [(), (2, 3)])
    def test_any_batch_shape(self, kind, networks, shape):
        network = networks[kind]
        ids = np.full(shape, 4, np.int32)
        output, state = network.step(network.init_state(shape), (ids,))
        assert output.shape == (*shape, 1)
        conv = network.init_state(shape)["conv"]
        assert conv.shape[: len(shape) + 1] == (*shape, 3) and state["conv"].shape == conv.shape
        expected = network.run((np.full((1, 1), 4, np.int32),))[0, 0]
        np.testing.assert_allclose(
            np.asarray(output), np.broadcast_to(expected, output.shape), rtol=1e-5, atol=1e-6
        )

    def test_parameters_have_the_names_of_the_reference(self, kind, networks):
        weights, network = random_weights(kind), networks[kind]
        arrays = network.parameter_arrays()
        layers = network.layers_name
        for layer, block in enumerate(weights.blocks):
            for name, values in block.items():
                np.testing.assert_array_equal(
                    arrays[f"{layers}.{layer}.{name}"], values.astype(np.float32)
                )
        assert network.num_parameters == sum(array.size for array in arrays.values())
        assert network.width == 16

    def test_parameters_are_replaced(self, kind, networks):
        other = NETWORKS[kind](random_weights(kind, seed=5))
        assert not np.array_equal(other.run((self.ids,)), networks[kind].run((self.ids,)))
        other.replace_parameters(networks[kind].parameter_arrays())
        np.testing.assert_array_equal(other.run((self.ids,)), networks[kind].run((self.ids,)))

        with pytest.raises(ShapeError, match="unknown parameter 'nothing'"):
            other.replace_parameters({"nothing": np.zeros(1)})
        with pytest.raises(ShapeError, match="input_bias"):
            other.replace_parameters({"input_bias": np.zeros(1)})

    def test_the_self_test_passes(self, kind, networks):
        networks[kind].self_test()


def test_layers_must_be_alike():
    weights = random_weights("mamba")
    block = dict(weights.blocks[0])
    block["mixer.D"] = np.zeros(3)
    with pytest.raises(ShapeError, match="layer 1"):
        MambaNetwork(replace(weights, blocks=(weights.blocks[0], block)))
    with pytest.raises(ShapeError, match="output_kernel: expected 16 channels, got 5"):
        MambaNetwork(replace(weights, output_kernel=np.zeros((5, 2))))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_no_layers(kind):
    """A network of vectors has kernels; one without layers is norm and output map."""
    base = random_weights(kind, layers=0)
    weights = replace(
        base,
        tables=(None, base.tables[0], None),
        kernels=(np.eye(3, 16), None, None),
        input_bias=np.arange(16.0),
        output_kernel=np.eye(16, 2),
    )
    network = NETWORKS[kind](weights)
    rng = np.random.default_rng(2)
    vectors, ids = rng.normal(size=(2, 9, 3)), rng.integers(0, 7, (2, 9)).astype(np.int32)
    inputs = (vectors.astype(np.float32), ids, ids)

    got = network.run(inputs)

    stream = vectors @ np.eye(3, 16) + base.tables[0][ids] + np.arange(16.0)
    stream = stream * base.embedding_scale
    gain = base.final_norm + (kind == "griffin")
    normed = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + base.eps) * gain
    np.testing.assert_allclose(got, normed[..., :2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(steps(network, inputs), got, rtol=1e-5, atol=1e-6)
    with pytest.raises(ShapeError, match=r"one output, \(d, 1\), got \(16, 2\)"):
        network.logits(inputs, 7)
    names = list(network.parameter_arrays())
    assert names[:3] == ["kernels.0", network.embedding_name, "input_bias"]


# ---------------------------------------------------------------- exact blocks
#
# Four symbols: an addend each, and whether the latch takes it. The outputs are the running sum and
# what the latch holds, and in Griffin's layer the ReLU of the addend.

ADDENDS, TAKES = np.array([1, -2, 1, 0]), np.array([0, 0, 1, 1])
WIDTH = 64


def embeddings(scale):
    """Rows with the constant channel, the addend and the flag; 64 = 4^3."""
    table = np.zeros((4, WIDTH))
    table[:, 0], table[:, 1], table[:, 2] = SIZE * 2.0**3, ADDENDS, TAKES
    return table / scale


def gain():
    values = np.full(WIDTH, SIZE)
    values[0] = 2.0**-3
    return values


def exact_mamba():
    """An integrator in channels 3, 4 (the sum's parts of either sign), a latch in 5, 6.

    Inner channels: 0 holds 32; 1 and 2 the addend's parts for the integrator; 3 and 4 the same for
    the latch; 5 the flag. They are scaled by 128, silu's threshold on a grid of 1.
    """
    inner, rank = WIDTH, 2
    in_proj, x_proj = np.zeros((2 * inner, WIDTH)), np.zeros((rank + 2, inner))
    in_proj[0, 0] = 32
    for channel, sign in ((1, 1), (2, -1), (3, 1), (4, -1)):
        in_proj[channel, 1] = 128 * sign
    in_proj[5, 2] = 128
    in_proj[inner:, 0] = 32  # the gate
    x_proj[0, 0] = (32 + 2048) / 32  # the integrator's dt is always 32
    x_proj[1, 5] = 4096 / 128  # the latch's, if the flag is up
    x_proj[rank, 0], x_proj[rank + 1, 0] = 2.0**-10, 2.0**-5  # B = 2^-5, C = 1
    conv, dt_proj = np.zeros((inner, 1, 4)), np.zeros((inner, rank))
    conv[:, 0, 3] = 1
    dt_proj[1:3, 0], dt_proj[3:5, 1] = 1, 1
    a_log = np.zeros((inner, 1))
    a_log[1:3] = -100
    out_proj = np.zeros((WIDTH, inner))
    for channel, scale in ((1, 1), (2, 1), (3, FLAG), (4, FLAG)):
        out_proj[channel + 2, channel] = 1 / (32 * 128 * scale)
    block = {
        "norm.weight": gain(),
        "mixer.in_proj.weight": in_proj,
        "mixer.conv1d.weight": conv,
        "mixer.conv1d.bias": np.zeros(inner),
        "mixer.x_proj.weight": x_proj,
        "mixer.dt_proj.weight": dt_proj,
        "mixer.dt_proj.bias": np.full(inner, -2048.0),
        "mixer.A_log": a_log,
        "mixer.D": np.zeros(inner),
        "mixer.out_proj.weight": out_proj,
    }
    # A second layer that does nothing: nothing is lost on the way through it.
    idle = {**block, "mixer.out_proj.weight": np.zeros_like(out_proj)}
    output = np.zeros((WIDTH, 2))
    output[3, 0], output[4, 0], output[5, 1], output[6, 1] = 1, -1, 1, -1
    return ResidualWeights(
        (embeddings(1.0),), (None,), np.zeros(WIDTH), (block, idle), gain(), output, 1.0, 1e-5
    )


def exact_griffin():
    """An integrator in channel 3, a latch in 4, and in the MLP the ReLU of the addend in 5."""
    n = WIDTH
    linear_x, linear_y, linear_out = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    conv = np.zeros((n, 1, 4))
    linear_x[3, 1], conv[3, 0, 2] = 1, 1  # the addend of the token before
    linear_x[4, 1], linear_x[6, 2] = 1, 1
    conv[[4, 6], 0, 3] = 1
    param = np.full(n, 32.0)
    param[3] = INTEGRATOR
    weight, bias = np.zeros((1, n, n)), np.full((1, n), 128.0)
    weight[0, 6, 4], bias[0, 4] = 256, -128  # the latch opens for the flag
    linear_out[3, 3], linear_out[4, 4] = 4096 / 32, 1 / 32
    linear_y_bias = np.full(n, 32.0)
    up, down = np.zeros((4, n)), np.zeros((n, 4))
    gate_proj = np.zeros((4, n))
    gate_proj[0, 1], up[0, 0], down[5, 0] = 16, 1, 1 / 16
    block = {
        "temporal_pre_norm.weight": gain() - 1,
        "temporal_block.linear_y.weight": linear_y,
        "temporal_block.linear_y.bias": linear_y_bias,
        "temporal_block.linear_x.weight": linear_x,
        "temporal_block.linear_x.bias": np.zeros(n),
        "temporal_block.linear_out.weight": linear_out,
        "temporal_block.linear_out.bias": np.zeros(n),
        "temporal_block.conv_1d.weight": conv,
        "temporal_block.conv_1d.bias": np.zeros(n),
        "temporal_block.rg_lru.recurrent_param": param,
        "temporal_block.rg_lru.input_gate_weight": weight,
        "temporal_block.rg_lru.input_gate_bias": bias,
        "temporal_block.rg_lru.recurrent_gate_weight": weight,
        "temporal_block.rg_lru.recurrent_gate_bias": bias,
        "channel_pre_norm.weight": gain() - 1,
        "mlp_block.gate_proj.weight": gate_proj,
        "mlp_block.gate_proj.bias": np.zeros(4),
        "mlp_block.up_proj.weight": up,
        "mlp_block.up_proj.bias": np.zeros(4),
        "mlp_block.down_proj.weight": down,
        "mlp_block.down_proj.bias": np.zeros(n),
    }
    idle = {
        **block,
        "temporal_block.linear_out.weight": np.zeros_like(linear_out),
        "mlp_block.down_proj.weight": np.zeros_like(down),
    }
    output = np.zeros((WIDTH, 3))
    output[3, 0], output[1, 0], output[4, 1], output[5, 2] = 1, 1, 1, 1
    return ResidualWeights(
        (embeddings(8.0),), (None,), np.zeros(WIDTH), (block, idle), gain() - 1, output, 8.0, 1e-6
    )


def expected_outputs(kind, ids):
    addends, takes = ADDENDS[ids], TAKES[ids]
    held = np.zeros_like(ids)
    for t in range(ids.shape[1]):
        held[:, t] = np.where(takes[:, t], addends[:, t], held[:, t - 1] if t else 0)
    outputs = [addends.cumsum(axis=1), held, np.maximum(addends, 0)]
    return np.stack(outputs[: 2 if kind == "mamba" else 3], axis=-1)


EXACT = {"mamba": exact_mamba, "griffin": exact_griffin}


@pytest.fixture(scope="module")
def exact():
    return {kind: NETWORKS[kind](make()) for kind, make in EXACT.items()}


@pytest.mark.parametrize("kind", EXACT)
class TestExactBlocks:
    ids = np.random.default_rng(3).integers(0, 4, (2, TOKENS)).astype(np.int32)

    def test_run(self, kind, exact):
        expected = expected_outputs(kind, self.ids)
        np.testing.assert_array_equal(exact[kind].run((self.ids,)), expected)
        np.testing.assert_array_equal(exact[kind].run((self.ids,), chunk=777), expected)

    def test_steps(self, kind, exact):
        np.testing.assert_array_equal(
            steps(exact[kind], (self.ids,)), expected_outputs(kind, self.ids)
        )

    def test_sums_up_to_the_last_integer(self, kind, exact):
        """Given a state near 2^24 times the unit, every unit more still counts."""
        ids = np.ones((1, TOKENS), np.int32)  # -2 each
        network, far = exact[kind], 2**23
        state = network.init_state((1,))
        name = "ssm" if kind == "mamba" else "lru"
        unit = 128 if kind == "mamba" else 2.0**-12
        start = np.zeros(state[name].shape, np.float32)
        start[0, 0, 2 if kind == "mamba" else 3] = unit * (far if kind == "mamba" else -far)
        moved = {**state, name: jnp.asarray(start), "position": jnp.asarray([1], jnp.int32)}
        got = network.run((ids,), state=moved)[0, :, 0]
        np.testing.assert_array_equal(got, -far - 2 * np.arange(1, TOKENS + 1))

    def test_reference(self, kind, exact, transformers):
        """The unmodified class gives the same logits, bit for bit; a high soft cap changes none."""
        # The head reads the positive part of what the latch holds.
        kernel = np.zeros((WIDTH, 1))
        kernel[5 if kind == "mamba" else 4] = 1
        weights, ids = replace(EXACT[kind](), output_kernel=kernel), self.ids

        expected = logits_of(reference(transformers, kind, weights), ids)

        np.testing.assert_array_equal(NETWORKS[kind](weights).logits((ids,), 4), expected)
        held = np.maximum(expected_outputs(kind, ids)[..., 1], 0)
        np.testing.assert_array_equal(expected.argmax(axis=-1), held)

    def test_generate(self, kind, exact):
        """The continuation is what the outputs say, token by token."""
        weights = EXACT[kind]()
        # The next token is 1 + what is held: then 2 is followed by 2 forever, and 3 by 1s.
        kernel = np.zeros((WIDTH, 1))
        kernel[0], kernel[5 if kind == "mamba" else 4] = 1, 1
        network = NETWORKS[kind](replace(weights, output_kernel=kernel))
        prompts = np.array([[0, 1, 2], [2, 0, 3]], np.int32)
        expected = np.array([[2] * 50, [1] * 50])
        np.testing.assert_array_equal(network.generate((prompts,), 50), expected)

    def test_the_self_test_passes(self, kind, exact):
        exact[kind].self_test()


# ---------------------------------------------------------------- the self-test


@pytest.mark.parametrize(
    ("kind", "module", "name", "wrong", "words"),
    [
        ("mamba", jax.nn, "silu", lambda x: x / (1 + jnp.exp(-x)) * 1.000001, ["silu(u) == u"]),
        ("mamba", jax.nn, "softplus", lambda x: jnp.log1p(jnp.exp(x)), ["softplus(u) == u"]),
        ("griffin", griffin_network, "_gelu", lambda x: x * 0.999999, ["gelu(u) == u"]),
        (
            "griffin",
            griffin_network,
            "_multiplier",
            lambda x: jnp.sqrt(-jnp.expm1(2 * x)),
            ["integrators", "2^-12", "compile for 'mamba'", "errs by at most"],
        ),
        ("griffin", jax.lax, "rsqrt", lambda x: 1.000001 / jnp.sqrt(x), ["rsqrt(4^n)"]),
    ],
)
def test_the_self_test_names_what_fails(kind, module, name, wrong, words, networks, monkeypatch):
    """Given a device with another function, the error names it, the device and the values."""
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(SelfTestError) as caught:
        networks[kind].self_test()
    for word in [*words, "expected", "got", str(jax.devices()[0])]:
        assert word in str(caught.value)


def test_lengths_are_few():
    """Sequences of up to 10,000 tokens compile at most 45 lengths, not much longer."""
    lengths = {n: network._rounded_up(n) for n in range(1, 10_001)}
    assert len(set(lengths.values())) <= 45
    assert all(n <= rounded <= max(n + 15, 1.25 * n) for n, rounded in lengths.items())


def test_a_long_sequence_runs_in_chunks(exact, monkeypatch):
    """Memory is bounded: no call sees more tokens than the chunk, and they add up."""
    seen = []
    whole = network._jitted_run

    def counted(parameters, structure, state, inputs, *rest):
        seen.append(inputs[0].shape)
        return whole(parameters, structure, state, inputs, *rest)

    monkeypatch.setattr(network, "_jitted_run", counted)
    tokens = 5 * network.CHUNK // 2
    got = exact["mamba"].run((np.zeros((2, tokens), np.int32),))
    np.testing.assert_array_equal(got[1, :, 0], np.arange(1, tokens + 1))
    assert set(seen) == {(2, network.CHUNK // 2)} and len(seen) == 5
