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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from survcore.benchmarks.gpu_step import UNAVAILABLE, WRONG

_TOOLS = ("memcheck", "racecheck")
_FOUND = 86
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)")
_RAN = "small cases ran"


def main(out: Path, quick: bool) -> int:
    """0 if both tools ran and found nothing, 1 if one found something, 77 where one cannot run."""
    program = shutil.which("compute-sanitizer") or _usual()
    if program is None:
        print("compute-sanitizer is not installed")
        return UNAVAILABLE
    with ThreadPoolExecutor() as pool:
        states = dict(zip(_TOOLS, pool.map(lambda tool: _run(program, tool, out, quick), _TOOLS), strict=True))
    words = {0: "nothing found", WRONG: "something found", UNAVAILABLE: "does not run here"}
    print("; ".join(f"{tool}: {words[state]}" for tool, state in states.items()))
    return WRONG if WRONG in states.values() else max(states.values())


def _run(program: str, tool: str, out: Path, quick: bool) -> int:
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
        with log.open("w") as output:
            status = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
        state = _verdict(log.read_text(errors="replace"), status)
        if state is not None:
            return state
    return UNAVAILABLE


def _verdict(text: str, status: int) -> int | None:
    """An exit status for what a run says; None if the tool did not do its work."""
    if "Device not supported" in text:
        return None
    counts = [int(count) for count in _SUMMARY.findall(text)]
    if any(counts) or (status == _FOUND and counts):
        return WRONG
    return 0 if counts and _RAN in text else None


def _usual() -> str | None:
    path = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "compute-sanitizer"
    return str(path) if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--quick" in sys.argv))
