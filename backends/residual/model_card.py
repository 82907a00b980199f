"""The card of a checkpoint: what it is, how to run it, what is proven, what each channel holds.

What a program's author wrote (names, documentation, words) stands in code spans and fenced blocks,
whose fences are longer than any in it, so that none of it is Markdown, HTML or front matter.
"""

import json
import re
import textwrap
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lsrl.backends.base import ExportRequest
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.reference import TRIED, CheckpointKind
from lsrl.backends.residual.stream import Stream
from lsrl.backends.residual.vocabulary import Vocabulary
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.language.program import Program


def model_card(
    kind: CheckpointKind,
    network: ResidualNetwork,
    arrays: dict[str, Array],
    stream: Stream,
    vocabulary: Vocabulary,
    dtypes: tuple[str, ...],
    request: ExportRequest,
) -> str:
    """The model card, in Markdown.

    Args:
      kind: the class that runs the checkpoint.
      network: the network that it is.
      arrays: its weights in the checkpoint.
      stream: the layout of the network.
      vocabulary: its symbols.
      dtypes: in which it is exact.
      request: of which model.
    """
    program = request.program
    return "\n".join(
        [
            _introduction(kind, request, bool(dtypes)),
            *_alteration(request, _NEAREST),
            _how_to_run(kind, program, vocabulary, request.exact),
            _texts_and_words(vocabulary, dtypes),
            _the_program(program),
            _symbols(vocabulary),
            _certificate(without_folders(request.certificate, program.graph)),
            _channels(kind, network, arrays, stream, request.tie_word_embeddings)
            if request.alteration is None
            else _circuit(kind, network, arrays),
        ]
    )


def headless_card(
    kind: CheckpointKind,
    network: ResidualNetwork,
    arrays: dict[str, Array],
    code: str,
    request: ExportRequest,
) -> str:
    """The card of a checkpoint without a head.

    Args:
      kind: as for `model_card`.
      network: likewise.
      arrays: its weights and maps.
      code: lines that run it.
      request: of which model.
    """
    program = request.program
    most = program.max_length or request.tokens
    equal = (
        "They equal the program's, bit for bit; on a GPU switch TF32 off, which keeps 11 bits."
        if request.exact
        else "How near they are to the program's, the certificate says, or what was measured."
    )
    return "\n".join(
        [
            f"""\
{_front(kind, "feature-extraction")}
# {_span(program.name)} as a {kind.headless}

Nobody trained these weights: LSRL {version("lsrl")} compiled them from a program. This class has no
head, which a program of one token in and one token out would have: inputs and outputs have matrices
of their own in `maps.safetensors`. Outputs are for sequences of {_limit(most)}. {equal}
""",
            *_alteration(request, ""),
            f"""\
## Run it

{_fenced(code.rstrip(), "python")}

Every token is read at once with the ones before it, and never those behind it; what fills a shorter
sequence up stands on its right. `lsrl.inputs` in `config.json` has the types of the inputs, in
order, and where each is mapped.

{_limits(kind, request.exact)}
""",
            _the_program(program),
            _certificate(without_folders(request.certificate, program.graph), head=False),
            _circuit(kind, network, arrays),
        ]
    )


_NEAREST = """
The symbol of the greatest logit is the whole number that the network's output is nearest to, so it
is right wherever an output that is off by less than a half counts as right above.
"""


def _alteration(request: ExportRequest, more: str) -> list[str]:
    """What was done to the network, if anything was."""
    if request.alteration is None:
        return []
    return [
        f"""\
## What was done to it

The compiled network was altered, and runs as the same class:

{_fenced(request.alteration)}
{"" if request.exact else more}"""
    ]


def _introduction(kind: CheckpointKind, request: ExportRequest, exact: bool) -> str:
    program = request.program
    most = program.max_length or request.tokens
    sure = "\nIts probability is at least 0.9999996, so that sampling and beams say the same."
    if not exact:
        sure = "" if request.alteration is None else " How often, was\nmeasured: see below."
    return f"""\
{_front(kind, "text-generation")}
# {_span(program.name)} as a {kind.architecture}

Nobody trained these weights: LSRL {version("lsrl")} compiled them from a program. At each token the
symbol of the greatest logit is what the program outputs there, for texts of {_limit(most)}.{sure}
"""


def _front(kind: CheckpointKind, pipeline: str) -> str:
    return f"""\
---
library_name: transformers
pipeline_tag: {pipeline}
tags:
- lsrl
- {kind.model_type}
---
"""


def _limit(most: int | None) -> str:
    return "any length" if most is None else f"up to {most} tokens"


def _how_to_run(kind: CheckpointKind, program: Program, vocabulary: Vocabulary, exact: bool) -> str:
    longest = program.max_length or 100
    prompt = [symbol % vocabulary.inputs for symbol in (2, 0, 1, 0)][:longest]
    text = json.dumps(" ".join(vocabulary.words[symbol] for symbol in prompt), ensure_ascii=False)
    steps = min(8, longest - len(prompt) + 1)
    can_generate = vocabulary.outputs <= vocabulary.inputs
    generate = (
        f"model.generate(ids, max_new_tokens={steps})  # feeds the outputs back\n"
        if can_generate
        else ""
    )
    code = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(".")  # the path of this folder
model = AutoModelForCausalLM.from_pretrained(".")
ids = tokenizer({text}, return_tensors="pt").input_ids
print([model.config.id2label[int(i)] for i in model(ids).logits[0].argmax(-1)])
{generate}"""
    return f"""\
## Run it

{_fenced(code.rstrip(), "python")}

{_limits(kind, exact)}
"""


def _limits(kind: CheckpointKind, exact: bool) -> str:
    """How it goes on from a cache, what the class can't do, and where that was seen."""
    by = "one token or by several" if kind.continues else "one token at a time, as in `generate`"
    equal = ", and gives what it gives of a whole text, bit for bit" * exact
    return _paragraph(f"From a cache it goes on by {by}{equal}. {kind.lacks} Tried with {TRIED}.")


def _texts_and_words(vocabulary: Vocabulary, dtypes: tuple[str, ...]) -> str:
    unknown, padding = map(_span, vocabulary.others)
    return f"""\
Texts of several lengths are filled up on the left, as the tokenizer does with `padding=True`: the
embedding of {padding} is zero, and no layer makes anything of it, so each text gives what it gives
by itself, with the attention mask and without it. Inside of a text it is no symbol either, but
delays count it as a token.

A word that is no symbol becomes {unknown}, whose embedding is zero too: there all logits are equal,
so the model says nothing, and of what comes after it nothing is proven.

{_precision(dtypes)}
"""


def _precision(dtypes: tuple[str, ...]) -> str:
    if not dtypes:
        return "In which dtypes it is exact was not proven, see below; the weights are float32."
    others = [name for name in ("bfloat16", "float16") if name not in dtypes]
    return f"""\
Exact in {" and ".join(dtypes)}, as `lsrl.exact_dtypes` in `config.json` has it, and not in
{" or ".join(others)}. On a GPU switch TF32 off, which keeps 11 bits."""


def _the_program(program: Program) -> str:
    graph = program.graph
    about = f"\n{_fenced(program.documentation)}\n" if program.documentation else ""
    source = without_folders(graph.source(graph.output), graph)
    return f"""\
## The program

{_span(repr(program))}
{about}
The signals as written, the output last:

{_fenced(graph.dump())}

The output is made in {_span(source)}.
"""


def _symbols(vocabulary: Vocabulary) -> str:
    never = "(never said)"
    words = [
        f"{symbol:<5} {word:<12} {answer if symbol < vocabulary.outputs else never}"
        for symbol, (word, answer) in enumerate(
            zip(vocabulary.words, vocabulary.answers, strict=True)
        )
    ]
    words += [
        f"{row:<5} {word:<12} {never}"
        for row, word in enumerate(vocabulary.others, start=vocabulary.size)
    ]
    return f"""\
## Vocabulary

Per symbol its number, the word for it in the text, and what it means as an output:

{_fenced(chr(10).join(words))}
"""


def _certificate(text: str, *, head: bool = True) -> str:
    logits = _LOGITS if head else ""
    return f"""\
## Certificate

{_fenced(text)}

Where it says exact, each sum of the network was checked, from the bounds and grids of its terms, to
be exact in float32 in any order; the norms divide by a power of two, and the activations are at
arguments where they are exactly linear, 0 or 1.{logits} LSRL's tests load exports into transformers
and compare every token with a plain Python program.
"""


_LOGITS = """
The logit of symbol k is 16 (2ky - k^2) for an output y, so that the greatest one leads by at least
16; with a tied head symbols count from 1, which adds the same to all of them."""


def _circuit(kind: CheckpointKind, network: ResidualNetwork, arrays: dict[str, Array]) -> str:
    return f"""\
## Channels

{_sizes(kind, network, arrays)}

`circuit.json` says what they hold: an element of a signal is the sum of
weight * unit + offset, over the entries of the stream that its channel names. {kind.hooks_told}
`config.lsrl["hooks"]` has their names, below `base_model`; of what comes out the first thing is
meant, where that is several.
"""


def _sizes(kind: CheckpointKind, network: ResidualNetwork, arrays: dict[str, Array]) -> str:
    size = sum(array.size for array in arrays.values())
    nonzero = sum(int(np.count_nonzero(array)) for array in arrays.values())
    return _paragraph(
        f"{network.depth} layer{'s' * (network.depth > 1)}, {network.width} channels in the "
        f"residual stream, {size} parameters ({nonzero} not 0). {kind.more}"
    )


def _paragraph(text: str) -> str:
    """Sentences in lines of equal length."""
    return textwrap.fill(" ".join(text.split()), 100, break_on_hyphens=False)


def _channels(
    kind: CheckpointKind,
    network: ResidualNetwork,
    arrays: dict[str, Array],
    stream: Stream,
    is_tied: bool,
) -> str:
    embedded = (
        "one",
        *(name if signal.site < 0 else ""
          for name, signal in zip(stream.names, stream.signals, strict=True)),
    )  # fmt: skip
    before = ("",) * stream.width
    labels = []
    stages = {"embedding": embedded, **{f"layer {n}": x for n, x in enumerate(stream.labels(), 1)}}
    for stage, names in stages.items():
        added = [f"{place} {name}" for place, name in enumerate(names) if name != before[place]]
        labels.append(f"{stage:<10} {', '.join(added)}")
        before = names
    head = (
        "The head is the embedding, of which it sees k and k^2 for\nthe symbol k, counted from 1: "
        "the last layer puts the output in the place of the one, and -1 in\nthat of the other."
        if is_tied
        else "The head reads the output off the stream behind the\nlast layer."
    )
    return f"""\
## Channels

{_sizes(kind, network, arrays)}

What each layer adds to the stream, by channel; it stays there
for all later layers, and channels that are never named stay 0. Channel 0 holds the constant that
the norms divide by. `config.json` lists under `lsrl.labels` all that the stream holds behind each
layer. {head}

{_fenced(chr(10).join(labels))}
"""


def _fenced(text: str, language: str = "") -> str:
    """A code block that nothing in the text can close."""
    fence = "`" * max(3, 1 + _longest_ticks(text))
    return f"{fence}{language}\n{text}\n{fence}"


def _span(text: str) -> str:
    """A text as code within a line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    ticks = "`" * (1 + _longest_ticks(line))
    # One blank on each side is not part of the span.
    return (
        f"{ticks} {line} {ticks}"
        if line.startswith("`") or line.endswith("`")
        else (f"{ticks}{line or '?'}{ticks}")
    )


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def without_folders(text: str, graph: Graph) -> str:
    """A text in which source files have their names only: a checkpoint is made to be published."""
    for file in {source.file for node in graph.nodes for source in node.sources}:
        text = text.replace(file, Path(file).name)
    return text
