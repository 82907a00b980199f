"""numpy's names for what signals can do, and what to write for what they can't."""

# Python's operator behind a ufunc, and the one that the right operand has for it.
OPERATORS: dict[str, tuple[str, str]] = {
    name: (f"__{left}__", f"__{right}__")
    for name, left, right in (
        ("add", "add", "radd"),
        ("subtract", "sub", "rsub"),
        ("multiply", "mul", "rmul"),
        ("divide", "truediv", "rtruediv"),
        ("matmul", "matmul", "rmatmul"),
        ("remainder", "mod", "rmod"),
        ("floor_divide", "floordiv", "rfloordiv"),
        ("power", "pow", "rpow"),
        ("greater", "gt", "lt"),
        ("greater_equal", "ge", "le"),
        ("less", "lt", "gt"),
        ("less_equal", "le", "ge"),
        ("equal", "eq", "eq"),
        ("not_equal", "ne", "ne"),
        ("bitwise_and", "and", "rand"),
        ("bitwise_or", "or", "ror"),
        ("bitwise_xor", "xor", "rxor"),
        ("logical_and", "and", "rand"),
        ("logical_or", "or", "ror"),
        ("logical_xor", "xor", "rxor"),
        ("invert", "invert", ""),
        ("logical_not", "invert", ""),
        ("negative", "neg", ""),
        ("positive", "pos", ""),
        ("absolute", "abs", ""),
        ("fabs", "abs", ""),
        ("floor", "floor", ""),
        ("ceil", "ceil", ""),
    )
}

_TABLE = "for few integers from 0 on, write lsrl.lookup(x, [f(v) for v in range(n)])"
# What to write in place of a function of numpy, or of an attribute of its arrays.
INSTEAD: dict[str, str] = {
    "argmax": "write lsrl.argmax(x)",
    "argmin": "write lsrl.argmax(-x)",
    "abs": "write abs(x)",
    "absolute": "write abs(x)",
    "relu": "write lsrl.relu(x)",
    "clip": "write lsrl.clip(x, low, high)",
    "cumsum": "write lsrl.cumsum(x) over the tokens, np.tril(np.ones((n, n))) @ x over channels",
    "dot": "write A @ x, or (x * y).sum()",
    "mean": "write x.sum() / x.width",
    "shape": "write x.width for the number of channels",
    "size": "write x.width for the number of channels",
    "ndim": "a signal has one axis, of x.width channels",
    "dtype": "signals hold real numbers; their bounds and grids are in x.facts",
    "T": "a signal has one axis",
    "transpose": "a signal has one axis",
    "reshape": "a signal has one axis; write x[[...]] to pick channels",
    "flatten": "a signal has one axis",
    "astype": "signals hold real numbers; lsrl.compile(..., dtype=) chooses a model's",
    "copy": "signals never change, so no copy is needed",
    "item": "a program has no values while it is written; program.trace(inputs) has them",
    "tolist": "write list(x) for its channels",
    "all": "write x.min() of {0,1} signals",
    "any": "write x.max() of {0,1} signals",
    "stack": "write lsrl.concat(x, y)",
    "vstack": "write lsrl.concat(x, y)",
    "append": "write lsrl.concat(x, y)",
    "square": "write x ** 2",
    "sign": "write (x > 0) - (x < 0)",
    "heaviside": "write lsrl.greater_equal(x, 0)",
    "rint": "write (x + 0.5) // 1, which rounds halves up",
    "round": "write (x + 0.5) // 1, which rounds halves up",
    "array_equal": "write (x == y).min()",
    "roll": "write lsrl.delay(x, n) over the tokens, x[[...]] over channels",
    "sort": "write lsrl.minimum and lsrl.maximum of pairs",
}


def instead(name: str) -> str:
    """What to write in place of a function of numpy."""
    return INSTEAD.get(name, f"signals have no such function; {_TABLE}")


# Python's questions that a signal can't answer while a program is written: what is asked, and what
# to write.
UNANSWERED: dict[str, tuple[str, str]] = {
    "__int__": ("int(x)", "x // 1 is the integer below, lsrl.lookup(x, table) a row of a table"),
    "__float__": ("float(x)", "compute with x itself, or look at program.trace(inputs) afterwards"),
    "__complex__": ("complex(x)", "keep the two parts as two channels"),
    "__index__": (
        "an index or a count",
        "lsrl.lookup(x, table) reads a row of numbers, lsrl.mux(lsrl.one_hot(x, n), values) a "
        "channel, and loops run over Python's ints",
    ),
    "__hash__": ("hash(x)", "== makes a signal, so take x.index as the key"),
    "__round__": ("round(x)", "(x + 0.5) // 1 rounds halves up"),
    "__trunc__": ("math.trunc(x)", "x // 1 rounds down"),
    "__lshift__": ("x << n", "x * 2**n is the same"),
    "__rlshift__": ("n << x", "lsrl.lookup(x, [n << v for v in range(...)]) is the same"),
    "__rshift__": ("x >> n", "x // 2**n is the same"),
    "__rrshift__": ("n >> x", "lsrl.lookup(x, [n >> v for v in range(...)]) is the same"),
    "__setitem__": (
        "x[i] = y",
        "signals never change; lsrl.concat(x[:i], y, x[i + 1 :]) makes another",
    ),
    "__delitem__": ("del x[i]", "signals never change; x[[...]] picks the channels to keep"),
}
