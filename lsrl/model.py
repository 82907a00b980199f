"""The compiled model: run, step, generate, test, save and load."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast, final

import jax
import numpy as np

from lsrl import huggingface_export, storage, torch_export
from lsrl.card import Card
from lsrl.certificate import Certificate
from lsrl.errors import InputError, SelfTestError
from lsrl.ir.evaluate import evaluate
from lsrl.ir.numbers import Array, unsigned_zeros
from lsrl.ir.types import Token, check_inputs
from lsrl.language.program import Program
from lsrl.numerics import Numerics
from lsrl.options import Options
from lsrl.passes.pipeline import PassRecord
from lsrl.schedule import Layout
from lsrl.sharding import run_over
from lsrl.verification import compare

if TYPE_CHECKING:
    from lsrl.interpret.circuit import Circuit

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Report:
    """What the stages of a compilation did.

    Attributes:
      passes: one record a pass, in order.
      seconds: CPU seconds by stage.
    """

    passes: tuple[PassRecord, ...]
    seconds: dict[str, float]


class Alteration(NamedTuple):
    """What makes an altered network: how it came about, and what its channels hold.

    Attributes:
      circuit: the ground truth of the altered network.
      card: what was done and how right it is; see `lsrl.interpret.variants`.
    """

    circuit: "Circuit"
    card: Card


class State(NamedTuple):
    """The state of a model between tokens.

    Attributes:
      position: number of tokens read.
      hidden: the network's state, a pytree.
      batch: number of sequences; None for one sequence without a batch axis.
    """

    position: int
    hidden: Any
    batch: int | None


@final
class Model:
    """A compiled program: exact weights of a real network, with their certificate.

    Attributes:
      program: the program.
      target: the target's name.
      options: how it was compiled.
      schedule: layers and labels.
      certificate: what is proven.
      numerics: the dtype's format.
      module: the flax nnx module that runs it; its parameters can be replaced.
      alteration: of a network that the compiler did not make as it is; else None.
    """

    def __init__(
        self,
        program: Program,
        target: str,
        options: Options,
        schedule: Layout,
        certificate: Certificate,
        numerics: Numerics,
        module: Any,
        report: Report,
        alteration: Alteration | None = None,
    ) -> None:
        """Made by `lsrl.compile`, or by `altered`."""
        self.program = program
        self.target = target
        self.options = options
        self.schedule = schedule
        self.certificate = certificate
        self.numerics = numerics
        self.module = module
        self.compilation = report
        self.alteration = alteration

    def altered(
        self, module: Any, alteration: Alteration, certificate: Certificate | None = None
    ) -> "Model":
        """Another model of the same program, with another network; this one stays as it is.

        Args:
          module: the network.
          alteration: its circuit and card.
          certificate: what is proven of it; this model's if None.
        """
        return Model(
            self.program,
            self.target,
            self.options,
            self.schedule,
            self.certificate if certificate is None else certificate,
            self.numerics,
            module,
            self.compilation,
            alteration,
        )

    @property
    def dtype(self) -> str:
        """The dtype of weights and outputs."""
        return self.numerics.dtype

    @property
    def num_layers(self) -> int:
        """Recurrent layers, without the input and output maps."""
        return len(self.schedule.layers)

    @property
    def width(self) -> int:
        """Hidden units of the widest layer."""
        return int(self.module.width)

    @property
    def num_parameters(self) -> int:
        """Every entry of every parameter array, zeros included."""
        return int(self.module.num_parameters)

    @property
    def num_nonzero_parameters(self) -> int:
        """Entries that are not zero."""
        return sum(int(np.count_nonzero(v)) for v in self.module.parameter_arrays().values())

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """The signal in each channel of each layer."""
        if self.alteration is not None:
            return self.alteration.circuit.labels()
        return self.schedule.labels()

    @property
    def card(self) -> Card | None:
        """What was done to the compiled network; None if nothing was."""
        return None if self.alteration is None else self.alteration.card

    def run(
        self,
        *inputs: Any,
        check: bool = False,
        chunk: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ) -> Array:
        """Run whole sequences, every layer parallel over time where its recurrence allows it.

        Args:
          *inputs: one array an input: tokens (time,) or (batch, time); vectors (..., time, width).
          check: also run the reference evaluator, which raises where a promise is broken.
          chunk: tokens at a time; bounds the memory. Chosen by the network if None.
          mesh: devices to spread the batch over, whatever the mesh's axes; the results are those of
            one device. Each device compiles for itself.

        Returns:
          (time, outputs), or (batch, time, outputs) if the inputs have a batch axis, in the model's
          dtype; row t depends on inputs up to and including t.

        Raises:
          InputError: an input lies outside its declared type; says which and where.
          BoundsError: with check=True, a promise is broken; says which and where.
        """
        arrays, batched = check_inputs(self.program.inputs, inputs, self.program.max_length)
        if chunk is not None:
            _check_count("run: chunk", chunk)
        if check:
            evaluate(self.program.graph, arrays)

        def run(part: Sequence[Array]) -> Array:
            with self.device_mode():
                # Where a bias is 0.0 a whole run leaves it out, and -1 * 0.0 stays -0.0.
                return unsigned_zeros(np.asarray(self.module.run(self.features(part), chunk=chunk)))

        outputs = run(arrays) if mesh is None else run_over(mesh, run, arrays)
        return outputs if batched else cast(Array, outputs[0])

    def init_state(self, batch: int | None = None) -> State:
        """The state before the first token.

        Args:
          batch: number of sequences; None for one sequence without a batch axis.
        """
        if batch is not None:
            _check_count("init_state: batch", batch)
        with self.device_mode():
            hidden = self.module.init_state((1 if batch is None else batch,))
        return State(0, hidden, batch)

    def step(self, state: State, *inputs: Any) -> tuple[Array, State]:
        """Read one token.

        Args:
          state: from `init_state` or an earlier step; it is not changed.
          *inputs: one value an input: an id, or a vector (width,); with a leading batch axis if the
            state has one.

        Returns:
          The output (outputs,) or (batch, outputs), and the next state.

        Raises:
          InputError: an input lies outside its type, or the program's max_length is reached.
        """
        limit = self.program.max_length
        if limit is not None and state.position >= limit:
            raise InputError(
                f"step {state.position}: the program declares max_length={limit} tokens; declare a "
                "larger one"
            )
        given = [np.asarray(value) for value in inputs]
        axis = 0 if state.batch is None else 1
        timed = [value[(slice(None),) * min(axis, value.ndim) + (None,)] for value in given]
        arrays, batched = check_inputs(self.program.inputs, timed, limit)
        if batched != (state.batch is not None) or arrays[0].shape[:2] != (state.batch or 1, 1):
            wanted = "one token" if state.batch is None else f"{state.batch} tokens, one a sequence"
            raise InputError(
                f"step: expected {wanted}, got shapes {[value.shape for value in given]}; "
                "init_state(batch=...) sets the number of sequences"
            )
        # The network sets the mode that it steps in: to enter it twice takes longer than to check.
        now = tuple(array[:, 0] for array in self.features(arrays))
        output, hidden = self.module.step(state.hidden, now)
        result = np.asarray(output)
        new = State(state.position + 1, hidden, state.batch)
        return (cast(Array, result[0]) if state.batch is None else result), new

    def generate(self, prompt: Any, steps: int) -> Array:
        """Continue a prompt: the output at each token is the input at the next.

        Args:
          prompt: token ids (time,) or (batch, time).
          steps: number of tokens to add.

        Returns:
          int64 (steps,) or (batch, steps): the tokens after the prompt.

        Raises:
          InputError: the program has not one Token input and one Token output that fits it.
        """
        kinds = list(self.program.inputs.values())
        out = self.program.output_type
        if (
            len(kinds) != 1
            or not isinstance(kinds[0], Token)
            or out is None
            or out.size > kinds[0].size
        ):
            raise InputError(
                f"generate needs one Token input and a Token output that is not larger, got "
                f"{self.program!r}; annotate the function with -> lsrl.Token(n)"
            )
        _check_count("generate: steps", steps)
        arrays, batched = check_inputs(self.program.inputs, [prompt], self.program.max_length)
        longest = self.program.max_length
        if longest is not None and arrays[0].shape[1] + steps - 1 > longest:
            raise InputError(
                f"generate: {arrays[0].shape[1]} + {steps} tokens exceed max_length={longest}"
            )
        with self.device_mode():
            tokens = self.module.generate(self.features(arrays), int(steps))
        result = np.asarray(tokens).astype(np.int64)
        return result if batched else cast(Array, result[0])

    def self_test(self, sequences: int = 4, length: int = 64, seed: int = 0) -> None:
        """Check on the device at hand what the certificate relies on, and the program itself.

        Runs random and extreme inputs in whole-sequence and step mode against the reference
        evaluator: equal where the certificate says exact, else within its bound.

        Raises:
          SelfTestError: says which condition or token differs.
        """
        with self.device_mode():
            self.module.self_test()
        difference = compare(self, sequences=sequences, length=length, seed=seed)
        if difference is not None:
            raise SelfTestError(
                f"{self.program.name} on {self.target} ({self.dtype}, {jax.devices()[0]}): "
                f"{difference}"
            )

    def summary(self) -> str:
        """Layers, width, parameters and the certificate, as text."""
        return "\n".join(
            [
                f"{self.program.name} on {self.target}, {self.dtype}",
                f"layers       {self.num_layers} (critical path {self.schedule.critical_path})",
                f"width        {self.width}",
                f"parameters   {self.num_parameters} ({self.num_nonzero_parameters} nonzero)",
                str(self.certificate),
            ]
        )

    def report(self) -> str:
        """What the stages did: passes, depth, width by layer, parameters, time by stage."""
        passes = [
            f"  {record.name:<22} {record.before:>5} -> {record.after:<5} "
            f"{record.seconds * 1e3:8.2f} ms"
            for record in self.compilation.passes
        ]
        layers = [
            f"  layer {number:<3} width {layer.width:<5} {_abbreviated(labels)}"
            for number, (layer, labels) in enumerate(
                zip(self.schedule.layers, self.labels, strict=True), start=1
            )
        ]
        stages = [
            f"  {name:<22} {seconds * 1e3:22.2f} ms"
            for name, seconds in self.compilation.seconds.items()
        ]
        return "\n".join(
            [
                self.summary(),
                "passes (live nodes before and after)", *passes,
                "layers", *layers,
                "CPU time by stage", *stages,
            ]
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the model to one file (safetensors with a JSON header).

        The file appears whole or not at all: a failed save leaves an older file as it was.

        Raises:
          OSError: the file can't be written.
        """
        alteration = self.alteration
        storage.save(
            path,
            self.module.parameter_arrays() if alteration is None else self.module.arrays(),
            program=self.program,
            target=self.target,
            options=self.options,
            dtype=self.dtype,
            levels=self.schedule.levels,
            labels=self.labels,
            certificate=str(self.certificate),
            alteration=None
            if alteration is None
            else {
                "circuit": json.loads(alteration.circuit.to_json()),
                "card": alteration.card.to_json(),
                "certificate": self.certificate.to_json(),
            },
        )

    def export(self, format: str, path: Path, *, tie_word_embeddings: bool = False) -> None:
        """Write the model for another framework.

        Args:
          format: "torch", of the stock cells: a folder that plain torch and `lsrl.load_torch` read.
            "huggingface", of mamba and griffin with a token in and a token out: a folder that
            transformers' AutoModelForCausalLM and AutoTokenizer read.
          path: where to; an older export in its place is replaced, whole or not at all.
          tie_word_embeddings: of "huggingface": let the head be the embedding. It costs a layer and
            two channels.

        Raises:
          InputError: this target has no such format, or the format has no place for the program.
          PrecisionError: float32 can't hold the format's weights.
          FormatError: the path holds something that is no export.
          OSError: the path can't be written.
        """
        from lsrl.backends.cells.network import CellNetwork
        from lsrl.backends.residual.network import ResidualNetwork
        from lsrl.backends.residual.stream import Stream

        if tie_word_embeddings and format != "huggingface":
            raise InputError(f"export: format {format!r} has no embedding to tie a head to")
        if format == "huggingface" and self.alteration is not None:
            raise InputError(
                f"export: a checkpoint follows the compiler's layout, and this network is "
                f"{self.alteration.card.title}; export the model that it was made of"
            )
        if format == "torch" and isinstance(self.module, CellNetwork):
            torch_export.write(
                path,
                self.module,
                program=self.program,
                target=self.target,
                labels=self.labels,
                certificate=str(self.certificate),
            )
        elif (
            format == "huggingface"
            and isinstance(self.module, ResidualNetwork)
            and isinstance(self.schedule, Stream)
        ):
            huggingface_export.write(
                path,
                self.module,
                program=self.program,
                target=self.target,
                stream=self.schedule,
                certificate=str(self.certificate),
                tie=tie_word_embeddings,
            )
        else:
            raise InputError(
                f"export: target {self.target!r} has no format {format!r}; the targets rnn, lstm "
                "and gru have 'torch', the targets mamba and griffin have 'huggingface', and every "
                "model is saved with model.save(path)"
            )

    def __repr__(self) -> str:
        """One line."""
        exact = (
            "exact" if self.certificate.exact else f"error <= {self.certificate.error_bound:.2g}"
        )
        return (
            f"Model({self.program.name} on {self.target}, {self.dtype}: {self.num_layers} layers, "
            f"width {self.width}, {exact})"
        )

    @cached_property
    def circuit(self) -> "Circuit":
        """Which signal each channel holds, and what connects them; see `lsrl.interpret`."""
        if self.alteration is not None:
            return self.alteration.circuit
        from lsrl.interpret.locate import circuit_of

        return circuit_of(self)

    def features(self, arrays: Sequence[Array]) -> tuple[Any, ...]:
        """Inputs for the network: ids as int32, vectors in the model's dtype."""
        return tuple(
            array.astype(np.int32) if array.ndim == 2 else array.astype(jax.numpy.dtype(self.dtype))
            for array in arrays
        )

    @contextlib.contextmanager
    def device_mode(self) -> Iterator[None]:
        """float64 where the model is, and dot products without TF32 or bfloat16 shortcuts."""
        with contextlib.ExitStack() as stack:
            if self.dtype == "float64":
                stack.enter_context(jax.enable_x64(True))
            stack.enter_context(jax.default_matmul_precision("highest"))
            yield


def _check_count(what: str, value: Any) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InputError(f"{what} must be an int >= 1, got {value!r}")


def _abbreviated(labels: tuple[str, ...], most: int = 8) -> str:
    shown = ", ".join(labels[:most])
    return shown if len(labels) <= most else f"{shown}, … {len(labels) - most} more"
