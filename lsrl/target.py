"""What a target can do, as data: passes legalise by it, the scheduler counts by it."""

from dataclasses import dataclass, field

from lsrl.ir.ops import Op


@dataclass(frozen=True)
class Capabilities:
    """The abilities of a cell.

    Attributes:
      native: op types that a schedule for this target may contain.
      boolean_product: a product with a {0,1} operand is a native gate.
      reads_own_states: an affine row can read the states of its own layer at the same token, because
        the layer's recurrence spans all of its units; then a ReLU on a state shares the state's layer.
      product_units: hidden units of one product channel.
      carry_signed: hidden units that carry one channel which can be negative over a layer.
      carry_positive: the same for a channel that can't.
      sources: the theorem or rule behind each op type that is missing, for refusals.
    """

    native: frozenset[type[Op]]
    boolean_product: bool = False
    reads_own_states: bool = True
    product_units: int = 1
    carry_signed: int = 1
    carry_positive: int = 1
    sources: dict[type[Op], str] = field(default_factory=dict)
