"""What every op is: parameters, facts, sums, and its meaning as a formula over one token."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from lsrl.errors import ShapeError
from lsrl.ir.arithmetic import Numbers, Values
from lsrl.ir.bounds import Facts, Sums, no_sums
from lsrl.ir.matrix import Matrix
from lsrl.ir.numbers import Array

Via = Literal["auto", "gate", "relu"]
Keeper = Literal["program", "prompt"]
# What an op remembers between two tokens: arrays that begin with the axes of the streams.
Memory = tuple[Array, ...]
Operands = Sequence[Array]


class Extent(NamedTuple):
    """What is evaluated at once, and in which arithmetic.

    Attributes:
      shape: (batch, time) of whole sequences, (batch,) of one token of each; with jax any axes.
      numbers: the arithmetic.
    """

    shape: tuple[int, ...]
    numbers: Numbers

    @property
    def rank(self) -> int:
        """Number of axes of a value, with that of its channels."""
        return len(self.shape) + 1

    @property
    def token(self) -> "Extent":
        """One token of these sequences."""
        return Extent(self.shape[:1], self.numbers)

    def row(self, values: Values) -> Array:
        """Constants that fit values: (1, ..., 1, width)."""
        return self.numbers.row(values, self.rank)

    def full(self, values: Values) -> Array:
        """Constants everywhere: (*shape, width)."""
        return self.numbers.full(values, self.shape)


class Pledge(NamedTuple):
    """What is taken for true of an op's values, beyond what inference proves.

    Attributes:
      text: in words.
      keeper: whose it is to keep: the program's author, for every input of the declared types, or
        whoever writes the prompt; None for a theorem of the op's maker.
      operands: of so many operands the text speaks, the first ones; 0 if of the result.
    """

    text: str
    keeper: Keeper | None
    operands: int = 0

    def shown(self, operands: Operands, value: Array) -> Array:
        """What the text speaks of, side by side."""
        return np.concatenate(operands[: self.operands], axis=-1) if self.operands else value


@dataclass(frozen=True, slots=True)
class Op(ABC):
    """An operation on signals; every subclass is final and frozen.

    Attributes:
      pointwise: the value at a token depends on the operands at that token alone.
    """

    pointwise: ClassVar[bool]

    @property
    def name(self) -> str:
        """The op's name in dumps and messages."""
        return type(self).__name__.lower()

    @property
    def stateful(self) -> bool:
        """Whether earlier tokens matter."""
        return not self.pointwise

    @property
    def constants(self) -> Iterator[Array]:
        """The numbers that values are made with."""
        for field in fields(self):
            value = getattr(self, field.name)
            parts = value if isinstance(value, tuple) else (value,)
            for part in parts if field.name not in ("low", "high", "step") else ():  # promises
                if isinstance(part, float | Matrix):
                    yield part.data if isinstance(part, Matrix) else np.array([part])

    @abstractmethod
    def width_of(self, widths: Sequence[int]) -> int:
        """Width of the result for operands of these widths.

        Raises:
          ShapeError: the operands do not fit.
        """

    @abstractmethod
    def infer(self, operands: Sequence[Facts], tokens: int) -> Facts:
        """Facts of the result over `tokens` tokens."""

    def settled(self, operands: Sequence[Facts], tokens: int) -> bool:
        """Whether what `infer` tells of some tokens holds at every greater number of them.

        Args:
          operands: facts that hold at every greater number.
          tokens: the number of tokens.
        """
        return self.pointwise

    def start(self, extent: Extent) -> Memory:
        """What is remembered before the first token."""
        return ()

    @abstractmethod
    def advance(self, memory: Memory, operands: Operands, extent: Extent) -> tuple[Memory, Array]:
        """One token.

        Args:
          memory: of the token before.
          operands: (batch, width) each.
          extent: of one token.

        Returns:
          The memory of this token and the value (batch, width).
        """

    def resumed(self, memory: Memory, value: Array) -> Memory:
        """The memory, if the value was another one: a state goes on from its value."""
        return memory

    @abstractmethod
    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """The result (batch, time, width) of operands (batch, time, ...)."""

    @abstractmethod
    def sums(self, operands: Sequence[Facts], tokens: int) -> Sums:
        """Condition P1 of what is added up."""

    def promise(self, operands: Sequence[Facts], slack: float = 0.0) -> Pledge | None:
        """What the op takes for true of operands with these facts, if anything.

        Args:
          operands: facts of the operands.
          slack: rounding of what a comparison reads, in units of its ramp's rise: it widens ramps.
        """
        return None

    def broken(self, operands: Operands, value: Array, extent: Extent, memory: Memory) -> Array:
        """Where the promise is broken: a mask that fits the value.

        Args:
          operands: of whole sequences, or of one token.
          value: of the same.
          extent: of the same.
          memory: of the token; empty for whole sequences.
        """
        return np.zeros(value.shape, dtype=bool)


class Pointwise(Op):
    """An op whose value at a token depends on the operands at that token alone."""

    __slots__ = ()
    pointwise: ClassVar[bool] = True

    @abstractmethod
    def value(self, operands: Operands, extent: Extent) -> Array:
        """The formula, for one token as for whole sequences."""

    def advance(self, memory: Memory, operands: Operands, extent: Extent) -> tuple[Memory, Array]:
        """The formula; nothing is remembered."""
        return (), self.value(operands, extent)

    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """The formula, at all tokens at once."""
        return self.value(operands, extent)


class Stateful(Op):
    """An op whose value at a token depends on earlier tokens."""

    __slots__ = ()
    pointwise: ClassVar[bool] = False

    def evaluate(self, operands: Operands, extent: Extent) -> Array:
        """Token by token."""
        return self.scan(operands, extent)

    def scan(
        self, operands: Operands, extent: Extent, given: tuple[Array, Array] | None = None
    ) -> Array:
        """The values (batch, time, width), token by token.

        Args:
          operands: of whole sequences.
          extent: of the same.
          given: mask and values, of whole sequences: where the value is replaced, and what by.
        """
        memory, token = self.start(extent.token), extent.token
        width = self.width_of([operand.shape[-1] for operand in operands])
        result = np.empty((*extent.shape, width), extent.numbers.dtype)
        for t, now in enumerate(zip(*(x.swapaxes(0, 1) for x in operands), strict=True)):
            memory, value = self.advance(memory, now, token)
            if given is not None:
                value = np.where(given[0][:, t], given[1][:, t], value)
                memory = self.resumed(memory, value)
            result[:, t] = value
        return result


def adds_nothing(self: Op, operands: Sequence[Facts], tokens: int) -> Sums:
    """The `sums` of an op that moves values, or picks them."""
    return no_sums(self.width_of([operand.width for operand in operands]))


def holds_at_once(self: Op, operands: Sequence[Facts], tokens: int) -> bool:
    """The `settled` of a state of which one token tells as much as any number."""
    return True


def same_width(name: str, widths: Sequence[int], count: int) -> int:
    """The width of all operands, of which there are so many."""
    if len(widths) != count or len(set(widths)) != 1:
        raise ShapeError(f"{name}: expected {count} operand(s) of one width, got widths {widths}")
    return widths[0]


def interval(low: Values, high: Values) -> str:
    """That a value stays between two ends, in words."""
    return f"stays in [{_compact(low)}, {_compact(high)}]"


def _compact(values: Values) -> str:
    distinct = set(values)
    return f"{distinct.pop():g}" if len(distinct) == 1 else ", ".join(f"{v:g}" for v in values)
