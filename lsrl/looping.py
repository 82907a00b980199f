"""Models that read their own outputs: what `Model` does in loops."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import cast, get_args

import jax
import numpy as np
from numpy.typing import ArrayLike

from lsrl import arguments, requests
from lsrl.backends.engine import Machines
from lsrl.backends.loop import own_copy
from lsrl.backends.machines import Wired
from lsrl.backends.network import Network
from lsrl.backends.runner import EventEngine, Going, Left, Runner
from lsrl.certificate import Certificate
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.language.loop import Asked, carried_out, check_length
from lsrl.language.program import Program
from lsrl.language.run import Keeper, Record, Run
from lsrl.pytrees import Tree
from lsrl.run_files import load_run, save_run
from lsrl.state import Form, State, check_sequences, check_state

Path = str | os.PathLike[str]
RunnerName = requests.RunnerName
RUNNERS = get_args(RunnerName)
NOT_COMPARED = "the weights were changed"
# Sequences of one step up to which it is faster by events, one after another.
MOST_STEPPED = 8


class Looping(ABC):
    """The part of a model that feeds outputs back.

    Attributes:
      program: the program.
      module: the network.
    """

    program: Program
    module: Network
    _runner: Runner

    @property
    @abstractmethod
    def certificate(self) -> Certificate:
        """What is proven of the model with the parameters that it has now."""

    @abstractmethod
    def init_state(self, batch: int | None = None) -> State:
        """The state before the first token."""

    @abstractmethod
    def features(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Inputs for the network."""

    @abstractmethod
    def device_mode(self) -> AbstractContextManager[None]:
        """What the network needs of jax's settings."""

    @property
    @abstractmethod
    def reference_dtype(self) -> str | None:
        """The dtype in which the program's own values are the model's, bit for bit, if one is."""

    @property
    @abstractmethod
    def _state_form(self) -> Form: ...

    @abstractmethod
    def _owner(self) -> dict[str, str]: ...

    @abstractmethod
    def _taken(
        self, what: str, inputs: Sequence[ArrayLike], state: State | None, more: int, beyond: bool
    ) -> tuple[list[Array], bool]: ...

    @property
    @abstractmethod
    def proven(self) -> Certificate:
        """What is proven of the weights that the model was made with, whatever it holds now."""

    @abstractmethod
    def _check_certified(self, what: str, length: int, beyond: bool) -> None: ...

    def _by_events(
        self, what: str, runner: RunnerName, length: int, few: bool = True
    ) -> Wired | None:
        """The units to run by events, or None to run the network by jax.

        By itself it is events where the model is exact and they are faster: with numba always, but
        for steps of many sequences (not `few`), in plain Python for networks of many parameters.

        Args:
          what: is done.
          runner: as asked for.
          length: tokens in all.
          few: whether it is faster machine by machine.

        Raises:
          InputError: events are asked for and the model can't be run by them; says why.
        """
        arguments.choice(f"{what}: runner", runner, RUNNERS)
        # Nothing is wired, nor is anything compiled, for a run that jax does anyway.
        if runner == "jax" or (runner == "auto" and not (few and self._runner.pays(self.module))):
            return None
        wired, why = self._runner.ready(self.module, partial(self._no_events, runner == "events"))
        if why == NOT_COMPARED and runner == "events":
            self._runner.forget()
            wired, why = self._runner.ready(self.module, partial(self._no_events, True))
        certified = self.proven.tokens
        if wired is not None and certified is not None and length > certified:
            wired, why = None, f"nothing is proven of more than {certified} tokens"
        if runner == "events" and wired is None:
            raise InputError(
                f"{what}: runner='events' runs exact models alone, and of this one {why}; leave "
                "runner out, which takes jax"
            )
        return wired

    def _whole_by_events(
        self, arrays: Sequence[Array], state: State | None, runner: RunnerName, elsewhere: bool,
        with_state: bool,
    ) -> tuple[Array, Tree] | None:  # fmt: skip
        """Whole sequences and the state behind them by events, or None if jax is to run them.

        Args:
          arrays: the inputs (batch, time, ...).
          state: before them.
          runner: as asked for.
          elsewhere: whether jax is asked for something that events have not: chunks, or a mesh.
          with_state: whether the last state is wanted.

        Raises:
          InputError: events are asked for and can't run them; says why.
        """
        if elsewhere and runner == "events":
            raise InputError(
                "run: runner='events' has no chunk and no mesh, since it makes no arrays of whole "
                "layers; leave them out, or the runner"
            )
        wired = self._swept(arrays, state, runner, elsewhere)
        if wired is None:
            return None
        hidden = None if state is None else state.hidden
        return self._runner.whole(self.module, wired, hidden, arrays, with_state)

    def _swept(
        self, arrays: Sequence[Array], state: State | None, runner: RunnerName, elsewhere: bool
    ) -> Wired | None:
        """The units to run whole sequences by events, as of `_whole_by_events`."""
        batch, time = arrays[0].shape[:2]
        length = time + (0 if state is None else state.position)
        few = not elsewhere and self._runner.sweeps(self.module)
        wired = self._by_events("run", runner, length, few) if time else None
        if wired is None:
            return None
        if runner == "auto" and not wired.sweeps_faster(batch, time):
            return None
        return wired

    def hooks(self, arrays: Sequence[Array], units: Sequence[Sequence[int]]) -> Array | None:
        """Entries of what layers hand on, of whole sequences of an exact model.

        Args:
          arrays: the inputs: ids (batch, time) or vectors (batch, time, width).
          units: of each layer, the input map first: which entries.

        Returns:
          (batch, time, entries), float64 where no zero has a sign, the entries of a layer one after
          another; None where the network runs token by token alone.
        """
        watched = tuple(tuple(map(int, some)) for some in units)
        wired = self._swept(arrays, None, "auto", False)
        found = None if wired is None else self._runner.hooks(self.module, wired, arrays, watched)
        if found is None:
            with self.device_mode():
                found = self.module.run_hooks(self.features(arrays), watched)
            if found is not None:
                found += 0.0
        return found

    def _going_on(self, state: State, runner: RunnerName) -> Going | None:
        """Machines that the last step left at this very state, if all is as it was for that one.

        So what was checked of the state, the weights and the runner holds for the next step too.
        """
        left = state.kept if type(state) is State else None
        going = self._runner.going(self.module, left) if type(left) is Left else None
        if going is None or going.runner != runner or state.position >= going.most:
            return None
        return going

    def _taken_up(self, state: State, runner: RunnerName) -> Going | None:
        """Machines at a state, for steps by events; None if jax is to step."""
        few = state.batch is None or state.batch <= MOST_STEPPED
        wired = self._by_events("step", runner, state.position + 1, few)
        if wired is None:
            return None
        certified = self.proven.tokens
        most = math.inf if certified is None else certified
        return Going(self._runner, wired, state.hidden, most, runner)

    @abstractmethod
    def _known_weights(self) -> bool:
        """Whether the weights are known to be the compiled ones, without a look at them."""

    def _no_events(self, sure: bool) -> str:
        """Why the model can't be run by events; "" if nothing stands against it.

        To compare weights may take as long as to compile, so a step does it only to be `sure`.
        """
        if not sure and not self._known_weights():
            return NOT_COMPARED
        certificate = self.certificate
        if not certificate.exact:
            return f"the certificate says: {certificate.verdict}"
        if self.module.dtype == "bfloat16":
            return "the dtype is bfloat16"
        return self._too_fine()

    @abstractmethod
    def _too_fine(self) -> str:
        """Why changes of exact sums may not be exact in float64; "" if they are."""

    def _events_line(self) -> str:
        """How the model runs by events, for `report`."""
        runner = self._runner
        wired, why = runner.ready(self.module, partial(self._no_events, False))
        if wired is None:
            return f"not by events: {why}"
        units = f"{wired.units.count:,} units"
        if not runner.tokens:
            return f"{units}; no token run by events so far"
        mean = runner.work / runner.tokens
        return f"{mean:,.0f} of {units} a token, over the {runner.tokens:,} tokens run so far"

    def generate(
        self,
        prompt: ArrayLike,
        steps: int,
        *,
        state: State | None = None,
        runner: RunnerName = "auto",
        beyond_certificate: bool = False,
    ) -> Array:
        """Continue a prompt: the output at each token is the input at the next.

        Args:
          prompt: token ids (time,) or (batch, time).
          steps: number of tokens to add.
          state: what was read before the prompt, of `step` or `run`; it is not changed.
          runner: "jax"; "events", which touches only units that change; "auto" takes the faster of
            those that give the same bits. See docs/speed.md.
          beyond_certificate: read more tokens than `certificate.tokens`, where nothing is proven.

        Returns:
          int64 (steps,) or (batch, steps): the tokens after the prompt.

        Raises:
          InputError: the program has not one Token input and one Token output that fits it, or what
            is read is longer than the program or the certificate allows.
        """
        requests.check_generates(self.program)
        arguments.count("generate: steps", steps, most=requests.MOST_STEPS)
        arguments.flag("generate: beyond_certificate", beyond_certificate)
        arrays, batched = self._taken("generate", [prompt], state, steps, beyond_certificate)
        hidden = None if state is None else state.hidden
        length = arrays[0].shape[1] + int(steps) + (0 if state is None else state.position)
        wired = self._by_events("generate", runner, length - 1)
        if wired is not None:
            start = self.init_state(len(arrays[0])).hidden if hidden is None else hidden
            found = self._runner.generate(wired, start, arrays, int(steps))
            return found if batched else cast(Array, found[0])
        with self.device_mode():
            tokens = self.module.generate(self.features(arrays), int(steps), hidden)
        result = np.asarray(tokens).astype(np.int64)
        return result if batched else cast(Array, result[0])

    def loop(
        self,
        *prompt: ArrayLike | Run[State],
        steps: int,
        until: str = "halt",
        stdin: bytes | Sequence[bytes] = b"",
        state: State | None = None,
        check: bool = False,
        runner: RunnerName = "auto",
        beyond_certificate: bool = False,
        **unknown: object,
    ) -> Run[State]:
        """Run in a loop: outputs are the next input, as the program's `feedback` says.

        The machines of a batch stop one by one, and cost nothing from then on.

        Args:
          *prompt: as the inputs of `run`; the last token is the first instruction. Or a run, which
            goes on.
          steps: instructions to carry out at most.
          until: "halt" stops where the program halts; "steps" goes on all the same.
          stdin: keys; of a batch a list with those of each machine, or the same for all.
          state: what was read before the prompt, of `step`, `run` or another loop.
          check: also run the reference evaluator, which raises where a promise is broken; of a
            whole loop, so of no state and no run.
          runner: "jax"; "events", which touches only units that change; "auto" takes the faster of
            those that give the same bits. See docs/speed.md.
          beyond_certificate: read more tokens than `certificate.tokens`, where nothing is proven.
          **unknown: none; inputs go by order.

        Returns:
          What it did; that it did not halt, or waits for a key, is no error.

        Raises:
          InputError: the program has no feedback, the prompt lies outside its types, or the tokens
            exceed what the program or the certificate allows.
          BoundsError: with check=True, an instruction breaks a promise; says which.
        """
        options = {"steps": steps, "until": until, "stdin": stdin}
        asked = requests.check_loop(
            self.program, prompt, unknown, options, state,
            check=check, beyond_certificate=beyond_certificate,
        )  # fmt: skip
        before = state if asked.run is None else asked.run.state
        if before is not None:
            check_state("loop", before, self._state_form)
            check_sequences("loop", before, asked.machines if asked.batched else None)
        position = 0 if before is None else before.position
        length = check_length(asked, position, self.program.max_length)
        self._check_certified("loop", length, beyond_certificate)
        if check:
            self.program.loop(
                *asked.prompt, steps=steps, until=until, stdin=stdin, dtype=self.reference_dtype
            )
        wired = self._by_events("loop", runner, length)
        if wired is None:
            return _looped(self.module, asked, before, self._save_run)
        machines = asked.machines
        events = EventEngine(wired, asked.wiring, machines)
        hidden = self.init_state(machines).hidden if before is None else before.hidden
        after, record = carried_out(events, events.start(hidden), asked)
        self._runner.count(after)
        last = events.finish(after, jax.tree.structure(hidden))
        return _run(asked, before, last, record, self._save_run)

    def load_run(self, path: Path) -> Run[State]:
        """Read a run that `Run.save` wrote, to go on from it: `loop(run, steps=...)`.

        What it has put out so far is not in the file, but what it said and its memory are.

        Raises:
          FormatError: the file is damaged, truncated, newer, no run, or of another model.
          OSError: the file can't be read.
        """
        wiring, place = self.program.wiring(), arguments.path("load_run", path)
        run = load_run(place, self._owner(), wiring, self.init_state)
        return replace(run, keeper=self._save_run)

    def _save_run(self, run: Run[State], path: Path) -> None:
        save_run(arguments.path("save", path), run, self.module.dtype, self._owner())


def _looped(
    network: Network, asked: Asked[State], before: State | None, keeper: Keeper[State]
) -> Run[State]:
    """Carry out a loop that was asked for.

    Args:
      network: that does.
      asked: what for.
      before: the state to go on from; the initial one if None.
      keeper: writes the run to a file.
    """
    machines = asked.machines
    with network.mode():
        engine = Machines(network, asked.wiring, asked.steps, machines)
        hidden = network.init_state((machines,)) if before is None else before.hidden
        after, record = carried_out(engine, own_copy(hidden), asked)
    return _run(asked, before, after, record, keeper)


def _run(
    asked: Asked[State], before: State | None, hidden: Tree, record: Record, keeper: Keeper[State]
) -> Run[State]:
    """What a loop did that was asked for, from the state before to the hidden state behind it."""
    told = asked.prompt[0].shape[1] - 1 if asked.prompt else 0
    position = (0 if before is None else before.position) + told + int(record.done.max())
    state = State(position, hidden, asked.machines if asked.batched else None)
    return Run(state, asked.batched, asked.wiring, record, keeper)
