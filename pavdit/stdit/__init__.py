"""STDiT, the generator (PAV-DiT 3.2)."""

from pavdit.stdit.model import Condition, Modulation, STDiT

__all__ = ["Condition", "Modulation", "STDiT"]
