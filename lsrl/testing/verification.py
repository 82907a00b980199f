"""Models against the reference evaluator, on random inputs and at the ends of the ranges."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from lsrl import arguments
from lsrl.errors import InputError, SelfTestError
from lsrl.ir.evaluate import evaluate_prefixes
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token, Vector, check_inputs
from lsrl.language.program import Program

# Draws inputs: (random numbers, sequences, length) -> one array an input, (sequences, length[,
# width]) each, or the array alone where the program has one input. They may be shorter.
Sampler = Callable[[np.random.Generator, int, int], Sequence[Array] | Array]

# A comparison that a program's promises leave a smaller share of its tokens says next to nothing.
LEAST_SHARE = 1 / 8
# Signals that never changed which a text names.
_NAMED = 8
# Search for inputs that keep the promises: rounds, from which on any that keep them will do, trials
# of each kind for a sequence and round, and tokens that a calm trial may go on for before.
_ROUNDS, _PATIENCE, _TRIALS, _CALM = 24, 12, 8, 6
# Entries of a vector that are at the end of their range together, at most, in trials of sets.
_SET = 4
# The reference evaluator keeps every named signal of so many tokens at a time.
_TOKENS_AT_ONCE = 2**16


Held = TypeVar("Held")  # the state between tokens


class Runnable(Protocol[Held]):
    """What `compare` needs of a compiled model."""

    program: Program

    @property
    def allowed_error(self) -> float:
        """Greatest error of an output that what is proven allows."""

    @property
    def reference_dtype(self) -> str | None:
        """The dtype in which the program's own values are the model's, bit for bit, if one is."""

    def run(self, *inputs: ArrayLike, runner: Literal["jax"]) -> Array:
        """Whole sequences, by jax: it is the device that is on trial."""

    def init_state(self, batch: int | None = None) -> Held:
        """The state before the first token."""

    def step(self, state: Held, *inputs: ArrayLike) -> tuple[Array, Held]:
        """One token."""


class Difference(NamedTuple):
    """The first token at which a model differs from its program."""

    mode: str
    sequence: int
    token: int
    expected: list[float]
    got: list[float]
    allowed: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.mode}: sequence {self.sequence}, token {self.token}: expected {self.expected}, "
            f"got {self.got}, allowed error {self.allowed:.3g}"
        )


class Drawn(NamedTuple):
    """Sequences to run.

    Attributes:
      inputs: one array an input, (sequences, length[, width]).
      lengths: (sequences,) int, the tokens of each; what is behind them fills it up.
      redrawn: (sequences,) bool, whose inputs broke a promise and were drawn anew from there on.
    """

    inputs: list[Array]
    lengths: Array
    redrawn: Array


@dataclass(frozen=True)
class Comparison:
    """What was compared of a model and its program, and the first difference.

    Attributes:
      program: the program.
      kept: sequences that were compared whole, as they were drawn.
      redrawn: those that were compared whole, after inputs that broke a promise were drawn anew.
      cut: those that were compared up to the token ahead of one that breaks a promise.
      dropped: those whose first token breaks one.
      length: of the longest sequence that was drawn.
      longest: of the longest that was compared.
      tokens: tokens that were compared, in each mode.
      offered: tokens that were drawn.
      error: greatest difference of an output, infinite where one is NaN.
      spans: least and greatest value of each signal, (width,) each, by its node.
      difference: the first one, if any.
    """

    program: Program
    kept: int
    redrawn: int
    cut: int
    dropped: int
    length: int
    longest: int
    tokens: int
    offered: int
    error: float
    spans: dict[int, tuple[Array, Array]]
    difference: Difference | None

    def check(self, place: str) -> None:
        """Raise SelfTestError if they differ, or if next to nothing was compared; says where."""
        if self.difference is not None:
            raise SelfTestError(f"{place}: {self.difference}")
        if self.shortfall is not None:
            raise SelfTestError(
                f"{place}: next to nothing was tested: {self.shortfall}; pass a sampler of "
                f"inputs that keep the promises\n{self}"
            )

    @property
    def sequences(self) -> int:
        """All that were drawn."""
        return self.kept + self.redrawn + self.cut + self.dropped

    @property
    def changed(self) -> tuple[str, ...]:
        """Named signals that had different values at different tokens."""
        return self._names(True)

    @property
    def unchanged(self) -> tuple[str, ...]:
        """Named signals that had one value at all tokens, and could have others."""
        return self._names(False)

    @property
    def outputs_changed(self) -> bool:
        """Whether the outputs had different values at different tokens."""
        return self._moved(self.program.graph.output)

    @property
    def shortfall(self) -> str | None:
        """Why next to nothing was tested, where that is so; else None."""
        if self.length > 1 and self.longest < 2:
            return "no sequence keeps the program's promises beyond its first token"
        if self.tokens < LEAST_SHARE * self.offered:
            return (
                f"only {self.tokens} of {self.offered} tokens were compared, less than "
                f"{LEAST_SHARE:.1%}, since the others stand behind a broken promise"
            )
        fact = self.program.graph.facts[self.program.graph.output]
        whole = self.kept == self.sequences
        if not whole and not self.outputs_changed and (fact.low < fact.high).any():
            return "the outputs never changed, and inputs that break a promise were left out"
        return None

    def joined(self, other: "Comparison") -> "Comparison":
        """This one and a later one of the same program as one."""
        counts = ("kept", "redrawn", "cut", "dropped", "tokens", "offered")
        spans = dict(self.spans)
        for node, (low, high) in other.spans.items():
            least, most = spans.get(node, (low, high))
            spans[node] = np.minimum(low, least), np.maximum(high, most)
        return replace(
            self,
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
            **{
                name: max(getattr(self, name), getattr(other, name))
                for name in ("length", "longest", "error")
            },
            spans=spans,
            difference=self.difference or other.difference,
        )

    def __str__(self) -> str:
        """What was tested, in a few lines."""
        counts = (
            (self.kept, "kept as drawn"),
            (self.redrawn, "redrawn from the token on that broke a promise"),
            (self.cut, "cut ahead of the token that breaks one"),
            (self.dropped, "dropped, as the first token breaks one"),
        )
        parts = ", ".join(f"{count} {what}" for count, what in counts if count or what[0] == "k")
        lines = [
            f"sequences    {self.sequences}: {parts}",
            f"length       up to {self.longest} of {self.length} tokens, {self.tokens} of "
            f"{self.offered} compared in each mode",
        ]
        if not self.outputs_changed:
            lines.append("outputs      never changed")
        names = self.unchanged
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"never moved  {', '.join(names[:_NAMED])}{more}")
        return "\n".join(lines)

    def _moved(self, node: int) -> bool:
        low, high = self.spans.get(node, (np.zeros(1), np.zeros(1)))
        return bool((low < high).any())

    def _names(self, moved: bool) -> tuple[str, ...]:
        graph = self.program.graph
        found = (
            graph.label(i)
            for i in _signals(self.program)
            if self._moved(i) is moved and (graph.facts[i].low < graph.facts[i].high).any()
        )
        return tuple(dict.fromkeys(found))


def _signals(program: Program) -> list[int]:
    """The live signals that have a name, inputs among them."""
    graph = program.graph
    return [i for i in graph.live([graph.output, *graph.inputs]) if graph.nodes[i].names]


def sample_inputs(
    types: dict[str, InputType], sequences: int, length: int, seed: int
) -> list[Array]:
    """Inputs of the declared types (sequences, length[, width]): all low, all high, then random."""
    random = np.random.default_rng(seed)
    found: list[Array] = []
    for kind in types.values():
        values = _uniform(random, kind, sequences, length)
        facts = kind.facts()
        values[:1], values[1:2] = facts.low, facts.high
        found.append(values if isinstance(kind, Token) else _on_grid(kind, values))
    return found


def _uniform(random: np.random.Generator, kind: InputType, sequences: int, length: int) -> Array:
    if isinstance(kind, Token):
        return random.integers(0, kind.size, (sequences, length))
    return random.uniform(np.array(kind.low), np.array(kind.high), (sequences, length, kind.width))


def _on_grid(kind: Vector, values: Array) -> Array:
    low, high, step = np.array(kind.low), np.array(kind.high), kind.grid()
    unit = np.where(step > 0, step, 2.0**-10)
    snapped = np.clip(np.round(values / unit) * unit, low, high)
    # Ends that lie off the grid would be refused, so move inwards.
    return np.where((step > 0) & (np.mod(snapped, unit) != 0), np.ceil(low / unit) * unit, snapped)


def _calm(random: np.random.Generator, kind: InputType, sequences: int, length: int) -> Array:
    """Inputs that keep to a few values, (sequences, length[, width]): a promise may ask for that.

    A sequence stays at one symbol but for a few tokens, or near one value but for a few entries.
    """
    if isinstance(kind, Token):
        ends = np.minimum([0, 1, kind.size - 1], kind.size - 1)
        usual, other = random.integers(0, kind.size, (2, sequences, 1))
        usual = np.where(
            random.random((sequences, 1)) < 0.5, random.choice(ends, (sequences, 1)), usual
        )
        often = random.choice([0.0, 0.02, 0.1, 0.3], (sequences, 1))
        return np.where(random.random((sequences, length)) < often, other, usual)
    low, high = np.array(kind.low), np.array(kind.high)
    shape = (sequences, length, kind.width)
    nought = np.clip(0.0, low, high)
    anywhere = random.uniform(low, high, (sequences, kind.width))
    anchors = np.stack([np.broadcast_to(x, anywhere.shape) for x in (low, nought, high, anywhere)])
    anchor = anchors[random.choice(4, sequences, p=[0.2, 0.5, 0.1, 0.2]), np.arange(sequences)]
    far = random.choice([0.0, 2.0**-6, 2.0**-3, 1.0], (sequences, 1, 1))
    often = random.choice([0.02, 0.2, 1.0], (sequences, 1, 1))
    moved = np.where(random.random(shape) < often, far, 0.0)
    goal = random.uniform(low, high, shape)
    # As one-hot vectors are, and sets of a size: some entries are at the end of their range.
    single = random.random((sequences, 1, 1)) < 0.25
    size = random.integers(1, min(kind.width, _SET) + 1, (sequences, 1, 1))
    alone = random.random(shape).argsort(axis=-1) < size
    here = anchor[:, None]
    values = np.where(single, np.where(alone, high, here), here + moved * (goal - here))
    return _on_grid(kind, values)


def draw_inputs(
    program: Program,
    sequences: int,
    length: int,
    seed: int,
    *,
    sampler: Sampler | None = None,
    extremes: bool = True,
) -> Drawn:
    """Draw inputs that keep a program's promises, as far as some are found.

    Without a sampler they are random. Those that break a promise are drawn anew from that token on,
    and at first so that they change as freely as before.

    Args:
      program: the program.
      sequences: how many.
      length: tokens, at most the program's max_length.
      seed: of the random numbers.
      sampler: draws them in place of that; what it draws is taken as it is.
      extremes: let the first two sequences be all low and all high; a sampler sees to its own.

    Raises:
      InputError: the sampler's inputs are not of the declared types.
    """
    arguments.count("sequences", sequences)
    arguments.count("seed", seed, 0)
    arguments.function("sampler", sampler, "(numpy's generator, sequences, length)")
    length = min(arguments.count("length", length), program.max_length or length)
    if sampler is not None:
        made = sampler(np.random.default_rng(seed), sequences, length)
        if not isinstance(made, np.ndarray | list | tuple):
            raise InputError(
                f"{program.name}: expected of the sampler one array an input "
                f"({', '.join(program.inputs)}), got {type(made).__name__}; return a list of "
                "arrays (sequences, length, ...)"
            )
        return _given(program, [made] if isinstance(made, np.ndarray) else made)
    skipped = 0 if extremes else 2
    drawn = sample_inputs(program.inputs, max(sequences + skipped, 1), length, seed)
    inputs = [array[skipped:] for array in drawn]
    legal, _ = evaluate_prefixes(program.graph, inputs, exact=False)
    redrawn = legal < length
    if redrawn.any():
        inputs = _mended(program, inputs, legal, np.random.default_rng([seed, 1]))
    return Drawn(inputs, np.full(len(inputs[0]), length), redrawn)


def _given(program: Program, inputs: Sequence[ArrayLike]) -> Drawn:
    arrays, batched = check_inputs(program.inputs, inputs, program.max_length)
    if not batched:
        raise InputError(
            f"{program.name}: expected a batch of sequences, (sequences, length, ...), got one "
            "sequence; add an axis in front"
        )
    count, length = arrays[0].shape[:2]
    return Drawn(arrays, np.full(count, length), np.zeros(count, bool))


def _mended(
    program: Program, inputs: Sequence[Array], legal: Array, random: np.random.Generator
) -> list[Array]:
    """The sequences with other inputs where they break a promise, as far as trials find some."""
    arrays, legal = [array.copy() for array in inputs], legal.copy()
    kinds, time = list(program.inputs.values()), arrays[0].shape[1]
    failures = np.zeros(len(legal), int)
    for round_ in range(_ROUNDS):
        rows = np.flatnonzero((legal < time) & (failures < 3))
        if not len(rows):
            break
        count = len(rows) * _TRIALS
        behind = np.arange(time) >= np.tile(legal[rows], 2 * _TRIALS)[:, None]
        trials = []
        for kind, array in zip(kinds, arrays, strict=True):
            free = _uniform(random, kind, count, time)
            free = free if isinstance(kind, Token) else _on_grid(kind, free)
            fresh = np.concatenate([free, _calm(random, kind, count, time)])
            mask = behind if fresh.ndim == 2 else behind[..., None]
            trials.append(np.where(mask, fresh, array[np.tile(rows, 2 * _TRIALS)]))
        reached, _ = evaluate_prefixes(program.graph, trials, exact=False)
        # (kinds of trials, trials, rows): free ones first.
        by_trial = reached.reshape(2, _TRIALS, len(rows)) - legal[rows]
        best = by_trial.argmax(axis=1)
        gain = by_trial.max(axis=1)
        # Free trials change more, so calm ones have their turn where those get nowhere.
        calm = gain[0] < 1 if round_ < _PATIENCE else gain[1] > gain[0]
        most = _CALM if round_ < _PATIENCE else time
        gained = np.where(calm, np.minimum(gain[1], most), gain[0])
        number = np.where(calm, _TRIALS + best[1], best[0]) * len(rows) + np.arange(len(rows))
        for array, trial in zip(arrays, trials, strict=True):
            array[rows] = trial[number]
        failures[rows] = np.where(gained < 1, failures[rows] + 1, 0)
        legal[rows] += gained
    return arrays


def compare(
    model: Runnable[Held],
    *,
    inputs: Drawn | Sequence[Array] | None = None,
    sequences: int = 8,
    length: int = 64,
    seed: int = 0,
    steps: bool = True,
    sampler: Sampler | None = None,
) -> Comparison:
    """Compare a model with its program, token by token.

    Equal where that is proven of the compiled weights, to the program as it is or as the reference
    evaluator runs it in the model's dtype, else within the bound that is proven of them. Of a
    sequence that breaks a promise of the program, the tokens ahead of that are compared.

    Args:
      model: the model.
      inputs: what to run on, (sequences, length[, width]) each; drawn if None.
      sequences: how many to draw; the first two are at the ends of the ranges.
      length: tokens, at most the program's max_length.
      seed: of what is drawn.
      steps: also compare the step mode.
      sampler: draws inputs that keep the promises, as for `draw_inputs`.

    Returns:
      What was compared, with the first difference; see `Comparison.shortfall` too.

    Raises:
      InputError: inputs are not of the declared types.
    """
    program = model.program
    if inputs is None:
        inputs = draw_inputs(program, sequences, length, seed, sampler=sampler)
    drawn = inputs if isinstance(inputs, Drawn) else _given(program, inputs)
    legal, expected, spans = _evaluated(program, drawn, model.reference_dtype)
    whole = legal == drawn.lengths
    difference, error = None, 0.0
    if legal.any():
        difference, error = _differences(model, drawn.inputs, legal, expected, steps)
    return Comparison(
        program,
        kept=int((whole & ~drawn.redrawn).sum()),
        redrawn=int((whole & drawn.redrawn).sum()),
        cut=int((~whole & (legal > 0)).sum()),
        dropped=int((~whole & (legal == 0)).sum()),
        length=int(drawn.lengths.max(initial=0)),
        longest=int(legal.max(initial=0)),
        tokens=int(legal.sum()),
        offered=int(drawn.lengths.sum()),
        error=error,
        spans=spans,
        difference=difference,
    )


def _evaluated(
    program: Program, drawn: Drawn, dtype: str | None
) -> tuple[Array, Array, dict[int, tuple[Array, Array]]]:
    """Legal tokens of each sequence, outputs (sequences, length, outputs), and spans of signals."""
    count, time = len(drawn.lengths), drawn.inputs[0].shape[1]
    output = program.graph.output
    wanted = [*_signals(program), output]
    legal, expected = np.zeros(count, int), np.zeros((count, time, program.num_outputs))
    spans: dict[int, tuple[Array, Array]] = {}
    rows = max(1, _TOKENS_AT_ONCE // time)
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        inputs = [array[part] for array in drawn.inputs]
        found, values = evaluate_prefixes(program.graph, inputs, wanted, dtype=dtype)
        legal[part] = np.minimum(found, drawn.lengths[part])
        expected[part] = values[output].astype(np.float64)
        ahead = np.arange(time) < legal[part, None]
        for node, value in values.items() if ahead.any() else ():
            some = value[ahead].astype(np.float64)
            least, most = spans.get(node, (np.inf, -np.inf))
            spans[node] = np.minimum(some.min(axis=0), least), np.maximum(some.max(axis=0), most)
    return legal, expected, spans


def _differences(
    model: Runnable[Held], inputs: Sequence[Array], legal: Array, expected: Array, steps: bool
) -> tuple[Difference | None, float]:
    """The first difference within the legal tokens, and the greatest."""
    ahead = np.arange(expected.shape[1]) < legal[:, None]
    allowed = model.allowed_error if model.reference_dtype is None else 0.0
    modes = {"run": np.array(model.run(*inputs, runner="jax"), np.float64)}
    # Outputs depend on no later token, so it does no harm that what is behind breaks promises,
    # unless it overflows: then zeros of a matrix product make it NaN everywhere.
    wrong = (errors_of(expected, modes["run"], ahead) > allowed).any(axis=(1, 2))
    for row in np.flatnonzero(wrong & (legal < expected.shape[1])):
        prefix = [array[row : row + 1, : legal[row]] for array in inputs]
        modes["run"][row, : legal[row]] = model.run(*prefix, runner="jax")[0]
    if steps:
        modes["step"] = np.zeros_like(expected)
        state = model.init_state(batch=len(legal))
        for t in range(int(legal.max())):
            modes["step"][:, t], state = model.step(state, *(array[:, t] for array in inputs))
    greatest = 0.0
    first: Difference | None = None
    for mode, got in modes.items():
        error = errors_of(expected, got, ahead)
        greatest = max(greatest, float(error.max(initial=0.0)))
        places = np.argwhere(((error > allowed) | np.isinf(error)).any(axis=-1))
        if len(places) and first is None:
            sequence, token = places[np.lexsort((places[:, 0], places[:, 1]))[0]]
            first = Difference(
                mode, int(sequence), int(token),
                expected[sequence, token].tolist(), got[sequence, token].tolist(), allowed,
            )  # fmt: skip
    return first, greatest


def errors_of(expected: Array, got: Array, ahead: Array) -> Array:
    """Of the tokens ahead of a broken promise, 0 elsewhere; NaN is infinitely wrong."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(ahead[..., None], np.abs(expected - got), 0.0)
    return np.where(np.isnan(error), np.inf, error)


def legal_inputs(program: Program, inputs: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """The sequences that keep every promise, with what the program makes of them.

    If none does, shorter ones.

    Raises:
      InputError: every sequence breaks a promise at its first token.
    """
    output = program.graph.output
    legal, values = evaluate_prefixes(program.graph, inputs, [output])
    length = inputs[0].shape[1]
    while length and not (legal >= length).any():
        length //= 2
    if not length:
        raise InputError(
            f"every input breaks a promise of {program.name!r} at once; pass legal ones: "
            "inputs=[...]"
        )
    kept = np.flatnonzero(legal >= length)
    expected = values[output][kept, :length].astype(np.float64)
    return [array[kept, :length] for array in inputs], list(expected)
