"""What all variants share: measuring a network against its program, and the card that says it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lsrl import arguments
from lsrl.backends.network import Network
from lsrl.card import Card, Measured
from lsrl.circuit import Circuit
from lsrl.errors import BoundsError
from lsrl.interpret.causal import Sampler
from lsrl.ir.evaluate import evaluate
from lsrl.ir.numbers import Array
from lsrl.ir.types import Token, check_inputs
from lsrl.language.program import Program
from lsrl.model import Alteration, Model
from lsrl.noise.wrong import allowed_error, wrong_tokens
from lsrl.proof import not_compiled
from lsrl.testing.verification import legal_inputs, sample_inputs

# Of random inputs that a card's figures come from.
SEQUENCES, LENGTH = 64, 64
# As many sequences are run to prove something of all inputs of their length.
EVERY = 4096


def random_sampler(program: Program, length: int = LENGTH) -> Sampler:
    """Random inputs of the declared types, without those that break a promise.

    Programs whose promises random inputs seldom keep need a sampler of their own.

    Args:
      program: the program.
      length: tokens, cut to the program's max_length, and further where all sequences break one.
    """
    arguments.instance("random_sampler", program, Program, "@lsrl.program")
    length = min(arguments.count("length", length), program.max_length or length)

    def sample(count: int, seed: int) -> Sequence[Array]:
        drawn = sample_inputs(program.inputs, count, length, seed)
        try:
            evaluate(program.graph, drawn)
            return drawn
        except BoundsError:
            legal, _ = legal_inputs(program, drawn)
        repeated = np.resize(np.arange(len(legal[0])), count)
        return [array[repeated] for array in legal]

    return sample


def measured(model: Model, sampler: Sampler | None = None, seed: int = 0) -> Measured:
    """Run a model on random legal inputs, and compare it with its program.

    Args:
      model: any.
      sampler: of inputs that keep the program's promises; by default `random_sampler`.
      seed: of the inputs.
    """
    check_made("measured", model, sampler, seed)
    program, made = model.program, (sampler or random_sampler(model.program))(SEQUENCES, seed)
    inputs, _ = check_inputs(program.inputs, made, program.max_length)
    graph = program.graph
    expected = evaluate(graph, inputs)[graph.output].astype(np.float64)
    outputs = model.run(*inputs).astype(np.float64)
    wrong = wrong_tokens(outputs, expected, allowed_error(model.program))
    error = np.abs(outputs - expected).max(initial=0.0)
    anywhere = wrong.any(axis=0)
    return Measured(
        sequences=wrong.shape[0],
        length=wrong.shape[1],
        accuracy=float(1 - wrong.mean()),
        equal=bool(np.array_equal(outputs, expected)),
        error=float(error) if np.isfinite(error) else float("inf"),
        right_length=int(anywhere.argmax()) if anywhere.any() else wrong.shape[1],
    )


def every_input(program: Program, most: int = EVERY) -> list[Array] | None:
    """All token sequences of one length, the longest of which there are at most so many.

    Outputs depend on no later token, so what holds for all of them holds for all shorter ones.

    Returns:
      One (sequences, length) an input; None where an input is no token, or has too many symbols.
    """
    sizes = [kind.size for kind in program.inputs.values() if isinstance(kind, Token)]
    symbols = math.prod(sizes)
    if len(sizes) < len(program.inputs) or not 1 < symbols <= most:
        return None
    length = int(math.log(most, symbols) + 1e-9)
    length = min(length, program.max_length or length)
    codes = np.indices((symbols,) * length).reshape(length, -1).T
    return list(np.unravel_index(codes, sizes))


def proven_by_exhaustion(model: Model, length: int = LENGTH) -> str | None:
    """What running every short input proves, in words; None where there are too many.

    The model has run sequences of `length` tokens already; see `_in_batches`.
    """
    legal = every_input(model.program)
    if legal is None:
        return None
    try:
        wanted = model.program.run(*legal)
    except BoundsError:
        legal, kept = legal_inputs(model.program, legal)
        wanted = np.stack(kept)
    outputs = _in_batches(model, legal, length)
    count, tokens = legal[0].shape
    wrong = int(wrong_tokens(outputs, wanted, allowed_error(model.program)).sum())
    return (
        f"every legal input of up to {tokens} tokens was run ({count:,} of {tokens}): outputs are "
        f"off by at most {np.abs(outputs - wanted).max(initial=0.0):.2g}, "
        + (f"{wrong} tokens are wrong" if wrong else "no token is wrong")
    )


def _in_batches(model: Model, inputs: Sequence[Array], length: int) -> Array:
    """Outputs, float64; run in the shape that `measured` runs, since compiling takes longer.

    A network is causal, so what comes behind a sequence does not change it.
    """
    count, tokens = inputs[0].shape
    rows = np.resize(np.arange(count), -(-count // SEQUENCES) * SEQUENCES)
    further = ((0, 0), (0, max(length - tokens, 0)))
    filled = [np.pad(array[rows], further, mode="edge") for array in inputs]
    parts = [
        model.run(*(array[start : start + SEQUENCES] for array in filled))
        for start in range(0, len(rows), SEQUENCES)
    ]
    return np.concatenate(parts)[:count, :tokens].astype(np.float64)


def variant(
    model: Model,
    name: str,
    settings: str,
    module: Network | None = None,
    circuit: Circuit | None = None,
    *,
    exact: bool,
    sampler: Sampler | None,
    notes: Sequence[str] = (),
    exhaustive: bool = False,
) -> Model:
    """An altered model with its card.

    Args:
      model: what it was made of; it stays as it is.
      name: of the variant.
      settings: the variant's settings, as text.
      module: the network; by default that of `model`.
      circuit: its ground truth; likewise.
      exact: whether all that is proven of `model` is proven of the variant too.
      sampler: as for `measured`.
      notes: for the card.
      exhaustive: whether to run every short input, and say what that proves.
    """
    module, circuit = module or model.module, circuit or model.circuit
    # How an altered network rounds nobody has looked at.
    certificate = replace(model.certificate, exact_in_dtype=False, differs=None)
    if not exact:
        changes = f"{name}({settings}), see its card"
        certificate = not_compiled(certificate, "weights changed", changes)
    before = model.card
    card = Card(
        (*(before.steps if before else ()), (name, settings)),
        certificate.exact,
        0.0 if certificate.exact else float(allowed_error(model.program).min()),
        Measured(0, 0, 1.0, True, 0.0, 0),
        (*(before.notes if before else ()), *notes),
    )
    made = model.altered(module, Alteration(circuit, card), certificate)
    figures = measured(made, sampler)
    proven = proven_by_exhaustion(made, figures.length) if exhaustive else None
    card = replace(card, measured=figures, notes=(*card.notes, *([proven] if proven else ())))
    return made.altered(module, Alteration(circuit, card), certificate)


def check_made(name: str, model: object, sampler: object, seed: object = 0) -> int:
    """Check what every variant is made of, and measured on; the seed as numpy takes it.

    Raises:
      InputError: no model, no sampler, or a seed that is no int from 0 on.
    """
    arguments.instance(name, model, Model, "lsrl.compile")
    arguments.function(f"{name}: sampler", sampler, "(sequences, seed)")
    return arguments.count(f"{name}: seed", seed, 0)


Variant = Callable[[Model, int], Model]
