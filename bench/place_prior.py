"""What it would change to weigh a network's probabilities by how common each class is at each place.

The share of each class in each of 32 x 32 cells is counted over the training images, with 0.3 of an image of
every class added. Its logarithm, times a weight, is added to the logarithms of the probabilities that a
trained network gives. Weight 0 is the network as it is. For semantic segmentation of whole images.

    python bench/place_prior.py RUN TRAIN HELD
"""

import argparse
from pathlib import Path

import torch
from auto_loops import all_of
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.data import SegmentationData
from pixelwise.predict.baselines import baseline_scores
from pixelwise.tasks import get_task
from pixelwise.types import LabelMap

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
CELLS, ADDED = 32, 0.3


def log_prior(data: SegmentationData) -> Float[Tensor, "1 k 32 32"]:
    """Logarithm of the share of each class in each cell; pixels that nobody labelled count for no class."""
    shares = torch.full((len(data.classes), CELLS, CELLS), ADDED)
    for index in range(len(data)):
        target = data.target(index)
        assert isinstance(target, LabelMap)
        shares += torch.stack(
            [
                F.adaptive_avg_pool2d((target.labels == label).float()[None], CELLS)[0]
                for label in range(len(data.classes))
            ]
        )
    return (shares / shares.sum(0)).log()[None]


def main() -> None:
    """Print the score of each weight."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("run", "train", "held"):
        arguments.add_argument(name, type=Path)
    given = arguments.parse_args()
    task = get_task("semantic")
    train, held = (all_of(folder, task.name) for folder in (given.train, given.held))
    prior, predictor = log_prior(train), pw.Predictor(given.run)
    metrics = {weight: task.metrics(held.classes, task.scoring) for weight in WEIGHTS}
    for sample in held:
        scores = predictor.probabilities(sample.image[None]).clamp(min=1e-6).log()
        places = F.interpolate(prior, size=scores.shape[2:], mode="bilinear")
        for weight, one in metrics.items():
            one.update([LabelMap((scores + weight * places).argmax(1)[0])], [sample.target], [sample.id])
    for name, score in baseline_scores(train, held, task, task.scoring).items():
        print(f"{name:32} {score:.3f}")
    for weight, one in metrics.items():
        print(f"weight {weight:<25} {one.compute()[task.monitor]:.3f}")


if __name__ == "__main__":
    main()
