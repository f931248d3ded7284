"""ShapeMask: shapes by k-means, how they are laid into regions, what is learned, what is found."""

import pytest
import torch

from pixelwise import build, decode
from pixelwise.losses import NoLoss, loss_parts
from pixelwise.models.shapemask import (
    NUM_PRIORS,
    SIZE,
    OfClass,
    ShapeHead,
    ShapeMask,
    ShapePriors,
    in_outer,
    outer,
    to_learn,
)
from pixelwise.ops import objects_in
from pixelwise.types import Batch, Boxes, MaskSet, Sample

TINY = {"encoder": "tiny", "width": 16, "min_size": None}


def tiny(**changes: object) -> ShapeMask:
    torch.manual_seed(0)
    return build("shapemask", 3, **(TINY | changes))


def scene() -> Sample:
    """A disc, a bar and a triangle of three colours on a dark wall."""
    image, masks = 0.2 + 0.05 * torch.rand(3, 96, 128), torch.zeros(3, 96, 128, dtype=torch.bool)
    y, x = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    masks[0] = (y - 26) ** 2 + (x - 30) ** 2 < 18**2
    masks[1, 34:58, 66:118] = True
    masks[2] = (y > 54) & (y < 92) & (x > 10) & (x - 10 < y - 54)
    for i in range(3):
        image[i, masks[i]] = 0.9
    return Sample(image, MaskSet.of(masks, torch.arange(3)), "scene")


def test_parameters_are_those_of_the_papers_layers() -> None:
    def conv(c_in: int, c_out: int, kernel: int) -> int:
        return c_out * (c_in * kernel**2 + 1)

    with torch.device("meta"):
        boxes, whole = build("retinanet", 80, encoder="resnet101"), build("shapemask_resnet101", 80)
    towers = 2 * 4 * (128 * 128 * 9 + 2 * 128)
    upsampled = 128 * 64 * 16 + 64
    heads = conv(128, 80 * NUM_PRIORS, 1) + conv(1, 128, 1) + conv(128, 80, 1) + conv(64, 80, 1) + upsampled
    own = conv(256, 128, 1) + towers + heads
    assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in boxes.parameters()) + own


def test_the_shapes_of_a_class_are_the_means_of_its_clusters_of_masks() -> None:
    priors = ShapePriors(2)
    before = priors.shapes.clone()
    generator = torch.Generator().manual_seed(0)
    kinds = torch.zeros(NUM_PRIORS, SIZE, SIZE)
    for number, kind in enumerate(kinds):  # bars at places of their own
        kind[number : number + 12] = 1
    order = torch.cat([torch.randperm(NUM_PRIORS, generator=generator) for _ in range(10)])
    masks = kinds[order] + 0.1 * torch.rand(len(order), SIZE, SIZE, generator=generator)
    priors.see(masks, torch.ones(len(order), dtype=torch.long))
    assert torch.equal(priors.shapes[0], before[0]), "masks of a class move its own shapes only"
    assert priors.counts[1].tolist() == [10.0] * NUM_PRIORS
    assert priors.counts[0].sum() == 0
    for place, number in enumerate(order[:NUM_PRIORS].tolist()):
        torch.testing.assert_close(priors.shapes[1, place], masks[order == number].mean(0))


def test_a_shape_lies_in_the_middle_of_the_outer_box() -> None:
    torch.testing.assert_close(outer(torch.tensor([[8.0, 8, 40, 40]])), torch.tensor([[4.0, 4, 44, 44]]))
    laid = in_outer(torch.ones(2, 1, SIZE, SIZE))
    assert laid.shape == (2, 1, SIZE, SIZE)
    # 32 cells cover 1.25 sides, so 25.6 of them cover the box, 3.2 are free on each side.
    assert laid.sum().item() / 2 == pytest.approx(25.6**2, rel=0.02)
    assert laid[:, :, :2].sum() == laid[:, :, :, -2:].sum() == 0


def test_only_the_mask_of_the_class_is_computed_as_a_convolution_would() -> None:
    layer, x, classes = OfClass(6, 4), torch.rand(3, 6, 5, 5), torch.tensor([2, 0, 3])
    whole = torch.nn.functional.conv2d(x, layer.weight[:, :, None, None], layer.bias)
    torch.testing.assert_close(layer(x, classes), whole[torch.arange(3), classes])


def test_a_shape_is_the_weighed_mean_and_the_instance_is_taken_away() -> None:
    torch.manual_seed(0)
    head = ShapeHead(8, 3).eval()
    head.priors.shapes.copy_(torch.rand_like(head.priors.shapes))
    torch.nn.init.normal_(head.weights.weight, std=3.0)
    x, classes = torch.rand(2, 8, SIZE, SIZE), torch.tensor([2, 1])
    seen = []
    handle = head.fine.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    shapes, coarse, fine = head(x, classes)
    handle.remove()
    assert (coarse.shape, fine.shape) == ((2, SIZE, SIZE), (2, 4 * SIZE, 4 * SIZE))
    inner = in_outer(torch.ones(1, 1, SIZE, SIZE))[0, 0]
    for number, label in enumerate(classes.tolist()):
        mean = (x[number] * inner).sum((1, 2)) / inner.sum()
        rows = slice(label * NUM_PRIORS, (label + 1) * NUM_PRIORS)
        weights = (head.weights.weight[rows] @ mean + head.weights.bias[rows]).softmax(0)
        expected = (weights[:, None, None] * head.priors.shapes[label]).sum(0)
        torch.testing.assert_close(shapes[number], expected)
        conditioned = x[number] + head.embed(in_outer(shapes[number : number + 1, None]))[0]
        chance = coarse[number].sigmoid()
        chance = torch.where(chance > 0.5, chance, 0.0)
        instance = (conditioned * chance).sum((1, 2)) / chance.sum().clamp(min=1e-6)
        torch.testing.assert_close(seen[0][number], conditioned - instance[:, None, None])


def test_boxes_are_learned_from_moved_a_little_and_at_most_eight_per_image() -> None:
    torch.manual_seed(0)
    corner = 100 * torch.rand(20, 2)
    boxes = torch.cat([corner, corner + 40], 1)
    boxes[3, 2] = boxes[3, 0]  # without an area
    crowd = torch.arange(20) == 5
    objects = objects_in([Boxes(boxes, torch.zeros(20).long(), torch.ones(20), crowd)] * 2)
    places = to_learn(objects)
    assert places.image.bincount().tolist() == [8, 8]
    assert not {3, 5} & set(places.target.tolist())
    moved = places.boxes - boxes[places.target]
    assert 0.2 < moved.std() < 3
    assert moved.abs().max() < 8


def test_an_output_of_evaluation_has_no_loss_and_nothing_found_decodes_to_nothing() -> None:
    model, batch = tiny().eval(), Batch.collate([scene()])
    model.detector.score_threshold = 0.0
    with torch.no_grad():
        output = model(batch.image)
    with pytest.raises(NoLoss):
        loss_parts(output, batch)
    (found,) = decode.instances(output)
    assert (len(found), found.size) == (100, (96, 128))
    model.detector.score_threshold = 1.0
    with torch.no_grad():
        output = model(torch.rand(2, 3, 65, 97))
    assert [len(one) for one in decode.boxes(output)] == [0, 0]
    assert [(len(one), one.size) for one in decode.instances(output)] == [(0, (65, 97))] * 2


def test_boxes_without_masks_are_refused() -> None:
    model, sample = tiny().train(), scene()
    batch = Batch.collate([Sample(sample.image, sample.target.boxes, "boxes")])
    with pytest.raises(ValueError, match="ShapeMask learns from MaskSet, got Boxes"):
        model(*model.inputs(batch))


@pytest.mark.slow
def test_one_image_is_learned_by_heart() -> None:
    batch = Batch.collate([scene()])
    model = tiny(width=32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        loss = torch.stack(list(loss_parts(model(*model.inputs(batch)), batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    with torch.no_grad():
        (found,) = decode.instances(model.eval()(batch.image))
    sure = found.take(found.scores > 0.5)
    assert sorted(set(sure.classes.tolist())) == [0, 1, 2]
    for mask, label in zip(sure.dense, sure.classes, strict=True):
        wanted = batch.annotations[0].masks[label]
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.8
