"""`lsrl machine`: texts from the command line, in plain Python and inside a network."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lsrl.cli import app
from lsrl.machine import programs

pytestmark = pytest.mark.one_in(3)

COUNTDOWN = """
again:  n out               # n, n - 1, … 1
        one n halt
        z z again

n:      .data 'C'
one:    .data 1
z:      .data 0
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs `lsrl machine` in a folder that holds count.sq and wrong.sq."""
    monkeypatch.chdir(tmp_path)
    Path("count.sq").write_text(COUNTDOWN)
    Path("wrong.sq").write_text("x: .data 1\ny x\n")
    Path("bytes.sq").write_bytes(b".data \xff")
    Path("wrong.dec").write_text("1 2\n# three\n\nfour\n")
    Path("image.dec").write_text("6\n-1\n3\n7\n7\n-1\n65\n0\n")

    def run(*arguments, code=0, keys=b""):
        result = CliRunner().invoke(
            app, ["machine", *arguments], input=keys, env={"COLUMNS": "200"}
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


def test_texts_run_in_plain_python(command):
    run = command("run", "hello")
    assert run.stdout == "Hello, world!\n"
    assert run.stderr.strip() == "hello: halted, after 69 instructions"
    assert command("run", "echo", keys=b"two\nlines\n").stdout == "two\n"
    assert command("run", "image.dec").stdout == "A"
    left = command("run", "division", "-p", "x=1000", "-p", "y=7").stdout
    assert left.split("\n") == ["quotient = 142", "remainder = 6", ""]
    assert command("run", "calculator", "-p", "op=3").stdout == "result = 14.0\n"
    (row,) = json.loads(command("run", "count.sq", "-p", "n=3", "--json").stdout)
    assert (row["halted"], row["steps"], row["pc"], row["printed"]) == (True, 8, -1, "\3\2\1")
    assert row["memory"][9:12] == [0, 1, 0]
    text = command("run", "count.sq", "--steps", "5", "--trace")
    assert "print mem[9] = 67" in text.stderr and "still going" in text.stderr


def test_a_text_runs_inside_a_network(command):
    plain = command("trace", "hello").stdout
    run = command("run", "hello", "-t", "mamba", "--cells", "32", "--bits", "8", "--trace")
    assert run.stdout == "Hello, world!\n"
    assert plain + "hello: halted, after 69 instructions\n" in run.stderr


def test_traces_stop_where_they_are_told(command):
    lines = command("trace", "sorting", "--stop", "passed", "--steps", "1000").stdout.splitlines()
    passed = programs()["sorting"].image().address("passed")
    assert lines[-1].endswith(f", to {passed}") and len(lines) < 100
    rows = json.loads(command("trace", "echo", "--json", "--steps", "3", keys=b"a\n").stdout)
    assert [row["pc"] for row in rows] == [0, 3, 6] and rows[0]["key"] == 97
    fleq = json.loads(command("trace", "product", "--json", "--steps", "1").stdout)
    assert (fleq[0]["function"], fleq[0]["new"]) == ("mul", 5.0)


def test_texts_are_listed_and_assembled(command):
    rows = json.loads(command("list", "--json").stdout)
    assert [row["name"] for row in rows] == list(programs())
    assert all(name in command("list").stdout for name in programs())
    words = json.loads(command("asm", "count.sq", "--json").stdout)
    assert [row["word"] for row in words][:4] == [9, -1, 3, 10] and words[0]["line"] == 2
    Path("again.sq").write_text(command("asm", "image.dec").stdout)
    assert command("run", "again.sq").stdout == "A"
    assert command("asm", "solve").stdout.startswith(".fleq\n.cell")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "hell"], "did you mean 'hello'"),
        (["run", "wrong.sq"], "wrong.sq:2: 'y' is no label"),
        (["run", "bytes.sq"], "bytes.sq: byte 6 is no text in UTF-8"),
        (["run", "wrong.dec"], "wrong.dec:4: 'four' is no label"),
        (["run", "hello", "--cells", "100000000000"], "'--cells'"),
        (["run", "hello", "--bits", "99"], "'--bits'"),
        (["run", "count.sq", "-p", "n=40000"], "count.sq:6: 40000 at address 9 is no word"),
        (["run", "echo", "-p", "keys=a"], "echo: keys are those of standard input"),
        (["run", "none.sq"], "none.sq: No such file"),
        (["run", "hello", "--cells", "20"], "address 20 has no cell"),
        (["run", "hello", "-p", "x=1"], "no parameter 'x'"),
        (["run", "count.sq", "-p", "m=1"], "no label 'm'"),
        (["run", "hello", "--dtype", "float64"], "nothing is compiled without a target"),
        (["trace", "hello", "--stop", "nowhere"], "no label 'nowhere'"),
        (["run", "echo"], "standard input ended, and the instruction at 0 wants a key"),
    ],
)
def test_mistakes_are_told(command, arguments, message):
    result = command(*arguments, code=2)
    assert message in result.stderr and "Traceback" not in result.output
