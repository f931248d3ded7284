"""ESPNetv2 with its published weights on real photographs. Needs the optional test data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelwise.weights import describe_weights, load_weights


def scores(
    shared_data: Callable[..., Path], name: str, file: str, picture: str
) -> tuple[dict[str, float], torch.nn.Module]:
    """IoU by class name on one photograph, resized as the authors do."""
    weights = shared_data("weights", "edgenets", file)
    image_path = shared_data("weights", "coral_samples", f"{picture}_segmentation.bmp")
    mask_path = shared_data("weights", "coral_samples", f"{picture}_segmentation_mask.bmp")
    checkpoint = load_weights(name, source=weights, allow_noncommercial=True)
    height, width = describe_weights(name).input_size
    with Image.open(image_path) as opened:
        image = np.array(opened.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    with Image.open(mask_path) as opened:
        target = torch.from_numpy(np.array(opened.resize((width, height), Image.Resampling.NEAREST)))
    with torch.no_grad():
        logits = checkpoint.model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255).logits
    prediction = logits.argmax(1)[0]
    iou = {}
    for label, class_name in enumerate(checkpoint.classes.names):
        both = (prediction == label) & (target == label)
        either = ((prediction == label) | (target == label)) & (target != checkpoint.classes.ignore)
        if either.any():
            iou[class_name] = float(both.sum() / either.sum())
    return iou, checkpoint.model


def test_the_bird_is_found(shared_data: Callable[..., Path]) -> None:
    file = "espnetv2_s_2.0_pascal_384x384.pth"
    iou, model = scores(shared_data, "espnetv2_s_2_0_voc_384x384", file, "bird")
    assert iou["bird"] >= 0.85
    assert model.built_by.builder == "espnetv2_s_2_0"


def test_the_street_is_read(shared_data: Callable[..., Path]) -> None:
    file = "espnetv2_s_2.0_city_1024x512.pth"
    iou, model = scores(shared_data, "espnetv2_s_2_0_cityscapes_1024x512", file, "cityscapes")
    known = {"road": 0.924, "car": 0.866, "vegetation": 0.872}
    for name, expected in known.items():
        assert iou[name] == pytest.approx(expected, abs=0.003), name
    assert model.num_classes == 20


def test_the_smallest_network_loads_too(shared_data: Callable[..., Path]) -> None:
    file = "espnetv2_s_0.5_pascal_384x384.pth"
    iou, model = scores(shared_data, "espnetv2_s_0_5_voc_384x384", file, "bird")
    assert iou["bird"] > 0.4
    assert model.built_by.builder == "espnetv2_s_0_5"


def test_the_bird_is_found_at_the_photographs_own_size(shared_data: Callable[..., Path]) -> None:
    weights = shared_data("weights", "edgenets", "espnetv2_s_2.0_pascal_384x384.pth")
    model = load_weights("espnetv2_s_2_0_voc_384x384", source=weights).model
    folder = shared_data("weights", "coral_samples")
    with Image.open(folder / "bird_segmentation.bmp") as opened:
        image = np.array(opened.convert("RGB"))
    with Image.open(folder / "bird_segmentation_mask.bmp") as opened:
        bird = torch.from_numpy(np.array(opened)) == 3
    assert image.shape[0] % 16 == 1, "the point is a size that is no multiple of the stride"
    with torch.no_grad():
        found = model(torch.from_numpy(image).permute(2, 0, 1)[None] / 255).logits.argmax(1)[0] == 3
    assert found.shape == bird.shape
    assert (found & bird).sum() / (found | bird).sum() > 0.7
