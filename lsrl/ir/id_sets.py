"""Sets of node ids that share what they have in common, so that one a node takes little room.

Of a chain each node is made of all before it: a bit for each would take the square of the nodes.
These are Patricia tries with 64 ids a leaf (Okasaki and Gill 1998, "Fast mergeable integer maps"):
what a union does not change it holds in common with the sets that it is of.
"""

# A leaf (number, 0, bits, None), or (prefix, bit, without, with) of the leaves whose numbers have
# that prefix above a bit, by whether they have the bit. None is the empty set.
IdSet = tuple[int, int, "int | IdSet", "IdSet | None"] | None

_LEAF_BITS = 6


def singleton(index: int) -> IdSet:
    """The set of one id."""
    return index >> _LEAF_BITS, 0, 1 << (index & ((1 << _LEAF_BITS) - 1)), None


def union(first: IdSet, second: IdSet) -> IdSet:
    """What is in one of two sets."""
    if first is second or second is None:
        return first
    if first is None:
        return second
    if first[1] < second[1]:
        first, second = second, first
    prefix, bit, without, having = first
    if second[1] == bit and second[0] == prefix:
        if not bit:
            both = without | second[2]  # type: ignore[operator]
            return first if both == without else (prefix, 0, both, None)
        left, right = union(without, second[2]), union(having, second[3])  # type: ignore[arg-type]
    elif bit > second[1] and second[0] & -(bit << 1) == prefix:
        left, right = without, having  # type: ignore[assignment]
        if second[0] & bit:
            right = union(right, second)
        else:
            left = union(left, second)
    else:
        apart = 1 << ((prefix ^ second[0]).bit_length() - 1)
        if prefix & apart:
            first, second = second, first
        return prefix & -(apart << 1), apart, first, second
    return first if left is without and right is having else (prefix, bit, left, right)


def disjoint(first: IdSet, second: IdSet) -> bool:
    """Whether no id is in both of two sets."""
    if first is None or second is None:
        return True
    if first is second:
        return False
    if first[1] < second[1]:
        first, second = second, first
    prefix, bit, without, having = first
    if second[1] == bit and second[0] == prefix:
        if not bit:
            return not without & second[2]  # type: ignore[operator]
        return disjoint(without, second[2]) and disjoint(having, second[3])  # type: ignore[arg-type]
    if bit > second[1] and second[0] & -(bit << 1) == prefix:
        return disjoint(having if second[0] & bit else without, second)  # type: ignore[arg-type]
    return True
