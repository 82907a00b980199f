"""Products with the kernels of copies, written out row by row.

Each copy has kernels of its own, so its products are a batch of small ones. XLA hands those to a
library one by one, which takes longer than the products; sums of rows it makes one loop of, over
all copies. Rows that are 0 in all copies, and most rows of a compiled network are, take no time.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core

from lsrl.pytrees import Tree

# Of more rows the library's product is as fast, and takes less to compile.
MOST_ROWS = 16

# The rows of a kernel that may hold anything but 0, of what is one; None where that is not known.
Rows: TypeAlias = tuple[int, ...] | None


def written_out(function: Callable[..., Tree], rows: Sequence[Rows]) -> Callable[..., Tree]:
    """A function with its products by small matrices written out.

    Args:
      function: pure, of pytrees of arrays.
      rows: of each leaf of its first argument, the parameters.

    Returns:
      The same function, but for the order of sums.
    """

    def run(*arguments: Tree) -> Tree:
        traced, told = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = jax.tree.leaves(arguments)
        known = [*rows, *[None] * (len(leaves) - len(rows))]
        found = _evaluated(traced, leaves, known)
        return jax.tree.unflatten(jax.tree.structure(told), found)

    return run


def _evaluated(
    traced: core.ClosedJaxpr, leaves: Sequence[Any], rows: Sequence[Rows]
) -> list[jax.Array]:
    """What a traced function gives, products written out."""
    values: dict[core.Var, Any] = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
    values |= zip(traced.jaxpr.invars, leaves, strict=True)
    known: dict[core.Var, Rows] = dict(zip(traced.jaxpr.invars, rows, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    def rows_of(variable: Any) -> Rows:
        return None if isinstance(variable, core.Literal) else known.get(variable)

    for equation in traced.jaxpr.eqns:
        operands = [read(variable) for variable in equation.invars]
        kind = equation.primitive.name
        if kind in ("pjit", "jit"):
            inner = [rows_of(variable) for variable in equation.invars]
            found = _evaluated(equation.params["jaxpr"], operands, inner)
        elif kind == "dot_general" and _is_row_by_matrix(equation):
            left, right = operands
            found = [_product(equation, left, right, rows_of(equation.invars[1]))]
        else:
            found = _as_it_is(equation, operands)
        if kind == "convert_element_type":
            known[equation.outvars[0]] = rows_of(equation.invars[0])
        values |= zip(equation.outvars, found, strict=True)
    return [read(variable) for variable in traced.jaxpr.outvars]


def _as_it_is(equation: core.JaxprEqn, operands: Sequence[Any]) -> list[jax.Array]:
    primitive: Any = equation.primitive
    found = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
    return list(found) if primitive.multiple_results else [found]


def _is_row_by_matrix(equation: core.JaxprEqn) -> bool:
    """Whether it is the product of rows, of any number of axes, and a matrix."""
    avals: list[Any] = [variable.aval for variable in equation.invars]
    left, right = (aval.ndim for aval in avals)
    return bool(right == 2) and equation.params["dimension_numbers"] == (
        ((left - 1,), (0,)),
        ((), ()),
    )


def _product(equation: core.JaxprEqn, left: jax.Array, right: jax.Array, rows: Rows) -> jax.Array:
    made: Any = equation.outvars[0].aval
    some = range(right.shape[0]) if rows is None else rows
    if len(some) > MOST_ROWS:
        return _as_it_is(equation, [left, right])[0]
    total = jnp.zeros(made.shape, made.dtype)
    for number, row in enumerate(some):
        axes = (1,) * (left.ndim - 1)
        kernel = right[row].reshape(*axes, -1).astype(made.dtype)
        term = left[..., row : row + 1].astype(made.dtype) * kernel
        total = total + term if number else term
    return total
