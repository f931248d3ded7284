"""The optimisation: its gradient, its loss, its regions."""

from itertools import pairwise

import pytest
import torch

from pixelwise.encoders import make_encoder
from pixelwise.style import (
    Objective,
    StyleRegion,
    StyleSettings,
    StyleStep,
    Vgg19,
    gram_matrix,
    load_vgg19,
    make_network,
    regions_of_masks,
    transfer_style,
)

SHALLOW = ("conv1_1", "conv2_1")


def shallow() -> Vgg19:
    return Vgg19(SHALLOW, "conv1_2")


def test_the_gradient_equals_finite_differences() -> None:
    network = Vgg19(("conv1_1",), "conv1_1").double()
    content, style = torch.rand(2, 3, 5, 6, dtype=torch.float64)
    where = torch.zeros(5, 6, dtype=torch.bool)
    where[:, :3] = True
    regions = [StyleRegion(style, where), StyleRegion(style.flip(2), ~where)]
    objective = Objective(network, content, regions, StyleSettings(smoothness=0.5))
    image = torch.rand(3, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(objective, (image,), eps=1e-7, atol=1e-6)
    assert torch.autograd.grad(objective(image), image)[0].abs().max() > 1e-3


def test_the_loss_falls_with_every_step_of_lbfgs_at_every_scale() -> None:
    content, style = torch.rand(3, 16, 24), torch.rand(3, 30, 20) ** 3
    found = transfer_style(content, style, shallow(), StyleSettings(size=24, scales=2, steps=12))
    assert found.image.shape == (3, 16, 24)
    assert len(found.traces) == 2
    for trace in found.traces:
        assert len(trace) == 13
        assert all(after < before for before, after in pairwise(trace))
    assert found.traces[0][-1] < 0.7 * found.traces[0][0]
    assert 0 <= found.image.min()
    assert found.image.max() <= 1


def test_adam_lowers_the_loss_too() -> None:
    content, style = torch.rand(3, 16, 24), torch.rand(3, 30, 20) ** 3
    settings = StyleSettings(size=24, scales=1, steps=20, optimizer="adam")
    (trace,) = transfer_style(content, style, shallow(), settings).traces
    assert trace[-1] < 0.7 * trace[0]


def test_the_style_alone_gives_an_image_of_its_gram_matrices_from_noise() -> None:
    style = torch.rand(3, 16, 16) * torch.tensor([1.0, 0.2, 0.5]).view(3, 1, 1)
    settings = StyleSettings(
        size=16, scales=1, steps=60, content_weight=0, smoothness=0, start="noise", seed=3
    )
    network = shallow()
    found = transfer_style(torch.zeros(3, 16, 16), style, network, settings)
    assert found.traces[0][-1] < 1e-3 * found.traces[0][0]
    got, wanted = (gram_matrix(network(x[None])["conv1_1"][0]) for x in (found.image, style))
    assert (got - wanted).norm() < 0.1 * wanted.norm()
    assert found.image[0].mean() > 1.5 * found.image[1].mean()


def test_the_content_alone_stays_as_it_is() -> None:
    content = torch.rand(3, 16, 16) * 0.8 + 0.1
    settings = StyleSettings(size=16, scales=1, steps=5, style_weight=0, smoothness=0)
    found = transfer_style(content, torch.rand(3, 16, 16), shallow(), settings)
    torch.testing.assert_close(found.image, content, atol=1e-4, rtol=0)


def test_what_no_region_takes_stays_as_it_is_and_the_rest_changes() -> None:
    content, where = torch.rand(3, 16, 24), torch.zeros(16, 24, dtype=torch.bool)
    where[4:12, 4:20] = True
    for optimizer in ("lbfgs", "adam"):
        settings = StyleSettings(size=24, scales=2, steps=5, optimizer=optimizer)
        found = transfer_style(content, [StyleRegion(torch.zeros(3, 8, 8), where)], shallow(), settings)
        torch.testing.assert_close(found.image[:, ~where], content[:, ~where])
        assert (found.image[:, where] - content[:, where]).abs().mean() > 0.02


def test_each_region_takes_its_own_style() -> None:
    labels = torch.zeros(16, 24, dtype=torch.int64)
    labels[:, 12:] = 7
    style = torch.zeros(3, 10, 20)
    style[0, :, :10], style[2, :, 10:] = 1, 1  # red with label 0, blue with label 7
    style_labels = torch.zeros(10, 20, dtype=torch.int64)
    style_labels[:, 10:] = 7
    regions = regions_of_masks(style, labels, style_labels)
    settings = StyleSettings(size=24, scales=1, steps=40, content_weight=0.01)
    image = transfer_style(torch.full((3, 16, 24), 0.5), regions, shallow(), settings).image
    left, right = image[..., :10].mean((1, 2)), image[..., 14:].mean((1, 2))
    assert left[0] > left[2] + 0.5
    assert right[2] > right[0] + 0.5


def test_a_mask_of_the_style_hides_the_rest_of_the_picture() -> None:
    style = torch.rand(3, 16, 16)
    shown = torch.zeros(16, 16, dtype=torch.bool)
    shown[:, :8] = True
    content, settings = torch.rand(3, 16, 16), StyleSettings(size=16)
    network = Vgg19(("conv1_1",), "conv1_1")
    region = StyleRegion(style, None, shown)
    whole = network(style[None])["conv1_1"][0]
    (grams,) = Objective(network, content, [region], settings)._grams
    torch.testing.assert_close(grams["conv1_1"], gram_matrix(whole[..., :8]))


def test_every_step_is_watched() -> None:
    seen: list[StyleStep] = []
    settings = StyleSettings(size=24, scales=2, steps=4)
    found = transfer_style(torch.rand(3, 24, 16), torch.rand(3, 9, 9), shallow(), settings, watch=seen.append)
    assert [step.done for step in seen] == list(range(1, 9))
    assert {step.total for step in seen} == {8}
    assert [step.size for step in seen] == [(12, 8)] * 4 + [(24, 16)] * 4
    assert tuple(step.loss for step in seen[4:]) == found.traces[1][1:]
    assert seen[-1].image.shape == (3, 24, 16)


@pytest.mark.parametrize("form", ["torchvision", "authors"])
def test_published_filters_give_the_maps_of_the_plain_network(form: str) -> None:
    from torch import nn

    widths = (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4)
    layers: list[nn.Module] = []
    c_in = 3
    for width in widths:
        layers += [nn.Conv2d(c_in, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        c_in = width or c_in
    plain = nn.Sequential(*layers)
    weights = {f"features.{key}": value for key, value in plain.state_dict().items()}
    image = torch.rand(1, 3, 8, 8)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    given = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    if form == "authors":
        numbers = [key.split(".")[1] for key in weights if key.endswith("weight")]
        names = [f"conv{i}_{j}" for i, n in enumerate((2, 2, 4, 4, 4), 1) for j in range(1, n + 1)]
        weights = {
            f"{name}.{part}": weights[f"features.{number}.{part}"]
            for number, name in zip(numbers, names, strict=True)
            for part in ("weight", "bias")
        }
        means = torch.tensor((0.40760392, 0.45795686, 0.48501961)).view(3, 1, 1)
        given = (image.flip(1) - means) * 255
    network = shallow()
    load_vgg19(network, weights, "a file")
    maps = network(image)
    with torch.no_grad():
        torch.testing.assert_close(maps["conv1_2"], plain[:4](given), rtol=1e-4, atol=1e-4)
        deeper = plain[5:7](nn.functional.avg_pool2d(plain[:4](given), 2))
    torch.testing.assert_close(maps["conv2_1"], deeper, rtol=1e-4, atol=1e-4)


def test_any_encoder_will_do() -> None:
    network = make_network(make_encoder("tiny"))
    content = torch.rand(3, 33, 47)
    (trace,) = transfer_style(
        content, torch.rand(3, 40, 40), network, StyleSettings(size=47, scales=1, steps=3)
    ).traces
    assert trace[-1] < trace[0]


def test_random_filters_are_told_and_depend_on_the_seed() -> None:
    image = torch.rand(1, 3, 32, 32)
    networks = [make_network("tiny", "random", seed=seed) for seed in (0, 0, 1)]
    assert networks[0].filters == "random filters"
    a, b, c = (network(image)["c1"] for network in networks)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_without_network_published_filters_give_way_to_random_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelwise.encoders import WeightsUnavailable
    from pixelwise.style import networks

    def fail(name: str) -> None:
        raise WeightsUnavailable("the pretrained weights cannot be had: no connection")

    monkeypatch.setattr(networks, "fetch", fail)
    monkeypatch.setattr(networks, "Vgg19", lambda seed: shallow())
    assert make_network("vgg19").filters == "random filters"
    with pytest.raises(ValueError, match="no connection"):
        make_network("vgg19", "imagenet")


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0}, {"steps": 0}, {"scales": -1}, {"style_weight": -1.0}, {"smoothness": float("nan")},
        {"optimizer": "sgd"}, {"start": "zero"}, {"content_weight": 0, "style_weight": 0, "smoothness": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StyleSettings(**wrong)


def test_images_and_masks_that_do_not_fit_are_refused() -> None:
    network, image = shallow(), torch.rand(3, 16, 16)
    with pytest.raises(ValueError, match="too small"):
        transfer_style(image, image, network, StyleSettings(size=1))
    with pytest.raises(ValueError, match="marks no pixel"):
        StyleRegion(image, torch.zeros(16, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match="size"):
        transfer_style(image, [StyleRegion(image, torch.ones(4, 4, dtype=torch.bool))], network)
    with pytest.raises(ValueError, match="in common"):
        regions_of_masks(image, torch.zeros(4, 4).long(), torch.ones(4, 4).long())
    with pytest.raises(ValueError, match="3 H W"):
        transfer_style(image[:1], image, network)
    with pytest.raises(ValueError, match="conv9_1"):
        Vgg19(("conv9_1",))
    with pytest.raises(ValueError, match="not those of VGG-19"):
        load_vgg19(network, {"features.0.weight": torch.zeros(64, 3, 3, 3)}, "a file")
