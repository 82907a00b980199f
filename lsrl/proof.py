"""What is proven of a network's weights, and whether the network still holds those weights."""

import math
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Protocol

import jax

from lsrl.certificate import Certificate, Reason
from lsrl.parameters import Parameter, same_bits
from lsrl.pytrees import named_leaves

NOT_COMPILED = "not the compiled weights"
# Names of parameters that a certificate tells, of those that differ.
_NAMED = 3


class Network(Protocol):
    """What tells which weights a network has."""

    @property
    def structure(self) -> Hashable:
        """What is no parameter."""

    def parameters(self) -> Mapping[str, object]:
        """The arrays that it holds."""

    def parameter_arrays(self) -> Mapping[str, Parameter]:
        """All parameters by flat name."""


class Proof:
    """A certificate, and the arrays that it speaks of, which it does not keep alive.

    Arrays of jax never change in place, so a network that holds the same objects has the same
    weights, and to know it takes no arithmetic and no copy. Other arrays are compared by value with
    those that the compiler makes, and the answer is remembered as long as they live.

    Attributes:
      certificate: what is proven of the weights.
    """

    def __init__(self, certificate: Certificate, module: Network | None) -> None:
        """Take what is proven of the weights that a module holds now.

        Args:
          certificate: what is proven.
          module: the network; None if no arrays that are known hold the weights.
        """
        self.certificate = certificate
        self._proven = None if module is None else _Held(module)
        self._changed: tuple[_Held, tuple[str, ...]] | None = None

    def holds(self, module: Network) -> bool:
        """Whether a module holds the very arrays that are known to be the proven ones."""
        return self._proven is not None and self._proven.are_in(module)

    def changed(self, module: Network, compiled: Callable[[], Network] | None) -> tuple[str, ...]:
        """Names of what differs between the weights of a module and the proven ones.

        Args:
          module: the network as it is.
          compiled: makes a network of the proven weights; None if nothing makes it anew. Then other
            arrays count as other weights.
        """
        if self.holds(module):
            return ()
        if self._changed is not None and self._changed[0].are_in(module):
            return self._changed[1]
        held = _Held(module)
        if compiled is None:
            names = held.apart_from(self._proven)
        else:
            fresh = compiled()
            proven, mine = fresh.parameter_arrays(), module.parameter_arrays()
            names = tuple(
                name
                for name in {**proven, **mine}
                if not same_bits(proven.get(name), mine.get(name))
            )
            if not names and not held.fits(fresh):
                names = ("structure",)
        if names:
            self._changed = held, names
        else:
            self._proven = held
        return names


class _Held:
    """The arrays that a module holds, by weak references, and its structure."""

    def __init__(self, module: Network) -> None:
        self._module = type(module)
        self._structure = module.structure
        # An array of numpy can change in place, so that it is the same one says nothing.
        self._arrays = {
            name: weakref.ref(array) if isinstance(array, jax.Array) else _gone
            for name, array in named_leaves(module.parameters()).items()
        }

    def fits(self, module: Network) -> bool:
        """Whether a module computes the same of equal weights."""
        return type(module) is self._module and bool(module.structure == self._structure)

    def are_in(self, module: Network) -> bool:
        """Whether a module of this structure holds these very arrays."""
        now = named_leaves(module.parameters())
        return (
            self.fits(module)
            and now.keys() == self._arrays.keys()
            and all(now[name] is known() for name, known in self._arrays.items())
        )

    def apart_from(self, other: "_Held | None") -> tuple[str, ...]:
        """Names of the arrays that are others there."""
        known = {} if other is None else other._arrays
        names = {**known, **self._arrays}
        different = (
            name
            for name in names
            if (mine := self._arrays.get(name, _gone)()) is None
            or mine is not known.get(name, _gone)()
        )
        return tuple(different) or ("structure",)


def _gone() -> None:
    """As a weak reference to what is no more."""


def not_compiled(certificate: Certificate, which: str, why: str = "") -> Certificate:
    """What is left of a certificate for other weights: nothing but the program's promises.

    Args:
      certificate: of the compiled weights.
      which: the weights that differ.
      why: how they came about, if that is known.
    """
    reason = Reason("the network", which, None, f"{NOT_COMPILED}{why and f': {why}'}")
    return replace(
        certificate,
        exact=False, error_bound=math.inf, reasons=(reason,), exact_in_dtype=False, differs=None,
    )  # fmt: skip


def names_text(names: tuple[str, ...]) -> str:
    """The first few names of changed parameters, and how many more there are."""
    more = len(names) - _NAMED
    return f"changed: {', '.join(names[:_NAMED])}" + (f" and {more} more" if more > 0 else "")
