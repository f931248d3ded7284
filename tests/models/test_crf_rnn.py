"""CRF-RNN: scores plus an unrolled mean field, which learns from end to end."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pixelwise.algorithms import DenseCrfLayer
from pixelwise.checkpoint import Checkpoint
from pixelwise.export import export
from pixelwise.models import crf_rnn, fcn8s_vgg16, from_crfasrnn
from pixelwise.models.crf_rnn import KERNELS
from pixelwise.types import BuiltBy, ClassTable


def small() -> nn.Module:
    torch.manual_seed(8)
    return crf_rnn(3, encoder="tiny")


def test_the_crf_adds_three_matrices_over_the_classes_to_fcn8s() -> None:
    with torch.device("meta"):
        model = crf_rnn(21)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 134_489_759 + 3 * 21 * 21


def test_matrices_begin_as_in_the_release() -> None:
    crf = small().crf
    assert torch.equal(crf.weights[0], 3 * torch.eye(3))
    assert torch.equal(crf.weights[1], 5 * torch.eye(3))
    assert torch.equal(crf.compatibility, -torch.eye(3))


def test_without_pairwise_weights_the_scores_stay() -> None:
    model, image = small().eval(), torch.rand(2, 3, 37, 50)
    with torch.no_grad():
        for weight in model.crf.weights:
            weight.zero_()
        torch.testing.assert_close(model(image).coarse, model.unary(image).logits)


def test_five_iterations_in_training_and_ten_afterwards() -> None:
    model, image = small(), torch.rand(1, 3, 40, 48)
    model.unary.eval()
    with torch.no_grad():
        scores = model.unary(image).logits
        by_mode = []
        for training in (True, False):
            model.training = training
            by_mode.append(model(image).coarse)
        for found, iterations in zip(by_mode, (5, 10), strict=True):
            assert torch.equal(found, model.crf(scores, image, num_iterations=iterations))
    assert not torch.equal(*by_mode)


def exact_mean_field(layer: DenseCrfLayer, scores: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 with whole kernel matrices, for one image."""
    k, height, width = scores.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows, columns], -1).reshape(-1, 2).double()
    color = 255 * image.permute(1, 2, 0).reshape(-1, image.shape[0]).double()
    kernels = []
    for kernel in KERNELS:
        distance = torch.cdist(place, place) ** 2 / kernel.position**2
        if kernel.color is not None:
            distance = distance + torch.cdist(color, color) ** 2 / kernel.color**2
        matrix = torch.exp(-distance / 2)
        sums = matrix.sum(1)
        after = layer.kernels[0].normalization == "after"
        kernels.append(matrix / (sums[:, None] if after else torch.sqrt(sums[:, None] * sums)))
    unary = scores.reshape(k, -1).T.double()
    refined = unary
    for _ in range(5):
        q = refined.softmax(1)
        message = sum(m @ q @ w.double().T for m, w in zip(kernels, layer.weights, strict=True))
        refined = unary - message @ layer.compatibility.double().T
    return refined.softmax(1).T.reshape(k, height, width)


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
def test_the_crf_is_close_to_mean_field_with_whole_kernel_matrices(normalization: str) -> None:
    torch.manual_seed(9)
    layer = crf_rnn(3, encoder="tiny", normalization=normalization).crf
    with torch.no_grad():
        for matrix in (*layer.weights, layer.compatibility):
            matrix.add_(0.3 * torch.randn(3, 3))
        image = torch.zeros(3, 14, 18)
        image[:, :, 9:] = 0.7
        scores = torch.randn(3, 14, 18)
        found = layer(scores[None], image[None], num_iterations=5)[0].softmax(0)
        expected = exact_mean_field(layer, scores, image)
    # The lattice approximates the kernels.
    assert (found - expected).abs().mean() < 0.03
    assert (expected - scores.softmax(0)).abs().mean() > 0.15


def test_network_and_crf_learn_together() -> None:
    model = small().train()
    output = model(torch.rand(2, 3, 33, 47))
    nn.functional.cross_entropy(output.logits, torch.randint(0, 3, (2, 33, 47))).backward()
    learning = [key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert {"crf.weights.0", "crf.weights.1", "crf.compatibility"} < set(learning)
    assert any(key.startswith("unary.encoder") for key in learning)


@pytest.mark.compile
def test_the_layer_is_one_operator_of_an_exported_program() -> None:
    torch.manual_seed(10)
    layer = DenseCrfLayer(3, num_iterations=2).eval()

    class Refined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, scores: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return self.layer(scores, image)

    sizes = {2: torch.export.Dim("H", min=4, max=99), 3: torch.export.Dim("W", min=4, max=99)}
    example = (torch.randn(1, 3, 11, 13), torch.rand(1, 3, 11, 13))
    program = torch.export.export(
        Refined(), example, dynamic_shapes={"scores": sizes, "image": sizes}
    ).module()
    scores, image = torch.randn(1, 3, 9, 20), torch.rand(1, 3, 9, 20)
    with torch.no_grad():
        torch.testing.assert_close(program(scores, image), layer(scores, image))


@pytest.mark.slow
def test_the_release_is_read_with_its_bias_and_its_rewards() -> None:
    torch.manual_seed(11)
    reference = fcn8s_vgg16(3).eval()
    for layer in (reference.score_fr, reference.score_pool4, reference.score_pool3):
        nn.init.normal_(layer.weight, std=0.1)
    nn.init.normal_(reference.score_pool4.bias)
    bias = torch.randn(3)
    state = {key: x for key, x in reference.state_dict().items() if not key.startswith("normalize.")}
    state["upscore2.bias"] = bias
    names = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")
    matrices = {f"crfrnn.{name}": torch.randn(3, 3) for name in names}
    model = from_crfasrnn(state | matrices)
    reference.upscore2.register_forward_hook(lambda layer, given, result: result + bias.view(1, 3, 1, 1))
    image = torch.rand(1, 3, 37, 50)
    mean = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    reference.normalize = nn.Identity()
    with torch.no_grad():
        expected = reference((255 * image - mean).flip(1)).logits
        torch.testing.assert_close(model.unary(image).logits, expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(model.crf.weights[0], matrices["crfrnn.spatial_ker_weights"])
    assert torch.equal(model.crf.weights[1], matrices["crfrnn.bilateral_ker_weights"])
    assert torch.equal(model.crf.compatibility, -matrices["crfrnn.compatibility_matrix"])
    assert [kernel.normalization for kernel in model.crf.kernels] == ["after", "after"]
    assert model.built_by.arguments == {"num_classes": 3, "normalization": "after"}


@pytest.mark.compile
def test_why_there_is_no_onnx_file_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra export")
    classes = ClassTable.of("sky", "road", "car")
    for out in ("a.onnx", "a.xml"):
        with pytest.raises(
            ValueError, match="computes dense_crf_layer, which only pixelwise can; --to torch"
        ):
            export(Checkpoint(small().eval(), classes, BuiltBy("", {}), {}, "semantic"), tmp_path / out)
    assert not list(tmp_path.iterdir())
