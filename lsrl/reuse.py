"""Models that an equal program was compiled to already: in this process, or in the user's cache."""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping

from lsrl import cache
from lsrl.backends import registry
from lsrl.errors import LsrlError
from lsrl.language.program import Program
from lsrl.model import Model

Choices = Mapping[str, object]
Compile = Callable[..., Model]

# What this process compiled last with cache=True, but for the module: its parameters may change.
_RECENT: OrderedDict[str, Callable[[Program], Model]] = OrderedDict()
_MOST_RECENT = 32


def compiled(program: Program, target: str, options: Choices, compile: Compile) -> Model:
    """What an equal program was compiled to, with a module of its own.

    Args:
      program: what is compiled.
      target: a name from `lsrl.targets()`.
      options: what else `compile` is given, by name.
      compile: `lsrl.compile`, for what is not known.
    """
    key = cache.key(program, _spelled(target, options))
    known = _RECENT.pop(key, None)
    if known is None:
        model = _from_disk(program, target, options, compile)
        known = _recipe(model)
    else:
        model = known(program)
    _RECENT[key] = known
    while len(_RECENT) > _MOST_RECENT:
        _RECENT.popitem(last=False)
    return model


def _recipe(model: Model) -> Callable[[Program], Model]:
    """What makes more models like one that was just compiled; it holds no weights."""
    target, options, schedule, proven = model.target, model.options, model.schedule, model.proven
    numerics, report = model.numerics, model.compilation

    def make(program: Program) -> Model:
        module = registry.find(target).lower(schedule, numerics)
        return Model(program, target, options, schedule, proven, numerics, module, report)

    return make


def _spelled(target: str, options: Choices) -> dict[str, str]:
    """What a compilation depends on beside the program, as a cache's key has it."""
    return {"target": target, **{name: f"{value}" for name, value in options.items()}}


def _from_disk(program: Program, target: str, options: Choices, compile: Compile) -> Model:
    """Compile along levels that are cached, or compile and cache them."""
    entry = cache.place(program, _spelled(target, options))
    known = cache.levels(entry)
    if known is not None:
        with contextlib.suppress(LsrlError):
            return compile(program, target, levels=known, **options)
    model = compile(program, target, **options)
    if cache.prepare(entry):
        try:
            model.save(entry)
        except OSError as error:
            cache.tell(error)
    return model
