"""One array per row: token sequences, bags, image stacks and volumes, held in memory or left on disk until read.

Four file types: ``npy`` (memory-mapped), ``safetensors``, ``h5`` with ``features`` and optional ``coords`` as the CLAM
and TRIDENT slide pipelines write it, and ``pt`` read through ``torch.load(weights_only=True)`` (a tensor, or a dict of
``features`` and optional ``coords``). Every type but npy can hold ``coords``; npy and h5 cannot hold bfloat16.
"""

from __future__ import annotations

import pickle
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from survcore.errors import DataError

ARRAY_SUFFIXES = (".npy", ".safetensors", ".h5", ".pt")
RANKS = {"tokens": 2, "bag": 2, "images": 4, "volume": 4}
_LAYOUTS = {"tokens": "[T, width]", "bag": "[N, width]", "images": "[N, C, H, W]", "volume": "[C, D, H, W]"}
_WIDTH_AXIS = {"tokens": 1, "bag": 1, "images": 1, "volume": 0}


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
        """The array in its stored dtype."""

    @abstractmethod
    def coords(self) -> Tensor | None:
        """Positions [N, 2] of a bag's instances, or None."""


@dataclass(frozen=True, eq=False)
class HeldArray(ArrayItem):
    """An array in memory, checked when it is made."""

    features: Tensor
    positions: Tensor | None
    kind: str
    where: str
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        features, positions = _checked(self.features, self.positions, self.kind, self.where)
        _refuse_infinite(features, self.where)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "positions", positions)
        object.__setattr__(self, "shape", tuple(features.shape))

    def values(self) -> Tensor:
        return self.features

    def coords(self) -> Tensor | None:
        return self.positions


@dataclass(frozen=True, eq=False)
class StoredArray(ArrayItem):
    """An array in a file. Only its header is read when the item is made, its values at each call of :meth:`values`."""

    path: Path
    kind: str
    where: str
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        features, _ = _checked(*_open(self.path, header_only=True), self.kind, self.where)
        object.__setattr__(self, "shape", tuple(features.shape))

    def values(self) -> Tensor:
        features, _ = self._read()
        _refuse_infinite(features, self.where)
        return features

    def coords(self) -> Tensor | None:
        return self._read()[1]

    def _read(self) -> tuple[Tensor, Tensor | None]:
        features, positions = _checked(*_open(self.path, header_only=False), self.kind, self.where)
        if tuple(features.shape) != self.shape:
            raise DataError(
                f"{self.where}: the file has changed: its shape was {list(self.shape)}, now {list(features.shape)}"
            )
        return features, positions


def read_array(path: Path) -> Tensor:
    """The array of a file, whatever its shape, without its coords."""
    return _open(path, header_only=False)[0]


def write_array(path: Path, item: ArrayItem) -> None:
    """Writes values and coords in the file type of ``path``'s suffix; DataError where the type cannot hold them."""
    features, positions = item.values().contiguous(), item.coords()
    suffix = path.suffix
    if suffix in (".npy", ".h5") and features.dtype == torch.bfloat16:
        raise DataError(f"{item.where}: {suffix[1:]} files cannot hold bfloat16; write safetensors or pt")
    if suffix == ".npy" and positions is not None:
        raise DataError(f"{item.where}: npy files cannot hold coords; write safetensors, h5 or pt")
    named = {"features": features} if positions is None else {"features": features, "coords": positions.contiguous()}
    if suffix == ".npy":
        np.save(path, features.numpy(), allow_pickle=False)
    elif suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(named, path)
    elif suffix == ".h5":
        import h5py

        with h5py.File(path, "w") as file:
            for name, part in named.items():
                file.create_dataset(name, data=part.numpy())
    elif suffix == ".pt":
        # Clones: a view would drag the whole storage it looks at into the file.
        torch.save({name: part.clone() for name, part in named.items()}, path)
    else:
        raise DataError(
            f"{item.where}: unknown array file type {suffix!r}; expected one of {', '.join(ARRAY_SUFFIXES)}"
        )


def as_tensor(data: Any, where: str) -> Tensor:
    """A dense CPU tensor over an array, without a copy where possible; DataError for anything that is not numeric."""
    if isinstance(data, Tensor):
        if data.layout != torch.strided or data.is_complex() or data.is_quantized:
            raise DataError(f"{where}: expected a dense real tensor, got {data.dtype} in layout {data.layout}")
        return data.detach().cpu()
    array = np.asarray(data)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where}: expected numbers, got an array of dtype {array.dtype}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise DataError(f"{where}: arrays of dtype {array.dtype} are not supported") from None


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


def _refuse_infinite(features: Tensor, where: str) -> None:
    if not features.is_floating_point():
        return
    lowest, highest = torch.aminmax(features)
    if torch.isfinite(lowest) and torch.isfinite(highest):
        return
    # A NaN (missing entry) hides the extremes, so only now look at every entry.
    infinite = torch.isinf(features)
    if infinite.any():
        raise DataError(f"{where}: infinite value at index {infinite.nonzero()[0].tolist()}")


def _open(path: Path, *, header_only: bool) -> tuple[Tensor, Tensor | None]:
    """Features and coords of a file; with ``header_only`` tensors that have the right shape and no read values."""
    if path.suffix not in _READERS:
        raise DataError(f"{path}: unknown array file type; expected one of {', '.join(_READERS)}")
    try:
        return _READERS[path.suffix](path, header_only)
    except (DataError, MemoryError):
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # each library has its own errors for a damaged file, down to bare RuntimeError
        raise DataError(
            f"{path}: cannot be read as {path.suffix[1:]} (damaged or cut short?): {_first_line(error)}"
        ) from error


def _read_npy(path: Path, header_only: bool) -> tuple[Tensor, Tensor | None]:
    # Copy-on-write: torch wants writable memory, and a careless write must not reach the file.
    array = np.load(path, mmap_mode="r" if header_only else "c", allow_pickle=False)
    return _header(array, str(path)) if header_only else as_tensor(array, str(path)), None


def _read_safetensors(path: Path, header_only: bool) -> tuple[Tensor, Tensor | None]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        features = _features_name(names, path)
        wanted = [features, "coords"] if "coords" in names else [features]
        if header_only:
            read = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in wanted}
        else:
            read = {name: file.get_tensor(name) for name in wanted}
    return read[features], read.get("coords")


def _read_h5(path: Path, header_only: bool) -> tuple[Tensor, Tensor | None]:
    import h5py

    with h5py.File(path, "r") as file:
        if not isinstance(file.get("features"), h5py.Dataset):
            raise DataError(f"{path}: no dataset 'features'; it holds {sorted(file)}")

        def read(name: str) -> Tensor:
            dataset, where = file[name], f"{path}: {name}"
            return _header(dataset, where) if header_only else as_tensor(dataset[()], where)

        return read("features"), read("coords") if "coords" in file else None


def _read_pt(path: Path, header_only: bool) -> tuple[Tensor, Tensor | None]:
    try:
        # Only zip archives (torch >= 1.6) can be mapped.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise
        raise DataError(f"{path}: refused: it holds pickled objects besides tensors; save the tensor alone") from error
    if isinstance(loaded, Tensor):
        return as_tensor(loaded, str(path)), None
    if not isinstance(loaded, dict) or not all(isinstance(part, Tensor) for part in loaded.values()):
        raise DataError(f"{path}: expected a tensor or a dict of tensors with 'features', got {type(loaded).__name__}")
    coords = loaded.get("coords")
    features = as_tensor(loaded[_features_name(list(loaded), path)], str(path))
    return features, None if coords is None else as_tensor(coords, f"{path}: coords")


def _header(array: Any, where: str) -> Tensor:
    """A tensor without values in the shape of an array or dataset; DataError where it is not numeric."""
    as_tensor(np.empty(0, dtype=array.dtype), where)
    return torch.empty(array.shape, device="meta")


def _features_name(names: list[str], path: Path) -> str:
    if "features" in names:
        return "features"
    others = [name for name in names if name != "coords"]
    if len(others) != 1:
        raise DataError(f"{path}: expected an array named 'features' or one array alone, got {sorted(map(str, names))}")
    return others[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


_READERS = {".npy": _read_npy, ".safetensors": _read_safetensors, ".h5": _read_h5, ".pt": _read_pt}
