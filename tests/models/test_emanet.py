"""EMANet: the authors' numbers, expectation maximisation against loops, and bases that processes share."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from pixelwise.models import emanet, emanet_resnet50, emanet_resnet101, emanet_resnet152
from pixelwise.models.emanet import EMAttention, unit


# The count is the authors' for 101 layers; those of the others differ by their blocks.
@pytest.mark.parametrize(
    ("builder", "published"),
    [
        pytest.param(emanet_resnet50, 34_781_397, marks=pytest.mark.slow),
        (emanet_resnet101, 53_773_525),
        pytest.param(emanet_resnet152, 69_417_173, marks=pytest.mark.slow),
    ],
)
def test_parameters_and_dilations_are_those_of_the_authors(builder, published: int) -> None:
    with torch.device("meta"):
        model = builder(21)
    assert sum(p.numel() for p in model.parameters()) == published
    assert sum(p.numel() for p in model.attention.parameters()) == 525_824
    body = model.encoder.body
    assert [block.conv2.dilation[0] for block in body.layer3][:3] == [1, 2, 2]
    assert [block.conv2.dilation[0] for block in body.layer4] == [2, 8, 16]


def maximised(layer: EMAttention, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bases "k c" and the map drawn from them "c h w", one pixel and one base at a time."""
    pixels = list(layer.project(image[None])[0].flatten(1).T)
    bases = list(layer.bases[0].T)
    for _ in range(3):
        assigned = [torch.stack([pixel @ base for base in bases]).softmax(0) for pixel in pixels]
        for k in range(len(bases)):
            total = sum(weights[k] for weights in assigned) + 1e-6
            mean = sum(weights[k] / total * pixel for weights, pixel in zip(assigned, pixels, strict=True))
            bases[k] = mean / (1e-6 + mean.norm())
    drawn = [sum(w * base for w, base in zip(weights, bases, strict=True)) for weights in assigned]
    return torch.stack(bases), torch.stack(drawn, 1).view_as(image)


@pytest.mark.parametrize("size", [(3, 5), (1, 2)])
def test_each_image_is_drawn_from_bases_of_its_own(size: tuple[int, int]) -> None:
    layer, x = EMAttention(4, num_bases=3).double().eval(), torch.randn(2, 4, *size, dtype=torch.float64)
    layer.restore[1].running_mean.normal_()
    with torch.no_grad():
        drawn = torch.stack([maximised(layer, image)[1] for image in x])
        torch.testing.assert_close(layer(x), torch.relu(layer.restore(torch.relu(drawn)) + x))


def test_bases_are_moving_averages_over_training_only() -> None:
    layer, x = EMAttention(4, num_bases=3).double(), torch.randn(2, 4, 3, 5, dtype=torch.float64)
    before = layer.bases.clone()
    layer.eval()(x)
    assert torch.equal(layer.bases, before)
    with torch.no_grad():
        found = torch.stack([maximised(layer, image)[0].T for image in x]).mean(0, keepdim=True)
    layer.train()(x)
    torch.testing.assert_close(layer.bases, 0.9 * before + 0.1 * found)
    assert "attention.bases" in emanet(2, encoder="tiny").state_dict()


def test_no_gradient_flows_through_the_iterations() -> None:
    layer, x = EMAttention(4), torch.randn(1, 4, 3, 5, requires_grad=True)
    assert not any(p.requires_grad for p in layer.project.parameters())
    layer(x).sum().backward()
    assert layer.restore[0].weight.grad.any()
    assert x.grad.unique().tolist() in ([0.0, 1.0], [1.0])  # of the sum behind a ReLU


def test_bases_have_length_one() -> None:
    torch.testing.assert_close(unit(torch.randn(2, 5, 3)).norm(dim=1), torch.ones(2, 3), atol=1e-4, rtol=0)


def _learn_a_share(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", timeout=timedelta(minutes=5), rank=rank, world_size=2
    )
    layer = EMAttention(4, num_bases=3)
    layer.load_state_dict(torch.load(folder / "start.pt", weights_only=True))
    images = torch.load(folder / "images.pt", weights_only=True)
    layer.train()(images[:1] if rank == 0 else images[1:])
    torch.save(layer.bases, folder / f"bases{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_bases_of_two_processes_agree_and_are_those_of_one_with_all_images(tmp_path: Path) -> None:
    """One process has one image and the other two: every image counts the same."""
    layer, images = EMAttention(4, num_bases=3), torch.randn(3, 4, 5, 6)
    torch.save(layer.state_dict(), tmp_path / "start.pt")
    torch.save(images, tmp_path / "images.pt")
    start = layer.bases.clone()
    layer.train()(images)
    multiprocessing.spawn(_learn_a_share, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"bases{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, layer.bases)
    assert not torch.allclose(first, start, atol=1e-3)
