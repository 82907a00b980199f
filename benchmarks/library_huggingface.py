"""A library inside language models of transformers, trained on short texts and asked long ones.

A text names one of five algorithms, then has digits, an equals sign and the answer. Nothing says
which routine of the library an algorithm is. Run: `python -m benchmarks.library_huggingface`.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import lsrl
from benchmarks.common import QUICK_RESULTS, Output, Table, say
from benchmarks.common import machine as this_machine
from benchmarks.mips import Array
from lsrl.nn import MooreTable
from lsrl.programs.formal_languages import group_elements, group_generators

DIGITS, EQUALS, PAD, VOCAB = 8, 13, 14, 16
LONGEST, STEPS, BATCH = 12, 400, 32
# Of the host, and of the register and the result, which begin at zero.
RATE, FASTER = 2e-3, 5
SEEDS = 3
OURS, ALONE = "LLaMA and the library", "LLaMA alone"
# By digits in a text how many texts are asked.
TEXTS = {12: 200, 48: 100, 200: 100, 1000: 100}


def _permuted(state: int, digit: int) -> int:
    """The word of permutations of three things, one of two generators a digit."""
    elements, generators = group_elements("S3"), group_generators("S3")
    one, by = elements[state], generators[digit % 2]
    return elements.index(tuple(by[place] for place in one))


# By name its states, all of which are answers, and the state after a digit.
ALGORITHMS: Mapping[str, tuple[int, Callable[[int, int], int]]] = {
    "parity": (2, lambda state, digit: (state + digit) % 2),
    "addition mod 5": (5, lambda state, digit: (state + digit) % 5),
    "maximum": (8, max),
    "words of S3": (6, _permuted),
    "walk between walls": (
        8,
        lambda state, digit: min(max(state + (1 if digit > 3 else -1), 0), 7),
    ),
}


def tables() -> list[MooreTable]:
    """The algorithms as machines."""
    return [
        MooreTable(
            np.array([[step(s, d) for d in range(DIGITS)] for s in range(states)], np.int32),
            np.arange(float(states))[:, None],
        )
        for states, step in ALGORITHMS.values()
    ]


@dataclass(frozen=True)
class Texts:
    """Texts with their answers.

    Attributes:
      ids: (texts, time).
      equals: (texts,), the place of the equals sign, at which the answer is predicted.
      answers: (texts,).
      algorithms: (texts,), which is asked for.
    """

    ids: Array
    equals: Array
    answers: Array
    algorithms: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int, length: int | None = None) -> "Texts":
        """Draw texts of a length, or of up to LONGEST digits, half of them short.

        Each has digits of a range of its own, so that no constant is the answer to long ones.
        """
        short = np.where(rng.random(count) < 0.5, 3, LONGEST)
        lengths = rng.integers(1, short + 1) if length is None else np.full(count, length)
        time = length or LONGEST
        ends = np.sort(rng.integers(0, DIGITS, (count, 2)), axis=1)
        digits = rng.integers(ends[:, :1], ends[:, 1:] + 1, (count, time))
        algorithms = rng.integers(0, len(ALGORITHMS), count)
        ids, places, rows = np.full((count, time + 3), PAD), np.arange(time), np.arange(count)
        ids[:, 0] = DIGITS + algorithms
        ids[:, 1:-2] = np.where(places < lengths[:, None], digits, PAD)
        answers = np.zeros(count, int)
        for number, table in enumerate(tables()):
            said = table.run(digits)[rows, lengths - 1, 0]
            answers = np.where(algorithms == number, said, answers).astype(int)
        ids[rows, lengths + 1], ids[rows, lengths + 2] = EQUALS, answers
        return cls(ids, lengths + 1, answers, algorithms)

    def examples(self) -> list[dict[str, Any]]:
        """As `Trainer` takes them: the answer alone is to be learnt."""
        import torch

        labels, rows = np.full(self.ids.shape, -100), np.arange(len(self.ids))
        labels[rows, self.equals + 1] = self.answers
        pairs = zip(torch.from_numpy(self.ids), torch.from_numpy(labels), strict=True)
        return [{"input_ids": ids, "labels": wanted} for ids, wanted in pairs]

    def constant(self) -> float:
        """The share that the best constant answer to each algorithm has right."""
        right = 0
        for number in range(len(ALGORITHMS)):
            right += np.bincount(self.answers[self.algorithms == number]).max()
        return float(right / len(self.answers))


def host(name: str, seed: int) -> Any:
    """A small language model of a class of transformers, with weights drawn."""
    import transformers

    transformers.set_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": None,
        "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    heads = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    more: dict[str, dict[str, Any]] = {
        "llama": {**heads, "tie_word_embeddings": False, "max_position_embeddings": 2048},
        "mamba": {"state_size": 8},
        "qwen2": {**heads, "max_position_embeddings": 2048},
    }
    config = transformers.CONFIG_MAPPING[name](**sizes, **more[name])
    return transformers.AutoModelForCausalLM.from_config(config)


def attached(model: Any, library: lsrl.nn.Library, select: Any = "register") -> Any:
    """A host with the library, whose symbols are its digits."""
    return lsrl.nn.attach(
        model, library=library, arguments={d: d for d in range(DIGITS)}, select=select
    )


def optimisers(model: Any, steps: int) -> tuple[Any, Any]:
    """AdamW with two rates, and the schedule of them."""
    import torch
    import transformers

    parts: tuple[list[Any], list[Any]] = [], []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            parts["library." in name].append(weight)
    groups = [{"params": parts[0], "lr": RATE}, {"params": parts[1], "lr": FASTER * RATE}]
    optimiser = torch.optim.AdamW([each for each in groups if each["params"]], weight_decay=0.0)
    schedule = transformers.get_cosine_schedule_with_warmup(optimiser, 20, steps)
    return optimiser, schedule


def train(model: Any, seed: int, steps: int = STEPS) -> float:
    """CPU seconds of `Trainer`."""
    import transformers

    texts = Texts.drawn(np.random.default_rng(seed), steps * BATCH)
    with tempfile.TemporaryDirectory() as folder:
        options = transformers.TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, seed=seed,
            report_to=[], save_strategy="no", logging_strategy="no", use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        start = time.process_time()
        transformers.Trainer(
            model=model, args=options, train_dataset=texts.examples(),
            optimizers=optimisers(model, steps),
        ).train()  # fmt: skip
    return time.process_time() - start


def accuracy(model: Any, length: int, count: int) -> float:
    """The share of texts of a length whose answer has the greatest logit."""
    import torch

    model.eval()
    texts = Texts.drawn(np.random.default_rng(length), count, length)
    with torch.no_grad():
        made = model(input_ids=torch.from_numpy(texts.ids[:, :-1]), use_cache=False).logits
    said = made[:, -1].argmax(-1).numpy()
    return float((said == texts.answers).mean())


def same_when_read_again(model: Any) -> bool:
    """Whether what `save_pretrained` wrote has the same logits, bit for bit."""
    import torch

    ids = torch.from_numpy(Texts.drawn(np.random.default_rng(1), 20).ids)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.eval().save_pretrained(folder)
        return torch.equal(lsrl.nn.load_attached(folder)(ids).logits, model(ids).logits)


def same_with_a_cache(model: Any, tokens: int = 24) -> bool:
    """Whether greedy texts are the same with a cache and without, token for token."""
    import torch

    ids = torch.from_numpy(Texts.drawn(np.random.default_rng(2), 20, 30).ids[:, :-1])
    options = {"input_ids": ids, "max_new_tokens": tokens, "do_sample": False}
    cached = model.eval().generate(use_cache=True, **options)
    return torch.equal(cached, model.generate(use_cache=False, **options))


def adapted(model: Any) -> Any:
    """A model of which LoRA's adapters, the register and the result are trained."""
    import peft

    kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=kinds, modules_to_save=["register", "result"],
        task_type="CAUSAL_LM",
    )  # fmt: skip
    return peft.get_peft_model(model, config)


def row(what: str, model: Any, seed: int, counts: Mapping[int, int], steps: int) -> dict[str, Any]:
    """Train a model, and measure it."""
    cpu = train(model, seed, steps)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    found: dict[str, Any] = {"what": what, "seed": seed, "trained": trained, "cpu": round(cpu, 1)}
    for length, count in counts.items():
        found[f"at_{length}"] = round(accuracy(model, length, count), 3)
    say(f"{found}")
    return found


def measure(seeds: int, steps: int, counts: Mapping[int, int], kept: Path) -> list[dict[str, Any]]:
    """The rows: LLaMA with and without, adapters, other classes, and other ways to select.

    Rows that a file has are taken from it, so that it goes on where it was broken off.
    """
    library = lsrl.nn.Library(tables())
    rows: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []

    def add(what: str, seed: int, make: Callable[[], Any], checks: int) -> None:
        if any(found["what"] == what and found["seed"] == seed for found in rows):
            return
        model = make()
        found = row(what, model, seed, counts, steps)
        if checks > 0:
            found["cached"] = same_with_a_cache(model)
        if checks > 1:
            found["read_again"] = same_when_read_again(model)
        rows.append(found)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(rows))

    def tuned() -> Any:
        alone = host("llama", 0)
        train(alone, 0, steps)
        return adapted(attached(alone, library))

    for seed in range(seeds):
        add(OURS, seed, lambda seed=seed: attached(host("llama", seed), library), 2)  # type: ignore[misc]
    for seed in range(seeds):
        add(ALONE, seed, lambda seed=seed: host("llama", seed), 0)  # type: ignore[misc]
    add("that one, then the library and LoRA", 0, tuned, 1)
    add("Qwen2 and the library", 0, lambda: attached(host("qwen2", 0), library), 2)
    add("Mamba and the library", 0, lambda: attached(host("mamba", 0), library), 2)
    token = "LLaMA, chosen at each token"
    add(token, 0, lambda: attached(host("llama", 0), library, "token"), 0)
    return rows


def findings(rows: list[dict[str, Any]], steps: int) -> list[str]:
    """What the page says first."""
    longest = max((key for key in rows[0] if key.startswith("at_")), key=lambda key: int(key[3:]))

    def of(what: str, key: str = longest) -> list[Any]:
        return [found[key] for found in rows if found["what"] == what]

    ours, alone = of(OURS), of(ALONE)
    seconds = max(of(OURS, "cpu"))
    checked = [found for found in rows if "cached" in found]
    return [
        f"Trained by `Trainer` for {steps} steps on texts of up to {LONGEST} digits, a LLaMA of "
        f"width 32 with the library answers {min(ours):.1%} to {max(ours):.1%} at {longest[3:]} "
        f"digits (of {len(ours)} seeds), in at most {seconds} CPU s.",
        f"The same LLaMA alone answers {min(alone):.1%} to {max(alone):.1%} there.",
        f"Generation with a cache equals that without in {sum(r['cached'] for r in checked)} of "
        f"{len(checked)} models, and logits of saved models are equal in "
        f"{sum(r.get('read_again', False) for r in rows)} of "
        f"{sum('read_again' in r for r in rows)}.",
    ]


def page(
    where: Output,
    described: Mapping[str, str],
    rows: list[dict[str, Any]],
    steps: int,
    counts: Mapping[int, int],
) -> None:
    """Write what was measured."""
    floors = [
        {
            "length": length,
            "constant": round(
                Texts.drawn(np.random.default_rng(length), count, length).constant(), 3
            ),
        }
        for length, count in counts.items()
    ]
    columns = {
        "what": "model", "seed": "seed", "trained": "parameters trained", "cpu": "CPU s",
        **{f"at_{length}": f"at {length:,} digits" for length in counts},
        "read_again": "equal when read again", "cached": "equal with a cache",
    }  # fmt: skip
    found = [
        Table("models", f"Right answers, after {steps} steps", columns, rows,
              "Algorithms: " + ", ".join(ALGORITHMS) + ". In evaluation the routines are their "
              "certified GRU; CPU s are of training."),
        Table("floors", "The best constant answer to each algorithm",
              {"length": "digits", "constant": "right"}, floors),
    ]  # fmt: skip
    where.write("A library inside language models", described, found, findings(rows, steps), None)


def main(
    quick: Annotated[bool, typer.Option(help="Small sizes, for trying out.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
) -> None:
    """Run the benchmark, and write the page."""
    import torch
    import transformers

    described = this_machine()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    steps = 20 if quick else STEPS
    counts = {12: 100} if quick else TEXTS
    where = Output.of("library_huggingface", quick, output)
    kept = QUICK_RESULTS / f"library_huggingface_{steps}_rows.json"
    rows = measure(1 if quick else SEEDS, steps, counts, kept)
    page(where, described, rows, steps, counts)
    kept.unlink()


if __name__ == "__main__":
    typer.run(main)
