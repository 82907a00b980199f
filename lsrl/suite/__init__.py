"""The suite of interpretability test models: programs, datasets, folders, and their verification.

`lsrl.suite.build.build` writes every program of `lsrl.suite.programs.programs` on every target that
holds it into a folder of its own, and `lsrl.suite.verify.verify` checks such a directory.
"""
