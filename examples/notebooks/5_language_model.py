# %% [markdown]
# # A language model that you can read
# An unmodified `MambaForCausalLM` of transformers, whose weights a compiler wrote: it completes
# what it has seen before, and every entry of its residual stream has a name.

# %%
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lsrl

program = lsrl.programs.induction_head(vocab=10)
compiled = lsrl.compile(program, "mamba", inspectable=True)
compiled.export("huggingface", "induction")
tokenizer = AutoTokenizer.from_pretrained("induction")
network = AutoModelForCausalLM.from_pretrained("induction")
print(type(network).__name__, sum(weight.numel() for weight in network.parameters()))

# %%
prompt = tokenizer("3 1 4 1 5 9 2 6 3 1", return_tensors="pt").input_ids
print(tokenizer.decode(network.generate(prompt, max_new_tokens=8, do_sample=False)[0]))

# %% [markdown]
# How sure is it? The answer has all of the probability but some 10^-7.

# %%
with torch.no_grad():
    chances = network(prompt).logits.softmax(-1).max(-1).values
print(f"least probability of an answer: {chances.min():.7f}")

# %% [markdown]
# Which channel knows what follows a 3? The circuit says so, and a hook of plain torch reads it.

# %%
channel = next(each for each in compiled.circuit.channels_of("follower") if each.element == 3)
unit, layer = channel.units[0], channel.layer
seen = []
network.backbone.layers[layer - 1].register_forward_hook(
    lambda module, inputs, output: seen.append(output[0, :, unit] * channel.weights[0])
)
with torch.no_grad():
    network(prompt)
print("token        ", prompt[0].tolist())
print("behind a 3   ", [round(value) for value in (seen[-1] + channel.offset).tolist()])
print("by the judge ", program.trace(prompt[0].numpy())["follower"][:, 3].astype(int).tolist())
