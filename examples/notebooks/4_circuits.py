# %% [markdown]
# # Circuits and interventions
# Of a compiled network it is known which unit holds what. So what a method finds can be checked.

# %%
import lsrl
from lsrl import interpret

program = lsrl.programs.induction_head(vocab=4)
model = lsrl.compile(program, "mamba", inspectable=True)
for signal in model.circuit.signals:
    if signal.kind != "constant":
        print(f"layer {signal.layer}  {signal.name:<12} {signal.expression}")

# %% [markdown]
# `follower` holds, for each symbol, what came behind it last. It is read off the residual stream:

# %%
tokens = [[3, 1, 2, 3, 0, 3]]
print(interpret.capture(model, tokens)["follower"][0].astype(int))

# %% [markdown]
# Set it, and the network goes on from there: at token 2 it now believes that 2 came behind 3.

# %%
before = model.run(tokens)[0, :, 0].astype(int)
after = interpret.patch(model, [tokens], {"follower": [0, 0, 0, 2]}, 2)
print("before", before)
print("after ", after.outputs[0, :, 0].astype(int))

# %% [markdown]
# The same intervention on the *program*, in the reference evaluator, gives the same outputs.

# %%
judge = interpret.patch(model, [tokens], {"follower": [0, 0, 0, 2]}, 2, on="evaluator")
print((after.outputs == judge.outputs).all())

# %% [markdown]
# A method of your own claims which units matter. The truth is at hand, so the claim has a score.


# %%
def by_size(model, inputs):
    """Units that are large are said to matter."""
    held = interpret.activations(model, *inputs)
    return interpret.NodeClaim(units=[abs(x).mean(axis=(0, 1)) for x in held])


print(interpret.benchmark(by_size, [model], baselines=("random",)))
