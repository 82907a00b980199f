"""A compiled step, applied to its own output until something halts it."""

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast, final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lsrl import arguments
from lsrl.compiler import compile
from lsrl.errors import InputError
from lsrl.language.program import Program
from lsrl.model import Model
from lsrl.nn import modes
from lsrl.nn.frozen import FrozenParam, held, parameters_of
from lsrl.nn.halting import SHARPNESS, UNDECIDED, Halting, by_counter
from lsrl.nn.steps import (
    TOKENS,
    content_of,
    distributions,
    joint_moves,
    marginals,
    outer,
    program_of,
    sizes_of,
)
from lsrl.nn.tables import MooreTable, routine_table

State: TypeAlias = jax.Array | Mapping[str, jax.Array]
# Distributions by register: (batch, size), or (batch, time, symbols) of a sequence.
Held: TypeAlias = dict[str, jax.Array]
# What goes on, what halted, and how many steps were taken.
Going: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]


@final
class Recur(nnx.Module):
    """A step that is applied to its own output, as often as it takes.

    A step of several token inputs has a register for each, and gives what each holds next; one of
    one input reads a whole sequence of tokens, and gives the next sequence. The exact network is
    applied until it halts. To train with, `expected` maps distributions: of registers the joint
    one, so it is the expected output, were their first contents drawn independently; of sequences
    every token's own, as if tokens were drawn anew ahead of every step.

    Attributes:
      sizes: symbols of each register, by name; those of a sequence are called "tokens".
      halting: what ends it.
      most: steps at most.
      model: the compiled step.
      weights: the network's, by name, as `FrozenParam`s.
      unit: of the halting: (symbols,) logits, an `nnx.Param`, of a learnt one; chances of 0 or 1, a
        `FrozenParam`, of a compiled one.

    Example:
      fibonacci = lsrl.nn.Recur(step, most=20)  # the tenth number is 55
      state = {"a": np.array([0]), "b": np.array([1])}
    """

    def __init__(
        self,
        step: Program | MooreTable,
        halting: Halting | None = None,
        most: int = 512,
        target: str = "gru",
    ) -> None:
        """Compile a step.

        Args:
          step: a program of token inputs with an output for each, or a machine of symbols.
          halting: by default the counter, compared with its argument.
          most: steps that are taken at most.
          target: one of `lsrl.targets()`.

        Raises:
          InputError: the step does not give what it reads, has too many states, or halts by what
            it has not.
          NoMachineError: a step over sequences that no machine of 64 states equals.
          LsrlError: the step does not compile; see `lsrl.compile`.
        """
        self.halting = Halting() if halting is None else halting
        arguments.instance("Recur: halting", self.halting, Halting, "lsrl.nn.Halting", InputError)
        self.most = arguments.count("Recur: most", most)
        self.table = step if isinstance(step, MooreTable) else None
        program = program_of(step) if isinstance(step, MooreTable) else step
        arguments.instance("Recur", program, Program, "lsrl.program or a MooreTable", InputError)
        self.sizes = sizes_of(program)
        self.over_sequences = len(self.sizes) == 1
        if self.over_sequences and not self.halting.counts:
            raise InputError(
                "Recur: a step over sequences has no registers and halts by the counter; give "
                "Halting no register"
            )
        symbols = self.halting.symbols(self.sizes)
        if self.over_sequences and self.table is None:
            self.table = routine_table(program)
        self.model: Model = compile(program, target)
        self.weights = held(self.model.parameters, trainable=False)
        learnt = self.halting.kind == "ponder"
        chances = np.full(symbols, UNDECIDED) if learnt else self.halting.compiled(symbols)
        kind = nnx.Param if learnt else FrozenParam
        self.unit: nnx.Variable[jax.Array] = kind(jnp.asarray(chances, jnp.float32))
        self.joint = FrozenParam(jnp.zeros(0, jnp.int32))
        if not self.over_sequences:
            self.joint = FrozenParam(jnp.asarray(joint_moves(program, self.sizes)))

    # ------------------------------------------------------------ running

    def __call__(self, state: State, steps: jax.Array | None = None) -> State:
        """What the compiled network holds where it halts, with the derivative of `expected`.

        Args:
          state: by register ids (batch,) or distributions (batch, size); of a step over sequences
            ids (batch, time) or distributions (batch, time, symbols).
          steps: the counter's argument, ids (batch,) or distributions (batch, most + 1); None where
            a register halts.

        Returns:
          One-hot, in the shape of the distributions that went in.

        Raises:
          InputError: other shapes or names, or steps where none are counted, or the reverse.
        """
        given, counts = self._taken(state, steps)
        run = modes.sloped(
            lambda *every: self._run(*every)[0],
            lambda unit, given, counts: self._expected(unit, given, counts, self.most)[0],
        )
        return self._given_back(run(self._weights(), self.unit[...], given, counts))

    def expected(
        self, state: State, steps: jax.Array | None = None, most: int | None = None
    ) -> State:
        """The mixture of the outputs of all depths: to train with.

        Args:
          state: as in a call.
          steps: likewise.
          most: steps that are tried, by default those of the layer; what has not halted then halts.

        Returns:
          Distributions, as in a call.

        Raises:
          InputError: as in a call.
        """
        deep = self.most if most is None else arguments.count("expected: most", most, 1, self.most)
        given, counts = self._taken(state, steps)
        return self._given_back(self._expected(self.unit[...], given, counts, deep)[0])

    def expected_depth(
        self, state: State, steps: jax.Array | None = None, most: int | None = None
    ) -> jax.Array:
        """How many steps `expected` takes in the mean, (batch,): what a loss may charge for.

        Args:
          state: as in a call.
          steps: likewise.
          most: as in `expected`.

        Raises:
          InputError: as in a call.
        """
        deep = self.most if most is None else arguments.count("expected: most", most, 1, self.most)
        given, counts = self._taken(state, steps)
        return self._expected(self.unit[...], given, counts, deep)[1]

    def depth(self, state: State, steps: jax.Array | None = None) -> jax.Array:
        """How many steps the compiled network takes, (batch,) int32.

        Args:
          state: as in a call.
          steps: likewise.

        Raises:
          InputError: as in a call.
        """
        given, counts = self._taken(state, steps)
        return self._run(self._weights(), self.unit[...], given, counts)[1]

    def _weights(self) -> dict[str, jax.Array]:
        return {name: variable[...] for name, variable in self.weights.items()}

    def _given_back(self, found: Held) -> State:
        return found[TOKENS] if self.over_sequences else found

    # ------------------------------------------------------------ what goes in

    def _taken(self, state: State, steps: jax.Array | None) -> tuple[Held, jax.Array]:
        """Distributions by register, and over the counter's argument: (batch, 0) where none."""
        if self.over_sequences:
            if isinstance(state, Mapping):
                raise InputError(
                    "Recur: a step over sequences expects ids (batch, time) or distributions "
                    f"(batch, time, {self.sizes[TOKENS]}), got registers {', '.join(state)}"
                )
            given = {TOKENS: distributions("state", state, self.sizes[TOKENS], 2)}
        else:
            if not isinstance(state, Mapping) or set(state) != set(self.sizes):
                said = ", ".join(state) if isinstance(state, Mapping) else type(state).__name__
                raise InputError(
                    f"Recur: expected a state with {', '.join(self.sizes)} by name, got {said}"
                )
            given = {
                name: distributions(f"register {name!r}", state[name], size, 1)
                for name, size in self.sizes.items()
            }
        if (steps is not None) != self.halting.counts:
            wanted = "steps, the counter's argument" if self.halting.counts else "no steps"
            raise InputError(
                f"Recur: halting by {self.halting.register or 'the counter'} expects {wanted}"
            )
        batch = len(next(iter(given.values())))
        counts = jnp.zeros((batch, 0), jnp.float32)
        if steps is not None:
            counts = distributions("steps", steps, self.most + 1, 1)
        sizes = {len(each) for each in (*given.values(), counts)}
        if len(sizes) > 1:
            raise InputError(f"Recur: state and steps must share their batch axis, got {sizes}")
        return given, counts

    # ------------------------------------------------------------ exact

    def _chances(self, unit: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(SHARPNESS * unit) if self.halting.kind == "ponder" else unit

    def _run(
        self, weights: dict[str, jax.Array], unit: jax.Array, given: Held, counts: jax.Array
    ) -> tuple[Held, jax.Array]:
        """One-hot contents where it halts, and the steps that it took."""
        stops = self._chances(unit) > 0.5
        first = {name: p.argmax(-1).astype(jnp.int32) for name, p in given.items()}
        argument, reach = counts.argmax(-1) if self.halting.counts else 0, self.halting.reach

        def halted(ids: Held, done: jax.Array) -> jax.Array:
            if self.halting.register is not None:
                return stops[ids[self.halting.register]]
            return stops[jnp.clip(argument - done, -reach, reach) + reach]

        def going(carry: tuple[Held, jax.Array, jax.Array]) -> jax.Array:
            _, taken, alive = carry
            return alive.any() & (taken.max() < self.most)

        def step(carry: tuple[Held, jax.Array, jax.Array]) -> tuple[Held, jax.Array, jax.Array]:
            ids, taken, alive = carry
            after = self._step(weights, ids)
            ids = {
                name: jnp.where(alive.reshape(-1, *[1] * (old.ndim - 1)), after[name], old)
                for name, old in ids.items()
            }
            taken = taken + alive.astype(jnp.int32)
            return ids, taken, alive & ~halted(ids, taken)

        none = jnp.zeros(len(next(iter(first.values()))), jnp.int32)
        ids, taken, _ = lax.while_loop(going, step, (first, none, ~halted(first, none)))
        return {
            name: jax.nn.one_hot(each, self.sizes[name], dtype=given[name].dtype)
            for name, each in ids.items()
        }, taken

    def _step(self, weights: dict[str, jax.Array], ids: Held) -> Held:
        """The next ids, by the network."""
        parameters = parameters_of(self.model.parameters, weights)
        if self.over_sequences:
            values = cast(jax.Array, self.model.apply(parameters, ids[TOKENS]))
            return {TOKENS: modes.ids_of(values, self.sizes[TOKENS])}
        tokens = tuple(ids[name][:, None] for name in self.sizes)
        values = cast(jax.Array, self.model.apply(parameters, tokens))[:, 0]
        return {
            name: modes.ids_of(values[:, place : place + 1], size)
            for place, (name, size) in enumerate(self.sizes.items())
        }

    # ------------------------------------------------------------ expected

    def _expected(
        self, unit: jax.Array, given: Held, counts: jax.Array, most: int
    ) -> tuple[Held, jax.Array]:
        """Mixtures of all depths, and the mean depth."""
        chances = self._chances(unit)
        if self.halting.counts:
            shares = self._shares(chances, counts, most)
            depth = jnp.matmul(shares, jnp.arange(most + 1, dtype=shares.dtype))
            return self._mixture(given, shares), depth
        stops = chances[content_of(self.sizes, cast(str, self.halting.register))][None]

        def step(carry: Going, _: None) -> tuple[Going, None]:
            alive, found, depth = carry
            going = alive * (1 - stops)
            return (self._moved(going), found + alive * stops, depth + going.sum(1)), None

        first = outer([given[name] for name in self.sizes])
        begun = (first, jnp.zeros_like(first), jnp.zeros_like(first[:, 0]))
        (alive, found, depth), _ = lax.scan(step, begun, None, length=most)
        return marginals(alive + found, self.sizes), depth

    def _shares(self, chances: jax.Array, counts: jax.Array, most: int) -> jax.Array:
        """(batch, most + 1): the chance to halt after so many steps."""
        if self.halting.kind == "compiled":
            return counts[:, : most + 1].at[:, most].add(counts[:, most + 1 :].sum(1))
        return jnp.matmul(counts, by_counter(chances, self.most, most), precision="highest")

    def _mixture(self, given: Held, shares: jax.Array) -> Held:
        if not self.over_sequences:
            first = outer([given[name] for name in self.sizes])
            return marginals(_mixed(self._moved, first, shares), self.sizes)
        table = cast(MooreTable, self.table)
        move = modes.automaton(table, modes.one_hot(table.ids, self.sizes[TOKENS]))
        return {TOKENS: _mixed(lambda p: move(p, 1.0), given[TOKENS], shares)}

    def _moved(self, p: jax.Array) -> jax.Array:
        """The joint distribution of all registers after a step."""
        return jnp.zeros_like(p).at[:, self.joint[...]].add(p)


def _mixed(
    step: Callable[[jax.Array], jax.Array], first: jax.Array, shares: jax.Array
) -> jax.Array:
    """The sum of what each depth gives times its share, (batch, depths)."""

    def weighed(p: jax.Array, share: jax.Array) -> jax.Array:
        return p * share.reshape(-1, *[1] * (p.ndim - 1))

    def one(
        carry: tuple[jax.Array, jax.Array], share: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        p, found = carry
        p = step(p)
        return (p, found + weighed(p, share)), None

    begun = (first, weighed(first, shares[:, 0]))
    return lax.scan(one, begun, jnp.moveaxis(shares[:, 1:], 1, 0))[0][1]
