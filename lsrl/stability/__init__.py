"""The stability lab: how much noise compiled models bear, and what breaks first."""
