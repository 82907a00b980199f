"""Models as checkpoints without a head: a class's layers, between maps of inputs and outputs.

A stock class has one table of tokens for inputs, and a head for outputs. Programs with vectors, or
with several inputs or outputs, have a matrix each beside the checkpoint, in `maps.safetensors`:
what comes in is added up and given as `inputs_embeds`, what comes out is `last_hidden_state` times
"output". The table is that of the first Token input; without one it has one row, which all tokens
share.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.reference import Config
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token
from lsrl.language.program import Program

MAPS = "maps.safetensors"
OUTPUT = "output"
EMBEDDING = "embedding"
# Tokens in the card's example.
SHOWN = 4


class Headless(NamedTuple):
    """The arrays of a checkpoint without a head.

    Attributes:
      arrays: of the class with its head, by its names.
      maps: beside it: "input.1" of the program's input 1, if it is read and not in the embedding;
        "output".
      places: per program input "embedding", the map's name, or None where nothing reads it.
    """

    arrays: dict[str, Array]
    maps: dict[str, Array]
    places: tuple[str | None, ...]


def headless(network: ResidualNetwork) -> Headless:
    """Sort a network's arrays into those of the class and maps."""
    arrays = network.parameter_arrays()
    bias, maps = arrays.pop("input_bias"), {OUTPUT: arrays.pop("output_kernel")}
    places: list[str | None] = [None] * len(network.structure.inputs)
    for name, number in network.input_names().items():
        if name == network.embedding_name:
            places[number] = EMBEDDING
            continue
        places[number] = f"input.{number}"
        maps[f"input.{number}"] = arrays.pop(name)
    table = arrays.get(network.embedding_name)
    arrays[network.embedding_name] = bias[None] if table is None else table + bias
    return Headless(arrays, maps, tuple(places))


def without_prefix(arrays: dict[str, Array]) -> dict[str, Array]:
    """The parameters of a class, by its names without its head."""
    return {name.partition(".")[2]: array for name, array in arrays.items()}


def types_of(program: Program, found: Headless) -> Config:
    """What the configuration says of inputs and outputs."""
    out = program.output_type
    inputs = [
        {"name": name, **_type(kind), "map": place}
        for (name, kind), place in zip(program.inputs.items(), found.places, strict=True)
    ]
    return {
        "inputs": inputs,
        "outputs": {"width": program.num_outputs, **({} if out is None else _type(out))},
    }


def _type(kind: InputType) -> Config:
    if isinstance(kind, Token):
        return {"token": kind.size, **({} if kind.names is None else {"words": kind.names})}
    return {"vector": kind.width}


def example(program: Program, found: Headless) -> str:
    """Lines of Python that run a checkpoint without a head, with nothing of ours."""
    tokens = min(SHOWN, program.max_length or SHOWN)
    kinds = list(program.inputs.items())
    given = "\n".join(f"    {line}" for line in map(_given, kinds, [tokens] * len(kinds)))
    single = found.places == (EMBEDDING,)
    call = "inputs[0]" if single else f"inputs_embeds={' + '.join(_terms(program, found.places))}"
    return f"""\
import torch
from safetensors.torch import load_file
from transformers import AutoModel

model = AutoModel.from_pretrained(".")  # the path of this folder
maps = load_file("{MAPS}")
inputs = [
{given}
]
embedding = model.get_input_embeddings()
with torch.no_grad():
    outputs = model({call}).last_hidden_state @ maps["{OUTPUT}"]
print(outputs.tolist())  # (batch, time, outputs)
"""


def _given(named: tuple[str, InputType], tokens: int) -> str:
    """A line with values of one input."""
    name, kind = named
    values: Sequence[object]
    if isinstance(kind, Token):
        values = [symbol % kind.size for symbol in range(tokens)]
        what = f"(batch, time), ids from 0 to {kind.size - 1}"
    else:
        ends = kind.facts()
        values = [(ends.high if token % 2 else ends.low).tolist() for token in range(tokens)]
        what = f"(batch, time, {kind.width})"
    # !a keeps a name within its line, whatever it is.
    return f"torch.tensor([{values}]),  # {name!a}: {what}"


def _terms(program: Program, places: Sequence[str | None]) -> Iterator[str]:
    """What is added up for the stream."""
    kinds = list(program.inputs.values())
    if EMBEDDING not in places:
        yield "embedding.weight.expand(*inputs[0].shape[:2], -1)"
    for number, place in enumerate(places):
        if place == EMBEDDING:
            yield f"embedding(inputs[{number}])"
        elif place is not None and isinstance(kinds[number], Token):
            yield f'maps["{place}"][inputs[{number}]]'
        elif place is not None:
            yield f'inputs[{number}] @ maps["{place}"]'
