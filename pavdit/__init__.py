"""pavdit: short videos with their sound, in one pass.

``Pipeline`` is loaded on first use, so that ``import pavdit`` and the command line stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pavdit.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = ["Pipeline", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Pipeline":
        from pavdit.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module 'pavdit' has no attribute {name!r}")
