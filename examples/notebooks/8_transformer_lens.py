# %% [markdown]
# # A compiled network in TransformerLens
# TransformerLens boots a Mamba or Griffin export by its folder; for torch's cells see the next
# notebook. Needs `pip install transformer-lens`, 4.3 or newer.

# %%
import torch
from transformer_lens.model_bridge import TransformerBridge

import lsrl
from lsrl import interpret

model = lsrl.compile(lsrl.programs.induction_head(vocab=4), "mamba", inspectable=True)
model.export("huggingface", "induction")
bridge = TransformerBridge.boot_transformers("induction", device="cpu")
ids = torch.tensor([[3, 1, 2, 3, 0, 3]])

# %% [markdown]
# ## Read
# Layer n of the circuit is `blocks.{n - 1}.hook_resid_post`. A signal's element is a weighted sum
# of a few entries there, its channel.

# %%
logits, cache = bridge.run_with_cache(ids)
truth = interpret.capture(model, ids)
for place, channel in enumerate(model.circuit.channels_of("follower")):
    stream = cache[f"blocks.{channel.layer - 1}.hook_resid_post"]
    value = stream[..., list(channel.units)] @ torch.tensor(channel.weights) + channel.offset
    same = (value.numpy() == truth["follower"][..., place]).all()
    print(f"follower[{place}]", *value[0].int().tolist(), same)

# %% [markdown]
# ## Patch
# `before` holds the symbol before this one. Say at token 2 that it was 0: the network remembers
# that 2 came behind 0, and says 2 when the next 0 comes, at token 4. So does the program.

# %%
lie = [1.0, 0.0, 0.0, 0.0]


def set_before(stream, hook):
    """Put the lie where the circuit says that it is held."""
    for channel, value in zip(model.circuit.channels_of("before"), lie, strict=True):
        stream[:, 2, channel.units[0]] = value / channel.weights[0]
    return stream


patched = bridge.run_with_hooks(ids, fwd_hooks=[("blocks.0.hook_resid_post", set_before)])
wanted = interpret.patch(model, [ids], {"before": lie}, 2, on="evaluator").outputs
print("before ", *model.run(ids)[0, :, 0].astype(int))
print("patched", *patched.argmax(-1)[0].tolist())
print("program", *wanted[0, :, 0].astype(int))

# %% [markdown]
# ## Patch a memory
# `follower` is remembered inside the block of layer 2. With `eager_scan` TransformerLens has a hook
# on what its scan takes in, (batch, entries, time, states), and the circuit has the entries. Say at
# token 2 that 2 came behind 3: what is missing there to 2 is put into the scan, and goes on.

# %%
new, old = [0, 0, 0, 2], truth["follower"][0, 2]
bridge.blocks[1].mixer.eager_scan = True


def write_follower(writes, hook):
    """Add to the memory what makes the signal the new one."""
    for channel, value, held in zip(model.circuit.channels_of("follower"), new, old, strict=True):
        writes[:, channel.memory[0], 2, 0] += (value - float(held)) / channel.memory_weights[0]
    return writes


patched = bridge.run_with_hooks(ids, fwd_hooks=[("blocks.1.mixer.hook_ssm_write", write_follower)])
wanted = interpret.patch(model, [ids], {"follower": new}, 2, on="evaluator").outputs
print("patched", *patched.argmax(-1)[0].tolist())
print("program", *wanted[0, :, 0].astype(int))
