"""What the location prior of `pixelwise.predict.location_prior` changes, by its weight.

The prior is counted over the images that the run learnt from, and added to the logarithms of the
probabilities that its network gives for whole images: log p(class | place) - log p(class), as the package
does, and log p(class | place) alone. Weight 0 is the network as it is. Mean IoU on HELD, and on the
validation images of the run.

    python bench/place_prior.py RUN TRAIN HELD
"""

import argparse
from pathlib import Path

import torch
from auto_loops import all_of
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.data import SegmentationData, class_counts
from pixelwise.predict.baselines import baseline_scores
from pixelwise.predict.location_prior import location_prior
from pixelwise.recipe import Recipe
from pixelwise.tasks import get_task
from pixelwise.types import LabelMap

WEIGHTS = (0.0, 0.5, 1.0, 1.5)
MOST = 60  # images of each part


def scores(predictor: pw.Predictor, data: SegmentationData, priors: list[torch.Tensor]) -> list[list[float]]:
    """Mean IoU of the predictions with each prior at each weight."""
    task = get_task("semantic")
    metrics = [[task.metrics(data.classes, task.scoring) for _ in WEIGHTS] for _ in priors]
    some = data.take(range(0, len(data), -(-len(data) // MOST)))
    for sample in some.with_channels(predictor.model.in_channels):
        assert sample.target is not None
        known = predictor.probabilities(sample.image[None]).clamp(min=1e-6).log()
        for prior, row in zip(priors, metrics, strict=True):
            there = F.interpolate(prior[None], size=known.shape[2:], mode="bilinear")
            for weight, one in zip(WEIGHTS, row, strict=True):
                labels = (known + weight * there).argmax(1)[0]
                one.update([LabelMap(labels)], [sample.target], [sample.id])
    return [[one.compute()[task.monitor] for one in row] for row in metrics]


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
    recipe = Recipe.read(given.run / "recipe.json")
    parts: dict[bool, list[int]] = {True: [], False: []}
    for index, pair in enumerate(train.pairs):
        if pair.id not in (*recipe.left_out, *recipe.test_images):
            parts[pair.id in recipe.val_images].append(index)
    val, learnt = (train.take(parts[kind]) for kind in (True, False))
    ratio = torch.tensor(location_prior(learnt))
    counts = torch.tensor(class_counts(learnt).pixels).float()
    share = (counts / counts.sum()).clamp(min=1e-6).log()[:, None, None]
    for name, score in baseline_scores(learnt, held, task, task.scoring).items():
        print(f"{name:32} {score:.3f}")
    predictor = pw.Predictor(given.run, plain=True)
    print("weight                          ", *(f"{weight:5}" for weight in WEIGHTS))
    for part, data in (("held", held), ("validation", val)):
        found = scores(predictor, data, [ratio, ratio + share])
        for name, row in zip(("log p(c|place)/p(c)", "log p(c|place)"), found, strict=True):
            print(f"{part:11} {name:20}", *(f"{score:5.3f}" for score in row), flush=True)


if __name__ == "__main__":
    main()
