"""EncNet: the authors' numbers, the encoding layer against its sums, and the loss that comes with it."""

import pytest
import torch

from pixelwise.losses import Criterion, CrossEntropy
from pixelwise.losses.semantic_encoding import semantic_encoding_loss
from pixelwise.models import encnet, encnet_resnet50, encnet_resnet101
from pixelwise.models.encnet import Encoding
from pixelwise.types import Batch, ClassMasks


@pytest.mark.parametrize("builder", [pytest.param(encnet_resnet50, marks=pytest.mark.slow), encnet_resnet101])
def test_the_head_has_as_many_parameters_as_the_layers_of_the_authors(builder) -> None:
    # Two convolutions with norms, 32 codewords with scales and norms, three linear maps of 512 channels.
    convolutions = 2048 * 512 * 9 + 512 * 512 + 4 * 512
    expected = convolutions + 32 * 512 + 32 + 2 * 32 + 512 * 513 + 2 * 150 * 513
    with torch.device("meta"):
        model = builder(150)
    assert sum(p.numel() for p in model.head.parameters()) == expected
    assert [block.conv2.dilation[0] for block in model.encoder.body.layer3][:2] == [1, 2]
    assert [block.conv2.dilation[0] for block in model.encoder.body.layer4] == [2, 4, 4]


@pytest.mark.parametrize("size", [(5, 7), (1, 3)])
def test_the_encoding_sums_assigned_differences(size: tuple[int, int]) -> None:
    layer, x = Encoding(6, 4).double(), torch.randn(2, 6, *size, dtype=torch.float64)
    with torch.no_grad():
        layer.codewords.normal_()
        expected = torch.zeros(2, 4, 6, dtype=torch.float64)
        for b in range(2):
            for pixel in x[b].flatten(1).T:
                differences = pixel - layer.codewords
                weights = (layer.scale * differences.norm(dim=1) ** 2).softmax(0)
                expected[b] += weights[:, None] * differences
        torch.testing.assert_close(layer(x), expected)


def test_a_codeword_near_a_pixel_gets_it() -> None:
    layer = Encoding(2, 2)
    with torch.no_grad():
        layer.codewords.copy_(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
        layer.scale.fill_(-1.0)
        found = layer(torch.tensor([[1.0, 8.0], [0.0, 9.0]]).view(1, 2, 1, 2))
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]))


def test_training_learns_which_classes_are_there_without_being_told() -> None:
    model, image = encnet(3, encoder="tiny").train(), torch.rand(2, 3, 65, 97)
    labels = torch.zeros(2, 65, 97, dtype=torch.long)
    labels[0, :3], labels[1] = 2, 200  # 200 is no class
    criterion = Criterion(CrossEntropy(ignore=200))
    output, batch = model(image), Batch.of(image, labels)
    parts = criterion.parts(output, batch)
    assert list(parts) == ["cross_entropy", "aux", "semantic_encoding"]
    expected = semantic_encoding_loss(output.presence, labels, ignore=200)
    torch.testing.assert_close(parts["semantic_encoding"], expected)
    torch.testing.assert_close(criterion(output, batch), torch.stack(list(parts.values())).sum())
    assert "semantic_encoding" in criterion.breakdown(output, batch)
    parts["semantic_encoding"].backward()
    assert model.head.context.presence.weight.grad.any()
    assert next(model.encoder.parameters()).grad.any()


def test_classes_that_are_not_exclusive_are_looked_for_too() -> None:
    model, image = encnet(3, encoder="tiny").train(), torch.rand(2, 3, 64, 64)
    masks = torch.randint(0, 2, (2, 3, 64, 64))
    masks[0, 1], masks[1, 0] = 0, 255
    output = model(image)
    parts = Criterion(CrossEntropy(exclusive=False)).parts(output, Batch.of(image, ClassMasks(masks)))
    expected = semantic_encoding_loss(output.presence, masks, exclusive=False)
    torch.testing.assert_close(parts["semantic_encoding"], expected)


def test_presence_is_said_while_training_only() -> None:
    model, image = encnet(3, encoder="tiny", aux=False), torch.rand(2, 3, 65, 97)
    output = model.train()(image)
    assert output.presence.shape == (2, 3)
    assert output.aux == ()
    assert output.to(torch.float64).presence.dtype == torch.float64
    assert not hasattr(model.eval()(image), "presence")
