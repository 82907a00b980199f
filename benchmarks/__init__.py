"""Measurements of compiling, running and approximating: `python -m benchmarks.<name> --help`."""
