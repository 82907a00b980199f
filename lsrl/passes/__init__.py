"""Graph to graph passes: each holds one family of rules and preserves every value."""
