"""Random draws that belong to a row: equal (seed, row) give equal numbers in any batch, order or process.

A counter-based generator (the SplitMix64 finaliser over seed, row key, stream and counter) replaces a stateful one:
nothing has to be stored to resume a run, and a patient's draws do not move when another patient joins the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def row_keys(row_ids: Sequence[str]) -> np.ndarray:
    """64-bit keys of row ids (int64 [n]), stable over processes, platforms and cohorts."""
    digests = b"".join(hashlib.blake2b(str(row).encode(), digest_size=8).digest() for row in row_ids)
    return np.frombuffer(digests, dtype="<i8").copy()


def stream_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for a named purpose, e.g. ``stream_seed(seed, "shuffle", stage, epoch)``."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _mix(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _bits(seed: int, keys: torch.Tensor | np.ndarray, count: int) -> np.ndarray:
    """Uniform 64-bit words, uint64 [rows, count]."""
    rows = np.asarray(keys, dtype=np.int64).reshape(-1).view(np.uint64)
    with np.errstate(over="ignore"):
        state = _mix(rows ^ _mix(np.full(1, seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64) + _GAMMA))
        counter = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
        return _mix(state[:, None] + counter[None, :])


def row_uniform(seed: int, keys: torch.Tensor | np.ndarray, count: int) -> torch.Tensor:
    """Uniform draws in (0, 1): float32 [rows, count] on the CPU."""
    words = _bits(seed, keys, count) >> np.uint64(41)
    return torch.from_numpy(((words.astype(np.float64) + 0.5) * 2.0**-23).astype(np.float32))


def row_marks(seed: int, keys: torch.Tensor | np.ndarray, count: int, probability: float) -> torch.Tensor:
    """Independent marks, each True with a probability (to 1 / 65,536): bool [rows, count] on the CPU."""
    # Four marks from each word: masks of wide panels take more draws than anything else.
    words = _bits(seed, keys, -(-count // 4))
    marks = words.view(np.uint16)[:, :count] < round(probability * 2**16)
    return torch.from_numpy(np.ascontiguousarray(marks))


def row_normal(seed: int, keys: torch.Tensor | np.ndarray, *shape: int) -> torch.Tensor:
    """Standard normal draws (Box-Muller): float32 [rows, \\*shape] on the CPU."""
    count = int(np.prod(shape, dtype=np.int64))
    pairs = (count + 1) // 2
    words = _bits(seed, keys, 2 * pairs)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(uniform[:, :pairs]))
    angle = 2.0 * np.pi * uniform[:, pairs:]
    normal = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)), axis=1)[:, :count]
    return torch.from_numpy(normal.astype(np.float32)).reshape(-1, *shape)
