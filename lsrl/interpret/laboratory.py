"""What each method says of a network; see `lsrl.interpret.methods`."""

from functools import cached_property
from typing import Literal, get_args

import numpy as np

from lsrl.backends.strength import Sources
from lsrl.errors import InputError
from lsrl.interpret.attribution import attributed
from lsrl.interpret.basis import Effects
from lsrl.interpret.runs import TwoRuns
from lsrl.interpret.weights import read_weights
from lsrl.ir.numbers import Array

Method = Literal[
    "weights", "zero", "mean", "resample", "attribution", "integrated", "probes", "random"
]
METHODS: tuple[Method, ...] = get_args(Method)


class Laboratory(TwoRuns):
    """A network under all methods."""

    def effects(self, method: Method) -> Effects:
        """What a method says; "probes" say nothing of this kind, see `probe`.

        Raises:
          InputError: there is no such method.
        """
        if method == "random":
            return self._random()
        if method == "weights":
            return self._weights()
        if method in ("zero", "mean", "resample"):
            return self.ablated(method)
        if method in ("attribution", "integrated"):
            return self._attributed[method]
        known = ", ".join(METHODS)
        raise InputError(f"there is no method {method!r} of this kind; there are {known}")

    def _random(self) -> Effects:
        layers, items = self.basis.read.shape[:2]
        forward = [self.rng.random((items, items)) for _ in range(layers - 1)]
        return Effects(
            self.basis,
            list(self.rng.random((layers, items))),
            [*forward, self.rng.random((items, 1))],
            [self.rng.random((items, items)) for _ in range(layers)],
        )

    def _weights(self) -> Effects:
        units = self.circuit.units
        counts = units if self.basis.units else [self.basis.read.shape[1]] * len(units)
        sizes = np.sqrt((self.values**2).mean(axis=(1, 2)))
        layers = [
            Sources(
                self.basis.read[layer, :count, :width],
                self.basis.write[layer, :count, :width],
                self.spread[layer, :count],
                sizes[layer, :count],
            )
            for layer, (count, width) in enumerate(zip(counts, units, strict=True))
        ]
        forward, recurrent = read_weights(self.model, layers)
        # A node is worth the strongest path from it to the output.
        nodes: list[Array] = []
        forward[-1] = forward[-1][:, self.counted].max(axis=1, keepdims=True)
        behind = np.ones(1)
        for layer in reversed(range(len(units))):
            worth = (forward[layer] * behind).max(axis=1, initial=0.0)
            if self.model.module.residual and nodes:
                worth = np.maximum(worth, behind)
            for _ in range(2):
                worth = np.maximum(worth, (recurrent[layer] * worth).max(axis=1, initial=0.0))
            nodes.append(worth)
            behind = worth
        return Effects(self.basis, nodes[::-1], forward, recurrent)

    _attributed = cached_property(attributed)
