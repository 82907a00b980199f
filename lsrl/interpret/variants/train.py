"""The variant `trained`: ordinary initial weights, trained to do what the program does inside, too.

The network has the compiled network's layers, and a group of units for each of its channels. It is
trained by interchange interventions (Geiger et al. 2022, "Inducing Causal Structure for
Interpretable Neural Networks", section 3): a signal's units take, at random tokens, what they hold
on another input, and the outputs must be what the program gives when the signal itself is
interchanged. Beside that loss there are two more: that of the outputs without interventions, and
the distance of each unit from a code that is linear in its channel's value, so that the circuit can
say what a unit holds. In an LSTM an intervention sets h and c to the same number, as
`lsrl.interpret` does.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from lsrl.backends.cells.network import CellNetwork
from lsrl.card import Card, Measured
from lsrl.errors import FormatError, InputError
from lsrl.interpret.causal import Sampler, broken_rows, causal_test
from lsrl.interpret.circuit import Channel, Circuit
from lsrl.interpret.interventions import circuit_nodes
from lsrl.interpret.variants.base import check_seed, random_sampler, variant
from lsrl.interpret.wiring import Patch, Wiring
from lsrl.ir.evaluate import Intervention, evaluate
from lsrl.ir.numbers import Array
from lsrl.model import Alteration, Model
from lsrl.stability.measures import allowed_error

# The greatest size of a unit's code: so small that tanh(c) is nearly c, since an intervention sets
# h and c of an LSTM to the same number.
AMPLITUDE = 0.25
# The share of causal tests that a trained model must pass.
PASSES = 0.95
FORMAT = "lsrl.training"
CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
      steps: of Adam.
      batch: sequences a step; as many more are the sources of interchanges.
      rate: the greatest learning rate; it falls to 0 as a cosine.
      units: a channel.
      interchange: weight of the loss under interventions; 0 trains a natural twin, together with
        `code` = 0.
      code: weight of the distance from the codes.
      length: tokens of a sequence.
      keep: a checkpoint every so many steps.
    """

    steps: int = 3000
    batch: int = 128
    rate: float = 1e-2
    units: int = 4
    interchange: float = 1.0
    code: float = 0.1
    length: int = 16
    keep: int = 500

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("steps", "batch", "units", "length", "keep"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"trained: {name} must be an int >= 1, got {value!r}")
        for name in ("rate", "interchange", "code"):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0:
                raise InputError(f"trained: {name} must be a finite number >= 0, got {value!r}")


class Batch(NamedTuple):
    """What one step learns from; time comes first.

    Attributes:
      inputs: of the bases and then of the sources, one an input, (time, 2 batch, ...).
      codes: per layer (time, 2 batch, units), what the units should hold.
      outputs: (time, 2 batch, outputs), the program's.
      layer: (batch,) int, where the interchanged signal is.
      tokens: (time, batch) bool, when it is interchanged.
      units: (batch, units) bool, of the widest layer: which.
      expected: (time, batch, outputs), the program's under the interchange.
      valid: (batch,) bool, whether the interchange breaks no promise.
    """

    inputs: Any
    codes: Any
    outputs: Any
    layer: Any
    tokens: Any
    units: Any
    expected: Any
    valid: Any


def trained(
    model: Model,
    seed: int = 0,
    recipe: Recipe | None = None,
    *,
    sampler: Sampler | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    report: Callable[[int, float], None] | None = None,
) -> Model:
    """Train ordinary initial weights by interchange interventions against the program.

    The same arguments give the same network on the same machine.

    Args:
      model: of the targets lstm or gru, in float32, compiled with inspectable=True.
      seed: of weights, inputs and interchanges.
      recipe: how.
      sampler: of inputs that keep the program's promises; by default `random_sampler`.
      checkpoint: a file that training goes on from, if it is there, and that it writes to.
      report: called now and then with the step and the loss.

    Returns:
      The trained network, whose card says the rate at which it passes the causal tests. It may be
      too low: compare it with PASSES.

    Raises:
      InputError: another target or dtype, a model that is not inspectable or a variant, or signals
        without finite bounds.
      FormatError: the checkpoint is of another training, or damaged.
    """
    check_seed("trained", seed)
    recipe = recipe or Recipe()
    _check(model)
    sampler = sampler or random_sampler(model.program, recipe.length)
    circuit = grouped(model.circuit, recipe.units)
    network = _initial(model, circuit, seed)
    nothing = Card((), False, 0.0, Measured(0, 0, 0.0, False, float("inf"), 0))
    fresh = model.altered(network, Alteration(circuit, nothing))
    lesson = _Lesson(model, circuit, sampler, recipe, seed)
    parameters = _fit(fresh, lesson, recipe, checkpoint, report)
    network.replace_parameters(_flat(network, parameters))
    settings = f"seed={seed}, " + ", ".join(f"{k}={v:g}" for k, v in asdict(recipe).items())
    made = variant(model, "trained", settings, network, circuit, exact=False, sampler=sampler)
    if not recipe.interchange:
        return made
    result = causal_test(made, sampler, pairs=500, seed=seed + 1)
    note = f"passes {result.agreement:.2%} of {result.valid} interchanges of signals"
    card = replace(made.alteration.card, notes=(note,)) if made.alteration else nothing
    return made.altered(network, Alteration(circuit, card))


def _check(model: Model) -> None:
    if model.target not in CELLS or model.dtype != "float32":
        raise InputError(
            f"trained: expected a float32 model of {' or '.join(CELLS)}, got {model.dtype} on "
            f"{model.target}"
        )
    if model.alteration is not None or not model.options.inspectable:
        raise InputError("trained: start from a model compiled with inspectable=True")
    for signal in model.circuit.signals:
        if not np.isfinite([*signal.low, *signal.high]).all():
            raise InputError(
                f"trained: {signal.name} ({signal.source}) has no finite bounds, so no unit can "
                "hold it; narrow it with lsrl.bound"
            )


def grouped(circuit: Circuit, size: int) -> Circuit:
    """The circuit of a network with a group of units for each channel of another.

    Args:
      circuit: of the compiled network.
      size: units a channel. Each holds the code of the channel's value: AMPLITUDE at its greatest,
        -AMPLITUDE at its least.
    """
    signals = circuit.by_name
    counts = [0] * len(circuit.units)
    channels = []
    for channel in circuit.channels:
        signal = signals[channel.signal]
        low, high = signal.low[channel.element], signal.high[channel.element]
        start = counts[channel.layer]
        counts[channel.layer] += size
        slope = (high - low) / (2 * AMPLITUDE) if high > low else 1.0
        units = tuple(range(start, start + size))
        channels.append(
            Channel(
                channel.layer,
                channel.signal,
                channel.element,
                channel.role,
                units,
                (slope / size,) * size,
                (low + high) / 2,
                units if channel.memory else (),
                (slope / size,) * size if channel.memory else (),
                (1 / slope,) * size,
            )
        )
    return replace(circuit, units=tuple(counts), channels=tuple(channels))


# ---------------------------------------------------------------- what is learnt


class _Lesson:
    """Batches by the number of the step, from inputs that the program is evaluated on."""

    def __init__(
        self, model: Model, circuit: Circuit, sampler: Sampler, recipe: Recipe, seed: int
    ) -> None:
        self.model, self.circuit, self.sampler = model, circuit, sampler
        self.recipe, self.seed = recipe, seed
        self.graph, self.nodes = model.schedule.graph, circuit_nodes(model)
        self.names = [signal.name for signal in circuit.signals if signal.owned]
        self.width = max(circuit.units)

    def batch(self, step: int) -> Batch:
        count = self.recipe.batch
        rng = np.random.default_rng([self.seed, step])
        drawn = self.sampler(2 * count, int(rng.integers(2**31)))
        pool = [np.asarray(array) for array in drawn]
        known = evaluate(self.graph, pool, wanted=self.graph.live())
        time = pool[0].shape[1]
        chosen = rng.integers(len(self.names), size=count)
        tokens = rng.random((count, time)) < 0.5
        single = rng.random(count) < 0.5
        tokens[single] = np.arange(time) == rng.integers(0, time, single.sum())[:, None]
        given, layer = {}, np.zeros(count, np.int32)
        units = np.zeros((count, self.width), bool)
        for number, name in enumerate(self.names):
            mine = chosen == number
            other = known[self.nodes[name]][count:].astype(np.float64)
            mask = (tokens & mine[:, None])[..., None]
            given[self.nodes[name]] = Intervention(np.broadcast_to(mask, other.shape), other)
            for channel in self.circuit.channels_of(name):
                layer[mine] = channel.layer
                units[np.ix_(mine, channel.units)] = True
        base = [array[:count] for array in pool]
        values = evaluate(self.graph, base, wanted=self.graph.live(), interventions=given)
        return Batch(
            tuple(jnp.moveaxis(x, 1, 0) for x in self.model.features(pool)),
            [jnp.asarray(codes) for codes in self._codes(known)],
            _timed(known[self.graph.output]),
            jnp.asarray(layer),
            jnp.asarray(tokens.T),
            jnp.asarray(units),
            _timed(values[self.graph.output]),
            jnp.asarray(~broken_rows(self.graph, values)),
        )

    def _codes(self, known: dict[int, Array]) -> list[Array]:
        some = known[self.graph.output]
        found = [
            np.zeros((some.shape[1], some.shape[0], units), np.float32)
            for units in self.circuit.units
        ]
        for channel in self.circuit.channels:
            if channel.signal in self.nodes:
                values = known[self.nodes[channel.signal]][..., channel.element].T
                code = (values.astype(np.float64) - channel.offset) * channel.directions[0]
                found[channel.layer][..., list(channel.units)] = code[..., None]
        return found


def _timed(values: Array) -> jax.Array:
    return jnp.asarray(np.moveaxis(values.astype(np.float32), 1, 0))


def _losses(
    parameters: Any, batch: Batch, state: Any, wiring: Wiring, recipe: Recipe, scale: Array
) -> jax.Array:
    outputs, hooks = wiring.traced(parameters, state, batch.inputs, (), hooks=True)
    total = _distance(outputs, batch.outputs, scale).mean()
    if recipe.code:
        total = total + recipe.code * sum(
            (
                jnp.square((hook - code) / AMPLITUDE).mean()
                for hook, code in zip(hooks, batch.codes, strict=True)
            ),
            start=jnp.zeros(()),
        )
    if recipe.interchange:
        count = batch.layer.shape[0]
        # What the units of the layer hold on the source.
        wide = [
            jnp.pad(hook[:, count:], ((0, 0), (0, 0), (0, wiring.width - hook.shape[-1])))
            for hook in hooks
        ]
        source = jnp.stack(wide)[batch.layer, :, jnp.arange(count)]
        patch = Patch(batch.layer, batch.tokens, batch.units, jnp.moveaxis(source, 0, 1))
        half = jax.tree.map(lambda x: x[:count], state)
        inputs = tuple(x[:, :count] for x in batch.inputs)
        patched, _ = wiring.traced(parameters, half, inputs, (patch,), hooks=False)
        missed = _distance(patched, batch.expected, scale).mean(axis=0)
        total = total + recipe.interchange * jnp.where(batch.valid, missed, 0).mean()
    return total


def _distance(outputs: jax.Array, expected: jax.Array, scale: Array) -> jax.Array:
    """Squared errors in units of what is allowed, large ones by their size."""
    return optax.huber_loss(outputs / scale, expected / scale).mean(axis=-1)


def _fit(
    model: Model,
    lesson: _Lesson,
    recipe: Recipe,
    checkpoint: str | os.PathLike[str] | None,
    report: Callable[[int, float], None] | None,
) -> Any:
    wiring = Wiring(model, model.circuit)
    schedule = optax.cosine_decay_schedule(recipe.rate, recipe.steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    scale = np.maximum(allowed_error(model.program), 1e-6).astype(np.float32)[None, None]
    loss = partial(_losses, wiring=wiring, recipe=recipe, scale=scale)

    @jax.jit
    def update(parameters: Any, memory: Any, batch: Batch, state: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters, batch, state)
        changes, memory = optimiser.update(gradients, memory, parameters)
        return optax.apply_updates(parameters, changes), memory, value

    # optax counts steps in integers, and a user may have forbidden that they become floats.
    standard = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with model.device_mode(), standard[0], standard[1]:
        parameters = model.module.parameters()
        held = (parameters, optimiser.init(parameters))
        title = json.dumps([model.program.name, model.target, lesson.seed, asdict(recipe)])
        start, held = _resumed(checkpoint, title, held)
        parameters, memory = held
        state = jax.tree.map(jnp.asarray, model.module.init_state((2 * recipe.batch,)))
        for step in range(start, recipe.steps):
            parameters, memory, value = update(parameters, memory, lesson.batch(step), state)
            done = step + 1
            if report is not None and (done % 50 == 0 or done == recipe.steps):
                report(done, float(value))
            if checkpoint is not None and (done % recipe.keep == 0 or done == recipe.steps):
                _keep(checkpoint, title, done, (parameters, memory))
    return parameters


# ---------------------------------------------------------------- weights and files


def _initial(model: Model, circuit: Circuit, seed: int) -> CellNetwork:
    """Initial weights of flax's cells, and maps as flax's Embed and Linear have them."""
    rng, keys = np.random.default_rng(seed), nnx.Rngs(seed)
    arrays: dict[str, Array] = {}
    features = circuit.units[0]
    for name, array in model.module.arrays().items():
        if name.startswith("inputs."):
            spread = 1.0 if name.endswith("table") else 1 / np.sqrt(array.shape[0])
            arrays[name] = spread * rng.standard_normal((array.shape[0], features))
    for number, units in enumerate(circuit.units[1:]):
        cell = CELLS[model.target](features, units, rngs=keys)
        for side in ("dense_i", "dense_h"):
            dense = getattr(cell, side)
            arrays[f"cells.{number}.{side}.kernel"] = np.asarray(dense.kernel.get_value())
            if dense.bias is not None:
                arrays[f"cells.{number}.{side}.bias"] = np.asarray(dense.bias.get_value())
        features = units
    outputs = model.module.arrays()["output_bias"]
    arrays["output_kernel"] = rng.standard_normal((features, len(outputs))) / np.sqrt(features)
    arrays["output_bias"] = np.zeros_like(outputs)
    module: CellNetwork = model.module.rebuilt(arrays)
    return module


def _flat(network: CellNetwork, parameters: Any) -> dict[str, Array]:
    """A pytree of parameters by flat name."""
    found = {}
    for name in network.parameter_arrays():
        parts = name.split(".")
        if parts[0] == "inputs":
            leaf = parameters["inputs"][parts[1]]
        elif parts[0] == "cells":
            leaf = parameters["cells"][int(parts[1])][parts[2]][parts[3]]
        else:
            leaf = parameters[name]
        found[name] = np.asarray(leaf)
    return found


def _keep(path: str | os.PathLike[str], title: str, step: int, held: Any) -> None:
    """Whole or not at all."""
    leaves = {f"{k:05}": np.asarray(x) for k, x in enumerate(jax.tree.leaves(held))}
    header = {"lsrl": json.dumps({"format": FORMAT, "training": title, "step": step})}
    draft = Path(f"{os.fspath(path)}.{os.getpid()}.draft")
    draft.write_bytes(to_safetensors(leaves, header))
    os.replace(draft, path)


def _resumed(path: str | os.PathLike[str] | None, title: str, held: Any) -> tuple[int, Any]:
    """The step that a checkpoint is at, and what it holds; from the start if there is none."""
    if path is None or not Path(path).exists():
        return 0, held
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            header = json.loads((file.metadata() or {})["lsrl"])
            leaves = [file.get_tensor(name) for name in sorted(file.keys())]
        if header["format"] != FORMAT or header["training"] != title:
            raise FormatError(
                f"{path}: a checkpoint of another training: expected {title}, got "
                f"{header.get('training')}; name another file"
            )
        tree = jax.tree.structure(held)
        return int(header["step"]), jax.tree.unflatten(tree, [jnp.asarray(x) for x in leaves])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: expected a checkpoint of a training, got {error!r}") from error


# ---------------------------------------------------------------- statistics


def statistics(model: Model, inputs: Sequence[Array]) -> dict[str, float]:
    """Of weights and gates, to hold a network beside a naturally trained twin.

    Args:
      model: of the targets lstm or gru.
      inputs: one array an input, as for `Model.run`, with a batch axis.

    Returns:
      "weight std", "weight max" of all weights; "gates shut", "gates open", the shares of sigmoids
      below 0.1 and above 0.9; "candidate size", the mean size of the candidates; "units", the mean
      size of the units.

    Raises:
      InputError: another target.
    """
    if model.target not in CELLS:
        raise InputError(f"statistics: expected {' or '.join(CELLS)}, got {model.target}")
    arrays = {n: a.astype(np.float64) for n, a in model.module.arrays().items()}
    _, hooks = Wiring(model, model.circuit).run(inputs, hooks=True)
    sigmoids, candidates = [], []
    for number in range(len(hooks) - 1):
        read, held = hooks[number], hooks[number + 1].astype(np.float64)
        before = np.concatenate([np.zeros_like(held[:, :1]), held[:, :-1]], axis=1)
        name = f"cells.{number}.dense"
        inside = before @ arrays[f"{name}_h.kernel"]
        outside = read @ arrays[f"{name}_i.kernel"]
        if model.target == "lstm":
            i, f, g, o = np.split(inside + outside + arrays[f"{name}_h.bias"], 4, axis=-1)
            sigmoids += [i, f, o]
        else:
            outside = outside + arrays[f"{name}_i.bias"]
            (ri, zi, ni), (rh, zh, nh) = np.split(outside, 3, -1), np.split(inside, 3, -1)
            sigmoids += [ri + rh, zi + zh]
            g = ni + nh / (1 + np.exp(-np.clip(ri + rh, -60, 60)))
        candidates.append(np.abs(np.tanh(g)).ravel())
    gates = 1 / (1 + np.exp(-np.clip(np.concatenate([s.ravel() for s in sigmoids]), -60, 60)))
    weights = np.concatenate([array.ravel() for array in arrays.values()])
    return {
        "weight std": float(weights.std()),
        "weight max": float(np.abs(weights).max()),
        "gates shut": float((gates < 0.1).mean()),
        "gates open": float((gates > 0.9).mean()),
        "candidate size": float(np.concatenate(candidates).mean()),
        "units": float(np.mean([np.abs(hook).mean() for hook in hooks[1:]])),
    }
