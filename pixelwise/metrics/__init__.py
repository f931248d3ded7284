"""What a prediction is worth: integers first, then every score from them by a named rule."""

from .confusion import confusion_matrix as confusion_matrix
from .scores import Absent as Absent, ClassScore as ClassScore, Scores as Scores
from .segmentation import SegmentationMetrics as SegmentationMetrics
