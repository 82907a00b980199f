"""The order of the passes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lsrl.ir.graph import Graph
from lsrl.ir.ops import Relu
from lsrl.passes.affine import fuse_affine, split_rows
from lsrl.passes.alternate import alternate_sums
from lsrl.passes.automata import AutomatonPass
from lsrl.passes.comparison import lower_relus, lower_steps
from lsrl.passes.decided import drop_decided
from lsrl.passes.diagonal import lower_to_diagonal
from lsrl.passes.extremes import lower_extremes
from lsrl.passes.fold import fold_tables, share_tables
from lsrl.passes.logic import flatten_conjunctions, flatten_relus
from lsrl.passes.memory import drop_told, lower_memory
from lsrl.passes.select import lower_selects
from lsrl.target import Capabilities

# Rounds of the simplifications; graphs settle in two or three.
MAX_ROUNDS = 6

Pass = Callable[[Graph], Graph]


@dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Attributes:
      name: the pass.
      before: live nodes before it.
      after: live nodes after it.
      seconds: CPU seconds.
    """

    name: str
    before: int
    after: int
    seconds: float

    def __str__(self) -> str:
        """One line."""
        milliseconds = self.seconds * 1e3
        return f"  {self.name:<22} {self.before:>5} -> {self.after:<5} {milliseconds:8.2f} ms"


@dataclass(frozen=True)
class Report:
    """What the stages of a compilation did.

    Attributes:
      passes: one record a pass, in order.
      seconds: CPU seconds by stage.
      automata: how each threshold state is held that was written as swaps and holds.
    """

    passes: tuple[PassRecord, ...]
    seconds: dict[str, float]
    automata: tuple[str, ...] = ()

    def text(self, layers: Sequence[str]) -> str:
        """Passes, what is told of the layers that they led to (a line each), and times."""
        times = (f"  {name:<22} {time * 1e3:22.2f} ms" for name, time in self.seconds.items())
        return "\n".join(
            [
                "passes (live nodes before and after)", *map(str, self.passes),
                *self.automata,
                *layers,
                "CPU time by stage", *times,
            ]
        )  # fmt: skip


@dataclass(eq=False)
class Pipeline:
    """Runs passes and records what each did.

    Attributes:
      verbatim: whether what the bounds decide, or what is known before any token, is left as it
        stands; affine maps are fused in any case.
      watch: called after each pass with its name and its graph, or None.
      automata: writes threshold states as swaps, for targets that hold them so.
      records: one a pass, in order.
    """

    verbatim: bool = False
    watch: Callable[[str, Graph], None] | None = None
    automata: AutomatonPass = field(default_factory=AutomatonPass)
    records: list[PassRecord] = field(default_factory=list, init=False)
    _settled: dict[Pass, Graph] = field(default_factory=dict, init=False)

    def run(self, name: str, graph: Graph, transform: Pass) -> Graph:
        """Apply one pass."""
        start = time.process_time()
        # What left this very graph as it was would do so again.
        result = graph if self._settled.get(transform) is graph else transform(graph)
        if result is graph:
            self._settled[transform] = graph
        seconds = time.process_time() - start
        self.records.append(PassRecord(name, len(graph.live()), len(result.live()), seconds))
        if self.watch is not None:
            self.watch(name, result)
        return result

    def simplify(self, graph: Graph) -> Graph:
        """Fold, merge and drop until nothing changes."""
        if self.verbatim:
            return self.run("fuse affine", graph, fuse_affine)
        for _ in range(MAX_ROUNDS):
            before = graph
            graph = self.run("fold tables", graph, fold_tables)
            graph = self.run("drop decided", graph, drop_decided)
            graph = self.run("fuse affine", graph, fuse_affine)
            if _same_terms(graph, before):
                return graph
        return graph

    def legalise(self, graph: Graph, target: Capabilities, robust: bool = False) -> Graph:
        """Write a graph in the target's native ops; `robust` as for `lsrl.compile`."""
        graph = self.run("drop bounds", graph, lambda g: drop_told(g, target))
        graph = self.run("lower extremes", graph, lambda g: lower_extremes(g, target))
        if target.holds_automata:
            graph = self.run("automata", graph, self.automata)
        if target.diagonal:
            graph = self.run("lower to diagonal", graph, lambda g: lower_to_diagonal(g, target))
        if target.alternating:
            graph = self.run("alternate sums", graph, alternate_sums)
        graph = self.run("lower memory", graph, lambda g: lower_memory(g, target))
        graph = self.run("lower selects", graph, lambda g: lower_selects(g, target, robust))
        graph = self.run("lower steps", graph, lambda g: lower_steps(g, target, robust))
        graph = self.simplify(graph)
        if not self.verbatim:
            if target.diagonal:
                graph = self.run("flatten relus", graph, flatten_relus)
            graph = self.run("flatten conjunctions", graph, flatten_conjunctions)
            graph = self.simplify(graph)
        if Relu not in target.native:
            graph = self.simplify(self.run("lower relus", graph, lambda g: lower_relus(g, target)))
        if target.holds_automata:
            graph = self.run("share tables", graph, share_tables)
        graph = self.run("split rows", graph, split_rows)
        # Graphs on the way here are of no more use, and a large program's take much room.
        self._settled.clear()
        return graph


def _same_terms(graph: Graph, other: Graph) -> bool:
    return len(graph) == len(other) and all(
        mine is its or (mine.op == its.op and mine.operands == its.operands)
        for mine, its in zip(graph.nodes, other.nodes, strict=True)
    )
