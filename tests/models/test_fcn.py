"""FCN: published sizes, Caffe's cropping, classifiers turned convolutional, weights from elsewhere."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise import build
from pixelwise.layers import fit
from pixelwise.models.fcn import (
    FIXED,
    FCN8s,
    bilinear_transposed,
    convolutionize,
    fcn8s_vgg16,
    fcn16s_vgg16,
    fcn32s_vgg16,
    from_caffe_fcn,
    load_vgg16,
)
from pixelwise.models.vgg import CONVOLUTIONS, VGG16, caffe_names
from pixelwise.ops import measured_receptive_field

VARIANTS = ("fcn32s_vgg16", "fcn16s_vgg16", "fcn8s_vgg16")


@pytest.fixture(scope="module")
def fcn8s() -> FCN8s:
    torch.manual_seed(0)
    return fcn8s_vgg16(3)


def classifier(prefix: str = "classifier", *, axes: int = 2) -> dict[str, Tensor]:
    """A VGG16 as state dict; single numbers stand for its big tensors, expanded without memory."""
    weights: dict[str, Tensor] = {}
    c, i = 3, 0
    for widths in VGG16:
        for width in widths:
            weights[f"features.{i}.weight"] = torch.rand(1, 1, 1, 1).expand(width, c, 3, 3)
            weights[f"features.{i}.bias"] = torch.rand(width)
            c, i = width, i + 2
        i += 1
    names = ("classifier.0", "classifier.3", "classifier.6")
    if axes == 4:
        names = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
    for name, c_out, c_in, kernel in zip(names, (4096, 4096, 10), (512, 4096, 4096), (7, 1, 1), strict=True):
        weight = torch.rand(1, 1, 1, 1).expand(c_out, c_in, kernel, kernel)
        weights[f"{name}.weight"] = weight if axes == 4 else weight.reshape(c_out, -1)
        weights[f"{name}.bias"] = torch.rand(c_out)
    return weights


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, parameters",
    [("fcn32s_vgg16", 136_152_917), ("fcn16s_vgg16", 134_815_994), ("fcn8s_vgg16", 134_489_759)],
)
def test_parameters_are_those_of_the_authors_files(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build(name, 21)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", VARIANTS)
def test_every_image_size_is_scored_from_a_single_pixel_on(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 2).eval()
        sizes = [(1, 1), (2, 33), *((n, n + 1) for n in range(31, 100, 2)), (500, 375), (64, 96), (65, 97)]
        for size in sizes:
            assert model(torch.empty(1, 3, *size)).coarse.shape == (1, 2, *size)


def test_layers_have_the_names_of_caffe() -> None:
    with torch.device("meta"):
        names = {name for name, _ in fcn8s_vgg16(2).named_children()}
    upper = {"score_fr", "upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8"}
    assert names == {*CONVOLUTIONS, "fc6", "fc7", "normalize", "dropout", *upper}


def test_fixed_training_leaves_scores_and_upsampling() -> None:
    with torch.device("meta"):
        for name in VARIANTS:
            left = {key for key, _ in build(name, 2).named_parameters() if not key.startswith(FIXED)}
            assert all("score" in key for key in left)
            assert {"score_fr.weight", "score_fr.bias"} < left


def test_scores_begin_at_zero_and_upsampling_keeps_classes_apart(fcn8s: FCN8s) -> None:
    with torch.no_grad():
        assert not fcn8s.eval()(torch.rand(1, 3, 20, 30)).logits.any()
        one_class = torch.zeros(1, 3, 5, 5)
        one_class[:, 1] = 2.0
        larger = fcn8s.upscore8(one_class)
    assert not larger[:, [0, 2]].any()
    torch.testing.assert_close(larger[:, 1, 8:-8, 8:-8], torch.full((1, 32, 32), 2.0))


def test_crops_put_every_score_where_its_window_is() -> None:
    # Maps that hold the position, in pixels of the image, of the middle of each window. With a border of 100,
    # index j of conv1_1 is the pixel j - 99; pooling n times puts index i at 2^n (i + 1/2) - 1/2.
    def ramp(step: int, start: float) -> Tensor:
        return (torch.arange(24.0) * step + start)[None, None, None, :] * torch.ones(1, 1, 24, 1)

    pool3, pool4 = ramp(8, 3.5 - 99), ramp(16, 7.5 - 99)
    fc6 = ramp(32, 15.5 + 3 * 32 - 99)
    with torch.no_grad():
        twice = bilinear_transposed(1, 4, stride=2)
        at16 = twice(fc6)
        torch.testing.assert_close(at16[0, 0, 9, 2:17], fit(pool4, (19, 19), offset=5)[0, 0, 9, 2:17])
        at8 = twice(at16)
        torch.testing.assert_close(at8[0, 0, 9, 6:15], fit(pool3, (15, 15), offset=9)[0, 0, 9, 6:15])
        for map, kernel, stride, offset in ((fc6, 64, 32, 19), (at16, 32, 16, 27), (at8, 16, 8, 31)):
            scores = fit(bilinear_transposed(1, kernel, stride=stride)(map), (300, 300), offset=offset)
            torch.testing.assert_close(scores[0, 0, 100, 60:250], torch.arange(60.0, 250.0))


@pytest.mark.slow
def test_a_training_step_reaches_every_layer_of_the_coarse_network() -> None:
    # Scores begin at zero, so the trunk learns from the second step on: here they are random from the start.
    torch.manual_seed(0)
    model = fcn32s_vgg16(2)
    nn.init.normal_(model.score_fr.weight, std=0.01)
    loss = F.cross_entropy(model.train()(torch.rand(1, 3, 9, 11)).logits, torch.randint(0, 2, (1, 9, 11)))
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


def test_at_once_scales_the_finer_maps(fcn8s: FCN8s) -> None:
    # pool4 / 100 scored by 100 times the weights is pool4 scored by the weights.
    torch.manual_seed(1)
    image = torch.rand(1, 3, 17, 25)
    for layer in (fcn8s.score_fr, fcn8s.score_pool4, fcn8s.score_pool3):
        nn.init.normal_(layer.weight, std=0.01)
    with torch.no_grad():
        wanted = fcn8s.eval()(image).logits
        fcn8s.scale_pool4, fcn8s.scale_pool3 = 0.01, 0.0001
        fcn8s.score_pool4.weight *= 100
        fcn8s.score_pool3.weight *= 10_000
        scaled = fcn8s(image).logits
    fcn8s.scale_pool4 = fcn8s.scale_pool3 = 1.0
    torch.testing.assert_close(scaled, wanted, atol=1e-4, rtol=1e-3)
    with torch.device("meta"):
        model = fcn8s_vgg16(2, at_once=True)
    assert (model.scale_pool4, model.scale_pool3) == (0.01, 0.0001)


@pytest.mark.slow
def test_fc7_sees_404_pixels() -> None:
    class UpToFC7(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = fcn32s_vgg16(2)

        def forward(self, image: Tensor) -> Tensor:
            return self.network.maps(image)[2]

    assert measured_receptive_field(UpToFC7(), (640, 640)) == (404, 404)


# --- classifiers turned convolutional -------------------------------------------------------------


def test_a_fully_connected_layer_is_a_convolution_over_its_whole_map() -> None:
    layer, map = nn.Linear(6 * 49, 10), torch.rand(2, 6, 7, 7)
    with torch.no_grad():
        scores = F.conv2d(map, convolutionize(layer.weight, 7), layer.bias)
        assert scores.shape == (2, 10, 1, 1)
        torch.testing.assert_close(scores.flatten(1), layer(map.flatten(1)))


def test_on_a_larger_map_it_gives_the_layer_for_every_window() -> None:
    layer, map = nn.Linear(2 * 9, 4), torch.rand(1, 2, 5, 6)
    with torch.no_grad():
        scores = F.conv2d(map, convolutionize(layer.weight, 3), layer.bias)
        for i in range(3):
            for j in range(4):
                window = map[:, :, i : i + 3, j : j + 3].flatten(1)
                torch.testing.assert_close(scores[:, :, i, j], layer(window))


def test_a_layer_that_does_not_fit_the_map_is_refused() -> None:
    with pytest.raises(
        ValueError, match=re.escape("a layer on 7 x 7 pixels has a multiple of 49 inputs, not 50")
    ):
        convolutionize(torch.rand(2, 50), 7)


@pytest.mark.parametrize("axes", [2, 4], ids=["torchvision", "timm"])
def test_weights_of_both_libraries_go_to_the_same_places(axes: int) -> None:
    weights = caffe_names(classifier(axes=axes))
    layers = [key.removesuffix(".weight") for key in weights if key.endswith(".weight")]
    assert layers == [*CONVOLUTIONS, "fc6", "fc7", "fc8"]
    assert weights["conv3_3.weight"].shape == (256, 256, 3, 3)
    assert weights["fc7.weight"].ndim == axes


def test_other_networks_are_refused(fcn8s: FCN8s) -> None:
    weights = classifier()
    with pytest.raises(ValueError, match="not that of a VGG16: its convolutions have the widths"):
        caffe_names({key: tensor for key, tensor in weights.items() if not key.startswith("features.28")})
    with pytest.raises(ValueError, match=re.escape("layer4.0.weight has no place in it")):
        caffe_names({**weights, "layer4.0.weight": torch.rand(2)})
    with pytest.raises(ValueError, match="FCN has no batch norm"):
        load_vgg16(fcn8s, batch_normed(weights))
    with pytest.raises(ValueError, match=re.escape("lacks fc7.weight")):
        load_vgg16(fcn8s, {key: tensor for key, tensor in weights.items() if "classifier.3" not in key})


def batch_normed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    changed: dict[str, Tensor] = {}
    position = 0
    for key, tensor in weights.items():
        if key.startswith("features.") and key.endswith(".weight"):
            changed[f"features.{position}.weight"] = tensor
        elif key.startswith("features."):
            changed[f"features.{position}.bias"] = tensor
            changed[f"features.{position + 1}.weight"] = torch.ones(len(tensor))
            position += 3
        else:
            changed[key] = tensor
    return changed


@pytest.mark.slow
def test_a_classifier_at_224_pixels_is_one_position_of_the_network() -> None:
    from torchvision.models import vgg16

    torch.manual_seed(0)
    peer = vgg16(weights=None).eval()
    model = fcn32s_vgg16(2).eval()
    load_vgg16(model, peer.state_dict())
    # The border of 100 zeros changes what conv1_1 sees: without it the network is the classifier.
    model.conv1_1.padding = (1, 1)
    image = torch.rand(1, 3, 224, 288)
    with torch.no_grad():
        fc7 = model.maps(image)[2]
        assert fc7.shape == (1, 4096, 1, 3)
        alone = model.maps(image[..., :224])[2].flatten(1)
        normal = model.normalize(image)
        map = peer.features(normal)
        torch.testing.assert_close(alone, peer.classifier[:5](peer.features(normal[..., :224]).flatten(1)))
        for i in range(3):
            window = map[..., i : i + 7].flatten(1)
            torch.testing.assert_close(fc7[..., 0, i], peer.classifier[:5](window), atol=1e-5, rtol=1e-4)


# --- the authors' weights -------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_of_caffe_make_the_right_variant(name: str) -> None:
    with torch.device("meta"):
        weights = build(name, 4).state_dict()
        model = from_caffe_fcn({key: t for key, t in weights.items() if "normalize" not in key})
    assert model.built_by is not None
    assert (model.built_by.builder, model.num_classes) == (name, 4)
    assert not model.training


def test_fixed_scales_of_caffe_mean_training_at_once() -> None:
    with torch.device("meta"):
        weights = {key: t for key, t in fcn8s_vgg16(4).state_dict().items() if "normalize" not in key}
        model = from_caffe_fcn(
            {**weights, "scale_pool4.weight": torch.rand(1), "scale_pool3.weight": torch.rand(1)}
        )
    assert isinstance(model, FCN8s)
    assert model.scale_pool4 == 0.01


def test_the_first_layer_sees_what_it_saw_in_caffe(fcn8s: FCN8s) -> None:
    weights = {key: t for key, t in fcn8s.state_dict().items() if "normalize" not in key}
    model = from_caffe_fcn(weights)
    image = torch.rand(1, 3, 6, 8)
    bgr = 255 * image.flip(1) - torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(1, 3, 1, 1)
    with torch.no_grad():
        wanted = F.conv2d(bgr, weights["conv1_1.weight"], weights["conv1_1.bias"], padding=100)
        torch.testing.assert_close(model.conv1_1(model.normalize(image)), wanted, atol=1e-3, rtol=1e-4)


def test_weights_that_are_none_of_caffe_are_refused() -> None:
    with pytest.raises(ValueError, match="not that of an FCN on VGG16"):
        from_caffe_fcn({"conv1_1.weight": torch.rand(2)})
    with torch.device("meta"):
        weights = {key: t for key, t in fcn16s_vgg16(4).state_dict().items() if "normalize" not in key}
        with pytest.raises(ValueError, match=r"does not fit fcn16s_vgg16: .*fc6\.bias"):
            from_caffe_fcn({key: t for key, t in weights.items() if key != "fc6.bias"})
