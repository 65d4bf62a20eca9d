"""AV-DiT: a frozen image DiT made to film and sound by adapters (Wang et al., arXiv 2406.07686)."""

from pavdit.baselines.av_dit.config import AVDiTRun
from pavdit.baselines.av_dit.maker import load
from pavdit.baselines.av_dit.stage import AVDiTStage
from pavdit.baselines.system import System

SYSTEM = System(AVDiTRun, AVDiTStage.open, load)
