"""The input map: what the first layer reads of the program's inputs, as tables and kernels."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self, TypeAlias

import numpy as np

from lsrl.ir.numbers import Array
from lsrl.ir.ops import Input, Lookup, Op, is_token
from lsrl.ir.types import Token
from lsrl.parameters import Parameter
from lsrl.schedule import Schedule

Words: TypeAlias = tuple[str, str]
WORDS: Words = ("table", "kernel")


class InputMaps(NamedTuple):
    """Per program input a table (symbols, features) or a kernel (width, features), if read."""

    tables: tuple[Parameter | None, ...]
    kernels: tuple[Parameter | None, ...]

    @classmethod
    def of(cls, held: Mapping[int, Parameter], kinds: Sequence[str], words: Words = WORDS) -> Self:
        """Maps by the number of the input, of kinds as `kinds` gives them."""
        return cls(
            *(
                tuple(held[i] if kind == word else None for i, kind in enumerate(kinds))
                for word in words
            )
        )

    def kinds(self, words: Words = WORDS) -> tuple[str, ...]:
        """The word for what each input has; "" for one that is not read."""
        table, kernel = words
        return tuple(
            table if t is not None else kernel if k is not None else ""
            for t, k in zip(*self, strict=True)
        )

    def held(self) -> dict[int, Parameter]:
        """By the number of each input that is read, its table or kernel."""
        maps = (k if t is None else t for t, k in zip(*self, strict=True))
        return {number: one for number, one in enumerate(maps) if one is not None}


def input_maps(schedule: Schedule) -> InputMaps:
    """The maps that add up to the schedule's features."""
    count = len(schedule.graph.inputs)
    tables: list[Array | None] = [None] * count
    kernels: list[Array | None] = [None] * count
    start = 0
    for node in schedule.features:
        this = schedule.graph.nodes[node]
        source = this if isinstance(this.op, Input) else schedule.graph.nodes[this.operands[0]]
        if not isinstance(source.op, Input):
            raise TypeError(f"feature {node} reads no input")  # the scheduler never makes one
        made, index = feature_map(this.op, source.op), source.op.index
        block = np.zeros((len(made), schedule.feature_width))
        block[:, start : start + this.width] = made
        place = tables if is_token(source.op) else kernels
        known = place[index]
        place[index] = block if known is None else known + block
        start += this.width
    return InputMaps(tuple(tables), tuple(kernels))


def feature_map(op: Op, source: Input) -> Array:
    """What an op makes of one input, the input itself among them: (symbols or width, channels)."""
    if isinstance(op, Lookup):
        return op.table.dense()
    if isinstance(source.type, Token):
        return np.arange(source.type.size, dtype=np.float64)[:, None]
    return np.eye(source.type.width)
