"""SAM: an image is looked at once, prompts are answered from what is kept of it (Fig. 4).

A plain ViT makes a map of the image (`image_encoder.py`). Points, boxes and masks become tokens and maps
(`prompt_encoder.py`). A small decoder lets both look at each other and draws masks (`mask_decoder.py`,
Fig. 14): three for a prompt that may mean a part or the whole, one where more is given, and tells for each
which IoU it expects of it (Sec. 3).

Departures: none in the published sizes. Names and shapes of the weights are those of the authors'
`segment_anything`. `sam`, which learns from random weights, differs from them; see `small.py`.
"""

from .image_encoder import ImageEncoder as ImageEncoder, make_neck as make_neck
from .mask_decoder import (
    MaskDecoder as MaskDecoder,
    Perceptron as Perceptron,
    TwoWayBlock as TwoWayBlock,
    TwoWayTransformer as TwoWayTransformer,
)
from .network import (
    PAPER as PAPER,
    SAM as SAM,
    from_segment_anything as from_segment_anything,
    sam_vit_b as sam_vit_b,
    sam_vit_h as sam_vit_h,
    sam_vit_l as sam_vit_l,
)
from .prompt_encoder import FourierPositions as FourierPositions, PromptEncoder as PromptEncoder
from .small import SmallSAM as SmallSAM, sam as sam
