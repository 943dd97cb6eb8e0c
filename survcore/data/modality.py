"""One modality of a cohort: what it is, which rows have it, and its values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from survcore.data.arrays import ArrayItem
from survcore.data.sparse_values import PanelValues
from survcore.errors import DataError

KINDS = ("vector", "panel", "tokens", "bag", "images", "volume", "text", "embedding")
TABLE_KINDS = ("vector", "panel", "embedding")
TRANSFORMS = ("none", "signed_log")


@dataclass(frozen=True)
class ModalitySpec:
    """What a modality is, apart from its values.

    Attributes:
        name: unique in the cohort.
        kind: one of :data:`KINDS`.
        width: columns of a table, features per token or instance, channels of images and volumes; 0 for text.
        columns: column names of a table, else empty.
        groups: for tokens given as a table: (token name, column names) pairs; groups may overlap.
        transform: the preprocessing this modality asks for: "none" or "signed_log" (sign(x) log(1 + |x|)).
    """

    name: str
    kind: str
    width: int
    columns: tuple[str, ...] = ()
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    transform: str = "none"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"modality {self.name!r}: unknown kind {self.kind!r}; the kinds are {', '.join(KINDS)}")
        if self.transform not in TRANSFORMS:
            raise DataError(
                f"modality {self.name!r}: unknown transform {self.transform!r}; expected one of {', '.join(TRANSFORMS)}"
            )

    @property
    def is_table(self) -> bool:
        """Whether the values are one table (else one array or text per row)."""
        return self.kind in TABLE_KINDS or (self.kind == "tokens" and bool(self.groups))


@dataclass(frozen=True, eq=False)
class Modality:
    """A modality's values for the rows of one cohort.

    Attributes:
        spec: what the modality is.
        present: bool [N], the rows that have it.
        held: the values of a table: float32 [N, width], NaN where an entry is missing and in every absent row; of a
            panel :class:`~survcore.data.sparse_values.PanelValues`, which hold the ones alone and are made of such a
            table where one is given; None for arrays and text.
        items: object array [N] for arrays and text: what :meth:`value` reads, None in absent rows; None for tables.
    """

    spec: ModalitySpec
    present: np.ndarray
    held: np.ndarray | PanelValues | None = None
    items: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.spec.kind == "panel" and isinstance(self.held, np.ndarray):
            object.__setattr__(self, "held", PanelValues.of_table(self.held))

    def __len__(self) -> int:
        return len(self.present)

    @property
    def panel(self) -> PanelValues | None:
        """The values of a panel as they are held; None for everything else."""
        return self.held if isinstance(self.held, PanelValues) else None

    @property
    def table(self) -> np.ndarray | None:
        """float32 [N, width], NaN where an entry is missing and in every absent row; None for arrays and text.

        The table of a panel is written out at every call: four bytes per entry, for which a large cohort has no room.
        """
        return self.held.table() if isinstance(self.held, PanelValues) else self.held

    def value(self, row: int) -> Tensor | str:
        """Values of one row: float32 [width] of a table, the array in its stored dtype, or the text.

        Arrays on disk are read now, as a copy-on-write memory map where the file allows it.

        Raises:
            DataError: the row lacks the modality, or its file is damaged or holds infinite values.
        """
        if not self.present[row]:
            raise DataError(f"modality {self.spec.name!r} is absent in row number {row}")
        if self.panel is not None:
            return torch.from_numpy(self.panel.take(np.array([row])).table()[0])
        if self.held is not None:
            return torch.from_numpy(self.held[row])
        item = self.items[row]
        return item if isinstance(item, str) else item.values()

    def coords(self, row: int) -> Tensor | None:
        """Positions (x, y) [N, 2] of a bag's instances in their stored dtype, or None where the row has none."""
        item = self.items[row] if self.items is not None else None
        return item.coords() if isinstance(item, ArrayItem) else None

    def shape(self, row: int) -> tuple[int, ...] | None:
        """Shape of one row's values without reading them; None where the row lacks the modality; () for text."""
        if not self.present[row]:
            return None
        if self.held is not None:
            return (self.spec.width,)
        item = self.items[row]
        return () if isinstance(item, str) else item.shape

    @property
    def missing_entries(self) -> int:
        """NaN entries of the rows that have the modality (0 for arrays and text, which are not read for it)."""
        if self.panel is not None:
            return int(self.present.sum()) * self.spec.width - int(self.panel.coverage.counts[self.present].sum())
        return 0 if self.held is None else int(np.isnan(self.held[self.present]).sum())

    def select(self, index: np.ndarray) -> Modality:
        """The rows of an integer index, in its order."""
        held = self.held.take(index) if isinstance(self.held, PanelValues) else _rows(self.held, index)
        return replace(self, present=self.present[index], held=held, items=_rows(self.items, index))

    def without(self, rows: np.ndarray) -> Modality:
        """The same modality, absent where the bool mask ``rows`` [N] is set."""
        held, items = self.held, self.items
        if isinstance(held, PanelValues):
            held = held.without(rows)
        elif held is not None:
            held = np.where(rows[:, None], np.float32(np.nan), held)
        if items is not None:
            items = np.where(rows, None, items)
        return replace(self, present=self.present & ~rows, held=held, items=items)


def _rows(values: np.ndarray | None, index: np.ndarray) -> np.ndarray | None:
    return None if values is None else values[index]
