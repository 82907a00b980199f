"""The program graph: immutable, hash-consed, in topological order.

A `Graph` is a tuple of nodes whose operands come before them. A pass makes a new graph; each new
node keeps the ids of the program's signals whose value it carries (`origins`), and with them their
names, source lines and facts.
"""

import operator
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lsrl.ir import groups as exclusion
from lsrl.ir.bounds import Facts
from lsrl.ir.groups import Groups
from lsrl.ir.inference import Inference
from lsrl.ir.labels import Name, names_of
from lsrl.ir.node import Node, Source
from lsrl.ir.ops import Input, Op
from lsrl.ir.trail import Trail

if TYPE_CHECKING:
    import networkx as nx


_Entry = TypeVar("_Entry", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Graph:
    """An immutable program.

    Attributes:
      nodes: in topological order; a node's id is its position.
      output: id of the node that the program returns.
      facts: what is known of each node over `tokens` tokens.
      tokens: number of tokens that the facts hold for.
      program: the graph as the user wrote it; None on that graph itself.
      trail: where that one's signals are, if it has real numbers among them.
    """

    nodes: tuple[Node, ...]
    output: int
    facts: tuple[Facts, ...]
    tokens: int
    program: "Graph | None" = None
    trail: Trail | None = None

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.nodes)

    def same_as(self, other: "Graph") -> bool:
        """Whether another graph has the same nodes with the very same facts."""
        same_facts = all(map(operator.is_, self.facts, other.facts))
        return self.output == other.output and same_facts and self.nodes == other.nodes

    @property
    def inputs(self) -> dict[int, Input]:
        """The input ops by node id, in parameter order."""
        return dict(self._inputs)

    @cached_property
    def _inputs(self) -> tuple[tuple[int, Input], ...]:
        found = [(i, node.op) for i, node in enumerate(self.nodes) if type(node.op) is Input]
        return tuple(sorted(found, key=lambda item: item[1].index))

    @cached_property
    def kinds(self) -> frozenset[type[Op]]:
        """The ops that its nodes have."""
        return frozenset(type(node.op) for node in self.nodes)

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the ids of the nodes that read it, each once."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for operand in dict.fromkeys(node.operands):
                found[operand].append(i)
        return tuple(tuple(readers) for readers in found)

    def live(self, roots: Iterable[int] | None = None) -> list[int]:
        """Ids of the nodes that the output (or `roots`) depends on, in order."""
        return list(self._live) if roots is None else self._needed(roots)

    @cached_property
    def _live(self) -> list[int]:
        return self._needed([self.output])

    def _needed(self, roots: Iterable[int]) -> list[int]:
        wanted = set(roots)
        for i in range(len(self.nodes) - 1, -1, -1):
            if i in wanted:
                wanted.update(self.nodes[i].operands)
        return sorted(wanted)

    def facts_at(self, tokens: int) -> tuple[Facts, ...]:
        """Facts of every node if the program runs for `tokens` tokens only."""
        if tokens == self.tokens:
            return self.facts
        known = None if self.program is None else self.program.facts_at(tokens)
        found: list[Facts] = []
        for i, node in enumerate(self.nodes):
            fact = self._inference.facts(i, found, tokens)
            for origin in node.origins if known is not None else ():
                fact = fact.meet(known[origin])  # type: ignore[index]
            # What earlier passes knew of groups is no matter of the length.
            found.append(replace(fact, groups=self.facts[i].groups))
        return tuple(found)

    @cached_property
    def _inference(self) -> Inference:
        return Inference(self.nodes, written=self.program is None)

    @cached_property
    def real(self) -> bool:
        """Whether some live signal is a real number, on no grid that float64 holds."""
        return not all(self.facts[i].counted for i in self.live())

    @cached_property
    def settled(self) -> bool:
        """Whether the facts of all live nodes hold at any length: proven op by op.

        Nor do those of the program depend on the length, which passes go by.
        """
        if self.program is not None and not self.program.settled:
            return False
        return all(self._settles(i) for i in self.live())

    def _settles(self, index: int) -> bool:
        node, fact = self.nodes[index], self.facts[index]
        if node.op.settled([self.facts[i] for i in node.operands], self.tokens):
            return True
        # What a node is a sum of may grow, and yet it equals a signal that does not.
        known = () if self.program is None else (self.program.facts[i] for i in node.origins)
        return any(fact.same_range(other) for other in known)

    @cached_property
    def called(self) -> tuple[Name, ...]:
        """The name of each node."""
        return names_of(self)

    @cached_property
    def expressions(self) -> dict[Source, str]:
        """What is called after an expression of the program: its last node's name."""
        found = zip(self.nodes, self.called, strict=True)
        return {node.sources[0]: name.after for node, name in found if node.sources}

    def label(self, index: int) -> str:
        """The name of a node, which no other has: the user's, or the expression that made it."""
        return self.called[index].text

    def source(self, index: int) -> str:
        """The user's line that made a node, looking through unnamed helpers to their operands."""
        pending = [index]
        while pending:
            node = self.nodes[pending.pop(0)]
            if node.sources:
                return str(node.sources[0])
            pending.extend(node.operands)
        return "(no source line)"

    def to_networkx(self) -> "nx.MultiDiGraph[int]":
        """A networkx copy: nodes carry `label`, `op`, `width`; edges carry the operand's `slot`."""
        import networkx as nx  # loads when first used

        graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
        for i, node in enumerate(self.nodes):
            graph.add_node(i, label=self.label(i), op=node.op.name, width=node.width)
            for slot, operand in enumerate(node.operands):
                graph.add_edge(operand, i, slot=slot)
        return graph

    def dump(self, details: bool = False) -> str:
        """The live graph as text, one node a line; golden tests read it.

        Args:
          details: tell each channel's interval and grid, and the user's line, too.
        """
        live = self.live()
        number = {node: position for position, node in enumerate(live)}
        lines = []
        for i in live:
            node, fact = self.nodes[i], self.facts[i]
            operands = ", ".join(f"%{number[operand]}" for operand in node.operands)
            known = f"in [{_number(fact.low.min())}, {_number(fact.high.max())}]"
            remarks = [", ".join(node.names)] if node.names else []
            if details:
                known = _shorten(f"{fact}", 120)
                # Of a path only the file, so that the text is the same on every machine.
                remarks += [f"at {Path(line.file).name}:{line.line}" for line in node.sources[:1]]
            remark = f"  # {' '.join(remarks)}" if remarks else ""
            parameters = _parameters(node.op)
            lines.append(
                f"%{number[i]} = {node.op.name}({operands}){parameters}"
                f" : {node.width} {known}{remark}"
            )
        return "\n".join([*lines, f"return %{number[self.output]}"])


def _number(value: float) -> str:
    return f"{float(value):.12g}"


def _parameters(op: Op) -> str:
    """An op's parameters but for those that have their default."""
    shown = [
        f"{parameter.name}={_shorten(repr(getattr(op, parameter.name)))}"
        for parameter in fields(op)
        if getattr(op, parameter.name) != parameter.default
    ]
    return f" {{{', '.join(shown)}}}" if shown else ""


def _shorten(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


@dataclass
class GraphBuilder:
    """Collects nodes, giving equal terms one node. Private to whoever is making a graph.

    Attributes:
      tokens: number of tokens that facts are inferred for.
      program: the user's graph, whose facts the origins of new nodes bring along; None while that
        graph itself is being made.
      earlier: the graph that is being rewritten; what it knows of a term holds for the same op on
        the same facts, and inference is most of a pass.
    """

    tokens: int
    program: Graph | None = None
    earlier: Graph | None = None
    nodes: list[Node] = field(default_factory=list)
    facts: list[Facts] = field(default_factory=list)
    _known: dict[tuple[Op, tuple[int, ...]], int] = field(default_factory=dict)
    # Nodes that are put off, with all of the earlier graph that each stands for.
    _later: dict[int, list[tuple[Graph, int]]] = field(default_factory=dict)

    # The line of the node for which a node was made.
    _purposes: dict[int, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look at nothing yet."""
        self._inference = Inference(self.nodes, written=self.program is None)
        # Whether these are the first nodes of the earlier graph, as they were: most passes change
        # little, and what is equal to what is looked up only from the first change on.
        self._as_before = self.earlier is not None
        self._looked_up = 0

    def _index(self, key: tuple[Op, tuple[int, ...]]) -> int | None:
        """The node of a term."""
        self._as_before = False
        for index in range(self._looked_up, len(self.nodes)):
            node = self.nodes[index]
            self._known.setdefault((node.op, node.operands), index)
        self._looked_up = len(self.nodes)
        return self._known.get(key)

    @cached_property
    def _inferred(self) -> dict[tuple[Op, tuple[int, ...]], Facts]:
        """What is known, by op and by the identity of the operands' facts."""
        if self.earlier is None:
            return {}
        facts = self.earlier.facts
        return {
            (node.op, tuple(id(facts[i]) for i in node.operands)): fact
            for node, fact in zip(self.earlier.nodes, facts, strict=True)
        }

    def add(self, op: Op, *operands: int) -> int:
        """The id of the node op(operands), made if it is new.

        Raises:
          ShapeError: the operands do not fit the op.
        """
        index = self._index((op, operands))
        if index is not None:
            return self._made(index)
        width = op.width_of([self.nodes[i].width for i in operands])
        read = [self.facts[i] for i in operands]
        known = self._inferred.get((op, tuple(map(id, read))))
        index = len(self.nodes)
        self.nodes.append(Node(op, operands, width))
        self.facts.append(
            self._inference.facts(index, self.facts, self.tokens) if known is None else known
        )
        return index

    def put_off(self, earlier: Graph, old: int, operands: tuple[int, ...]) -> int:
        """A place for a node of the earlier graph, of which nothing is inferred unless it is added.

        Its readers are made without it.
        """
        key = (earlier.nodes[old].op, operands)
        index = self._index(key)
        if index is None:
            index = len(self.nodes)
            self.nodes.append(Node(*key, earlier.nodes[old].width))
            self.facts.append(earlier.facts[old])
            self._later[index] = []
        if index in self._later:
            self._later[index].append((earlier, old))
        else:
            self.stand_for(index, earlier, old)
        return index

    def stand_instead(self, index: int, put_off: int) -> None:
        """Let a node stand for all that one stands for that was put off, and that it equals."""
        for earlier, old in self._later.get(put_off, ()):
            self.stand_for(index, earlier, old)

    def _made(self, index: int) -> int:
        """A node, made if it was put off."""
        if index in self._later:
            for operand in self.nodes[index].operands:
                self._made(operand)
            stands_for = self._later.pop(index)
            self.facts[index] = self._inference.facts(index, self.facts, self.tokens)
            for earlier, old in stands_for:
                self.stand_for(index, earlier, old)
        return index

    def take_over(self, count: int) -> None:
        """Have the first nodes of the earlier graph as they were, up to so many."""
        if self.earlier is not None:
            span = slice(len(self.nodes), count)
            self.nodes += self.earlier.nodes[span]
            self.facts += self.earlier.facts[span]

    def keep(self, earlier: Graph, old: int, operands: tuple[int, ...]) -> int | None:
        """The id of a node of the earlier graph, taken over with all that is known of it.

        None where it has to be made anew, since its operands are not known as they were, or where
        an equal node is there already.
        """
        node, index = earlier.nodes[old], len(self.nodes)
        if not (self._as_before and index == old and earlier is self.earlier):
            for i, k in zip(operands, node.operands, strict=True):
                if self.facts[i] is not earlier.facts[k]:
                    return None
            if self._index((node.op, operands)) is not None:
                return None
        origins = (old,) if earlier.program is None else node.origins
        if operands != node.operands or origins != node.origins:
            node = Node(node.op, operands, node.width, origins, node.names, node.sources)
        self.nodes.append(node)
        self.facts.append(earlier.facts[old])
        return index

    def describe(
        self,
        index: int,
        names: Sequence[str] = (),
        sources: Sequence[Source] = (),
        origins: Sequence[int] = (),
    ) -> None:
        """Give a node more names, source lines and origins."""
        node = self.nodes[index]
        self.nodes[index] = Node(
            node.op, node.operands, node.width,
            _and_also(node.origins, origins),
            _and_also(node.names, names),
            _and_also(node.sources, sources),
        )  # fmt: skip

    def inherit(self, index: int, node: Node, groups: Groups = exclusion.NONE) -> None:
        """Let a node stand for all that `node` of an earlier graph stood for, and its groups."""
        self._as_before = False
        before, known = self.facts[index].groups, self.nodes[index].origins
        fresh = [origin for origin in node.origins if origin not in known]
        if fresh or node.names or node.sources:  # of a long chain only the end has any
            self.describe(index, node.names, node.sources, fresh)
        if self.program is not None:
            for origin in fresh:
                self.facts[index] = self.facts[index].meet(self.program.facts[origin])
        if groups:
            fact = self.facts[index]
            both = exclusion.union(fact.groups, groups)
            self.facts[index] = fact if both is fact.groups else replace(fact, groups=both)
        if self.facts[index].groups is not before:
            self._inference.regrouped(index)

    def narrow(self, index: int, known: Facts) -> None:
        """Let more be known of a node."""
        self._as_before = False
        before = self.facts[index].groups
        self.facts[index] = self.facts[index].meet(known)
        if self.facts[index].groups is not before:
            self._inference.regrouped(index)

    def stand_for(self, index: int, earlier: Graph, old: int, new: bool = False) -> None:
        """Let a node stand for one of an earlier graph.

        Args:
          index: of the node.
          earlier: the earlier graph.
          old: its node there.
          new: whether it was made for that one; then it is known by the very same facts, if no
            others are known of it, so that what reads it need not be looked at again.
        """
        node = earlier.nodes[old]
        same = node
        if earlier.program is None:
            same = Node(node.op, node.operands, node.width, (old,), node.names, node.sources)
        was = earlier.facts[old]
        self.inherit(index, same, was.groups)
        fact = self.facts[index]
        if new and fact.once == was.once and fact.groups is was.groups and fact.same_range(was):
            self.facts[index] = was

    def made_for(self, indices: Iterable[int], source: Source) -> None:
        """Note the line that nodes were made for, which is theirs if they get no other."""
        self._purposes |= dict.fromkeys(indices, source)

    def build(self, output: int) -> Graph:
        """The finished graph."""
        for index, source in self._purposes.items():
            if not self.nodes[index].sources:
                self.nodes[index] = replace(self.nodes[index], sources=(source,))
        return Graph(tuple(self.nodes), output, tuple(self.facts), self.tokens, self.program)


def _and_also(known: tuple[_Entry, ...], added: Sequence[_Entry]) -> tuple[_Entry, ...]:
    """What is known, and what is added to it, each once."""
    if not added:
        return known
    return tuple(dict.fromkeys((*known, *added)))


Rule = Callable[[GraphBuilder, Graph, int, tuple[int, ...]], int | None]
# What a rule returns for a node without which all its readers will most likely be made.
PUT_OFF = -1


def rewrite(graph: Graph, rule: Rule, looks_at: Collection[type[Op]] | None = None) -> Graph:
    """Rebuild a graph, replacing nodes by what a rule makes of them; dead nodes fall away.

    Args:
      graph: the graph to read; it is not changed.
      rule: called as rule(builder, graph, id, new operands) for each live node in order. It returns
        the id of the replacement in the builder, None to keep the node's op, or PUT_OFF.
      looks_at: the ops of which the rule makes anything; by default any.

    Returns:
      The new graph; every replacement keeps the names, lines and facts of what it replaces.
    """
    # Inputs stay even where unread: they are the program's signature.
    live = graph.live([graph.output, *graph.inputs])
    all_live = graph.program is not None and len(live) == len(graph)
    if all_live and looks_at is not None and graph.kinds.isdisjoint(looks_at):
        return graph
    builder = GraphBuilder(graph.tokens, graph.program or graph, graph)
    nodes, made = graph.nodes, builder.nodes
    kinds = graph.kinds if looks_at is None else frozenset(looks_at)
    new = list(range(len(graph)))
    # Up to the first node that is replaced all are as they were: most passes change little.
    as_before = all_live
    for i in live:
        node = nodes[i]
        looked_at = type(node.op) in kinds
        if as_before:
            if not looked_at:
                continue
            builder.take_over(i)
            replacement = rule(builder, graph, i, node.operands)
            if replacement is None and len(made) == i:
                continue
            as_before, before, operands = False, i, node.operands
        else:
            operands = tuple([new[operand] for operand in node.operands])
            before = len(made)
            replacement = rule(builder, graph, i, operands) if looked_at else None
        if node.sources and len(made) > before:
            builder.made_for(range(before, len(made)), node.sources[0])
        if replacement == PUT_OFF:
            new[i] = builder.put_off(graph, i, operands)
            continue
        kept = builder.keep(graph, i, operands) if replacement is None else None
        if kept is None:
            kept = builder.add(node.op, *operands) if replacement is None else replacement
            builder.stand_for(kept, graph, i, new=kept >= before)
        new[i] = kept
    if as_before:
        return graph
    built = builder.build(new[graph.output])
    if graph.program is not None and built.same_as(graph):
        return graph
    stood, live = live, built.live([built.output, *built.inputs])
    trail = graph.trail
    if graph.program is None and graph.real:
        trail = Trail.begun(graph.nodes)
    if trail is not None:
        trail = trail.followed(graph.nodes, built.nodes, {i: new[i] for i in stood}, live)
    return replace(built if len(live) == len(built) else prune(built), trail=trail)


def prune(graph: Graph) -> Graph:
    """Drop the nodes that neither the output nor the signature needs."""
    live = graph.live([graph.output, *graph.inputs])
    new = {old: position for position, old in enumerate(live)}
    nodes = []
    for i in live:
        node = graph.nodes[i]
        operands = tuple(new[operand] for operand in node.operands)
        nodes.append(Node(node.op, operands, node.width, node.origins, node.names, node.sources))
    facts = tuple(graph.facts[i] for i in live)
    return Graph(tuple(nodes), new[graph.output], facts, graph.tokens, graph.program)
