"""The GPU check as far as it runs without a GPU: its steps, its tables, what it says where nothing can be proven."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from survcore.benchmarks import gpu_build, gpu_check, gpu_sanitizer, results, runner
from survcore.benchmarks.case import Bar, BenchmarkCase, OnCuda
from survcore.benchmarks.cli import bench
from survcore.benchmarks.gpu_bars import case_rows
from survcore.benchmarks.gpu_bars import main as write_bars
from survcore.benchmarks.gpu_check import _steps
from survcore.benchmarks.gpu_notes import Notes
from survcore.benchmarks.gpu_step import Outcome, Step, run
from survcore.benchmarks.op_cases import CASES

REPOSITORY = Path(__file__).resolve().parents[1]


def _python(name: str, code: str, seconds: float = 60.0, junit: Path | None = None) -> Step:
    return Step(name, [sys.executable, "-c", code], seconds, {"TOLD": "by the step"}, junit)


@pytest.mark.parametrize(
    ("code", "state", "note"),
    [
        ("import os; print(os.environ['TOLD'])", "passed", "by the step"),
        ("print('values differ'); raise SystemExit(1)", "wrong", "values differ"),
        ("raise SystemExit(77)", "unavailable", ""),
        ("import os; print(os.environ['SURVCORE_STEP_SECONDS']); raise SystemExit(78)", "cut short", "60"),
        ("print('half'); raise SystemExit(3)", "failed", "half"),
        ("import os; os.abort()", "failed", ""),
    ],
)
def test_what_becomes_of_a_step(code: str, state: str, note: str, tmp_path: Path) -> None:
    outcome = run(_python("step", code), tmp_path, 60.0)
    assert (outcome.state, outcome.note) == (state, note)
    assert outcome.good == (state in ("passed", "unavailable"))
    assert outcome.bad == (state in ("wrong", "failed"))
    assert (tmp_path / "step.log").is_file()


def test_step_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    outcome = run(_python("hanging", code, seconds=3.0), tmp_path, 3.0)
    assert outcome.state == "cut short" and not outcome.good and not outcome.bad and outcome.seconds < 30
    child = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    deadline = time.monotonic() + 30
    while child.exists() and child.read_text().rsplit(")", 1)[1].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline
    assert run(_python("late", "print(1)"), tmp_path, 2.0).state == "no time left"


@pytest.mark.parametrize(
    ("heeds", "failures", "state"), [(True, 0, "cut short"), (True, 1, "wrong"), (False, 1, "cut short")]
)
def test_tests_that_are_cut_short_keep_what_they_found(heeds: bool, failures: int, state: str, tmp_path: Path) -> None:
    """Like pytest, which writes its file when it is interrupted; one that hangs in a call has written nothing."""
    junit = tmp_path / "junit.xml"
    code = f"""
import signal, time
def write(*_):
    open({str(junit)!r}, "w").write('<testsuites><testsuite tests="5" failures="{failures}"/></testsuites>')
    raise SystemExit(2)
signal.signal(signal.SIGINT, write if {heeds} else signal.SIG_IGN)
time.sleep(600)
"""
    outcome = run(_python("tests", code, 3.0, junit), tmp_path, 3.0)
    assert outcome.state == state and outcome.seconds < 30
    note = f"{5 - failures} tests passed, {failures} failed, 0 skipped" if heeds else ""
    assert outcome.note.startswith("ended after ") and outcome.note.split("; ")[1] == note


def test_interrupted_tests_write_what_they_found(tmp_path: Path) -> None:
    (tmp_path / "test_three.py").write_text(
        "import os, signal, time\ndef test_right(): pass\ndef test_wrong(): assert False\n"
        "def test_hanging():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
    )
    junit = tmp_path / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", str(tmp_path)]
    step = Step("tests", command, 120.0, {"PYTEST_ADDOPTS": ""}, junit)
    assert run(step, tmp_path, 120.0).note == "1 tests passed, 1 failed, 0 skipped"


def test_tests_of_a_step_are_counted(tmp_path: Path) -> None:
    (tmp_path / "test_three.py").write_text(
        "import pytest\ndef test_right(): pass\ndef test_wrong(): assert False\n"
        "@pytest.mark.skip\ndef test_not(): pass\n"
    )
    junit = tmp_path / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", str(tmp_path)]
    outcome = run(Step("tests", command, 120.0, {"PYTEST_ADDOPTS": ""}, junit), tmp_path, 120.0)
    assert (outcome.state, outcome.note) == ("wrong", "1 tests passed, 1 failed, 1 skipped")


def test_tests_that_are_all_skipped_prove_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_none.py").write_text("import pytest\n@pytest.mark.skip\ndef test_not(): pass\n")
    junit = tmp_path / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", str(tmp_path)]
    outcome = run(Step("tests", command, 120.0, {"PYTEST_ADDOPTS": ""}, junit), tmp_path, 120.0)
    assert (outcome.state, outcome.note) == ("failed", "0 tests passed, 0 failed, 1 skipped")


def test_steps_of_both_runs(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"packages": {"xdist": False}}
    for quick in (True, False):
        steps = _steps(REPOSITORY, tmp_path, tmp_path, facts, quick)
        names = [step.name for step in steps]
        assert len(set(names)) == len(names) and names[0] == "build" and names[-1] == "bars"
        assert not quick or sum(step.seconds for step in steps) == gpu_check._QUICK
        assert set(CASES) - {part for step in steps for part in step.command} == {"cox_baseline_hazard"}
        for step in steps:
            for part in step.command:
                if part.startswith(str(REPOSITORY / "python_tests")):
                    assert Path(part).is_file()
        run_tests = {part for step in steps for part in step.command if "python_tests" in part}
        assert {str(path) for path in (REPOSITORY / "python_tests" / "gpu").glob("test_*.py")} <= run_tests


def _outcomes(*states: str) -> list[Outcome]:
    return [Outcome(f"step {number}", state, 1.0) for number, state in enumerate(states)]


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (("passed", "unavailable"), 0),
        (("passed", "cut short", "passed"), 3),
        (("passed", "no time left"), 3),
        (("cut short", "wrong", "passed"), 1),
        (("failed", "cut short"), 1),
    ],
)
def test_exit_status_tells_what_is_wrong_from_what_was_cut_short(states: tuple[str, ...], status: int) -> None:
    assert gpu_check._status(_outcomes(*states)) == status


def test_summary_and_archive_of_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "build.log").write_text("built")
    (tmp_path / "diary.log").write_text("nobody else's")
    steps = _steps(REPOSITORY, tmp_path, tmp_path, {"packages": {"xdist": False}}, True)
    gpu_check._write_summary(tmp_path, {}, _outcomes("passed", "cut short", "wrong"))
    gpu_check._archive(tmp_path, steps)
    verdict = json.loads((tmp_path / "summary.json").read_text())["verdict"]
    assert verdict == "not proven: step 2 wrong; step 1 cut short"
    with tarfile.open(tmp_path / "results.tar.gz") as archive:
        assert sorted(archive.getnames()) == ["build.log", "summary.json", "summary.txt"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_that_nothing_was_proven(tmp_path: Path) -> None:
    environment = os.environ | {"SURVCORE_CARRIED": "1", "PYTHON": sys.executable, "SURVCORE_COMMIT": "abc"}
    environment |= {"SURVCORE_WORK": "work"}  # beside the folder of results, both as the caller names them
    out = tmp_path / "out"
    out.mkdir()
    for name in ("build.log", "junit_ops.xml", "cox_ph_loss_cuda_float32.jsonl", "diary.log", "my_cuda_notes.jsonl"):
        (out / name).write_text("of an earlier run, or of somebody else")
    command = ["bash", str(REPOSITORY / "benchmarks" / "gpu_check.sh"), "--quick", "out"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("no CUDA device: nothing was proven")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "work"]
    written = {"facts.json", "summary.json", "summary.txt", "build.log", "results.tar.gz"}
    assert {path.name for path in out.iterdir()} == written | {"diary.log", "my_cuda_notes.jsonl"}
    assert "earlier" not in (out / "build.log").read_text() and "earlier" in (out / "diary.log").read_text()
    summary = json.loads((out / "summary.json").read_text())
    assert [step["name"] for step in summary["steps"]] == ["build"]
    assert summary["verdict"].startswith("no CUDA device") and summary["facts"]["device"] is None
    assert "nothing was proven" in (out / "summary.txt").read_text()


def test_unknown_option_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "survcore.benchmarks.gpu_check", "--source", str(REPOSITORY)]
    command += ["--site", str(tmp_path / "site"), "--fast", str(tmp_path / "out")]
    result = subprocess.run(command, cwd="/", capture_output=True, text=True)
    assert result.returncode == 2 and "unrecognized arguments: --fast" in result.stderr
    assert not (tmp_path / "out").exists()


def _case(**bars: Bar) -> BenchmarkCase:
    return BenchmarkCase(
        name="sum",
        sizes={"one": {"rows": 1}, "two": {"rows": 2}},
        quick=("one",),
        inputs=lambda *_: (),
        providers={},
        cuda=OnCuda(
            sizes={"many": {"rows": 9}}, quick=("two",), bars=dict(bars) | {("many", "bfloat16"): Bar(share=0.5)}
        ),
    )


@pytest.mark.parametrize(
    ("against", "names"), [((), ["survcore", "eager", "compiled", "another"]), (("eager",), ["survcore", "eager"])]
)
def test_a_run_against_some_rivals_leaves_out_the_context(
    against: tuple[str, ...], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = replace(_case(), providers=dict.fromkeys(("survcore", "eager")), context={"another": None})
    monkeypatch.setattr(runner, "_process", lambda module, name, *_, **__: nullcontext(name))
    monkeypatch.setattr(runner, "_run_size", lambda case, size, settings, roofs, asked, *_: list(asked))
    settings = runner.Settings(against=against, quick=True)
    assert list(runner.run_case("a module", case, settings, None)) == [names]


def test_sizes_and_types_on_a_gpu() -> None:
    case = _case()
    assert case.sizes_on("cpu", "float32", True) == ["one"] and case.sizes_on("cpu", "float32", False) == ["one", "two"]
    assert case.sizes_on("cuda", "float32", False) == ["one", "two", "many"]
    assert case.sizes_on("cuda", "float32", True) == ["one", "two"]
    assert case.sizes_on("cuda", "bfloat16", True) == ["one", "many"]
    assert case.dtypes_on("cpu") == ["float32"] and case.dtypes_on("cuda") == ["float32", "bfloat16"]
    assert case.size("many") == {"rows": 9} and case.size("one") == {"rows": 1}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_sizes_that_are_named_for_a_gpu_are_sizes(case: BenchmarkCase) -> None:
    assert not set(case.cuda.sizes) & set(case.sizes)
    named = {size for size, _ in case.cuda_bars()} | set(case.cuda.quick)
    assert named <= set(case.sizes) | set(case.cuda.sizes)
    assert all(
        bar.milliseconds is not None or (bar.share is not None and case.work) for bar in case.cuda_bars().values()
    )


@pytest.mark.parametrize(
    ("bar", "seconds", "share", "met", "text"),
    [
        (Bar(milliseconds=2.0), 0.002, None, True, "2 ms"),
        (Bar(milliseconds=2.0), 0.0021, 0.9, False, "2 ms"),
        (Bar(share=0.7), 1.0, 0.7, True, "70 % of the roof"),
        (Bar(share=0.7), 1.0, 0.69, False, "70 % of the roof"),
        (Bar(share=0.7), 1.0, None, False, "70 % of the roof"),
    ],
)
def test_bars(bar: Bar, seconds: float, share: float | None, met: bool, text: str) -> None:
    assert bar.met(seconds, share) == met and str(bar) == text


def _record(provider: str, size: str, median: float, **facts: Any) -> dict[str, Any]:
    record = {"op": "sum", "size": size, "provider": provider, "measured": "in turns", "dtype": "float32", "on": "cuda"}
    record |= {"passes": "forward and backward", "rival": True, "median": median, "p20": median, "p80": median}
    return record | dict.fromkeys(("device", "threads", "run", "peers", "quick", "against")) | facts


def test_table_of_bars() -> None:
    case = _case(one=Bar(milliseconds=3.0), two=Bar(share=0.7))
    records = [
        _record("survcore", "one", 0.002),
        _record("eager", "one", 0.006),
        _record("survcore", "two", 0.004, roof="bytes", roof_share=0.4),
    ]
    rows = {(row["size"], row["dtype"]): row for row in case_rows(case, records)}
    assert rows["one", "float32"]["verdict"] == "met" and rows["one", "float32"]["eager"] == pytest.approx(3.0)
    assert rows["two", "float32"]["verdict"] == "missed" and "compiled" not in rows["two", "float32"]
    assert rows["many", "bfloat16"]["verdict"] == "not measured"


def test_wrong_results_are_no_success_and_missed_bars_are_no_failure(tmp_path: Path) -> None:
    assert write_bars(tmp_path) == 78  # the clock cut the run before anything was measured
    path = tmp_path / "cox_ph_loss_cuda_float32.jsonl"
    right = _record("survcore", "1M", 0.5) | {"op": "cox_ph_loss"}
    path.write_text(json.dumps(right) + "\n")
    assert write_bars(tmp_path) == 0 and "missed" in (tmp_path / "bars.txt").read_text()
    wrong = right | {"measured": "problem", "problem": "wrong: loss has relative error 1.0e-02"}
    path.write_text(json.dumps(right) + "\n" + json.dumps(wrong) + "\n")
    assert write_bars(tmp_path) == 1 and "wrong: loss" in (tmp_path / "bars.txt").read_text()


@pytest.mark.parametrize(
    ("text", "status", "verdict"),
    [
        ("small cases ran: x 3\n========= ERROR SUMMARY: 0 errors\n", 0, 0),
        ("small cases ran: x 3\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0, 0),
        ("small cases ran: x 3\n========= ERROR SUMMARY: 2 errors\n", 86, 1),
        ("========= ERROR SUMMARY: 1 error\n", 86, 1),
        ("========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n", 86, 1),
        ("========= Error: process didn't terminate successfully\n========= ERROR SUMMARY: 0 errors\n", 1, 2),
        ("========= COMPUTE-SANITIZER\n", None, 78),
        ("========= COMPUTE-SANITIZER\n========= Invalid __global__ write of size 4 bytes\n", None, 1),
        ("========= COMPUTE-SANITIZER\n========= Error: Race reported between Write access\n", None, 1),
        ("========= Device not supported\n========= ERROR SUMMARY: 1 error\n", 86, None),
        ("unrecognised option '--kernel-regex'\n", 255, None),
    ],
)
def test_what_the_sanitizer_says(text: str, status: int | None, verdict: int | None) -> None:
    assert gpu_sanitizer._verdict(text, status) == verdict


def test_sanitizer_that_does_not_end_is_ended_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text("#!/bin/sh\necho ========= COMPUTE-SANITIZER\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SURVCORE_STEP_SECONDS", "6.5")
    start = time.monotonic()
    assert gpu_sanitizer.main(tmp_path, quick=True) == 78 and time.monotonic() - start < 60


def test_notes_are_written_as_they_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Notes(tmp_path, "launches") as notes:
        notes.say("header")
        notes.add({"op": "sum"}, "one")
        assert (tmp_path / "launches.jsonl").read_text() == '{"op": "sum"}\n'
        assert (tmp_path / "launches.txt").read_text() == capsys.readouterr().out == "header\none\n"


def test_other_lines_of_the_check_are_no_results(tmp_path: Path) -> None:
    """In a folder that it wrote, tables are made and runs compared as in any other."""
    record = _record("survcore", "1M", 0.5) | {"op": "cox_ph_loss", "device": "a processor", "on": "cpu", "threads": 1}
    record |= {"peers": {}, "survcore": "0.1.0", "commit": "abc", "torch": "2.11.0", "run": "2026-01-01T00:00+00:00"}
    (tmp_path / "cox_ph_loss_cpu_float32.jsonl").write_text(json.dumps(record) + "\n")
    for name in ("launches", "prediction"):
        with Notes(tmp_path, name) as notes:
            notes.add({"seconds": 1.0}, "a second")
    (tmp_path / "page.md").write_text("<!-- bench cox_ph_loss -->\n<!-- /bench -->\n")
    runner = CliRunner()
    compared = runner.invoke(bench, ["compare", str(tmp_path), str(tmp_path)])
    assert compared.exit_code == 0 and "within the spread" in compared.output
    reported = runner.invoke(bench, ["report", "--results", str(tmp_path), str(tmp_path / "page.md")])
    assert reported.exit_code == 0 and "a processor" in (tmp_path / "page.md").read_text(), reported.output


def test_results_on_a_gpu_name_driver_and_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(results, "_driver", lambda: "580.1")
    monkeypatch.setattr(results, "_version", lambda package: "3.6.0" if package == "triton" else None)
    found = results.context("cuda", "float32", 4)
    assert (found["device"], found["driver"], found["triton"]) == ("NVIDIA H200", "580.1", "3.6.0")
    assert "triton" not in results.context("cpu", "float32", 4)


def test_sources_are_those_of_the_build() -> None:
    text = (REPOSITORY / "CMakeLists.txt").read_text()
    for variable in ("CPU_SOURCES", "CUDA_SOURCES"):
        sources = gpu_build._sources(text, variable)
        assert sources and all((REPOSITORY / name).is_file() for name in sources)
    assert "-O3" in gpu_build._cpu_options(text)
    with pytest.raises(gpu_build.BuildError, match="NO_SOURCES"):
        gpu_build._sources(text, "NO_SOURCES")
