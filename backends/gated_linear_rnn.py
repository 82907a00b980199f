"""Target `gated_linear_rnn`: the linear RNN with channel pairs multiplied (Petrov et al. 2024)."""

from dataclasses import replace
from typing import ClassVar

from lsrl.backends.base import capabilities_of
from lsrl.backends.linear_rnn import LINEAR, LinearRnn
from lsrl.ir.ops import Product
from lsrl.target import Capabilities


class GatedLinearRnn(LinearRnn):
    """A linear RNN whose output channels can be products of two hidden channels."""

    name: ClassVar[str] = "gated_linear_rnn"
    cell: ClassVar[str] = "the same, and channel pairs multiplied (the paper's gated linear RNN)"
    capabilities: ClassVar[Capabilities] = replace(
        capabilities_of({*LINEAR, Product}), general_product=True
    )


BACKEND = GatedLinearRnn()
