"""The one interface of targets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

from lsrl.backends.anatomy import Hooks, StackCircuit
from lsrl.certificate import Analyse, Analysis
from lsrl.circuit import Circuit
from lsrl.errors import LsrlError, PrecisionError
from lsrl.golden import GoldenState
from lsrl.ir.bounds import Facts
from lsrl.ir.graph import Graph
from lsrl.ir.numbers import Array
from lsrl.ir.ops import (
    Constant,
    Hold,
    Op,
    Product,
    Recall,
    RecurrentState,
    RunningMax,
    SelectiveState,
    SwapState,
    ThresholdState,
)
from lsrl.ir.ops.states import MOST_HEIGHTS
from lsrl.language.program import Program
from lsrl.levels import AT_INPUT, Levels
from lsrl.numerics import Numerics
from lsrl.options import DEFAULT, Options
from lsrl.parameters import Size
from lsrl.schedule import Layout, Schedule, schedule_layers
from lsrl.target import Capabilities

if TYPE_CHECKING:  # jax loads when a network is made, and not to name the targets
    from lsrl.backends.network import Network

# Where a target computes what.
Plan = TypeVar("Plan", bound=Layout)
# Writes a model to a path: from path, network, schedule and `ExportRequest`.
Exporter = Callable[..., None]
# Tells a model's cache: from network, schedule, `ExportRequest`, inputs and number of tokens.
Recorder = Callable[..., GoldenState]

# A value takes the place of another one in these.
OVERWRITING = frozenset({SelectiveState, Hold})

# Why a linear recurrence can't hold a signal, for refusals and `lsrl.explain`.
REASONS: dict[type[Op], str] = {
    Product: (
        "a product of two general signals needs a multiplicative gate, which this cell has not "
        "(Petrov et al. 2024, section 3: linear RNNs against gated linear RNNs)"
    ),
    SelectiveState: (
        "a selective state needs a transition that depends on the input, and this recurrence "
        "is fixed (Gu and Dao 2023, section 3.1)"
    ),
    Hold: (
        "a hold that is not told its change needs a transition that depends on the input, and this "
        "recurrence is fixed; with lsrl.hold(x, when, change=) it is a running sum"
    ),
    ThresholdState: (
        "a threshold state feeds a nonlinearity back in time, and a fixed linear recurrence can't: "
        "S5 and A5 are out of reach of linear targets at any fixed depth unless TC0 = NC1 "
        "(Merrill et al. 2024)"
    ),
    RecurrentState: (
        "a recurrent state feeds a ReLU back in time, and a fixed linear recurrence can't "
        "(Merrill et al. 2024)"
    ),
    RunningMax: (
        "a running maximum of so many values is a state that feeds a ReLU back in time, which this "
        f"cell has not; of up to {MOST_HEIGHTS} values beyond the least it is told by whether each "
        "was reached: lsrl.bound(x, low, high), or compare x // n"
    ),
    SwapState: (
        "a swap state applies the reflections that its input names, and this cell has none: with "
        "factors from 0 to 1 a recurrence misses even parity (Grazzi et al. 2025), and the word "
        "problem of S5, which is NC1-complete, is out of reach of diagonal and of fixed ones at "
        "any fixed depth unless TC0 = NC1 (Merrill et al. 2024); deltanet holds it, and rnn, lstm "
        "and gru hold the same automaton as a lsrl.threshold_state, as "
        "lsrl.programs.permutations writes it"
    ),
    Recall: (
        "a recall reads an associative state, which this cell has not; what lsrl.memory reads, "
        "every target makes of what it has"
    ),
}


def capabilities_of(made: Iterable[type[Op]]) -> Capabilities:
    """What a target can do that makes these ops, and has an input map for the rest."""
    native: frozenset[type[Op]] = frozenset({*AT_INPUT, Constant, *made})
    return Capabilities(native, boolean_product=Product in native)


class ExportRequest(NamedTuple):
    """What an exporter is told of a model, besides its network and schedule.

    Attributes:
      program: what it carries out.
      target: the target's name.
      labels: the signal in each channel of each layer.
      certificate: what is proven, as text.
      exact: whether it says exact.
      tokens: the number of tokens that the certificate speaks of; None for any.
      alteration: what was done to the compiled network, and how right it is: the title, and further
        lines; None if nothing was.
      circuit: the ground truth of the network, made when it is asked for.
      tie_word_embeddings: whether a language model's head shall be its embedding.
      headless: whether there shall be no head, whatever the program's inputs and outputs are.
      separate: whether layers that could be one module shall be a module each.
      architecture: the class that shall run it, if a format has several; None for the first.
    """

    program: Program
    target: str
    labels: tuple[tuple[str, ...], ...]
    certificate: str
    exact: bool
    tokens: int | None
    alteration: str | None
    circuit: Callable[[], Circuit]
    tie_word_embeddings: bool
    headless: bool
    separate: bool
    architecture: str | None


class Least(NamedTuple):
    """What a network takes at least.

    Attributes:
      numbers: of its parameters.
      node: of the graph, for which it takes most of them.
      what: that is needed for the node.
    """

    numbers: int
    node: int
    what: str


class Backend(ABC, Generic[Plan]):
    """A target: what its cell can do, and how a schedule becomes its weights.

    Attributes:
      name: the target's name.
      cell: the cell in one line, for tables.
      capabilities: what passes and scheduler go by.
      remarks: column of the table of targets to what it says there in place of "yes".
      dtypes: those that models come in, the widest last.
      dtype_reason: why not in others.
      has_stream: whether its layers read and write a residual stream.
    """

    name: ClassVar[str]
    cell: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    remarks: ClassVar[dict[str, str]] = {}
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16", "float32", "float64")

    dtype_reason: ClassVar[str] = ""
    has_stream: ClassVar[bool] = False

    @property
    def features(self) -> dict[str, str]:
        """Column to text, the row of the table of targets."""
        able, native = self.capabilities, self.capabilities.native
        # A hold is the selective state of targets without coupling.
        columns = {
            "product of two signals": able.general_product,
            "selective": not native.isdisjoint(OVERWRITING),
            "threshold": ThresholdState in native or able.holds_automata,
            "recurrent": RecurrentState in native,
            "swap": SwapState in native,
        }
        factors = "factors in [-1, 1]" if able.alternating else "real decay in [0, 1]"
        diagonal = f"{factors}, delays, rings up to max_length"
        return {
            "linear state": diagonal if able.diagonal else "any A",
            "select/gate with a {0,1} operand": "yes" if able.boolean_product else "big-M ReLU",
            **{column: "yes" if has else "no" for column, has in columns.items()},
            **self.remarks,
        }

    def check_dtype(self, numerics: Numerics) -> None:
        """Refuse a dtype that the target does not come in.

        Raises:
          PrecisionError: says why, and which dtype to take.
        """
        if numerics.dtype not in self.dtypes:
            raise PrecisionError(
                f"target {self.name!r} comes in {', '.join(self.dtypes)}, got {numerics.dtype}: "
                f"{self.dtype_reason}"
            )

    def refusal(self, op: Op, operands: list[Facts]) -> str | None:
        """Why the target can't hold an op, or None if it can."""
        if isinstance(op, Product):
            able = self.capabilities.general_product or any(fact.boolean for fact in operands)
        elif isinstance(op, Hold):
            able = len(operands) == 3 or not self.capabilities.native.isdisjoint(OVERWRITING)
        elif isinstance(op, RunningMax):
            able = RecurrentState in self.capabilities.native and operands[0].counted
            able = able or op.heights(operands[0]) is not None
        else:
            able = type(op) in self.capabilities.native
        return None if able or type(op) not in REASONS else REASONS[type(op)]

    def offending(self, graph: Graph) -> list[tuple[int, str]]:
        """Every live node that the target can't hold, with the reason."""
        found = []
        for i in graph.live():
            node = graph.nodes[i]
            reason = self.refusal(node.op, [graph.facts[operand] for operand in node.operands])
            if reason is not None:
                found.append((i, reason))
        return found

    @abstractmethod
    def analysis(self, schedule: Plan, numerics: Numerics) -> Analyse[Analysis]:
        """The conditions of exactness by number of tokens, for `certify`.

        Raises:
          PrecisionError: the dtype has no room for some weight; names the signal.
        """

    @abstractmethod
    def schedule(self, graph: Graph, levels: Levels | None, options: Options = DEFAULT) -> Plan:
        """Where each value is computed: a `Schedule`, or what this target has in its place.

        Args:
          graph: in the target's native ops.
          levels: an earlier solution to follow instead of solving for the least width.
          options: those of `lsrl.compile`.
        """

    def anatomy(
        self, schedule: Plan, numerics: Numerics, program: str, options: Options = DEFAULT
    ) -> Circuit:
        """Which signal each channel of the network holds; options are those of the schedule.

        Raises:
          LsrlError: the target does not say.
        """
        raise self._untold()

    def hooks(self, schedule: Plan, numerics: Numerics) -> Hooks:
        """Where a stack of layers holds the schedule's channels.

        Raises:
          LsrlError: the target does not say.
        """
        raise self._untold()

    def _untold(self) -> LsrlError:
        return LsrlError(
            f"target {self.name!r} does not say where its network holds its signals, so it has no "
            "circuit"
        )

    def exporters(self) -> Mapping[str, Exporter]:
        """What writes models of this target for other frameworks, by the format's name."""
        return {}

    def recorder(self) -> Recorder | None:
        """What tells the golden states of this target's models; None if it has none."""
        return None

    def softened(self, size: float) -> "Backend[Plan] | None":
        """The target with pre-activations of ±size, where activations are only nearly exact.

        What that does to a value at every token is taken back by whoever reads it.

        Args:
          size: above 0.

        Returns:
          A target that lowers the same schedules, and is not in the registry; None where nothing is
          saturated.
        """
        return None

    def mixes_exactly(self, schedule: Plan, numerics: Numerics, matrix: Array) -> bool:
        """Whether all sums keep every bit after an orthogonal matrix has mixed a stream's channels.

        Raises:
          LsrlError: the target does not say.
        """
        raise LsrlError(f"target {self.name!r} does not say how sums of a mixed stream round")

    def least(self, graph: Graph) -> Least | None:
        """What a program takes at least, where its simplified graph tells; before any pass.

        It is for programs of which passes would make more than fits into a machine. By default
        nothing is known before the schedule, and `sizes` says all.
        """
        return None

    @abstractmethod
    def sizes(self, schedule: Plan, numerics: Numerics) -> Mapping[str, Size]:
        """How large each parameter of the network would be, by its flat name; none is made."""

    @abstractmethod
    def lower(self, schedule: Plan, numerics: Numerics) -> "Network":
        """The network with the schedule's weights, in the dtype of `numerics`."""


class StackBackend(Backend[Schedule]):
    """A target that is a stack of recurrent layers, with `Schedule`s for plans."""

    def schedule(self, graph: Graph, levels: Levels | None, options: Options = DEFAULT) -> Schedule:
        """The layers, of the least width."""
        able = replace(
            self.capabilities,
            reads_own_states=not options.inspectable,
            holds_affine=not options.verbatim,
        )
        return schedule_layers(graph, able, levels, inspectable=options.inspectable)

    def anatomy(
        self, schedule: Schedule, numerics: Numerics, program: str, options: Options = DEFAULT
    ) -> Circuit:
        """Which signal each channel of the network holds, by the `hooks`."""
        names = program, self.name, numerics.dtype
        builder = StackCircuit(names, schedule.graph, options.inspectable)
        return builder.circuit(schedule, self.hooks(schedule, numerics))
