"""The variant `rotated`: a residual stream in another orthogonal basis.

The constant channel stays what it is, and the others are mixed: with x the program's channels, the
network holds Q x. What writes the stream is multiplied by Q, what reads it by its transpose. A norm
has one gain for all channels but the constant one, so it commutes with Q.

With Hadamard blocks of size 4^k, scaled by 2^-k, the entries of Q are powers of two. Whether sums
still keep every bit is checked as the compiler checks it (condition P1), by the target.
"""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import scipy.linalg

from lsrl import arguments
from lsrl.backends import registry
from lsrl.backends.axes import Part
from lsrl.circuit import Channel, Circuit
from lsrl.errors import InputError
from lsrl.interpret.causal import Sampler
from lsrl.interpret.variants.base import check_made, variant
from lsrl.ir.numbers import Array
from lsrl.model import Model

Basis = Literal["hadamard", "random"]
# Greatest blocks first: the first that is exact is taken, else the smallest.
BLOCKS = (64, 16, 4)


def rotated(
    model: Model, seed: int = 0, *, basis: Basis = "hadamard", sampler: Sampler | None = None
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
    rng = np.random.default_rng(check_made("rotated", model, sampler, seed))
    module = model.module
    legend = module.legend()
    stream = legend.stream
    if stream is None:
        raise InputError(
            f"rotated: {model.target} has no residual stream to rotate; choose one of "
            f"{registry.able(lambda target: target.has_stream)}, or hide its units with permuted"
        )
    arguments.choice("rotated: basis", basis, get_args(Basis))
    changed = {name for name, _ in model.card.steps} if model.card else set()
    if changed & {"permuted", "rotated", "noised", "soft", "trained"}:
        raise InputError(
            f"rotated: the stream of this model was changed already ({', '.join(changed)}); rotate "
            "the compiled model, and permute or add noise after that"
        )
    width, target = legend.spaces[stream].size, registry.find(model.target)
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
                exact = model.certificate.exact and target.mixes_exactly(
                    model.schedule, model.numerics, matrix
                )
                if exact:
                    break

    def change(array: Array, axis: int, part: Part) -> Array:
        mixed = part.space == stream and part.role != "follows"
        return _along(matrix, array, axis) if mixed else array

    wide = {name: array.astype(np.float64) for name, array in module.arrays().items()}
    return variant(
        model,
        "rotated",
        f"basis={basis}, block={block}, seed={seed}",
        module.rebuilt(legend.changed(wide, change)),
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
    start, size = 0, block
    while start < width - 1:
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
