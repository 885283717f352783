"""Requests too large for a server or a history are refused before anything starts."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.temporal.messages import PipelineRequest
from engine.temporal.starting import check_request

LONG = "x" * 2000


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (PipelineRequest("p", shards=501), "--shards is from 1 to 500, not 501"),
        (PipelineRequest("p", window=5000), "--window is from 1 to 200, not 5,000"),
        (PipelineRequest("p", params={"p": {"text": "x" * 3000}}), "the run parameters of 'p' take 3,01"),
        (
            PipelineRequest("p", params={f"p{number}": {"text": LONG} for number in range(40)}),
            "the run parameters of 40 pipelines are ",
        ),
    ],
)
def test_what_no_server_would_take_is_refused(request_: PipelineRequest, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_request(request_)
    assert str(raised.value).startswith(message)


def test_the_largest_request_passes() -> None:
    check_request(PipelineRequest("p", shards=500, window=200, params={"p": {"text": LONG}}))
