"""A page to look at: a model's circuit, values and certificate in one HTML file.

The page asks for nothing from anywhere: its style, its script and its data lie inside it, and its
content security policy forbids the rest. Its parts are beside this module.
"""

import ast
import base64
import hashlib
import html
import json
import linecache
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from lsrl import arguments
from lsrl.circuit import OUTPUT, Derived, Signal
from lsrl.errors import BoundsError, InputError
from lsrl.folders import replace_file
from lsrl.interpret.interventions import Outcome, circuit_nodes, patch
from lsrl.ir.node import Source
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token, check_inputs
from lsrl.language.run import Run
from lsrl.machine import Film, FleqImage, Image, film
from lsrl.machine.fleq import Told
from lsrl.machine.session import is_subleq
from lsrl.model import Model
from lsrl.schema import Json
from lsrl.showing import frame
from lsrl.state import State

FORMAT, VERSION = "lsrl.view", 1
# Of all signals together; such a page has about 20 MB, and browsers still open it.
MAX_VALUES = 4_000_000
# Of a run, whose end may be far, the page shows the signals of the first tokens: that many values.
RUN_VALUES = 1_000_000
# Of a machine, for which a page then has about 1 MB.
MAX_INSTRUCTIONS = 10_000


@dataclass(frozen=True)
class Page:
    """A page, which notebooks show in a frame.

    Attributes:
      title: of it.
      html: all of it.
    """

    title: str
    html: str = field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file; an older one is replaced, whole or not at all.

        Raises:
          OSError: the file can't be written.
        """
        replace_file(path, self.html.encode())

    def _repr_html_(self) -> str:
        """For notebooks."""
        return frame(self.html, self.title)


class Panel(NamedTuple):
    """A table for the page, as plain data: whatever study made it, the page need not know.

    Attributes:
      title: above it.
      columns: their names.
      rows: of texts and numbers, one a column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]


def view(
    model: Model,
    *inputs: ArrayLike | Run[State],
    path: str | os.PathLike[str] | None = None,
    panels: Sequence[Panel] = (),
    source: bool = False,
    image: Image | FleqImage | None = None,
) -> Page:
    """Make a page that shows what a network does, signal by signal and token by token.

    It has the layers with the signal in every channel, the edges with their weights, the value of
    every signal at every token as `capture` decodes it, the certificate, and the program's lines
    if it was written in this process and the files can be read. A loaded model names files of
    whoever saved it: the page has their names and line numbers, and nothing of what they hold.

    Of a run, signals are shown as far as RUN_VALUES values. If it is of a machine of
    `lsrl.machine`, the page shows that at work, too, up to MAX_INSTRUCTIONS instructions: memory,
    the instruction, what it reads and writes, what was printed.

    Args:
      model: any compiled model.
      *inputs: as for `Model.run`; several sequences can be leafed through. Or a run of its `loop`
        from a prompt on.
      path: an HTML file to write it to, too; an older one is replaced, whole or not at all.
      panels: shown below the certificate.
      source: also show the lines of every Python file that a loaded model names, as this machine
        has it; only of models that you trust.
      image: the memory image of the run, for the names of cells; a FLEQ machine is shown only with
        it.

    Returns:
      The page, which notebooks show.

    Raises:
      InputError: an input lies outside its declared type, there are more than MAX_VALUES values, a
        row of a panel has more or fewer cells than columns, a run went on from another, or the
        image is of another machine.
      OSError: the file can't be written.

    Example:
      page = interpret.view(model, base, path="induction.html")
      print(page.title)
    """
    arguments.instance("view", model, Model, "lsrl.compile")
    target = None if path is None else arguments.path("view", path)
    given, shot = _read(model, inputs, image)
    arrays, _ = check_inputs(model.program.inputs, given, model.program.max_length)
    shown = content(model, arrays, panels, source, shot)
    made = Page(str(shown["title"]), page(shown))
    if target is not None:
        made.save(target)
    return made


def _read(
    model: Model, inputs: Sequence[ArrayLike | Run[State]], image: Image | FleqImage | None
) -> tuple[Sequence[ArrayLike], Film | None]:
    """What the network reads, of a run as much as a page holds; and the machine at work."""
    run = inputs[0] if len(inputs) == 1 else None
    if not isinstance(run, Run):
        if image is not None:
            raise InputError("view: an image is of a run; give view(model, run, image=image)")
        return cast("Sequence[ArrayLike]", inputs), None
    machines, tokens = run.record.outputs.shape[:2]
    if run.record.steps.max() > tokens:
        raise InputError("view: this run went on from an earlier one; show one from a prompt on")
    shot = None
    if image is not None or (is_subleq(model) and not run.batched):
        shot = film(model, run, image, steps=MAX_INSTRUCTIONS)
    most = max(RUN_VALUES // (machines * _elements(model)), 1)
    return [array[:, :most] if run.batched else array[:most] for array in run.inputs], shot


def _elements(model: Model) -> int:
    """How many numbers a token has on a page, those of the outputs included."""
    signals: tuple[Signal | Derived, ...] = (*model.circuit.signals, *model.circuit.derived)
    return sum(one.width for one in signals) + model.program.num_outputs


def content(
    model: Model,
    arrays: Sequence[Array],
    panels: Sequence[Panel] = (),
    source: bool = False,
    shot: Film | None = None,
) -> dict[str, Json]:
    """What the page shows, as JSON's types.

    Args:
      model: any compiled model.
      arrays: one an input, (sequences, time[, width]).
      panels: tables of other studies.
      source: as for `view`.
      shot: the machine that these inputs set to work.

    Returns:
      "circuit" as `Circuit.to_json` has it, but with file names for paths; "values" and "outputs",
      per sequence a flat list, token by token: null for an element that no channel holds, and the
      strings "nan", "inf" and "-inf" for numbers that JSON lacks.
    """
    circuit, (sequences, time) = model.circuit, arrays[0].shape[:2]
    elements = _elements(model)
    if (count := sequences * time * elements) > MAX_VALUES:
        raise InputError(
            f"view: {sequences} sequences of {time} tokens with {elements} elements of signals and "
            f"outputs make {count} values, and a page holds at most {MAX_VALUES}; give fewer or "
            "shorter sequences"
        )
    # An intervention on nothing gives signals and outputs in one run.
    found, held = patch(model, arrays, {}), circuit.held
    lines = _lines(model)
    names = _file_names({line.file for found in lines.values() for line in found})
    # Without the folders of the machine that it was compiled on.
    shown = circuit.with_sources(lambda line: _shortened(line, names)).to_content()
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": f"{model.program.name} on {model.target}",
        "documentation": model.program.documentation,
        "summary": _shortened(model.summary(), names).splitlines()[1:],
        "check": _check(model, arrays, found, held),
        "circuit": shown,
        "sequences": sequences,
        "tokens": time,
        "inputs": _inputs(model, arrays),
        "values": {name: _numbers(array, held[name]) for name, array in found.signals.items()},
        "outputs": _numbers(found.outputs),
        "lines": {
            name: [[names[line.file], line.line] for line in found] for name, found in lines.items()
        },
        "sources": _excerpts(_readable(model, lines, source), names),
        "panels": [_table(panel) for panel in panels],
        "machine": None if shot is None else _at_work(shot),
    }


def _at_work(shot: Film) -> dict[str, Json]:
    """A machine at work, its frames as lists."""

    def cell(told: Told) -> Json:
        if isinstance(told, tuple):
            return [[_number(value) for value in row] for row in told]
        return _number(float(told))

    frames: list[Json] = [
        [*frame[:3], [*frame.code], [*frame.reads], frame.write, cell(frame.value), *frame[7:]]
        for frame in shot.frames
    ]
    memory = [cell(held) for held in shot.memory]
    return cast("dict[str, Json]", shot._asdict()) | {"memory": memory, "frames": frames}


def _table(panel: Panel) -> dict[str, str | list[str] | list[list[str | float]]]:
    columns = list(panel.columns)
    rows = [[x if isinstance(x, str) else _number(float(x)) for x in row] for row in panel.rows]
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise InputError(
                f"view: row {number} of the panel {panel.title!r} has {len(row)} cells, expected "
                f"{len(columns)}, one a column"
            )
    return {"title": panel.title, "columns": columns, "rows": rows}


def page(shown: Mapping[str, Json]) -> str:
    """The HTML of what `content` gave."""
    folder = files("lsrl.interpret")
    style, machine, script, body = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("page.css", "page_machine.js", "page.js", "page.html")
    )
    script = machine + script
    # A name may hold "</script>": inside a JSON string "<" can be written otherwise.
    data = json.dumps(shown, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Template(body).substitute(
        title=html.escape(str(shown["title"])),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=data,
    )


def _hash(text: str) -> str:
    """As a content security policy names a script or style that may be used."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# ---------------------------------------------------------------- values


def _numbers(array: Array, held: Array | None = None) -> list[list[int | float | str | None]]:
    """Per sequence the values, token by token; whole ones as ints, which are shorter."""
    values = np.asarray(array, np.float64)
    known = np.broadcast_to(True if held is None else held, values.shape)
    rows, masks = (x.reshape(len(values), -1).tolist() for x in (values, known))
    return [
        [_number(value) if here else None for value, here in zip(row, mask, strict=True)]
        for row, mask in zip(rows, masks, strict=True)
    ]


def _number(value: float) -> int | float | str:
    if value.is_integer():
        return int(value)
    return value if math.isfinite(value) else str(value)


def _inputs(model: Model, arrays: Sequence[Array]) -> list[dict[str, Json]]:
    """The symbols or vectors that the tokens are, per sequence."""
    found: list[dict[str, Json]] = []
    for (name, kind), array in zip(model.program.inputs.items(), arrays, strict=True):
        if isinstance(kind, Token):
            names = kind.names or [str(symbol) for symbol in range(kind.size)]
            texts = [[names[symbol] for symbol in row] for row in array.tolist()]
        else:
            texts = [[", ".join(f"{x:g}" for x in token) for token in row] for row in array]
        found.append({"name": name, "symbols": isinstance(kind, Token), "texts": texts})
    return found


def _check(
    model: Model, arrays: Sequence[Array], found: Outcome, held: Mapping[str, Array]
) -> dict[str, Json]:
    """Whether what the network holds and gives is what the program says."""
    expected = patch(model, arrays, {}, on="evaluator")
    try:
        model.program.run(*arrays)  # the compiled graph no longer has every promise
    except BoundsError as error:
        return {"equal": False, "text": f"these inputs break a promise: {error}"}
    pairs = {name: (found.signals[name], known) for name, known in expected.signals.items()}
    worst, where = 0.0, ""
    for name, (here, known) in (pairs | {OUTPUT: (found.outputs, expected.outputs)}).items():
        difference = np.abs(here.astype(np.float64) - known)
        difference[np.isnan(difference)] = np.inf
        if name in held:
            difference[..., ~held[name]] = 0
        if difference.max() > worst:
            worst = float(difference.max())
            place = np.unravel_index(difference.argmax(), difference.shape)
            where = f"{name}[{place[2]}] at token {place[1]} of sequence {place[0]}"
    if worst == 0:
        return {"equal": True, "text": "every value here equals the program's"}
    return {"equal": False, "text": f"differs from the program by up to {worst:.3g}: {where}"}


# ---------------------------------------------------------------- source lines


def _lines(model: Model) -> dict[str, list[Source]]:
    """The lines that made each signal, first the one that its circuit names."""
    graph, nodes = model.schedule.graph, circuit_nodes(model)
    found: dict[str, list[Source]] = {}
    signals: tuple[Signal | Derived, ...] = (*model.circuit.signals, *model.circuit.derived)
    for one in signals:
        file, _, line = one.source.rpartition(":")
        numbered = line.isascii() and line.isdigit() and len(line) < 10
        own = [Source(file, int(line))] if file and numbered else []
        if own and one.name in nodes:
            own += [each.place for each in graph.nodes[nodes[one.name]].sources]
        found[one.name] = list(dict.fromkeys(own))
    return found


def _readable(
    model: Model, lines: Mapping[str, Sequence[Source]], source: bool
) -> Mapping[str, Sequence[Source]]:
    """The lines that may be looked up: unasked, those alone that the program itself recorded.

    What a file says, of a program or of a circuit beside it, may name any file of this machine.
    """
    if source:
        return lines
    nodes = model.program.graph.nodes if model.program.recorded else ()
    known = {line.place for node in nodes for line in node.sources}
    return {name: [line for line in found if line in known] for name, found in lines.items()}


def _file_names(paths: set[str]) -> dict[str, str]:
    """A short name for each path: of two files of one name the second has its folder too."""
    found: dict[str, str] = {}
    for path in sorted(paths):
        parts = Path(path).parts
        names = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
        found[path] = next((name for name in names if name not in found.values()), path)
    return found


def _shortened(text: str, names: Mapping[str, str]) -> str:
    for path, name in names.items():
        text = text.replace(f"{path}:", f"{name}:")
    return text


class _Span(NamedTuple):
    first: int
    last: int


def _excerpts(
    lines: Mapping[str, Sequence[Source]], names: Mapping[str, str]
) -> list[dict[str, Json]]:
    """The functions around the lines, most used file first: {"file", "first", "lines"} each."""
    wanted: dict[str, list[int]] = {}
    for found in lines.values():
        for source in found:
            wanted.setdefault(source.file, []).append(source.line)
    excerpts: list[dict[str, Json]] = []
    for path, numbers in sorted(wanted.items(), key=lambda item: -len(item[1])):
        text = _source_text(path)
        for span in _spans(text, sorted(set(numbers))):
            block = text[span.first - 1 : span.last]
            excerpts.append({"file": names[path], "first": span.first, "lines": block})
    return excerpts


def _source_text(path: str) -> list[str]:
    """The lines of a Python file or of a notebook's cell; none of any other file."""
    if not path.endswith(".py") and not (path.startswith("<") and path in linecache.cache):
        return []
    linecache.checkcache(path)
    return [line.rstrip("\r\n") for line in linecache.getlines(path)]


def _spans(text: Sequence[str], numbers: Sequence[int]) -> list[_Span]:
    """The innermost functions that hold the lines, or a few lines around those outside of any."""
    try:
        tree = ast.parse("\n".join(text))
    except SyntaxError:
        functions = []
    else:
        functions = [
            _Span(min([node.lineno, *(one.lineno for one in node.decorator_list)]), end)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and (end := node.end_lineno) is not None
        ]
    found: list[_Span] = []
    for number in numbers:
        if number > len(text):
            continue  # the file has changed since
        around = [span for span in functions if span.first <= number <= span.last]
        near = _Span(max(number - 2, 1), min(number + 2, len(text)))
        span = min(around, key=lambda span: span.last - span.first, default=near)
        if found and span.first <= found[-1].last + 1:
            before = found.pop()
            span = _Span(min(before.first, span.first), max(before.last, span.last))
        found.append(span)
    return found
