"""Target `gated_linear_rnn`: the linear RNN with channel pairs multiplied (Petrov et al. 2024)."""

from lsrl.backends.linear_rnn import LINEAR_OPS, LinearRnn
from lsrl.ir.ops import Product
from lsrl.target import Capabilities


class GatedLinearRnn(LinearRnn):
    """A linear RNN whose output channels can be products of two hidden channels."""

    name = "gated_linear_rnn"
    cell = "the same, and channel pairs multiplied (the paper's gated linear RNN)"
    features = {  # noqa: RUF012 - a class attribute of the base, never changed
        **LinearRnn.features,
        "select/gate with a {0,1} operand": "yes",
        "product of two signals": "yes",
    }
    capabilities = Capabilities(
        native=LINEAR_OPS | {Product}, boolean_product=True, general_product=True
    )


BACKEND = GatedLinearRnn()
