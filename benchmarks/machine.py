"""Describe where a result was measured: hardware, kernel, Python build, library versions, commit.

Nothing here names the host, its user or a path, so that results can be committed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("anyio", "pydantic", "pydantic-core", "orjson", "PyYAML", "structlog")


def machine() -> dict[str, object]:
    """Processor, cores, memory and kernel, with the load before the run."""
    return {
        "cpu_model": cpu_model(_read("/proc/cpuinfo")) or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def python_build() -> dict[str, object]:
    """Version and the build options that change speed: profile-guided and link-time optimisation."""
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    return {
        "implementation": platform.python_implementation(),
        "version": platform.python_version(),
        "compiler": platform.python_compiler(),
        "profile_guided": "--enable-optimizations" in arguments,
        "link_time_optimised": "--with-lto" in arguments,
        "shared_library": bool(sysconfig.get_config_var("Py_ENABLE_SHARED")),
        "hash_seed": os.environ.get("PYTHONHASHSEED", "random"),
    }


def versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions of the named distributions; one that is not installed is left out."""
    found: dict[str, str] = {}
    for name in sorted(set(names)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(root: Path = ROOT) -> dict[str, object]:
    """Return the measured commit, and whether tracked files outside the results differed from it."""
    head = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return {"id": head, "dirty": bool(changes) if changes is not None else None}


def cpu_model(cpuinfo: str) -> str | None:
    """The first model name in the text of ``/proc/cpuinfo``."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return None


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
