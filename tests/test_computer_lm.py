"""SUBLEQ as a language model: unmodified classes of transformers run what is in their prompt."""

import functools

import numpy as np
import pytest

import lsrl
from lsrl import machine
from lsrl.errors import InputError, ProgramError
from lsrl.programs import catalogue, subleq_lm, subleq_lm_text
from tests.test_huggingface import load

pytestmark = pytest.mark.one_in(5)

CLASSES = {"mamba": "MambaForCausalLM", "griffin": "RecurrentGemmaForCausalLM"}
ENTRY = catalogue()["subleq_lm"]


@functools.cache
def compiled(target, cells=32, bits=8):
    return lsrl.compile(subleq_lm(cells, bits), target)


def done(image, cells, bits=8):
    """What a machine without input says of each instruction until it halts, and its memory."""
    memory, pc, words = [0] * cells, 0, []
    for address, value in image.items():
        memory[address] = value

    def read(address):
        return memory[address] if 0 <= address < cells else 0

    while 0 <= pc < cells:
        a, b, c = (read(pc + place) for place in range(3))
        taken, pc = read(a), pc + 3
        if 0 <= b < cells:
            memory[b] = (memory[b] - taken + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
            pc = c if memory[b] <= 0 else pc
            words += [f"@{b}", f"={memory[b]}"]
        else:
            words += ["@-1", ascii(chr(taken % 256)).replace(" ", "\\x20")]
        words.append(f">{pc}" if 0 <= pc < cells else "halt")
    return words, memory


def image_of(name, **parameters):
    return machine.programs()[name].image(**parameters)


# ---------------------------------------------------------------- the program


@pytest.mark.parametrize(
    ("target", "cells", "layers", "parameters"),
    [("mamba", 32, 4, 1_100_000), ("griffin", 32, 3, 1_300_000), ("mamba", 128, 6, 3_500_000)],
)
def test_it_is_small_and_exact_at_any_length(target, cells, layers, parameters):
    model = compiled(target, cells)
    assert model.certificate.exact and model.certificate.tokens is None
    assert model.num_layers <= layers and model.num_parameters <= parameters


@pytest.mark.parametrize(
    ("target", "cells"),
    [("mamba", 32), ("mamba", 128), pytest.param("griffin", 32, marks=pytest.mark.nightly)],
)
def test_any_text_goes_on_as_the_reference_says(target, cells):
    """Runs of random programs, and words in any order."""
    model, random = compiled(target, cells), np.random.default_rng(5)
    size = model.program.output_type.size
    texts = [ENTRY.sample(random, 200, cells=cells)[0] for _ in range(3)]
    texts += [random.integers(size, size=200) for _ in range(2)]
    ids = np.stack([np.pad(text, (0, 200 - len(text))) for text in texts])
    for text, row in zip(texts, model.run(ids), strict=True):
        expected = ENTRY.expected((text,), cells=cells)
        np.testing.assert_array_equal(row[: len(text)], expected)


def test_a_loop_ends_at_halt():
    program, image = subleq_lm(), image_of("multiplication", x=3, y=4)
    run = program.loop(*machine.card(program, image), steps=1000)
    names = program.output_type.names
    assert run.halted and [names[int(y)] for y in run.trace[:, 0]] == done(image, 32)[0]


def test_a_card_is_a_text():
    program = subleq_lm(8, 4)
    names = program.inputs["token"].names
    (text,) = machine.card(program, {5: -8, 2: 7, 3: 0}, start=3)
    assert [names[token] for token in text] == ["@2", "=7", "@5", "=-8", ">3"]
    for image, start in (({8: 1}, 0), ({0: 8}, 0), ({0: 1}, 8), ({0: 1}, -1)):
        with pytest.raises(InputError, match=r"expected a cell|has no cell|no word of 4 bits"):
            machine.card(program, image, start)


def test_characters_are_words():
    words = subleq_lm().inputs["token"].names
    characters = [word for word in words if word[0] in "'\""]
    assert sorted(map(ord, map(subleq_lm_text, [[word] for word in characters]))) == [*range(256)]
    assert subleq_lm_text(["@-1", "'A'", ">3", "@-1", r"'\x20'", '"\'"', "halt"]) == "A '"
    with pytest.raises(ProgramError, match=r"expected a character such as 'A', got \"'AB'\""):
        subleq_lm_text(["'AB'"])


# ---------------------------------------------------------------- transformers


def generated(transformers, theirs, folder, model, image):
    """The prompt as a text, what the class says until it stops by itself, and the interpreter."""
    import torch

    cells = (theirs.config.lsrl["inputs"] - 514) // 2
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    names = model.program.inputs["token"].names
    prompt = " ".join(names[token] for token in machine.card(model, image)[0])
    given = tokenizer(prompt, return_tensors="pt")
    expected, memory = done(image, cells)
    with torch.no_grad():
        ids = theirs.generate(**given, max_new_tokens=len(expected) + 20)[0]
    told = tokenizer.decode(ids[given.input_ids.shape[1] :]).split()
    assert told == expected and told[-1] == "halt"
    return memory, subleq_lm_text(told)


@pytest.mark.parametrize("target", CLASSES)
def test_an_unmodified_class_multiplies(target, transformers, tmp_path):
    model = compiled(target)
    model.export("huggingface", tmp_path / "model")
    theirs = load(transformers, tmp_path / "model")
    assert type(theirs).__name__ == CLASSES[target]
    image = image_of("multiplication", x=9, y=5)
    memory, _ = generated(transformers, theirs, tmp_path / "model", model, image)
    assert memory[image.address("product")] == 45


@pytest.mark.nightly
def test_an_unmodified_mamba_with_128_cells(transformers, tmp_path):
    model = compiled("mamba", 128)
    model.export("huggingface", tmp_path / "model")
    theirs = load(transformers, tmp_path / "model")

    def left(name, **parameters):
        image = image_of(name, **parameters)
        return image, *generated(transformers, theirs, tmp_path / "model", model, image)

    _, _, text = left("hello")
    assert text == "Hello, world!\n"
    image, memory, _ = left("multiplication", x=-11, y=10)
    assert memory[image.address("product")] == -110
    for numbers in ([31, -4, 15, 9], [4, 3, 2, 1], [0, 0, -60, 60]):
        image, memory, _ = left("sorting", numbers=numbers)
        first = image.address("numbers")
        assert memory[first : first + 4] == sorted(numbers)
