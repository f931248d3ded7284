"""OCRNet: published counts, the attention pixel by pixel, and the authors' weights in their layout."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.losses import make_criterion
from pixelwise.models import (
    ObjectAttention,
    ObjectContext,
    from_hrnet_ocr,
    ocrnet,
    ocrnet_hrnet,
    ocrnet_hrnet_w48,
    ocrnet_hrnet_w48_aspp,
    ocrnet_resnet101,
)
from pixelwise.models.ocrnet import AtrousObjectContext, gather
from pixelwise.types import Batch, ClassTable


def redrawn(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_as_many_as_the_authors_have() -> None:
    with torch.device("meta"):
        assert count(ocrnet_hrnet_w48(19)) == 70_372_678
        assert count(ocrnet_hrnet(19, width=18)) == 12_080_818
        assert count(ocrnet_hrnet_w48_aspp(19).context) == count(AtrousObjectContext(720))
        model = ocrnet_resnet101(19)
        assert count(model.context) == count(ObjectContext(2048)) == 10_622_976
        regions = 1024 * 512 * 9 + 3 * 512 + 513 * 19
        assert count(model) == count(model.encoder) + regions + 10_622_976 + 513 * 19


def test_each_region_is_the_mean_of_its_pixels_weighted_by_their_scores() -> None:
    torch.manual_seed(0)
    x, regions = torch.randn(2, 3, 4, 5), 3 * torch.randn(2, 6, 4, 5)
    found = gather(x, regions)
    assert found.shape == (2, 3, 6, 1)
    for image in range(2):
        for k in range(6):
            weights = [math.exp(score) for score in regions[image, k].flatten().tolist()]
            for c in range(3):
                values = x[image, c].flatten().tolist()
                mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
                assert found[image, c, k, 0].item() == pytest.approx(mean, abs=1e-4)


def test_the_attention_equals_its_definition_pixel_by_pixel() -> None:
    torch.manual_seed(1)
    attention = redrawn(ObjectAttention(6, 4))
    x, objects = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 5, 1)
    with torch.no_grad():
        found = attention(x, objects)
        query, key, value = attention.pixel(x), attention.object(objects), attention.down(objects)
        context = torch.zeros(2, 4, 3, 4)
        for image in range(2):
            for i in range(3):
                for j in range(4):
                    likeness = [
                        math.exp(float(query[image, :, i, j] @ key[image, :, k, 0]) / math.sqrt(4))
                        for k in range(5)
                    ]
                    for k in range(5):
                        context[image, :, i, j] += likeness[k] / sum(likeness) * value[image, :, k, 0]
        torch.testing.assert_close(found, attention.up(context), atol=1e-5, rtol=1e-4)


def test_a_pixel_of_one_region_only_gathers_that_region() -> None:
    """With one class the attention has nothing to choose: every pixel gets the same context."""
    torch.manual_seed(2)
    attention = redrawn(ObjectAttention(6, 4))
    x = torch.randn(1, 6, 3, 4)
    with torch.no_grad():
        found = attention(x, gather(x, torch.randn(1, 1, 3, 4)))
    torch.testing.assert_close(found, found[:, :, :1, :1].expand_as(found))


def test_the_regions_learn_by_a_second_loss_of_weight_0_4() -> None:
    model = ocrnet(3, encoder="tiny", width=8)
    batch = Batch.of(torch.rand(2, 3, 65, 97), torch.randint(0, 3, (2, 65, 97)))
    output = model.train()(batch.image)
    assert [tuple(map.shape) for map in output.aux_logits] == [(2, 3, 65, 97)]
    parts = make_criterion("cross_entropy", ClassTable.of(*"abc")).parts(output, batch)
    assert parts["aux"].item() == pytest.approx(
        0.4 * F.cross_entropy(output.aux_logits[0], batch.labels).item()
    )
    assert model.eval()(batch.image).aux == ()


# --- the authors' weights ---------------------------------------------------------------------------


def authors_heads(model: nn.Module) -> dict[str, Tensor]:
    """The heads of a small OCRNet under the names of seg_hrnet_ocr.py."""
    block = "ocr_distri_head.object_context_block."
    names = {
        "regions.0": "aux_head.0", "regions.1": "aux_head.1", "regions.4": "aux_head.3",
        "context.pixels.0": "conv3x3_ocr.0", "context.pixels.1": "conv3x3_ocr.1",
        "context.attention.pixel.0.0": f"{block}f_pixel.0",
        "context.attention.pixel.0.1": f"{block}f_pixel.1.0",
        "context.attention.pixel.1.0": f"{block}f_pixel.2",
        "context.attention.pixel.1.1": f"{block}f_pixel.3.0",
        "context.attention.object.0.0": f"{block}f_object.0",
        "context.attention.object.0.1": f"{block}f_object.1.0",
        "context.attention.object.1.0": f"{block}f_object.2",
        "context.attention.object.1.1": f"{block}f_object.3.0",
        "context.attention.down.0": f"{block}f_down.0", "context.attention.down.1": f"{block}f_down.1.0",
        "context.attention.up.0": f"{block}f_up.0", "context.attention.up.1": f"{block}f_up.1.0",
        "context.project.0.0": "ocr_distri_head.conv_bn_dropout.0",
        "context.project.0.1": "ocr_distri_head.conv_bn_dropout.1.0",
        "head": "cls_head",
    }  # fmt: skip
    found = {}
    for key, tensor in model.state_dict().items():
        part, _, name = key.rpartition(".")
        if part.startswith("encoder."):
            found[f"{part}.{name}".removeprefix("encoder.")] = tensor
        elif part in names:
            found[f"{names[part]}.{name}"] = tensor
    return found


def authors_scores(weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The heads of seg_hrnet_ocr.py on concatenated branches: scores of the regions and of the classes."""

    def conv(key: str, x: Tensor) -> Tensor:
        weight = weights[f"{key}.weight"]
        return F.conv2d(x, weight, weights.get(f"{key}.bias"), padding=weight.shape[-1] // 2)

    def norm(key: str, x: Tensor) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(x, *(weights[f"{key}.{name}"] for name in names)))

    def transform(name: str, x: Tensor) -> Tensor:
        key = f"ocr_distri_head.object_context_block.f_{name}"
        x = norm(f"{key}.1.0", conv(f"{key}.0", x))
        return norm(f"{key}.3.0", conv(f"{key}.2", x)) if f"{key}.2.weight" in weights else x

    regions = conv("aux_head.3", norm("aux_head.1", conv("aux_head.0", x)))
    x = norm("conv3x3_ocr.1", conv("conv3x3_ocr.0", x))
    objects = torch.einsum("bkp,bcp->bck", regions.flatten(2).softmax(2), x.flatten(2))[..., None]
    query, key, value = transform("pixel", x), transform("object", objects), transform("down", objects)
    likeness = torch.einsum("bchw,bck->bhwk", query, key[..., 0]) * query.shape[1] ** -0.5
    context = transform("up", torch.einsum("bhwk,bck->bchw", likeness.softmax(-1), value[..., 0]))
    joined = conv("ocr_distri_head.conv_bn_dropout.0", torch.cat([context, x], 1))
    return regions, conv("cls_head", norm("ocr_distri_head.conv_bn_dropout.1.0", joined))


def test_the_authors_weights_give_the_authors_scores() -> None:
    torch.manual_seed(4)
    theirs = authors_heads(redrawn(ocrnet_hrnet(5, width=4, modules=(1, 1, 1), blocks=1)))
    model = from_hrnet_ocr({f"model.{key}": x for key, x in theirs.items()} | {"loss.weight": torch.ones(5)})
    assert model.built_by.builder == "ocrnet_hrnet"
    image, seen = torch.rand(1, 3, 65, 97), []
    model.context.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    with torch.no_grad():
        output = model(image)
        regions, scores = authors_scores(theirs, seen[0][0])
    torch.testing.assert_close(seen[0][1], regions, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.coarse, scores, atol=1e-4, rtol=1e-4)


def test_weights_of_another_network_are_refused() -> None:
    theirs = authors_heads(ocrnet_hrnet(5, width=4, modules=(1, 1, 1), blocks=1))
    with pytest.raises(ValueError, match=r"lacks 'cls_head.weight'"):
        from_hrnet_ocr({key: x for key, x in theirs.items() if not key.startswith("cls_head")})
    with pytest.raises(ValueError, match=r"regions.0.weight does not fit"):
        from_hrnet_ocr({key: x for key, x in theirs.items() if not key.startswith("aux_head.0")})
