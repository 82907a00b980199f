"""The stability lab: how much noise compiled models bear, and what breaks first."""

from lsrl.noise.perturbations import Change, Perturbation, WeightNoise
from lsrl.stability.measurement import Borne, Measurement, Row, measure

__all__ = ["Borne", "Change", "Measurement", "Perturbation", "Row", "WeightNoise", "measure"]
