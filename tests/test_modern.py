"""The benchmark of programs in the classes of today says what is equal, and what there is not."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")


def case_of(modern, target, label, architecture=""):
    found = [*modern.cases(target), *modern.unlimited(target)]
    return next(c for c in found if (c.label, c.architecture) == (label, architecture))


@pytest.mark.studies
@pytest.mark.parametrize(
    ("target", "label", "architecture", "name"),
    [
        ("mamba2", "flip_flop", "zamba2", "Zamba2ForCausalLM"),
        ("deltanet", "histogram", "", "OlmoHybridModel"),
        ("deltanet", "permutations of S3", "", "OlmoHybridForCausalLM"),
    ],
)
def test_a_program_is_equal_in_every_way(target, label, architecture, name, transformers):
    from benchmarks import modern

    case = case_of(modern, target, label, architecture)
    row = modern.row_of(case, modern.Sizes(2, 20, 100))
    assert modern.verdict(row) == "equal" and row["class"] == name, row
    assert (row["sequences"], row["tokens"]) == (2, 20)
    assert row["wrong"] == row["ours"] == row["stepwise"] == row["parts"] == 0
    assert row.get("long wrong") == (0 if label == "permutations of S3" else None)


@pytest.mark.studies
def test_what_there_is_not_and_what_differs_is_told(transformers):
    from benchmarks import modern

    sizes = modern.Sizes(2, 20, 100)
    row = modern.row_of(case_of(modern, "mamba2", "swaps"), sizes)
    assert "can't hold 1 signal" in modern.verdict(row)
    sums = case_of(modern, "deltanet", "majority")._replace(architecture="qwen3_next")
    assert "takes a β" in modern.row_of(sums, sizes)["refused"]
    case = case_of(modern, "deltanet", "flip_flop")
    wrong = case._replace(entry=modern.lsrl.programs.catalogue()["undo_flip_flop"])
    found = modern.drawn(case, 2, 20)
    assert modern.wrong(modern.drawn(wrong, 2, 20).expected, found, 0.0) > 0
