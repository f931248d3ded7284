"""What a prediction is worth: integers first, then every score from them by a named rule.

Pixels: `SegmentationMetrics` and what is made of its matrix. Instances: `InstanceMetrics`, `coco_evaluate`,
`PanopticMetrics`. Boundaries and surfaces: `SurfaceMetrics`, `BoundaryBenchmark`, `DavisMetrics`.
"""

from .bootstrap import (
    Gain as Gain,
    ImageStates as ImageStates,
    Interval as Interval,
    bootstrap_interval as bootstrap_interval,
)
from .bsds.boundaries import (
    Annotations as Annotations,
    BoundaryBenchmark as BoundaryBenchmark,
    BoundaryScores as BoundaryScores,
    OperatingPoint as OperatingPoint,
    benchmark_thresholds as benchmark_thresholds,
    boundaries_of as boundaries_of,
    read_annotations as read_annotations,
)
from .bsds.regions import (
    RegionBenchmark as RegionBenchmark,
    RegionCounts as RegionCounts,
    RegionScores as RegionScores,
    region_counts as region_counts,
    regions_of_ucm as regions_of_ucm,
)
from .cityscapes.instances import (
    CityscapesInstanceMetrics as CityscapesInstanceMetrics,
    CityscapesInstanceScores as CityscapesInstanceScores,
)
from .cityscapes.pixels import CityscapesMetrics as CityscapesMetrics, CityscapesScores as CityscapesScores
from .coco.boundary_iou import (
    boundary_iou as boundary_iou,
    boundary_iou_per_class as boundary_iou_per_class,
    rle_boundary_iou as rle_boundary_iou,
)
from .coco.boxes import BoxMetrics as BoxMetrics
from .coco.evaluate import coco_evaluate as coco_evaluate
from .coco.files import CocoGroundTruth as CocoGroundTruth
from .coco.instance import InstanceMetrics as InstanceMetrics
from .coco.keypoint_similarity import COCO_SIGMAS as COCO_SIGMAS, keypoint_similarity as keypoint_similarity
from .coco.keypoints import KeypointMetrics as KeypointMetrics
from .coco.lvis import (
    LvisGroundTruth as LvisGroundTruth,
    LvisScores as LvisScores,
    lvis_evaluate as lvis_evaluate,
)
from .coco.scores import CocoScores as CocoScores
from .davis.frame import boundary_accuracy as boundary_accuracy, region_similarity as region_similarity
from .davis.sequence import (
    DavisMetrics as DavisMetrics,
    DavisScores as DavisScores,
    davis_sequence as davis_sequence,
)
from .membranes import MembraneScores as MembraneScores, membrane_scores as membrane_scores
from .panoptic.files import panoptic_file_scores as panoptic_file_scores
from .panoptic.panoptic_map import PanopticMap as PanopticMap
from .panoptic.quality import (
    PanopticMetrics as PanopticMetrics,
    PanopticScores as PanopticScores,
    panoptic_quality as panoptic_quality,
)
from .pixels.band import (
    BandMetrics as BandMetrics,
    band_scores as band_scores,
    boundary_band as boundary_band,
)
from .pixels.calibration import Calibration as Calibration, CalibrationMetrics as CalibrationMetrics
from .pixels.confusion import (
    confusion_from_logits as confusion_from_logits,
    confusion_matrix as confusion_matrix,
)
from .pixels.multilabel import (
    MultilabelMetrics as MultilabelMetrics,
    MultilabelScores as MultilabelScores,
    multilabel_matrices as multilabel_matrices,
)
from .pixels.per_image import PerImageMetrics as PerImageMetrics, PerImageScores as PerImageScores
from .pixels.precision_recall import PixelCurves as PixelCurves, PixelPrecisionRecall as PixelPrecisionRecall
from .pixels.scores import Absent as Absent, ClassScore as ClassScore, Scores as Scores
from .pixels.segmentation import SegmentationMetrics as SegmentationMetrics
from .saliency import SaliencyMetrics as SaliencyMetrics, SaliencyScores as SaliencyScores
from .surface.distances import (
    SurfaceDistances as SurfaceDistances,
    average_surface_distance as average_surface_distance,
    hausdorff_distance as hausdorff_distance,
    surface_dice as surface_dice,
    surface_distances as surface_distances,
    volumetric_dice as volumetric_dice,
)
from .surface.scores import SurfaceMetrics as SurfaceMetrics, SurfaceScores as SurfaceScores
