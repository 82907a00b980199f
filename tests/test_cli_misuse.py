"""Misuses of the command line: each gets one message, which says what to do, and an exit code.

What is in the table was a traceback, a silent acceptance or a riddle, or is what people mistype.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import lsrl
from lsrl.cli import answers, app, printing
from lsrl.errors import SuiteError
from lsrl.suite.build import in_order

FILES = {
    "my.py": """
import sys
import warnings

import lsrl


@lsrl.program(max_length=8)
def ones(bit: lsrl.Token(2)):
    return lsrl.cumsum(bit)


@lsrl.program
def pair(x: lsrl.Vector(2, low=-4, high=4, step=0.5)):
    return x


def raises(n=3):
    helper(n)


def helper(n):
    return {}["key"]


def records():
    @lsrl.program
    def bad(x: lsrl.Token(3)):
        return x + [][0]

    return bad


def marked():
    raise RuntimeError("[bold]in brackets[/bold] [/nope]")


def recursive():
    return recursive()


def leaves():
    sys.exit("bye")


def interrupts():
    raise KeyboardInterrupt


def positional(a, /):
    return ones


class Odd(BaseException):
    def __str__(self):
        return 1 / 0


def raises_oddly():
    raise Odd


def warns():
    warnings.warn("careful")
    return ones


def draws_nothing(random, sequences, length):
    return None


def draws_wrongly(random, sequences, length):
    return random.nonsense(3)


number = 7
""",
    "syntax.py": "import lsrl\n\ndef f(:\n    pass\n",
    "missing.py": "import lsrl\nimport no_such_module\n",
    "beside.py": "import mine_too\n",
    "mine_too.py": "\n1 / 0\n",
    "script.py": "import sys\nsys.exit(3)\n",
    "empty.py": "",
    "latin.py": b"# caf\xe9\n",
    "nul.py": b"x = 1\0\n",
    "nested.json": "[[[[0, 1]]]]",
    "ragged.json": "[[0, 1], [0]]",
    "object.json": '{"bit": [0, 1]}',
    "deep.json": "[" * 100_000 + "]" * 100_000,
    "mixed.json": '[1, "a", null]',
    "huge.json": "[1, 100000000000000000000000]",
    "latin.json": b"[1, \xe9]",
    "huge.csv": "1e30\n",
    "empty.csv": "",
    "odd.npy": b"\x93NUMPY\x01\x00\x20\x00{'descr': '<i8', 'shape': ((((  \n",
    "cut.npy": b"\x93NUMPY\x01\x00",
    "damaged.lsrl": "no model",
    "folder/file.txt": "",
}
BUILT = ("-t", "linear_rnn")
NUMBER = "123456789012345678901234"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with files of all kinds, and a saved model."""
    place = tmp_path_factory.mktemp("misuse")
    for name, content in FILES.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    np.save(place / "text.npy", np.array(["a", "b"]))
    lsrl.compile(lsrl.programs.majority(8), "linear_rnn").save(place / "model.lsrl")
    return place


@pytest.fixture
def run(folder, monkeypatch):
    """Runs a command in that folder; returns the result."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("warnings.showwarning", None)

    def invoke(*arguments, charset="utf-8", **environment):
        return CliRunner(charset=charset).invoke(app, list(arguments), env=environment)

    return invoke


MISUSES = [
    # What a user's code raises, with the user's line and no other.
    ("show my.py:raises", "my.py:23: KeyError in raises(): 'key'\n    return {}[\"key\"]"),
    ("show my.py:raises -p n=2", "my.py:23: KeyError in raises(n=2): 'key'"),
    ("show my.py:records", "my.py:29: IndexError in records(): list index out of range"),
    ("show my.py:marked", "RuntimeError in marked(): [bold]in brackets[/bold] [/nope]\n"),
    ("show my.py:recursive", "my.py:39: RecursionError in recursive()"),
    ("show my.py:leaves", "my.py:43: the code ended the program in leaves() (SystemExit: bye)"),
    ("show my.py:positional -p a=1", "my.py: TypeError in positional(a=1)"),
    ("show my.py:raises_oddly", "Odd in raises_oddly(): (its text raises ZeroDivisionError)"),
    ("show syntax.py", "syntax.py:3: SyntaxError: invalid syntax\n    def f(:"),
    ("show missing.py", "missing.py:2: ModuleNotFoundError while the file was read"),
    ("show missing.py", "or put it beside the file\n    import no_such_module"),
    ("show beside.py", "mine_too.py:2: ZeroDivisionError while the file was read"),
    ("show script.py", "put what only a script does under: if __name__ == '__main__'"),
    ("show latin.py", "latin.py"),
    ("show nul.py", "nul.py: SyntaxError"),
    # Files without the program that was asked for.
    ("show empty.py", "empty.py: expected one program, got 0; write one"),
    ("show my.py", "expected one program, got 2; name a program"),
    ("show my.py:", "named '', got nothing of that name; it has ones, pair, raises"),
    ("show my.py:onse", "did you mean 'ones'?"),
    ("show my.py:number", "named 'number', got int"),
    ("show none.py", "none.py: no such file"),
    ("show folder", "folder: a folder; expected a model saved by 'lsrl compile --out'"),
    ("show none.lsrl", "none.lsrl: no such file; expected a model"),
    ("show damaged.lsrl", "damaged.lsrl: expected a model saved by model.save"),
    ("show [/red]", "unknown program '[/red]'"),
    ("show model.lsrl -p x=1", "model.lsrl: no parameter x"),
    ("show my.py:raises -p n=1 -p n=2", "parameter n: given twice"),
    # Inputs.
    (f"run majority 1,0,{NUMBER}", f"expected symbols from 0 to 1, got '{NUMBER}' at token 2"),
    ("run majority -1", "Put -- before an input that begins with a minus sign"),
    ("run majority 0,1,2", "got 2 at token 2"),
    ("run majority 1,,0", "got '1,,0', with nothing between two separators"),
    ("run majority", "Missing argument 'INPUT...'"),
    ("run majority nested.json", "got shape (1, 1, 1, 2)"),
    ("run majority ragged.json", "its rows differ in length"),
    ("run majority object.json", "object.json: expected an array of symbols from 0 to 1, got dict"),
    ("run majority deep.json", "deep.json: not an array of numbers"),
    ("run majority mixed.json", "mixed.json: expected an array of symbols from 0 to 1, got str"),
    ("run majority huge.json", "got int 100000000000000000000000"),
    ("run majority latin.json", "latin.json: not an array of numbers ('utf-8'"),
    ("run majority huge.csv", "expected ints from 0 to 1"),
    ("run majority empty.csv", "an empty sequence"),
    ("run majority cut.npy", "cut.npy: not an array of numbers"),
    ("run majority odd.npy", "odd.npy: not an array of numbers"),
    ("run majority text.npy", "text.npy: expected an array of symbols from 0 to 1, got str 'a'"),
    ("run majority folder/", "got 'folder/' at token 0"),
    ("run my.py:pair 1e400,0", "expected a finite number, got inf"),
    ("run my.py:pair 9,9", "at most high"),
    ("run my.py:ones 1,1,1,1,1,1,1,1,1", "at most max_length=8 tokens, got 9"),
    # Targets and options of compiling.
    ("compile majority -t [/red]", "unknown target '[/red]'"),
    ("compile majority -t lstn", "did you mean 'lstm'?"),
    ("compile majority -t", "Option '-t' requires an argument"),
    ("compile majority -t lstm --dtype float16", "dtype 'float16': expected one of float32"),
    ("compile majority -t lstm -p max_length=-3", "max_length: expected an int of at least 1"),
    ("compile majority -t lstm --robst", "No such option: --robst"),
    ("run model.lsrl 1,0 --dtype float64", "--dtype float64: the saved model is compiled already"),
    ("run majority 1,0 --dtype float64", "--dtype float64: nothing is compiled without a target"),
    ("explain dfa -t deltanet --automaton-limit layer=24", "one of layers, units, chains"),
    ("explain dfa -t deltanet --automaton-limit layers", "expected NAME=N, such as layers=24"),
    ("compile dfa -t deltanet --automaton-limit units=1 --automaton-limit units=2", "given twice"),
    ("show dfa --automaton-limit units=1", "--automaton-limit units=1: nothing is compiled"),
    ("compile dfa -t deltanet --automaton-limit units=1", "10 table units, and at most 1 are made"),
    ("show majority --robust", "--robust: nothing is compiled without a target"),
    (
        "compile majority -t gru --most-parameters 3",
        "allow more: lsrl.compile(..., most_parameters=",
    ),
    ("run majority 1,0 -t gru --most-parameters 3", "most_parameters="),
    ("run majority 1,0 --most-parameters 3", "--most-parameters 3: nothing is compiled"),
    ("view majority -t gru --out a.html --most-parameters 3", "most_parameters="),
    ("view model.lsrl --out a.html --most-parameters 3", "the saved model is compiled already"),
    ("explain majority --most-parameters 0", "greater than or equal to 1, got '0'"),
    ("export majority -t gru --layers apart --out a", "'apart' is not one of"),
    ("export majority -t mamba --layers separate --out a", "or 'separate' with format 'torch'"),
    ("compile model.lsrl --most-parameters 3", "--most-parameters 3: the saved model is compiled"),
    ("compile model.lsrl --robust", "--robust: the saved model is compiled already"),
    ("compile flip_flop -t linear_rnn", "legalise='unroll' (--unroll) is a way out"),
    # Where results go; nobody waits for what can't be written.
    ("compile majority -t lstm --out ", "expected the name of a file to write, got ''"),
    ("compile majority -t lstm --out folder", "got the folder 'folder'"),
    ("compile majority -t lstm --out no/where.lsrl", "no/where.lsrl: there is no folder no"),
    ("compile majority -t lstm --out my.py/a.lsrl", "my.py is no folder"),
    ("view majority -t lstm --out .", "got the folder '.'"),
    ("view majority -t lstm", "Missing option '--out'"),
    (
        "show majority --out picture",
        "a suffix that names the format, .svg, .pdf or .png, got 'picture'",
    ),
    ("show majority --out a.nonsense", "a.nonsense: can't draw"),
    # Counts and samplers.
    ("verify majority -t lstm --sequences -3", "greater than or equal to 1, got '-3'"),
    (
        "verify majority -t lstm --sequences x",
        "valid integer, unable to parse string",
    ),
    ("verify majority -t lstm --seed -1", "greater than or equal to 0, got '-1'"),
    ("verify my.py:ones -t linear_rnn --sampler my.py:draws_nothing", "got NoneType; return a"),
    ("verify my.py:ones -t linear_rnn --sampler my.py:draws_wrongly", "AttributeError in draws_"),
    ("verify my.py:ones -t linear_rnn --sampler my.py:leaves", "TypeError in leaves(random, 8, 8)"),
    ("verify my.py:ones -t linear_rnn --sampler my.py:none", "got nothing of that name"),
    # The suite and the experiments.
    ("suite verify folder", "manifest.json: expected the manifest of a suite, got no such file"),
    ("suite verify my.py", "expected the name of a folder, got the file 'my.py'"),
    ("suite build new -p nosuch", "got 'nosuch'"),
    ("suite build new -p majoriti", "did you mean 'majority'?"),
    ("suite train new -t linear_rnn", "expected one of lstm, gru, mamba"),
    ("bench stability --memory inf", "less than or equal to 1048576, got 'inf'"),
    ("bench stability --out ", "expected the name of a folder, got ''"),
    ("bench stability --quick -t lstm", "--quick chooses its programs and targets itself"),
    # Commands.
    ("complie", "lsrl: No such command 'complie'. Did you mean 'compile'? See 'lsrl --help'."),
    ("suite bild", "Did you mean 'build'? See 'lsrl suite --help'."),
    ("help nothing", "No such command 'nothing'"),
    ("targets lstm", "Got unexpected extra argument(s) (lstm)"),
    ("--verison", "No such option: --verison"),
]


def files_of(folder):
    """What lies in a folder, but for what Python keeps of a module that it read."""
    return sorted(name for name in os.listdir(folder) if name != "__pycache__")


@pytest.mark.parametrize(("command", "message"), MISUSES)
def test_a_misuse_is_one_message(run, folder, command, message):
    before = files_of(folder)
    result = run(*command.split(" "))
    assert result.exit_code == answers.MISUSE, result.output
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert "/lsrl/cli/" not in result.stderr, "no line of ours, which tells a user nothing"
    assert result.stdout == ""
    assert files_of(folder) == before, "nothing half is left"


def test_a_debugging_user_gets_the_traceback(run):
    for result in (
        run("--debug", "show", "my.py:raises"),
        run("show", "my.py:raises", LSRL_DEBUG="1"),
    ):
        assert result.exit_code == answers.MISUSE
        assert "Traceback" in result.stderr
        assert "in helper" in result.stderr
        assert "error: my.py:23: KeyError" in result.stderr


def test_a_fault_of_ours_is_told_apart(run, monkeypatch):
    def broken(*_, **__):
        raise OverflowError("too [large]")

    monkeypatch.setattr(lsrl, "compile", broken)
    result = run("compile", "majority", "-t", "lstm")
    assert result.exit_code == answers.FAULT
    assert result.stderr.startswith("error: OverflowError: too [large] (")
    assert "a fault of LSRL, please report it" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_shortage_of_memory_is_told(run, monkeypatch):
    def broken(*_, **__):
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setattr(lsrl, "compile", broken)
    result = run("compile", "majority", "-t", "lstm")
    assert result.exit_code == answers.MISUSE
    assert "not enough memory: Unable to allocate 7 TiB; choose smaller sizes" in result.stderr


@pytest.mark.parametrize(("module", "extra"), [("pyarrow", "frames"), ("torch", "torch")])
def test_a_missing_extra_is_named(module, extra, run, monkeypatch):
    def broken(*_, **__):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(lsrl, "compile", broken)
    result = run("compile", "majority", "-t", "lstm")
    assert result.exit_code == answers.MISUSE
    assert result.stderr == (
        f"error: this needs {module}, which is not installed: pip install 'lsrl[{extra}]'\n"
    )


def test_an_interrupt_in_a_users_code(run):
    result = run("show", "my.py:interrupts")
    assert result.exit_code == answers.INTERRUPTED
    assert result.stderr == "interrupted\n"


def test_a_users_warning_names_the_users_line(run):
    result = run("show", "my.py:warns")
    assert result.exit_code == 0
    assert result.stderr == f"warning: careful ({Path.cwd() / 'my.py'}:64)\n"


def test_a_users_file_may_be_called_like_a_module_of_python(run, folder):
    (folder / "json.py").write_text(FILES["my.py"])
    (folder / "imports.py").write_text("import mine_three\nfrom mine_three import *\n")
    (folder / "mine_three.py").write_text(FILES["my.py"])
    try:
        assert run("show", "json.py:ones").exit_code == 0
        import json

        assert json.loads("1") == 1
        assert run("show", "imports.py:ones").exit_code == 0, "a module beside it is found"
        assert str(folder) not in sys.path
    finally:
        for name in ("json.py", "imports.py", "mine_three.py"):
            (folder / name).unlink()


@pytest.mark.parametrize("charset", ["ascii", "cp1252", "latin-1"])
def test_every_terminal_takes_what_is_printed(run, charset):
    for command in (["targets"], ["programs"], ["suite", "list"], ["--help"]):
        result = run(*command, charset=charset)
        assert result.exit_code == 0, result.output
    assert "phi(s)" in run("targets", charset=charset).stdout.replace("\n", "")
    result = run("show", "\N{SNOWMAN}[/x]", charset=charset)
    assert "unknown program '\\u2603[/x]'" in result.stderr
    assert "caf\\udce9.py: no such file" in run("show", "caf\udce9.py").stderr


@pytest.mark.parametrize("columns", ["1", "20", "79"])
def test_no_name_is_cut_on_a_narrow_terminal(run, columns):
    for command, names in (
        (["targets"], [target.name for target in lsrl.targets()]),
        (["programs"], lsrl.programs.catalogue()),
        (["suite", "list"], lsrl.programs.catalogue()),
    ):
        shown = run(*command, COLUMNS=columns).stdout
        assert "…" not in shown
        if command != ["suite", "list"]:
            assert {name for name in names if f" {name} " not in shown} == set()


def test_a_name_longer_than_the_terminal_is_whole(run, folder):
    name = "a_signal_with_a_long_name_" * 5
    (folder / "long.py").write_text(
        f"import lsrl\n\n@lsrl.program\ndef p(x: lsrl.Token(3)):\n    {name} = x > 1\n"
        f"    return {name}\n"
    )
    try:
        assert name in run("show", "long.py", *BUILT, COLUMNS="40").stdout
    finally:
        (folder / "long.py").unlink()


def test_help_is_found_in_every_way(run):
    overview = run("--help").stdout
    assert run("help").stdout == run("-h").stdout == overview
    assert run().stdout.strip() == overview.strip()
    assert run("help", "suite", "build").stdout == run("suite", "build", "--help").stdout != ""
    for code in (answers.MISUSE, answers.FAULT, answers.INTERRUPTED, answers.CLOSED_PIPE):
        assert f" {code} " in overview


def test_completion_is_shown(run, monkeypatch):
    # The shell is looked for among the processes above, where there may be none.
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "bash")
    result = run("--show-completion")
    assert result.exit_code == 0
    assert "_LSRL_COMPLETE=complete_bash" in result.stdout


def test_version(run):
    assert run("--version").stdout.startswith(f"lsrl {lsrl.__version__}, Python ")


def test_progress_without_a_terminal_is_lines(run, monkeypatch):
    monkeypatch.setattr(printing, "EVERY", 0.0)
    result = run("verify", "my.py:ones", *BUILT, "--sequences", "16")
    assert result.exit_code == 0
    assert result.stderr == "ones on linear_rnn: 8 of 16\nones on linear_rnn: 16 of 16\n"


def start(folder, *arguments, **options):
    """The command line as a process of its own."""
    # Whoever started the tests may have had interrupts ignored, which children inherit.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heard}; from lsrl.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_reader_that_goes_away_is_no_error(folder):
    with start(folder, "programs", stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == answers.CLOSED_PIPE


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="a device of Linux")
def test_a_full_disk_is_told(folder):
    with open("/dev/full", "w") as full, start(folder, "--version", stdout=full) as process:
        assert process.stderr.read() == "error: output: No space left on device\n"
        assert process.wait() == answers.MISUSE


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_ends_a_command_in_silence(folder):
    (folder / "waits.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    try:
        with start(folder, "show", "waits.py", stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.stderr.read() == "interrupted\n"
            assert process.wait() == answers.INTERRUPTED
    finally:
        (folder / "waits.py").unlink()


@pytest.mark.studies
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_ends_a_build_and_its_processes_in_silence(tmp_path):
    command = ("suite", "build", "built", "-p", "majority", "-p", "dyck1")
    with start(tmp_path, *command, stdout=subprocess.PIPE, start_new_session=True) as process:
        while process.poll() is None and not list(tmp_path.glob("built/*/*")):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        told = process.stderr.read()
        assert told.endswith("interrupted\n")
        assert "Traceback" not in told
        assert process.wait() == answers.INTERRUPTED


@pytest.mark.studies
def test_a_killed_process_of_a_build_is_told():
    with pytest.raises(SuiteError, match=r"one of 2 processes ended abruptly.* fewer workers"):
        in_order(os._exit, [1, 1], 2, None, "suite")
