"""Each model can learn one tiny batch by heart: its output, the criterion and the gradients fit together."""

import pytest
import torch

import pixelwise as pw
from pixelwise.decode import semantic
from pixelwise.training import Optimization

MODELS = [
    ("unet", {"encoder": "tiny"}),
    ("unet", {"width": 8}),
    ("unet_bilinear", {"width": 8}),
    ("linknet", {"encoder": "tiny"}),
    ("fpn", {"encoder": "tiny"}),
    ("pspnet", {"encoder": "tiny"}),
    ("deeplabv3", {"encoder": "tiny"}),
    ("deeplabv3plus", {"encoder": "tiny"}),
    ("fcn", {"encoder": "tiny"}),
    ("espnetv2_s_0_5", {}),
    pytest.param("segnet_basic", {}, marks=pytest.mark.slow),
]


def batch() -> pw.Batch:
    """Two images of 64 x 64 with three colours in boxes, and a border that is ignored."""
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[0, 8:40, 8:40], labels[0, 32:64, 40:64] = 1, 2
    labels[1, 24:56, 16:64], labels[1, 0:24, 0:24] = 1, 2
    colors = torch.tensor([[0.2, 0.3, 0.4], [0.8, 0.3, 0.2], [0.3, 0.8, 0.6]])
    image = colors[labels].permute(0, 3, 1, 2) + 0.05 * torch.randn(2, 3, 64, 64)
    labels[:, :2] = 255
    return pw.Batch.of(image.clamp(0, 1).contiguous(), labels)


@pytest.mark.parametrize("name, arguments", MODELS)
def test_a_model_overfits_one_batch(name: str, arguments: dict[str, object]) -> None:
    start, end, right = learn(name, arguments, "cross_entropy")
    assert end < 0.4 * start
    assert right > 0.75  # the most frequent class covers half of the pixels


@pytest.mark.parametrize("loss", ["dice", "focal", "cross_entropy+dice"])
def test_every_loss_can_be_learned_from(loss: str) -> None:
    start, end, right = learn("unet", {"encoder": "tiny"}, loss)
    assert end < 0.6 * start
    assert right > 0.9


def learn(name: str, arguments: dict[str, object], loss: str) -> tuple[float, float, float]:
    """First and last loss of a short training, and the share of pixels that are right after it."""
    data, classes = batch(), pw.ClassTable.of("wall", "box", "door")
    model = pw.build(name, 3, **arguments)
    criterion = pw.make_criterion(loss, classes)
    steps = 60
    optimizer, schedule = Optimization(steps, "adamw", lr=0.02, weight_decay=0.0).make(model)
    model.train()
    losses = []
    for _ in range(steps):
        output = model(data.image)
        value = criterion(output, data)
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    right = (semantic(output).labels == data.labels)[data.labels != 255].float().mean()
    return losses[0], losses[-1], float(right)
