"""The text of what was found, as a program that a person would have written.

A skill of one line is written out; what is read twice gets a name. The text is all there is: the
program is what running it gives.
"""

import ast
import inspect
import itertools
import linecache
import math
import textwrap
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, final

import numpy as np

from lsrl.errors import InputError
from lsrl.induction import standard
from lsrl.induction.affine import Affine, Column, Response
from lsrl.induction.expressions import Expression
from lsrl.induction.machines import Machine
from lsrl.induction.macros import Filter, Macro
from lsrl.induction.operators import Skill
from lsrl.induction.realisation import Realisation
from lsrl.ir.numbers import Array
from lsrl.ir.types import InputType, Token
from lsrl.language.program import Program

# A longer part of an expression gets a name, and a longer table a line a row.
LONGEST = 56
WIDEST = 98
# Bits of a call, an operator or a name; a number takes as many as it needs.
BITS_OF_WORD = 4.5
# What the results of the standard skills are called.
NOUNS = {
    "total": "total", "previous": "before", "rise": "change", "surplus": "surplus",
    "greatest": "highest", "least": "lowest", "remainder": "rest", "quotient": "times",
    "held": "kept", "is_zero": "none", "is_positive": "some", "same": "equal", "above": "above",
    "negative": "opposite", "absolute": "size", "plus": "sum_of_both", "minus": "difference",
    "increment": "next_one", "decrement": "one_less", "gated": "passed", "both": "both",
    "either": "either", "smaller": "smaller", "larger": "larger", "positive_part": "positive",
    "index_of_greatest": "index",
}  # fmt: skip
_WORDS = (ast.Call, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Subscript)


@final
class Body:
    """Lines of a function, and what they read.

    Attributes:
      lines: assignments, in order.
      skills: those that are called by name.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        """No line yet; some names are taken."""
        self.lines: list[str] = []
        self.skills: dict[str, Skill] = {}
        self._taken = {*taken, "lsrl", "np"}

    def named(self, text: str, noun: str) -> str:
        """Give the value of a text a name."""
        name, number = noun, 2
        while name in self._taken:
            name, number = f"{noun}{number}", number + 1
        self._taken.add(name)
        self.lines.append(f"{name} = {text}")
        return name

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names from values."""
        self._taken.update(names)

    def call(self, skill: Skill) -> None:
        """Note a skill that is called by name, after those that it calls itself."""
        if skill.name in self.skills:
            return
        if isinstance(skill.function, Macro):
            for part in skill.function.expression.parts():
                if part.operator is not None and _form(part.operator.skill) is None:
                    self.call(part.operator.skill)
        self.skills[skill.name] = skill


class Text(NamedTuple):
    """A program as text.

    Attributes:
      whole: with imports and the definitions of skills.
      function: the program alone.
      result: what it returns, as an expression of its skills.
      bits: its description length.
      skills: the functions that it calls, by name.
    """

    whole: str
    function: str
    result: str
    bits: float
    skills: Mapping[str, Callable[..., object]]


def text_of(
    name: str,
    types: Mapping[str, InputType],
    body: Body,
    outputs: Sequence[str],
    max_length: int,
    result: str,
) -> Text:
    """A whole program.

    Args:
      name: of its function.
      types: of its inputs.
      body: its lines.
      outputs: what it returns, side by side.
      max_length: as declared.
      result: as people say it.
    """
    returned = outputs[0] if len(outputs) == 1 else f"lsrl.concat({', '.join(outputs)})"
    if _is_number(returned):
        returned = f"lsrl.constant({returned})"
    lines = [*body.lines, f"return {returned}"]
    signature = ", ".join(f"{each}: {_type_text(kind)}" for each, kind in types.items())
    function = f"@lsrl.program(max_length={max_length})\n{_function(name, signature, lines)}\n"
    definitions = [_definition(skill) for skill in body.skills.values()]
    imports = ["import numpy as np", ""] if "np." in "".join([function, *definitions]) else []
    imports.append("import lsrl")
    whole = "\n\n\n".join(["\n".join(imports), *definitions, function.rstrip()]) + "\n"
    used = {skill.name: skill.function for skill in body.skills.values()}
    return Text(whole, function, result, _description(lines), used)


def program_of(text: Text) -> Program:
    """Run a text.

    Raises:
      LsrlError: the text is no legal program: values grow beyond all bounds, or a skill does not
        fit what is proven of its operands.
    """
    import lsrl

    file = f"<induced {zlib.crc32(text.function.encode()):08x}>"
    lines = text.function.splitlines(keepends=True)
    linecache.cache[file] = (len(text.function), None, lines, file)
    space: dict[str, object] = {"lsrl": lsrl, "np": np, **text.skills}
    exec(compile(text.function, file, "exec"), space)
    (made,) = (value for value in space.values() if isinstance(value, Program))
    return made


def _function(name: str, signature: str, lines: Sequence[str]) -> str:
    body = "\n".join(f"    {_wrapped(line)}" for line in lines)
    return f"def {name}({signature}):\n{body}"


def _wrapped(line: str) -> str:
    """A long line with an operand of its last call on each line."""
    if len(line) + 4 <= WIDEST or not line.endswith(")"):
        return line
    depth, starts, commas = 0, list[int](), list[int]()
    for place, letter in enumerate(line):
        if letter in "([":
            depth += 1
            starts.append(place)
            commas = [] if depth == 1 else commas
        elif letter in ")]":
            depth -= 1
            start = starts.pop()
        elif letter == "," and depth == 1:
            commas.append(place)
    ends = [start, *commas, len(line) - 1]
    parts = [line[one + 1 : other].strip() for one, other in itertools.pairwise(ends)]
    return "\n        ".join([line[: start + 1], *(f"{part}," for part in parts)]) + "\n    )"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _type_text(kind: InputType) -> str:
    if isinstance(kind, Token):
        return f"lsrl.Token({kind.size})"
    low, high, step = (
        _entries(values) for values in (kind.low, kind.high, kind.step or (0.0,) * kind.width)
    )
    grid = "" if kind.step is None else f", step={step}"
    return f"lsrl.Vector({kind.width}, low={low}, high={high}{grid})"


def _entries(values: Sequence[float]) -> str:
    """One number where all are equal."""
    same = len(set(values)) == 1
    return number_text(values[0]) if same else f"[{', '.join(map(number_text, values))}]"


def number_text(value: float) -> str:
    """An int where it is whole."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _description(lines: Sequence[str]) -> float:
    """Bits of some lines: of every name and operator, and of the digits of numbers."""
    bits = 0.0
    for node in ast.walk(ast.parse("\n".join(lines).replace("return ", "_ = "))):
        if isinstance(node, ast.Constant):
            size = abs(float(node.value)) if isinstance(node.value, int | float) else 1.0
            bits += 1 + 2 * math.log2(1 + size) if size % 1 == 0 else 24
        name = isinstance(node, ast.Name) and node.id not in ("lsrl", "np", "_")
        bits += BITS_OF_WORD * (name or isinstance(node, _WORDS))
    return bits


# ---------------------------------------------------------------- compositions


def composition(body: Body, expressions: Sequence[Expression]) -> list[str]:
    """Texts of some expressions, over variables that go into the body."""
    uses: Counter[Expression] = Counter()
    for part in dict.fromkeys(part for each in expressions for part in each.parts()):
        uses.update(part.operands)
    uses.update(expressions)
    # Of a skill that is called, no variable has the name.
    called = (part.operator.skill for part in uses if part.operator is not None)
    body.reserve(skill.name for skill in called if _form(skill) is None)
    known: dict[Expression, ast.expr] = {}
    roots = {each for each in expressions if uses[each] == 1}
    return [ast.unparse(_written(each, body, uses, known, roots)) for each in expressions]


def _written(
    expression: Expression,
    body: Body,
    uses: Counter[Expression],
    known: dict[Expression, ast.expr],
    roots: Collection[Expression] = (),
) -> ast.expr:
    if expression in known:
        return known[expression]
    if expression.operator is None:
        return ast.parse(expression.leaf, mode="eval").body
    skill, number = expression.operator.skill, expression.operator.number
    operands = [_written(each, body, uses, known) for each in expression.operands]
    form = _form(skill)
    if form is None:
        body.call(skill)
        keywords = [] if number is None else [ast.keyword(skill.constant, ast.Constant(number))]
        result: ast.expr = ast.Call(ast.Name(skill.name), operands, keywords)
    else:
        parameters, tree = form
        given: dict[str, ast.expr] = dict(zip(parameters, operands, strict=False))
        for place, name in enumerate(parameters):
            reads = sum(isinstance(n, ast.Name) and n.id == name for n in ast.walk(tree))
            if reads > 1 and not isinstance(given[name], ast.Name | ast.Constant | ast.Attribute):
                given[name] = _variable(expression.operands[place], given[name], body, known)
        if number is not None:
            given[skill.constant] = ast.Constant(number)
        result = _Filled(given).visit(ast.parse(ast.unparse(tree), mode="eval").body)
    long = expression not in roots and len(ast.unparse(result)) > LONGEST
    if uses[expression] > 1 or long:
        return _variable(expression, result, body, known)
    return result


def _variable(
    expression: Expression, value: ast.expr, body: Body, known: dict[Expression, ast.expr]
) -> ast.expr:
    operator = expression.operator
    noun = NOUNS.get(operator.skill.name, operator.skill.name) if operator else "value"
    noun = (
        f"{noun}_"
        if operator and operator.skill.name in body.skills and noun not in NOUNS
        else noun
    )
    known[expression] = ast.Name(body.named(ast.unparse(value), noun))
    return known[expression]


class _Filled(ast.NodeTransformer):
    """A skill's expression with its operands."""

    def __init__(self, given: Mapping[str, ast.expr]) -> None:
        self.given = given

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.given:
            return self.given[node.id]
        return node


@lru_cache(maxsize=256)
def _form(skill: Skill) -> tuple[tuple[str, ...], ast.expr] | None:
    """Parameters and result of one of our skills; None of a user's, which is called by its name."""
    if skill.function not in standard.STANDARD:
        return None
    tree = ast.parse(textwrap.dedent(inspect.getsource(skill.function))).body[0]
    if not isinstance(tree, ast.FunctionDef):
        return None
    last = tree.body[-1]
    if not isinstance(last, ast.Return) or last.value is None:
        return None
    return tuple(each.arg for each in tree.args.args), last.value


def _definition(skill: Skill) -> str:
    """A learnt skill, or a user's as it was written, without decorators."""
    if isinstance(skill.function, Macro):
        macro = skill.function
        body = Body(macro.parameters)
        returned = composition(body, [macro.expression])
        lines = [*body.lines, f"return {returned[0]}"]
        return _function(macro.name, ", ".join(macro.parameters), lines)
    if isinstance(skill.function, Filter):
        return skill.function.text
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(skill.function))).body[0]
    except (OSError, TypeError, SyntaxError):
        return f"# {skill.name}: a skill whose text is not known"
    if not isinstance(tree, ast.FunctionDef):
        return f"# {skill.name}: a skill whose text is not known"
    tree.decorator_list = []
    return ast.unparse(tree)


# ---------------------------------------------------------------- recurrences


def recurrence(body: Body, found: Affine) -> list[str]:
    """Texts of filters, one an output."""
    state = found.state
    endless = iter([] if state is None else _read(body, found.columns, state))
    return [
        next(endless) if response is None else _filtered(found.columns, response)
        for response in found.responses
    ]


def filter_of(name: str, parameters: Sequence[str], found: Affine) -> Filter:
    """A filter of one output as a function of signals, each a column of it."""
    import lsrl

    body = Body([name, *parameters])
    columns = tuple(Column(each) for each in parameters)
    own = Affine(columns, found.responses, found.state)
    (returned,) = recurrence(body, own)
    lines = [*body.lines, f"return {returned}"]
    text = _function(name, ", ".join(parameters), lines)
    space: dict[str, Any] = {"lsrl": lsrl, "np": np}
    exec(compile(text, f"<learnt {name}>", "exec"), space)
    return Filter(name, tuple(parameters), own, text, space[name])


def _filtered(columns: Sequence[Column], response: Response) -> str:
    text = _finite(columns, response.taps)
    for _ in range(response.sums):
        text = f"lsrl.cumsum({text})"
    return text


def _read(body: Body, columns: Sequence[Column], state: Realisation) -> list[str]:
    """Texts of outputs that read one state."""
    order, outputs = len(state.matrix), len(state.read)
    if order == 1:
        factor = number_text(state.matrix[0, 0])
        value = f"lsrl.linear_state({_row(columns, state.write[0])}, {factor})"
    else:
        used = [k for k in range(state.write.shape[1]) if state.write[:, k].any()]
        parts = [_column_text(columns, k) for k in used]
        given = parts[0] if len(parts) == 1 else f"lsrl.concat({', '.join(parts)})"
        weights, matrix = _matrix(state.write[:, used]), _matrix(state.matrix)
        value = f"lsrl.linear_state(np.array({weights}) @ {given}, np.array({matrix}))"
    if order > 1 or outputs > 1:
        value = body.named(value, "state")
    if state.direct is not None:
        value = f"lsrl.delay({value})"
        value = body.named(value, "before") if outputs > 1 else value
    if outputs == 1 and np.count_nonzero(state.read) > 1 and state.direct is not None:
        value = body.named(value, "before")
    elements = [value if order == 1 else f"{value}[{k}]" for k in range(order)]
    texts = []
    for number, row in enumerate(state.read.tolist()):
        direct = None if state.direct is None else state.direct[number]
        terms = [] if direct is None or not direct.any() else [_row(columns, direct)]
        terms += [_scaled(x, name) for x, name in zip(row, elements, strict=True) if x]
        texts.append(" + ".join(terms).replace("+ -", "- ") or "lsrl.constant(0)")
    return texts


def _matrix(values: Array) -> str:
    rows = (", ".join(number_text(value) for value in row) for row in values.tolist())
    return f"[{', '.join(f'[{row}]' for row in rows)}]"


def _column_text(columns: Sequence[Column], number: int) -> str:
    if number == len(columns):
        return "1"
    column = columns[number]
    return column.name if column.symbol is None else f"{column.name}.one_hot[{column.symbol}]"


def _finite(columns: Sequence[Column], taps: Array) -> str:
    """A finite response."""
    lags = [k for k in range(len(taps)) if taps[k].any()]
    if not lags:
        return "lsrl.constant(0)"
    if len(lags) == len(taps) > 2 and (taps == taps[0]).all() and not taps[0, -1]:
        return f"lsrl.window_sum({_row(columns, taps[0])}, {len(taps)})"
    terms = []
    for lag in lags:
        row = taps[lag]
        if lag == 0:
            terms.append(_row(columns, row))
            continue
        sign = "-" if row[row != 0][0] < 0 else ""
        text = _row(columns, -row if sign else row)
        text = f"lsrl.constant({text})" if _is_number(text) else text
        terms.append(f"{sign}lsrl.delay({text}{'' if lag == 1 else f', {lag}'})")
    return " + ".join(terms).replace("+ -", "- ")


def _row(columns: Sequence[Column], row: Array) -> str:
    """A sum of inputs; of marks of symbols, a table."""
    terms: list[str] = []
    tables: dict[str, dict[int, float]] = {}
    for column, value in zip(columns, row[:-1].tolist(), strict=True):
        if column.symbol is not None:
            tables.setdefault(column.name, {})[column.symbol] = value
        elif value:
            terms.append(_scaled(value, column.name))
    constant = float(row[-1])
    for name, table in tables.items():
        if any(table.values()):
            entries = [0.0, *(table[symbol] for symbol in sorted(table))]
            if not terms and constant:  # the constant is what the first symbol says
                entries, constant = [entry + constant for entry in entries], 0.0
            terms.append(f"lsrl.lookup({name}, [{', '.join(map(number_text, entries))}])")
    if constant or not terms:
        terms.append(number_text(constant))
    return " + ".join(terms).replace("+ -", "- ")


def _scaled(value: float, name: str) -> str:
    if abs(value) == 1:
        return name if value > 0 else f"-{name}"
    return f"{number_text(value)} * {name}"


# ---------------------------------------------------------------- machines


def machine(
    types: Mapping[str, InputType], ranges: Sequence[tuple[int, int]], found: Machine
) -> list[str]:
    """Text of a finite machine; of one state, of a table."""
    symbols = [
        name if low == 0 else f"{name} {'-' if low > 0 else '+'} {abs(low)}"
        for name, (low, _) in zip(types, ranges, strict=True)
    ]
    wide = len(found.outputs[0]) > 1
    said = [
        [found.outputs[k] if wide else found.outputs[k][0] for k in row] for row in found.answers
    ]
    if len(found.follows) == 1:
        code = ""
        for symbol, (low, size) in zip(symbols, ranges, strict=True):
            inner = f"({symbol})" if low and code else symbol
            code = f"{size} * {_bracketed(code)} + {inner}" if code else symbol
        return [f"lsrl.lookup({code}, {_table(said[0])})"]
    follows = "[" + ", ".join(_table(row) for row in found.follows) + "]"
    answers = "[" + ", ".join(_table(row) for row in said) + "]"
    return [f"lsrl.induction.mealy({', '.join(symbols)}, follows={follows}, answers={answers})"]


def _bracketed(code: str) -> str:
    return code if code.isidentifier() else f"({code})"


def _table(row: Sequence[object]) -> str:
    parts = []
    for entry in row:
        if isinstance(entry, tuple):
            parts.append(_table(entry))
        elif isinstance(entry, int | float):
            parts.append(number_text(entry))
        else:
            raise InputError(f"a table holds numbers, got {entry!r}")
    return f"[{', '.join(parts)}]"
