"""DETR: what it learns from, gradients whatever the number of objects, boxes, images of different size."""

import pytest
import torch
from torch import nn

import pixelwise as pw
from pixelwise import decode
from pixelwise.losses import PaperCriterion, loss_parts
from pixelwise.models.detr.network import SetOfBoxes
from pixelwise.models.detr.set_loss import objects_of
from pixelwise.models.detr.transformer import sine_positions
from pixelwise.types import Batch, Boxes, LabelMap

SMALL = {"encoder": "tiny", "width": 16, "blocks": 2, "min_size": None}


def objects(count: int) -> Boxes:
    corner = torch.stack([torch.arange(count) % 20 * 6.0, torch.arange(count) // 20 * 6.0], 1)
    return Boxes.of(torch.cat([corner, corner + 5], 1), torch.arange(count) % 3)


@pytest.mark.parametrize("count, queries", [(0, 8), (1, 8), (200, 250), (200, 8)])
def test_gradients_are_finite_and_reach_every_weight(count: int, queries: int) -> None:
    torch.manual_seed(0)
    made = pw.build("detr", 3, num_queries=queries, **SMALL).train()
    data = Batch.of(torch.rand(1, 3, 64, 128), [objects(count)])
    parts = PaperCriterion().parts(made(*made.inputs(data)), data)
    assert set(parts) == {"class", "box", "giou", "aux"}
    torch.stack(list(parts.values())).sum().backward()
    grads = {key: p.grad for key, p in made.named_parameters()}
    assert not [key for key, grad in grads.items() if grad is None or not grad.isfinite().all()]
    # Queries start at 0, so that the first layer finds nothing among them.
    idle = [key for key, grad in grads.items() if not grad.any() and not key.endswith("bias")]
    first = ["query", "key", "value"]
    allowed = {f"layers.0.self_attention.{part}.weight" for part in first}
    allowed |= {f"boxes.{number}.weight" for number in (0, 2, 4)} if not count else set()
    assert set(idle) <= allowed


def test_crowds_and_boxes_without_area_are_not_learned() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 60], [5, 5, 5, 9], [0, 0, 40, 40]])
    target = Boxes.of(boxes, torch.tensor([2, 0, 1]), is_crowd=torch.tensor([False, False, True]))
    found = objects_of(target, (80, 40))
    assert found.classes.tolist() == [2]
    assert found.boxes.tolist() == [[0.5, 0.5, 0.5, 0.5]]
    with pytest.raises(ValueError, match="Boxes or a MaskSet, got LabelMap"):
        objects_of(LabelMap(torch.zeros(2, 2).long()), (2, 2))


def test_boxes_come_back_in_pixels_of_each_image_best_first() -> None:
    logits = torch.tensor([[[0.0, 2, 0, 0], [9, 0, 0, 0], [0, 0, 1, 5]]]).expand(2, -1, -1)
    boxes = torch.tensor([[[0.5, 0.5, 1, 1], [0.25, 0.5, 0.5, 0.2], [0.1, 0.1, 0.1, 0.1]]]).expand(2, -1, -1)
    found = decode.boxes(SetOfBoxes(logits, boxes, (100, 200), ((100, 200), (50, 40))))
    assert found[0].classes.tolist() == [0, 1, 2]
    torch.testing.assert_close(found[0].boxes[0], torch.tensor([0.0, 40, 100, 60]))
    torch.testing.assert_close(found[1].boxes[1], torch.tensor([0.0, 0, 40, 50]))
    assert found[0].scores.tolist() == pytest.approx(
        [logits[0, query].softmax(0)[label].item() for query, label in ((1, 0), (0, 1), (2, 2))]
    )


def test_a_perfect_answer_loses_only_the_doubt_of_the_classes() -> None:
    target = objects(2)
    shares = objects_of(target, (64, 128))
    logits = torch.full((1, 3, 4), -20.0)
    logits[0, 0, 1], logits[0, 1, 3], logits[0, 2, 0] = 20, 20, 20
    boxes = torch.stack([shares.boxes[1], torch.full((4,), 0.5), shares.boxes[0]])[None]
    parts = loss_parts(SetOfBoxes(logits, boxes, (64, 128)), Batch.of(torch.zeros(1, 3, 64, 128), [target]))
    assert sum(parts.values()).item() == pytest.approx(0, abs=1e-5)


def test_images_of_different_size_in_a_batch_are_seen_as_alone() -> None:
    torch.manual_seed(0)
    made = pw.build("detr", 3, num_queries=5, **{**SMALL, "min_size": 64}).eval()
    for parameter in made.parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter, 1.5)
    sizes = [(70, 100), (90, 64)]
    image = torch.rand(2, 3, 90, 100)
    with torch.no_grad():
        seen = made.prepare(image, sizes)
        together = made(image, sizes)
        alone = [made(one[None, :, :h, :w]) for one, (h, w) in zip(image, sizes, strict=True)]
    assert seen.sizes == ((64, 91), (90, 64))
    assert seen.valid is not None
    padding = ~seen.valid[0]
    assert (seen.images[0][:, padding] == made.encoder.normalize.mean[0, :, 0]).all(), "the mean colour"
    for number, one in enumerate(alone):
        torch.testing.assert_close(together.boxes[number], one.boxes[0], atol=2e-3, rtol=1e-2)
    with pytest.raises(ValueError, match="at least 32 x 32"):
        made(torch.rand(1, 3, 31, 90))


def test_positions_run_over_the_image_not_over_its_padding() -> None:
    whole = sine_positions(torch.zeros(1, 8, 4, 6)).unflatten(1, (4, 6))
    seen = torch.zeros(1, 7, 9, dtype=torch.bool)
    seen[:, :4, :6] = True
    padded = sine_positions(torch.zeros(1, 8, 7, 9), seen).unflatten(1, (7, 9))
    torch.testing.assert_close(padded[:, :4, :6], whole)
    with pytest.raises(ValueError, match="width must be a multiple of 4"):
        pw.build("detr", 3, encoder="tiny", width=6)
