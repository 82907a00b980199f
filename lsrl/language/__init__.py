"""What users write: signals, operators, and the decorator that records a program."""
