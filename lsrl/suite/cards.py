"""What the card in a model's folder says."""

from lsrl.suite.manifest import ModelRecord
from lsrl.suite.variants import Varied


def card(varied: Varied, record: ModelRecord) -> str:
    """The content of README.md.

    Args:
      varied: the model.
      record: its row of the manifest.
    """
    model = varied.model
    program = model.program
    about = f"\n{program.documentation}\n" if program.documentation else ""
    longest = program.max_length
    layers = "\n".join(
        f"layer {number:<3} {', '.join(name for name in names if name) or '(nothing named)'}"
        for number, names in enumerate(model.labels, start=1)
    )
    if record.exact:
        promise = "Its outputs equal the program's at every token, bit for bit."
    elif record.error_bound is not None:
        promise = f"Its outputs differ from the program's by at most {record.error_bound:.3g}."
    else:
        promise = "How often it is right was measured, not proven; see below."
    measured = "".join(f"\n- {name}: {value:.6g}" for name, value in record.measured.items())
    return f"""\
# `{record.program}` on `{record.target}`, {record.variant}

A recurrent network whose inner workings are known, of the family {record.family}.
{promise}
{varied.card}
{measured}
```python
import lsrl
from lsrl.suite.datasets import read_counterfactuals, read_dataset

model = lsrl.load("model.safetensors")
train = read_dataset("../../dataset.safetensors").splits["train"]
outputs = model.run(*train.arrays)  # train.outputs, of the reference evaluator
pairs = read_counterfactuals("../../counterfactuals.safetensors")
```

## The program

`{program!r}`, of {"any number of" if longest is None else f"at most {longest}"} tokens.
{about}
The signals as written, the output last:

```
{program.graph.dump()}
```

## The network

{record.layers} layer{"s" * (record.layers != 1)} of at most {record.width} channels,
{record.parameters} parameters ({record.nonzero} not 0). What each channel holds, as
`circuit.json` has it:

```
{layers}
```

## Certificate

```
{model.certificate}
```
"""
