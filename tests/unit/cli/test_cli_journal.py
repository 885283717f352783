"""`journal list`, `show` and `purge`: what they show, hide and delete."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from engine.cli import main
from engine.cli.display.ages import age
from engine.contract.clock import FrozenClock, timestamp
from engine.contract.journal import JournalEntry
from engine.state import JournalFilter, open_store

NOW = datetime.now(UTC)
SECRET = "Wilhelmina"


def entry(key: str, days: float = 0.0, **changes: object) -> JournalEntry:
    made = JournalEntry(
        key, f'{{"patient_name":"{SECRET}"}}', model="gpt-4o-mini", tokens_in=1_200, tokens_out=30,
        cost_usd=0.25, run_id="memos-1", pipeline="memos", node="extract",
        created_at=timestamp(NOW - timedelta(days=days)),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def state(tmp_path: Path) -> str:
    async def fill() -> None:
        async with open_store(tmp_path) as store:
            await store.put_journal(
                [
                    entry("old", 40),
                    entry("refused", 2, outcome="Refused", answer=SECRET),
                    entry("new", pipeline="notes", model="gpt-5"),
                ]
            )

    anyio.run(fill)
    return str(tmp_path)


def left(state: str) -> list[str]:
    async def read() -> list[str]:
        async with open_store(state) as store:
            return [one.key for one in await store.list_journal(JournalFilter())]

    return anyio.run(read)


def test_the_list_has_who_when_and_what_it_cost_but_no_contents(
    state: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.cli.history.journal.SystemClock", lambda: FrozenClock(NOW))
    assert main(["journal", "list", "--state-dir", state]) == 0
    shown, total = capsys.readouterr()
    head, old, refused, new = shown.splitlines()
    assert head.split() == ["age", "pipeline/node", "model", "answer", "tokens", "in", "out", "USD", "record"]
    assert old.split() == ["40", "d", "memos/extract", "gpt-4o-mini", "yes", "1,200", "30", "0.250000", "old"]
    assert "Refused" in refused
    assert new.split()[:4] == ["0", "s", "notes/extract", "gpt-5"]
    assert total == "3 answers: 3,600 tokens in, 90 out, 0.7500 USD\n"
    assert SECRET not in shown + total


def test_the_list_as_json_has_no_contents_either(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "list", "--json", "--limit", "1", "--state-dir", state]) == 0
    shown, total = capsys.readouterr()
    (line,) = map(json.loads, shown.splitlines())
    assert (line["key"], line["pipeline"], line["tokens_in"]) == ("new", "notes", 1_200)
    assert "answer" not in line
    assert SECRET not in shown
    assert "1 shown; use --limit 0 to show all" in total


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        (["--older-than", "30d"], ["old"]),
        (["--pipeline", "memos"], ["old", "refused"]),
        (["--model", "gpt-5"], ["new"]),
        (["--run", "memos-1", "--older-than", "1d"], ["old", "refused"]),
        (["--all"], ["old", "refused", "new"]),
        (["--run", "memos-2"], []),
    ],
    ids=" ".join,
)
def test_purge_deletes_what_the_filters_say(
    state: str, filters: list[str], keys: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["journal", "purge", *filters, "--state-dir", state]) == 0
    assert capsys.readouterr().out == f"{len(keys)} answer{'' if len(keys) == 1 else 's'} deleted\n"
    assert left(state) == [key for key in ("old", "refused", "new") if key not in keys]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "choose answers with --older-than 30d"),
        (["--all", "--model", "gpt-5"], "give either --all or filters, not both"),
        (["--older-than", "soon"], "--older-than: expected a duration such as"),
    ],
    ids=str,
)
def test_purge_deletes_nothing_when_it_is_not_clear_what(
    state: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["journal", "purge", *arguments, "--state-dir", state]) == 2
    assert message in capsys.readouterr().err
    assert len(left(state)) == 3


def test_an_empty_journal_and_a_missing_store_are_distinguished(
    tmp_path: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["journal", "list", "--model", "none", "--state-dir", state]) == 0
    assert capsys.readouterr() == ("", "no answer in the journal matches\n")
    assert main(["journal", "list", "--state-dir", str(tmp_path / "elsewhere")]) == 3
    assert "nothing has run with this state directory yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3_599, "59 min"), (7_200, "2 h"), (172_800, "2 d")],
)
def test_an_age_is_shown_in_its_largest_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("name", "keys"), [("memo-7", ["refused"]), ("memo-7/2", ["refused"]), ("ne", ["new"])]
)
def test_show_prints_what_the_model_wrote_for_a_record(
    tmp_path: Path, state: str, name: str, keys: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    async def name_record() -> None:
        async with open_store(tmp_path) as store:
            await store.put_journal([entry("refused", 2, outcome="Refused", answer=SECRET, record="memo-7")])

    anyio.run(name_record)
    assert main(["journal", "show", name, "--state-dir", state]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["key"] for one in shown] == keys
    assert all(SECRET in one["answer"] for one in shown)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nobody"], "no answer for the record 'nobody'"),
        ([""], "name a record, or the beginning of an answer's key"),
        (["x", "--older-than", "99999999999d"], "is before the year 1; give a shorter age"),
    ],
)
def test_show_says_when_there_is_no_such_answer(
    state: str, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    assert main(["journal", "show", *given, "--state-dir", state]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


@pytest.mark.slow
def test_a_trace_is_printed_as_text_and_only_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fill() -> None:
        async with open_store(tmp_path) as store:
            traced = entry("a" * 64, record="memo.txt", prompt="[system]\nExtract\x1b.", reply="{raw")
            await store.put_journal([traced, entry("b" * 64, record="other.txt")])

    anyio.run(fill)
    place = ["--state-dir", str(tmp_path)]
    assert main(["journal", "show", "memo.txt", "--trace", *place]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# memo.txt: gpt-4o-mini, memos/extract, memos-1, ")
    assert "[system]\nExtract\\x1b.\n\n[reply]\n{raw\n" in shown
    assert main(["journal", "show", "memo.txt", *place]) == 0
    assert "{raw" not in capsys.readouterr().out
    assert main(["journal", "show", "other.txt", "--trace", *place]) == 2
    assert "set `trace: true` at the node" in capsys.readouterr().err
