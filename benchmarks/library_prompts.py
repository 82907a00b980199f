"""Prompts that gradients find: of tables, of straight-line programs, and of one network for all."""

import time
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

import lsrl
from lsrl import machine
from lsrl.errors import PromiseError
from lsrl.ir.numbers import Array

INPUTS = np.array([[x, y] for x in range(-3, 4) for y in range(-3, 4)])
# Those with which a found program is run in the prompt of the computer, too.
INDEX = [0, 17, 48]
CELLS = ("x", "y", "one", "t", "out")
# Of programs that are made shorter: lines that they begin with, and beginnings near these.
LINES, ROUNDS = 6, 4


def function_tables(seed: int) -> dict[str, object]:
    """Sixteen functions of four arguments: the prompts that tell them, found by gradient."""
    rng, start = np.random.default_rng(seed), time.process_time()
    layer = lsrl.nn.CompiledLayer(lsrl.programs.function_table(4, 4, 64), backward="local")
    loss, found = lsrl.nn.answers_loss(layer), 0
    questions = np.arange(4)[:, None]
    for number, answers in enumerate(rng.integers(0, 4, (16, 4))):
        prompt = lsrl.nn.Prompt(4, {"token": 4}, tries=4, seed=16 * seed + number)
        right = lsrl.nn.answers_right(layer, (questions, answers))
        examples = jnp.asarray(questions), jnp.asarray(answers, jnp.int32)
        ids = lsrl.nn.improve_prompt(prompt, loss, examples, right)
        if ids is not None:
            said = layer(jnp.asarray(np.column_stack([np.tile(ids["token"], (4, 1)), questions])))
            found += bool((np.asarray(said)[:, -1, 0] == answers).all())
    return {"task": "function_table, 4 values", "seed": seed, "cases": 16, "found": found,
            "seconds": time.process_time() - start}  # fmt: skip


def straight_line(
    rng: np.random.Generator, machine: lsrl.nn.StraightLine, start: Array
) -> tuple[dict[str, Array], Array]:
    """A program of three lines, none of which can be left out, and what it answers."""
    while True:
        ids = {name: rng.integers(0, 4, 3) for name in "fab"}
        ids["c"] = np.array([*rng.integers(3, 5, 2), 4])
        if machine.halts:
            ids["h"] = np.zeros(3, int)
        answers = machine.run(ids, start)[:, -1]
        shorter = [
            machine.run({name: np.delete(row, line) for name, row in ids.items()}, start)[:, -1]
            for line in range(3)
        ]
        needed = all((each != answers).any() for each in shorter)
        if needed and np.abs(answers).max() <= machine.high and len(set(answers.tolist())) > 2:
            return ids, answers


def lines(seed: int, cases: int) -> dict[str, object]:
    """Programs of three instructions of FLEQ, recovered from twelve examples."""
    rng, start = np.random.default_rng(seed), time.process_time()
    line_machine = lsrl.nn.StraightLine(CELLS)
    loss, found, right_elsewhere = line_machine.loss, 0, 0
    whole = np.column_stack([INPUTS, np.tile([1, 0, 0], (len(INPUTS), 1))])
    fleq = lsrl.programs.fleq(cells=2 * len(CELLS), lines=4)
    for number in range(cases):
        _, answers = straight_line(rng, line_machine, whole)
        shown = rng.permutation(len(whole))[:12]

        def right(ids: Any, shown: Array = shown, answers: Array = answers) -> Array:
            each = [{name: rows[k] for name, rows in ids.items()} for k in range(len(ids["f"]))]
            said = [line_machine.run(one, whole[shown])[:, -1] for one in each]
            return np.array([(one == answers[shown]).all() for one in said])

        prompt = lsrl.nn.Prompt(3, line_machine.sizes, tries=48, seed=cases * seed + number)
        examples = (
            line_machine.start(whole[shown]),
            jnp.asarray(answers[shown] - line_machine.low, jnp.int32),
        )
        ids = lsrl.nn.improve_prompt(prompt, loss, examples, right)
        if ids is None:
            continue
        found += 1
        image = machine.assemble(line_machine.text(ids, whole[0].tolist()))
        out = image.address("out")
        images = [image.put(x=x, y=y) for x, y in INPUTS]
        said = [machine.interpret(fleq, each).dump()[out, 0] for each in images]
        loops = [fleq.loop(*machine.card(fleq, images[k]), steps=4) for k in INDEX]
        in_prompt = [cast(Array, loop.memory)[out, 0] for loop in loops]
        right_elsewhere += bool(
            (np.array(said) == answers).all() and (np.array(in_prompt) == answers[INDEX]).all()
        )
    return {"task": "three lines of FLEQ", "seed": seed, "cases": cases, "found": right_elsewhere,
            "fitting": found, "seconds": time.process_time() - start}  # fmt: skip


def lengthened(
    rng: np.random.Generator, machine: lsrl.nn.StraightLine, start: Array, lines: int
) -> tuple[dict[str, Array], Array]:
    """A program of more lines than it takes, which ends behind the last, and what it answers.

    Lines that change no answer are put in anywhere; leaving out one of them is not enough, as it
    still ends behind the last.
    """
    ids, answers = straight_line(rng, machine, start)
    while len(ids["f"]) < lines:
        place = int(rng.integers(0, len(ids["f"]) + 1))
        more = {name: int(rng.integers(0, 4)) for name in "fab"}
        more |= {"c": int(rng.integers(3, 5)), "h": 0}
        longer = {name: np.insert(row, place, more[name]) for name, row in ids.items()}
        if (machine.run(longer, start)[:, -1] == answers).all():
            ids = longer
    return ids, answers


def shorter(seed: int, cases: int, charged: bool = True) -> dict[str, object]:
    """Programs of six lines that are right, made shorter by a loss that charges for lines, or not.

    Not charged, the shortest right program is kept of those that come up all the same.
    """
    rng, start = np.random.default_rng(100 + seed), time.process_time()
    line_machine = lsrl.nn.StraightLine(CELLS, halts=True)
    loss, lengths = line_machine.shorter() if charged else line_machine.loss, list[int]()
    whole = np.column_stack([INPUTS, np.tile([1, 0, 0], (len(INPUTS), 1))])
    for number in range(cases):
        given, answers = lengthened(rng, line_machine, whole, LINES)

        def right(ids: Any, answers: Array = answers) -> Array:
            each = [{name: rows[k] for name, rows in ids.items()} for k in range(len(ids["f"]))]
            said = [line_machine.run(one, whole)[:, -1] for one in each]
            return np.array([(one == answers).all() for one in said])

        prompt = lsrl.nn.Prompt(LINES, line_machine.sizes, tries=16, seed=number)
        shown = rng.permutation(len(whole))[:12]
        examples = (
            line_machine.start(whole[shown]),
            jnp.asarray(answers[shown] - line_machine.low, jnp.int32),
        )
        ids = lsrl.nn.improve_prompt(
            prompt, loss, examples, right, begin=given, cost=line_machine.length, rounds=ROUNDS
        )
        lengths.append(LINES if ids is None else int(line_machine.length(ids)))
    return {"charge": "lines and not halting" if charged else "none", "seed": seed, "cases": cases,
            "shorter": sum(length < LINES for length in lengths),
            "three": sum(length <= 3 for length in lengths),
            "lines": float(np.mean(lengths)), "seconds": time.process_time() - start}  # fmt: skip


# ---------------------------------------------------------------- one network for all

BOUND, LARGEST = 15, 3  # the second of data
# Examples, those of them that the loss sees, and data in each; how often a task is asked elsewhere,
# and on how many data.
EXAMPLES, SEEN, DATA = 40, 20, 8
ELSEWHERE, LONGER = 100, 14
TRIES, BEGINNINGS = 16, 40


def drawn_data(rng: np.random.Generator, count: int, length: int) -> Array:
    """Small numbers, as tokens."""
    return rng.integers(BOUND - LARGEST, BOUND + LARGEST + 1, (count, length))


def drawn_prompt(rng: np.random.Generator, choices: Array) -> Array:
    """A prompt of words that may be where they are, whatever it does."""
    return np.array([rng.choice(np.flatnonzero(row)) for row in choices])


def said_by(program: lsrl.Program, prompt: Array, data: Array) -> Array | None:
    """Answers to data, (batch, time) int; None where the prompt breaks its promise."""
    told = np.broadcast_to(prompt, (len(data), len(prompt)))
    try:
        said = program.run(np.concatenate([told, data], axis=1))
    except PromiseError:
        return None
    return said[:, len(prompt) :, 0].astype(int)


def drawn_task(
    rng: np.random.Generator, program: lsrl.Program, steps: int
) -> tuple[Array, Array, Array]:
    """A prompt of commands each of which is needed, data, and answers that the data decide."""
    choices = lsrl.programs.pipeline_choices(program)
    while True:
        prompt = drawn_prompt(rng, choices)
        data = drawn_data(rng, EXAMPLES, DATA)
        answers = said_by(program, prompt, data)
        if answers is None or (answers == answers[0]).all():
            continue
        commands = lsrl.programs.pipeline_commands(program, prompt)
        for step in range(steps):
            # In its place a number on, or what the step before it made.
            less = [*commands[:step], "keep x" if step == 0 else f"keep r_{step}"]
            without = lsrl.programs.pipeline_prompt(program, [*less, *commands[step + 1 :]])
            said = said_by(program, without, data)
            if said is not None and (said == answers).all():
                break
        else:
            return prompt, data, answers


def same_elsewhere(
    rng: np.random.Generator, program: lsrl.Program, wanted: Array, found: Array
) -> bool:
    """Whether two prompts say the same on other and longer data, wherever the first is legal."""
    for row in drawn_data(rng, ELSEWHERE, LONGER)[:, None]:
        one, two = (said_by(program, prompt, row) for prompt in (wanted, found))
        if one is not None and (two is None or (one != two).any()):
            return False
    return True


def pipelines(seed: int, steps: int, cases: int) -> dict[str, object]:
    """Prompts of one network, from what they answer to 40 questions of eight numbers."""
    # Tasks are the same, however many prompts are tried.
    rng, other = (np.random.default_rng((seed, which)) for which in range(2))
    start = time.process_time()
    program = lsrl.programs.pipeline(steps=steps, bound=BOUND, as_token=True, max_length=64)
    choices = lsrl.programs.pipeline_choices(program)
    layer = lsrl.nn.CompiledLayer(program, backward="local")
    loss, found, elsewhere, by_chance, most = lsrl.nn.answers_loss(layer), 0, 0, 0, 0.0
    for number in range(cases):
        wanted, data, answers = drawn_task(rng, program, steps)
        right, tried, begun = lsrl.nn.answers_right(layer, (data, answers)), 0, time.process_time()

        def counted(ids: Any, right: Any = right) -> Array:
            nonlocal tried
            tried += len(ids["token"])
            return cast(Array, right(ids))

        prompt = lsrl.nn.Prompt(
            len(choices), {"token": layer.symbols}, TRIES, cases * seed + number, {"token": choices}
        )
        examples = jnp.asarray(data[:SEEN]), jnp.asarray(answers[:SEEN], jnp.int32)
        ids = lsrl.nn.improve_prompt(prompt, loss, examples, counted, rounds=BEGINNINGS)
        most = max(most, time.process_time() - begun)
        if ids is not None:
            found += 1
            elsewhere += same_elsewhere(other, program, wanted, ids["token"])
        random = np.array([drawn_prompt(other, choices) for _ in range(tried)])
        by_chance += bool(right({"token": random}).any())
    return {"steps": steps, "seed": seed, "cases": cases, "found": found, "elsewhere": elsewhere,
            "chance": by_chance, "most": most, "seconds": time.process_time() - start}  # fmt: skip
