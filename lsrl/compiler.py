"""The compiler: a program and a target in, a certified model out."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from lsrl import reuse
from lsrl.backends import registry
from lsrl.certificate import certify
from lsrl.ir.verify import verify
from lsrl.language.program import Program
from lsrl.model import Model
from lsrl.numerics import numerics_of
from lsrl.options import Legalise, Options
from lsrl.passes.pipeline import Pipeline
from lsrl.passes.unroll import unroll_states
from lsrl.schedule import Levels
from lsrl.stages import Report, Stages
from lsrl.support import check_length, check_request, check_supported, check_verbatim

Activation = Literal["relu", "tanh"]


# What float64 can't hold is infinite, and the certificate tells of it.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def compile(
    program: Program,
    target: str,
    *,
    dtype: Any = "float32",
    activation: Activation | None = None,
    legalise: Legalise = "native",
    robust: bool = False,
    inspectable: bool = False,
    verbatim: bool = False,
    levels: Levels | None = None,
    cache: bool = False,
) -> Model:
    """Compile a program into the weights of a recurrent network.

    Args:
      program: made by `lsrl.program`.
      target: a name from `lsrl.targets()`.
      dtype: "float32", "float64" or "bfloat16".
      activation: of the target "rnn", "relu" (default) or "tanh"; no other target has a choice.
      legalise: "unroll" writes threshold and selective states that the target can't hold as log2 T
        levels of delay and composition, exact up to the program's max_length.
      robust: bear more noise: comparisons on a grid stand midway between the values that occur, so
        that errors below a quarter of their distance are wiped out, and conditionals shut with room
        to spare. The outputs stay the same; it can cost layers. LSTM, GRU and tanh RNN, which
        saturate, compare in the middle in any case.
      inspectable: let every signal be read from the channels that hold it and from nowhere else, as
        interventions need it (`lsrl.interpret`). It takes more layers.
      verbatim: lower the text as it stands, to measure what it bears by itself: nothing that the
        bounds decide is dropped, and every unit composes the affine maps that it reads into its own
        weights, as the original implementation does (Petrov et al. 2024). The outputs stay the
        same; not for mamba, griffin and the tanh RNN, which have no ReLU.
      levels: a schedule's levels, to rebuild it instead of solving for the least width.
      cache: reuse what an equal program was compiled to: all but the module within a process, the
        schedule's levels across processes, from the user's cache directory.

    Returns:
      The compiled model, with its certificate.

    Raises:
      UnknownTargetError: no target of that name.
      UnsupportedOpError: the target can't hold some signals; lists all of them.
      ProgramError: verbatim on a target that writes ReLUs as something else.
      PrecisionError: the dtype is unknown or has no room for the weights of even the first token.
    """
    options = Options(legalise, robust, inspectable, verbatim)
    if cache and isinstance(program, Program) and levels is None:
        chosen = {"dtype": dtype, "activation": activation} | options._asdict()
        return reuse.compiled(program, target, chosen, compile)
    check_request(program, options)
    backend, numerics = registry.find(target, activation), numerics_of(dtype)
    backend.check_dtype(numerics)
    if verbatim:
        check_verbatim(backend)
    stages, pipeline = Stages(), Pipeline(verbatim)
    graph = stages.time("simplify", lambda: pipeline.simplify(program.graph))
    unrolled = legalise == "unroll" and bool(backend.offending(graph))
    if unrolled:
        check_length(program)
        graph = stages.time("unroll", lambda: unroll_states(graph, backend.capabilities))
    check_supported(program, graph, backend)
    graph = stages.time("legalise", lambda: pipeline.legalise(graph, backend.capabilities, robust))
    graph = verify(graph)
    schedule = stages.time("schedule", lambda: backend.schedule(graph, levels, options))
    certificate = stages.time(
        "certify", lambda: certify(schedule, numerics, backend.analysis(schedule, numerics))
    )
    if unrolled:
        certificate = replace(certificate, tokens=program.max_length)
    module = stages.time("lower", lambda: backend.lower(schedule, numerics))
    report = Report(tuple(pipeline.records), stages.seconds)
    return Model(program, backend.name, options, schedule, certificate, numerics, module, report)
