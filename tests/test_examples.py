"""The examples and notebooks run as they stand, in an empty folder, and find what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.grids import studied

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# What each prints, and the files that it leaves.
FOUND = {
    "in_context_learner": ((r"^------\+---\+-$", r"^griffin +1 layers .* equal: True$"),
                           ("learner/learner.html", "learner/linear_rnn", "learner/mamba")),
    "own_perturbation": ((r"^gathered +gated_linear_rnn +rounded",), ("rounded.pdf",)),
    "own_method": ((r"^12 networks$", r"^on which units", r"^  saliency +12 "),
                   ("leaderboard.html",)),
    "golden_kernels": ((r"^dyck1 on mamba, 17 tokens read\n  full                 equal$",
                        r"^  prefilled, its cache equal\n  cached               equal$"),
                       ("golden/after_17.safetensors",)),
    "compiled_inside": ((r"^4 routines, exact: True$", r"^right at 1,000 tokens: 20 of 20$"), ()),
    "three_ways": ((r"^exact: True$", r"(?s)(by hand .* right on 100 of 100 .*by gradient .* right "
                    r"on 100 of 100 .*){3}"), ()),
    "1_first_program": ((r"^exact +yes, up to 200 tokens$", r"^True$",
                         r"^\( 0  \( 0  \) 0  \) 1  \( 0  \) 1  $"), ()),
    "2_in_context": ((r"^443 parameters, 66 of them", r"^50 of 50 dictionaries$"), ()),
    "3_stability": ((r"^linear_rnn +\S+ → ", r"^paper_tok2tok .* below 1e-04"), ("stability.svg",)),
    "4_circuits": ((r"^after  \[0 0 0 2 0 0\]$", r"^True$", r"^  by_size +1 "), ()),
    "5_language_model": ((r"^3 1 4 1 5 9 2 6 3 1 5 9 2 6 3 1 5 9$",
                          r"^behind a 3 +\[0, 1, .*\nby the judge +\[0, 1, "), ("induction",)),
    "6_nnsight": ((r"^follower +layer 2: 4 elements equal: True$",
                   r"^patched 0 0 0 1 2 0\nprogram 0 0 0 1 2 0$"), ("induction",)),
    "7_nnsight_cells": ((r"^output only 0 0 1 0 0 1\nand memory  0 0 1 0 1 0$",
                         r"^program     0 0 1 0 1 0$"), ("cells",)),
    "8_transformer_lens": ((r"^follower\[3\] 0 1 1 1 0 0 True$",
                            r"^patched 0 0 0 1 2 0\nprogram 0 0 0 1 2 0$",
                            r"^patched 0 0 0 2 0 0\nprogram 0 0 0 2 0 0$"), ("induction",)),
    "9_transformer_lens_cells": ((r"^height  1 2 0 1 0 -1$",
                                  r"^patched 0 0 1 0 1 0\nprogram 0 0 1 0 1 0$"), ("cells",)),
}  # fmt: skip
NEEDED = {
    "in_context_learner": "tokenizers",
    "golden_kernels": "transformers",
    "own_method": "transformers",
    "own_perturbation": "matplotlib",
    "3_stability": "matplotlib",
    "5_language_model": "transformers",
    "6_nnsight": "nnsight",
    "7_nnsight_cells": "nnsight",
    "8_transformer_lens": "transformer_lens",
    "9_transformer_lens_cells": "transformer_lens",
}
SCRIPTS = {path.stem: path for path in EXAMPLES.glob("**/*.py")}


def test_each_is_tried_and_notebooks_are_short():
    assert SCRIPTS.keys() == FOUND.keys()
    for path in EXAMPLES.glob("notebooks/*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# %% [markdown]\n# # ")
        cells = re.split(r"^# %%.*\n", text, flags=re.MULTILINE)
        lines = [line for cell in cells for line in cell.splitlines() if line and line[0] != "#"]
        assert len(lines) < 60, path.name


# Twelve networks under four methods take minutes.
LONG = pytest.param("own_method", marks=pytest.mark.nightly)


@pytest.mark.parametrize(
    "name", [*studied(sorted({*FOUND} - {"own_method"}), "1_first_program"), LONG]
)
def test_it_runs_and_says_what_is_true(name, tmp_path, monkeypatch):
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, str(SCRIPTS[name])], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    patterns, files = FOUND[name]
    missing = [wanted for wanted in patterns if not re.search(wanted, done.stdout, re.MULTILINE)]
    assert not missing, done.stdout
    assert not [file for file in files if not (tmp_path / file).exists()]
