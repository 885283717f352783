"""The sample documents and the main job: a wheel has them in this package, a checkout at its root.

`python -m engine.sandbox.packaged > pipelines.yaml` writes the main job.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

MAIN_JOB = "pipelines.yaml"
_CHECKOUT = Path(__file__).resolve().parents[2]
_PACKAGED = Path(str(files("engine.sandbox"))) / "samples"

SAMPLES = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT / "samples"
"""A folder with `memos/` and `transcripts.json`, for the embedded S3 and model."""


def main_job() -> bytes:
    """Return the text of `pipelines.yaml`.

    Raises:
        FileNotFoundError: neither a wheel nor a checkout is complete.
    """
    packaged = _PACKAGED / MAIN_JOB
    return (packaged if packaged.exists() else _CHECKOUT / MAIN_JOB).read_bytes()


if __name__ == "__main__":
    sys.stdout.buffer.write(main_job())
