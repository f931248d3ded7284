"""Data: from files to samples.

`open_data` finds out how a folder is laid out, `check_data` looks for what is wrong with it, `Augmented` with
`training_transform` makes the random crops that a training sees.
"""

from .augmentations import (
    AUGMENTATIONS as AUGMENTATIONS,
    degradations_of as degradations_of,
    mixings_of as mixings_of,
    parse_augmentations as parse_augmentations,
)
from .check import (
    ClassCounts as ClassCounts,
    DataReport as DataReport,
    check_data as check_data,
    class_counts as class_counts,
    propose_classes as propose_classes,
)
from .contents import classes_of_images as classes_of_images, sizes_of_images as sizes_of_images
from .copy_paste import copy_paste as copy_paste
from .dataset import (
    Augmented as Augmented,
    DataSplits as DataSplits,
    Mixing as Mixing,
    Pair as Pair,
    SegmentationData as SegmentationData,
    parts_by_name as parts_by_name,
)
from .formats import (
    read_classes_file as read_classes_file,
    read_image as read_image,
    read_mask as read_mask,
    write_classes_file as write_classes_file,
    write_image as write_image,
    write_mask as write_mask,
)
from .label_encoding import LabelEncoding as LabelEncoding, MaskRule as MaskRule
from .open import open_data as open_data
from .transforms import training_transform as training_transform
