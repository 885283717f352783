"""The identity of plans: documents, their hash, and the difference of two documents."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, SecretBytes, SecretStr

from engine.config.model import ConnectionConfig, NodeConfig, Settings
from engine.config.validation import holds_secret
from engine.config.values import Value
from engine.contract.params import Params
from engine.contract.types import JsonValue
from engine.redaction import has_credentials, without_credentials

if TYPE_CHECKING:
    from engine.plan.model import DeadLetterSettings, PlanNode

FOLLOWERS: Final = "followers"
"""Key of the followers' parameters in a run's operational document."""

_CONTENTS: Final = "contents"
_CONTENTS_OF_A_NODE: Final = re.compile(rf"nodes\.[^.]+\.{_CONTENTS}")


def canonical(doc: JsonValue) -> bytes:
    """Serialize a JSON document canonically: sorted keys, no spaces, UTF-8."""
    return json.dumps(doc, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def identity_hash(doc: JsonValue) -> str:
    """Return the SHA-256 of the canonical form, in hex."""
    return hashlib.sha256(canonical(doc)).hexdigest()


def identity_doc(nodes: Mapping[str, tuple[PlanNode, NodeConfig]]) -> JsonValue:
    """Return the nodes, edges, components and parameters that alter records."""
    return {"nodes": {name: _identity_of(node, config) for name, (node, config) in nodes.items()}}


def _identity_of(node: PlanNode, config: NodeConfig) -> JsonValue:
    doc: dict[str, JsonValue] = {
        "kind": str(node.kind),
        "component": config.component,
        "inputs": sorted(node.input_names),
        "params": _params(node, config, operational=False),
    }
    if node.options.key_suffix:
        doc["key_suffix"] = node.options.key_suffix
    return doc


def operational_doc(
    nodes: Mapping[str, tuple[PlanNode, NodeConfig]],
    connections: Mapping[str, ConnectionConfig],
    settings: Settings,
    dead_letters: DeadLetterSettings,
) -> JsonValue:
    """Return the settings that may change between attempts of a run."""
    return {
        "nodes": {
            name: {
                "params": _params(node, config, operational=True),
                "connection": _connection(node, connections),
                "options": _options(node),
                **_contents(node),
            }
            for name, (node, config) in nodes.items()
        },
        "dead_letters": {"max_count": dead_letters.max_count, "max_share": dead_letters.max_share},
        "settings": {name: _plain(getattr(settings, name)) for name in Settings.__dataclass_fields__},
    }


def _contents(node: PlanNode) -> dict[str, JsonValue]:
    """Return digests of what parameters name outside of the file, if anything."""
    found = node.params.contents() if isinstance(node.params, Params) else {}
    digests = {name: _digest(text.encode("utf-8", "surrogatepass")) for name, text in found.items()}
    return {_CONTENTS: {**digests}} if digests else {}


def _digest(data: bytes) -> str:
    return f"[sha256 {hashlib.sha256(data).hexdigest()[:8]}]"


def _params(node: PlanNode, config: NodeConfig, *, operational: bool) -> dict[str, JsonValue]:
    chosen = node.spec.operational_params()
    doc: dict[str, JsonValue] = {}
    dumped = node.params.model_dump(mode="json", fallback=_named)
    for name, info in type(node.params).model_fields.items():
        if (name in chosen) is not operational or name == "connection" or name not in dumped:
            continue
        if holds_secret(type(node.params), name) or isinstance(
            getattr(node.params, name), SecretStr | SecretBytes
        ):
            continue
        written = config.arguments.get(info.alias or name) or config.arguments.get(name)
        doc[name] = _shown(written) if written is not None and written.secrets() else _safe(dumped[name])
    return doc


def _safe(data: JsonValue) -> JsonValue:
    """Return a parameter with digests in place of the secrets in its addresses."""
    if isinstance(data, dict):
        return {name: _safe(item) for name, item in data.items()}
    if isinstance(data, list):
        return [_safe(item) for item in data]
    if not isinstance(data, str) or not has_credentials(data):
        return data
    return f"{without_credentials(data)} {_digest(data.encode())}"


def _shown(value: Value) -> JsonValue:
    """Return a value with data from the environment as written, plus a digest to detect changes.

    32 bits are enough to notice a change, and too few to find a secret by brute force.
    """
    written = value.shown if value.shown is not None else "(partly from the environment)"
    return f"{written} {_digest(canonical(_plain(value.plain())))}"


def _connection(node: PlanNode, connections: Mapping[str, ConnectionConfig]) -> JsonValue:
    ref, model = node.connection, node.spec.connection
    if ref is None or model is None:
        return None
    doc: dict[str, JsonValue] = {"name": ref.name, "sandbox": ref.sandbox}
    config = connections.get(ref.name)
    for name, value in config.fields.items() if config else []:
        if name in ref.values and _may_show(model, name):
            data = _shown(value) if value.secrets() else _plain(value.plain())
            doc[name] = without_credentials(data) if isinstance(data, str) else data
    return doc


def _may_show(model: type[BaseModel], name: str) -> bool:
    known = any(name in (key, info.alias) for key, info in model.model_fields.items())
    return known and not holds_secret(model, name)


def _options(node: PlanNode) -> JsonValue:
    options = node.options
    batch = options.batch
    return {
        "retry": asdict(options.retry),
        "concurrency": options.concurrency,
        "ordered": options.ordered,
        "batch": {"records": batch.records, "bytes": batch.nbytes, "linger": batch.linger} if batch else None,
        "on_stall": str(options.on_stall),
        "buffer": options.buffer,
        # only if it is set, so that runs from before this option existed show no difference
        **({"on_error": str(options.on_error)} if options.on_error else {}),
    }


def _plain(data: object) -> JsonValue:
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, Mapping):
        return {str(key): _plain(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(item) for item in data]
    return _named(data)


def _named(data: object) -> str:
    """Replace classes and functions by their names, since their `repr` may contain a memory address."""
    name = getattr(data, "__qualname__", None)
    return f"{getattr(data, '__module__', '')}.{name}" if name else type(data).__qualname__


def difference(before: JsonValue, after: JsonValue) -> list[str]:
    """List the changes between two documents, one per line: `nodes.load.params.model: "A" → "B"`."""
    return list(_changes(_own(before), _own(after), ""))


def _own(doc: JsonValue) -> JsonValue:
    """Return the document without the parts about other pipelines."""
    return {name: item for name, item in doc.items() if name != FOLLOWERS} if isinstance(doc, dict) else doc


def _changes(before: JsonValue, after: JsonValue, path: str) -> list[str]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [f"{path}: {_text(before)} → {_text(after)}"]
    lines: list[str] = []
    for key in dict.fromkeys((*before, *after)):
        # parameters with reserved names, such as `schema_`, have no underscore in the file
        name = str(key).removesuffix("_") if path.endswith(".params") else str(key)
        below = f"{path}.{name}" if path else name
        if key not in after:
            lines.append(f"{below}: removed")
        elif key in before:
            lines += _changes(before[key], after[key], below)
        elif not _CONTENTS_OF_A_NODE.fullmatch(below):  # which earlier versions did not store
            lines.append(f"{below}: added")
    return lines


def _text(data: JsonValue) -> str:
    text = json.dumps(data, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"
