"""mmsegmentation's networks on ResNet and HRNet: its layers, as its code and configurations tell."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.checkpoint import load, save
from pixelwise.encoders import HRNet
from pixelwise.models import (
    from_mmseg_cnn,
    mmseg_deeplabv3,
    mmseg_deeplabv3plus,
    mmseg_fcn,
    mmseg_hrnet,
    mmseg_pspnet,
    upernet,
)
from pixelwise.types import ClassTable
from tests.models.test_mmseg import ConvModule, named
from tests.models.test_segformer import close, redrawn

CLASSES, D = 5, 16


class DilatedModule(ConvModule):
    """Their atrous convolution."""

    def __init__(self, c_in: int, c_out: int, rate: int) -> None:
        super().__init__(c_in, c_out, 3)
        self.conv.dilation = self.conv.padding = (rate, rate)


class SeparableModule(nn.Module):
    """Their depthwise and pointwise convolutions."""

    def __init__(self, c_in: int, c_out: int, rate: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(c_in, c_in, 3)
        self.depthwise_conv.conv = nn.Conv2d(c_in, c_in, 3, 1, rate, rate, c_in, bias=False)
        self.pointwise_conv = ConvModule(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


def like(x: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(x, other.shape[2:], mode="bilinear")


class Peer(nn.Module):
    """A dilated ResNet-18, whose names are theirs, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet18", features_only=True, output_stride=8)
        self.auxiliary_head = named(
            convs=nn.ModuleList([ConvModule(256, 8, 3)]), conv_seg=nn.Conv2d(8, CLASSES, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.decode_head.conv_seg(self.context(self.backbone(image)))


class Fcn(Peer):
    def __init__(self) -> None:
        super().__init__()
        self.decode_head = named(
            convs=nn.ModuleList([ConvModule(512, D, 3), ConvModule(D, D, 3)]),
            conv_cat=ConvModule(512 + D, D, 3),
            conv_seg=nn.Conv2d(D, CLASSES, 1),
        )

    def context(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        for one in self.decode_head.convs:
            x = one(x)
        return self.decode_head.conv_cat(torch.cat([maps[-1], x], 1))


class Psp(Peer):
    def __init__(self) -> None:
        super().__init__()
        bins = [nn.Sequential(nn.AdaptiveAvgPool2d(b), ConvModule(512, D)) for b in (1, 2, 3, 6)]
        self.decode_head = named(
            psp_modules=nn.ModuleList(bins),
            bottleneck=ConvModule(512 + 4 * D, D, 3),
            conv_seg=nn.Conv2d(D, CLASSES, 1),
        )

    def context(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        return self.decode_head.bottleneck(
            torch.cat([x, *(like(one(x), x) for one in self.decode_head.psp_modules)], 1)
        )


class Aspp(Peer):
    def __init__(self, convolution: type[nn.Module] = DilatedModule) -> None:
        super().__init__()
        branches = [ConvModule(512, D), *(convolution(512, D, rate) for rate in (12, 24, 36))]
        self.decode_head = named(
            image_pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvModule(512, D)),
            aspp_modules=nn.ModuleList(branches),
            bottleneck=ConvModule(5 * D, D, 3),
            conv_seg=nn.Conv2d(D, CLASSES, 1),
        )

    def context(self, maps: list[Tensor]) -> Tensor:
        x, head = maps[-1], self.decode_head
        views = [like(head.image_pool(x), x), *(one(x) for one in head.aspp_modules)]
        return head.bottleneck(torch.cat(views, 1))


class SeparableAspp(Aspp):
    def __init__(self) -> None:
        super().__init__(SeparableModule)
        self.decode_head.c1_bottleneck = ConvModule(64, 48)
        self.decode_head.sep_bottleneck = nn.Sequential(SeparableModule(D + 48, D), SeparableModule(D, D))

    def context(self, maps: list[Tensor]) -> Tensor:
        fine = self.decode_head.c1_bottleneck(maps[1])
        return self.decode_head.sep_bottleneck(torch.cat([like(super().context(maps), fine), fine], 1))


class UPer(Peer):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet18", features_only=True)
        bins = [nn.Sequential(nn.AdaptiveAvgPool2d(b), ConvModule(512, D)) for b in (1, 2, 3, 6)]
        self.decode_head = named(
            psp_modules=nn.ModuleList(bins),
            bottleneck=ConvModule(512 + 4 * D, D, 3),
            lateral_convs=nn.ModuleList(ConvModule(c, D) for c in (64, 128, 256)),
            fpn_convs=nn.ModuleList(ConvModule(D, D, 3) for _ in range(3)),
            fpn_bottleneck=ConvModule(4 * D, D, 3),
            conv_seg=nn.Conv2d(D, CLASSES, 1),
        )

    def context(self, maps: list[Tensor]) -> Tensor:
        head = self.decode_head
        laterals = [one(x) for one, x in zip(head.lateral_convs, maps[1:4], strict=True)]
        laterals.append(Psp.context(self, maps))
        for i in (2, 1, 0):
            laterals[i] = laterals[i] + like(laterals[i + 1], laterals[i])
        levels = [*(one(x) for one, x in zip(head.fpn_convs, laterals[:3], strict=True)), laterals[3]]
        return head.fpn_bottleneck(torch.cat([like(level, levels[0]) for level in levels], 1))


PEERS = {
    "mmseg_fcn": Fcn,
    "mmseg_pspnet": Psp,
    "mmseg_deeplabv3": Aspp,
    "mmseg_deeplabv3plus": SeparableAspp,
    "upernet": UPer,
}


@pytest.mark.parametrize("builder", PEERS)
def test_logits_are_those_of_their_layers_on_resnet(builder: str, tmp_path) -> None:
    theirs = redrawn(PEERS[builder](), seed=5).eval()
    ours = pw.from_mmseg(theirs.state_dict())
    assert ours.built_by is not None
    assert ours.built_by.builder == builder
    for size in ((64, 64), (71, 90)):
        image = torch.rand(2, 3, *size)
        with torch.no_grad():
            close(ours(image).coarse, theirs(ours.encoder.normalize(image)))
    save(ours, tmp_path / "a.safetensors", ClassTable.of(*"abcde"))
    image = torch.rand(1, 3, 65, 97)
    again = load(tmp_path / "a.safetensors").model.eval()
    assert torch.equal(again(image).coarse, ours(image).coarse)


@pytest.mark.parametrize(
    ("builder", "arguments", "theirs"),
    [
        (mmseg_fcn, {}, 49_497_734),
        (mmseg_pspnet, {}, 48_975_494),
        (mmseg_deeplabv3, {}, 68_113_030),
        (mmseg_deeplabv3plus, {"encoder": "resnet101c"}, 62_582_006),
        (upernet, {"encoder": "resnet50c"}, 66_415_238),
        (mmseg_hrnet, {"width": 48}, 65_858_659),
    ],
)
def test_parameters_are_as_many_as_mmsegmentation_1_2_2_has(builder, arguments, theirs: int) -> None:
    with torch.device("meta"):
        model = builder(19, **arguments)
    assert sum(p.numel() for p in model.parameters()) == theirs


def test_an_hrnet_is_read_and_its_branches_are_not_aligned() -> None:
    ours = mmseg_hrnet(CLASSES, width=4, modules=(1, 1, 1), blocks=1)
    theirs = {}
    for key, tensor in redrawn(ours).state_dict().items():
        if key.startswith("encoder.") and "normalize" not in key:
            theirs[f"backbone.{key.removeprefix('encoder.')}"] = tensor
    names = {"context.convolutions.0.0": "convs.0.conv", "context.convolutions.0.1": "convs.0.bn"}
    for module, name in {**names, "head.1": "conv_seg"}.items():
        for key, tensor in ours.get_submodule(module).state_dict().items():
            theirs[f"decode_head.{name}.{key}"] = tensor
    read = from_mmseg_cnn(theirs)
    image = torch.rand(1, 3, 70, 97)
    assert read.built_by is not None
    assert read.built_by.arguments["modules"] == (1, 1, 1)
    assert torch.equal(read(image).coarse, ours.eval()(image).coarse)
    aligned = HRNet(4, modules=(1, 1, 1), blocks=1, upsampling="bilinear").eval()
    aligned.load_state_dict(ours.encoder.state_dict())
    assert not torch.allclose(aligned(image).c2, ours.encoder(image).c2)


def test_what_cannot_be_read_is_told_in_a_sentence() -> None:
    weights = redrawn(Fcn()).state_dict()
    without = {key: x for key, x in weights.items() if not key.startswith("backbone.layer4")}
    with pytest.raises(ValueError, match="no ResNet that is known: 2, 2, 2, 0 blocks behind one convolution"):
        pw.from_mmseg(without)
    with pytest.raises(ValueError, match="not that of an FCN, PSPNet, DeepLabV3 or DeepLabV3"):
        from_mmseg_cnn({key: x for key, x in weights.items() if "conv_cat" not in key})
    with pytest.raises(ValueError, match=r"join\.0\.weight"):
        pw.from_mmseg({**weights, "decode_head.conv_cat.conv.weight": torch.zeros(D, 3, 3, 3)})
