"""Parse durations (`10m`), sizes (`64 MB`) and shares (`20%`)."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, WithJsonSchema

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_DURATION_FORM: Final = "a duration such as 500ms, 30s, 10m, 1h30m or 2d"

# KB and KiB both mean 1024 bytes: `64 MB` of memory usually means the power of two.
_BYTES: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_SIZE_FORM: Final = "a size such as 512 KB, 64 MB or 1 GB"


def parse_duration(text: str | float) -> float:
    """Parse `500ms`, `30s`, `10m`, `1h30m` or `2d` to seconds; a bare number is seconds.

    Raises:
        ValueError: lists the accepted forms.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        seconds = float(text)
    else:
        compact = str(text).strip().lower()
        matches = list(_DURATION.finditer(compact))
        if re.fullmatch(r"\d+(\.\d+)?", compact):
            seconds = float(compact)
        elif matches and not _DURATION.sub("", compact).strip():
            seconds = sum(float(match[1]) * _SECONDS[match[2]] for match in matches)
        else:
            raise ValueError(f"expected {_DURATION_FORM}")
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"expected {_DURATION_FORM}")
    return seconds


def parse_size(text: str | int) -> int:
    """Parse `512 KB`, `64 MB` or `1 GB` (powers of 1024, also KiB) to bytes; a bare number is bytes.

    Raises:
        ValueError: lists the accepted forms.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError(f"expected {_SIZE_FORM}")
        return text
    matched = _SIZE.fullmatch(str(text).strip())
    if matched is None:
        raise ValueError(f"expected {_SIZE_FORM}")
    return int(float(matched[1]) * _BYTES[matched[2].lower()])


def parse_limit(text: str | int) -> int | float:
    """Parse a number of records (`100`) as an int, or a share (`20%`) as a float between 0 and 1.

    Raises:
        ValueError: it is neither.
    """
    compact = str(text).strip()
    if re.fullmatch(r"\d+", compact) and not isinstance(text, bool):
        return int(compact)
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", compact)
    if matched is None or float(matched[1]) > 100:
        raise ValueError("expected a number of records such as 100 or a share such as 20%")
    return float(matched[1]) / 100


def _timeout(value: Any) -> float | None:
    return None if value is None or value == "never" else parse_duration(value)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}),
]
Timeout = Annotated[
    float | None,
    BeforeValidator(_timeout),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}, {"type": "null"}]}),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}),
]
Limit = Annotated[
    int | float,
    BeforeValidator(parse_limit),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}),
]
