"""Style transfer: the content of one picture in the style of others (Gatys, Ecker and Bethge, CVPR 2016)."""

from .losses import (
    content_loss as content_loss,
    gram_matrix as gram_matrix,
    style_loss as style_loss,
    total_variation as total_variation,
)
from .networks import (
    EncoderNetwork as EncoderNetwork,
    StyleNetwork as StyleNetwork,
    Vgg19 as Vgg19,
    load_vgg19 as load_vgg19,
    make_network as make_network,
)
from .transfer import (
    Objective as Objective,
    StyledImage as StyledImage,
    StyleRegion as StyleRegion,
    StyleSettings as StyleSettings,
    StyleStep as StyleStep,
    regions_of_masks as regions_of_masks,
    scales_of as scales_of,
    transfer_style as transfer_style,
)
