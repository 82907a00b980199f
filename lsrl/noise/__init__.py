"""Noise on models: what can be done to their parameters, and many copies of them run at once."""
