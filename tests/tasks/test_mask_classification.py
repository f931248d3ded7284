"""Mask classification: one network for semantic, instance and panoptic segmentation, by its output alone."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import pixelwise as pw
from pixelwise import decode, merging
from pixelwise.losses import PaperCriterion, loss_parts, mask_set_of
from pixelwise.tasks import get_task
from pixelwise.types import (
    Annotation,
    Batch,
    Boxes,
    ClassMasks,
    ClassTable,
    LabelMap,
    MaskLogits,
    MaskModel,
    MaskSet,
    PanopticMap,
    Sample,
)

HEIGHT, WIDTH = 24, 40
TABLE = ClassTable(("sky", "car", "dog"), ((90, 150, 230), (200, 0, 0), (120, 80, 0)), things=(1, 2))


class QueryNet(MaskModel):
    """A few queries over features of pixels and of their places, with one earlier layer."""

    minimum_size = 8

    def __init__(self, num_classes: int, queries: int = 6, width: int = 32) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pixels = nn.Sequential(nn.Conv2d(5, 2 * width, 1), nn.ReLU(), nn.Conv2d(2 * width, width, 1))
        self.queries = nn.Parameter(torch.randn(2, queries, width) / width**0.5)
        self.classes = nn.Linear(width, num_classes + 1)

    def forward(self, image: Float[Tensor, "b c H W"]) -> MaskLogits:
        b, _, height, width = image.shape
        y, x = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        place = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(b, -1, -1, -1)
        features = self.pixels(torch.cat([image, place], 1))
        size = (height, width)
        earlier, last = (
            MaskLogits(
                self.classes(queries).expand(b, -1, -1),
                torch.einsum("qc,bchw->bqhw", queries, features),
                size,
            )
            for queries in self.queries
        )
        return MaskLogits(last.class_logits, last.mask_logits, size, (earlier,) if self.training else ())


def targets() -> tuple[Float[Tensor, "3 H W"], dict[str, Annotation]]:
    """One image with a sky, two cars and a dog, and what each task says of it."""
    id_map = torch.full((HEIGHT, WIDTH), 9)
    id_map[12:20, 2:12], id_map[12:20, 16:26], id_map[10:22, 30:38] = 1, 2, 3
    segments = PanopticMap.of(id_map, torch.tensor([9, 1, 2, 3]), torch.tensor([0, 1, 1, 2]))
    masks = torch.stack([id_map == number for number in (1, 2, 3)])
    labels = torch.tensor([0, 1, 1, 2, 0, 0, 0, 0, 0, 0])[id_map]
    image = torch.tensor(TABLE.colors)[labels].permute(2, 0, 1) / 255
    things = MaskSet.of(masks, torch.tensor([1, 1, 2]))
    return image, {"semantic": LabelMap(labels), "instance": things, "panoptic": segments}


@pytest.mark.parametrize(
    "name", ["panoptic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("semantic", "instance"))]
)
def test_one_network_learns_each_of_its_tasks(name: str) -> None:
    image, annotations = targets()
    torch.manual_seed(1)
    model, task = QueryNet(3), get_task(name)
    batch = Batch.collate([Sample(image, annotations[name], "scene")])
    criterion, optimizer = PaperCriterion(), torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(100):
        loss = criterion(model(*model.inputs(batch)), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prediction = pw.Predictor(model, TABLE, task=name)(image).annotation
    assert type(prediction) is task.annotation
    metrics = task.metrics(TABLE, task.scoring)
    metrics.update([prediction], [annotations[name]], ["scene"])
    assert metrics.compute()[task.monitor] > 0.9


def logits_of(masks: Tensor, strength: float = 8.0) -> Tensor:
    return (masks.float() * 2 - 1) * strength


def class_logits(*labels: int, k: int = 3) -> Tensor:
    """Sure of these classes; k is "no object"."""
    return 12.0 * torch.nn.functional.one_hot(torch.tensor(labels), k + 1).float()[None]


def test_labels_sum_class_times_mask_over_queries_without_no_object() -> None:
    class_scores = torch.randn(1, 5, 4)
    mask_scores = torch.randn(1, 5, 6, 7)
    found = decode.labels(MaskLogits(class_scores, mask_scores, (6, 7))).labels
    p, m = class_scores.softmax(-1)[0, :, :3], mask_scores[0].sigmoid()
    expected = sum(p[q][:, None, None] * m[q] for q in range(5)).argmax(0)
    assert torch.equal(found[0], expected)
    assert decode.labels(MaskLogits(class_scores, mask_scores, (12, 21))).labels.shape == (1, 12, 21)


def test_instances_are_pairs_of_query_and_class_scored_by_both() -> None:
    _, annotations = targets()
    things = annotations["instance"]
    masks = torch.cat([things.masks, torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)])
    output = MaskLogits(class_logits(1, 1, 2, 0), logits_of(masks)[None], (HEIGHT, WIDTH))
    (found,) = decode.instances(output)
    assert len(found) == 9  # three queries with a pixel, three classes each
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert sorted(found.classes[:3].tolist()) == [1, 1, 2]
    best = torch.tensor(12.0).exp() / (torch.tensor(12.0).exp() + 3)
    assert found.scores[0] == pytest.approx(float(best * torch.tensor(8.0).sigmoid()))
    (two,) = decode.instances(output, 2)
    assert len(two) <= 2


class Largest(TorchDispatchMode):
    """Counts the numbers in the largest tensor of floats that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor) and one.is_floating_point():
                self.numbers = max(self.numbers, one.numel())
        return made


@pytest.mark.parametrize("size", [(97, 65), (20, 27), (7, 9), (1, 40)])
def test_decoding_in_bands_of_rows_is_that_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    output = MaskLogits(2 * torch.randn(2, 12, 4), 4 * torch.randn(2, 12, 11, 13), size)
    limits = decode.Merging(min_score=0.2, max_overlap=0.9, min_stuff_area=3)

    def decoded() -> tuple[LabelMap, tuple[MaskSet, ...], tuple[PanopticMap, ...]]:
        return decode.labels(output), decode.instances(output), decode.panoptic(output, TABLE, limits)

    whole = decoded()
    assert any(len(one.ids) for one in whole[2])
    monkeypatch.setattr(merging, "_BAND", 5 * 12 * size[1])
    with Largest() as largest:
        bands = decoded()
    assert largest.numbers <= max(5 * 12 * size[1], 12 * 11 * 13)
    assert (bands[0].labels == whole[0].labels).float().mean() > 0.999
    for part, all_of_it in zip(bands[1], whole[1], strict=True):
        torch.testing.assert_close(part.scores, all_of_it.scores)
        assert (part.masks == all_of_it.masks).float().mean() > 0.999
    for part, all_of_it in zip(bands[2], whole[2], strict=True):
        assert part.ids.tolist() == all_of_it.ids.tolist()
        assert part.classes.tolist() == all_of_it.classes.tolist()
        assert (part.id_map == all_of_it.id_map).float().mean() > 0.999


def test_a_table_without_things_is_refused_before_anything_is_segmented() -> None:
    stuff = ClassTable.of("sky", "road", "tree")
    with pytest.raises(
        ValueError, match=r"panoptic needs classes that are things, .* sky, road, tree none is"
    ):
        pw.Predictor(QueryNet(3), stuff, task="panoptic")
    assert pw.Predictor(QueryNet(3), stuff, task="semantic").task.name == "semantic"


def test_segments_of_stuff_are_one_and_those_of_things_are_not() -> None:
    left, right = torch.zeros(2, 4, 8, dtype=torch.bool)
    left[:, :4] = right[:, 4:] = True
    size = (4, 8)
    masks = logits_of(torch.stack([left, right]))[None]
    (sky,) = decode.panoptic(MaskLogits(class_logits(0, 0), masks, size), TABLE)
    assert (sky.ids.tolist(), sky.classes.tolist()) == ([1], [0])
    assert (sky.id_map == 1).all()
    (cars,) = decode.panoptic(MaskLogits(class_logits(1, 1), masks, size), TABLE)
    assert cars.classes.tolist() == [1, 1]
    assert (cars.id_map[:, :4] == 1).all()
    assert (cars.id_map[:, 4:] == 2).all()


def test_a_stuff_that_comes_back_does_not_give_two_things_one_id() -> None:
    # Queries: stuff, thing, the same stuff, another thing.
    masks = torch.zeros(4, 4, 8, dtype=torch.bool)
    for query in range(4):
        masks[query, :, 2 * query : 2 * query + 2] = True
    output = MaskLogits(class_logits(0, 1, 0, 2), logits_of(masks)[None], (4, 8))
    (found,) = decode.panoptic(output, TABLE)
    assert found.id_map[0].tolist() == [1, 1, 2, 2, 1, 1, 3, 3]
    assert found.classes.tolist() == [0, 1, 2]


def test_unsure_and_hidden_queries_and_pixels_leave_void() -> None:
    whole = torch.ones(4, 8, dtype=torch.bool)
    part = whole.clone()
    part[:, 3:] = False
    size = (4, 8)
    unsure = MaskLogits(class_logits(1) / 12, logits_of(whole[None])[None], size)
    (nothing,) = decode.panoptic(unsure, TABLE)
    assert len(nothing.ids) == 0
    assert (nothing.id_map == 0).all()
    (something,) = decode.panoptic(unsure, TABLE, decode.Merging(min_score=0.3))
    assert something.classes.tolist() == [1]
    # A stronger mask takes 3 of 8 columns of the other: that keeps 62 %, less than 80 %.
    hidden = MaskLogits(class_logits(1, 2), torch.stack([logits_of(part), logits_of(whole, 1.0)])[None], size)
    (one,) = decode.panoptic(hidden, TABLE)
    assert one.classes.tolist() == [1]
    assert (one.id_map[:, 3:] == 0).all()
    (both,) = decode.panoptic(hidden, TABLE, decode.Merging(max_overlap=0.5))
    assert both.classes.tolist() == [1, 2]
    (small,) = decode.panoptic(
        MaskLogits(class_logits(0), logits_of(part[None])[None], size),
        TABLE,
        decode.Merging(min_stuff_area=13),
    )
    assert len(small.ids) == 0
    assert (small.id_map == 0).all()


def test_targets_of_every_task_become_masks_with_their_classes() -> None:
    _, annotations = targets()
    size = (HEIGHT + 2, WIDTH + 1)
    sets = {name: mask_set_of(target, 3, size) for name, target in annotations.items()}
    assert {name: masks.classes.tolist() for name, (masks, _) in sets.items()} == {
        "semantic": [0, 1, 2],
        "instance": [1, 1, 2],
        "panoptic": [0, 1, 1, 2],
    }
    for masks, known in sets.values():
        assert masks.dense.shape[1:] == known.shape == size
        assert known[:HEIGHT, :WIDTH].all()
        assert not known[HEIGHT:].any()
        assert not masks.dense[:, HEIGHT:].any()
    layers = torch.tensor([[[0, 1]], [[1, 1]], [[0, 0]], [[255, 0]]])
    masks, known = mask_set_of(ClassMasks(layers), 4, (1, 2))
    assert (masks.classes.tolist(), known.tolist()) == ([0, 1], [[False, True]])
    void = PanopticMap.of(torch.tensor([[0, 4]]), torch.tensor([4]), torch.tensor([2]), torch.tensor([True]))
    masks, known = mask_set_of(void, 3, (1, 2))
    assert (masks.is_crowd.tolist(), known.tolist()) == ([True], [[False, True]])
    with pytest.raises(ValueError, match="cannot learn from Boxes"):
        mask_set_of(Boxes.of(torch.zeros(1, 4), torch.zeros(1).long()), 3, (1, 2))


def test_earlier_layers_have_a_part_of_the_loss_and_padding_has_none() -> None:
    image, annotations = targets()
    model = QueryNet(3)
    segments = annotations["panoptic"]
    # The smaller image lacks the dog.
    cut = PanopticMap.of(segments.id_map[:20, :30], segments.ids[:3], segments.classes[:3])
    batch = Batch.collate([Sample(image, segments, "a"), Sample(image[:, :20, :30], cut, "b")])
    torch.manual_seed(0)
    parts = loss_parts(model(batch.image), batch)
    assert list(parts) == ["class", "mask", "dice", "aux"]
    assert all(torch.isfinite(part) for part in parts.values())
    torch.manual_seed(0)
    assert "aux" not in loss_parts(model.eval()(batch.image), batch)
