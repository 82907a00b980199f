"""What the weights of a Mamba-2 layer say, and those that it has before any training."""

from collections.abc import Mapping

import numpy as np

from lsrl.backends.residual.mamba_weights import EXPAND, STATES, TAPS, convolved, first_steps
from lsrl.backends.residual.paths import Path
from lsrl.backends.strength import Gates, Sources, sigmoid, strength
from lsrl.ir.numbers import Array


def parts(projected: Array, inner: int) -> tuple[Array, Array, Array]:
    """What an input projection makes, along the last axis: gates, what is convolved, and steps."""
    gate, convolved, steps = np.split(projected, [inner, projected.shape[-1] - inner], axis=-1)
    return gate, convolved, steps


def path(own: Mapping[str, Array], below: Sources) -> Path:
    """Of a layer: its values, its gates, and its steps, all three read off the stream."""
    inner = len(own["mixer.D"])
    weight = own["mixer.in_proj.weight"] * own["norm.weight"]
    gate, values, steps = parts(below.write @ weight.T, inner)
    reads = strength(values[:, :inner], own["mixer.conv1d.bias"][:inner], below)
    opens = strength(gate, np.zeros(1), below)
    times = strength(steps, own["mixer.dt_bias"], below)
    decay = np.exp(-np.logaddexp(0, own["mixer.dt_bias"]) * np.exp(own["mixer.A_log"]))
    memory = np.maximum(decay, np.minimum(1.0, times.max(axis=0)))
    inside = np.maximum.reduce([reads, opens, times])
    return Path(inside, memory, own["mixer.out_proj.weight"] * own["mixer.norm.weight"])


def gates(own: Mapping[str, Array], eps: float, stream: Array) -> Gates:
    """What the scan of a layer keeps, exp(Δ A), and what SiLU and convolution give it.

    The stream (batch, time, d) is that before the layer.
    """
    inner = len(own["mixer.D"])
    size = np.sqrt((stream**2).mean(axis=-1, keepdims=True) + eps)
    into = stream / size * own["norm.weight"] @ own["mixer.in_proj.weight"].T
    _, values, steps = parts(into, inner)
    values = convolved(own["mixer.conv1d.weight"], values, own["mixer.conv1d.bias"])[..., :inner]
    decay = np.exp(-np.logaddexp(0, steps + own["mixer.dt_bias"]) * np.exp(own["mixer.A_log"]))
    return Gates(decay, values * sigmoid(values))


def fresh_layer(width: int, depth: int, rng: np.random.Generator) -> dict[str, Array]:
    """As `Mamba2PreTrainedModel._init_weights` of transformers has them, one head a channel."""
    inner = EXPAND * width
    mixed = inner + 2 * STATES

    def uniform(*shape: int, fan: int) -> Array:
        return rng.uniform(-1, 1, shape) / np.sqrt(fan)

    return {
        "norm.weight": np.ones(width),
        "mixer.in_proj.weight": uniform(inner + mixed + inner, width, fan=width),
        "mixer.conv1d.weight": uniform(mixed, 1, TAPS, fan=TAPS),
        "mixer.conv1d.bias": np.zeros(mixed),
        "mixer.dt_bias": first_steps(inner, rng),
        "mixer.A_log": np.log(np.arange(1.0, inner + 1)),
        "mixer.D": np.ones(inner),
        "mixer.norm.weight": np.ones(inner),
        "mixer.out_proj.weight": uniform(width, inner, fan=inner) / np.sqrt(depth),
    }
