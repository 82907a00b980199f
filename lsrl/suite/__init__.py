"""The suite of interpretability test models: programs, datasets, folders, and their verification.

`lsrl.suite.build.build` writes every program of `lsrl.suite.programs.programs` on every target that
holds it into a folder of its own, and `lsrl.suite.verify.verify` checks such a directory. `load`,
`load_data`, `load_pairs` and `cases` give single ones, built when they are asked for; `refusals`
says which there are not, and why.
"""

from lsrl.suite.on_demand import cases, load, load_data, load_pairs, refusals

__all__ = ["cases", "load", "load_data", "load_pairs", "refusals"]
