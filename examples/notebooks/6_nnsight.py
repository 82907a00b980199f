# %% [markdown]
# # A compiled network in nnsight
# [nnsight](https://nnsight.net) reads and sets what a torch module computes. The circuit says where
# each signal lies, and `lsrl.interpret` what has to come out. For torch's cells see
# the next notebook. Needs `pip install nnsight`; tried with 0.8.

# %%
import torch
from nnsight import NNsight
from transformers import AutoModelForCausalLM

import lsrl
from lsrl import interpret

model = lsrl.compile(lsrl.programs.induction_head(vocab=4), "mamba", inspectable=True)
model.export("huggingface", "induction")
network = NNsight(AutoModelForCausalLM.from_pretrained("induction"))
ids = torch.tensor([[3, 1, 2, 3, 0, 3]])

# %% [markdown]
# ## Read
# Layer n of the circuit is what comes out of `backbone.layers[n - 1]`, layer 0 the embedding. An
# element of a signal is a weighted sum of a few entries there, its channel.


# %%
def read(stream, channel):
    """The element of a signal that a channel holds, (batch, time)."""
    return stream[..., list(channel.units)] @ torch.tensor(channel.weights) + channel.offset


with torch.no_grad(), network.trace(ids):
    streams = [].save()
    streams.append(network.backbone.embeddings.output)
    for block in network.backbone.layers:
        streams.append(block.output)

truth = interpret.capture(model, ids)
for signal in model.circuit.signals:
    if signal.kind != "constant":
        same = [
            (read(streams[channel.layer], channel).numpy() == truth[signal.name][..., place]).all()
            for place, channel in enumerate(model.circuit.channels_of(signal.name))
        ]
        print(f"{signal.name:<12.12} layer {signal.layer}: {len(same)} elements equal: {all(same)}")

# %% [markdown]
# ## Patch
# `before` holds the symbol before this one. Say at token 2 that it was 0: the network remembers
# that 2 came behind 0, and says 2 when the next 0 comes, at token 4. So does the program.

# %%
lie = [1.0, 0.0, 0.0, 0.0]
with torch.no_grad(), network.trace(ids):
    for channel, value in zip(model.circuit.channels_of("before"), lie, strict=True):
        stream = network.backbone.layers[channel.layer - 1].output
        stream[:, 2, channel.units[0]] = value / channel.weights[0]
    patched = network.output.logits.argmax(-1).save()

wanted = interpret.patch(model, [ids], {"before": lie}, 2, on="evaluator").outputs
print("before ", *model.run(ids)[0, :, 0].astype(int))
print("patched", *patched[0].tolist())
print("program", *wanted[0, :, 0].astype(int))
