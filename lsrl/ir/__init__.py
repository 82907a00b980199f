"""The intermediate representation: ops, graphs, bounds, and the reference evaluator."""
