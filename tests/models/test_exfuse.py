"""ExFuse: what it adds to a GCN, each against a plain definition."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, ResNet

from pixelwise.encoders import make_encoder
from pixelwise.models import exfuse, exfuse_resnet101, exfuse_resnext131
from pixelwise.models.exfuse import (
    DenselyAdjacentPrediction,
    RearrangedResNet,
    SemanticEmbedding,
    SemanticSupervision,
)


def test_each_position_averages_what_its_neighbours_say_of_it() -> None:
    votes = torch.randn(2, 2 * 9, 4, 5)
    found = DenselyAdjacentPrediction(3)(votes)
    assert found.shape == (2, 2, 4, 5)
    for k in range(2):
        for i in range(4):
            for j in range(5):
                said = [
                    votes[:, k * 9 + l * 3 + m, i + l - 1, j + m - 1]
                    for l in range(3)
                    for m in range(3)
                    if 0 <= i + l - 1 < 4 and 0 <= j + m - 1 < 5
                ]
                torch.testing.assert_close(found[:, k, i, j], torch.stack(said).mean(0))


def test_a_fine_map_is_multiplied_by_every_coarser_one() -> None:
    branch = SemanticEmbedding(3, (5, 4)).eval()
    x, coarsest, coarser = torch.randn(1, 3, 8, 9), torch.randn(1, 5, 2, 3), torch.randn(1, 4, 4, 5)
    with torch.no_grad():
        first, second = (
            F.interpolate(conv(map), (8, 9), mode="bilinear")
            for conv, map in zip(branch.branches, (coarsest, coarser), strict=True)
        )
        torch.testing.assert_close(branch(x, [coarsest, coarser]), x * first * second)


def test_scores_of_c5_are_doubled_by_shuffling_and_trained() -> None:
    model = exfuse(3, encoder="tiny").train()
    output = model(torch.rand(2, 3, 65, 97))
    assert [tuple(map.shape) for map in output.aux] == [(2, 3, 6, 8)]  # c5 is 3 x 4
    assert output.coarse.shape == (2, 3, 17, 25)
    c5 = torch.randn(1, 16, 2, 2)
    with torch.no_grad():
        flat, doubled = model.top(c5), model.shuffle(model.top(c5))
    assert torch.equal(doubled[0, 1, 1::2, 0::2], flat[0, 4 + 2])


@pytest.mark.parametrize(("builder", "layers"), [(exfuse_resnet101, 101), (exfuse_resnext131, 131)])
def test_encoders_have_as_many_layers_as_their_names_say(builder, layers: int) -> None:
    with torch.device("meta"):
        encoder = builder(21).encoder
    blocks = [len(getattr(encoder.body, f"layer{stage}")) for stage in (1, 2, 3, 4)]
    assert blocks == ([8, 8, 9, 8] if layers == 101 else [8, 8, 19, 8])
    assert 3 * sum(blocks) + 2 == layers
    groups = encoder.body.layer1[0].conv2.groups
    assert groups == (1 if layers == 101 else 32)


def test_a_rearranged_encoder_is_a_resnet_with_other_numbers_of_blocks() -> None:
    theirs = ResNet(Bottleneck, [1, 2, 1, 1], groups=4, width_per_group=8).eval()
    weights = {key: tensor for key, tensor in theirs.state_dict().items() if not key.startswith("fc.")}
    ours = RearrangedResNet((1, 2, 1, 1), groups=4, c_group=8).eval()
    ours.body.load_state_dict(weights)
    image = torch.rand(1, 3, 40, 50)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(ours.normalize(image)))))
        for stage, map in ours(image).maps.items():
            x = getattr(theirs, f"layer{int(stage[1]) - 1}")(x)
            torch.testing.assert_close(map, x)


def test_an_encoder_learns_to_classify_at_every_stage() -> None:
    network = SemanticSupervision(make_encoder("tiny", stages=("c2", "c3", "c4", "c5")), 7)
    scores = network(torch.rand(2, 3, 64, 65))
    assert [tuple(one.shape) for one in scores] == [(2, 7)] * 4
    torch.stack([F.cross_entropy(one, torch.tensor([1, 2])) for one in scores]).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert exfuse(3, encoder=network.encoder).encoder is network.encoder
