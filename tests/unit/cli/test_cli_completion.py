"""`completion`: scripts from the arguments that the verbs declare."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from engine.cli import main
from engine.cli.shells import script, words
from engine.cli.verbs import VERBS


@pytest.mark.slow
def test_completion_knows_verbs_options_actions_and_values() -> None:
    found = words()

    assert list(found) == list(VERBS)
    run = {name: option for option in found["run"].options for name in option.names}
    assert run["--progress"].values == ("auto", "live", "plain", "json", "none")
    assert (run["--limit"].takes_value, run["--dry-run"].takes_value) == (True, False)
    assert {"list", "show", "replay", "discard"} <= set(found["dlq"].actions)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_names_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)
    assert "--limit" in printed or "-l limit" in printed


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["odw", "doc"], {"doctor"}),
        (["odw", "run", "--dry"], {"--dry-run"}),
        (["odw", "run", "--progress", "js"], {"json"}),
        (["odw", "dlq", "re"], {"replay"}),
    ],
)
def test_bash_completes(line: list[str], expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "odw.bash").write_text(script("bash"))
    quoted = " ".join(f"'{word}'" for word in line)
    code = (
        f"source odw.bash; COMP_WORDS=({quoted}); COMP_CWORD={len(line) - 1}; _odw; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_script_is_valid_for_its_shell(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    (tmp_path / "script").write_text(script(shell))
    subprocess.run([shell, "-n", "script"], cwd=tmp_path, timeout=300, check=True)
