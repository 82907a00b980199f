"""For who trains networks: compiled routines inside a small GRU, learnt from answers alone.

Questions are tokens under a cipher: one that names a task, digits, one that asks. Nobody says which
task is which, nor what a token stands for. The calls of the library's routines are found from 600
questions of at most 12 tokens; the network learns to write them into its register from others as
short, and then answers questions of 1,000 tokens.

    python examples/compiled_inside.py [steps]
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lsrl

TASKS = ("sum mod 5", "maximum")
DIGITS, SHORT, LONG = 8, 12, 1_000


def questions(
    random: np.random.Generator, cipher: np.ndarray, count: int, tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Questions of so many tokens, (count, tokens), and their answers."""
    suite = lsrl.nn.standard_tasks()
    named = random.integers(0, len(TASKS), count)
    drawn = [suite[TASKS[name]].draw(random, 1, tokens - 1) for name in named]
    # Digits, the names of the two tasks, and the token that asks.
    plain = np.array(
        [[DIGITS + name, *one.words[0]] for name, one in zip(named, drawn, strict=True)]
    )
    plain[:, -1] = DIGITS + len(TASKS)
    return cipher[plain], np.array([one.wanted[0, -1] for one in drawn])


def main(steps: int) -> None:
    """Bind, train, and ask."""
    random = np.random.default_rng(0)
    cipher = random.permutation(DIGITS + len(TASKS) + 1)
    suite = lsrl.nn.standard_tasks()
    routines = ("parity", "sum mod 5", "maximum", "words of S3")
    library = lsrl.nn.Library([suite[name].machine for name in routines])
    print(f"{len(library.names)} routines, exact: {library.model.certificate.exact}")

    batches = [questions(random, cipher, 60, tokens) for tokens in range(3, SHORT + 1)]
    pairs = [
        pair
        for words, answers in batches
        for pair in zip(words.tolist(), answers.tolist(), strict=True)
    ]
    calls = library.bind(pairs, vocabulary=len(cipher))
    for call in calls.calls:
        print(f"token {call.writer} calls {routines[call.routine]}")

    host = lsrl.nn.Host(
        len(cipher), DIGITS, kind="gru", library=library, calls=calls, rngs=nnx.Rngs(0)
    )
    graph, weights, frozen = nnx.split(host, nnx.Param, ...)
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, steps, 0.1))

    @jax.jit
    def update(weights, state, hardness, words, answers):
        def loss(weights):
            host = nnx.merge(graph, weights, frozen)
            logits = host(words, hardness)[:, -1]
            wrong = optax.softmax_cross_entropy_with_integer_labels(logits, answers).mean()
            # A write that is not needed costs a little.
            return wrong + 0.02 * host.writes(words).sum(1).mean()

        value, slopes = jax.value_and_grad(loss)(weights)
        changes, state = optimiser.update(slopes, state)
        return optax.apply_updates(weights, changes), state, value

    state = optimiser.init(weights)
    for step in range(steps):
        # Two lengths, as each is compiled.
        words, answers = questions(random, cipher, 32, SHORT if step % 2 else SHORT // 2)
        hardness = np.float32(min(step / (0.6 * steps), 1.0))
        weights, state, value = update(weights, state, hardness, words, answers)
    print(f"loss {value:.3f} after {steps} steps on questions of at most {SHORT} tokens")

    host = nnx.merge(graph, weights, frozen)
    words, answers = questions(random, cipher, 20, LONG)
    said = host.exact(jnp.asarray(words))[:, -1].argmax(-1)
    print(f"right at {LONG:,} tokens: {int((said == answers).sum())} of {len(answers)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)
