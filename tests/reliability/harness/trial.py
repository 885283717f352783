"""One trial: start, inject faults, resume until it has completed, and check the result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.reliability.harness.blows import Plan
from tests.reliability.harness.children import LOOK_EVERY, sandboxed, serving
from tests.reliability.harness.course import Course
from tests.reliability.harness.evidence import (
    Evidence,
    Paid,
    paid,
    raw_counts,
    read_service,
    read_state,
)
from tests.reliability.harness.outcome import COMPLETED, Outcome
from tests.reliability.harness.proxy import proxied
from tests.reliability.harness.service_kills import ServiceStriker
from tests.reliability.harness.verdict import differences, paid_twice
from tests.reliability.harness.workload import Workload, environment, make_samples
from tests.servers.warm_start import is_warm

__all__ = ["Lab", "laboratory"]

ANSWERS_WITHIN = 300.0
CALLS_IN_FLIGHT = 8  # `concurrency` of `llm_extract`
# seconds of the undisturbed run on two cores that do nothing else: from cold, and warm
QUIET_RUN = {False: 1.8, True: 0.9}
WIRES = {"service": "INGEST_URL", "model": "OPENAI_BASE_URL", "lake": "S3_ENDPOINT"}


class Lab:
    """Shared by all trials: the embedded S3 and model, and the results of an undisturbed run."""

    def __init__(self, folder: Path, addresses: Mapping[str, Mapping[str, str]]) -> None:
        self.folder = folder
        self.addresses = addresses
        self.pace = 1.0
        """How much slower this machine is than one that does nothing else, as of the last undisturbed run."""
        self._undisturbed: tuple[Evidence, Paid] | None = None
        self._number = 0

    def trial(self, plan: Plan) -> Outcome:
        """Run a trial to its verdict."""
        undisturbed, usual = self.undisturbed(plan.workload)
        outcome = Outcome(plan.name, plan.workload)
        started = time.monotonic()
        evidence = self._drive(plan, outcome)
        outcome.problems += differences(plan.workload, evidence, undisturbed)
        if "unstructured_data" in plan.workload.pipelines:
            self._look_at_payments(outcome, usual)
        outcome.seconds = round(time.monotonic() - started, 2)
        return outcome

    def _look_at_payments(self, outcome: Outcome, usual: Paid) -> None:
        marks, pack = outcome.paid_so_far, outcome.workload.documents // 2
        outcome.paid_again = marks[-1].documents - marks[0].documents - usual.documents
        # an answer that a wire has damaged is paid for and cannot be kept
        damaged = outcome.wire_faults.get("model", 0) * pack
        outcome.problems += paid_twice(marks, CALLS_IN_FLIGHT * pack, damaged)

    def undisturbed(self, workload: Workload) -> tuple[Evidence, Paid]:
        """Return the results and cost of an undisturbed run of the documents."""
        if self._undisturbed is None:
            calm = workload.with_pipelines(("unstructured_data",))
            outcome, before = Outcome("undisturbed", calm), self.paid()
            evidence = self._drive(Plan("undisturbed", calm), outcome)
            if outcome.problems or outcome.codes != [COMPLETED]:
                raise AssertionError(f"an undisturbed run went wrong: {outcome}")
            self.pace = outcome.attempts[0].seconds / QUIET_RUN[is_warm()]
            self._undisturbed = evidence, self.paid().since(before)
        return self._undisturbed

    def paid(self) -> Paid:
        """What the model has been paid for so far, when the calls of processes that are gone are over."""
        until = time.monotonic() + ANSWERS_WITHIN
        while (now := paid(self.addresses["llm"]["base_url"])).in_flight and time.monotonic() < until:
            time.sleep(LOOK_EVERY)
        return now

    def _drive(self, plan: Plan, outcome: Outcome) -> Evidence:
        self._number += 1
        folder = self.folder / f"{self._number:03d}"
        point = plan.service[0].point if plan.service else ""
        with serving(folder / "service", folder / "serve", point) as service, ExitStack() as stack:
            world = environment(self.addresses, service.url)
            wires = {
                name: stack.enter_context(proxied(world[WIRES[name]], faults))
                for name, faults in plan.wires.items()
            }
            for name, proxy in wires.items():
                world[WIRES[name]] = proxy.url + urlsplit(world[WIRES[name]]).path
            course = Course(
                plan,
                outcome,
                folder,
                world,
                service,
                documents_paid=lambda: self.paid().documents,
                pace=self.pace,
            )
            with ServiceStriker(
                service,
                plan.service,
                pace=self.pace,
                engine=lambda: course.child,
                begun=lambda: course.begun,
            ) as striker:
                course.run()
            outcome.service_struck = striker.struck
            outcome.wire_faults = {name: proxy.done.total() for name, proxy in wires.items()}
            outcome.exchanges = {name: proxy.exchanges for name, proxy in wires.items()}
            records = read_service(service.url)
        state = read_state(folder / "state")
        return Evidence(records, state.runs, state.letters, raw_counts(folder / "service"))


@contextmanager
def laboratory(folder: Path, *, documents: int = 0) -> Iterator[Lab]:
    """A lab whose files are in `folder`, with `documents` more than the samples in its S3."""
    samples = make_samples(folder / "samples", documents)
    with sandboxed("s3,llm", folder / "sandbox", samples, folder / "sandbox") as addresses:
        yield Lab(folder, addresses)
