"""Every option of the package as typed, frozen models, and the presets.

A YAML file and the command line fill the same models. An unknown key is an error. A run writes its resolved
configuration beside its output.
"""

from pavdit.config.adapter import AdapterConfig, AdapterShape
from pavdit.config.load import assign, load_run, parse_as, parse_run, read_run
from pavdit.config.model import (
    LANGUAGE_MODELS,
    TASKS,
    DiscriminatorConfig,
    FlowConfig,
    Layout,
    MDSAConfig,
    MelConfig,
    ModelConfig,
    STDiTConfig,
    StreamDropoutConfig,
    SystemModel,
    TextConfig,
)
from pavdit.config.presets import PRESETS, base, medium, small, tiny, xl
from pavdit.config.run import DataConfig, LoopConfig, RunConfig, SystemRun, TrainConfig
from pavdit.config.schema import ConfigError, Model, one_line

__all__ = [
    "LANGUAGE_MODELS",
    "PRESETS",
    "TASKS",
    "AdapterConfig",
    "AdapterShape",
    "ConfigError",
    "DataConfig",
    "DiscriminatorConfig",
    "FlowConfig",
    "Layout",
    "LoopConfig",
    "MDSAConfig",
    "MelConfig",
    "Model",
    "ModelConfig",
    "RunConfig",
    "STDiTConfig",
    "StreamDropoutConfig",
    "SystemModel",
    "SystemRun",
    "TextConfig",
    "TrainConfig",
    "assign",
    "base",
    "load_run",
    "medium",
    "one_line",
    "parse_as",
    "parse_run",
    "read_run",
    "small",
    "tiny",
    "xl",
]
