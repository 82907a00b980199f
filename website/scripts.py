"""Examples as pages: the cells of a notebook one by one, a script as it is."""

import re

CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?\n", re.MULTILINE)


def page(name: str, source: str) -> str:
    """The Markdown of an example.

    Args:
      name: of the file.
      source: of a script with a docstring, or of a notebook, whose cells begin with `# %%`.
    """
    if not source.startswith("# %%"):
        docstring = re.match(r'"""(.*?)"""\n', source, re.DOTALL)
        about = docstring[1].strip() if docstring else ""
        body = source[docstring.end() :] if docstring else source
        return f"# {name}\n\n{about}\n\n`examples/{name}`:\n\n{_fenced(body)}\n"
    parts = CELL.split(source)[1:]
    cells = zip(parts[::2], parts[1::2], strict=True)
    made = [_text(cell) if kind else _fenced(cell) for kind, cell in cells if cell.strip()]
    made.insert(1, f"The notebook `examples/notebooks/{name}`.")
    return "\n\n".join(made) + "\n"


def _text(cell: str) -> str:
    return re.sub(r"^# ?", "", cell.strip(), flags=re.MULTILINE)


def _fenced(code: str) -> str:
    return f"```python\n{code.strip()}\n```"
