"""Whether the running service of a directory supports what a file declares."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from engine.errors import ServiceError
from engine.service.declared import Declared
from engine.service.discovery import ServiceAddress, announce, service_file


@pytest.mark.parametrize(
    ("served", "lacking"),
    [
        ({"visit": ["id", "room"]}, []),
        ({"Visit": ["id"]}, ["Visit.room"]),
        ({"Other": ["id"]}, []),  # what is sent to an unknown model is refused anyway
        (None, []),  # a service of an earlier version
    ],
)
def test_a_service_older_than_its_file_is_found_out(
    tmp_path: Path, served: dict[str, list[str]] | None, lacking: list[str]
) -> None:
    service_file(tmp_path).parent.mkdir(mode=0o700)
    announce(tmp_path, ServiceAddress("http://127.0.0.1:9", 7, served))
    fields = {"id": {"type": "str"}, "room": {"type": "str?"}}
    declared = Declared({"models": {"Visit": {"fields": fields}}}, str(tmp_path))
    refused = pytest.raises(ServiceError, match=r"declared Visit\.room, and would drop it")
    with refused if lacking else nullcontext():
        declared.check_served(tmp_path)
