"""Simulated objects of a blob store's inventory."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations, product
from random import Random

from connectors.simulated.blocks import JsonObject, uuids
from connectors.simulated.pools import ReadablePools

_TEAMS = (
    "billing", "catalog", "clinic", "fleet", "growth", "identity", "labs", "press", "retail", "support",
)  # fmt: skip
_USES = ("archive", "exports", "inbox", "media", "snapshots")

BUCKETS = tuple(f"{team}-{use}" for team, use in product(_TEAMS, _USES))
"""Fifty bucket names."""

_FILES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "csv": ("text/csv", ("contacts", "daily-totals", "price-list", "returns", "site-visits")),
    "doc": ("application/msword", ("policy-draft",)),
    "docx": (
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ("cover-letter", "meeting-minutes", "proposal"),
    ),
    "gif": ("image/gif", ("loader",)),
    "html": ("text/html", ("landing-page", "newsletter")),
    "jpeg": ("image/jpeg", ("product-shot", "warehouse")),
    "jpg": ("image/jpeg", ("storefront", "team-photo")),
    "json": ("application/json", ("feature-flags", "manifest", "openapi", "survey-answers")),
    "md": ("text/markdown", ("handbook", "release-notes")),
    "mp3": ("audio/mpeg", ("podcast-intro", "voicemail")),
    "mp4": ("video/mp4", ("floor-walk", "keynote")),
    "pdf": ("application/pdf", ("consent-form", "floor-plan", "invoice", "lease-agreement", "user-manual")),
    "png": ("image/png", ("heatmap", "logo", "wireframe")),
    "txt": ("text/plain", ("access-log", "sensor-notes", "todo", "transcript")),
    "xlsx": (
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        ("balance-sheet", "inventory-count", "payroll-summary"),
    ),
    "xml": ("application/xml", ("catalog", "sitemap")),
    "zip": ("application/zip", ("fonts", "source-code")),
    "bak": (None, ("core",)),
    "dump": (None, ("database",)),
    "ini": (None, ("settings",)),
    "onnx": (None, ("model",)),
    "parquet": (None, ("events",)),
}

CONTENT_TYPES: dict[str, str | None] = {
    f"{stem}.{extension}": media_type for extension, (media_type, stems) in _FILES.items() for stem in stems
}
"""Fifty file names with their content types; five have no well-known type."""

_NAMED_FILES = tuple(CONTENT_TYPES.items())

PERMISSIONS = ("READ", "WRITE", "DELETE", "LIST")

SMALLEST, LARGEST = 256, 10 * 1024 * 1024
"""Bounds of `file_size` in bytes, both inclusive."""


class BlobMaker:
    """Generates `BlobSource` records with random buckets, names and folders."""

    kind = "blob"

    def __init__(self, pools: ReadablePools | None = None) -> None:
        self._pools = pools or ReadablePools()

    def prepare(self) -> None:
        """Build the pools."""
        _ = self._folders, self._permissions

    def make(self, random: Random, timestamps: list[str]) -> list[JsonObject]:
        """Generate one record per timestamp."""
        count = len(timestamps)
        choices, draw = random.choices, random.random
        sizes = LARGEST - SMALLEST + 1
        columns = zip(
            uuids(random, count),
            choices(BUCKETS, k=count),
            choices(self._folders, k=count),
            choices(_NAMED_FILES, k=count),
            [SMALLEST + int(draw() * sizes) for _ in range(count)],
            choices(self._permissions, k=count),
            timestamps,
            strict=True,
        )
        return [
            {
                "id": id_,
                "bucket_name": bucket,
                "file_path": folder,
                "file_name": name,
                "file_size": size,
                "permissions": [*permissions],
                "content_type": media_type,
                "ingested_at": timestamp,
            }
            for id_, bucket, folder, (name, media_type), size, permissions, timestamp in columns
        ]

    @cached_property
    def _folders(self) -> list[str]:
        """Return equal numbers of paths of one, two and three folders, some of them personal."""
        people, words = self._pools.user_names(), self._pools.words()
        paths: list[str] = []
        for index, (person, word) in enumerate(zip(people, words, strict=True)):
            top = person if index % 2 else word
            paths.append(f"/{top}/")
            paths.append(f"/{word}/{2015 + index % 11}/")
            paths.append(f"/home/{person}/{word}/")
        return paths

    @cached_property
    def _permissions(self) -> list[tuple[str, ...]]:
        """Return combinations of one to four permissions, each number equally likely."""
        by_number = [list(combinations(PERMISSIONS, number)) for number in range(1, 5)]
        # 4, 6, 4 and 1 combinations: 12 is their least common multiple
        return [chosen for sets in by_number for chosen in sets * (12 // len(sets))]
