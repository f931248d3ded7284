"""Data sets of volumes that a row of the table knows by their files, and so has names for their classes."""

from dataclasses import dataclass
from pathlib import Path

from ..label_encoding import LabelEncoding
from . import volumes
from .layout import Layout
from .sets import DATASETS
from .tree import Row, home_of


@dataclass(frozen=True)
class VolumeSet:
    """The layout of a row; see `Finder`.

    Attributes:
        row: of the table, with marks and a class file.
    """

    row: Row

    def matches(self, root: Path) -> bool:
        """Whether the folder, or one in it, has the marks of the data set."""
        return home_of(self.row, root) is not None

    def find(self, root: Path, encoding: LabelEncoding | None) -> Layout:
        """List the volumes; see `volumes.find`.

        Args:
            root: the folder, or one above it.
            encoding: a class table that is used instead of that of the data set.

        Raises:
            ValueError: as `volumes.find`.
        """
        return volumes.find(home_of(self.row, root) or root, encoding or self.row.encoding)


def volume_sets() -> dict[str, VolumeSet]:
    """The layouts of the data sets of volumes that are known by their files."""
    rows = (row for row in DATASETS.values() if row.layout == "volumes" and row.marks)
    return {row.name: VolumeSet(row) for row in rows}
