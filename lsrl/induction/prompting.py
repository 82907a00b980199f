"""Compositions as prompts: an expression in the commands of a pipeline."""

from collections.abc import Mapping, Sequence

from lsrl.errors import InductionError
from lsrl.induction.expressions import Expression
from lsrl.induction.macros import POSITION, Macro
from lsrl.language.program import Program
from lsrl.programs.prompted import pipeline_words


def commands_of(expression: Expression, program: Program) -> list[str]:
    """The commands by which a pipeline carries out an expression, one a step.

    A skill that has no opcode and is an expression of others is written out in theirs. What an
    expression says twice is carried out once.

    Args:
      expression: over one input, whole numbers and `lsrl.position()`.
      program: made by `lsrl.programs.pipeline`.

    Raises:
      InductionError: a skill that the pipeline has not, an input beside the first, a number beyond
        the bound, or more steps than it has; says what to make it with.
      ProgramError: it is no pipeline.
    """
    opcodes, operands, bound = pipeline_words(program)
    writer = _Writer(opcodes, bound)
    result = writer.operand(expression, {})
    if not writer.commands or result != f"r_{len(writer.commands)}":
        writer.command("keep", [result])
    steps = len(operands) - 2
    if len(writer.commands) > steps:
        raise InductionError(
            f"{expression} takes {len(writer.commands)} steps, and the pipeline has {steps}; make "
            f"it with steps={len(writer.commands)}"
        )
    return writer.commands


class _Writer:
    """Commands, one after another.

    Attributes:
      commands: so far.
    """

    def __init__(self, opcodes: Sequence[str], bound: int) -> None:
        """None yet."""
        self.commands: list[str] = []
        self._opcodes, self._bound = opcodes, bound
        self._known: dict[str, str] = {}
        self._inputs: dict[str, str] = {}

    def operand(self, expression: Expression, given: Mapping[str, str]) -> str:
        """The word of a part's value: x, position, a result, or a number in digits.

        Args:
          expression: the part.
          given: of a learnt skill that is written out, words by the names of its parameters.
        """
        if expression.operator is None:
            return given.get(expression.leaf) or self._leaf(expression.leaf)
        skill, number = expression.operator.skill, expression.operator.number
        words = [self.operand(each, given) for each in expression.operands]
        name = skill.name if number is None else f"{skill.name}:{number}"
        if name in self._opcodes:
            return self.command(name, words)
        macro = skill.function
        if isinstance(macro, Macro):
            return self.operand(macro.expression, dict(zip(macro.parameters, words, strict=True)))
        cure = "" if number is None else f", with constants=({number},)"
        raise InductionError(
            f"the pipeline has no {name}; make it with this skill{cure}, got "
            f"{', '.join(self._opcodes)}"
        )

    def command(self, name: str, words: Sequence[str]) -> str:
        """The result of a command, which is carried out once."""
        numbers = list(dict.fromkeys(word for word in words if _is_number(word)))
        kept = [self._kept(word) if word in numbers[1:] else word for word in words]
        read = ["number" if word in numbers[:1] else word for word in kept]
        read = [*read, *["x"] * (2 - len(read))]
        text = " ".join([name, *read, *(numbers[:1] or ["0"])])
        if text not in self._known:
            self.commands.append(text)
            self._known[text] = f"r_{len(self.commands)}"
        return self._known[text]

    def _kept(self, number: str) -> str:
        """A command has one number, so a second one is a step of its own."""
        return self.command("keep", [number])

    def _leaf(self, leaf: str) -> str:
        if leaf == POSITION:
            return "position"
        if leaf.lstrip("-").isdecimal():
            if abs(int(leaf)) > self._bound:
                raise InductionError(
                    f"the number {leaf} is beyond the pipeline's bound={self._bound}; make it with "
                    f"bound={abs(int(leaf))}"
                )
            return leaf
        self._inputs.setdefault(leaf, "x")
        if len(self._inputs) > 1 or not leaf.isidentifier():
            raise InductionError(
                f"a pipeline reads one number a token, and the expression reads "
                f"{', '.join(self._inputs)}; compile its program instead"
            )
        return "x"


def _is_number(word: str) -> bool:
    return word.lstrip("-").isdecimal()
