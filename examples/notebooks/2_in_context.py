# %% [markdown]
# # Universal approximation in context
# One fixed network carries out any map between words that its prompt tells: `tok2tok`. A second
# one, `vec2vec`, does it with functions between vectors (Petrov et al. 2024).

# %%
import numpy as np

import lsrl
from lsrl.programs import tok2tok_prompt

LENGTH, VOCAB, PAIRS = 3, 10, 20
model = lsrl.compile(lsrl.programs.tok2tok(LENGTH, VOCAB, PAIRS), "linear_rnn")
print(model.num_parameters, "parameters,", model.num_nonzero_parameters, "of them not 0")

# %% [markdown]
# A dictionary that was drawn just now, and goes into the prompt behind the query:

# %%
random = np.random.default_rng(0)
keys = [tuple(random.integers(0, VOCAB, LENGTH).tolist()) for _ in range(PAIRS)]
values = random.integers(0, VOCAB, (PAIRS, LENGTH)).tolist()
pairs = list(dict(zip(keys, values, strict=True)).items())
for key, value in pairs[:4]:
    answer = model.run(tok2tok_prompt(key, pairs))[-LENGTH:, 0].astype(int)
    print(*key, "→", *answer, "  (dictionary:", *value, end=")\n")

# %% [markdown]
# The same weights, another prompt, another map. How many prompts are right?

# %%
right = 0
for _ in range(50):
    words = random.permutation(VOCAB**LENGTH)[:PAIRS]
    keys = [tuple(map(int, f"{word:03d}")) for word in words]
    pairs = [(key, random.integers(0, VOCAB, LENGTH).tolist()) for key in keys]
    query, value = pairs[random.integers(PAIRS)]
    right += model.run(tok2tok_prompt(query, pairs))[-LENGTH:, 0].tolist() == value
print(right, "of 50 dictionaries")

# %% [markdown]
# Every target that holds it, and what it costs there:

# %%
for target in lsrl.targets():
    answer = lsrl.explain(model.program, target)
    size = f"{answer.num_layers} x {answer.width}" if answer.answer != "no" else answer.reason
    print(f"{target.name:<17} {answer.answer:<8} {size}"[:100])
