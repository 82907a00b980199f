"""Hosts: small networks that learn, with a library or a layer between their blocks."""

from collections.abc import Mapping
from typing import Literal, final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lsrl import arguments as checks
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.nn.blocks import HEAD, GRUBlock, LlamaBlock, MambaBlock
from lsrl.nn.calls import Call, Calls
from lsrl.nn.frozen import FrozenParam
from lsrl.nn.layer import CompiledLayer
from lsrl.nn.library import Library
from lsrl.nn.registers import Registers

KINDS = {"llama": LlamaBlock, "mamba": MambaBlock, "gru": GRUBlock}
# How sharply a learnt map of tokens to symbols is read.
SHARPNESS = 4.0
# How far a call is trusted at first, as a logit. Above 0 its answer cannot be outvoted.
TRUST = 2.0
# The least share that counts, so that logarithms stay finite.
LEAST = 1e-6


@final
class Host(nnx.Module):
    """Two blocks, and what is compiled between them.

    Tokens are embedded, the first block reads them, what a routine said is added by a learnt map,
    the second block reads all of it, and a head makes logits at every token. Of a *library* a
    register holds the call, which the host writes, and what the call answers is the answer, with a
    share that is learnt for each call; the head makes up the rest. So a call that is trusted by
    more than half is never outvoted, however a head drifts at lengths that it never saw. Of a
    *layer* the map of tokens to its symbols is learnt, too. Compiled weights are frozen: train the
    `nnx.Param`s.

    Attributes:
      vocabulary: how many tokens there are.
      answers: how many answers a token may have.
      kind: of the blocks.
      trust: of each call, (calls, 1), the logit of the share that its answer has; where there is a
        library.

    Source: Saldyt & Kambhampati (2024), section 3, with a register in place of a call a token.

    Example:
      host = lsrl.nn.Host(6, 3, kind="gru", width=8, library=library, calls=calls, rngs=nnx.Rngs(0))
      print(host(jnp.asarray(questions)).shape, host.exact(jnp.asarray(questions)).shape)
    """

    def __init__(
        self,
        vocabulary: int,
        answers: int,
        *,
        kind: Literal["llama", "mamba", "gru"] = "llama",
        width: int = 32,
        library: Library | None = None,
        calls: Calls | None = None,
        arguments: Mapping[int, int] | None = None,
        layer: CompiledLayer | None = None,
        select: Literal["register", "token"] = "register",
        context: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        """Make a host.

        Args:
          vocabulary: how many tokens there are.
          answers: how many answers a token may have.
          kind: of the blocks: LLaMA's, Mamba's, or a GRU.
          width: of the stream between them; of LLaMA a multiple of 8.
          library: routines of which the host chooses; with `calls` or `arguments`.
          calls: what the host chooses of, as `library.bind` found them.
          arguments: in place of calls, by token the symbol that it is to every routine. All other
            tokens skip, and the host chooses of the routines.
          layer: one routine in place of a library. What tokens mean to it is learnt.
          select: "register": a choice stays until the next is written. "token": each token chooses.
          context: whether what is written comes of the first block's output, and not of the token
            alone: where several tokens together name a routine. When it is written is the token's
            alone either way.
          rngs: of flax, for the weights.

        Raises:
          InputError: an argument makes no sense, or calls are of another library.
        """
        self.vocabulary = checks.count("Host: vocabulary", vocabulary)
        self.answers = checks.count("Host: answers", answers)
        self.kind = checks.choice("Host: kind", kind, tuple(KINDS))
        checks.choice("Host: select", select, ("register", "token"))
        checks.flag("Host: context", context)
        checks.count("Host: width", width)
        if kind == "llama" and width % HEAD:
            raise InputError(f"Host: expected a width that is a multiple of {HEAD}, got {width}")
        if library is not None and layer is not None:
            raise InputError("Host: expected a library or a layer, got both; join them in one")
        if library is None and (calls is not None or arguments is not None):
            raise InputError("Host: expected the library that calls or arguments are of, got none")
        between: _Called | _Read | None = None
        if library is not None:
            chosen = _calls_of(library, calls, arguments, vocabulary)
            told = None if arguments is None else chosen.calls[0].arguments != library.skip
            between = _Called(library, chosen, told, width, select, context, rngs)
        elif layer is not None:
            between = _Read(layer, vocabulary, rngs)
        self.embedding = nnx.Embed(vocabulary, width, rngs=rngs)
        block = KINDS[kind]
        self.blocks = nnx.List([block(width, rngs), block(width, rngs)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, answers, rngs=rngs)
        self.between = between
        if between is not None:
            self.back = nnx.Linear(between.features, width, use_bias=False, rngs=rngs)
        if library is not None:
            self.trust = nnx.Param(jnp.full((len(chosen.calls), 1), TRUST))

    @property
    def calls(self) -> Calls | None:
        """What the host chooses of, where there is a library."""
        return self.between.calls if isinstance(self.between, _Called) else None

    # ------------------------------------------------------------ running

    def __call__(self, tokens: jax.Array, hardness: jax.Array | float = 0.0) -> jax.Array:
        """Logits to train with: routines give what they are expected to, and pass gradients.

        Args:
          tokens: ids (batch, time).
          hardness: by how much registers hold what they would if they were written wholly or not
            at all, in values and not in derivatives; more than 1 is 1. Raised from 0 while one
            trains, it leaves no gate half shut.

        Returns:
          (batch, time, answers).

        Raises:
          InputError: tokens of another shape.
        """
        self._check(tokens)
        found = None
        if self.between is not None:
            hardness = jnp.minimum(jnp.float32(hardness), 1.0)
            found = self.between.soft(tokens, self._states(tokens), hardness)
        return self.logits(tokens, found)

    def exact(self, tokens: jax.Array) -> jax.Array:
        """Logits, where registers are hard and routines run as their certified network.

        Args:
          tokens: ids (batch, time).

        Returns:
          (batch, time, answers).

        Raises:
          InputError: tokens of another shape.
        """
        self._check(tokens)
        found = None
        if self.between is not None:
            found = self.between.exact(tokens, self._states(tokens))
        return self.logits(tokens, found)

    def logits(self, tokens: jax.Array, found: jax.Array | None = None) -> jax.Array:
        """Logits of what was found between the blocks, (batch, time, features); None without it.

        Args:
          tokens: ids (batch, time).
          found: of a library the shares of the call's answers, and the register's content behind
            them; of a layer its output.

        Returns:
          (batch, time, answers); with a library logarithms of shares.
        """
        state = self.blocks[0](self.embedding(tokens))
        if found is None:
            return self.head(self.norm(self.blocks[1](state)))
        logits = self.head(self.norm(self.blocks[1](state + self.back(found))))
        if self.calls is None:
            return logits
        said, content = jnp.split(found, [self.calls.num_answers], axis=-1)
        said = said[..., : self.answers]
        room = ((0, 0), (0, 0), (0, self.answers - said.shape[-1]))
        held = jnp.maximum(content.sum(-1, keepdims=True), LEAST)
        said = content @ jax.nn.sigmoid(self.trust[...]) * jnp.pad(said, room) / held
        own = (1 - said.sum(-1, keepdims=True)) * jax.nn.softmax(logits)
        return jnp.log(said + own + LEAST)

    def inside(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the register holds and the library is given, hard, at each token.

        Args:
          tokens: ids (batch, time).

        Returns:
          Content (batch, time, calls), distributions over symbols (batch, time, symbols), and
          choices (batch, time, routines): what `Library.blame` asks for.

        Raises:
          InputError: a host without a library.
        """
        if not isinstance(self.between, _Called):
            raise InputError("Host.inside: expected a host with a library; this one has none")
        self._check(tokens)
        return self.between.inside(tokens, self._states(tokens))

    def writes(self, tokens: jax.Array) -> jax.Array:
        """By how much the register is written at each token, (batch, time): see `Registers.writes`.

        Args:
          tokens: ids (batch, time).

        Raises:
          InputError: a host without a library.
        """
        if not isinstance(self.between, _Called):
            raise InputError("Host.writes: expected a host with a library; this one has none")
        self._check(tokens)
        return self.between.registers.writes(self.embedding(tokens))["selection"][..., 0]

    def _states(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The stream ahead of the first block, and behind it."""
        embedded = self.embedding(tokens)
        return embedded, self.blocks[0](embedded)

    def _check(self, tokens: jax.Array) -> None:
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise InputError(
                f"Host: expected token ids (batch, time), got {tokens.dtype} of shape "
                f"{tokens.shape}"
            )


class _Called(nnx.Module):
    """A library behind a register that says which call it is."""

    def __init__(
        self,
        library: Library,
        calls: Calls,
        told: Array | None,
        width: int,
        select: str,
        context: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.library, self.calls = library, calls
        # (vocabulary,) bool, which tokens are arguments, where all calls have the same ones.
        self.told = None if told is None else FrozenParam(jnp.asarray(told))
        self.holds, self.late = select == "register", context or select == "token"
        self.registers = Registers(width, selection=len(calls.calls), rngs=rngs)
        self.features = calls.num_answers + len(calls.calls)

    def content(self, states: tuple[jax.Array, jax.Array], hard: bool) -> jax.Array:
        """(batch, time, calls) of the register."""
        state = states[int(self.late)]
        if self.holds:
            return self.registers(state, hard, when=states[0])["selection"]
        shares = jax.nn.softmax(self.registers.values["selection"](state))
        chosen = jax.nn.one_hot(shares.argmax(-1), shares.shape[-1], dtype=shares.dtype)
        return chosen if hard else shares

    def soft(
        self, tokens: jax.Array, states: tuple[jax.Array, jax.Array], hardness: jax.Array
    ) -> jax.Array:
        """The expected answers, and what the register holds."""
        content = self.content(states, hard=False)
        hard = self.content(states, hard=True)
        content = content + jax.lax.stop_gradient(hardness * (hard - content))
        read = content
        if self.told is not None:
            # What comes before any write is skipped: a call that is written behind its arguments
            # has not read them.
            mass = content.sum(-1, keepdims=True)
            heard = jnp.where(self.told[...][tokens][..., None], mass, 1.0)
            read = jnp.minimum(content, lax.cummin(heard, axis=1))
        return jnp.concatenate([self.calls.expected(tokens, read), content], axis=-1)

    def inside(
        self, tokens: jax.Array, states: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        content = self.content(states, hard=True)
        return content, *self.calls.given(tokens, content)

    def exact(self, tokens: jax.Array, states: tuple[jax.Array, jax.Array]) -> jax.Array:
        """The answers of the certified network, and what the register holds."""
        content, given, choice = self.inside(tokens, states)
        answers = self.calls.read(self.library(given, choice), content)
        return jnp.concatenate([answers, content], axis=-1)


class _Read(nnx.Module):
    """A layer behind a learnt map of tokens to its symbols."""

    def __init__(self, layer: CompiledLayer, vocabulary: int, rngs: nnx.Rngs) -> None:
        self.layer, self.features = layer, layer.features
        drawn = 0.1 * jax.random.normal(rngs.params(), (vocabulary, layer.symbols))
        self.symbols = nnx.Param(drawn)

    def soft(
        self, tokens: jax.Array, states: tuple[jax.Array, jax.Array], hardness: jax.Array
    ) -> jax.Array:
        """What the layer's backward mode expects."""
        shares = jax.nn.softmax(SHARPNESS * self.symbols[...])
        hard = jax.nn.one_hot(shares.argmax(-1), shares.shape[-1], dtype=shares.dtype)
        shares = shares + jax.lax.stop_gradient(hardness * (hard - shares))
        return self.layer.expected(shares[tokens])

    def exact(self, tokens: jax.Array, states: tuple[jax.Array, jax.Array]) -> jax.Array:
        """What the certified network gives on the likeliest symbols."""
        shares = jax.nn.one_hot(self.symbols[...].argmax(-1), self.layer.symbols)
        return self.layer(shares[tokens])


def _calls_of(
    library: Library, calls: Calls | None, arguments: Mapping[int, int] | None, vocabulary: int
) -> Calls:
    """The calls that are given, or one for each routine with the same arguments."""
    if (calls is None) == (arguments is None):
        raise InputError(
            "Host: expected calls, as library.bind finds them, or arguments={token: symbol}, and "
            f"not {'both' if calls is not None else 'neither'}"
        )
    if calls is not None:
        sizes = [(len(t.follows), t.symbols) for t in calls.tables]
        if sizes != [(len(t.follows), t.symbols) for t in library.tables]:
            raise InputError("Host: expected calls of this library, got those of another")
        if calls.vocabulary != vocabulary:
            raise InputError(
                f"Host: expected calls of a vocabulary of {vocabulary} tokens, got one of "
                f"{calls.vocabulary}"
            )
        return calls
    symbols = np.full(vocabulary, library.skip)
    for token, symbol in (arguments or {}).items():
        checks.count("Host: a token of arguments", token, 0, vocabulary - 1)
        symbols[token] = checks.count("Host: a symbol of arguments", symbol, 0, library.skip)
    readout = np.arange(library.features)
    routines = tuple(
        Call(-1 - number, number, name, symbols, readout, ())
        for number, name in enumerate(library.names)
    )
    return Calls(routines, library.tables, vocabulary)
