"""SPGNet: the second encoder is a ResNet-50, guidance weighs features, and every path is alive."""

import timm
import torch
from torch import nn

from pixelwise.losses import make_criterion
from pixelwise.models import PredictionGuidance, spgnet, spgnet_resnet50
from pixelwise.models.spgnet import SecondEncoder, load_stages
from pixelwise.types import Batch, ClassTable


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_both_encoders_are_resnet50() -> None:
    with torch.device("meta"):
        model = spgnet_resnet50(19)
    assert count(model.encoder) == 23_508_032  # torchvision's ResNet-50 without its classifier
    stem = 3 * 64 * 49 + 2 * 64
    assert count(model.second_encoder.stages) == 23_508_032 - stem
    assert model.second_encoder.channels == [256, 512, 1024, 2048]


def test_the_stages_of_a_resnet_are_carried_over() -> None:
    torch.manual_seed(0)
    peer = timm.create_model("resnet50").eval()
    with torch.device("meta"):
        second = SecondEncoder((256, 512, 1024, 2048), 256, 64)
    second = second.to_empty(device="cpu").eval()
    load_stages(second, peer.state_dict())
    x = torch.rand(1, 64, 9, 12)
    with torch.no_grad():
        expected = peer.layer2(peer.layer1(x))
        torch.testing.assert_close(second.stages[1](second.stages[0](x)), expected)


def test_guidance_keeps_the_features_and_adds_what_the_scores_ask_for() -> None:
    torch.manual_seed(1)
    guidance = PredictionGuidance(4, 3)
    x = torch.randn(2, 4, 5, 6)
    with torch.no_grad():
        guided, scores = guidance(x)
        weights = torch.sigmoid(guidance.weigh[0](guidance.classify(x)))
        torch.testing.assert_close(guided, x * (1 + weights))
        assert scores.shape == (2, 3, 5, 6)
        guidance.weigh[0].weight.zero_()
        guidance.weigh[0].bias.fill_(-50)  # a closed gate leaves the features as they are
        torch.testing.assert_close(guidance(x)[0], x)


def test_the_second_encoder_sees_both_maps_of_the_first_stage_at_every_size() -> None:
    torch.manual_seed(2)
    second = SecondEncoder((3, 5, 6, 7), 4, 2, (1, 1, 1, 1)).eval()
    encoded = [torch.rand(1, c, s, s) for c, s in zip((3, 5, 6, 7), (9, 5, 3, 2), strict=True)]
    decoded = [torch.rand(1, 4, s, s) for s in (9, 5, 3, 2)]
    start = torch.rand(1, 4, 9, 9)
    with torch.no_grad():
        before = second(start, encoded, decoded)
        assert [tuple(map.shape[1:]) for map in before] == [(8, 9, 9), (16, 5, 5), (32, 3, 3), (64, 2, 2)]
        for maps in (encoded, decoded):
            kept, maps[2] = maps[2], maps[2] + 1
            after = second(start, encoded, decoded)
            changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert changed == [False, False, True, True]
            maps[2] = kept


def test_the_first_prediction_is_supervised() -> None:
    model = spgnet(3, encoder="tiny", width=4).train()
    batch = Batch.of(torch.rand(2, 3, 65, 97), torch.randint(0, 3, (2, 65, 97)))
    output = model(batch.image)
    assert output.coarse.shape == (2, 3, 17, 25)
    assert [tuple(x.shape) for x in output.aux] == [(2, 3, 17, 25)]
    parts = make_criterion("cross_entropy", ClassTable.of(*"abc")).parts(output, batch)
    assert parts["aux"] > 0
