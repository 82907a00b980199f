"""`lsrl.compile(..., cache=True)`: what is kept, and what makes it be kept anew."""

import os
import subprocess
import sys

import pytest
from numpy.testing import assert_array_equal

import lsrl
from lsrl import cache, reuse, storage
from lsrl.errors import UnknownTargetError

pytestmark = pytest.mark.one_in(2)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(reuse, "_RECENT", type(reuse._RECENT)())
    return tmp_path / "lsrl" / "models"


def solved(monkeypatch):
    """Count the schedules that are solved, rather than rebuilt from levels."""
    from lsrl.backends.linear_rnn import LinearRnn

    calls = []
    inner = LinearRnn.schedule

    def counted(self, graph, levels=None, inspectable=False):
        calls.append(levels is None)
        return inner(self, graph, levels, inspectable)

    monkeypatch.setattr(LinearRnn, "schedule", counted)
    return calls


def assert_same(one, other):
    arrays, others = one.module.parameter_arrays(), other.module.parameter_arrays()
    assert arrays.keys() == others.keys()
    for name, values in arrays.items():
        assert_array_equal(values, others[name], strict=True)
    assert str(one.certificate) == str(other.certificate)
    assert one.labels == other.labels


def test_an_equal_program_is_solved_once_by_processes_and_in_one(folder, monkeypatch):
    calls = solved(monkeypatch)
    plain = lsrl.compile(lsrl.programs.tok2tok(2, 4, 3), "linear_rnn")
    first = lsrl.compile(lsrl.programs.tok2tok(2, 4, 3), "linear_rnn", cache=True)
    assert calls == [True, True]
    assert len(list(folder.iterdir())) == 1
    again = lsrl.compile(lsrl.programs.tok2tok(2, 4, 3), "linear_rnn", cache=True)
    assert calls == [True, True]  # nothing but a module was made
    reuse._RECENT.clear()  # as another process has it
    elsewhere = lsrl.compile(lsrl.programs.tok2tok(2, 4, 3), "linear_rnn", cache=True)
    assert calls == [True, True, False]
    for model in (first, again, elsewhere):
        assert_same(plain, model)


def test_models_do_not_share_their_parameters():
    first = lsrl.compile(lsrl.programs.majority(), "linear_rnn", cache=True)
    first.module.replace_parameters(
        {"output_bias": first.module.parameter_arrays()["output_bias"] + 5}
    )
    second = lsrl.compile(lsrl.programs.majority(), "linear_rnn", cache=True)
    assert second.run([1, 0, 1]).tolist() == [[1], [0], [1]]
    assert first.run([1, 0, 1]).tolist() == [[6], [5], [6]]


def test_what_differs_has_an_entry_of_its_own(folder):
    compiled = [
        lsrl.compile(lsrl.programs.majority(length), target, dtype=dtype, cache=True)
        for length, target, dtype in (
            (10, "linear_rnn", "float32"),
            (11, "linear_rnn", "float32"),
            (10, "gru", "float32"),
            (10, "linear_rnn", "float64"),
        )
    ]
    assert [model.dtype for model in compiled] == ["float32"] * 3 + ["float64"]
    assert [model.target for model in compiled] == ["linear_rnn", "linear_rnn", "gru", "linear_rnn"]
    assert [model.program.max_length for model in compiled] == [10, 11, 10, 10]
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("damage", [b"", b"not a model", None])
def test_a_damaged_entry_is_replaced(folder, monkeypatch, damage):
    calls = solved(monkeypatch)
    model = lsrl.compile(lsrl.programs.majority(), "linear_rnn", cache=True)
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage is None else damage)
    reuse._RECENT.clear()
    assert_same(model, lsrl.compile(lsrl.programs.majority(), "linear_rnn", cache=True))
    assert calls == [True, True]
    assert entry.read_bytes() == whole
    assert list(folder.iterdir()) == [entry]


def test_levels_that_do_not_fit_are_solved_anew(folder):
    model = lsrl.compile(lsrl.programs.majority(), "linear_rnn", cache=True)
    other = lsrl.compile(lsrl.programs.tok2tok(2, 4, 3), "linear_rnn")
    (entry,) = folder.iterdir()
    other.save(entry)
    reuse._RECENT.clear()
    assert_same(model, lsrl.compile(lsrl.programs.majority(), "linear_rnn", cache=True))
    assert storage.read(entry).program.name == "majority"


def test_other_sources_of_the_package_have_other_entries(folder, monkeypatch):
    options = {"target": "linear_rnn"}
    before = cache.place(lsrl.programs.majority(), options)
    assert cache.place(lsrl.programs.majority(), options) == before
    monkeypatch.setattr(cache, "code", lambda: "another state")
    assert cache.place(lsrl.programs.majority(), options) != before


def test_a_cache_that_can_not_be_written_costs_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not cached.*XDG_CACHE_HOME"):
        model = lsrl.compile(lsrl.programs.majority(), "linear_rnn", cache=True)
    assert model.run([1]).tolist() == [[1]]


def test_errors_are_those_of_compile():
    with pytest.raises(UnknownTargetError):
        lsrl.compile(lsrl.programs.majority(), "nothing", cache=True)


def test_the_command_line_keeps_what_jax_compiles(tmp_path):
    command = [sys.executable, "-m", "lsrl.cli", "verify", "majority", "-t", "linear_rnn"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMP")}
    subprocess.run(command, check=True, capture_output=True, timeout=300,
                   env={**own, "XDG_CACHE_HOME": str(tmp_path)})  # fmt: skip
    assert list((tmp_path / "lsrl" / "jax").iterdir())
