"""Models for other frameworks: what `Model` writes for them, and tells of what they hold."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from numpy.typing import ArrayLike

from lsrl import arguments, requests
from lsrl.backends import registry
from lsrl.backends.base import ExportRequest
from lsrl.backends.network import Network
from lsrl.card import Card
from lsrl.certificate import Certificate
from lsrl.circuit import Circuit
from lsrl.errors import InputError, SizeError
from lsrl.golden import GoldenState
from lsrl.ir.numbers import Array
from lsrl.language.program import Program
from lsrl.options import MOST_PARAMETERS
from lsrl.schedule import Layout
from lsrl.state import State

Path = str | os.PathLike[str]


class Exporting(ABC):
    """The part of a model that other frameworks run.

    Attributes:
      program: the program.
      target: the target's name.
      schedule: layers and labels.
      module: the network.
    """

    program: Program
    target: str
    schedule: Layout
    module: Network

    @property
    @abstractmethod
    def certificate(self) -> Certificate:
        """What is proven."""

    @property
    @abstractmethod
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """The signal in each channel of each layer."""

    @property
    @abstractmethod
    def card(self) -> Card | None:
        """What was done to the compiled network."""

    @property
    @abstractmethod
    def circuit(self) -> Circuit:
        """Which signal each channel holds."""

    @abstractmethod
    def _taken(
        self, what: str, inputs: Sequence[ArrayLike], state: State | None, more: int, beyond: bool
    ) -> tuple[list[Array], bool]: ...

    def export(
        self,
        format: str,
        path: Path,
        *,
        tie_word_embeddings: bool = False,
        headless: bool = False,
        layers: Literal["stacked", "separate"] = "stacked",
        architecture: str | None = None,
    ) -> None:
        """Write the model for another framework.

        Args:
          format: "torch": a folder that `lsrl.load_torch` reads, and plain torch of stock cells.
            "huggingface", of residual targets: one that transformers reads, by AutoTokenizer and
            AutoModelForCausalLM if the program has a token in and a token out, else by AutoModel;
            its card has the code.
          path: where to; an older export in its place is replaced, whole or not at all.
          tie_word_embeddings: of "huggingface": the head is the embedding, for a layer more.
          headless: of "huggingface": without a head also where there could be one. The outputs then
            are those of `run`, and layers and channels those of `circuit`.
          layers: of "torch": "stacked", one stock module of all, padded to one width; "separate", a
            module a layer, which plain torch can hook, and which the linear targets always have.
          architecture: of "huggingface": which class runs it, of those that the target has, such as
            "falcon_h1" of mamba2; by default its own. The card says what a class can't do.

        Raises:
          InputError: this target has no such format or class, or there is no head to tie.
          UnsupportedOpError: the class can't be this network.
          PrecisionError: float32 can't hold the weights of a head.
          SizeError: parameters are sparse, and too many to write every entry of them.
          FormatError: the path holds something that is no export.
          OSError: the path can't be written.
        """
        exporters = registry.find(self.target).exporters()
        only = {
            "embedding to tie a head to": tie_word_embeddings,
            "head": headless,
            "architecture to choose": architecture is not None,
        }
        elsewhere = registry.able(lambda target: format in tuple(target.exporters()))
        requests.check_export(format, self.target, exporters, elsewhere, only, layers)
        folder = arguments.path("export", path)
        self._check_dense()
        request = self._request(tie_word_embeddings, headless, layers == "separate", architecture)
        exporters[format](folder, self.module, self.schedule, request)

    def _check_dense(self) -> None:
        """Raise SizeError if sparse parameters are too large to be written entry by entry."""
        module = self.module
        entries, most = module.num_parameters, MOST_PARAMETERS
        if entries > most and any(place.pattern is not None for place in module.places().values()):
            raise SizeError(
                f"{self.program.name!r} on {self.target!r} has sparse parameters, and an export is "
                f"dense: it would be {entries:,} numbers, of which "
                f"{module.num_nonzero_parameters:,} are not 0, and at most {most:,} are written; "
                "export a smaller program, or keep this one by model.save, which writes weights",
                entries,
                most,
            )

    def export_state(
        self,
        inputs: ArrayLike | tuple[ArrayLike, ...],
        token: int,
        *,
        tie_word_embeddings: bool = False,
        headless: bool = False,
    ) -> GoldenState:
        """What every entry of the cache holds between two tokens, labelled; see docs/kernels.md.

        It is the cache of the checkpoint that `export("huggingface", ...)` writes with the same
        options, in the layout of its class.

        Args:
          inputs: as for `run`; of a program of several inputs a tuple of arrays.
          token: how many of the tokens are read; 0 is ahead of the first.
          tie_word_embeddings: as for `export`.
          headless: as for `export`.

        Raises:
          InputError: the target has no such checkpoint, or the network was altered, or the inputs
            are not of their types or too few.
          PrecisionError: as for `export`.
        """
        record = registry.find(self.target).recorder()
        if record is None:
            raise InputError(
                f"export_state: target {self.target!r} has no class of transformers that keeps a "
                "cache; compile for one of "
                f"{registry.able(lambda target: target.recorder() is not None)}, or keep this "
                "one's state by model.save_state"
            )
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        arrays, _ = self._taken("export_state", given, None, 0, False)
        token = arguments.count("export_state: token", token, 0, arrays[0].shape[1])
        arguments.flag("export_state: tie_word_embeddings", tie_word_embeddings)
        arguments.flag("export_state: headless", headless)
        request = self._request(tie_word_embeddings, headless)
        return record(self.module, self.schedule, request, arrays, token)

    def _request(
        self,
        tied: bool,
        headless: bool,
        separate: bool = False,
        architecture: str | None = None,
    ) -> ExportRequest:
        certificate = self.certificate
        return ExportRequest(
            self.program,
            self.target,
            self.labels,
            str(certificate),
            certificate.exact,
            certificate.tokens,
            None if self.card is None else str(self.card),
            lambda: self.circuit,
            tied,
            headless,
            separate,
            architecture,
        )
