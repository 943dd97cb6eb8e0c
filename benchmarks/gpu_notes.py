"""Records and lines of a step of the GPU check, written down one by one: what ends the step late loses none of them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any


class Notes(ExitStack):
    """``<name>.jsonl`` of records and ``<name>.txt`` of lines, which are printed too, in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        self._records = self.enter_context((folder / f"{name}.jsonl").open("w", buffering=1))
        self._lines = self.enter_context((folder / f"{name}.txt").open("w", buffering=1))

    def add(self, record: dict[str, Any], line: str) -> None:
        self._records.write(json.dumps(record) + "\n")
        self.say(line)

    def say(self, line: str) -> None:
        self._lines.write(line + "\n")
        print(line, flush=True)
