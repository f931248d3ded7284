"""What a random field changes: networks with a field on CamVid, with it and without it.

Data and training are those of `camvid_equal_time.py`: a quarter of CamVid's pixels, random weights,
ResNet-18 in place of VGG16, processor time on one thread. Scored are mean IoU and pixel accuracy, and the
accuracy within 4 pixels of boundaries between classes ("trimap"), on the validation part.

deeplabv1: one network, its probabilities as they are, and after a dense CRF with the authors' settings.
crf_rnn: the network alone, the layer as it begins behind it, and both trained on together for half the time
    again; and the network alone trained on for as long.
deep_parsing_network: likewise, with a sixteenth of the channels in the fully connected layers; before its
    contexts are trained the layers do nothing worth a row.
piecewise_crf: one training of all potentials; unary scores alone, and after mean field.

    python bench/random_fields.py --data ../shared/data/camvid --minutes 4
"""

import argparse
import copy
import datetime
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from camvid_equal_time import CLASSES, fit, samples
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.algorithms.dense_crf import PUBLISHED_KERNELS, DenseCrf
from pixelwise.metrics import BandMetrics, SegmentationMetrics
from pixelwise.training.environment import cpu_name
from pixelwise.types import DenseLogits, DenseModel, Sample

RADIUS, LR, SEED = 4, 1e-3, 0
ON = {"encoder": "resnet18", "pretrained": False}
Scores = Callable[[torch.Tensor], torch.Tensor]  # of an image "1 c H W", scores or probabilities "1 k H W"


def row(name: str, form: str, scores: Scores, pictures: list[Sample]) -> None:
    """Score and print."""
    metrics = SegmentationMetrics(CLASSES), BandMetrics(CLASSES, RADIUS)
    with torch.inference_mode():
        for picture in pictures:
            labels = scores(picture.image[None]).argmax(1)
            for metric in metrics:
                metric.update(labels, picture.target.labels[None])
    whole, band = (metric.compute() for metric in metrics)
    scores_of = f"{whole.mean_iou:8.3f} {whole.pixel_accuracy:9.3f} {band.pixel_accuracy:7.3f}"
    print(f"{name:20}  {form:38} {scores_of}", flush=True)


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--data", type=Path, default=Path("../shared/data/camvid"))
    arguments.add_argument("--minutes", type=float, default=4.0)
    systems = ("deeplabv1", "crf_rnn", "deep_parsing_network", "piecewise_crf")
    arguments.add_argument("--systems", nargs="+", choices=systems, default=systems)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    train, val = samples(given.data, "train"), samples(given.data, "val")
    seconds = 60 * given.minutes
    criterion = pw.make_criterion("cross_entropy", CLASSES)
    machine = f"{cpu_name()}, 1 thread, torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{datetime.date.today()}, {machine}; {given.minutes:g} minutes each, then half of it again")
    print("system                form                                   mean IoU  accuracy  trimap")

    def learn(model: DenseModel, scores: Scores, seconds: float, lr: float = LR) -> None:
        def loss(batch: pw.types.Batch) -> torch.Tensor:
            found = scores(batch.image)
            size = (batch.image.shape[-2], batch.image.shape[-1])
            output = found if isinstance(found, DenseLogits) else DenseLogits(found, size)
            return criterion(output, batch)

        fit(model, loss, train, seconds, lr, SEED)
        model.eval()

    def full(coarse: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return F.interpolate(coarse, size=image.shape[-2:], mode="bilinear")

    torch.manual_seed(SEED)
    if "deeplabv1" in given.systems:
        network = pw.build("deeplabv1_largefov", len(CLASSES), **ON)
        learn(network, network, seconds)
        row("deeplabv1", "without", lambda image: network(image).logits, val)
        for settings in ("deeplabv1_voc", "deeplabv2_voc"):
            crf = DenseCrf(kernels=PUBLISHED_KERNELS[settings])
            row(
                "deeplabv1",
                f"dense CRF, {settings}",
                lambda image, crf=crf: crf(network(image).logits.softmax(1), image),
                val,
            )
    if "crf_rnn" in given.systems:
        model = pw.build("crf_rnn", len(CLASSES), **ON)
        learn(model.unary, model.unary, seconds)
        row("crf_rnn", "without, trained", lambda image: model.unary(image).logits, val)
        row("crf_rnn", "with, as it begins", lambda image: model.eval()(image).logits, val)
        alone = copy.deepcopy(model.unary)
        learn(alone, alone, seconds / 2, LR / 3)
        row("crf_rnn", "without, trained on", lambda image: alone(image).logits, val)
        learn(model, model, seconds / 2, LR / 3)
        row("crf_rnn", "with, both trained on together", lambda image: model(image).logits, val)
    if "deep_parsing_network" in given.systems:
        model = pw.build("deep_parsing_network", len(CLASSES), **ON, width=4)

        def unary(one: DenseModel) -> Scores:
            return lambda image: full(one.head(one.encoder(image).c5), image)

        learn(model, unary(model), seconds)
        row("deep_parsing_network", "without, trained", unary(model), val)
        alone = copy.deepcopy(model)
        learn(alone, unary(alone), seconds / 2, LR / 3)
        row("deep_parsing_network", "without, trained on", unary(alone), val)
        learn(model, model, seconds / 2, LR / 3)
        row("deep_parsing_network", "with, both trained on together", lambda image: model(image).logits, val)
    if "piecewise_crf" in given.systems:
        model = pw.build("piecewise_crf", len(CLASSES), **ON, width=64)
        learn(model, model, seconds)

        def potentials(image: torch.Tensor) -> torch.Tensor:
            return full(model.unary(model.features(image)), image)

        row("piecewise_crf", "unary potentials alone", potentials, val)
        row("piecewise_crf", "after mean field", lambda image: model(image).logits, val)


if __name__ == "__main__":
    main()
