"""The compiler at size: its work grows with the signals, and its short cuts give the same bits."""

# Programs are annotated with values, as users write them.
# mypy: disable-error-code="valid-type"

from collections.abc import Callable

import numpy as np
import pytest

import lsrl
from benchmarks.workloads import shapes
from lsrl.ir import bounds, few_terms, id_sets
from lsrl.ir import groups as exclusion
from lsrl.ir.bounds import facts
from lsrl.ir.inference import Inference
from lsrl.ir.matrix import Matrix
from lsrl.parameters import dense
from lsrl.passes.pipeline import Pipeline

SHAPES = shapes()


class Work:
    """Counts what a compilation does: matrices and their entries, and facts inferred."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries = self.inferred = 0
        take, infer = Matrix._take, Inference.facts

        def counted_take(matrix, data, indices, indptr, shape):  # type: ignore[no-untyped-def]
            self.entries += 1 + len(data) + (0 if indptr is None else len(indptr))
            return take(matrix, data, indices, indptr, shape)

        def counted_infer(inference, index, known, tokens):  # type: ignore[no-untyped-def]
            self.inferred += 1 + len(inference.nodes[index].operands)
            return infer(inference, index, known, tokens)

        monkeypatch.setattr(Matrix, "_take", counted_take)
        monkeypatch.setattr(Inference, "facts", counted_infer)

    def of(self, program: lsrl.Program) -> int:
        """What a compilation of the program took."""
        self.entries = self.inferred = 0
        lsrl.compile(program, "linear_rnn")
        return self.entries + self.inferred


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_work_grows_with_the_signals(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work, build = Work(monkeypatch), SHAPES[name]
    first, second, third = (work.of(build(count)) for count in (8, 22, 36))
    # As many signals more take as much more.
    assert third - second <= 1.25 * (second - first)


def chain_of(step: Callable[[lsrl.Signal, lsrl.Signal], lsrl.Signal], count: int) -> lsrl.Program:
    @lsrl.program
    def chain(x: lsrl.Vector(3, low=0, high=count, step=1)):  # type: ignore[no-untyped-def]
        total = x
        for k in range(1, count):
            total = step(total, lsrl.relu(x - k))
        return total

    return chain


@pytest.mark.parametrize("kind", ["subtracted from", "turned"])
def test_a_chain_of_named_maps_is_folded_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = np.roll(np.eye(3), 1, axis=0)
    step = {
        "subtracted from": lambda total, term: term - total,
        "turned": lambda total, term: turn @ total + term,
    }[kind]
    work = Work(monkeypatch)
    first, second, third = (work.of(chain_of(step, count)) for count in (8, 22, 36))
    assert third - second <= 1.1 * (second - first)


def test_a_chain_of_conditions_is_flattened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of(count: int) -> lsrl.Program:
        @lsrl.program
        def passed(x: lsrl.Vector(1, low=0, high=count, step=1)):  # type: ignore[no-untyped-def]
            result = x >= 1
            for k in range(2, count):
                result = result & (x >= k)
            return result

        return passed

    work = Work(monkeypatch)
    first, second, third = (work.of(all_of(count)) for count in (8, 22, 36))
    assert third - second <= 1.1 * (second - first)
    model = lsrl.compile(all_of(9), "linear_rnn")
    assert model.num_layers == lsrl.compile(all_of(3), "linear_rnn").num_layers
    assert model.run(np.arange(10)[:, None])[:, 0].tolist() == [0] * 8 + [1, 1]


def weights(program: lsrl.Program) -> dict[str, bytes]:
    arrays = lsrl.compile(program, "linear_rnn").module.parameter_arrays()
    return {name: dense(array).tobytes() for name, array in arrays.items()}


def same_network(count: int) -> None:
    chain, tree = (weights(SHAPES[name](count)) for name in ("chain of sums", "tree of sums"))
    assert chain == tree


def test_a_chain_of_sums_is_the_network_of_a_tree() -> None:
    same_network(30)


@pytest.mark.studies
def test_a_long_chain_of_sums_is_the_network_of_a_tree() -> None:
    same_network(500)


def test_a_chain_of_sums_takes_the_work_of_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)
    chain, tree = (work.of(SHAPES[name](40)) for name in ("chain of sums", "tree of sums"))
    assert chain <= 1.2 * tree


def test_shapes_compute_what_they_say() -> None:
    rng = np.random.default_rng(0)
    for name in ("chain of sums", "delays", "nested selects", "counters"):
        program = SHAPES[name](5)
        inputs = rng.integers(0, 6, (2, 8, 1))
        wanted = program.run(inputs)
        assert np.array_equal(lsrl.compile(program, "linear_rnn").run(inputs), wanted)


def test_passes_leave_a_graph_without_their_ops() -> None:
    pipeline = Pipeline()
    graph = pipeline.simplify(SHAPES["comparisons"](3).graph)
    legal = pipeline.legalise(graph, lsrl.backends.registry.find("linear_rnn").capabilities)
    again = pipeline.legalise(legal, lsrl.backends.registry.find("linear_rnn").capabilities)
    assert again is legal


# ---------------------------------------------------------------------- short cuts


def number(rng: np.random.Generator) -> float:
    """A zero, an integer, a dyadic number, or a real one of some size."""
    kinds: tuple[Callable[[], float], ...] = (
        lambda: 0.0,
        lambda: float(rng.integers(-9, 9)),
        lambda: float(rng.integers(-9, 9)) / 8,
        lambda: float(rng.normal()),
        lambda: float(rng.normal() * 2.0 ** rng.integers(-60, 60)),
        lambda: float(rng.integers(-(2**53), 2**53)),
    )
    return kinds[rng.integers(len(kinds))]()


def known(rng: np.random.Generator, width: int) -> bounds.Facts:
    ends = np.sort([[number(rng), number(rng)] for _ in range(width)], axis=1)
    ends[rng.integers(0, 8, width) == 0] = 0.0
    steps = np.array([abs(number(rng)) if rng.integers(3) else 1.0 for _ in range(width)])
    return facts(ends[:, 0], ends[:, 1], steps)


def test_rows_of_few_terms_have_the_facts_of_arrays() -> None:
    rng, taken = np.random.default_rng(0), 0
    for _ in range(120):
        rows, values = rng.integers(1, 4), [known(rng, rng.integers(1, 3)) for _ in range(2)]
        weights = [
            Matrix([[number(rng) for _ in range(value.width)] for _ in range(rows)])
            for value in values
        ]
        bias = np.array([number(rng) for _ in range(rows)])
        with np.errstate(over="ignore", invalid="ignore"):
            pairs = (
                (few_terms.ranges(weights, bias, values), bounds._ranges(weights, bias, values)),
                (few_terms.sums(weights, bias, values), bounds._sums_of(weights, bias, values)),
            )
        for few, arrays in pairs:
            if few is not None:
                taken += 1
                assert [a.tobytes() for a in few] == [b.tobytes() for b in arrays]
    assert taken > 80


def test_few_terms_leave_what_needs_care() -> None:
    one = [Matrix.scalar(1.0)]
    endless = facts(np.array([0.0]), np.array([np.inf]), np.array([0.0]))
    tiny = facts(np.array([0.0]), np.array([2.0**-1000]), np.array([0.0]))
    for value in (endless, tiny):
        assert few_terms.ranges(one, np.zeros(1), [value]) is None


def test_sets_of_ids_are_those_of_python_and_share_what_is_common() -> None:
    rng = np.random.default_rng(0)

    def held(ids: set[int]) -> id_sets.IdSet:
        found: id_sets.IdSet = None
        for index in ids:
            found = id_sets.union(id_sets.singleton(index), found)
        return found

    for _ in range(300):
        most = int(rng.choice([10, 100, 10**6]))
        first, second = (set(rng.integers(0, most, rng.integers(0, 9)).tolist()) for _ in "ab")
        one, other = held(first), held(second)
        both = id_sets.union(one, other)
        assert both == held(first | second)
        assert id_sets.disjoint(one, other) == first.isdisjoint(second)
        assert id_sets.union(both, one) is both


def test_matrices_multiply_and_add_as_dense_ones() -> None:
    rng = np.random.default_rng(0)
    for trial in range(60):
        rows, inner, columns = rng.integers(1, 5, 3)
        first, second = rng.integers(-1, 2, (rows, inner)), rng.integers(-1, 2, (inner, columns))
        if trial % 3 == 0:
            first = np.eye(inner, dtype=int)[rng.integers(0, inner, rows)]
        other = rng.integers(-1, 2, (rows, columns))
        product, total = Matrix(first) @ Matrix(second), Matrix(other) + Matrix(first @ second)
        pairs = (
            (product, first @ second),
            (total, other + first @ second),
            (Matrix(first).transposed, first.T),
            (Matrix(first).scaled(-2.0), -2 * first),
        )
        for matrix, wanted in pairs:
            same = Matrix(wanted)
            assert matrix == same
            assert hash(matrix) == hash(same)
            for part in ("data", "indices", "indptr"):
                assert np.array_equal(getattr(matrix, part), getattr(same, part))
            assert np.array_equal(matrix.entry_rows(), same.entry_rows())


def test_joined_groups_are_those_that_say_most() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = []
        for _ in range(rng.integers(1, 5)):
            width = int(rng.integers(1, 4))
            roots = rng.permutation(7)[: rng.integers(0, 4)].tolist()
            members = {root: rng.integers(-1, 3, width) for root in roots}
            parts.append((width, exclusion.kept(members)))
        every = dict.fromkeys(root for _, groups in parts for root, _ in groups)
        wanted = exclusion.kept({
            root: np.concatenate([dict(g).get(root, np.full(width, -1)) for width, g in parts])
            for root in every
        })  # fmt: skip
        found = exclusion.joined(parts)
        assert [root for root, _ in found] == [root for root, _ in wanted]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, wanted, strict=True))
