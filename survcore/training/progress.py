"""One progress bar for a run: loss, C-index and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Display of a run's epochs.

    Args:
        total: epochs of all stages, the length of the bar.
        label: what is trained, shown before the stage.
        show: draw the bar; by default only when standard error is a terminal.
    """

    def __init__(self, total: int, label: str = "", *, show: bool | None = None) -> None:
        self.label = label
        self._bar = None
        if sys.stderr.isatty() if show is None else show:
            self._bar = _rich_bar()
            self._task = self._bar.add_task(label, total=total, facts="")
            self._bar.start()

    @classmethod
    def silent(cls) -> Progress:
        """A display that shows nothing."""
        return cls(0, show=False)

    def skip(self, epochs: int) -> None:
        """Epochs of stages that an earlier part of the run has finished."""
        if self._bar:
            self._bar.update(self._task, advance=epochs)

    def start_stage(self, name: str, epochs: int, done: int = 0) -> None:
        """A stage begins, or goes on after ``done`` epochs."""
        self._left = epochs - done
        if self._bar:
            self._bar.update(self._task, advance=done, description=f"{self.label} {name}".strip())

    def advance(self, row: dict[str, Any]) -> None:
        """An epoch is done; ``row`` is its line of the history."""
        self._left -= 1
        if self._bar:
            facts = [f"loss {row.get('validation_loss', row['loss']):.4f}"]
            if (index := row.get("validation_c_index")) is not None:
                facts.append(f"C-index {index:.3f}")
            self._bar.update(self._task, advance=1, facts="  ".join(facts))

    def end_stage(self) -> None:
        """The stage has ended; epochs that early stopping saved count as done."""
        if self._bar:
            self._bar.update(self._task, advance=self._left)

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar:
            self._bar.stop()


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
