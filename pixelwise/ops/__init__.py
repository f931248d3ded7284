"""The field's operators as plain functions, each with an example worked by hand.

They are here to be read and tried. Where PyTorch has the same operator, models use PyTorch's, and a test
shows that the two agree. Letters in shapes are those of `types.py`; k is also the side of a kernel.
"""

from .boxes import (
    box_iou as box_iou,
    clip_boxes as clip_boxes,
    decode_boxes as decode_boxes,
    encode_boxes as encode_boxes,
    generalized_box_iou as generalized_box_iou,
    make_anchors as make_anchors,
    match_boxes as match_boxes,
    non_maximum_suppression as non_maximum_suppression,
    rescale_boxes as rescale_boxes,
    sample_matched as sample_matched,
)
from .convolution import (
    convolution_matrix as convolution_matrix,
    convolution_size as convolution_size,
    dilated_convolution as dilated_convolution,
    overlap_pattern as overlap_pattern,
    pointwise_convolution as pointwise_convolution,
    resize_convolution as resize_convolution,
    transposed_convolution_size as transposed_convolution_size,
)
from .deformable_attention import deformable_attention as deformable_attention
from .detections import DetectionLimits as DetectionLimits, detections_of as detections_of
from .guided_filter import (
    box_mean as box_mean,
    guided_coefficients as guided_coefficients,
    guided_filter as guided_filter,
)
from .nms import (
    Rescored as Rescored,
    fast_nms as fast_nms,
    mask_iou as mask_iou,
    mask_nms as mask_nms,
    matrix_nms as matrix_nms,
    soft_nms as soft_nms,
)
from .objects import (
    Sizes as Sizes,
    assigned as assigned,
    boxes_in as boxes_in,
    objects_in as objects_in,
    objects_of as objects_of,
    pool_by_level as pool_by_level,
    rescaled as rescaled,
    sample_regions as sample_regions,
    sides_reach as sides_reach,
)
from .pooling import (
    Pooled as Pooled,
    max_pool_with_indices as max_pool_with_indices,
    max_unpool as max_unpool,
)
from .receptive_field import (
    measured_receptive_field as measured_receptive_field,
    receptive_field as receptive_field,
)
from .resampling import (
    bed_of_nails as bed_of_nails,
    bilinear_kernel as bilinear_kernel,
    bilinear_transposed as bilinear_transposed,
    bilinear_upsample as bilinear_upsample,
    nearest_upsample as nearest_upsample,
    pillow_resize as pillow_resize,
    pixel_shuffle as pixel_shuffle,
)
from .roi import (
    position_sensitive_roi_align as position_sensitive_roi_align,
    roi_align as roi_align,
    roi_pool as roi_pool,
    sample_bilinear as sample_bilinear,
)
