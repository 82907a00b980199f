"""What `config.json` of a model with a library says: the host's own config, and what is attached.

This module needs transformers; `lsrl.nn.attached` imports it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from transformers import AutoConfig, PreTrainedConfig

from lsrl import schema
from lsrl.errors import FormatError
from lsrl.schema import FieldError, Reader
from lsrl.torch_config import READ

MODEL_TYPE = "lsrl_attached"
VERSION = 1
SELECTS = ("register", "token")
# In the place of a map of tokens to symbols: the host's state says which symbol a token is.
LEARNT = "learnt"
# In the place of a number that every class of a language model reads, so that none of them takes
# the folder for its own: it would drop the library and draw all weights anew.
ELSEWHERE = "in attached.host: this is a model with a library, to be read by lsrl.nn.load_attached"

_ROUTINE: Reader[dict[str, object]] = schema.record(
    {
        "name": schema.text,
        "follows": schema.listed(schema.listed(schema.integer(0))),
        "ids": schema.listed(schema.integer(0)),
        "initial": schema.integer(0),
    }
)


def _arguments(value: object) -> object:
    """Reads a map of tokens to symbols, or that it is learnt."""
    return value if value == LEARNT else schema.named(schema.integer(0))(value)


_FIELDS: Mapping[str, Reader[object]] = {
    "version": schema.integer(VERSION, VERSION),
    "host": schema.anything,
    "layer": schema.integer(0),
    "select": schema.one_of(*SELECTS),
    "tokens": schema.integer(1),
    "arguments": _arguments,
    "routines": schema.listed(_ROUTINE),
    "network": READ,
}
_READ: Reader[dict[str, object]] = schema.record(_FIELDS)


class AttachedConfig(PreTrainedConfig):  # type: ignore[misc]
    """What `config.json` says of a host and of the library that is attached to it.

    Attributes:
      attached: version, layer, select, tokens, arguments, routines and network; and the host's
        own config, by its model_type.
      host: that config.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]
    attached: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: object) -> None:
        kwargs.pop("vocab_size", None)
        super().__post_init__(**kwargs)
        self.host: PreTrainedConfig = PreTrainedConfig()
        if self.attached is None:
            return  # transformers makes an empty one, to tell what differs from it
        try:
            fields = _READ(self.attached)
        except FieldError as error:
            raise FormatError(f"config.json: attached: {error}") from error
        host = dict(cast(Mapping[str, Any], fields["host"]))
        self.host = AutoConfig.for_model(host.pop("model_type", ""), **host)

    @property
    def vocab_size(self) -> int:
        """Of the host."""
        return self.host.vocab_size

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """The host's: of it caches are made."""
        return self.host

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        found = super().to_dict()
        host = found.pop("host")
        if self.attached is not None:
            found["attached"] = {**self.attached, "host": host}
            found["vocab_size"] = ELSEWHERE
        return found
