"""One step of the GPU check: a command with a time limit, its log, and what became of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Exit statuses of this project's own steps, beside 0.
WRONG, UNAVAILABLE = 1, 77
# Of pytest: some tests failed.
_TESTS_FAILED = 1
_NO_TESTS = "0 tests passed"  # all of them skipped: nothing is proven
# Seconds that a step is given to end once it has been asked to.
_GRACE = 5.0


@dataclass(frozen=True)
class Step:
    """What is run.

    Attributes:
        name: of the step, of its log and of the files that it writes.
        command: with arguments.
        seconds: after which it is ended.
        environment: variables beside those of this process.
        junit: where pytest writes what became of the tests, for a step that runs tests.
    """

    name: str
    command: list[str]
    seconds: float
    environment: dict[str, str]
    junit: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        name: of the step.
        state: "passed"; "wrong", a result was; "failed" or "timed out", nothing is proven; "unavailable", this machine
            has not what it takes; "no time left".
        seconds: that it took.
        note: a line on it.
    """

    name: str
    state: str
    seconds: float
    note: str = ""

    @property
    def good(self) -> bool:
        return self.state in ("passed", "unavailable")

    def record(self) -> dict[str, Any]:
        return asdict(self)


def run(step: Step, folder: Path, seconds: float) -> Outcome:
    """Run a step for at most its own time and ``seconds``; its output goes to ``folder/<name>.log``."""
    limit = min(step.seconds, seconds)
    if limit < min(10.0, step.seconds):
        return Outcome(step.name, "no time left", 0.0)
    start = time.monotonic()
    log = folder / f"{step.name}.log"
    with log.open("w") as output:
        # A session of its own, which can be ended with all that it has started.
        process = subprocess.Popen(
            step.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | step.environment,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    taken = time.monotonic() - start
    if status is None:
        return Outcome(step.name, "timed out", taken, f"ended after {limit:.0f} s; {_tests(step) or _last_line(log)}")
    state, note = _state(step, status), _tests(step) or _last_line(log)
    if state == "passed" and note.startswith(_NO_TESTS):
        state = "failed"
    return Outcome(step.name, state, taken, note)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a step, its children too."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _state(step: Step, status: int) -> str:
    if status == 0:
        return "passed"
    if status == UNAVAILABLE and step.junit is None:
        return "unavailable"
    return "wrong" if status == (_TESTS_FAILED if step.junit else WRONG) else "failed"


def _tests(step: Step) -> str:
    """How many tests passed, from what pytest wrote; empty where it wrote nothing."""
    if step.junit is None or not step.junit.is_file():
        return ""
    try:
        suites = list(ElementTree.parse(step.junit).getroot().iter("testsuite"))
    except ElementTree.ParseError:
        return ""
    count = {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }
    passed = count["tests"] - count["failures"] - count["errors"] - count["skipped"]
    return f"{passed} tests passed, {count['failures'] + count['errors']} failed, {count['skipped']} skipped"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""
