"""PANet: the path up the pyramid, the look at all levels, the fully connected branch."""

import torch
from torchvision.ops import roi_align

from pixelwise import build
from pixelwise.models.panet import AdaptivePooling, FusedMaskHead, LargestOfLevels, PathAggregation
from pixelwise.types import AssignedBoxes

TINY = {"encoder": "tiny", "width": 16, "min_size": None}


def test_parameters_are_those_of_mask_rcnn_and_of_the_three_changes() -> None:
    with torch.device("meta"):
        plain, ours = build("mask_rcnn_resnet50_fpn", 80), build("panet_resnet50", 80)
    convolution = 256 * 256 * 9 + 256
    layer = convolution + 2 * 256  # with its group norm
    path = 6 * layer
    # Two hidden layers become four first convolutions, three shared ones and one hidden layer.
    boxes = 7 * layer - (1024 * 1024 + 1024)
    half = 256 * 128 * 9 + 128 + 2 * 128
    masks = (4 + 3) * layer - 4 * convolution + layer + half + (128 * 196 + 1) * 784
    wanted = sum(p.numel() for p in plain.parameters()) + path + boxes + masks
    assert sum(p.numel() for p in ours.parameters()) == wanted


def test_what_the_finest_map_shows_reaches_every_level() -> None:
    torch.manual_seed(0)
    path = PathAggregation((8, 8, 8, 8), 16)
    maps = [torch.rand(1, 8, 32 >> i, 48 >> i) for i in range(4)]
    before = path(maps)
    assert [level.shape[-2:] for level in before] == [map.shape[-2:] for map in maps]
    changed = [maps[0] + torch.rand_like(maps[0]), *maps[1:]]
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(before, path(changed), strict=True))
    plain, other = super(PathAggregation, path).forward(maps), super(PathAggregation, path).forward(changed)
    assert all(torch.equal(a, b) for a, b in zip(plain[1:], other[1:], strict=True))


def test_a_region_is_pooled_from_every_level_whatever_its_size() -> None:
    levels = [torch.rand(2, 4, 64 >> i, 64 >> i) for i in range(4)]
    boxes = torch.tensor([[10.0, 20.0, 30.0, 44.0], [0.0, 0.0, 250.0, 250.0]])
    regions = AssignedBoxes(boxes, torch.tensor([1, 0]), torch.tensor([-1, -1]))
    pooled = AdaptivePooling(7)(levels, regions)
    rois = torch.cat([torch.tensor([[1.0], [0.0]]), boxes], 1)
    for number, level in enumerate(levels):
        assert torch.equal(pooled[number], roi_align(level, rois, 7, 1 / (4 << number), 2))


def test_of_the_levels_the_largest_value_goes_on() -> None:
    torch.manual_seed(0)
    layer = LargestOfLevels(8, 3)
    x = torch.randn(3, 2, 8, 5, 5)
    each = [own(one) for own, one in zip(layer.layers, x, strict=True)]
    assert torch.equal(layer(x), torch.maximum(torch.maximum(each[0], each[1]), each[2]))
    assert sum(float((layer(x) == one).float().mean()) > 0.2 for one in each) == 3


def test_the_fully_connected_branch_adds_one_mask_to_those_of_all_classes() -> None:
    torch.manual_seed(0)
    head = FusedMaskHead(16, 3)
    x = torch.rand(4, 2, 16, 14, 14)
    whole = head(x)
    last = head.connected[-1]
    with torch.no_grad():
        alone = last.weight.clone(), last.bias.clone()
        last.weight.zero_()
        last.bias.zero_()
    added = whole - head(x)
    assert added.shape == (2, 4, 28, 28)
    assert alone[0].any()
    torch.testing.assert_close(added, added[:, :1].expand_as(added))
    assert added.std() > 1e-3


def test_the_model_keeps_its_size_without_detections() -> None:
    model = build("panet", 3, **TINY).eval()
    model.detector.head.score_threshold = 1.0
    with torch.no_grad():
        assert model(torch.rand(2, 3, 65, 97)).mask_logits.shape == (0, 4, 28, 28)
