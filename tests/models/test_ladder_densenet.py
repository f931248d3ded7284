"""Ladder DenseNet: timm's layers in our order, the split, ladder units, and shares of classes in windows."""

import math

import pytest
import torch
from timm.models.densenet import DenseNet
from torch import nn
from torch.nn import functional as F

from pixelwise.losses import make_criterion
from pixelwise.models import LadderUnit, ladder_densenet, ladder_densenet121, ladder_densenet169
from pixelwise.models.ladder_densenet import GridPooling, SplitDenseNet, window_loss
from pixelwise.types import Batch, ClassMasks, ClassTable


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def redrawn(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def test_encoders_have_the_parameters_of_densenet_without_its_last_norm_and_classifier() -> None:
    with torch.device("meta"):
        small, large = ladder_densenet121(19), ladder_densenet169(19)
    # torchvision: 7 978 856 and 14 149 480 with norm5 and a classifier of 1000
    assert count(small.encoder) == 7_978_856 - 1001 * 1000 - 24 * 1000 - 2 * 1024
    assert count(large.encoder) == 14_149_480 - 1001 * 1000 - 664 * 1000 - 2 * 1664


def test_maps_are_those_of_timm_with_one_more_pooling_inside_block_3() -> None:
    torch.manual_seed(0)
    peer = redrawn(DenseNet(growth_rate=4, block_config=(2, 3, 4, 2)))
    ours = SplitDenseNet((2, 3, 4, 2), 4).eval()
    ours.load_state_dict({k: x for k, x in peer.state_dict().items() if k in ours.state_dict()}, strict=False)
    image = torch.rand(1, 3, 257, 290)
    with torch.no_grad():
        f = peer.features
        x = F.max_pool2d(F.relu(f.norm0(f.conv0(ours.normalize(image)))), 2)
        c2 = f.denseblock1(x)
        c3 = f.denseblock2(f.transition1(c2))
        maps = [f.transition2(c3)]
        layers = [layer for name, layer in f.denseblock3.named_children()]
        for layer in layers[:2]:
            maps.append(layer(maps))
        c4 = torch.cat(maps, 1)
        maps = [F.avg_pool2d(c4, 2)]
        for layer in layers[2:]:
            maps.append(layer(maps))
        c5 = torch.cat(maps, 1)
        c6 = f.denseblock4(f.transition3(c5))
        found = ours(image).maps
    assert list(found) == ["c2", "c3", "c4", "c5", "c6"]
    assert [map.shape[1] for map in found.values()] == ours.widths
    for map, expected in zip(found.values(), (c2, c3, c4, c5, c6), strict=True):
        torch.testing.assert_close(map, expected, atol=1e-4, rtol=1e-4)


def test_the_network_reaches_a_64th_and_comes_back_to_a_quarter() -> None:
    from pixelwise.models import LadderDenseNet

    encoder = SplitDenseNet((1, 1, 2, 1), 4)
    model = LadderDenseNet(encoder, encoder.widths, 3, width=4)
    assert model.minimum_size == 64
    image = torch.rand(2, 3, 97, 130)
    output = model.train()(image)
    assert output.coarse.shape == (2, 3, 24, 32)
    assert [tuple(x.shape[2:]) for x in output.pyramid] == [(2, 2), (3, 4), (6, 8), (12, 16)]
    assert output.aux == ()
    output.logits.sum().backward()
    assert encoder.features["conv0"].weight.grad.any()
    assert model.eval()(image).pyramid == ()
    with pytest.raises(ValueError, match="at least 64 x 64"):
        model(image[:, :, :63])


def test_a_unit_adds_what_it_upsamples_twice() -> None:
    torch.manual_seed(1)
    unit = redrawn(LadderUnit(8, 5, 8, narrow=4))
    x, skip = torch.randn(2, 8, 3, 4), torch.randn(2, 5, 7, 8)
    with torch.no_grad():
        up = F.interpolate(x, (7, 8), mode="bilinear", align_corners=False)
        torch.testing.assert_close(unit(x, skip), unit.blend(unit.narrow(unit.skip(skip) + up)) + up)


def test_context_holds_the_mean_of_the_image() -> None:
    torch.manual_seed(2)
    pooling = redrawn(GridPooling(5, 8))
    seen: list[torch.Tensor] = []
    pooling.grids[3].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 5, 6, 7)
    with torch.no_grad():
        assert pooling(x).shape == (2, 8, 6, 7)
        torch.testing.assert_close(seen[0], pooling.reduce(x).mean((2, 3), keepdim=True))


def test_a_cell_learns_the_shares_of_its_window() -> None:
    torch.manual_seed(3)
    labels, scores = torch.randint(0, 3, (1, 8, 12)), torch.randn(1, 3, 2, 3)
    labels[:, :4, :4] = 255
    labels[:, :2, 4:8] = 255
    total, cells = 0.0, 0
    for i in range(2):
        for j in range(3):
            window = labels[0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            window = window[window != 255]
            if len(window):
                cells += 1
                log_p = scores[0, :, i, j].log_softmax(0)
                total -= sum(float((window == k).float().mean() * log_p[k]) for k in range(3))
    assert cells == 5
    assert window_loss(scores, labels).item() == pytest.approx(total / cells, rel=1e-4)
    assert window_loss(scores, torch.full_like(labels, 255)) == 0


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_pyramid_makes_up_two_fifths_of_the_loss(exclusive: bool) -> None:
    model = ladder_densenet(3, encoder="tiny", width=4).train()
    labels = torch.randint(0, 2, (2, 64, 96))
    target = labels if exclusive else ClassMasks(labels[:, None].expand(2, 3, 64, 96).contiguous())
    batch = Batch.of(torch.rand(2, 3, 64, 96), target)
    classes = ClassTable(tuple("abc"), ClassTable.of(*"abc").colors, exclusive=exclusive)
    output = model(batch.image)
    parts = make_criterion("cross_entropy", classes).parts(output, batch)
    assert set(parts) == {"cross_entropy", "pyramid"}
    mean = sum(window_loss(x, batch.labels).item() for x in output.pyramid) / 3
    assert parts["pyramid"].item() == pytest.approx(0.4 / 0.6 * mean, rel=1e-5)
    assert math.isfinite(parts["cross_entropy"].item())
