"""Files to clips and clips to files. FFmpeg is reached through PyAV, which is imported on first use."""

from pavdit.media.probe import MediaInfo, probe
from pavdit.media.reader import read_clip
from pavdit.media.writer import write_clip

__all__ = ["MediaInfo", "probe", "read_clip", "write_clip"]
