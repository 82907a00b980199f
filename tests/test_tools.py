"""Other people's tools on our exports: `make test-tools`, which CI does not install."""

import numpy as np
import pytest

import lsrl
from lsrl import interpret

torch = pytest.importorskip("torch")
transformer_lens = pytest.importorskip("transformer_lens")

SYMBOLS = 4
PROGRAMS = {
    "flip_flop": lsrl.programs.flip_flop(),
    "induction_head": lsrl.programs.induction_head(vocab=SYMBOLS),
    "copy_delay": lsrl.programs.copy_delay(2, SYMBOLS),
    "running_max": lsrl.programs.running_max(SYMBOLS),
}


@pytest.fixture(scope="module", params=PROGRAMS)
def booted(request, tmp_path_factory):
    """A model, and its export in TransformerLens."""
    from transformer_lens.model_bridge import TransformerBridge

    model = lsrl.compile(PROGRAMS[request.param], "mamba", inspectable=True)
    folder = tmp_path_factory.mktemp("exports") / request.param
    model.export("huggingface", folder)
    return model, TransformerBridge.boot_transformers(str(folder), device="cpu")


def hook(layer):
    """Where TransformerLens keeps what the circuit calls a layer's hook."""
    return f"blocks.{layer - 1}.hook_resid_post" if layer else "blocks.0.hook_resid_pre"


def test_cached_activations_are_the_signals(booted):
    """Each channel of the circuit, read off the residual stream where its signal is made."""
    model, bridge = booted
    ids = np.random.default_rng(0).integers(0, SYMBOLS, (5, 30))
    seen = interpret.capture(model, ids)
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(torch.from_numpy(ids))
    np.testing.assert_array_equal(logits.argmax(-1), model.run(ids)[..., 0])

    read = {name for name in seen if model.circuit.held[name].any()}
    for name in read:
        for channel in model.circuit.channels_of(name):
            units = cache[hook(channel.layer)].numpy()[..., list(channel.units)]
            value = units @ np.array(channel.weights) + channel.offset
            np.testing.assert_array_equal(value, seen[name][..., channel.element])
    assert len(read) >= 2


def griffin(folder):
    """A Griffin model and its export: what is between the halves of a layer is its hook, too."""
    model = lsrl.compile(PROGRAMS["induction_head"], "griffin", inspectable=True)
    model.export("huggingface", folder)
    return model, np.random.default_rng(2).integers(0, SYMBOLS, (3, 12))


def check_channels(model, ids, streams) -> None:
    """Every channel on the streams of these layers."""
    seen = interpret.capture(model, ids)
    found = [
        (channel, seen[channel.signal])
        for channel in model.circuit.channels
        if channel.layer in streams and channel.signal in seen
    ]
    assert {channel.layer for channel, _ in found} == set(streams)
    for channel, values in found:
        units = streams[channel.layer].numpy()[..., list(channel.units)]
        value = units @ np.array(channel.weights) + channel.offset
        np.testing.assert_array_equal(value, values[..., channel.element])


def test_of_griffin_whole_layers_have_hooks(tmp_path):
    """Of the halves it names `hook_mlp_in` too, which no run calls."""
    from transformer_lens.model_bridge import TransformerBridge

    model, ids = griffin(tmp_path / "griffin")
    bridge = TransformerBridge.boot_transformers(str(tmp_path / "griffin"), device="cpu")
    with torch.no_grad():
        cache = bridge.run_with_cache(torch.from_numpy(ids))[1]
    # Behind the network's layers stands one of attention that adds 0.
    assert len(bridge.blocks) == model.num_layers + 1
    check_channels(model, ids, {2 * n: cache[hook(n)] for n in range(model.num_layers + 1)})
    assert "blocks.0.hook_mlp_in" in bridge.hook_dict and "blocks.0.hook_mlp_in" not in cache


def test_nnsight_reads_every_layer_of_griffin(tmp_path):
    nnsight = pytest.importorskip("nnsight")
    from transformers import AutoModelForCausalLM

    model, ids = griffin(tmp_path / "griffin")
    network = nnsight.NNsight(AutoModelForCausalLM.from_pretrained(tmp_path / "griffin"))
    with torch.no_grad(), network.trace(torch.from_numpy(ids)):
        streams = [].save()
        for block in network.model.layers[: model.num_layers]:
            streams.append(block.channel_pre_norm.input)
            streams.append(block.output)
    layers = dict(enumerate(streams, start=1))
    assert len(layers) == len(model.circuit.units) - 1
    check_channels(model, ids, layers)


def test_the_labels_of_the_config_name_the_residual_stream(booted):
    """With no more than the folder: what each channel holds behind each layer."""
    model, bridge = booted
    ids = np.random.default_rng(1).integers(0, SYMBOLS, (2, 20))
    seen = interpret.capture(model, ids)
    elements = {
        f"{name}[{place}]" if values.shape[-1] > 1 else name: values[..., place]
        for name, values in seen.items()
        for place in range(values.shape[-1])
    }
    with torch.no_grad():
        cache = bridge.run_with_cache(torch.from_numpy(ids))[1]
    labels = bridge.original_model.config.lsrl["labels"]
    found = 0
    for layer, names in enumerate(labels, start=1):
        stream = cache[hook(layer)].numpy()
        for place, name in enumerate(names):
            if name in elements:
                np.testing.assert_array_equal(stream[..., place], elements[name])
                found += 1
    assert found >= len(labels)


def test_texts_go_in_as_they_are_written(booted):
    """It puts a beginning ahead of a text, and fills others up: neither says anything."""
    model, bridge = booted
    words = bridge.tokenizer.convert_ids_to_tokens(range(SYMBOLS))
    texts = [[3, 0, 1, 2, 0], [2, 0]]
    tokens = bridge.to_tokens([" ".join(words[symbol] for symbol in text) for text in texts])
    assert tokens.shape == (2, 6)
    with torch.no_grad():
        answers = bridge(tokens).argmax(-1).numpy()
    for text, row in zip(texts, answers, strict=True):
        np.testing.assert_array_equal(row[-len(text) :], model.run(text)[:, 0])
    # With transformers 5.24 its loop over a cache loses the cache.
    prompt = torch.tensor([texts[0]])
    told = bridge.generate(
        prompt, max_new_tokens=6, stop_at_eos=False, use_past_kv_cache=False, verbose=False,
        return_type="tokens",
    )  # fmt: skip
    np.testing.assert_array_equal(told[0, 5:], model.generate(texts[0], 6))
