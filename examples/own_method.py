"""For who tests interpretability methods: one in plain torch, on 12 networks, beside references.

The method knows transformers and torch, and nothing of LSRL: it hooks every layer of a language
model, and takes |activation x gradient| of the answer's logit for how much a unit matters.

    python examples/own_method.py [leaderboard.html]
"""

import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import lsrl

PROGRAMS = ("majority", "dyck1", "flip_flop", "induction_head", "ngram", "even_pairs")


def saliency(network: torch.nn.Module, ids: torch.Tensor) -> list[np.ndarray]:
    """By layer, the embedding first: (units,), the mean of |activation x gradient|."""
    seen: list[torch.Tensor] = []

    def look(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    parts = [network.backbone.embeddings, *network.backbone.layers]
    hooks = [part.register_forward_hook(look) for part in parts]
    try:
        network(ids).logits.max(-1).values.sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
    return [(x * x.grad).abs().mean(dim=(0, 1)).detach().numpy() for x in seen]


def method(model: lsrl.Model, inputs: list[np.ndarray]) -> lsrl.interpret.NodeClaim:
    """What `benchmark` calls: a model and inputs to a claim about units."""
    with tempfile.TemporaryDirectory() as folder:
        model.export("huggingface", f"{folder}/model")
        network = AutoModelForCausalLM.from_pretrained(f"{folder}/model")
    return lsrl.interpret.NodeClaim(units=saliency(network, torch.from_numpy(inputs[0])))


def main(path: str) -> None:
    """Run it on twelve networks, print and write the leaderboard."""
    cases = lsrl.suite.cases(PROGRAMS, ["mamba"], ["plain", "rotated"])
    print(len(cases), "networks")
    board = lsrl.interpret.benchmark(method, cases, name="saliency")
    print(board)
    board.save(path)
    print("written to", path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "leaderboard.html")
