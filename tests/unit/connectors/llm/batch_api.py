"""An endpoint's Batch API in memory, as the SDK shows it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import SimpleNamespace
from typing import Any

from tests.unit.connectors.llm.test_llm_asking import SCHEMA

__all__ = ["BatchApi", "completed"]

Answerer = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""The response or error of a line; None leaves the line out."""


def completed(line: Mapping[str, Any]) -> dict[str, Any]:
    """The right answer: every field of a document is its text."""
    text = line["body"]["messages"][-1]["content"]
    slots = {}
    for part in text.split("<document ")[1:]:
        head, _, inner = part.partition(">\n")
        slot = head.partition('slot="')[2].partition('"')[0]
        nonce = head.partition('nonce="')[2].partition('"')[0]
        said = inner.partition("\n")[0]
        slots[slot] = {**dict.fromkeys(SCHEMA.fields, said), **({"nonce": nonce} if nonce else {})}
    values = slots if len(slots) > 1 else slots["r1"]
    message = {"role": "assistant", "content": json.dumps(values)}
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    return {"response": {"status_code": 200, "body": body}}


class BatchApi:
    """`looks` is how often a job is looked at before it ends, `status` how it ends.

    Attributes:
        lines: those of all jobs, as they were sent.
        cancelled: ids of jobs.
        before_created, after_created: called around the creation of a job.
    """

    def __init__(self, answerer: Answerer = completed, *, looks: int = 2, status: str = "completed") -> None:
        self.lines: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.before_created: Callable[[], None] = lambda: None
        self.after_created: Callable[[], None] = lambda: None
        self.errors: list[SimpleNamespace] = []
        self.looks = looks
        self.status = status
        self._answerer = answerer
        self._files: dict[str, bytes] = {}
        self.files = SimpleNamespace(create=self._upload, content=self._download)
        self.batches = SimpleNamespace(
            create=self._create, retrieve=self._retrieve, cancel=self._cancel, list=self._list
        )

    async def post(self, *_: object, **__: object) -> Any:
        """A call without a job: whether the endpoint answers at all."""
        content = json.dumps({"choices": [{"message": {"content": "{}"}}]}).encode()
        return SimpleNamespace(http_response=SimpleNamespace(status_code=200, headers={}, content=content))

    async def _upload(self, *, file: tuple[str, bytes, str], purpose: str) -> SimpleNamespace:
        assert purpose == "batch"
        return SimpleNamespace(id=self._file(file[1]))

    def _file(self, content: bytes) -> str:
        self._files[name := f"file-{len(self._files)}"] = content
        return name

    async def _download(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(content=self._files[name])

    async def _create(self, *, input_file_id: str, **options: Any) -> SimpleNamespace:
        assert options.keys() == {"endpoint", "completion_window"}  # some endpoints refuse any other
        self.before_created()
        lines = [json.loads(one) for one in self._files[input_file_id].splitlines()]
        self.lines += lines
        job_id = f"batch-{len(self.jobs)}"
        self.jobs[job_id] = {"input_file_id": input_file_id, "lines": lines, "looks": self.looks}
        self.after_created()
        return SimpleNamespace(id=job_id)

    async def _retrieve(self, job_id: str) -> Any:
        job = self.jobs[job_id]
        if "ended" in job:
            return job["ended"]
        job["looks"] -= 1
        ended = job["looks"] < 0
        found = SimpleNamespace(
            id=job_id, status=self.status if ended else "in_progress",
            output_file_id=None, error_file_id=None,
            errors=SimpleNamespace(data=self.errors), request_counts=SimpleNamespace(total=len(job["lines"])),
        )  # fmt: skip
        if ended and self.status != "failed":
            answers = [(one["custom_id"], self._answerer(one)) for one in job["lines"]]
            files: dict[bool, list[str]] = {True: [], False: []}
            for number, answer in answers:
                if answer is not None:
                    files["response" in answer].append(json.dumps({"custom_id": number, **answer}))
            found.output_file_id = self._file("\n".join(files[True]).encode())
            found.error_file_id = self._file("\n".join(files[False]).encode())
        if ended:
            job["ended"] = found
        return found

    async def _cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    async def _list(self, *, limit: int) -> AsyncIterator[SimpleNamespace]:
        for job_id, job in self.jobs.items():
            yield SimpleNamespace(id=job_id, input_file_id=job["input_file_id"])
