"""A library's routines and registers in torch, as a part of another network.

This module needs torch; `lsrl.nn.attach` imports it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, cast

import torch
from torch import Tensor, nn

from lsrl.errors import FormatError, InputError
from lsrl.nn.registers import SHARPNESS, SHUT
from lsrl.torch_config import GATES, TorchConfig

# By kind of layer torch's function for whole sequences, from a state and to a state.
_STOCK: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "tanh": torch.rnn_tanh,
    "relu": torch.rnn_relu,
}


class RoutineJson(TypedDict):
    """A routine as a finite machine, as `config.json` says it.

    Its fields: the routine's name; the state after each symbol, by state; the id that is said in
    each state; and the state before the first token.
    """

    name: str
    follows: tuple[tuple[int, ...], ...]
    ids: tuple[int, ...]
    initial: int


@dataclass(frozen=True)
class State:
    """What registers and routines hold between two tokens.

    Attributes:
      register: (batch, routines), of which routine the output is wanted; zeros before a write.
      cells: of the network, (batch, units) each: h of every layer, and c of an LSTM's.
    """

    register: Tensor
    cells: tuple[Tensor, ...] = field(default=())

    def select(self, rows: Tensor) -> "State":
        """Those of some sequences, by their numbers."""
        held = (self.register, *self.cells)
        first, *others = (each.index_select(0, rows.to(each.device)) for each in held)
        return State(first, tuple(others))


class Routines(nn.Module):  # type: ignore[misc]
    """Routines that read the same symbols: one certified network, and the machines that equal it.

    The network's weights are buffers, so no optimiser and no adapter takes them for its own, and
    they stay in the dtype in which they were certified whatever the rest is cast to.

    Attributes:
      names: of the routines.
      symbols: of the arguments.
      features: symbols of the output.
    """

    def __init__(self, routines: Sequence[RoutineJson], network: TorchConfig) -> None:
        """Make the module, with weights of the network that are not set.

        Args:
          routines: the machines.
          network: the network whose output k is that of routine k, as `config.json` of a folder of
            torch modules says it.
        """
        super().__init__()
        self.names = tuple(routine["name"] for routine in routines)
        self.symbols = len(routines[0]["follows"][0])
        self.features = 1 + max(max(routine["ids"]) for routine in routines)
        self._recurrent = network["modules"]["recurrent"]
        self._tables(routines)
        dtype = getattr(torch, network["dtype"])
        for name, shape in _shapes(network).items():
            self.register_buffer(name.replace(".", "_"), torch.empty(shape, dtype=dtype))
        self._network = tuple(_shapes(network))

    def _tables(self, routines: Sequence[RoutineJson]) -> None:
        """One machine of all: states count on from routine to routine."""
        follows: list[list[int]] = []
        said: list[int] = []
        starts: list[int] = []
        for routine in routines:
            first = len(follows)
            starts.append(first + routine["initial"])
            follows += [[first + state for state in row] for row in routine["follows"]]
            said += routine["ids"]
        for name, values in (("follows", follows), ("said", said), ("starts", starts)):
            self.register_buffer(name, torch.tensor(values))
        self._states = [len(routine["ids"]) for routine in routines]

    def set_network(self, weights: Mapping[str, Tensor]) -> None:
        """Set the network's weights, by their names in the exported state dict."""
        for name in self._network:
            getattr(self, name.replace(".", "_")).copy_(weights[name])

    def network(self) -> dict[str, Tensor]:
        """The network's weights, by their names in the exported state dict."""
        return {name: getattr(self, name.replace(".", "_")) for name in self._network}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Routines":
        # Devices change, and dtypes don't: what is certified is certified of these numbers.
        for name, held in self._buffers.items():
            moved = fn(held)
            self._buffers[name] = moved if moved.dtype == held.dtype else held.to(moved.device)
        return self

    # ------------------------------------------------------------ exactly

    def exact(self, ids: Tensor, cells: Sequence[Tensor] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the certified network says, and what its cells hold behind the last token.

        Args:
          ids: (batch, time), symbols.
          cells: of the tokens before, as this returned them; none before the first token.

        Returns:
          (batch, time, routines, features), one-hot, float32; and the cells, (batch, units) each.
        """
        with torch.no_grad(), _full_precision(ids.device):
            hidden = nn.functional.embedding(ids, self.input_0_weight)
            found: list[Tensor] = []
            for layer in range(cast(int, self._recurrent["arguments"]["num_layers"])):
                hidden, made = self._layer(layer, hidden, cells)
                found += made
            values = nn.functional.linear(hidden, self.output_weight, self.output_bias)
            said = values.round().long().clamp(0, self.features - 1)
            return nn.functional.one_hot(said, self.features).float(), tuple(found)

    def _layer(
        self, layer: int, hidden: Tensor, cells: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self, f"recurrent_{name}_l{layer}") for name in names]
        kind, arguments = self._recurrent["class"], self._recurrent["arguments"]
        per = 2 if kind == "LSTM" else 1
        if cells:
            states = [cell[None] for cell in cells[per * layer : per * (layer + 1)]]
        else:
            states = [hidden.new_zeros(1, len(hidden), weights[1].shape[-1])] * per
        run = _STOCK[cast(str, arguments.get("nonlinearity", kind))]
        start = states if per == 2 else states[0]
        hidden, *made = run(hidden, start, weights, True, 1, 0.0, False, False, True)
        return hidden, [state[0] for state in made]

    # ------------------------------------------------------------ to train with

    def expected(self, tokens: Tensor) -> Tensor:
        """The expected output of the machines, were each token drawn from its distribution.

        Args:
          tokens: ids (batch, time), or distributions over symbols (batch, time, symbols), which it
            is differentiable in.

        Returns:
          (batch, time, routines, features), float32.
        """
        outputs = nn.functional.one_hot(self.said, self.features).float()
        if tokens.dim() == 2:
            states = self.starts.expand(len(tokens), -1)
            reached = []
            for symbol in tokens.unbind(1):
                states = self.follows[states, symbol[:, None]]
                reached.append(states)
            return outputs[torch.stack(reached, 1)]
        count = len(self.said)
        moves = nn.functional.one_hot(self.follows.T, count).float().flatten(0, 1)
        share = outputs.new_zeros(len(tokens), count).index_fill(1, self.starts, 1.0)
        shares = []
        with _full_precision(tokens.device):
            for now in tokens.float().unbind(1):
                share = (now[:, :, None] * share[:, None]).flatten(1) @ moves
                shares.append(share)
            each = torch.stack(shares, 1).split(self._states, -1)
            said = outputs.split(self._states)
            return torch.stack([own @ one for own, one in zip(each, said, strict=True)], 2)


def _shapes(network: TorchConfig) -> dict[str, tuple[int, ...]]:
    """Of the tensors of a stock recurrent module between an embedding and a linear one."""
    modules = network["modules"]
    kind, sizes = modules["recurrent"]["class"], modules["recurrent"]["arguments"]
    if kind not in GATES or modules["input_0"]["class"] != "Embedding":
        raise FormatError(f"expected an Embedding and one of {sorted(GATES)}, got {modules}")
    hidden, features = cast(int, sizes["hidden_size"]), cast(int, sizes["input_size"])
    ends = modules["input_0"]["arguments"], modules["output"]["arguments"]
    outputs = cast(int, ends[1]["out_features"])
    found: dict[str, tuple[int, ...]] = {
        "input_0.weight": (cast(int, ends[0]["num_embeddings"]), features),
        "output.weight": (outputs, hidden),
        "output.bias": (outputs,),
    }
    for layer in range(cast(int, sizes["num_layers"])):
        for side, width in (("i", hidden if layer else features), ("h", hidden)):
            found[f"recurrent.weight_{side}h_l{layer}"] = GATES[kind] * hidden, width
            found[f"recurrent.bias_{side}h_l{layer}"] = (GATES[kind] * hidden,)
    return found


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, and no TF32 on a GPU: both would round what is certified."""
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        held = torch.backends.cudnn, torch.backends.cuda.matmul
        before = [each.allow_tf32 for each in held]
        try:
            for each in held:
                each.allow_tf32 = False
            yield
        finally:
            for each, was in zip(held, before, strict=True):
                each.allow_tf32 = was


class Register(nn.Module):  # type: ignore[misc]
    """Which routine a host wants, by its state at each token: whether it says so, and which."""

    def __init__(self, width: int, routines: int) -> None:
        """Make a register whose gate is nearly shut, and that prefers no routine.

        Weights begin at 0: drawn ones shut the gate for some tokens so far that no gradient is left
        to open it.

        Args:
          width: of the host's state.
          routines: how many there are to choose from.
        """
        super().__init__()
        self.write, self.value = nn.Linear(width, 1), nn.Linear(width, routines)
        for weight in self.parameters():
            nn.init.zeros_(weight)
        nn.init.constant_(self.write.bias, SHUT)

    def forward(self, state: Tensor, hard: bool) -> tuple[Tensor, Tensor]:
        """From (batch, time, width) to gates (batch, time, 1) and values (batch, time, routines).

        States are taken at one scale, so that it learns equally fast in every host. While it is not
        hard, gates are drawn of the concrete distribution (Maddison et al. 2017): its noise makes
        those useless that are half open, which a hard one would round.
        """
        weight = self.write.weight
        scaled = nn.functional.layer_norm(state.to(weight.dtype), weight.shape[-1:])
        logits = SHARPNESS * self.write(scaled).float()
        if not hard:
            logits = logits + torch.logit(torch.rand_like(logits), 1e-6)
        gate = logits.sigmoid()
        value = (SHARPNESS * self.value(scaled)).softmax(-1).float()
        if hard:
            gate = gate.round()
            value = nn.functional.one_hot(value.argmax(-1), value.shape[-1]).float()
        return gate, value


class Argument(nn.Module):  # type: ignore[misc]
    """Which symbol a token is to the routines, by the host's state at it."""

    def __init__(self, width: int, symbols: int) -> None:
        """Make one that hardly prefers any symbol.

        Args:
          width: of the host's state.
          symbols: of the routines, the last of which skips.
        """
        super().__init__()
        self.value = nn.Linear(width, symbols)
        nn.init.normal_(self.value.weight, std=0.1)
        nn.init.zeros_(self.value.bias)

    def forward(self, state: Tensor, hard: bool) -> Tensor:
        """From (batch, time, width) to ids (batch, time), or to distributions while not hard.

        These are known symbols in values, and their distributions in derivatives (Bengio et al.
        2013): what routines pass back is then the effect of every swap, as they see it when symbols
        are known. Trained on the distributions themselves, some end half decided.
        """
        weight = self.value.weight
        scaled = nn.functional.layer_norm(state.to(weight.dtype), state.shape[-1:])
        logits = SHARPNESS * self.value(scaled).float()
        ids = logits.argmax(-1)
        if hard:
            return ids
        shares = logits.softmax(-1)
        known = nn.functional.one_hot(ids, shares.shape[-1]).to(shares.dtype)
        return known + (shares - shares.detach())


class TorchLibrary(nn.Module):  # type: ignore[misc]
    """Routines, a register that says which of them is wanted, and the way back into a host.

    Attributes:
      routines: their certified network.
      register: of the choice.
      result: from the chosen routine's output to what is added to the host's state.
      symbol_of: (tokens,), the symbol that each of the host's tokens is; or
      argument: what says so by the host's state.
    """

    def __init__(
        self, routines: Routines, symbol_of: Sequence[int] | None, width: int, held: bool
    ) -> None:
        """Make the module.

        Args:
          routines: of the library.
          symbol_of: by the host's tokens; None where it is learnt.
          width: of the host's state.
          held: whether a choice stays until the next is written, or is of one token.
        """
        super().__init__()
        self.routines, self._held = routines, held
        self.register = Register(width, len(routines.names))
        self.result = nn.Linear(routines.features, width, bias=False)
        nn.init.zeros_(self.result.weight)
        if symbol_of is None:
            self.argument = Argument(width, routines.symbols)
        else:
            self.register_buffer("symbol_of", torch.tensor(symbol_of))
        self._learns = symbol_of is None

    def forward(
        self, hidden: Tensor, ids: Tensor, mask: Tensor | None, state: State | None
    ) -> tuple[Tensor, State | None]:
        """What is added to the host's state.

        In training it is the expected output, which passes gradients; else that of the certified
        network.

        Args:
          hidden: of the host, (batch, time, width).
          ids: the host's tokens, (batch, time).
          mask: (batch, time) bool, which tokens are any; padding changes nothing.
          state: of the tokens before, of a module in evaluation.

        Returns:
          (batch, time, width), and of a module in evaluation the state behind the last token.
        """
        symbols = self._symbols(hidden, ids, mask)
        gate, value = self.register(hidden, not self.training)
        if not self._held:
            gate = torch.ones_like(gate)
        if mask is not None:
            gate = gate * mask[..., None]
        if self.training:
            said, after = self.routines.expected(symbols), None
            choice = held(gate, value)
        else:
            before = None if state is None else state.register
            said, cells = self.routines.exact(symbols, () if state is None else state.cells)
            choice = held(gate, value, before)
            after = State(choice[:, -1].detach(), cells)
        chosen = torch.einsum("btk,btkf->btf", choice, said)
        return self.result(chosen.to(self.result.weight.dtype)), after

    def _symbols(self, hidden: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
        """What routines read: ids (batch, time), or distributions of them in training."""
        skip = self.routines.symbols - 1
        if self._learns:
            symbols = self.argument(hidden, not self.training)
        else:
            known = ids < len(self.symbol_of)
            symbols = torch.where(known, self.symbol_of[torch.where(known, ids, 0)], skip)
        if mask is None:
            return symbols
        if symbols.dim() == 2:
            return torch.where(mask, symbols, skip)
        skips = nn.functional.one_hot(torch.tensor(skip, device=mask.device), skip + 1)
        return torch.where(mask[..., None], symbols, skips.to(symbols.dtype))


def held(gate: Tensor, value: Tensor, start: Tensor | None = None) -> Tensor:
    """What a register holds behind each token: gate value + (1 - gate) of what it held before.

    Args:
      gate: (batch, time, 1).
      value: (batch, time, size).
      start: (batch, size), before the first token; zeros if it is not given.

    Returns:
      (batch, time, size).
    """
    content = value.new_zeros(value.shape[0], value.shape[2]) if start is None else start
    found = []
    for kept, written in zip((1 - gate).unbind(1), (gate * value).unbind(1), strict=True):
        content = written + kept * content
        found.append(content)
    return torch.stack(found, 1)


def check_ids(ids: Tensor | None, embeds: Tensor | None) -> Tensor:
    """The ids that arguments are read from.

    Raises:
      InputError: there are none.
    """
    if ids is None or embeds is not None:
        raise InputError(
            "attached model: expected input_ids, got inputs_embeds: routines read the host's "
            "tokens; pass input_ids alone"
        )
    return ids


def check_mask(mask: object, ids: Tensor) -> Tensor | None:
    """Which of the tokens at hand are any, (batch, time) bool; None if all are.

    Raises:
      InputError: it says something else than that.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[0] != ids.shape[0]:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(
            f"attached model: expected attention_mask of shape ({ids.shape[0]}, tokens so far), 0 "
            f"at padding, got {got}; routines read one sequence a row"
        )
    if mask.shape[1] < ids.shape[1]:
        raise InputError(
            f"attached model: expected an attention_mask of {ids.shape[1]} tokens or more, got one "
            f"of {mask.shape[1]}"
        )
    return mask[:, -ids.shape[1] :] != 0
