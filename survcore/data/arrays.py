"""One array per row: token sequences, bags, image stacks and volumes, held in memory or left on disk until read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from survcore.data.array_files import open_arrays, read_chunks
from survcore.errors import DataError

RANKS = {"tokens": 2, "bag": 2, "images": 4, "volume": 4}
_LAYOUTS = {"tokens": "[T, width]", "bag": "[N, width]", "images": "[N, C, H, W]", "volume": "[C, D, H, W]"}
_WIDTH_AXIS = {"tokens": 1, "bag": 1, "images": 1, "volume": 0}
# Entries of one block: small beside any bag, large enough that the calls per block do not count.
_BLOCK = 2**19


class ArrayItem(ABC):
    """Values of one row of an array modality; ``where`` names it in errors."""

    shape: tuple[int, ...]
    kind: str
    where: str

    @property
    def width(self) -> int:
        """Features per token or instance, channels of images and volumes."""
        return self.shape[_WIDTH_AXIS[self.kind]]

    @abstractmethod
    def values(self) -> Tensor:
        """The array in its stored dtype, not to be written to; DataError where it holds an infinite value."""

    @abstractmethod
    def values_without_gaps(self) -> Tensor | None:
        """:meth:`values`, or None where an entry is NaN."""

    @abstractmethod
    def blocks(self, index: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Rows along the first axis (instances of a bag), some at a time, without reading the others.

        Yields their numbers and their values, unchecked.

        Args:
            index: sorted int64 numbers of the rows; all by default.
        """

    @abstractmethod
    def coords(self) -> Tensor | None:
        """Positions (x, y) [N, 2] of a bag's instances, or None."""

    @property
    def block_rows(self) -> int:
        """Rows along the first axis that make a block."""
        return max(1, _BLOCK // int(np.prod(self.shape[1:])))


@dataclass(frozen=True, eq=False)
class HeldArray(ArrayItem):
    """An array in memory, checked when it is made."""

    features: Tensor
    positions: Tensor | None
    kind: str
    where: str
    shape: tuple[int, ...] = field(init=False)
    _has_gaps: bool = field(init=False)

    def __post_init__(self) -> None:
        features, positions = _checked(self.features, self.positions, self.kind, self.where)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "shape", tuple(features.shape))
        object.__setattr__(self, "_has_gaps", _has_gaps(features, self))

    def values(self) -> Tensor:
        return self.features

    def values_without_gaps(self) -> Tensor | None:
        return None if self._has_gaps else self.features

    def blocks(self, index: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        return _blocks(self.features, index, self.block_rows)

    def coords(self) -> Tensor | None:
        return self.positions


@dataclass(frozen=True, eq=False)
class StoredArray(ArrayItem):
    """An array in a file. Only its header is read when the item is made, its values when they are asked for.

    A file is looked through for infinite values and gaps once, and again when its time of change or size differ.
    """

    path: Path
    kind: str
    where: str
    shape: tuple[int, ...] = field(init=False)
    _look: tuple[tuple[int, ...], bool] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        features, _ = _checked(*open_arrays(self.path, wanted=()), self.kind, self.where)
        object.__setattr__(self, "shape", tuple(features.shape))

    def values(self) -> Tensor:
        features, _ = self._open("features")
        self._look_through(features)
        return features

    def values_without_gaps(self) -> Tensor | None:
        features, _ = self._open("features")
        return None if self._look_through(features) else features

    def blocks(self, index: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        features, _ = self._open("features", in_place=True)
        if not features.is_meta:
            return _blocks(features, index, self.block_rows)
        index = np.arange(self.shape[0]) if index is None else index
        return read_chunks(self.path, index, self.block_rows, len(self.shape))

    def coords(self) -> Tensor | None:
        return self._open("coords")[1]

    def _open(self, *wanted: str, in_place: bool = False) -> tuple[Tensor, Tensor | None]:
        features, positions = _checked(*open_arrays(self.path, wanted, in_place=in_place), self.kind, self.where)
        if tuple(features.shape) != self.shape:
            raise DataError(
                f"{self.where}: the file has changed: its shape was {list(self.shape)}, now {list(features.shape)}"
            )
        return features, positions

    def _look_through(self, features: Tensor) -> bool:
        """Whether an entry is NaN."""
        found = self.path.stat()
        state = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._look is None or self._look[0] != state:
            object.__setattr__(self, "_look", (state, _has_gaps(features, self)))
        return self._look[1]


@dataclass(frozen=True, eq=False)
class UnreadableArray(ArrayItem):
    """An array whose file is damaged or does not fit: asked for its values it raises what is wrong with it."""

    problem: str
    kind: str
    where: str
    features: int
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        shape = [1] * RANKS[self.kind]
        shape[_WIDTH_AXIS[self.kind]] = self.features
        object.__setattr__(self, "shape", tuple(shape))

    def values(self) -> Tensor:
        raise DataError(self.problem)

    def values_without_gaps(self) -> Tensor | None:
        raise DataError(self.problem)

    def blocks(self, index: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        raise DataError(self.problem)

    def coords(self) -> Tensor | None:
        raise DataError(self.problem)


def missing_rows(values: Tensor, numbers: np.ndarray, where: str) -> Tensor | None:
    """Which rows of a block hold a NaN: bool [n], or None where none does.

    Args:
        values: [n, ...], rows of an array.
        numbers: [n], their numbers in it.
        where: names the array.

    Raises:
        DataError: an infinite value.
    """
    # One pass and no copy; a NaN hides the extremes, so only then every entry is looked at.
    if not values.is_floating_point() or torch.stack(torch.aminmax(values)).isfinite().all():
        return None
    infinite = values.isinf()
    if infinite.any():
        row, *place = infinite.nonzero()[0].tolist()
        raise DataError(f"{where}: infinite value at index {[int(numbers[row]), *place]}")
    return values.isnan().flatten(1).any(1)


def transformed(values: Tensor, transform: str) -> Tensor:
    """Values as float32 after a modality's transform; NaN stays NaN."""
    values = values.to(torch.float32)
    return torch.copysign(values.abs().log1p(), values) if transform == "signed_log" else values


def _has_gaps(features: Tensor, item: ArrayItem) -> bool:
    """Whether an entry is NaN; DataError where one is infinite."""
    gaps = False
    for numbers, block in _blocks(features, None, item.block_rows):
        gaps |= missing_rows(block, numbers, item.where) is not None
    return gaps


def _blocks(features: Tensor, index: np.ndarray | None, rows: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Chosen rows of a tensor, some at a time; views where all are chosen."""
    for start in range(0, len(features) if index is None else len(index), rows):
        if index is None:
            block = features[start : start + rows]
            yield np.arange(start, start + len(block)), block
        else:
            numbers = index[start : start + rows]
            yield numbers, features[torch.from_numpy(numbers)]


def _checked(features: Tensor, positions: Tensor | None, kind: str, where: str) -> tuple[Tensor, Tensor | None]:
    rank = RANKS[kind]
    # Slide pipelines store one slide as a batch of one.
    if features.ndim == rank + 1 and features.shape[0] == 1:
        features = features[0]
    if features.ndim != rank:
        raise DataError(f"{where}: kind {kind!r} expects shape {_LAYOUTS[kind]}, got {list(features.shape)}")
    if features.numel() == 0:
        raise DataError(
            f"{where}: the array is empty (shape {list(features.shape)}); leave the row out where it lacks the modality"
        )
    if kind != "bag" or positions is None:
        return features, None
    if positions.ndim == 3 and positions.shape[0] == 1:
        positions = positions[0]
    if tuple(positions.shape) != (features.shape[0], 2):
        raise DataError(
            f"{where}: coords must be [{features.shape[0]}, 2] (one position per instance), got {list(positions.shape)}"
        )
    return features, positions
