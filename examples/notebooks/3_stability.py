# %% [markdown]
# # A stability figure
# How much noise on its weights does a network bear? It is perturbed, in several draws at each
# level, and runs on the same inputs.

# %%
import lsrl

program = lsrl.programs.tok2tok(2, vocab=4, max_pairs=3)
targets = ("linear_rnn", "mamba")
levels = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
found = lsrl.stability.measure(program, targets, "relative", levels=levels, copies=4)
print(found)

# %% [markdown]
# Does it help to put comparisons midway between the values that occur?

# %%
robust = lsrl.stability.measure(program, targets, "relative", levels=levels, copies=4, robust=True)
for before, after in zip(found.borne(), robust.borne(), strict=True):
    print(f"{before.target:<12} {before.level:.1e} → {after.level:.1e}")

# %% [markdown]
# And the paper's own text of the same program, with its slope of 1000 and its constant of 1e10?

# %%
paper = lsrl.paper.tok2tok(2, vocab=4, max_pairs=3, mode="optimized")
print(lsrl.stability.measure(paper, "linear_rnn", "relative", levels=levels, copies=4))

# %% [markdown]
# A figure for a paper: vectors, at the width of a column. Curves carry intervals over the draws.

# %%
found.plot("stability.svg")
