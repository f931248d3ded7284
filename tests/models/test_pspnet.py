"""PSPNet: the authors' numbers, and their weights in their layout."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.models import PyramidPooling, from_semseg, pspnet, pspnet_resnet50, pspnet_resnet101


@pytest.mark.parametrize(
    ("builder", "num_classes", "aux", "published"),
    [
        (pspnet_resnet50, 150, False, 46_782_550),
        (pspnet_resnet50, 150, True, 49_180_908),
        (pspnet_resnet101, 19, False, 65_707_475),
        (pspnet_resnet101, 21, True, 68_073_706),
    ],
)
def test_parameters_are_as_many_as_the_authors_have(
    builder, num_classes: int, aux: bool, published: int
) -> None:
    with torch.device("meta"):
        model = builder(num_classes, aux=aux)
    assert sum(p.numel() for p in model.parameters()) == published


@pytest.mark.parametrize("size", [(8, 12), (4, 4), (2, 3), (1, 1)])
def test_pooling_works_on_maps_smaller_than_its_grid_with_one_image(size: tuple[int, int]) -> None:
    context = PyramidPooling(16).train()
    x = torch.rand(1, 16, *size)
    y = context(x)
    assert y.shape == (1, 32, *size)
    assert torch.equal(y[:, :16], x)
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in context.parameters())


def test_each_summary_is_the_mean_of_its_cell() -> None:
    context = PyramidPooling(4, bins=(2,))
    with torch.no_grad():
        context.pools[0][1][0].weight.copy_(torch.eye(4)[:, :, None, None])
        x = torch.rand(1, 4, 6, 8)
        summary = context.eval()(x)[:, 4:]
    # aligned corners: the four corners of the resized summary are its four cells
    assert summary[0, 1, 0, 0].item() == pytest.approx(x[0, 1, :3, :4].mean().item(), rel=1e-4)
    assert summary[0, 1, -1, -1].item() == pytest.approx(x[0, 1, 3:, 4:].mean().item(), rel=1e-4)


def test_the_second_loss_is_there_while_training_only() -> None:
    model = pspnet(3, encoder="tiny")
    image = torch.rand(2, 3, 64, 96)
    assert [map.shape for map in model.train()(image).aux_logits] == [(2, 3, 64, 96)]
    assert model.eval()(image).aux == ()
    assert pspnet(3, encoder="tiny", aux=False).train()(image).aux == ()


# --- the authors' weights ---------------------------------------------------------------------------

BLOCKS = {
    1: (3, 64, 1, 1),
    2: (4, 128, 2, 1),
    3: (6, 256, 1, 2),
    4: (3, 512, 1, 4),
}  # count, width, stride, dilation


def semseg_weights(num_classes: int) -> dict[str, Tensor]:
    """Random weights under the keys of semseg's PSPNet on ResNet-50."""
    weights: dict[str, Tensor] = {}

    def conv(key: str, c_in: int, c_out: int, kernel: int) -> None:
        weights[f"{key}.weight"] = torch.randn(c_out, c_in, kernel, kernel) * (2 / (c_in * kernel**2)) ** 0.5

    def norm(key: str, c: int, scale: float = 1.0) -> None:
        weights[f"{key}.weight"] = scale * (torch.rand(c) + 0.5)
        weights[f"{key}.bias"] = torch.randn(c) / 10
        weights[f"{key}.running_mean"] = torch.randn(c) / 10
        weights[f"{key}.running_var"] = torch.rand(c) + 0.5
        weights[f"{key}.num_batches_tracked"] = torch.tensor(7)

    for position, (a, b) in zip((0, 3, 6), ((3, 64), (64, 64), (64, 128)), strict=True):
        conv(f"layer0.{position}", a, b, 3)
        norm(f"layer0.{position + 1}", b)
    c_in = 128
    for layer, (num_blocks, width, _, _) in BLOCKS.items():
        for i in range(num_blocks):
            key = f"layer{layer}.{i}"
            for n, (a, b, kernel) in enumerate(
                ((c_in, width, 1), (width, width, 3), (width, 4 * width, 1)), start=1
            ):
                conv(f"{key}.conv{n}", a, b, kernel)
                norm(f"{key}.bn{n}", b, 0.3 if n == 3 else 1.0)
            if i == 0:
                conv(f"{key}.downsample.0", c_in, 4 * width, 1)
                norm(f"{key}.downsample.1", 4 * width)
            c_in = 4 * width
    for i in range(4):
        conv(f"ppm.features.{i}.1", 2048, 512, 1)
        norm(f"ppm.features.{i}.2", 512)
    for head, a, b in (("cls", 4096, 512), ("aux", 1024, 256)):
        conv(f"{head}.0", a, b, 3)
        norm(f"{head}.1", b)
        conv(f"{head}.4", b, num_classes, 1)
        weights[f"{head}.4.bias"] = torch.randn(num_classes)
    return weights


def semseg_forward(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The forward of semseg's PSPNet on a normalised image, up to its logits at image size."""

    def norm(key: str, x: Tensor) -> Tensor:
        parts = (weights[f"{key}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    def conv(key: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, weights[f"{key}.weight"], weights.get(f"{key}.bias"), **options)

    size = x.shape[-2:]
    for position in (0, 3, 6):
        stride = 2 if position == 0 else 1
        x = F.relu(norm(f"layer0.{position + 1}", conv(f"layer0.{position}", x, stride=stride, padding=1)))
    x = F.max_pool2d(x, 3, 2, 1)
    for layer, (num_blocks, _, stride, dilation) in BLOCKS.items():
        for i in range(num_blocks):
            key, s = f"layer{layer}.{i}", stride if i == 0 else 1
            y = F.relu(norm(f"{key}.bn1", conv(f"{key}.conv1", x)))
            y = conv(f"{key}.conv2", y, stride=s, padding=dilation, dilation=dilation)
            y = norm(f"{key}.bn3", conv(f"{key}.conv3", F.relu(norm(f"{key}.bn2", y))))
            if i == 0:
                x = norm(f"{key}.downsample.1", conv(f"{key}.downsample.0", x, stride=s))
            x = F.relu(x + y)
    maps = [x]
    for i, bin in enumerate((1, 2, 3, 6)):
        y = conv(f"ppm.features.{i}.1", F.adaptive_avg_pool2d(x, bin))
        y = F.relu(norm(f"ppm.features.{i}.2", y))
        maps.append(F.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=True))
    y = F.relu(norm("cls.1", conv("cls.0", torch.cat(maps, 1), padding=1)))
    return F.interpolate(conv("cls.4", y), size, mode="bilinear", align_corners=True)


def test_the_authors_weights_give_the_authors_scores() -> None:
    weights, image = semseg_weights(4), torch.rand(1, 3, 65, 97)
    model = from_semseg({"module." + key: tensor for key, tensor in weights.items()})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = semseg_forward(weights, (image - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        torch.testing.assert_close(model(image).logits, expected, atol=1e-4, rtol=1e-4)
    assert model.built_by.arguments == {"num_classes": 4, "in_channels": 3, "aux": True}


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="not that of a PSPNet from semseg"):
        from_semseg(nn.Linear(2, 2).state_dict())
