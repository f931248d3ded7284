"""Panoptic-DeepLab, UPSNet and the panoptic DETR: what they learn from, what they say, gradients, sizes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import pixelwise as pw
from pixelwise import decode
from pixelwise.checkpoint import load, save
from pixelwise.losses import PaperCriterion, loss_parts
from pixelwise.models.panoptic_deeplab import (
    CenterLogits,
    bootstrapped_cross_entropy,
    center_targets,
)
from pixelwise.models.upsnet.decoding import pasted
from pixelwise.rle import paste_masks
from pixelwise.types import Batch, ClassTable, MaskSet, Model, PanopticMap, voc_palette

THINGS = (1, 3)
TABLE = ClassTable(("sky", "car", "road", "dog"), voc_palette(4), things=THINGS)
SMALL: dict[str, dict[str, object]] = {
    "panoptic_deeplab": {"width": 16},
    "upsnet": {"width": 16, "min_size": None},
    "detr_panoptic": {"width": 16, "min_size": None, "num_queries": 250, "blocks": 2},
}


def network(name: str) -> Model:
    torch.manual_seed(0)
    known = {} if name == "detr_panoptic" else {"things": THINGS}
    made = pw.build(name, 4, encoder="tiny", **known, **SMALL[name])
    for parameter in made.parameters():
        if parameter.min() == parameter.max():  # layers that begin with a constant would show little
            nn.init.normal_(parameter, parameter.min().item(), 0.1)
    return made


def squares(count: int, height: int = 96, width: int = 128) -> PanopticMap:
    """Sky over road, some void, and things in a grid, cars and dogs in turn."""
    id_map = torch.full((height, width), 1)
    id_map[height // 2 :] = 2
    id_map[:3] = 0
    classes = [0, 2]
    for number in range(count):
        y, x = 4 + 6 * (number // 20), 6 * (number % 20)
        side = 5 if count > 1 else 40
        id_map[y : y + side, x : x + side] = number + 3
        classes.append(THINGS[number % 2])
    return PanopticMap.of(id_map, torch.arange(1, count + 3), torch.tensor(classes))


def batch_of(target: PanopticMap) -> Batch:
    colors = torch.rand(len(target.ids) + 1, 3, generator=torch.Generator().manual_seed(0))
    return Batch.of(colors[target.id_map].permute(2, 0, 1)[None].contiguous(), [target])


@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_finite_and_reach_every_part_whatever_the_number_of_objects(
    name: str, count: int
) -> None:
    made = network(name).train()
    data = batch_of(squares(count, 72 if count > 1 else 64, 128 if count > 1 else 96))
    parts = PaperCriterion().parts(made(*made.inputs(data)), data)
    assert all(part.isfinite() for part in parts.values()), parts
    torch.stack(list(parts.values())).sum().backward()
    grads = {key: p.grad for key, p in made.named_parameters()}
    assert not [key for key, grad in grads.items() if grad is not None and not grad.isfinite().all()]
    assert not [key for key, grad in grads.items() if grad is None]
    idle = {key.partition(".")[0] for key in grads}
    idle -= {key.partition(".")[0] for key, grad in grads.items() if grad is not None and grad.any()}
    assert idle == ({"offset"} if name == "panoptic_deeplab" and not count else set())


@pytest.mark.parametrize("name", SMALL)
def test_segments_fill_the_image_and_have_ids_of_their_own(name: str) -> None:
    made = network(name).eval()
    if name == "panoptic_deeplab":
        nn.init.constant_(made.center[1].bias, 0.5)  # so that there are centres
    merging = decode.Merging(min_score=0.01, min_stuff_area=1)
    with torch.no_grad():
        output = made(torch.rand(2, 3, 65, 97))
    for found in decode.panoptic(output, TABLE, merging):
        assert found.id_map.shape == (65, 97)
        assert set(found.id_map.unique().tolist()) - {0} == set(found.ids.tolist())
        assert len(set(found.ids.tolist())) == len(found.ids) > 0
    for masks in () if name == "panoptic_deeplab" else decode.instances(output):
        assert masks.size == (65, 97)
        assert (masks.scores.diff() <= 0).all()


@pytest.mark.parametrize("name", ["panoptic_deeplab", "upsnet"])
def test_a_table_with_other_things_is_refused(name: str) -> None:
    made = network(name).eval()
    with torch.no_grad(), pytest.raises(ValueError, match="the model knows the things"):
        decode.panoptic(made(torch.rand(1, 3, 64, 64)), replace(TABLE, things=(0,)))
    with pytest.raises(ValueError, match=r"things must be labels in 0\.\.3"):
        pw.build(name, 4, things=(4,), encoder="tiny")


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_network_comes_back(name: str, tmp_path) -> None:
    made = network(name).eval()
    save(made, tmp_path / "model.safetensors", TABLE)
    again = load(tmp_path / "model.safetensors").model.eval()
    image = torch.rand(1, 3, 64, 70)
    merging = decode.Merging(min_score=0.01, min_stuff_area=1)
    with torch.no_grad():
        first, second = (decode.panoptic(one(image), TABLE, merging)[0] for one in (made, again))
    assert torch.equal(first.id_map, second.id_map)


@pytest.mark.parametrize(
    "name, classes, published",
    [
        ("detr_resnet50", 91, 41_524_768),
        ("detr_resnet101", 91, 60_464_672),
        ("detr_panoptic_resnet50", 250, 42_899_288),
        ("detr_panoptic_resnet101", 250, 61_839_192),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(
    name: str, classes: int, published: int
) -> None:
    with torch.device("meta"):
        made = pw.build(name, classes)
    # The authors' batch norms are frozen, and not counted.
    norms = {id(p) for m in made.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert sum(p.numel() for p in made.parameters() if id(p) not in norms) == published


def test_dc5_has_the_weights_of_detr_and_a_finer_map() -> None:
    with torch.device("meta"):
        plain, dilated = pw.build("detr_resnet50", 91), pw.build("detr_resnet50_dc5", 91)
        assert {k: v.shape for k, v in plain.state_dict().items()} == {
            k: v.shape for k, v in dilated.state_dict().items()
        }
    assert (plain.encoder.strides.c5, dilated.encoder.strides.c5) == (32, 16)


# --- Panoptic-DeepLab -----------------------------------------------------------------------------


def test_panoptic_deeplab_on_xception_has_the_size_that_the_paper_tells() -> None:
    with torch.device("meta"):
        made = pw.build("panoptic_deeplab_xception71", 19)
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(46.72e6, rel=0.005)


def test_targets_of_centres_by_hand() -> None:
    id_map = torch.zeros(20, 24, dtype=torch.long)
    id_map[:, 2:] = 5
    id_map[4:9, 6:15], id_map[12:16, 16:20] = 7, 8
    target = PanopticMap.of(
        id_map, torch.tensor([5, 7, 8]), torch.tensor([0, 1, 3]), torch.tensor([False, False, True])
    )
    found = center_targets(target, THINGS, (22, 24), sigma=2.0)
    assert found.labels[4, 6] == 1
    assert found.labels[13, 17] == 3
    assert (found.labels[20:] == 255).all(), "beyond the image"
    assert (found.labels[:, :2] == 255).all(), "void"
    assert found.heatmap[6, 10] == 1
    assert found.heatmap[6, 12] == pytest.approx(float(torch.tensor(-0.5).exp()))
    assert found.heatmap[13:, 16:].max() == 0, "no centre of a crowd"
    assert found.offsets[:, 4, 6].tolist() == [2, 4]
    assert found.offsets[:, 8, 14].tolist() == [-2, -4]
    assert torch.equal(found.on_things[:20], id_map == 7)
    assert torch.equal(found.known[:20], (id_map == 5) | (id_map == 7))
    assert torch.equal(found.weights[:20] == 3, id_map == 7), "it is small"
    with pytest.raises(ValueError, match="PanopticMap"):
        center_targets(MaskSet.of(torch.ones(1, 2, 2).bool(), torch.tensor([1])), THINGS, (2, 2))


def test_the_bootstrapped_cross_entropy_takes_the_largest_weighted_losses() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5, 6), torch.randint(0, 3, (2, 5, 6))
    labels[0, 0] = 255
    weights = torch.where(torch.rand(2, 5, 6) < 0.5, 1.0, 3.0)
    losses = []
    for image in range(2):
        for y in range(5):
            for x in range(6):
                label = int(labels[image, y, x])
                p = logits[image, :, y, x].softmax(0)
                losses.append(0.0 if label == 255 else -float(weights[image, y, x] * p[label].log()))
    expected = sum(sorted(losses)[-12:]) / 12
    assert bootstrapped_cross_entropy(logits, labels, weights, 0.2).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_perfect_answers_of_panoptic_deeplab_give_the_target_back_and_lose_nothing() -> None:
    target = squares(1)
    wanted = center_targets(target, THINGS, (96, 128))
    named = wanted.labels.masked_fill(wanted.labels == 255, 0)
    scores = 50.0 * torch.nn.functional.one_hot(named, 4).permute(2, 0, 1)[None]
    output = CenterLogits(scores, wanted.heatmap[None, None], wanted.offsets[None], (96, 128), THINGS)
    parts = loss_parts(output, batch_of(target))
    assert sum(parts.values()).item() == pytest.approx(0, abs=1e-4)
    found = decode.panoptic(output, TABLE, decode.Merging(min_stuff_area=400))[0]
    thing = found.ids[found.classes == 1]
    assert torch.equal((found.id_map == thing)[wanted.known], (target.id_map == 3)[wanted.known])
    assert sorted(found.classes.tolist()) == [0, 1, 2]


# --- UPSNet ---------------------------------------------------------------------------------------


def test_scores_are_drawn_into_boxes_as_masks_are_pasted() -> None:
    torch.manual_seed(0)
    masks = nn.functional.interpolate(torch.rand(3, 1, 4, 4), (28, 28), mode="bilinear")[:, 0]
    boxes = torch.tensor([[4.0, 6, 40, 30], [0, 0, 48, 40], [-6, 20, 20, 47]])
    drawn, inside = pasted(masks, boxes, (40, 48))
    assert inside[0].nonzero().amin(0).tolist() == [6, 4]
    assert inside[0].nonzero().amax(0).tolist() == [29, 39]
    assert not drawn[~inside].any()
    theirs = torch.from_numpy(paste_masks(masks, boxes, 40, 48, 0.5).decode())
    agree = ((drawn > 0.5) == theirs)[inside].float().mean()
    assert agree > 0.95, "they differ in how boxes are rounded"
    constant, _ = pasted(torch.full((1, 28, 28), 7.0), boxes[:1], (40, 48))
    assert set(constant.round(decimals=4).unique().tolist()) == {0.0, 7.0}


def test_hidden_instances_and_crowds_are_what_the_unknown_channel_learns() -> None:
    from pixelwise.models.upsnet.loss import VOID_LABEL, _unified_labels

    number = torch.tensor([[-1, -1, 0, 1, 2, -1]])
    labels = torch.tensor([[0, 2, 1, 3, 1, 255]])
    shown = torch.tensor([2, 0])  # the second instance is hidden
    found = _unified_labels(number, labels, shown, 3, [0, 2])
    assert found.tolist() == [[0, 1, 3, 4, 2, VOID_LABEL]]


def test_the_deformable_convolution_begins_as_a_plain_one() -> None:
    from pixelwise.models.upsnet.upsnet import DeformableConv

    torch.manual_seed(0)
    layer, x = DeformableConv(4, 6), torch.randn(1, 4, 9, 11)
    plain = nn.functional.relu(nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
    torch.testing.assert_close(layer(x), plain, atol=1e-5, rtol=1e-5)
