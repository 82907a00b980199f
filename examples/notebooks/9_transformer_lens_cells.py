# %% [markdown]
# # A cell of torch in TransformerLens
# Stock cells go into a `HookedRootModule`. The state of a cell is what the circuit calls its layer:
# with a hook point there, what is set is remembered. Needs `pip install transformer-lens`.

# %%
import json

import torch
from safetensors.torch import load_file
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import lsrl
from lsrl import interpret

model = lsrl.compile(lsrl.programs.dyck1(), "gru", inspectable=True)
model.export("torch", "cells", layers="separate")


class Cells(HookedRootModule):
    """A stock cell a layer, token by token, with hooks on what each remembers."""

    def __init__(self, folder):
        super().__init__()
        with open(f"{folder}/config.json") as file:
            parts = json.load(file)["modules"].items()
        made = {name: getattr(torch.nn, part["class"])(**part["arguments"]) for name, part in parts}
        self.parts = torch.nn.ModuleDict(made)
        self.parts.load_state_dict(load_file(f"{folder}/weights.safetensors"))
        self.names = [name for name in made if name.startswith("layer_")]
        for name in self.names:
            self.add_module(f"hook_{name}", HookPoint())
        self.setup()

    def forward(self, ids):
        """(batch, time) to (batch, time, outputs)."""
        states, answers = dict.fromkeys(self.names), []
        for symbol in ids.split(1, dim=1):
            held = self.parts["input_0"](symbol)
            for name in self.names:
                _, state = self.parts[name](held, states[name])
                states[name] = self.get_submodule(f"hook_{name}")(state)
                held = states[name].transpose(0, 1)
            answers.append(self.parts["output"](held))
        return torch.cat(answers, 1)


cells = Cells("cells")
ids = torch.tensor([[0, 0, 1, 0, 1, 1]])  # ( ( ) ( ) )
(channel,) = model.circuit.channels_of("height")
hook, steps, heights = f"hook_layer_{channel.layer}", iter(range(ids.shape[1])), []


# %% [markdown]
# At token 2 one bracket is open. Say that none is: the text is balanced here, and not at its end.


# %%
def close(state, hook):
    """Set the signal to 0 at token 2, and note it."""
    if next(steps) == 2:
        state[..., channel.units[0]] = 0.0
    heights.append(int(state[0, 0, channel.units[0]] * channel.weights[0]))
    return state


patched = cells.run_with_hooks(ids, fwd_hooks=[(hook, close)])
wanted = interpret.patch(model, [ids], {"height": 0.0}, 2, on="evaluator").outputs
print("height ", *heights)
print("patched", *patched[0, :, 0].int().tolist())
print("program", *wanted[0, :, 0].astype(int))
