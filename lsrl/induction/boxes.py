"""Black boxes: functions, modules of flax and torch, and models, asked in batches and counted."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, final

import numpy as np

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import InputError, LsrlError
from lsrl.induction.examples import drawn
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType

Reading: TypeAlias = Literal["values", "rounded", "argmax"]
READINGS: tuple[Reading, ...] = ("values", "rounded", "argmax")
# Sequences that are asked at once of what jax compiles for one shape.
ROWS = 64
# Sequences that tell whether answers are a function of what was read.
TRIED = 6
# Share of the greatest answer by which two differ that are not one up to rounding.
DIFFERENT = 1e-2
_SINGLE = 2.0**-23
_SPACING = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": _SINGLE, "float64": 2.0**-52}
# A batch of inputs, as the box wants them, to what it says.
Call: TypeAlias = Callable[[Sequence[Array]], object]


@final
class Box:
    """What answers sequences, a row of outputs a token.

    Attributes:
      types: of the inputs, by name.
      longest: tokens of the longest sequence that may be asked; None without a limit.
      queries: sequences that were asked.
      spacing: of the floating-point numbers that it answers in; 0 where they are integers.
    """

    def __init__(
        self, network: object, inputs: Mapping[str, InputType] | None, reading: Reading
    ) -> None:
        """Take the arguments of `lsrl.lift`.

        Raises:
          InputError: it can't be called, or the types of its inputs are not given.
        """
        self.reading = reading
        self.longest: int | None = None
        self.queries, self.spacing = 0, 0.0
        self._fixed = False
        self._shape = 0  # tokens of a batch, of what compiles for each shape
        if _is(network, "lsrl.model", "Model"):
            self.types = _own_types(network, inputs)
            self._call, self.longest = _of_model(network)
            self._fixed = True
            return
        if _is(network, "lsrl", "Program"):
            raise InputError("lift: a program is LSRL source already, got an lsrl.Program")
        if not callable(network):
            raise InputError(
                "lift: expects a function of arrays, a module of flax (nnx) or torch, or an "
                f"lsrl.Model, got {shown(network)}"
            )
        if not inputs:
            raise InputError(
                "lift: the types of the inputs are not known; give them by name and in order: "
                'inputs={"x": lsrl.Token(n)} or lsrl.Vector(...)'
            )
        self.types = dict(inputs)
        if _is(network, "torch.nn", "Module"):
            self._call = _of_torch(network)
        elif _is(network, "flax.nnx", "Module"):
            self._call, self._fixed = _of_flax(network), True
        else:
            self._call = lambda arrays: network(*arrays)

    def __call__(self, *arrays: Array) -> Array:
        """As a teacher is called: (sequences, time, outputs) float64."""
        return self.ask(arrays)

    def ask(self, arrays: Sequence[Array]) -> Array:
        """(sequences, time, outputs) float64, read as was asked for.

        Args:
          arrays: one an input, int64 ids (sequences, time) or float64 (sequences, time, width).

        Raises:
          InputError: the box raises, or does not answer a row of finite numbers a token.
        """
        return self.read(self.raw(arrays))

    def read(self, values: Array) -> Array:
        """Raw answers as they are asked for.

        Raises:
          InputError: they are not finite.
        """
        if not np.isfinite(values).all():
            raise InputError("lift: the network answers NaN or infinities; ask for shorter ones")
        if self.reading == "argmax":
            return values.argmax(axis=2)[..., None].astype(np.float64)
        return np.rint(values) + 0.0 if self.reading == "rounded" else values

    def raw(self, arrays: Sequence[Array]) -> Array:
        """The same as the box says it."""
        rows, time = arrays[0].shape[:2]
        self.queries += rows
        if not self._fixed:
            return self._asked(arrays)
        self._shape = max(self._shape, time)
        parts = []
        for first in range(0, rows, ROWS):
            part = [array[first : first + ROWS] for array in arrays]
            fill = [(0, ROWS - len(part[0])), (0, self._shape - time)]
            full = [np.pad(array, fill + [(0, 0)] * (array.ndim - 2), mode="edge")
                    for array in part]  # fmt: skip
            parts.append(self._asked(full)[: len(part[0]), :time])
        return np.concatenate(parts)

    def _asked(self, arrays: Sequence[Array]) -> Array:
        try:
            answer = self._call(arrays)
        except LsrlError:
            raise
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise InputError(
                f"lift: the network raises {type(error).__name__}: {error}; it is called with one "
                f"array an input, of shape {shapes}"
            ) from error
        values, dtype = _rows_of(answer, arrays[0].shape[:2])
        self.spacing = max(self.spacing, _SPACING.get(dtype, 0.0))
        return values

    def check(self, length: int, rng: np.random.Generator) -> None:
        """Refuse what is no causal function of single sequences.

        Args:
          length: tokens of the sequences that are tried.
          rng: draws them.

        Raises:
          InputError: answers change when they are asked for again, with later tokens, or with the
            other sequences of the batch.
        """
        arrays = drawn(self.types, TRIED, length, rng)
        whole = self.raw(arrays)
        half = max(1, length // 2)
        tries = {
            "asked twice, it gives two answers: is dropout on (call .eval()), or does it remember "
            "the last call?": (self.raw(arrays), whole),
            "an answer depends on later tokens: lift takes causal networks": (
                self.raw([array[:, :half] for array in arrays]), whole[:, :half],
            ),
            "an answer depends on other sequences of the batch: is its first axis time "
            "(batch_first=True), does it normalise over batches (call .eval()), or do its rounding "
            "errors grow without bounds (ask for a shorter length)?": (
                self.raw([array[1:2] for array in arrays]), whole[1:2],
            ),
        }  # fmt: skip
        with np.errstate(invalid="ignore"):
            for what, (one, other) in tries.items():
                both = np.isfinite(one) & np.isfinite(other)
                size = max(1.0, float(np.abs(np.where(both, other, 0)).max()))
                off = np.where(both, np.abs(one - other), 0).max()
                if off > DIFFERENT * size:
                    raise InputError(f"lift: {what} (answers differ by {off:.3g})")


# ---------------------------------------------------------------- kinds of boxes


def _is(value: object, module: str, name: str) -> bool:
    """Whether a value is of a class; its module is loaded if it is."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _own_types(model: Any, inputs: Mapping[str, InputType] | None) -> dict[str, InputType]:
    own: dict[str, InputType] = dict(model.program.inputs)
    if inputs is not None and dict(inputs) != own:
        raise InputError(f"lift: the model's inputs are {own}, got {dict(inputs)}; leave them out")
    return own


def _of_model(model: Any) -> tuple[Call, int | None]:
    limits = [each for each in (model.program.max_length, model.proven.tokens) if each is not None]
    return (lambda arrays: model.run(*arrays)), min(limits, default=None)


def _of_torch(module: Any) -> Call:
    torch: Any = sys.modules["torch"]
    own = next((x for x in module.parameters() if x.is_floating_point()), None)
    dtype, device = (torch.float32, None) if own is None else (own.dtype, own.device)

    def call(arrays: Sequence[Array]) -> object:
        given = [
            torch.as_tensor(array, dtype=torch.int64 if array.ndim == 2 else dtype, device=device)
            for array in arrays
        ]
        with torch.no_grad():
            return module(*given)

    return call


def _of_flax(module: Any) -> Call:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graph, state = nnx.split(module)
    kinds = (leaf.dtype for leaf in jax.tree.leaves(state))
    dtype = next((kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)), jnp.float32)
    run = jax.jit(lambda state, given: nnx.merge(graph, state)(*given))

    def call(arrays: Sequence[Array]) -> object:
        given = [jnp.asarray(array, jnp.int32 if array.ndim == 2 else dtype) for array in arrays]
        return run(state, given)

    return call


def _rows_of(answer: Any, shape: tuple[int, ...]) -> tuple[Array, str]:
    """(sequences, time, outputs) float64 of what a box says, and its dtype's name.

    Of several arrays the first is taken that has a row a token: states go with outputs in tuples.
    """
    answer = getattr(answer, "logits", answer)
    parts = answer if isinstance(answer, tuple | list) else (answer,)
    found = [part for part in parts if tuple(getattr(part, "shape", ()))[:2] == tuple(shape)]
    part = found[0] if found else answer
    dtype = str(getattr(part, "dtype", "")).removeprefix("torch.")
    if hasattr(part, "detach"):
        part = part.detach().cpu()
        part = part.float() if dtype == "bfloat16" else part
    if dtype == "bfloat16":
        part = np.asarray(part).astype(np.float32)
    values = arguments.array("lift: the network's answer", part)
    if values.dtype.kind not in "iufb":
        raise InputError(
            f"lift: the network answers {arguments.dtype_text(values)}, expected numbers"
        )
    if values.shape[:2] != tuple(shape) or values.ndim not in (2, 3) or values.size == 0:
        raise InputError(
            f"lift: the network answers shape {values.shape} to inputs of (sequences, time) = "
            f"{tuple(shape)}; expected (sequences, time) or (sequences, time, outputs)"
        )
    wide = values if values.ndim == 3 else values[..., None]
    return wide.astype(np.float64), dtype
