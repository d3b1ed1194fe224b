"""What is generated from the model of lb.yaml: its JSON Schema and the tables of docs/configuration.md."""

from __future__ import annotations

import json

from lbproxy.control.config_model import json_schema


def schema() -> str:
    """JSON Schema of lb.yaml, as conf/lb.schema.json holds it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
