"""The stages of a compilation, each timed, and each graph shown to whoever watches."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from lsrl.backends.base import Backend
from lsrl.backends.network import Network
from lsrl.certificate import Certificate, certify
from lsrl.errors import ProgramError
from lsrl.ir.graph import Graph
from lsrl.ir.verify import verify
from lsrl.language.program import Program
from lsrl.levels import Levels
from lsrl.numerics import Numerics
from lsrl.options import AUTOMATA, MOST_PARAMETERS, AutomatonLimits, Options
from lsrl.passes.automata import AutomatonPass
from lsrl.passes.pipeline import Pipeline
from lsrl.passes.unroll import unroll_states
from lsrl.schedule import Layout
from lsrl.support import check_least, check_length, check_size, check_supported, offending

# Called with the name of what ran last, a pass or a stage, and with what it made.
Watch = Callable[[str, Graph | Layout], None]


class Stages:
    """What a program goes through on its way to a network.

    Attributes:
      pipeline: the passes, with a record of each.
      seconds: CPU seconds by the name of the stage, in order.
    """

    def __init__(
        self,
        program: Program,
        backend: Backend[Layout],
        numerics: Numerics,
        options: Options,
        watch: Watch | None = None,
        limits: AutomatonLimits = AUTOMATA,
    ) -> None:
        """Nothing has run yet."""
        self._limits = limits
        self._program, self._backend, self._numerics = program, backend, numerics
        self._options, self._watch = options, watch
        self._unrolled = False
        self.pipeline = Pipeline(options.verbatim, watch, AutomatonPass(limits))
        self.seconds: dict[str, float] = {}

    def simplify(self, graph: Graph) -> Graph:
        """Drop and merge what can be, whatever the target."""
        with self._timed("simplify"):
            return self.pipeline.simplify(graph)

    def unroll(self, graph: Graph) -> Graph:
        """Write states that the target can't hold as delays, if that is wanted and needed."""
        self._unrolled = self._options.legalise == "unroll" and bool(
            offending(graph, self._backend, self._limits)
        )
        if not self._unrolled:
            return graph
        check_length(self._program)
        with self._timed("unroll"):
            capabilities = self._backend.capabilities
            return self.pipeline.run("unroll", graph, lambda g: unroll_states(g, capabilities))

    def check(self, graph: Graph, most_parameters: int = MOST_PARAMETERS) -> Graph:
        """Refuse what the target can't hold, all of it at once, or what can only be too large."""
        check_supported(self._program, graph, self._backend, self._limits)
        check_least(self._program, graph, self._backend, self._numerics, most_parameters)
        return graph

    def legalise(self, graph: Graph) -> Graph:
        """Write the graph in the target's own ops."""
        with self._timed("legalise"):
            capabilities = self._backend.capabilities
            return verify(self.pipeline.legalise(graph, capabilities, self._options.robust))

    def schedule(self, graph: Graph, levels: Levels | None) -> Layout:
        """Say in which layer each value is computed."""
        with self._timed("schedule"):
            try:
                layout: Layout = self._backend.schedule(graph, levels, self._options)
            except (LookupError, TypeError, ValueError) as error:
                if levels is None:
                    raise
                raise ProgramError(
                    f"levels: expected those of an equal program on {self._backend.name!r}, got "
                    f"others ({error!r}); pass model.schedule.levels of one, or leave them out"
                ) from error
        if self._watch is not None:
            self._watch("schedule", layout)
        return layout

    def measure(self, layout: Layout, most_parameters: int = MOST_PARAMETERS) -> Layout:
        """Refuse a network that would be too large."""
        with self._timed("measure"):
            check_size(self._program, layout, self._backend, self._numerics, most_parameters)
        return layout

    def certify(self, layout: Layout) -> Certificate:
        """Prove what the network's outputs will be."""
        with self._timed("certify"):
            analysis = self._backend.analysis(layout, self._numerics)
            certificate = certify(layout, self._numerics, analysis)
            certificate = replace(certificate, closed=self._program.feedback is not None)
        if not self._unrolled:
            return certificate
        return replace(certificate, tokens=self._program.max_length)

    def lower(self, layout: Layout) -> Network:
        """Write the weights."""
        with self._timed("lower"):
            return self._backend.lower(layout, self._numerics)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] = time.process_time() - start
