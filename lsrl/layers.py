"""What the layers of a network compute, as text: a formula for each channel where it is made."""

from collections import Counter
from collections.abc import Iterator, Sequence

from lsrl.ir.formulas import Formulas
from lsrl.ir.ops import Lookup
from lsrl.schedule import Layout, channel_label

# The most formulas that are told of one signal, and of one layer.
OF_SIGNAL, OF_LAYER = 4, 24


def layer_formulas(layout: Layout, labels: Sequence[Sequence[str]]) -> list[str]:
    """The formulas of the input map, of each layer, and of the output, a line each.

    Channels that are carried on from the layer before are left out, as are those that the compiler
    did not make.

    Args:
      layout: of the network.
      labels: for each layer, what its channels hold.
    """
    graph, made = layout.graph, layout.made_in()
    places = {
        channel_label(graph, node, row): (node, row)
        for node in graph.live()
        for row in range(graph.nodes[node].width)
    }
    tables = [
        name for name, (node, _) in places.items() if isinstance(graph.nodes[node].op, Lookup)
    ]
    formulas, lines = Formulas(graph), list[str]()
    for layer, names in enumerate([tables, *labels]):
        fresh = [places[name] for name in dict.fromkeys(names) if name in places]
        for name in names:
            places.pop(name, None)  # carried on from here
        if fresh:
            found = list(_told(formulas, fresh, layer, made))
            more = [f"    … {len(found) - OF_LAYER} more"] if len(found) > OF_LAYER else []
            lines += [f"  layer {layer}" if layer else "  input map", *found[:OF_LAYER], *more]
    return [*lines, "  output", f"    {formulas.read(graph.output)}"]


def _told(
    formulas: Formulas, elements: Sequence[tuple[int, int]], layer: int, made: dict[int, int]
) -> Iterator[str]:
    """The formulas of elements that a layer makes, and what they read of the layer itself."""
    graph, counts = formulas.graph, Counter[int]()
    for node, row in elements:
        counts[node] += 1
        if counts[node] <= OF_SIGNAL:
            read = sorted(formulas.read_by(node, row) - {node})
            own = ", ".join(graph.label(each) for each in read if layer and made[each] == layer)
            remark = f"   (at this token, of this layer: {own})" if own else ""
            yield f"    {channel_label(graph, node, row)} = {formulas.element(node, row)}{remark}"
    for node, count in counts.items():
        if count > OF_SIGNAL:
            yield f"    … {count - OF_SIGNAL} more of {graph.label(node)}"


def abbreviated(labels: Sequence[str], most: int = 8) -> str:
    """The first labels in one line, and how many more there are."""
    shown = ", ".join(labels[:most])
    return shown if len(labels) <= most else f"{shown}, … {len(labels) - most} more"
