"""Batches over meshes: eight virtual devices, and two processes with two each."""

import os
import socket
import subprocess
import sys

import pytest

EIGHT = """
import jax
import jax.numpy as jnp
import numpy as np

import lsrl
from lsrl.backends.linear import tiles
from lsrl.errors import InputError
from lsrl.sharding import run_over

mesh = jax.make_mesh((4, 2), ("rows", "columns"))
bits = np.random.default_rng(0).integers(0, 2, (19, 30))
places = []


def recorded(*settings, inner=tiles._compiled):
    def run(*arguments):
        values, carry = inner(*settings)(*arguments)
        places.extend(values.devices())
        return values, carry

    return run


tiles._compiled = recorded
for target in ("linear_rnn", "rnn"):
    model = lsrl.compile(lsrl.programs.majority(), target)
    alone = model.run(bits)
    places.clear()
    np.testing.assert_array_equal(model.run(bits, mesh=mesh), alone, strict=True)
    np.testing.assert_array_equal(model.run(bits[:3], mesh=mesh), alone[:3], strict=True)
    np.testing.assert_array_equal(model.run(bits[0], mesh=mesh), alone[0], strict=True)
    assert target != "linear_rnn" or set(places) == set(jax.devices()), places
    if target == "linear_rnn":
        whole = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
        shared = jax.sharding.NamedSharding(whole, jax.sharding.PartitionSpec("rows"))
        spread = jax.jit(model.apply)(model.parameters, jax.device_put(bits[:16], shared))
        assert spread.sharding.device_set == set(jax.devices())
        np.testing.assert_array_equal(spread, alone[:16], strict=True)
    first, state = model.run(bits[:, :20], mesh=mesh, return_state=True)
    rest, state = model.run(bits[:, 20:], mesh=mesh, state=state, return_state=True)
    np.testing.assert_array_equal(np.concatenate([first, rest], axis=1), alone, strict=True)
    assert (state.position, state.batch) == (30, 19)
    output, _ = model.step(state, bits[:, 0])
    np.testing.assert_array_equal(output, model.program.run(np.c_[bits, bits[:, :1]])[:, -1])
seen = []


def run(part):
    seen.append((len(part[0]), *jnp.zeros(1).devices()))
    return part[0]


np.testing.assert_array_equal(run_over(mesh, run, [bits]), bits)
assert {device for _, device in seen} == set(jax.devices())
assert {rows for rows, _ in seen} == {3}
try:
    model.run(bits, mesh=jax.devices())
except InputError as error:
    assert "jax.sharding.Mesh" in str(error)
else:
    raise AssertionError("a list of devices is no mesh")
"""

TWO_PROCESSES = """
import sys

import jax
import numpy as np

jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
import lsrl

assert jax.device_count() == 4 and jax.local_device_count() == 2
mesh = jax.make_mesh((4,), ("batch",))
bits = np.random.default_rng(0).integers(0, 2, (11, 30))
for dtype in ("float32", "float64"):
    model = lsrl.compile(lsrl.programs.majority(), "linear_rnn", dtype=dtype)
    got, state = model.run(bits, mesh=mesh, return_state=True)
    output, _ = model.step(state, bits[:, 0])
    np.testing.assert_array_equal(output, model.program.run(np.c_[bits, bits[:, :1]])[:, -1])
    np.testing.assert_array_equal(got, np.stack([model.program.run(row) for row in bits]))
    assert got.dtype == dtype
"""


def start(script, devices, *arguments):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-3000:]


@pytest.mark.studies
def test_eight_devices_give_what_one_gives():
    finish(start(EIGHT, 8))


@pytest.mark.nightly
def test_two_processes_give_what_one_gives():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [start(TWO_PROCESSES, 2, port, number) for number in range(2)]
    for process in processes:
        finish(process)
