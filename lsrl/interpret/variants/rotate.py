"""The variant `rotated`: a residual stream in another orthogonal basis.

The constant channel stays what it is, and the others are mixed: with x the program's channels, the
network holds Q x. What writes the stream is multiplied by Q, what reads it by its transpose. A norm
has one gain for all channels but the constant one, so it commutes with Q.

With Hadamard blocks of size 4^k, scaled by 2^-k, the entries of Q are powers of two. Whether sums
still keep every bit is checked as the compiler checks it (condition P1), with the grids and the
greatest sizes of the mixed channels.
"""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import scipy.linalg

from lsrl.backends import registry
from lsrl.backends.residual.network import ResidualNetwork
from lsrl.backends.residual.rows import AtomRow
from lsrl.backends.residual.stream import Stream
from lsrl.backends.residual.target import ResidualBackend
from lsrl.circuit import Channel, Circuit
from lsrl.errors import InputError
from lsrl.interpret.causal import Sampler
from lsrl.interpret.variants.base import check_seed, variant
from lsrl.interpret.variants.permute import streamed
from lsrl.ir.numbers import Array, lowest_bit
from lsrl.model import Model

Basis = Literal["hadamard", "random"]
# Greatest blocks first: the first that is exact is taken, else the smallest.
BLOCKS = (64, 16, 4)


def rotated(
    model: Model,
    seed: int = 0,
    *,
    basis: Basis = "hadamard",
    sampler: Sampler | None = None,
) -> Model:
    """Change the basis of a residual stream.

    Args:
      model: of a target with a residual stream, as compiled.
      seed: of the basis.
      basis: "hadamard" mixes blocks of channels by powers of two, as many as stay exact; "random"
        mixes all of them by a random orthogonal matrix (Haar), which rounds.
      sampler: of the inputs that the card's figures come from.

    Raises:
      InputError: another target; a stream of fewer than five channels, which has no block of four
        beside its constant; a model whose stream was changed already (rotate first, then permute).
    """
    rng = np.random.default_rng(check_seed("rotated", seed))
    stream, module = model.schedule, model.module
    if not isinstance(stream, Stream) or not isinstance(module, ResidualNetwork):
        raise InputError(
            f"rotated: {model.target} has no residual stream to rotate; choose mamba or griffin, "
            "or hide the units of other targets with permuted"
        )
    if basis not in get_args(Basis):
        raise InputError(f"rotated: basis is 'hadamard' or 'random', got {basis!r}")
    changed = {name for name, _ in model.card.steps} if model.card else set()
    if changed & {"permuted", "rotated", "noised", "soft", "trained"}:
        raise InputError(
            f"rotated: the stream of this model was changed already ({', '.join(changed)}); rotate "
            "the compiled model, and permute or add noise after that"
        )
    width = module.width
    if basis == "hadamard" and width <= BLOCKS[-1]:
        raise InputError(
            f"rotated: {model.program.name} on {model.target} has a stream of {width} channels, "
            "one of them constant, and no block of 4 fits the others; take basis='random'"
        )
    if basis == "random":
        matrix, block, exact = _random(width, rng), width - 1, False
    else:
        for block in BLOCKS:
            if block < width:
                matrix = _hadamard(width, block, np.random.default_rng(seed))
                exact = _keeps_bits(model, stream, matrix)
                if exact:
                    break
    arrays = streamed(
        module,
        {name: array.astype(np.float64) for name, array in module.arrays().items()},
        lambda array, axis: _along(matrix, array, axis),
        lambda array, axis: _along(matrix, array, axis),
        lambda array, axis: array,
    )
    return variant(
        model,
        "rotated",
        f"basis={basis}, block={block}, seed={seed}",
        module.rebuilt(arrays),
        _circuit(model.circuit, matrix),
        exact=exact,
        sampler=sampler,
    )


def _along(matrix: Array, array: Array, axis: int) -> Array:
    """Q along an axis; writing takes Q, and reading the inverse of its transpose, which is Q."""
    return np.asarray(np.moveaxis(np.moveaxis(array, axis, -1) @ matrix.T, -1, axis))


def _random(width: int, rng: np.random.Generator) -> Array:
    """(width, width) orthogonal, Haar but for the constant channel, which stays."""
    drawn, upper = np.linalg.qr(rng.standard_normal((width - 1, width - 1)))
    found = np.eye(width)
    found[1:, 1:] = drawn * np.sign(np.diag(upper))
    return found


def _hadamard(width: int, block: int, rng: np.random.Generator) -> Array:
    """(width, width): as many blocks of a size as fit, then smaller ones; channels shuffled."""
    found = np.zeros((width, width))
    found[0, 0] = 1.0
    channels, units = 1 + rng.permutation(width - 1), 1 + rng.permutation(width - 1)
    start = 0
    while start < width - 1:
        size = block
        while size > width - 1 - start:
            size //= 4
        inside = slice(start, start + size)
        core = scipy.linalg.hadamard(size) / np.sqrt(size)
        rows, columns = np.where(rng.random((2, size)) < 0.5, -1.0, 1.0)
        found[np.ix_(units[inside], channels[inside])] = rows[:, None] * core * columns
        start += size
    return found


def _circuit(circuit: Circuit, matrix: Array) -> Circuit:
    """Each channel in the new basis: its value is its row of Q^T, times the units."""

    def turned(channel: Channel) -> Channel:
        (place,), (weight,) = channel.units, channel.weights
        column = matrix[:, place]
        units = np.flatnonzero(column)
        return replace(
            channel,
            units=tuple(units.tolist()),
            weights=tuple((weight * column[units]).tolist()),
            directions=tuple((column[units] / weight).tolist()) if len(units) > 1 else (),
        )

    return replace(circuit, channels=tuple(turned(channel) for channel in circuit.channels))


# ---------------------------------------------------------------- condition P1


def _keeps_bits(model: Model, stream: Stream, matrix: Array) -> bool:
    """Whether every weight of the new basis is a float32 number, and every sum of it exact."""
    return model.certificate.exact and _Mixed(model, stream, matrix).exact()


class _Mixed:
    """Sizes and grids of the mixed channels, over the certificate's tokens."""

    def __init__(self, model: Model, stream: Stream, matrix: Array) -> None:
        target = registry.find(model.target)
        if not isinstance(target, ResidualBackend):
            raise InputError(f"{model.target} has no residual stream")
        self.stream, self.matrix = stream, matrix
        self.room = 2.0**model.numerics.bits
        self.lowered = target.lowered(stream)
        self.analysis = target.analysis(stream, model.numerics)(stream.graph.tokens)
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
        stream = self.stream
        held = self._fits(self.sizes, self.grids)
        rows = [row for site in stream.sites for channel in site.channels
                for row in (channel.row, channel.gate) if row is not None]  # fmt: skip
        return (
            bool(held.all())
            and all(self._reads(self.lowered.reading(row)) for row in (*rows, *stream.output))
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
        sizes = np.array([self.analysis.size_of(site, each) for each in site.channels] or [0.0])
        grids = np.array([self.analysis.grid_of(each) for each in site.channels] or [np.inf])
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
