"""Prompts that are found by gradient: a distribution for each field at each position."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lsrl import arguments
from lsrl.errors import InputError, PromiseError
from lsrl.ir.numbers import Array
from lsrl.nn.frozen import FrozenParam
from lsrl.nn.layer import CompiledLayer

# Of what is drawn at first: far from even, so that the tries of a round differ.
SPREAD = 1.0
# By how much a known value is ahead of what is drawn, where a prompt begins near one.
AHEAD = 3.0
# Updates between two looks at the likeliest prompts, and the cost of an undecided one at the end.
LOOK, UNDECIDED = 10, 0.3
# How fast the chance of a symbol falls with its distance from a number.
NEAR = 2.0
# Of a chance whose logarithm is taken.
SMALLEST = 1e-3
# The logit of what a position may not hold: its chance is 0, and so is its derivative.
NEVER = -1e9
# Distributions by field, (tries, length, size).
Fields: TypeAlias = Mapping[str, jax.Array]
# From fields and examples to the loss of each try, (tries,).
Loss: TypeAlias = Callable[[Fields, Any], jax.Array]


@final
class Prompt(nnx.Module):
    """A prompt addressed by position, several of which are tried side by side.

    Attributes:
      sizes: values of each field, by name.
      length: positions.
      tries: prompts side by side.
      logits: (tries, length, size) by field, `nnx.Param`s.
      allowed: what each position may hold, (length, size) bool by field, `FrozenParam`s.

    Example:
      prompt = lsrl.nn.Prompt(2, {"token": 3}, tries=4)
      print(prompt()["token"].shape)
    """

    def __init__(
        self,
        length: int,
        sizes: Mapping[str, int],
        tries: int = 16,
        seed: int = 0,
        allowed: Mapping[str, Array] | None = None,
    ) -> None:
        """Draw what to begin with.

        Args:
          length: positions.
          sizes: values of each field, by name.
          tries: prompts side by side.
          seed: of the draws.
          allowed: what each position may hold, (length, size) bool by field, such as
            `lsrl.programs.pipeline_choices` of a pipeline; all values of fields that it lacks.

        Raises:
          InputError: no fields, an argument is out of range, or a position may hold nothing.
        """
        self.length = arguments.count("Prompt: length", length)
        self.tries = arguments.count("Prompt: tries", tries)
        if not isinstance(sizes, Mapping) or not sizes:
            raise InputError(
                "Prompt: expected sizes of fields by name, such as {'token': 4}, got "
                f"{arguments.shown(sizes)}"
            )
        self.sizes = {
            name: arguments.count(f"Prompt: size of {name!r}", size) for name, size in sizes.items()
        }
        may = self._allowed({} if allowed is None else allowed)
        self.allowed: nnx.Dict[FrozenParam[jax.Array]] = nnx.Dict(
            {name: FrozenParam(jnp.asarray(held)) for name, held in may.items()}
        )
        self.logits: nnx.Dict[nnx.Param[jax.Array]] = nnx.Dict(
            {name: nnx.Param(value) for name, value in self._drawn(seed).items()}
        )

    def restart(self, seed: int) -> None:
        """Draw anew what to begin with."""
        for name, value in self._drawn(seed).items():
            self.logits[name][...] = value

    def begin(self, ids: Mapping[str, Array], seed: int = 0) -> None:
        """Begin near a known prompt, each try by another variation.

        Args:
          ids: its values, (length,) by field.
          seed: of the draws.

        Raises:
          InputError: other fields, another length, or values that there are not.
        """
        if not isinstance(ids, Mapping) or set(ids) != set(self.sizes):
            raise InputError(
                f"Prompt.begin: expected values of {', '.join(self.sizes)} by name, got "
                f"{arguments.shown(ids)}"
            )
        drawn = self._drawn(seed)
        for name, size in self.sizes.items():
            known = np.asarray(ids[name])
            fits = known.shape == (self.length,) and np.issubdtype(known.dtype, np.integer)
            if not fits or known.min() < 0 or known.max() >= size:
                raise InputError(
                    f"Prompt.begin: expected {self.length} ints from 0 to {size - 1} for {name!r}, "
                    f"got {arguments.shown(known.tolist())}"
                )
            held = np.asarray(self.allowed[name][...])[np.arange(self.length), known]
            if not held.all():
                place = int(held.argmin())
                raise InputError(
                    f"Prompt.begin: position {place} of {name!r} may not hold {known[place]}"
                )
            self.logits[name][...] = drawn[name] + AHEAD * jax.nn.one_hot(known, size)[None]

    def _drawn(self, seed: int) -> dict[str, jax.Array]:
        rng = np.random.default_rng(arguments.count("Prompt: seed", seed, 0))
        shape = (self.tries, self.length)
        return {
            name: jnp.where(
                self.allowed[name][...],
                jnp.asarray(rng.normal(0, SPREAD, (*shape, size)), jnp.float32),
                NEVER,
            )
            for name, size in self.sizes.items()
        }

    def _allowed(self, given: Mapping[str, Array]) -> dict[str, Array]:
        if not isinstance(given, Mapping) or not set(given) <= set(self.sizes):
            raise InputError(
                f"Prompt: allowed: expected arrays by field, of {', '.join(self.sizes)}, got "
                f"{arguments.shown(given)}"
            )
        found = {}
        for name, size in self.sizes.items():
            shape = (self.length, size)
            held = np.asarray(given.get(name, np.ones(shape, bool)))
            if held.shape != shape or held.dtype != bool or not held.any(axis=1).all():
                raise InputError(
                    f"Prompt: allowed: expected {shape} bool for {name!r}, in each row one that is "
                    f"true, got {held.dtype} of shape {held.shape}"
                )
            found[name] = held
        return found

    def __call__(self) -> dict[str, jax.Array]:
        """The distributions, (tries, length, size) by field."""
        return {name: jax.nn.softmax(logits[...]) for name, logits in self.logits.items()}

    def likeliest(self) -> dict[str, Array]:
        """The likeliest values, (tries, length) by field."""
        return {name: np.asarray(logits[...]).argmax(-1) for name, logits in self.logits.items()}


def improve_prompt(
    prompt: Prompt,
    loss: Loss,
    examples: Any,
    right: Callable[[Mapping[str, Array]], Array],
    *,
    updates: int = 30,
    rounds: int = 20,
    rate: float = 0.3,
    begin: Mapping[str, Array] | None = None,
    cost: Callable[[Mapping[str, Array]], Array] | None = None,
) -> dict[str, Array] | None:
    """Find a prompt by gradient, from what the program is to answer.

    A round begins anew and goes down the loss, to which a cost of undecided fields is added that
    grows. Every few updates the likeliest prompts are tried out.

    Args:
      prompt: which is changed.
      loss: of fields and examples, (tries,); it is compiled once for all calls that pass the same.
      examples: a pytree of arrays.
      right: whether prompts of known values, (tries, length) by field, do what they should:
        (tries,) bool.
      updates: of a round.
      rounds: at most.
      rate: of learning, by Adam.
      begin: values of a prompt, (length,) by field, near which every round begins: a right one is
        made better by a loss that charges for its length.
      cost: of prompts of known values, (tries,), such as `lines.length` of a `StraightLine`. All
        rounds are run then, and the right prompt that costs least is taken.

    Returns:
      The values of the first prompt that is right, or of the one that costs least, (length,) by
      field; None if none was found.

    Raises:
      InputError: an argument makes no sense.

    Source: Bunel et al. (2016), "Adaptive Neural Compilation".

    Example:
      def right(values):
          return values["token"].sum(axis=1) % 3 == 2

      found = lsrl.nn.improve_prompt(prompt, loss, (np.array([[0]]), np.array([2])), right)
      print(int(found["token"].sum()) % 3)
    """
    arguments.instance("improve_prompt", prompt, Prompt, "lsrl.nn.Prompt", InputError)
    for what, function in (("loss", loss), ("right", right), ("cost", cost)):
        if not callable(function) and (what, function) != ("cost", None):
            raise InputError(
                f"improve_prompt: {what} must be a function, got {arguments.shown(function)}"
            )
    arguments.count("improve_prompt: updates", updates)
    arguments.count("improve_prompt: rounds", rounds)
    arguments.real("improve_prompt: rate", rate, above=True)
    optimiser = optax.adam(1.0)
    best: tuple[float, dict[str, Array] | None] = (np.inf, None)
    for number in range(rounds):
        if begin is not None:
            prompt.begin(begin, number)
        elif number:
            prompt.restart(number)
        logits = {name: variable[...] for name, variable in prompt.logits.items()}
        state = optimiser.init(logits)
        for update in range(1, updates + 1):
            weight = jnp.float32(UNDECIDED * update / updates)
            logits, state = _updated(loss, logits, state, examples, weight, jnp.float32(rate))
            if update % LOOK and update < updates:
                continue
            for name, value in logits.items():
                prompt.logits[name][...] = value
            likeliest = prompt.likeliest()
            found = np.flatnonzero(np.asarray(right(likeliest)))
            if not found.size:
                continue
            least, price = found[0], 0.0
            if cost is not None:
                prices = np.asarray(cost(likeliest))[found]
                least, price = found[prices.argmin()], float(prices.min())
            if price < best[0]:
                best = price, {name: ids[least] for name, ids in likeliest.items()}
            if cost is None:
                return best[1]
    return best[1]


@partial(jax.jit, static_argnums=0)
def _updated(
    loss: Loss, logits: dict[str, jax.Array], state: Any, examples: Any, weight: Any, rate: Any
) -> tuple[dict[str, jax.Array], Any]:
    """An update of all tries by themselves."""

    def total(logits: dict[str, jax.Array]) -> jax.Array:
        chances = {name: jax.nn.softmax(each) for name, each in logits.items()}
        undecided = [
            -(chances[name] * jax.nn.log_softmax(each)).sum(-1).mean()
            for name, each in logits.items()
        ]
        return loss(chances, examples).sum() + weight * sum(undecided) * len(chances)

    with jax.numpy_dtype_promotion("standard"):  # optax multiplies counts with floats
        changes, state = optax.adam(1.0).update(jax.grad(total)(logits), state)
    return {name: logits[name] + rate * changes[name] for name in logits}, state


def answers_loss(layer: CompiledLayer, field: str = "token") -> Loss:
    """The cross-entropy of a routine's answers to questions that follow a prompt.

    An automaton gives the distribution of an answer. Other modes give the number that they expect:
    its distribution falls with the squared distance, so that a wrong one far off has a slope, too.

    Args:
      layer: of a program that gives tokens.
      field: of the prompt, whose values are tokens.

    Returns:
      A function of fields and (questions, answers), ids of shape (questions, tokens), and what is
      to be said at each of their tokens, -1 where it doesn't matter; or (questions,), at the last.

    Raises:
      InputError: the program gives no tokens.

    Example:
      loss = lsrl.nn.answers_loss(layer)
      print(loss(prompt(), (np.array([[0]]), np.array([2]))).shape)
    """
    _gives_tokens("answers_loss", layer)
    symbols = jnp.arange(layer.features, dtype=jnp.float32)

    def loss(fields: Fields, examples: tuple[jax.Array, jax.Array]) -> jax.Array:
        prompt, (questions, answers) = fields[field], examples
        tries, asked = len(prompt), len(questions)
        told = jnp.repeat(prompt[:, None], asked, axis=1)
        read = jax.nn.one_hot(questions, layer.symbols, dtype=prompt.dtype)
        read = jnp.broadcast_to(read[None], (tries, *read.shape))
        p = jnp.concatenate([told, read], axis=2).reshape(tries * asked, -1, layer.symbols)
        if answers.ndim == 1:
            answers = answers[:, None]
        due = (answers >= 0).astype(prompt.dtype)
        said = layer.expected(p)[:, -answers.shape[1] :]
        said = said.reshape(tries, *answers.shape, -1)
        if layer.backward == "automaton":
            chances = jnp.log(said + SMALLEST)
        else:
            away = (said @ symbols)[..., None] - symbols[None, None, None]
            chances = jax.nn.log_softmax(-NEAR * away**2)
        right = jnp.take_along_axis(chances, jnp.maximum(answers, 0)[None, ..., None], axis=3)
        return -(due[None] * right[..., 0]).sum((1, 2)) / jnp.maximum(due.sum(), 1)

    return loss


def answers_right(
    layer: CompiledLayer, examples: tuple[Array, Array], field: str = "token"
) -> Callable[[Mapping[str, Array]], Array]:
    """Whether prompts make a routine answer as examples say: by the reference evaluator.

    A prompt that breaks a promise of the program is not right.

    Args:
      layer: of a program that gives tokens.
      examples: questions and answers, as the loss of `answers_loss` takes them.
      field: of the prompt, whose values are tokens.

    Returns:
      A function of values, (tries, length) by field, to (tries,) bool: `right` of
      `improve_prompt`.

    Raises:
      InputError: the program gives no tokens, or examples of other shapes.

    Example:
      right = lsrl.nn.answers_right(layer, (np.array([[0]]), np.array([2])))
      print(right({"token": np.array([[0, 1], [1, 1]])}))
    """
    _gives_tokens("answers_right", layer)
    questions, answers = (np.asarray(each) for each in examples)
    if questions.ndim != 2 or answers.shape not in (questions.shape[:1], questions.shape):
        raise InputError(
            "answers_right: expected questions (questions, tokens), and answers (questions,) or "
            f"(questions, tokens), got shapes {questions.shape} and {answers.shape}"
        )
    answers = answers.reshape(len(answers), -1)
    program = layer.model.program

    def right(ids: Mapping[str, Array]) -> Array:
        found = []
        for prompt in np.asarray(ids[field]):
            told = np.broadcast_to(prompt, (len(questions), len(prompt)))
            try:
                said = program.run(np.concatenate([told, questions], axis=1))[..., 0]
            except PromiseError:
                found.append(False)
            else:
                alike = said[:, -answers.shape[1] :] == answers
                found.append(bool((alike | (answers < 0)).all()))
        return np.array(found)

    return right


def _gives_tokens(what: str, layer: CompiledLayer) -> None:
    arguments.instance(what, layer, CompiledLayer, "lsrl.nn.CompiledLayer", InputError)
    if not layer.gives_symbols:
        raise InputError(
            f"{what}: expected a program that gives tokens, got {layer.model.program!r}; "
            "annotate it with -> lsrl.Token(n)"
        )
