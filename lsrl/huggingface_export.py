"""Models of the residual targets as checkpoints of Hugging Face's transformers.

The folder holds what `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`
read, with no code of ours: the weights of an unmodified `MambaForCausalLM` or
`RecurrentGemmaForCausalLM`, its configuration, a tokenizer with a word for each symbol, and a card.
Neither torch nor transformers is needed to write it.

At each token the symbol of the greatest logit is the program's output; so greedy generation feeds
outputs back, as `Model.generate` does. See `token_head` in `lsrl.backends.residual.network`.
"""

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from safetensors.numpy import save as to_safetensors

from lsrl.errors import FormatError, InputError, PrecisionError
from lsrl.folders import replace_folder
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array, power_of_two_above
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.numerics import numerics_of

if TYPE_CHECKING:
    from lsrl.backends.residual.network import ResidualNetwork
    from lsrl.backends.residual.stream import Stream

FORMAT = "lsrl-huggingface"
VERSION = 1
CONFIG = "config.json"
# torch's tanh returns its argument below 2^-11.47.
TANH_IS_IDENTITY = 2.0**-13

Config = dict[str, Any]


class Vocabulary(NamedTuple):
    """The symbols of a checkpoint: as many as the larger of input and output has.

    Attributes:
      words: what the tokenizer calls each symbol: its name as an input.
      answers: what each symbol means as an output.
      inputs: how many symbols the program reads.
      outputs: how many it says.
    """

    words: tuple[str, ...]
    answers: tuple[str, ...]
    inputs: int
    outputs: int

    @property
    def size(self) -> int:
        """Number of symbols."""
        return len(self.words)


# ---------------------------------------------------------------- writing


def write(
    path: str | os.PathLike[str],
    network: "ResidualNetwork",
    *,
    program: Program,
    target: str,
    stream: "Stream",
    certificate: str,
    certified: int | None,
    tie: bool = False,
) -> None:
    """Write a folder that transformers can load.

    The folder appears whole or not at all: a failed export leaves an older one as it was.

    Args:
      path: the folder; an older export in its place is replaced.
      network: the weights.
      program: what they carry out: one Token input and a Token output.
      target: the target's name.
      stream: the layout, whose channels the card names.
      certificate: what is proven, as text.
      certified: the number of tokens that it speaks of; None for any.
      tie: whether the head is the embedding.

    Raises:
      InputError: a program with other inputs or outputs, or the tokenizers library is missing.
      PrecisionError: float32 can't tell the logits of so many symbols apart exactly, or a layer has
        to be added to a network whose parameters were replaced.
      FormatError: the path holds something that is no export.
      OSError: the folder can't be written.
    """
    vocabulary = vocabulary_of(program)
    arrays, network, stream = (
        _tied(network, stream, target, vocabulary)
        if tie
        else _untied(network, stream, target, vocabulary)
    )
    kind = _KINDS[target]
    use_cache = kind.caches
    config = {
        "architectures": [kind.architecture],
        "model_type": kind.model_type,
        "dtype": "float32",
        "vocab_size": vocabulary.size,
        "hidden_size": network.width,
        "num_hidden_layers": network.depth,
        "use_cache": use_cache,
        # Both classes tie by default, and would put the embedding in the place of the head.
        "tie_word_embeddings": tie,
        # The defaults make symbols special that are the program's own: Mamba ends texts at 0.
        **_NO_SPECIAL_TOKENS,
        **kind.further(network, arrays, vocabulary),
        # An output may mean something else than the input of the same number.
        "id2label": {str(symbol): answer for symbol, answer in enumerate(vocabulary.answers)},
        "label2id": {answer: symbol for symbol, answer in enumerate(vocabulary.answers)},
        "lsrl": {
            "format": FORMAT,
            "version": VERSION,
            "lsrl": version("lsrl"),
            "program": program.name,
            "target": target,
            "max_length": program.max_length,
            "inputs": vocabulary.inputs,
            "outputs": vocabulary.outputs,
            "labels": stream.labels(),
            "certificate": _without_folders(certificate, program.graph),
            "certified_tokens": certified,
        },
    }
    generation = {"do_sample": False, "use_cache": use_cache, **_NO_SPECIAL_TOKENS}
    card = _card(network, arrays, config, program, stream, vocabulary)
    files = {
        CONFIG: _json(config),
        "generation_config.json": _json(generation),
        "model.safetensors": to_safetensors(arrays, {"format": "pt"}),
        **_tokenizer(vocabulary, program.max_length or certified),
        "README.md": card.encode(),
    }
    replace_folder(Path(path).resolve(), files, _check_export)


_NO_SPECIAL_TOKENS: Config = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _without_folders(text: str, graph: Graph) -> str:
    """A text in which source files have their names only: a checkpoint is made to be published."""
    for file in {source.file for node in graph.nodes for source in node.sources}:
        text = text.replace(file, Path(file).name)
    return text


def _check_export(folder: Path) -> None:
    """Raise FormatError unless a folder holds an older export of this kind."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        ours = config["lsrl"]["format"] == FORMAT
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        ours = False
    if not ours:
        raise FormatError(
            f"{folder}: expected no such path, an empty folder or an older export, got a "
            "checkpoint that LSRL did not write; choose another path, or remove it first"
        )


# ---------------------------------------------------------------- symbols


def vocabulary_of(program: Program) -> Vocabulary:
    """The symbols of a program that a causal language model has a place for.

    Raises:
      InputError: not one Token input and a Token output.
    """
    kinds = list(program.inputs.values())
    out = program.output_type
    if len(kinds) != 1 or not isinstance(kinds[0], Token) or out is None:
        raise InputError(
            "export: 'huggingface' takes a program with one Token input and a Token output, since "
            f"a causal language model has no others, got {program!r}; run this one in our own "
            "model with model.run, or annotate the function with lsrl.Token(n) and -> lsrl.Token(n)"
        )
    size = max(kinds[0].size, out.size)
    # Words must differ, even if an input is called "7" and there is a symbol 7 without a name.
    words = _completed(kinds[0].names or _numbers(kinds[0].size), out.names or (), size)
    answers = _completed(out.names or _numbers(out.size), (), size)
    return Vocabulary(words, answers, kinds[0].size, out.size)


def _numbers(size: int) -> tuple[str, ...]:
    return tuple(str(symbol) for symbol in range(size))


def _completed(names: tuple[str, ...], others: tuple[str, ...], size: int) -> tuple[str, ...]:
    """Names for all symbols: those given, else those of `others`, else numbers."""
    found = list(names)
    for symbol in range(len(names), size):
        wanted = others[symbol] if symbol < len(others) else str(symbol)
        while wanted in found:
            wanted = f"<{wanted}>"
        found.append(wanted)
    return tuple(found)


def _tokenizer(vocabulary: Vocabulary, max_length: int | None) -> dict[str, bytes]:
    """The files of a tokenizer that splits at blanks and adds nothing."""
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError as error:
        raise InputError(
            "export: 'huggingface' needs the tokenizers library, which is not installed: "
            "pip install 'lsrl[huggingface]'"
        ) from error
    # Without an unknown token a word that is no symbol is an error, and not silently another one.
    ids = {word: symbol for symbol, word in enumerate(vocabulary.words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=""))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **({} if max_length is None else {"model_max_length": max_length}),
    }
    return {
        "tokenizer.json": f"{tokenizer.to_str(pretty=True)}\n".encode(),
        "tokenizer_config.json": _json(settings),
    }


# ---------------------------------------------------------------- weights


Checkpoint = tuple[dict[str, Array], "ResidualNetwork", "Stream"]


def _untied(
    network: "ResidualNetwork", stream: "Stream", target: str, vocabulary: Vocabulary
) -> Checkpoint:
    """The reference's parameters, with the network and the layout that they are of."""
    from lsrl.backends.residual.answer import answering
    from lsrl.backends.residual.network import token_head

    if not logits_are_exact(stream, vocabulary.size):
        longer = answering(_backend(target), stream)
        if not logits_are_exact(longer, vocabulary.size):
            raise _too_many(f"with {vocabulary.size} symbols")
        network, stream = _lowered_anew(network, stream, longer, target), longer
    arrays = network.parameter_arrays()
    bias, kernel = arrays.pop("input_bias"), arrays.pop("output_kernel")
    arrays[network.embedding_name] = _embedding(arrays[network.embedding_name] + bias, vocabulary)
    arrays["lm_head.weight"] = token_head(kernel, vocabulary.size).astype(np.float32)
    return _contiguous(arrays), network, stream


def _tied(
    network: "ResidualNetwork", stream: "Stream", target: str, vocabulary: Vocabulary
) -> Checkpoint:
    """As `_untied`, for a head that is the embedding; see `lsrl.backends.residual.answer`."""
    from lsrl.backends.residual.answer import tied
    from lsrl.backends.residual.certificate import SIZE

    if vocabulary.inputs < 2:
        raise InputError("export: a program of one symbol has no symbols for a tied head to tell")
    if 3 * vocabulary.size**2 > 2**24:
        raise _too_many(f"with {vocabulary.size} symbols")
    longer, symbol, square = tied(_backend(target), stream)
    network, stream = _lowered_anew(network, stream, longer, target), longer
    arrays = network.parameter_arrays()
    bias = arrays.pop("input_bias")
    del arrays["output_kernel"]
    table = _embedding(arrays[network.embedding_name] + bias, vocabulary)
    scale, symbols = network.structure.embedding_scale, np.arange(vocabulary.size)
    table[:, symbol], table[:, square] = symbols / scale, symbols**2 / scale
    arrays[network.embedding_name] = table
    # All that the head shall see: 2 y beside k, and -1 beside k^2. The constant is shut out.
    gain = np.zeros(network.width)
    gain[symbol], gain[square] = 2 * scale * SIZE, scale * SIZE
    arrays[network.final_norm_name] = (gain - network.gain_offset).astype(np.float32)
    return _contiguous(arrays), network, stream


def _embedding(table: Array, vocabulary: Vocabulary) -> Array:
    """A table with a row for every symbol.

    Symbols that only come out are no inputs; should one come in, its row has the constant channel
    alone, so that the norms still find the scale that they are made for.
    """
    idle = np.zeros((vocabulary.size - len(table), table.shape[1]), table.dtype)
    idle[:, 0] = table[0, 0]
    return np.concatenate([table, idle])


def _contiguous(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _backend(target: str) -> Any:
    from lsrl.backends import registry

    return registry.find(target)


def _lowered_anew(
    network: "ResidualNetwork", stream: "Stream", longer: "Stream", target: str
) -> "ResidualNetwork":
    """The network of a layout with a layer more.

    Args:
      network: the one without it.
      stream: its layout.
      longer: the layout with the layer.
      target: the target's name.

    Raises:
      PrecisionError: it is not exact, or the old network is not as it was compiled.
    """
    backend, numerics = _backend(target), numerics_of("float32")
    compiled, given = backend.lower(stream, numerics).parameter_arrays(), network.parameter_arrays()
    if any(not np.array_equal(compiled[name], given[name]) for name in compiled):
        raise PrecisionError(
            "export: this program's head needs a layer more, and the model's parameters were "
            "replaced, so the layer would not fit; export the model as it was compiled"
        )
    failure = backend.analysis(longer, numerics)(longer.graph.tokens).first_failure()
    if failure is not None:
        raise _too_many(f"with the layer that the head needs: {failure}")
    return cast("ResidualNetwork", backend.lower(longer, numerics))


def _too_many(why: str) -> PrecisionError:
    return PrecisionError(
        f"export: float32 can't add up the logits 2 k y - k^2 exactly, {why}; use fewer symbols, "
        "or run the program in our own model with model.run"
    )


def logits_are_exact(stream: "Stream", vocabulary: int) -> bool:
    """Whether float32 adds up the logits 2 k y - k^2 without rounding, in any order.

    Args:
      stream: its output row is y.
      vocabulary: number of symbols.
    """
    (row,) = stream.output
    facts, most = stream.graph.facts, vocabulary - 1
    size = abs(row.bias) + sum(
        abs(weight) * float(facts[node].magnitude[channel]) for (node, channel), weight in row.terms
    )
    grid = min(1.0, stream.hull(row).step)
    weights = np.outer(2 * np.arange(vocabulary), list(stream.read(row).values()))
    rounded = weights.astype(np.float32)
    # Magnitudes bound the normed stream, so a product is on the grid if its weight is exact.
    return bool((rounded == weights).all() and 2 * most * size + most**2 <= 2.0**24 * grid)


# ---------------------------------------------------------------- configurations


class Kind(NamedTuple):
    """A class of transformers.

    Attributes:
      architecture: its name.
      model_type: the name of its configuration.
      caches: whether it can be told to keep its state by default.
      further: what its configuration says besides what all say.
    """

    architecture: str
    model_type: str
    caches: bool
    further: Callable[["ResidualNetwork", dict[str, Array], Vocabulary], Config]


def _mamba(network: "ResidualNetwork", arrays: dict[str, Array], _: Vocabulary) -> Config:
    mixer = f"{network.layers_name}.0.mixer"
    inner, state = arrays[f"{mixer}.A_log"].shape
    return {
        "expand": inner // network.width,
        "state_size": state,
        "conv_kernel": arrays[f"{mixer}.conv1d.weight"].shape[-1],
        "time_step_rank": arrays[f"{mixer}.dt_proj.weight"].shape[1],
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "layer_norm_epsilon": network.structure.eps,
        "residual_in_fp32": True,
    }


def _griffin(
    network: "ResidualNetwork", arrays: dict[str, Array], vocabulary: Vocabulary
) -> Config:
    layer = f"{network.layers_name}.0"
    block = f"{layer}.temporal_block"
    heads = arrays[f"{block}.rg_lru.input_gate_bias"].shape[0]
    # |2 k y - k^2| is at most 3 V^2. Under so high a cap tanh is the identity, and as a power of
    # two it divides and multiplies exactly: logits are the same before and after the cap.
    cap = power_of_two_above(3.0 * vocabulary.size**2 / TANH_IS_IDENTITY)
    return {
        "lru_width": arrays[f"{block}.rg_lru.recurrent_param"].shape[0],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": 2 * arrays[f"{layer}.mlp_block.gate_proj.weight"].shape[0],
        "block_types": ["recurrent"],
        "conv1d_width": arrays[f"{block}.conv_1d.weight"].shape[-1],
        # Nothing attends, yet the class makes a mask; none is needed within a window this wide.
        "attention_window_size": 1 << 30,
        "hidden_activation": "gelu_pytorch_tanh",
        "logits_soft_cap": cap,
        "rms_norm_eps": network.structure.eps,
    }


_KINDS = {
    "mamba": Kind("MambaForCausalLM", "mamba", True, _mamba),
    # transformers 5.23 asks an attention layer how many tokens its cache holds, and raises where
    # there is none, so by default the whole text is read again for each new token.
    "griffin": Kind("RecurrentGemmaForCausalLM", "recurrent_gemma", False, _griffin),
}


# ---------------------------------------------------------------- the card


def _card(
    network: "ResidualNetwork",
    arrays: dict[str, Array],
    config: Config,
    program: Program,
    stream: "Stream",
    vocabulary: Vocabulary,
) -> str:
    """The model card."""
    facts, graph = config["lsrl"], program.graph
    embedded = (
        "one",
        *(name if signal.site < 0 else ""
          for name, signal in zip(stream.names, stream.signals, strict=True)),
    )  # fmt: skip
    size = sum(array.size for array in arrays.values())
    nonzero = sum(int(np.count_nonzero(array)) for array in arrays.values())
    longest = program.max_length or 100
    prompt = [symbol % vocabulary.inputs for symbol in (2, 0, 1, 0)][:longest]
    text = json.dumps(" ".join(vocabulary.words[symbol] for symbol in prompt), ensure_ascii=False)
    steps = min(8, longest - len(prompt) + 1)
    words = "\n".join(
        f"{symbol:<5} {word:<12} {answer if symbol < vocabulary.outputs else '(never said)'}"
        for symbol, (word, answer) in enumerate(
            zip(vocabulary.words, vocabulary.answers, strict=True)
        )
    )
    before = ("",) * stream.width
    labels = []
    stages = {"embedding": embedded, **{f"layer {n}": x for n, x in enumerate(stream.labels(), 1)}}
    for stage, names in stages.items():
        added = [f"{place} {name}" for place, name in enumerate(names) if name != before[place]]
        labels.append(f"{stage:<10} {', '.join(added)}")
        before = names
    source = _without_folders(graph.source(graph.output), graph)
    head = (
        "The head is the embedding, of which it sees k and k^2 for\nthe symbol k: the last layer "
        "puts the output in the place of the one, and -1 in that of the other."
        if config["tie_word_embeddings"]
        else "The head reads the output off the stream behind the\nlast layer."
    )
    about = f"\n{program.documentation}\n" if program.documentation else ""
    can_generate = vocabulary.outputs <= vocabulary.inputs
    generate = (
        f"model.generate(ids, max_new_tokens={steps})  # feeds the outputs back\n"
        if can_generate
        else ""
    )
    cache = (
        "From a cache go on by one token at a time, as `generate` does."
        if config["use_cache"]
        else "Leave `use_cache=False`, as the\nconfiguration has it: the class can't cache without "
        "an attention layer."
    )
    most = program.max_length or facts["certified_tokens"]
    limit = "any length" if most is None else f"up to {most} tokens"
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- lsrl
- {config["model_type"]}
---

# `{program.name}` as a {config["architectures"][0]}

Nobody trained these weights: LSRL {facts["lsrl"]} compiled them from a program. At each token the
symbol of the greatest logit is what the program outputs there, for texts of {limit}.

## Run it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(".")  # the path of this folder
model = AutoModelForCausalLM.from_pretrained(".")
ids = tokenizer({text}, return_tensors="pt").input_ids
print([model.config.id2label[int(i)] for i in model(ids).logits[0].argmax(-1)])
{generate}```

Run it in float32, without padding; on a GPU switch TF32 off. {cache}

## The program

`{program!r}`
{about}
The signals as written, the output last:

```
{graph.dump()}
```

The output is made in {source}.

## Vocabulary

Per symbol its number, the word for it in the text, and what it means as an output:

```
{words}
```

## Certificate

```
{facts["certificate"]}
```

Where it says exact, each sum of the network was checked, from the bounds and grids of its terms, to
be exact in float32 in any order; the norms divide by a power of two, and the activations are at
arguments where they are exactly linear, 0 or 1. The logit of symbol k is 2ky - k^2 for an output y,
so that the greatest one leads by at least 1. LSRL's tests load exports into transformers and
compare every token with a plain Python program.

## Channels

{network.depth} layer{"s" * (network.depth > 1)}, {network.width} channels in the residual stream,
{size} parameters ({nonzero} not 0). What each layer adds to the stream, by channel; it stays there
for all later layers, and channels that are never named stay 0. Channel 0 holds the constant that
the norms divide by. `config.json` lists under `lsrl.labels` all that the stream holds behind each
layer. {head}

```
{chr(10).join(labels)}
```
"""
