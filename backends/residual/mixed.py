"""Condition P1 of a stream in another orthogonal basis: whether every sum still keeps every bit.

The grids and the greatest sizes are those of the mixed channels.
"""

from collections.abc import Callable

import numpy as np

from lsrl.backends.residual.certificate import ResidualAnalysis
from lsrl.backends.residual.rows import AtomRow
from lsrl.backends.residual.stream import Stream
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.numerics import Numerics


class Mixed:
    """Sizes and grids of the mixed channels, over the certificate's tokens."""

    def __init__(
        self,
        stream: Stream,
        numerics: Numerics,
        reading: Callable[[AtomRow], Array],
        analysis: ResidualAnalysis,
        matrix: Array,
    ) -> None:
        """Take a layout, a row's weights (width,), the analysis and the matrix (width, width)."""
        self.stream, self.matrix, self.reading, self.analysis = stream, matrix, reading, analysis
        self.room = 2.0**numerics.bits
        width = len(matrix)
        size, grid = np.zeros(width), np.full(width, np.inf)
        for place, signal in enumerate(stream.signals, start=1):
            row = AtomRow(signal.terms, 0.0)
            hull = stream.hull(row, self.analysis.facts)
            size[place], grid[place] = max(abs(hull.low), abs(hull.high)), hull.step
        # What is always 0 has an infinite grid, and a continuous value none.
        self.sizes = np.abs(matrix) @ size
        bits = np.where(matrix != 0, lowest_bit(matrix), np.inf)
        self.grids = (bits * grid).min(axis=1)

    def exact(self) -> bool:
        """Whether every weight of the new basis is a float32 number, and every sum of it exact."""
        stream = self.stream
        held = self._fits(self.sizes, self.grids)
        channels = [channel for site in stream.sites for channel in site.channels]
        rows = [row for channel in channels for row in channel.rows]
        return (
            bool(held.all())
            and all(self._reads(self.reading(row)) for row in (*rows, *stream.output))
            and all(self._reads(row) for row in np.eye(len(self.matrix))[: len(stream.signals) + 1])
            and all(self._writes(number) for number in range(len(stream.sites)))
        )

    def _fits(self, size: Array, grid: Array) -> Array:
        return np.asarray((size == 0) | (size <= self.room * grid))

    def _reads(self, weights: Array) -> bool:
        """A sum over the normed stream; channel 0 carries its bias."""
        turned = self.matrix @ weights
        used = np.flatnonzero(turned[1:]) + 1
        bits = lowest_bit(turned)
        size = abs(weights[0]) + float(np.abs(turned[used]) @ self.sizes[used])
        grids = [bits[0] if weights[0] else np.inf, *(bits[used] * self.grids[used])]
        return _is_product(self.matrix, weights) and bool(self._fits(size, min(grids)))

    def _writes(self, number: int) -> bool:
        """What a site adds to the mixed channels."""
        site = self.stream.sites[number]
        weights = np.zeros((len(self.matrix), max(site.width, 1)))
        for place, terms in site.writes.items():
            for index, weight in terms:
                weights[place, index] = weight
        turned = self.matrix @ weights
        # A site without channels adds nothing.
        sizes = self.analysis.sizes(number) if site.width else np.zeros(1)
        grids = self.analysis.grids(number) if site.width else np.full(1, np.inf)
        bits = np.where(turned != 0, lowest_bit(turned), np.inf)
        total, grid = np.abs(turned) @ sizes, (bits * grids).min(axis=1)
        return _is_product(self.matrix, weights) and bool(self._fits(total, grid).all())


def _is_product(matrix: Array, weights: Array) -> bool:
    """Whether matrix @ weights loses no bit in float64, nor then in float32."""
    used = weights[weights != 0]
    if not len(used):
        return True
    turned = matrix @ weights
    grid = lowest_bit(used).min() * lowest_bit(matrix[matrix != 0]).min()
    kept = turned.astype(np.float32).astype(np.float64) == turned
    return bool((np.abs(matrix) @ np.abs(weights)).max() <= 2.0**53 * grid and kept.all())
