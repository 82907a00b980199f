"""Models of transformers with a library attached: how they run, are saved, and are read again.

This module needs torch and transformers; `lsrl.nn.attach` imports it. It makes the class known to
transformers' AutoModelForCausalLM.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.cache_utils import Cache, DummyLayer, DynamicCache
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from lsrl.errors import FormatError, InputError
from lsrl.nn.attached_config import LEARNT, MODEL_TYPE, AttachedConfig
from lsrl.nn.torch_library import (
    Routines,
    State,
    TorchLibrary,
    check_ids,
    check_mask,
)
from lsrl.torch_config import TorchConfig
from lsrl.torch_folder import checksum


class LibraryLayer(DummyLayer):  # type: ignore[misc]
    """A layer of a cache that holds what registers and routines hold, behind those of the host."""

    is_compileable = False
    is_croppable = False

    def __init__(self, **kwargs: object) -> None:
        """Make an empty one."""
        super().__init__(**kwargs)
        self.state: State | None = None

    def reset(self) -> None:
        """As before the first token."""
        self.state = None

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to go back, as routines keep one state alone."""
        if tokens_to_remove:
            raise InputError(
                "attached model: expected a cache that grows, got crop(): routines can't take a "
                "token back; generate without an assistant model or prompt look-up"
            )

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences."""
        if self.state is not None:
            self.state = self.state.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        if self.state is not None:
            rows = torch.arange(len(self.state.register)).repeat_interleave(repeats)
            self.state = self.state.select(rows)


@dataclass
class _Call:
    """What a call of the model is given, for the layer that reads it; and the state behind it."""

    ids: Tensor
    mask: Tensor | None
    state: State | None


class AttachedForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A language model of transformers with a library attached to one of its layers.

    Made by `lsrl.nn.attach`. It is trained, saved and generates as other models of transformers.

    Attributes:
      host: the model, of its own class.
      library: what is attached, a `TorchLibrary`.
    """

    config_class = AttachedConfig
    base_model_prefix = "host"
    main_input_name = "input_ids"
    _keep_in_fp32_modules_strict: ClassVar[set[str]] = {"routines"}

    def __init__(self, config: AttachedConfig, host: PreTrainedModel | None = None) -> None:
        """Make a model; `lsrl.nn.attach` and `lsrl.nn.load_attached` do.

        Args:
          config: of the whole.
          host: the model; without one its class is made of the config, with weights not set.

        Raises:
          InputError: the host has no layers to be found.
        """
        super().__init__(config)
        if host is None:
            host = MODEL_FOR_CAUSAL_LM_MAPPING[type(config.host)](config.host)
        config.host = host.config
        told = cast(dict[str, Any], config.attached)
        self.host = host
        self.library = _library(told, host.get_input_embeddings().weight.shape[-1])
        self._call: _Call | None = None
        layers_of(host)[told["layer"]].register_forward_hook(self._attend, with_kwargs=True)
        self._is_stateful = host._is_stateful
        self.supports_gradient_checkpointing = host.supports_gradient_checkpointing
        self.post_init()
        self.generation_config = host.generation_config

    def _init_weights(self, module: nn.Module) -> None:
        """Leave modules as they were made: the host has its own rules, and the library others."""

    # ------------------------------------------------------------ running

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the host, with what the library adds at its layer.

        Args:
          input_ids: (batch, time).
          attention_mask: (batch, tokens so far), 0 at padding, on whichever side.
          cache: of the tokens before.
          inputs_embeds: refused.
          labels: as the host takes them.
          use_cache: whether a cache is returned.
          **kwargs: for the host.

        Returns:
          What the host returns.

        Raises:
          InputError: no ids, a mask of another kind, or a cache while it is trained.
        """
        ids = check_ids(input_ids, inputs_embeds)
        for older in ("past_key_values", "cache_params"):
            given = kwargs.pop(older, None)
            cache = cache if given is None else given
        if use_cache is None:
            use_cache = bool(getattr(self.host.config, "use_cache", False)) and not self.training
        if cache is None and use_cache:
            cache = DynamicCache(config=self.host.config)
        layer = self._held(cache)
        self._call = call = _Call(ids, check_mask(attention_mask, ids), layer and layer.state)
        try:
            found = self.host(
                input_ids=ids,
                attention_mask=attention_mask,
                cache=cache,
                labels=labels,
                use_cache=use_cache,
                **{name: value for name, value in kwargs.items() if value is not None},
            )
        finally:
            self._call = None
        if cache is not None:
            if layer is None:  # behind those of the host, some of which are made as they are filled
                cache.layers.append(layer := LibraryLayer())
            layer.state = call.state
        return found

    def _held(self, cache: Cache | None) -> LibraryLayer | None:
        """The part of a cache that is the library's."""
        if cache is None:
            return None
        if self.training:
            raise InputError(
                "attached model: expected no cache in training, where routines are drawn, got one; "
                "call model.eval() first, or pass use_cache=False"
            )
        if not isinstance(cache, Cache) or not hasattr(cache, "layers"):
            raise InputError(
                f"attached model: expected a Cache of layers, got {type(cache).__name__}; pass a "
                "transformers.DynamicCache(config=model.host.config)"
            )
        found = [one for one in cache.layers if isinstance(one, LibraryLayer)]
        if not found and _used(cache):
            raise InputError(
                "attached model: expected a cache that this model filled, got one of a host alone; "
                "read the tokens before with the attached model"
            )
        return found[0] if found else None

    def _attend(self, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Add what the library says to the output of its layer."""
        call = self._call
        if call is None:
            raise InputError(
                "attached model: this host has a library attached, and would run without it; call "
                "what lsrl.nn.attach returned, on one device"
            )
        hidden = args[0] if args else kwargs["hidden_states"]
        added, call.state = self.library(hidden, call.ids, call.mask, call.state)
        first, *others = output if isinstance(output, tuple) else (output,)
        first = first + added.to(first.dtype)
        return (first, *others) if isinstance(output, tuple) else first

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """As the host does."""
        return self.host.prepare_inputs_for_generation(input_ids, **kwargs)

    # ------------------------------------------------------------ embeddings

    def get_input_embeddings(self) -> nn.Module:
        """The host's."""
        return self.host.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """The host's."""
        self.host.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The host's."""
        return self.host.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """The host's."""
        self.host.set_output_embeddings(new_embeddings)

    # ------------------------------------------------------------ reading

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Read what `save_pretrained` wrote; arguments as those of transformers.

        Raises:
          FormatError: weights are missing, or those of the routines are not as certified.
        """
        wanted = kwargs.pop("output_loading_info", False)
        model, told = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        lost = [
            f"{kind.replace('_', ' ')} {sorted(map(str, told[kind]))[:3]}"
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
            if told[kind]
        ]
        if lost:
            raise FormatError(
                f"{args[0] if args else 'from_pretrained'}: expected all weights of the host and "
                f"the library, got {', '.join(lost)}; save the model again by save_pretrained"
            )
        model.check()
        return (model, told) if wanted else model

    def check(self) -> None:
        """See that the routines are those that were certified.

        Raises:
          FormatError: a weight of the network, or an entry of a table, differs.
        """
        told = cast(dict[str, Any], self.config.attached)
        network, routines = told["network"], self.library.routines
        weights = {name: held.detach().cpu() for name, held in routines.network().items()}
        content = to_safetensors(weights, {"format": "pt"})
        if network.get("checksum") != checksum(network, content):
            raise _altered("the network's weights")
        fresh = _library(told, self.library.result.out_features)
        ours = dict(self.library.named_buffers())
        for name, held in fresh.named_buffers():
            if name.rpartition(".")[2] in TABLES and not torch.equal(held, ours[name].cpu()):
                raise _altered(name)


# Buffers that `config.json` decides.
TABLES = ("follows", "said", "starts", "symbol_of")


def _library(told: Mapping[str, Any], width: int) -> TorchLibrary:
    """The library of a config, with weights of its network that are not set."""
    symbol_of = None
    if told["arguments"] != LEARNT:
        symbol_of = [len(told["routines"][0]["follows"][0]) - 1] * told["tokens"]
        for token, symbol in told["arguments"].items():
            symbol_of[int(token)] = symbol
    routines = Routines(told["routines"], cast(TorchConfig, told["network"]))
    return TorchLibrary(routines, symbol_of, width, told["select"] == "register")


def layers_of(host: PreTrainedModel) -> nn.ModuleList:
    """The layers of a language model, first to last.

    Raises:
      InputError: it has no one list of as many as its config says.
    """
    count = getattr(host.config, "num_hidden_layers", None)
    found = [
        part
        for part in host.base_model.children()
        if isinstance(part, nn.ModuleList) and len(part) == count
    ]
    if len(found) != 1:
        raise InputError(
            f"attach: expected a model with one list of {count} layers, got {type(host).__name__} "
            f"with {len(found)}; attach to a model such as LlamaForCausalLM"
        )
    return found[0]


def _used(cache: Cache) -> bool:
    """Whether a cache holds tokens of a host."""
    for layer in cache.layers:
        states = getattr(layer, "has_previous_state", {})
        if any(states.values()) or (hasattr(layer, "get_seq_length") and layer.get_seq_length()):
            return True
    return False


def _altered(what: str) -> FormatError:
    return FormatError(
        f"attached model: expected the routines that were certified, got others: {what} differs; "
        "attach the library again"
    )


AutoConfig.register(MODEL_TYPE, AttachedConfig, exist_ok=True)
AutoModelForCausalLM.register(AttachedConfig, AttachedForCausalLM, exist_ok=True)
