"""What the floating-point dtypes can hold, and where activations are exact."""

from dataclasses import dataclass

from lsrl.errors import PrecisionError


@dataclass(frozen=True)
class Numerics:
    """A floating-point format.

    Attributes:
      dtype: its name in jax and numpy.
      bits: p, significand bits; integers up to 2^p are exact.
      tiny: the smallest normal number.
      largest: the largest finite number.
    """

    dtype: str
    bits: int
    tiny: float
    largest: float

    @property
    def unit(self) -> float:
        """The relative error of one rounding, 2^-p."""
        return 2.0**-self.bits


DTYPES = {
    "float32": Numerics("float32", 24, 2.0**-126, (2 - 2.0**-23) * 2.0**127),
    "float64": Numerics("float64", 53, 2.0**-1022, (2 - 2.0**-52) * 2.0**1023),
    "bfloat16": Numerics("bfloat16", 8, 2.0**-126, (2 - 2.0**-7) * 2.0**127),
}


def numerics_of(dtype: object) -> Numerics:
    """The format of a dtype name or numpy/jax dtype.

    Raises:
      PrecisionError: a dtype that compiled models don't come in; lists those that they do.
    """
    name = getattr(dtype, "__name__", None) or getattr(dtype, "name", None) or str(dtype)
    if name not in DTYPES:
        raise PrecisionError(
            f"dtype {name!r}: expected one of {', '.join(DTYPES)}"
            + (
                "; float16 has room for values up to 8 grid steps only, so use bfloat16 or float32"
                if name == "float16"
                else ""
            )
        )
    return DTYPES[name]
