"""What training makes small: pure functions, thin modules, and the one wrapper around them.

Functions and modules take logits `b k *grid` and integer labels `b *grid`, or `b k *grid` where classes are
not exclusive, on planes and volumes alike; a `Criterion` takes what a model returns and the batch.
Half-precision logits are computed in float32.
"""

from .boundary import (
    Boundary as Boundary,
    boundary_loss as boundary_loss,
    signed_distances as signed_distances,
)
from .cldice import ClDice as ClDice, cldice_loss as cldice_loss, soft_skeleton as soft_skeleton
from .clicks import AnsweredClicks as AnsweredClicks, answer_losses as answer_losses
from .criterion import (
    Criterion as Criterion,
    NoLoss as NoLoss,
    PaperCriterion as PaperCriterion,
    WeightedSum as WeightedSum,
    loss_parts as loss_parts,
    make_criterion as make_criterion,
    paper_criterion as paper_criterion,
)
from .cross_entropy import CrossEntropy as CrossEntropy, cross_entropy as cross_entropy
from .deep_supervision import DeepSupervision as DeepSupervision
from .dice import (
    Dice as Dice,
    GeneralisedDice as GeneralisedDice,
    dice_loss as dice_loss,
    generalised_dice_loss as generalised_dice_loss,
)
from .focal import Focal as Focal, focal_loss as focal_loss
from .hausdorff import Hausdorff as Hausdorff, hausdorff_loss as hausdorff_loss
from .heatmap import HeatmapLoss as HeatmapLoss, heatmap_loss as heatmap_loss
from .jaccard import Jaccard as Jaccard, jaccard_loss as jaccard_loss
from .lovasz import Lovasz as Lovasz, lovasz_loss as lovasz_loss
from .mask_set import (
    MaskSetLoss as MaskSetLoss,
    class_loss as class_loss,
    mask_losses as mask_losses,
    mask_set_of as mask_set_of,
    mask_set_parts as mask_set_parts,
    mean_over_processes as mean_over_processes,
)
from .matching import assign as assign, matching_cost as matching_cost
from .ohem import Ohem as Ohem, ohem_loss as ohem_loss
from .point_sampling import sample_points as sample_points, uncertain_points as uncertain_points
from .rmi import RMI as RMI, rmi_loss as rmi_loss
from .semantic_encoding import (
    SemanticEncoding as SemanticEncoding,
    class_presence as class_presence,
    semantic_encoding_loss as semantic_encoding_loss,
)
from .tversky import (
    FocalTversky as FocalTversky,
    Tversky as Tversky,
    focal_tversky_loss as focal_tversky_loss,
    tversky_loss as tversky_loss,
)
from .weight_map import (
    BorderCrossEntropy as BorderCrossEntropy,
    border_cross_entropy as border_cross_entropy,
    unet_weight_map as unet_weight_map,
)
