"""Libraries inside language models of transformers: the same numbers trained, cached and saved."""

import copy
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsrl
from benchmarks import library_huggingface as bench
from lsrl.errors import FormatError, InputError
from tests.grids import studied

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from lsrl.nn.attached import AttachedForCausalLM, LibraryLayer  # noqa: E402
from lsrl.nn.attaching import _network, _routines  # noqa: E402
from lsrl.nn.torch_library import Routines, held  # noqa: E402

pytestmark = pytest.mark.one_in(3)

# Host tokens: 0 to 3 are numbers, 4 to 6 name routines, 7 ends, 8 pads.
VOCAB, NUMBERS, PAD = 9, 4, 8
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "bos_token_id": None,
    "eos_token_id": None, "pad_token_id": PAD, "initializer_range": 0.3,
}  # fmt: skip
ATTENTION = {"intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
# Tied and untied heads, one that slides, and positions that are learnt.
HOSTS = {
    "Llama": {**SIZES, **ATTENTION, "tie_word_embeddings": False},
    "Mamba": {**SIZES, "state_size": 4},
    "Mistral": {**SIZES, **ATTENTION, "sliding_window": 4},
    "Qwen2": {**SIZES, **ATTENTION, "tie_word_embeddings": True},
    "GPT2": {**SIZES, "num_attention_heads": 2},
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def machine(states, step):
    follows = [[step(state, number) for number in range(NUMBERS)] for state in range(states)]
    return lsrl.nn.MooreTable(np.array(follows, np.int32), np.arange(float(states))[:, None])


def routines():
    return [machine(4, max), machine(3, lambda s, n: (s + n) % 3), machine(2, lambda s, n: n % 2)]


@pytest.fixture(scope="module")
def library():
    return lsrl.nn.Library(routines())


def drawn(name, **options):
    """A host with weights drawn."""
    transformers.set_seed(0)
    config = transformers.CONFIG_MAPPING[name.lower()](**HOSTS[name])
    return transformers.AutoModelForCausalLM.from_config(config, **options).eval()


def attached(library, name="Llama", **options):
    """A host with a library whose register and result are drawn, so that they matter."""
    options = {"arguments": {n: n for n in range(NUMBERS)}, **options}
    model = lsrl.nn.attach(drawn(name), library=library, **options)
    with torch.no_grad():
        for weight in model.library.parameters():
            weight.normal_()
    return model


def words(rows=3, time=9, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, PAD, (rows, time)))


def in_torch(library):
    network, weights = _network(library)
    module = Routines(_routines(library), network)
    module.set_network(weights)
    return module


# ---------------------------------------------------------------- routines in torch


@pytest.mark.parametrize("target", studied(["gru", "lstm", "rnn", "rnn_tanh"], "lstm"))
def test_network_and_machines_say_what_the_library_does(target):
    library = lsrl.nn.Library(routines(), target=target)
    module = in_torch(library)
    ids = np.random.default_rng(0).integers(0, NUMBERS + 1, (4, 40))
    said, cells = module.exact(torch.from_numpy(ids))
    for number, table in enumerate(library.tables):
        np.testing.assert_array_equal(said[:, :, number].argmax(-1), table.run(ids)[..., 0])
    assert torch.equal(said, module.expected(torch.from_numpy(ids)))
    # In two parts, from the state between them, the same bits.
    first, between = module.exact(torch.from_numpy(ids[:, :13]))
    second, after = module.exact(torch.from_numpy(ids[:, 13:]), between)
    assert torch.equal(torch.cat([first, second], 1), said)
    assert all(torch.equal(one, other) for one, other in zip(after, cells, strict=True))


def test_expectation_and_its_gradient_are_those_of_jax(library):
    module = in_torch(library)
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(NUMBERS + 1), (2, 6)).astype(np.float32)
    choice = rng.dirichlet(np.ones(3), (2, 6)).astype(np.float32)
    weights = rng.normal(size=(2, 6, library.features)).astype(np.float32)

    @jax.jit
    def told(p):
        said = library.expected(p, jnp.asarray(choice))
        return said, jax.grad(lambda p: (library.expected(p, choice) * weights).sum())(p)

    given = torch.tensor(p, requires_grad=True)
    said = torch.einsum("btk,btkf->btf", torch.from_numpy(choice), module.expected(given))
    (said * torch.from_numpy(weights)).sum().backward()
    wanted, slope = told(jnp.asarray(p))
    np.testing.assert_allclose(said.detach(), wanted, atol=1e-6)
    np.testing.assert_allclose(given.grad, slope, atol=1e-5)


# ---------------------------------------------------------------- in a host


def test_a_library_changes_nothing_until_it_has_learnt_to(library):
    host = drawn("Llama")
    before, logits = copy.deepcopy(host.state_dict()), host(words()).logits
    model = lsrl.nn.attach(host, library=library, arguments={n: n for n in range(NUMBERS)})
    assert torch.equal(model(words()).logits, logits)
    assert all(torch.equal(before[name], now) for name, now in model.host.state_dict().items())
    # The certified network is no parameter, whoever asks for them.
    assert not [name for name, _ in model.library.routines.named_parameters()]
    with pytest.raises(InputError, match="would run without it"):
        host(words())


def test_the_routine_written_last_is_held(library):
    """The result at each token is that of the routine chosen at the last write, by the tables."""
    model = attached(library)
    with torch.no_grad():  # tokens 4, 5 and 6 write 0, 1 and 2, by directions that differ
        embedding = model.get_input_embeddings().weight
        scaled = torch.nn.functional.layer_norm(embedding, embedding.shape[-1:])
        asked = torch.full((VOCAB, 4), -1.0)
        asked[:, 1:] = 0
        for token in range(3):
            asked[4 + token, 0], asked[4 + token, 1 + token] = 1.0, 1.0
        found = torch.linalg.lstsq(scaled, asked * 9).solution.T
        model.library.register.write.weight.copy_(found[:1])
        model.library.register.write.bias.zero_()
        model.library.register.value.weight.copy_(found[1:])
        model.library.register.value.bias.zero_()
    ids = words(4, 60)
    added = []
    model.library.register_forward_hook(lambda part, given, out: added.append(out[0]))
    model(ids)
    tables, weight = library.tables, model.library.result.weight
    for row, line in enumerate(ids.numpy()):
        symbols = np.where(line < NUMBERS, line, library.skip)[None]
        said = [table.run(symbols)[0, :, 0].astype(int) for table in tables]
        chosen = None
        for time, token in enumerate(line):
            chosen = token - 4 if 4 <= token < 7 else chosen
            wanted = 0 * weight[:, 0] if chosen is None else weight[:, said[chosen][time]]
            assert torch.equal(added[0][row, time], wanted)


@pytest.mark.parametrize("name", studied(["Llama", "Mamba"], "Llama"))
def test_arguments_that_a_host_chooses(name, library, tmp_path):
    """By its state at each token; saved, cached, padded and with gradients."""
    model, ids = attached(library, name, arguments="learnt"), words(time=20)
    state, added = {}, []
    model.library.argument.register_forward_hook(lambda part, given, out: state.update(ids=out))
    model.library.register_forward_hook(lambda part, given, out: added.append(out[0]))
    logits = model(ids).logits
    symbols = state["ids"].numpy()
    assert len(set(symbols.flat)) > 2 and (symbols != library.skip).any()
    said = np.stack([table.run(symbols)[..., 0] for table in library.tables], -1)
    gate, value = model.library.register(model.get_input_embeddings()(ids), True)
    if name == "Llama":  # whose first layer reads the embedding as it is
        chosen = held(gate, value).detach().numpy()
        features = np.eye(library.features)[said.astype(int)]
        wanted = torch.tensor((chosen[..., None] * features).sum(2), dtype=torch.float32)
        torch.testing.assert_close(added[0], model.library.result(wanted))
    model.save_pretrained(tmp_path / "saved")
    read = lsrl.nn.load_attached(tmp_path / "saved")
    assert torch.equal(read(ids).logits, logits)
    options = {"max_new_tokens": 8, "do_sample": False}
    cached = read.generate(ids, use_cache=True, **options)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **options))
    mask = torch.tensor([[0] * 3 + [1] * ids.shape[1]] * len(ids))
    padded = torch.cat([torch.full((len(ids), 3), 2), ids], 1)
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 3:], logits)
    model.train()(ids, labels=ids).loss.backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.library.argument.parameters())


@pytest.mark.studies
@pytest.mark.parametrize("seed", range(3))
def test_arguments_are_learnt_in_a_host(seed):
    """Digits under a cipher, their sum modulo 5 at the end, on texts of up to 12."""
    rng, table = np.random.default_rng(seed), bench.tables()[1]
    cipher = rng.permutation(bench.DIGITS)

    def texts(count, length=None):
        lengths = rng.integers(1, np.where(rng.random(count) < 0.5, 4, 13))
        lengths = lengths if length is None else np.full(count, length)
        rows, digits = np.arange(count), rng.integers(0, bench.DIGITS, (count, lengths.max()))
        ids = np.full((count, lengths.max() + 2), bench.PAD)
        ids[:, :-2] = np.where(
            np.arange(lengths.max()) < lengths[:, None], cipher[digits], bench.PAD
        )
        ids[rows, lengths] = bench.EQUALS
        return torch.from_numpy(ids), lengths, table.run(digits)[rows, lengths - 1, 0].astype(int)

    model = lsrl.nn.attach(
        bench.host("llama", seed), library=lsrl.nn.Library([table]), arguments="learnt"
    )
    optimiser, schedule = bench.optimisers(model.train(), 400)
    for _ in range(400):
        ids, ends, answers = texts(32)
        logits = model(ids).logits[torch.arange(32), torch.from_numpy(ends)]
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(answers)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    ids, _, answers = texts(50, 200)
    with torch.no_grad():
        said = model.eval()(ids[:, :-1]).logits[:, -1].argmax(-1)
    assert said.tolist() == answers.tolist()


@pytest.mark.parametrize("name", studied(HOSTS, "Llama", "Mamba"))
def test_saved_read_cached_and_with_beams(name, library, tmp_path):
    model, ids = attached(library, name), words()
    logits = model(ids).logits
    assert not torch.equal(logits, drawn(name)(ids).logits)
    model.save_pretrained(tmp_path / "saved")
    read = lsrl.nn.load_attached(tmp_path / "saved")
    assert type(read.host) is type(model.host)
    assert torch.equal(read(ids).logits, logits)
    for beams in (1, 3):
        options = {"max_new_tokens": 8, "num_beams": beams, "do_sample": False}
        cached = read.generate(ids, use_cache=True, **options)
        assert torch.equal(cached, model.generate(ids, use_cache=False, **options))
    # No class takes the folder for one of its own, and drops the library.
    with pytest.raises(Exception, match=r"lsrl\.nn\.load_attached"):
        type(model.host).from_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(ids).logits, logits)


@pytest.mark.parametrize("name", ["Llama", "Mamba"])
def test_padding_on_the_left_changes_nothing(name, library):
    model, ids = attached(library, name), words()
    mask = torch.tensor([[0] * 4 + [1] * ids.shape[1]] * len(ids))
    padded = torch.cat([torch.full((len(ids), 4), 2), ids], 1)  # numbers, if they were read
    logits = model(padded, attention_mask=mask).logits[:, 4:]
    torch.testing.assert_close(logits, model(ids).logits)
    options = {"max_new_tokens": 5, "do_sample": False}
    made = model.generate(padded, attention_mask=mask, **options)
    assert torch.equal(made[:, 4:], model.generate(ids, **options))


def test_a_cache_is_filled_in_parts_and_emptied(library):
    model, ids = attached(library), words(time=12)
    logits, cache = model(ids).logits, None
    for start, end in ((0, 5), (5, 6), (6, 12)):
        made = model(ids[:, start:end], past_key_values=cache, use_cache=True)
        cache = made.cache
        torch.testing.assert_close(made.logits, logits[:, start:end])
    assert sum(isinstance(layer, LibraryLayer) for layer in cache.layers) == 1
    rows = torch.tensor([2, 0])
    cache.batch_select_indices(rows)
    more = model(words(2, 3, 1), cache=cache).logits
    whole = model(torch.cat([ids[rows], words(2, 3, 1)], 1)).logits
    torch.testing.assert_close(more, whole[:, -3:])
    with pytest.raises(InputError, match="can't take a token back"):
        cache.crop(-1)


def test_selecting_anew_at_each_token_holds_nothing(library):
    held, anew = attached(library), attached(library, select="token")
    anew.load_state_dict(held.state_dict())
    assert not torch.equal(held(words()).logits, anew(words()).logits)
    _, value = anew.library.register(anew.get_input_embeddings()(words()), True)
    said, _ = anew.library.routines.exact(anew.library.symbol_of[words()])
    wanted = anew.library.result(torch.einsum("btk,btkf->btf", value, said))
    added, _ = anew.library(anew.get_input_embeddings()(words()), words(), None, None)
    assert torch.equal(added, wanted)


def test_other_dtypes_leave_the_network_as_certified(library, tmp_path):
    host = drawn("Llama", dtype=torch.bfloat16)
    model = lsrl.nn.attach(host, library=library, arguments={0: 0, 1: 1})
    torch.nn.init.normal_(model.library.result.weight)
    model.save_pretrained(tmp_path)
    read = lsrl.nn.load_attached(tmp_path)
    assert read.library.routines.output_weight.dtype == torch.float32
    assert torch.equal(read(words()).logits, model(words()).logits)
    model.to(torch.float64).check()
    assert model(words()).logits.dtype == torch.float64


@pytest.mark.parametrize("what", ["recurrent_weight_hh_l0", "follows"])
def test_routines_that_were_altered_are_refused(what, library, tmp_path):
    model = attached(library)
    getattr(model.library.routines, what)[0, 0] += 1
    with pytest.raises(FormatError, match="expected the routines that were certified"):
        model.check()
    model.save_pretrained(tmp_path)
    with pytest.raises(FormatError, match="expected the routines that were certified"):
        lsrl.nn.load_attached(tmp_path)


def test_folders_of_something_else_are_refused(library, tmp_path):
    drawn("Llama").save_pretrained(tmp_path / "host")
    with pytest.raises(FormatError, match="got one of type 'llama'"):
        lsrl.nn.load_attached(tmp_path / "host")
    attached(library).save_pretrained(tmp_path / "short")
    place = tmp_path / "short" / "config.json"
    told = json.loads(place.read_text())
    told["attached"]["layer"] = -1
    place.write_text(json.dumps(told))
    with pytest.raises(FormatError, match="layer: expected an int >= 0"):
        lsrl.nn.load_attached(tmp_path / "short")


# ---------------------------------------------------------------- trained


def test_gradients_reach_what_is_learnt_alone(library):
    model = attached(library).train()
    ids = words()
    transformers.set_seed(1)  # of the gates' noise
    model(ids, labels=ids).loss.backward()
    whole = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    for name in ("register.write", "register.value", "result"):
        assert whole[f"library.{name}.weight"].abs().max() > 0
    model.zero_grad()
    model.gradient_checkpointing_enable()
    transformers.set_seed(1)
    model(ids, labels=ids).loss.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, whole[name])


def examples(count, time=8):
    """Sequences to be copied; what is learnt of them is not the point."""
    return [{"input_ids": line, "labels": line} for line in words(count, time, 1)]


def training(folder, **options):
    pytest.importorskip("accelerate")
    return transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, learning_rate=1e-2, report_to=[],
        use_cpu=True, disable_tqdm=True, save_only_model=False, **options,
    )  # fmt: skip


def test_trainer_saves_and_goes_on(library, tmp_path):
    """What a checkpoint holds is the whole, and evaluation runs the network."""
    model = attached(library)
    options = {"model": model, "train_dataset": examples(16), "eval_dataset": examples(4)}
    trainer = transformers.Trainer(args=training(tmp_path, max_steps=2, save_steps=2), **options)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    read = lsrl.nn.load_attached(tmp_path / "checkpoint-2")
    assert torch.equal(read(words()).logits, model.eval()(words()).logits)
    fresh = attached(library)
    trainer = transformers.Trainer(
        args=training(tmp_path, max_steps=2), **{**options, "model": fresh}
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.evaluate()["eval_loss"] == loss
    assert torch.equal(fresh.eval()(words()).logits, model(words()).logits)


def test_adapters_beside_a_library(library, tmp_path):
    """LoRA on the host, and the register and the result trained beside it."""
    peft = pytest.importorskip("peft")
    model = attached(library)
    model.save_pretrained(tmp_path / "base")
    kinds = {"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    config = peft.LoraConfig(modules_to_save=["register", "result"], **kinds)
    tuned = peft.get_peft_model(model, config)
    trained = {name for name, weight in tuned.named_parameters() if weight.requires_grad}
    assert any("lora_A" in name for name in trained)
    assert any("result" in name for name in trained)
    assert not any("routines" in name for name in trained)
    before = tuned.eval()(words()).logits
    args = training(tmp_path / "out", max_steps=3, save_strategy="no")
    transformers.Trainer(model=tuned, args=args, train_dataset=examples(16)).train()
    logits = tuned.eval()(words()).logits
    assert not torch.equal(logits, before)
    model.check()
    tuned.save_pretrained(tmp_path / "adapter")
    base = lsrl.nn.load_attached(tmp_path / "base")
    read = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(read(words()).logits, logits)
    options = {"max_new_tokens": 6, "do_sample": False}
    cached = read.generate(input_ids=words(), use_cache=True, **options)
    assert torch.equal(cached, read.generate(input_ids=words(), use_cache=False, **options))


@pytest.mark.studies
def test_five_algorithms_are_learnt_and_hold_at_a_thousand_digits():
    """From answers alone, on texts of up to 12 digits; then by the certified network."""
    pytest.importorskip("accelerate")
    model = bench.attached(bench.host("llama", 0), lsrl.nn.Library(bench.tables()))
    bench.train(model, 0)
    model.check()
    assert bench.accuracy(model, 12, 300) == 1
    assert bench.accuracy(model, 1000, 100) == 1
    assert bench.same_when_read_again(model)
    assert bench.same_with_a_cache(model)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"host": torch.nn.Linear(1, 1)}, "expects a PreTrainedModel"),
        ({"library": routines()}, "expects a Library"),
        ({"layer": 2}, "layer must be an int from 0 to 1"),
        ({"select": "attention"}, "select must be 'register' or 'token'"),
        ({"arguments": {}}, "expected a mapping of the host's token ids"),
        ({"arguments": "learned"}, "or 'learnt', got 'learned'"),
        ({"arguments": {VOCAB: 0}}, f"token must be an int from 0 to {VOCAB - 1}"),
        ({"arguments": {0: NUMBERS + 1}}, rf"arguments\[0\] must be an int from 0 to {NUMBERS}"),
    ],
)
def test_arguments_that_make_no_sense(given, message, library):
    options = {"host": drawn("Llama"), "library": library, "arguments": {0: 0}, **given}
    host = options.pop("host")
    with pytest.raises(InputError, match=message):
        lsrl.nn.attach(host, **options)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"skip": False}, "whose last symbol changes nothing"),
        ({"target": "deltanet"}, "torch"),
    ],
)
def test_libraries_that_a_host_can_t_take(made, message):
    library = lsrl.nn.Library(routines()[:1], **made)
    with pytest.raises(InputError, match=message):
        lsrl.nn.attach(drawn("Llama"), library=library, arguments={0: 0})


def test_a_second_library_is_refused(library):
    with pytest.raises(InputError, match="join them in one Library"):
        lsrl.nn.attach(attached(library), library=library, arguments={0: 0})


def test_calls_that_would_lose_the_library(library):
    model, ids = attached(library), words()
    for given, message in (
        ({"inputs_embeds": model.get_input_embeddings()(ids)}, "expected input_ids"),
        ({"input_ids": ids, "attention_mask": torch.ones(3, 1, 9, 9)}, "attention_mask of shape"),
        ({"input_ids": ids, "cache": SimpleNamespace()}, "expected a Cache of layers"),
    ):
        with pytest.raises(InputError, match=message):
            model(**given)
    alone = drawn("Llama")(ids, use_cache=True).cache
    with pytest.raises(InputError, match="got one of a host alone"):
        model(ids, cache=alone)
    with pytest.raises(InputError, match="no cache in training"):
        model.train()(ids, use_cache=True)
    assert isinstance(copy.deepcopy(model).eval(), AttachedForCausalLM)


def test_copies_run_their_own_library(library):
    model = attached(library)
    copied = copy.deepcopy(model)
    logits = model(words()).logits
    with torch.no_grad():
        model.library.result.weight.zero_()
    assert torch.equal(copied(words()).logits, logits)
