"""Finite automata as tables: minimised, and taken apart into swaps and holds.

Nothing here knows of graphs; `lsrl.passes.automata` writes what is found as ops. All of it is
deterministic: what is counted is steps, not seconds, and nothing is drawn.
"""
