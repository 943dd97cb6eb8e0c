"""Stored results: one file of JSON lines per op, kind of device and type."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import survcore
from survcore._information import device_name
from survcore.files import replacing

Record = dict[str, Any]

_FIELDS = {"op", "measured", "device", "dtype", "threads", "run", "peers", "on", "quick", "against"}
_TIMED = {"size", "provider", "rival", "passes", "median", "p20", "p80"}
# Lines of other kinds, which benchmarks/gpu_check.sh writes beside the results.
_OTHERS = {"launches.jsonl", "prediction.jsonl"}
_PEERS = ("pycox", "torchsurv", "coxdev", "scikit-survival", "lifelines")


def context(device: str, dtype: str, threads: int, quick: bool = False, against: tuple[str, ...] = ()) -> Record:
    """What belongs to every record of a run: device, threads, versions, commit, date, and whether it was a part."""
    facts = {
        "on": device,
        "device": device_name(device),
        "threads": threads,
        "dtype": dtype,
        "survcore": survcore.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "quick": quick,
        "against": list(against),
        "run": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
    }
    if device == "cuda":
        facts["cuda"] = torch.version.cuda
        facts["driver"] = _driver()
        facts["triton"] = _version("triton")
    return facts | {"peers": {name: found for name in _PEERS if (found := _version(name))}}


def write(folder: Path, op: str, device: str, dtype: str, records: list[Record]) -> Path:
    """Replace the results of an op in a type on a kind of device, "cpu" or "cuda"."""
    path = folder / f"{op}_{device}_{dtype}.jsonl"
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(source: Path, pattern: str = "*.jsonl") -> list[Record]:
    """The records of a file, or of all files of runs in a folder of such names, in their order.

    Raises:
        ValueError: there is no such file or folder, or a line is no record of a run.
    """
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder of results")
    paths = [source]
    if source.is_dir():
        paths = [path for path in sorted(source.glob(pattern)) if path.name not in _OTHERS]
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("it is no object")
                missing = _FIELDS - set(record)
                if record.get("measured") == "in turns":
                    missing |= _TIMED - set(record)
                if missing:
                    raise ValueError(f"it has no {', '.join(sorted(missing))}")
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: expected a record of `survcore bench run`: {error}") from None
            found.append(record)
    return found


def _commit() -> str | None:
    """The commit of the source tree that this package is imported from, "+" where it has been changed; else None.

    Of a copy without a history, the environment variable SURVCORE_COMMIT tells it.
    """
    if told := os.environ.get("SURVCORE_COMMIT"):
        return told
    root = Path(survcore.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _output("git", "-C", str(root), "rev-parse", "--short", "HEAD")
        return commit + ("+" if _output("git", "-C", str(root), "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _driver() -> str | None:
    try:
        return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
