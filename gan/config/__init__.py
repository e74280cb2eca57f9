"""The schema of a run, frozen and strict and the only place where defaults live, and how it is read.

An unknown key, a wrong type or a value out of range is refused in one line that names the key and what is accepted.
"""

from gan.config.core_schema import dump_yaml, parse_yaml
from gan.config.named import config_folder, config_names, find_config
from gan.config.options import construct, look_up
from gan.config.reading import apply_override, check, load_config, load_tree, validate
from gan.config.schema import (
    AttentionConfig,
    BackboneConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LoggingConfig,
    OptimizerConfig,
    Positive,
    Rate,
    Section,
)

__all__ = [
    "AttentionConfig",
    "BackboneConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "LoggingConfig",
    "OptimizerConfig",
    "Positive",
    "Rate",
    "Section",
    "apply_override",
    "check",
    "config_folder",
    "config_names",
    "construct",
    "dump_yaml",
    "find_config",
    "load_config",
    "load_tree",
    "look_up",
    "parse_yaml",
    "validate",
]
