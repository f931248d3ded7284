"""VainF's DeepLabs: rates of their stride, one convolution in the decoder, c2 joined first."""

import torch

from pixelwise.models import from_vainf, vainf_deeplabv3, vainf_deeplabv3plus

BUILDERS = (vainf_deeplabv3, vainf_deeplabv3plus)


def test_parameters_are_as_many_as_the_packages_code_has() -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in build(21).parameters()) for build in BUILDERS]
    assert counts == [39_638_869, 39_761_845]


def test_rates_follow_the_stride_and_no_corners_are_aligned() -> None:
    for stride, rates in ((16, (6, 12, 18)), (8, (12, 24, 36))):
        for build in BUILDERS:
            model = build(3, encoder="tiny", output_stride=stride).eval()
            assert tuple(branch[0].dilation[0] for branch in model.context.branches[1:]) == rates
            assert not model(torch.rand(1, 3, 33, 65)).align_corners


def test_channels_of_c2_change_places_with_those_of_the_context() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        model = vainf_deeplabv3plus(3)
    state = {key: torch.zeros(x.shape) for key, x in model.state_dict().items() if "normalize" not in key}
    state["decoder.0.0.weight"] = torch.arange(304.0).view(1, -1, 1, 1).expand(256, 304, 3, 3)
    theirs = {}
    for key, x in state.items():
        for ours, name in (
            ("encoder.body.", "backbone."),
            ("context.image.1.0.", "classifier.aspp.convs.4.1."),
            ("context.image.1.1.", "classifier.aspp.convs.4.2."),
            ("context.branches.", "classifier.aspp.convs."),
            ("context.project.0.", "classifier.aspp.project."),
            ("skip.", "classifier.project."),
            ("decoder.0.", "classifier.classifier."),
            ("head.", "classifier.classifier.3."),
        ):
            if key.startswith(ours):
                theirs[name + key.removeprefix(ours)] = x
                break
    found = from_vainf(theirs).decoder[0][0].weight[0, :, 0, 0]
    assert found.tolist() == [*range(48, 304), *range(48)]
