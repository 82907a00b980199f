"""Lift: a network or a function, asked for sequences, becomes the program that it computes."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from lsrl import arguments
from lsrl.arguments import shown
from lsrl.errors import InductionError, InputError, LsrlError
from lsrl.induction import asking, impulses, machines, writing
from lsrl.induction.affine import columns_of, marked
from lsrl.induction.boxes import READINGS, Box, Reading
from lsrl.induction.compose import compose
from lsrl.induction.examples import Examples, drawn
from lsrl.induction.found import Candidate, Checked, Found, Refusal
from lsrl.induction.portfolio import ASKED, MAX_LENGTH, SOLVERS, Solver
from lsrl.induction.realisation import scale_of
from lsrl.induction.skills import Skills
from lsrl.ir.evaluate import evaluate
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token, Vector

# Tokens of the sequences that compositions are searched on; longer ones where that misleads.
LENGTHS = (10, 24)
# Queries that tell what the box is, and the answers that all is held against, with some to spare.
FIRST = ASKED + 50
# Tokens of a sequence that a reason quotes.
QUOTED = 12
# How many times as far off a shorter recurrence may be.
NEARLY = 8.0
# Whole numbers that float64 has one by one.
WHOLE = 2.0**53


@final
@dataclass
class _Lift:
    """One lift: the box, fresh sequences that no solver sees, and what has been found."""

    box: Box
    fresh: Examples
    share: float
    skills: Skills
    budget: int
    queries: int
    depth: int
    name: str
    max_length: int
    rng: np.random.Generator
    found: list[tuple[Candidate, float]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    tried: int = 0
    states: int | None = None

    def run(self, solvers: Iterable[str]) -> Found:
        """Each solver in turn, up to an affine recurrence, than which nothing is shorter."""
        work = {"affine": self.affine, "automaton": self.automaton, "compose": self.compose}
        seconds: dict[str, float] = {}
        for solver in solvers:
            start = time.process_time()
            try:
                work[solver]()
            except InductionError as error:
                self.refusals.append(Refusal(solver, str(error)))
            seconds[solver] = time.process_time() - start
            if self.found and solver == "affine":
                break
        ranked = sorted(self.found, key=lambda each: each[0].bits)
        checked = Checked(
            self.box.queries, len(self.fresh), self.fresh.length, self.share,
            ranked[0][1] if ranked else None, self.states,
        )  # fmt: skip
        candidates = tuple(candidate for candidate, _ in ranked)
        return Found(candidates, tuple(self.refusals), self.tried, seconds, checked)

    def ask(self, arrays: Sequence[Array]) -> Array:
        """What the box answers, while it may be asked."""
        if self.box.queries + len(arrays[0]) > self.queries:
            raise InductionError(f"it takes more than {self.queries:,} queries")
        return self.box.ask(arrays)

    # ------------------------------------------------------------ solvers

    def affine(self) -> None:
        """A recurrence, of impulse responses."""
        reason = ""
        for hot in (False, True):
            columns = columns_of(self.fresh.types, hot)
            if columns is None:
                continue
            taps = impulses.responses(self.ask, self.fresh.types, columns, self.fresh.length)
            values = marked(self.fresh.types, self.fresh.arrays, columns)
            wrong = self.wrong(impulses.superposed(values, taps))
            if wrong:
                reason = f"not affine: what single inputs do adds up to another answer {wrong}"
                continue
            reason = f"affine, and {len(taps)} lags tell of no finite order"
            tried: dict[str, str] = {}
            for settled, search in ((True, impulses.on_grids), (False, impulses.near)):
                for found in search(columns, taps, self.share):
                    body = writing.Body(self.fresh.types)
                    outputs = writing.recurrence(body, found)
                    result = "; ".join([*body.lines, *outputs])
                    if result in tried:
                        continue
                    tried[result] = self.judge("affine", body, outputs, result)
                    if settled and not tried[result]:
                        return
            if self.found:
                # Of numbers that are rounded, those are as good that are off by little more.
                least = NEARLY * min(off for _, off in self.found)
                close = [each for each in self.found if each[1] <= least]
                self.found = [min(close, key=lambda each: each[0].bits)]
                return
            reason = next(iter(tried.values()), reason)
        raise InductionError(reason)

    def automaton(self) -> None:
        """A finite machine, by L*."""
        types, length = self.fresh.types, self.fresh.length
        ranges = machines.alphabet(types)
        if ranges is None:
            raise InductionError(f"the inputs are not at most {machines.MOST_SYMBOLS} symbols")
        letters = int(np.prod([size for _, size in ranges]))
        oracle = asking.Numbered(self.ask, ranges, types)
        words = self.rng.integers(0, letters, (ASKED, length))
        learnt = asking.learnt(oracle, letters, [words], length, self.depth)
        if learnt.machine is None:
            raise InductionError(learnt.refusal)
        machine = replace(learnt.machine, outputs=tuple(oracle.outputs))
        states, body = len(machine.follows), writing.Body(types)
        result = f"a machine of {states} state{'s' * (states > 1)} and {letters} symbols"
        refusal = self.judge("automaton", body, writing.machine(types, ranges, machine), result)
        if refusal:
            raise InductionError(refusal)
        self.states = None if learnt.depth is None else states + learnt.depth

    def compose(self) -> None:
        """Skills on skills, of its own inputs and outputs."""
        if not len(self.skills):
            raise InductionError("there are no skills")
        refusal = ""
        for length in sorted({min(length, self.fresh.length) for length in LENGTHS}):
            arrays = drawn(self.fresh.types, ASKED, length, self.rng)
            examples = Examples.rectangular(self.fresh.types, arrays, self.ask(arrays))
            found = compose(examples, self.skills, self.budget)
            self.tried += found.tried
            if found.expressions is None:
                raise InductionError(found.refusal)
            body = writing.Body(self.fresh.types)
            outputs = writing.composition(body, found.expressions)
            result = ", ".join(map(str, found.expressions))
            refusal = self.judge("compose", body, outputs, result)
            if not refusal:
                return
        raise InductionError(refusal)

    # ------------------------------------------------------------ judging

    def judge(self, solver: str, body: writing.Body, outputs: list[str], result: str) -> str:
        """Run a program on the fresh sequences; why it is none, or "" for a candidate."""
        types = self.fresh.types
        text = writing.text_of(self.name, types, body, outputs, self.max_length, result)
        try:
            program = writing.program_of(text)
            # What is right up to rounding is run in float64: rationals of real weights grow long.
            said = evaluate(program.graph, self.fresh.arrays, exact=False if self.share else None)[
                program.graph.output
            ].astype(np.float64)
        except LsrlError as error:
            return f"{result} is no program: {error}"
        wrong = self.wrong(said)
        if wrong:
            return f"{result}: another answer {wrong}"
        off = float(np.abs(said - self.fresh.outputs).max())
        made = Candidate(solver, program, result, text.bits, self.fresh.length, text.whole)
        self.found.append((made, off))
        return ""

    def wrong(self, said: Array) -> str:
        """Where outputs (sequences, time, outputs) are not the network's first; "" if nowhere."""
        truth = self.fresh.outputs[:, : said.shape[1]]
        room = self.share * scale_of(np.moveaxis(truth, 1, 0))[None, :, None]
        off = ~(np.abs(said - truth) <= room)
        if not off.any():
            return ""
        token = int(off.any(axis=(0, 2)).argmax())
        row = int(off[:, token].any(axis=1).argmax())
        text = ""
        if token < QUOTED:
            read = (array[row, : token + 1].tolist() for array in self.fresh.arrays)
            named = zip(self.fresh.types, read, strict=True)
            text = " after " + ", ".join(f"{name} = {shown(value)}" for name, value in named)
        one, other = (_told(values[row, token]) for values in (said, truth))
        return f"at token {token} of sequence {row}{text}: {one}, where the network says {other}"


def _told(values: Array) -> str:
    told = [float(f"{value:.6g}") for value in values.tolist()]
    return ", ".join(str(int(x)) if x % 1 == 0 else str(x) for x in told)


def lift(
    network: object,
    *,
    inputs: Mapping[str, InputType] | None = None,
    outputs: Reading = "values",
    length: int = 50,
    tolerance: float | None = None,
    solvers: Iterable[Solver] = SOLVERS,
    skills: Skills | None = None,
    budget: int = 100_000,
    queries: int = 500_000,
    depth: int = 2,
    seed: int = 0,
    name: str = "lifted",
    max_length: int = MAX_LENGTH,
) -> Found:
    """Find the program that a network or a function computes, by asking it.

    What is affine in its inputs is told by its impulse responses (Markov parameters), realised as a
    linear state of least order; what is a finite machine by Angluin's L*, with random words and
    the W-method as the search for counterexamples; else skills are composed on its own answers.
    Each program is held against fresh random sequences at every token, by the reference evaluator.

        found = lsrl.lift(network, inputs={"x": lsrl.Token(3)}, outputs="argmax")
        print(found.source(), found.checked)

    Args:
      network: a function of one array an input, ids (sequences, time) or numbers (sequences, time,
        channels), to outputs (sequences, time) or (sequences, time, outputs); a module of flax
        (nnx) or torch that is called so, and may return states beside; or a model. It has to be a
        causal function of single sequences.
      inputs: their types by name and in order; of a model its own.
      outputs: "values" as they are, "rounded" to whole numbers, or "argmax" of each token's.
      length: tokens of the longest sequences that it is asked for.
      tolerance: share of the greatest output so far by which a program may be off. By default none
        where all answers are whole, else the square root of the spacing of floating-point
        numbers: 1.5e-8 where it answers in float64, 3.5e-4 in float32.
      solvers: which, in order; after an affine recurrence no other one.
      skills: to compose; by default `Skills.standard()`.
      budget: streams that the search of compositions makes at most.
      queries: sequences that it is asked for at most.
      depth: a machine is told from all others of at most so many states more, or of fewer more
        where that takes too many words.
      seed: of all sequences.
      name: of the program.
      max_length: of the program.

    Returns:
      As of `induce`: candidates by description length, none where nothing agrees, with each
      solver's reason. `checked` says on how many fresh sequences of what length they agree.

    Raises:
      InputError: the network raises, answers in another shape or no numbers, depends on later
        tokens or other sequences, or forgets nothing between calls; no types of inputs are given.

    Source: Angluin (1987) and Chow (1978), of machines; Ho and Kalman (1966), of linear states.

    Example:
      lifted = lsrl.lift(lsrl.compile(lsrl.programs.flip_flop(), "lstm"))
      print(lifted.expression)
    """
    arguments.choice("lift: outputs", outputs, READINGS)
    arguments.count("lift: length", length)
    arguments.count("lift: budget", budget)
    arguments.count("lift: queries", queries, FIRST)
    arguments.count("lift: max_length", max_length)
    arguments.count("lift: depth", depth, 0)
    arguments.count("lift: seed", seed, 0)
    if tolerance is not None:
        arguments.real("lift: tolerance", tolerance)
    for kind in (inputs or {}).values():
        if not isinstance(kind, Token | Vector):
            raise InputError(f"lift: inputs are lsrl.Token or lsrl.Vector, got {shown(kind)}")
    chosen = arguments.names("lift: solvers", solvers)
    for solver in chosen:
        arguments.choice("lift: solvers", solver, SOLVERS)
    if skills is not None:
        arguments.instance("lift: skills", skills, Skills, "lsrl.induction.Skills")
    if not isinstance(name, str) or not name.isidentifier():
        raise InputError(f"lift: name must be an identifier, got {shown(name)}")
    box, rng = Box(network, inputs, outputs), np.random.default_rng(seed)
    length = min(length, box.longest or length)
    box.check(length, rng)
    fresh, whole = _fresh(box, length, rng)
    share = (0.0 if whole else np.sqrt(box.spacing)) if tolerance is None else tolerance
    known = Skills.standard() if skills is None else skills
    longest = max(max_length, fresh.length)
    return _Lift(box, fresh, float(share), known, budget, queries, depth, name, longest, rng).run(
        chosen
    )


def _fresh(box: Box, length: int, rng: np.random.Generator) -> tuple[Examples, bool]:
    """Random sequences with their answers, and whether these are whole numbers.

    They are cut off ahead of answers that are not finite, and of whole numbers that are too great
    for what the network counts in.
    """
    arrays = drawn(box.types, ASKED, length, rng)
    values = box.raw(arrays)
    finite = np.isfinite(values).all(axis=(0, 2))
    time = length if finite.all() else int(finite.argmin())
    whole = box.reading != "values" or bool((values[:, :time] % 1 == 0).all())
    if whole and box.reading == "values":
        most = WHOLE if box.spacing == 0 else min(WHOLE, 1 / box.spacing)
        small = (np.abs(values[:, :time]) <= most).all(axis=(0, 2))
        time = time if small.all() else int(small.argmin())
    if time == 0:
        raise InputError("lift: the network answers NaN or infinities at the first token")
    arrays = tuple(array[:, :time] for array in arrays)
    return Examples.rectangular(box.types, arrays, box.read(values[:, :time])), whole
