"""The compiled model: run, step, generate, test, save and load."""

import copy
import importlib
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Literal, NamedTuple, Unpack, cast, final, overload

import jax
import numpy as np
from numpy.typing import ArrayLike

from lsrl import arguments, requests, storage
from lsrl.backends import registry
from lsrl.backends.network import Network, precise
from lsrl.backends.runner import Runner
from lsrl.card import Card
from lsrl.certificate import Certificate
from lsrl.circuit import Circuit
from lsrl.exporting import Exporting
from lsrl.folders import replace_file
from lsrl.ir.numbers import Array, unsigned_zeros
from lsrl.ir.types import InputType, check_inputs
from lsrl.language.program import Program
from lsrl.layers import abbreviated, layer_lines
from lsrl.looping import Looping, Path, RunnerName
from lsrl.numerics import Numerics
from lsrl.options import Options
from lsrl.passes.pipeline import Report
from lsrl.proof import NOT_COMPILED, Proof, names_text, not_compiled
from lsrl.pytrees import Tree
from lsrl.schedule import Layout
from lsrl.sharding import run_over
from lsrl.showing import Table, card
from lsrl.state import (
    Form,
    State,
    check_sequences,
    check_state,
    form_of,
    load_state,
    owner_of,
    save_state,
)
from lsrl.testing.verification import Sampler, compare


class Alteration(NamedTuple):
    """What makes an altered network: how it came about, and what its channels hold.

    Attributes:
      circuit: the ground truth of the altered network.
      card: what was done and how right it is; see `lsrl.interpret.variants`.
    """

    circuit: Circuit
    card: Card


class _Stepped(NamedTuple):
    """What the last step by jax went by, and the state that it gave.

    What was found of them holds for a step from there too: to find it takes longer than some steps.

    Attributes:
      parameters: of the module, as `Network.kept` gave them.
      runner: that was asked for.
      state: that it gave.
      arrays: what the state held, since dictionaries can be changed; else the same as that.
    """

    parameters: Mapping[str, object]
    runner: RunnerName
    state: State
    arrays: Tree


@final
class Model(Looping, Exporting):
    """A compiled program: exact weights of a real network, with their certificate.

    The parameters are free to change: `module.replace_parameters`, an assignment to an `nnx.Param`,
    `nnx.update`, an optimiser's step or another module in place of `module`. What was proven is
    proven of the compiled weights alone, so a model with others says "not the compiled weights" in
    its certificate, and wherever it is printed, saved or exported. With the compiled ones put back,
    or equal ones, all is proven again.

    Attributes:
      program: the program.
      target: the target's name.
      options: how it was compiled.
      schedule: layers and labels.
      numerics: the dtype's format.
      module: the flax nnx module that runs it; its parameters can be replaced.
      alteration: of a network that the compiler did not make as it is; else None.

    Example:
      model = lsrl.compile(lsrl.programs.parity(max_length=200), "lstm")
      outputs, state = model.run([[1, 0], [0, 1]], return_state=True)  # (batch, time, outputs)
      print(outputs.shape, model.num_layers, model.num_parameters > 0)
      print(model.certificate.tokens, model.target, model.dtype)
    """

    def __init__(
        self,
        program: Program,
        target: str,
        options: Options,
        schedule: Layout,
        certificate: Certificate,
        numerics: Numerics,
        module: Network,
        report: Report,
        alteration: Alteration | None = None,
    ) -> None:
        """Made by `lsrl.compile`, or by `altered`.

        The certificate is about the weights that the module holds now.
        """
        self.program = program
        self.target = target
        self.options = options
        self.schedule = schedule
        self.numerics = numerics
        self.module = module
        self.compilation = report
        self.alteration = alteration
        self._proof = Proof(certificate, module)
        self._form: tuple[Network, Form] | None = None
        self._stepped: _Stepped | None = None
        self._runner = Runner()

    def altered(
        self, module: Network, alteration: Alteration, certificate: Certificate | None = None
    ) -> "Model":
        """Another model of the same program, with another network; this one stays as it is.

        Args:
          module: the network.
          alteration: its circuit and card.
          certificate: what is proven of it; nothing if None.
        """
        if certificate is None:
            certificate = not_compiled(self.proven, "weights changed")
        made_of = self.program, self.target, self.options, self.schedule, certificate, self.numerics
        return Model(*made_of, module, self.compilation, alteration)

    def __reduce__(self) -> tuple[Callable[[bytes], "Model"], tuple[bytes]]:
        """For other processes: what `save` writes, which is read as `lsrl.load` reads it."""
        # What loads compiles anew, and stands above this module.
        return importlib.import_module("lsrl.loading").restored, (self._content(),)

    def __copy__(self) -> "Model":
        """Another model that shares everything."""
        return self._copied(vars(self))

    def __deepcopy__(self, memo: dict[int, object]) -> "Model":
        """Another model with weights of its own, known as this one's are."""
        left = "_proof", "_stepped"
        own = {name: value for name, value in vars(self).items() if name not in left}
        return self._copied(copy.deepcopy(own, memo))

    def _copied(self, fields: dict[str, object]) -> "Model":
        made = object.__new__(Model)
        vars(made).update(fields)
        made._stepped = None
        made._proof = Proof(self.proven, made.module if self._proof.holds(self.module) else None)
        return made

    @property
    def certificate(self) -> Certificate:
        """What is proven of the model with the parameters that it has now."""
        changed = self.changed_parameters
        return not_compiled(self.proven, names_text(changed)) if changed else self.proven

    @property
    def proven(self) -> Certificate:
        """What is proven of the weights that the model was made with, whatever it holds now."""
        return self._proof.certificate

    @property
    def allowed_error(self) -> float:
        """Greatest error of an output that is as it should be: by what is proven of `proven`.

        0 where that is exact, infinite where nothing is proven; of an altered network of which
        nothing is proven, what its card counts as right.
        """
        bound = self.proven.error_bound
        if np.isfinite(bound) or self.card is None:
            return 0.0 if self.proven.exact else bound
        return self.card.tolerance

    @property
    def reference_dtype(self) -> str | None:
        """The dtype in which the reference evaluator gives the outputs bit for bit, if proven."""
        return self.dtype if self.proven.exact_in_dtype else None

    @property
    def changed_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that are not the weights that the model was made with.

        While the module holds the very arrays that it was made with, no number is looked at;
        others are compared, bit for bit, with weights that are compiled anew for it, once. Of an
        altered network there are none, so there other arrays count as changed.
        """

        def compiled() -> Network:
            return registry.find(self.target).lower(self.schedule, self.numerics)

        return self._proof.changed(self.module, compiled if self.alteration is None else None)

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
        return self.module.width

    @property
    def num_parameters(self) -> int:
        """Every entry of every parameter array, zeros included."""
        return self.module.num_parameters

    @property
    def num_nonzero_parameters(self) -> int:
        """Entries that are not zero."""
        return self.module.num_nonzero_parameters

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

    @overload
    def run(
        self,
        *inputs: ArrayLike,
        return_state: Literal[False] = ...,
        **options: Unpack[requests.RunOptions],
    ) -> Array: ...

    @overload
    def run(
        self,
        *inputs: ArrayLike,
        return_state: Literal[True],
        **options: Unpack[requests.RunOptions],
    ) -> tuple[Array, State]: ...

    def run(
        self,
        *inputs: ArrayLike,
        state: State | None = None,
        return_state: bool = False,
        check: bool = False,
        chunk: int | None = None,
        mesh: jax.sharding.Mesh | None = None,
        runner: RunnerName = "auto",
        beyond_certificate: bool = False,
        **unknown: object,
    ) -> Array | tuple[Array, State]:
        """Run whole sequences, every layer parallel over time where its recurrence allows it.

        Args:
          *inputs: one array an input: tokens (time,) or (batch, time); vectors (..., time, width).
          state: to go on from, of `step` or of an earlier run; it is not changed.
          return_state: also return the state after the last token.
          check: also run the reference evaluator, which raises where a promise is broken, or what
            is proven does not hold. It takes whole sequences, so no state. Of a model that is exact
            in its dtype it runs in that, and every output is held against it, bit for bit.
          chunk: tokens at a time; bounds the memory. Chosen by the network if None.
          mesh: devices to spread the batch over, whatever the mesh's axes; the results are those of
            one device. Each device compiles for itself.
          runner: "jax"; "events", of exact models, which skips weights that are zero; "auto" takes
            the faster of those that give the same bits. See docs/speed.md.
          beyond_certificate: run sequences that are longer than `certificate.tokens`, of which
            nothing is proven; what the state has read counts.
          **unknown: none; inputs go by order.

        Returns:
          (time, outputs), or (batch, time, outputs) if the inputs have a batch axis, in the model's
          dtype; row t depends on inputs up to and including t. With return_state, the state too.

        Raises:
          InputError: an input lies outside its declared type; says which and where. Or it is longer
            than the certificate speaks of. Or the state is of other sequences or another model.
          BoundsError: with check=True, a promise is broken; says which and where.
          SelfTestError: with check=True, an output is not the bits that are proven; says which.
        """
        requests.check_run(
            self.program, unknown, chunk, state,
            check=check, return_state=return_state, beyond_certificate=beyond_certificate,
        )  # fmt: skip
        arrays, batched = self._taken("run", inputs, state, 0, beyond_certificate)
        reference = self.reference_dtype
        wanted = requests.reference_run(self.program, arrays, reference) if check else None

        def run(part: tuple[Sequence[Array], Tree | None]) -> tuple[Array, Tree]:
            # The network sets the mode that it runs in.
            features = self.features(part[0])
            after: Tree = ()
            if return_state:
                values, after = self.module.run_with_state(features, chunk, part[1])
            else:
                values = self.module.run(features, chunk, part[1])
            # Where a bias is 0.0 a whole run leaves it out, and -1 * 0.0 stays -0.0.
            return unsigned_zeros(np.asarray(values)), after

        given = (arrays, None if state is None else state.hidden)
        elsewhere = chunk is not None or mesh is not None
        found = self._whole_by_events(arrays, state, runner, elsewhere, return_state)
        if found is None:
            found = run(given) if mesh is None else run_over(mesh, run, given)
        outputs, after = found
        if wanted is not None:
            requests.check_alike(self.program, reference, wanted, np.asarray(outputs))
        length = arrays[0].shape[1] + (0 if state is None else state.position)
        rows = outputs if batched else cast(Array, outputs[0])
        if not return_state:
            return rows
        return rows, State(length, after, len(arrays[0]) if batched else None)

    def _taken(
        self, what: str, inputs: Sequence[ArrayLike], state: State | None, more: int, beyond: bool
    ) -> tuple[list[Array], bool]:
        """Inputs as `check_inputs` has them; of the `more` tokens to come the last is not read."""
        arrays, batched = check_inputs(self.program.inputs, inputs, self.program.max_length)
        if state is not None:
            check_state(what, state, self._state_form)
            check_sequences(what, state, len(arrays[0]) if batched else None)
        length = requests.check_end(what, self.program, state, arrays[0].shape[1], more)
        self._check_certified(what, length, beyond)
        return arrays, batched

    @property
    def parameters(self) -> Mapping[str, object]:
        """The weights as a pytree of jax arrays, as `apply` takes them."""
        return self.module.parameters()

    def apply(
        self,
        parameters: Mapping[str, object],
        inputs: requests.Traceable,
        state: State | None = None,
        *,
        return_state: bool = False,
    ) -> jax.Array | tuple[jax.Array, State]:
        """Run whole sequences as a pure function, which jit, vmap, grad and shardings take.

        Of meshes those whose axes are `AxisType.Auto`.

        Args:
          parameters: like `parameters`: any numbers in the same pytree.
          inputs: one array, or a tuple with one an input: token ids (time,) or (batch, time),
            distributions over tokens (..., time, symbols), vectors (..., time, width).
          state: to go on from, of `run`, `step` or `apply`.
          return_state: also return the state after the last token.

        Returns:
          As `run`, as jax arrays, and to the bit where the certificate says exact. Of a
          distribution the network reads the mixture of its tokens' embeddings.

        Raises:
          InputError: inputs of another shape, or, where they are known, of other values than their
            types have; a sequence that is longer than the certificate speaks of.
        """
        number = self._number
        arrays, batched = requests.traceable("apply", self.program, inputs, number)
        tokens = arrays[0].shape[1]
        if not isinstance(position := 0 if state is None else state.position, jax.core.Tracer):
            length = requests.check_end("apply", self.program, state, tokens, 0)
            self._check_certified("apply", length, False)
        requests.check_numbers("apply", parameters, number)
        hidden = None if state is None else state.hidden
        values, after = self.module.apply(parameters, arrays, hidden)
        found = values if batched else values[0]
        if not return_state:
            return found
        return found, State(position + tokens, after, arrays[0].shape[0] if batched else None)

    def init_state(self, batch: int | None = None) -> State:
        """The state before the first token.

        Args:
          batch: number of sequences; None for one sequence without a batch axis.
        """
        if batch is not None:
            arguments.count("init_state: batch", batch)
        with self.device_mode():
            hidden = self.module.init_state((1 if batch is None else batch,))
        return State(0, hidden, batch)

    @cached_property
    def _kinds(self) -> tuple[InputType, ...]:
        return tuple(self.program.inputs.values())

    @property
    def _state_form(self) -> Form:
        if self._form is None or self._form[0] is not self.module:
            self._form = self.module, form_of(self.init_state().hidden)
        return self._form[1]

    def step(
        self,
        state: State,
        *inputs: ArrayLike,
        runner: RunnerName = "auto",
        beyond_certificate: bool = False,
        **unknown: object,
    ) -> tuple[Array, State]:
        """Read one token.

        Args:
          state: from `init_state` or an earlier step; it is not changed.
          *inputs: one value an input: an id, or a vector (width,); with a leading batch axis if the
            state has one.
          runner: "jax"; "events", which touches only units that change; "auto" takes the faster of
            those that give the same bits. See docs/speed.md.
          beyond_certificate: go on past `certificate.tokens`, where nothing is proven.
          **unknown: none; inputs go by order.

        Returns:
          The output (outputs,) or (batch, outputs), and the next state.

        Raises:
          InputError: an input lies outside its type, or the program's max_length is reached, or the
            length that the certificate speaks of. Or the state is of another model.
        """
        going = self._going_on(state, runner)
        parameters = None if going is not None else self._by_jax_again(state, runner)
        if going is None and parameters is None:
            check_state("step", state, self._state_form)
        arrays = requests.plain_token(self._kinds, state, inputs, self.program.max_length)
        if arrays is None or unknown:
            timed = requests.one_token(self.program, state, inputs, unknown)
            arrays = [array[:, 0] for array in timed]
        if going is None:
            self._check_certified("step", state.position + 1, beyond_certificate)
            if parameters is None:
                going = self._taken_up(state, runner)
        if going is not None:
            result, left = going.step(arrays)
            new = State(state.position + 1, None, state.batch, left)
            return (cast(Array, result[0]) if state.batch is None else result), new
        # The network sets the mode that it steps in: twice would take longer than the checks.
        if parameters is None:
            parameters = self.module.kept()
        output, hidden = self.module.stepped(parameters, state.hidden, self._converted(arrays, 1))
        result = np.asarray(output)
        new = State(state.position + 1, hidden, state.batch)
        held = hidden.copy() if isinstance(hidden, dict) else hidden
        self._stepped = _Stepped(parameters, runner, new, held)
        return (cast(Array, result[0]) if state.batch is None else result), new

    def _by_jax_again(self, state: State, runner: RunnerName) -> Mapping[str, object] | None:
        """The parameters, if jax gave this very state with them, and all is as it was then."""
        last = self._stepped
        if last is None or last.state is not state or last.runner != runner:
            return None
        hidden, arrays = state.hidden, last.arrays
        if isinstance(arrays, dict) and isinstance(hidden, dict):
            unchanged = hidden.keys() == arrays.keys()
            unchanged = unchanged and all(map(operator.is_, hidden.values(), arrays.values()))
        else:
            unchanged = isinstance(arrays, tuple)
        return last.parameters if unchanged and self.module.kept() is last.parameters else None

    def save_state(self, state: State, path: Path) -> None:
        """Write a state of this model to one file, whole or not at all; see `load_state`.

        Raises:
          InputError: the state is of another model.
          OSError: the file can't be written.
        """
        check_state("save_state", state, self._state_form)
        save_state(arguments.path("save_state", path), state, self.dtype, self._owner())

    def load_state(self, path: Path) -> State:
        """Read a state that `save_state` wrote, of this model or one with equal weights.

        Raises:
          FormatError: the file is damaged, truncated, newer, no state, or of another model.
          OSError: the file can't be read.
        """
        return load_state(arguments.path("load_state", path), self._owner(), self.init_state)

    def _owner(self) -> dict[str, str]:
        weights = self.module.arrays()
        return owner_of(self.program, self.target, self.dtype, self.options, weights)

    def _check_certified(self, what: str, length: int, beyond: bool) -> None:
        """Refuse to read more tokens than the certificate speaks of, unless that is asked for."""
        if not beyond:
            requests.check_certified(what, self.program, self.target, length, self.proven.tokens)

    def self_test(
        self, sequences: int = 4, length: int = 64, seed: int = 0, *, sampler: Sampler | None = None
    ) -> None:
        """Check on the device at hand what the certificate relies on, and the program itself.

        Runs random and extreme inputs in whole-sequence and step mode against the reference
        evaluator: equal where that is proven of the compiled weights, else within the bound that is
        proven of them. Inputs that break a promise are drawn anew, as far as others are found.

        Args:
          sequences: how many.
          length: tokens, at most the program's max_length.
          seed: of the random inputs.
          sampler: draws the inputs, for programs whose promises random ones seldom keep: from
            (numpy's random generator, sequences, length) to one array an input.

        Raises:
          SelfTestError: says which condition or token differs, or that next to nothing was tested.
        """
        with self.device_mode():
            self.module.self_test()
            self._runner.self_test(self.module)
        compared = compare(self, sequences=sequences, length=length, seed=seed, sampler=sampler)
        place = f"{self.program.name} on {self.target} ({self.dtype}, {jax.devices()[0]})"
        compared.check(place)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Sizes and what is certified, line by line: names and texts."""
        places = self.module.places().values()
        sparse = sum(place.pattern is not None for place in places)
        thin = f"; {sparse} of {len(places)} arrays are sparse" if sparse else ""
        return [
            ("layers", f"{self.num_layers} (critical path {self.schedule.critical_path})"),
            ("width", f"{self.width}"),
            ("parameters", f"{self.num_parameters} ({self.num_nonzero_parameters} nonzero{thin})"),
            *self.certificate.facts,
        ]

    def summary(self) -> str:
        """Layers, width, parameters and the certificate, as text."""
        title = f"{self.program.name} on {self.target}, {self.dtype}"
        return "\n".join([title, *(f"{name:<12} {value}" for name, value in self.facts)])

    def _repr_html_(self) -> str:
        """For notebooks: sizes, the certificate, and what the layers hold."""
        layers = list(enumerate(self.labels, start=1))
        rows = [(number, len(labels), abbreviated(labels)) for number, labels in layers]
        table = Table("layers", ("layer", "width", "holds"), rows, shut=len(rows) > 12)
        return card(f"{self.program.name} on {self.target}", self.facts, table)

    def report(self) -> str:
        """What the stages did: passes, layers with their width, formulas of channels, and times.

        Also how many units a token was, on average, of those run by events.
        """
        layers = layer_lines(self.schedule, self.labels)
        events = f"{'events':<12} {self._events_line()}"
        return f"{self.summary()}\n{events}\n{self.compilation.text(layers)}"

    def _known_weights(self) -> bool:
        return self._proof.holds(self.module)

    def _too_fine(self) -> str:
        if self.dtype != "float64":
            return ""  # its changes have room in float64
        backend = registry.find(self.target)
        analysis = backend.analysis(self.schedule, self.numerics)(self.schedule.graph.tokens)
        needed = analysis.bits_needed()
        spare = needed is not None and needed < self.numerics.bits
        return "" if spare else "a change of a sum takes more bits than float64 has"

    def save(self, path: Path) -> None:
        """Write the model to one file (safetensors with a JSON header).

        The file appears whole or not at all: a failed save leaves an older file as it was.

        Raises:
          OSError: the file can't be written.
        """
        replace_file(arguments.path("save", path), self._content())

    def _content(self) -> bytes:
        """Of the file."""
        arrays = self.module.parameter_arrays()
        altered: storage.AlterationJson | None = None
        if self.alteration is not None:
            arrays = self.module.arrays()
            altered = {
                "circuit": self.alteration.circuit.to_content(),
                "card": self.alteration.card.to_json(),
                "certificate": self.certificate.to_json(),
                "weights": storage.weights_digest(arrays),
            }
        return storage.model_content(
            arrays,
            program=self.program,
            target=self.target,
            options=self.options,
            dtype=self.dtype,
            levels=self.schedule.levels,
            labels=self.labels,
            certificate=str(self.certificate),
            alteration=altered,
        )

    def __repr__(self) -> str:
        """One line."""
        certificate = self.certificate
        unknown = not np.isfinite(certificate.error_bound)
        exact = certificate.verdict
        if unknown and (self.alteration is not None or self.changed_parameters):
            exact = NOT_COMPILED
        return (
            f"Model({self.program.name} on {self.target}, {self.dtype}: {self.num_layers} layers, "
            f"width {self.width}, {exact})"
        )

    @cached_property
    def circuit(self) -> Circuit:
        """Which signal each channel holds, and what connects them; see `lsrl.interpret`."""
        return self.compiled_circuit if self.alteration is None else self.alteration.circuit

    @cached_property
    def compiled_circuit(self) -> Circuit:
        """The circuit of the network that the compiler makes, also of an altered model."""
        found = registry.find(self.target).anatomy(
            self.schedule, self.numerics, self.program.name, self.options
        )
        feedback = self.program.feedback
        return found if feedback is None else found.looped(feedback.input, range(*feedback.output))

    def features(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Inputs for the network: ids as int32, vectors in the model's dtype."""
        return self._converted(arrays, 2)

    def _converted(self, arrays: Sequence[Array], axes: int) -> tuple[Array, ...]:
        """As `features`, where ids have so many axes."""
        number = self._number
        return tuple(
            [array.astype(np.int32 if array.ndim == axes else number, copy=False)
             for array in arrays]
        )  # fmt: skip

    @cached_property
    def _number(self) -> np.dtype[np.generic]:
        return jax.numpy.dtype(self.dtype)

    def device_mode(self) -> AbstractContextManager[None]:
        """float64 where the model is, and dot products without TF32 or bfloat16 shortcuts."""
        return precise(self.dtype)
