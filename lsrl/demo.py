"""The main job in one run: compile `tok2tok`, prompt it with an unseen dictionary, ask it.

Run it with `python -m lsrl.demo [seed]`.
"""

import sys
import time

import numpy as np

import lsrl
from lsrl.programs import tok2tok_prompt

LENGTH, VOCAB, PAIRS = 3, 10, 20
QUERIES = 5


def main(seed: int | None = None) -> None:
    """Compile, prompt and print.

    Args:
      seed: of the random dictionary; a fresh one by default.
    """
    random = np.random.default_rng(seed)
    start = time.process_time()
    model = lsrl.compile(lsrl.programs.tok2tok(LENGTH, VOCAB, PAIRS), "linear_rnn")
    print(
        f"Compiled in {time.process_time() - start:.2f} s of CPU time (imports included):\n\n"
        f"{model.summary()}\n"
    )

    keys = random.choice(VOCAB**LENGTH, PAIRS + 1, replace=False)
    *known, unknown = [[int(digit) for digit in f"{key:0{LENGTH}d}"] for key in keys]
    pairs = [(key, random.integers(0, VOCAB, LENGTH).tolist()) for key in known]
    print("A dictionary drawn just now goes into the prompt:")
    for row in range(0, PAIRS, 5):
        print(
            "  " + "  ".join(f"{_word(key)}→{_word(value)}" for key, value in pairs[row : row + 5])
        )
    print()

    wanted = [pairs[i] for i in random.choice(PAIRS, QUERIES, replace=False)]
    prompts = np.stack([tok2tok_prompt(query, pairs) for query, _ in [*wanted, (unknown, None)]])
    outputs = model.run(prompts)
    for (query, value), answer in zip(
        [*wanted, (unknown, None)], outputs[:, -LENGTH:, 0], strict=True
    ):
        said = _word(answer.astype(int).tolist())
        expected = "absent, so 000" if value is None else _word(value)
        print(f"  {_word(query)} → {said}   (dictionary: {expected})")
    reference = model.program.run(prompts)
    print(
        f"\nEqual to the reference evaluator at every token: {np.array_equal(outputs, reference)}"
    )


def _word(tokens: list[int]) -> str:
    return "".join(map(str, tokens))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
