"""SAM 2: what is pointed at in one frame is followed through the video (Fig. 3).

Hiera makes maps of a frame (`encoders/hiera.py`); prompts and mask decoder are those of SAM with finer maps
and a score that tells whether the object is visible (`mask_decoder.py`). A frame without prompts attends to
memories of others before it is decoded (`memory.py`); which memories there are is the bank's matter
(`bank.py`). An image is a video of one frame without memories.

Departures: a frame that is corrected counts as prompted from then on, as in the paper; the authors' code
forgets the correction unless an option is set. Memories that no frame will ask for are dropped (`bank.py`).
Frames are brought to the network's size as single images are.
"""

from .read_weights import from_sam2 as from_sam2, from_transformers_sam2 as from_transformers_sam2
from .sizes import (
    PAPER as PAPER,
    sam2 as sam2,
    sam2_hiera_base_plus as sam2_hiera_base_plus,
    sam2_hiera_large as sam2_hiera_large,
    sam2_hiera_small as sam2_hiera_small,
    sam2_hiera_tiny as sam2_hiera_tiny,
)
from .video_network import SAM2 as SAM2
