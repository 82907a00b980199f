"""What the weights of a Mamba layer say, and those that it has before any training."""

import math
from collections.abc import Mapping

import numpy as np

from lsrl.backends.residual.paths import Path
from lsrl.backends.strength import Gates, Sources, sigmoid, strength, sums_of
from lsrl.ir.numbers import Array

# Of an untrained block: inner channels for each of the stream, states of an inner channel, least
# rank of Δ, taps of the convolution, and the range of Δ at first (Gu and Dao 2023, section 3.6).
EXPAND, STATES, RANK, TAPS = 2, 4, 4, 4
LEAST_STEP, GREATEST_STEP = 1e-3, 1e-1


def path(own: Mapping[str, Array], below: Sources) -> Path:
    """Of a layer: its values, its gate, and its steps."""
    weight = own["mixer.in_proj.weight"] * own["norm.weight"]
    values, gate = np.split(below.write @ weight.T, 2, axis=1)
    nothing = np.zeros(1)
    reads = strength(values, own["mixer.conv1d.bias"], below)
    opens = strength(gate, nothing, below)
    # Constant channels in the steps, too, take part by their size alone.
    rank = own["mixer.dt_proj.weight"].shape[1]
    steps = own["mixer.dt_proj.weight"] @ own["mixer.x_proj.weight"][:rank]
    inner = sums_of(values, below)
    times = strength(steps.T, own["mixer.dt_proj.bias"], inner)
    decay = np.exp(
        -np.logaddexp(0, own["mixer.dt_proj.bias"]) * np.exp(own["mixer.A_log"]).min(axis=1)
    )
    memory = np.maximum(decay, np.minimum(1.0, times.max(axis=0)))
    paths = (reads[:, :, None] * times[None]).max(axis=1)
    inside = np.maximum.reduce([reads, opens, paths])
    return Path(inside, memory, own["mixer.out_proj.weight"])


def gates(own: Mapping[str, Array], eps: float, stream: Array) -> Gates:
    """What the scan of a layer keeps, exp(Δ A), and what SiLU and convolution give it.

    The stream (batch, time, d) is that before the layer.
    """
    size = np.sqrt((stream**2).mean(axis=-1, keepdims=True) + eps)
    into = stream / size * own["norm.weight"] @ own["mixer.in_proj.weight"].T
    values = np.split(into, 2, axis=-1)[0]
    values = convolved(own["mixer.conv1d.weight"], values, own["mixer.conv1d.bias"])
    values = values * sigmoid(values)
    rank = own["mixer.dt_proj.weight"].shape[1]
    steps = values @ own["mixer.x_proj.weight"][:rank].T
    steps = steps @ own["mixer.dt_proj.weight"].T + own["mixer.dt_proj.bias"]
    decay = np.exp(-np.logaddexp(0, steps)[..., None] * np.exp(own["mixer.A_log"]))
    return Gates(decay, values)


def convolved(weight: Array, values: Array, bias: Array | float = 0.0) -> Array:
    """Values (batch, time, channels) behind a convolution of weights (channels, 1, taps)."""
    kernel = weight[:, 0]
    taps, time = kernel.shape[1], values.shape[1]
    padded = np.pad(values, ((0, 0), (taps - 1, 0), (0, 0)))
    return np.asarray(
        bias + sum(padded[:, tap : tap + time] * kernel[:, tap] for tap in range(taps))
    )


def first_steps(inner: int, rng: np.random.Generator) -> Array:
    """(inner,) what softplus makes first steps Δ of."""
    steps = np.exp(rng.uniform(np.log(LEAST_STEP), np.log(GREATEST_STEP), inner))
    return np.asarray(steps + np.log(-np.expm1(-steps)))


def fresh_layer(width: int, depth: int, rng: np.random.Generator) -> dict[str, Array]:
    """As `MambaPreTrainedModel._init_weights` of transformers has them, of one layer of `depth`."""
    inner, rank = EXPAND * width, max(RANK, math.ceil(width / 16))

    def uniform(*shape: int, fan: int) -> Array:
        return rng.uniform(-1, 1, shape) / np.sqrt(fan)

    steps = first_steps(inner, rng)
    return {
        "norm.weight": np.ones(width),
        "mixer.in_proj.weight": uniform(2 * inner, width, fan=width),
        "mixer.conv1d.weight": uniform(inner, 1, TAPS, fan=TAPS),
        "mixer.conv1d.bias": uniform(inner, fan=TAPS),
        "mixer.x_proj.weight": uniform(rank + 2 * STATES, inner, fan=inner),
        "mixer.dt_proj.weight": uniform(inner, rank, fan=rank),
        "mixer.dt_proj.bias": steps,
        "mixer.A_log": np.log(np.tile(np.arange(1.0, STATES + 1), (inner, 1))),
        "mixer.D": np.ones(inner),
        "mixer.out_proj.weight": uniform(width, inner, fan=inner) / np.sqrt(depth),
    }
