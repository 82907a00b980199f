"""Target `gated_linear_rnn`: the linear RNN with channel pairs multiplied (Petrov et al. 2024)."""

from collections.abc import Mapping
from typing import ClassVar

from lsrl.backends.linear_rnn import LINEAR, ChannelKind, LinearRnn, linear_capabilities
from lsrl.ir.ops import Op, Product
from lsrl.target import Capabilities


class GatedLinearRnn(LinearRnn):
    """A linear RNN whose output channels can be products of two hidden channels."""

    name: ClassVar[str] = "gated_linear_rnn"
    cell: ClassVar[str] = "the same, and channel pairs multiplied (the paper's gated linear RNN)"
    channels: ClassVar[Mapping[type[Op], ChannelKind]] = {**LINEAR, Product: "product"}
    capabilities: ClassVar[Capabilities] = linear_capabilities(channels)


BACKEND = GatedLinearRnn()
