"""The linear targets: their cell, and the engine that runs it parallel over time."""
