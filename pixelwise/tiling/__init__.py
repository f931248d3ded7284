"""Large images and volumes in overlapping tiles, from a file and to a file.

    source --rows of tiles--> f --logits--> weighted sums --finished blocks--> sink

`grid.py` says where tiles lie and how far each is trusted, `stitching.py` runs a network over them,
`sources.py` reads the rows that a tile needs, `sinks.py` writes finished rows so that nobody sees half a
file.
"""

from .grid import Blend as Blend, Interval as Interval, Size as Size, at as at, grid as grid
from .sinks import SUFFIXES as SUFFIXES, ArraySink as ArraySink, FileSink as FileSink, Maps as Maps
from .slides import SlideSource as SlideSource
from .sources import (
    SLIDES as SLIDES,
    WINDOWED as WINDOWED,
    ArraySource as ArraySource,
    PixelSource as PixelSource,
    open_source as open_source,
)
from .stitching import (
    Block as Block,
    Each as Each,
    Network as Network,
    among_zeros as among_zeros,
    bands as bands,
    blocks as blocks,
    read_tiles as read_tiles,
    scores_of_any_size as scores_of_any_size,
    tile as tile,
    tiled as tiled,
    untile as untile,
    with_repeated_border as with_repeated_border,
)
