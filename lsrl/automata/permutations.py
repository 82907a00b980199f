"""Permutations of 0, …, n - 1 as tuples of images."""

from collections.abc import Sequence

Permutation = tuple[int, ...]
Swap = tuple[int, int]


def identity(points: int) -> Permutation:
    """Everything stays where it is."""
    return tuple(range(points))


def composed(second: Permutation, first: Permutation) -> Permutation:
    """One permutation after another."""
    return tuple(second[image] for image in first)


def inverse(permutation: Permutation) -> Permutation:
    """The one that undoes it."""
    return tuple(sorted(range(len(permutation)), key=permutation.__getitem__))


def is_permutation(images: Sequence[int]) -> bool:
    """Whether no two points have one image."""
    return len(set(images)) == len(images)


def swaps_of(permutation: Permutation) -> list[Swap]:
    """The fewest swaps that it is made of: the first comes last, p = s1 ∘ s2 ∘ … ."""
    rest, found = list(permutation), []
    for point, _ in enumerate(permutation):
        image = rest[point]
        if image != point:
            found.append((point, image))
            other = {point: image, image: point}
            rest = [other.get(value, value) for value in rest]
    return found


def swap_count(permutation: Permutation) -> int:
    """How many swaps it takes: the points, less the cycles."""
    return len(swaps_of(permutation))


def group_of(
    generators: Sequence[tuple[Permutation, ...]], most: int
) -> list[tuple[Permutation, ...]] | None:
    """All products of tuples of permutations, the identity first; None for more than `most`."""
    start = tuple(identity(len(part)) for part in generators[0])
    found = {start: None}
    pending = [start]
    for element in pending:
        for generator in generators:
            product = tuple(map(composed, generator, element))
            if product not in found:
                found[product] = None
                pending.append(product)
        if len(pending) > most:
            return None
    return pending
