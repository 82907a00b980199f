"""JSON files that know whether they still say what was written: each holds its own checksum.

The checksum is of what a file says and not of its bytes: with other spaces, or its entries in
another order, it is the same file.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

from lsrl import schema
from lsrl.arguments import shown
from lsrl.schema import FieldError

CHECKSUM = "checksum"


class Form(NamedTuple):
    """A kind of file.

    Attributes:
      name: what its "format" says.
      version: the newest that is read, and that is written.
      sealed: the first one with a checksum; files of older ones are read as they are.
    """

    name: str
    version: int
    sealed: int = 1


class NewerError(FieldError):
    """A file is of a newer version than this one of the package reads."""


def digest(content: Mapping[str, object]) -> bytes:
    """Of what JSON data say, but for their checksum.

    Raises:
      ValueError: they are no data that JSON can hold.
      RecursionError: they are nested too deep.
    """
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).digest()


def seal(form: Form, content: Mapping[str, object]) -> dict[str, object]:
    """Data with their format, its version and their checksum, ready to be written."""
    whole = {"format": form.name, "version": form.version, **content}
    return {**whole, CHECKSUM: digest(whole).hex()}


def unseal(form: Form, said: object) -> dict[str, object]:
    """The data that were sealed, of what a file says.

    Raises:
      NewerError: it is of a newer version.
      FieldError: it is of another format, or was changed since.
    """
    if not isinstance(said, dict) or said.get("format") != form.name:
        raise FieldError(f'an object with "format": "{form.name}"', shown(said))
    version = schema.integer(1)(said.get("version"))
    if version > form.version:
        raise NewerError(f"{form.version} at most", f"{version}; update LSRL", "version")
    outer = {"format", "version"}
    if version >= form.sealed:
        outer.add(CHECKSUM)
        try:
            found = digest(said).hex()
        except (RecursionError, ValueError) as error:
            raise FieldError("JSON that can be written again", f"{error}") from error
        if said.get(CHECKSUM) != found:
            raise FieldError(
                "that of what the file says",
                f"{shown(said.get(CHECKSUM))}: the file was changed after it was written, by "
                "damage or by hand",
                CHECKSUM,
            )
    return {name: value for name, value in said.items() if name not in outer}
