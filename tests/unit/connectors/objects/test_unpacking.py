"""Compressed content that arrives piece by piece."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.objects import compression, unpacking
from connectors.objects.compression import PackedError, UnpackedTooLargeError
from connectors.objects.unpacking import StreamUnpacker, packed_kind
from engine.errors import FatalError

zstd = compression.zstd()

TEXT = b"the same text again and again\n" * 500

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
}
WITH_MEMBERS = ["gzip", "bzip2", "xz", "zstd"]


def unpacked(kind: str, packed: bytes, piece: int = 1 << 20, **limits: float) -> bytes:
    unpacker = StreamUnpacker(kind, **{"max_bytes": 1 << 30, "max_ratio": 1000.0, **limits})  # type: ignore[arg-type]
    found = []
    for start in range(0, len(packed), piece):
        unpacker.feed(packed[start : start + piece])
        while data := unpacker.take():
            found.append(data)
    unpacker.finish()
    return b"".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PACK)
@given(data=st.binary(max_size=2000), piece=st.integers(1, 300))
def test_any_content_in_any_pieces_comes_out_whole(kind: str, data: bytes, piece: int) -> None:
    assert unpacked(kind, PACK[kind](data), piece) == data


@pytest.mark.slow
@pytest.mark.parametrize("kind", WITH_MEMBERS)
@given(members=st.lists(st.binary(max_size=200), min_size=1, max_size=4), piece=st.integers(1, 100))
def test_consecutive_members_are_one_content(kind: str, members: list[bytes], piece: int) -> None:
    packed = b"".join(map(PACK[kind], members))
    assert unpacked(kind, packed, piece) == b"".join(members)


@pytest.mark.parametrize("kind", PACK)
def test_content_that_ends_early_is_damaged(kind: str) -> None:
    with pytest.raises(PackedError, match=r"ends early|damaged"):
        unpacked(kind, PACK[kind](TEXT)[:-5])


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_content_with_a_flipped_byte_is_damaged(kind: str) -> None:
    packed = bytearray(PACK[kind](TEXT))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(PackedError, match=r"damaged|ends early"):
        unpacked(kind, bytes(packed))


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
@pytest.mark.parametrize("members", [1, 2])
def test_nothing_of_a_small_damaged_member_is_returned(kind: str, members: int) -> None:
    packed = bytearray(PACK[kind](TEXT))
    packed[-6 if kind == "gzip" else len(packed) // 2] ^= 0xFF
    unpacker = StreamUnpacker(kind, max_bytes=1 << 30, max_ratio=1000.0)
    unpacker.feed(PACK[kind](b"sound") * (members - 1) + bytes(packed))
    found: list[bytes] = []
    with pytest.raises(PackedError) as caught:
        found += iter(unpacker.take, b"")
    assert found == [b"sound"] * (members - 1)
    assert "wrong" not in str(caught.value)


def test_damage_after_much_of_a_member_was_returned_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "HELD_BYTES", 1000)
    unpacker = StreamUnpacker("gzip", max_bytes=1 << 30, max_ratio=1000.0)
    unpacker.feed(gzip.compress(TEXT)[:-8])
    assert b"".join(iter(unpacker.take, b"")) == TEXT
    unpacker.feed(bytes(8))
    with pytest.raises(PackedError, match="check what was read of it before, which may be wrong"):
        unpacker.take()


@pytest.mark.parametrize("kind", WITH_MEMBERS)
def test_zeros_after_the_content_are_padding(kind: str) -> None:
    assert unpacked(kind, PACK[kind](TEXT) + b"\0" * 512, 100) == TEXT


@pytest.mark.parametrize("kind", WITH_MEMBERS)
def test_other_bytes_after_the_content_are_damage(kind: str) -> None:
    with pytest.raises(PackedError):
        unpacked(kind, PACK[kind](TEXT) + b"rubbish, and enough of it to tell")


@pytest.mark.parametrize("kind", PACK)
def test_content_over_its_size_is_not_unpacked_further(kind: str) -> None:
    with pytest.raises(UnpackedTooLargeError, match="more than 10,000 bytes"):
        unpacked(kind, PACK[kind](TEXT), max_bytes=10_000)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bzip2", "xz", "zstd"])
def test_content_over_its_ratio_is_a_bomb(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "RATIO_FROM", 1 << 20)
    with pytest.raises(UnpackedTooLargeError, match="times its size"):
        unpacked(kind, PACK[kind](bytes(8 << 20)), max_ratio=100)


@pytest.mark.parametrize("kind", WITH_MEMBERS)
def test_the_first_bytes_decide_and_not_the_name(kind: str) -> None:
    assert packed_kind(PACK[kind](TEXT), "a.txt", None) == kind
    assert packed_kind(PACK[kind](b""), "a.txt", "identity") == kind


@pytest.mark.parametrize("kind", ["deflate", "br"])
def test_what_has_no_signature_is_named_by_the_header(kind: str) -> None:
    packed = PACK[kind](TEXT)
    assert packed_kind(packed, "a.txt", kind) == kind
    assert packed_kind(packed, "a.txt", None) is None
    assert packed_kind(TEXT, "a.txt", kind) is None, "somebody has unpacked it on the way"


def test_text_under_the_name_of_a_packed_file_is_text() -> None:
    assert packed_kind("Grüße".encode() * 3, "a.csv.gz", None) is None
    assert packed_kind("Grüße".encode()[:-1], "a.csv.gz", None) is None
    assert packed_kind(b"BZh is how this line begins", "a.txt", None) is None
    assert packed_kind(b"", "a.gz", None) is None


@pytest.mark.parametrize("name", ["a.gz", "a.csv.bz2", "a.zst", "a.xz"])
def test_what_is_neither_packed_nor_text_is_damaged(name: str) -> None:
    with pytest.raises(PackedError, match="its name ends like"):
        packed_kind(b"\x00\x01\xff\xfe binary", name, None)


def test_old_lzma_files_are_known_by_their_name() -> None:
    packed = lzma.compress(TEXT, format=lzma.FORMAT_ALONE)
    assert packed_kind(packed, "a.lzma", None) == "xz"
    assert unpacked("xz", packed) == TEXT


def test_a_missing_zstandard_module_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, zstd.__name__, None)
    monkeypatch.delattr(zstd.__name__, raising=False)
    with pytest.raises(FatalError, match=r"pip install 'odw-engine\[s3\]'"):
        compression.zstd()
    assert EOFError in compression.unpacking_errors(), "damaged gzip files are told without it"
