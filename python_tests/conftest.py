"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
# Triton decides when it is imported whether to interpret its kernels: those tests are run by test_triton.py.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that take longest first: no process is to wait for another at the end."""
    items.sort(key=lambda item: item.path.name != "test_triton.py")


def real_data_folder(name: str) -> Path | None:
    """Folder of a real data set in ``SURVCORE_DATA`` (default ../shared/data), or None where it is absent."""
    root = Path(os.environ.get("SURVCORE_DATA", REPOSITORY.parent / "shared" / "data"))
    folder = root / name
    return folder if folder.is_dir() else None


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """``real_data(name)`` gives the folder of a real data set or skips the test with a reason."""

    def find(name: str) -> Path:
        folder = real_data_folder(name)
        if folder is None:
            pytest.skip(f"real data set {name!r} is not on this machine (set SURVCORE_DATA)")
        return folder

    return find


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads_restored() -> Iterator[None]:
    """For tests that set the number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def one_thread(threads_restored: None) -> None:
    """Small tensors on one thread: threads that wait for each other on a busy machine cost more than they save."""
    torch.set_num_threads(1)


@pytest.fixture
def tied_patients() -> pd.DataFrame:
    """300 simulated patients with covariates a, b, c; many tied times, late entries, weights 1 to 3, three sites."""
    generator = np.random.default_rng(3)
    rows = 300
    frame = pd.DataFrame(generator.normal(size=(rows, 3)), columns=["a", "b", "c"])
    hazard = np.exp(0.8 * frame["a"] - 0.5 * frame["b"])
    frame["time"] = np.ceil(20 * generator.exponential(size=rows) / hazard)
    frame["event"] = (generator.random(rows) < 0.6).astype(int)
    frame["entry"] = np.floor(frame["time"] * generator.random(rows) * 0.99)
    frame["weight"] = generator.integers(1, 4, rows)
    frame["site"] = generator.integers(0, 3, rows)
    return frame
