"""Models of the residual targets as checkpoints of Hugging Face's transformers.

The folder holds what `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`
read, with no code of ours: the weights of an unmodified class such as `MambaForCausalLM`, its
configuration, a tokenizer with a word for each symbol, and a card. Some classes have more than our
networks, as a layer of attention: there stand zeros; see `lsrl.backends.residual.reference`.
Neither torch nor transformers is needed to write it. Programs that do not read a token and say a
token are checkpoints without a head; see `lsrl.backends.residual.headless`. With those, and with
networks that are not as they were compiled, comes the circuit.

At each token the symbol of the greatest logit is the program's output, with a probability of almost
1; so generation feeds outputs back, as `Model.generate` does, be it greedy, sampled or by beams.
See `token_head` in `lsrl.backends.residual.network`.

Two rows of the embedding are no symbols, and zeros: tokens without even the constant channel. A
norm makes 0 of such a token, so no layer adds anything to it, a state that is 0 stays 0, and
convolutions read what they read ahead of a text. So a text that is filled up on its left gives what
it gives by itself, whether the class looks at the mask (Mamba) or not (RecurrentGemma). The latter
takes what comes in at position 0 unscaled, wherever that is: where the state is 0 holds and passes
scale by 1 anyway, and a running sum takes in the token before, of which there is none.
"""

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import save as to_safetensors

from lsrl.backends.base import ExportRequest
from lsrl.backends.residual.altered import constant_of, rounds
from lsrl.backends.residual.answer import answering, tied
from lsrl.backends.residual.certificate import SIZE
from lsrl.backends.residual.dtypes import exact_dtypes, logits_are_exact, tied_logits_are_exact
from lsrl.backends.residual.headless import MAPS, example, headless, types_of, without_prefix
from lsrl.backends.residual.model_card import headless_card, model_card, without_folders
from lsrl.backends.residual.network import SHARPNESS, ResidualNetwork, token_head
from lsrl.backends.residual.reference import CheckpointKind, Config, chosen
from lsrl.backends.residual.stream import Stream
from lsrl.backends.residual.target import ResidualBackend
from lsrl.backends.residual.vocabulary import (
    TOKENIZER,
    Vocabulary,
    to_json,
    tokenizer_files,
    vocabulary_of,
)
from lsrl.errors import FormatError, InputError, PrecisionError, UnsupportedOpError
from lsrl.folders import replace_folder
from lsrl.golden import GoldenState
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.numerics import numerics_of

FORMAT = "lsrl-huggingface"
VERSION = 4
CONFIG, CIRCUIT, GENERATION = "config.json", "circuit.json", "generation_config.json"
WEIGHTS, CARD = "model.safetensors", "README.md"
# Of exports of all kinds, any of which may take the place of any other.
FILES = (CONFIG, CIRCUIT, GENERATION, WEIGHTS, MAPS, CARD, *TOKENIZER)

Checkpoint = tuple[dict[str, Array], ResidualNetwork, Stream]


_IN_PARTS = (
    "Of texts of more than {:,} tokens that is proven token by token, as `generate` reads what is "
    "behind the prompt: read at once, the changes of a state over 64 tokens are added up in an "
    "order of the class's own, and round where they are large."
)


def write(
    kinds: Sequence[CheckpointKind],
    backend: ResidualBackend,
    path: str | os.PathLike[str],
    network: ResidualNetwork,
    stream: Stream,
    request: ExportRequest,
) -> None:
    """Write a folder that transformers can load.

    The folder appears whole or not at all: a failed export leaves an older one as it was.

    Args:
      kinds: the classes of transformers that the target can be, its own first.
      backend: the target.
      path: the folder; an older export in its place is replaced.
      network: the weights.
      stream: the layout, whose channels the card names.
      request: of which model.

    Raises:
      InputError: the target has no such class. There is no head to tie, or none fits this network,
        or the tokenizers library is missing.
      UnsupportedOpError: the class can't be this network.
      PrecisionError: float32 can't tell the logits of so many symbols apart exactly, or a layer has
        to be added to a network whose parameters were replaced.
      FormatError: the path holds something that is no export.
      OSError: the folder can't be written.
    """
    kind = chosen(kinds, request.architecture, request.target)
    refusal = kind.refusal(stream, request)
    if refusal is not None:
        raise UnsupportedOpError(
            f"export: {request.program.name!r} as {kind.name!r}: {refusal}; export it as "
            f"{kinds[0].name!r}"
        )
    most = backend.at_once(stream, request.tokens) if request.exact else None
    if most is not None:
        kind = kind._replace(lacks=f"{kind.lacks} {_IN_PARTS.format(most)}".strip())
    network, vocabulary = network.as_reference(), vocabulary_of(request.program)
    if request.headless or vocabulary is None:
        files = _without_head(kind, network, request)
    else:
        files = _with_head(kind, backend, network, stream, vocabulary, request)
    if request.headless or vocabulary is None or request.alteration is not None:
        graph = request.program.graph
        circuit = request.circuit().with_sources(lambda line: without_folders(line, graph))
        files[CIRCUIT] = circuit.to_json().encode()
    replace_folder(path, files, _check_export, FILES)


def record(
    backend: ResidualBackend,
    network: ResidualNetwork,
    stream: Stream,
    request: ExportRequest,
    inputs: Sequence[Array],
    token: int,
) -> GoldenState:
    """What the cache of a checkpoint holds that `write` writes of the same request.

    Raises:
      InputError: the network was altered, or there is no head to tie.
      PrecisionError: as for `write`.
    """
    if request.alteration is not None:
        raise InputError(
            f"export_state: {request.program.name!r} on {request.target} was altered, and only of "
            "a compiled network the layout says what each entry holds; take the model that "
            "lsrl.compile made"
        )
    network, vocabulary = network.as_reference(), vocabulary_of(request.program)
    if vocabulary is not None and not request.headless:
        weights = _tied if request.tie_word_embeddings else _untied
        _, network, stream = weights(backend, network, stream, vocabulary)
    elif request.tie_word_embeddings:
        raise _no_head(request)
    return backend.golden(network, stream, request, inputs, token)


def _with_head(
    kind: CheckpointKind,
    backend: ResidualBackend,
    network: ResidualNetwork,
    stream: Stream,
    vocabulary: Vocabulary,
    request: ExportRequest,
) -> dict[str, bytes]:
    """The files of a language model."""
    program, altered = request.program, request.alteration is not None
    if altered:
        found = _altered(network, vocabulary, request)
    else:
        weights = _tied if request.tie_word_embeddings else _untied
        found, network, stream = weights(backend, network, stream, vocabulary)
    arrays = {name: np.ascontiguousarray(array) for name, array in found.items()}
    dtypes: tuple[str, ...] = ()
    if request.exact:
        tied = request.tie_word_embeddings
        # What is proven of bfloat16 goes by the compiler's layout.
        dtypes = ("float32",) if altered else exact_dtypes(
            backend, stream, arrays, vocabulary.size, tied
        )  # fmt: skip
    answers = (*vocabulary.answers, *vocabulary.others)
    config = {
        **_config(kind, network, arrays, vocabulary.rows, vocabulary.size, request),
        "architectures": [kind.architecture],
        **_special(vocabulary, program),
        # An output may mean something else than the input of the same number.
        "id2label": {str(row): answer for row, answer in enumerate(answers)},
        "label2id": {answer: row for row, answer in enumerate(answers)},
        "lsrl": {
            **_about(kind, request, network, None if altered else stream),
            "inputs": vocabulary.inputs,
            "outputs": vocabulary.outputs,
            "unknown": vocabulary.unknown,
            "padding": vocabulary.padding,
            "exact_dtypes": dtypes,
        },
    }
    generation = {"do_sample": False, "use_cache": True, **_special(vocabulary, program)}
    stored = kind.parameters(network, arrays)
    card = model_card(kind, network, stored, stream, vocabulary, dtypes, request)
    return {
        CONFIG: to_json(config),
        GENERATION: to_json(generation),
        WEIGHTS: to_safetensors(stored, {"format": "pt"}),
        **tokenizer_files(vocabulary, program.max_length or request.tokens),
        CARD: card.encode(errors="replace"),
    }


def _without_head(
    kind: CheckpointKind, network: ResidualNetwork, request: ExportRequest
) -> dict[str, bytes]:
    """The files of a class without its head."""
    if request.tie_word_embeddings:
        raise _no_head(request)
    made = headless(network)
    rows = len(made.arrays[network.embedding_name])
    # A head's soft cap is all that would ask for the number of symbols.
    config = {
        **_config(kind, network, made.arrays, rows, rows, request),
        "architectures": [kind.headless],
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "lsrl": {**_about(kind, request, network, None), **types_of(request.program, made)},
    }
    arrays, maps = without_prefix(kind.parameters(network, made.arrays)), made.maps
    card = headless_card(kind, network, {**arrays, **maps}, example(request.program, made), request)
    return {
        CONFIG: to_json(config),
        WEIGHTS: to_safetensors(arrays, {"format": "pt"}),
        MAPS: to_safetensors(maps, {"format": "pt"}),
        CARD: card.encode(errors="replace"),
    }


def _no_head(request: ExportRequest) -> InputError:
    return InputError(
        "export: a checkpoint has a head to tie where a program has one Token input and a "
        f"Token output, and headless=True is not given; got {request.program!r}"
    )


def _config(
    kind: CheckpointKind,
    network: ResidualNetwork,
    arrays: dict[str, Array],
    rows: int,
    symbols: int,
    request: ExportRequest,
) -> Config:
    return {
        "model_type": kind.model_type,
        "dtype": "float32",
        "vocab_size": rows,
        "hidden_size": network.width,
        "num_hidden_layers": network.depth,
        "use_cache": True,
        # Some classes tie by default, and would put the embedding in the place of the head.
        "tie_word_embeddings": request.tie_word_embeddings,
        **kind.further(network, arrays, symbols),
    }


def _about(
    kind: CheckpointKind, request: ExportRequest, network: ResidualNetwork, stream: Stream | None
) -> Config:
    """What the configuration says of the program; without a layout the circuit has the labels."""
    program = request.program
    return {
        "format": FORMAT,
        "version": VERSION,
        "lsrl": version("lsrl"),
        "program": program.name,
        "target": request.target,
        "layers": network.depth,
        "hooks": kind.hooks(network.depth),
        "continues": kind.continues,
        "altered": request.alteration and request.alteration.splitlines()[0],
        "max_length": program.max_length,
        **({"circuit": CIRCUIT} if stream is None else {"labels": stream.labels()}),
        "certificate": without_folders(request.certificate, program.graph),
        "certified_tokens": request.tokens,
    }


def _special(vocabulary: Vocabulary, program: Program) -> Config:
    """Special tokens; the defaults are symbols of the program's own: Mamba ends texts at 0.

    A text ends with the symbols at which the program's loop halts: one, or a list of them.
    """
    feedback, ends = program.feedback, np.zeros(0, np.int64)
    if feedback is not None and feedback.halt is not None:
        symbols = np.arange(vocabulary.outputs)
        ends = symbols[feedback.stops(symbols[:, None])]
    eos = None if not len(ends) else int(ends[0]) if len(ends) == 1 else ends.tolist()
    return {"bos_token_id": None, "eos_token_id": eos, "pad_token_id": vocabulary.padding}


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


def _altered(
    network: ResidualNetwork, vocabulary: Vocabulary, request: ExportRequest
) -> dict[str, Array]:
    """The parameters of the reference, of a network that the compiler did not make as it is."""
    if request.tie_word_embeddings:
        raise InputError(
            "export: a tied head takes a layer of the compiler's own, and this network was "
            "altered; export it with a head of its own, tie_word_embeddings=False"
        )
    circuit = request.circuit()
    unit, constant = constant_of(network, circuit)
    arrays = network.parameter_arrays()
    bias, kernel = arrays.pop("input_bias"), arrays.pop("output_kernel")
    head = token_head(kernel, vocabulary.size, len(vocabulary.others), (unit, constant))
    rounded = head.astype(np.float32)
    if (request.exact and (rounded != head).any()) or rounds(
        network, circuit, rounded, request.exact
    ):
        raise PrecisionError(
            f"export: float32 can't add up the logits 2 k y - k^2 of {vocabulary.size} symbols in "
            "this network without rounding; write it without a head, whose outputs are those of "
            "model.run: export(..., headless=True)"
        )
    table = arrays[network.embedding_name] + bias
    arrays[network.embedding_name] = _embedding(table, vocabulary, unit)
    arrays["lm_head.weight"] = rounded
    return arrays


def _untied(
    backend: ResidualBackend, network: ResidualNetwork, stream: Stream, vocabulary: Vocabulary
) -> Checkpoint:
    """The reference's parameters, with the network and the layout that they are of."""
    numerics = numerics_of("float32")
    if not logits_are_exact(stream, vocabulary.size, numerics):
        longer = answering(backend, stream)
        if not logits_are_exact(longer, vocabulary.size, numerics):
            raise _too_many(f"with {vocabulary.size} symbols")
        network, stream = _lowered_anew(backend, network, stream, longer), longer
    arrays = network.parameter_arrays()
    bias, kernel = arrays.pop("input_bias"), arrays.pop("output_kernel")
    arrays[network.embedding_name] = _embedding(arrays[network.embedding_name] + bias, vocabulary)
    head = token_head(kernel, vocabulary.size, len(vocabulary.others))
    arrays["lm_head.weight"] = head.astype(np.float32)
    return arrays, network, stream


def _tied(
    backend: ResidualBackend, network: ResidualNetwork, stream: Stream, vocabulary: Vocabulary
) -> Checkpoint:
    """As `_untied`, for a head that is the embedding; see `lsrl.backends.residual.answer`."""
    if vocabulary.inputs < 2:
        raise InputError("export: a program of one symbol has no symbols for a tied head to tell")
    if not tied_logits_are_exact(stream, vocabulary.size, numerics_of("float32")):
        raise _too_many(f"with {vocabulary.size} symbols")
    longer, number, square = tied(backend, stream)
    network, stream = _lowered_anew(backend, network, stream, longer), longer
    arrays = network.parameter_arrays()
    bias = arrays.pop("input_bias")
    del arrays["output_kernel"]
    table = _embedding(arrays[network.embedding_name] + bias, vocabulary)
    scale, numbers = network.structure.embedding_scale, np.arange(1, vocabulary.size + 1)
    symbols = table[: vocabulary.size]
    symbols[:, number], symbols[:, square] = numbers / scale, numbers**2 / scale
    arrays[network.embedding_name] = table
    # All that the head shall see: 2 y beside k, and -1 beside k^2. The constant is shut out.
    gain = np.zeros(network.width)
    gain[number], gain[square] = 2 * scale * SIZE * SHARPNESS, scale * SIZE * SHARPNESS
    arrays[network.final_norm_name] = (gain - network.gain_offset).astype(np.float32)
    return arrays, network, stream


def _embedding(table: Array, vocabulary: Vocabulary, constant: int = 0) -> Array:
    """A table with a row for every symbol, and one of zeros for each that is no symbol.

    Symbols that only come out are no inputs; should one come in, its row has the constant channel
    alone, so that the norms still find the scale that they are made for.
    """
    idle = np.zeros((vocabulary.rows - len(table), table.shape[1]), table.dtype)
    idle[: vocabulary.size - len(table), constant] = table[0, constant]
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
        "or write it without a head: export(..., headless=True)"
    )
