"""One network for every program of a few steps: its prompt says what to carry out on what."""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, NamedTuple, cast

import numpy as np

import lsrl
from lsrl import Program, Signal, Token, Vector
from lsrl.errors import LsrlError, ProgramError
from lsrl.programs import checks
from lsrl.programs.entry import Array, Entry, Inputs

# Any function of one or two signals, and of a keyword-only number.
Skill = Callable[..., Signal]
Command = str | Sequence[str | int]
# Words of a command: an opcode, two operands, and a number.
WORDS = 4
# The opcode that hands its first operand on.
KEEP = "keep"
# Operands of every step; the results of the steps before are called r_1, r_2, …
GIVEN = ("x", "position", "number")
MOST_OPERANDS = 2


class _Opcode(NamedTuple):
    """A skill as a step carries it out.

    Attributes:
      name: in prompts.
      program: of its operands.
      bits: whether each operand is taken for a condition.
    """

    name: str
    program: Program
    bits: tuple[bool, ...]


def keep(x: Signal) -> Signal:
    """X."""
    return x


def plus(x: Signal, y: Signal) -> Signal:
    """The sum."""
    return x + y


def minus(x: Signal, y: Signal) -> Signal:
    """The difference."""
    return x - y


def larger(x: Signal, y: Signal) -> Signal:
    """The larger one."""
    return lsrl.maximum(x, y)


def above(x: Signal, y: Signal) -> Signal:
    """1 where x > y."""
    return x > y


def total(x: Signal) -> Signal:
    """The running sum."""
    return lsrl.cumsum(x)


def previous(x: Signal) -> Signal:
    """The value one token ago."""
    return lsrl.delay(x)


FEW: tuple[Skill, ...] = (plus, minus, larger, above, total, previous)


def pipeline(
    skills: object = None,
    steps: int = 2,
    bound: int = 7,
    constants: Sequence[int] = (2,),
    as_token: bool = False,
    max_length: int = 256,
) -> Program:
    """Whatever is said in a few steps of known skills, told by the prompt.

    Input: first `steps` commands of four tokens each, `op a b number`; then data, integers from
    -bound to bound, one a token. A step takes its operands a and b, each of them the datum `x`, its
    `position` from 0 on, the command's `number`, or the result `r_1`, `r_2`, … of an earlier step;
    all skills are carried out on them, and the one that `op` names is the step's result. States of
    skills start at the first datum. `keep` hands a on. The tokens are -bound, …, bound, and then
    the words; `pipeline_prompt` writes them. Output: the last step's result; 0 in the prompt.

    That operands and results stay from -bound to bound is the prompt's promise.

    Shows: learning without weights: a fixed network whose prompt is the program that was found.

    Args:
      skills: functions of one or two signals, which may take a keyword-only number: a list, a dict
        by name, or `lsrl.induction.Skills`; by default plus, minus, larger, above, total and
        previous. One that wants conditions takes 1 for what is above 0.
        Functions of more signals, or whose result is no number that depends on them, have no
        opcode.
      steps: how many, at least 1.
      bound: greatest size of a number, at least 1.
      constants: numbers that skills with a constant are there for; `remainder:2` is an opcode.
      as_token: whether the output is a token, one of the numbers' own, for a language model.
      max_length: greatest number of tokens, commands among them.

    Raises:
      ProgramError: a parameter out of range, a name that is taken, or no skill that has an opcode.
    """
    count, size = checks.integer("steps", steps, 1), checks.integer("bound", bound, 1)
    longest = checks.integer("max_length", max_length, WORDS * count + 1)
    spoken = checks.flag("as_token", as_token)
    numbers = [checks.integer("constants", each, 1) for each in constants]
    opcodes = _opcodes(FEW if skills is None else skills, size, numbers, longest)
    said = [str(value) for value in range(-size, size + 1)]
    operations = [each.name for each in opcodes]
    names = [*said, *operations, *GIVEN, *(f"r_{k}" for k in range(1, count))]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ProgramError(f"skills: {', '.join(twice)} is there twice, or is a word of prompts")
    values, first = len(said), len(said) + len(operations)
    answer = Token(values, said) if spoken else Vector(1, low=-size, high=size, step=1)

    @lsrl.program(max_length=longest)
    def pipeline(token: Annotated[Signal, Token(len(names), names)]) -> Annotated[Signal, answer]:
        on = lsrl.delay(lsrl.constant(1), WORDS * count)
        value = lsrl.lookup(token, [*range(-size, size + 1), *[0] * (len(names) - values)])
        position = lsrl.position(start=on)
        given = [lsrl.select(on, value, 0).named("x"), lsrl.relu(position)]
        fields = token.one_hot[values:first], token.one_hot[first:], value
        result = _steps(count, fields, given, opcodes, on, size)
        return result + size if spoken else result

    return pipeline


def _steps(
    count: int,
    fields: tuple[Signal, Signal, Signal],
    given: Sequence[Signal],
    opcodes: Sequence[_Opcode],
    on: Signal,
    bound: int,
) -> Signal:
    """The result of the last step.

    Args:
      count: of steps.
      fields: what this token is as an opcode, as an operand, and as a number.
      given: the datum and its position.
      opcodes: of skills.
      on: 1 from the first datum on.
      bound: greatest size of a number.
    """
    operation, operand, number = fields
    places = itertools.count()
    begins = 1 - lsrl.delay(lsrl.constant(1))

    def told(field: Signal, name: str) -> Signal:
        """A word of the prompt, one after another."""
        return lsrl.latch(field, lsrl.delay(begins, next(places))).named(name)

    results: list[Signal] = []
    for step in range(1, count + 1):
        here = operand[: len(GIVEN) + step - 1]
        does = told(operation, f"op_{step}")
        reads = [told(here, f"a_{step}"), told(here, f"b_{step}")]
        there = lsrl.concat(*given, told(number, f"number_{step}"), *results)
        x, y = (
            lsrl.bound(lsrl.mux(chosen, there), -bound, bound, keeper="prompt") for chosen in reads
        )
        results.append(_carried_out(opcodes, does, x, y, on, bound).named(f"r_{step}"))
    return results[-1]


def _carried_out(
    opcodes: Sequence[_Opcode], op: Signal, x: Signal, y: Signal, on: Signal, bound: int
) -> Signal:
    """What the skill that is chosen makes of two operands; 0 in the prompt."""
    bits = [lsrl.clip(operand, 0, 1) for operand in (x, y)]
    made = []
    for opcode in opcodes:
        pairs = zip((x, y), bits, opcode.bits, strict=False)
        given = [bit if is_bit else operand for operand, bit, is_bit in pairs]
        made.append(opcode.program(*given, start=on))
    result = lsrl.select(on, lsrl.mux(op, lsrl.concat(*made)), 0)
    return lsrl.bound(result, -bound, bound, keeper="prompt")


def _opcodes(
    skills: object, bound: int, constants: Sequence[int], max_length: int
) -> list[_Opcode]:
    """What skills are on numbers, each with every constant that it takes."""
    found = [_opcode(KEEP, keep, 1, bound, max_length)]
    for name, skill in _named(skills).items():
        operands, constant = _signature(name, skill)
        if not 1 <= operands <= MOST_OPERANDS:
            continue
        for number in constants if constant else [0]:
            title = f"{name}:{number}" if constant else name
            fixed = functools.partial(skill, **{constant: number}) if constant else skill
            found.append(_opcode(title, fixed, operands, bound, max_length))
    kept = [each for each in found if each is not None]
    if len(kept) < 2:
        raise ProgramError(
            "skills: expected functions of one or two signals that make a number of numbers, such "
            f"as lambda x, y: x + y, got {skills!r:.200}"
        )
    return kept


def _named(skills: object) -> dict[str, Skill]:
    """Functions by name."""
    many = getattr(skills, "skills", skills)  # those of lsrl.induction.Skills have names
    if isinstance(many, Mapping):
        pairs = list(many.items())
    elif isinstance(many, Iterable) and not isinstance(many, str):
        pairs = [
            (getattr(each, "name", getattr(each, "__name__", "")), getattr(each, "function", each))
            for each in many
        ]
    else:
        pairs = []
    right = all(isinstance(name, str) and name and callable(skill) for name, skill in pairs)
    if not pairs or not right:
        raise ProgramError(
            f"skills: expected functions of signals, in a list or by name, got {skills!r:.200}"
        )
    named = dict(pairs)
    if len(named) < len(pairs):
        raise ProgramError("skills: two functions have one name; pass them in a dict by name")
    return named


def _signature(name: str, skill: Skill) -> tuple[int, str]:
    """How many signals a function takes, and the name of its number, or ""."""
    known = getattr(skill, "skill", None)  # a learnt skill knows it
    if known is not None:
        return known.operands, known.constant
    try:
        parameters = inspect.signature(skill).parameters.values()
    except (TypeError, ValueError) as error:
        raise ProgramError(f"skills: {name!r} has no signature: {error}") from error
    signals = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    numbers = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if len(signals) + len(numbers) != len(parameters) or len(numbers) > 1:
        raise ProgramError(
            f"skills: {name!r} takes {inspect.signature(skill)}; expected signals, and at most one "
            "keyword-only number"
        )
    return len(signals), "".join(numbers)


def _opcode(name: str, skill: Skill, operands: int, bound: int, max_length: int) -> _Opcode | None:
    """A skill as a program, of numbers where it takes them, else of conditions; None if of neither.

    It is None, too, where its result is no integer or the same for all operands.
    """
    for mixture in range(2**operands):
        bits = tuple(bool(mixture >> k & 1) for k in range(operands))
        kinds = [Vector(1, low=0 if b else -bound, high=1 if b else bound, step=1) for b in bits]
        try:
            program = _program(name, skill, kinds, max_length)
        except LsrlError:
            continue
        facts = program.graph.facts[program.graph.output]
        return (
            _Opcode(name, program, bits)
            if facts.width == 1 and facts.integer and not facts.constant
            else None
        )
    return None


def _program(name: str, skill: Skill, kinds: Sequence[Vector], max_length: int) -> Program:
    """A skill as a program of its own."""
    first, last = kinds[0], kinds[-1]

    def of_one(x: Annotated[Signal, first]) -> Signal:
        return skill(x)

    def of_two(x: Annotated[Signal, first], y: Annotated[Signal, last]) -> Signal:
        return skill(x, y)

    function = of_one if len(kinds) == 1 else of_two
    return lsrl.program(max_length=max_length, name=name)(cast(Callable[..., object], function))


# ---------------------------------------------------------------- prompts


def pipeline_words(program: Program) -> tuple[list[str], list[str], int]:
    """The opcodes of a `pipeline`, its operands with those of the last step, and its bound.

    Raises:
      ProgramError: it is another program.
    """
    kinds = list(program.inputs.values()) if isinstance(program, Program) else []
    names = getattr(kinds[0], "names", None) if kinds else None
    if len(kinds) != 1 or names is None or not {KEEP, *GIVEN} <= set(names):
        raise ProgramError(f"expected a program made by lsrl.programs.pipeline, got {program!r}")
    opcode, operand = names.index(KEEP), names.index(GIVEN[0])
    return list(names[opcode:operand]), list(names[operand:]), opcode // 2


def pipeline_prompt(program: Program, commands: Sequence[Command], values: object = ()) -> Array:
    """The input of a `pipeline` for some commands and data.

    Args:
      program: the pipeline.
      commands: at most as many as it has steps, as text or as words: `"plus x r_1"`; what is left
        out is `x` and the number 0. With fewer, the last result is kept.
      values: data that follow, integers (time,) or (batch, time).

    Returns:
      Ints (tokens,) or (batch, tokens).

    Raises:
      ProgramError: more commands than steps, a word that is not known or not there yet, or a number
        beyond the bound; says in which command.

    Example:
      program = lsrl.programs.pipeline(steps=2)
      prompt = lsrl.programs.pipeline_prompt(program, ["plus x position"], [3, 4, 5])
      print(program.run(prompt)[-3:, 0])
    """
    opcodes, operands, bound = pipeline_words(program)
    steps = len(operands) - len(GIVEN) + 1
    given = [each.split() if isinstance(each, str) else list(map(str, each)) for each in commands]
    if not 1 <= len(given) <= steps:
        raise ProgramError(
            f"commands: expected 1 to {steps}, one a step, got {len(given)}; make a pipeline of "
            "more steps"
        )
    while len(given) < steps:
        given.append([KEEP, f"r_{len(given)}"])
    names = list(cast(Token, next(iter(program.inputs.values()))).names or ())
    tokens: list[int] = []
    for step, words in enumerate(given):
        here = operands[: len(GIVEN) + step]
        defaults = ["", here[0], here[0], "0"]
        whole = [*words, *defaults[len(words) :]]
        numbers = names[: 2 * bound + 1]
        if not 1 <= len(words) <= WORDS:
            raise ProgramError(
                f"command {step + 1}: expected an opcode, up to two operands and a number, got "
                f"{' '.join(words)!r}"
            )
        for word, known in zip(whole, (opcodes, here, here, numbers), strict=True):
            if word not in known:
                raise ProgramError(
                    f"command {step + 1} ({' '.join(words)}): {word!r} is none of {_few(known)}"
                )
            tokens.append(names.index(word))
    data = np.asarray(values)
    whole_numbers = data.size == 0 or (data.dtype.kind in "iu" and np.abs(data).max() <= bound)
    if not whole_numbers or data.ndim > 2:
        raise ProgramError(
            f"values: expected integers (time,) or (batch, time) from {-bound} to {bound}, got "
            f"{values!r:.100}"
        )
    prompt = np.broadcast_to(np.array(tokens), (*data.shape[:-1], len(tokens)))
    return np.concatenate([prompt, data.astype(np.int64) + bound], axis=-1)


def pipeline_choices(program: Program) -> Array:
    """The tokens that each place of a pipeline's prompt may hold.

    Args:
      program: the pipeline.

    Returns:
      (4 a step, tokens) bool: an opcode, two operands that are there by then, a number.

    Raises:
      ProgramError: it is another program.

    Example:
      choices = lsrl.programs.pipeline_choices(program)
      print(choices.shape, choices.sum(axis=1))
    """
    opcodes, operands, bound = pipeline_words(program)
    values = 2 * bound + 1
    first = values + len(opcodes)
    steps = len(operands) - len(GIVEN) + 1
    choices = np.zeros((steps, WORDS, first + len(operands)), bool)
    choices[:, 0, values:first] = True
    for step in range(steps):
        choices[step, 1:3, first : first + len(GIVEN) + step] = True
    choices[:, 3, :values] = True
    return choices.reshape(steps * WORDS, -1)


def pipeline_commands(program: Program, tokens: Sequence[int] | Array) -> list[str]:
    """A pipeline's prompt as text, as `pipeline_prompt` reads it.

    Args:
      program: the pipeline.
      tokens: ids, those of the commands first.

    Returns:
      A command a step.

    Raises:
      ProgramError: it is another program, or the tokens are no commands.

    Example:
      print(lsrl.programs.pipeline_commands(program, prompt))
    """
    choices = pipeline_choices(program)
    names = cast(Token, next(iter(program.inputs.values()))).names or ()
    told = np.asarray(tokens)
    fits = told.ndim == 1 and told.dtype.kind in "iu" and len(told) >= len(choices)
    told = told[: len(choices)]
    if not fits or told.min() < 0 or told.max() >= len(names):
        raise ProgramError(
            f"tokens: expected {len(choices)} ids or more from 0 to {len(names) - 1}, got "
            f"{tokens!r:.100}"
        )
    for place, token in enumerate(told):
        if not choices[place, token]:
            raise ProgramError(f"tokens: {names[token]!r} may not be at place {place} of a prompt")
    words = [names[token] for token in told]
    return [" ".join(words[at : at + WORDS]) for at in range(0, len(words), WORDS)]


def _few(words: Sequence[str]) -> str:
    return ", ".join(words) if len(words) <= 40 else f"{words[0]} to {words[-1]}"


def pipeline_reference(tokens: Sequence[int], steps: int, bound: int) -> list[int]:
    """Read the commands, then carry out one after another on each datum."""
    commands = min(len(tokens), WORDS * steps)
    return [0] * commands + [seen[-1] for seen in _interpreted(tokens, steps, bound)]


def _interpreted(tokens: Sequence[int], steps: int, bound: int) -> list[list[int]]:
    """At each datum the operands and results of all steps, the last result at the end."""
    first = 2 * bound + 1
    named = [KEEP, *(skill.__name__ for skill in FEW)]
    operands = first + len(named)
    sums, before, answers = [0] * steps, [0] * steps, []
    for position, token in enumerate(tokens[WORDS * steps :]):
        results: list[int] = []
        seen: list[int] = []
        for step in range(steps):
            op, a, b, number = tokens[WORDS * step : WORDS * (step + 1)]
            given = [token - bound, position, number - bound, *results]
            x, y = given[a - operands], given[b - operands]
            sums[step] += x
            made = (
                x, x + y, x - y, max(x, y), int(x > y), sums[step], before[step]
            )  # fmt: skip
            before[step] = x
            results.append(made[op - first])
            seen += [x, y, results[-1]]
        answers.append(seen)
    return answers


def _sample(rng: np.random.Generator, length: int, steps: int, bound: int) -> Inputs:
    """Random commands and small data, cut off ahead of the first number beyond the bound."""
    program = pipeline(steps=steps, bound=bound)
    opcodes, operands, _ = pipeline_words(program)
    commands = []
    for step in range(steps):
        words = [str(rng.choice(operands[: len(GIVEN) + step])) for _ in range(2)]
        number = str(rng.integers(-2, 3))
        commands.append([str(rng.choice(opcodes)), *words, number])
    data = rng.integers(-2, 3, size=max(1, length - WORDS * steps))
    tokens = pipeline_prompt(program, commands, data)
    return (tokens[: min(length, _legal(tokens.tolist(), steps, bound))],)


def _edges(steps: int, bound: int, max_length: int) -> list[Inputs]:
    """The greatest numbers in all registers, sums up to the bound, and nothing but commands."""
    program = pipeline(steps=steps, bound=bound)
    ends = np.resize([-bound, bound], max_length - WORDS * steps)
    several = [
        pipeline_prompt(program, [f"larger x number {bound}"], ends),
        pipeline_prompt(program, ["minus number x 0"], ends),
        pipeline_prompt(program, ["total x"], np.resize([1], bound)),
        pipeline_prompt(program, ["total number x -1"], np.resize([bound], bound)),
        pipeline_prompt(program, ["previous position", "above r_1 number 2"][:steps], ends[:bound]),
    ]
    return [(tokens,) for tokens in (*several, several[0][: WORDS * steps])]


def _legal(tokens: Sequence[int], steps: int, bound: int) -> int:
    """How many tokens keep operands and results within the bound."""
    seen = np.array(_interpreted(tokens, steps, bound))
    beyond = np.flatnonzero((abs(seen) > bound).any(axis=1))
    return WORDS * steps + int(beyond[0]) if len(beyond) else len(tokens)


ENTRIES = (Entry(pipeline, pipeline_reference, sampler=_sample, edges=_edges, free=False),)
