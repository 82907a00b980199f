"""The programs that the benchmarks run, at any length, with inputs and what they must answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import lsrl
from benchmarks.common import BenchmarkError
from lsrl.programs import Entry

Array = npt.NDArray[Any]

LENGTH, VOCAB = 3, 10  # of tok2tok


@dataclass(frozen=True)
class Workload:
    """A program of the library at a length.

    Attributes:
      entry: of the catalogue.
      settings: parameters that make the program long enough for a number of tokens.
      longest: greatest number of tokens that makes sense, or None.
    """

    entry: Entry
    settings: Callable[[int], Mapping[str, Any]]
    longest: int | None = None

    def program(self, tokens: int) -> lsrl.Program:
        """The program for that many tokens."""
        return self.entry.program(**self.settings(tokens))

    def inputs(self, batch: int, tokens: int, seed: int = 0) -> tuple[Array, ...]:
        """Random legal inputs, one array an input: (batch, tokens[, width])."""
        rng = np.random.default_rng(seed)
        samples = [self.entry.sample(rng, tokens, **self.settings(tokens)) for _ in range(batch)]
        arrays = tuple(np.stack(columns) for columns in zip(*samples, strict=True))
        if any(array.shape[:2] != (batch, tokens) for array in arrays):
            raise BenchmarkError(f"{self.entry.name}: no sample of {tokens} tokens")
        return arrays

    def check(self, model: lsrl.Model, inputs: tuple[Array, ...], outputs: Array) -> str:
        """Compare the last sequence with the plain-Python reference, at every token.

        Returns:
          "yes" where all values are equal, else the largest difference.

        Raises:
          BenchmarkError: they differ by more than the certificate allows.
        """
        expected = self.entry.expected(
            tuple(array[-1] for array in inputs), **self.settings(inputs[0].shape[1])
        )
        difference = float(np.abs(outputs[-1] - expected).max())
        if difference > model.certificate.error_bound:
            raise BenchmarkError(
                f"{model!r} differs from the reference by {difference}, more than its certificate "
                f"allows: {model.certificate.error_bound}"
            )
        return "yes" if difference == 0 else f"within {difference:.1e}"


def workloads() -> dict[str, Workload]:
    """The programs of `python -m benchmarks.run`, by name."""
    catalogue = lsrl.programs.catalogue()

    def counting(tokens: int) -> dict[str, Any]:
        return {"max_length": tokens}

    found = {"tok2tok": Workload(catalogue["tok2tok"], _tok2tok_settings)}
    for name in ("majority", "histogram", "running_max", "dyck1", "parity", "modular_sum"):
        found[name] = Workload(catalogue[name], counting)
    found["copy_delay"] = Workload(catalogue["copy_delay"], lambda tokens: {})
    # A cell a token; beyond some thousands the cells get narrower than the ramps.
    found["vec2vec"] = Workload(
        catalogue["vec2vec"], lambda tokens: {"cells": tokens - 1}, longest=4096
    )
    return found


def wide_programs() -> dict[str, Callable[[], lsrl.Program]]:
    """Makers of programs whose signals are so wide that a dense matrix has 10^9 numbers or more."""
    rows = 10**5
    table = np.arange(rows) % 7

    def recorded(symbols: int, body: Callable[[Any], Any]) -> Callable[[], lsrl.Program]:
        def wide(x: Any) -> Any:
            return body(x)

        wide.__annotations__ = {"x": lsrl.Token(symbols)}
        return lambda: lsrl.program(max_length=2 * rows)(wide)

    def index(x: Any) -> Any:
        return lsrl.bound(lsrl.cumsum(x), 0, rows - 1)

    return {
        "one_hot of 50,257 symbols": recorded(50_257, lambda x: x.one_hot),
        "lookup of 100,000 symbols": recorded(rows, lambda x: lsrl.lookup(x, table)),
        "lookup of a sum, 100,000 rows": recorded(2, lambda x: lsrl.lookup(index(x), table)),
        "window_sum of 100,000 tokens": recorded(2, lambda x: lsrl.window_sum(x, rows)),
        "delay of 100,000 tokens": recorded(2, lambda x: lsrl.delay(x, rows)),
    }


def comparisons(count: int = 300) -> dict[str, Callable[[], lsrl.Program]]:
    """Makers of programs with many comparisons: of one signal, and of a channel each."""

    def of_one() -> lsrl.Program:
        @lsrl.program(max_length=100)
        def passed(x: lsrl.Token(2)) -> lsrl.Signal:  # type: ignore[valid-type]
            total = lsrl.cumsum(x)
            return sum((total > k for k in range(1, count)), total > 0)

        return passed

    def of_each() -> lsrl.Program:
        @lsrl.program(max_length=100)
        def passed(v: lsrl.Vector(count, low=-1, high=1, step=0.25)) -> lsrl.Signal:  # type: ignore[valid-type]
            total = lsrl.cumsum(v)
            return sum((total[k] > k % 5 for k in range(1, count)), total[0] > 0)

        return passed

    return {f"{count} comparisons of a signal": of_one, f"{count}, of a channel each": of_each}


def shapes() -> dict[str, Callable[[int], lsrl.Program]]:
    """Makers of programs of so many alike signals: six shapes, and sums as a tree too."""

    def shape(body: Callable[[Any, int], Any]) -> Callable[[int], lsrl.Program]:
        def build(count: int) -> lsrl.Program:
            def many(x: Any) -> Any:
                return body(x, count)

            many.__annotations__ = {"x": lsrl.Vector(1, low=0, high=count + 1, step=1)}
            return lsrl.program(max_length=100)(many)

        return build

    def passed(x: Any, count: int) -> list[Any]:
        return [x >= k for k in range(1, count + 1)]

    def chain(x: Any, count: int) -> Any:
        total = lsrl.constant(0.0)
        for term in passed(x, count):
            total = total + term
        return total

    def tree(x: Any, count: int) -> Any:
        parts = passed(x, count)
        while len(parts) > 1:
            parts = [sum(parts[k + 1 : k + 2], parts[k]) for k in range(0, len(parts), 2)]
        return parts[0]

    def delays(x: Any, count: int) -> Any:
        found = [x]
        for _ in range(count):
            found.append(lsrl.delay(found[-1]))
        return lsrl.concat(*found)

    def nested(x: Any, count: int) -> Any:
        value = lsrl.constant(0.0)
        for k, condition in enumerate(passed(x, count)):
            value = lsrl.select(condition, k % 7, value)
        return value

    def parallel(x: Any, count: int) -> Any:
        return lsrl.concat(*(lsrl.select(each, x, 3 - x) for each in passed(x, count)))

    return {
        "chain of sums": shape(chain),
        "tree of sums": shape(tree),
        "comparisons": shape(lambda x, count: lsrl.concat(*passed(x, count))),
        "delays": shape(delays),
        "nested selects": shape(nested),
        "parallel selects": shape(parallel),
        "counters": shape(lambda x, n: lsrl.concat(*map(lsrl.cumsum, passed(x, n)))),
    }


def _tok2tok_settings(tokens: int) -> dict[str, Any]:
    """max_length = length (1 + 2 max_pairs)."""
    pairs = max(1, -(-(tokens - LENGTH) // (2 * LENGTH)))
    return {"length": LENGTH, "vocab": VOCAB, "max_pairs": pairs}
