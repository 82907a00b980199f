"""Arguments and selection found together, from questions and answers alone.

A call is bound to each token that names a task: the routine, the symbol of every token, and how its
output is read (docs/library.md). Which tokens name tasks is not told either: behind such a one what
follows decides the answer, and behind a digit it doesn't.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lsrl import arguments
from lsrl.errors import InputError, Unbindable
from lsrl.ir.numbers import Array
from lsrl.nn.annealing import Chains, Judge, Machines, Questions
from lsrl.nn.calls import Call, Calls, Evidence, padded
from lsrl.nn.tables import MooreTable

# Maps of every machine that are tried side by side; a quarter of them goes on.
CHAINS, QUARTER = 16, 4
# Questions of a stage, and of the last look at all of them.
ASKED, LOOKED = 192, 1024
# Behind a name equal tokens have equal answers, wrong labels aside: how much less often than behind
# the best other name. A token in fewer questions than SEEN names nothing.
LESS, SEEN = 0.2, 20
MOST_ANSWERS = 256
# By how much long questions may be explained worse than short ones: sigmas of chance, and more.
SIGMAS, SLACK = 3.0, 0.02


class _Stage(NamedTuple):
    """A part of the search.

    Attributes:
      share: of the questions, the shortest, that are asked.
      temperature: at its start.
      kept: machines that are left.
    """

    share: float
    temperature: float
    kept: int


STAGES = (_Stage(0.25, 0.1, 64), _Stage(0.5, 0.05, 6), _Stage(1.0, 0.02, 3))


def bind(
    tables: Sequence[MooreTable],
    names: Sequence[str],
    pairs: Iterable[tuple[Sequence[int], int]],
    longest: int,
    *,
    vocabulary: int | None = None,
    explains: float = 0.85,
    tries: int = 3,
    seed: int = 0,
) -> Calls:
    """Find the calls that explain answers; see `Library.bind`."""
    arguments.count("bind: tries", tries)
    arguments.count("bind: seed", seed, least=0)
    if arguments.real("bind: explains", explains, above=True) > 1:
        raise InputError(f"bind: explains must be a share, at most 1, got {explains}")
    asked, size = _taken(pairs, longest, vocabulary)
    search = _Search(tables, names, size, int(asked.answers.max()) + 1, seed)
    found = []
    for writer in _candidates(asked, size):
        behind = _behind(asked, writer, size)
        best = search.call(writer, behind, 0)
        for attempt in range(1, tries):
            if not best.holds(explains):
                best = max(best, search.call(writer, behind, attempt), key=_explained)
        found.append(best)
    return _chosen(found, asked, tuple(tables), size, explains)


class _Found(NamedTuple):
    """A call, and what it explains.

    Attributes:
      call: the best that was found.
      short: of the shorter half of its questions, how many, and the share that it explains.
      long: likewise of the longest quarter.
    """

    call: Call
    short: tuple[int, float]
    long: tuple[int, float]

    def holds(self, explains: float) -> bool:
        """Whether it explains enough, and long questions as well as short ones.

        Wrong labels are as frequent in both, while a machine that only looks right at first loses
        with the length.
        """
        (few, share), (many, kept) = self.short, self.long
        spread = (share * (1 - share) * (1 / few + 1 / max(many, 1))) ** 0.5
        falls = many > 0 and kept < share - SLACK - SIGMAS * spread
        return self.call.explained >= explains and not falls


def _explained(found: _Found) -> float:
    return found.call.explained + found.long[1]


def _taken(
    pairs: Iterable[tuple[Sequence[int], int]], longest: int, vocabulary: int | None
) -> tuple[Questions, int]:
    arguments.count("bind: longest", longest)
    if vocabulary is not None:
        arguments.count("bind: vocabulary", vocabulary)
    if not isinstance(pairs, Iterable):
        raise InputError(
            f"bind: expected pairs of questions and answers, got {arguments.shown(pairs)}"
        )
    given = list(pairs)
    for number, pair in enumerate(given):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(
                "bind: expected pairs of a question, which is token ids, and its answer, an int; "
                f"got {arguments.shown(pair)} as number {number}"
            )
        arguments.count(f"bind: the answer of pair {number}", pair[1], 0, MOST_ANSWERS - 1)
    words, lengths = padded("bind", [question for question, _ in given], vocabulary)
    if lengths.max() > longest:
        raise InputError(
            f"bind: expected questions of at most {longest} tokens, got one of {lengths.max()}; "
            "leave long ones out, or say longest="
        )
    answers = np.array([int(answer) for _, answer in given])
    size = vocabulary if vocabulary is not None else int(max(map(max, (q for q, _ in given)))) + 1
    return Questions(words, answers, lengths), size


def _behind(asked: Questions, writer: int, vocabulary: int) -> Questions:
    """The questions that hold a token, from it on."""
    rows = np.flatnonzero((asked.words == writer).any(1))
    words = np.full((len(rows), asked.words.shape[1]), vocabulary)
    for place, row in zip(words, asked.words[rows], strict=True):
        rest = row[int((row == writer).argmax()) :]
        place[: len(rest)] = rest
    return asked.taken(rows)._replace(words=words)


def _candidates(asked: Questions, vocabulary: int) -> list[int]:
    """The tokens that may name tasks: no others have equal answers so often behind them."""
    held = [token for token in range(vocabulary) if (asked.words == token).any(1).sum() >= SEEN]
    known = {token: _agreement(_behind(asked, token, vocabulary)) for token in held}
    least = max((each for each in known.values() if each is not None), default=0.0) - LESS
    return [token for token, each in known.items() if each is None or each >= least]


def _agreement(behind: Questions) -> float | None:
    """How often two questions that are equal from a token on have equal answers.

    None if too few are equal.
    """
    _, group = np.unique(behind.words, axis=0, return_inverse=True)
    counts = np.zeros((int(group.max()) + 1, int(behind.answers.max()) + 1))
    np.add.at(counts, (group.ravel(), behind.answers), 1)
    size = counts.sum(1)
    many = size > 1
    if size[many].sum() < SEEN:
        return None
    equal = (counts * (counts - 1)).sum(1)[many] / (size * (size - 1))[many]
    return float(np.average(equal, weights=size[many]))


class _Search:
    """The search for the call of one token at a time."""

    def __init__(
        self,
        tables: Sequence[MooreTable],
        names: Sequence[str],
        vocabulary: int,
        answers: int,
        seed: int,
    ) -> None:
        self.tables, self.names, self.vocabulary, self.seed = tables, names, vocabulary, seed
        self.machines = Machines(tables)
        self.judge = Judge(self.machines.outputs, answers)

    def call(self, writer: int, behind: Questions, attempt: int) -> _Found:
        """The best call that a search finds."""
        rng = np.random.default_rng((self.seed, writer, attempt))
        routines = np.arange(len(self.tables))
        size = (len(routines), CHAINS, self.vocabulary + 1)
        maps = rng.integers(0, self.machines.symbols - 1, size)
        maps[..., -1] = self.machines.symbols - 1
        for stage in STAGES:
            limit = np.quantile(behind.lengths, stage.share)
            rows = np.flatnonzero(behind.lengths <= limit)
            rows = rng.choice(rows, ASKED, replace=len(rows) < ASKED)
            chains = self._chains(routines, maps, behind.taken(rows))
            chains.anneal(stage.temperature, rng)
            likelihood = chains.likelihood.reshape(len(routines), CHAINS)
            best = np.argsort(-likelihood, axis=1)[:, : CHAINS // QUARTER]
            maps = chains.maps.reshape(maps.shape)
            maps = np.tile(np.take_along_axis(maps, best[..., None], 1), (1, QUARTER, 1))
            kept = np.argsort(-likelihood.max(1), kind="stable")[: stage.kept]
            routines, maps = routines[kept], maps[kept]
        return self._polished(writer, routines, maps[:, :1], behind, rng)

    def _chains(self, routines: Array, maps: Array, asked: Questions) -> Chains:
        flat = np.ascontiguousarray(maps.reshape(-1, maps.shape[-1]))
        starts = np.repeat(self.machines.starts[routines], maps.shape[1])
        return Chains(self.machines, starts, flat, self.judge, asked)

    def _polished(
        self,
        writer: int,
        routines: Array,
        maps: Array,
        behind: Questions,
        rng: np.random.Generator,
    ) -> _Found:
        """The best of a few maps, on more questions and at no temperature."""
        rows = rng.permutation(len(behind.lengths))[:LOOKED]
        chains = self._chains(routines, maps, behind.taken(rows))
        chains.polish()
        best = int(chains.likelihood.argmax())
        chosen = routines[[best]]
        whole = self._chains(chosen, chains.maps[best][None, None], behind)
        counts = self.judge.counts(whole.said, behind.answers)[0]
        usual = int(np.bincount(behind.answers).argmax())
        readout = np.where(counts.any(1), counts.argmax(1), usual)
        right = readout[whole.said[0]] == behind.answers
        table = np.full(self.vocabulary, self.machines.symbols - 2)
        seen = whole.tokens
        table[seen] = chains.maps[best][seen]
        call = Call(
            writer, int(chosen[0]), self.names[int(chosen[0])], table, readout,
            _evidence(right, behind.lengths),
        )  # fmt: skip
        half, quarter = np.quantile(behind.lengths, (0.5, 0.75))
        return _Found(
            call,
            _share_of(right[behind.lengths <= half]),
            _share_of(right[(behind.lengths > quarter) & (behind.lengths > half)]),
        )


def _share_of(right: Array) -> tuple[int, float]:
    return len(right), float(right.mean()) if len(right) else 1.0


def _evidence(right: Array, lengths: Array) -> tuple[Evidence, ...]:
    """By lengths of 1 to 4 tokens, 5 to 8, 9 to 16 and so on."""
    found, low, high = [], 1, 4
    while low <= lengths.max():
        these = (lengths >= low) & (lengths <= high)
        if these.any():
            found.append(Evidence(low, high, int(these.sum()), int(right[these].sum())))
        low, high = high + 1, 2 * high
    return tuple(found)


def _chosen(
    found: Sequence[_Found],
    asked: Questions,
    tables: tuple[MooreTable, ...],
    vocabulary: int,
    explains: float,
) -> Calls:
    """As few calls as explain every question, the best first."""
    left, others = (np.ones(len(asked.answers), bool) for _ in range(2))
    taken, failed, best = [], [], []
    order = sorted(found, key=lambda each: (each.holds(explains), _explained(each)), reverse=True)
    for each in order:
        mine = (asked.words == each.call.writer).any(1)
        if not (left & mine).any():
            continue
        if each.holds(explains):
            taken.append(each.call)
            left &= ~mine
        else:
            failed.append(each.call)
        if (others & mine).any():
            best.append(each.call)
            others &= ~mine
    calls = Calls(_in_order(taken), tables, vocabulary)
    if left.any():
        seen = "\n".join(f"  {call}" for call in failed) or "  none: no token names a task"
        raise Unbindable(
            f"bind: expected calls that explain a share of {explains:g}, and long questions as "
            f"well as short ones; {int(left.sum())} of {len(left)} questions have none. The best "
            f"of tokens that may name a task:\n{seen}\nThe library lacks their routines (ask "
            f"library.can), or there are too few pairs. Calls that hold: {len(taken)}, "
            "the `calls` of this error",
            calls,
            Calls(_in_order(best), tables, vocabulary),
        )
    return calls


def _in_order(calls: Sequence[Call]) -> tuple[Call, ...]:
    return tuple(sorted(calls, key=lambda call: call.writer))
