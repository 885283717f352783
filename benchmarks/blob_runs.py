"""``blobs`` from YAML to committed rows: the command that the main-job and memory benchmarks measure."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.engine_commands import PIPELINES, PipelineReport, engine, serving
from benchmarks.machine import ROOT
from benchmarks.model import Command, Completed, Launch, Work
from benchmarks.process import process_cpu

_SINK = "model: BlobSource}"


def blob_run(records: int, *, columns: bool = True) -> Command:
    """Runs ``blobs`` with ``records`` records against an ingest service in another process.

    Both start from empty state directories. The figures are the engine's; ``rate`` comes from its report,
    without start-up; ``service_cpu`` is the CPU time of the service. The checksum confirms that every record
    was written and is served as a row, so it is the same for any size. Without `columns` the sink sends only
    JSON.
    """

    @contextmanager
    def prepare(directory: Path) -> Iterator[Launch]:
        report = directory / "report.json"
        with serving(directory) as service:
            cpu_before = process_cpu(service.pid)

            def work(_: Completed) -> Work:
                used = process_cpu(service.pid) - cpu_before
                blobs = read_report(report, "blobs")
                check(blobs, records)
                rows = row_count(service.url)
                if rows != records:
                    raise ValueError(f"{rows} rows are served, {records} were sent")
                figures = {"rate": records / blobs["seconds"], "run": blobs["seconds"], "service_cpu": used}
                return Work(records, "all records written and served", figures)

            yield Launch(
                argv=engine(
                    "run",
                    str(PIPELINES if columns else _with_json(directory)),
                    *("--only", "blobs"),
                    *("--param", f"blobs.batch_size={records}"),
                    *("--report", str(report)),
                    *("--state-dir", str(directory / "engine")),
                ),
                work=work,
                env={"INGEST_URL": service.url},
                cwd=ROOT,
            )

    return prepare


def _with_json(directory: Path) -> Path:
    """Return the pipelines with a sink that never sends columns. Raises ValueError without such a sink."""
    text = PIPELINES.read_text()
    if _SINK not in text:
        raise ValueError(f"{PIPELINES.name} has no sink with {_SINK}")
    file = directory / PIPELINES.name
    file.write_text(text.replace(_SINK, f"{_SINK[:-1]}, columns: false}}"))
    return file


def read_report(path: Path, pipeline: str) -> PipelineReport:
    """Return a pipeline's part of a report file."""
    found: PipelineReport = json.loads(path.read_bytes())["pipelines"][pipeline]
    return found


def check(report: PipelineReport, records: int) -> None:
    """Raise ValueError unless the pipeline completed and wrote all of its records."""
    tally = report["tally"]
    expected = {"read": records, "written": records, "dropped": 0, "dead": 0}
    found = {name: tally.get(name) for name in expected}
    if report["status"] != "completed" or found != expected:
        raise ValueError(f"{report['status']} with {found}, not completed with {expected}")


def row_count(url: str) -> int:
    """Return the number of Blob rows that the service serves."""
    with urllib.request.urlopen(f"{url}/consumption/getBlobs?limit=1", timeout=60) as answer:
        return int(json.load(answer)["total"])
