"""The card of a checkpoint: what it is, how to run it, what is proven, what each channel holds."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lsrl.backends.base import ExportRequest
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.reference import CheckpointKind
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
    request: ExportRequest,
) -> str:
    """The model card, in Markdown.

    Args:
      kind: the class that runs the checkpoint.
      network: the network that it is.
      arrays: its weights in the checkpoint.
      stream: the layout of the network.
      vocabulary: its symbols.
      request: of which model.
    """
    program = request.program
    return "\n".join(
        [
            _introduction(kind, program, program.max_length or request.tokens),
            _how_to_run(kind, program, vocabulary),
            _the_program(program),
            _symbols(vocabulary),
            _certificate(without_folders(request.certificate, program.graph)),
            _channels(network, arrays, stream, request.tie_word_embeddings),
        ]
    )


def _introduction(kind: CheckpointKind, program: Program, most: int | None) -> str:
    limit = "any length" if most is None else f"up to {most} tokens"
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- lsrl
- {kind.model_type}
---

# `{program.name}` as a {kind.architecture}

Nobody trained these weights: LSRL {version("lsrl")} compiled them from a program. At each token the
symbol of the greatest logit is what the program outputs there, for texts of {limit}.
"""


def _how_to_run(kind: CheckpointKind, program: Program, vocabulary: Vocabulary) -> str:
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
    cache = (
        "From a cache go on by one token at a time, as `generate` does."
        if kind.caches
        else "Leave `use_cache=False`, as the\nconfiguration has it: the class can't cache without "
        "an attention layer."
    )
    return f"""\
## Run it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(".")  # the path of this folder
model = AutoModelForCausalLM.from_pretrained(".")
ids = tokenizer({text}, return_tensors="pt").input_ids
print([model.config.id2label[int(i)] for i in model(ids).logits[0].argmax(-1)])
{generate}```

Run it in float32, without padding; on a GPU switch TF32 off. {cache}
"""


def _the_program(program: Program) -> str:
    graph = program.graph
    about = f"\n{program.documentation}\n" if program.documentation else ""
    source = without_folders(graph.source(graph.output), graph)
    return f"""\
## The program

`{program!r}`
{about}
The signals as written, the output last:

```
{graph.dump()}
```

The output is made in {source}.
"""


def _symbols(vocabulary: Vocabulary) -> str:
    words = "\n".join(
        f"{symbol:<5} {word:<12} {answer if symbol < vocabulary.outputs else '(never said)'}"
        for symbol, (word, answer) in enumerate(
            zip(vocabulary.words, vocabulary.answers, strict=True)
        )
    )
    return f"""\
## Vocabulary

Per symbol its number, the word for it in the text, and what it means as an output:

```
{words}
```
"""


def _certificate(text: str) -> str:
    return f"""\
## Certificate

```
{text}
```

Where it says exact, each sum of the network was checked, from the bounds and grids of its terms, to
be exact in float32 in any order; the norms divide by a power of two, and the activations are at
arguments where they are exactly linear, 0 or 1. The logit of symbol k is 2ky - k^2 for an output y,
so that the greatest one leads by at least 1. LSRL's tests load exports into transformers and
compare every token with a plain Python program.
"""


def _channels(
    network: ResidualNetwork, arrays: dict[str, Array], stream: Stream, is_tied: bool
) -> str:
    embedded = (
        "one",
        *(name if signal.site < 0 else ""
          for name, signal in zip(stream.names, stream.signals, strict=True)),
    )  # fmt: skip
    size = sum(array.size for array in arrays.values())
    nonzero = sum(int(np.count_nonzero(array)) for array in arrays.values())
    before = ("",) * stream.width
    labels = []
    stages = {"embedding": embedded, **{f"layer {n}": x for n, x in enumerate(stream.labels(), 1)}}
    for stage, names in stages.items():
        added = [f"{place} {name}" for place, name in enumerate(names) if name != before[place]]
        labels.append(f"{stage:<10} {', '.join(added)}")
        before = names
    head = (
        "The head is the embedding, of which it sees k and k^2 for\nthe symbol k: the last layer "
        "puts the output in the place of the one, and -1 in that of the other."
        if is_tied
        else "The head reads the output off the stream behind the\nlast layer."
    )
    return f"""\
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


def without_folders(text: str, graph: Graph) -> str:
    """A text in which source files have their names only: a checkpoint is made to be published."""
    for file in {source.file for node in graph.nodes for source in node.sources}:
        text = text.replace(file, Path(file).name)
    return text
