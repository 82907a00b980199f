"""Targets: each module lowers a schedule to the weights of one kind of recurrent network."""
