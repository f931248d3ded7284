"""Layouts of data sets, one file each.

`matches(root)` looks at a folder, `find(root, encoding)` lists what is in it.
"""

from . import ade20k_full, camvid, cityscapes, coco, geotiff, mapillary, pairs, voc
from .annotation_tools import layouts as layouts
from .exports import export_of as export_of
from .layout import Finder as Finder, Layout as Layout
from .not_read import NOT_READ as NOT_READ
from .sets import DATASETS as DATASETS
from .tree import Row as Row, Tree as Tree


def data_sets(task: str) -> dict[str, Tree]:
    """The layouts of the data sets of a task that are read by a row of the table."""
    return {name: Tree(row) for name, row in DATASETS.items() if row.task == task and row.parts}


def row_of(name: str) -> Row | None:
    """The data set that a folder was read as: the row of that name, or the only one of the layout.

    Of several data sets in one layout, the one with official scores counts; None for any other folder.

    >>> row_of("cityscapes").title, row_of("pairs")
    ('Cityscapes', None)
    """
    if name in DATASETS:
        return DATASETS[name]
    rows = [r for r in DATASETS.values() if r.layout == name and r.official and not r.marks]
    return rows[0] if len(rows) == 1 else None


# In the order in which they are tried.
FORMATS: dict[str, Finder] = {
    "voc": voc,
    "camvid": camvid,
    "mapillary": mapillary,
    "ade20k_full": ade20k_full.SEMANTIC,
    **data_sets("semantic"),
    "cityscapes": cityscapes,
    "geotiff": geotiff,
    "pairs": pairs,
    **layouts("semantic"),
    "coco": coco,
}
