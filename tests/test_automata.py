"""Automata without threshold units: tables, swaps, phases and levels, and the graphs of them."""

import itertools
import random
from typing import Annotated

import numpy as np
import pytest

import lsrl
from lsrl import Program, Signal, Token
from lsrl.automata.actions import faithful
from lsrl.automata.levels import levels_of
from lsrl.automata.limits import TooLargeError
from lsrl.automata.permutations import composed, swap_count, swaps_of
from lsrl.automata.phases import moved_by, phases_of
from lsrl.automata.plan import Tracks, plan_of
from lsrl.automata.tables import Table, letter_classes, minimised
from lsrl.errors import ProgramError, UnsupportedOpError
from lsrl.ir.evaluate import evaluate
from lsrl.ir.graph import Graph
from lsrl.ir.ops import ThresholdState, is_token
from lsrl.options import AutomatonLimits
from lsrl.passes.automata import AutomatonPass
from lsrl.passes.pipeline import Pipeline
from lsrl.programs.formal_languages import group_elements, group_generators
from lsrl.testing.verification import sample_inputs

pytestmark = pytest.mark.one_in(2)

RESETS = Table(tuple(((q + 1) % 5, 0) for q in range(5)))
FULL_T4 = Table(((1, 1, 1), (2, 0, 1), (3, 2, 2), (0, 3, 3)))


def cycle(size: int) -> Table:
    return Table(tuple(((q + 1) % size,) for q in range(size)))


def cayley(group: str) -> Table:
    """A group that is seen on all of its elements."""
    elements, generators = group_elements(group), group_generators(group)
    place = {element: i for i, element in enumerate(elements)}
    rows = tuple(tuple(place[composed(g, e)] for g in generators) for e in elements)
    return Table(rows)


def drawn(seed: int, states: int, letters: int) -> Table:
    """Letters that are any maps, permutations, or merge two states, all states reached."""
    rng = random.Random(seed)
    columns = []
    for _ in range(letters):
        kind, images = rng.randrange(3), list(range(states))
        if kind == 0:
            images = [rng.randrange(states) for _ in range(states)]
        elif kind == 1:
            rng.shuffle(images)
        else:
            images[rng.randrange(states)] = rng.randrange(states)
        columns.append(images)
    return minimised(Table(tuple(zip(*columns, strict=True))), range(states))[0]


def followed(table: Table, word: list[int]) -> list[int]:
    """The state behind each letter."""
    states = list(itertools.accumulate(word, lambda q, a: table.rows[q][a], initial=table.start))
    return states[1:]


def test_minimal_tables_give_the_same_outputs_and_have_no_two_states_alike() -> None:
    for seed in range(30):
        table = drawn(seed, 6, 2)
        outputs = [q % 2 for q in range(table.states)]
        small, became = minimised(table, outputs)
        word = random.Random(seed).choices(range(2), k=60)
        states, fewer = followed(table, word), followed(small, word)
        assert [became[q] for q in states] == fewer
        given = {became[q]: outputs[q] for q in states}
        assert [given[q] for q in fewer] == [outputs[q] for q in states]
        assert minimised(small, [given.get(q) for q in range(small.states)])[0].states <= (
            small.states
        )


def test_a_start_that_no_letter_leads_to_needs_no_state_of_its_own() -> None:
    table = Table(((1, 0), (0, 1), (1, 0)), start=2)
    assert minimised(table, ["even", "odd", "never given"])[0].states == 2


@pytest.mark.parametrize(("group", "points"), [("S3", 3), ("S5", 5), ("A5", 5)])
def test_groups_are_seen_on_as_few_points_as_they_permute(group: str, points: int) -> None:
    table = cayley(group)
    (action,) = faithful(table.images)[0]
    assert action.size == points
    for letter, images in enumerate(table.images):
        for state, image in enumerate(images):
            assert action.letters[letter][action.points[state]] == action.points[image]


def test_a_cycle_falls_into_coprime_ones() -> None:
    assert sorted(action.size for action in faithful(cycle(12).images)[0]) == [3, 4]


@pytest.mark.parametrize("group", ["S3", "S5", "A5"])
def test_phases_leave_one_swap_a_letter(group: str) -> None:
    letters = group_generators(group)
    phases = phases_of(letters)
    assert phases is not None
    assert phases.phi[(0,) * len(letters)] == tuple(range(len(letters[0])))
    for counts, phi in phases.phi.items():
        for number, letter in enumerate(letters):
            swap = moved_by(phases, letter, number, counts)
            assert swap_count(swap) <= 1
            after = phases.phi[phases.after(number, counts)]
            assert composed(after, swap) == composed(letter, phi)


def test_swaps_make_up_their_permutation() -> None:
    for permutation in itertools.permutations(range(5)):
        product = tuple(range(5))
        for one, other in reversed(swaps_of(permutation)):
            swap = {one: other, other: one}
            product = tuple(swap.get(image, image) for image in product)
        assert product == permutation


@pytest.mark.parametrize("seed", range(12))
def test_levels_follow_their_automaton(seed: int) -> None:
    table = FULL_T4 if seed == 0 else RESETS if seed == 1 else drawn(seed, 5, 2)
    levels = levels_of(table, AutomatonLimits())
    word = random.Random(seed).choices(range(table.letters), k=200)
    labels, states = [level.initial for level in levels.levels], []
    for edge in word:
        for i, level in enumerate(levels.levels):
            then = level.following.get((edge, None))
            if then is None:
                then = level.following[edge, labels[i]]
            reset = level.resets[edge]
            labels[i] = level.moves[edge][labels[i]] if reset is None else reset
            edge = then
        states.append(levels.final[edge])
    assert states == followed(table, word)


def test_plans_are_the_same_each_time_and_as_deep_as_promised() -> None:
    depths = {"S3": 3, "S5": 4, "A5": 4}
    for group, layers in depths.items():
        plan = plan_of(cayley(group), AutomatonLimits())
        assert isinstance(plan, Tracks)
        assert plan.layers <= layers
        assert plan == plan_of(cayley(group), AutomatonLimits())
    assert plan_of(cycle(2), AutomatonLimits()).layers == 1
    assert plan_of(FULL_T4, AutomatonLimits()).layers == 9


@pytest.mark.parametrize(
    ("table", "limits", "text"),
    [
        (cycle(37), AutomatonLimits(), "36 swaps of 37 points"),
        (
            Table(tuple(((q + 1) % 13, 0) for q in range(13))),
            AutomatonLimits(),
            "states, some of which it merges",
        ),
        (FULL_T4, AutomatonLimits(layers=8), "9 layers for 3 levels, and at most 8"),
        (FULL_T4, AutomatonLimits(units=100), "table units"),
        (FULL_T4, AutomatonLimits(chains=10), "chains"),
    ],
)
def test_only_size_is_refused(table: Table, limits: AutomatonLimits, text: str) -> None:
    with pytest.raises(TooLargeError, match=text) as caught:
        plan_of(table, limits)
    assert caught.value.letter is not None


def test_letters_that_do_the_same_are_one() -> None:
    table, became = letter_classes(Table(((1, 0, 1), (0, 1, 0))))
    assert table.letters == 2
    assert became == [0, 1, 0]
    assert np.array_equal(table.images, [(1, 0), (0, 1)])


# ---------------------------------------------------------------- the pass

# Units that are 1 where a bit turns p: p and not x, x and not p; p is their sum.
TURNS = np.array([[1.0, 1.0], [-1.0, -1.0]])


def turned(x: Signal) -> Signal:
    """The units of a parity."""
    return lsrl.threshold_state(lsrl.concat(-x, x) - 0.5, TURNS)


@lsrl.program
def two_tokens(
    a: Annotated[Signal, Token(3)], b: Annotated[Signal, Token(2)]
) -> Annotated[Signal, Token(2)]:
    return lsrl.bound(turned(a.one_hot[1] + b == 1).sum(), 0, 1)


@lsrl.program
def difference(a: Annotated[Signal, Token(4)]) -> Signal:
    return turned(lsrl.clip(a - lsrl.delay(a, 1), 0, 2) == 1).named("units")


@lsrl.program
def small_numbers(a: Annotated[Signal, Token(4)]) -> Signal:
    steps = lsrl.clip(a - lsrl.delay(a, 1), 0, 2)  # a number, and no bit
    rows = np.array([[1.0], [0.0], [-1.0], [0.0]])
    before = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    return lsrl.threshold_state(steps @ rows.T - [1.5, 0.5, 0.5, 0.5], before)


@lsrl.program
def stacked(a: Annotated[Signal, Token(2)]) -> Signal:
    first = turned(a)
    return lsrl.concat(first, turned(first.sum()))


@lsrl.program
def of_another(a: Annotated[Signal, Token(4)]) -> Signal:
    """Driven by units that nothing short makes: labels of several levels."""
    first = lsrl.threshold_state(
        lsrl.lookup(a, [[0, 1, -1], [-2, 0, 1], [2, 2, 0], [1, -1, 1]]) - 0.5,
        [[1, -2, 1], [2, 1, 0], [-1, 1, 1]],
        (1, 0, 1),
    )
    return lsrl.concat(first, turned(first[0]))


@lsrl.program
def halves(a: Annotated[Signal, Token(3)]) -> Signal:
    late = lsrl.delay(lsrl.lookup(a, [[0.5], [1.0], [-0.5]]), 1)
    return lsrl.threshold_state(lsrl.concat(-late, late) - 0.75, TURNS)


@lsrl.program(max_length=200)
def promised(a: Annotated[Signal, Token(3)]) -> Signal:
    """A promise of which no end is a value."""
    count = lsrl.bound(lsrl.cumsum(a - lsrl.delay(a, 1)), -0.5, 2.5)
    return lsrl.threshold_state(lsrl.concat(-count, count) - 0.75, TURNS)


@lsrl.program
def unread(a: Annotated[Signal, Token(3)], b: Annotated[Signal, Token(2)]) -> Signal:
    """One of two tokens is multiplied by 0."""
    return turned(lsrl.relu(lsrl.concat(a, b) @ [[0.0], [1.0]]))


def rewritten(program: Program) -> tuple[Graph, AutomatonPass]:
    """The simplified graph without threshold states."""
    made = AutomatonPass()
    graph = made(Pipeline().simplify(program.graph))
    assert not made.refused
    assert not any(isinstance(graph.nodes[i].op, ThresholdState) for i in graph.live())
    return graph, made


def differences(program: Program, graph: Graph, tokens: int, words: int) -> int:
    """Tokens of random words at which the graphs differ; theorems and promises are checked."""
    rng = np.random.default_rng(0)
    inputs = [
        rng.integers(op.type.size, size=(words, tokens))
        for op in sorted(program.graph.inputs.values(), key=lambda op: op.index)
        if is_token(op)
    ]
    wanted = evaluate(program.graph, inputs)[program.graph.output]
    got = evaluate(graph, inputs, theorems=True)[graph.output]
    return int((wanted != got).any(axis=-1).sum())


DFAS = [
    {},
    {"table": ((1, 1), (2, 1), (2, 0)), "outputs": (4, 0, 2), "start": 1},
    {"table": ((0,),)},
    {"table": ((1, 2, 3), (2, 3, 1), (3, 1, 2), (3, 3, 0))},
    {"table": RESETS.rows},
    {"table": FULL_T4.rows},
    {"table": ((1, 1, 0), (2, 0, 1), (0, 2, 0))},
    {"table": cycle(8).rows},
    {"table": cycle(7).rows, "start": 3},
    {"table": cycle(12).rows, "outputs": (1, *(0,) * 11)},
]


@pytest.mark.parametrize(
    "program",
    [
        *(lsrl.programs.dfa(**parameters) for parameters in DFAS),
        *(lsrl.programs.permutations(group) for group in ("S3", "S5", "A5")),
        two_tokens,
        difference,
        small_numbers,
        stacked,
        of_another,
        halves,
        promised,
        unread,
    ],
    ids=lambda program: program.name,
)
def test_the_rewritten_graph_means_the_same(program: Program) -> None:
    graph, _ = rewritten(program)
    assert differences(program, graph, 120, 6) == 0


def test_constructions_are_told() -> None:
    _, made = rewritten(lsrl.programs.permutations("S5"))
    (told,) = map(str, made.made)
    assert "120 states and 2 letters" in told
    assert "phases on 5 points (4 swaps a letter at most)" in told
    assert "4 layers" in told


def test_a_refusal_names_the_letter_its_images_and_the_count() -> None:
    made = AutomatonPass()
    program = lsrl.programs.dfa(tuple(((q + 1) % 13, 0) for q in range(13)))
    graph = made(Pipeline().simplify(program.graph))
    (reason,) = made.refused.values()
    assert "13 states" in reason
    assert "at most 12" in reason
    assert "symbol = 1" in reason
    assert "0 to 0, 1 to 0" in reason
    assert any(isinstance(graph.nodes[i].op, ThresholdState) for i in graph.live())


def test_an_update_of_very_many_bits_is_refused() -> None:
    def many(x: Annotated[Signal, lsrl.Vector(1500, low=0, high=1, step=1)]) -> Signal:
        return lsrl.threshold_state(np.ones((1, 1500)) @ x - 0.5, [[-1.0]])

    made = AutomatonPass()
    made(lsrl.program(many).graph)
    (reason,) = made.refused.values()
    assert "at most 256 values together" in reason


# ---------------------------------------------------------------- the target


@pytest.mark.parametrize(("group", "layers"), [("S3", 3), ("S5", 4), ("A5", 4)])
def test_groups_take_few_layers_at_any_length(group: str, layers: int) -> None:
    model = lsrl.compile(lsrl.programs.permutations(group), "deltanet")
    assert model.certificate.exact
    assert model.certificate.tokens is None
    assert len(model.schedule.layers) <= layers
    assert model.num_parameters <= 160_000
    assert model.module.width <= 64


@pytest.mark.parametrize(
    "table",
    [
        lsrl.programs.formal_languages.NO_TWO_ONES,
        pytest.param(RESETS.rows, marks=pytest.mark.studies),
    ],
)
def test_networks_follow_their_automata(table: tuple[tuple[int, ...], ...]) -> None:
    program = lsrl.programs.dfa(table)
    model = lsrl.compile(program, "deltanet")
    assert model.certificate.exact
    assert model.certificate.tokens is None
    words = np.random.default_rng(0).integers(2, size=(4, 60))
    assert np.array_equal(model.run(words), program.run(words))


def test_what_is_refused_says_what_would_do_and_the_limits_can_be_raised() -> None:
    program, few = lsrl.programs.dfa(RESETS.rows), lsrl.AutomatonLimits(layers=3)
    with pytest.raises(UnsupportedOpError, match="4 layers for 1 levels, and at most 3") as caught:
        lsrl.compile(program, "deltanet", automaton_limits=few)
    (offence,) = caught.value.offences
    assert "deltanet" not in offence.targets
    assert {"rnn", "lstm", "gru"} <= {*offence.targets}
    assert lsrl.explain(program, "deltanet", automaton_limits=few).answer == "no"
    answer = lsrl.explain(program, "deltanet")
    assert answer.answer == "yes"
    assert answer.tokens is None
    assert "1 holonomy levels (5 labels with 4 swaps): 4 layers" in str(answer)
    assert "Grazzi et al. 2025" in answer.reason


@pytest.mark.parametrize("most", [-1, 2.5, "9", None, True])
def test_limits_are_counts(most: object) -> None:
    limits = lsrl.AutomatonLimits(layers=most)
    with pytest.raises(ProgramError, match=r"automaton_limits\.layers must be an int >= 0"):
        lsrl.compile(lsrl.programs.dfa(), "deltanet", automaton_limits=limits)


def test_other_targets_name_the_one_that_holds_automata() -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        lsrl.compile(lsrl.programs.dfa(), "mamba")
    assert "deltanet" in caught.value.offences[0].targets


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(200))
def test_random_automata_are_the_same_or_too_large(seed: int) -> None:
    rng = random.Random(seed)
    table = drawn(seed, rng.randrange(2, 7), rng.randrange(1, 4))
    outputs = [rng.randrange(3) for _ in table.rows]
    program = lsrl.programs.dfa(table.rows, outputs, max_length=None)
    try:
        model = lsrl.compile(program, "deltanet")
    except UnsupportedOpError as error:
        assert "and at most" in str(error)
        return
    assert model.certificate.exact
    assert model.certificate.tokens is None
    words = np.random.default_rng(seed).integers(table.letters, size=(20, 1000))
    assert np.array_equal(model.run(words), program.run(words))


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(60))
def test_random_programs_with_threshold_states_mean_the_same(seed: int) -> None:
    ops = ("threshold_state", "delay", "comparison", "lookup", "affine", "relu")
    program = lsrl.random_program(seed, ops=ops)
    graph = AutomatonPass()(Pipeline().simplify(program.graph))
    types = {op.label: op.type for op in program.graph.inputs.values()}
    inputs = sample_inputs(types, 6, 24, seed)
    wanted = evaluate(program.graph, inputs)[program.graph.output]
    assert (evaluate(graph, inputs, theorems=True)[graph.output] == wanted).all()
