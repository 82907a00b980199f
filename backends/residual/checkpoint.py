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
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import save as to_safetensors

from lsrl.backends.base import ExportRequest
from lsrl.backends.residual.answer import answering, tied
from lsrl.backends.residual.certificate import SIZE
from lsrl.backends.residual.model_card import model_card, without_folders
from lsrl.backends.residual.network import ResidualNetwork, token_head
from lsrl.backends.residual.reference import CheckpointKind, Config
from lsrl.backends.residual.stream import Stream
from lsrl.backends.residual.target import ResidualBackend
from lsrl.backends.residual.vocabulary import Vocabulary, to_json, tokenizer_files, vocabulary_of
from lsrl.errors import FormatError, InputError, PrecisionError
from lsrl.folders import replace_folder
from lsrl.ir.numbers import Array
from lsrl.numerics import numerics_of

FORMAT = "lsrl-huggingface"
VERSION = 1
CONFIG = "config.json"

Checkpoint = tuple[dict[str, Array], ResidualNetwork, Stream]


def write(
    kind: CheckpointKind,
    backend: ResidualBackend,
    path: str | os.PathLike[str],
    network: ResidualNetwork,
    stream: Stream,
    request: ExportRequest,
) -> None:
    """Write a folder that transformers can load.

    The folder appears whole or not at all: a failed export leaves an older one as it was.

    Args:
      kind: the class of transformers.
      backend: the target.
      path: the folder; an older export in its place is replaced.
      network: the weights.
      stream: the layout, whose channels the card names.
      request: of which model; its program has one Token input and a Token output.

    Raises:
      InputError: a program with other inputs or outputs, an altered network, or the tokenizers
        library is missing.
      PrecisionError: float32 can't tell the logits of so many symbols apart exactly, or a layer has
        to be added to a network whose parameters were replaced.
      FormatError: the path holds something that is no export.
      OSError: the folder can't be written.
    """
    if request.alteration is not None:
        raise InputError(
            f"export: a checkpoint follows the compiler's layout, and this network is "
            f"{request.alteration}; export the model that it was made of"
        )
    program = request.program
    vocabulary = vocabulary_of(program)
    weights = _tied if request.tie_word_embeddings else _untied
    found, network, stream = weights(backend, network, stream, vocabulary)
    arrays = {name: np.ascontiguousarray(array) for name, array in found.items()}
    config = _config(kind, network, stream, arrays, vocabulary, request)
    generation = {"do_sample": False, "use_cache": kind.caches, **_NO_SPECIAL_TOKENS}
    files = {
        CONFIG: to_json(config),
        "generation_config.json": to_json(generation),
        "model.safetensors": to_safetensors(arrays, {"format": "pt"}),
        **tokenizer_files(vocabulary, program.max_length or request.tokens),
        "README.md": model_card(kind, network, arrays, stream, vocabulary, request).encode(),
    }
    replace_folder(path, files, _check_export)


def _config(
    kind: CheckpointKind,
    network: ResidualNetwork,
    stream: Stream,
    arrays: dict[str, Array],
    vocabulary: Vocabulary,
    request: ExportRequest,
) -> Config:
    program = request.program
    return {
        "architectures": [kind.architecture],
        "model_type": kind.model_type,
        "dtype": "float32",
        "vocab_size": vocabulary.size,
        "hidden_size": network.width,
        "num_hidden_layers": network.depth,
        "use_cache": kind.caches,
        # Both classes tie by default, and would put the embedding in the place of the head.
        "tie_word_embeddings": request.tie_word_embeddings,
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
            "target": request.target,
            "max_length": program.max_length,
            "inputs": vocabulary.inputs,
            "outputs": vocabulary.outputs,
            "labels": stream.labels(),
            "certificate": without_folders(request.certificate, program.graph),
            "certified_tokens": request.tokens,
        },
    }


_NO_SPECIAL_TOKENS: Config = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def _check_export(folder: Path) -> None:
    """Raise FormatError unless a folder holds an older export of this kind."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        ours = config["lsrl"]["format"] == FORMAT
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        ours = False
    if not ours:
        raise FormatError(f"{folder / CONFIG}: of a checkpoint that LSRL did not write")


# ---------------------------------------------------------------- weights


def _untied(
    backend: ResidualBackend, network: ResidualNetwork, stream: Stream, vocabulary: Vocabulary
) -> Checkpoint:
    """The reference's parameters, with the network and the layout that they are of."""
    if not logits_are_exact(stream, vocabulary.size):
        longer = answering(backend, stream)
        if not logits_are_exact(longer, vocabulary.size):
            raise _too_many(f"with {vocabulary.size} symbols")
        network, stream = _lowered_anew(backend, network, stream, longer), longer
    arrays = network.parameter_arrays()
    bias, kernel = arrays.pop("input_bias"), arrays.pop("output_kernel")
    arrays[network.embedding_name] = _embedding(arrays[network.embedding_name] + bias, vocabulary)
    arrays["lm_head.weight"] = token_head(kernel, vocabulary.size).astype(np.float32)
    return arrays, network, stream


def _tied(
    backend: ResidualBackend, network: ResidualNetwork, stream: Stream, vocabulary: Vocabulary
) -> Checkpoint:
    """As `_untied`, for a head that is the embedding; see `lsrl.backends.residual.answer`."""
    if vocabulary.inputs < 2:
        raise InputError("export: a program of one symbol has no symbols for a tied head to tell")
    if 3 * vocabulary.size**2 > 2**24:
        raise _too_many(f"with {vocabulary.size} symbols")
    longer, symbol, square = tied(backend, stream)
    network, stream = _lowered_anew(backend, network, stream, longer), longer
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
    return arrays, network, stream


def _embedding(table: Array, vocabulary: Vocabulary) -> Array:
    """A table with a row for every symbol.

    Symbols that only come out are no inputs; should one come in, its row has the constant channel
    alone, so that the norms still find the scale that they are made for.
    """
    idle = np.zeros((vocabulary.size - len(table), table.shape[1]), table.dtype)
    idle[:, 0] = table[0, 0]
    return np.concatenate([table, idle])


def _lowered_anew(
    backend: ResidualBackend, network: ResidualNetwork, stream: Stream, longer: Stream
) -> ResidualNetwork:
    """The network of a layout with a layer more.

    Raises:
      PrecisionError: it is not exact, or the old network is not as it was compiled.
    """
    numerics = numerics_of("float32")
    compiled, given = backend.lower(stream, numerics).parameter_arrays(), network.parameter_arrays()
    if any(not np.array_equal(compiled[name], given[name]) for name in compiled):
        raise PrecisionError(
            "export: this program's head needs a layer more, and the model's parameters were "
            "replaced, so the layer would not fit; export the model as it was compiled"
        )
    failure = backend.analysis(longer, numerics)(longer.graph.tokens).first_failure()
    if failure is not None:
        raise _too_many(f"with the layer that the head needs: {failure}")
    return backend.lower(longer, numerics)


def _too_many(why: str) -> PrecisionError:
    return PrecisionError(
        f"export: float32 can't add up the logits 2 k y - k^2 exactly, {why}; use fewer symbols, "
        "or run the program in our own model with model.run"
    )


def logits_are_exact(stream: Stream, vocabulary: int) -> bool:
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
