"""The network of `deltanet`: equal to the class of transformers, and exact on items that swap."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsrl
from lsrl import interpret
from lsrl.backends.residual.deltanet_network import DeltaNetNetwork
from lsrl.backends.residual.network import ResidualWeights
from lsrl.circuit import Channel, Circuit
from lsrl.errors import SelfTestError
from lsrl.interpret.variants.permute import Move, moved, moved_circuit

pytestmark = pytest.mark.one_in(2)

WIDTH, HEAD, TAPS, SIZE = 64, 16, 4, 2.0**40
CHUNK = 64  # of all runs here, so that one length is compiled
ITEMS = 5
SWAPS = [(), *combinations(range(ITEMS), 2)]  # token 0 swaps nothing
STREAM = {"swap": 1, "read": 12, "behind": 20}  # first channels


def empty_layer(width, heads, keys, values, units):
    rows = {"q": keys, "k": keys, "v": values, "g": values, "a": 1, "b": 1}
    return {
        "input_layernorm.weight": np.zeros(width),
        **{f"linear_attn.{n}_proj.weight": np.zeros((heads * r, width)) for n, r in rows.items()},
        "linear_attn.conv1d.weight": np.zeros((heads * (2 * keys + values), 1, TAPS)),
        "linear_attn.A_log": np.zeros(heads),
        "linear_attn.dt_bias": np.zeros(heads),
        "linear_attn.o_norm.weight": np.zeros(values),
        "linear_attn.o_proj.weight": np.zeros((width, heads * values)),
        "post_attention_layernorm.weight": np.zeros(width),
        "mlp.gate_proj.weight": np.zeros((units, width)),
        "mlp.up_proj.weight": np.zeros((units, width)),
        "mlp.down_proj.weight": np.zeros((width, units)),
    }


def swapping():
    """Where five items are, of which each token swaps two; one head, and the MLP takes the sizes.

    Item i is e_2i + e_2i+1, so the key of a swap, half the sum of two items, has length 1, and a
    step of 2 reflects it. The state holds by what the places differ from those at the start, with
    signs; the query reads the items as they stand behind the present swap.
    """
    gain = np.full(WIDTH, SIZE)
    gain[0] = 1 / 8
    layer = empty_layer(WIDTH, 1, HEAD, HEAD, 2 * ITEMS)
    layer["input_layernorm.weight"] = layer["post_attention_layernorm.weight"] = gain
    query, key, value, gate, _, step = (layer[f"linear_attn.{n}_proj.weight"] for n in "qkvgab")
    taps = layer["linear_attn.conv1d.weight"][:, 0]
    present, before, constant = TAPS - 1, TAPS - 2, 2 * ITEMS
    taps[:HEAD, present] = taps[HEAD:, before] = 1
    # The norm's constant, on a coordinate of its own, is written at the first token alone.
    for channel in (HEAD + constant, 3 * HEAD - 1):
        taps[channel, present], taps[channel, before] = 1, -1
    key[constant, 0], value[HEAD - 1, 0] = 1024, 16 * 4 * SIZE
    # 55 + 1 + 4 + 4 = 64 is the square of the query's length, in units of 1024.
    query[constant, 0], query[constant + 1, 0], query[constant + 2, 0] = 1024, 2048, 2048
    for token, pair in enumerate(SWAPS):
        channel, places = STREAM["swap"] + token, list(range(ITEMS))
        for i, j in [pair, pair[::-1]] if pair else []:
            places[i] = j
            key[[2 * i, 2 * i + 1], channel], value[i, channel] = 1024, 128
        query[0:constant:2, channel] = 1024 * (np.array(places) + 1)
        layer["mlp.gate_proj.weight"][:ITEMS, channel] = -128 * (np.array(places) + 1)
    step[0, 0] = 128
    gate[: HEAD - 1, 0] = 32
    layer["linear_attn.dt_bias"][:] = -2048  # keeps all
    layer["linear_attn.o_norm.weight"][: HEAD - 1] = SIZE
    for item in range(ITEMS):
        read = STREAM["read"] + item
        layer["linear_attn.o_proj.weight"][read, item] = 1 / 128
        layer["mlp.gate_proj.weight"][item, read] = 128
        layer["mlp.down_proj.weight"][STREAM["behind"] + item, [item, ITEMS + item]] = 1 / 128
    layer["mlp.gate_proj.weight"][ITEMS:] = -layer["mlp.gate_proj.weight"][:ITEMS]
    layer["mlp.up_proj.weight"][:, 0] = 1
    table = np.zeros((len(SWAPS), WIDTH))
    table[:, 0] = 8 * SIZE
    table[:, STREAM["swap"] : STREAM["swap"] + len(SWAPS)] = np.eye(len(SWAPS))
    output = np.zeros((WIDTH, len(SWAPS)))
    output[STREAM["behind"] : STREAM["behind"] + ITEMS, :ITEMS] = np.eye(ITEMS)
    return weights_of(table, [layer], gain, output)


def weights_of(table, layers, gain, output):
    bias = np.zeros(len(gain))
    return ResidualWeights((table,), (None,), bias, tuple(layers), gain, output, 1.0, 1e-6)


def random_weights():
    """Of no meaning, of sizes that keep all activations busy: three heads, keys unlike values."""
    rng = np.random.default_rng(0)

    def drawn(*shape):
        if len(shape) == 1:
            return rng.uniform(0.5, 1.5, shape)
        return rng.normal(0, 1, shape) / np.sqrt(shape[-1])

    layers = [
        {name: drawn(*array.shape) for name, array in empty_layer(WIDTH, 3, 8, 4, 20).items()}
        for _ in range(2)
    ]
    return weights_of(drawn(11, WIDTH), layers, drawn(WIDTH), drawn(WIDTH, 11))


def places_behind(ids):
    """(batch, time, items), from 1: where each item is behind a token's swap."""
    found = np.zeros((*ids.shape, ITEMS))
    for row, tokens in enumerate(ids):
        items = list(range(ITEMS))  # by place
        for t, token in enumerate(tokens):
            for i, j in [SWAPS[token]] if token else []:
                items[i], items[j] = items[j], items[i]
            found[row, t, items] = np.arange(1, ITEMS + 1)
    return found


def reference(transformers, weights):
    """The unmodified class with the weights of a network, and a layer of attention of zeros."""
    import torch

    network, width = DeltaNetNetwork(weights), len(weights.final_norm)
    heads, keys, values = network.head_sizes
    config = transformers.OlmoHybridConfig(
        vocab_size=len(weights.tables[0]),
        hidden_size=width,
        intermediate_size=len(weights.blocks[0]["mlp.up_proj.weight"]),
        num_hidden_layers=network.depth + 1,
        layer_types=["linear_attention"] * network.depth + ["full_attention"],
        num_attention_heads=1,
        head_dim=1,
        linear_num_key_heads=heads,
        linear_num_value_heads=heads,
        linear_key_head_dim=keys,
        linear_value_head_dim=values,
        rms_norm_eps=weights.eps,
        pad_token_id=None,
        eos_token_id=None,
    )
    model = transformers.OlmoHybridForCausalLM(config)
    arrays = network.parameter_arrays()
    arrays["lm_head.weight"] = arrays.pop("output_kernel").T
    del arrays["input_bias"]
    last = f"model.layers.{network.depth}."
    for name, array in model.state_dict().items():
        if name.startswith(last):
            arrays[name] = np.zeros(array.shape, np.float32)
    # Strict: every name, and no other.
    model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})
    return model.eval()


def logits_of(model, ids, **arguments):
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64)), **arguments)


def steps(network, ids):
    """Outputs (batch, time, outputs) and the last state, token by token."""
    state, outputs = network.init_state(ids.shape[:1]), []
    for t in range(ids.shape[1]):
        output, state = network.step(state, (ids[:, t],))
        outputs.append(np.asarray(output))
    return np.stack(outputs, axis=1), state


@pytest.fixture(scope="module")
def drawn():
    return DeltaNetNetwork(random_weights())


@pytest.fixture(scope="module")
def exact():
    return DeltaNetNetwork(swapping())


class TestSwaps:
    ids = np.random.default_rng(1).integers(0, len(SWAPS), (3, 4 * CHUNK)).astype(np.int32)

    def test_run_and_steps(self, exact):
        """Every place is right at every token, whole or token by token, and states are alike."""
        got, after = exact.run_with_state((self.ids,), CHUNK)
        np.testing.assert_array_equal(got[..., :ITEMS], places_behind(self.ids))
        outputs, state = steps(exact, self.ids[:, :100])
        np.testing.assert_array_equal(outputs, got[:, :100])

        rest, other = exact.run_with_state((self.ids[:, 100:],), CHUNK, state)

        np.testing.assert_array_equal(rest, got[:, 100:])
        for name in after:
            # What fills up the last chunk has changed nothing.
            np.testing.assert_array_equal(other[name], after[name])

    def test_the_class_gives_the_same(self, exact, transformers):
        """Bit for bit: all at once, in two parts, token by token, and behind padding."""
        import torch

        model, ids = reference(transformers, swapping()), self.ids
        expected = exact.run((ids,), chunk=CHUNK)

        np.testing.assert_array_equal(logits_of(model, ids, use_cache=False).logits, expected)
        found = logits_of(model, ids[:, :101], use_cache=True)
        np.testing.assert_array_equal(found.logits, expected[:, :101])
        found = logits_of(model, ids[:, 101:141], cache=found.cache, use_cache=True)
        np.testing.assert_array_equal(found.logits, expected[:, 101:141])
        for t in range(141, 151):
            found = logits_of(model, ids[:, t : t + 1], cache=found.cache, use_cache=True)
            np.testing.assert_array_equal(found.logits[:, 0], expected[:, t])
        after = exact.run_with_state((ids[:, :151],), CHUNK)[1]
        np.testing.assert_array_equal(
            after["delta"][:, 0], found.cache.get_recurrent_state(0, state_idx=0)
        )
        padded = np.pad(ids[:, :90], ((0, 0), (9, 0)), constant_values=4)
        mask = torch.tensor([[0] * 9 + [1] * 90] * len(ids))
        found = logits_of(model, padded, attention_mask=mask, use_cache=False).logits
        np.testing.assert_array_equal(found[:, 9:], expected[:, :90])


class TestRandomWeights:
    ids = np.random.default_rng(2).integers(0, 11, (3, CHUNK)).astype(np.int32)

    def test_the_class_gives_the_same(self, drawn, transformers):
        """Decays, steps and keys of any size; float32 of the class is 1e-4 from its float64."""
        expected = logits_of(reference(transformers, random_weights()), self.ids).logits.numpy()
        got, after = drawn.run_with_state((self.ids,), CHUNK)
        assert np.abs(got).max() > 1
        np.testing.assert_allclose(got, expected, rtol=5e-4, atol=5e-4)
        outputs, state = steps(drawn, self.ids)
        np.testing.assert_allclose(outputs, got, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(state["delta"], after["delta"], rtol=1e-4, atol=1e-4)

    def test_gates_are_those_of_the_layer(self, drawn):
        """From zeros, a token writes its key, of length 1, times step and value."""
        stream = random_weights().tables[0][self.ids[:, :1]]
        arrays = {name: array.astype(np.float64) for name, array in drawn.arrays().items()}
        heads, _, values = drawn.head_sizes

        found = drawn.gates(arrays, 0, stream, stream)

        state = drawn.step(drawn.init_state((3,)), (self.ids[:, 0],))[1]["delta"][:, 0]
        written = 2 * found.gates[:, 0, heads:, None] * found.candidates.reshape(3, heads, values)
        np.testing.assert_allclose(
            np.linalg.norm(state, axis=2), np.abs(written), rtol=1e-3, atol=1e-4
        )

    def test_heads_keys_and_values_may_change_places(self, drawn):
        """With all that reads or writes them, and the memory where the circuit has it."""
        legend, rng = drawn.legend(), np.random.default_rng(3)
        moves = {
            name: Move.only(rng.permutation(space.size)) for name, space in legend.spaces.items()
        }
        size = int(np.prod(drawn.head_sizes))
        channels = [
            Channel(1 + 2 * layer, "x", 0, "made", (0,), (1.0,), memory=(k,), memory_weights=(1.0,))
            for layer in range(2)
            for k in range(size)
        ]
        circuit = Circuit("", "deltanet", "float32", "", (WIDTH,) * 5, (), tuple(channels), ())

        other = drawn.rebuilt(moved(legend, drawn.arrays(), moves))

        (whole, before), (same, after) = (
            network.run_with_state((self.ids,), CHUNK) for network in (drawn, other)
        )
        np.testing.assert_allclose(same, whole, rtol=1e-4, atol=1e-4)
        found = moved_circuit(circuit, legend, moves)
        for old, new in zip(channels, found.channels, strict=True):
            layer = old.layer // 2
            kept, held = (np.asarray(x["delta"])[:, layer].reshape(3, -1) for x in (before, after))
            np.testing.assert_allclose(
                held[:, list(new.memory)], kept[:, list(old.memory)], rtol=1e-4, atol=1e-5
            )


def test_the_self_test_names_what_fails(exact, monkeypatch):
    exact.self_test()
    monkeypatch.setattr(jax.nn, "sigmoid", lambda x: jnp.tanh(x / 2) / 2 + 0.5000001)
    with pytest.raises(SelfTestError) as caught:
        exact.self_test()
    for word in ("2 sigmoid(u)", "expected", "got", str(jax.devices()[0])):
        assert word in str(caught.value)


@lsrl.program(max_length=8)
def held(symbol: lsrl.Token(4)):
    return lsrl.latch(symbol, symbol == 3) + symbol


def test_what_is_set_ahead_of_any_write_is_read():
    """A head has its norm's constant from its first write on, or from the edit that is ahead."""
    model = lsrl.compile(held, "deltanet", inspectable=True)
    (signal,) = (s.name for s in model.circuit.signals if s.kind == "hold")
    base, source = [np.array([[0, 1, 2, 0, 1]])], [np.array([[0, 3, 1, 2, 0]])]

    found = interpret.interchange(model, base, source, [signal], tokens=[1])

    np.testing.assert_array_equal(found.outputs[0, :, 0], [0, 4, 5, 3, 4])
