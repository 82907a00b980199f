"""What the floating-point dtypes can hold, and where activations are exact.

Where tanh and the sigmoid are exact was measured over every bit pattern of float32, bfloat16 and
float16 (float64: over dense samples, and from the size of the first neglected term of the series),
with XLA of jax 0.10.2 and with torch 2.13 on the CPU, and rounded to the safe side:

|                                             | float32    | float64  | bfloat16 | here     |
| ------------------------------------------- | ---------- | -------- | -------- | -------- |
| tanh(u) is u up to, XLA                     | 2^-11.29   | 2^-26.5  | 2^-3.47  | linear   |
| tanh(u) is u up to, torch                   | 2^-11.47   | 2^-26.5  | 2^-11.47 | linear   |
| sigmoid(u) is 1 from                        | 16.7       | 36.8     | 5.6      | gate     |
| sigmoid(u) is 0 below                       | -88.8      | -745.2   | -88      | gate     |
| tanh(u) is 1 from                           | 9.02       | 19.07    | 3.47     | shut     |

`Model.self_test` checks them on the device at hand.
"""

from dataclasses import dataclass

from lsrl.arguments import near
from lsrl.errors import PrecisionError


@dataclass(frozen=True)
class Numerics:
    """A floating-point format.

    Attributes:
      dtype: its name in jax and numpy.
      bits: p, significand bits; integers up to 2^p are exact.
      tiny: the smallest normal number.
      largest: the largest finite number.
      linear: L, tanh(u) == u for |u| <= L.
      gate: G, a sigmoid beyond ±G is exactly 0 or 1.
      shut: tanh beyond ±shut is exactly ±1, with room for an addend in the linear regime. A power
        of two is close above it, so that sums with it keep as many bits as can be.
      saturated: the same where there is no reason to be sparing.
    """

    dtype: str
    bits: int
    tiny: float
    largest: float
    linear: float
    gate: float
    shut: float
    saturated: float = 32.0

    @property
    def bytes(self) -> int:
        """Of a number."""
        return {"bfloat16": 2, "float32": 4, "float64": 8}[self.dtype]

    @property
    def unit(self) -> float:
        """The relative error of one rounding, 2^-p."""
        return 2.0**-self.bits


DTYPES = {
    "float32": Numerics(
        "float32", 24, 2.0**-126, (2 - 2.0**-23) * 2.0**127, 2.0**-12, gate=128.0, shut=12.0
    ),
    "float64": Numerics(
        "float64", 53, 2.0**-1022, (2 - 2.0**-52) * 2.0**1023, 2.0**-27, gate=1024.0, shut=24.0
    ),
    "bfloat16": Numerics(
        "bfloat16", 8, 2.0**-126, (2 - 2.0**-7) * 2.0**127, 2.0**-12, gate=128.0, shut=6.0
    ),
}


def numerics_of(dtype: object) -> Numerics:
    """The format of a dtype name or numpy/jax dtype.

    Raises:
      PrecisionError: a dtype that compiled models don't come in; lists those that they do.
    """
    name = getattr(dtype, "__name__", None) or getattr(dtype, "name", None) or str(dtype)
    if name not in DTYPES:
        raise PrecisionError(
            f"dtype {name!r}: expected one of {', '.join(DTYPES)}{near(name, DTYPES)}"
            + (
                "; float16 has room for values up to 8 grid steps only, so use bfloat16 or float32"
                if name == "float16"
                else ""
            )
        )
    return DTYPES[name]
