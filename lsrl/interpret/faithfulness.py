"""How faithful a claim is: what the outputs do when all is taken out that it does not mark."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lsrl import arguments
from lsrl.circuit import OUTPUT, Channel, Circuit
from lsrl.errors import InputError
from lsrl.interpret.interventions import other_sequences, wiring_of
from lsrl.interpret.score import (
    EdgeClaim,
    NodeClaim,
    check_claim,
    class_of,
    grouped_edges,
    grouped_nodes,
)
from lsrl.interpret.truth import Classes, Truth, counted_outputs
from lsrl.interpret.wiring import Wiring
from lsrl.ir.numbers import Array
from lsrl.ir.types import check_inputs
from lsrl.model import Model

# Rows of one run of the network: runs of one shape share their compilation.
ROWS = 256


def faithfulness(
    model: Model,
    claim: NodeClaim | EdgeClaim,
    inputs: Sequence[Array],
    *,
    threshold: float,
    classes: Classes | None = None,
    seed: int = 0,
) -> float:
    """Keep what a claim marks, take the information out of the rest, and look at the outputs.

    Nodes that are not marked take the values that they have on another sequence. Edges are taken
    out reader by reader: every node is worked out again from its marked sources, with their own
    values so worked out, and from unmarked ones with those of another sequence. Recurrent sources
    that are marked have their clean values, and a node always reads itself.

    Args:
      model: of the claim.
      claim: about nodes or edges.
      inputs: one array an input, as for `Model.run`, of several sequences.
      threshold: from which on an entry counts as marked.
      classes: see `score`.
      seed: of which sequence takes its values from which.

    Returns:
      Share of the tokens at which the outputs that no distractor feeds stay as they were.

    Raises:
      InputError: as for `score`; or there is one sequence only.
    """
    arguments.instance("faithfulness", model, Model, "lsrl.compile")
    arrays, batched = check_inputs(model.program.inputs, inputs, model.program.max_length)
    if not batched or len(arrays[0]) < 2:
        raise InputError("faithfulness takes values of other sequences; give a batch of two")
    check_claim("faithfulness", claim)
    arguments.count("faithfulness: seed", seed, 0)
    return Ablation(model, Truth(model.circuit, classes), arrays, seed).share(claim, threshold)


class Ablation:
    """A clean run and one with the sequences in another order, for claims about one network."""

    def __init__(self, model: Model, truth: Truth, inputs: Sequence[Array], seed: int = 0) -> None:
        """Run the network; see `faithfulness`."""
        self.truth, self.inputs, self.wiring = truth, inputs, wiring_of(model)
        self.batch = len(inputs[0])
        self.outputs, self.clean = held_in_parts(self.wiring, inputs)
        other = other_sequences(self.batch, seed)
        self.other = self.clean[:, other]
        self.counted = counted_outputs(model.circuit, self.outputs.shape[-1])
        self.directions = [_directions(truth, layer) for layer in range(len(truth.groups))]
        # Sums along directions that share units are rounded.
        exact = model.certificate.exact and not any(self.directions)
        self.tolerance = 0.0 if exact else 1e-4 * float(np.abs(self.outputs).max(initial=0.0))

    def share(self, claim: NodeClaim | EdgeClaim, threshold: float) -> float:
        """Share of the tokens at which the outputs stay; see `faithfulness`."""
        if isinstance(claim, NodeClaim):
            outputs = self._nodes(self._kept_nodes(claim, threshold))
        else:
            outputs = self._edges(*self._kept_edges(claim, threshold))
        with np.errstate(invalid="ignore"):
            change = np.abs(outputs - self.outputs)[..., self.counted]
            same = change.max(axis=-1) <= self.tolerance
        return float(same.mean())

    # ------------------------------------------------------------ what is kept, by groups

    def _kept_nodes(self, claim: NodeClaim, threshold: float) -> list[Array]:
        truth = self.truth
        if claim.units is not None:
            return [array >= threshold for array in grouped_nodes(truth, claim)]
        numbers = {
            class_of(truth, name)
            for name, value in (claim.signals or {}).items()
            if value >= threshold
        }
        kept = {name for name, number in truth.classes.signals.items() if number in numbers}
        return [np.array([bool(g.signals & kept) for g in groups], bool) for groups in truth.groups]

    def _kept_edges(self, claim: EdgeClaim, threshold: float) -> tuple[list[Array], list[Array]]:
        truth = self.truth
        if claim.level == "units":
            forward, recurrent = grouped_edges(truth, claim)
            kept = [a >= threshold for a in forward], [a >= threshold for a in recurrent]
        else:
            pairs = {
                (class_of(truth, source), class_of(truth, target))
                for (source, target), value in (claim.signals or {}).items()
                if value >= threshold
            }
            held: list[list[set[int | str]]] = [
                [{truth.classes.signals[name] for name in group.signals} for group in groups]
                for groups in truth.groups
            ]
            recurrent = [_paired(classes, classes, pairs) for classes in held]
            held.append([{OUTPUT}])
            kept = [_paired(here, there, pairs) for here, there in pairwise(held)], recurrent
        # What goes on as it is goes on.
        return [array | truth.same(layer) for layer, array in enumerate(kept[0])], kept[1]

    # ------------------------------------------------------------ runs

    def _nodes(self, kept: Sequence[Array]) -> Array:
        held, mask = self.clean.copy(), np.zeros((*self.clean.shape[:2], self.wiring.width), bool)
        for layer, keep in enumerate(kept):
            # What is kept runs freely, where units can be told apart.
            held[layer] = self._mixed(layer, self.clean[layer], keep)
            free = np.zeros(len(keep), bool) if self.directions[layer] else keep
            mask[layer] = self._units(layer, ~free)
        return held_in_parts(self.wiring, self.inputs, held, mask)[0]

    def _edges(self, forward: Sequence[Array], recurrent: Sequence[Array]) -> Array:
        truth, value = self.truth, self.clean[0]
        for layer in range(len(truth.groups) - 1):
            found, directions = self.clean[layer + 1].copy(), self.directions[layer + 1]
            passed = self._passed_on(layer + 1)
            numbers = np.flatnonzero(~passed).tolist()
            readers = self._readers(layer, value, forward[layer], recurrent[layer + 1], numbers)
            hooks = {number: made for number, (_, made) in zip(numbers, readers, strict=True)}
            for number in np.flatnonzero(passed).tolist():
                hooks[number] = self._mixed(layer, value, forward[layer][:, number])
            for number, made in hooks.items():
                if directions:
                    found += (made - self.clean[layer + 1]) @ directions[number]
                else:
                    units = list(truth.groups[layer + 1][number].units)
                    found[..., units] = made[..., units]
            value = found
        last = len(truth.groups) - 1
        ((outputs, _),) = self._readers(last, value, forward[-1], None, [0])
        return outputs

    def _passed_on(self, layer: int) -> Array:
        """(groups,) bool: those whose units have what the hook before has there."""
        groups = self.truth.groups[layer]
        if self.directions[layer]:
            return np.zeros(len(groups), bool)
        passed = self.wiring.passed_on[layer]
        return np.array([passed[list(group.units)].all() for group in groups], bool)

    def _readers(
        self,
        layer: int,
        value: Array,
        forward: Array,
        recurrent: Array | None,
        numbers: Sequence[int],
    ) -> list[tuple[Array, Array]]:
        """Outputs and the next hook of a run for each of some readers, which sees what it is to."""
        size = max(1, ROWS // self.batch)
        span, last = self.wiring.span(layer), recurrent is None
        clean, at = self.clean[span.start : span.stop], layer - span.start
        runs: list[tuple[Array, Array]] = []
        for start in range(0, len(numbers), size):
            chosen = numbers[start : start + size]
            held = np.concatenate([clean] * len(chosen), axis=1)
            mask = np.zeros((*held.shape[:2], self.wiring.width), bool)
            for place, reader in enumerate(chosen):
                rows = slice(place * self.batch, (place + 1) * self.batch)
                held[at, rows] = self._mixed(layer, value, forward[:, reader])
                mask[at, rows] = self._units(layer, np.ones(len(forward), bool))
                if recurrent is None or self.directions[layer + 1]:
                    continue
                others = self._others(layer + 1, reader)
                held[at + 1, rows] = self._mixed(
                    layer + 1, self.clean[layer + 1], recurrent[:, reader]
                )
                mask[at + 1, rows] = self._units(layer + 1, others)
            inputs = [np.concatenate([x] * len(chosen)) for x in self.inputs]
            outputs, made = held_in_parts(self.wiring, inputs, held, mask, span)
            reached = made[at if last else at + 1]
            runs += zip(np.split(outputs, len(chosen)), np.split(reached, len(chosen)), strict=True)
        return runs

    def _others(self, layer: int, reader: int) -> Array:
        """(groups,) bool: the groups that share no unit with the reader."""
        groups = self.truth.groups[layer]
        own = set(groups[reader].units)
        return np.array([not own & set(group.units) for group in groups], bool)

    def _mixed(self, layer: int, value: Array, keep: Array) -> Array:
        """The hook (batch, time, width) with the kept groups' values, and others' for the rest."""
        clean, other, directions = self.clean[layer], self.other[layer], self.directions[layer]
        found = clean.copy()
        for number, group in enumerate(self.truth.groups[layer]):
            source = value if keep[number] else other
            if directions:
                found += (source - clean) @ directions[number]
            else:
                found[..., list(group.units)] = source[..., list(group.units)]
        return found

    def _units(self, layer: int, which: Array) -> Array:
        """(width,) bool: the units of some groups."""
        groups = zip(self.truth.groups[layer], which, strict=True)
        units = [unit for group, wanted in groups if wanted for unit in group.units]
        return np.isin(np.arange(self.wiring.width), units)


def _paired(
    here: list[set[int | str]], there: list[set[int | str]], pairs: set[tuple[int | str, int | str]]
) -> Array:
    # What a class reads of itself is no edge that a claim could name.
    found = [
        [bool(a & b) or any((s, t) in pairs for s in a for t in b) for b in there] for a in here
    ]
    return np.array(found, bool).reshape(len(here), len(there))


def held_in_parts(
    wiring: Wiring,
    inputs: Sequence[Array],
    held: Array | None = None,
    mask: Array | None = None,
    span: range | None = None,
) -> tuple[Array, Array]:
    """As `Wiring.hold`, ROWS sequences at a time, the last part filled up."""
    outputs, made = [], []
    for start in range(0, len(inputs[0]), ROWS):
        rows = np.minimum(np.arange(start, start + ROWS), len(inputs[0]) - 1)
        some, found = wiring.hold(
            [x[rows] for x in inputs],
            None if held is None else held[:, rows],
            None if mask is None else mask[:, rows],
            span,
        )
        outputs.append(some[: len(inputs[0]) - start])
        made.append(found[:, : len(inputs[0]) - start])
    return np.concatenate(outputs), np.concatenate(made, axis=1)


# ---------------------------------------------------------------- units that hold several channels


def _directions(truth: Truth, layer: int) -> list[Array]:
    """Per group (width, width), from a change of the hook to the group's part of it.

    None at all where every unit belongs to one group.
    """
    units = truth.circuit.units[layer]
    held = [unit for group in truth.groups[layer] for unit in group.units]
    if len(held) == len(set(held)):
        return []
    channels = [c for c in truth.circuit.channels if c.layer == layer]
    read, write = channel_matrices(truth.circuit, layer, channels)
    width, maps = max(truth.circuit.units), []
    for group in truth.groups[layer]:
        own = [
            place
            for place, c in enumerate(channels)
            if truth.number(c.signal, c.element) == group.number and c.role != "constant"
        ]
        found = np.zeros((width, width))
        found[:units, :units] = read[own].T @ write[own]
        maps.append(found)
    return maps


def channel_matrices(
    circuit: Circuit, layer: int, channels: Sequence[Channel]
) -> tuple[Array, Array]:
    """(channels, units) twice: how channels are read off a hook, and what a unit changes by."""
    read, write = np.zeros((2, len(channels), circuit.units[layer]))
    for row, channel in enumerate(channels):
        read[row, list(channel.units)] = channel.weights
    # Of channels that the circuit says no directions of, those of the least change.
    least = np.linalg.pinv(read).T
    for row, channel in enumerate(channels):
        if channel.directions:
            write[row, list(channel.units)] = channel.directions
        else:
            write[row] = least[row]
    return read, write
