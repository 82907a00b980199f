"""Whether a target holds a program, at which lengths and in which dtype, and why."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lsrl.backends import registry
from lsrl.backends.base import Backend
from lsrl.compiler import compile
from lsrl.errors import PrecisionError, SizeError, UnsupportedOpError
from lsrl.language.program import Program
from lsrl.model import Model
from lsrl.numerics import DTYPES, numerics_of
from lsrl.options import AUTOMATA, MOST_PARAMETERS, AutomatonLimits, Legalise
from lsrl.schedule import Layout
from lsrl.showing import card
from lsrl.support import TargetInfo, check_program, name_of

Answer = Literal["yes", "bounded", "no"]

DEFAULT_DTYPE = "float32"

_ANY_LENGTH = "no bound, no bit and no layer depends on the length"
_BY_SWAPS = (
    "its automata are held by reflections, one a token and layer, whose eigenvalue -1 gives parity "
    "(Grazzi et al. 2025) and whose products give every permutation (Siems et al. 2025); fixed and "
    "diagonal recurrences can't at any fixed depth unless TC0 = NC1 (Merrill et al. 2024)"
)
# A program that takes more bits than any dtype has is as good as continuous.
MOST_BITS = max(numerics.bits for numerics in DTYPES.values())


@dataclass(frozen=True)
class Explanation:
    """Whether and how a target holds a program in a dtype.

    Attributes:
      program: its name.
      target: the target's name.
      dtype: the dtype that all this is said of.
      answer: "yes" if at any length every output equals the program's, or, where values are
        continuous, lies within `error_bound` of it; "bounded" if that is so up to `tokens` tokens;
        "no" if the target can't hold the program, or the dtype can't.
      reason: the rule, theorem or number behind the answer.
      tokens: up to how many tokens the answer holds; None for any number, 0 if it is no.
      error_bound: the greatest absolute error of an output over these tokens; 0 where exact, inf if
        the answer is no.
      num_layers: depth, the same at every length; 0 if there is no network.
      width: channels of the widest layer.
      bits: significand bits that exactness needs, by number of tokens. It is exact over so many
        tokens where the dtype has as many bits. None where no number is enough: values are
        continuous, or leave the range of the dtype.
      automata: how each threshold state is held that swaps and holds stand for: construction,
        points, swaps a letter, levels, layers and units, as text.
    """

    program: str
    target: str
    dtype: str
    answer: Answer
    reason: str
    tokens: int | None = 0
    error_bound: float = math.inf
    num_layers: int = 0
    width: int = 0
    bits: tuple[tuple[int, int | None], ...] = ()
    automata: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A few lines of text."""
        lines = [f"{self.program} on {self.target}: {self.answer} ({self.dtype})"]
        lines.append(f"  {self.reason}")
        if self.num_layers:
            lines.append(
                f"  {self.num_layers} layers of at most {self.width} channels at any length"
            )
            lines.append(f"  significand bits by tokens: {self._needs()}")
        lines.extend(f"  {line}" for line in self.automata)
        return "\n".join(lines)

    def _needs(self) -> str:
        return ", ".join(f"{bits or '∞'} at {tokens}" for tokens, bits in self.bits)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        facts = [("answer", self.answer), ("why", self.reason)]
        if self.answer != "no":
            length = "at any length" if self.tokens is None else f"up to {self.tokens} tokens"
            facts += [("holds", length), ("error bound", f"{self.error_bound:.3g}")]
        if self.num_layers:
            facts.append(("size", f"{self.num_layers} layers of at most {self.width} channels"))
            facts.append(("bits", f"of the significand: {self._needs()} tokens"))
        facts.extend(("automaton", line) for line in self.automata)
        return card(f"{self.program} on {self.target}, {self.dtype}", facts)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # as in `compile`
def explain(
    program: Program,
    target: str | TargetInfo,
    *,
    dtype: object = None,
    legalise: Legalise = "native",
    most_parameters: int = MOST_PARAMETERS,
    automaton_limits: AutomatonLimits = AUTOMATA,
) -> Explanation:
    """Say whether a target can hold a program: yes, bounded (up to a length), or no.

    Args:
      program: made by `lsrl.program`.
      target: one of `lsrl.targets()`, or its name.
      dtype: that the answer is for; float32 by default, or the widest that the target comes in.
      legalise: as for `compile`.
      most_parameters: as for `compile`; a larger network is a no.
      automaton_limits: as for `compile`.

    Raises:
      ProgramError: that is no program.
      UnknownTargetError: no target of that name.
      PrecisionError: a dtype that no model comes in.

    Example:
      found = lsrl.explain(lsrl.programs.flip_flop(), "linear_rnn")
      print(found.answer)
      print(lsrl.explain(lsrl.programs.flip_flop(), "mamba").answer)
    """
    check_program("explain", program)
    target = name_of(target)
    backend = registry.find(target)
    if dtype is None:
        dtype = DEFAULT_DTYPE if DEFAULT_DTYPE in backend.dtypes else backend.dtypes[-1]
    numerics = numerics_of(dtype)
    about = program.name, target, numerics.dtype
    try:
        model = compile(
            program,
            target,
            dtype=numerics.dtype,
            legalise=legalise,
            most_parameters=most_parameters,
            automaton_limits=automaton_limits,
        )
    except UnsupportedOpError as error:
        reasons = dict.fromkeys(offence.reason for offence in error.offences)
        return Explanation(*about, "no", "; ".join(reasons))
    except (PrecisionError, SizeError) as error:
        return Explanation(*about, "no", f"{error}")
    bits = _bits(backend, model, program.max_length or model.schedule.graph.tokens)
    answer, reason, tokens = _verdict(program, model, bits, legalise)
    # Exact up to a token is without error up to there, whatever comes after.
    bound = model.certificate.error_bound if tokens == model.certificate.tokens else 0.0
    bound = math.inf if answer == "no" else bound
    size = len(model.schedule.layers), model.schedule.width
    automata = model.compilation.automata
    return Explanation(*about, answer, reason, tokens, bound, *size, bits, automata)


def _bits(
    backend: Backend[Layout], model: Model, longest: int
) -> tuple[tuple[int, int | None], ...]:
    """Bits at a few lengths up to the longest."""
    analyse = backend.analysis(model.schedule, model.numerics)
    lengths = sorted({min(2**k, longest) for k in (4, 8, 12, 16)} | {longest})
    return tuple((tokens, analyse(tokens).bits_needed()) for tokens in lengths)


def _verdict(
    program: Program, model: Model, bits: tuple[tuple[int, int | None], ...], legalise: Legalise
) -> tuple[Answer, str, int | None]:
    """The answer, the reason, and the number of tokens."""
    certificate, numerics = model.certificate, model.numerics
    tokens = certificate.tokens
    answer: Answer = "yes" if tokens is None else "bounded"
    if certificate.exact:
        if tokens is None and model.compilation.automata:
            return answer, f"{_ANY_LENGTH}; {_BY_SWAPS}", tokens
        return answer, _why_exact(program, tokens, bits, legalise), tokens
    (reason,) = certificate.reasons
    if certificate.exact_in_dtype:
        why = (
            f"exact in {numerics.dtype}: bit for bit as the program run in it, {certificate.length}"
        )
        return answer, why, tokens
    if reason.token:
        what = replace(reason, token=0)
        why = f"{numerics.dtype} is exact over the first {reason.token} tokens; then {what}"
        return "bounded", why, reason.token
    needed = bits[0][1]
    if needed is not None and needed <= MOST_BITS:
        able = [name for name, other in DTYPES.items() if other.bits >= needed]
        why = (
            f"it takes {needed} significand bits ({', '.join(able)}), and {numerics.dtype} has "
            f"{numerics.bits}: {reason}"
        )
        return "no", why, 0
    if not math.isfinite(certificate.error_bound):
        return "no", f"its error has no bound in {numerics.dtype}: {reason}", 0
    bound = f"{certificate.error_bound:.3g} {certificate.length}"
    return answer, f"not exact, but within the error bound {bound}: {reason}", tokens


def _why_exact(
    program: Program,
    tokens: int | None,
    bits: tuple[tuple[int, int | None], ...],
    legalise: Legalise,
) -> str:
    if tokens is None:
        return _ANY_LENGTH
    if legalise == "unroll":
        return f"unrolled for max_length={program.max_length} tokens"
    declared = "" if program.max_length is None else f"max_length={program.max_length}: "
    if len({needed for _, needed in bits}) > 1:
        return (
            f"its counts grow with the length, so a fixed precision is exact up to a length: here "
            f"{declared}{tokens} tokens (Weiss et al. 2018 on counting)"
        )
    return f"its bounds are those of {declared}{tokens} tokens, and some of them grow"
