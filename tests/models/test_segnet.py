"""SegNet and SegNet-Basic: published sizes, pooling indices, pretrained encoder."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise import build
from pixelwise.models.segnet import SegNet, SegNetBasic, load_vgg16_encoder, segnet, segnet_basic
from pixelwise.models.vgg import VGG16

NAMES = ("segnet", "segnet_basic")


@pytest.fixture(scope="module")
def big() -> SegNet:
    torch.manual_seed(0)
    return segnet(3)


@pytest.fixture(scope="module")
def basic() -> SegNetBasic:
    torch.manual_seed(0)
    return segnet_basic(3)


@pytest.mark.parametrize("name, parameters", [("segnet", 29_449_355), ("segnet_basic", 1_416_587)])
def test_parameters_are_those_of_the_authors_files(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build(name, 11)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_every_image_size_is_scored_from_a_single_pixel_on(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 2).eval()
        for size in ((1, 1), (2, 3), (17, 5), (33, 31), (64, 96), (65, 97), (360, 480)):
            assert model(torch.empty(1, 3, *size)).coarse.shape == (1, 2, *size)


def test_a_camvid_image_shrinks_to_the_sizes_of_the_authors_files() -> None:
    with torch.device("meta"):
        model = segnet(11).eval()
        heights: list[tuple[int, ...]] = []
        for decode in model.decoder:
            decode.register_forward_hook(lambda _m, given, _o: heights.append(tuple(given[0].shape[-2:])))
        model(torch.empty(1, 3, 360, 480))
    assert heights == [(23, 30), (45, 60), (90, 120), (180, 240), (360, 480)]


@pytest.mark.parametrize("name", NAMES)
def test_one_image_trains_and_every_parameter_gets_a_finite_gradient(
    name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue("big" if name == "segnet" else "basic").train()
    model.zero_grad()
    logits = model(torch.rand(1, 3, 33, 40)).logits
    F.cross_entropy(logits, torch.randint(0, 3, (1, 33, 40))).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    model.zero_grad(set_to_none=True)


def test_values_return_to_where_they_were_the_largest(basic: SegNetBasic) -> None:
    given: list[Tensor] = []
    encoded: list[Tensor] = []
    hooks = [
        basic.decoder[-1].register_forward_hook(lambda _m, x, _o: given.append(x[0])),
        basic.encoder[0].register_forward_hook(lambda _m, _x, o: encoded.append(o)),
    ]
    with torch.no_grad():
        basic.eval()(torch.rand(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    largest = F.interpolate(F.max_pool2d(encoded[0], 2), scale_factor=2) == encoded[0]
    assert given[0].any()
    assert not given[0][~largest].any()


def test_the_decoder_of_basic_has_no_relu_and_the_scores_no_norm(basic: SegNetBasic, big: SegNet) -> None:
    assert not [layer for layer in basic.decoder.modules() if isinstance(layer, nn.ReLU)]
    assert sum(isinstance(layer, nn.ReLU) for layer in big.decoder.modules()) == 12
    assert isinstance(big.head, nn.Conv2d)
    convolutions = [m for model in (big, basic) for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(layer.bias is not None for layer in convolutions)


def test_decoder_stages_reduce_with_their_last_convolution(big: SegNet) -> None:
    widths = [[block[0].out_channels for block in stage] for stage in big.decoder]
    assert widths == [[512, 512, 512], [512, 512, 256], [256, 256, 128], [128, 64], [64]]


def test_basic_evens_out_the_brightness_of_a_pixel_as_caffe_does(basic: SegNetBasic) -> None:
    pixel = torch.tensor([0.2, 0.5, 0.9])
    with torch.no_grad():
        normal = basic.normalize(255 * pixel.view(1, 3, 1, 1)).flatten()
    colour = 255 * pixel
    torch.testing.assert_close(normal, colour / (1 + 1e-4 / 5 * (colour**2).sum()) ** 0.75)


def test_dropout_makes_the_bayesian_variant() -> None:
    torch.manual_seed(0)
    model = segnet(2, dropout=0.5).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(image).logits, model(image).logits)
        model.dropout.train()
        samples = torch.stack([model(image).logits for _ in range(3)])
    assert samples.var(0).mean() > 0
    assert len(segnet(2).state_dict()) == len(model.state_dict())


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_encoder_begins_with_a_classifier(big: SegNet, batch_norm: bool) -> None:
    weights: dict[str, Tensor] = {}
    c, i = 3, 0
    for widths in VGG16:
        for width in widths:
            weights[f"features.{i}.weight"] = torch.rand(1).expand(width, c, 3, 3)
            weights[f"features.{i}.bias"] = torch.rand(width)
            i += 1
            if batch_norm:
                for part in ("weight", "bias", "running_mean", "running_var"):
                    weights[f"features.{i}.{part}"] = torch.rand(width)
                weights[f"features.{i}.num_batches_tracked"] = torch.tensor(7)
                i += 1
            c, i = width, i + 1
        i += 1
    before = {key: tensor.clone() for key, tensor in big.state_dict().items()}
    load_vgg16_encoder(big, {**weights, "classifier.0.weight": torch.rand(2, 2)})
    last = max(i for i in range(44) if weights.get(f"features.{i}.weight", torch.rand(1)).ndim == 4)
    block = big.encoder[4][2]
    assert torch.equal(block[0].weight, weights[f"features.{last}.weight"])
    assert torch.equal(block[0].bias, weights[f"features.{last}.bias"])
    if batch_norm:
        assert torch.equal(block[1].running_var, weights[f"features.{last + 1}.running_var"])
    after = big.state_dict()
    untouched = [key for key in before if not key.startswith("encoder.")]
    assert all(torch.equal(before[key], after[key]) for key in untouched)
    big.load_state_dict(before)


def test_a_classifier_without_its_last_convolution_is_refused(big: SegNet) -> None:
    with pytest.raises(ValueError, match="not that of a VGG16"):
        load_vgg16_encoder(big, {"features.0.weight": torch.rand(64, 3, 3, 3)})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_the_exported_network_unpools_as_the_eager_one(
    name: str, size: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue("big" if name == "segnet" else "basic").eval()
    image = torch.rand(1, 3, *size)
    program = torch.export.export(model, (image,)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(image).logits, model(image).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.compile
def test_unpooling_compiles_in_one_graph(basic: SegNetBasic) -> None:
    image = torch.rand(1, 3, 33, 47)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(basic.eval(), fullgraph=True, backend="aot_eager")(image)
        torch.testing.assert_close(compiled.logits, basic(image).logits, atol=1e-5, rtol=1e-4)
