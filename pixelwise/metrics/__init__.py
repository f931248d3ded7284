"""What a prediction is worth: integers first, then every score from them by a named rule.

Pixels: `SegmentationMetrics` and what is made of its matrix. Things: `InstanceMetrics`, `coco_evaluate`,
`PanopticMetrics`. Boundaries and surfaces: `SurfaceMetrics`, `BoundaryBenchmark`, `DavisMetrics`.
"""

from .band import (
    BandMetrics as BandMetrics,
    band_scores as band_scores,
    boundary_band as boundary_band,
)
from .bootstrap import Interval as Interval, bootstrap_interval as bootstrap_interval
from .boundary_iou import (
    boundary_iou as boundary_iou,
    boundary_iou_per_class as boundary_iou_per_class,
    rle_boundary_iou as rle_boundary_iou,
)
from .boxes import BoxMetrics as BoxMetrics
from .bsds import (
    Annotations as Annotations,
    BoundaryBenchmark as BoundaryBenchmark,
    BoundaryScores as BoundaryScores,
    OperatingPoint as OperatingPoint,
    benchmark_thresholds as benchmark_thresholds,
    boundaries_of as boundaries_of,
    read_annotations as read_annotations,
)
from .bsds_regions import (
    RegionBenchmark as RegionBenchmark,
    RegionCounts as RegionCounts,
    RegionScores as RegionScores,
    region_counts as region_counts,
    regions_of_ucm as regions_of_ucm,
)
from .calibration import Calibration as Calibration, CalibrationMetrics as CalibrationMetrics
from .cityscapes import CityscapesMetrics as CityscapesMetrics, CityscapesScores as CityscapesScores
from .cityscapes_instances import (
    CityscapesInstanceMetrics as CityscapesInstanceMetrics,
    CityscapesInstanceScores as CityscapesInstanceScores,
)
from .coco import coco_evaluate as coco_evaluate
from .coco_files import CocoGroundTruth as CocoGroundTruth
from .coco_scores import CocoScores as CocoScores
from .confusion import (
    confusion_from_logits as confusion_from_logits,
    confusion_matrix as confusion_matrix,
)
from .davis import DavisMetrics as DavisMetrics, DavisScores as DavisScores, davis_sequence as davis_sequence
from .davis_frame import boundary_accuracy as boundary_accuracy, region_similarity as region_similarity
from .instance import InstanceMetrics as InstanceMetrics
from .keypoint_similarity import COCO_SIGMAS as COCO_SIGMAS, keypoint_similarity as keypoint_similarity
from .keypoints import KeypointMetrics as KeypointMetrics
from .lvis import (
    LvisGroundTruth as LvisGroundTruth,
    LvisScores as LvisScores,
    lvis_evaluate as lvis_evaluate,
)
from .multilabel import (
    MultilabelMetrics as MultilabelMetrics,
    MultilabelScores as MultilabelScores,
    multilabel_matrices as multilabel_matrices,
)
from .panoptic import (
    PanopticMetrics as PanopticMetrics,
    PanopticScores as PanopticScores,
    panoptic_quality as panoptic_quality,
)
from .panoptic_files import panoptic_file_scores as panoptic_file_scores
from .panoptic_map import PanopticMap as PanopticMap
from .per_image import PerImageMetrics as PerImageMetrics, PerImageScores as PerImageScores
from .scores import Absent as Absent, ClassScore as ClassScore, Scores as Scores
from .segmentation import SegmentationMetrics as SegmentationMetrics
from .surface import (
    SurfaceDistances as SurfaceDistances,
    average_surface_distance as average_surface_distance,
    hausdorff_distance as hausdorff_distance,
    surface_dice as surface_dice,
    surface_distances as surface_distances,
    volumetric_dice as volumetric_dice,
)
from .surface_metrics import SurfaceMetrics as SurfaceMetrics, SurfaceScores as SurfaceScores
