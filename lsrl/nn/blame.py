"""Where a network's errors come from, if the routines in it are certified."""

import html
from dataclasses import dataclass
from typing import final

import numpy as np

from lsrl import arguments
from lsrl.errors import InputError
from lsrl.ir.numbers import Array
from lsrl.nn.calls import Calls, padded

# What an error comes from, in the order of the table, and its colour.
PARTS = {
    "arguments": ("#e6850e", "the right arguments mend it"),
    "selection": ("#1f77b4", "the right routine mends it"),
    "both": ("#8a63c2", "only right arguments to the right routine mend it"),
    "routine": ("#d0342c", "the network did not do what its program does"),
    "read-out": ("#2a9d4a", "the routine's output was right, and was read wrongly"),
    "calls": ("#6c757d", "the calls themselves give another answer"),
}


@final
@dataclass(frozen=True)
class Blame:
    """Errors by what they come from.

    Attributes:
      questions: how many were answered.
      errors: of those, by part: "arguments", "selection", "both", "routine", "read-out", "calls".

    Example:
      questions = np.array([[4, 3, 0, 5]])
      content = jax.nn.one_hot(calls.register(questions), 1)
      given, chosen = calls.given(jnp.asarray(questions), content)
      blame = library.blame(calls, questions, np.array([1]), np.array([0]), given, chosen)
      print({part: count for part, count in blame.errors.items() if count})
    """

    questions: int
    errors: dict[str, int]

    @property
    def wrong(self) -> int:
        """Wrong answers."""
        return sum(self.errors.values())

    def share(self, part: str) -> float:
        """A part's share of the wrong answers; 0 where there are none."""
        arguments.choice("Blame.share", part, PARTS)
        return self.errors[part] / max(self.wrong, 1)

    def __str__(self) -> str:
        """A table."""
        lines = [f"{self.wrong} of {self.questions} answers are wrong", "part       errors  share"]
        lines += [
            f"{part:<10} {count:>6}  {self.share(part):>5.2f}  {PARTS[part][1]}"
            for part, count in self.errors.items()
        ]
        return "\n".join(lines)

    @property
    def svg(self) -> str:
        """A bar of all wrong answers, by part, and what the parts are."""
        width, left, rows, drawn = 480, 12.0, [], 12.0
        for number, (part, count) in enumerate(self.errors.items()):
            color, meaning = PARTS[part]
            long = self.share(part) * (width - 2 * left)
            if count:
                rows.append(
                    f'<rect x="{drawn:.1f}" y="30" width="{long:.1f}" height="22" fill="{color}"/>'
                )
            drawn += long
            y = 74 + 18 * number
            text = html.escape(f"{part}: {count}, {meaning}")
            rows.append(
                f'<rect x="{left:.0f}" y="{y - 10}" width="11" height="11" fill="{color}"/>'
            )
            rows.append(f'<text x="{left + 18:.0f}" y="{y}">{text}</text>')
        height = 74 + 18 * len(self.errors)
        title = html.escape(f"{self.wrong} of {self.questions} answers are wrong")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
            f'<rect width="100%" height="100%" fill="#ffffff"/><text x="{left:.0f}" y="20" '
            f'font-weight="bold">{title}</text>{"".join(rows)}</svg>\n'
        )

    def _repr_svg_(self) -> str:
        """What notebooks show."""
        return self.svg


def blamed(
    calls: Calls,
    questions: Array,
    wanted: Array,
    said: Array,
    given: Array,
    choice: Array,
    outputs: Array,
) -> Blame:
    """Blame each wrong answer on the first part that, put right alone, mends it.

    Args:
      calls: the right ones.
      questions: (questions, time) tokens, all of one length.
      wanted: (questions,) the answers.
      said: (questions,) what the network answered.
      given: (questions, time) symbols that the routines were given.
      choice: (questions,) routine chosen at the last token.
      outputs: (questions,) what the network in the network gave at the last token.
    """
    ends = np.stack([table.ids[table.states_after(given)[:, -1]] for table in calls.tables])
    right_given = calls.arguments(questions)
    right_ends = np.stack(
        [table.ids[table.states_after(right_given)[:, -1]] for table in calls.tables]
    )
    register = calls.register(questions)[:, -1]
    right_choice = np.array([*calls.routines, -1])[register]
    rows = np.arange(len(questions))
    readouts = np.stack([*(call.readout for call in calls.calls)])

    def mends(ends: Array, choice: Array) -> Array:
        return np.asarray((readouts[register, ends[choice, rows]] == wanted) & (register >= 0))

    wrong = said != wanted
    errors = {}
    for part, is_it in (
        ("calls", ~mends(right_ends, right_choice)),
        ("routine", outputs != ends[choice, rows]),
        ("read-out", mends(ends, choice)),
        ("arguments", mends(right_ends, choice)),
        ("selection", mends(ends, right_choice)),
        ("both", np.ones(len(rows), bool)),
    ):
        errors[part] = int((wrong & is_it).sum())
        wrong = wrong & ~is_it
    return Blame(len(rows), {part: errors[part] for part in PARTS})


def checked(
    what: str, calls: object, questions: object, **rows: object
) -> tuple[Calls, Array, dict[str, Array]]:
    """What blame is laid on, as arrays.

    Raises:
      InputError: no calls, questions of several lengths, or not one answer a question.
    """
    right = arguments.instance(what, calls, Calls, "library.bind")
    asked = arguments.array(f"{what}: questions", questions)
    if asked.ndim != 2:
        raise InputError(f"{what}: expected questions (batch, time), got shape {asked.shape}")
    words, _ = padded(what, list(asked), right.vocabulary)
    found = {}
    for name, value in rows.items():
        array = arguments.array(f"{what}: {name}", value)
        if array.shape != (len(words),) or not np.issubdtype(array.dtype, np.integer):
            raise InputError(
                f"{what}: expected {name} to be {len(words)} ints, one a question, got shape "
                f"{array.shape} and {arguments.dtype_text(array)}"
            )
        found[name] = array
    return right, words, found
