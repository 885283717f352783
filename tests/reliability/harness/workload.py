"""The workload of the processes under test: the four pipelines, split finely for many interruptions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.reliability.harness.children import ROOT

__all__ = ["PIPELINES", "SIMULATED", "Workload", "make_samples"]

SIMULATED = ("blobs", "logs", "events")
PIPELINES = (*SIMULATED, "unstructured_data")

MEMO = """PATIENT INTAKE MEMO

Patient Name: Alex Doe {number}
Patient Age: {age}
Phone Number: 555.473.{number:04d}
Scheduled Appointment Date: 2025-05-12
Dental Procedure Name: Composite filling (tooth 14)
Doctor: Dr. Timothy Suarez
"""
BROKEN = 10
POOR = 5


@dataclass(frozen=True)
class Workload:
    """What is run, and how finely it is cut.

    Args:
        pipelines: which of the four.
        records: of each simulated source.
        fail_percentage: of the simulated records, marked to die in the service.
        seed: of the simulated sources; None lets each run draw its own, so that its first deliveries count
            as fresh (with a given seed the engine takes every delivery for a possible repetition).
        page: records in a batch of a simulated source, and in a request.
        documents: in a request to the service; half as many in a model call, twice as many in a split of the
            S3 source.
        calls: to the model at once; None leaves it to the pipeline.
    """

    pipelines: tuple[str, ...] = PIPELINES
    records: int = 2000
    fail_percentage: int = 2
    seed: int | None = None
    page: int = 200
    documents: int = 8
    calls: int | None = None

    def arguments(self) -> list[str]:
        """For `run`, at the start as well as for `--resume`."""
        options = [f"--only={name}" for name in self.pipelines]
        return options + [f"--set=pipelines.{path}={value}" for path, value in self.settings()]

    def with_pipelines(self, names: tuple[str, ...]) -> Workload:
        """The same with other pipelines."""
        return replace(self, pipelines=names)

    def recut(self, attempt: int) -> Workload:
        """The same in batches of other sizes, as a later attempt may use: with the same ones, a request that
        is sent again has the same bytes, and the service would know it by its idempotency key alone."""
        return replace(
            self,
            page=max(1, self.page * 13 // (20 if attempt % 2 else 11)),
            documents=max(2, self.documents - 1 - attempt % 2),
        )

    def settings(self) -> Iterator[tuple[str, object]]:
        """What is changed in `pipelines.yaml`: paths below `pipelines`, and values."""
        for name in SIMULATED:
            if name not in self.pipelines:
                continue
            nodes = f"{name}.nodes"
            yield f"{name}.params.batch_size", self.records
            yield f"{name}.params.fail_percentage", self.fail_percentage
            if self.seed is not None:
                yield f"{nodes}.extract.with.seed", self.seed
            yield f"{nodes}.extract.with.page_size", self.page
            yield f"{nodes}.extract.with.split_size", self.page * 5
            yield f"{nodes}.load.with.records", self.page
        if "unstructured_data" in self.pipelines:
            nodes = "unstructured_data.nodes"
            yield "unstructured_data.dead_letters.max", "100%"  # most of these documents are made to die
            yield "unstructured_data.params.batch_size", self.documents // 2
            yield f"{nodes}.files.with.split_objects", self.documents * 2
            yield f"{nodes}.stage.with.records", self.documents
            yield f"{nodes}.load.with.records", self.documents
            if self.calls is not None:
                yield f"{nodes}.extract.with.concurrency", self.calls


def environment(addresses: Mapping[str, Mapping[str, str]], ingest_url: str) -> dict[str, str]:
    """The variables by which `pipelines.yaml` finds the outside world."""
    lake, model = addresses["s3"], addresses["llm"]
    return {
        "INGEST_URL": ingest_url,
        "S3_ENDPOINT": lake["endpoint"],
        "S3_ACCESS_KEY": lake["access_key"],
        "S3_SECRET_KEY": lake["secret_key"],
        "S3_REGION": lake["region"],
        "OPENAI_BASE_URL": model["base_url"],
        "OPENAI_API_KEY": model["api_key"],
        "OPENAI_MODEL": model["model"],
    }


def make_samples(folder: Path, documents: int = 0) -> Path:
    """The project's sample memos, with more broken and incomplete ones among them, so that more die.

    Args:
        documents: short memos to add to those, of which nothing dies.
    """
    source = ROOT / "samples"
    shutil.copytree(source / "memos", folder / "memos")
    shutil.copy(source / "transcripts.json", folder / "transcripts.json")
    for number in range(BROKEN):
        _write(folder / "memos" / f"broken {number}.pdf", f"%PDF-1.7\nscan {number} was cut off")
    for number in range(POOR):
        text = f"Patient Name: Jane Roe {number}\nPatient Age: {30 + number}\nPlease call back.\n"
        _write(folder / "memos" / "poor" / f"note {number}.txt", text)
    for number in range(documents):
        text = MEMO.format(number=number, age=20 + number % 70)
        _write(folder / "memos" / "many" / f"{number // 100:03d}" / f"memo_{number:05d}.txt", text)
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
