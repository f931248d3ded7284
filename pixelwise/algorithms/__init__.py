"""Methods without learned weights: plain functions, image in, label map out."""

from .belief_propagation import belief_propagation as belief_propagation, tree_reweighted as tree_reweighted
from .box_supervision import (
    Region as Region,
    choose_regions as choose_regions,
    propose_regions as propose_regions,
)
from .dense_crf import (
    PUBLISHED_KERNELS as PUBLISHED_KERNELS,
    DenseCrf as DenseCrf,
    MeanField as MeanField,
    dense_crf as dense_crf,
    free_energy as free_energy,
    mean_field_marginals as mean_field_marginals,
)
from .dense_crf_energy import (
    APPEARANCE as APPEARANCE,
    SMOOTHNESS as SMOOTHNESS,
    Normalization as Normalization,
    PairwiseKernel as PairwiseKernel,
    PairwiseTerm as PairwiseTerm,
    bilateral_features as bilateral_features,
    position_features as position_features,
    unary_from_labels as unary_from_labels,
    unary_from_probabilities as unary_from_probabilities,
)
from .dirichlet import (
    dirichlet_gibbs as dirichlet_gibbs,
    dirichlet_variational as dirichlet_variational,
)
from .energy import GridEnergy as GridEnergy, negative_log as negative_log
from .grabcut import ColorModel as ColorModel, grabcut as grabcut, graph_cut as graph_cut
from .grid_mean_field import grid_mean_field as grid_mean_field
from .icm import iterated_conditional_modes as iterated_conditional_modes
from .images import as_pixels as as_pixels, colors_of as colors_of, with_position as with_position
from .kmeans import (
    Clusters as Clusters,
    kmeans as kmeans,
    kmeans_of_points as kmeans_of_points,
    mini_batch_kmeans as mini_batch_kmeans,
)
from .max_flow import Cut as Cut, max_flow as max_flow
from .mean_field import DenseCrfLayer as DenseCrfLayer, mean_field as mean_field
from .mean_shift import (
    Modes as Modes,
    mean_shift as mean_shift,
    mean_shift_filter as mean_shift_filter,
)
from .merging import merge_regions as merge_regions
from .move_making import (
    alpha_beta_swap as alpha_beta_swap,
    alpha_expansion as alpha_expansion,
    minimum_cut as minimum_cut,
)
from .normalized_cuts import (
    ncut as ncut,
    normalized_cuts as normalized_cuts,
    pixel_affinity as pixel_affinity,
    recursive_cut as recursive_cut,
    region_affinity as region_affinity,
    simultaneous_cut as simultaneous_cut,
)
from .perspective_crf import perspective_crf as perspective_crf, perspective_features as perspective_features
from .sampling import (
    gibbs as gibbs,
    metropolis_hastings as metropolis_hastings,
    simulated_annealing as simulated_annealing,
)
from .segmentation import (
    BoundedSegmentation as BoundedSegmentation,
    Segmentation as Segmentation,
    SoftSegmentation as SoftSegmentation,
)
from .selective_search import selective_search as selective_search
from .solve import SOLVERS as SOLVERS, solve as solve
from .superpixels import (
    felzenszwalb as felzenszwalb,
    otsu as otsu,
    random_walker as random_walker,
    slic as slic,
    watershed as watershed,
)
from .texton_boost import (
    TextonBoost as TextonBoost,
    load_texton_boost as load_texton_boost,
    save_texton_boost as save_texton_boost,
    train_texton_boost as train_texton_boost,
)
from .textons import Textons as Textons, filter_bank as filter_bank
