"""What the passes make of small programs, line by line, so that a change of a pass can be read.

Each file of tests/golden/ has the program as written and what each pass that changed it left of it,
up to the ops of one target. `make golden` writes them anew: read their diff before you commit it.
`lsrl compile PROGRAM -t TARGET --dump-after PASS` shows the same, with the user's lines.
"""

import re
from collections.abc import Callable
from inspect import getsource
from pathlib import Path

import pytest

import lsrl
from lsrl import Token, programs, stages
from lsrl.backends import registry
from lsrl.numerics import numerics_of
from lsrl.options import Options
from lsrl.passes import pipeline
from lsrl.stages import Stages

FOLDER = Path(__file__).parent / "golden"


@lsrl.program(max_length=100)
def neither_yet(x: Token(3)):
    """Neither a 1 nor a 2 came so far, and this is a 0: a conjunction of saturated conditions."""
    return (lsrl.cumsum(x == 1) < 1) & (lsrl.cumsum(x == 2) < 1) & (x == 0)


@lsrl.program
def highest(x: Token(4)):
    """By whether each value was reached, or as one recurrent unit."""
    return lsrl.running_max(x)


UNROLLED = Options(legalise="unroll")
CASES: dict[tuple[str, str], tuple[Callable[[], lsrl.Program], Options]] = {
    ("majority", "mamba"): (programs.majority, Options()),
    ("majority", "linear_rnn"): (programs.majority, Options(robust=True)),
    ("counter_mod", "mamba"): (programs.counter_mod, Options()),
    ("running_max", "rnn_tanh"): (programs.running_max, Options()),
    ("since_last", "linear_rnn"): (programs.since_last, Options()),
    ("binary_adder", "gru"): (programs.binary_adder, Options()),
    ("gradient_step", "gated_linear_rnn"): (programs.gradient_step, Options()),
    ("first_token", "linear_rnn"): (programs.first_token, Options()),
    ("first_token", "griffin"): (programs.first_token, Options()),
    ("flip_flop", "mamba"): (programs.flip_flop, Options()),
    ("flip_flop", "linear_rnn"): (lambda: programs.flip_flop(max_length=3), UNROLLED),
    ("induction_head", "lstm"): (programs.induction_head, Options()),
    ("dyck1", "rnn"): (programs.dyck1, Options()),
    ("ngram", "rnn_tanh"): (programs.ngram, Options()),
    ("even_pairs", "mamba"): (programs.even_pairs, Options()),
    ("dfa", "gru"): (programs.dfa, Options()),
    ("dfa", "deltanet"): (programs.dfa, Options()),
    ("majority", "deltanet"): (programs.majority, Options()),
    ("echo_sum", "linear_rnn"): (programs.echo_sum, Options()),
    ("vec2vec", "griffin"): (programs.vec2vec, Options()),
    ("neither_yet", "linear_rnn"): (lambda: neither_yet, Options()),
    ("highest", "rnn"): (lambda: highest, Options()),
    ("highest", "mamba"): (lambda: highest, Options()),
}


def dumped(name: str, target: str) -> str:
    """The program, and after each pass that changes it what it is."""
    build, options = CASES[name, target]
    program, backend = build(), registry.find(target)
    texts = [("as written", program.graph.dump())]

    def watch(name: str, graph) -> None:
        if graph.dump() != texts[-1][1]:
            texts.append((f"after {name}", graph.dump()))

    way = Stages(program, backend, numerics_of(backend.dtypes[-1]), options, watch)
    way.legalise(way.check(way.unroll(way.simplify(program.graph))))
    shown = ", ".join(f"{key}={value}" for key, value in options._asdict().items() if value)
    head = f"{program!r} on {target}, {shown}"
    return "\n".join([head, *(f"\n{title}:\n{text}" for title, text in texts)]) + "\n"


def file_of(name: str, target: str) -> Path:
    return FOLDER / f"{name}.{target}.txt"


@pytest.mark.parametrize(("name", "target"), CASES)
def test_passes_leave_what_they_left(name: str, target: str) -> None:
    assert dumped(name, target) == file_of(name, target).read_text(), "`make golden` renews it"


def test_there_is_a_file_for_each_case_and_a_case_for_each_pass() -> None:
    files = {path.name: path.read_text() for path in FOLDER.glob("*.txt")}
    assert files.keys() == {file_of(*case).name for case in CASES}
    passes = re.findall(r'\.run\("([^"]+)"', getsource(pipeline) + getsource(stages))
    assert len(passes) > 12
    for name in passes:
        assert any(f"\nafter {name}:\n" in text for text in files.values()), name


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for case in CASES:
        file_of(*case).write_text(dumped(*case))
