"""Tasks by prompt alone on one network, and which algorithm it follows once its prompt is patched.

A pipeline of skills is compiled once. Its prompt latches what each step does (`op_k`) and reads
(`a_k`, `b_k`), so these are task vectors that are known. Run: `python -m benchmarks.task_vectors`.
"""

from collections.abc import Mapping

import lsrl
from lsrl.induction import Skills
from lsrl.induction.expressions import Expression
from lsrl.induction.skills import Operator

STEPS, BOUND, LOW, HIGH = 7, 63, -5, 5
USED = (
    "increment", "decrement", "negative", "absolute", "is_zero", "is_positive", "total", "previous",
    "rise", "surplus", "greatest", "least", "remainder", "plus", "minus", "smaller", "larger",
    "same", "above",
)  # fmt: skip
X = Expression(leaf="x")


def skills() -> Skills:
    """Those of the tasks."""
    every = Skills.standard()
    return every.without(*(name for name in every if name not in USED))


def of(known: Skills) -> dict[str, Expression]:
    """Tasks as expressions of at most seven different skills on skills."""
    named = {skill.name: skill for skill in known.skills}

    def make(name: str, *operands: Expression, number: int | None = None) -> Expression:
        return Expression(Operator(named[name], number), operands)

    def odd(x: Expression) -> Expression:
        return make("remainder", x, number=2)

    def rises(x: Expression) -> Expression:
        return make("is_positive", make("rise", x))

    def falls(x: Expression) -> Expression:
        return make("is_positive", make("negative", make("rise", x)))

    def record(x: Expression) -> Expression:
        return make("above", x, make("previous", make("greatest", x)))

    def spread(x: Expression) -> Expression:
        return make("minus", make("greatest", x), make("least", x))

    def drop(x: Expression) -> Expression:
        return make("minus", make("greatest", x), x)

    def peak(x: Expression) -> Expression:
        return make("smaller", make("previous", rises(x)), falls(x))

    def counted(x: Expression) -> Expression:
        return make("total", x)

    def same(x: Expression) -> Expression:
        return make("same", x, make("previous", x))

    sum_of_two = make("plus", X, make("previous", X))
    even, walk, positive = make("is_zero", odd(X)), make("surplus", odd(X)), make("is_positive", X)
    change = make("rise", X)
    alternates = make("is_zero", same(rises(X)))
    return {
        "change": change, "rises": rises(X), "falls": falls(X), "even": even, "odd": odd(X),
        "sum_of_two": sum_of_two, "n_positive": counted(positive), "record": record(X),
        "spread": spread(X), "parity_positive": odd(counted(positive)),
        "n_zeros": counted(make("is_zero", X)), "distance": make("absolute", change),
        "same": same(X), "sum_of_sizes": counted(make("absolute", X)),
        "negative_part": make("smaller", X, Expression(leaf="0")), "double": make("plus", X, X),
        "sign_of_odd": make("decrement", make("plus", odd(X), odd(X))), "drop": drop(X),
        "walk": walk, "n_rises": counted(rises(X)), "parity_rises": odd(counted(rises(X))),
        "n_records": counted(record(X)), "peak": peak(X), "n_peaks": counted(peak(X)),
        "rises_less_falls": make("minus", counted(rises(X)), counted(falls(X))),
        "n_even": counted(even), "parity_even": odd(counted(even)), "change_of_change":
        make("rise", change), "spread_even": make("is_zero", odd(spread(X))),
        "growth_of_spread": make("rise", spread(X)), "at_greatest":
        make("same", X, make("greatest", X)),
        "walk_greatest": make("greatest", walk), "walk_zero": make("is_zero", walk),
        "greatest_sum_of_two": make("greatest", sum_of_two), "n_same": counted(same(X)),
        "alternates": alternates, "n_alternates": counted(alternates),
        "drop_of_sum": drop(counted(X)), "walk_drop": drop(walk),
        "greatest_drop": make("greatest", drop(counted(X))), "walk_spread": spread(walk),
        "record_sum_of_two": record(sum_of_two), "n_walk_records": counted(record(walk)),
        "parity_walk_records": odd(counted(record(walk))), "peak_of_sum": peak(counted(X)),
        "change_record": record(make("rise", change)), "third_change":
        make("rise", make("rise", change)), "greatest_walk_drop": make("greatest", drop(walk)),
        "late": make("above", Expression(leaf="lsrl.position()"), Expression(leaf="3")),
    }  # fmt: skip


def program_of(expression: Expression, max_length: int = 64) -> lsrl.Program:
    """An expression as a program of its own, as `lsrl.induce` writes it."""
    from lsrl.induction import writing
    from lsrl.ir.types import Vector

    types: Mapping[str, Vector] = {"x": Vector(1, low=LOW, high=HIGH, step=1)}
    body = writing.Body(types)
    outputs = writing.composition(body, [expression])
    text = writing.text_of("composed", types, body, outputs, max_length, str(expression))
    return writing.program_of(text)
