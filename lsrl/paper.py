"""The paper's own forms, for the study of stability: Petrov et al. 2024, arXiv 2406.01424.

Steps have the fixed slope 1000 and stand at the very edge, without a margin; conditionals shut a
ReLU with the fixed constant 1e10; counters rotate a vector. The values are those of the original
implementation of the paper (its `f_*` functions), so old and new can be compared in one run.
Programs of one's own are better written with the operators of the language: `x > y`,
`lsrl.select`, `lsrl.cycle`, which choose slopes and constants from the bounds.

Every form is made of affine maps and ReLUs alone (`f_ifelse_mul` also of products), with the
constants as given; the compiler does not replace them. `1 / scale` is the float64 number: for a
scale of 1000 a step ends at 1.00000000000000002, not at 1.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Literal, get_args

import numpy as np

from lsrl.errors import ProgramError
from lsrl.ir import ops
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token, Vector
from lsrl.language.program import Program, program
from lsrl.language.signal import Signal, affine, as_signal, concat, constant, record, relu
from lsrl.language.sugar import linear_state, position
from lsrl.language.trace import user_line

SCALE = 1000  # the slope of every step
LARGE = 1e10  # what shuts a conditional

Value = Signal | float  # a signal, or numbers that broadcast against one
Mode = Literal[
    "direct", "optimized", "step_optimized", "multiplicative", "multiplicative_optimized"
]


def f_step(x: Value, scale: float = SCALE) -> Signal:
    """0 up to 0, then a ramp of slope `scale`, 1 from 1/scale on.

    relu(scale·x) − scale·relu(x − 1/scale). The ramp begins at the very edge: f_step(0) = 0.

    Args:
      x: signal or number.
      scale: slope of the ramp, above 0.

    Raises:
      ProgramError: the scale is not positive.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_step_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_step(x)
    """
    if not scale > 0:
        raise ProgramError(f"{user_line()}: f_step needs scale > 0, got {scale!r}; take {SCALE}")
    value, width = as_signal(x), 1 / scale
    step = relu(scale * value) - scale * relu(value - width)
    # Interval arithmetic can't see that the ReLUs cancel: the greatest value is scale·width.
    top = Fraction(scale) * Fraction(width)
    high = float(top) if Fraction(float(top)) >= top else math.nextafter(float(top), math.inf)
    ends = (0.0,) * step.width, (high,) * step.width
    return record(ops.Bound(*ends, proven=True), step)


def f_not(x: Signal) -> Signal:
    """1 − x.

    Args:
      x: {0,1}.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_not_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_not(x)
    """
    return 1 - x


def f_larger(x: Value, y: Value, scale: float = SCALE) -> Signal:
    """1 where x > y: f_step(x − y).

    Args:
      x: signal or number.
      y: signal or number.
      scale: slope of the steps, above 0.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_larger_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_larger(x, 1)
    """
    return f_step(as_signal(x) - y, scale)


def f_smaller(x: Value, y: Value, scale: float = SCALE) -> Signal:
    """1 where x < y: f_step(y − x).

    Args:
      x: signal or number.
      y: signal or number.
      scale: slope of the steps, above 0.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_smaller_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_smaller(x, 1)
    """
    return f_step(as_signal(y) - x, scale)


def f_and(x: Value, y: Value, scale: float = SCALE) -> Signal:
    """1 where both are positive: relu(f_step(x) + f_step(y) − 1).

    Args:
      x: signal or number.
      y: signal or number.
      scale: slope of the steps, above 0.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_and_of(x: lsrl.Vector(2, low=-4, high=4)):
          return paper.f_and(x[0], x[1])
    """
    return relu(f_step(x, scale) + f_step(y, scale) - 1)


def f_or(x: Value, y: Value, scale: float = SCALE) -> Signal:
    """1 where one of two values >= 0 is positive: f_step(x + y).

    Args:
      x: signal or number.
      y: signal or number.
      scale: slope of the steps, above 0.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_or_of(x: lsrl.Vector(2, low=-4, high=4)):
          return paper.f_or(x[0], x[1])
    """
    return f_step(as_signal(x) + y, scale)


def f_eq(x: Value, y: Value, scale: float = SCALE) -> Signal:
    """1 where x = y: f_step(1 − f_step(x − y) − f_step(y − x)).

    Args:
      x: signal or number.
      y: signal or number.
      scale: slope of the steps, above 0.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_eq_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_eq(x, 1)
    """
    return f_step(1 - f_larger(x, y, scale) - f_smaller(x, y, scale), scale)


def f_neq(x: Value, y: Value, scale: float = SCALE) -> Signal:
    """1 where x and y differ: f_step(f_step(x − y) + f_step(y − x)).

    Args:
      x: signal or number.
      y: signal or number.
      scale: slope of the steps, above 0.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_neq_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_neq(x, 1)
    """
    return f_step(f_larger(x, y, scale) + f_smaller(x, y, scale), scale)


def f_bump(x: Value, lb: Value, ub: Value, scale: float = SCALE) -> Signal:
    """1 between lb and ub: f_step(x − lb) − f_step(x − ub).

    0 at lb itself and 1 at ub, each with its ramp above: the interval is (lb, ub], not [lb, ub).

    Args:
      x: signal or number.
      lb: the lower end, signal or number.
      ub: the upper end, signal or number.
      scale: slope of the steps, above 0.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_bump_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_bump(x, 0, 2)
    """
    return f_larger(x, lb, scale) - f_larger(x, ub, scale)


def f_ifelse(
    condition: Signal,
    t_val: Value | None,
    f_val: Value | None,
    large_constant: float = LARGE,
) -> Signal:
    """t_val where the condition is 1, f_val where it is 0, by ReLUs that L = large_constant shuts.

    relu(−L·c + f) + relu(−L·(1 − c) + t) − relu(−L·c − f) − relu(−L·(1 − c) − t).

    Args:
      condition: {0,1}.
      t_val: None means 0, with fewer terms.
      f_val: None means 0, with fewer terms.
      large_constant: greater than every |value|.

    Raises:
      ProgramError: both values are None.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_ifelse_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_ifelse(paper.f_larger(x, 0), 3, 4)
    """
    shut_if_true = -large_constant * condition
    shut_if_false = -large_constant * f_not(condition)
    return _gated("f_ifelse", [(shut_if_true, f_val), (shut_if_false, t_val)])


def f_ifelse_step(
    condition: Signal,
    t_val: Value | None,
    f_val: Value | None,
    large_constant: float = LARGE,
    scale: float = SCALE,
) -> Signal:
    """`f_ifelse` with the condition sharpened by a step at 1/2.

    relu(−L + L·f_step(1/2 − c) + f) − relu(−L + L·f_step(1/2 − c) − f)
    + relu(−L + L·f_step(c − 1/2) + t) − relu(−L + L·f_step(c − 1/2) − t).

    Args:
      condition: {0,1}, roughly.
      t_val: None means 0, with fewer terms.
      f_val: None means 0, with fewer terms.
      large_constant: greater than every |value|.
      scale: slope of the steps.

    Raises:
      ProgramError: both values are None.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_ifelse_step_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_ifelse_step(paper.f_larger(x, 0), 3, 4)
    """
    shut_if_true = large_constant * f_smaller(condition, 0.5, scale) - large_constant
    shut_if_false = large_constant * f_larger(condition, 0.5, scale) - large_constant
    return _gated("f_ifelse_step", [(shut_if_true, f_val), (shut_if_false, t_val)])


def f_ifelse_mul(condition: Signal, t_val: Value | None, f_val: Value | None) -> Signal:
    """t_val where the condition is 1, f_val where it is 0, by products: c·t + (1 − c)·f.

    Args:
      condition: {0,1}.
      t_val: None means 0, with one product fewer.
      f_val: None means 0, with one product fewer.

    Raises:
      ProgramError: both values are None.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_ifelse_mul_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_ifelse_mul(paper.f_larger(x, 0), 3, 4)
    """
    gates = ((condition, t_val), (f_not(condition), f_val))
    terms = [gate * as_signal(value) for gate, value in gates if value is not None]
    return _total("f_ifelse_mul", terms)


def f_ifelse_optimized(condition: Signal, t_val: Value, large_constant: float = LARGE) -> Signal:
    """t_val >= 0 where the condition is 1, else 0, by a single ReLU: relu(t − L·(1 − c)).

    Args:
      condition: {0,1}.
      t_val: at least 0, signal or number.
      large_constant: at least as great as t_val can be.

    Source: Petrov et al. (2024), arXiv 2406.01424.

    Example:
      @lsrl.program
      def f_ifelse_optimized_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_ifelse_optimized(paper.f_larger(x, 0), 3)
    """
    return _shut(t_val, f_not(condition), large_constant)


def f_ifeq(
    x: Value,
    y: Value,
    t_val: Value | None,
    f_val: Value | None,
    scale: float = SCALE,
    large_constant: float = LARGE,
) -> Signal:
    """t_val where x = y, else f_val: f_ifelse(f_eq(x, y), t, f).

    Args:
      x: signal or number.
      y: signal or number.
      t_val: None means 0, with fewer terms.
      f_val: None means 0, with fewer terms.
      scale: slope of the steps, above 0.
      large_constant: greater than every |value|.

    Raises:
      ProgramError: both values are None.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program
      def f_ifeq_of(x: lsrl.Vector(1, low=-4, high=4)):
          return paper.f_ifeq(x, 1, 3, 4)
    """
    return f_ifelse(f_eq(x, y, scale), t_val, f_val, large_constant)


def f_modulo_counter(n: int, scale: float = SCALE) -> Signal:
    """The position modulo n, by rotation.

    s_t = R s_{t−1} with R the rotation by 2π/n and s_{−1} = R^{−1} e₀, so s_t = R^t e₀. Row i of
    the indicator is (R^i e₀)ᵀ s, 1 where i = t mod n and at most cos(2π/n) elsewhere, and the value
    is Σ i·f_step(indicator_i − cos(π/n)). The steps need 1 − cos(π/n) > 1/scale: at the slope of
    1000 the counter fails for n > 70. The rotation drifts with the rounding of R, so programs with
    such a counter need a max_length.

    Args:
      n: number of tokens of a round, at least 1.
      scale: slope of the steps, above 0.

    Raises:
      ProgramError: n is not a positive int.

    Source: Petrov et al. (2024), arXiv 2406.01424, by this name in its implementation.

    Example:
      @lsrl.program(max_length=100)
      def clock(x: lsrl.Token(2)):
          return paper.f_modulo_counter(3)
    """
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
        raise ProgramError(f"{user_line()}: f_modulo_counter needs an int >= 1, got {n!r}")
    angle = 2 * math.pi / n
    cosine, sine = math.cos(angle), math.sin(angle)
    rotation = np.array([[cosine, -sine], [sine, cosine]])
    cycler = linear_state(constant([0, 0]), rotation, initial=[cosine, -sine])
    turns = angle * np.arange(n)
    indicator = np.stack([np.cos(turns), np.sin(turns)], axis=1) @ cycler
    one_hot = f_larger(indicator, math.cos(angle / 2), scale)
    return affine([(np.arange(n)[None, :], one_hot)])


def tok2tok(
    length: int = 3, vocab: int = 10, max_pairs: int = 20, mode: Mode = "direct"
) -> Program:
    """Universal in-context approximation of maps between words, as the paper builds it (listing 1).

    Input and output are those of `lsrl.programs.tok2tok`, with two differences: several keys that
    equal the query add up their positions and spoil the answer, and past a length of 35 the modulo
    counter fails.

    Args:
      length: symbols a word.
      vocab: number of symbols.
      max_pairs: greatest number of pairs.
      mode: how conditionals are written: "direct" (`f_ifelse`), "optimized" (one ReLU),
        "step_optimized" (`f_ifelse_step`), "multiplicative" (`f_ifelse_mul`), or
        "multiplicative_optimized" (the same with one product).

    Raises:
      ProgramError: a parameter out of range.

    Source: Petrov et al. (2024), arXiv 2406.01424, listing 1.

    Example:
      program = paper.tok2tok(length=2, vocab=4, max_pairs=2)
      tokens = lsrl.programs.tok2tok_prompt([1, 2], [([3, 3], [0, 1]), ([1, 2], [2, 0])])
      print(program.run(tokens)[-2:, 0].round(3))
    """
    _positive(length=length, vocab=vocab, max_pairs=max_pairs)
    _check_mode(mode)
    places = range(length)

    @program(name="paper_tok2tok", max_length=length * (1 + 2 * max_pairs))
    def tok2tok(token: Annotated[Signal, Token(vocab)]) -> Signal:
        counter = position()
        place = f_modulo_counter(length)
        phase = f_modulo_counter(2 * length)
        is_prompt = f_larger(counter, length - 0.5)
        is_key = f_larger(phase, length - 0.5)
        is_value = f_and(is_prompt, f_not(is_key))
        is_value_start = f_and(is_value, f_smaller(place, 0.5))
        at_place = [f_and(f_larger(place, i - 0.5), f_smaller(place, i + 0.5)) for i in places]
        off_place = [f_or(f_larger(place, i + 0.5), f_smaller(place, i - 0.5)) for i in places]

        # The query is kept in a register, symbol by symbol.
        in_query, past_query = f_smaller(is_prompt, 0.5), f_larger(is_prompt, 0.5)
        query_symbol = _taken(mode, token, in_query, past_query)
        query_update = [_taken(mode, query_symbol, at_place[i], off_place[i]) for i in places]
        query = linear_state(concat(*query_update))

        # Each symbol of a key is compared with the query's symbol at the same place.
        expected = concat(
            *(_taken(mode, query[i], at_place[i], off_place[i]) for i in places)
        ).sum()
        same = f_and(f_larger(token, expected - 0.5), f_smaller(token, expected + 0.5))
        matching = f_and(same, is_key)

        # A shift register of the last length + 1 comparisons, the newest one last.
        entry = np.eye(1, length + 1, length).T
        buffer = linear_state(entry @ matching, np.eye(length + 1, k=1))
        all_matching = f_larger(buffer[:length].sum(), length - 0.5)

        # Where the value begins; from there on it is copied into the output registers.
        starts = f_and(all_matching, is_value_start)
        started_on = linear_state(_taken(mode, counter, starts, f_not(starts)))
        is_copying = f_smaller(counter, started_on + length)
        copies = f_and(is_value, is_copying)
        register = []
        for i in places:
            writes = f_and(copies, at_place[i])
            update = _taken(mode, token, f_larger(writes, 0.5), f_smaller(writes, 0.5))
            register.append(linear_state(update))
        said = [
            _taken(mode, register[i], f_larger(at_place[i], 0.5), f_smaller(at_place[i], 0.5))
            for i in places
        ]
        return concat(*said).sum()

    return tok2tok


def vec2vec(
    in_dim: int = 1,
    out_dim: int = 1,
    cells: int = 4,
    low: float = 0.0,
    high: float = 1.0,
    value_bound: float = 3.0,
    mode: Mode = "direct",
) -> Program:
    """Universal in-context approximation of functions, as the paper builds it (listing 2).

    The input is that of `lsrl.programs.vec2vec`. Cells are (lower, upper], with the ramps of
    `f_bump` above both edges: the answer at x = low is 0.

    Args:
      in_dim: entries of x.
      out_dim: entries of a value.
      cells: cells along each dimension.
      low: least entry of x.
      high: greatest entry of x.
      value_bound: greatest absolute value of the function.
      mode: as for `tok2tok`; "optimized" keeps x by a single ReLU, so it needs low >= 0.

    Raises:
      ProgramError: a parameter out of range.

    Source: Petrov et al. (2024), arXiv 2406.01424, listing 2.

    Example:
      print(paper.vec2vec().num_outputs)
    """
    _positive(in_dim=in_dim, out_dim=out_dim, cells=cells)
    _check_mode(mode)
    if not low < high or not value_bound > 0:
        raise ProgramError(
            f"vec2vec: expected low < high and value_bound > 0, got low={low!r}, high={high!r}, "
            f"value_bound={value_bound!r}"
        )
    if mode == "optimized" and low < 0:
        raise ProgramError(
            f"vec2vec: mode 'optimized' holds nonnegative x only, got low={low}; take 'direct'"
        )
    width = (high - low) / cells
    lows = [min(low, width), *[low] * (in_dim - 1), min(low, 0.0), *[-value_bound] * out_dim]
    highs = [max(high, width), *[high] * (in_dim - 1), max(high, 0.0), *[value_bound] * out_dim]

    @program(name="paper_vec2vec", max_length=1 + cells**in_dim)
    def vec2vec(
        cell: Annotated[Signal, Vector(1 + in_dim + out_dim, low=lows, high=highs)],
    ) -> Signal:
        counter = linear_state(constant(1))
        x_update = _taken(mode, cell[:in_dim], f_smaller(counter, 1.5), f_larger(counter, 1.5))
        x = linear_state(x_update)
        lower = cell[1 : 1 + in_dim]
        upper = lower + cell[0]
        in_bumps = f_bump(x, lower, upper).sum()
        in_cell = f_and(f_larger(in_bumps, in_dim - 0.5), f_larger(counter, 0.5))
        hit, miss = f_larger(in_cell, 0.5), f_smaller(in_cell, 0.5)
        return linear_state(_taken(mode, cell[1 + in_dim :], hit, miss, signed=True))

    return vec2vec


def between_control_points(
    points: Array, values: Array, smoothness: float = 1.0
) -> Callable[[Array], Array]:
    """The kind of function that the original implementation approximates.

    The mean of the values at the control points, with the weights exp(-distance / smoothness).

    Args:
      points: (points, in_dim).
      values: (points, out_dim).
      smoothness: of the function.

    Returns:
      From (..., in_dim) to (..., out_dim).

    Source: Petrov et al. (2024), arXiv 2406.01424, of its implementation.

    Example:
      smooth = paper.between_control_points(np.array([[0.0], [1.0]]), np.array([[2.0], [4.0]]))
      print(smooth(np.array([0.5])))
    """

    def function(x: Array) -> Array:
        weights = np.exp(-np.linalg.norm(x[..., None, :] - points, axis=-1) / smoothness)
        return weights @ values / weights.sum(axis=-1, keepdims=True)

    return function


def _gated(name: str, gates: list[tuple[Signal, Value | None]]) -> Signal:
    """Σ relu(gate + value) − Σ relu(gate − value) over the values that are there."""
    present = [(gate, value) for gate, value in gates if value is not None]
    return _total(name, [relu(gate + value) - relu(gate - value) for gate, value in present])


def _total(name: str, parts: list[Signal]) -> Signal:
    if not parts:
        raise ProgramError(f"{user_line()}: {name} needs t_val or f_val, got neither")
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _shut(value: Value, unless: Signal, large_constant: float = LARGE) -> Signal:
    """relu(value − L·unless): one ReLU, for values >= 0."""
    return relu(-large_constant * unless + value)


def _taken(mode: Mode, value: Signal, when: Signal, unless: Signal, signed: bool = False) -> Signal:
    """The value where `when` is 1 and `unless` is 0, else 0, in the form that a mode asks for."""
    if mode == "direct":
        return f_ifelse(when, value, 0 * value)
    if mode == "step_optimized":
        return f_ifelse_step(when, value, None)
    if mode == "multiplicative":
        return f_ifelse_mul(when, value, 0 * value)
    if mode == "multiplicative_optimized":
        return f_ifelse_mul(when, value, None)
    taken = _shut(value, unless)
    return taken - _shut(-value, unless) if signed else taken


def _check_mode(mode: str) -> None:
    if mode not in get_args(Mode):
        raise ProgramError(f"mode: expected one of {', '.join(get_args(Mode))}, got {mode!r}")


def _positive(**parameters: object) -> None:
    for name, value in parameters.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ProgramError(f"{name}: expected an int >= 1, got {value!r}")
