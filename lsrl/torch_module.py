"""Networks as ordinary torch modules: traced, exported, mapped, differentiated and saved as any.

torch can't trace its own recurrent classes over a time that is not known (`torch.export` guards it,
`vmap` has no rule for them, `compile(fullgraph=True)` refuses), so a layer is one registered
operator, `lsrl::recurrence`, with rules for all of these. What it runs is torch's own kernel of the
class, and its gradients are that kernel's; second derivatives are refused. An exported or compiled
graph names the operator, so `import lsrl.torch_module` is needed where it runs.

This module needs torch; `lsrl.load_torch` imports it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import skip_init

from lsrl.errors import InputError
from lsrl.ir.types import check_inputs
from lsrl.program_json import type_from_json
from lsrl.torch_config import GATES, ModuleJson, TorchConfig, layer_names

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# By kind of layer torch's function for whole sequences.
_STOCK: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "tanh": torch.rnn_tanh,
    "relu": torch.rnn_relu,
}

# ---------------------------------------------------------------- the operator


def _run(inputs: Tensor, weights: Sequence[Tensor], kind: str, train: bool = False) -> Tensor:
    """One layer over whole sequences: (batch, time, features) to (batch, time, units)."""
    if kind == "linear":
        return _run_linear(inputs, *weights)
    start = inputs.new_zeros(1, inputs.shape[0], weights[1].shape[-1])
    states = (start, start) if kind == "LSTM" else start
    return _STOCK[kind](inputs, states, list(weights), True, 1, 0.0, train, False, True)[0]


def _run_linear(
    inputs: Tensor, input_kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor, initial: Tensor
) -> Tensor:
    """h_t = x_t K + h_{t-1} R + bias; bfloat16 is summed in float32, and rounded at every token."""
    dtype = inputs.dtype
    driven = _wide(inputs) @ _wide(input_kernel) + _wide(bias)
    kernel, hidden = _wide(recurrent_kernel), _wide(initial).expand(len(inputs), -1)
    found = []
    for now in driven.unbind(1):
        hidden = _wide((now + hidden @ kernel).to(dtype))
        found.append(hidden)
    return torch.stack(found, 1).to(dtype)


def _wide(values: Tensor) -> Tensor:
    """What sums are made in."""
    return values.float() if values.dtype == torch.bfloat16 else values


def _kernel(inputs: Tensor, weights: Sequence[Tensor], kind: str, tracked: bool) -> Tensor:
    # torch's kernels round otherwise where gradients may be asked for.
    with torch.set_grad_enabled(tracked):
        made = _run(inputs, weights, kind)
    return made.clone(memory_format=torch.contiguous_format)


def _backward_kernel(
    gradient: Tensor, inputs: Tensor, weights: Sequence[Tensor], kind: str
) -> list[Tensor]:
    with torch.enable_grad():
        given = [tensor.detach().requires_grad_() for tensor in (inputs, *weights)]
        # cuDNN has gradients of what runs in training alone; without dropout that is the same.
        made = _run(given[0], given[1:], kind, inputs.is_cuda)
        found = torch.autograd.grad(made, given, gradient)
    return [tensor.clone(memory_format=torch.contiguous_format) for tensor in found]


_LIBRARY = torch.library.Library("lsrl", "DEF")
_LIBRARY.define("recurrence(Tensor inputs, Tensor[] weights, str kind, bool tracked) -> Tensor")
_LIBRARY.define(
    "recurrence_backward(Tensor gradient, Tensor inputs, Tensor[] weights, str kind) -> Tensor[]"
)
_LIBRARY.impl("recurrence", _kernel, "CompositeExplicitAutograd")
_LIBRARY.impl("recurrence_backward", _backward_kernel, "CompositeExplicitAutograd")
_operator = torch.ops.lsrl.recurrence
_backward_operator = torch.ops.lsrl.recurrence_backward


@torch.library.register_fake("lsrl::recurrence")  # type: ignore[untyped-decorator]
def _(inputs: Tensor, weights: Sequence[Tensor], kind: str, tracked: bool) -> Tensor:
    return inputs.new_empty(*inputs.shape[:2], weights[1].shape[-1])


@torch.library.register_fake("lsrl::recurrence_backward")  # type: ignore[untyped-decorator]
def _(gradient: Tensor, inputs: Tensor, weights: Sequence[Tensor], kind: str) -> list[Tensor]:
    given = (inputs, *weights)
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in given]


# ---------------------------------------------------------------- its rules


class _Context(Protocol):
    """What torch keeps between an operator and its gradient."""

    kind: str
    saved_tensors: tuple[Tensor, ...]
    save_for_backward: Callable[..., None]


class _Mapped(Protocol):
    """What `vmap` tells a rule."""

    batch_size: int


_Place = int | None  # the axis that `vmap` maps over, of a tensor that has one


def _rows(
    info: _Mapped, places: Sequence[_Place], tensors: Sequence[Tensor]
) -> Iterable[list[Tensor]]:
    pairs = list(zip(tensors, places, strict=True))
    for row in range(info.batch_size):
        yield [x if place is None else x.select(place, row) for x, place in pairs]


class _Recurrence(torch.autograd.Function):  # type: ignore[misc]
    """The operator with gradients and `vmap`; functorch takes rules of this form alone."""

    @staticmethod
    def forward(kind: str, tracked: bool, inputs: Tensor, *weights: Tensor) -> Tensor:
        return _operator(inputs, weights, kind, tracked)

    @staticmethod
    def setup_context(
        ctx: _Context, inputs: tuple[str, bool, *tuple[Tensor, ...]], output: Tensor
    ) -> None:
        ctx.kind, _, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, *weights = ctx.saved_tensors
        found = _backward_operator(gradient.contiguous(), inputs, weights, ctx.kind)
        return None, None, *found

    @staticmethod
    def vmap(
        info: _Mapped,
        places: tuple[_Place, ...],
        kind: str,
        tracked: bool,
        inputs: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, int]:
        if all(place is None for place in places[3:]):
            # Sequences are independent, so the new axis is a part of the batch.
            whole = inputs.movedim(places[2], 0)
            made = _Recurrence.apply(kind, tracked, whole.flatten(0, 1), *weights)
            return made.unflatten(0, whole.shape[:2]), 0
        rows = _rows(info, places[2:], (inputs, *weights))
        return torch.stack([_Recurrence.apply(kind, tracked, *row) for row in rows]), 0


def _exported_setup(
    ctx: _Context, inputs: tuple[Tensor, Sequence[Tensor], str, bool], output: Tensor
) -> None:
    given, weights, ctx.kind, _ = inputs
    ctx.save_for_backward(given, *weights)


def _exported_backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, list[Tensor], None, None]:
    given, *weights = ctx.saved_tensors
    found, *others = _backward_operator(gradient.contiguous(), given, weights, ctx.kind)
    return found, others, None, None


# Exported graphs call the operator itself, and are trained too.
torch.library.register_autograd(
    "lsrl::recurrence", _exported_backward, setup_context=_exported_setup
)


@torch.library.register_vmap("lsrl::recurrence_backward")  # type: ignore[untyped-decorator]
def _(
    info: _Mapped,
    places: tuple[_Place, _Place, list[_Place], None],
    gradient: Tensor,
    inputs: Tensor,
    weights: Sequence[Tensor],
    kind: str,
) -> tuple[list[Tensor], list[int]]:
    rows = _rows(info, [*places[:2], *places[2]], [gradient, inputs, *weights])
    found = [_backward_operator(first, second, rest, kind) for first, second, *rest in rows]
    return [torch.stack(column) for column in zip(*found, strict=True)], [0] * len(found[0])


def _recurrence(kind: str, inputs: Tensor, *weights: Tensor) -> Tensor:
    """One layer, from (..., time, features) to (..., time, units)."""
    tracked = torch.is_grad_enabled()
    if inputs.dim() == 3:
        return _Recurrence.apply(kind, tracked, inputs, *weights)
    made = _Recurrence.apply(kind, tracked, inputs.reshape(-1, *inputs.shape[-2:]), *weights)
    return made.reshape(*inputs.shape[:-1], made.shape[-1])


# ---------------------------------------------------------------- modules


class Recurrent(nn.Module):  # type: ignore[misc]
    """What `torch.nn.LSTM`, `GRU` and `RNN` do with batch_first=True, outputs alone.

    Their state dicts load into it, and its own into them.

    Attributes:
      kind: "LSTM", "GRU", "tanh" or "relu", as the operator has it.
      num_layers: layers.
      layer_1, …: of several layers, modules that pass on what each makes, to be hooked.
    """

    def __init__(
        self, kind: str, input_size: int, hidden_size: int, num_layers: int, dtype: torch.dtype
    ) -> None:
        """Make a module, with parameters that are not set; arguments as torch's classes have."""
        super().__init__()
        self.kind, self.num_layers = kind, num_layers
        rows = GATES.get(kind, 1) * hidden_size
        for layer in range(num_layers):
            for name, width in (("ih", hidden_size if layer else input_size), ("hh", hidden_size)):
                self.register_parameter(f"weight_{name}_l{layer}", _empty(rows, width, dtype=dtype))
            for name in ("ih", "hh"):
                self.register_parameter(f"bias_{name}_l{layer}", _empty(rows, dtype=dtype))
            self.add_module(f"layer_{layer + 1}", nn.Identity())

    def forward(self, inputs: Tensor) -> Tensor:
        """From (..., time, features) to (..., time, units)."""
        for layer in range(self.num_layers):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = [getattr(self, f"{name}_l{layer}") for name in names]
            hidden = _recurrence(self.kind, inputs, *weights)
            inputs = getattr(self, f"layer_{layer + 1}")(hidden)
        return inputs


class InputSum(nn.Module):  # type: ignore[misc]
    """What the inputs add up to, with a bias or without; sums of bfloat16 are made in float32."""

    def __init__(self, features: int | None, dtype: torch.dtype) -> None:
        """Make a module, with a bias that is not set; without features there is none."""
        super().__init__()
        self.bias = None if features is None else _empty(features, dtype=dtype)

    def forward(self, *parts: Tensor) -> Tensor:
        """Add up (..., time, features)."""
        total, *others = parts if self.bias is None else (_wide(self.bias), *parts)
        for part in others:
            total = total + part
        return total if self.bias is None else total.to(self.bias.dtype)


class WideLinear(nn.Linear):  # type: ignore[misc]
    """A Linear whose sums of bfloat16 are made in float32, and not rounded."""

    def forward(self, inputs: Tensor) -> Tensor:
        """From (..., in_features) to (..., out_features)."""
        bias = None if self.bias is None else _wide(self.bias)
        return nn.functional.linear(_wide(inputs), _wide(self.weight), bias)


class LinearLayer(nn.Module):  # type: ignore[misc]
    """A layer of `linear_rnn` or `gated_linear_rnn`: units, then channels that are read of them.

    A channel is a unit, or the product of two, with or without a ReLU.

    Attributes:
      input_kernel: (in_features, units).
      recurrent_kernel: (units, units), entry [source, target].
      bias: (units,).
      initial_state: (units,), the state before the first token.
    """

    def __init__(
        self,
        in_features: int,
        units: int,
        left: Sequence[int],
        right: Sequence[int],
        relu: Sequence[bool],
        dtype: torch.dtype,
    ) -> None:
        """Make a layer, with parameters that are not set.

        Args:
          in_features: that it reads.
          units: hidden ones.
          left: per channel the unit that it reads.
          right: per channel the unit that multiplies it, or -1.
          relu: per channel whether it passes a ReLU.
          dtype: of the parameters.
        """
        super().__init__()
        self.input_kernel = _empty(in_features, units, dtype=dtype)
        self.recurrent_kernel = _empty(units, units, dtype=dtype)
        self.bias, self.initial_state = (_empty(units, dtype=dtype) for _ in range(2))
        self._read = list(left) != list(range(units))
        self._products, self._relus = max(right) >= 0, any(relu)
        constants = {
            "left": torch.tensor(left),
            "right": torch.tensor(right).clamp_min(0),
            "is_product": torch.tensor(right) >= 0,
            "is_relu": torch.tensor(relu),
        }
        for name, values in constants.items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """From (..., time, in_features) to (..., time, channels)."""
        hidden = _recurrence(
            "linear", inputs, self.input_kernel, self.recurrent_kernel, self.bias,
            self.initial_state,
        )  # fmt: skip
        values = hidden.index_select(-1, self.left) if self._read else hidden
        if self._products:
            product = values * hidden.index_select(-1, self.right)
            values = torch.where(self.is_product, product, values)
        return torch.where(self.is_relu, values.relu(), values) if self._relus else values


def _empty(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype))


class TorchModel(nn.Module):  # type: ignore[misc]
    """A compiled program as a torch module; see `lsrl.load_torch`.

    Attributes:
      config: what `config.json` says.
      layer_0: passes on what the inputs add up to, layer 0 of the circuit, to be hooked; see
        `layer`.
    """

    def __init__(self, config: TorchConfig) -> None:
        """Make the modules, with parameters that are not set.

        Args:
          config: what `config.json` says.
        """
        super().__init__()
        self.config = config
        modules, dtype = config["modules"], getattr(torch, config["dtype"])
        self._inputs = tuple(f"input_{number}" for number in range(len(config["inputs"])))
        self._layers = layer_names(modules)
        linear = "layer_0" in modules
        for name, entry in modules.items():
            self.add_module(name, _made(entry, dtype, linear))
        if not linear:
            self.layer_0 = InputSum(None, dtype)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run whole sequences, without checks of what they hold.

        Args:
          *inputs: a tensor an input, on the module's device: ids (..., time) of whole numbers, or
            vectors (..., time, width).

        Returns:
          (..., time, outputs), in the module's dtype.

        Raises:
          InputError: these are no tensors, or not one an input.
        """
        if len(inputs) != len(self._inputs) or not all(isinstance(x, Tensor) for x in inputs):
            raise InputError(
                f"forward: expected {len(self._inputs)} tensor(s), one an input, got "
                f"{[type(x).__name__ for x in inputs]}; module.run takes lists and arrays"
            )
        parts = []
        for name, given in zip(self._inputs, inputs, strict=True):
            module = getattr(self, name)
            table = isinstance(module, nn.Embedding)
            parts.append(module(given.to(torch.int64 if table else module.weight.dtype)))
        hidden = self.layer_0(*parts)
        for name in self._layers:
            hidden = getattr(self, name)(hidden)
        return self.output(hidden).to(self.output.weight.dtype)

    if TYPE_CHECKING:

        def __call__(self, *inputs: Tensor) -> Tensor:
            """As `forward`."""

    def run(self, *inputs: "Tensor | ArrayLike") -> Tensor:
        """Run whole sequences, and check them as `Model.run` does.

        Args:
          *inputs: lists, arrays or tensors, as `Model.run` takes them.

        Returns:
          (time, outputs), or (batch, time, outputs) if the inputs have a batch axis.

        Raises:
          InputError: an input lies outside its declared type; says which and where.
        """
        types = {name: type_from_json(kind) for name, kind in self.config["inputs"].items()}
        arrays = [_as_array(value) for value in inputs]
        checked, batched = check_inputs(types, arrays, self.config["max_length"])
        device, tensors = self.output.weight.device, []
        for given, array in zip(inputs, checked, strict=True):
            if isinstance(given, Tensor):
                tensors.append(given.to(device))
            else:
                tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device)
                tensors.append(tensor if batched else tensor[0])
        return self(*tensors)

    def layer(self, number: int) -> nn.Module:
        """The module whose output is what a layer of the circuit holds, to be hooked.

        Args:
          number: of the layer, 0 of what the inputs add up to. Its entries are the units of the
            circuit; where layers are padded to one width, zeros come behind them.

        Raises:
          InputError: there is no such layer.
        """
        depth = getattr(getattr(self, "recurrent", None), "num_layers", len(self._layers))
        if number not in range(depth + 1):
            raise InputError(f"layer: expected a number from 0 to {depth}, got {number!r}")
        held = self.recurrent if number and hasattr(self, "recurrent") else self
        found: nn.Module = getattr(held, f"layer_{number}")
        return found


def _made(entry: ModuleJson, dtype: torch.dtype, linear: bool) -> nn.Module:
    """A module of its class, with parameters that are not set."""
    name, arguments = entry["class"], entry["arguments"]
    if name in GATES:
        kind = cast(str, arguments.get("nonlinearity", name))
        names = ("input_size", "hidden_size", "num_layers")
        features, units, layers = (cast(int, arguments[each]) for each in names)
        return Recurrent(kind, features, units, layers, dtype)
    if name in ("InputSum", "LinearLayer"):
        return {"InputSum": InputSum, "LinearLayer": LinearLayer}[name](**arguments, dtype=dtype)
    stock = WideLinear if linear and name == "Linear" else getattr(nn, name)
    # Drawing weights that are not kept would take time, and torch's random state.
    return skip_init(stock, **arguments, dtype=dtype, device=torch.get_default_device())


def _as_array(value: "Tensor | ArrayLike") -> "ArrayLike":
    """A tensor as numpy sees it, without its gradient."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return (value.double() if value.is_floating_point() else value).numpy()
