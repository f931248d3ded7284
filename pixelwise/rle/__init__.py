"""Masks as run lengths."""

from .masks import RleMasks as RleMasks, run_lengths as run_lengths
from .paste import paste_masks as paste_masks, resize_masks as resize_masks
from .polygons import Polygon as Polygon
