"""Layouts of data sets, one file each.

`matches(root)` looks at a folder, `find(root, encoding)` lists what is in it.
"""

from . import camvid, cityscapes, coco, pairs, voc
from .annotation_tools import layouts as layouts
from .exports import export_of as export_of
from .layout import Finder as Finder, Layout as Layout

# In the order in which they are tried.
FORMATS: dict[str, Finder] = {
    "voc": voc,
    "camvid": camvid,
    "cityscapes": cityscapes,
    "pairs": pairs,
    **layouts("semantic"),
    "coco": coco,
}
