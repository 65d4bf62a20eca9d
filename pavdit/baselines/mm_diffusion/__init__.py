"""MM-Diffusion: coupled U-Nets in the space of pixels and samples (Ruan et al., arXiv 2212.09478)."""

from pavdit.baselines.mm_diffusion.config import MMDiffusionRun
from pavdit.baselines.mm_diffusion.maker import load
from pavdit.baselines.mm_diffusion.stage import DenoiserStage
from pavdit.baselines.system import System

SYSTEM = System(MMDiffusionRun, DenoiserStage.open, load)
