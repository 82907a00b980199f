"""Saved models read back: compiled again along the saved levels, with the saved parameters."""

import json
import pathlib
import tempfile

from lsrl import arguments, storage
from lsrl.card import Card
from lsrl.certificate import Certificate
from lsrl.circuit import Circuit
from lsrl.compiler import compile
from lsrl.errors import LsrlError
from lsrl.model import Alteration, Model, Path
from lsrl.proof import not_compiled


def load(path: Path, *, like: Model | None = None) -> Model:
    """Read a model that `Model.save` wrote.

    The program is compiled again along the saved levels, and the saved parameters replace the fresh
    ones where they differ, so parameters that were changed before saving stay changed, and the
    model says so: see `Model`.

    Args:
      path: the file.
      like: a model that may be of the same program, compiled the same way; then its compilation is
        used, and shared.

    Raises:
      FormatError: the file is damaged, truncated, or not a saved model.
      OSError: the file can't be read.
    """
    path = arguments.path("load", path)
    if like is not None:
        arguments.instance("load: like", like, Model, "lsrl.compile or lsrl.load")
    saved = storage.read(path)
    if like is not None and saved.alteration is not None and _is_compiled_like(saved, like):
        return _altered(path, like, saved)
    try:
        model = compile(
            saved.program,
            saved.target,
            dtype=saved.dtype,
            **saved.options._asdict(),
            levels=saved.levels,
        )
    except (LsrlError, IndexError, KeyError) as error:
        raise storage.bad(path, f"this version compiles it to another network ({error})") from error
    if saved.alteration is not None:
        return _altered(path, model, saved)
    with model.device_mode():
        storage.restore(path, model.module, saved.parameters)
    return model


def restored(content: bytes) -> Model:
    """The model of what `Model.save` would write, for copies in other processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.lsrl")
        path.write_bytes(content)
        return load(path)


def _is_compiled_like(saved: storage.SavedModel, model: Model) -> bool:
    mine = (model.target, model.options, model.dtype, model.schedule.levels)
    if mine != (saved.target, saved.options, saved.dtype, saved.levels):
        return False
    return storage.program_content(saved.program, lines=True) == storage.program_content(
        model.program, lines=True
    )


def _altered(path: Path, model: Model, saved: storage.SavedModel) -> Model:
    """The saved network, whose parameters need not have the shapes of the compiled one's."""
    found = saved.alteration or {}
    try:
        circuit = Circuit.from_json(json.dumps(found["circuit"]), str(path))
        card = Card.from_json(found["card"])
        certificate = Certificate.from_json(found["certificate"])
        with model.device_mode():
            module = model.module.rebuilt(saved.parameters)
    except (LsrlError, KeyError, TypeError, ValueError) as error:
        raise storage.bad(path, f"its alteration can't be read ({error})") from error
    # Files that older versions wrote have none.
    digest = storage.weights_digest(saved.parameters)
    if found.get("weights", digest) != digest:
        certificate = not_compiled(certificate, "weights changed in the file")
    return model.altered(module, Alteration(circuit, card), certificate)
