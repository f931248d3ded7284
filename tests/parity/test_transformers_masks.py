"""MaskFormer and Mask2Former of transformers with random weights give and lose the same here."""

import re

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    ResNetConfig,
    SwinConfig,
)
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss
from transformers.models.maskformer.configuration_maskformer import MaskFormerDetrConfig
from transformers.models.maskformer.modeling_maskformer import MaskFormerHungarianMatcher, MaskFormerLoss

from pixelwise.checkpoint import load, save
from pixelwise.losses import loss_parts
from pixelwise.models import from_transformers_mask2former, from_transformers_maskformer
from pixelwise.models.maskformer import MaskFormerLogits
from pixelwise.types import Batch, ClassTable, MaskLogits, MaskSet

TOLERANCE = 1e-4
WIDTH, CLASSES, QUERIES = 64, 7, 20
SIZES = [(64, 96), (65, 97), (99, 131), (250, 33)]
STAGES = ["stage1", "stage2", "stage3", "stage4"]
BACKBONES = {
    "resnet18": lambda: ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=STAGES,
    ),
    "resnet50": lambda: ResNetConfig(out_features=STAGES),
    "swin_tiny": lambda: SwinConfig(out_features=STAGES),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "swin_tiny")]


def mask2former(backbone: str) -> nn.Module:
    sizes = {"feature_size": WIDTH, "mask_feature_size": WIDTH, "hidden_dim": WIDTH, "num_queries": QUERIES}
    config = Mask2FormerConfig(
        backbone_config=BACKBONES[backbone](), decoder_layers=4, num_labels=CLASSES, **sizes
    )
    return redrawn(Mask2FormerForUniversalSegmentation(config))


def maskformer(backbone: str) -> nn.Module:
    decoder = MaskFormerDetrConfig(d_model=WIDTH, decoder_layers=3, num_queries=QUERIES)
    config = MaskFormerConfig(
        backbone_config=BACKBONES[backbone](),
        decoder_config=decoder,
        fpn_feature_size=WIDTH,
        mask_feature_size=WIDTH,
        num_labels=CLASSES,
    )
    return redrawn(MaskFormerForInstanceSegmentation(config))


def redrawn(model: nn.Module) -> nn.Module:
    """No parameter is constant, batch norms have seen something, and no mask is flat."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.min() == parameter.max():
                parameter.add_(0.1 * torch.randn_like(parameter))
            if re.search(r"mask_embedder\.2|sampling_offsets\.weight", key):
                parameter.mul_(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("backbone", ["resnet18", *SLOW])
@pytest.mark.parametrize(
    "peer, convert",
    [(mask2former, from_transformers_mask2former), (maskformer, from_transformers_maskformer)],
    ids=["mask2former", "maskformer"],
)
def test_classes_and_masks_are_equal_at_odd_sizes(peer, convert, backbone: str, tmp_path) -> None:
    theirs = peer(backbone)
    ours = convert(theirs.state_dict())
    assert not ours.training
    save(ours, tmp_path / "model.safetensors", ClassTable.of(*"abcdefg"))
    ours = load(tmp_path / "model.safetensors").model
    for size in SIZES:
        image = torch.rand(2, 3, *size)
        with torch.no_grad():
            expected, found = theirs(ours.encoder.normalize(image)), ours(image)
        assert expected.masks_queries_logits.std() > 0.1, "flat masks show nothing"
        differences = (
            found.class_logits - expected.class_queries_logits,
            found.mask_logits - expected.masks_queries_logits,
        )
        assert max(difference.abs().max() for difference in differences) <= TOLERANCE


def test_another_state_dict_is_refused() -> None:
    weights = mask2former("resnet18").state_dict()
    with pytest.raises(ValueError, match="state_dict is no maskformer of transformers"):
        from_transformers_maskformer(weights)
    with pytest.raises(ValueError, match="neither a Swin Transformer nor a ResNet"):
        from_transformers_mask2former({"a": torch.zeros(1)})


# --- losses ---------------------------------------------------------------------------------------


def example(kind: type[MaskLogits]) -> tuple[MaskLogits, Batch]:
    """Random scores of a last and two earlier layers for one image with four masks, of which two overlap."""
    size = (48, 40)
    last, *earlier = [
        (2 * torch.randn(1, QUERIES, CLASSES + 1), 3 * torch.randn(1, QUERIES, 12, 10)) for _ in range(3)
    ]
    masks = torch.zeros(4, *size, dtype=torch.bool)
    masks[0, :20], masks[1, 15:40, 3:30], masks[2, 44:], masks[3, 30:33, 30:32] = True, True, True, True
    target = MaskSet.of(masks, torch.tensor([3, 0, 3, 6]))
    output = kind(*last, size, tuple(MaskLogits(*one, size) for one in earlier))
    return output, Batch.of(torch.rand(1, 3, *size), [target])


def labels_of(batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    (target,) = batch.annotations
    assert isinstance(target, MaskSet)
    return [target.dense.float()], [target.classes]


def earlier(output: MaskLogits) -> list[dict[str, Tensor]]:
    return [
        {"masks_queries_logits": one.mask_logits, "class_queries_logits": one.class_logits}
        for one in output.aux
    ]


def check(theirs: dict[str, Tensor], ours: dict[str, Tensor], weights: dict[str, float]) -> None:
    names = {"class": "loss_cross_entropy", "mask": "loss_mask", "dice": "loss_dice"}
    for name, other in names.items():
        assert ours[name].item() == pytest.approx(weights[name] * theirs[other].item(), rel=1e-5)
    rest = sum(
        weights[name] * theirs[f"{other}_{layer}"].item() for name, other in names.items() for layer in (0, 1)
    )
    assert ours["aux"].item() == pytest.approx(rest, rel=1e-5)


def test_the_loss_of_mask2former_at_the_same_points_is_theirs() -> None:
    output, batch = example(MaskLogits)
    config = Mask2FormerConfig(num_labels=CLASSES)
    torch.manual_seed(3)
    theirs = Mask2FormerLoss(config, {})(
        output.mask_logits, output.class_logits, *labels_of(batch), earlier(output)
    )
    torch.manual_seed(3)
    check(theirs, loss_parts(output, batch), {"class": 2.0, "mask": 5.0, "dice": 5.0})


def test_the_loss_of_maskformer_is_theirs() -> None:
    output, batch = example(MaskFormerLogits)
    matcher = MaskFormerHungarianMatcher(cost_class=1.0, cost_dice=1.0, cost_mask=20.0)
    criterion = MaskFormerLoss(CLASSES, matcher=matcher, weight_dict={}, eos_coef=0.1)
    theirs = criterion(output.mask_logits, output.class_logits, *labels_of(batch), earlier(output))
    check(theirs, loss_parts(output, batch), {"class": 1.0, "mask": 20.0, "dice": 1.0})
