"""The wheel carries the sample documents and the main job, which a checkout has at its root."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SANDBOX = Path("engine", "sandbox")


class BuildWithSamples(build_py):
    """Puts them into the package of the sandbox, where `importlib.resources` finds them."""

    def run(self) -> None:
        """Build the packages, and copy what stands beside them; an editable installation needs no copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / SANDBOX / "samples"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(ROOT / "samples" / "memos", target / "memos")
        for name in ("transcripts.json", "truth.json"):
            shutil.copy(ROOT / "samples" / name, target)
        shutil.copy(ROOT / "pipelines.yaml", target)


# it warns that folders here can hide the packages; those folders are the packages
warnings.filterwarnings("ignore", "Editable installation")
setup(cmdclass={"build_py": BuildWithSamples})
