"""The command line: what the commands print, their exit codes, and their answers to bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import lsrl
from lsrl.cli import app
from lsrl.induction.task_files import Journal
from lsrl.suite.programs import programs as suite_programs

pytestmark = pytest.mark.one_in(3)

USER_FILE = """
from typing import Annotated

import lsrl


@lsrl.program(max_length=20)
def twice(x: lsrl.Vector(2, low=-4, high=4, step=0.5)):
    return 2 * x


def scaled(factor, shift=0):
    @lsrl.program
    def scaled(x: lsrl.Token(3)):
        return factor * x + shift

    return scaled


def broken():
    @lsrl.program
    def broken(x: lsrl.Vector(1, low=0, high=1)):
        return x > 0.5

    return broken


def nothing():
    return 1


number = 7
"""


@pytest.fixture
def lsrl_command(tmp_path, monkeypatch):
    """Runs a command in a folder of its own that holds my.py; returns the result."""
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(USER_FILE)

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def saved(lsrl_command):
    """A saved model of majority."""
    lsrl_command("compile", "majority", "-t", "linear_rnn", "--out", "majority.lsrl")
    return "majority.lsrl"


def test_help_shows_examples(lsrl_command):
    names = ("programs", "targets", "compile", "run", "show", "view", "verify", "export", "explain")
    names += ("induce",)
    overview = lsrl_command("--help").stdout
    for name in names:
        assert f"lsrl {name}" in lsrl_command(name, "--help").stdout
        assert name in overview


def test_help_is_quick():
    code = (
        "import sys; from lsrl.cli import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['compile', '--help']).exit_code == 0; "
        "heavy = {'jax', 'flax', 'matplotlib', 'scipy.optimize'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_programs_and_targets_are_all_listed(lsrl_command):
    listed = lsrl_command("programs").stdout
    for name in lsrl.programs.catalogue():
        assert name in listed
    listed = lsrl_command("targets").stdout
    for target in lsrl.targets():
        assert target.name in listed


def test_listings_are_also_json(lsrl_command):
    programs = json.loads(lsrl_command("programs", "--json").stdout)
    assert [row["program"] for row in programs] == list(lsrl.programs.catalogue())
    assert programs[0]["parameters"] == {"max_length": 1000}
    targets = json.loads(lsrl_command("targets", "--json").stdout)
    assert {row["target"]: row["holds"] for row in targets} == {
        target.name: dict(target.supports) for target in lsrl.targets()
    }
    assert {row["target"]: tuple(row["exports"]) for row in targets} == {
        target.name: target.formats for target in lsrl.targets()
    }
    listed = json.loads(lsrl_command("suite", "list", "--json").stdout)
    assert [row["program"] for row in listed] == [program.name for program in suite_programs()]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("lsrl sui", "suite"),
        ("lsrl compile majority_pa", "majority_parity"),
        ("lsrl compile majority -t gat", "gated_linear_rnn"),
        ("lsrl compile --insp", "--inspectable"),
        ("lsrl machine run hel", "hello"),
    ],
)
def test_shells_complete_names(lsrl_command, monkeypatch, words, found):
    monkeypatch.setenv("_LSRL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert lsrl_command().stdout.split() == [found]


def test_export_writes_for_another_framework(lsrl_command, saved):
    lsrl_command("export", "majority", "-t", "lstm", "-p", "max_length=8", "--out", "stock")
    config = json.loads(Path("stock/config.json").read_text())
    assert (config["program"], config["target"]) == ("majority", "lstm")
    options = ("-t", "lstm", "-p", "max_length=8", "--layers", "separate", "--out", "apart")
    lsrl_command("export", "majority", *options)
    modules = json.loads(Path("apart/config.json").read_text())["modules"]
    assert "layer_1" in modules and "recurrent" not in modules and "recurrent" in config["modules"]
    result = lsrl_command("export", saved, "--format", "huggingface", "--out", "other", code=2)
    assert (
        "target 'linear_rnn' has no format 'huggingface'; mamba, mamba2, griffin" in result.stderr
    )
    assert not Path("other").exists()
    options = ("-t", "mamba2", "--architecture", "bamba", "--out", "bamba")
    lsrl_command("export", "flip_flop", *options)
    assert json.loads(Path("bamba/config.json").read_text())["model_type"] == "bamba"
    result = lsrl_command("export", "flip_flop", *options[:3], "bambo", "--out", "other", code=2)
    assert "'zamba2', got 'bambo'; did you mean 'bamba'" in result.stderr


def test_compile_prints_the_summary(lsrl_command):
    out = lsrl_command("compile", "tok2tok", "-t", "linear_rnn", "-p", "length=2").stdout
    model = lsrl.compile(lsrl.programs.tok2tok(2), "linear_rnn")
    assert out.strip() == model.summary()


def test_compile_takes_dtype_report_and_parameters(lsrl_command):
    out = lsrl_command(
        "compile", "ngram", "-t", "linear_rnn", "-p", "pattern=[1,1]", "--dtype", "float64",
        "--report",
    ).stdout  # fmt: skip
    assert "ngram on linear_rnn, float64" in out
    assert "CPU time by stage" in out


def test_compile_dumps_what_a_pass_makes(lsrl_command):
    subject = ("my.py:scaled", "-p", "factor=3", "-t", "rnn")
    chosen = ("--dump-after", "fuse affine", "--dump-after", "schedule")
    out = lsrl_command("compile", *subject, *chosen).stdout
    first, second, *_, layers = out.split("after ")
    assert first == ""
    assert second.startswith("fuse affine, run 1:\n%0 = input() {index=0, label='x'")
    line = "%1 = lookup(%0) {table=[[0], [3], [6]]} : 1 in [0, 6] by steps of 3  # at my.py:15\n"
    assert line in second
    assert layers.startswith("schedule, run 1:\nlayer 1   carry: factor * x + shift\n")
    assert out.endswith(
        lsrl_command("compile", "my.py:scaled", "-p", "factor=3", "-t", "rnn").stdout
    )


def test_compile_says_which_passes_ran(lsrl_command, saved):
    message = "no pass 'lower seects' ran: expected one of fold tables, drop decided, fuse affine"
    result = lsrl_command(
        "compile", "majority", "-t", "gru", "--dump-after", "lower seects", code=2
    )
    assert f"error: majority on gru, float32: {message}" in result.stderr
    assert "split rows, schedule; did you mean 'lower selects'?" in result.stderr
    result = lsrl_command("compile", saved, "--dump-after", "schedule", code=2)
    assert "a saved model is compiled already; give a --target" in result.stderr


def test_compile_saves(lsrl_command, saved):
    assert lsrl.load(saved).program.name == "majority"
    result = lsrl_command("compile", saved, "-t", "gated_linear_rnn")
    assert "majority on gated_linear_rnn" in result.stdout


def test_unroll(lsrl_command):
    parameters = ("flip_flop", "-t", "linear_rnn", "-p", "max_length=8")
    assert "can't hold" in lsrl_command("compile", *parameters, code=2).stderr
    assert "exact        yes" in lsrl_command("compile", *parameters, "--unroll").stdout


def test_robust(lsrl_command):
    lsrl_command("compile", "even_pairs", "-t", "linear_rnn", "--robust", "--out", "robust.lsrl")
    assert lsrl.load("robust.lsrl").options.robust


def test_inspectable(lsrl_command):
    lsrl_command("compile", "majority", "-t", "gru", "--inspectable", "--out", "inspectable.lsrl")
    assert lsrl.load("inspectable.lsrl").options.inspectable


def outputs(result):
    """The last column of the table that `run` prints."""
    lines = result.stdout.splitlines()
    return [line.split()[-1] for line in lines if line.split()[0].isdigit()]


@pytest.mark.parametrize("where", [[], ["-t", "linear_rnn"], ["-t", "linear_rnn", "--check"]])
def test_run_prints_token_by_token(lsrl_command, where):
    result = lsrl_command("run", "majority", "1 0 1 1", *where)
    assert result.stdout.split("\n")[0].split() == ["token", "bit", "output"]
    assert outputs(result) == ["1", "0", "1", "1"]


def test_run_takes_a_saved_model(lsrl_command, saved):
    assert outputs(lsrl_command("run", saved, "1,0,1,1")) == ["1", "0", "1", "1"]


def test_run_takes_several_inputs(lsrl_command):
    program = lsrl.programs.binary_adder()
    first, second = [1, 1, 0, 0], [1, 0, 1, 0]
    got = outputs(lsrl_command("run", "binary_adder", "1 1 0 0", "1 0 1 0"))
    assert [int(text) for text in got] == program.run(first, second)[:, 0].tolist()


def test_run_takes_symbols_by_name(lsrl_command):
    got = outputs(lsrl_command("run", "flip_flop", "SET1 READ, SET0 3 IGNORE"))
    assert got == ["1", "1", "0", "1", "1"]
    result = lsrl_command("run", "flip_flop", "SET1 REED", code=2)
    assert "expected symbols from 0 to 3, got 'REED' at token 1" in result.stderr


def test_run_reads_files(lsrl_command):
    bits = np.array([1, 0, 1, 1])
    np.save("bits.npy", bits)
    np.save("batch.npy", np.stack([bits, 1 - bits]))
    Path("bits.json").write_text(json.dumps(bits.tolist()))
    Path("column.csv").write_text("\n".join(map(str, bits)))
    Path("row.csv").write_text("1,0,1,1\n")
    Path("rows.csv").write_text("1,0,1,1\n0,1,0,0\n")
    for file in ("bits.npy", "bits.json", "column.csv", "row.csv"):
        assert outputs(lsrl_command("run", "majority", file)) == ["1", "0", "1", "1"], file
    for file in ("batch.npy", "rows.csv"):
        result = lsrl_command("run", "majority", file)
        assert "sequence 0" in result.stdout
        assert "sequence 1" in result.stdout
        assert outputs(result) == ["1", "0", "1", "1", "0", "0", "0", "0"], file


def test_run_takes_vectors(lsrl_command):
    result = lsrl_command("run", "my.py:twice", "--", "-1 0.5; 2 3")
    assert [line.split()[-2:] for line in result.stdout.splitlines()[1:]] == [
        ["-2", "1"],
        ["4", "6"],
    ]
    Path("vectors.csv").write_text("1,0.5\n2,3\n")
    result = lsrl_command("run", "my.py:twice", "vectors.csv")
    assert result.stdout.splitlines()[2].split()[-2:] == ["4", "6"]


def test_run_takes_a_users_program(lsrl_command):
    assert outputs(lsrl_command("run", "my.py:scaled", "0 1 2", "-p", "factor=3")) == [
        "0",
        "3",
        "6",
    ]
    got = lsrl_command("run", "my.py:scaled", "0 1 2", "-p", "factor=3", "-p", "shift=1")
    assert outputs(got) == ["1", "4", "7"]
    assert "4" in lsrl_command("run", "my.py", "1 2").stdout, "the only program of the file"


def test_show_lists_signals_or_layers(lsrl_command, saved):
    signals = lsrl_command("show", "majority").stdout
    assert "Program majority(bit: Token(size=2))" in signals
    assert "# ones" in signals
    for source in (["majority", "-t", "linear_rnn"], [saved]):
        layers = lsrl_command("show", *source).stdout
        assert "exact        yes" in layers
        assert "│ state │ ones" in layers
    assert "passes" in lsrl_command("show", saved, "--report").stdout


def test_show_names_every_channel(lsrl_command):
    out = lsrl_command("show", "tok2tok", "-t", "linear_rnn").stdout
    model = lsrl.compile(lsrl.programs.tok2tok(), "linear_rnn")
    for labels in model.labels:
        for label in labels:
            assert label in out


@pytest.mark.parametrize("where", [[], ["-t", "linear_rnn"]])
def test_show_draws(lsrl_command, where):
    pytest.importorskip("matplotlib")
    for suffix, start in {"svg": b"<svg", "pdf": b"%PDF", "png": b"\x89PNG"}.items():
        lsrl_command("show", "majority", *where, "--out", f"majority.{suffix}")
        assert Path(f"majority.{suffix}").read_bytes().startswith(start)
    result = lsrl_command("show", "majority", "--out", "a.nonsense", code=2)
    assert "a.nonsense" in result.stderr


def test_drawing_without_matplotlib_names_the_extra(lsrl_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = lsrl_command("show", "majority", "--out", "majority.png", code=2)
    assert "pip install 'lsrl[plot]'" in result.stderr
    lsrl_command("show", "majority", "--out", "majority.svg")


def test_a_drawing_larger_than_a_page_is_asked_for(lsrl_command):
    large = ("show", "tok2tok", "-p", "prompt_first=true", "-p", "max_pairs=30", "--out", "a.svg")
    result = lsrl_command(*large)
    assert "signals; whole=True (--whole) draws all" in result.stderr
    few = Path("a.svg").read_text().count("<title>")
    lsrl_command(*large, "--whole")
    assert Path("a.svg").read_text().count("<title>") > few


@pytest.mark.parametrize(
    "arguments",
    [
        ["dyck1", "-t", "linear_rnn"],
        ["tok2tok", "-t", "linear_rnn", "-p", "length=1", "-p", "max_pairs=3"],
        ["vec2vec", "-t", "gated_linear_rnn"],
        ["my.py:twice", "-t", "linear_rnn", "--dtype", "float64"],
    ],
)
def test_verify_finds_no_difference(lsrl_command, arguments):
    result = lsrl_command("verify", *arguments, "--sequences", "12", "--length", "10")
    assert "at every token of 12 sequences" in result.stdout


def test_verify_finds_a_difference(lsrl_command, saved):
    assert "equal" in lsrl_command("verify", saved, "--sequences", "4").stdout
    model = lsrl.load(saved)
    name, array = next(
        (name, array) for name, array in model.module.parameter_arrays().items() if array.any()
    )
    model.module.replace_parameters({**model.module.parameter_arrays(), name: array + 1})
    model.save("wrong.lsrl")
    result = lsrl_command("verify", "wrong.lsrl", "--sequences", "4", code=1)
    assert "differs" in result.stdout
    assert "token" in result.stdout
    assert f"weights      not the compiled weights (changed: {name})" in result.stdout


def test_verify_says_when_it_could_compare_nothing(lsrl_command):
    Path("promise.py").write_text(
        "import lsrl\n\n@lsrl.program(max_length=9)\ndef low(x: lsrl.Vector(1, low=1, high=2)):\n"
        "    return lsrl.bound(lsrl.cumsum(x), 0, 1)\n"
    )
    result = lsrl_command("verify", "promise.py", "-t", "linear_rnn", "--length", "5", code=1)
    assert "next to nothing was tested: no sequence keeps the program's promises" in result.stdout
    assert "--sampler" in result.stdout


def test_explain(lsrl_command):
    out = lsrl_command("explain", "flip_flop").stdout
    for target in lsrl.targets():
        assert f"flip_flop on {target.name}" in out
    out = lsrl_command("explain", "majority", "-t", "linear_rnn").stdout
    assert "majority on linear_rnn: bounded" in out
    narrow = lsrl_command("explain", "majority", "-t", "linear_rnn", "--dtype", "bfloat16").stdout
    assert "bounded (bfloat16)" in narrow
    assert "bfloat16 is exact over the first" in narrow
    options = ("-t", "lstm", "--most-parameters", "3")
    assert "majority on lstm: no" in lsrl_command("explain", "majority", *options).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "majority", "1 2 0"], "expected ints from 0 to 1"),
        (["run", "majority", "1 x"], "got 'x' at token 1"),
        (["run", "majority", ""], "an empty sequence"),
        (["run", "majority", "1 0.5"], "expected symbols from 0 to 1, got '0.5'"),
        (["run", "majority", "1", "0"], "expected 1 input(s) (bit), got 2"),
        (["run", "majority", "none.npy"], "none.npy: no such file"),
        (["run", "majority", "my.csv"], "my.csv: not an array of numbers"),
        (["run", "majority", "my.json"], "my.json: not an array of numbers"),
        (["run", "majority", "my.npy"], "my.npy: not an array of numbers"),
        (["run", "my.py:twice", "1 2; 3"], "a semicolon ends a token"),
        (["run", "my.py:twice", "1 2 3"], "expected vectors of width 2"),
        (["run", "my.py:twice", "1 9"], "at most high"),
        (["run", "nonsense", "1"], "unknown program 'nonsense'"),
        (["compile", "majorty", "-t", "lstm"], "did you mean 'majority'?"),
        (["compile", "majority"], "give a target"),
        (["compile", "majority", "-t", "linear_rn"], "did you mean 'linear_rnn'?"),
        (["compile", "majority", "-t", "linear_rnn", "--dtype", "int8"], "dtype 'int8'"),
        (["compile", "majority", "-t", "linear_rnn", "-p", "max_length=x"], "max_length"),
        (["compile", "majority", "-t", "linear_rnn", "-p", "size=3"], "no parameter size"),
        (["compile", "majority", "-t", "linear_rnn", "-p", "3"], "expected NAME=VALUE"),
        (["compile", "majority", "-t", "linear_rnn", "-o", "no/such/folder.lsrl"], "no/such"),
        (["compile", "gradient_step", "-t", "linear_rnn"], "would do: gated_linear_rnn"),
        (["show", "none.lsrl"], "none.lsrl"),
        (["show", "my.npy"], "my.npy: expected a model saved by model.save"),
        (["show", "none.py:thing"], "none.py: no such file"),
        (["show", "my.py:absent"], "named 'absent', got nothing of that name; it has twice"),
        (["show", "my.py:number"], "named 'number', got int"),
        (["show", "my.py:nothing"], "nothing returned a int"),
        (["show", "my.py:scaled"], "needs a value for factor"),
        (["show", "my.py:twice", "-p", "n=1"], "no parameter n"),
        (["show", "my.py:broken"], "my.py:"),
        (["show", "wrong.py"], "wrong.py:1: ZeroDivisionError"),
        (["show", "typo.py"], "typo.py:1: SyntaxError"),
        (["show", "empty.py"], "empty.py: expected one program, got 0"),
        (["explain", "majority", "-t", "gpt"], "unknown target 'gpt'"),
        (["verify", "majority"], "give a target"),
    ],
)
def test_bad_input_is_one_message(lsrl_command, arguments, message):
    for name in ("my.csv", "my.json", "my.npy"):
        Path(name).write_text("no, data; here")
    Path("wrong.py").write_text("1 / 0")
    Path("typo.py").write_text("def f(:")
    Path("empty.py").write_text("")
    result = lsrl_command(*arguments, code=2)
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""


def test_usage_errors_exit_with_2(lsrl_command):
    lsrl_command("run", "majority", code=2)
    lsrl_command("verify", "majority", "--sequences", "0", code=2)
    lsrl_command("nonsense", code=2)


TASKS_FILE = {
    "format": "lsrl-tasks",
    "version": 1,
    "tasks": [
        {
            "name": name,
            "inputs": {"x": {"token": 2}},
            "examples": [
                {"inputs": word, "outputs": answer(word)}
                for size in (3, 5)
                for word in (list(map(int, np.binary_repr(k, size))) for k in range(2**size))
            ],
        }
        for name, answer in {
            "ones": lambda word: np.cumsum(word).tolist(),
            "parity": lambda word: (np.cumsum(word) % 2).tolist(),
        }.items()
    ],
}


def test_induce_finds_programs_and_learns(lsrl_command, monkeypatch):
    Path("tasks.json").write_text(json.dumps(TASKS_FILE))
    options = ("--solver", "compose", "--budget", "1e3", "-l", "library.json", "-o", "solved")
    add = Journal.add

    def killed(journal, made):
        add(journal, made)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", killed)
        lsrl_command("induce", "tasks.json", *options, code=130)
    assert sorted(path.name for path in Path("solved").iterdir()) == ["state.json"]
    assert not Path("library.json").exists()
    out = lsrl_command("induce", "tasks.json", *options, "-t", "lstm", "-t", "mamba").stdout
    assert "2 of 2 tasks solved" in out
    assert "parity on lstm: exact" in out
    assert Path("solved/report.txt").read_text() == out
    assert not Path("solved/state.json").exists()
    source = Path("solved/parity.py").read_text()
    assert "return lsrl.cumsum(x) % 2" in source
    words = np.random.default_rng(0).integers(0, 2, (5, 40))
    model = lsrl.load("solved/parity.mamba.lsrl")
    np.testing.assert_array_equal(model.run(words)[..., 0], np.cumsum(words, axis=1) % 2)
    assert '"remainder(total(x), n=2)"' in Path("library.json").read_text()
    rows = json.loads(lsrl_command("induce", "tasks.json", *options, "--json").stdout)
    assert [row["expression"] for row in rows] == ["total(x)", "parity(x)"]


def test_induce_says_what_is_not_solved(lsrl_command):
    (task,) = (one for one in TASKS_FILE["tasks"] if one["name"] == "ones")
    words = [{**each, "outputs": each["outputs"][::-1]} for each in task["examples"][-8:]]
    Path("tasks.json").write_text(json.dumps(
        {**TASKS_FILE, "tasks": [{**task, "examples": words, "inputs": {"x": {"token": 2}}}]}
    ))  # fmt: skip
    result = lsrl_command("induce", "tasks.json", "-b", "50", "-o", "solved", code=2)
    assert "task 'ones': examples contradict each other" in result.stderr
    for each in words:
        each["outputs"] = [9, 2, 9, 4, each["inputs"][-1] * 7]
    Path("tasks.json").write_text(
        json.dumps({**TASKS_FILE, "tasks": [{**task, "examples": words}]})
    )
    result = lsrl_command("induce", "tasks.json", "-b", "50", "-o", "solved", "--solver", "compose",
                          code=1)  # fmt: skip
    assert "0 of 1 tasks solved" in result.stdout
    assert "not solved, 48 candidates: compose: no composition among" in result.stdout


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, ("--budget", "0"), "expected a whole number from 1 on, such as 3e5, got '0'"),
        ({}, ("--budget", "many"), "got 'many'"),
        ({}, ("-t", "lsmt"), "did you mean 'lstm'"),
        ({}, ("--solver", "afine"), "did you mean 'affine'"),
        ({"tasks": []}, (), "expected tasks of different names, got none"),
        ({"version": 2}, (), "tasks.json: expected tasks, as docs/induction.md tells"),
        ({"tasks": [{"name": "a"}]}, (), "tasks[0].examples: expected a value, got nothing"),
        ({"tasks": [{"name": "a", "examples": [{"inputs": [1], "outputs": ["b"]}]}]}, (),
         "tasks[0].examples[0].outputs[0]: expected a finite number, got 'b'"),
        ({"tasks": [{"name": "a", "examples": []}]}, (), "task 'a': examples: there are none"),
        ({}, ("-l", "broken.json"), "broken.json: expected skills saved by skills.save"),
    ],
)  # fmt: skip
def test_induce_answers_bad_input(lsrl_command, change, options, message):
    Path("tasks.json").write_text(json.dumps({**TASKS_FILE, **change}))
    Path("broken.json").write_text("{}")
    result = lsrl_command("induce", "tasks.json", "-o", "solved", *options, code=2)
    assert message in result.stderr
    assert result.stdout == ""
