"""The suite is found, its reference arms agree, and the command line's exit codes are right."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from benchmarks import cli
from benchmarks.discovery import UnknownBenchmarkError, discover, select
from benchmarks.harness import Settings, run
from benchmarks.machine import ROOT, commit, cpu_model, versions
from benchmarks.model import Arm, Benchmark, Scale, Work
from benchmarks.results import load
from benchmarks.suite import kernel
from benchmarks.workload import POOL, pages, pool, records

MODULE = """
from benchmarks.model import Arm, Benchmark, Work
def benchmarks(scale):
    return [Benchmark(name, "", [Arm("a", lambda: Work(1, "x"))], "a") for name in {names}]
"""


def package(directory: Path, **modules: list[str]) -> types.ModuleType:
    """A package of benchmark modules; its name is the directory's so that tests do not share modules."""
    for name, names in modules.items():
        (directory / f"{name}.py").write_text(MODULE.format(names=names))
    found = types.ModuleType(directory.name)
    found.__path__ = [str(directory)]
    return found


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path.parent)
    return tmp_path


@pytest.mark.slow
def test_the_suite_holds_the_first_benchmarks() -> None:
    assert {"kernel", "main_job", "memory", "sources", "startup", "transforms"} <= discover(
        Scale(quick=True)
    ).keys()


def test_every_module_is_discovered_by_its_name(suite: Path) -> None:
    found = discover(Scale(), package(suite, second=["c"], first=["a", "b"]))
    assert {name: [benchmark.name for benchmark in group] for name, group in found.items()} == {
        "first": ["a", "b"],
        "second": ["c"],
    }


def test_two_benchmarks_of_one_name_are_refused(suite: Path) -> None:
    with pytest.raises(ValueError, match="two benchmarks of one name: a"):
        discover(Scale(), package(suite, first=["a"], second=["a"]))


def test_a_benchmark_may_not_hide_its_modules_others(suite: Path) -> None:
    with pytest.raises(ValueError, match="first names both"):
        discover(Scale(), package(suite, first=["first", "b"]))


def test_names_select_benchmarks_and_modules_once() -> None:
    group = [Benchmark(name, "", [Arm("a", lambda: Work(1, "x"))], "a") for name in ("x", "y")]
    found = {"module": group, "other": [Benchmark("z", "", group[0].arms, "a")]}
    assert [benchmark.name for benchmark in select(found, ["y", "module"])] == ["y", "x"]
    assert [benchmark.name for benchmark in select(found, [])] == ["x", "y", "z"]
    with pytest.raises(UnknownBenchmarkError, match=r"'w'; there are: module, other, x, y, z"):
        select(found, ["w"])


@pytest.mark.slow
def test_the_kernels_reference_arms_do_the_same_work() -> None:
    (throughput, _) = kernel.benchmarks(Scale(quick=True))
    result = run(throughput, Settings(pairs=1))
    assert (result.status, result.reason) == ("complete", "")
    # 20,000 records, of which one in ten is dropped: those whose value is a multiple of ten.
    total = 2 * 3 * sum(value for value in range(POOL) if value % 10)
    assert {sample.checksum for sample in result.samples} == {
        f"18000 records, sum {total}, last record-09999/ERROR"
    }


def test_pages_hold_the_records_in_order() -> None:
    source = pool()
    joined = [row for page in pages(source, 2 * POOL) for row in page]
    assert joined == list(records(source, 2 * POOL))


def test_a_count_that_the_pool_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        list(records(pool(), POOL + 1))


@pytest.mark.slow
def test_run_stores_the_result_and_report_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert cli.main(["run", "kernel_throughput", "--quick", "--pairs", "1", "--out", str(out)]) == cli.OK
    (stored,) = load(out)
    assert (stored.name, stored.quick, stored.rounds) == ("kernel_throughput", True, 1)
    printed = capsys.readouterr().out
    assert cli.main(["report", str(out)]) == cli.OK
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_different_work_gives_a_failing_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = [Arm("a", lambda: Work(1, "x")), Arm("b", lambda: Work(1, "y"))]
    monkeypatch.setattr(cli, "discover", lambda scale: {"m": [Benchmark("m", "", arms, "a")]})
    assert cli.main(["run", "--quick"]) == cli.INVALID


@pytest.mark.slow
def test_wrong_usage_has_its_own_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "no_such_benchmark"]) == cli.USAGE
    assert cli.main(["report", str(tmp_path / "missing.json")]) == cli.USAGE
    assert "not a result file" in capsys.readouterr().err


def test_list_names_benchmarks_and_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == cli.OK
    printed = capsys.readouterr().out
    assert "kernel_throughput  [kernel]" in printed
    assert "generator chain (reference)" in printed


def test_the_processor_is_read_from_the_kernels_text() -> None:
    assert (
        cpu_model("processor\t: 0\nmodel name\t: A Processor 9000\nmodel name\t: other\n")
        == "A Processor 9000"
    )
    assert cpu_model("processor\t: 0\n") is None


def test_libraries_that_are_not_installed_are_left_out() -> None:
    assert versions(["anyio", "no-such-distribution"]).keys() == {"anyio"}


def test_outside_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) == {"id": None, "dirty": None}
    assert ROOT.joinpath("benchmarks").is_dir()
