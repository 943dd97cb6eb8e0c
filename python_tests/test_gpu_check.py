"""The GPU check as far as it runs without a GPU: its steps, its tables, what it says where nothing can be proven."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from survcore.benchmarks import gpu_build, gpu_sanitizer
from survcore.benchmarks.case import Bar, BenchmarkCase, OnCuda
from survcore.benchmarks.gpu_bars import case_rows
from survcore.benchmarks.gpu_bars import main as write_bars
from survcore.benchmarks.gpu_check import _steps
from survcore.benchmarks.gpu_step import Step, run
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
        ("print('half'); raise SystemExit(3)", "failed", "half"),
        ("import os; os.abort()", "failed", ""),
    ],
)
def test_what_becomes_of_a_step(code: str, state: str, note: str, tmp_path: Path) -> None:
    outcome = run(_python("step", code), tmp_path, 60.0)
    assert (outcome.state, outcome.note) == (state, note)
    assert outcome.good == (state in ("passed", "unavailable"))
    assert (tmp_path / "step.log").is_file()


def test_step_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
time.sleep(600)
"""
    outcome = run(_python("hanging", code, seconds=3.0), tmp_path, 60.0)
    assert outcome.state == "timed out" and not outcome.good and outcome.seconds < 30
    child = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    deadline = time.monotonic() + 30
    while child.exists() and child.read_text().rsplit(")", 1)[1].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline
    assert run(_python("late", "print(1)"), tmp_path, 2.0).state == "no time left"


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
        assert set(CASES) - {part for step in steps for part in step.command} == {"cox_baseline_hazard"}
        for step in steps:
            for part in step.command:
                if part.startswith(str(REPOSITORY / "python_tests")):
                    assert Path(part).is_file()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_that_nothing_was_proven(tmp_path: Path) -> None:
    environment = os.environ | {"SURVCORE_CARRIED": "1", "PYTHON": sys.executable, "SURVCORE_COMMIT": "abc"}
    command = ["bash", str(REPOSITORY / "benchmarks" / "gpu_check.sh"), "--quick", str(tmp_path / "out")]
    result = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("no CUDA device: nothing was proven")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [step["name"] for step in summary["steps"]] == ["build"]
    assert summary["verdict"].startswith("no CUDA device") and summary["facts"]["device"] is None
    assert "nothing was proven" in (tmp_path / "out" / "summary.txt").read_text()


def test_unknown_option_is_told(tmp_path: Path) -> None:
    command = ["bash", str(REPOSITORY / "benchmarks" / "gpu_check.sh"), "--fast", str(tmp_path / "out")]
    result = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
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
    assert write_bars(tmp_path) == 1  # nothing was measured
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
        ("========= Device not supported\n========= ERROR SUMMARY: 1 error\n", 86, None),
        ("unrecognised option '--kernel-regex'\n", 255, None),
    ],
)
def test_what_the_sanitizer_says(text: str, status: int, verdict: int | None) -> None:
    assert gpu_sanitizer._verdict(text, status) == verdict


def test_sources_are_those_of_the_build() -> None:
    text = (REPOSITORY / "CMakeLists.txt").read_text()
    for variable in ("CPU_SOURCES", "CUDA_SOURCES"):
        sources = gpu_build._sources(text, variable)
        assert sources and all((REPOSITORY / name).is_file() for name in sources)
    assert "-O3" in gpu_build._cpu_options(text)
    with pytest.raises(gpu_build.BuildError, match="NO_SOURCES"):
        gpu_build._sources(text, "NO_SOURCES")
