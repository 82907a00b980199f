"""What random programs are drawn from: numbers, matrices, and operands of known bounds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lsrl.ir.bounds import Facts
from lsrl.ir.numbers import Array
from lsrl.language.comparison import equal, greater_equal
from lsrl.language.signal import Signal, constant, relu
from lsrl.language.sugar import cumsum, delay, position

# The bits above its grid from which on a value is tamed, where it may grow past float32.
WILD = 50
# Second operands and what makes tables have no more bits than this.
CALM_BITS = 8
# How much any integer matrix may enlarge a state over all tokens.
GREATEST_GROWTH = 2.0**30
# A program without a greatest length is written as if it ran for so many tokens.
NOMINAL_LENGTH = 64


@dataclass
class Writer:
    """Draws what the ops of one program are made of, while its function runs.

    Attributes:
      random: where all choices come from.
      width: of the widest signal.
      max_length: the program's.
      limit: bits above its grid from which on a value is tamed.
      pool: signals so far that further operands are drawn from.
      starting: share of the states that start elsewhere than at 0.
    """

    random: np.random.Generator
    width: int
    max_length: int | None
    limit: int
    pool: list[Signal]
    starting: float

    @property
    def length(self) -> int:
        """The greatest number of tokens, or a number in its place."""
        return NOMINAL_LENGTH if self.max_length is None else self.max_length

    def pulse(self) -> Signal:
        """A signal that is 1 at most once: at some token, or the first time that another holds."""
        latest = max(self.length // 4, 1)
        if self.max_length is None:
            late = int(self.random.integers(0, latest))
            return relu(delay(constant(1), late) - delay(constant(1), late + 1))
        if self.chance(0.4):
            return equal(position(), int(self.random.integers(0, latest)))
        fires = self.condition()
        return fires & (cumsum(fires) <= 1)

    def grown(self, value: Signal) -> bool:
        """Whether a value has more bits than it may go on with."""
        return bits_of(value.facts) > self.limit

    # ------------------------------------------------------------------ numbers

    def some_width(self) -> int:
        """Log-uniform from 1 to the greatest width."""
        return int(self.width ** self.random.random() + 0.5)

    def weight(self) -> float:
        """A small integer, now and then half or a quarter of one."""
        scale = self.random.choice([0.5, 0.25, 1.5]) if self.random.random() < 0.125 else 1.0
        return float(scale * self.random.choice([-2, -1, -1, 1, 1, 1, 2]))

    def chance(self, probability: float) -> bool:
        """Whether something of that probability happens."""
        return bool(self.random.random() < probability)

    def level_of(self, value: Signal) -> Array:
        """(width,) a point of each channel's grid, above its least value if there is a choice."""
        facts = value.facts
        step = unit_of(facts)
        count = np.floor(np.minimum((facts.high - facts.low) / step, 2.0**30))
        # Values gather far from the ends of their intervals, so prefer what lies near the middle.
        share = self.random.beta(2, 2, size=facts.width)
        return np.asarray(facts.low + step * np.maximum(np.ceil(share * count), count > 0))

    # ------------------------------------------------------------------ operands

    def operand(self) -> Signal:
        """Any earlier signal, late ones more often."""
        back = int(self.random.geometric(0.3))
        return self.pool[max(len(self.pool) - back, 0)]

    def calm_operand(self, bits: float = CALM_BITS) -> Signal:
        """An earlier signal of few bits; the first input if none is drawn."""
        drawn = [self.operand() for _ in range(3)]
        return next((value for value in drawn if bits_of(value.facts) <= bits), self.pool[0])

    def fitted(self, value: Signal, width: int | None = None) -> Signal:
        """Sparse random rows of a value: `width` of them, or as many as it has channels."""
        rows = value.width if width is None else width
        matrix = np.zeros((rows, value.width))
        for row in range(rows):
            # Going round the channels reads each of them, if there are rows enough.
            count = 1 + int(self.chance(0.3)) + int(self.chance(0.1))
            columns = {row % value.width, *self.random.integers(0, value.width, count - 1).tolist()}
            for column in sorted(columns):
                matrix[row, column] = self.weight()
        return matrix @ value

    def picked(self, value: Signal, width: int) -> Signal:
        """Channels of a value, repeated where it has fewer."""
        return value[self.random.integers(0, value.width, width)]

    def like(self, value: Signal) -> Signal:
        """An earlier calm signal with as many channels as a value."""
        return self.picked(self.calm_operand(), value.width)

    def condition(self, width: int | None = None) -> Signal:
        """A {0,1} signal of width 1 or `width`, from an earlier signal."""
        value = self.operand()
        wide = 1 if width is None or self.chance(0.5) else width
        chosen = self.picked(value, wide)
        if chosen.facts.boolean and self.chance(0.7):
            return chosen if self.chance(0.7) else ~chosen
        return greater_equal(chosen, self.level_of(chosen))

    # ------------------------------------------------------------------ matrices

    def transition(self, size: int, *, growing: bool) -> Array:
        """A matrix by which a state goes on; without `growing` one that forgets."""
        kinds: list[Callable[[int], Array]] = [self.shift, self.nilpotent]
        if growing and self.max_length is not None:
            kinds += [np.eye, self.permutation, self.signed_permutation, self.finite_order]
            kinds += [self.unipotent, self.any_integers if self.limit == WILD else self.shift]
        return kinds[self.random.integers(len(kinds))](size)

    def shift(self, size: int) -> Array:
        """Channel k + 1 takes channel k."""
        return np.eye(size, k=-1)

    def nilpotent(self, size: int) -> Array:
        """Small integers below the diagonal: it forgets all after `size` tokens."""
        return np.tril(self.small_integers(size), -1) * (
            self.random.random((size, size)) < 2 / size
        )

    def permutation(self, size: int) -> Array:
        """Each channel takes another one."""
        return np.eye(size)[self.random.permutation(size)]

    def signed_permutation(self, size: int) -> Array:
        """Each channel takes another one, or its negative."""
        return self.permutation(size) * self.random.choice([-1.0, 1.0], size)[:, None]

    def finite_order(self, size: int) -> Array:
        """Blocks of order 3, 4 and 6 on the diagonal, in a basis that a shear has changed."""
        rotations = ([[0, -1], [1, -1]], [[0, -1], [1, 0]], [[1, -1], [1, 0]])
        matrix = np.diag(self.random.choice([-1.0, 1.0], size))
        for start in range(0, size - 1, 2):
            matrix[start : start + 2, start : start + 2] = rotations[self.random.integers(3)]
        if size > 1:
            shear = np.eye(size)
            row, column = self.random.choice(size, 2, replace=False)
            shear[row, column] = self.random.choice([-1.0, 1.0])
            matrix = shear @ matrix @ np.linalg.inv(shear).round()
        return matrix

    def unipotent(self, size: int) -> Array:
        """The identity with one more entry, so that a state grows with the square of the tokens."""
        matrix = np.eye(size)
        if size > 1:
            matrix[size - 1, self.random.integers(size - 1)] = self.random.choice([-1.0, 1.0])
        return matrix

    def any_integers(self, size: int) -> Array:
        """Small integers of any sign, as long as they don't outgrow float32 within the tokens."""
        for _ in range(8):
            matrix = self.small_integers(size) * (self.random.random((size, size)) < 1.5 / size)
            with np.errstate(over="ignore", invalid="ignore"):
                grown = np.linalg.matrix_power(np.abs(matrix), self.length).max()
            if grown <= GREATEST_GROWTH:
                return matrix
        return self.signed_permutation(size)

    def small_integers(self, size: int) -> Array:
        """Entries of size 1 or 2, of any sign."""
        return self.random.choice([-2.0, -1.0, 1.0, 2.0], (size, size), p=[0.1, 0.4, 0.4, 0.1])

    def initial(self, value: Signal) -> Array | float:
        """Mostly 0, else small multiples of the value's grid."""
        if self.chance(1 - self.starting):
            return 0.0
        multiples = self.random.integers(-2, 3, value.width)
        if self.starting == 1:
            multiples[multiples == 0] = 1
        return np.asarray(multiples * unit_of(value.facts))


def unit_of(facts: Facts) -> Array:
    """(width,) the grid of each channel; 1 where it is always 0 or continuous."""
    return np.where(np.isfinite(facts.step) & (facts.step > 0), facts.step, 1.0)


def bits_of(facts: Facts) -> float:
    """Bits of the greatest value above the finest grid; inf for continuous values."""
    if not facts.gridded or not np.isfinite(facts.magnitude).all():
        return float("inf")
    finite = facts.step[np.isfinite(facts.step)]
    return float(np.log2(max(facts.magnitude.max() / finite.min(), 1.0))) if len(finite) else 0.0
