"""Reports about texts with invalid bytes or guessed encodings."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli.display.summary import summary
from tests.unit.connectors.s3.odd_s3 import OddS3, run, serving, source

GERMAN = "Schöne Grüße aus Köln, wir bestätigen die Überweisung.\n" * 20
TEXTS = {
    "bad.txt": GERMAN.encode() + b"Stra\xdfe",
    "cut.txt": GERMAN.rstrip().encode() + "ü".encode()[:1],
    "good.txt": GERMAN.encode(),
    "guessed.txt": GERMAN.encode("cp1252"),
}


async def test_replaced_characters_and_guesses_are_in_records_and_summary(tmp_path: Path) -> None:
    async with serving(OddS3(TEXTS)) as lake:
        ran = await run(source(lake), tmp_path)
    found = {record["file_path"].rpartition("/")[2]: record for record in ran.records}
    assert {name: record["replaced_characters"] for name, record in found.items()} == {
        "bad.txt": 1, "cut.txt": 1, "good.txt": 0, "guessed.txt": 0,
    }  # fmt: skip
    assert {name for name, record in found.items() if record["encoding_guessed"]} == {"guessed.txt"}
    assert found["guessed.txt"]["content"] == GERMAN
    said = summary([ran.report], options=None)  # type: ignore[arg-type]
    assert "`read` replaced 2 invalid characters" in said
    assert "`read` guessed the encoding of 1 text" in said


@pytest.mark.slow
async def test_strict_text_makes_dead_letters_of_invalid_bytes(tmp_path: Path) -> None:
    async with serving(OddS3(TEXTS)) as lake:
        ran = await run(source(lake, strict_text=True), tmp_path)
    assert sorted(ran.arrived) == ["good.txt", "guessed.txt"]
    assert ran.dead == {"bad.txt": "InvalidText", "cut.txt": "InvalidText"}
