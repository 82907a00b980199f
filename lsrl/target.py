"""What a target can do, as data: passes legalise by it, the scheduler counts by it."""

from dataclasses import dataclass

from lsrl.ir.ops import Op, Recall, SwapState, ThresholdState


@dataclass(frozen=True)
class Capabilities:
    """The abilities of a cell.

    Attributes:
      native: op types that a schedule for this target may contain.
      boolean_product: a product with a {0,1} operand is a native gate.
      general_product: a product of two general signals is native too.
      reads_own_states: an affine row can read the states of its own layer at the same token,
        because the layer's recurrence spans all of its units; then a ReLU on a state shares the
        state's layer.
      holds_affine: an affine map may be held from layer to layer; if not, what it reads is, as far
        as its readers allow, and each of them composes the map into its own weights.
      carry_signed: hidden units that carry one channel which can be negative over a layer.
      carry_positive: the same for a channel that can't.
      longest_delay: tokens that a native delay reaches back at most.
      diagonal: states have no coupling between channels and only factors from 0 to 1, as in
        selective state spaces; see `lsrl.passes.diagonal`.
      alternating: such states have factors from -1 to below 1 instead; see `lsrl.passes.alternate`.
    """

    native: frozenset[type[Op]]
    boolean_product: bool = False
    general_product: bool = False
    reads_own_states: bool = True
    holds_affine: bool = True
    carry_signed: int = 1
    carry_positive: int = 1
    longest_delay: int = 0
    diagonal: bool = False
    alternating: bool = False

    @property
    def holds_automata(self) -> bool:
        """Whether threshold states become swaps and recalls; see `lsrl.passes.automata`."""
        return {SwapState, Recall} <= self.native and ThresholdState not in self.native
