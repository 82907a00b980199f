"""What can be done to a model: noise on weights, on activations, rounding; each with its formula.

A perturbation changes parameters, one array at a time, at a level (σ, or 2^-bits). What it draws
depends on the seed, the array's name and its shape alone: not on the level, nor on how many copies
are drawn together, nor on the devices that run them. So equal arrays of two models get equal noise
(common random numbers), and so do all levels of a sweep.

A sparse parameter has its weights and nothing else: they are what is drawn for, row by row.

Noise is drawn by numpy on the host: the generators of jax would be compiled anew into each
network's program, which takes longer than the runs. It is drawn by `lsrl.noise.draws` for all
copies at once, and only where it is added: a generator of numpy for each seed and array takes
longer to make than all of its numbers, and than the copies to run.
"""

import difflib
import inspect
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import jax
import numpy as np
from numpy.typing import ArrayLike

from lsrl.backends.axes import Axes
from lsrl.backends.pattern import Pattern
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.noise.draws import normals

Entries = Literal["stored", "biases", "all"]
Unit = Literal["absolute", "relative", "range"]
# Exponent and mantissa bits of the formats that weights and states can be rounded to.
FORMATS = {"tf32": (8, 10), "float16": (5, 10), "bfloat16": (8, 7)}
SIGMAS = tuple(10.0**exponent for exponent in range(-7, 0))


class Weight(NamedTuple):
    """What a perturbation is asked to change.

    Attributes:
      name: the parameter's.
      axes: what it is; the array may have further axes before.
      value: the array, of any shape, in float64; of a sparse parameter the row of its weights.
      ranges: of the array's shape, the unit of noise relative to signals.
      pattern: of a sparse parameter, which has no more than its weights to change.
    """

    name: str
    axes: Axes
    value: Array
    ranges: Array | None = None
    pattern: Pattern | None = None


@dataclass(frozen=True)
class Perturbation(ABC):
    """A change of a model's parameters.

    Attributes:
      name: of the perturbation, in tables.
      levels: those that a sweep tries, the weakest first.
      forced: whether every carried state (h, c, the window of a convolution, a scan's state) is the
        clean model's at every token.
      random: whether a seed matters.
      drifts: whether every token draws anew.

    Example:
      print(issubclass(lsrl.stability.Change, lsrl.stability.Perturbation))
    """

    name: str
    levels: tuple[float, ...] = SIGMAS
    forced: bool = False
    random: ClassVar[bool] = True
    drifts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the levels."""
        numbers = isinstance(self.levels, Sequence) and all(
            isinstance(x, int | float) and np.isfinite(x) and x >= 0 for x in self.levels
        )
        if not self.levels or not numbers:
            raise InputError(
                f"{self.name}: expected levels >= 0, at least one, got {self.levels!r}"
            )

    def applied(
        self,
        name: str,
        axes: Axes,
        value: Array,
        levels: Sequence[float],
        seeds: Sequence[int],
        ranges: Array | None = None,
    ) -> Array:
        """As `changed`, of a parameter that is dense, or of each of whose weights it is asked."""
        return self.changed(Weight(name, axes, value, ranges), levels, seeds)

    def changed(self, weight: Weight, levels: Sequence[float], seeds: Sequence[int]) -> Array:
        """The perturbed arrays.

        Args:
          weight: what is changed.
          levels: one a copy.
          seeds: one a copy.

        Returns:
          (copies, *shape), or the value itself, without the axis of copies, if it stays as it is.
        """
        return self._changed(weight, levels, seeds)

    @abstractmethod
    def _changed(self, weight: Weight, levels: Sequence[float], seeds: Sequence[int]) -> Array:
        """As `changed`."""

    def drift(
        self,
        name: str,
        axes: Axes,
        shape: tuple[int, ...],
        tokens: int,
        levels: Sequence[float],
        seeds: Sequence[int],
    ) -> Array | None:
        """What copies add to an array at each token, (copies, tokens, *shape); None: nothing."""
        return None

    @property
    def format(self) -> str:
        """The number format that states are rounded to between tokens; "": they are not."""
        return ""


@dataclass(frozen=True)
class WeightNoise(Perturbation):
    """w + σ u ε with ε from a standard normal, drawn once, for every entry chosen.

    Attributes:
      entries: which entries are drawn for. "stored", as in the paper: those that are not zero;
        "biases": these and every entry of a bias; "all": every entry.
      unit: u. "absolute": 1, as in the paper; "relative": |w|; "range": the declared
        or inferred bound of the signal that the weight writes over that of the signal it reads, so
        that σ is noise relative to signals (linear targets only).
      spared: parameters whose names start so are left alone. The original reads ids as numbers, so
        it has no input map to perturb. The initial state is no weight, and is left alone too.

    Source: Petrov et al. (2024), section 5: stored entries, absolute, forced.

    Example:
      noise = lsrl.stability.WeightNoise("mine", levels=(1e-3, 1e-1), unit="relative")
      print(lsrl.stability.measure(program, "gru", noise, copies=2).rows[0].perturbation)
    """

    entries: Entries = "stored"
    unit: Unit = "absolute"
    spared: tuple[str, ...] = ("inputs", "input_bias")

    def __post_init__(self) -> None:
        """Check the choices."""
        super().__post_init__()
        for choice, known in ((self.entries, Entries), (self.unit, Unit)):
            if choice not in get_args(known):
                raise InputError(
                    f"WeightNoise: expected one of {', '.join(get_args(known))}, got {choice!r}"
                )

    def _changed(self, weight: Weight, levels: Sequence[float], seeds: Sequence[int]) -> Array:
        name, axes, value, ranges, _ = weight
        if name.startswith(self.spared) or axes.kind == "initial":
            return value
        everywhere = self.entries == "all" or (self.entries == "biases" and axes.kind == "bias")
        unit = np.ones_like(value) if everywhere else (value != 0).astype(np.float64)
        if self.unit == "relative":
            unit = unit * np.abs(value)
        elif self.unit == "range":
            if ranges is None:
                raise InputError(f"{self.name}: no range of signals is known for {name!r}")
            unit = unit * ranges
        places = np.flatnonzero(unit)
        if not len(places):
            return value
        noise = normals(seeds, name, places)
        noise *= unit.ravel()[places]
        noise *= np.array(levels)[:, None]
        found = np.repeat(value.reshape(1, -1), len(seeds), axis=0)
        found[:, places] += noise
        return found.reshape(len(seeds), *value.shape)


@dataclass(frozen=True)
class ActivationNoise(Perturbation):
    """b_t = b + σ ε_t: fresh noise at every token on every bias, and so on what each unit sees."""

    drifts: ClassVar[bool] = True

    def _changed(self, weight: Weight, levels: Sequence[float], seeds: Sequence[int]) -> Array:
        return weight.value

    def drift(
        self,
        name: str,
        axes: Axes,
        shape: tuple[int, ...],
        tokens: int,
        levels: Sequence[float],
        seeds: Sequence[int],
    ) -> Array | None:
        """Noise on biases."""
        if axes.kind != "bias":
            return None
        drawn = normals(seeds, name, np.arange(tokens * math.prod(shape)))
        return (np.array(levels)[:, None] * drawn).reshape(len(seeds), tokens, *shape)


@dataclass(frozen=True)
class Quantisation(Perturbation):
    """s rint(w / s) with s = max|w| / (2^(b-1) - 1), one scale an output channel, b bits.

    Levels are written as 2^-b, so that the weakest comes first: 2^-8 is int8, 2^-4 int4. Kernels
    and tables of symbols are quantised; biases, norms, the diagonals of selective states and the
    initial state keep their precision, as is usual.

    Raises:
      InputError: a level that leaves fewer than two bits.
    """

    levels: tuple[float, ...] = (2.0**-16, 2.0**-12, 2.0**-8, 2.0**-6, 2.0**-4)
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the levels."""
        super().__post_init__()
        if not all(level <= 0.25 for level in self.levels):
            raise InputError(
                f"{self.name}: levels are 2^-bits with at least 2 bits, got {self.levels!r}"
            )

    def _changed(self, weight: Weight, levels: Sequence[float], seeds: Sequence[int]) -> Array:
        value, axis = weight.value, weight.axes.summed
        if axis is None:
            return value
        found = {level: quantised(value, level, axis, weight.pattern) for level in set(levels)}
        return np.stack([found[level] for level in levels])


def quantised(value: Array, level: float, axis: int = -1, pattern: Pattern | None = None) -> Array:
    """An array rounded to 2^bits - 1 steps, with one scale along an axis; level 0: as it is.

    Args:
      value: the array, or the weights of a sparse one.
      level: 2^-bits.
      axis: of the array, counted from the end.
      pattern: where the weights of a sparse one are.
    """
    if not level or not value.size:
        return value
    size = np.abs(value)
    if pattern is None:
        greatest = np.max(size, axis=axis, keepdims=True)
    else:
        line = pattern.columns if axis == -2 else pattern.rows
        by_line = np.zeros(pattern.shape[axis == -2])
        np.maximum.at(by_line, line, size)
        greatest = by_line[line]
    scale = greatest / (0.5 / level - 1)
    safe = np.where(scale > 0, scale, 1.0)
    return np.where(scale > 0, np.rint(value / safe) * safe, value)


@dataclass(frozen=True)
class Rounding(Perturbation):
    """Weights, and states between tokens, rounded to a number format; sums stay in the model's.

    Ties go to even; what lies below the least normal number becomes 0, as `lax.reduce_precision`
    has it; what lies above the greatest becomes infinite. The only level is 1.

    Attributes:
      name: "tf32", "float16" or "bfloat16".

    Raises:
      InputError: another format, or another level.
    """

    levels: tuple[float, ...] = (1.0,)
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the format."""
        super().__post_init__()
        if self.name not in FORMATS:
            raise InputError(f"Rounding: expected one of {', '.join(FORMATS)}, got {self.name!r}")
        if self.levels != (1.0,):
            raise InputError(f"{self.name}: rounding has no levels but 1, got {self.levels!r}")

    @property
    def format(self) -> str:
        """The format's name."""
        return self.name

    def _changed(self, weight: Weight, levels: Sequence[float], seeds: Sequence[int]) -> Array:
        found = rounded(weight.value, self.name)
        return np.broadcast_to(found, (len(levels), *found.shape))


def rounded(value: Array, name: str) -> Array:
    """An array rounded to a format of `FORMATS`."""
    exponent_bits, mantissa_bits = FORMATS[name]
    least = 2.0 ** (2 - 2 ** (exponent_bits - 1))
    greatest = 2.0 ** (2 ** (exponent_bits - 1) - 1) * (2 - 2.0**-mantissa_bits)
    _, exponent = np.frexp(value)
    step = np.ldexp(1.0, exponent - 1 - mantissa_bits)
    found = np.rint(value / step) * step
    found = np.where(np.abs(found) < least, 0.0, found)
    return np.where(np.abs(found) > greatest, np.copysign(np.inf, value), found)


@dataclass(frozen=True)
class Change(Perturbation):
    """What a function of yours makes of each parameter.

    Attributes:
      name: of the perturbation, in tables.
      levels: those that are tried; a function that takes no level is tried at 1 alone.
      function: `function(name, array, key)`, or `function(name, array, key, level)`, gives the
        array in place of one of the model's. `name` is the parameter's, such as
        "layers.0.recurrent_kernel"; `array` is in float64, of a sparse parameter the row of its
        weights; `key` is a key of `jax.random` that depends on the seed and on the name alone, so
        that all levels share their draw.

    Raises:
      InputError: no function, or levels for one that takes none.

    Example:
      change = lsrl.stability.Change("pruned", levels=(0.1, 1.0), function=pruned)
      print([row.level for row in lsrl.stability.measure(program, "gru", change, copies=1).rows])
    """

    levels: tuple[float, ...] = (1.0,)
    function: Callable[..., ArrayLike] | None = None

    def __post_init__(self) -> None:
        """Check the function."""
        super().__post_init__()
        if not callable(self.function):
            raise InputError(
                f"{self.name}: expected function=, a function of (name, array, key) or (name, "
                f"array, key, level), got {self.function!r}"
            )
        if self.levels != (1.0,) and not takes_level(self.function):
            raise InputError(
                f"{self.name}: got levels {self.levels!r} for a function that takes none; let it "
                "take a fourth argument, level"
            )

    def _changed(self, weight: Weight, levels: Sequence[float], seeds: Sequence[int]) -> Array:
        pairs = list(zip(levels, seeds, strict=True))
        found = {pair: self._once(weight, *pair) for pair in dict.fromkeys(pairs)}
        return np.stack([found[pair] for pair in pairs])

    def _once(self, weight: Weight, level: float, seed: int) -> Array:
        if level == 0 or self.function is None:
            return weight.value
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(weight.name.encode()))
        further = (level,) if takes_level(self.function) else ()
        given = weight.value.copy()
        # Networks run with jax's strict promotion, which is no business of the user's function.
        with jax.numpy_dtype_promotion("standard"):
            made = np.asarray(self.function(weight.name, given, key, *further), np.float64)
        if made.shape != given.shape:
            raise InputError(
                f"{self.name}: expected an array of shape {given.shape} for {weight.name!r}, got "
                f"{made.shape}; return one value an entry"
            )
        return made


def takes_level(function: Callable[..., ArrayLike]) -> bool:
    """Whether a function of parameters takes a fourth argument, the level."""
    try:
        inspect.signature(function).bind("name", None, None, 1.0)
    except TypeError:
        return False
    return True


PAPER = WeightNoise("paper", forced=True)
FREE = WeightNoise("weights")
RELATIVE = WeightNoise("relative", unit="relative")
ACTIVATIONS = ActivationNoise("activations", levels=SIGMAS[2:])
INTEGERS = Quantisation("integers")
DEFAULT: tuple[Perturbation, ...] = (
    PAPER, FREE, RELATIVE, ACTIVATIONS, INTEGERS,
    Rounding("tf32"), Rounding("float16"), Rounding("bfloat16"),
)  # fmt: skip
NAMED = {perturbation.name: perturbation for perturbation in DEFAULT}


def perturbation_of(value: "str | Perturbation | Callable[..., ArrayLike]") -> Perturbation:
    """The perturbation that a name of `DEFAULT` or a function stands for; see `Change`.

    Raises:
      InputError: neither of them, nor a perturbation.
    """
    if isinstance(value, Perturbation):
        return value
    if isinstance(value, str) and value in NAMED:
        return NAMED[value]
    if callable(value):
        levels = SIGMAS if takes_level(value) else (1.0,)
        return Change(getattr(value, "__name__", type(value).__name__), levels, function=value)
    near = difflib.get_close_matches(value, NAMED, n=1) if isinstance(value, str) else ()
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"perturbations: expected one of {', '.join(NAMED)}, a Perturbation or a function of "
        f"(name, array, key), got {value!r}{hint}"
    )
