"""Circuits tell the truth: what they say a channel holds, it holds, and setting it works."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lsrl
from lsrl import errors, programs, sealed
from lsrl.circuit import FORM
from lsrl.interpret import Channel, Circuit, Signal, ablate, capture, interchange, patch, wiring
from lsrl.interpret.causal import causal_test
from lsrl.interpret.interventions import Block, decoded, joint_patches, wiring_of
from lsrl.interpret.layerwise import known_streams
from lsrl.interpret.variants import random_sampler, rotated
from lsrl.ir.evaluate import Intervention, evaluate
from lsrl.testing.random_programs import random_program
from tests.grids import small_catalogue, studied
from tests.strategies import inputs_of

pytestmark = pytest.mark.one_in(5)

TARGETS = [found.name for found in lsrl.targets()]
# Cheap ones that together have every op.
CAUSAL = {
    "majority": 12, "first_token": 8, "running_max": 12, "flip_flop": 10, "dyck1": 12,
    "gradient_step": 8, "induction_head": 10, "even_pairs": 10, "counting_sort": 12, "dfa": 8,
    "selective_copy": 16,
}  # fmt: skip
CATALOGUE = small_catalogue()


def compiled(program, target, **options):
    try:
        return lsrl.compile(program, target, inspectable=True, **options)
    except (errors.UnsupportedOpError, errors.PrecisionError) as error:
        pytest.skip(str(error).splitlines()[0])


def sampler_of(entry, tokens):
    def sample(count, seed):
        rng = np.random.default_rng(seed)
        drawn = [entry.sample(rng, tokens) for _ in range(count)]
        shortest = min(len(arrays[0]) for arrays in drawn)
        return [np.stack([a[:shortest] for a in arrays]) for arrays in zip(*drawn, strict=True)]

    return sample


def tokens(*shape, size=2, seed=0):
    return np.random.default_rng(seed).integers(0, size, shape)


@pytest.fixture(scope="module")
def majority():
    return lsrl.compile(programs.majority(), "lstm", inspectable=True)


# ---------------------------------------------------------------- the ground truth


def spread_over(names, quick, later=None):
    """Each name with a target or two in CI, and with all of them in the nightly run.

    They are the number of the name and `quick` or `later`; the quick run has the first alone.
    """
    marks = {quick: (), later: pytest.mark.studies}
    return [
        pytest.param(name, target, marks=marks.get((i - k) % len(TARGETS), pytest.mark.nightly))
        for k, name in enumerate(names)
        for i, target in enumerate(TARGETS)
    ]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *spread_over([*CATALOGUE][::2], 0),
        *(pytest.param(*case.values, marks=(pytest.mark.studies, *case.marks))
          for case in spread_over([*CATALOGUE][1::2], 1)),
    ],
)  # fmt: skip
def test_every_unit_has_a_label(name, target):
    """Of inspectable models and of others, and the JSON form says all of it."""
    program = CATALOGUE[name].program()
    models = [compiled(program, target), lsrl.compile(program, target)]
    for model in models:
        circuit = model.circuit
        assert not list(circuit.problems())
        assert not circuit.unlabelled()
        again = Circuit.from_json(circuit.to_json())
        assert (again.signals, again.channels, again.edges, again.derived) == (
            circuit.signals, circuit.channels, circuit.edges, circuit.derived,
        )  # fmt: skip


@pytest.mark.parametrize(("name", "target"), spread_over(CAUSAL, 0, later=3))
def test_interchanges_do_in_the_network_what_they_do_in_the_program(name, target):
    entry = CATALOGUE[name]
    model = compiled(entry.program(), target)
    sample = sampler_of(entry, CAUSAL[name])
    inputs = sample(8, 1)
    in_channels, in_program = capture(model, *inputs), capture(model, *inputs, on="evaluator")
    assert in_channels.keys() == in_program.keys()
    for signal, values in in_program.items():
        # What nothing reads is nowhere in the network: on deltanet, units of an automaton.
        held = np.where(np.isnan(in_channels[signal]), np.nan, values)
        np.testing.assert_array_equal(in_channels[signal], held, err_msg=signal)
        assert target == "deltanet" or not np.isnan(held).any()
    result = causal_test(model, sample, pairs=64)
    assert result.tolerance == 0
    assert [(s.name, s.error) for s in result.signals if s.wrong] == []
    assert sum(signal.changed for signal in result.signals) > 0
    assert result.valid > 0


@pytest.mark.parametrize("target", studied(["lstm", "mamba"], "lstm"))
def test_continuous_programs_agree_within_their_tolerance(target):
    entry = CATALOGUE["vec2vec"]
    result = causal_test(compiled(entry.program(), target), sampler_of(entry, 9), pairs=64)
    assert 0 < result.tolerance < 1e-3
    assert result.agreement == 1
    assert result.valid > 50


@pytest.mark.parametrize("target", studied(["linear_rnn", "gru", "mamba"], "linear_rnn"))
@settings(max_examples=2)
@given(seed=st.integers(0, 2**16))
def test_random_programs_agree(target, seed):
    program = random_program(seed, depth=5, width=4, max_length=16)
    try:
        model = lsrl.compile(program, target, inspectable=True)
    except (errors.UnsupportedOpError, errors.PrecisionError):
        return
    inputs = inputs_of(program, 12)
    if not model.certificate.exact:
        return
    np.testing.assert_array_equal(model.run(*inputs), program.run(*inputs))

    def sample(count, seed):
        rng = np.random.default_rng(seed)
        return [array[rng.integers(0, len(array), count)] for array in inputs]

    assert causal_test(model, sample, pairs=20).agreement == 1


def test_a_wrong_circuit_is_found():
    """The causal test fails where a label lies."""
    model = compiled(CATALOGUE["shuffle_dyck"].program(), "linear_rnn")
    circuit = model.circuit
    state = next(s for s in circuit.signals if s.kind == "linearstate" and s.width > 1)
    wiring = wiring_of(model)
    swapped = []
    for channel in circuit.channels:
        element = channel.element
        if channel.signal == state.name and channel.role == "made":
            element = (element + 1) % state.width
        swapped.append(type(channel)(**{**vars(channel), "element": element}))
    lying = type(circuit)(**{
        **{f: getattr(circuit, f) for f in ("program", "target", "dtype", "hook", "units")},
        "signals": circuit.signals, "channels": tuple(swapped), "edges": circuit.edges,
    })  # fmt: skip
    true = wiring.circuit
    try:
        wiring.circuit = lying
        sample = sampler_of(CATALOGUE["shuffle_dyck"], 12)
        assert causal_test(model, sample, pairs=50).agreement < 1
    finally:
        wiring.circuit = true


def test_edges_are_the_programs(majority):
    circuit = majority.circuit
    kinds = {(edge.source, edge.target, edge.kind, edge.lag) for edge in circuit.edges}
    assert ("bit", "ones", "same step", 0) in kinds
    assert ("ones", "ones", "carry", 1) in kinds
    graph = circuit.graph()
    assert graph.has_edge("bit", "ones")
    assert graph.nodes["ones"]["expression"] == "ones[t−1] + bit"
    assert "output" in graph
    gates = compiled(programs.flip_flop(), "gru").circuit
    assert "gate" in {edge.kind for edge in gates.edges}
    lags = compiled(programs.ngram(), "mamba").circuit
    assert {edge.lag for edge in lags.edges if edge.kind == "lag"} <= {1, 2, 3}
    assert any(edge.kind == "lag" for edge in lags.edges)


def test_elements_of_a_distractor_may_be_made_in_several_layers():
    ends = (0.0, 0.0), (1.0, 1.0), (1.0, 1.0)
    signal = Signal("other", "delay", 1, 2, "", "", *ends, False)
    places = [(1, 0), (2, 0), (2, 1)]  # made, carried, made
    channels = [Channel(layer, "other", e, "distractor", (e,), (1.0,)) for layer, e in places]
    circuit = Circuit("p", "mamba", "float32", "", (0, 2, 2), (signal,), tuple(channels), ())
    assert [circuit.makes(channel) for channel in channels] == [True, False, True]


def test_sign_pairs_are_one_channel():
    """A ReLU cell holds what can be negative in two units."""
    circuit = compiled(programs.vec2vec(), "rnn").circuit
    pairs = [channel for channel in circuit.channels if len(channel.units) == 2]
    assert pairs
    assert all(np.sign(channel.weights).tolist() in ([1, -1], [-1, 1]) for channel in pairs)


# ---------------------------------------------------------------- interventions


# There a running sum is no state: what adds up turns its sign at every token.
@pytest.mark.parametrize("side", ["network", "evaluator"])
@pytest.mark.parametrize("target", [target for target in TARGETS if target != "deltanet"])
def test_a_patched_state_goes_on(target, side):
    """A count that is set to 5 at token 3 is 5 plus the ones that come."""

    @lsrl.program(max_length=12)
    def counting(bit: lsrl.Token(2)):
        ones = lsrl.cumsum(bit)
        return ones - 1

    model = compiled(counting, target)
    bits = tokens(4, 12)
    outcome = patch(model, [bits], {"ones": 5}, 3, on=side)
    expected = bits.cumsum(axis=1)
    expected[:, 3:] += 5 - expected[:, 3:4]
    np.testing.assert_array_equal(outcome.outputs[..., 0], expected - 1)
    np.testing.assert_array_equal(outcome.signals["ones"][..., 0], expected)


def test_interventions_take_one_sequence_or_many(majority):
    bits = tokens(3, 9)
    many = patch(majority, [bits], {"ones": 0}, [2, 4])
    one = patch(majority, [bits[1]], {"ones": 0}, np.isin(np.arange(9), [2, 4]))
    np.testing.assert_array_equal(one.outputs, many.outputs[1])
    assert one.signals["ones"].shape == (9, 1)
    clean = patch(majority, [bits], {"ones": 0}, np.zeros((3, 9), bool))
    np.testing.assert_array_equal(clean.outputs, majority.run(bits))


def test_ablations(majority):
    bits = tokens(6, 10)
    known = capture(majority, bits)["ones"]
    zero = ablate(majority, [bits], "ones")
    assert (zero.signals["ones"] == 0).all()
    mean = ablate(majority, [bits], "ones", "mean", on="evaluator")
    np.testing.assert_array_equal(mean.signals["ones"], np.full_like(known, known.mean()))
    other = ablate(majority, [bits], ["ones"], "resample", seed=3)
    rows = [np.flatnonzero((known == row).all(axis=(1, 2))) for row in other.signals["ones"]]
    assert all((len(found) and i not in found) or len(found) > 1 for i, found in enumerate(rows))


def test_some_signals_are_captured_alone(majority, monkeypatch):
    """A linear network runs all tokens at once, and where they are many, what is wanted alone."""
    model = lsrl.compile(programs.tok2tok(2, 5, 3), "linear_rnn", inspectable=True)
    ids = tokens(4, 11, size=5)
    known = capture(model, ids, on="evaluator")
    np.testing.assert_equal(capture(model, ids), known)
    for name, values in known.items():
        for side in ("network", "evaluator"):
            found = capture(model, ids[1], signals=name, on=side)
            np.testing.assert_equal(found, {name: values[1]})
    monkeypatch.setattr(wiring, "MANY", 0)
    np.testing.assert_equal(capture(model, ids, signals="match"), {"match": known["match"]})
    one_by_one = wiring_of(model).run([ids], hooks=True)[1]
    np.testing.assert_equal(decoded(model.circuit, one_by_one), known)
    # Nothing that is given is part of anything else that is.
    found = capture(model, ids)
    for values in found.values():
        values[...] = 0
    np.testing.assert_equal(capture(model, ids), known)
    with pytest.raises(errors.InputError, match="did you mean ones"):
        capture(majority, tokens(4), signals=["one"])


def test_interchange_takes_the_sources_values(majority):
    base, source = tokens(5, 8, seed=1), tokens(5, 8, seed=2)
    for side in ("network", "evaluator"):
        outcome = interchange(majority, [base], [source], "ones", on=side)
        np.testing.assert_array_equal(outcome.signals["ones"], capture(majority, source)["ones"])
        np.testing.assert_array_equal(outcome.outputs, majority.run(source))


def test_evaluator_intervenes_on_states_and_inputs():
    @lsrl.program
    def held(bit: lsrl.Token(2), when: lsrl.Token(2)):
        return lsrl.hold(bit, when)

    graph, inputs = held.graph, [np.array([[1, 0, 0, 0, 0]]), np.array([[1, 0, 0, 1, 0]])]
    state = next(i for i, node in enumerate(graph.nodes) if node.op.name == "selectivestate")

    def answer(node, value, *places):
        mask = np.isin(np.arange(5), places)[None, :, None]
        new = {node: Intervention(mask, np.full((1, 5, 1), float(value)))}
        return evaluate(graph, inputs, interventions=new)[graph.output][0, :, 0].tolist()

    assert answer(state, 0) == [1, 1, 1, 0, 0]
    assert answer(state, 0, 1) == [1, 0, 0, 0, 0]  # held until the next one is taken
    assert answer(state, 1, 4) == [1, 1, 1, 0, 1]
    bit = next(i for i, node in enumerate(graph.nodes) if node.names == ("bit",))
    assert graph.nodes[bit].op.name == "input"
    assert answer(bit, 0, 0) == [0, 0, 0, 0, 0]


def test_inspectable_models_are_saved_as_such(tmp_path, majority):
    path = tmp_path / "majority.lsrl"
    majority.save(path)
    again = lsrl.load(path)
    assert again.options.inspectable
    assert again.circuit.to_json() == majority.circuit.to_json()


# ---------------------------------------------------------------- mistakes


def test_unknown_names_suggest_the_nearest(majority):
    with pytest.raises(errors.InputError, match="did you mean ones"):
        patch(majority, [tokens(4)], {"one": 1})
    model = compiled(programs.tok2tok(), "lstm")
    derived = model.circuit.derived[0].name
    with pytest.raises(errors.InputError, match="affine map of"):
        patch(model, [tokens(4)], {derived: 1})


def test_models_that_are_not_inspectable_say_so():
    model = lsrl.compile(programs.majority(), "lstm")
    assert capture(model, tokens(2, 5))["ones"].shape == (2, 5, 1)
    with pytest.raises(errors.InputError, match="inspectable=True"):
        patch(model, [tokens(4)], {"ones": 1})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (9, "past the end"),
        ([0, -10], "past the end"),
        (np.ones(5, bool), r"mask has the shape \(9,\)"),
        (np.ones((2, 9), bool), "mask has the shape"),
        (0.5, "expected None, an int"),
    ],
)
def test_tokens_that_do_not_fit(majority, where, message):
    with pytest.raises(errors.InputError, match=message):
        patch(majority, [tokens(9)], {"ones": 1}, where)


def test_arguments_that_do_not_fit(majority):
    with pytest.raises(errors.InputError, match="takes values of shape"):
        patch(majority, [tokens(9)], {"ones": np.zeros((4, 1))})
    with pytest.raises(errors.InputError, match="one length"):
        interchange(majority, [tokens(9)], [tokens(8)], "ones")
    with pytest.raises(errors.InputError, match="'zero', 'mean' or 'resample'"):
        ablate(majority, [tokens(2, 9)], "ones", "all")
    with pytest.raises(errors.InputError, match="batch of two"):
        ablate(majority, [tokens(9)], "ones", "resample")
    with pytest.raises(errors.InputError, match="'network' or 'evaluator'"):
        capture(majority, tokens(9), on="both")


def test_circuit_files_that_are_wrong(tmp_path, majority):
    text = majority.circuit.to_json()
    content = json.loads(text)

    def broken(**changes):
        return json.dumps(sealed.seal(FORM, {**content, **changes}))

    for bad, message in (
        ("{", "expected JSON"),
        ("[]", "lsrl.circuit"),
        (broken(version=3), "version: expected 2 at most, got 3; update LSRL"),
        (json.dumps({**content, "hook": "h"}), "changed after it was written"),
        (broken(signals=[{}]), r"signals\[0\].name: expected a value, got nothing: it is missing"),
        (broken(signals=[]), "which there is not"),
        (broken(channels=content["channels"][1:]), "belongs to no signal"),
        (
            broken(edges=[{**content["edges"][0], "kind": "wire"}]),
            r"edges\[0\].kind: expected 'same step' .*, got 'wire'",
        ),
    ):
        with pytest.raises(errors.FormatError, match=message):
            Circuit.from_json(bad, "file.json")
    path = tmp_path / "circuit.json"
    majority.circuit.save(path)
    assert Circuit.load(path).to_json() == text
    # Files of versions that wrote no checksum are read as they are.
    path.write_text(json.dumps(majority.circuit.to_content()))
    assert Circuit.load(path).to_json() == text


@pytest.mark.parametrize("change", [None, "rotated"])
@pytest.mark.parametrize("target", studied(["mamba", "mamba2", "griffin", "deltanet"], "griffin"))
def test_layer_by_layer_is_token_by_token(target, change):
    model = compiled(programs.parity(32), target)
    model = model if change is None else rotated(model, 0)
    wiring = wiring_of(model)
    signals = [signal for signal in model.circuit.signals if signal.owned]
    rng = np.random.default_rng(0)
    inputs = random_sampler(model.program, 10)(6, 0)
    known, changed = known_streams(wiring, inputs), False
    # Signals of the first and of later layers, one or two in a run; sequences come in any order.
    for chosen in ([signals[0]], [signals[-1]], [signals[0], signals[-1]], signals[1:3]):
        rows = rng.integers(0, 6, 4 * len(chosen))
        blocks = [
            Block(
                signal.name,
                rng.integers(0, 2, (4, 10, signal.width)).astype(float),
                rng.random((4, 10)) < 0.3,
            )
            for signal in chosen
        ]
        patches = joint_patches(wiring, blocks)
        expected, _ = wiring.run([array[rows] for array in inputs], patches)
        np.testing.assert_array_equal(known.run(rows, patches), expected)
        changed |= (expected != wiring.run([array[rows] for array in inputs])[0]).any()
    assert changed


@pytest.mark.parametrize("target", studied(["mamba", "mamba2", "griffin"], "mamba"))
def test_equal_signals_and_equal_elements_have_memory_entries_of_their_own(target):
    @lsrl.program(max_length=16)
    def equals(bit: lsrl.Token(2)):
        once = lsrl.cumsum(bit)
        twice = lsrl.linear_state(lsrl.concat(bit, bit), np.eye(2))
        return lsrl.concat(lsrl.relu(once - 3), lsrl.relu(twice - 3))

    model = lsrl.compile(equals, target, inspectable=True)
    entries = [
        (channel.layer, entry)
        for name in ("once", "twice")
        for channel in model.circuit.channels_of(name)
        for entry in channel.memory
    ]
    assert len(entries) == len(set(entries)) == 3
    result = causal_test(model, random_sampler(equals, 8), pairs=20)
    assert result.agreement == result.agreement_on_changes == 1
    assert {signal.name for signal in result.signals if signal.changed} >= {"once", "twice"}


def test_a_signal_that_only_the_program_has_is_told():
    @lsrl.program(max_length=9)
    def ahead(letter: lsrl.Token(3)):
        difference = lsrl.cumsum(letter == 0) - lsrl.cumsum(letter == 1)
        return difference == lsrl.cumsum(letter == 2)

    model = lsrl.compile(ahead, "linear_rnn", inspectable=True)
    letters = [[0, 0, 2]]
    with pytest.raises(errors.InputError, match=r"'difference' is a signal of ahead.*trace"):
        patch(model, letters, {"difference": 0})
    with pytest.raises(errors.InputError, match=r"folded into.*lsrl\.cumsum\(letter == 0\)"):
        capture(model, letters, signals=["difference"])


@pytest.mark.parametrize("target", ["linear_rnn", "mamba"])
def test_a_state_that_forgets_at_once_has_a_channel(target):
    """docs/interpretability.md offers it for what would be folded."""

    @lsrl.program(max_length=9)
    def ahead(letter: lsrl.Token(3)):
        now = lsrl.cumsum(letter == 0) - lsrl.cumsum(letter == 1)
        once = lsrl.hold(now, lsrl.constant(1)) if target == "mamba" else lsrl.linear_state(now, 0)
        return once == lsrl.cumsum(letter == 2)

    model = lsrl.compile(ahead, target, inspectable=True)
    there = patch(model, [[[0, 0, 2, 0]]], {"once": 1}, 2)
    assert there.outputs[0, :, 0].tolist() == [0, 0, 1, 0]
