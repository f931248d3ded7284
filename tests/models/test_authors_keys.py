"""State dicts of the authors' networks on ResNets map one to one onto ours.

Keys and shapes are those of the authors' code (named at each table); no file of theirs is needed. In the
default run nothing has values, so that a full-size network costs no memory; the slow run gives each tensor a
value of its own and looks where it arrives.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from pixelwise.models import (
    from_ccnet,
    from_coincheung,
    from_crfasrnn,
    from_danet,
    from_drsleep,
    from_emanet,
    from_encnet,
    from_fastfcn,
    from_kazuto1011,
    from_semseg,
    from_semseg_psanet,
    from_torchseg_bisenet,
    from_vainf,
)
from pixelwise.types import DenseModel
from pixelwise.weights import describe_weights, find_converter

Shapes = dict[str, tuple[int, ...]]
CLASSES = 7


def conv(key: str, c_in: int, c_out: int, kernel: int = 1, *, bias: bool = False) -> Shapes:
    shapes: Shapes = {f"{key}.weight": (c_out, c_in, kernel, kernel)}
    return shapes | ({f"{key}.bias": (c_out,)} if bias else {})


def norm(key: str, c: int) -> Shapes:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{key}.{name}": (c,) for name in names} | {f"{key}.num_batches_tracked": ()}


def both(key: str, c_in: int, c_out: int, kernel: int = 1, names: tuple[str, str] = ("0", "1")) -> Shapes:
    """A convolution and its batch norm."""
    return conv(f"{key}.{names[0]}", c_in, c_out, kernel) | norm(f"{key}.{names[1]}", c_out)


def stages(blocks: tuple[int, ...], name: Callable[[int], str], c_in: int) -> Shapes:
    """The four stages of a ResNet with bottlenecks."""
    shapes: Shapes = {}
    for stage, count in enumerate(blocks, start=1):
        width = 32 * 2**stage
        for i in range(count):
            key = f"{name(stage)}.{i}"
            sizes = ((c_in, width, 1), (width, width, 3), (width, 4 * width, 1))
            for n, (a, b, kernel) in enumerate(sizes, start=1):
                shapes |= conv(f"{key}.conv{n}", a, b, kernel) | norm(f"{key}.bn{n}", b)
            if i == 0:
                shapes |= both(f"{key}.downsample", c_in, 4 * width)
            c_in = 4 * width
    return shapes


R18, VGG16 = (2, 2, 2, 2), (2, 2, 3, 3, 3)
R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)


def deep_stem(names: tuple[str, ...], last: str) -> Shapes:
    """Three 3x3 convolutions: keys of the convolutions and norms between, and of the last norm."""
    sizes = ((3, 64), (64, 64), (64, 128))
    shapes: Shapes = {}
    for i, (a, b) in enumerate(sizes):
        shapes |= conv(names[2 * i], a, b, 3) | norm(names[2 * i + 1] if i < 2 else last, b)
    return shapes


def encoding_trunk(blocks: tuple[int, ...], *, deep: bool) -> Shapes:
    """`pretrained` of a network of PyTorch-Encoding: a ResNet with its classifier of ImageNet."""
    stem = tuple(f"pretrained.conv1.{i}" for i in (0, 1, 3, 4, 6))
    shapes = (
        deep_stem(stem, "pretrained.bn1")
        if deep
        else conv("pretrained.conv1", 3, 64, 7) | norm("pretrained.bn1", 64)
    )
    shapes |= stages(blocks, lambda stage: f"pretrained.layer{stage}", 128 if deep else 64)
    return shapes | {"pretrained.fc.weight": (1000, 2048), "pretrained.fc.bias": (1000,)}


def danet(blocks: tuple[int, ...]) -> Shapes:
    """junfu1115/DANet, encoding/models/sseg/danet.py."""
    shapes = encoding_trunk(blocks, deep=False)
    for name, c_in in (("conv5a", 2048), ("conv5c", 2048), ("conv51", 512), ("conv52", 512)):
        shapes |= both(f"head.{name}", c_in, 512, 3)
    for name, c in (("query", 64), ("key", 64), ("value", 512)):
        shapes |= conv(f"head.sa.{name}_conv", 512, c, bias=True)
    shapes |= {"head.sa.gamma": (1,), "head.sc.gamma": (1,)}
    for name in ("conv6", "conv7", "conv8"):
        shapes |= conv(f"head.{name}.1", 512, CLASSES, bias=True)
    return shapes


def encnet(blocks: tuple[int, ...], kernel: int = 3) -> Shapes:
    """zhanghang1989/PyTorch-Encoding, encoding/models/sseg/encnet.py."""
    shapes = encoding_trunk(blocks, deep=True) | both("head.conv5", 2048, 512, kernel)
    encoding = "head.encmodule.encoding"
    shapes |= both(encoding, 512, 512) | norm(f"{encoding}.4", 32)
    shapes |= {f"{encoding}.3.codewords": (32, 512), f"{encoding}.3.scale": (32,)}
    for name, c in (("fc.0", 512), ("selayer", CLASSES)):
        shapes |= {f"head.encmodule.{name}.weight": (c, 512), f"head.encmodule.{name}.bias": (c,)}
    shapes |= conv("head.conv6.1", 512, CLASSES, bias=True)
    return shapes | both("auxlayer.conv5", 1024, 256, 3) | conv("auxlayer.conv5.4", 256, CLASSES, bias=True)


def fastfcn(blocks: tuple[int, ...]) -> Shapes:
    """wuhuikai/FastFCN, encoding/nn/customize.py (class JPU) and encoding/models/encnet.py."""
    shapes = encnet(blocks, kernel=1)
    for level in (3, 4, 5):
        shapes |= both(f"jpu.conv{level}", 64 * 2**level, 512, 3)
    for i in (1, 2, 3, 4):
        key = f"jpu.dilation{i}"
        shapes |= {f"{key}.0.conv1.weight": (1536, 1, 3, 3)} | norm(f"{key}.0.bn", 1536)
        shapes |= conv(f"{key}.0.pointwise", 1536, 512) | norm(f"{key}.1", 512)
    return shapes


def emanet(blocks: tuple[int, ...]) -> Shapes:
    """XiaLiPKU/EMANet, network.py."""
    shapes = deep_stem(tuple(f"extractor.0.{i}" for i in (0, 1, 3, 4, 6)), "extractor.1")
    shapes |= stages(blocks, lambda stage: f"extractor.{stage + 3}", 128)
    shapes |= both("fc0", 2048, 512, 3, ("conv", "bn")) | both("fc1.0", 512, 256, 3, ("conv", "bn"))
    shapes |= conv("emau.conv1", 512, 512, bias=True) | both("emau.conv2", 512, 512)
    return shapes | {"emau.mu": (1, 512, 64)} | conv("fc2", 256, CLASSES, bias=True)


def semseg_trunk(blocks: tuple[int, ...]) -> Shapes:
    """The ResNet of hszhao/semseg, model/resnet.py."""
    shapes = deep_stem(tuple(f"layer0.{i}" for i in (0, 1, 3, 4, 6)), "layer0.7")
    return shapes | stages(blocks, lambda stage: f"layer{stage}", 128)


def pspnet(blocks: tuple[int, ...]) -> Shapes:
    """hszhao/semseg, model/pspnet.py."""
    shapes = semseg_trunk(blocks)
    for bin in range(4):
        shapes |= both(f"ppm.features.{bin}", 2048, 512, 1, ("1", "2"))
    shapes |= both("cls", 4096, 512, 3) | both("aux", 1024, 256, 3)
    return shapes | conv("cls.4", 512, CLASSES, bias=True) | conv("aux.4", 256, CLASSES, bias=True)


def psanet(blocks: tuple[int, ...], mask_size: int = 59) -> Shapes:
    """hszhao/semseg, model/psanet.py, for crops of 465 pixels."""
    shapes = semseg_trunk(blocks)
    for end in ("", "_p"):
        shapes |= both(f"psa.reduce{end}", 2048, 512) | both(f"psa.attention{end}", 512, 512)
        shapes |= conv(f"psa.attention{end}.3", 512, mask_size**2)
    shapes |= both("psa.proj", 1024, 2048) | both("cls", 4096, 512, 3) | both("aux", 1024, 256, 3)
    return shapes | conv("cls.4", 512, CLASSES, bias=True) | conv("aux.4", 256, CLASSES, bias=True)


def refinenet(blocks: tuple[int, ...]) -> Shapes:
    """DrSleep/refinenet-pytorch, models/resnet.py and utils/layer_factory.py."""
    shapes = conv("conv1", 3, 64, 7) | norm("bn1", 64)
    shapes |= stages(blocks, lambda stage: f"layer{stage}", 64)
    for level, (c_in, c) in enumerate(((2048, 512), (1024, 256), (512, 256), (256, 256)), start=1):
        shapes |= conv(f"p_ims1d2_outl{level}_dimred", c_in, c, 3)
        for block, count in ((f"adapt_stage{level}_b", 2), (f"mflow_conv_g{level}_b", 3)):
            for i in range(1, count + 1):
                shapes |= conv(f"{block}.0.{i}_conv", c, c, 3, bias=True)
                shapes |= conv(f"{block}.0.{i}_conv_relu_varout_dimred", c, c, 3)
        for i in (1, 2, 3, 4):
            shapes |= conv(f"mflow_conv_g{level}_pool.0.{i}_outvar_dimred", c, c, 3)
        if level > 1:
            shapes |= conv(f"adapt_stage{level}_b2_joint_varout_dimred", c, c, 3)
        if level < 4:
            shapes |= conv(f"mflow_conv_g{level}_b3_joint_varout_dimred", c, 256, 3)
    return shapes | conv("clf_conv", 256, CLASSES, 3, bias=True)


def ccnet(blocks: tuple[int, ...]) -> Shapes:
    """speedinghzl/CCNet, networks/ccnet.py; its in-place norms do not count batches."""
    shapes = deep_stem(("conv1", "bn1", "conv2", "bn2", "conv3"), "bn3")
    shapes |= stages(blocks, lambda stage: f"layer{stage}", 128)
    shapes |= both("head.conva", 2048, 512, 3) | both("head.convb", 512, 512, 3)
    for name, c in (("query", 64), ("key", 64), ("value", 512)):
        shapes |= conv(f"head.cca.{name}_conv", 512, c, bias=True)
    shapes |= {"head.cca.gamma": (1,)} | both("head.bottleneck", 2560, 512, 3)
    shapes |= conv("head.bottleneck.3", 512, CLASSES, bias=True)
    shapes |= conv("dsn.0", 1024, 512, 3, bias=True) | norm("dsn.1", 512)
    shapes |= conv("dsn.3", 512, CLASSES, bias=True)
    return {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


def kazuto1011(blocks: tuple[int, ...]) -> Shapes:
    """kazuto1011/deeplab-pytorch, libs/models/deeplabv2.py, resnet.py and msc.py."""
    layers = ("conv", "bn")
    shapes = both("base.layer1.conv1", 3, 64, 7, layers)
    c_in = 64
    for stage, count in enumerate(blocks, start=2):
        width = 16 * 2**stage
        for i in range(1, count + 1):
            key = f"base.layer{stage}.block{i}"
            shapes |= both(f"{key}.reduce", c_in, width, 1, layers)
            shapes |= both(f"{key}.conv3x3", width, width, 3, layers)
            shapes |= both(f"{key}.increase", width, 4 * width, 1, layers)
            if i == 1:
                shapes |= both(f"{key}.shortcut", c_in, 4 * width, 1, layers)
            c_in = 4 * width
    for i in range(4):
        shapes |= conv(f"base.aspp.c{i}", 2048, CLASSES, 3, bias=True)
    return shapes


def vainf(blocks: tuple[int, ...], *, plus: bool = True) -> Shapes:
    """VainF/DeepLabV3Plus-Pytorch, network/_deeplab.py."""
    shapes = conv("backbone.conv1", 3, 64, 7) | norm("backbone.bn1", 64)
    shapes |= stages(blocks, lambda stage: f"backbone.layer{stage}", 64)
    aspp = "classifier.aspp" if plus else "classifier.classifier.0"
    shapes |= both(f"{aspp}.convs.0", 2048, 256) | both(f"{aspp}.convs.4", 2048, 256, 1, ("1", "2"))
    for i in (1, 2, 3):
        shapes |= both(f"{aspp}.convs.{i}", 2048, 256, 3)
    shapes |= both(f"{aspp}.project", 1280, 256)
    if plus:
        shapes |= both("classifier.project", 256, 48) | both("classifier.classifier", 304, 256, 3)
        return shapes | conv("classifier.classifier.3", 256, CLASSES, bias=True)
    shapes |= both("classifier.classifier", 256, 256, 3, ("1", "2"))
    return shapes | conv("classifier.classifier.4", 256, CLASSES, bias=True)


def crfasrnn(blocks: tuple[int, ...]) -> Shapes:
    """sadeepj/crfasrnn_pytorch, crfasrnn/fcn8s.py and crfasrnn/crfrnn.py."""
    shapes: Shapes = {}
    c_in = 3
    for stage, (count, c) in enumerate(zip(blocks, (64, 128, 256, 512, 512), strict=True), start=1):
        for i in range(1, count + 1):
            shapes |= conv(f"conv{stage}_{i}", c_in, c, 3, bias=True)
            c_in = c
    shapes |= conv("fc6", 512, 4096, 7, bias=True) | conv("fc7", 4096, 4096, bias=True)
    for name, c in (("fr", 4096), ("pool4", 512), ("pool3", 256)):
        shapes |= conv(f"score_{name}", c, CLASSES, bias=True)
    shapes |= conv("upscore2", CLASSES, CLASSES, 4, bias=True)
    shapes |= conv("upscore_pool4", CLASSES, CLASSES, 4) | conv("upscore8", CLASSES, CLASSES, 16)
    names = ("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix")
    return shapes | {f"crfrnn.{name}": (CLASSES, CLASSES) for name in names}


def basic_resnet(blocks: tuple[int, ...], trunk: str) -> Shapes:
    """A ResNet with blocks of two 3x3 convolutions."""
    shapes = conv(f"{trunk}.conv1", 3, 64, 7) | norm(f"{trunk}.bn1", 64)
    c_in = 64
    for stage, count in enumerate(blocks, start=1):
        c = 32 * 2**stage
        for i in range(count):
            key = f"{trunk}.layer{stage}.{i}"
            shapes |= conv(f"{key}.conv1", c_in, c, 3) | norm(f"{key}.bn1", c)
            shapes |= conv(f"{key}.conv2", c, c, 3) | norm(f"{key}.bn2", c)
            if c_in != c:
                shapes |= both(f"{key}.downsample", c_in, c)
            c_in = c
    return shapes


def coincheung(blocks: tuple[int, ...]) -> Shapes:
    """CoinCheung/BiSeNet, lib/models/bisenetv1.py."""
    layers = ("conv", "bn")
    shapes = basic_resnet(blocks, "cp.resnet")
    for stride, c in ((16, 256), (32, 512)):
        shapes |= both(f"cp.arm{stride}.conv", c, 128, 3, layers)
        shapes |= conv(f"cp.arm{stride}.conv_atten", 128, 128) | norm(f"cp.arm{stride}.bn_atten", 128)
        shapes |= both(f"cp.conv_head{stride}", 128, 128, 3, layers)
        shapes |= both(f"conv_out{stride}.conv", 128, 64, 3, layers)
        shapes |= conv(f"conv_out{stride}.conv_out", 64, CLASSES, bias=True)
    shapes |= both("cp.conv_avg", 512, 128, 1, layers)
    for name, size in (("1", (3, 64, 7)), ("2", (64, 64, 3)), ("3", (64, 64, 3)), ("_out", (64, 128, 1))):
        shapes |= both(f"sp.conv{name}", *size, layers)
    shapes |= both("ffm.convblk", 256, 256, 1, layers) | conv("ffm.conv", 256, 256) | norm("ffm.bn", 256)
    return (
        shapes
        | both("conv_out.conv", 256, 256, 3, layers)
        | conv("conv_out.conv_out", 256, CLASSES, bias=True)
    )


def bisenet(blocks: tuple[int, ...]) -> Shapes:
    """ycszen/TorchSeg, model/bisenet/cityscapes.bisenet.R18/network.py."""
    layers = ("conv", "bn")
    shapes = basic_resnet(blocks, "context_path")
    sizes = {
        "conv_7x7": (3, 64, 7),
        "conv_3x3_1": (64, 64, 3),
        "conv_3x3_2": (64, 64, 3),
        "conv_1x1": (64, 128, 1),
    }
    for name, size in sizes.items():
        shapes |= both(f"spatial_path.{name}", *size, layers)
    shapes |= both("global_context.1", 512, 128, 1, layers) | both("ffm.conv_1x1", 256, 256, 1, layers)
    for i, c in enumerate((512, 256)):
        shapes |= both(f"arms.{i}.conv_3x3", c, 128, 3, layers)
        shapes |= both(f"arms.{i}.channel_attention.1", 128, 128, 1, layers)
        shapes |= both(f"refines.{i}", 128, 128, 3, layers)
    for i, (c, c_inner) in enumerate(((128, 256), (128, 256), (256, 64))):
        shapes |= both(f"heads.{i}.conv_3x3", c, c_inner, 3, layers)
        shapes |= conv(f"heads.{i}.conv_1x1", c_inner, CLASSES, bias=True)
    for i in (1, 2):
        shapes |= conv(f"ffm.channel_attention.{i}.conv", 256, 256)
    return shapes


Converter = Callable[[dict[str, Tensor]], DenseModel]
CASES: list[tuple[Converter, Shapes, str]] = [
    (from_danet, danet(R101), "danet_resnet101"),
    (from_danet, danet(R50), "danet_resnet50"),
    (from_encnet, encnet(R101), "encnet_resnet101"),
    (from_encnet, encnet(R50), "encnet_resnet50"),
    (from_emanet, emanet(R152), "emanet_resnet152"),
    (from_emanet, emanet(R101), "emanet_resnet101"),
    (from_emanet, emanet(R50), "emanet_resnet50"),
    (from_fastfcn, fastfcn(R50), "fastfcn"),
    (from_fastfcn, fastfcn(R101), "fastfcn"),
    (from_semseg_psanet, psanet(R101), "psanet_resnet101"),
    (from_semseg, pspnet(R50), "pspnet_resnet50"),
    (from_semseg, pspnet(R101), "pspnet_resnet101"),
    (from_torchseg_bisenet, bisenet(R18), "bisenet_resnet18"),
    (from_coincheung, coincheung(R18), "bisenet_coincheung"),
    (from_ccnet, ccnet(R101), "ccnet_resnet101"),
    (from_crfasrnn, crfasrnn(VGG16), "crf_rnn"),
    (from_kazuto1011, kazuto1011(R101), "deeplabv2_caffe"),
    (from_vainf, vainf(R101), "vainf_deeplabv3plus"),
    (from_vainf, vainf(R50, plus=False), "vainf_deeplabv3"),
    (from_drsleep, refinenet(R101), "refinenet_resnet101"),
    (from_drsleep, refinenet(R152), "refinenet_resnet152"),
]


def cases() -> list[object]:
    """The first of each by default; the others are slow."""
    first = {convert: shapes for convert, shapes, _ in reversed(CASES)}
    return [
        pytest.param(*case, marks=() if first[case[0]] is case[1] else pytest.mark.slow, id=case[2])
        for case in CASES
    ]


@pytest.mark.parametrize("convert, shapes, builder", cases())
def test_every_tensor_of_the_authors_has_a_place_and_every_place_a_tensor(
    convert: Converter, shapes: Shapes, builder: str
) -> None:
    with torch.device("meta"):
        weights = {f"module.{key}": torch.empty(shape) for key, shape in shapes.items()}
        model = convert(weights)  # refuses what is missing, left over or of another shape
    assert model.built_by.builder == builder
    assert model.num_classes == CLASSES
    assert not model.training


PUBLISHED: list[tuple[str, Callable[[tuple[int, ...]], Shapes], tuple[int, ...]]] = [
    ("danet_resnet101_cityscapes", danet, R101),
    ("encnet_resnet50_ade", encnet, R50),
    ("encnet_resnet101_ade", encnet, R101),
    ("emanet_resnet101_voc", emanet, R101),
    ("fastfcn_resnet50_ade", fastfcn, R50),
    ("fastfcn_resnet101_ade", fastfcn, R101),
    ("ccnet_resnet101_cityscapes", ccnet, R101),
    ("ccnet_resnet101_r1_cityscapes", ccnet, R101),
    ("encnet_resnet101_pascal_context_59", encnet, R101),
    ("pspnet_resnet50_ade", pspnet, R50),
    ("psanet_resnet101_cityscapes", partial(psanet, mask_size=89), R101),
    ("bisenet_coincheung_cocostuff", coincheung, R18),
    ("crf_rnn_voc", crfasrnn, VGG16),
    ("deeplabv2_resnet101_cocostuff164k", kazuto1011, R101),
    ("deeplabv3plus_resnet101_voc_vainf", vainf, R101),
    ("deeplabv3_resnet50_voc_vainf", partial(vainf, plus=False), R50),
]


@pytest.mark.parametrize(
    "name, table, blocks",
    [pytest.param(*row, marks=[pytest.mark.slow] if i else []) for i, row in enumerate(PUBLISHED)],
)
def test_published_weights_have_the_classes_of_their_entry(
    name: str,
    table: Callable[[tuple[int, ...]], Shapes],
    blocks: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = describe_weights(name)
    monkeypatch.setitem(globals(), "CLASSES", len(entry.classes))
    with torch.device("meta"):
        model = find_converter(entry)({key: torch.empty(shape) for key, shape in table(blocks).items()})
    assert model.built_by is not None
    assert model.built_by.builder == entry.builder
    assert entry.arguments.items() <= model.built_by.arguments.items()
    assert model.num_classes == len(entry.classes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "convert, shapes, counterparts",
    [
        (
            from_danet,
            danet(R50),
            {
                "head.sa.query_conv.weight": "position.1.query.weight",
                "head.sa.key_conv.weight": "position.1.key.weight",
                "head.sc.gamma": "channel.1.gamma",
                "head.conv5c.0.weight": "channel.0.0.weight",
                "head.conv8.1.weight": "head.1.weight",
                "head.conv7.1.bias": "channel_head.1.bias",
            },
        ),
        (
            from_emanet,
            emanet(R50),
            {
                "emau.mu": "attention.bases",
                "fc1.0.bn.bias": "head.0.1.bias",
                "fc0.conv.weight": "reduce.0.weight",
            },
        ),
        (
            from_encnet,
            encnet(R50),
            {
                "head.encmodule.encoding.3.scale": "head.context.encoding.0.scale",
                "head.encmodule.encoding.4.bias": "head.context.encoding.1.bias",
                "auxlayer.conv5.4.bias": "aux_head.4.bias",
            },
        ),
        (
            from_fastfcn,
            fastfcn(R50),
            {
                "jpu.dilation3.0.bn.bias": "upsampling.branches.2.1.bias",
                "jpu.dilation4.0.pointwise.weight": "upsampling.branches.3.2.0.weight",
                "jpu.conv4.0.weight": "upsampling.reduce4.0.weight",
            },
        ),
        (
            from_torchseg_bisenet,
            bisenet(R18),
            {
                "arms.0.conv_3x3.bn.bias": "arm32.conv.1.bias",
                "refines.1.conv.weight": "refine8.0.weight",
                "heads.0.conv_1x1.bias": "aux_heads.1.1.bias",
                "ffm.channel_attention.2.conv.weight": "fusion.gate.3.weight",
            },
        ),
        (
            from_coincheung,
            coincheung(R18),
            {
                "cp.arm16.conv_atten.weight": "arm16.gate.1.weight",
                "cp.conv_head32.bn.bias": "refine16.1.bias",
                "ffm.bn.running_mean": "fusion.gate.2.running_mean",
                "conv_out16.conv_out.bias": "aux_heads.0.1.bias",
                "sp.conv_out.conv.weight": "spatial_path.3.0.weight",
            },
        ),
        (
            from_drsleep,
            refinenet(R101),
            {
                "adapt_stage1_b.0.2_conv.bias": "lowest.adapt.2.conv1.bias",
                "mflow_conv_g3_b.0.3_conv_relu_varout_dimred.weight": "blocks.1.out.2.conv2.weight",
                "mflow_conv_g2_b3_joint_varout_dimred.weight": "carry.1.weight",
                "adapt_stage4_b2_joint_varout_dimred.weight": "blocks.2.adapt.3.weight",
                "mflow_conv_g1_pool.0.4_outvar_dimred.weight": "lowest.pool.stages.3.1.weight",
            },
        ),
        (
            from_semseg_psanet,
            psanet(R101),
            {
                "psa.reduce.0.weight": "collect.reduce.0.weight",
                "psa.attention_p.3.weight": "distribute.attention.1.weight",
                "psa.attention.1.running_mean": "collect.attention.0.1.running_mean",
                "cls.4.bias": "head.2.bias",
            },
        ),
    ],
)  # fmt: skip
def test_each_tensor_arrives_once(convert: Converter, shapes: Shapes, counterparts: dict[str, str]) -> None:
    numbers = {key: torch.full((), float(i)) for i, key in enumerate(shapes)}
    weights = {key: numbers[key].expand(shape) for key, shape in shapes.items()}
    state = convert(weights).state_dict()
    found = sorted(x.flatten()[0].item() for key, x in state.items() if ".normalize." not in key)
    assert found == sorted(n.item() for key, n in numbers.items() if ".fc." not in key or "encmodule" in key)
    for theirs, ours in counterparts.items():
        assert state[ours].flatten()[0] == numbers[theirs], theirs


@pytest.mark.parametrize("convert", list(dict.fromkeys(case[0] for case in CASES)))
def test_other_weights_are_refused(convert: Converter) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="state_dict is not that of"):
        convert(torch.nn.Linear(2, 2).state_dict())


@pytest.mark.slow
def test_ccnet_turns_colours_round_and_scales_as_in_place_norms_do() -> None:
    weights = {key: torch.full((), -2.0).expand(shape) for key, shape in ccnet(R101).items()}
    weights["conv1.weight"] = torch.arange(3.0).view(1, 3, 1, 1).expand(64, 3, 3, 3)
    state = from_ccnet(weights).state_dict()
    assert (state["encoder.body.conv1.0.weight"][0, :, 0, 0] == torch.tensor([2.0, 1.0, 0.0])).all()
    for key in ("encoder.body.conv1.1", "encoder.body.bn1", "encoder.body.layer4.2.bn3", "aux_head.0.1"):
        torch.testing.assert_close(state[f"{key}.weight"].unique(), torch.tensor([2.0 + 1e-5]))
        assert (state[f"{key}.bias"] == -2).all()
    # A colour that equals the mean becomes 0, in BGR as in RGB.
    mean = state["encoder.normalize.mean"].flatten() * 255
    torch.testing.assert_close(mean, torch.tensor([122.67891434, 116.66876762, 104.00698793]))
