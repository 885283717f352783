"""Wildcard patterns over object keys: `s3://bucket/folder/**/*.{txt,pdf}`.

Every pattern follows the same rules:

===========  =======================================================================================
`*`          any run of characters without `/`; as a whole segment, at least one character
`?`          one character, not `/`
`[abc]`      one of these characters (`[!abc]` none of them), never `/`
`{a,b}`      either; may be nested; `{1..3}` counts
`**`         any number of whole folders, none included; at the end everything below
`\\`         takes the meaning from the next character
===========  =======================================================================================

Matching is case-sensitive, and names that begin with a dot are not special. A key may have empty, `.` or `..`
segments (`a//b`), which mean nothing special to an object store: `**` matches them, `*` matches the dots but
not an empty one.

The matcher is wcmatch's; its rules for file systems (`a//b` is `a/b`, `*` never matches `..`) are wrong for
keys, so a key with such a segment goes through a comparison by segments instead.

A pattern also determines which prefixes to list and which keys to look up, see `connectors.s3.resolver`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import bracex
from wcmatch import fnmatch, glob

SCHEMES = ("s3", "minio")
MAX_ALTERNATIVES = 1000
"""Maximum number of patterns that braces may expand to."""

MAX_PATTERN_BYTES = 4096
"""A key has at most 1,024 bytes of UTF-8 (S3 user guide, "Creating object key names")."""

_GLOB_FLAGS = glob.GLOBSTAR | glob.DOTGLOB | glob.FORCEUNIX | glob.CASE
_SEGMENT_FLAGS = fnmatch.DOTMATCH | fnmatch.FORCEUNIX | fnmatch.CASE

_ARN = (
    r"arn:aws[a-z-]*:s3[a-z-]*:[a-z0-9-]*:\d*:"
    r"(?:outpost[/:][A-Za-z0-9-]{1,63}[/:])?accesspoint[/:][A-Za-z0-9.-]{1,63}"
)
"""An access point (S3 user guide, "Access point ARNs"), used in place of a bucket name."""

_ODD_SEGMENT = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")
_ARN_FIRST = re.compile(_ARN + "(?=/|$)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BUCKET = re.compile(r"(?:[A-Za-z0-9_.$-]{1,64}:)?[A-Za-z0-9._-]{1,255}|" + _ARN)


class PatternError(ValueError):
    """The pattern is invalid; the message has the remedy."""


@dataclass(frozen=True)
class ObjectPattern:
    """A parsed pattern; create one with `ObjectPattern.parse`.

    Attributes:
        uri: the pattern as written.
        scheme: `s3` or `minio`.
        bucket: no wildcards.
        pattern: the part after the bucket.
        alternatives: `pattern` with its braces expanded, without duplicates.
    """

    uri: str
    scheme: str
    bucket: str
    pattern: str
    alternatives: tuple[str, ...] = field(repr=False)

    @classmethod
    def parse(cls, uri: str) -> ObjectPattern:
        """Parse `scheme://bucket/pattern` without percent-decoding; `#`, `%` and `+` are literal.

        Raises:
            PatternError: wrong scheme, invalid bucket name, empty pattern, `**` that is not a whole segment,
                or too many alternatives.
        """
        scheme, separator, rest = uri.partition("://")
        if not separator or scheme not in SCHEMES:
            raise PatternError(f"{uri!r} must begin with s3:// or minio://")
        bucket, pattern = split_bucket(rest)
        validate_bucket(bucket)
        if not pattern:
            raise PatternError(
                f"{uri!r} does not name an object; use {scheme}://{bucket}/** for the whole bucket"
            )
        try:
            nbytes = len(pattern.encode())
        except UnicodeEncodeError as error:
            raise PatternError(f"{uri!r} contains half of a surrogate pair, which no key has") from error
        if nbytes > MAX_PATTERN_BYTES:
            raise PatternError(
                f"the pattern is longer than {MAX_PATTERN_BYTES} bytes, but keys have at most 1024"
            )
        alternatives = _expand(pattern)
        if not alternatives:
            raise PatternError(f"{uri!r} does not name an object: each of its alternatives is empty")
        for alternative in alternatives:
            _check_segments(alternative, uri)
        return cls(uri, scheme, bucket, pattern, alternatives)

    @classmethod
    def parse_all(cls, uris: Sequence[str]) -> ObjectPattern:
        """Combine several patterns of one bucket into one that matches what any of them matches.

        Raises:
            PatternError: one of them is invalid, there are none, or they are of several buckets.
        """
        if not uris:
            raise PatternError("the list of patterns is empty")
        patterns = [cls.parse(uri) for uri in uris]
        first = patterns[0]
        if len(patterns) == 1:
            return first
        if any((one.scheme, one.bucket) != (first.scheme, first.bucket) for one in patterns):
            raise PatternError(
                f"the patterns are of several buckets, not only {first.scheme}://{first.bucket}"
            )
        alternatives = tuple(dict.fromkeys(each for one in patterns for each in one.alternatives))
        if len(alternatives) > MAX_ALTERNATIVES:
            raise PatternError(f"the patterns expand to more than {MAX_ALTERNATIVES} together; use wildcards")
        return cls(", ".join(uris), first.scheme, first.bucket, first.pattern, alternatives)

    @property
    def exact(self) -> bool:
        """Whether the pattern names a single object, so nothing has to be listed."""
        return not self.prefixes and len(self.exact_keys) == 1

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """Prefixes to list, in key order; none starts with another, so no key is listed twice."""
        found = (literal_prefix(alternative) for alternative in self.alternatives)
        kept: list[str] = []
        for prefix in sorted(prefix for prefix, whole in found if not whole):
            if not kept or not prefix.startswith(kept[-1]):
                kept.append(prefix)
        return tuple(kept)

    @cached_property
    def exact_keys(self) -> tuple[str, ...]:
        """Keys without wildcards that no listing covers, in key order."""
        found = (literal_prefix(alternative) for alternative in self.alternatives)
        keys = {key for key, whole in found if whole}
        return tuple(sorted(key for key in keys if not key.startswith(self.prefixes)))

    def matches(self, key: str) -> bool:
        """Return whether the pattern matches this key."""
        if _ODD_SEGMENT.search(key):
            segments = key.split("/")
            return any(_segments_match(parts, segments) for parts in self._segments)
        # a pattern with such a segment matches only such keys
        return self._matcher is not None and self._matcher.match(key)

    def uri_of(self, key: str) -> str:
        """Return the address of a key in this bucket, with the scheme of the pattern."""
        return f"{self.scheme}://{self.bucket}/{key}"

    @cached_property
    def _matcher(self) -> glob.WcMatcher[str] | None:
        plain = [one for one in self.alternatives if not _ODD_SEGMENT.search(one)]
        return glob.compile(plain, flags=_GLOB_FLAGS, limit=MAX_ALTERNATIVES) if plain else None

    @cached_property
    def _segments(self) -> list[list[str]]:
        return [alternative.split("/") for alternative in self.alternatives]


def split_bucket(address: str) -> tuple[str, str]:
    """Split an address without a scheme into the bucket (or access-point ARN) and the rest."""
    arn = _ARN_FIRST.match(address)
    if arn:
        return arn[0], address[arn.end() + 1 :]
    bucket, _, rest = address.partition("/")
    return bucket, rest


def validate_bucket(bucket: str) -> None:
    """Check that a bucket name is valid, on AWS or elsewhere.

    New AWS buckets have lower-case letters, digits, dots and hyphens; old ones and those of other servers
    also capitals and underscores, and on Ceph a tenant before a colon. Only the server knows which exist.

    Raises:
        PatternError: no server allows this bucket name.
    """
    if any(character in bucket for character in "*?[]{}"):
        raise PatternError(f"the bucket {bucket!r} contains a wildcard; only the key after it may")
    if not _BUCKET.fullmatch(bucket) or bucket in (".", ".."):
        raise PatternError(
            f"{bucket!r} is not a valid bucket name: up to 255 letters, digits, dots, hyphens and "
            "underscores, on Ceph after a tenant and a colon"
        )


def literal_prefix(pattern: str) -> tuple[str, bool]:
    """Return the text before the first wildcard (braces expanded), and whether it is the whole pattern."""
    literal: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character in "*?[":
            return "".join(literal), False
        # a backslash at the very end is literal
        literal.append(next(characters, character) if character == "\\" else character)
    return "".join(literal), True


def _expand(pattern: str) -> tuple[str, ...]:
    try:
        expanded = bracex.iexpand(pattern, keep_escapes=True, limit=MAX_ALTERNATIVES)
        # an escaped slash is a slash; otherwise it would hide a boundary between segments
        plain = [_ESCAPED.sub(lambda match: "/" if match[1] == "/" else match[0], one) for one in expanded]
    except bracex.ExpansionLimitException as error:
        raise PatternError(
            f"the braces of {pattern!r} expand to more than {MAX_ALTERNATIVES} patterns; use a wildcard"
        ) from error
    return tuple(dict.fromkeys(plain))


def _check_segments(alternative: str, uri: str) -> None:
    if literal_prefix(alternative)[1] and alternative.endswith("/"):
        raise PatternError(f"{uri!r} names a folder; append `**` for everything in it")
    for segment in alternative.split("/"):
        if segment != "**" and "**" in _ESCAPED.sub("", segment):
            raise PatternError(f"in {uri!r}, `**` matches whole folders: write it between slashes")


@lru_cache(maxsize=1024)
def _segment_matcher(segment: str) -> fnmatch.WcMatcher[str]:
    return fnmatch.compile([segment], flags=_SEGMENT_FLAGS)


def _segments_match(pattern: list[str], key: list[str]) -> bool:
    """Compare by segments; `**` matches any number of them, at the end at least one."""
    reachable = {0}  # numbers of segments of the key that the pattern may have matched so far
    for index, part in enumerate(pattern):
        if part == "**":
            least = min(reachable) + (index == len(pattern) - 1)
            reachable = set(range(least, len(key) + 1))
        else:
            reachable = {n + 1 for n in reachable if n < len(key) and _segment_matches(part, key[n])}
        if not reachable:
            return False
    return len(key) in reachable


def _segment_matches(part: str, segment: str) -> bool:
    if not part or not segment:
        return part == segment
    return _segment_matcher(part).match(segment)
