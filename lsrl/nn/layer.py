"""A compiled program as a layer: exact forward, and backward what helps to learn."""

from typing import Literal, cast, final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lsrl import arguments, requests
from lsrl.compiler import compile
from lsrl.errors import InputError, NoMachineError
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.model import Model
from lsrl.nn import modes
from lsrl.nn.frozen import held, parameters_of
from lsrl.nn.modes import MODES, Mode, Surrogate
from lsrl.nn.report import GradientReport, Swaps, measured
from lsrl.nn.tables import MooreTable, routine_table

Backward = Literal["auto", "automaton", "local", "relaxed", "straight_through", "raw"]
# Of soft comparisons: at 4 they are soft over a few steps of the grid.
TEMPERATURE = 4.0


@final
class CompiledLayer(nnx.Module):
    """A routine inside a network that learns: a program's certified network.

    On ids it is the network. On distributions over tokens it is the network on the likeliest token
    of each, and its derivative is that of a *backward* mode, all of which docs/library.md compares:

    - "automaton": the expected output of the finite machine that equals the program.
    - "local": the program with the expected value of each comparison of a few bits.
    - "relaxed": the program with soft comparisons.
    - "straight_through": the program, with the derivatives of soft comparisons.
    - "raw": the compiled weights on the mixture of the tokens' embeddings.
    - "auto": the automaton where there is one, as nothing is more exact; else what
      `gradient_report` finds to agree best with the true effects of swaps.

    Attributes:
      model: the compiled program, with its certificate.
      backward: the mode.
      temperature: of soft comparisons; a variable, to be lowered while one trains.
      symbols: of the input.
      features: of the output for distributions: the symbols of a program that gives a token, else
        its outputs.
      weights: the network's, by name: `FrozenParam`s, or `nnx.Param`s of a trainable layer.

    Example:
      layer = lsrl.nn.CompiledLayer(lsrl.programs.modular_sum(3, 64), "linear_rnn")
      print(layer(np.array([[1, 2, 2, 0]]))[..., 0].tolist())
    """

    def __init__(
        self,
        program: Program,
        target: str = "gru",
        backward: Backward = "auto",
        trainable: bool = False,
        *,
        temperature: float = TEMPERATURE,
    ) -> None:
        """Compile a program.

        Args:
          program: of one token input.
          target: one of `lsrl.targets()`.
          backward: the mode.
          trainable: whether the weights are `nnx.Param`s, which an optimiser changes. What is
            proven is proven of the weights as compiled.
          temperature: of soft comparisons.

        Raises:
          InputError: the program has other inputs, or an argument makes no sense.
          NoMachineError: backward="automaton", and no machine of 64 states equals the program.
          LsrlError: the program does not compile; see `lsrl.compile`.
        """
        arguments.instance("CompiledLayer", program, Program, "lsrl.program", InputError)
        kinds = list(program.inputs.values())
        if len(kinds) != 1 or not isinstance(kinds[0], Token):
            raise InputError(f"CompiledLayer: expected one input lsrl.Token(n), got {program!r}")
        arguments.choice("CompiledLayer: backward", backward, ("auto", *MODES))
        arguments.flag("CompiledLayer: trainable", trainable)
        arguments.real("CompiledLayer: temperature", temperature, above=True)
        self.model: Model = compile(program, target)
        self.symbols = kinds[0].size
        self.features = program.num_outputs
        if program.output_type is not None:
            self.features = program.output_type.size
        self.weights = held(self.model.parameters, trainable)
        self.trainable = trainable
        self.temperature = nnx.Variable(jnp.float32(temperature))
        self.table = self._found(backward)
        self.backward = cast(Mode, backward)
        if backward == "auto":
            self.backward = "automaton" if self.table is not None else self._best()

    def _found(self, backward: Backward) -> MooreTable | None:
        if backward not in ("auto", "automaton"):
            return None
        try:
            return routine_table(self.model.program)
        except (NoMachineError, InputError):
            if backward == "automaton":
                raise
            return None

    def _best(self) -> Mode:
        return max(self.gradient_report().rows, key=lambda row: row.correlation).mode

    # ------------------------------------------------------------ running

    @property
    def gives_symbols(self) -> bool:
        """Whether the output for distributions is one over symbols."""
        return self.model.program.output_type is not None

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Run the routine.

        Args:
          tokens: ids (batch, time), or distributions over tokens (batch, time, symbols).

        Returns:
          Of ids what `model.run` gives, (batch, time, outputs). Of distributions that of the
          likeliest tokens: one-hot (batch, time, features) where the program gives a token, else
          its outputs, with the derivative of `expected`.

        Raises:
          InputError: other symbols, or what is no distribution.
        """
        given, batched = self._taken(tokens)
        if not jnp.issubdtype(given.dtype, jnp.floating):
            return self._values(self._weights(), tokens)
        found = _run(self, self._weights(), given, self.temperature[...])
        return found if batched else found[0]

    def _taken(self, tokens: jax.Array) -> tuple[jax.Array, bool]:
        """Ids or distributions with a batch axis, and whether they had one."""
        (given,), batched = requests.traceable(
            "CompiledLayer", self.model.program, tokens, np.dtype(np.float32)
        )
        return jnp.asarray(given), batched

    def expected(self, p: jax.Array) -> jax.Array:
        """What the backward mode makes of distributions: soft outputs, to train with.

        At known tokens it is the output itself, and between them it has no jumps. Where a program
        gives a token, "automaton" gives the distribution of it, and the other modes the number that
        they expect, as its shares of the two symbols beside it.

        Args:
          p: (batch, time, symbols), or ids.

        Returns:
          (batch, time, features).

        Raises:
          InputError: other symbols, or what is no distribution.
        """
        given, batched = self._taken(p)
        if not jnp.issubdtype(given.dtype, jnp.floating):
            given = jax.nn.one_hot(given, self.symbols, dtype=jnp.float32)
        surrogate = self._surrogate(self.backward, self._weights())
        values = surrogate(given, self.temperature[...])
        if self.gives_symbols and values.shape[-1] != self.features:
            values = modes.interpolated(values, self.features)
        return values if batched else values[0]

    def _weights(self) -> dict[str, jax.Array]:
        return {name: variable[...] for name, variable in self.weights.items()}

    def _values(self, weights: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
        """What the network gives with some weights, on ids or mixtures."""
        parameters = parameters_of(self.model.parameters, weights)
        return cast(jax.Array, self.model.apply(parameters, tokens))

    def _hard(self, weights: dict[str, jax.Array], p: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Outputs of the likeliest tokens, as features and as the symbols that they are."""
        with jax.named_scope(self.model.program.name):
            ids = jnp.argmax(p, axis=-1).astype(jnp.int32)
            values = self._values(weights, ids)
        if not self.gives_symbols:
            return values, jnp.zeros(values.shape[:2], jnp.int32)
        symbols = modes.ids_of(values, self.features)
        return jax.nn.one_hot(symbols, self.features, dtype=p.dtype), symbols

    def _surrogate(self, mode: Mode, weights: dict[str, jax.Array]) -> Surrogate:
        graph = self.model.program.graph
        if mode == "automaton":
            table = self.table
            if table is None:
                table = routine_table(self.model.program)
            outputs = table.outputs
            if self.gives_symbols:
                outputs = modes.one_hot(table.ids, self.features)
            return modes.automaton(table, outputs)
        if mode == "raw":
            return lambda p, temperature: self._values(weights, p)
        made = {
            "local": modes.local, "relaxed": modes.relaxed,
            "straight_through": modes.straight_through,
        }  # fmt: skip
        return made[mode](graph)

    # ------------------------------------------------------------ measuring

    def gradient_report(
        self, sequences: int = 6, length: int = 12, seed: int = 0
    ) -> GradientReport:
        """How well each mode tells the effect of every swap of one token.

        Args:
          sequences: random words.
          length: of each; at most the program's max_length.
          seed: of the words.

        Returns:
          Correlation and error of each mode that the program has, against the reference evaluator.

        Raises:
          InputError: the program keeps its promises on some words only.
        """
        limit = self.model.program.max_length
        length = length if limit is None else min(length, limit)
        swaps = Swaps.of(self.model.program, self.features, sequences, length, seed)
        if self.table is None:
            self.table = self._found("auto")
        rows = []
        for mode in MODES:
            if mode == "automaton" and self.table is None:
                continue
            surrogate = self._surrogate(mode, self._weights())
            rows.append(measured(mode, swaps, surrogate, self.temperature[...]))
        return GradientReport(self.model.program.name, tuple(rows))


def _run(
    layer: CompiledLayer, weights: dict[str, jax.Array], p: jax.Array, temperature: jax.Array
) -> jax.Array:
    """The exact outputs of the likeliest tokens, with the derivative of the layer's mode."""

    @jax.custom_vjp
    def run(weights: dict[str, jax.Array], p: jax.Array, temperature: jax.Array) -> jax.Array:
        return layer._hard(weights, p)[0]

    def forward(
        weights: dict[str, jax.Array], p: jax.Array, temperature: jax.Array
    ) -> tuple[jax.Array, tuple[object, ...]]:
        found, symbols = layer._hard(weights, p)
        return found, (weights, p, temperature, symbols)

    def backward(kept: tuple[object, ...], cotangent: jax.Array) -> tuple[object, ...]:
        weights, p, temperature, symbols = cast(
            "tuple[dict[str, jax.Array], jax.Array, jax.Array, jax.Array]", kept
        )

        def soft(p: jax.Array) -> jax.Array:
            values = layer._surrogate(layer.backward, weights)(p, temperature)
            if layer.gives_symbols and values.shape[-1] != layer.features:
                return modes.as_symbols(values, symbols, layer.features)
            return values

        own = jax.tree.map(jnp.zeros_like, weights)
        if layer.trainable:

            def mixed(weights: dict[str, jax.Array]) -> jax.Array:
                values = layer._values(weights, p)
                if layer.gives_symbols:
                    return modes.as_symbols(values, symbols, layer.features)
                return values

            (own,) = jax.vjp(mixed, weights)[1](cotangent)
        (tokens,) = jax.vjp(soft, p)[1](cotangent)
        return own, tokens, jnp.zeros_like(temperature)

    run.defvjp(forward, backward)
    return run(weights, p, temperature)
