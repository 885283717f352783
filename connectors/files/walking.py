"""Find the files that a pattern matches.

Links to folders are followed, each folder once, and never to a folder above. Unreadable folders are reported
rather than treated as empty.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from connectors.objects.listed import is_by_product, is_note
from engine.errors import FatalError

if TYPE_CHECKING:
    from wcmatch.fnmatch import WcMatcher

MAX_ALTERNATIVES = 1000
"""Maximum number of names that the braces of a path may expand to."""

_MAGIC = frozenset("*?[")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_Identity = tuple[int, int]


@dataclass
class Walk:
    """The result of a search.

    Attributes:
        files: paths of regular files with their sizes, sorted by name.
        unreadable: folders and files that cannot be read, with the reason.
        skipped: number of other entries, by kind.
    """

    files: list[tuple[str, int]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def displayed(path: str) -> str:
    r"""Return a path as text, with bytes that are not UTF-8 as `\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_pattern(path: str) -> bool:
    """Return whether a path has wildcards or alternatives."""
    return any(character in path for character in "*?[{")


def walk(pattern: str) -> Walk:
    """Find the files that a pattern matches.

    Raises:
        FatalError: the pattern has too many alternatives.
    """
    search = _Search()
    for alternative in dict.fromkeys(alternatives(pattern)):
        root = "/" if alternative.startswith("/") else ""
        segments = [segment for segment in alternative.split("/") if segment]
        if any(segment != "**" and "**" in without_escapes(segment) for segment in segments):
            raise FatalError(f"in {pattern!r}, `**` matches whole folders: write it between slashes")
        if segments and not alternative.endswith("/"):
            search.below(root, segments)
    return search.result()


def alternatives(pattern: str) -> list[str]:
    """Return the patterns that the braces of a pattern expand to.

    Raises:
        FatalError: too many.
    """
    # imported lazily: it takes 20 ms, and a plain name does not need it
    import bracex

    try:
        return bracex.expand(pattern, keep_escapes=True, limit=MAX_ALTERNATIVES)
    except bracex.ExpansionLimitException as error:
        raise FatalError(f"the braces of {pattern!r} expand to more than {MAX_ALTERNATIVES} names") from error


def path_matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return the test for paths that match one of the patterns.

    Raises:
        FatalError: their braces expand to too many names.
    """
    from wcmatch import glob

    expanded = [one for pattern in patterns for one in alternatives(pattern)]
    flags = glob.GLOBSTAR | glob.DOTGLOB | glob.FORCEUNIX | glob.CASE
    return glob.compile(expanded, flags=flags, limit=0).match


def without_escapes(name: str) -> str:
    """Return the path that a pattern without wildcards names."""
    return _ESCAPED.sub(r"\1", name)


class _Search:
    def __init__(self) -> None:
        self._names: dict[
            str, tuple[int, int, int]
        ] = {}  # device, number and size; of 100,000 files, perhaps
        self._links: set[str] = set()
        self._taken: set[str] = set()
        self._found = Walk()
        self._refused: dict[str, str] = {}

    def below(self, folder: str, segments: Sequence[str]) -> None:
        """Yield everything below a folder that matches the rest of a pattern."""
        first, rest = segments[0], segments[1:]
        if first == "**":
            for inside in self._folders(folder):
                self.below(inside, rest or ["*"])
        elif not _MAGIC.intersection(first):
            path = os.path.join(folder, without_escapes(first))
            if rest:
                self.below(path, rest)
            elif self._is_there(path):
                self._take(path)
        else:
            for entry in self._entries(folder):
                if _matches(first, entry.name):
                    path = os.path.join(folder, entry.name)
                    if not rest:
                        self._take(path)
                    elif self._is_folder(entry):
                        self.below(path, rest)

    def result(self) -> Walk:
        """Return the files found, each by one name."""
        found = self._found
        # hard links count as separate files; symbolic links to a file that is read do not
        real = (
            {info[:2] for path, info in self._names.items() if path not in self._links}
            if self._links
            else set()
        )
        for path in sorted(self._names):
            *identity, size = self._names[path]
            if path in self._links:
                if tuple(identity) in real:
                    found.skipped["link to a file that is read"] += 1
                    continue
                real.add((identity[0], identity[1]))
            found.files.append((path, size))
        found.unreadable = sorted(self._refused.items())
        return found

    def _take(self, path: str) -> None:
        if path in self._taken:
            return
        self._taken.add(path)
        if is_note(path):
            self._found.skipped["note of an unfinished run"] += 1
            return
        if is_by_product(path):
            self._found.skipped["by-product of another program"] += 1
            return
        try:
            info = os.stat(path)
        except FileNotFoundError:
            # a dangling link, such as an editor's lock file, or a file that was removed meanwhile
            self._found.skipped["link to nothing" if os.path.islink(path) else "vanished"] += 1
            return
        except OSError as error:
            if error.errno == errno.ELOOP:
                self._found.skipped["link to nothing"] += 1
            else:
                self._refused[path] = error.strerror or str(error)
            return
        if stat.S_ISDIR(info.st_mode):
            return
        if not stat.S_ISREG(info.st_mode):
            self._found.skipped["pipe, socket or device"] += 1
            return
        self._names[path] = (info.st_dev, info.st_ino, info.st_size)
        if os.path.islink(path):
            self._links.add(path)

    def _is_there(self, path: str) -> bool:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:  # no permission to search a folder above it
            self._refused[path] = error.strerror or str(error)
            return False
        return True

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder or ".") as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._refused[folder or "."] = error.strerror or str(error)
            return []

    def _folders(self, top: str) -> Iterator[str]:
        """Yield a folder and all below it: real ones first, then those that links lead to."""
        try:
            seen = {_identity(os.stat(top or "."))}
        except OSError:
            yield top  # listing it reports the reason
            return
        above = _above(top)
        waiting, links = [top], list[str]()
        while waiting or links:
            folder = waiting.pop() if waiting else links.pop(0)
            if folder != top:
                identity = self._identity_of(folder)
                if identity is None or identity in seen or identity in above:
                    self._found.skipped["link to a folder that is read already, or to one above"] += (
                        identity is not None and os.path.islink(folder)
                    )
                    continue
                seen.add(identity)
            yield folder
            inside = [entry for entry in self._entries(folder) if self._is_folder(entry)]
            waiting += [os.path.join(folder, one.name) for one in reversed(inside) if not one.is_symlink()]
            links += [os.path.join(folder, one.name) for one in inside if one.is_symlink()]

    def _identity_of(self, folder: str) -> _Identity | None:
        try:
            return _identity(os.stat(folder))
        except FileNotFoundError:
            return None  # removed meanwhile
        except OSError as error:  # the folder above cannot be searched, or the path is too long
            self._refused[folder] = error.strerror or str(error)
            return None

    @staticmethod
    def _is_folder(entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir()
        except OSError:
            return False


def _identity(info: os.stat_result) -> _Identity:
    return info.st_dev, info.st_ino


def _above(folder: str) -> set[_Identity]:
    """The folders above a folder; a link to one of them would make a cycle."""
    found: set[_Identity] = set()
    path = os.path.realpath(folder or ".")
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        try:
            found.add(_identity(os.stat(path)))
        except OSError:
            break
    return found


@lru_cache(maxsize=1024)
def _matcher(segment: str) -> WcMatcher[str]:
    from wcmatch import fnmatch

    return fnmatch.compile([segment], flags=fnmatch.DOTMATCH | fnmatch.FORCEUNIX | fnmatch.CASE)


def _matches(segment: str, name: str) -> bool:
    return bool(_matcher(segment).match(name))
