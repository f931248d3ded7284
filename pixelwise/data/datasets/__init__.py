"""Layouts of data sets, one file each.

`matches(root)` looks at a folder, `find(root, encoding)` lists what is in it.
"""

from . import camvid, cityscapes, coco, geotiff, pairs, voc
from .annotation_tools import layouts as layouts
from .exports import export_of as export_of
from .layout import Finder as Finder, Layout as Layout
from .sets import DATASETS as DATASETS
from .tree import Row as Row, Tree as Tree


def data_sets(task: str) -> dict[str, Tree]:
    """The layouts of the data sets of a task that are read by a row of the table."""
    return {name: Tree(row) for name, row in DATASETS.items() if row.task == task and row.parts}


# In the order in which they are tried.
FORMATS: dict[str, Finder] = {
    "voc": voc,
    "camvid": camvid,
    **data_sets("semantic"),
    "cityscapes": cityscapes,
    "geotiff": geotiff,
    "pairs": pairs,
    **layouts("semantic"),
    "coco": coco,
}
