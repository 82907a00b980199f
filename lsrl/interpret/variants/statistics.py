"""Statistics of weights and gates, to hold a network beside one that was trained naturally."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from lsrl.backends.residual.network import ResidualNetwork
from lsrl.errors import InputError
from lsrl.interpret.interventions import wiring_of
from lsrl.ir.numbers import Array
from lsrl.model import Model

# Below and above these a gate counts as shut and open.
SHUT, OPEN = 0.1, 0.9


class Gates(NamedTuple):
    """What one layer does, on some inputs.

    Attributes:
      gates: any shape, from 0 to 1.
      candidates: any shape, what gates let in.
    """

    gates: Array
    candidates: Array


def statistics(model: Model, inputs: Sequence[Array]) -> dict[str, float]:
    """Of weights and gates, to hold a network beside a naturally trained twin.

    Args:
      model: of the targets lstm, gru or mamba.
      inputs: one array an input, as for `Model.run`, with a batch axis.

    Returns:
      "weight std", "weight max" of all weights; "gates shut", "gates open", the shares of gates
      below 0.1 and above 0.9: a cell's sigmoids, and of a Mamba block what the scan keeps of its
      state from one token to the next, exp(Δ A); "candidate size", the mean size of the candidates,
      which in a Mamba block are what SiLU and convolution make; "units", that of the hooks behind
      layers.

    Raises:
      InputError: another target.
    """
    if model.target not in _LAYERS:
        raise InputError(f"statistics: expected {', '.join(_LAYERS)}, got {model.target}")
    arrays = {n: a.astype(np.float64) for n, a in model.module.arrays().items()}
    _, hooks = wiring_of(model).run(inputs, hooks=True)
    hooks = [hook.astype(np.float64) for hook in hooks]
    seen = [
        _LAYERS[model.target](model, arrays, number, hooks[number], hooks[number + 1])
        for number in range(len(hooks) - 1)
    ]
    gates = np.concatenate([layer.gates.ravel() for layer in seen])
    candidates = np.concatenate([np.abs(layer.candidates).ravel() for layer in seen])
    weights = np.concatenate([array.ravel() for array in arrays.values()])
    return {
        "weight std": float(weights.std()),
        "weight max": float(np.abs(weights).max()),
        "gates shut": float((gates < SHUT).mean()),
        "gates open": float((gates > OPEN).mean()),
        "candidate size": float(candidates.mean()),
        "units": float(np.mean([np.abs(hook).mean() for hook in hooks[1:]])),
    }


def _sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))))


def _inside(arrays: Mapping[str, Array], number: int, read: Array, held: Array) -> Any:
    """What a cell's gates get from the token and from its own state, without biases."""
    before = np.concatenate([np.zeros_like(held[:, :1]), held[:, :-1]], axis=1)
    name = f"cells.{number}.dense"
    return read @ arrays[f"{name}_i.kernel"], before @ arrays[f"{name}_h.kernel"]


def _lstm(_: Model, arrays: Mapping[str, Array], number: int, read: Array, held: Array) -> Gates:
    outside, inside = _inside(arrays, number, read, held)
    total = outside + inside + arrays[f"cells.{number}.dense_h.bias"]
    i, f, g, o = np.split(total, 4, axis=-1)
    return Gates(_sigmoid(np.stack([i, f, o])), np.tanh(g))


def _gru(_: Model, arrays: Mapping[str, Array], number: int, read: Array, held: Array) -> Gates:
    outside, inside = _inside(arrays, number, read, held)
    outside = outside + arrays[f"cells.{number}.dense_i.bias"]
    (ri, zi, ni), (rh, zh, nh) = np.split(outside, 3, -1), np.split(inside, 3, -1)
    reset = _sigmoid(ri + rh)
    return Gates(np.stack([reset, _sigmoid(zi + zh)]), np.tanh(ni + reset * nh))


def _mamba(model: Model, arrays: Mapping[str, Array], number: int, read: Array, _: Array) -> Gates:
    network = cast(ResidualNetwork, model.module)
    own = network.by_layer(arrays)[number]
    size = np.sqrt((read**2).mean(axis=-1, keepdims=True) + network.structure.eps)
    into = read / size * own["norm.weight"] @ own["mixer.in_proj.weight"].T
    values = np.split(into, 2, axis=-1)[0]
    kernel = own["mixer.conv1d.weight"][:, 0]
    taps, time = kernel.shape[1], values.shape[1]
    padded = np.pad(values, ((0, 0), (taps - 1, 0), (0, 0)))
    values = own["mixer.conv1d.bias"] + sum(
        padded[:, tap : tap + time] * kernel[:, tap] for tap in range(taps)
    )
    values = values * _sigmoid(values)
    rank = own["mixer.dt_proj.weight"].shape[1]
    steps = values @ own["mixer.x_proj.weight"][:rank].T
    steps = steps @ own["mixer.dt_proj.weight"].T + own["mixer.dt_proj.bias"]
    decay = np.exp(-np.logaddexp(0, steps)[..., None] * np.exp(own["mixer.A_log"]))
    return Gates(decay, values)


_LAYERS: dict[str, Callable[..., Gates]] = {"lstm": _lstm, "gru": _gru, "mamba": _mamba}
