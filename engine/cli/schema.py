"""Print the JSON Schema of pipeline files, for editors that validate and complete YAML.

In editors with the YAML language server, put this at the top of the file:
  # yaml-language-server: $schema=./pipelines.schema.json
"""

from __future__ import annotations

import sys

from engine.cli.options import SchemaOptions


def execute(options: SchemaOptions) -> int:
    """Print the schema."""
    import json

    from engine.config.schema import file_schema
    from engine.registry import Registry

    sys.stdout.write(json.dumps(file_schema(Registry.installed()), indent=2, ensure_ascii=False) + "\n")
    return 0
