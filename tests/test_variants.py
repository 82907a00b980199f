"""Variants do what their cards say, and their circuits tell the truth about them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lsrl
from lsrl import errors, programs
from lsrl.backends import registry
from lsrl.interpret import capture, variants
from lsrl.interpret.causal import causal_test
from lsrl.interpret.variants import combine
from lsrl.interpret.variants.base import every_input
from lsrl.interpret.variants.combine import CANCELLING
from tests.grids import studied

pytestmark = pytest.mark.one_in(5)

TARGETS = [found.name for found in lsrl.targets()]
RESIDUAL = ["mamba", "mamba2", "griffin", "deltanet"]
SOFT_STREAMS = [name for name in RESIDUAL if registry.find(name).softened(8.0) is not None]
STACKS = [name for name in TARGETS if name not in RESIDUAL]
CATALOGUE = programs.catalogue()
# One that every target holds, with running sums, comparisons, carried values and a constant.
PROGRAM = CATALOGUE["majority"].program()


@pytest.fixture(scope="module")
def compiled():
    known = {}

    def find(target):
        if target not in known:
            known[target] = lsrl.compile(PROGRAM, target, inspectable=True)
        return known[target]

    return find


def draw(program, count=8, length=12, seed=1):
    return variants.random_sampler(program, length)(count, seed)


def check_ground_truth(model):
    """Every unit has a label, and channels hold what the circuit says."""
    circuit = model.circuit
    assert circuit.unlabelled() == []
    assert list(circuit.problems()) == []
    inputs = draw(model.program)
    in_channels, in_program = capture(model, *inputs), capture(model, *inputs, on="evaluator")
    held = {(channel.signal, channel.element) for channel in circuit.channels}
    for signal in circuit.signals:
        for element in range(signal.width):
            if signal.kind != "constant" and (signal.name, element) in held:
                np.testing.assert_array_equal(
                    in_channels[signal.name][..., element],
                    in_program[signal.name][..., element],
                    err_msg=f"{signal.name}[{element}]",
                )


def arrays_of(model):
    return {name: array.copy() for name, array in model.module.arrays().items()}


@pytest.mark.parametrize("target", studied(TARGETS, "rnn", "gru", "mamba"))
def test_permuted_is_exact_and_its_circuit_true(target, compiled, tmp_path):
    model = compiled(target)
    before, truth = arrays_of(model), model.circuit.to_json()
    shuffled = variants.permuted(model, 1)
    inputs = draw(PROGRAM, length=40)
    np.testing.assert_array_equal(shuffled.run(*inputs), model.run(*inputs))
    assert shuffled.card.exact and shuffled.card.measured.equal
    assert shuffled.card.steps == (("permuted", "seed=1"),)
    check_ground_truth(shuffled)
    result = causal_test(shuffled, lambda n, seed: draw(PROGRAM, n, seed=seed), pairs=20)
    assert result.tolerance == 0 and result.valid > 0
    assert result.agreement == 1
    # The units went elsewhere, and the model that they came from is as it was.
    assert shuffled.circuit.channels != model.circuit.channels
    assert model.circuit.to_json() == truth and model.card is None
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, before[name])
    # Equal seeds give equal networks, others do not.
    again, other = variants.permuted(model, 1), variants.permuted(model, 2)
    first = arrays_of(shuffled)
    assert all(np.array_equal(first[n], a) for n, a in arrays_of(again).items())
    assert any(not np.array_equal(first[n], a) for n, a in arrays_of(other).items())
    shuffled.save(tmp_path / "model")
    loaded = lsrl.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.run(*inputs), model.run(*inputs))
    assert loaded.circuit.to_json() == shuffled.circuit.to_json()
    assert loaded.card == shuffled.card and loaded.certificate == shuffled.certificate


@pytest.mark.parametrize("target", studied(["rnn_tanh", "lstm", "gru", "linear_rnn"], "gru"))
def test_permuted_flips_signs(target, compiled):
    model = compiled(target)
    flips = flipped(model)
    assert flips.any() and not flips.all()


def flipped(model):
    """Of the units behind the input map, whether the sign is another one after a shuffle."""
    pairs = zip(model.circuit.channels, variants.permuted(model, 1).circuit.channels, strict=True)
    signs = [np.sign(old.weights) != np.sign(new.weights) for old, new in pairs if old.layer]
    return np.concatenate(signs)


@pytest.mark.studies
def test_permuted_only_scales_rectified_units(compiled):
    assert not flipped(compiled("rnn")).any()


@pytest.mark.studies
@pytest.mark.parametrize(
    ("target", "made"),
    [
        ("griffin", "rotated"),
        ("griffin", "permuted"),
        pytest.param("mamba", "padded", marks=pytest.mark.nightly),
    ],
)
def test_trimmed_is_smaller_and_otherwise_what_it_was(target, made, compiled, tmp_path):
    model = getattr(variants, made)(compiled(target))
    before = arrays_of(model)
    small = variants.trimmed(model)
    assert small.module.num_parameters < model.module.num_parameters
    inputs = draw(PROGRAM, length=40)
    np.testing.assert_array_equal(small.run(*inputs), model.run(*inputs))
    assert small.certificate == model.certificate and small.card.measured.equal
    # The stream is as it was, every unit of it.
    for one, other in zip(small.circuit.channels, model.circuit.channels, strict=True):
        assert one == replace(other, memory=one.memory)
    check_ground_truth(small)
    # What is set goes on in the memory, which lies elsewhere now.
    result = causal_test(small, lambda n, seed: draw(PROGRAM, n, seed=seed), pairs=20)
    assert result.tolerance == 0 and result.valid > 0
    assert result.agreement == 1
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, before[name])
    small.save(tmp_path / "model")
    loaded = lsrl.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.run(*inputs), model.run(*inputs))
    assert variants.trimmed(small).module.num_parameters == small.module.num_parameters


@pytest.mark.studies
def test_trimmed_leaves_stacks_as_they_are(compiled):
    for target in STACKS:
        assert variants.trimmed(compiled(target)) is compiled(target)


@pytest.mark.parametrize("target", studied(RESIDUAL, "mamba"))
def test_rotated_is_exact_by_hadamard_blocks(target, compiled, tmp_path):
    turned = variants.rotated(compiled(target), 3)
    inputs = draw(PROGRAM, length=40)
    np.testing.assert_array_equal(turned.run(*inputs), PROGRAM.run(*inputs))
    assert turned.card.exact and turned.certificate.exact
    check_ground_truth(turned)
    # A signal is spread over a block, and others share its units.
    state = next(s for s in turned.circuit.signals if s.kind == "linearstate")
    (channel,) = turned.circuit.channels_of(state.name)
    assert len(channel.units) == len(channel.directions) == 4
    sampler = lambda n, seed: draw(PROGRAM, n, seed=seed)  # noqa: E731
    hidden = variants.permuted(turned, 1)
    assert causal_test(hidden, sampler, pairs=20).agreement == 1
    hidden.save(tmp_path / "model")
    loaded = lsrl.load(tmp_path / "model")
    assert loaded.circuit.to_json() == hidden.circuit.to_json()
    np.testing.assert_array_equal(loaded.run(*inputs), PROGRAM.run(*inputs))


@pytest.mark.studies
@pytest.mark.parametrize("target", RESIDUAL)
def test_rotated_at_random_is_right_and_not_called_exact(target, compiled):
    turned = variants.rotated(compiled(target), 3, basis="random")
    measured = turned.card.measured
    assert not turned.card.exact and not turned.certificate.exact
    assert measured.accuracy == 1 and 0 < measured.error < 1e-3
    assert causal_test(turned, lambda n, s: draw(PROGRAM, n, seed=s), pairs=20).agreement == 1


@pytest.mark.studies
def test_rotated_is_not_called_exact_where_sums_have_no_room():
    """A sum over time that just fits float32 has no bit to spare for a rotation."""

    @lsrl.program(max_length=64)
    def total(x: lsrl.Vector(1, low=0, high=2**18 - 1, step=1)):
        return lsrl.cumsum(x), *(lsrl.relu(x - k) for k in range(1, 12))

    model = lsrl.compile(total, "mamba", inspectable=True)
    assert model.certificate.exact
    cards = [variants.rotated(model, seed).card for seed in range(3)]
    assert not all(card.exact for card in cards)
    assert all(card.measured.equal for card in cards if card.exact)
    assert not all(card.measured.equal for card in cards)


@pytest.mark.parametrize("target", studied(["linear_rnn", "lstm"], "linear_rnn"))
def test_noised_is_right_at_the_level_on_its_card(target, compiled):
    model = compiled(target)
    noisy = variants.noised(model, 1)
    assert noisy.card.measured.accuracy == 1 and not noisy.card.measured.equal
    assert not noisy.certificate.exact
    result = causal_test(noisy, lambda n, s: draw(PROGRAM, n, seed=s), pairs=20)
    assert result.tolerance == 0.5 and result.agreement == 1
    assert variants.noised(model, 1, sigma=1.0).card.measured.accuracy < 1


@pytest.mark.studies
def test_padded_has_a_second_head_and_distractors(compiled, tmp_path):
    model = compiled("lstm")
    wide = variants.padded(model, 1)
    inputs = draw(wide.program, length=30)
    outputs = wide.run(*inputs)
    assert wide.program.num_outputs > 1
    np.testing.assert_array_equal(outputs[..., :1], model.run(*inputs))
    np.testing.assert_array_equal(outputs, wide.program.run(*inputs))
    check_ground_truth(wide)
    roles = [channel.role for channel in wide.circuit.channels]
    assert roles.count("distractor") > 5 and roles.count("made") >= 4
    # Reachability does not tell: distractors reach an output.
    reached = {(e.source, e.source_element) for e in wide.circuit.edges if e.target == "output"}
    idle = {(c.signal, c.element) for c in wide.circuit.channels if c.role == "distractor"}
    assert reached & idle and reached - idle
    # Some feed the program itself, and what they add is nothing.
    fed = {}
    for edge in wide.circuit.edges:
        if edge.source in CANCELLING and (edge.target, edge.target_element) not in idle:
            fed.setdefault((edge.target, edge.target_element), []).append(edge.weight)
    assert fed and all(weights[0] and sum(weights) == 0 for weights in fed.values())
    # No intervention on another distractor changes the first head; one on a signal does.
    changed = {}
    for signal in wide.circuit.signals:
        if signal.owned:
            values = 1.0 + np.zeros(signal.width)
            patched = lsrl.interpret.patch(wide, inputs, {signal.name: values}, 3)
            changed[signal.name] = (patched.outputs[..., :1] != outputs[..., :1]).any()
    for channel in wide.circuit.channels:
        if channel.role == "distractor" and channel.signal in changed.keys() - {*CANCELLING}:
            only = {c.role for c in wide.circuit.channels_of(channel.signal)} == {"distractor"}
            assert not (only and changed[channel.signal]), channel.signal
    assert any(changed.values())
    wide.save(tmp_path / "model")
    loaded = lsrl.load(tmp_path / "model")
    assert loaded.circuit.to_json() == wide.circuit.to_json() and loaded.card == wide.card


@pytest.mark.studies
@pytest.mark.parametrize("rectified", [False, True])
def test_what_cancels_changes_nothing_and_is_read(rectified, compiled):
    fed = combine.cancelling(PROGRAM, 2, rectified=rectified)
    inputs = draw(PROGRAM, length=30)
    np.testing.assert_array_equal(fed.run(*inputs), PROGRAM.run(*inputs))
    target = "mamba" if rectified else "gru"
    model = lsrl.compile(fed, target, inspectable=True)
    assert model.certificate.exact
    circuit = combine.marked(model.circuit, PROGRAM.num_outputs, CANCELLING)
    idle = {c.signal for c in circuit.channels if c.role == "distractor"}
    real = {c.signal for c in circuit.channels if c.role == "made"}
    names = {name for name in CANCELLING if name in {s.name for s in circuit.signals}}
    assert names <= idle and len(names) == 2 + rectified
    assert names <= {e.source for e in circuit.edges if e.target in real}
    # No output of the program is fed by them alone, or it would be asked about no more.
    assert not names & {e.source for e in circuit.edges if e.target == "output"}
    result = causal_test(model, lambda n, s: draw(PROGRAM, n, seed=s), pairs=20)
    assert result.agreement == 1
    assert any(s.changed for s in result.signals if s.name in names)


@pytest.mark.studies
def test_distractors_tell_no_folder_of_this_machine(compiled):
    for signal in variants.padded(compiled("gru"), 1).circuit.signals:
        assert "random_programs" not in signal.source


def test_merged_gives_the_outputs_of_its_programs(compiled):
    other = CATALOGUE["even_pairs"].program()
    both = variants.merged(compiled("gru"), 1, [other])
    inputs = draw(both.program, length=30)
    first = PROGRAM.num_outputs
    np.testing.assert_array_equal(both.run(*inputs)[..., :first], PROGRAM.run(inputs[0]))
    read = inputs[: len(other.inputs)] if len(both.program.inputs) == 1 else inputs[-1:]
    np.testing.assert_array_equal(both.run(*inputs)[..., first:], other.run(*read))
    assert "distractor" not in {channel.role for channel in both.circuit.channels}
    check_ground_truth(both)


@pytest.mark.studies
def test_merged_programs_keep_their_signals_apart():
    """Both call a signal `count`; the second one's goes by its program's name."""

    def counter(symbol):
        @lsrl.program(max_length=40)
        def counting(x: lsrl.Token(3)):
            count = lsrl.cumsum(lsrl.equal(x, symbol))
            return 2 * count

        return counting

    first, second, third = counter(0), counter(1), counter(2)
    model = lsrl.compile(first, "gru", inspectable=True)
    both = variants.merged(model, 0, [second, third])
    inputs = draw(first, length=30)
    for found in (capture(both, *inputs), both.program.trace(*inputs)):
        for name, program in (
            ("count", first), ("counting.count", second), ("counting_3.count", third)
        ):  # fmt: skip
            np.testing.assert_array_equal(found[name], program.trace(*inputs)["count"])
    assert all(
        "test_variants.py" in both.circuit.signal(n).source for n in ("count", "counting.count")
    )


@pytest.mark.studies
@pytest.mark.parametrize("make", [variants.padded, variants.merged])
@pytest.mark.parametrize("target", ["gru", "mamba"])
def test_joint_programs_tell_lines_of_programs_only(make, target):
    # Where this package lies on a machine is no part of a model: suites are equal to the byte.
    model = lsrl.compile(CATALOGUE["since_last"].program(), target, inspectable=True)
    nodes = make(model, 0).program.graph.nodes
    files = {Path(source.file).name for node in nodes for source in node.sources}
    assert files and not files & {path.name for path in Path(variants.__file__).parent.iterdir()}


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
def test_merged_draws_a_program_that_fits(target, compiled):
    both = variants.merged(compiled(target), 1)
    assert both.card.exact and both.program.num_outputs > PROGRAM.num_outputs
    check_ground_truth(both)


def test_every_input_of_a_length():
    (bits,) = every_input(PROGRAM, 70)
    assert bits.shape == (64, 6) and len(np.unique(bits, axis=0)) == 64
    assert every_input(lsrl.programs.vec2vec()) is None
    assert every_input(PROGRAM, 1) is None


@pytest.mark.parametrize("target", studied(["lstm", "gru", "rnn_tanh", *SOFT_STREAMS], "gru"))
def test_soft_gates_are_nearly_right_and_let_gradients_through(target, compiled, tmp_path):
    model = compiled(target)
    errors_at = {}
    for temperature in (1.0, 2.0):
        made = variants.soft(model, temperature)
        measured = errors_at[temperature] = made.card.measured
        assert measured.accuracy == 1 and 0 < measured.error < 0.02
        assert not made.certificate.exact
        result = causal_test(made, lambda n, s: draw(PROGRAM, n, seed=s), pairs=20)
        assert result.agreement == 1
        # What the channels hold by the circuit is nearly what the program says.
        inputs = draw(PROGRAM)
        held, meant = capture(made, *inputs), capture(made, *inputs, on="evaluator")
        for name, values in meant.items():
            np.testing.assert_allclose(held[name], values, atol=0.05 * (1 + np.abs(values).max()))
    assert errors_at[1.0].error < errors_at[2.0].error
    # Nothing that is shorter is off by more than the card says of every such input.
    (note,) = (note for note in made.card.notes if note.startswith("every legal input"))
    assert "up to 12 tokens was run (4,096 of 12)" in note and "no token is wrong" in note
    bound = float(note.split("at most ")[1].split(",")[0])
    short = draw(PROGRAM, 256, 9)
    assert 0 < np.abs(made.run(*short) - PROGRAM.run(*short)).max() <= 1.1 * bound
    made.save(tmp_path / "model")
    loaded = lsrl.load(tmp_path / "model")
    inputs = draw(PROGRAM)
    np.testing.assert_array_equal(loaded.run(*inputs), made.run(*inputs))
    assert loaded.circuit.to_json() == made.circuit.to_json() and loaded.card == made.card
    # A gate at ±128 has no gradient; one at ±4 has.
    sizes = []
    for each in (model, made):
        biases = np.concatenate(
            [a.ravel() for n, a in each.module.arrays().items() if n.endswith("bias")]
        )
        sizes.append(np.abs(biases).max())
    assert sizes[1] < sizes[0]


@pytest.mark.studies
@pytest.mark.parametrize("target", SOFT_STREAMS)
def test_soft_scans_hold_and_let_go_as_their_gates_say(target):
    """A state that is set goes on from there, and by the circuit's weights is what it should be."""
    program = CATALOGUE["flip_flop"].program()
    model = lsrl.compile(program, target, inspectable=True)
    made = variants.soft(model)
    assert made.card.measured.accuracy == 1 and 0 < made.card.measured.error < 0.1
    result = causal_test(made, lambda n, s: draw(program, n, seed=s), pairs=40)
    assert result.agreement == 1 and any(signal.changed for signal in result.signals)
    (channel,) = [c for c in made.circuit.channels if c.memory and c.role == "made"]
    (hard,) = [c for c in model.circuit.channels if c.memory and c.role == "made"]
    assert channel.memory_weights != hard.memory_weights
    # Set once and then kept, a value fades by what the shut gate lets go: σ(-8) a token in Mamba.
    inputs = np.zeros((1, 40), int)
    inputs[0, 0] = 3
    assert program.run(inputs).all()
    faded = made.run(inputs)[0, :, 0].astype(np.float64)
    rate = 1 - faded[-1] / faded[-2]
    assert rate == pytest.approx((4 if target == "griffin" else 1) / (1 + np.exp(8)), rel=0.05)


@pytest.mark.studies
@pytest.mark.parametrize("target", SOFT_STREAMS)
def test_what_soft_gates_do_to_bits_is_taken_back(target):
    """A bit that passes, and one that a hold takes in again and again."""
    copy = lsrl.programs.copy_delay(k=2, vocab=2)
    model = variants.soft(lsrl.compile(copy, target, inspectable=True), 2)
    assert model.card.measured.error < 1e-5
    model = variants.soft(
        lsrl.compile(lsrl.programs.flip_flop(vocab=2), target, inspectable=True), 2
    )
    np.testing.assert_allclose(model.run(np.full((1, 20), 3))[0, 10:], 1, atol=1e-5)


@pytest.mark.studies
@pytest.mark.parametrize("target", SOFT_STREAMS)
def test_soft_streams_have_drives_of_their_size(target, compiled):
    arrays = arrays_of(variants.soft(compiled(target), 2))
    biases, kernels = (
        ("dt_proj.bias", ["in_proj.weight"])
        if target == "mamba"
        else ("dt_bias", [])
        if target == "mamba2"
        else ("_gate_bias", ["linear_y.weight", "gate_proj.weight"])
    )
    for name, array in arrays.items():
        if name.endswith(biases):
            np.testing.assert_array_equal(np.abs(array), np.full_like(array, 4.0), err_msg=name)
        if name.endswith(tuple(kernels)) and array.any():
            # Signals have steps of 1 here, and the normed constant is 1.
            assert np.abs(array[array != 0]).min() == 4.0, name


@pytest.mark.studies
@pytest.mark.parametrize("target", SOFT_STREAMS)
def test_cold_streams_are_what_was_compiled_and_hot_ones_finite(target, compiled):
    inputs = draw(PROGRAM, length=40)
    for temperature in (0.25, 0.08, 0.01):
        cold = variants.soft(compiled(target), temperature)
        np.testing.assert_allclose(cold.run(*inputs), PROGRAM.run(*inputs), atol=1e-5)
    assert np.isfinite(variants.soft(compiled(target), 100.0).run(*inputs)).all()


@pytest.mark.studies
def test_programs_in_one_network_are_softened_together(compiled):
    both = variants.merged(compiled("mamba"), 1, [CATALOGUE["flip_flop"].program()])
    made = variants.soft(both)
    assert made.card.measured.accuracy == 1
    assert [name for name, _ in made.card.steps] == ["merged", "soft"]


def test_inputs_of_joined_programs_are_shared_by_type():
    parity, vectors = CATALOGUE["parity"].program(), CATALOGUE["vec2vec"].program()
    joint = variants.join([parity, parity, vectors])
    assert len(joint.inputs) == 1 + len(vectors.inputs)
    assert joint.num_outputs == 2 * parity.num_outputs + vectors.num_outputs
    assert len(joint.graph) < 2 * len(parity.graph) + len(vectors.graph)


def test_cards_say_what_was_done(compiled):
    model = variants.permuted(variants.noised(compiled("lstm"), 1, 1e-5), 2)
    assert [name for name, _ in model.card.steps] == ["noised", "permuted"]
    assert "permuted(seed=2)" in str(model.card) and "100.0000%" in str(model.card)
    assert "accuracy" in str(model.card)


def test_bad_input(compiled, tmp_path):
    lstm, mamba = compiled("lstm"), compiled("mamba")
    for seed in (-1, 0.5, True, None):
        with pytest.raises(errors.InputError, match="seed must be an int >= 0"):
            variants.permuted(lstm, seed)
    with pytest.raises(errors.InputError, match="no residual stream"):
        variants.rotated(lstm)
    with pytest.raises(errors.InputError, match="'hadamard' or 'random'"):
        variants.rotated(mamba, basis="fourier")
    with pytest.raises(errors.InputError, match="changed already"):
        variants.rotated(variants.permuted(mamba))
    small = lsrl.compile(CATALOGUE["flip_flop"].program(), "mamba", inspectable=True)
    with pytest.raises(errors.InputError, match="no block of 4"):
        variants.rotated(small)
    for sigma in (-1.0, float("nan"), float("inf")):
        with pytest.raises(errors.InputError, match="sigma"):
            variants.noised(lstm, 0, sigma)
    for temperature in (0, -1.0, float("inf"), "warm"):
        with pytest.raises(errors.InputError, match="temperature"):
            variants.soft(lstm, temperature)
    with pytest.raises(errors.InputError, match="linear_rnn has no saturated gates"):
        variants.soft(compiled("linear_rnn"))
    with pytest.raises(errors.InputError, match="soften the compiled model"):
        variants.soft(variants.permuted(lstm))
    with pytest.raises(errors.InputError, match="distractors"):
        variants.padded(lstm, 0, 0)
    continuous = lsrl.compile(lsrl.programs.vec2vec(), "linear_rnn", inspectable=True)
    with pytest.raises(errors.InputError, match="continuous inputs alone"):
        variants.padded(continuous)
    with pytest.raises(errors.InputError, match="start from the compiled model"):
        variants.padded(variants.permuted(lstm))
    with pytest.raises(errors.InputError, match="at least one"):
        variants.join([])
    with pytest.raises(errors.InputError, match="tied"):
        variants.permuted(mamba).export("huggingface", tmp_path, tie_word_embeddings=True)
