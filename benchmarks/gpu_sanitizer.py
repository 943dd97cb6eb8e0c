"""compute-sanitizer over small cases of the kernels: ``python -m survcore.benchmarks.gpu_sanitizer OUT [--quick]``.

Its memcheck looks at CUDA C++ and Triton kernels, its racecheck at those in CUDA C++; both run side by side, and write
to ``OUT/memcheck.log`` and ``OUT/racecheck.log``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from survcore.benchmarks.gpu_step import CUT_SHORT, FAILED, SECONDS, UNAVAILABLE, WRONG

_TOOLS = ("memcheck", "racecheck")
_FOUND = 86
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)")
# What the tools print of a finding, long before their summary.
_FINDING = re.compile(r"^=+ (?:Invalid|Misaligned|(?:Error|Warning): Race)", re.MULTILINE)
_RAN = "small cases ran"
_WORDS = {
    WRONG: "something found",
    FAILED: "the cases crashed",
    CUT_SHORT: "nothing found until the time was up",
    UNAVAILABLE: "does not run here",
    0: "nothing found",
}
# Seconds of the step's time that are not the tools'.
_OVERHEAD = 5.0


def main(out: Path, quick: bool) -> int:
    """0 if both tools ran and found nothing, else the status of ``_WORDS`` that stands first there."""
    deadline = time.monotonic() + float(os.environ.get(SECONDS, "inf")) - _OVERHEAD
    program = shutil.which("compute-sanitizer") or _usual()
    if program is None:
        print("compute-sanitizer is not installed")
        return UNAVAILABLE
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda tool: _run(program, tool, out, quick, deadline), _TOOLS)
        states = dict(zip(_TOOLS, found, strict=True))
    print("; ".join(f"{tool}: {_WORDS[state]}" for tool, state in states.items()))
    return next(status for status in _WORDS if status in states.values())


def _run(program: str, tool: str, out: Path, quick: bool, deadline: float) -> int:
    """The verdict of a tool as an exit status."""
    log = out / f"{tool}.log"
    options = ["--tool", tool, "--error-exitcode", str(_FOUND), "--print-limit", "20"]
    # What torch tries when it starts, and finds not to work, is no concern of these kernels.
    options += ["--report-api-errors", "no"] if tool == "memcheck" else []
    cases = [sys.executable, "-m", "survcore.benchmarks.gpu_small_cases", *(["--quick"] if quick else [])]
    cases += ["--compiled"] if tool == "racecheck" else []
    # Each tensor in an allocation of its own, so that its end is one that the tool knows.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"}
    # Only the kernels of this library where all of them can be named: torch's own slow the tool down.
    for named in ([["--kernel-regex", "kns=survcore"]] if tool == "racecheck" else []) + [[]]:
        command = [program, *options, *named, *cases]
        left = deadline - time.monotonic()
        status = _status(command, environment, log, left if left != float("inf") else None)
        state = _verdict(log.read_text(errors="replace"), status)
        if state is not None:
            return state
    return UNAVAILABLE


def _status(command: list[str], environment: dict[str, str], log: Path, seconds: float | None) -> int | None:
    """The exit status of a command; None if it was ended after some seconds."""
    with log.open("w") as output:
        try:
            return subprocess.run(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=seconds
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def _verdict(text: str, status: int | None) -> int | None:
    """An exit status for what a run says; None if the tool did not do its work."""
    if "Device not supported" in text:
        return None
    counts = [int(count) for count in _SUMMARY.findall(text)]
    if any(counts) or (status == _FOUND and counts):
        return WRONG
    if status is None:
        return WRONG if _FINDING.search(text) else CUT_SHORT
    if not counts:
        return None
    return 0 if _RAN in text else FAILED


def _usual() -> str | None:
    path = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "compute-sanitizer"
    return str(path) if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--quick" in sys.argv))
