"""What `config.json` of a folder of torch modules says, and which modules fit together.

The modules are, with version 1:

    input_0, input_1, …   an Embedding (tokens) or a Linear (vectors) an input, whose outputs add up
    recurrent             one RNN, LSTM or GRU with all layers, batch_first
    output                a Linear

With version 2 `layer_1`, `layer_2`, … are in the place of `recurrent`, by the numbers of the
circuit: an RNN, LSTM or GRU of one layer each, or each a `LinearLayer` of `lsrl.torch_module`. With
the latter, `layer_0` is the `InputSum` of what the inputs add up to and a bias.
"""

from collections.abc import Mapping
from typing import NotRequired, TypedDict, cast

from lsrl import schema
from lsrl.arguments import shown
from lsrl.ir.types import InputType, Token
from lsrl.program_json import type_from_json
from lsrl.schema import FieldError, Reader

FORMAT = "lsrl-torch"
# One recurrent module, and a module a layer.
VERSIONS = STACKED, SEPARATE = 1, 2


class TypeJson(TypedDict, total=False):
    """The type of an input: a token's number of symbols, or a vector's width and range."""

    token: int
    vector: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    step: tuple[float, ...] | None


# A class of torch.nn or lsrl.torch_module, and its arguments.
ModuleJson = TypedDict("ModuleJson", {"class": str, "arguments": dict[str, object]})


class TorchConfig(TypedDict):
    """What `config.json` says."""

    format: str
    version: int
    lsrl: str
    program: str
    target: str
    dtype: str
    max_length: int | None
    inputs: dict[str, TypeJson]
    outputs: int
    output_token: int | None
    modules: dict[str, ModuleJson]
    labels: tuple[tuple[str, ...], ...]
    certificate: str
    certified_tokens: int | None
    checksum: NotRequired[str]


def module_json(name: str, **arguments: object) -> ModuleJson:
    """A class and its arguments."""
    return {"class": name, "arguments": arguments}


def type_to_json(kind: InputType) -> TypeJson:
    """An input's type, as the config has it."""
    if isinstance(kind, Token):
        return {"token": kind.size}
    return {"vector": kind.width, "low": kind.low, "high": kind.high, "step": kind.step}


def layer_names(modules: Mapping[str, ModuleJson]) -> tuple[str, ...]:
    """The modules behind the input map, first to last."""
    if "recurrent" in modules:
        return ("recurrent",)
    depth = sum(name.startswith("layer_") and name != "layer_0" for name in modules)
    return tuple(f"layer_{number}" for number in range(1, depth + 1))


# ---------------------------------------------------------------- fields

_SIZE = schema.integer(1)
_RECURRENT: Mapping[str, Reader[object]] = {
    **dict.fromkeys(("input_size", "hidden_size", "num_layers"), _SIZE),
    "batch_first": schema.flag,
}
# Per class its arguments, all of which are there but for the last of Linear.
_ARGUMENTS: Mapping[str, Reader[dict[str, object]]] = {
    "Embedding": schema.record(dict.fromkeys(("num_embeddings", "embedding_dim"), _SIZE)),
    "Linear": schema.record(
        {"in_features": _SIZE, "out_features": _SIZE, "bias": schema.flag}, ("bias",)
    ),
    "RNN": schema.record({**_RECURRENT, "nonlinearity": schema.one_of("relu", "tanh")}),
    "LSTM": schema.record(_RECURRENT),
    "GRU": schema.record(_RECURRENT),
    "InputSum": schema.record({"features": _SIZE}),
    "LinearLayer": schema.record({
        **dict.fromkeys(("in_features", "units"), _SIZE),
        "left": schema.listed(schema.integer(0)),
        "right": schema.listed(schema.integer(-1)),
        "relu": schema.listed(schema.flag),
    }),
}  # fmt: skip
# What a module takes and gives; of a LinearLayer what it gives is the number of its channels.
_ENDS = {
    "Embedding": ("num_embeddings", "embedding_dim"),
    "Linear": ("in_features", "out_features"),
    "InputSum": ("features", "features"),
    "LinearLayer": ("in_features", "left"),
    **dict.fromkeys(("RNN", "LSTM", "GRU"), ("input_size", "hidden_size")),
}
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
_TEXTS = dict.fromkeys(("format", "lsrl", "program", "target", "certificate", "checksum"))


_MODULE: Reader[dict[str, object]] = schema.record(
    {"class": schema.one_of(*_ARGUMENTS), "arguments": schema.named(schema.anything)}
)


def _module(value: object) -> ModuleJson:
    found = cast(ModuleJson, _MODULE(value))
    try:
        _ARGUMENTS[found["class"]](found["arguments"])
    except FieldError as error:
        raise error.within("arguments") from None
    return found


READ: Reader[dict[str, object]] = schema.record({
    **dict.fromkeys(_TEXTS, schema.text),
    "version": _SIZE,
    "dtype": schema.one_of("float32", "float64", "bfloat16"),
    "max_length": schema.maybe(_SIZE),
    "inputs": schema.named(type_from_json),
    "outputs": _SIZE,
    "output_token": schema.maybe(_SIZE),
    "modules": schema.named(_module),
    "labels": schema.listed(schema.listed(schema.text)),
    "certified_tokens": schema.maybe(_SIZE),
})  # fmt: skip

# ---------------------------------------------------------------- what fits together

Tensors = Mapping[str, tuple[tuple[int, ...], str]]  # by name shape and dtype


def check_modules(config: TorchConfig, tensors: Tensors) -> None:
    """Refuse modules that do not fit together, or that the tensors do not fill.

    Args:
      config: whose fields are as `READ` has them.
      tensors: what the weights' file holds.

    Raises:
      FieldError: says which.
    """
    modules = config["modules"]
    inputs = [f"input_{number}" for number in range(len(config["inputs"]))]
    layers = layer_names(modules)
    names = [*inputs, *(["layer_0"] if "layer_0" in modules else []), *layers, "output"]
    if set(modules) != set(names) or not inputs:
        got = shown(list(modules))
        raise FieldError(f"the modules {', '.join(names)}", got, "modules")
    _check_layers(config, layers)
    behind: object = None  # what is read of the module before, once it is known
    for name, kind in zip(inputs, map(type_from_json, config["inputs"].values()), strict=True):
        size = kind.size if isinstance(kind, Token) else kind.width
        wanted = ("Embedding" if isinstance(kind, Token) else "Linear", size)
        behind = _check_ends(modules, name, *wanted, behind)
    for name in names[len(inputs) : -1]:
        behind = _check_ends(modules, name, modules[name]["class"], behind, None)
    _check_ends(modules, "output", "Linear", behind, config["outputs"])
    shapes = _shapes(modules, len(tensors))
    for name, shape in shapes.items():
        if tensors.get(name) != (shape, f"torch.{config['dtype']}"):
            raise FieldError(f"{shape} of {config['dtype']}", f"{tensors.get(name)}", name)
    if tensors.keys() != shapes.keys():
        raise FieldError(f"the tensors {', '.join(shapes)}", shown(list(tensors)), "weights")


def _check_ends(
    modules: Mapping[str, ModuleJson], name: str, kind: str, before: object, behind: object
) -> object:
    """What a module gives; refused unless it is of this class, and takes and gives so much."""
    entry = modules[name]
    takes, gives = (entry["arguments"].get(end) for end in _ENDS[entry["class"]])
    gives = len(gives) if isinstance(gives, list | tuple) else gives
    wanted = (kind, before, gives if behind is None else behind)
    if (entry["class"], takes, gives) != wanted:
        raise FieldError(f"{wanted}", f"{(entry['class'], takes, gives)}", f"modules.{name}")
    return gives


def _check_layers(config: TorchConfig, layers: tuple[str, ...]) -> None:
    """Refuse layers that are not of one kind, or read what there is not."""
    modules = config["modules"]
    linear = "layer_0" in modules
    stacked = layers == ("recurrent",)
    if not layers and not linear:
        raise FieldError("modules recurrent or layer_1, …", shown(list(modules)), "modules")
    if config["version"] != (STACKED if stacked else SEPARATE) or (stacked and linear):
        raise FieldError(
            "version 1 of a module recurrent, and 2 of a module a layer",
            f"version {config['version']} of {', '.join(layers)}", "modules",
        )  # fmt: skip
    if linear and modules["layer_0"]["class"] != "InputSum":
        raise FieldError("an InputSum", modules["layer_0"]["class"], "modules.layer_0")
    kinds = [(modules[n]["class"], modules[n]["arguments"].get("nonlinearity")) for n in layers]
    if len(set(kinds)) > 1:
        raise FieldError(f"layers of one class, {kinds[0]}", shown(kinds), "modules")
    for name in layers:
        kind, arguments = modules[name]["class"], modules[name]["arguments"]
        if (kind == "LinearLayer") != linear or (not linear and kind not in GATES):
            wanted = "a LinearLayer" if linear else "an RNN, LSTM or GRU"
            raise FieldError(wanted, kind, f"modules.{name}")
        if linear:
            _check_channels(name, arguments)
        elif not arguments["batch_first"] or (not stacked and arguments["num_layers"] != 1):
            raise FieldError(
                "a module that is batch_first, of one layer if it is no other's",
                f"{modules[name]}", f"modules.{name}",
            )  # fmt: skip


def _check_channels(name: str, arguments: Mapping[str, object]) -> None:
    left, right, relu = (cast(list[int], arguments[each]) for each in ("left", "right", "relu"))
    if not len(left) == len(right) == len(relu) > 0:
        sizes = f"{len(left)}, {len(right)} and {len(relu)}"
        raise FieldError("left, right and relu of one length", sizes, f"modules.{name}")
    units = cast(int, arguments["units"])
    if max(*left, *right) >= units:
        raise FieldError(f"units below {units}", f"{max(*left, *right)}", f"modules.{name}")


def _shapes(modules: Mapping[str, ModuleJson], count: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that modules have, which are so many."""
    found: dict[str, tuple[int, ...]] = {}
    for name, entry in modules.items():
        kind, sizes = entry["class"], cast(dict[str, int], entry["arguments"])
        if kind == "Embedding":
            found[f"{name}.weight"] = sizes["num_embeddings"], sizes["embedding_dim"]
        elif kind == "Linear":
            found[f"{name}.weight"] = sizes["out_features"], sizes["in_features"]
            if sizes.get("bias", True):
                found[f"{name}.bias"] = (sizes["out_features"],)
        elif kind == "InputSum":
            found[f"{name}.bias"] = (sizes["features"],)
        elif kind == "LinearLayer":
            units = sizes["units"]
            found[f"{name}.input_kernel"] = sizes["in_features"], units
            found[f"{name}.recurrent_kernel"] = units, units
            found[f"{name}.bias"] = found[f"{name}.initial_state"] = (units,)
        else:
            layers, hidden = sizes["num_layers"], sizes["hidden_size"]
            if 4 * layers > count:
                raise FieldError(f"at most {count} tensors", f"{layers} layers", f"modules.{name}")
            rows = GATES[kind] * hidden
            for layer in range(layers):
                for side, width in (("i", hidden if layer else sizes["input_size"]), ("h", hidden)):
                    found[f"{name}.weight_{side}h_l{layer}"] = rows, width
                    found[f"{name}.bias_{side}h_l{layer}"] = (rows,)
    return found
