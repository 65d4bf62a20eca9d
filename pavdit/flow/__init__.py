"""Reflected flow: paths, times, sampling. Knows no model, only ``velocity(latent, t)``."""
