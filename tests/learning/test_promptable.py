"""A promptable network learns from simulated clicks; its scores say how many clicks it needs."""

import pytest
import torch

import pixelwise as pw
from pixelwise.draw import WRONG
from pixelwise.losses import AnsweredClicks, loss_parts
from pixelwise.losses.clicks import answer_losses, at_cells
from pixelwise.tasks import get_task
from pixelwise.tasks.clicks import anywhere, clicked, in_the_middle, noisy_boxes
from pixelwise.tasks.promptable import ClickedMasks
from pixelwise.training import Optimization
from pixelwise.types import (
    Batch,
    ClassTable,
    Embedding,
    MaskSet,
    PromptableModel,
    PromptMasks,
    Prompts,
    Sample,
)

TASK, TABLE = get_task("promptable"), ClassTable.of("object")


def scene(count: int = 2, side: int = 64) -> Batch:
    """Bright discs and a bright square on dark ground."""
    rng = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    images, targets = [], []
    for _ in range(count):
        masks = torch.stack(
            [
                torch.hypot(x - 18.0, y - 16.0) < 9,
                torch.hypot(x - 44.0, y - 40.0) < 13,
                (x > 6) & (x < 24) & (y > 40) & (y < 58),
            ]
        )
        images.append((masks.any(0) * 0.7 + 0.1 * torch.rand(3, side, side, generator=rng)).clamp(0, 1))
        targets.append(MaskSet.of(masks, torch.zeros(3).long()))
    return Batch.of(torch.stack(images), targets)


@pytest.mark.slow
def test_clicks_on_one_batch_are_learned() -> None:
    torch.manual_seed(0)
    model = pw.build("sam", image_size=64, patch=8, width=32, depth=2, decoder_width=32)
    batch, steps = scene(), 60
    optimizer, schedule = Optimization(steps, "adamw", lr=3e-3, weight_decay=0.0).make(model)
    model.train()
    losses = []
    for _ in range(steps):
        loss = torch.stack(list(loss_parts(TASK.forward(model, batch), batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    metrics = TASK.metrics(TABLE, {})
    with torch.no_grad():
        found = TASK.infer(model.eval(), batch.samples[0], TABLE, TASK.decoding)
    metrics.update([found], [batch.target[0]], ["a"])
    scores = metrics.compute()
    assert scores["mean_iou_5"] > 0.85
    assert scores["noc_85"] <= 8


class Answers(PromptableModel):
    """Squares around the points inside, without those around the points outside."""

    def embed(self, image: torch.Tensor) -> Embedding:
        return Embedding((image,), (image.shape[2], image.shape[3]))

    def masks(self, embedding: Embedding, prompts: Prompts) -> PromptMasks:
        height, width = embedding.size
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        scores = torch.full((len(prompts), 1, height, width), -1.0)
        for i, (points, labels) in enumerate(zip(prompts.points, prompts.point_labels, strict=True)):
            for (px, py), label in zip(points.tolist(), labels.tolist(), strict=True):
                near = ((x - px).abs() <= 6) & ((y - py).abs() <= 6)
                scores[i, 0][near] = 1.0 if label else -1.0
        return PromptMasks(scores, torch.ones(len(prompts), 1), embedding.size)


def test_each_click_is_where_the_mask_before_it_is_wrong() -> None:
    objects = torch.zeros(1, 40, 60, dtype=torch.bool)
    objects[0, 10:20, 5:50] = True
    model = Answers()
    seen = []

    def choose(regions: torch.Tensor) -> torch.Tensor:
        seen.append(regions.clone())
        return in_the_middle(regions)

    answers = clicked(model, model.embed(torch.zeros(1, 3, 40, 60)), objects, 4, choose)
    assert torch.equal(seen[0], objects)
    for before, region in zip(answers, seen[1:], strict=False):
        wrong = (before.coarse[:, 0] > 0) ^ objects
        assert (region & ~wrong).sum() == 0
        assert region.any()
    iou = [((a.coarse[:, 0] > 0) & objects).sum() / ((a.coarse[:, 0] > 0) | objects).sum() for a in answers]
    assert iou[-1] > iou[0]


def test_scores_count_clicks_and_objects_nobody_can_click_on_count_as_found() -> None:
    masks = torch.zeros(3, 40, 60, dtype=torch.bool)
    masks[0, 10:23, 10:23] = True
    masks[1, 10:23, 20:46] = True
    target = MaskSet.of(masks, torch.zeros(3).long())  # the third is empty
    sample = Sample(torch.zeros(3, 40, 60), target, "a")
    found = TASK.infer(WithParameter(), sample, TABLE, TASK.decoding)
    assert isinstance(found, ClickedMasks)
    assert len(found.rounds) == 8
    metrics = TASK.metrics(TABLE, {})
    metrics.update([found], [target], ["a"])
    scores = metrics.compute()
    assert scores["mean_iou"] == scores["mean_iou_8"] >= scores["mean_iou_3"] > scores["mean_iou_1"] > 0.5
    assert 1 <= scores["noc_85"] <= scores["noc_90"] <= 8
    assert found.prompts is not None
    shown = (found.prompts.point_labels >= 0).sum(1)  # clicks that a picture shows
    assert shown[0] == 1  # the square is what one click gives
    assert shown.double().mean() == pytest.approx((3 * scores["noc_85"] - 1) / 2)  # the third needs none


class WithParameter(Answers):
    def __init__(self) -> None:
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))


def test_clicks_lie_in_their_regions() -> None:
    torch.manual_seed(0)
    regions = torch.rand(5, 21, 33) > 0.8
    regions[:, 3, 4] = True
    for choose in (anywhere, in_the_middle):
        x, y = choose(regions).long().T
        assert regions[torch.arange(5), y, x].all()
    disc = torch.zeros(1, 21, 33, dtype=torch.bool)
    disc[0, 4:15, 8:19] = True
    assert in_the_middle(disc).tolist() == [[13, 9]]


def test_boxes_are_drawn_with_noise_inside_the_image() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[0.0, 0, 30, 20], [5, 5, 6, 6]])
    drawn = noisy_boxes(boxes, (20, 30))
    assert not torch.equal(drawn[0], boxes[0])
    assert (drawn >= 0).all()
    assert (drawn[:, 2:] > drawn[:, :2]).all()
    assert (drawn[:, 2:] <= torch.tensor([30, 20])).all()


def test_the_loss_takes_the_best_candidate_and_scores_every_iou() -> None:
    target = torch.zeros(1, 8, 8)
    target[0, 2:6, 2:6] = 1
    good = torch.where(target > 0, 9.0, -9.0)
    coarse = torch.stack([good, -good], 1)
    found = answer_losses(PromptMasks(coarse, torch.tensor([[1.0, 0.0]]), (8, 8)), target)[0]
    assert found[0] < 1e-3
    assert found[1] < 0.05
    assert found[2] == 0
    worse = answer_losses(PromptMasks(coarse, torch.tensor([[0.5, 0.5]]), (8, 8)), target)[0]
    assert worse[2] == pytest.approx(0.25)


def test_padding_does_not_count() -> None:
    output = PromptMasks(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1), (20, 40), (16, 32), (32, 32))
    cells, counts = at_cells(output, torch.ones(1, 20, 40))
    assert torch.equal(counts[:4], torch.ones(4, 8))
    assert not counts[4:].any()
    torch.testing.assert_close(cells[0], counts)


def test_an_image_without_objects_gives_no_loss_and_no_harm() -> None:
    model = pw.build("sam", image_size=64, patch=8, width=16, depth=1, decoder_width=32)
    empty = MaskSet.of(torch.zeros(0, 64, 64).bool(), torch.zeros(0).long())
    batch = Batch.of(torch.rand(2, 3, 64, 64), [empty, scene(1).target[0]])
    output = TASK.forward(model, batch)
    assert isinstance(output, AnsweredClicks)
    loss = torch.stack(list(loss_parts(output, batch).values())).sum()
    loss.backward()
    assert loss.isfinite()
    nothing = loss_parts(AnsweredClicks((), (), torch.zeros(())), batch)
    assert all(float(part) == 0 for part in nothing.values())


def test_a_picture_shows_what_was_pointed_at() -> None:
    torch.manual_seed(0)
    model = pw.build("sam", image_size=64, patch=8, width=16, depth=1, decoder_width=32)
    predictor = pw.Predictor(model)
    embedded = predictor.embed(torch.rand(3, 64, 64))
    points, labels = torch.tensor([[[20.0, 30], [50, 10], [40, 40]]]), torch.tensor([[1, 0, -1]])
    prompts = Prompts.of(points, labels, torch.tensor([[5.0, 5, 60, 50]]))
    picture = predictor.masks(embedded, prompts).overlay()
    plain = predictor.task.draw(
        embedded.image, predictor.masks(embedded, prompts).annotation.take(torch.arange(1)), predictor.classes
    )
    assert picture.getpixel((20, 30)) == (20, 150, 60)  # on the object
    assert picture.getpixel((50, 10)) == WRONG
    assert picture.getpixel((5, 20)) == (20, 150, 60)  # the box
    assert picture.getpixel((40, 40)) == plain.getpixel((40, 40))  # a point that is none
