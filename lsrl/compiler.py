"""The compiler: a program and a target in, a certified model out."""

from collections.abc import Mapping

import numpy as np

from lsrl import arguments, reuse
from lsrl.errors import ProgramError
from lsrl.language.program import Program
from lsrl.levels import Levels
from lsrl.model import Model
from lsrl.options import (
    AUTOMATA,
    MOST_PARAMETERS,
    Activation,
    AutomatonLimits,
    Legalise,
    Options,
)
from lsrl.passes.pipeline import Report
from lsrl.stages import Stages, Watch
from lsrl.support import TargetInfo, check_request, name_of


# What float64 can't hold is infinite, and the certificate tells of it.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def compile(
    program: Program,
    target: str | TargetInfo,
    *,
    dtype: object = "float32",
    activation: Activation | None = None,
    legalise: Legalise = "native",
    robust: bool = False,
    inspectable: bool = False,
    verbatim: bool = False,
    levels: Levels | None = None,
    most_parameters: int = MOST_PARAMETERS,
    automaton_limits: AutomatonLimits = AUTOMATA,
    cache: bool = False,
    watch: Watch | None = None,
) -> Model:
    """Compile a program into the weights of a recurrent network.

    Args:
      program: made by `lsrl.program`.
      target: one of `lsrl.targets()`, or its name.
      dtype: "float32", "float64" or "bfloat16".
      activation: of the target "rnn", "relu" (default) or "tanh"; no other target has a choice.
      legalise: "unroll" writes threshold, selective and swap states that the target can't hold as
        log2 T levels of delay and composition, exact up to the program's max_length.
      robust: bear more noise: comparisons on a grid stand midway between the values that occur, so
        that errors below a quarter of their distance are wiped out, and conditionals shut with room
        to spare. The outputs stay the same; it can cost layers. LSTM, GRU and tanh RNN, which
        saturate, compare in the middle in any case.
      inspectable: let every signal be read from the channels that hold it and from nowhere else, as
        interventions need it (`lsrl.interpret`). It takes more layers.
      verbatim: lower the text as it stands, to measure what it bears by itself: nothing that the
        bounds decide is dropped, and every unit composes the affine maps that it reads into its own
        weights, as the original implementation does (Petrov et al. 2024). The outputs stay the
        same; not for residual targets and the tanh RNN, which have no ReLU.
      levels: a schedule's levels, to rebuild it instead of solving for the least width.
      most_parameters: how many numbers the parameters may be, all together; a larger network is
        refused before any of them is made. By default 2^28, which are 1 GiB of float32; lowering
        takes some four times that.
      automaton_limits: how large what stands for a threshold state may become on a target that
        holds it by swaps, such as deltanet: by default 16 layers, 1,000 table units, 1,500 chains.
      cache: reuse what an equal program was compiled to: all but the module within a process, the
        schedule's levels across processes, from the user's cache directory.
      watch: called after each pass with its name and the graph that it made (`graph.dump()` is its
        text), and after the stage "schedule" with the layers; nothing is then taken from a cache.

    Returns:
      The compiled model, with its certificate.

    Raises:
      UnknownTargetError: no target of that name.
      UnsupportedOpError: the target can't hold some signals; lists all of them.
      ProgramError: verbatim on a target that writes ReLUs as something else.
      SizeError: the network would have more than `most_parameters`; says of what they come.
      PrecisionError: the dtype is unknown or has no room for the weights of even the first token.

    Source: Petrov et al. (2024), arXiv 2406.01424, for what is compiled; levels as in the retiming
    of Leiserson and Saxe (1991).

    Example:
      model = lsrl.compile(lsrl.programs.parity(max_length=200), "lstm")
      print(model.run([1, 0, 1, 1])[:, 0], model.certificate.exact)
    """
    target, options = name_of(target), Options(legalise, robust, inspectable, verbatim)
    arguments.function("watch", watch, "a name and a graph", ProgramError)
    arguments.count("most_parameters", most_parameters, kind=ProgramError)
    arguments.instance(
        "automaton_limits", automaton_limits, AutomatonLimits, "lsrl.AutomatonLimits", ProgramError
    )
    for name, most in automaton_limits._asdict().items():
        arguments.count(f"automaton_limits.{name}", most, 0, kind=ProgramError)
    if levels is not None and not isinstance(levels, Mapping):
        raise ProgramError(
            f"levels must be those of an equal model, model.schedule.levels, got {levels!r}"
        )
    if (
        arguments.flag("cache", cache, ProgramError)
        and isinstance(program, Program)
        and levels is None
        and watch is None
    ):
        chosen = {"dtype": dtype, "activation": activation, "most_parameters": most_parameters}
        chosen["automaton_limits"] = automaton_limits
        chosen |= options._asdict()
        return reuse.compiled(program, target, chosen, compile)
    backend, numerics = check_request(program, target, dtype, activation, options)
    stages = Stages(program, backend, numerics, options, watch, automaton_limits)
    graph = stages.simplify(program.graph)
    graph = stages.unroll(graph)
    graph = stages.check(graph, most_parameters)
    graph = stages.legalise(graph)
    schedule = stages.schedule(graph, levels)
    schedule = stages.measure(schedule, most_parameters)
    certificate = stages.certify(schedule)
    module = stages.lower(schedule)
    automata = tuple(map(str, stages.pipeline.automata.made))
    report = Report(tuple(stages.pipeline.records), stages.seconds, automata)
    return Model(program, backend.name, options, schedule, certificate, numerics, module, report)
