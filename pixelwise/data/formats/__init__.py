"""Reading and writing files. A file that cannot be read is a ValueError that names it."""

from .class_file import (
    find_class_file as find_class_file,
    read_classes_file as read_classes_file,
    read_label_encoding as read_label_encoding,
    write_classes_file as write_classes_file,
)
from .folder import images_in as images_in
from .image import IMAGE_SUFFIXES as IMAGE_SUFFIXES, read_image as read_image, write_image as write_image
from .mask import read_mask as read_mask, write_mask as write_mask
