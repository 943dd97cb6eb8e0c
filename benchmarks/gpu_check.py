"""``benchmarks/gpu_check.sh``: what only a GPU can prove, step by step, each written down as soon as it is done.

This process needs the standard library alone; every step is a process of its own, which may hang, crash or be wrong.
Steps are ordered by what the next ones rest on, so that what fails late loses nothing that was found before.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from survcore.benchmarks.gpu_step import Outcome, Step, run

# Seconds of a quick run: the sum of its steps' shares.
_QUICK = 495.0
_NOT_TO_THEIR_END, _NO_DEVICE = 3, 2
_WORKERS = 12  # processes that run tests at most
# The ops in the order in which they are timed: those that bars are set for first.
_TIMED = (
    "cox_ph_loss",
    "discrete_hazard_nll",
    "info_nce",
    "ddim_sample",
    "masked_bce_with_logits",
    "masked_mse",
    "deephit_loss",
    "low_rank_decompose",
    "trans_mil",
)
# What the steps leave in the folder beside their logs.
_TABLES = ("roofs.txt", "launches.txt", "prediction.txt", "bars.txt")
_WRITTEN = ("facts.json", "summary.json", "roofs.json", "bars.json", "summary.txt", "import.txt", *_TABLES)
_WRITTEN += ("memcheck.log", "racecheck.log", "launches.jsonl", "prediction.jsonl")
_WRITTEN += tuple(f"{op}_cuda_*.jsonl" for op in _TIMED)
_ARCHIVE = "results.tar.gz"
_FACTS = """
import json, torch
facts = {"torch": torch.__version__, "cuda of torch": torch.version.cuda, "device": None}
try:
    import triton
    facts["triton"] = triton.__version__
except ImportError:
    facts["triton"] = None
if torch.cuda.is_available():
    device = torch.cuda.get_device_properties(0)
    facts |= {
        "device": device.name,
        "devices": torch.cuda.device_count(),
        "capability": f"{device.major}.{device.minor}",
        "memory": device.total_memory,
        "multiprocessors": device.multi_processor_count,
        "level 2 cache": device.L2_cache_size,
    }
print(json.dumps(facts))
"""


def main() -> int:
    """Run all steps; 1 if something was wrong or failed, 2 without a CUDA device, 3 if the clock cut a step, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu_check.sh")
    parser.add_argument("out", metavar="OUT_DIR", nargs="?", type=Path, help="default: benchmarks/results/<device>")
    parser.add_argument("--quick", action="store_true", help="within 9 minutes: fewer tests and sizes")
    parser.add_argument("--caller", default=Path(), type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--source", required=True, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--site", required=True, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    start = time.monotonic()
    facts = _facts()
    device = facts.get("device")
    out = arguments.out or arguments.source / "benchmarks" / "results" / _folder_name(device or "no_device")
    out = (arguments.caller / out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    steps = _steps(arguments.source, arguments.site, out, facts, arguments.quick)
    for old in _files(out, steps):
        old.unlink()
    (out / _ARCHIVE).unlink(missing_ok=True)
    (out / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(" · ".join(f"{name} {value}" for name, value in facts.items() if not isinstance(value, dict)), flush=True)

    outcomes: list[Outcome] = []
    due = 0.0
    for step in steps:
        # In a quick run a step has its share and what those before it left of theirs.
        due += step.seconds
        left = due - (time.monotonic() - start) if arguments.quick else step.seconds
        # The table of the bars says what of the times was wrong: it is made whatever the steps before took.
        outcome = run(step, out, max(left, step.seconds) if step is steps[-1] else left)
        outcomes.append(outcome)
        print(_line(outcome), flush=True)
        _write_summary(out, facts, outcomes)
        _archive(out, steps)
        if step.name == "build" and (device is None or not outcome.good):
            break
    if device is None:
        why = f"no CUDA device: nothing was proven ({facts.get('problem') or 'torch sees none'})"
        _write_summary(out, facts, outcomes, why)
        _archive(out, steps)
        print(why)
        return _NO_DEVICE
    print((out / "summary.txt").read_text())
    return _status(outcomes)


def _status(outcomes: list[Outcome]) -> int:
    if any(outcome.bad for outcome in outcomes):
        return 1
    return 0 if all(outcome.good for outcome in outcomes) else _NOT_TO_THEIR_END


def _files(out: Path, steps: list[Step]) -> list[Path]:
    """What this check, and nobody else, has written to its folder."""
    names = [f"{step.name}.log" for step in steps] + [step.junit.name for step in steps if step.junit]
    return sorted(path for name in (*names, *_WRITTEN) for path in out.glob(name))


def _archive(out: Path, steps: list[Step]) -> None:
    """All of it in one file, for who can take along few."""
    unfinished = out / f"{_ARCHIVE}.new"
    with tarfile.open(unfinished, "w:gz") as archive:
        for path in _files(out, steps):
            archive.add(path, path.name)
    unfinished.replace(out / _ARCHIVE)


def _facts() -> dict[str, Any]:
    """The machine and what is installed on it."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    found["processors"] = len(_usable_processors())
    try:
        answer = subprocess.run([sys.executable, "-c", _FACTS], capture_output=True, text=True, timeout=90)
        if answer.returncode == 0:
            found |= json.loads(answer.stdout.splitlines()[-1])
        else:
            found["problem"] = (answer.stderr.strip() or "torch does not load").splitlines()[-1]
    except subprocess.TimeoutExpired:
        found["problem"] = "CUDA does not start within 90 seconds"
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit,mig.mode.current"
    found["nvidia-smi"] = _told("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    found["nvcc"] = _told("nvcc", "--version")
    found["cmake"] = _told("cmake", "--version")
    found["compiler"] = _told("g++", "--version")
    found["packages"] = {
        name: importlib.util.find_spec(name) is not None
        for name in ("pytest", "xdist", "pandas", "click", "lifelines", "pybind11", "ninja")
    }
    return found


def _usable_processors() -> set[int] | range:
    import os

    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _told(*command: str) -> str | None:
    """The line of what a program prints that names a version, else its first; None without it or its answer."""
    if shutil.which(command[0]) is None:
        return None
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return None
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return next((line for line in lines if "release" in line), lines[0] if lines else None)


def _folder_name(device: str) -> str:
    return re.sub(r"\W+", "_", device).strip("_").lower()


def _steps(source: Path, site: Path, out: Path, facts: dict[str, Any], quick: bool) -> list[Step]:
    def seconds(of_quick: float, of_full: float) -> float:
        return of_quick if quick else of_full

    def module(name: str, step: str, limit: float, *arguments: str, **environment: str) -> Step:
        return Step(step, [sys.executable, "-m", f"survcore.benchmarks.{name}", *arguments], limit, environment)

    workers = min(_WORKERS, len(_usable_processors())) if facts["packages"]["xdist"] else 1

    def tests(step: str, limit: float, *files: str) -> Step:
        """Tests that need a GPU, of these files of python_tests."""
        junit = out / f"junit_{step}.xml"
        paths = [str(source / "python_tests" / file) for file in files]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--rootdir={source}"]
        command += ["-c", str(source / "pyproject.toml"), f"--junitxml={junit}", *paths]
        command += ["-o", "faulthandler_timeout=60"]  # a test that hangs says where
        return Step(
            step, command + (["-n", str(workers)] if workers > 1 else []), limit, {"OMP_NUM_THREADS": "1"}, junit
        )

    quickly = ["--quick"] if quick else []
    options = ["--quick", "--against", "eager"] if quick else []
    return [
        module("gpu_build", "build", seconds(110, 1200), str(source), str(site)),
        module("gpu_import", "import", seconds(20, 120), str(out)),
        module("gpu_roofs", "roofs", seconds(20, 120), str(out), *quickly),
        tests("ops", seconds(135, 1800), "test_ops.py", "gpu/test_ddim_sample.py"),
        tests("models", seconds(20, 600), "gpu/test_models.py", "gpu/test_nystrom.py"),
        tests("determinism", seconds(30, 600), "gpu/test_determinism.py"),
        tests("graph_capture", seconds(20, 600), "gpu/test_graph_capture.py", "gpu/test_sampling_graphs.py"),
        tests("streams", seconds(25, 600), "gpu/test_streams.py", "gpu/test_large.py"),
        module("gpu_sanitizer", "sanitizer", seconds(35, 1200), str(out), *quickly),
        module("gpu_launches", "launches", seconds(20, 300), str(out)),
        module("gpu_prediction", "prediction", seconds(15, 300), str(out)),
        # One command, whose roofs are those of all ops; a file is written whenever a size is done.
        module("cli", "bench", seconds(35, 10800), "run", *_TIMED, "--device", "cuda", "--out", str(out), *options),
        module("gpu_bars", "bars", seconds(10, 60), str(out)),
    ]


def _line(outcome: Outcome) -> str:
    return f"{outcome.name:<28} {outcome.state:<12} {outcome.seconds:7.1f} s  {outcome.note}"


def _write_summary(out: Path, facts: dict[str, Any], outcomes: list[Outcome], why: str = "") -> None:
    bad = [f"{outcome.name} {outcome.state}" for outcome in outcomes if outcome.bad]
    cut = [f"{outcome.name} {outcome.state}" for outcome in outcomes if not (outcome.bad or outcome.good)]
    verdict = why or "; ".join(("not proven: " + ", ".join(bad) if bad else "nothing wrong so far", *cut))
    record = {"verdict": verdict, "steps": [outcome.record() for outcome in outcomes], "facts": facts}
    (out / "summary.json").write_text(json.dumps(record, indent=2) + "\n")
    lines = [f"{name}: {value}" for name, value in facts.items()] + ["", *map(_line, outcomes), "", verdict]
    tables = [out / name for name in _TABLES]
    lines += [f"\n{table.stem}\n{table.read_text().rstrip()}" for table in tables if table.is_file()]
    (out / "summary.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
