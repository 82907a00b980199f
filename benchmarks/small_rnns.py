"""Small recurrent networks, trained here by gradient on tasks of MIPS, in flax and in torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file

import lsrl
from benchmarks.mips import TASKS, Array, Task

TOKENS = 20
BATCH, CHUNK, RATE = 128, 250, 5e-3
# Training ends when every token of so many fresh sequences is right.
VALIDATION = 512


@dataclass(frozen=True)
class Training:
    """One network to train.

    Attributes:
      task: of MIPS.
      cell: "gru", "lstm", "elman" or "linear".
      width: of its state.
      steps: of Adam, at most.
      seed: of weights and batches.
      torch: whether it is torch's cell, and not flax's.
    """

    task: str
    cell: str
    width: int = 24
    steps: int = 5000
    seed: int = 0
    torch: bool = False

    @property
    def name(self) -> str:
        """As rows say it."""
        return f"{self.task} on {self.cell}{' of torch' * self.torch}"


class Rnn(nnx.Module):
    """Tokens (batch, time) or numbers (batch, time, 1) to a row of outputs a token."""

    def __init__(self, training: Training, classes: int) -> None:
        """Ordinary initial weights."""
        task, width = TASKS[training.task], training.width
        rngs = nnx.Rngs(training.seed)
        self.embeddings = nnx.List([
            nnx.Embed(kind.size, width, rngs=rngs) if isinstance(kind, lsrl.Token)
            else nnx.Linear(kind.width, width, rngs=rngs)
            for kind in task.types.values()
        ])  # fmt: skip
        cells: dict[str, Callable[[], Any]] = {
            "gru": lambda: nnx.GRUCell(width, width, rngs=rngs),
            "lstm": lambda: nnx.LSTMCell(width, width, rngs=rngs),
            "elman": lambda: nnx.SimpleCell(width, width, rngs=rngs),
            "linear": lambda: nnx.SimpleCell(
                width, width, activation_fn=lambda x: x, rngs=rngs
            ),
        }  # fmt: skip
        self.cell = nnx.RNN(cells[training.cell](), rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Logits, or values."""
        embedded = [each(x) for each, x in zip(self.embeddings, inputs, strict=True)]
        states = self.cell(sum(embedded[1:], embedded[0]), rngs=nnx.Rngs(0))
        return self.head(states)


def classes_of(task: Task) -> int:
    """Number of symbols that a task answers with; 0 where its answers are numbers."""
    _, outputs = task.data(256, TOKENS, 0)
    return int(outputs.max()) + 1 if outputs.min() >= 0 and outputs.max() < 32 else 0


def data_of(task: Task, sequences: int, tokens: int, seed: int) -> tuple[list[Array], Array]:
    """Inputs as the network reads them, and what it should answer."""
    inputs, outputs = task.data(sequences, tokens, seed)
    pairs = zip(task.types.values(), inputs, strict=True)
    fed = [each.astype(np.int32) if isinstance(kind, lsrl.Token)
           else each[..., None].astype(np.float32) for kind, each in pairs]  # fmt: skip
    return fed, outputs


def accuracy(network: Callable[..., Any], task: Task, tokens: int, seed: int) -> float:
    """Share of right tokens of fresh sequences."""
    inputs, outputs = data_of(task, VALIDATION, tokens, seed)
    with torch.no_grad():
        said = np.asarray(network(*inputs))
    read = said.argmax(axis=-1) if classes_of(task) else np.rint(said[..., 0])
    return float((read == outputs).mean())


class TorchRnn(torch.nn.Module):  # type: ignore[misc]
    """The same in torch, of symbols alone."""

    def __init__(self, training: Training, classes: int) -> None:
        """Ordinary initial weights."""
        super().__init__()
        torch.manual_seed(training.seed)
        width, sizes = training.width, TASKS[training.task].types.values()
        self.embeddings = torch.nn.ModuleList(
            torch.nn.Embedding(kind.size, width) for kind in sizes if isinstance(kind, lsrl.Token)
        )
        cells = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM, "elman": torch.nn.RNN}
        self.cell = cells[training.cell](width, width, batch_first=True)
        self.head = torch.nn.Linear(width, classes)

    def forward(self, *inputs: Any) -> Any:
        """Logits."""
        given = [torch.as_tensor(x, dtype=torch.int64) for x in inputs]
        embedded = sum(each(x) for each, x in zip(self.embeddings, given, strict=True))
        return self.head(self.cell(embedded)[0])


def trained_in_torch(training: Training, folder: Path) -> TorchRnn:
    """The network, from the folder if it was trained before."""
    task, path = TASKS[training.task], folder / f"{training.task}-{training.cell}-torch.safetensors"
    network = TorchRnn(training, classes_of(task))
    if path.exists():
        kept = {name: torch.as_tensor(array) for name, array in load_file(path).items()}
        network.load_state_dict(kept)
        return network
    pool, wanted = data_of(task, 20_000, TOKENS, 1)
    rng, answers = np.random.default_rng(training.seed), torch.as_tensor(wanted, dtype=torch.int64)
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    for step in range(training.steps):
        rows = rng.integers(0, len(wanted), BATCH)
        said = network(*(each[rows] for each in pool))
        loss = torch.nn.functional.cross_entropy(said.flatten(0, 1), answers[rows].flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 99 and accuracy(network, task, TOKENS, 2) == 1.0:
            break
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.asarray(x.detach()) for name, x in network.state_dict().items()}, path)
    return network


def trained(training: Training, folder: Path) -> Rnn:
    """The network, from the folder if it was trained before."""
    task, path = TASKS[training.task], folder / f"{training.task}-{training.cell}.safetensors"
    classes = classes_of(task)
    network = Rnn(training, max(classes, 1))
    parts: Any = nnx.split(network, nnx.Param, ...)
    graph, state, rest = parts
    leaves, form = jax.tree.flatten(state)
    if path.exists():
        kept = load_file(path)
        leaves = [jnp.asarray(kept[f"{k:03}"]) for k in range(len(leaves))]
        return nnx.merge(graph, jax.tree.unflatten(form, leaves), rest)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE))
    pool, wanted = data_of(task, 20_000, TOKENS, 1)

    def loss(state: Any, inputs: Sequence[jax.Array], outputs: jax.Array) -> jax.Array:
        said = nnx.merge(graph, state, rest)(*inputs)
        if classes:
            return optax.softmax_cross_entropy_with_integer_labels(said, outputs).mean()
        return jnp.square(said[..., 0] - outputs).mean()

    @jax.jit
    def advance(state: Any, memory: Any, key: jax.Array) -> tuple[Any, Any]:
        def step(held: Any, key: jax.Array) -> tuple[Any, None]:
            state, memory = held
            rows = jax.random.randint(key, (BATCH,), 0, len(wanted))
            gradients = jax.grad(loss)(state, [x[rows] for x in arrays], answers[rows])
            changes, memory = optimiser.update(gradients, memory, state)
            return (optax.apply_updates(state, changes), memory), None

        held, _ = jax.lax.scan(step, (state, memory), jax.random.split(key, CHUNK))
        return held

    run = jax.jit(lambda state, *inputs: nnx.merge(graph, state, rest)(*inputs))
    arrays = [jnp.asarray(each) for each in pool]
    answers = jnp.asarray(wanted, jnp.int32 if classes else jnp.float32)
    memory, key = optimiser.init(state), jax.random.key(training.seed)
    for _ in range(training.steps // CHUNK):
        key, own = jax.random.split(key)
        state, memory = advance(state, memory, own)
        if accuracy(partial(run, state), task, TOKENS, 2) == 1.0:
            break
    folder.mkdir(parents=True, exist_ok=True)
    kept = {f"{k:03}": np.asarray(x) for k, x in enumerate(jax.tree.leaves(state))}
    save_file(kept, path)
    return nnx.merge(graph, state, rest)
