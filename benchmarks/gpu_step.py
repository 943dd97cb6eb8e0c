"""One step of the GPU check: a command with a time limit, its log, and what became of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Exit statuses of this project's own steps, beside 0; any other is a failure too.
WRONG, FAILED, UNAVAILABLE, CUT_SHORT = 1, 2, 77, 78
# The variable that tells a step how many seconds it has.
SECONDS = "SURVCORE_STEP_SECONDS"
# Of pytest: some tests failed.
_TESTS_FAILED = 1
_NO_TESTS = "0 tests passed"  # all of them skipped: nothing is proven
# Seconds, of its own time, that pytest is given to write what it has found, and that any step is given to end.
_INTERRUPT, _GRACE = 15.0, 5.0
# Fewer seconds are no time to begin.
_LEAST = 5.0


@dataclass(frozen=True)
class Step:
    """What is run.

    Attributes:
        name: of the step, of its log and of the files that it writes.
        command: with arguments.
        seconds: its share of the time; after them it is ended, unless more is left.
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
        state: "passed"; "wrong", a result was; "failed", nothing is proven; "unavailable", this machine has not what it
            takes; "cut short" by the clock, with nothing wrong until then; "no time left" to begin.
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

    @property
    def bad(self) -> bool:
        return self.state in ("wrong", "failed")

    def record(self) -> dict[str, Any]:
        return asdict(self)


def run(step: Step, folder: Path, limit: float) -> Outcome:
    """Run a step for ``limit`` seconds at most; its output goes to ``folder/<name>.log``."""
    if limit < min(_LEAST, step.seconds):
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
            env=os.environ | step.environment | {SECONDS: f"{limit:.0f}"},
            start_new_session=True,
            preexec_fn=_heed_interrupts,
        )
        try:
            status = _waited(process, step, limit)
        finally:
            _end(process)
    taken = time.monotonic() - start
    count = _tests(step)
    note = _told(count) if count else _last_line(log)
    if status is None:
        state, note = "wrong" if count and count["failed"] else "cut short", f"ended after {taken:.0f} s; {note}"
    else:
        state = _state(step, status)
    if state == "passed" and note.startswith(_NO_TESTS):
        state = "failed"
    return Outcome(step.name, state, taken, note)


def _heed_interrupts() -> None:
    """A shell that runs the check in the background has it, and its children, ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _waited(process: subprocess.Popen[bytes], step: Step, limit: float) -> int | None:
    """The exit status of a step; None if it did not end by itself. Tests are interrupted in time to be written down."""
    kept = min(_INTERRUPT, limit / 3) if step.junit else 0.0
    try:
        return process.wait(limit - kept)
    except subprocess.TimeoutExpired:
        pass
    if step.junit:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(kept)
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a step, its children too."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        # Not even SIGKILL ends a process that waits inside the driver: it is left behind.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)


def _state(step: Step, status: int) -> str:
    if status == 0:
        return "passed"
    if step.junit is None and status in (UNAVAILABLE, CUT_SHORT):
        return "unavailable" if status == UNAVAILABLE else "cut short"
    return "wrong" if status == (_TESTS_FAILED if step.junit else WRONG) else "failed"


def _tests(step: Step) -> dict[str, int]:
    """How many tests "passed", "failed" and were "skipped", from what pytest wrote; empty where it wrote nothing."""
    if step.junit is None or not step.junit.is_file():
        return {}
    try:
        suites = list(ElementTree.parse(step.junit).getroot().iter("testsuite"))
    except ElementTree.ParseError:
        return {}
    count = {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }
    failed, skipped = count["failures"] + count["errors"], count["skipped"]
    return {"passed": count["tests"] - failed - skipped, "failed": failed, "skipped": skipped}


def _told(count: dict[str, int]) -> str:
    return f"{count['passed']} tests passed, {count['failed']} failed, {count['skipped']} skipped"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""
