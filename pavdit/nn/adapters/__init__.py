"""Adapters: small trainable parts of a transformer that is otherwise frozen."""

from pavdit.nn.adapters.attach import Adapters, Weighted, adapt, freeze_backbone, merge
from pavdit.nn.adapters.branches import BottleneckMLP, TemporalAdapter
from pavdit.nn.adapters.lora import LoRA, LoRALinear

__all__ = [
    "Adapters",
    "BottleneckMLP",
    "LoRA",
    "LoRALinear",
    "TemporalAdapter",
    "Weighted",
    "adapt",
    "freeze_backbone",
    "merge",
]
