"""Networks for key points: published sizes, published weights' names, and what every one of them promises."""

import inspect
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

from pixelwise import models
from pixelwise.encoders import HRNet, fit_hrnet_weights
from pixelwise.losses import HeatmapLoss
from pixelwise.registry import build, describe, list_models
from pixelwise.types import Batch, HeatmapModel, Heatmaps, Keypoints

JOINTS = 5
SMALL: dict[str, dict[str, object]] = {
    "hrnet_pose": {"width": 8, "modules": (1, 1, 1), "blocks": 1},
    "simplebaseline": {"encoder": "tiny", "width": 8},
    "hourglass": {"width": 16, "stacks": 2},
}


@pytest.fixture(params=SMALL)
def model(request: pytest.FixtureRequest) -> HeatmapModel:
    torch.manual_seed(0)
    return redrawn(build(request.param, num_joints=JOINTS, **SMALL[request.param]))


def redrawn(model: HeatmapModel) -> HeatmapModel:
    """Weights of a size that makes outputs differ: some networks start with nearly zero ones."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    return model


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_every_kind_of_network_is_asked() -> None:
    kinds = {type(build(name, num_joints=2, **SMALL[name])) for name in SMALL}
    for name in list_models():
        if "keypoints" in describe(name).tasks:
            assert inspect.signature(getattr(models, name)).return_annotation in kinds, name


@pytest.mark.parametrize(
    "name, joints, parameters",
    [
        ("hrnet_pose_w32", 17, 28_536_113),
        ("hrnet_pose_w48", 17, 63_595_745),
        ("simplebaseline_resnet50", 17, 33_999_697),
        ("hourglass_2", 16, 6_570_400),
        ("hourglass_8", 16, 25_434_112),
    ],
)
def test_published_sizes(name: str, joints: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(build(name, num_joints=joints)) == parameters


# --- what all promise -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 48), (32, 32), (65, 97)])
def test_heatmaps_have_one_cell_per_four_pixels(model: HeatmapModel, size: tuple[int, int]) -> None:
    with torch.no_grad():
        output = model.eval()(torch.rand(1, 3, *size))
    assert isinstance(output, Heatmaps)
    assert output.coarse.shape == (1, JOINTS, -(-size[0] // 4), -(-size[1] // 4))
    assert (output.size, output.stride, output.aux) == (size, 4, ())
    assert output.coarse.std() > 0


def test_a_smaller_image_is_refused(model: HeatmapModel) -> None:
    with pytest.raises(ValueError, match="at least 32 x 32 pixels"):
        model(torch.rand(1, 3, 31, 40))


def test_one_crop_trains_and_every_parameter_gets_a_gradient(model: HeatmapModel) -> None:
    no = torch.zeros(1, dtype=torch.bool)
    box = torch.tensor([[0.0, 0, 64, 64]])
    one = Keypoints(
        64 * torch.rand(1, JOINTS, 2), torch.ones(1, JOINTS), torch.ones(1), torch.ones(1), box, no
    )
    data = Batch.of(torch.rand(1, 3, 64, 64), [one])
    HeatmapLoss()(model.train()(*model.inputs(data)), data).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    still = [key for key, p in model.named_parameters() if p.ndim > 1 and not p.grad.any()]
    assert not still


def test_crops_of_a_batch_do_not_see_each_other(model: HeatmapModel) -> None:
    images = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        together, alone = model.eval()(images).coarse, model(images[1:]).coarse
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-3)


def test_other_image_channels_are_taken() -> None:
    for name, small in SMALL.items():
        model = build(name, num_joints=2, in_channels=4, **small).eval()
        with torch.no_grad():
            assert model(torch.rand(1, 4, 64, 48)).coarse.shape == (1, 2, 16, 12)


def test_exported_program_equals_eager(model: HeatmapModel) -> None:
    image = torch.rand(1, 3, 64, 48)
    program = torch.export.export(model.eval(), (image,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image).coarse, model(image).coarse, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.compile
def test_compiles_in_one_graph(model: HeatmapModel) -> None:
    image = torch.rand(1, 3, 64, 48)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model.eval(), fullgraph=True, backend="eager")(image)
        torch.testing.assert_close(compiled.coarse, model(image).coarse, atol=1e-4, rtol=1e-4)


def test_a_model_without_classes_says_so() -> None:
    with pytest.raises(ValueError, match="'hourglass' has no argument 'num_classes': it takes num_joints"):
        build("hourglass", 5)
    with pytest.raises(ValueError, match="'unet' needs num_classes"):
        build("unet")


# --- each its own ---------------------------------------------------------------------------------


def test_an_hourglass_tells_the_joints_at_every_stack_while_training() -> None:
    model = build("hourglass", num_joints=3, stacks=3, width=16)
    output = model.train()(torch.rand(1, 3, 64, 48))
    assert [tuple(maps.shape) for maps in output.aux] == [(1, 3, 16, 12)] * 2
    with pytest.raises(ValueError, match="stacks must be a whole number of at least 1, got 0"):
        build("hourglass", num_joints=3, stacks=0)


def test_the_next_hourglass_is_given_the_heatmaps_of_the_one_before() -> None:
    model = redrawn(build("hourglass", num_joints=3, stacks=2, width=16)).eval()
    image = torch.rand(1, 3, 64, 48)
    with torch.no_grad():
        before = model(image).coarse
        model.heads[0].bias += 1
        assert not torch.equal(model(image).coarse, before)


def test_a_simple_baseline_needs_the_last_stage_at_stride_32() -> None:
    from pixelwise.encoders import Tiny

    with pytest.raises(ValueError, match="c5 at stride 32, got 16"):
        build("simplebaseline", num_joints=3, encoder=Tiny(output_stride=16))


def authors_hrnet(model: models.HRNetPose, backbone: str, head: str) -> dict[str, torch.Tensor]:
    """The state dict as the authors (no prefix) or MMPose (two) write it."""
    found = {}
    for key, tensor in model.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "head":
            found[f"{head}final_layer.{rest}"] = tensor
        elif not rest.startswith("normalize."):
            found[backbone + rest] = tensor
    return found


@pytest.mark.parametrize("backbone, head", [("", ""), ("module.", "module."), ("backbone.", "head.")])
def test_weights_of_hrnet_come_back(backbone: str, head: str) -> None:
    model = redrawn(build("hrnet_pose", num_joints=4, **SMALL["hrnet_pose"])).eval()
    state = authors_hrnet(model, backbone, head)
    loaded = models.from_hrnet_pose(state)
    image = torch.rand(1, 3, 64, 48)
    with torch.no_grad():
        assert torch.equal(loaded(image).coarse, model(image).coarse)
    again = build(loaded.built_by.builder, **loaded.built_by.arguments)
    assert count(again) == count(model)


def test_the_names_are_those_of_the_authors() -> None:
    # Some names of pose_hrnet_w32_256x192.pth, read in the authors' code.
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in authors_hrnet(models.hrnet_pose_w32(), "", "").items()}
    assert shapes["transition1.1.0.0.weight"] == (64, 256, 3, 3)
    assert shapes["stage2.0.fuse_layers.0.1.0.weight"] == (32, 64, 1, 1)
    assert shapes["stage3.3.fuse_layers.2.0.0.0.weight"] == (32, 32, 3, 3)
    assert shapes["stage4.1.fuse_layers.3.0.2.1.running_var"] == (256,)
    assert shapes["stage4.2.branches.3.3.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert "stage4.2.fuse_layers.1.0.0.0.weight" not in shapes  # the last exchange makes the finest branch


def test_weights_of_a_simple_baseline_come_back() -> None:
    model = models.simplebaseline_resnet50(3).eval()
    state = {}
    for key, tensor in model.state_dict().items():
        name = (
            key.replace("encoder.body.", "")
            .replace("decoder.", "deconv_layers.")
            .replace("head.", "final_layer.")
        )
        if "normalize" not in name:
            state[name] = tensor
    loaded = models.from_simplebaseline(state)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image).coarse, model(image).coarse)


@pytest.mark.parametrize("convert", [models.from_hrnet_pose, models.from_simplebaseline])
def test_other_weights_are_refused(convert: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="state_dict is not that of"):
        convert({"conv1.weight": torch.zeros(3, 3)})


def test_missing_weights_of_hrnet_are_named() -> None:
    model = build("hrnet_pose", num_joints=4, **SMALL["hrnet_pose"])
    state = authors_hrnet(model, "", "")
    del state["stage2.0.branches.0.0.bn1.bias"]
    with pytest.raises(ValueError, match=r"stage2.0.branches.0.0.bn1.bias is missing"):
        models.from_hrnet_pose(state)


# --- the encoder ----------------------------------------------------------------------------------


def test_hrnet_equals_timm() -> None:
    theirs = timm.create_model("hrnet_w18_small_v2").eval()
    published = {"modules": (1, 3, 2), "blocks": 2}  # what "small v2" means there
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    ours = HRNet(18, **published).eval()
    ours.load_state_dict(fit_hrnet_weights(theirs.state_dict(), ours.state_dict()))
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        x = theirs.act1(theirs.bn1(theirs.conv1(ours.normalize(image))))
        expected = theirs.stages(theirs.act2(theirs.bn2(theirs.conv2(x))))
        found = ours(image).maps
    assert list(found) == ["c2", "c3", "c4", "c5"]
    for map, other in zip(found.values(), expected, strict=True):
        assert map.std() > 0
        torch.testing.assert_close(map, other, atol=1e-5, rtol=1e-4)


def test_hrnet_gives_only_what_is_asked_and_trains_all_of_it() -> None:
    for stages in (("c2",), ("c5",), ("c3", "c4")):
        encoder = HRNet(8, stages=stages, modules=(1, 1, 1), blocks=1)
        features = encoder(torch.rand(2, 3, 65, 97))
        assert tuple(features.maps) == encoder.stages == stages
        for stage, map in features.maps.items():
            stride = getattr(encoder.strides, stage)
            assert map.shape[1:] == (getattr(encoder.channels, stage), -(-65 // stride), -(-97 // stride))
        torch.stack([map.sum() for map in features.maps.values()]).sum().backward()
        assert all(p.grad is not None for p in encoder.parameters())


def test_hrnet_upsamples_as_it_is_told() -> None:
    nearest = HRNet(8, modules=(1, 1, 1), blocks=1).eval()
    bilinear = HRNet(8, modules=(1, 1, 1), blocks=1, upsampling="bilinear").eval()
    for module in nearest.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    bilinear.load_state_dict(nearest.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(nearest(image).c2, bilinear(image).c2, rtol=1e-3)
    with pytest.raises(ValueError, match="it has no c1"):
        HRNet(8, stages=("c1",))


@pytest.mark.compile
def test_hrnet_refuses_another_way_of_upsampling() -> None:
    with pytest.raises(ValueError, match="nearest, bilinear, bilinear_unaligned, got 'cubic'"):
        HRNet(8, upsampling="cubic")


def test_hrnet_of_an_unpublished_width_has_no_pretrained_weights() -> None:
    with pytest.raises(ValueError, match="no pretrained weights of an HRNet of width 8"):
        HRNet(8, pretrained=True)
