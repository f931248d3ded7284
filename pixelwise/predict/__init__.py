"""Using a trained model: images in, label maps and scores out."""

from ..tiling import bands as bands, tile as tile, tiled as tiled, untile as untile
from .automatic import AutomaticMasks as AutomaticMasks, FoundMasks as FoundMasks
from .embedded import EmbeddedImage as EmbeddedImage
from .evaluation import (
    Evaluation as Evaluation,
    ImageScores as ImageScores,
    evaluate as evaluate,
    evaluate_images as evaluate_images,
)
from .many import predict_many as predict_many
from .prediction import Prediction as Prediction
from .predictor import Predictor as Predictor, Refine as Refine
from .streaming import TilePlan as TilePlan
from .track_files import TrackWriter as TrackWriter, score_masks as score_masks
from .tracking import (
    IncompleteVideo as IncompleteVideo,
    load_tracks as load_tracks,
    save_tracks as save_tracks,
    track_video as track_video,
)
from .tta import View as View, averaged as averaged, flipped as flipped, scaled as scaled
from .writing import find_images as find_images, write_predictions as write_predictions
