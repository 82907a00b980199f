"""Saved models read back: compiled again along the saved levels, with the saved parameters."""

import pathlib
import re
import tempfile

import jax
import numpy as np

from lsrl import arguments, storage
from lsrl.arguments import shown
from lsrl.backends.network import Network
from lsrl.card import Card
from lsrl.certificate import Certificate
from lsrl.circuit import Circuit
from lsrl.compiler import compile
from lsrl.errors import LsrlError
from lsrl.ir.graph import Graph
from lsrl.ir.ops import Delay
from lsrl.ir.types import Token
from lsrl.looping import Path
from lsrl.model import Alteration, Model
from lsrl.options import ANY_AUTOMATON
from lsrl.parameters import entries, same_bits
from lsrl.program_json import program_content
from lsrl.proof import not_compiled
from lsrl.schedule import Layout
from lsrl.schema import FieldError

# A network that a file tells of may take this many numbers, whatever the file holds, ...
SMALL = 1 << 18
# ... or this many for each number that it holds.
SPREAD = 16
# Tokens that a delay may span, whatever the file holds.
SHORT = 256


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

    Example:
      model.save("parity.lsrl")
      print(lsrl.load("parity.lsrl").run([1, 1])[:, 0])
    """
    path = arguments.path("load", path)
    if like is not None:
        arguments.instance("load: like", like, Model, "lsrl.compile or lsrl.load")
    if path.is_dir():
        raise IsADirectoryError(
            f"{path}: expected a file that model.save(path) wrote, got a folder; lsrl.load_torch "
            "reads those of model.export('torch', path)"
        )
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
            watch=lambda stage, made: _check_backed(saved, stage, made),
            most_parameters=_allowed(saved),
            automaton_limits=ANY_AUTOMATON,
        )
    except (LsrlError, ArithmeticError, LookupError, ValueError) as error:
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


def _check_backed(saved: storage.SavedModel, stage: str, made: Graph | Layout) -> None:
    """Refuse a network that would be far larger than what the file holds, before it is made.

    Raises:
      FieldError: says what is that large.
    """
    shapes = [parameter.shape for parameter in saved.parameters.values()]
    if isinstance(made, Graph):
        # Every unit has a bias; what one of some families remembers has up to 16 entries.
        room = max(SHORT, SPREAD * sum(shape[0] for shape in shapes if len(shape) == 1))
        # Nothing is written out as registers before this pass, and what is decided is gone.
        for i in made.live() if stage == "drop bounds" else ():
            op = made.nodes[i].op
            if isinstance(op, Delay) and op.steps > room:
                raise FieldError(
                    f"a delay of at most {room}, by its arrays", f"{op.steps}", made.label(i)
                )
        return
    rows, graph = {shape[0] for shape in shapes if shape}, made.graph
    for i, op in graph.inputs.items():
        kind = op.type
        if isinstance(kind, Token) and kind.size not in rows and graph.readers[i]:
            raise FieldError(
                f"an array with {kind.size} rows for {kind}", shown(sorted(rows)), op.label
            )


def _allowed(saved: storage.SavedModel) -> int:
    """How many parameters a file's network may take before its own are put into it.

    What a file holds is all that its program may take; an altered network need not be as large.
    Where little is missing, `storage.restore` tells what.
    """
    held = sum(entries(parameter).size for parameter in saved.parameters.values())
    return max(SMALL, held if saved.alteration is None else SPREAD * held)


def _is_compiled_like(saved: storage.SavedModel, model: Model) -> bool:
    mine = (model.target, model.options, model.dtype, model.schedule.levels)
    if mine != (saved.target, saved.options, saved.dtype, saved.levels):
        return False
    return program_content(saved.program, lines=True) == program_content(model.program, lines=True)


def _altered(path: Path, model: Model, saved: storage.SavedModel) -> Model:
    """The saved network, whose parameters need not have the shapes of the compiled one's."""
    found = saved.alteration or {}
    try:
        circuit = Circuit.from_content(found["circuit"], str(path))
        card = Card.from_json(found["card"])
        certificate = Certificate.from_json(found["certificate"])
        with model.device_mode():
            module = _rebuilt(model, saved)
        _check_circuit(model, module, circuit)
    except (LsrlError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise storage.bad(path, f"its alteration can't be read ({error})") from error
    # Files that older versions wrote have none.
    digest = storage.weights_digest(saved.parameters)
    if found.get("weights", digest) != digest:
        certificate = not_compiled(certificate, "weights changed in the file")
    return model.altered(module, Alteration(circuit, card), certificate)


def _rebuilt(model: Model, saved: storage.SavedModel) -> Network:
    """The network of the arrays in a file, all of which it takes as they are."""
    own = {_kind_of(name): array for name, array in model.module.arrays().items()}
    for name, array in saved.parameters.items():
        known = own.get(_kind_of(name))
        if known is not None and (len(array.shape), array.dtype) != (len(known.shape), known.dtype):
            raise FieldError(
                f"{len(known.shape)} axes of {known.dtype}",
                f"{len(array.shape)} of {array.dtype}",
                name,
            )
    module = model.module.rebuilt(saved.parameters)
    arrays = module.arrays()
    other = [n for n, a in saved.parameters.items() if not same_bits(a, arrays.get(n))]
    if other or arrays.keys() != saved.parameters.keys():
        raise FieldError(
            f"the arrays {', '.join(arrays)}", shown(other or list(saved.parameters)), "arrays"
        )
    _check_runs(model, module)
    return module


def _check_runs(model: Model, module: Network) -> None:
    """Refuse arrays that do not fit together, by their shapes alone."""
    inputs = tuple(
        np.zeros((1,), np.int32) if isinstance(kind, Token) else np.zeros((1, kind.width), dtype)
        for kind in model.program.inputs.values()
        for dtype in [jax.numpy.dtype(model.dtype)]
    )
    before = module.init_state((1,))
    outputs, after = jax.eval_shape(
        lambda *given: module.pure_step(given[0], module.structure, *given[1:]),
        module.parameters(), before, inputs,
    )  # fmt: skip
    shapes = [[one.shape for one in jax.tree.leaves(state)] for state in (before, after)]
    if outputs.shape != (1, model.program.num_outputs) or shapes[0] != shapes[1]:
        raise FieldError(f"{model.program.num_outputs} outputs", f"{outputs.shape}", "arrays")
    try:
        legend = module.legend()
    except LsrlError:  # the family does not say
        return
    for name, array in module.arrays().items():
        for size, axis in zip(array.shape, legend.arrays[name].axes, strict=True):
            known = sum(legend.sizes(axis))
            if all(part.space or part.size for part in axis) and size != known:
                raise FieldError(f"an axis of {known}", f"shape {array.shape}", name)


def _kind_of(name: str) -> str:
    """What a parameter is, whatever layer it lies in."""
    return re.sub(r"\.\d+\.", ".", name)


def _check_circuit(model: Model, module: Network, circuit: Circuit) -> None:
    """Refuse a circuit of another network: its units, and what its channels say of the memory."""
    about = {"program": model.program.name, "target": model.target, "dtype": model.dtype}
    for what, mine in about.items():
        if getattr(circuit, what) != mine:
            raise FieldError(f"{mine!r}", shown(getattr(circuit, what)), f"circuit.{what}")
    try:
        spaces = module.legend().spaces.values()
    except LsrlError:  # the family does not say
        return
    units = {hook: space.size for space in spaces for hook in space.hooks}
    if circuit.units != tuple(units[hook] for hook in sorted(units)):
        raise FieldError(f"{units} units by layer", shown(circuit.units), "circuit.units")
    entries = {s.memory: s.size * s.entries for s in spaces if s.memory is not None}
    for number, channel in enumerate(circuit.channels):
        if any(entry >= entries.get(channel.layer, 0) for entry in channel.memory):
            where = f"circuit.channels[{number}].memory"
            raise FieldError(
                f"entries below {entries.get(channel.layer, 0)}", shown(channel.memory), where
            )
