"""The gallery: every program of the library and of the machines, run, and as a page to look at."""

import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np

import lsrl
from lsrl import machine
from lsrl.errors import LsrlError
from lsrl.interpret import view

# The first that holds a program shows it.
TARGETS = ("linear_rnn", "gated_linear_rnn", "mamba", "deltanet", "lstm")
TOKENS = 16  # of an example
WIDEST = 8  # signals of an input that an example prints
LARGEST = 1_500_000  # bytes of a page that is embedded
STEPS = 2_000  # instructions of a machine that are shown
# Texts that are shown at work; a page of each would take minutes.
AT_WORK = ("hello", "multiplication", "sorting", "product")
SMALLEST = 32  # cells

Files = Iterator[tuple[str, str]]  # (place on the site, contents)


def gallery() -> Files:
    """All files of the gallery: Markdown, and pages of networks as HTML."""
    families: dict[str, list[Any]] = {}
    for entry in lsrl.programs.catalogue().values():
        families.setdefault(entry.family, []).append(entry)
    yield "gallery/index.md", _index(families)
    for family, entries in families.items():
        sections = [f"# Programs: {family}\n"]
        for number, entry in enumerate(entries):
            section, page = _program(entry, number == 0)
            sections.append(section)
            if page is not None:
                yield f"gallery/pages/{entry.name}.html", page
        yield f"gallery/{_file(family)}", "\n".join(sections)
    yield from _machine_programs()


def _file(family: str) -> str:
    return f"{family.replace(' ', '-')}.md"


def _index(families: dict[str, list[Any]]) -> str:
    """What there is, one row a program."""
    about = (
        "Every program of `lsrl.programs`: what it reads and answers, a run of it, its source, and "
        "its network as a page, on which a click, the slider or the arrow keys choose the token. "
        "What runs inside the computers is under [machine programs](machine-programs.md). The "
        "table of [all programs on all targets](../programs.md) says which network holds which."
    )
    rows = [
        f"| {_link(entry.name, family)} | {family} | {entry.shows} |"
        for family, entries in families.items()
        for entry in entries
    ]
    head = ["| program | family | shows |", "| --- | --- | --- |"]
    return "\n".join(["# Gallery", "", about, "", *head, *rows, ""])


def _link(name: str, family: str) -> str:
    return f"[`{name}`]({_file(family)}#lsrl.programs.{name})"


def _program(entry: Any, shown: bool) -> tuple[str, str | None]:
    """A section, and the page of a network that holds the program."""
    parameters = entry.parameters[0]
    program = entry.program(**parameters)
    inputs = entry.sample(np.random.default_rng(0), TOKENS, **parameters)
    model = _compiled(program)
    page = None
    if model is not None:
        made = view(model, *(array[None] for array in inputs))
        page = made.html if len(made.html) <= LARGEST else None
    call = f"lsrl.programs.{entry.name}({', '.join(f'{k}={v!r}' for k, v in parameters.items())})"
    parts = [f"::: lsrl.programs.{entry.name}", *_run(call, program, inputs)]
    if page is None:
        parts.append("Its network is too large to be shown here.")
    elif model is not None:
        width = max((layer.width for layer in model.schedule.layers), default=0)
        exact = "exact" if model.certificate.exact else "with an error bound"
        layers = len(model.schedule.layers)
        about = f"The network on {model.target}: {layers} layers, {width} wide, {exact}"
        parts.append(frame(f"pages/{entry.name}.html", about, shown))
    return "\n\n".join(parts) + "\n", page


def _compiled(program: lsrl.Program) -> lsrl.Model | None:
    for target in TARGETS:
        try:
            return lsrl.compile(program, target, inspectable=True)
        except LsrlError:
            continue
    return None


def _run(call: str, program: lsrl.Program, inputs: tuple[Any, ...]) -> list[str]:
    """A call of the program, and what it answers; nothing of what is too wide to print."""
    if any(array.ndim > 1 and array.shape[1] > WIDEST for array in inputs):
        return []
    outputs = program.run(*inputs)
    given = ", ".join(_listed(array) for array in inputs)
    code = f"{call}.run({given})"
    shown = _listed(outputs[:, 0] if outputs.shape[1] == 1 else outputs)
    return [
        "```python\n" + "\n".join(_wrapped(code)) + "\n```",
        _fenced("\n".join(_wrapped(shown))),
    ]


def _listed(array: Any) -> str:
    numbers = np.round(np.asarray(array, np.float64), 4)
    whole = bool((numbers == np.round(numbers)).all())
    return str((numbers.astype(np.int64) if whole else numbers).tolist())


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 88, subsequent_indent="    ", break_long_words=False)


def _fenced(text: str, language: str = "") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def frame(source: str, about: str, shown: bool) -> str:
    """A page in a page, of a height that is known before it loads; it loads where it is shown."""
    return (
        f'<details class="network"{" open" if shown else ""}><summary>{about}</summary>\n'
        f'<iframe src="{source}" title="{about}" loading="lazy"></iframe>\n'
        f'<p><a href="{source}">By itself</a></p></details>'
    )


def _machine_programs() -> Files:
    """The texts that come along, and some at work inside a network."""
    sections = [
        "# Machine programs\n\nTexts for the computers of [the library](computer.md), which "
        "`lsrl.machine` assembles ([the computer](../computer.md)). A text as a memory image is "
        "`machine.programs()[name].image()`; `lsrl machine run hello --target lstm --cells 64` "
        "runs it inside a network."
    ]
    for name, text in machine.programs().items():
        parts = [f"## {name}", text.shows, _takes(text), _leaves(text)]
        if name in AT_WORK:
            page, about = _at_work(text)
            yield f"gallery/pages/machine-{name}.html", page
            parts.append(frame(f"pages/machine-{name}.html", about, False))
        source = textwrap.indent(_fenced(text.text), "    ")
        parts.append(f'??? quote "{text.file}, {text.machine}"\n\n{source}')
        sections.append("\n\n".join(part for part in parts if part))
    yield "gallery/machine-programs.md", "\n\n".join(sections) + "\n"


def _takes(text: machine.MachineProgram) -> str:
    given = ", ".join(f"`{name}={value!r}`" for name, value in text.parameters.items())
    return f"Takes {given}." if given else ""


def _leaves(text: machine.MachineProgram) -> str:
    """What the plain-Python algorithm leaves of the default parameters."""
    left = {name: _short(value) for name, value in text.expected().items()}
    return "Leaves " + ", ".join(f"`{name}` = `{value}`" for name, value in left.items()) + "."


def _short(value: object) -> str:
    shown = repr(value) if isinstance(value, bytes) else _listed(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}…"


def _at_work(text: machine.MachineProgram) -> tuple[str, str]:
    """A page of a text inside a network, and what it is."""
    image = text.image()
    if isinstance(image, machine.FleqImage):
        shape = image.shape or (1, 1)
        cells, lines = len(image.cells), len(image.lines)
        model = lsrl.compile(lsrl.programs.fleq(cells=cells, lines=lines, shape=shape), "mamba")
    else:
        cells = max(SMALLEST, max(image) + 1)
        model = lsrl.compile(lsrl.programs.subleq(cells=cells, io=True), "linear_rnn")
    run = model.loop(*machine.card(model, image), steps=STEPS, stdin=text.keys())
    about = f"At work inside a network on {model.target}, instruction by instruction"
    return view(model, run, image=image).html, about
