"""For who asks what learning is: one network, compiled once, and programmed in three ways.

The network carries out whatever its prompt says in two steps of a few skills. The prompt is written
by hand, found by search, and found by gradient, from examples alone; the weights never change.

    python examples/three_ways.py [target]
"""

import sys

import jax.numpy as jnp
import numpy as np

import lsrl
from lsrl.induction import Skills

BOUND, STEPS = 7, 2
SKILLS = ("plus", "minus", "larger", "above", "previous", "total")


def steps_up(numbers: np.ndarray) -> np.ndarray:
    """By how much each number is above the one before."""
    return numbers - np.pad(numbers, ((0, 0), (1, 0)))[:, :-1]


def larger_of_two(numbers: np.ndarray) -> np.ndarray:
    """The larger one of each number and the one before."""
    return np.maximum(numbers, np.pad(numbers, ((0, 0), (1, 0)))[:, :-1])


def positive(numbers: np.ndarray) -> np.ndarray:
    """How many numbers so far were above 0."""
    return np.cumsum(numbers > 0, axis=1)


BY_HAND = {
    steps_up: ["previous x", "minus x r_1"],
    larger_of_two: ["previous x", "larger x r_1"],
    positive: ["above x number 0", "total r_1"],
}


def searched(program: lsrl.Program, skills: Skills, task, numbers: np.ndarray) -> list[str]:
    """The shortest composition of skills that agrees, as commands."""
    found = lsrl.induce((numbers, task(numbers)), skills=skills, solvers=["compose"])
    return lsrl.programs.pipeline_commands(program, found.prompt_for(program))


def learnt(layer: lsrl.nn.CompiledLayer, task, numbers: np.ndarray) -> list[str]:
    """Distributions over the prompt's words, led by the gradient of the answers' likelihood."""
    program = layer.model.program
    choices = lsrl.programs.pipeline_choices(program)
    examples = jnp.asarray(numbers + BOUND), jnp.asarray(task(numbers) + BOUND)
    prompt = lsrl.nn.Prompt(
        len(choices), {"token": layer.symbols}, tries=32, allowed={"token": choices}
    )
    right = lsrl.nn.answers_right(layer, examples)
    found = lsrl.nn.improve_prompt(prompt, lsrl.nn.answers_loss(layer), examples, right)
    if found is None:
        raise SystemExit("no prompt was found; try more of them")
    return lsrl.programs.pipeline_commands(program, found["token"])


def main(target: str) -> None:
    """Compile, and program it three times."""
    skills = Skills(*(
        skill.function
        for skill in Skills.standard().skills
        if skill.name in SKILLS
    ))  # fmt: skip
    program = lsrl.programs.pipeline(skills, steps=STEPS, bound=BOUND, as_token=True, max_length=64)
    layer = lsrl.nn.CompiledLayer(program, target, backward="local")
    model = layer.model
    print(f"{model.num_nonzero_parameters:,} weights of a {target} that are not zero")
    print(f"exact: {model.certificate.exact}")

    random = np.random.default_rng(0)
    shown, asked = random.integers(-2, 3, (30, 6)), random.integers(-2, 3, (100, 7))
    for task, commands in BY_HAND.items():
        print(f"\n{task.__doc__}")
        ways = {
            "by hand": commands,
            "by search": searched(program, skills, task, shown),
            "by gradient": learnt(layer, task, shown),
        }
        for way, commands in ways.items():
            prompt = lsrl.programs.pipeline_prompt(program, commands, asked)
            said = model.run(prompt)[:, -asked.shape[1] :, 0] - BOUND
            same = int((said == task(asked)).all(axis=1).sum())
            print(f"  {way:12} {'; '.join(commands):40} right on {same} of {len(asked)} others")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "gru")
