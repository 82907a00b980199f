"""What the machine does at most, in a CPU second: numbers from memory and caches, products, calls.

A large array that is written anew costs the system a page at a time: that measures page faults,
ten times slower than memory. So arrays are updated in place here, in buffers that jax may reuse.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import Table, Timing, number

SIZES = tuple(2**power for power in range(14, 29, 2))  # bytes of the arrays updated in place
MOVED = 2**27  # bytes read and written in a sample, at the least
PRODUCTS = (256, 512, 1024, 2048)  # rows and columns
CALLS = 1000
NUMBER = 4  # bytes of a float32


@dataclass(frozen=True)
class Limits:
    """Ceilings of the device at hand.

    Attributes:
      operations: a second, of a product of matrices in float32.
      bandwidth: bytes read or written a second, by the bytes of the array that is worked on.
      call: seconds of an empty jitted call.
    """

    operations: float
    bandwidth: Mapping[int, float]
    call: float

    @property
    def memory(self) -> float:
        """Bytes a second of the largest array, which no cache holds."""
        return self.bandwidth[max(self.bandwidth)]

    def bytes(self, working_set: float) -> float:
        """The most bytes a second that a working set of so many bytes allows.

        Between two measured sizes that of the smaller one, which is the faster.
        """
        smaller = [size for size in self.bandwidth if size <= working_set]
        least = max(smaller, default=min(self.bandwidth))
        return max(speed for size, speed in self.bandwidth.items() if size >= least)

    def table(self) -> Table:
        """The ceilings as rows."""
        rows = [
            {"what": f"{_size(size)} updated or read", "value": speed / 1e9, "unit": "GB/s"}
            for size, speed in self.bandwidth.items()
        ]
        rows += [
            {"what": "products of matrices, at most", "value": self.operations / 1e9,
             "unit": "thousand million operations/s"},
            {"what": "an empty jitted call", "value": 1e6 * self.call, "unit": "µs"},
        ]  # fmt: skip
        return Table(
            "limits",
            "The machine's own limits, a CPU second",
            {"what": "", "value": "limit", "unit": ""},
            rows,
            "The best of all samples, since work of others only slows them. Updated: a number "
            "is read, increased and written, in a buffer that jax may reuse; bytes count twice. "
            "Read: a matrix, times a vector. The faster of both. "
            f"Products: of float32, the best of {', '.join(map(str, PRODUCTS))} rows.",
        )


def clock() -> float:
    """CPU seconds of the process; the clock on the wall where an accelerator does the work."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def seconds(timing: Timing) -> float:
    """CPU seconds; the wall's where an accelerator does the work."""
    return timing.cpu if jax.default_backend() == "cpu" else timing.wall


def measure_limits(repeats: int, sizes: tuple[int, ...] = SIZES) -> Limits:
    """Measure all ceilings; takes some CPU seconds."""
    return Limits(
        max(_product(size, repeats) for size in PRODUCTS if 4 * size**2 <= max(sizes)),
        {size: max(_updated(size, repeats), _read(size, repeats)) for size in sizes},
        _call(repeats),
    )


def best(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of some calls, after one that warms up."""
    work()
    found = math.inf
    for _ in range(repeats):
        start = clock()
        work()
        found = min(found, clock() - start)
    return found


@partial(jax.jit, donate_argnums=0)
def _increase(values: jax.Array, times: int) -> jax.Array:
    return jax.lax.fori_loop(0, times, lambda _, values: values + 1, values)


def _updated(size: int, repeats: int) -> float:
    # A fori_loop's own step takes a microsecond or less, which counts where arrays are small.
    times = max(MOVED // (2 * size), 1)
    kept = [jnp.zeros(size // NUMBER, jnp.float32)]

    def work() -> None:
        kept[0] = _increase(kept[0], times).block_until_ready()

    return 2 * size * times / best(work, repeats)


@jax.jit
def _multiplied(matrix: jax.Array, vector: jax.Array, times: int) -> jax.Array:
    product = partial(jnp.dot, matrix, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.fori_loop(0, times, lambda _, vector: product(vector), vector)


def _read(size: int, repeats: int) -> float:
    rows = math.isqrt(size // NUMBER)
    matrix, vector = jnp.full((rows, rows), 1 / rows, jnp.float32), jnp.ones(rows, jnp.float32)
    times = max(MOVED // size, 1)
    taken = best(lambda: _multiplied(matrix, vector, times).block_until_ready(), repeats)
    return NUMBER * rows**2 * times / taken


def _product(size: int, repeats: int) -> float:
    matrix = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(partial(jnp.dot, precision=jax.lax.Precision.HIGHEST))
    times = max(512**3 // size**3, 1)

    def work() -> None:
        for _ in range(times):
            found = multiply(matrix, matrix)
        found.block_until_ready()

    return 2 * size**3 * times / best(work, repeats)


def _call(repeats: int) -> float:
    value, empty = jnp.zeros((), jnp.float32), jax.jit(lambda value: value + 1)

    def work() -> None:
        found = value
        for _ in range(CALLS):
            found = empty(found)
        found.block_until_ready()

    return best(work, repeats) / CALLS


def _size(size: int) -> str:
    for unit, least in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= least:
            return f"{number(size / least).rstrip('0').rstrip('.')} {unit}"
    return f"{size} bytes"
