"""One lab for all reliability tests: the embedded S3 and model, and an undisturbed run for comparison."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reliability.harness.trial import Lab, laboratory


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Its process outlives each test, so it is there before the first one is looked at."""
    with laboratory(tmp_path_factory.mktemp("lab")) as running:
        yield running
