"""Random programs, for property tests and for whoever wants to try a compiler on the unexpected.

A program is a chain: every op reads what the op before it made, and now and then an earlier signal
too. Bounds and grids are known while a program is written, so a value that has grown large is tamed
(compared, wrapped by a modulus, cut off) before it goes on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from typing import NamedTuple

import numpy as np

from lsrl.errors import ProgramError
from lsrl.ir.bounds import Facts
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Via
from lsrl.ir.types import InputType, Token, Vector
from lsrl.language.program import Program, program
from lsrl.language.signal import (
    Signal,
    absolute,
    concat,
    constant,
    equal,
    greater_equal,
    maximum,
    minimum,
    not_equal,
    ramp,
    relu,
)
from lsrl.language.sugar import (
    bound,
    clip,
    cumsum,
    delay,
    hold,
    latch,
    linear_state,
    lookup,
    mod,
    one_hot,
    periodic,
    position,
    recurrent_state,
    select,
    selective_state,
    threshold_state,
    window_sum,
)

# A value is tamed once its greatest magnitude has more bits above its grid than the program allows:
# one of these limits, with its share of the programs. The last one lets them grow past float32.
WILD = 50
LIMITS = ((8, 0.4), (11, 0.25), (14, 0.2), (WILD, 0.15))
# Second operands and what makes tables have no more bits than this.
CALM_BITS = 8
VIAS: tuple[Via, ...] = ("auto", "auto", "gate", "relu")
# How much any integer matrix may enlarge a state over all tokens.
GREATEST_GROWTH = 2.0**30
# An op that tames a value has no larger table than this.
LARGEST_TABLE = 12
# `mod` takes two levels for each power of two in the quotient.
LONGEST_MOD = 16
# Powers of two that bring small numbers near the ends of float32 and bfloat16, or of float64.
EXPONENTS = (-1015, -140, -126, -118, -60, 60, 110, 120, 125, 1010)
# The grid on which `sample_inputs` of `lsrl.testing.verification` puts continuous inputs: the ramps
# that their comparisons keep out of are no wider.
CONTINUOUS_GRID = 2.0**-10
CONTINUOUS = Vector(2, low=-2, high=3)
# A program without a greatest length is written as if it ran for so many tokens.
NOMINAL_LENGTH = 64


def random_program(
    seed: int,
    ops: Iterable[str] | None = None,
    depth: int = 8,
    width: int = 16,
    max_length: int | None = 64,
    inputs: Sequence[InputType] | None = None,
    *,
    starting: float = 0.4,
    many_inputs: bool = False,
    continuous: bool = False,
) -> Program:
    """Write a random program; equal arguments give equal programs.

    Distribution: one input, or two (1 in 4), each a token of 2 to 8 symbols (3 in 5) or a vector of
    1 to 4 entries on a grid of 1/4 to 3. Then `depth` ops, uniform over `ops` (the first prefers
    ops with memory), each reading the result of the one before, to which an earlier signal is added
    now and then (1 in 4); further operands are earlier signals. A value of too many bits above its
    grid is tamed by a comparison, `mod`, `lookup`, `one_hot`, a clip or a ReLU, as `ops` has them,
    in place of the op drawn. The limit is 8 bits in 2 programs of 5, else 11 or 14; in 3 of 20 it
    is 50, with more sums than other ops, which takes many of these past float32. Widths are
    log-uniform from 1 to `width`. Weights are small integers, 1 in 8 of them dyadic. Transitions of
    linear states are the identity, shifts, permutations, signed permutations, and general integer
    matrices: nilpotent, unipotent, of finite order, and where the limit is 50 any small integers.
    The output is the last value with up to two earlier signals.

    Each op's result has the name op_level, such as `mod_3`. Promises (`latch`, `bound`, the ends of
    `recurrent_state`, ramps) hold for every input, those about continuous inputs on the grid of
    `CONTINUOUS_GRID`.

    `EDGE_OPS` are for trying a compiler on what is easily forgotten: `scale` brings values near the
    ends of a dtype, `odd_mod` divides by what is not on the grid, `ramp` and `ramped` compare with
    ramps wider than the grid, `deep_select` and `nested_latch` nest, and `clock` is a state that
    reads no input.

    Args:
      seed: any int >= 0.
      ops: names out of `OPS` and `EDGE_OPS`; by default `LINEAR_OPS`, which both linear targets
        hold. Inputs, constants and the affine maps that fit widths to each other are always there.
      depth: number of chained ops, at least 1.
      width: the widest signal, at least 1.
      max_length: of the program; None for one of any length, without the ops of `COUNTING`.
      inputs: their types, in place of drawn ones.
      starting: share of the states that start elsewhere than at 0; at 1 no channel starts at 0.
      many_inputs: draw 3 or 4 inputs.
      continuous: one more input, `CONTINUOUS`. It is read by comparisons with a ramp and by ramps;
        what they make, and what they let through, is in the output too.

    Returns:
      The program, named random_<seed>.

    Raises:
      ProgramError: an unknown op, a seed, depth, width or length that is too small, no input, or
        only ops that count where there is no greatest length.
    """
    names = _checked_names(LINEAR_OPS if ops is None else ops)
    if max_length is None:
        names = tuple(name for name in names if name not in COUNTING)
        if not names:
            raise ProgramError("random_program: all these ops count, so max_length can't be None")
    for what, value, least in (
        ("seed", seed, 0), ("depth", depth, 1), ("width", width, 1),
        ("max_length", NOMINAL_LENGTH if max_length is None else max_length, 1),
    ):  # fmt: skip
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ProgramError(f"random_program: {what} must be an int >= {least}, got {value!r}")
    random = np.random.default_rng(int(seed))
    if inputs is None:
        second = random.random() < 0.25
        kinds = [_input_type(random) for _ in range(3 + second if many_inputs else 1 + second)]
    else:
        kinds = list(inputs)
    if not kinds:
        raise ProgramError("random_program: expected at least one input, got none")

    def write(*inputs: Signal) -> Signal:
        pool, analog = list(inputs[: len(kinds)]), list(inputs[len(kinds) :])
        length = None if max_length is None else int(max_length)
        writer = _Writer(random, int(width), length, names, limit, pool, float(starting))
        return writer.write(int(depth), analog)

    limits, shares = zip(*LIMITS, strict=True)
    limit = int(random.choice(limits, p=shares))

    def one(x: Signal) -> Signal:
        return write(x)

    def two(x: Signal, y: Signal) -> Signal:
        return write(x, y)

    def many(*signals: Signal) -> Signal:
        return write(*signals)

    types = {f"x{i}": kind for i, kind in enumerate(kinds)}
    if len(kinds) <= 2:
        types = dict(zip("xy", kinds, strict=False))
    function: Callable[..., Signal] = one if len(kinds) == 1 else two
    if continuous or len(kinds) > 2:
        function = many
        types |= {"z": CONTINUOUS} if continuous else {}
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in types]
        many.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = types
    length = None if max_length is None else int(max_length)
    return program(max_length=length, name=f"random_{seed}")(function)


def _checked_names(ops: Iterable[str]) -> tuple[str, ...]:
    wanted = set(ops)
    known = (*OPS, *EDGE_OPS)
    unknown = sorted(wanted - set(known))
    if unknown or not wanted:
        raise ProgramError(
            f"random_program: ops must be some of {', '.join(known)}; got "
            f"{', '.join(unknown) or 'none at all'}"
        )
    return tuple(name for name in known if name in wanted)


def _input_type(random: np.random.Generator) -> InputType:
    if random.random() < 0.6:
        return Token(int(random.integers(2, 9)))
    step = float(random.choice([1.0, 1.0, 1.0, 0.5, 0.25, 2.0, 3.0]))
    low, high = np.sort(random.integers(-6, 7, 2))
    return Vector(int(random.integers(1, 5)), low=low * step, high=(high + 1) * step, step=step)


@dataclass
class _Writer:
    """Writes one program, while its function runs.

    Attributes:
      random: where all choices come from.
      width: of the widest signal.
      max_length: the program's.
      ops: names of the ops to choose from.
      limit: bits above its grid from which on a value is tamed.
      pool: signals so far that further operands are drawn from.
      starting: share of the states that start elsewhere than at 0.
    """

    random: np.random.Generator
    width: int
    max_length: int | None
    ops: tuple[str, ...]
    limit: int
    pool: list[Signal]
    starting: float
    level: int = field(default=0)

    @property
    def length(self) -> int:
        """The greatest number of tokens, or a number in its place."""
        return NOMINAL_LENGTH if self.max_length is None else self.max_length

    def write(self, depth: int, analog: Sequence[Signal]) -> Signal:
        through = [signal for value in analog for signal in self.digitised(value)]
        value = self.fitted(concat(*self.pool), self.some_width())
        while self.level < depth:
            value = self.next(value)
        extra = [self.operand() for _ in range(self.random.integers(0, 3))]
        return concat(value, *(self.picked(x, min(x.width, 4)) for x in extra), *through)

    def digitised(self, value: Signal) -> list[Signal]:
        """Put what a continuous signal compares to into the pool; what is continuous comes back."""
        steps = 1 / CONTINUOUS_GRID
        low, high = value.facts.low * steps, value.facts.high * steps
        level = self.random.integers(low.astype(int) + 1, high.astype(int)) * CONTINUOUS_GRID
        above = greater_equal(value, level, ramp=CONTINUOUS_GRID)
        near = equal(value, np.round(level), ramp=CONTINUOUS_GRID)
        self.pool += [above, near]
        width = float(self.random.choice([0.25, 0.75, 2.0]))
        forms = (
            lambda: ramp(value, level, width),
            lambda: select(above, value, level),
            lambda: latch(value, self.pulse(), self.initial(value)),
            lambda: delay(ramp(value, level, width) - value, 2),
        )
        return [forms[self.random.integers(len(forms))]()]

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

    def next(self, value: Signal) -> Signal:
        """One more op of the chain."""
        if value.facts.constant:
            # An earlier op happened to decide the value: go on from an input.
            value = self.fitted(self.pool[0], self.some_width())
        names = self.ops
        if self.grown(value):
            tame = [name for name in TAMERS if name in names]
            mild = [name for name in MILD if name in names]
            if not (tame or mild):
                # Without any way to tame or merely move a value, the chain starts again.
                value = self.fitted(self.pool[0], self.some_width())
            names = tuple(tame or mild) or names
        elif self.chance(0.25):
            value = value + self.like(value)
        prefer: tuple[str, ...] = ()
        if self.level == 0 and self.chance(0.75):
            prefer = WITH_MEMORY
        elif self.limit == WILD and self.chance(0.6):
            prefer = GROWING
        names = tuple(name for name in prefer if name in names) or names
        name = names[self.random.integers(len(names))]
        result = _MAKERS[name](self, value)
        self.level += 1
        self.pool.append(result.named(f"{name}_{self.level}"))
        return result

    def grown(self, value: Signal) -> bool:
        """Whether a value has more bits than it may go on with."""
        return _bits(value.facts) > self.limit

    # ------------------------------------------------------------------ numbers

    def some_width(self) -> int:
        """Log-uniform from 1 to the greatest width."""
        return int(self.width ** self.random.random() + 0.5)

    def weight(self) -> float:
        scale = self.random.choice([0.5, 0.25, 1.5]) if self.random.random() < 0.125 else 1.0
        return float(scale * self.random.choice([-2, -1, -1, 1, 1, 1, 2]))

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def level_of(self, value: Signal) -> Array:
        """(width,) a point of each channel's grid, above its least value if there is a choice."""
        facts = value.facts
        step = _unit(facts)
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
        return next((value for value in drawn if _bits(value.facts) <= bits), self.pool[0])

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
        return np.eye(size, k=-1)

    def nilpotent(self, size: int) -> Array:
        return np.tril(self.small_integers(size), -1) * (
            self.random.random((size, size)) < 2 / size
        )

    def permutation(self, size: int) -> Array:
        return np.eye(size)[self.random.permutation(size)]

    def signed_permutation(self, size: int) -> Array:
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
        return self.random.choice([-2.0, -1.0, 1.0, 2.0], (size, size), p=[0.1, 0.4, 0.4, 0.1])

    def initial(self, value: Signal) -> Array | float:
        """Mostly 0, else small multiples of the value's grid."""
        if self.chance(1 - self.starting):
            return 0.0
        multiples = self.random.integers(-2, 3, value.width)
        if self.starting == 1:
            multiples[multiples == 0] = 1
        return np.asarray(multiples * _unit(value.facts))


def _unit(facts: Facts) -> Array:
    """(width,) the grid of each channel; 1 where it is always 0 or continuous."""
    return np.where(np.isfinite(facts.step) & (facts.step > 0), facts.step, 1.0)


def _bits(facts: Facts) -> float:
    """Bits of the greatest value above the finest grid; inf for continuous values."""
    if not facts.gridded or not np.isfinite(facts.magnitude).all():
        return float("inf")
    finite = facts.step[np.isfinite(facts.step)]
    return float(np.log2(max(facts.magnitude.max() / finite.min(), 1.0))) if len(finite) else 0.0


# ---------------------------------------------------------------------- the ops, one function each

_Maker = Callable[[_Writer, Signal], Signal]


def _affine(writer: _Writer, x: Signal) -> Signal:
    rows = writer.fitted(x, writer.some_width())
    if writer.chance(0.4):
        rows = rows + writer.picked(writer.calm_operand(), rows.width)
    return rows + writer.random.integers(-3, 4, rows.width) if writer.chance(0.4) else rows


def _relu(writer: _Writer, x: Signal) -> Signal:
    middle = writer.level_of(x)
    signs = writer.random.choice([-1.0, 1.0], x.width)
    if not writer.grown(x):
        return relu((x - middle) * signs)
    # Cut off on both sides, in the form of which interval arithmetic sees both.
    most = _unit(x.facts) * writer.random.integers(1, 9, x.width)
    return most - relu(most - relu((x - middle) * signs))


def _linear_state(writer: _Writer, x: Signal) -> Signal:
    rows = writer.fitted(x, writer.some_width()) if writer.chance(0.5) else x
    matrix = writer.transition(rows.width, growing=not writer.grown(x))
    return linear_state(rows, matrix, writer.initial(rows))


def _cumsum(writer: _Writer, x: Signal) -> Signal:
    return cumsum(x, writer.initial(x))


def _position(writer: _Writer, x: Signal) -> Signal:
    now = position()
    return writer.fitted(concat(now, x), x.width) if writer.chance(0.7) else x - now


def _gate(writer: _Writer, x: Signal) -> Signal:
    condition = writer.condition(x.width)
    return condition * x if writer.chance(0.5) else x * condition


def _product(writer: _Writer, x: Signal) -> Signal:
    other = writer.like(x)
    return x * (other if _bits(other.facts) <= CALM_BITS else greater_equal(other, 0))


def _select(writer: _Writer, x: Signal) -> Signal:
    other = writer.like(x) if writer.chance(0.7) else writer.random.integers(-3, 4, x.width)
    first, second = (x, other) if writer.chance(0.5) else (other, x)
    via = VIAS[writer.random.integers(len(VIAS))]
    return select(writer.condition(x.width), first, second, via=via)


def _delay(writer: _Writer, x: Signal) -> Signal:
    steps = int(writer.random.choice([1, 1, 2, 3, 5, 9]))
    late = delay(x, steps, writer.initial(x))
    return x - late if writer.chance(0.2) else late


def _cycle(writer: _Writer, x: Signal) -> Signal:
    period = int(writer.random.integers(2, 8))
    if writer.chance(0.5):
        return x + periodic(writer.random.integers(-2, 3, (period, x.width)))
    return select(equal(periodic(np.arange(period)), writer.random.integers(period)), x, 0)


def _comparison(writer: _Writer, x: Signal) -> Signal:
    if _bits(x.facts) <= CALM_BITS and writer.chance(0.4):
        y: Signal | Array = writer.like(x)
    else:
        y = writer.level_of(x)
    forms = (
        lambda: x >= y, lambda: x > y, lambda: x < y, lambda: x <= y,
        lambda: equal(x, y), lambda: not_equal(x, y),
    )  # fmt: skip
    return forms[writer.random.integers(len(forms))]()


def _logic(writer: _Writer, x: Signal) -> Signal:
    mine = x if x.facts.boolean else greater_equal(x, writer.level_of(x))
    other = writer.condition(x.width)
    forms = (
        lambda: mine & other,
        lambda: mine | other,
        lambda: mine ^ other,
        lambda: ~(mine & other),
    )
    return forms[writer.random.integers(len(forms))]()


def _latch(writer: _Writer, x: Signal) -> Signal:
    return latch(x, writer.pulse(), writer.initial(x))


def _bound(writer: _Writer, x: Signal) -> Signal:
    """A theorem that interval arithmetic can't see: the smaller of two is at most either."""
    level = writer.level_of(x)
    low, high = x.facts.low, x.facts.high
    if writer.chance(0.5):
        return bound(minimum(x, level), low, np.minimum(level, high))
    return bound(maximum(x, level), np.maximum(level, low), high)


def _window_sum(writer: _Writer, x: Signal) -> Signal:
    return window_sum(x, int(writer.random.integers(2, 7)))


def _mod(writer: _Writer, x: Signal) -> Signal:
    """A value of many bits is cut off before; one that can be negative is lifted by a multiple."""
    step = _unit(x.facts)
    if len(set(step)) > 1:
        # The divisor has to lie on every channel's grid, so keep to the channels of one grid.
        x = x[np.flatnonzero(step == step[0])]
    unit = float(step[0])
    divisor = unit * int(writer.random.integers(2, 8))
    if x.facts.high.max() - x.facts.low.min() > LONGEST_MOD * divisor:
        most = unit * (LONGEST_MOD - 1)
        x = most - relu(most - relu(x - writer.level_of(x)))
    lift = np.ceil(np.maximum(-x.facts.low, 0) / divisor) * divisor
    return mod(x + lift if lift.any() else x, divisor)


def _lookup(writer: _Writer, x: Signal) -> Signal:
    index = _small_integer(writer, x)
    rows = int(index.facts.high[0]) + 1
    return lookup(index, writer.random.integers(-4, 5, (rows, writer.some_width())))


def _one_hot(writer: _Writer, x: Signal) -> Signal:
    index = _small_integer(writer, x)
    return one_hot(index, int(index.facts.high[0]) + 1)


def _small_integer(writer: _Writer, x: Signal) -> Signal:
    """Integers from 0 on that tell something of x: how many levels it has reached."""
    row = writer.picked(x, 1)
    facts = row.facts
    if facts.integer and facts.low[0] >= 0 and facts.high[0] < LARGEST_TABLE:
        return row
    if facts.integer and facts.high[0] - facts.low[0] < LARGEST_TABLE:
        return row - facts.low[0]
    channels = writer.picked(x, int(writer.random.integers(2, 6)))
    return greater_equal(channels, writer.level_of(channels)).sum()


def _minimum(writer: _Writer, x: Signal) -> Signal:
    other = writer.like(x) if writer.chance(0.6) else constant(writer.level_of(x))
    return minimum(x, other)


def _maximum(writer: _Writer, x: Signal) -> Signal:
    other = writer.like(x) if writer.chance(0.6) else constant(writer.level_of(x))
    return maximum(other, x)


def _absolute(writer: _Writer, x: Signal) -> Signal:
    return absolute(x - writer.level_of(x))


def _clip(writer: _Writer, x: Signal) -> Signal:
    """Cut off within a few steps, with the promise that this makes true."""
    low = writer.level_of(x)
    high = low + _unit(x.facts) * writer.random.integers(1, 9, x.width)
    return bound(clip(x, low, high), low, high)


def _hold(writer: _Writer, x: Signal) -> Signal:
    return hold(x, writer.condition(x.width), writer.initial(x))


def _selective_state(writer: _Writer, x: Signal) -> Signal:
    return selective_state(writer.condition(x.width), x, writer.initial(x))


def _threshold_state(writer: _Writer, x: Signal) -> Signal:
    rows = writer.fitted(x, min(writer.some_width(), 4))
    rows = rows - writer.level_of(rows)
    matrix = writer.any_integers(rows.width)
    return threshold_state(rows, matrix, writer.random.integers(0, 2, rows.width))


def _recurrent_state(writer: _Writer, x: Signal) -> Signal:
    """Rows of one entry of ±1 at most, so that a running sum of the updates is a bound."""
    matrix = writer.signed_permutation(x.width) if writer.chance(0.7) else writer.shift(x.width)
    initial = np.abs(writer.initial(x))
    most = np.max(initial) + writer.length * max(x.facts.high.max(), 0.0)
    return recurrent_state(x, matrix, high=most, initial=initial)


def _scale(writer: _Writer, x: Signal) -> Signal:
    """Values near the ends of a dtype; back to where they were, where they lie there already."""
    size = float(np.max(x.facts.magnitude)) or 1.0
    far = not 2.0**-40 < size < 2.0**40
    if far and writer.chance(0.5):
        return x * 2.0 ** -np.round(np.log2(size))
    exponents = [e for e in EXPONENTS if abs(np.log2(size) + e) < 1020]
    return x * 2.0 ** exponents[writer.random.integers(len(exponents))] if exponents else x / 2


def _odd_mod(writer: _Writer, x: Signal) -> Signal:
    """A divisor off the grid of the value, where the language takes one, else one of twice it."""
    row = _small_integer(writer, x)
    factor, divisor = (int(k) for k in writer.random.choice([2, 3, 4, 5, 7], 2, replace=False))
    try:
        return mod(row * factor, divisor)
    except ProgramError:
        return mod(row * factor, 2 * factor)


def _ramp(writer: _Writer, x: Signal) -> Signal:
    """Ramps of some steps of the grid: values on their slopes, which are defined."""
    width = float(np.max(_unit(x.facts))) * float(writer.random.choice([0.5, 1, 2, 4, 8]))
    return ramp(x, writer.level_of(x), width)


def _ramped(writer: _Writer, x: Signal) -> Signal:
    """A comparison with a ramp as wide as several steps, which the values are moved out of."""
    difference = x - writer.level_of(x)
    width = float(np.max(_unit(x.facts))) * float(writer.random.choice([0.5, 2, 3, 4, 8]))
    narrow = float(np.min(_unit(x.facts)))
    reached = greater_equal(difference, 0)
    apart = difference - width * (1 - reached)
    forms = (
        lambda: greater_equal(apart, 0, ramp=width),
        lambda: 1 - greater_equal(-apart, 0, ramp=narrow),
        lambda: not_equal(apart * (1 - reached), 0, ramp=width),
    )
    return forms[writer.random.integers(len(forms))]()


def _deep_select(writer: _Writer, x: Signal) -> Signal:
    """Conditionals within conditionals, of a mixed kind of gates."""
    for _ in range(int(writer.random.integers(2, 5))):
        x = _select(writer, x)
    return x


def _nested_latch(writer: _Writer, x: Signal) -> Signal:
    """What was latched is latched again."""
    for _ in range(int(writer.random.integers(2, 4))):
        x = latch(x, writer.pulse(), writer.initial(x))
        if writer.chance(0.4):
            x = x + writer.like(x)
    return x


def _clock(writer: _Writer, x: Signal) -> Signal:
    """A state that reads nothing and comes back to where it was."""
    size = int(writer.random.integers(2, 8))
    matrix = writer.permutation(size) if writer.chance(0.5) else np.roll(np.eye(size), 1, axis=0)
    turning = linear_state(constant(np.zeros(size)), matrix, writer.random.integers(-2, 3, size))
    return x + writer.fitted(turning, x.width)


class _Op(NamedTuple):
    make: _Maker
    linear: bool = True  # whether both linear targets hold it


_TABLE: dict[str, _Op] = {
    "affine": _Op(_affine),
    "relu": _Op(_relu),
    "linear_state": _Op(_linear_state),
    "cumsum": _Op(_cumsum),
    "position": _Op(_position),
    "gate": _Op(_gate),
    "product": _Op(_product, linear=False),
    "select": _Op(_select),
    "delay": _Op(_delay),
    "cycle": _Op(_cycle),
    "window_sum": _Op(_window_sum),
    "comparison": _Op(_comparison),
    "logic": _Op(_logic),
    "latch": _Op(_latch),
    "bound": _Op(_bound),
    "mod": _Op(_mod),
    "lookup": _Op(_lookup),
    "one_hot": _Op(_one_hot),
    "minimum": _Op(_minimum),
    "maximum": _Op(_maximum),
    "absolute": _Op(_absolute),
    "clip": _Op(_clip),
    "hold": _Op(_hold, linear=False),
    "selective_state": _Op(_selective_state, linear=False),
    "threshold_state": _Op(_threshold_state, linear=False),
    "recurrent_state": _Op(_recurrent_state, linear=False),
}
_EDGE_TABLE: dict[str, _Op] = {
    "scale": _Op(_scale),
    "odd_mod": _Op(_odd_mod),
    "ramp": _Op(_ramp),
    "ramped": _Op(_ramped),
    "deep_select": _Op(_deep_select),
    "nested_latch": _Op(_nested_latch),
    "clock": _Op(_clock),
}
_MAKERS: dict[str, _Maker] = {name: op.make for name, op in (_TABLE | _EDGE_TABLE).items()}

# Every name that `random_program` knows; `gate` is a product with a {0,1} operand, `product` any.
OPS: tuple[str, ...] = tuple(_TABLE)
# What is easily forgotten; see `random_program`. Both linear targets hold these.
EDGE_OPS: tuple[str, ...] = tuple(_EDGE_TABLE)
# Ops that need a greatest length.
COUNTING = ("cumsum", "position", "selective_state", "recurrent_state")
# Those that both linear targets hold.
LINEAR_OPS: tuple[str, ...] = tuple(name for name, op in _TABLE.items() if op.linear)
# Ops whose result has few bits whatever they read, and ops that move a value and leave its size.
TAMERS = ("comparison", "logic", "mod", "lookup", "one_hot", "clip", "relu", "threshold_state")
MILD = ("delay", "linear_state", "select", "gate")
WITH_MEMORY = ("linear_state", "cumsum", "delay", "window_sum", "latch", "hold", "selective_state")
GROWING = ("affine", "linear_state", "cumsum", "window_sum", "product", "recurrent_state")
