"""The variant `trained`: ordinary initial weights, trained to do what the program does inside, too.

The network has the compiled network's layers, and a group of units for each of its channels. It is
trained by interchange interventions (Geiger et al. 2022, "Inducing Causal Structure for
Interpretable Neural Networks", section 3): a signal's units take, at random tokens, what they hold
on another input, and the outputs must be what the program gives when the signal itself is
interchanged. So must all that the other units hold: each has a code that is linear in its
channel's value, so that the circuit can say what it holds. At first whole layers are set to what
the program has there, most of them at most tokens, so that every layer learns from inputs that are
right; this fades, and in the end a network runs on its own but for the interchange. In an LSTM an
intervention sets h and c to the same number, as `lsrl.interpret` does.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from safetensors.numpy import save as to_safetensors

from lsrl import arguments, schema, storage
from lsrl.backends.hooks import Parameters
from lsrl.card import Card, Measured
from lsrl.circuit import Circuit
from lsrl.errors import FormatError, InputError
from lsrl.folders import replace_file
from lsrl.interpret.causal import CausalResult, Sampler, causal_test
from lsrl.interpret.interventions import wiring_of
from lsrl.interpret.variants.base import check_made, random_sampler, variant
from lsrl.interpret.variants.fresh import AMPLITUDE, grouped
from lsrl.interpret.variants.lessons import Examples, examples
from lsrl.interpret.variants.statistics import statistics
from lsrl.interpret.wiring import Prepared
from lsrl.ir.numbers import Array
from lsrl.model import Alteration, Model
from lsrl.noise.wrong import allowed_error
from lsrl.schema import FieldError, Reader

# The share of causal tests that a trained model must pass.
PASSES = 0.95
FORMAT = "lsrl.training"
# Of which the suite has trained models, and all that can be trained.
TARGETS = ("lstm", "gru", "mamba")
TRAINABLE = (*TARGETS, "mamba2", "deltanet")
Held: TypeAlias = tuple[Parameters, optax.OptState]  # what training changes
# Examples that are looked at between parts of the training.
VALIDATION = 512


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
      steps: of Adam, at most.
      batch: sequences a step.
      rate: the greatest learning rate; it falls to 0 as a cosine.
      units: a channel.
      interchange: weight of the loss under interventions; 0 trains a natural twin, on the outputs
        of runs without any.
      code: weight of the distance from the codes.
      held: the share of the steps in which whole layers are set to what the program has there.
      noise: that is added to them, in units of half a step of a code.
      length: tokens of a sequence.
      rows: examples that batches are drawn from.
      keep: steps between a look at other examples, and a checkpoint.
      enough: training ends when so large a share of these examples passes.
    """

    steps: int = 3000
    batch: int = 64
    rate: float = 1e-2
    units: int = 4
    interchange: float = 1.0
    code: float = 1.0
    held: float = 0.5
    noise: float = 0.3
    length: int = 12
    rows: int = 4096
    keep: int = 250
    enough: float = 0.995

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("steps", "batch", "units", "length", "rows", "keep"):
            arguments.count(f"trained: {name}", getattr(self, name))
        for name in ("rate", "interchange", "code", "held", "noise", "enough"):
            arguments.real(f"trained: {name}", getattr(self, name))

    @property
    def natural(self) -> bool:
        """Whether outputs are all that is learnt."""
        return not self.interchange


class Progress(NamedTuple):
    """How far a training is.

    Attributes:
      step: steps done.
      loss: the mean over the last steps.
      passed: the share of other examples that the network does right.
    """

    step: int
    loss: float
    passed: float


class Trained(NamedTuple):
    """A trained network with what was measured.

    Attributes:
      model: with the circuit and the card of the variant.
      causal: causal tests on inputs of their own.
      statistics: of weights and gates, see `lsrl.interpret.variants.statistics`.
      progress: where training ended.
    """

    model: Model
    causal: CausalResult
    statistics: dict[str, float]
    progress: Progress


def trained(
    model: Model,
    seed: int = 0,
    recipe: Recipe | None = None,
    *,
    sampler: Sampler | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Model:
    """Train ordinary initial weights by interchange interventions against the program.

    The same arguments give the same network on the same machine.

    Args:
      model: of the targets lstm, gru, mamba, mamba2 or deltanet, in float32, compiled with
        inspectable=True.
      seed: of weights, inputs and interchanges.
      recipe: how.
      sampler: of inputs that keep the program's promises; by default `random_sampler`.
      checkpoint: a file that training goes on from, if it is there, and that it writes to.
      report: called after every `recipe.keep` steps.

    Returns:
      The trained network, whose card says the rate at which it passes the causal tests. It may be
      too low: compare it with PASSES.

    Raises:
      InputError: another target or dtype, a model that is not inspectable or a variant, or signals
        without finite bounds.
      FormatError: the checkpoint is of another training, or damaged.
    """
    return Training(model, recipe, sampler=sampler).run(seed, checkpoint, report).model


class Training:
    """Trains networks of one program, target and recipe; what is compiled serves all seeds."""

    def __init__(
        self, model: Model, recipe: Recipe | None = None, *, sampler: Sampler | None = None
    ) -> None:
        """Take the arguments of `trained`, and check them.

        Raises:
          InputError: as for `trained`.
        """
        check_made("trained", model, sampler)
        if recipe is not None:
            arguments.instance("trained: recipe", recipe, Recipe, "Recipe(...)")
        _check(model)
        self.model, self.recipe = model, recipe or Recipe()
        self.sampler = sampler or random_sampler(model.program, self.recipe.length)
        self.circuit = grouped(model, self.recipe.units)
        # Tests run on it with the weights of each network in turn, so that all share what jax
        # compiles for them.
        nothing = Card((), False, 0.0, Measured(0, 0, 0.0, False, float("inf"), 0))
        network = model.module.untrained(self.circuit.units, 0)
        self.shell = model.altered(network, Alteration(self.circuit, nothing))
        self.wiring = wiring_of(self.shell)
        self.scale = np.maximum(allowed_error(model.program), 1e-6).astype(np.float32)
        self.weights, self.spread, self.free = _weights(
            self.circuit, model.module.legend().stream is not None
        )
        schedule = optax.cosine_decay_schedule(self.recipe.rate, self.recipe.steps)
        self.optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
        self.advance = jax.jit(self._advance, static_argnames="steps")
        self.passed = jax.jit(self._passed)

    def run(
        self,
        seed: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        report: Callable[[Progress], None] | None = None,
    ) -> Trained:
        """Train one network; arguments and errors are those of `trained`."""
        check_made("trained", self.model, self.sampler, seed)
        arguments.function("trained: report", report, "the progress")
        model, recipe = self.model, self.recipe
        network = model.module.untrained(self.circuit.units, seed)
        parameters, progress = self._fit(network.parameters(), seed, checkpoint, report)
        arrays = {name: np.asarray(x) for name, x in network.named(parameters).items()}
        network.replace_parameters(arrays)
        self.shell.module.replace_parameters(arrays)
        causal = causal_test(
            self.shell, self.sampler, pairs=500, seed=seed + 1, tolerance=float(self.scale.min())
        )
        figures = statistics(self.shell, self.sampler(64, seed + 1))
        settings = f"seed={seed}, " + ", ".join(f"{k}={v:g}" for k, v in asdict(recipe).items())
        note = f"passes {causal.agreement:.2%} of {causal.valid} interchanges of signals"
        given = "trained", settings, network, self.circuit
        made = variant(model, *given, exact=False, sampler=self.sampler, notes=(note,))
        return Trained(made, causal, figures, progress)

    def _examples(self, rows: int, seed: Sequence[int]) -> Examples:
        plain = {"plain": 1.0} if self.recipe.natural else {}
        number = int(np.random.default_rng(seed).integers(2**31))
        found = examples(self.model, self.circuit, self.sampler, rows, number, **plain)
        return cast(Examples, jax.tree.map(jnp.asarray, found))

    def _fit(
        self,
        parameters: Parameters,
        seed: int,
        checkpoint: str | os.PathLike[str] | None,
        report: Callable[[Progress], None] | None,
    ) -> tuple[Parameters, Progress]:
        recipe = self.recipe
        # optax counts steps in integers, and a user may have forbidden that they become floats.
        standard = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
        with self.model.device_mode(), standard[0], standard[1]:
            held: Held = (parameters, self.optimiser.init(parameters))
            title = json.dumps([self.model.program.name, self.model.target, seed, asdict(recipe)])
            progress, held = _resumed(checkpoint, title, held)
            if progress.step == recipe.steps or progress.passed >= recipe.enough:
                return held[0], progress
            pool = self._examples(recipe.rows, [seed, 0])
            others = self._examples(VALIDATION, [seed, 1])
            for step in range(progress.step, recipe.steps, recipe.keep):
                count = min(recipe.keep, recipe.steps - step)
                held, loss = self.advance(held, pool, seed, step, steps=count)
                passed = float(self.passed(held[0], others))
                progress = Progress(step + count, float(loss), passed)
                if checkpoint is not None:
                    _keep(checkpoint, title, progress, held)
                if report is not None:
                    report(progress)
                if passed >= recipe.enough:
                    break
        return held[0], progress

    # ------------------------------------------------------------ pure functions

    def _advance(
        self, held: Held, pool: Examples, seed: jax.Array, start: jax.Array, *, steps: int
    ) -> tuple[Held, jax.Array]:
        recipe = self.recipe
        rows = pool.outputs.shape[0]

        def step(held: Held, number: jax.Array) -> tuple[Held, jax.Array]:
            parameters, memory = held
            key = jax.random.fold_in(jax.random.key(seed), number)
            which, keys = jax.random.split(key)
            chosen = jax.random.randint(which, (recipe.batch,), 0, rows)
            batch = jax.tree.map(lambda array: array[chosen], pool)
            share = jnp.maximum(0.0, 1.0 - number / max(recipe.held * recipe.steps, 1.0))
            value, gradients = jax.value_and_grad(self._loss)(parameters, batch, keys, share)
            changes, memory = self.optimiser.update(gradients, memory, parameters)
            return (optax.apply_updates(parameters, changes), memory), value

        held, losses = lax.scan(step, held, start + jnp.arange(steps))
        return held, losses.mean()

    def _loss(
        self, parameters: Parameters, batch: Examples, key: jax.Array, share: jax.Array
    ) -> jax.Array:
        recipe = self.recipe
        if recipe.natural:
            outputs, _ = self._outcome(parameters, batch, None)
            return self._distance(outputs, batch.outputs).mean()
        first, second = jax.random.split(key)
        hooks = jnp.asarray(batch.hooks)
        layers = jax.random.bernoulli(first, share, hooks.shape[:3])[..., None]
        noise = recipe.noise * self.spread * jax.random.normal(second, hooks.shape)
        set_here = batch.units[:, None] & batch.tokens[:, :, None, None]
        held = jnp.where(set_here, hooks, hooks + noise)
        layers = layers & ~self.free
        outputs, made = self._outcome(parameters, batch, (held, set_here | layers))
        off = optax.huber_loss((made - hooks) / self.spread)
        code = jnp.where(set_here, 0.0, off * self.weights).mean()
        missed = self._distance(outputs, batch.outputs).mean()
        return recipe.interchange * missed + recipe.code * code

    def _distance(self, outputs: jax.Array, expected: Array) -> jax.Array:
        """Squared errors in units of what is allowed, large ones by their size."""
        return optax.huber_loss(outputs / self.scale, expected / self.scale)

    def _passed(self, parameters: Parameters, others: Examples) -> jax.Array:
        """The share of examples whose outputs are right at every token."""
        set_here = others.units[:, None] & others.tokens[:, :, None, None]
        outputs, _ = self._outcome(parameters, others, (others.hooks, set_here))
        return (jnp.abs(outputs - others.outputs) < self.scale).all(axis=(1, 2)).mean()

    def _outcome(
        self,
        parameters: Parameters,
        batch: Examples,
        given: tuple[Array | jax.Array, Array | jax.Array] | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Outputs (rows, time, outputs) and hooks (rows, time, layers, width) of a batch."""
        rows = batch.outputs.shape[0]
        state = jax.tree.map(jnp.asarray, self.wiring.model.module.init_state((rows,)))
        inputs = tuple(jnp.moveaxis(array, 1, 0) for array in batch.inputs)
        timed = (jnp.moveaxis(array, 0, 2) for array in given or ())
        prepared = Prepared(parameters, state, inputs, self.wiring.memory)
        outputs, seen = self.wiring.traced(prepared, (), None, *timed, hooks=given is not None)
        width = self.wiring.width
        wide = [jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[-1]))) for x in seen]
        made = jnp.moveaxis(jnp.stack(wide, axis=2), 1, 0) if wide else jnp.zeros(())
        return jnp.moveaxis(outputs, 0, 1), made


def _weights(circuit: Circuit, stream: bool) -> tuple[Array, Array, Array]:
    """By layer and unit: the weight of its distance from the code, and half a step of the code.

    And which ones are never set as a whole layer is: those of a scan, which is not set but changed.
    """
    shape = len(circuit.units), max(circuit.units)
    weights, spread = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    free = np.zeros(shape, bool)
    for channel in circuit.channels:
        signal, units = circuit.by_name[channel.signal], list(channel.units)
        step = signal.step[channel.element]
        half = np.abs(channel.directions[0]) * step / 2 if 0 < step < np.inf else 0.0
        spread[channel.layer, units] = np.clip(half, AMPLITUDE / 16, AMPLITUDE / 2)
        weights[channel.layer, units] = 1
        free[channel.layer, units] = stream and bool(channel.memory)
    return weights / weights.mean(), spread, free


def _check(model: Model) -> None:
    if not model.module.untrained_entries or model.dtype != "float32":
        raise InputError(
            f"trained: expected a float32 model of {' or '.join(TRAINABLE)}, got {model.dtype} on "
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


# ---------------------------------------------------------------- weights and files


def _keep(path: str | os.PathLike[str], title: str, progress: Progress, held: Held) -> None:
    """Whole or not at all."""
    leaves = {f"{k:05}": np.asarray(x) for k, x in enumerate(jax.tree.leaves(held))}
    header = json.dumps({"format": FORMAT, "training": title, "progress": progress})
    replace_file(path, to_safetensors(leaves, {"lsrl": header}))


def _resumed(path: str | os.PathLike[str] | None, title: str, held: Held) -> tuple[Progress, Held]:
    """How far a checkpoint is, and what it holds; from the start if there is none."""
    if path is None or not Path(path).exists():
        return Progress(0, float("inf"), 0.0), held
    try:
        metadata, arrays = storage.read_arrays(path)
        header = _HEADER(schema.parse(metadata.get("lsrl", "")))
        if header["training"] != title:
            raise FormatError(
                f"{path}: a checkpoint of another training: expected {title}, got "
                f"{header['training']}; name another file"
            )
        leaves, known = [arrays[name] for name in sorted(arrays)], jax.tree.leaves(held)
        kinds, wanted = ([(x.shape, f"{x.dtype}") for x in each] for each in (leaves, known))
        if kinds != wanted:
            raise FieldError(f"{len(wanted)} arrays, as they are", arguments.shown(kinds), "arrays")
        restored = jax.tree.unflatten(jax.tree.structure(held), [jnp.asarray(x) for x in leaves])
        return cast(Progress, header["progress"]), restored
    except FieldError as error:
        raise FormatError(f"{path}: expected a checkpoint of a training: {error}") from error


def _progress(value: object) -> Progress:
    step, loss, passed = schema.paired(schema.integer(0), schema.number(), schema.number(0.0, 1.0))(
        value
    )
    return Progress(step, loss, passed)  # type: ignore[arg-type]


_HEADER: Reader[dict[str, object]] = schema.record(
    {"format": schema.one_of(FORMAT), "training": schema.text, "progress": _progress}
)
