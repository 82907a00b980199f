"""Compiled programs as layers of networks that learn (docs/library.md)."""

from lsrl.nn.tables import MooreTable, routine_table

__all__ = ["MooreTable", "routine_table"]
