"""Random programs as hypothesis draws them, and inputs that reach the ends of their types."""

import os
from collections.abc import Callable, Iterable
from datetime import date

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import lsrl
from lsrl.ir.numbers import Array
from lsrl.testing.random_ops import EDGE_OPS, LINEAR_OPS
from lsrl.testing.random_programs import random_program
from lsrl.testing.verification import sample_inputs

# Hypothesis shrinks towards the first entry; most programs still have 8 ops in a row, or more.
DEPTHS = [*range(1, 8), *(8, 9, 10, 12) * 7]
WIDTHS = [1, 2, 4, 8, 16, 16, 16, 16, 16]

# Heavy property tests draw other examples each day, in turn, and at night those of other turns. The
# workers have the turn of the process that started them, whatever the date is by then.
TURNS = 7
TURN = int(os.environ.setdefault("LSRL_TURN", str(date.today().toordinal() % TURNS))) % TURNS
each_turn = pytest.mark.parametrize(
    "turn",
    [
        pytest.param(turn, marks=() if turn == TURN else pytest.mark.nightly, id=f"turn-{turn}")
        for turn in range(TURNS)
    ],
)


def check_programs(
    turn: int | None,
    count: int,
    drawn: st.SearchStrategy[lsrl.Program],
    check: Callable[[lsrl.Program], None],
) -> None:
    """Call `check` with the programs of a turn, or with new ones, as hypothesis draws them."""

    @settings(max_examples=count)
    @given(program=drawn)
    def call(program: lsrl.Program) -> None:
        check(program)

    (call if turn is None else seed(turn)(call))()


@st.composite
def programs(
    draw: st.DrawFn, ops: Iterable[str] | None = None, max_length: int = 64
) -> lsrl.Program:
    """A random program; a failing one shrinks to fewer ops, narrower signals and a smaller seed."""
    depth = draw(st.sampled_from(DEPTHS), label="depth")
    width = draw(st.sampled_from(WIDTHS), label="width")
    seed = draw(st.integers(0, 2**32 - 1), label="seed")
    return random_program(seed, ops, depth=depth, width=width, max_length=max_length)


@st.composite
def edge_programs(draw: st.DrawFn, max_length: int) -> lsrl.Program:
    """A random program at the edges: ends of dtypes, ramps, any length, starts, several inputs."""
    ops = draw(st.sampled_from([EDGE_OPS, (*LINEAR_OPS, *EDGE_OPS)]), label="ops")
    return random_program(
        draw(st.integers(0, 2**32 - 1), label="seed"),
        ops,
        depth=draw(st.integers(2, 6), label="depth"),
        width=draw(st.integers(1, 6), label="width"),
        max_length=draw(st.sampled_from([max_length, None]), label="max_length"),
        starting=draw(st.sampled_from([0.4, 1.0]), label="starting"),
        many_inputs=draw(st.booleans(), label="many inputs"),
        continuous=draw(st.booleans(), label="continuous"),
    )


def depth_of(program: lsrl.Program) -> int:
    """How many ops a random program chains."""
    return max(int(name.rpartition("_")[2]) for name in names_of(program))


def ops_of(program: lsrl.Program) -> set[str]:
    """Which ops of `lsrl.testing.random_programs.OPS` the output of a random program depends on."""
    return {name.rpartition("_")[0] for name in names_of(program)}


def names_of(program: lsrl.Program) -> list[str]:
    """The names op_level of a random program's live signals."""
    nodes = (program.graph.nodes[i] for i in program.graph.live())
    return [name for node in nodes for name in node.names if "_" in name]


def inputs_of(program: lsrl.Program, length: int, seed: int = 0) -> list[Array]:
    """Four sequences: at the low ends, at the high ends, from end to end and back, and random.

    Returns:
      (4, length[, width]), one array an input.
    """
    drawn = sample_inputs(program.inputs, 4, length, seed)
    for array in drawn:
        array[2, ::2], array[2, 1::2] = array[1, ::2], array[0, 1::2]
    return drawn
