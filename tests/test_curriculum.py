"""What solves one task is a skill for the others; it is data, in files that are checked."""

import json
import random
from typing import Any, cast

import numpy as np
import pytest

import lsrl
from benchmarks import curricula
from benchmarks.mips import TASKS
from lsrl.errors import FormatError, InputError
from lsrl.induction import Curriculum, Skills, Task
from lsrl.induction.expressions import Expression, evaluated
from lsrl.induction.macros import parsed
from lsrl.induction.operators import SMALL, Kind, Operator
from lsrl.induction.refactoring import bits_of, refactored

pytestmark = pytest.mark.one_in(3)

NAMES = ("rises", "n_rises", "parity_rises", "even", "n_evens")
BUDGET = 4_000


def task(name, **options):
    made = curricula.TASKS[name]
    return Task(
        name, made.data(60, 12, 1), validation=made.data(30, 36, 2), inputs=made.types, **options
    )


@pytest.fixture(scope="module")
def curriculum():
    return Curriculum(map(task, NAMES))


@pytest.fixture(scope="module")
def learnt(curriculum):
    return curriculum.learn(budget=BUDGET, solvers=["compose"])


def definitions(skills):
    return [(each.name, each.parameters, str(each.expression)) for each in skills.macros]


def results(learnt):
    """All that a curriculum comes to but times."""
    rows = [row._replace(seconds=0.0) for row in learnt.rows]
    sources = {name: found.source() for name, found in learnt.found.items()}
    return rows, sources, definitions(learnt.skills)


def test_what_is_solved_is_a_skill_for_the_others(curriculum, learnt):
    assert learnt.found.keys() == set(NAMES)
    alone = lsrl.induce(
        curricula.TASKS["parity_rises"].data(60, 12, 1),
        inputs=curricula.TASKS["parity_rises"].types, budget=BUDGET, solvers=["compose"],
    )  # fmt: skip
    assert not alone
    assert learnt.rows[2].tried < alone.tried
    rows = {row.task: row for row in learnt.rows}
    assert rows["parity_rises"].macros == ("n_rises",)
    assert rows["parity_rises"].expression == "remainder(n_rises(x), n=2)"
    assert all(row.verified_to == 36 and row.tried <= BUDGET for row in learnt.rows)
    assert f"{len(NAMES)} of {len(NAMES)} tasks solved" in learnt.report()
    assert "calls n_rises" in learnt.report()
    assert "parity_rises" not in Skills.standard()


def test_a_solution_is_a_program_that_calls_functions(learnt):
    assert learnt.found["parity_rises"].source() == (
        "import lsrl\n\n\n"
        "def rises(x):\n    return x - lsrl.delay(x) > 0\n\n\n"
        "def n_rises(x):\n    return lsrl.cumsum(rises(x))\n\n\n"
        "@lsrl.program(max_length=256)\n"
        "def parity_rises(x: lsrl.Vector(1, low=-5, high=5, step=1)):\n"
        "    return n_rises(x) % 2\n"
    )
    for name, found in learnt.found.items():
        space = {}
        exec(found.source(), space)
        (x,), outputs = curricula.TASKS[name].data(20, 60, 9)
        np.testing.assert_array_equal(space[name].run(x[..., None])[..., 0], outputs)
        ops = [[(n.op, n.operands) for n in p.graph.nodes] for p in (space[name], found.program)]
        assert ops[0] == ops[1]  # the text is the program


def test_a_search_that_was_killed_goes_on(curriculum, learnt, tmp_path):
    tries, state, steps = 9, tmp_path / "state.json", []

    def progress(step):
        steps.append(step)
        if len(steps) == tries:
            raise KeyboardInterrupt

    options = {"budget": BUDGET, "solvers": ["compose"], "state": state}
    with pytest.raises(KeyboardInterrupt):
        curriculum.learn(**options, progress=progress)
    assert len(json.loads(state.read_text())["tries"]) == tries
    assert results(curriculum.learn(**options)) == results(learnt)
    with pytest.raises(FormatError, match="of these tasks, skills, budget and solvers"):
        curriculum.learn(**{**options, "budget": BUDGET + 1})
    said = json.loads(state.read_text())
    said["tries"][0]["tried"] += 1
    state.write_text(json.dumps(said))
    with pytest.raises(FormatError, match=r"state\.json: .*checksum"):
        curriculum.learn(**options)


def test_learnt_skills_are_saved_and_go_on(curriculum, learnt, tmp_path):
    learnt.skills.save(tmp_path / "library.json")
    text = (tmp_path / "library.json").read_text()
    assert '"expression": "total(rises(x))"' in text
    loaded = Skills.load(tmp_path / "library.json")
    assert definitions(loaded) == definitions(learnt.skills)
    again = Curriculum([task("parity_rises")]).learn(loaded, budget=500, solvers=["compose"])
    assert again.found["parity_rises"].expression == "parity_rises(x)"
    assert definitions(again.skills) == definitions(loaded)  # and nothing twice


def test_recurrences_are_learnt(tmp_path):
    def wave(x):
        y = np.zeros_like(x)
        for t in range(x.shape[1]):
            y[:, t] = x[:, t] + y[:, t - 1] * (t > 0) - y[:, t - 2] * (t > 1)
        return y

    rng = np.random.default_rng(0)
    x, longer = rng.integers(-3, 4, (60, 10)), rng.integers(-3, 4, (60, 30))
    answers = {"wave": wave, "top": lambda x: np.maximum.accumulate(wave(x), axis=1)}
    tasks = [Task(name, (x, f(x)), validation=(longer, f(longer))) for name, f in answers.items()]
    found = Curriculum(tasks).learn(budget=3_000, solvers=["affine", "compose"])
    assert found.found["top"].expression == "greatest(wave(x))"
    assert "def wave(x):\n    state = lsrl.linear_state(np.array(" in found.found["top"].source()
    found.skills.save(tmp_path / "library.json")
    again = Skills.load(tmp_path / "library.json")
    values = rng.integers(-9, 10, (20, 12, 1)).astype(float)
    for skills in (found.skills, again):
        (skill,) = (each for each in skills.skills if each.name == "wave")
        made, legal = Operator(skill).on([Kind(1, SMALL)], 12)([values])
        assert (legal == 12).all()
        np.testing.assert_array_equal(made[..., 0], wave(values[..., 0]))


# ---------------------------------------------------------------- common parts


def expressions_of(seed, count, skills):
    """Random expressions of a few skills, as learnt skills."""
    rng, names = random.Random(seed), ("rise", "absolute", "greatest", "minus")
    chosen = {each.name: each for each in skills.skills if each.name in names}

    def made(depth):
        if depth == 0 or rng.random() < 0.15:
            return Expression(leaf=rng.choice(["x", "x", "x", "2"]))
        skill = chosen[rng.choice(names)]
        return Expression(Operator(skill), tuple(made(depth - 1) for _ in range(skill.operands)))

    for number in range(count):
        skills.learn(f"f{number}", made(4))
    return skills


@pytest.mark.parametrize("seed", range(2))
def test_common_parts_become_skills_that_mean_the_same(seed):
    skills = expressions_of(seed, 30, Skills.standard())
    better = refactored(skills)
    assert sum(bits_of(m.expression) for m in better.macros) + 4.5 * (
        len(better.macros) - len(skills.macros)
    ) < sum(bits_of(m.expression) for m in skills.macros)
    assert {m.name for m in skills.macros} <= {m.name for m in better.macros}
    assert len(better.macros) > len(skills.macros)
    seen = set(Skills.standard())
    for macro in better.macros:  # each after those that it calls
        assert {p.operator.skill.name for p in macro.expression.parts() if p.operator} <= seen
        seen.add(macro.name)
    x = np.random.default_rng(seed).integers(-5, 6, (20, 9, 1)).astype(np.float32)
    one, other = ({m.name: m for m in each.macros} for each in (skills, better))
    for name in one:
        leaves = {"x": (x, Kind(1, SMALL)), "2": (np.full_like(x, 2), Kind(1, SMALL))}
        values = [
            evaluated(each[name].of(["x"] * len(each[name].parameters)), leaves)
            for each in (one, other)
        ]
        np.testing.assert_array_equal(*values)
    assert definitions(refactored(better)) == definitions(better)


def test_a_part_is_called_by_the_skill_that_says_it_already():
    skills = Skills.standard()
    for name, text in (
        ("far", "total(absolute(rise(x)))"), ("step", "absolute(rise(x))"),
        ("gap", "minus(greatest(total(x)), total(x))"), ("drop", "minus(greatest(x), x)"),
    ):  # fmt: skip
        skills.learn(name, parsed(text, skills.skills, ["x"]))
    assert {name: text for name, _, text in definitions(refactored(skills))} == {
        "step": "absolute(rise(x))", "far": "total(step(x))",
        "drop": "minus(greatest(x), x)", "gap": "drop(total(x))",
    }  # fmt: skip


def test_random_expressions_are_read_as_they_are_written():
    skills = expressions_of(7, 40, Skills.standard())
    for macro in skills.macros:
        text = str(macro.expression)
        assert parsed(text, skills.skills, macro.parameters) == macro.expression


# ---------------------------------------------------------------- lengths


def test_sequences_may_have_several_lengths():
    for name in ("Abs_Diff", "Div_3", "Newton_Spring"):
        made = TASKS[name]
        pairs = {}
        for which, count, lengths in (("examples", 150, (3, 11)), ("validation", 40, (15, 31))):
            (x,), y = made.data(count, lengths[1], len(pairs))
            sizes = np.random.default_rng(1).integers(*lengths, count, endpoint=True)
            pairs[which] = [(a[:n], b[:n]) for a, b, n in zip(x, y, sizes, strict=True)]
        found = lsrl.induce(**pairs, inputs=made.types, budget=2_000, max_length=60)
        assert found.verified_to == 31, found
        (x,), y = made.data(30, 50, 9)
        fed = x if isinstance(made.types["x"], lsrl.Token) else x[..., None]
        np.testing.assert_array_equal(found.program.run(fed)[..., 0], y)


def test_a_shorter_sequence_says_nothing_behind_its_end():
    """Else the zeros, or the last token again, would refute the sum."""
    words = [[3, 1, 4, 1, 5], [9, 2], [6], [5, 3, 5], [8, 9, 7, 9]]
    pairs = [(word, np.cumsum(word)) for word in words]
    for solver in ("compose", "affine"):
        assert lsrl.induce(pairs, solvers=[solver]).best.solver == solver
    wrong = [*pairs, ([3, 1], [3, 5])]
    with pytest.raises(InputError, match=r"0 and 5 are equal up to token 1.*1 of 17 outputs"):
        lsrl.induce(wrong)


def test_noise_is_told():
    rng = np.random.default_rng(0)
    x = rng.integers(-50, 50, (60, 10))
    y = np.cumsum(x, axis=1)
    y[[3, 17, 40], [4, 9, 2]] += 1
    found = lsrl.induce((x, y), budget=3_000)
    assert not found
    reasons = {each.solver: each.reason for each in found.refusals}
    assert "the nearest, total(x), errs at 3 of 600 outputs" in reasons["compose"]


# ---------------------------------------------------------------- files


def test_tasks_are_a_file(curriculum, tmp_path):
    words = [([0, 1], [5, 5]), ([1], [7])]
    pair = np.arange(24).reshape(2, 4, 3) / 2
    curricula_ = Curriculum(
        [*curriculum.tasks, Task("ragged", words), Task("wide", ({"a": pair}, pair[..., 0]))]
    )
    curricula_.save(tmp_path / "tasks.json")
    loaded = Curriculum.load(tmp_path / "tasks.json")
    assert [each.name for each in loaded.tasks] == [*NAMES, "ragged", "wide"]
    for one, other in zip(loaded.tasks, curricula_.tasks, strict=True):
        assert one.examples.types == other.examples.types
        for mine, its in zip(one.examples.arrays, other.examples.arrays, strict=True):
            np.testing.assert_array_equal(mine, its)
        np.testing.assert_array_equal(one.examples.outputs, other.examples.outputs)
        np.testing.assert_array_equal(one.examples.lengths, other.examples.lengths)
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "tasks.json").read_text()


def library(**changes):
    """The text of a library of one skill, sealed anew."""
    from lsrl import sealed
    from lsrl.induction.skills import FORM

    skill = {"name": "even", "parameters": ["x"], "expression": "is_zero(remainder(x, n=2))"}
    skill |= changes
    said = {key: value for key, value in skill.items() if value is not None}
    return json.dumps(sealed.seal(FORM, {"skills": [said]}))


TAPS = {"taps": [[1, 0]], "sums": 0}
STATE = {"matrix": [[1]], "write": [[1, 0]], "read": [[1]], "direct": None}
BROKEN = {
    "no JSON": ("[", "expected skills saved by skills.save, got something else: expected JSON"),
    "another": ('{"format": "lsrl-run"}', 'expected an object with "format": "lsrl-skills"'),
    "no skill": (library(expression="zero(x)"), r"skills\[0\]: .*no skill is called 'zero'"),
    "near": (library(expression="totl(x)"), "did you mean 'total'"),
    "no leaf": (library(expression="total(y)"), "expected a skill, x, lsrl.position"),
    "code": (library(expression="total(__import__('os'))"), "no skill is called '__import__'"),
    "attribute": (library(expression="total(x.real)"), "got 'x.real'"),
    "text": (library(expression="total(x"), r"is no expression: .*never closed"),
    "operands": (library(expression="total(x, x)"), "total: expected 1 operands, got 2"),
    "constant": (library(expression="remainder(x, n=1)"), "expected n=, from 2 on"),
    "stars": (library(expression="total(*x)"), "expected a skill, x"),
    "name": (library(name="def"), "expected a name, got 'def'"),
    "taken": (library(name="total"), "there is one of this name"),
    "parameter": (library(parameters=["total"]), "the parameter 'total' has the name of a skill"),
    "deep": (library(expression="total(" * 5000 + "x" + ")" * 5000), "at most 20000 letters"),
    "nested": (library(expression="total(" * 900 + "x" + ")" * 900), "is no expression"),
    "neither": (library(expression=None), "expected one of expression, filter, state"),
    "both": (library(filter=TAPS), "expected one of expression, filter, state"),
    "taps": (library(expression=None, filter={**TAPS, "taps": [[1]]}), "expected 1 rows of 2"),
    "no taps": (library(expression=None, filter={**TAPS, "taps": []}), "expected 1 rows of 2"),
    "order": (library(expression=None, state={**STATE, "write": [[1]]}), "write: expected 1 rows"),
    "direct": (library(expression=None, state={**STATE, "direct": []}), "direct: expected 1 rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_library_is_told(case, tmp_path):
    text, message = BROKEN[case]
    (tmp_path / "library.json").write_text(text)
    with pytest.raises(FormatError, match=message) as raised:
        Skills.load(tmp_path / "library.json")
    assert str(tmp_path / "library.json") in str(raised.value)


def test_skills_of_ones_own_are_given_to_read_their_library(tmp_path):
    def rises(x):
        return x > lsrl.delay(x)

    skills = Skills(rises)
    skills.learn("twice", parsed("rises(rises(x))", skills.skills, ["x"]))
    skills.save(tmp_path / "library.json")
    with pytest.raises(FormatError, match="no skill is called 'rises'"):
        Skills.load(tmp_path / "library.json")
    assert definitions(Skills.load(tmp_path / "library.json", Skills(rises))) == [
        ("twice", ("x",), "rises(rises(x))")
    ]


def test_a_macro_of_macros_does_not_explode():
    """Each calls the one before twice: 2^60 calls in all."""
    skills, names = Skills.standard(), ["negative"]
    for number in range(60):
        text = f"{names[-1]}({names[-1]}(x))"
        learnt = skills.learn(f"f{number}", parsed(text, skills.skills, ["x"]))
        if learnt is None:
            break
        names.append(learnt.name)
    assert 5 < len(names) < 12


MISUSES = {
    "no tasks": (lambda: Curriculum([]), "expected tasks of different names, got none"),
    "twice": (lambda: Curriculum([task("even"), task("even")]), "two called 'even'"),
    "no task": (lambda: Curriculum([cast(Any, 1)]), "expects a Task"),
    "name": (lambda: Task("a b", ([[1]], [[1]])), "must be one of a function, got 'a b'"),
    "keyword": (lambda: Task("class", ([[1]], [[1]])), "must be one of a function, got 'class'"),
    "examples": (
        lambda: Task("bad", [([1], [1]), ([1], [2])]), "task 'bad': examples contradict each other"
    ),
    "budget": (lambda: Curriculum([task("even")]).learn(budget=0), "budget must be an int >= 1"),
    "solver": (
        lambda: Curriculum([task("even")]).learn(solvers=[cast(Any, "afine")]),
        "did you mean 'affine'",
    ),
    "skills": (lambda: Curriculum([task("even")]).learn([1]), "expects a Skills"),
    "progress": (lambda: Curriculum([task("even")]).learn(progress=1), "must be a function"),
}  # fmt: skip


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_told(misuse):
    call, message = MISUSES[misuse]
    with pytest.raises(InputError, match=message):
        call()
