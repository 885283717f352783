"""Packed content, whole and damaged."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.objects import compression
from connectors.objects.compression import (
    PackedError,
    UnpackedTooLargeError,
    is_packed,
)
from connectors.objects.unpacking import open_unpacked, unpack_body

zstd = compression.zstd()

TEXT = b"the same text again and again\n" * 1000
LIMIT = 10**6
CHECKED = {zstd.CompressionParameter.checksum_flag: 1}

Pack = Callable[[bytes], bytes]
FILES: dict[str, Pack] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstd.compress(data, options=CHECKED),
}
BODIES: dict[str, Pack] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "aws-chunked, gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
}


@pytest.mark.parametrize(("suffix", "pack"), FILES.items())
def test_several_members_are_one_content(suffix: str, pack: Pack) -> None:
    packed = io.BufferedReader(io.BytesIO(pack(TEXT) + pack(b"more")))
    with open_unpacked(packed, f"a.jsonl{suffix}") as file:
        assert file.read() == TEXT + b"more"
    assert packed.closed


@pytest.mark.parametrize(("suffix", "pack"), FILES.items())
@pytest.mark.parametrize("damage", ["cut off", "changed", "another kind"])
def test_damaged_files_are_never_read_to_a_good_end(suffix: str, pack: Pack, damage: str) -> None:
    packed = pack(bytes(range(256)) * 400)
    spoiled = {
        "cut off": packed[:-5],
        "changed": packed[: len(packed) // 2] + bytes(8) + packed[len(packed) // 2 + 8 :],
        "another kind": b"\0no packed data",
    }[damage]
    with (
        pytest.raises(PackedError),
        open_unpacked(io.BufferedReader(io.BytesIO(spoiled)), f"a{suffix}") as file,
    ):
        file.read()


@pytest.mark.parametrize(("suffix", "pack"), FILES.items())
@pytest.mark.parametrize("after", [b"", bytes(512), b"\0garbage", b"cut off"])
def test_everything_before_the_damage_is_read(suffix: str, pack: Pack, after: bytes) -> None:
    packed = pack(TEXT)
    data = packed[:-1] if after == b"cut off" else packed + after
    found = b""
    with contextlib.ExitStack() as stack:
        if after.strip(b"\0"):
            stack.enter_context(pytest.raises(PackedError))
        file = stack.enter_context(open_unpacked(io.BufferedReader(io.BytesIO(data)), f"a{suffix}"))
        while piece := file.read1(1000):
            found += piece
    assert found == TEXT


@pytest.mark.parametrize(("suffix", "pack"), FILES.items())
def test_a_name_that_is_wrong_about_its_packing_does_not_matter(suffix: str, pack: Pack) -> None:
    for name in (f"a{suffix}", "a.jsonl.gz", "a.jsonl.xz"):
        for data in (TEXT, pack(TEXT), pack(pack(TEXT))):
            with open_unpacked(io.BufferedReader(io.BytesIO(data)), name) as file:
                assert file.read() == TEXT


def test_other_names_are_read_as_they_are() -> None:
    assert not is_packed("gz.jsonl")
    with open_unpacked(io.BufferedReader(io.BytesIO(TEXT)), "a.jsonl") as file:
        assert file.read() == TEXT


@pytest.mark.parametrize(("encoding", "pack"), BODIES.items())
def test_a_body_is_unpacked_as_its_header_says(encoding: str, pack: Pack) -> None:
    assert unpack_body(pack(TEXT), encoding, LIMIT) == TEXT


@pytest.mark.parametrize(
    "encoding", [None, "", "identity", "aws-chunked", "utf-8", "br", "gzip", "zstd", "deflate"]
)
def test_a_body_that_is_not_packed_stays_what_it_is(encoding: str | None) -> None:
    assert unpack_body(TEXT, encoding, LIMIT) is None
    assert unpack_body(b"", encoding, LIMIT) is None


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_body_that_is_cut_off_is_an_error(encoding: str) -> None:
    with pytest.raises(PackedError):
        unpack_body(BODIES[encoding](TEXT)[:-5], encoding, LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_nothing_is_unpacked_beyond_the_limit(encoding: str) -> None:
    with pytest.raises(UnpackedTooLargeError):
        unpack_body(BODIES[encoding](bytes(10**7)), encoding, LIMIT)


@given(st.binary(max_size=2000), st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, br"]))
def test_unpacking_undoes_packing(data: bytes, encoding: str) -> None:
    assert unpack_body(BODIES[encoding](data), encoding, LIMIT) == data


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "br", "zstd", "xz", "bzip2"]))
def test_any_bytes_are_unpacked_left_alone_or_refused(data: bytes, encoding: str) -> None:
    try:
        found = unpack_body(data, encoding, 1000)
    except (PackedError, UnpackedTooLargeError):
        return
    assert found is None or len(found) <= 1000
