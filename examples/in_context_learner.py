"""For who writes programs: a learner of one's own, on every target that holds it, exported, shown.

The prompt holds labelled examples, such as `2:+`, and questions, such as `2?`. The network answers
with the label that most examples of this key had: it learns from its prompt, with fixed weights.

    python examples/in_context_learner.py [folder]
"""

import sys
from pathlib import Path

import numpy as np

import lsrl

KEYS = 4
EXAMPLES = [f"{key}:{label}" for key in range(KEYS) for label in "-+"]
QUESTIONS = [f"{key}?" for key in range(KEYS)]
WORDS = (*EXAMPLES, *QUESTIONS)
# What a word says to each key: a vote for or against it, and whether it is asked.
VOTES = np.concatenate([np.kron(np.eye(KEYS), [[-1], [1]]), np.zeros((KEYS, KEYS))])
ASKED = np.concatenate([np.zeros((2 * KEYS, KEYS)), np.eye(KEYS)])


@lsrl.program(max_length=1000)
def learner(word: lsrl.Token(len(WORDS), WORDS)) -> lsrl.Token(2, ("-", "+")):
    """The label that most examples of the key asked for had; '-' if there is no question."""
    votes = lsrl.cumsum(lsrl.lookup(word, VOTES))
    asked = lsrl.lookup(word, ASKED)
    return lsrl.mux(asked, votes) > 0


def main(folder: Path) -> None:
    """Compile, export and show."""
    text = "0:+ 1:- 0:+ 2:- 0:- 2:- 0? 1? 1:+ 1:+ 1? 2?"
    prompt = [WORDS.index(word) for word in text.split()]
    print("".join("-+"[int(answer)] for answer in learner.run(prompt)[:, 0]))

    for target in lsrl.targets():
        answer = lsrl.explain(learner, target)
        if answer.answer == "no":
            print(f"{target.name:<17} can't hold it: {answer.reason}")
            continue
        model = lsrl.compile(learner, target)
        same = np.array_equal(model.run(prompt), learner.run(prompt))
        print(
            f"{target.name:<17} {model.num_layers} layers of up to {model.width}, "
            f"exact: {model.certificate.exact}, equal: {same}"
        )
        model.export(target.formats[0], folder / target.name)

    model = lsrl.compile(learner, "linear_rnn", inspectable=True)
    lsrl.interpret.view(model, [prompt], path=folder / "learner.html")
    print("exports and the page learner.html lie in", folder)


if __name__ == "__main__":
    target_folder = Path(sys.argv[1] if len(sys.argv) > 1 else "learner")
    target_folder.mkdir(parents=True, exist_ok=True)
    main(target_folder)
