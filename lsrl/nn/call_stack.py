"""Routines that call one another and go on where they were, by a stack in registers."""

from collections.abc import Sequence
from typing import cast, final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

import lsrl
from lsrl import arguments
from lsrl.errors import InputError
from lsrl.induction.machines import mealy
from lsrl.ir.types import Token
from lsrl.language.program import Program
from lsrl.language.signal import Signal
from lsrl.model import Model
from lsrl.nn import modes
from lsrl.nn.frozen import held, parameters_of
from lsrl.nn.library import routines_of
from lsrl.nn.tables import MooreTable

# Where the stack is, what each level holds (batch, level, states), and what the register below has.
Stacked = tuple[jax.Array, jax.Array, jax.Array]


@final
class CallStack(nnx.Module):
    """Routines that call one another, as one certified network with a stack in its registers.

    A token is one of

    - a value, from 0 to `values` - 1: the routine on top reads it;
    - a call, `calls[name]`: the routine on top waits where it is, and another begins;
    - `returns`: the routine on top ends, and the one that waits below reads what it said last;
    - `skip`: nothing happens.

    Below all calls is a register that holds the value that it read last, so that what the outermost
    call gave stays there. A level of the stack holds a routine and where it is to go on: the state
    of their joint machine. To train with, `expected` holds distributions, of how high the stack is
    and of each level by itself. That is the expected output, were tokens drawn independently, where
    it is known which tokens call and return; elsewhere as if the height and the levels were drawn
    independently.

    Attributes:
      names: of the routines.
      tables: of the routines.
      values: symbols that they read, and give.
      depth: calls that may be open at once. One more, where tokens are known, is refused; among
        distributions the topmost routine then gives way to it. A return without a call is skipped.
      calls: by the routine's name the symbol that calls it.
      returns: the symbol at which a call returns.
      skip: the symbol at which nothing happens, the last.
      symbols: of all tokens.
      model: the compiled program.
      weights: the network's, by name, as `FrozenParam`s.

    Example:
      stack = lsrl.nn.CallStack([greatest, total], depth=2)
      call_greatest, call_total = stack.calls.values()
    """

    def __init__(
        self, programs: Sequence[Program | MooreTable], depth: int = 8, target: str = "gru"
    ) -> None:
        """Compile routines with a stack.

        Args:
          programs: of one token input with as many symbols each, which give such tokens.
          depth: calls that may be open at once.
          target: one of `lsrl.targets()` that holds finite machines: "gru", "lstm", "rnn" or
            "rnn_tanh".

        Raises:
          InputError: no routines, or such as read different vocabularies or give what they can't
            read, or two of one name.
          NoMachineError: no machine of 64 states equals a routine.
          LsrlError: the program does not compile; see `lsrl.compile`.
        """
        self.names, self.tables = routines_of("CallStack", programs)
        self.depth = arguments.count("CallStack: depth", depth)
        self.values = self.tables[0].symbols
        for name, table in zip(self.names, self.tables, strict=True):
            if int(table.ids.max()) >= self.values:
                raise InputError(
                    f"CallStack: expected routines that give what others read, values from 0 to "
                    f"{self.values - 1}, got {int(table.ids.max())} of {name}; give the vocabulary "
                    "more symbols, or take the output modulo it"
                )
        self.calls = {name: self.values + number for number, name in enumerate(self.names)}
        if len(self.calls) < len(self.names):
            raise InputError(
                f"CallStack: expected routines of different names, got {', '.join(self.names)}"
            )
        self.returns = self.values + len(self.names)
        self.skip, self.symbols = self.returns + 1, self.returns + 2
        self.model: Model = lsrl.compile(self._program(), target)
        self.weights = held(self.model.parameters, trainable=False)

    # ------------------------------------------------------------ running

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """What the routine on top says behind each token, by the certified network.

        It has the derivative of `expected`.

        Args:
          tokens: ids (batch, time), or distributions over symbols (batch, time, symbols), of which
            the likeliest are taken.

        Returns:
          (batch, time, values), one-hot.

        Raises:
          InputError: other shapes, or more calls open at once than the stack holds.
        """
        p = self._taken(tokens)
        self._check_depth(p)
        weights = {name: variable[...] for name, variable in self.weights.items()}
        return modes.sloped(self._exact, self.expected)(weights, p)

    def _exact(self, weights: modes.Weights, p: jax.Array) -> jax.Array:
        ids = jnp.argmax(p, axis=-1).astype(jnp.int32)
        parameters = parameters_of(self.model.parameters, weights)
        said = modes.ids_of(cast(jax.Array, self.model.apply(parameters, ids)), self.values)
        return jax.nn.one_hot(said, self.values, dtype=p.dtype)

    def expected(self, tokens: jax.Array) -> jax.Array:
        """The expected output, were each token drawn from its distribution: to train with.

        Args:
          tokens: as in a call.

        Returns:
          (batch, time, values), distributions.

        Raises:
          InputError: other shapes.
        """
        p = self._taken(tokens)
        frame = self._frame()
        states = frame.states
        moves = jnp.asarray(modes.one_hot(frame.follows.T, states).reshape(-1, states), p.dtype)
        said = jnp.asarray(modes.one_hot(frame.ids, self.values), p.dtype)
        start = jax.nn.one_hot(frame.initial, states, dtype=p.dtype)

        @jax.checkpoint
        def token(stack: Stacked, now: jax.Array) -> tuple[Stacked, jax.Array]:
            height, levels, below = stack
            value, call = now[:, : self.values], now[:, self.values : self.returns]
            returns, nothing = now[:, self.returns], now[:, self.skip]
            given = jnp.matmul(levels, said, precision="highest")
            # What each level from 0 on reads: a value of its own, or one that the next one returns.
            returned = height[:, 1:, None] * returns[:, None, None] * given
            reads = height[..., None] * value[:, None]
            reads = reads.at[:, :-1].add(returned)
            begins = height[:, :-1].at[:, -1].add(height[:, -1])[..., None] * call[:, None]
            letters = jnp.concatenate([reads[:, 1:], begins], axis=-1)
            stays = 1 - letters.sum(-1, keepdims=True)
            letters = jnp.concatenate([letters, stays], axis=-1)
            pairs = (letters[..., None] * levels[:, :, None]).reshape(*levels.shape[:2], -1)
            levels = jnp.matmul(pairs, moves, precision="highest")
            below = reads[:, 0] + (1 - reads[:, 0].sum(-1, keepdims=True)) * below
            height = self._moved(height, call.sum(-1), returns, value.sum(-1) + nothing)
            top = jnp.matmul(levels, said, precision="highest")
            found = jnp.concatenate([below[:, None], top], axis=1)
            return (height, levels, below), (height[..., None] * found).sum(1)

        batch = p.shape[0]
        first = (
            jnp.zeros((batch, self.depth + 1), p.dtype).at[:, 0].set(1),
            jnp.broadcast_to(start, (batch, self.depth, states)),
            jnp.zeros((batch, self.values), p.dtype).at[:, 0].set(1),
        )
        _, found = lax.scan(token, first, jnp.moveaxis(p, 1, 0))
        return jnp.moveaxis(found, 0, 1)

    def _moved(
        self, height: jax.Array, up: jax.Array, down: jax.Array, stays: jax.Array
    ) -> jax.Array:
        """(batch, depth + 1), how high the stack is behind a token; it stays within its ends."""
        rises, falls = height * up[:, None], height * down[:, None]
        found = height * stays[:, None]
        found = found.at[:, 1:].add(rises[:, :-1]).at[:, -1].add(rises[:, -1])
        return found.at[:, :-1].add(falls[:, 1:]).at[:, 0].add(falls[:, 0])

    def _taken(self, tokens: jax.Array) -> jax.Array:
        p = jnp.asarray(tokens)
        if jnp.issubdtype(p.dtype, jnp.integer):
            if p.size and not isinstance(p, jax.core.Tracer):
                low, high = int(p.min()), int(p.max())
                if low < 0 or high >= self.symbols:
                    raise InputError(
                        f"CallStack: expected tokens from 0 to {self.symbols - 1}, got some from "
                        f"{low} to {high}"
                    )
            p = jax.nn.one_hot(p, self.symbols)
        if p.ndim != 3 or p.shape[-1] != self.symbols:
            raise InputError(
                f"CallStack: expected ids (batch, time) or distributions (batch, time, "
                f"{self.symbols}) over {self.values} values, calls of {', '.join(self.names)}, a "
                f"return and a skip, got {p.dtype} of shape {p.shape}"
            )
        return p

    def _check_depth(self, p: jax.Array) -> None:
        """Refuse more calls than fit, where tokens are known."""
        if isinstance(p, jax.core.Tracer):
            return
        ids = np.asarray(p).argmax(-1)
        height = np.zeros(len(ids), int)
        for token, now in enumerate(ids.T):
            height += (now >= self.values) & (now < self.returns)
            height = np.where(now == self.returns, np.maximum(height - 1, 0), height)
            if (height > self.depth).any():
                raise InputError(
                    f"CallStack: expected at most {self.depth} calls open at once, got one more at "
                    f"token {token} of sequence {int(height.argmax())}; make it with depth="
                    f"{self.depth + 1} or more"
                )

    # ------------------------------------------------------------ as a machine and a program

    def _frame(self) -> MooreTable:
        """What a level of the stack does: a value, a call of each routine, or nothing."""
        states = sum(table.states for table in self.tables)
        letters = self.returns + 1
        follows = np.tile(np.arange(states, dtype=np.int32)[:, None], (1, letters))
        first = 0
        for call, table in zip(self.calls.values(), self.tables, strict=True):
            follows[first : first + table.states, : self.values] = first + table.follows
            follows[:, call] = first + table.initial
            first += table.states
        outputs = np.concatenate([table.outputs for table in self.tables])
        return MooreTable(follows, outputs)

    def _program(self) -> Program:
        """A machine for the height of the stack, one for each level, and the register below."""
        frame, height = self._frame(), np.arange(self.depth + 1)
        follows, said = frame.follows.tolist(), frame.ids[frame.follows]
        token_of = np.arange(self.symbols)
        calls = (token_of >= self.values) & (token_of < self.returns)
        rises = calls.astype(int) - (token_of == self.returns)
        after = np.clip(height[:, None] + rises, 0, self.depth)
        # By height and token: what a level reads of the token, whether it is returned to, and
        # whether it is on top behind it.
        told = np.zeros((self.depth + 1, self.symbols, self.depth + 1, 3), int)
        for level in height:
            own = height[:, None] == level
            begins = np.minimum(height + 1, self.depth)[:, None] == level
            reads = np.where(
                own & (token_of < self.values) | begins & calls, token_of, self.returns
            )
            told[:, :, level, 0] = reads
            told[:, :, level, 1] = (height[:, None] == level + 1) & (token_of == self.returns)
            told[:, :, level, 2] = after == level
        lasts = np.tile(np.arange(self.values)[:, None], (1, self.returns + 1))
        lasts[:, : self.values] = np.arange(self.values)
        registers = [(lasts.tolist(), lasts), *[(follows, said)] * self.depth]

        def call_stack(token: Signal) -> Signal:
            every = mealy(token, follows=after.tolist(), answers=told.reshape(*after.shape, -1))
            above, total = None, None
            for level in reversed(range(self.depth + 1)):
                letter, returned, on_top = (every[3 * level + part] for part in range(3))
                if above is not None:  # which stays as it is where it returns
                    letter = lsrl.select(returned, above, letter)
                moves, answers = registers[level]
                above = mealy(letter, follows=moves, answers=answers)
                top = lsrl.select(on_top, above, 0)
                total = top if total is None else total + top
            return lsrl.bound(cast(Signal, total), 0, self.values - 1)

        call_stack.__annotations__ = {"token": Token(self.symbols), "return": Token(self.values)}
        return lsrl.program(call_stack)
