"""The state of a model between tokens, and its file.

`Model.step` and `Model.run` give and take it, and what reads a part of a sequence goes on where
another left off: the state after k tokens is the same however they were read.
"""

import hashlib
import operator
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, cast, final

import jax
import numpy as np
from jax.tree_util import GetAttrKey

from lsrl import schema, storage
from lsrl.arguments import shown
from lsrl.errors import InputError
from lsrl.language.program import Program
from lsrl.options import Options
from lsrl.parameters import Parameter
from lsrl.program_json import content_text
from lsrl.pytrees import Tree, named_leaves
from lsrl.schema import FieldError, Reader

FORMAT = storage.Format("lsrl-state", 1, "a state saved by model.save_state")
# Of what holds a state.
FIELDS: Mapping[str, Reader[object]] = {
    "owner": schema.named(schema.text),
    "position": schema.integer(0),
    "batch": schema.maybe(schema.integer(1)),
}


class Kept(Protocol):
    """A state as an engine keeps it, to go on from."""

    def tree(self) -> Tree:
        """The network's state, arrays that nobody can change."""


@final
class State:
    """What a model knows of the tokens that it has read.

    It never changes, so one may go on from it as often as one likes. As a pytree its leaves are the
    position and the arrays of `hidden`: `jax.tree` and jit take it, as they take `hidden` alone.

    Example:
      state = model.init_state()
      output, state = model.step(state, 1)
      output, state = model.step(state, 1)
      print(output, state.position)
    """

    # What an engine keeps becomes arrays when they are asked for: steps alone never do.
    __slots__ = ("_batch", "_hidden", "_kept", "_position")

    def __init__(
        self, position: int, hidden: Tree | None, batch: int | None, kept: Kept | None = None
    ) -> None:
        """Of a model; see its `init_state`.

        Args:
          position: number of tokens read.
          hidden: the network's state; None if it is kept.
          batch: number of sequences; None for one sequence without a batch axis.
          kept: the state as an engine has it.
        """
        self._position = position
        self._hidden = hidden
        self._batch = batch
        self._kept = kept

    @property
    def position(self) -> int:
        """Number of tokens read."""
        return self._position

    @property
    def hidden(self) -> Tree:
        """The network's state, a pytree of arrays (batch, ...); of one sequence (1, ...)."""
        if self._kept is not None and self._hidden is None:
            self._hidden = self._kept.tree()
        return cast(Tree, self._hidden)

    @property
    def batch(self) -> int | None:
        """Number of sequences; None for one sequence without a batch axis."""
        return self._batch

    @property
    def kept(self) -> Kept | None:
        """What the engine keeps that gave it; None if it was no engine."""
        return self._kept

    def __reduce__(self) -> tuple[type["State"], tuple[int, Tree, int | None]]:
        """Copies and other processes get the arrays."""
        return State, (self.position, self.hidden, self.batch)

    def __repr__(self) -> str:
        """All of it."""
        return f"State(position={self.position}, hidden={self.hidden}, batch={self.batch})"


def _flattened(state: State) -> tuple[tuple[tuple[GetAttrKey, object], ...], int | None]:
    fields = ("position", "hidden")
    return tuple((GetAttrKey(name), getattr(state, name)) for name in fields), state.batch


jax.tree_util.register_pytree_with_keys(
    State, _flattened, lambda batch, leaves: State(*cast(tuple[int, Tree], leaves), batch)
)


def owner_of(
    program: Program, target: str, dtype: str, options: Options, weights: Mapping[str, Parameter]
) -> dict[str, str]:
    """What a state belongs to: equal weights alone give its numbers the same meaning."""
    content = hashlib.sha256()
    for part in content_text(program):
        content.update(part.encode())
    return {
        "program": f"{program.name} ({content.hexdigest()})",
        "target": target,
        "dtype": dtype,
        "options": str(options),
        "weights": storage.weights_digest(weights),
    }


def save_state(
    path: str | os.PathLike[str], state: State, dtype: str, owner: Mapping[str, str]
) -> None:
    """Write a state whole or not at all, and whose it is, as `load_state` compares it.

    Raises:
      OSError: the file can't be written.
    """
    storage.write(path, FORMAT, *parts_of(state, dtype, owner))


def parts_of(
    state: State, dtype: str, owner: Mapping[str, str]
) -> tuple[dict[str, object], dict[str, Parameter]]:
    """The fields and the arrays of a state in a file."""
    batch = None if state.batch is None else int(state.batch)
    fields = {"dtype": dtype, "owner": owner, "position": int(state.position), "batch": batch}
    leaves = named_leaves(state.hidden).items()
    return fields, {name: np.asarray(leaf) for name, leaf in leaves}


def load_state(
    path: str | os.PathLike[str], owner: Mapping[str, str], start: Callable[[int | None], State]
) -> State:
    """Read a state that `save_state` wrote; `start` makes one of so many sequences.

    Raises:
      FormatError: the file is damaged, truncated, newer, no state, or of another model.
      OSError: the file can't be read.
    """

    def taken(header: dict[str, object], arrays: dict[str, Parameter]) -> State:
        check_owner(path, FORMAT, header, owner)
        return state_of(header, arrays, start)

    return storage.read_as(path, FORMAT, FIELDS, taken)


def check_owner(
    path: str | os.PathLike[str],
    format: storage.Format,
    header: Mapping[str, object],
    owner: Mapping[str, str],
) -> None:
    """Refuse what another model saved: its numbers mean something else.

    Raises:
      FormatError: says in what the models differ.
    """
    saved_by = cast(dict[str, str], header["owner"])
    if saved_by.keys() != owner.keys():
        raise FieldError(f"{', '.join(owner)}", shown(list(saved_by)), "owner")
    for what, mine in owner.items():
        if saved_by[what] != mine:
            raise storage.bad(
                path,
                f"a state of another model, whose {what} is {saved_by[what]}, not {mine}",
                format,
                "load it with the model that saved it",
            )


def state_of(
    header: Mapping[str, object],
    arrays: Mapping[str, Parameter],
    start: Callable[[int | None], State],
) -> State:
    """The state that a header and arrays tell; `start` makes one of so many sequences.

    Raises:
      FieldError: the arrays are not those of such a state.
    """
    batch = cast("int | None", header["batch"])
    _check_batch(batch, arrays)
    hidden = start(batch).hidden
    leaves = named_leaves(hidden)
    if arrays.keys() != leaves.keys():
        raise FieldError(f"the arrays {', '.join(leaves)}", shown(sorted(arrays)), "arrays")
    for name, leaf in leaves.items():
        array = arrays[name]
        if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            got = f"{name} has shape {array.shape} of {array.dtype}"
            raise FieldError(f"shape {leaf.shape} of {leaf.dtype}", got, "arrays")
    found = jax.tree.unflatten(jax.tree.structure(hidden), [arrays[name] for name in leaves])
    return State(cast(int, header["position"]), found, batch)


def _check_batch(batch: int | None, arrays: Mapping[str, Parameter]) -> None:
    """The sequences that a file tells of are those that its arrays hold."""
    for name, array in arrays.items():
        if array.shape[:1] != (1 if batch is None else batch,):
            raise FieldError(
                f"arrays of {_sequences(batch)}", f"{name} has shape {array.shape}", "arrays"
            )


class Form(NamedTuple):
    """What the states of a network have in common, whatever was read.

    Attributes:
      structure: of the pytree.
      leaves: dtype and shape of each array, without the axis of sequences.
    """

    structure: object
    leaves: tuple[tuple[object, tuple[int, ...]], ...]


def form_of(hidden: Tree) -> Form:
    """The form of a network's states."""
    leaves, structure = jax.tree.flatten(hidden)
    return Form(structure, tuple((leaf.dtype, leaf.shape[1:]) for leaf in leaves))


def check_state(what: str, state: object, form: Form) -> State:
    """A state of the network whose states have a form; cheap, since every step asks.

    Raises:
      InputError: it is none; says what was expected, and what came.
    """
    if not isinstance(state, State):
        raise InputError(
            f"{what}: expected a state that init_state, step or run gave, got "
            f"{type(state).__name__}; the first is model.init_state()"
        )
    leaves, structure = jax.tree.flatten(state.hidden)
    count = 1 if state.batch is None else state.batch
    fits = structure == form.structure and all(
        getattr(leaf, "dtype", None) == dtype and leaf.shape == (count, *shape)
        for leaf, (dtype, shape) in zip(leaves, form.leaves, strict=True)
    )
    if not fits:
        own = [(str(dtype), (count, *shape)) for dtype, shape in form.leaves]
        given = [(str(getattr(leaf, "dtype", type(leaf))), np.shape(leaf)) for leaf in leaves]
        raise InputError(
            f"{what}: the state is of another model: expected arrays {own}, got {given}; "
            "pass a state that this model gave"
        )
    try:
        position = operator.index(state.position)
    except TypeError:
        position = -1
    if position < 0:
        raise InputError(
            f"{what}: the state's position must be an int >= 0, got {state.position!r}; pass a "
            "state that this model gave"
        )
    return state


def check_sequences(what: str, state: State, batch: int | None) -> None:
    """Refuse a state of other sequences than the inputs are.

    Raises:
      InputError: says how many both have.
    """
    if state.batch != batch:
        raise InputError(
            f"{what}: the state is of {_sequences(state.batch)}, and the inputs are of "
            f"{_sequences(batch)}; init_state(batch=...) sets the number of sequences"
        )


def _sequences(batch: int | None) -> str:
    return "one sequence without a batch axis" if batch is None else f"a batch of {batch}"
