"""What must be the same on a GPU as on the CPU. Skipped, with the reason, where there is none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pixelwise as pw
from pixelwise import decode, losses
from pixelwise.algorithms.dense_crf import DenseCrf
from pixelwise.algorithms.mean_field import DenseCrfLayer
from pixelwise.losses import Criterion, CrossEntropy, Dice, Focal
from pixelwise.metrics import SegmentationMetrics, confusion_matrix
from pixelwise.training import Recipe, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

MODELS = {
    "unet": {"width": 8},
    "fcn8s_vgg16": {},
    "segnet_basic": {},
    "pspnet": {"encoder": "resnet18"},
    "deeplabv3plus": {"encoder": "resnet18"},
    "fpn": {"encoder": "resnet18"},
    "linknet": {"encoder": "resnet18"},
    "espnetv2_s_0_5": {},
}


@pytest.fixture(autouse=True)
def full_precision() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Bright boxes on noise, in train and val."""
    root = tmp_path / "boxes"
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((64, 80), np.uint8)
            y, x = random.integers(2, 30, 2)
            mask[y : y + 26, x : x + 30] = 1
            image = mask[..., None] * 130 + random.integers(0, 100, (64, 80, 3))
            Image.fromarray(image.astype(np.uint8)).save(root / part / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{i}.png")
    (root / "classes.csv").write_text("name,r,g,b\nbackground,0,0,0\nbox,200,80,20\n")
    return root


def recipe(boxes: Path, out: Path, **changes: object) -> Recipe:
    settings = {"model": "unet", "model_arguments": {"width": 8}, "crop": (64, 64), "batch_size": 4}
    settings |= {"epochs": 15, "lr": 0.01, "workers": 0, "accelerator": "gpu", "out": str(out)}
    return Recipe(str(boxes)).changed(**{**settings, **changes})


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_the_same_logits(name: str) -> None:
    model = pw.build(name, 5, **MODELS[name]).eval()
    image = torch.rand(2, 3, 96, 131)
    with torch.no_grad():
        here = model(image).logits
        there = model.cuda()(image.cuda()).logits.cpu()
    assert torch.allclose(here, there, atol=1e-3 * here.abs().max().item())


@pytest.mark.parametrize("name", ["unet", "pspnet"])
def test_a_compiled_model_gives_the_same_logits(name: str) -> None:
    model = pw.build(name, 5, **MODELS[name]).eval().cuda()
    image = torch.rand(1, 3, 65, 97, device="cuda")
    with torch.no_grad():
        plain = model(image).logits
        compiled = torch.compile(model, fullgraph=True)(image).logits
    assert torch.allclose(plain, compiled, atol=1e-3 * plain.abs().max().item())


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_training_learns_in_every_precision(boxes: Path, tmp_path: Path, precision: str) -> None:
    result = run(recipe(boxes, tmp_path / "run", precision=precision), progress=False, report=False)
    assert result.scores.mean_iou > 0.8
    here = pw.Predictor(tmp_path / "run", device="cpu")
    there = pw.Predictor(tmp_path / "run", device="cuda")
    image = boxes / "val" / "images" / "0.png"
    same = here(image).label_map.labels == there(image).label_map.labels.cpu()
    assert same.float().mean() > 0.999


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_training_goes_on(boxes: Path, tmp_path: Path, workers: int) -> None:
    short = recipe(boxes, tmp_path / "run", epochs=4, workers=workers)
    whole = run(short, progress=False, report=False)
    assert [row["epoch"] for row in whole.history] == [1, 2, 3, 4]
    assert whole.scores.mean_iou > 0.5


def test_tiles_flips_and_scales_run_on_the_gpu(boxes: Path, tmp_path: Path) -> None:
    run(recipe(boxes, tmp_path / "run", epochs=2), progress=False, report=False)
    image = torch.rand(3, 200, 260)
    for settings in ({"tile": (64, 64), "overlap": 16}, {"flip": True}, {"scales": (0.5, 1.0)}):
        here = pw.Predictor(tmp_path / "run", device="cpu", **settings)(image).label_map.labels
        there = pw.Predictor(tmp_path / "run", device="cuda", **settings)(image).label_map.labels.cpu()
        assert (here == there).float().mean() > 0.995, settings


LOSSES = [
    CrossEntropy(label_smoothing=0.1),
    CrossEntropy(weight=[1.0] * 5),
    Dice(),
    Focal(),
    losses.Boundary(),
    losses.BorderCrossEntropy(),
    losses.ClDice(),
    losses.GeneralisedDice(),
    losses.Hausdorff(),
    losses.Jaccard(),
    losses.Lovasz(),
    losses.Ohem(min_kept=100),
    losses.RMI(pool=1),
    losses.Tversky(),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_loss_and_its_gradient_are_the_same(loss: torch.nn.Module, dtype: torch.dtype) -> None:
    logits, labels = torch.randn(2, 5, 33, 47).to(dtype), torch.randint(0, 5, (2, 33, 47))
    labels[:, :4] = 255

    def value_and_gradient(device: str) -> tuple[Tensor, Tensor]:
        x = logits.to(device).requires_grad_()
        value = loss.to(device)(x, labels.to(device))
        value.backward()
        return value.detach().cpu(), x.grad.cpu()

    (a, b), (c, d) = value_and_gradient("cpu"), value_and_gradient("cuda")
    assert torch.allclose(a, c, rtol=1e-4)
    assert torch.allclose(b, d, rtol=1e-2, atol=1e-3 * b.abs().max().item())


def test_counts_are_exactly_the_same() -> None:
    prediction, target = torch.randint(0, 7, (4, 100, 120)), torch.randint(0, 7, (4, 100, 120))
    target[:, :9] = 255
    expected = confusion_matrix(prediction, target, 7)
    assert torch.equal(confusion_matrix(prediction.cuda(), target.cuda(), 7).cpu(), expected)
    metrics = SegmentationMetrics(pw.ClassTable.of(*"abcdefg")).cuda()
    metrics.update(prediction.cuda(), target.cuda())
    assert torch.equal(metrics.compute().matrix.cpu(), expected)
    with pytest.raises(ValueError, match="prediction holds the label 7"):
        confusion_matrix(torch.full((3,), 7).cuda(), torch.zeros(3).long().cuda(), 7)


def test_decoding_gives_the_same_labels() -> None:
    output = pw.DenseLogits(torch.randn(2, 6, 23, 31), (92, 124))
    here, there = decode.semantic(output).labels, decode.semantic(output.to("cuda")).labels.cpu()
    assert (here == there).float().mean() > 0.9999


def test_a_criterion_moves_with_its_weights() -> None:
    criterion: Callable[..., Tensor] = Criterion(CrossEntropy(weight=[1.0, 2.0])).cuda()
    batch = pw.Batch.of(torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long)).to("cuda")
    output = pw.DenseLogits(torch.zeros(1, 2, 4, 4), (8, 8)).to("cuda")
    assert criterion(output, batch).item() == pytest.approx(0.6931, abs=1e-3)


def test_the_layer_of_the_dense_crf_gives_the_same_scores_and_gradients() -> None:
    scores, image = torch.randn(1, 4, 30, 40), torch.rand(1, 3, 30, 40)

    def refined(device: str) -> tuple[Tensor, Tensor]:
        x = scores.to(device).requires_grad_()
        found = DenseCrfLayer(4).to(device)(x, image.to(device))
        found.square().sum().backward()
        return found.detach().cpu(), x.grad.cpu()

    for here, there in zip(refined("cpu"), refined("cuda"), strict=True):
        assert torch.allclose(here, there, atol=1e-3 * here.abs().max().item())


def test_refinement_after_a_network_on_the_gpu_gives_the_same_labels() -> None:
    probabilities, image = torch.rand(1, 3, 30, 40).softmax(1), torch.rand(1, 3, 30, 40)
    here = DenseCrf()(probabilities, image).argmax(1)
    there = DenseCrf()(probabilities.cuda(), image.cuda())
    assert there.device.type == "cuda"
    assert (there.argmax(1).cpu() == here).all()
