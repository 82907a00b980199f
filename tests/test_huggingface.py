"""The export to Hugging Face: unmodified classes of transformers give the program's answers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lsrl
from lsrl.backends.residual.network import SHARPNESS, token_head
from lsrl.backends.residual.reference import TRIED
from lsrl.errors import (
    BoundsError,
    FormatError,
    InputError,
    PrecisionError,
    ProgramError,
    ShapeError,
    UnsupportedOpError,
)
from lsrl.programs import catalogue
from tests.grids import studied, thinned

pytestmark = pytest.mark.one_in(3)

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")

TARGETS = ("mamba", "griffin")
ALL = (*TARGETS, "mamba2", "deltanet")
REQUIRED = (
    "majority", "parity", "counter_mod", "copy_delay", "dyck1", "ngram", "flip_flop",
    "associative_recall", "tok2tok", "cycle_navigation",
)  # fmt: skip
QUICK = ("counter_mod-griffin", "dyck1-mamba", "flip_flop-griffin")
NEED_A_LAYER = ("counter_mod", "cycle_navigation", "modular_sum")
FILES = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json", "README.md",
}  # fmt: skip


def load(transformers, folder):
    """The model, by no more than its folder; every weight is used and none is made up."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


def exported(transformers, program, target, folder, **options):
    """A compiled model, and the same in transformers."""
    model = lsrl.compile(program, target)
    model.export("huggingface", folder, **options)
    return model, load(transformers, folder)


def logits_of(theirs, ids, mask=None):
    """With a mask, with the positions too that `generate` makes of it."""
    given = {"input_ids": torch.from_numpy(ids)}
    if mask is not None:
        given["attention_mask"] = torch.from_numpy(mask).long()
        if theirs.config.model_type == "recurrent_gemma":
            places = given["attention_mask"].cumsum(-1) - 1
            given["position_ids"] = places.masked_fill(~torch.from_numpy(mask), 0)
    with torch.no_grad():
        return theirs(**given).logits.float().numpy()


def stepwise_logits(theirs, ids):
    """Token by token, with what each class has as a cache."""
    from benchmarks.huggingface_classes import stepwise_logits

    with torch.no_grad():
        return np.concatenate([*stepwise_logits(theirs, torch.from_numpy(ids))], axis=1)


def parabolas(outputs, rows, first=0):
    """The logits 16 (2 k y - k^2) of outputs (...): (..., rows), the last two of no symbols.

    A tied head counts symbols from 1, and so does `first`.
    """
    k, y = np.append(np.arange(rows - 2), [-1, -1]) + first, outputs + first
    return SHARPNESS * (2 * k * y[..., None] - k**2)


def filled_up(texts, padding, more=0):
    """Texts of several lengths as one array, with what comes ahead of them, and the mask."""
    length = max(map(len, texts)) + more
    ids = np.full((len(texts), length), padding)
    for row, text in zip(ids, texts, strict=True):
        row[length - len(text) :] = text
    mask = np.arange(length) >= np.array([[length - len(text)] for text in texts])
    return ids, mask


# ---------------------------------------------------------------- equal to the reference


def assert_equals_its_reference(
    transformers, target, entry, parameters, folder, *, sequences, tokens, generated
):
    program = entry.program(**parameters)
    try:
        model, theirs = exported(transformers, program, target, folder)
    except UnsupportedOpError:
        pytest.skip("the target can't hold it")
    except PrecisionError:
        assert not lsrl.compile(program, target).certificate.exact
        pytest.skip("float32 can't hold it")
    assert model.certificate.exact
    random = np.random.default_rng(7)
    cases = [entry.sample(random, tokens, **parameters) for _ in range(sequences)]
    texts = [case[0][: tokens - 3 * (row % 3)] for row, case in enumerate(cases)]
    config = theirs.config
    layers = config.lsrl["layers"]
    ids, mask = filled_up(texts, config.pad_token_id, more=2)
    expected = np.zeros(ids.shape)
    expected[mask] = np.concatenate([
        entry.expected(case, **parameters)[: len(text), 0]
        for case, text in zip(cases, texts, strict=True)
    ])  # fmt: skip

    logits = logits_of(theirs, ids)
    np.testing.assert_array_equal(logits.argmax(-1)[mask], expected[mask])
    np.testing.assert_array_equal(logits[mask], parabolas(expected, config.vocab_size)[mask])
    assert not logits[~mask].any()
    np.testing.assert_array_equal(logits_of(theirs, ids, mask), logits)
    np.testing.assert_array_equal(stepwise_logits(theirs, ids), logits)
    alone = np.stack([np.pad(text, (0, ids.shape[1] - len(text))) for text in texts])
    ours = model.module.logits((alone.astype(np.int32),), config.vocab_size - 2)
    # Where the head needs a layer more (see `residual_answer`), our own model has none.
    if layers == model.num_layers:
        for row, text in enumerate(texts):
            np.testing.assert_array_equal(ours[row, : len(text)], logits[row, mask[row], :-2])
    else:
        assert program.name in NEED_A_LAYER

    (kind,) = program.inputs.values()
    if program.output_type.size <= kind.size:
        most = max(1, (ids.shape[1] - generated) // 2)
        assert_generates(model, theirs, [text[: most - row % 2] for row, text in enumerate(texts)],
                         generated)  # fmt: skip


def assert_generates(model, theirs, prompts, steps, **options):
    """Texts go on as ours and the reference's, as long as they keep the program's promises."""
    program = model.program
    limit, longest = program.max_length, max(map(len, prompts))
    steps = steps if limit is None else min(steps, limit - longest + 1)
    ids, mask = (torch.from_numpy(x) for x in filled_up(prompts, theirs.config.pad_token_id))
    with torch.no_grad():
        got = theirs.generate(ids, attention_mask=mask.long(), max_new_tokens=steps, **options)
    assert got.shape == (len(prompts), longest + steps)
    told = got[:, longest:].numpy()
    legal = []
    for row, prompt in enumerate(prompts):
        try:
            answers = program.run([*prompt, *told[row, :-1]])[:, 0]
        except BoundsError:
            continue
        legal.append(row)
        np.testing.assert_array_equal(told[row], answers[len(prompt) - 1 :])
    for length in {len(prompts[row]) for row in legal}:
        rows = [row for row in legal if len(prompts[row]) == length]
        ours = model.generate(np.stack([prompts[row] for row in rows]), steps)
        np.testing.assert_array_equal(told[rows], ours)
    return len(legal)


@pytest.mark.parametrize(
    ("name", "target"),
    studied(
        thinned([pytest.param(n, each, id=f"{n}-{each}") for n in REQUIRED for each in ALL], 2),
        *QUICK,
    ),
)
def test_program_equals_its_reference(name, target, transformers, tmp_path):
    entry = catalogue()[name]
    assert_equals_its_reference(
        transformers, target, entry, entry.parameters[0], tmp_path / "model",
        sequences=8, tokens=60, generated=12,
    )  # fmt: skip


def text_programs():
    """Entries and parameters with one Token input and a Token output."""
    found = []
    for name, entry in catalogue().items():
        for number, parameters in enumerate(entry.parameters):
            program = entry.program(**parameters)
            kinds = [type(kind) for kind in program.inputs.values()]
            if kinds == [lsrl.Token] and program.output_type is not None:
                found.append(pytest.param(entry, parameters, id=f"{name}-{number}"))
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("target", ALL)
@pytest.mark.parametrize(("entry", "parameters"), text_programs())
def test_program_on_200_sequences_of_200_tokens(entry, parameters, target, transformers, tmp_path):
    assert_equals_its_reference(
        transformers, target, entry, parameters, tmp_path / "model",
        sequences=200, tokens=200, generated=50,
    )  # fmt: skip


# ---------------------------------------------------------------- pitfalls, each avoided


@pytest.fixture(
    scope="module",
    params=[*TARGETS, *(pytest.param(name, marks=pytest.mark.nightly) for name in ALL[2:])],
)
def flip_flop(request, transformers, tmp_path_factory):
    """A model, the same in transformers, and the folder."""
    folder = tmp_path_factory.mktemp("exports") / request.param
    return *exported(transformers, lsrl.programs.flip_flop(), request.param, folder), folder


def test_the_head_is_not_the_embedding(flip_flop):
    """Mamba and RecurrentGemma tie them by default, and would overwrite the head."""
    model, theirs, _ = flip_flop
    assert theirs.config.tie_word_embeddings is False
    kernel = model.module.parameter_arrays()["output_kernel"]
    np.testing.assert_array_equal(theirs.lm_head.weight.detach().numpy(), token_head(kernel, 4, 2))
    table = model.module.parameter_arrays()[model.module.embedding_name]
    embedding = theirs.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(embedding[:4], table)
    assert len(embedding) == 6 and not embedding[4:].any()


def test_no_symbol_ends_a_text(flip_flop):
    """By default Mamba ends texts at 0, and RecurrentGemma at 1: both are symbols here."""
    _, theirs, _ = flip_flop
    for config in (theirs.config, theirs.generation_config):
        assert (config.eos_token_id, config.bos_token_id) == (None, None)
    for prompt in ([2, 0], [3, 0]):
        text = theirs.generate(torch.tensor([prompt]), max_new_tokens=9)
        assert text.tolist() == [[*prompt, *[prompt[0] - 2] * 9]]


def test_no_symbol_is_padding(flip_flop, transformers):
    """The default is symbol 0, whose embedding torch keeps out of training."""
    _, theirs, folder = flip_flop
    config, embedding = theirs.config, theirs.get_input_embeddings()
    assert (config.pad_token_id, theirs.generation_config.pad_token_id) == (5, 5)
    assert (config.lsrl["unknown"], config.lsrl["padding"]) == (4, 5)
    assert embedding.padding_idx in (None, 5) and embedding.weight[0].any()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    told = tokenizer(["READ", "SET1 READ NOD"], padding=True, return_tensors="pt")
    assert told.input_ids.tolist() == [[5, 5, 0], [3, 0, 4]]
    assert told.attention_mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert theirs.generate(**told, max_new_tokens=2).shape == (2, 5)
    assert tokenizer.decode(told.input_ids[0], skip_special_tokens=True) == "READ"


def test_the_model_says_nothing_at_a_word_that_is_no_symbol(flip_flop):
    """All logits are equal there, and what it holds it goes on to hold."""
    _, theirs, _ = flip_flop
    logits = logits_of(theirs, np.array([[4, 3, 4, 0, 5, 5, 0]]))[0]
    assert not logits[[0, 2, 4, 5]].any()
    assert logits.argmax(-1)[[1, 3, 6]].tolist() == [1, 1, 1]


@pytest.mark.parametrize("length", [2, 7])
def test_generation_from_the_cache_equals_that_without(length, flip_flop):
    """RecurrentGemma has a cache where a layer attends; whatever was run before, in every logit."""
    _, theirs, _ = flip_flop
    assert theirs.config.use_cache is theirs.generation_config.use_cache is True
    random = np.random.default_rng(length)
    theirs.generate(torch.from_numpy(random.integers(0, 4, (4, 5))), max_new_tokens=2)
    ids = torch.from_numpy(random.integers(0, 4, (4, length)))
    cached, anew = (
        theirs.generate(
            ids,
            max_new_tokens=9,
            output_logits=True,
            return_dict_in_generate=True,
            use_cache=cached,
        )
        for cached in (True, False)
    )
    assert torch.equal(cached.sequences, anew.sequences)
    assert torch.equal(torch.stack(cached.logits), torch.stack(anew.logits))
    assert torch.equal(theirs(ids).logits, theirs(ids, use_cache=False).logits)


@pytest.mark.parametrize("second", [[0], [0, 1]])
def test_nothing_leaks_from_one_prompt_into_the_next(second, flip_flop, transformers):
    """RecurrentGemma keeps states in its layers, and a card says how one token is read alone."""
    model, theirs, folder = flip_flop

    def others():
        theirs.generate(torch.tensor([[3, 3, 3]]), max_new_tokens=2)
        assert theirs(torch.tensor([[3, 3]])).logits.argmax(-1).tolist() == [[1, 1]]

    others()
    assert theirs(torch.tensor([second])).logits.argmax(-1).tolist() == [[0] * len(second)]
    if model.target == "griffin" and len(second) == 1:
        card = " ".join((folder / "README.md").read_text().split())
        assert 'padding="max_length", max_length=2' in card and "model._setup_cache(" in card
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        others()
        ids = tokenizer(["READ"], padding="max_length", max_length=2, return_tensors="pt")
        assert theirs.generate(**ids, max_new_tokens=3).tolist() == [[5, 0, 0, 0, 0]]
        others()
        theirs._setup_cache(theirs.config, 1, theirs.device, theirs.dtype)
    text = theirs.generate(torch.tensor([second]), max_new_tokens=3)
    assert text.tolist() == [[*second, 0, 0, 0]]


@pytest.mark.parametrize("name", ["copy_delay", "parity", "tok2tok"])
def test_griffins_embedding_is_scaled_exactly(name, transformers, tmp_path):
    """The class multiplies by sqrt(d), rounded to bfloat16; its RG-LRU is as wide as the stream."""
    program = catalogue()[name].program(**catalogue()[name].parameters[0])
    model, theirs = exported(transformers, program, "griffin", tmp_path / "model")
    config = theirs.config
    assert float(theirs.model.normalizer) ** 2 == model.width == config.hidden_size
    assert config.lru_width == config.hidden_size
    assert config.block_types == [*["recurrent"] * model.num_layers, "attention"]
    last = theirs.model.layers[model.num_layers]
    assert not any(weight.any() for weight in last.parameters())


@pytest.mark.parametrize("symbols", [2, 1000])
def test_griffins_soft_cap_changes_no_logit(symbols, transformers, tmp_path):
    """The class returns cap * tanh(logits / cap); the default cap of 30 would squash most."""
    program = lsrl.programs.first_token(vocab=symbols)
    _, theirs = exported(transformers, program, "griffin", tmp_path / "model")
    ids = torch.arange(symbols)[:, None]
    with torch.no_grad():
        before = theirs.lm_head(theirs.model(ids).last_hidden_state)
        after = theirs(ids).logits
    assert torch.equal(before, after)
    np.testing.assert_array_equal(after[:, 0], parabolas(np.arange(symbols), symbols + 2))
    cap = theirs.config.logits_soft_cap
    assert np.frexp(cap)[0] == 0.5 and 3 * SHARPNESS * symbols**2 <= cap * 2.0**-13


def test_numbers_are_float32(flip_flop):
    """Halved precision would lose the answers."""
    _, theirs, folder = flip_flop
    assert {weight.dtype for weight in theirs.parameters()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("target", TARGETS)
def test_symbols_that_only_come_out_do_no_harm(target, transformers, tmp_path):
    """Given an output that is larger than the input, the other embeddings carry no signal."""
    program = lsrl.programs.counter_mod(5)
    model, theirs = exported(transformers, program, target, tmp_path / "model")
    table = theirs.get_input_embeddings().weight.detach().numpy()
    assert theirs.config.vocab_size == len(table) == 7
    assert (table[2:5, 0] == table[0, 0]).all() and not table[2:, 1:].any()
    assert np.isfinite(logits_of(theirs, np.array([[0, 1, 4, 3, 1]]))).all()
    with pytest.raises(InputError, match="Token output that is not larger"):
        model.generate([0], 3)


# ---------------------------------------------------------------- probabilities and dtypes


TEXTS = {
    "flip_flop": lsrl.programs.flip_flop(),
    "majority": lsrl.programs.majority(),
    "copy_delay": lsrl.programs.copy_delay(2, 5),
    "induction_head": lsrl.programs.induction_head(vocab=6),
}


@pytest.mark.parametrize(
    ("name", "target"),
    studied(
        [pytest.param(n, each, id=f"{n}-{each}") for n in TEXTS for each in TARGETS],
        "copy_delay-mamba",
        "flip_flop-griffin",
    ),
)
def test_sampling_and_beams_say_what_the_model_says(name, target, transformers, tmp_path):
    """The answer has almost all of the probability, so no other text is ever as likely."""
    model, theirs = exported(transformers, TEXTS[name], target, tmp_path / "model")
    (kind,) = model.program.inputs.values()
    random = np.random.default_rng(3)
    prompts = [random.integers(0, kind.size, length) for length in (9, 4, 9, 4)]
    torch.manual_seed(0)
    for told in (
        assert_generates(model, theirs, 3 * prompts, 8, do_sample=True),
        3 * assert_generates(model, theirs, prompts, 8, num_beams=3),
    ):
        assert told == 3 * len(prompts)

    ids = np.stack([prompts[0], prompts[2]])
    answers = torch.from_numpy(model.run(ids)).long()
    likely = torch.from_numpy(logits_of(theirs, ids)).softmax(-1).gather(-1, answers)
    assert likely.min() >= 0.9999
    # The reference's own loss is of the next token: here, that of an answer that was fed back.
    text = np.concatenate([ids, model.generate(ids, 8)], axis=1)
    labels = torch.from_numpy(text).clone()
    labels[:, : ids.shape[1]] = -100
    assert theirs(torch.from_numpy(text), labels=labels).loss < 1e-5


@pytest.mark.parametrize(
    ("program", "target", "holds"),
    [
        pytest.param(lsrl.programs.flip_flop(), "mamba", True, id="mamba"),
        pytest.param(lsrl.programs.flip_flop(), "griffin", True, id="griffin"),
        # A running sum is a rounded exponential; the logits of 40 symbols have 11 bits, those of 14
        # add up terms of 9 bits, which this machine does not round.
        pytest.param(lsrl.programs.majority(40), "griffin", False, id="a sum"),
        pytest.param(lsrl.programs.first_token(vocab=40), "mamba", False, id="many symbols"),
        pytest.param(lsrl.programs.first_token(vocab=14), "mamba", None, id="not proven"),
        # A count to 1000 has 10 bits.
        pytest.param(lsrl.programs.majority(), "mamba", None, id="long counts"),
    ],
)
def test_the_config_says_which_dtypes_are_exact(program, target, holds, transformers, tmp_path):
    model, theirs = exported(transformers, program, target, tmp_path / "model")
    names = theirs.config.lsrl["exact_dtypes"]
    assert names == (["float32", "bfloat16"] if holds else ["float32"])
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"Exact in {' and '.join(names)}, as" in card
    if holds is not None:
        assert holds == loads_exactly(transformers, tmp_path / "model", theirs, model.program)


def loads_exactly(transformers, folder, theirs, program):
    """Whether logits in bfloat16 are those in float32, on random texts."""
    small = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    (kind,) = program.inputs.values()
    length = min(60, program.max_length or 60)
    ids = np.random.default_rng(5).integers(0, kind.size, (64, length))
    return np.array_equal(logits_of(small, ids), logits_of(theirs, ids))


@pytest.mark.nightly
@pytest.mark.parametrize("target", ALL)
@pytest.mark.parametrize(("entry", "parameters"), text_programs())
def test_dtypes_that_the_config_lists_are_exact(entry, parameters, target, transformers, tmp_path):
    """Given any text, also one that breaks a promise: those sums are no larger either."""
    try:
        model, theirs = exported(transformers, entry.program(**parameters), target, tmp_path / "m")
    except (UnsupportedOpError, PrecisionError):
        pytest.skip("there is no such export")
    if "bfloat16" in theirs.config.lsrl["exact_dtypes"]:
        assert loads_exactly(transformers, tmp_path / "m", theirs, model.program)


# ---------------------------------------------------------------- the head


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "program",
    [
        lsrl.programs.flip_flop(),
        lsrl.programs.counter_mod(5),
        pytest.param(lsrl.programs.cycle_navigation(), marks=pytest.mark.studies),
        pytest.param(lsrl.programs.tok2tok(2, 7, 3), marks=pytest.mark.studies),
    ],
    ids=lambda program: program.name,
)
def test_the_head_can_be_tied_to_the_embedding(program, target, transformers, tmp_path):
    """At the cost of a layer, and one tensor holds both."""
    model, theirs = exported(
        transformers, program, target, tmp_path / "model", tie_word_embeddings=True
    )
    assert theirs.lm_head.weight is theirs.get_input_embeddings().weight
    assert theirs.config.lsrl["layers"] == model.num_layers + 1
    (kind,) = program.inputs.values()
    # tok2tok promises nothing of its prompts, and so any text is one.
    ids = np.random.default_rng(0).integers(0, kind.size, (8, program.max_length or 60))[:, :60]
    expected = parabolas(program.run(ids)[..., 0], theirs.config.vocab_size, first=1)
    filled, mask = filled_up(ids, theirs.config.pad_token_id, more=3)
    logits = logits_of(theirs, filled)
    np.testing.assert_array_equal(logits[:, 3:], expected)
    np.testing.assert_array_equal(logits_of(theirs, filled, mask), logits)
    np.testing.assert_array_equal(stepwise_logits(theirs, filled), logits)
    if program.output_type.size <= kind.size:
        assert_generates(model, theirs, ids[:, :8], 6)


@pytest.mark.parametrize("target", TARGETS)
def test_an_output_of_large_terms_gets_a_channel_of_its_own(target, transformers, tmp_path):
    """Given a long count's rest, a sum up to 2^23, the head's multiples of it would be rounded."""
    program = lsrl.programs.cycle_navigation()
    model, theirs = exported(transformers, program, target, tmp_path / "model")
    labels = theirs.config.lsrl["labels"]
    assert len(labels) == theirs.config.lsrl["layers"]
    assert model.num_layers <= len(labels) <= model.num_layers + 1
    assert len(np.flatnonzero(theirs.lm_head.weight.detach().numpy()[1])) == 2

    arrays = model.module.parameter_arrays()
    model.module.replace_parameters({"output_kernel": 2 * arrays["output_kernel"]})
    with pytest.raises(PrecisionError, match="parameters were replaced"):
        model.export("huggingface", tmp_path / "again")


# ---------------------------------------------------------------- what the folder holds


def test_the_folder_holds_what_it_should(flip_flop):
    model, theirs, folder = flip_flop
    assert {path.name for path in folder.iterdir()} == FILES
    config = json.loads((folder / "config.json").read_text())
    assert config["lsrl"] == theirs.config.lsrl
    assert config["lsrl"]["labels"] == [list(layer) for layer in model.labels]
    assert config["lsrl"]["certificate"] == str(model.certificate)
    assert config["lsrl"]["program"] == "flip_flop"
    parameters = sum(weight.numel() for weight in theirs.parameters())
    assert f"{parameters} parameters" in (folder / "README.md").read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_the_card_says_what_the_model_is(target, tmp_path):
    @lsrl.program(max_length=30)
    def double(digit: lsrl.Token(3)) -> lsrl.Token(5):
        """Twice the last digit that was not 0."""
        seen = lsrl.bound(lsrl.hold(digit, digit > 0), 0, 2)
        return 2 * seen

    model = lsrl.compile(double, target)
    model.export("huggingface", tmp_path / "double")
    card = (tmp_path / "double" / "README.md").read_text()
    for line in (
        "# `double` as a ", "Twice the last digit that was not 0.", "of up to 30 tokens",
        "test_huggingface.py:", "exact        yes, at any length", double.graph.dump(), "0 one",
        "4     4            4",
    ):  # fmt: skip
        assert line in card
    assert str(Path(__file__).parent) not in card
    # The output is larger than the input, so it can't be fed back.
    assert "generate(ids" not in card


ODD = "`` ``` ````~~~\n---\nlicense: mine\n---\n# no <b>title</b>\n{braces} | pipes | ![x](y) \\ $"


def test_odd_names_stay_within_their_quotes(transformers, tmp_path):
    """What an author wrote is quoted: no Markdown, no HTML, no front matter is of it."""
    from huggingface_hub import ModelCard
    from markdown_it import MarkdownIt

    words = ["```", "<script>", "---", "`"]

    def odd(word: lsrl.Token(4, words)) -> lsrl.Token(4, words):
        return lsrl.hold(word.named(ODD), word > 0).named("```\n# signal")

    odd.__name__, odd.__doc__ = ODD, f"First.\n\n{ODD}\n```\n# Second\n<b>third</b> \ud800"
    program = lsrl.program(odd)
    lsrl.compile(program, "mamba", inspectable=True).export("huggingface", tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text()

    card = ModelCard(text)
    front = {"library_name", "pipeline_tag", "tags"}
    assert {name for name, value in card.data.to_dict().items() if value} == front
    parsed = MarkdownIt("commonmark").parse(card.text)
    children = [child for token in parsed for child in token.children or []]
    kinds = {token.type for token in [*parsed, *children]}
    assert not kinds & {"html_block", "html_inline", "image", "link_open", "hr"}
    titles = [parsed[i + 1].content for i, each in enumerate(parsed) if each.type == "heading_open"]
    assert titles[0].endswith(" as a MambaForCausalLM") and "license: mine" in titles[0]
    assert titles[1:] == ["Run it", "The program", "Vocabulary", "Certificate", "Channels"]
    blocks = [each.content for each in parsed if each.type == "fence"]
    assert len(blocks) == 6 and "# Second\n<b>third</b> ?\n" in blocks[1]
    compile(blocks[0], "card.py", "exec")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["lsrl"]["program"] == ODD
    assert load(transformers, tmp_path / "model").config.id2label[1] == "<script>"


def test_the_lines_of_the_card_run(flip_flop, monkeypatch, capsys):
    _, _, folder = flip_flop
    card = (folder / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    exec(compile(code, "card.py", "exec"), {})
    assert capsys.readouterr().out == "['0', '0', '0', '0']\n"
    assert 'tokenizer("SET0 READ IGNORE READ"' in code


@pytest.mark.studies
def test_a_process_without_lsrl_runs_it(flip_flop, tmp_path):
    """In an interpreter of its own, where any import of LSRL would fail."""
    _, _, folder = flip_flop
    code = f"""
import json, sys
sys.modules["lsrl"] = sys.modules["jax"] = None
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
model = AutoModelForCausalLM.from_pretrained({str(folder)!r})
ids = tokenizer("READ SET1 IGNORE READ SET0 READ", return_tensors="pt").input_ids
answers = model(ids).logits.argmax(-1).tolist()
text = tokenizer.decode(model.generate(ids[:, :2], max_new_tokens=3)[0])
if any(module and name.split(".")[0] in ("lsrl", "jax") for name, module in sys.modules.items()):
    raise SystemExit("LSRL was imported")
print(json.dumps([answers, text]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[[0, 1, 1, 1, 0, 0]], "READ SET1 IGNORE IGNORE IGNORE"]
    for word in ("not initialized", "newly initialized", "unexpected", "UNEXPECTED", "MISSING"):
        assert word not in done.stderr


def test_equal_models_are_exported_to_equal_bytes(flip_flop, tmp_path):
    model, _, folder = flip_flop
    model.export("huggingface", tmp_path / "again")
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_parameters_that_were_replaced_are_exported(transformers, tmp_path):
    """Given another bias of the inputs, which the class has no place for, the embedding has it."""
    model = lsrl.compile(lsrl.programs.copy_delay(1), "mamba")
    arrays = model.module.parameter_arrays()
    model.module.replace_parameters({"output_kernel": arrays["output_kernel"] / 2})
    table = arrays[model.module.embedding_name]
    bias = np.where(np.arange(len(table[0])) == model.labels[0].index("token"), 1, 0)
    model.module.replace_parameters({"input_bias": bias})
    model.export("huggingface", tmp_path / "model")
    theirs = load(transformers, tmp_path / "model")
    ids = np.array([[3, 1, 0, 2]])
    np.testing.assert_array_equal(logits_of(theirs, ids)[..., :-2], model.module.logits((ids,), 4))
    weight = theirs.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(weight[:-2], table + bias)
    assert theirs.config.lsrl["exact_dtypes"] == []
    for name in ("config.json", "README.md"):
        assert "not the compiled weights" in (tmp_path / "model" / name).read_text()
    assert "not proven" in (tmp_path / "model" / "README.md").read_text()


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("program", "text", "ids"),
    [
        (lsrl.programs.flip_flop(), "SET1 READ", [3, 0]),
        (lsrl.programs.associative_recall(), "KEY1 VALUE2  KEY1", [1, 6, 1]),
        (lsrl.programs.recall_overwriting(2, 2), "KEY1 VALUE0 END", [1, 2, 4]),
        (lsrl.programs.tok2tok(3, 10), "7 0 9", [7, 0, 9]),
        (lsrl.programs.dyck1(), "( ( ) )", [0, 0, 1, 1]),
        (lsrl.programs.dyck(kinds=2), "( [ ] )", [0, 1, 3, 2]),
        (lsrl.programs.dyck(kinds=5), "(4 )4", [4, 9]),
        (lsrl.programs.a_n_b_n_c_n(), "a b c", [0, 1, 2]),
        (lsrl.programs.selective_copy(), "_ 4 SAY", [0, 4, 5]),
        (lsrl.programs.cycle_navigation(), "STAY ON BACK", [0, 1, 2]),
        (lsrl.programs.country_capital(2), "m a l i _", lsrl.programs.encode_word("mali")[:5]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_words_are_the_programs_symbols(program, text, ids, transformers, tmp_path):
    lsrl.compile(program, "griffin").export("huggingface", tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer(text)["input_ids"] == ids
    assert tokenizer.decode(ids) == " ".join(text.split())
    limit = program.max_length
    assert tokenizer.model_max_length == limit or limit is None
    unknown = tokenizer.unk_token_id
    assert tokenizer("nothing of the kind")["input_ids"] == [unknown] * 4
    assert (unknown, tokenizer.pad_token_id) == (len(tokenizer) - 2, len(tokenizer) - 1)


def test_answers_have_names_of_their_own(transformers, tmp_path):
    program = lsrl.programs.associative_recall(2, 3)
    _, theirs = exported(transformers, program, "mamba", tmp_path / "model")
    labels = theirs.config.id2label
    expected = ["NOTHING", "VALUE0", "VALUE1", "VALUE2", "4", "[UNK]", "[PAD]"]
    assert [labels[symbol] for symbol in range(7)] == expected


def test_words_differ_whatever_the_names(transformers, tmp_path):
    """Given an input called as a number, a symbol that only comes out has another name."""

    @lsrl.program
    def shown(bit: lsrl.Token(2, ["3", "<3>"])) -> lsrl.Token(5):
        return 4 * bit

    lsrl.compile(shown, "mamba").export("huggingface", tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["3", "<3>", "2", "<<3>>", "4"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_program_may_have_the_words_of_special_tokens(target, transformers, tmp_path):
    """A tokenizer looks for its special tokens within words too."""
    words = ["[UNK]", "a[PAD]b", "<[UNK]", "-", "[UNK"]

    @lsrl.program
    def echo(word: lsrl.Token(5, words)) -> lsrl.Token(5, words):
        return word

    _, theirs = exported(transformers, echo, target, tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (tokenizer.unk_token, tokenizer.pad_token) == ("<[UNK]>", "<[PAD]>")
    told = tokenizer([" ".join(words), "a[PAD]b what"], padding=True, return_tensors="pt")
    assert told.input_ids.tolist() == [[0, 1, 2, 3, 4], [6, 6, 6, 1, 5]]
    assert theirs(**told).logits.argmax(-1)[0].tolist() == [0, 1, 2, 3, 4]
    assert theirs.config.id2label[5] == "<[UNK]>"


def test_names_of_tokens_are_checked_and_kept(tmp_path):
    assert lsrl.Token(3, "abc") == lsrl.Token(3, ["a", "b", "c"]) != lsrl.Token(3)
    assert lsrl.Token(2, "()").names == ("(", ")")
    for names in (["a"], ["a", "a"], ["a", "b c"], ["a", ""], ["a", 1], ["a", "\ud800"], 7, "abc"):
        with pytest.raises(ProgramError, match=r"Token\(2\) needs 2 different names"):
            lsrl.Token(2, names)

    @lsrl.program
    def turned(side: lsrl.Token(2, "()")) -> lsrl.Token(2, ["open", "shut"]):
        return 1 - side

    lsrl.compile(turned, "linear_rnn").save(tmp_path / "turned.lsrl")
    program = lsrl.load(tmp_path / "turned.lsrl").program
    assert program.inputs["side"] == lsrl.Token(2, "()")
    assert program.output_type == lsrl.Token(2, ["open", "shut"])


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("target", ["linear_rnn", "lstm"])
def test_other_targets_are_refused(target, tmp_path):
    model = lsrl.compile(lsrl.programs.majority(), target)
    with pytest.raises(InputError, match=r"no format 'huggingface'; mamba, .*griffin"):
        model.export("huggingface", tmp_path / "model")
    residual = lsrl.compile(lsrl.programs.majority(), "mamba")
    with pytest.raises(InputError, match="'mamba' has no format 'torch'"):
        residual.export("torch", tmp_path / "model")


def test_a_class_that_a_target_has_not_is_refused(tmp_path):
    model = lsrl.compile(lsrl.programs.majority(), "griffin")
    with pytest.raises(InputError, match=r"must be 'recurrent_gemma'.*mean 'recurrent_gemma'"):
        model.export("huggingface", tmp_path / "model", architecture="recurent_gemma")
    cell = lsrl.compile(lsrl.programs.majority(), "lstm")
    with pytest.raises(InputError, match="'torch' has no architecture to choose"):
        cell.export("torch", tmp_path / "model", architecture="lstm")
    assert not any(tmp_path.iterdir())
    model.export("huggingface", tmp_path / "model", architecture="recurrent_gemma")
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"Tried with {TRIED}." in " ".join(card.split())


def test_the_card_names_the_versions_that_it_was_tried_with():
    pinned = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    versions = dict(line.split("==") for line in pinned if "==" in line)
    assert f"transformers {versions['transformers']} and torch {versions['torch']}" == TRIED


def test_so_many_symbols_that_logits_would_round_are_refused(tmp_path):
    model = lsrl.compile(lsrl.programs.first_token(vocab=3000), "mamba")
    for tied in (False, True):
        with pytest.raises(PrecisionError, match="with 3000 symbols; use fewer symbols"):
            model.export("huggingface", tmp_path / "model", tie_word_embeddings=tied)


def test_what_has_no_symbols_has_no_tied_head(tmp_path):
    @lsrl.program(max_length=5)
    def clock(tick: lsrl.Token(1)) -> lsrl.Token(5):
        return lsrl.cumsum(1 + 0 * tick) - 1

    model = lsrl.compile(clock, "mamba")
    with pytest.raises(InputError, match="one symbol"):
        model.export("huggingface", tmp_path / "model", tie_word_embeddings=True)
    with pytest.raises(InputError, match="no embedding to tie"):
        model.export("torch", tmp_path / "model", tie_word_embeddings=True)


def test_a_head_needs_one_output():
    with pytest.raises(ShapeError, match="one output"):
        token_head(np.zeros((4, 2)), 3)


def test_the_tokenizers_library_is_an_extra(monkeypatch, tmp_path):
    """Writing needs neither torch nor transformers, and says what it needs."""
    model = lsrl.compile(lsrl.programs.majority(), "mamba")
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    model.export("huggingface", tmp_path / "model")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"pip install 'lsrl\[huggingface\]'"):
        model.export("huggingface", tmp_path / "again")


def test_only_exports_and_empty_folders_are_replaced(transformers, tmp_path):
    flip_flop = lsrl.compile(lsrl.programs.flip_flop(), "mamba")
    majority = lsrl.compile(lsrl.programs.majority(), "griffin")
    folder = tmp_path / "model"
    folder.mkdir()
    flip_flop.export("huggingface", folder)
    majority.export("huggingface", folder)
    assert load(transformers, folder).config.lsrl["program"] == "majority"

    # A checkpoint of someone else's, with files of the same names.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "lsrl": None}))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in (folder, tmp_path):
        with pytest.raises(FormatError, match="choose another path"):
            flip_flop.export("huggingface", path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
