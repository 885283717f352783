"""Configuration: read a YAML file or a mapping into a checked `FileConfig`."""

from __future__ import annotations

from engine.config.load import load_file, load_mapping
from engine.config.model import FileConfig, PipelineConfig
from engine.config.overrides import Overrides
from engine.config.selection import select

__all__ = ["FileConfig", "Overrides", "PipelineConfig", "load_file", "load_mapping", "select"]
