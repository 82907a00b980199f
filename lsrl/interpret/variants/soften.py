"""The variant `soft`: gates and saturated units that are only nearly shut, so that gradients flow.

The compiler drives a sigmoid beyond ±128, where it is exactly 0 or 1, and its gradient is 0. Here
the least drive is ±S, with S = 8 / temperature: gates are σ(±S) and saturated units tanh(±S). What
that does to a unit at every token is known, so it is taken back, and only the rest is error:

- A unit whose gates stay open holds α times its value, and whoever reads it divides by α.
- What a shut forget gate (LSTM) or update gate (GRU) lets through of a linear unit's last value,
  the unit takes back through its recurrent weight on itself.
- A switch of an LSTM is 0 or L; here it is σ(-S) L or σ(S) L, an affine map of it.

What remains: a gate that a signal shuts lets σ(-S) of a value through, and a value that a gate
keeps fades by σ(-S) a token. So errors grow with the length, and the card says how far outputs are
right: on random inputs, and on every input up to a length at which all of them can be run.

Mamba and Griffin are lowered anew with softer drives, since a value's scale is the same all along
its way there: see `lsrl.backends.mamba` and `lsrl.backends.griffin`. A SiLU or GeLU that stands for
a ReLU has ±S one grid step from 0. SiLU(u) - SiLU(-u) is u, so what passes as a pair of signs is
not off, and neither is what has one positive value; the rest is, by σ(-S) of a step. ReLUs of
continuous values stay sharp.
"""

from dataclasses import replace

from lsrl import arguments
from lsrl.backends import registry
from lsrl.errors import InputError
from lsrl.interpret.causal import Sampler
from lsrl.interpret.variants.base import check_made, variant
from lsrl.model import Model

# The least pre-activation of a saturated gate at temperature 1.
SIZE = 8.0


def soft(model: Model, temperature: float = 1.0, *, sampler: Sampler | None = None) -> Model:
    """Bring saturated gates down to pre-activations of ±8 / temperature.

    Args:
      model: of a target with saturated gates (no linear one, and not rnn); as compiled, or joined
        with other programs.
      temperature: 1 for ±8, 2 for ±4.
      sampler: of the inputs that the card's figures come from.

    Raises:
      InputError: another target, a temperature that is no positive number, or a network that was
        changed already (soften first, then permute).
    """
    check_made("soft", model, sampler)
    arguments.real("soft: temperature", temperature, above=True)
    changed = [name for name, _ in model.card.steps] if model.card else []
    if set(changed) - {"padded", "merged"}:
        raise InputError(
            f"soft: this network is {', '.join(changed)} already; soften the compiled model, and "
            "permute or add noise after that"
        )
    size = SIZE / temperature
    softened = registry.find(model.target).softened(size)
    if softened is None:
        able = registry.able(lambda target: target.softened(size) is not None)
        raise InputError(
            f"soft: {model.target} has no saturated gates, or none that can be softer without "
            f"breaking what else it relies on; choose one of {able}"
        )
    anatomy = softened.anatomy(model.schedule, model.numerics, model.program.name, model.options)
    # What units hold has another scale; where they are and what they hold, not.
    channels = tuple(
        replace(old, weights=new.weights, offset=new.offset, memory_weights=new.memory_weights)
        for old, new in zip(model.circuit.channels, anatomy.channels, strict=True)
    )
    return variant(
        model,
        "soft",
        f"temperature={temperature:g}",
        softened.lower(model.schedule, model.numerics),
        replace(model.circuit, channels=channels),
        exact=False,
        sampler=sampler,
        notes=(f"gates and saturated units have pre-activations from ±{size:g} on",),
        exhaustive=True,
    )
