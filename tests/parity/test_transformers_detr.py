"""DETR of transformers with random weights finds, draws and loses the same here."""

import re

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, DetrForSegmentation, ResNetConfig
from transformers.loss.loss_for_object_detection import (
    ForObjectDetectionLoss,
    ForSegmentationLoss,
    HungarianMatcher,
)

import pixelwise as pw
from pixelwise.checkpoint import load, save
from pixelwise.losses import loss_parts
from pixelwise.models import from_detr, from_transformers_detr
from pixelwise.models.detr.network import SetOfBoxes
from pixelwise.models.detr.set_loss import corners_of, match_queries, objects_of
from pixelwise.types import Batch, Boxes, ClassTable, MaskSet

CLASSES, QUERIES, WIDTH = 7, 12, 32
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def peer(kind: type = DetrForObjectDetection) -> nn.Module:
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=STAGES,
    )
    config = DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        d_model=WIDTH,
        num_queries=QUERIES,
        num_labels=CLASSES,
        encoder_layers=3,
        decoder_layers=3,
    )
    model = kind(config).eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.dtype.is_floating_point:
            continue
        if "query_position" in name:
            nn.init.normal_(tensor.data)
        elif tensor.ndim == 2:  # as they come, all queries say the same
            nn.init.xavier_uniform_(tensor.data, 1.5)
        elif tensor.ndim == 1 and ("var" in name or "weight" in name):
            nn.init.uniform_(tensor.data, 0.8, 1.2)
        elif tensor.ndim == 1:
            nn.init.normal_(tensor.data, std=0.1)
    return model


def theirs(model: nn.Module, ours: nn.Module, image: Tensor, sizes: list[tuple[int, int]] | None = None):
    """The peer on normalised images, black (the mean) where padded."""
    mask = torch.ones(len(image), *image.shape[-2:], dtype=torch.long)
    normal = ours.encoder.normalize(image)
    for one, known, (height, width) in zip(normal, mask, sizes or [], strict=bool(sizes)):
        known[height:], known[:, width:] = 0, 0
        one *= known
    with torch.no_grad():
        return model(normal, pixel_mask=mask)


def in_place(model: nn.Module) -> nn.Module:
    made = from_transformers_detr(model.state_dict())
    made.min_size = None
    return made


@pytest.fixture(scope="module")
def boxes_of_both() -> tuple[nn.Module, nn.Module]:
    model = peer()
    return model, in_place(model)


@pytest.fixture(scope="module")
def masks_of_both() -> tuple[nn.Module, nn.Module]:
    model = peer(DetrForSegmentation)
    return model, in_place(model)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (99, 33)])
def test_boxes_are_those_of_transformers_at_any_size(boxes_of_both, size: tuple[int, int]) -> None:
    model, ours = boxes_of_both
    image = torch.rand(1, 3, *size)
    expected = theirs(model, ours, image)
    with torch.no_grad():
        found = ours(image)
    torch.testing.assert_close(found.class_logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes, expected.pred_boxes, atol=2e-5, rtol=2e-5)
    assert found.class_logits.std(1).min() > 0.005, "the queries differ"
    assert found.boxes.std(1).max() > 0.002


def test_padding_is_neither_looked_at_nor_counted_in_positions(boxes_of_both) -> None:
    model, ours = boxes_of_both
    sizes = [(96, 130), (70, 75)]
    image = torch.rand(2, 3, 96, 130)
    expected = theirs(model, ours, image, sizes)
    with torch.no_grad():
        found, unaware = ours(image, sizes), ours(image)
        image[1, :, 70:], image[1, :, :, 75:] = 0.9, 0.1
        other = ours(image, sizes)
    torch.testing.assert_close(found.boxes, expected.pred_boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.class_logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes, other.boxes)
    assert not torch.allclose(found.boxes[1], unaware.boxes[1], atol=1e-4)


def test_masks_are_those_of_transformers(masks_of_both) -> None:
    model, ours = masks_of_both
    sizes = [(97, 130), (70, 75)]
    image = torch.rand(2, 3, 97, 130)
    expected = theirs(model, ours, image, sizes)
    with torch.no_grad():
        found = ours(image, sizes)
    torch.testing.assert_close(found.mask_logits, expected.pred_masks, atol=1e-3, rtol=1e-3)
    assert found.mask_logits.std() > 0.01
    assert (found.seen, found.seen_sizes) == ((97, 130), tuple(sizes))


def scenes(count: int = 2) -> tuple[SetOfBoxes, list[Boxes], list[dict[str, Tensor]]]:
    """Answers of three layers, objects in pixels, and the same objects as transformers has them."""
    random = torch.Generator().manual_seed(4)
    layers = [
        SetOfBoxes(
            torch.randn(count, QUERIES, CLASSES + 1, generator=random),
            0.1 + 0.5 * torch.rand(count, QUERIES, 4, generator=random),
            (80, 120),
        )
        for _ in range(3)
    ]
    corner = torch.rand(9, 2, generator=random) * 40
    boxes = torch.cat([corner, corner + 5 + torch.rand(9, 2, generator=random) * 30], 1)
    labels = torch.randint(0, CLASSES, (9,), generator=random)
    targets = [Boxes.of(boxes[:5], labels[:5]), Boxes.of(boxes[5:], labels[5:])][:count]
    shares = [objects_of(target, (80, 120)) for target in targets]
    wanted = [{"class_labels": one.classes, "boxes": one.boxes} for one in shares]
    last = SetOfBoxes(layers[2].class_logits, layers[2].boxes, (80, 120), (), tuple(layers[:2]))
    return last, targets, wanted


def config(**changes: object) -> DetrConfig:
    return DetrConfig(num_labels=CLASSES, decoder_layers=3, auxiliary_loss=True, **changes)


def test_queries_are_matched_as_in_transformers_and_no_matching_is_cheaper() -> None:
    output, targets, wanted = scenes()
    shares = [objects_of(target, (80, 120)) for target in targets]
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    expected = matcher({"logits": output.class_logits, "pred_boxes": output.boxes}, wanted)
    for image, (match, (queries, objects)) in enumerate(
        zip(match_queries(output, shares), expected, strict=True)
    ):
        assert match.queries.tolist() == queries.tolist()
        assert match.objects.tolist() == objects.tolist()
        cost = np.array(
            [[plain_cost(output, image, q, one) for one in boxes_in(shares[image])] for q in range(QUERIES)]
        )
        rows, columns = linear_sum_assignment(cost)
        assert (rows.tolist(), columns.tolist()) == (queries.tolist(), objects.tolist())


def boxes_in(target: Boxes) -> list[tuple[int, Tensor]]:
    return list(zip(target.classes.tolist(), target.boxes, strict=True))


def plain_cost(output: SetOfBoxes, image: int, query: int, one: tuple[int, Tensor]) -> float:
    """Eq. 1 of the paper, by hand."""
    label, true = one
    box = output.boxes[image, query]
    x1, y1, x2, y2 = corners_of(box).tolist()
    u1, v1, u2, v2 = corners_of(true).tolist()
    shared = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
    around = (max(x2, u2) - min(x1, u1)) * (max(y2, v2) - min(y1, v1))
    giou = shared / union - (around - union) / around
    probability = output.class_logits[image, query].softmax(0)[label].item()
    return 5 * (box - true).abs().sum().item() - probability - 2 * giou


def test_losses_are_those_of_transformers_and_those_of_earlier_layers_too() -> None:
    output, targets, wanted = scenes()
    parts = loss_parts(output, Batch.of(torch.zeros(2, 3, 80, 120), targets))
    layers = [*output.aux, output]
    total, losses, _ = ForObjectDetectionLoss(
        output.class_logits,
        wanted,
        torch.device("cpu"),
        output.boxes,
        config(),
        torch.stack([one.class_logits for one in layers]),
        torch.stack([one.boxes for one in layers]),
    )
    assert parts["class"].item() == pytest.approx(losses["loss_ce"].item(), rel=1e-5)
    assert parts["box"].item() == pytest.approx(5 * losses["loss_bbox"].item(), rel=1e-5)
    assert parts["giou"].item() == pytest.approx(2 * losses["loss_giou"].item(), rel=1e-5)
    assert sum(parts.values()).item() == pytest.approx(total.item(), rel=1e-5)
    assert parts["aux"] > 0


def test_losses_of_masks_are_those_of_transformers() -> None:
    from pixelwise.models.detr.panoptic import SetOfMasks

    output, _, _ = scenes(1)
    drawn = torch.randn(1, QUERIES, 20, 30, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(2, 80, 120, dtype=torch.bool)
    masks[0, 10:50, 20:70], masks[1, 40:77, 60:119] = True, True
    target = MaskSet.of(masks, torch.tensor([3, 1]))
    shares = objects_of(target, (80, 120))
    wanted = [{"class_labels": shares.classes, "boxes": shares.boxes, "masks": masks.float()}]
    parts = loss_parts(SetOfMasks(output, drawn, (80, 120)), Batch.of(torch.zeros(1, 3, 80, 120), [target]))
    _, losses, _ = ForSegmentationLoss(
        output.class_logits, wanted, torch.device("cpu"), output.boxes, drawn, DetrConfig(num_labels=CLASSES)
    )
    assert parts["mask"].item() == pytest.approx(losses["loss_mask"].item(), rel=1e-4)
    assert parts["dice"].item() == pytest.approx(losses["loss_dice"].item(), rel=1e-4)
    assert parts["class"].item() == pytest.approx(losses["loss_ce"].item(), rel=1e-4)


def authors_keys(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the names of the authors' files: attention in one matrix, norms without a counter."""
    found: dict[str, Tensor] = {}
    for key, x in weights.items():
        if "normalize" in key or key.endswith("num_batches_tracked"):
            continue
        key = re.sub(r"^encoder\.body\.", "backbone.0.body.", key)
        key = re.sub(r"^encoder_layers\.(\d)\.attention\.", r"transformer.encoder.layers.\1.self_attn.", key)
        key = re.sub(r"^encoder_layers\.", "transformer.encoder.layers.", key)
        key = re.sub(r"^layers\.(\d)\.self_attention\.", r"transformer.decoder.layers.\1.self_attn.", key)
        key = re.sub(
            r"^layers\.(\d)\.cross_attention\.", r"transformer.decoder.layers.\1.multihead_attn.", key
        )
        key = re.sub(r"^layers\.", "transformer.decoder.layers.", key)
        key = re.sub(r"\.feed_forward\.0\.", ".linear1.", re.sub(r"\.feed_forward\.3\.", ".linear2.", key))
        key = re.sub(r"\.norms\.(\d)\.", lambda found: f".norm{int(found[1]) + 1}.", key)
        key = re.sub(r"^norm\.", "transformer.decoder.norm.", key)
        key = re.sub(r"^input\.", "input_proj.", re.sub(r"^classes\.", "class_embed.", key))
        key = re.sub(r"^queries$", "query_embed.weight", key)
        key = re.sub(r"^boxes\.(\d)\.", lambda found: f"bbox_embed.layers.{int(found[1]) // 2}.", key)
        key = re.sub(r"^attention_maps\.(query|key)\.", lambda f: f"bbox_attention.{f[1][0]}_linear.", key)
        key = re.sub(r"^mask_head\.out\.", "mask_head.out_lay.", key)
        key = re.sub(r"^mask_head\.adapters\.(\d)\.", lambda f: f"mask_head.adapter{int(f[1]) + 1}.", key)
        key = re.sub(r"^mask_head\.blocks\.(\d)\.0\.", lambda f: f"mask_head.lay{int(f[1]) + 1}.", key)
        key = re.sub(r"^mask_head\.blocks\.(\d)\.1\.", lambda f: f"mask_head.gn{int(f[1]) + 1}.", key)
        found[key.replace(".out.", ".out_proj.")] = x
    for key in [key for key in found if re.search(r"\.query\.(weight|bias)$", key)]:
        stem, kind = re.split(r"\.query\.", key)
        found[f"{stem}.in_proj_{kind}"] = torch.cat(
            [found.pop(f"{stem}.{part}.{kind}") for part in ("query", "key", "value")]
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("builder", ["detr", "detr_panoptic"])
def test_the_keys_of_the_authors_files_are_read(builder: str) -> None:
    made = pw.build(builder, 5, width=32, num_queries=6, blocks=2).eval()
    keys = authors_keys(made.state_dict())
    assert "transformer.encoder.layers.0.self_attn.in_proj_weight" in keys
    if builder == "detr_panoptic":
        assert {"mask_head.lay1.weight", "bbox_attention.q_linear.weight"} <= set(keys)
        heads = ("bbox_attention.", "mask_head.")
        keys = {key if key.startswith(heads) else f"detr.{key}": x for key, x in keys.items()}
    read = from_detr(keys)
    for key, x in made.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(read.state_dict()[key], x, msg=key)


def test_a_state_dict_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="no DETR"):
        from_detr({"weight": torch.zeros(3)})


def test_a_network_that_was_read_can_be_saved(boxes_of_both, tmp_path) -> None:
    _, ours = boxes_of_both
    names = ClassTable.of(*"abcdefg")
    save(ours, tmp_path / "model.safetensors", names)
    again = load(tmp_path / "model.safetensors").model
    again.min_size = None
    image = torch.rand(1, 3, 64, 70)
    with torch.no_grad():
        assert torch.equal(again(image).boxes, ours(image).boxes)
