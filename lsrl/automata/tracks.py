"""Points that letters permute, by one swap a token and layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lsrl.automata.permutations import Permutation, composed, swap_count
from lsrl.automata.phases import Phases, moved_by, phases_of

# A letter, and how often each letter was read before it, each modulo its power of two.
Pair = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Track:
    """Points that are moved about.

    Attributes:
      letters: the permutations.
      phases: that turn every letter into one swap; None for one layer a swap, in series.
      early: whether places are told as they are before the letter, and not behind it.
    """

    letters: tuple[Permutation, ...]
    phases: Phases | None
    early: bool = False

    @property
    def size(self) -> int:
        """Number of points."""
        return len(self.letters[0])

    @cached_property
    def swaps(self) -> int:
        """The most swaps that a letter takes."""
        return max(map(swap_count, self.letters))

    @cached_property
    def pairs(self) -> dict[Pair, tuple[Permutation, Permutation]]:
        """Of phases: by letter and counts before it, the swap, and the places that are read."""
        if self.phases is None:
            return {}
        return {
            (a, z): (moved_by(self.phases, own, a, z), phi if self.early else composed(own, phi))
            for a, own in enumerate(self.letters)
            for z, phi in self.phases.phi.items()
        }

    @property
    def still(self) -> bool:
        """Whether the counts alone tell everything, at once."""
        moved = any(swap_count(swap) for swap, _ in self.pairs.values())
        return bool(self.pairs) and not moved and not self.early

    @property
    def layers(self) -> int:
        """A layer a bit of the counts and one for the swaps, or one a swap of a letter."""
        if self.phases is None:
            return max(self.swaps, 1)
        bits = max(self.phases.bits)
        return max(bits, 1) if self.still else bits + 1

    @property
    def units(self) -> int:
        """Conjunctions of letters and counts, or hats over places."""
        if self.phases is not None:
            return len(self.pairs) if max(self.phases.bits) else 0
        return 2 * self.size * (self.size + 1) * (self.layers - 1)


def track_of(letters: Sequence[Permutation], early: bool = False) -> Track:
    """With phases where they are found and take no more layers and units, else in series."""
    series = Track(tuple(letters), None, early)
    phases = phases_of(letters)
    if phases is None:
        return series
    phased = Track(tuple(letters), phases, early)
    return min(phased, series, key=lambda track: (track.layers, track.units))
