"""The file types of arrays, one array with optional ``coords`` per file, and how much of a file is read.

Four types: ``npy``, ``safetensors``, ``h5`` with ``features`` and optional ``coords`` as the CLAM and TRIDENT slide
pipelines write it, and ``pt`` read through ``torch.load(weights_only=True)`` (a tensor, or a dict of ``features`` and
optional ``coords``). Every type but npy can hold ``coords``; npy and h5 cannot hold bfloat16.

Values are memory-mapped copy-on-write (torch wants writable memory, and a careless write must not reach the file);
read into memory are legacy pt files, other byte orders and h5 datasets in chunks, which the pipelines compress or grow.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from survcore.errors import DataError

if TYPE_CHECKING:
    import h5py

ARRAY_SUFFIXES = (".npy", ".safetensors", ".h5", ".pt")
PARTS = ("features", "coords")


def open_arrays(path: Path, wanted: Collection[str] = PARTS, *, in_place: bool = False) -> tuple[Tensor, Tensor | None]:
    """Features and coords of a file; a part that is not ``wanted`` is a meta tensor of its shape, without values.

    Args:
        path: the file.
        wanted: any of :data:`PARTS`.
        in_place: what HDF5 would have to read is a meta tensor too; :func:`read_chunks` gives some of its rows.

    Raises:
        DataError: no such file, an unknown type, a damaged file, or something that is not numeric.
    """
    if path.suffix not in _READERS:
        raise DataError(f"{path}: unknown array file type; expected one of {', '.join(_READERS)}")
    with _damage_told(path):
        return _READERS[path.suffix](path, wanted, in_place)


def read_chunks(path: Path, index: np.ndarray, most: int, rank: int = 2) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Rows of an h5 dataset [N, ...] or [1, N, ...] by a sorted index, about ``most`` rows of it at a time.

    Only chunks that hold a chosen row are read, each once (h5py's own indexing by a list takes about 1 ms per row).
    ``rank`` is that of [N, ...]. Yields the numbers of some rows and their values.
    """
    import h5py

    with _damage_told(path), h5py.File(path, "r") as file:
        dataset = _dataset(file, path)
        axis = dataset.ndim - rank
        chunk = dataset.chunks[axis] if dataset.chunks else 1
        window = chunk * max(1, most // chunk)
        for numbers in _split(index, np.diff(index // window) > 0):
            runs = _split(numbers, np.diff(numbers // chunk) > 1)
            parts = [dataset[(0,) * axis + (slice(run[0], run[-1] + 1),)][run - run[0]] for run in runs]
            yield numbers, as_tensor(np.concatenate(parts), f"{path}: features")


def write_arrays(path: Path, features: Tensor, positions: Tensor | None, where: str) -> None:
    """Writes features and coords in the file type of ``path``'s suffix; DataError where the type cannot hold them."""
    features, suffix = features.contiguous(), path.suffix
    if suffix in (".npy", ".h5") and features.dtype == torch.bfloat16:
        raise DataError(f"{where}: {suffix[1:]} files cannot hold bfloat16; write safetensors or pt")
    if suffix == ".npy" and positions is not None:
        raise DataError(f"{where}: npy files cannot hold coords; write safetensors, h5 or pt")
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
        raise DataError(f"{where}: unknown array file type {suffix!r}; expected one of {', '.join(ARRAY_SUFFIXES)}")


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


def _read_npy(path: Path, wanted: Collection[str], in_place: bool) -> tuple[Tensor, Tensor | None]:
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    return as_tensor(array, str(path)) if "features" in wanted else _header(array, str(path)), None


def _read_safetensors(path: Path, wanted: Collection[str], in_place: bool) -> tuple[Tensor, Tensor | None]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())

        def read(name: str, part: str) -> Tensor:
            # get_tensor gives a view of a copy-on-write map of the file.
            if part in wanted:
                return file.get_tensor(name)
            return torch.empty(file.get_slice(name).get_shape(), device="meta")

        features = read(_features_name(names, path), "features")
        return features, read("coords", "coords") if "coords" in names else None


def _read_h5(path: Path, wanted: Collection[str], in_place: bool) -> tuple[Tensor, Tensor | None]:
    import h5py

    with h5py.File(path, "r") as file:

        def read(dataset: h5py.Dataset, part: str) -> Tensor:
            where = f"{path}: {part}"
            if part not in wanted:
                return _header(dataset, where)
            offset = _place(dataset)
            if offset is not None:
                return as_tensor(np.memmap(path, dataset.dtype, "c", offset, dataset.shape), where)
            if in_place:
                return _header(dataset, where)
            return as_tensor(_read_dataset(dataset), where)

        return read(_dataset(file, path), "features"), read(file["coords"], "coords") if "coords" in file else None


def _read_pt(path: Path, wanted: Collection[str], in_place: bool) -> tuple[Tensor, Tensor | None]:
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


def _dataset(file: h5py.File, path: Path) -> h5py.Dataset:
    import h5py

    dataset = file.get("features")
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{path}: no dataset 'features'; it holds {sorted(file)}")
    return dataset


def _place(dataset: h5py.Dataset) -> int | None:
    """Offset in the file of a dataset whose bytes are the array's, or None where they are not."""
    import h5py

    # A number format that NumPy lacks has a dtype of other bytes; both kinds are told by the type on file.
    same_bytes = dataset.dtype.isnative and dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype, logical=True)
    if dataset.chunks is not None or dataset.external is not None or not same_bytes:
        return None
    offset = dataset.id.get_offset()
    return None if offset is None or offset % dataset.dtype.itemsize else offset


def _read_dataset(dataset: h5py.Dataset) -> np.ndarray:
    if dataset.chunks is None or not dataset.size:
        return dataset[()]
    # HDF5 keeps some kilobytes per chunk of one read, more than the chunk itself where every row is one.
    values, rows = np.empty(dataset.shape, dataset.dtype), 256 * dataset.chunks[0]
    for start in range(0, len(dataset), rows):
        part = np.s_[start : min(start + rows, len(dataset))]
        dataset.read_direct(values, part, part)
    return values


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


def _split(numbers: np.ndarray, cut: np.ndarray) -> list[np.ndarray]:
    """Parts of an array, a new one after every place where ``cut`` is set."""
    return np.split(numbers, np.flatnonzero(cut) + 1)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataError, MemoryError):
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # each library has its own errors for a damaged file, down to bare RuntimeError
        raise DataError(
            f"{path}: cannot be read as {path.suffix[1:]} (damaged or cut short?): {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


_READERS = {".npy": _read_npy, ".safetensors": _read_safetensors, ".h5": _read_h5, ".pt": _read_pt}
