# %% [markdown]
# # A cell of torch in nnsight
# What is set on a layer's outputs is read by the layers behind it. What the layer itself remembers
# is elsewhere, and has to be set as well. Torch's cells hand it out, so run one token by token.
# Needs `pip install nnsight`; tried with 0.8.

# %%
import json

import torch
from nnsight import NNsight
from safetensors.torch import load_file

import lsrl
from lsrl import interpret

model = lsrl.compile(lsrl.programs.dyck1(), "gru", inspectable=True)
model.export("torch", "cells", layers="separate")


class Cells(torch.nn.Module):
    """A stock cell a layer, token by token; `output` is `head` here: nnsight has one of its own."""

    def __init__(self, folder):
        super().__init__()
        with open(f"{folder}/config.json") as file:
            parts = json.load(file)["modules"]
        for name, part in parts.items():
            made = getattr(torch.nn, part["class"])(**part["arguments"])
            self.add_module("head" if name == "output" else name, made)
        arrays = load_file(f"{folder}/weights.safetensors")
        self.load_state_dict({k.replace("output.", "head."): x for k, x in arrays.items()})
        self.names = [name for name in parts if name.startswith("layer_")]

    def forward(self, ids):
        """(batch, time) to (batch, time, outputs)."""
        states, answers = dict.fromkeys(self.names), []
        for symbol in ids.split(1, dim=1):
            held = self.input_0(symbol)
            for name in self.names:
                held, states[name] = self.get_submodule(name)(held, states[name])
            answers.append(self.head(held))
        return torch.cat(answers, 1)


cells = NNsight(Cells("cells"))
ids = torch.tensor([[0, 0, 1, 0, 1, 1]])  # ( ( ) ( ) )
(channel,) = model.circuit.channels_of("height")
layer = getattr(cells, f"layer_{channel.layer}")

# %% [markdown]
# At token 2 one bracket is open. Say that none is: the text is balanced here, and not at its end.


# %%
def patched(places):
    """The outputs with `height` set to 0 at token 2: in the cell's output, and in its memory."""
    with torch.no_grad(), cells.trace(ids) as tracer:
        for _ in tracer.iter[2]:
            for held in layer.output[:places]:
                held[..., channel.units[0]] = 0.0
        answers = tracer.result.save()
    return answers[0, :, 0].int().tolist()


wanted = interpret.patch(model, [ids], {"height": 0.0}, 2, on="evaluator").outputs
print("before     ", *model.run(ids)[0, :, 0].astype(int))
print("output only", *patched(1))
print("and memory ", *patched(2))
print("program    ", *wanted[0, :, 0].astype(int))
