# %% [markdown]
# # A first program
# A program is a function from tokens to outputs, a token at a time. Brackets are balanced so far
# if no closing one came too early, and all are closed if as many were closed as opened.

# %%
import lsrl


@lsrl.program(max_length=200)
def balanced(bracket: lsrl.Token(2, ("(", ")"))) -> lsrl.Token(2):
    """1 where all brackets so far are closed, none too early."""
    depth = lsrl.cumsum(1 - 2 * bracket)
    too_early = lsrl.cumsum(depth < 0)
    return (depth == 0) & (too_early == 0)


# %% [markdown]
# The reference evaluator says what the program means. `trace` has every signal with a name.

# %%
text = "(())()"
tokens = ["()".index(letter) for letter in text]
for name, values in balanced.trace(tokens).items():
    print(f"{name:<10}", *values[:, 0].astype(int))

# %% [markdown]
# Signals know their bounds and their grid; from these follow the weights.

# %%
model = lsrl.compile(balanced, "lstm")
print(model.summary())

# %% [markdown]
# The certificate says that these are the numbers of the program, to the bit. Look for yourself:

# %%
print((model.run(tokens) == balanced.run(tokens)).all())
print(model.report())

# %% [markdown]
# One token at a time, with a state that can be kept, copied and saved:

# %%
state = model.init_state()
for token in tokens:
    output, state = model.step(state, token)
    print("()"[token], int(output[0]), end="  ")
print()

# %% [markdown]
# What can't be done is refused, with the reason and the targets that would do.

# %%
for target in lsrl.targets():
    print(f"{target.name:<17} {lsrl.explain(balanced, target).answer}")
