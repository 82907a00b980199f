"""How large signals can be by their bounds: the unit of noise relative to ranges."""

import numpy as np

from lsrl import arguments
from lsrl.backends.axes import Legend
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.ir.ops import Product
from lsrl.ir.types import Vector
from lsrl.model import Model
from lsrl.parameters import Parameter, entries, with_entries
from lsrl.schedule import Layer, Schedule


def weight_ranges(model: Model) -> dict[str, Parameter]:
    """For each weight of a network the range of what it writes over that of what it reads.

    Ranges are the greatest absolute values by the program's declared and inferred bounds, whatever
    the inputs; a weight of something that is always 0 has range 0. A weight into a ReLU writes
    the ReLU's signal.

    Args:
      model: of a target whose units hold signals as they are, such as a linear one.

    Returns:
      By parameter name an array of the parameter's shape; of a sparse one those of its weights.

    Raises:
      InputError: another target, or a signal without bounds.
    """
    arguments.instance("weight_ranges", model, Model, "lsrl.compile")
    schedule, legend = model.schedule, model.module.legend()
    found: dict[str, Parameter] = {}
    arrays = model.module.parameter_arrays()
    held = [legend.spaces[legend.behind(number + 1)].signals for number in range(model.num_layers)]
    if not isinstance(schedule, Schedule) or not all(held):
        raise InputError(
            f"noise relative to the range of signals needs a linear target, got {model.target!r}"
        )
    sizes = {legend.behind(0): _features(model, legend)}
    for number, layer in enumerate(schedule.layers, start=1):
        sizes |= _units(schedule, layer, legend, legend.behind(number))
    output = schedule.graph.facts[schedule.graph.output].magnitude
    for name, axes in legend.arrays.items():
        made = axes.axes[-1][0].space
        if axes.kind not in ("matrix", "bias") or made == legend.behind(0):
            continue
        size = sizes[made] if made else output
        if axes.kind == "matrix":
            read = sizes[axes.axes[0][0].space]
            read, array = np.where(read > 0, read, np.inf), arrays[name]
            if not isinstance(array, np.ndarray):
                rows, columns = array.tocoo().coords
                found[name] = with_entries(array, size[columns] / read[rows])
                continue
            size = size / read[:, None]
        found[name] = size
    if not all(np.isfinite(entries(array)).all() for array in found.values()):
        raise InputError(
            f"{model.program.name}: noise relative to the range of signals needs bounds for all of "
            "them; declare a max_length"
        )
    return found


def _features(model: Model, legend: Legend) -> Array:
    """The greatest size of each feature."""
    first, inputs = legend.behind(0), list(model.program.inputs.values())
    arrays = {n: abs(v.astype(np.float64)) for n, v in model.module.parameter_arrays().items()}
    found = np.zeros(legend.spaces[first].size)
    for name, axes in legend.arrays.items():
        if axes.axes[-1][0].space != first:
            continue
        if axes.kind == "bias":
            found = found + arrays[name]
            continue
        declared = inputs[int(name.split(".")[1])]
        if isinstance(declared, Vector):
            found = found + np.maximum(np.abs(declared.low), np.abs(declared.high)) @ arrays[name]
        else:
            greatest = arrays[name].max(axis=0)
            if not isinstance(greatest, np.ndarray):
                greatest = greatest.toarray()
            found = np.maximum(found, greatest)
    return found


def _units(schedule: Schedule, layer: Layer, legend: Legend, name: str) -> dict[str, Array]:
    """The greatest sizes of a layer's units, and of those that they show."""
    graph, shows = schedule.graph, legend.spaces[name].shows
    found = {
        name: np.concatenate(
            [np.zeros(0), *(graph.facts[u.node].magnitude[u.channels] for u in layer.units)]
        )
    }
    if shows is not None:
        hidden, *sides = shows
        found[hidden] = np.zeros(legend.spaces[hidden].size)
        for group in layer.units:
            node = graph.nodes[group.node]
            # The factors of a product are units of their own.
            signals = node.operands if isinstance(node.op, Product) else (group.node,)
            places = slice(group.start, group.start + group.width)
            for side, signal in zip(sides, signals, strict=False):
                found[hidden][side[places]] = graph.facts[signal].magnitude[group.channels]
    return found
