"""DeepMask and SharpMask: patches to learn from, dense application, refinement, what becomes of the masks."""

import pytest
import torch
from torch import nn

import pixelwise as pw
from pixelwise import decode
from pixelwise.checkpoint import load, save
from pixelwise.losses import PaperCriterion, loss_parts
from pixelwise.models import DeepMask, SharpMask
from pixelwise.models.deepmask import (
    CANONICAL,
    FAR_GROWTH,
    FAR_SHIFT,
    GROWTH,
    SCALES,
    SCORE_WEIGHT,
    SHIFT,
    PatchMasks,
    cut_out,
    sample_patches,
)
from pixelwise.types import AssignedBoxes, Batch, ClassTable, MaskSet

NAMES = ["deepmask", "sharpmask"]


def network(name: str, classes: int = 1) -> DeepMask:
    torch.manual_seed(0)
    return pw.build(name, classes, encoder="tiny", width=16, patch=32)


def objects(count: int, height: int = 96, width: int = 128) -> MaskSet:
    """Rectangles in a grid; the last one is a crowd if there are many."""
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for number, mask in enumerate(masks):
        y, x = (4 + 4 * (number // 20), 6 * (number % 20)) if count > 1 else (30, 40)
        mask[y : y + (3 if count > 1 else 14), x : x + (5 if count > 1 else 18)] = True
    crowd = torch.zeros(count, dtype=torch.bool)
    crowd[-1:] = count > 1
    return MaskSet.of(masks, torch.zeros(count).long(), is_crowd=crowd)


def test_patches_have_an_object_in_their_middle_or_none_near() -> None:
    torch.manual_seed(0)
    targets = [objects(1), objects(0), objects(200, 72)]
    sizes = [(96, 128), (96, 128), (72, 128)]
    found = sample_patches(targets, sizes, 160)
    assert [int((found.image == i).sum()) for i in range(3)][:2] == [32, 32]
    assert (found.target[found.image == 1] == -1).all()
    assert int((found.target[found.image == 0] == 0).sum()) == 16
    assert 199 not in found.target[found.image == 2], "the crowd"
    for box, image, number in zip(found.boxes, found.image.tolist(), found.target.tolist(), strict=True):
        side = (box[2] - box[0]).item()
        center = (box[:2] + box[2:]) / 2
        true = targets[image].boxes.boxes[: 199 if image == 2 else None]
        middle, wanted = (true[:, :2] + true[:, 2:]) / 2, (true[:, 2:] - true[:, :2]).amax(1) / CANONICAL
        away = (middle - center).abs().amax(1) / side
        octaves = (side / wanted).log2().abs()
        if number >= 0:
            assert away[number] <= SHIFT + 1e-4
            assert octaves[number] <= GROWTH + 1e-4
        else:
            assert not ((away < FAR_SHIFT) & (octaves < FAR_GROWTH)).any()


def test_a_patch_is_cut_out_with_its_border_and_never_shows_padding() -> None:
    image = torch.rand(1, 3, 40, 50)
    image[:, :, 30:], image[:, :, :, 40:] = 9, 9
    place = AssignedBoxes(
        torch.tensor([[8.0, 4, 24, 20], [-16, -16, 0, 0]]), torch.tensor([0, 0]), torch.tensor([-1, -1])
    )
    found = cut_out(image, place, [(30, 40)], 16, border=2)
    torch.testing.assert_close(found[0], image[0, :, 2:22, 6:26], atol=1e-5, rtol=1e-5)
    assert found.max() <= 1
    torch.testing.assert_close(
        found[1, :, :16, :16], image[0, :, :1, :1].expand(-1, 16, 16), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_densely_applied_layers_are_those_of_patches(name: str) -> None:
    made = network(name).eval()
    image = torch.rand(1, 3, 50, 70)
    with torch.no_grad():
        output = made(image)
    assert len(output.patches) == len(output.scores) == 100
    # One place by hand, at the original scale: the same windows of the same maps.
    border = made.patch // 2 + 16
    padded = nn.functional.pad(image, (border, border + 10, border, border + 14), mode="replicate")
    with torch.no_grad():
        features = made.encoder(padded)
        row, column = 2, 3
        windows = [made.window(features, stage, row, column) for stage in made.stages]
        vector = made.vector(made.squeeze(windows[-1])).flatten(1)
        mask, score = made.draw(vector, windows), made.objectness(vector)
    assert [one.shape[-1] for one in windows] == [made.patch // s for s in (2, 4, 8, 16)][-len(windows) :]
    box = torch.tensor([16.0 * column - 16, 16 * row - 16, 16 * column + 16, 16 * row + 16])
    here = (output.patches.boxes == box).all(1)
    if here.any():
        torch.testing.assert_close(output.scores[here], score, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(output.mask_logits[here], mask, atol=1e-5, rtol=1e-4)
    with torch.no_grad():  # every place of every scale, if only so many are asked
        boxes, _, scores = made.propose(image)
    assert (scores[:, 0].diff() <= 0).all()
    sides = {round(float(side), 3) for side in boxes[:, 2] - boxes[:, 0]}
    assert sides <= {round(made.patch * 70 / round(70 * scale), 3) for scale in SCALES}


@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_whatever_the_number_of_objects(name: str, count: int) -> None:
    made = network(name).train()
    data = Batch.of(torch.rand(1, 3, 96, 128), [objects(count)])
    parts = PaperCriterion().parts(made(*made.inputs(data)), data)
    assert set(parts) == {"mask", "score"}
    torch.stack(list(parts.values())).sum().backward()
    grads = {key: p.grad for key, p in made.named_parameters()}
    assert not [key for key, grad in grads.items() if grad is None or not grad.isfinite().all()]
    drawing = ("mask.", "refinements.", "last.")
    idle = [key for key, grad in grads.items() if not grad.any() and not key.endswith("bias")]
    assert all(key.startswith(drawing) for key in idle) if count == 0 else not idle


def test_the_loss_is_equation_1() -> None:
    torch.manual_seed(0)
    target = objects(1)
    box = target.boxes.boxes[0]
    place = AssignedBoxes(torch.stack([box, box + 30]), torch.tensor([0, 0]), torch.tensor([0, -1]))
    logits, scores = torch.randn(2, 28, 28), torch.randn(2, 1)
    parts = loss_parts(
        PatchMasks(place, logits, scores, ((96, 128),), 28), Batch.of(torch.zeros(1, 3, 96, 128), [target])
    )
    # The box is full of the object; the second patch has none, so its mask does not count.
    mask = torch.log1p((-logits[0]).exp()).mean() / 2
    score = (torch.log1p((-scores[0]).exp()) + torch.log1p(scores[1].exp())).item() / 2
    assert parts["mask"].item() == pytest.approx(mask.item(), rel=1e-4)
    assert parts["score"].item() == pytest.approx(SCORE_WEIGHT * score, rel=1e-4)


def test_masks_are_drawn_into_their_patches_and_copies_are_dropped() -> None:
    boxes = torch.tensor([[10.0, 10, 30, 30], [11, 10, 31, 30], [-20, -20, 20, 20], [60, 20, 100, 60]])
    logits = torch.full((4, 8, 8), 9.0)
    logits[3] = -9
    place = AssignedBoxes(boxes, torch.zeros(4).long(), torch.full((4,), -1))
    output = PatchMasks(place, logits, torch.tensor([[0.0], [2.0], [1.0], [3.0]]), ((64, 80),))
    found = decode.instances(output)[0]
    assert found.scores.tolist() == pytest.approx(torch.tensor([2.0, 1.0]).sigmoid().tolist())
    assert found.dense[0, 12:28, 13:29].all()
    assert found.size == (64, 80)
    assert found.dense[1, :18, :18].all()


def test_an_output_of_evaluation_has_no_loss() -> None:
    made = network("deepmask").eval()
    with torch.no_grad():
        output = made(torch.rand(1, 3, 40, 40))
    with pytest.raises(ValueError, match="has no loss"):
        loss_parts(output, Batch.of(torch.zeros(1, 3, 40, 40), [objects(0, 40, 40)]))
    with pytest.raises(ValueError, match="training needs targets"):
        made.train()(torch.rand(1, 3, 40, 40))


def test_the_second_stage_takes_the_trunk_and_learns_the_refinement_alone() -> None:
    first, second = network("deepmask"), network("sharpmask")
    for parameter in first.parameters():
        nn.init.normal_(parameter, std=0.1)
    assert isinstance(second, SharpMask)
    with pytest.raises(ValueError, match="other sizes"):
        second.take_trunk(pw.build("deepmask", encoder="tiny", width=8, patch=32))
    second.take_trunk(first)
    patches = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        coarse, scores = first.eval().look(patches)
        fine, same = second.eval().look(patches)
    torch.testing.assert_close(scores, same)
    assert coarse.shape == (2, 56, 56)
    assert fine.shape == (2, 32, 32)
    learned = {key.partition(".")[0] for key, p in second.named_parameters() if p.requires_grad}
    assert learned == {"mask", "refinements", "last"}


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_network_comes_back(name: str, tmp_path) -> None:
    made = network(name, 2).eval()
    save(made, tmp_path / "model.safetensors", ClassTable.of("a", "b"))
    again = load(tmp_path / "model.safetensors").model.eval()
    image = torch.rand(1, 3, 45, 33)
    with torch.no_grad():
        assert torch.equal(made(image).mask_logits, again(image).mask_logits)


def test_the_sizes_of_the_released_models() -> None:
    with torch.device("meta"):
        plain, refined = pw.build("deepmask"), pw.build("sharpmask")
        masks, scores = plain.look(torch.rand(2, 3, 192, 192))
        fine, _ = refined.look(torch.rand(2, 3, 192, 192))
    assert masks.shape == (2, 56, 56)
    assert scores.shape == (2, 1)
    assert fine.shape == (2, 160, 160)
    # 128 · 10 · 10 -> 512, 512 -> 56², 512 -> 1024 -> 1; 512 -> 32 · 10 · 10 (DeepMask.lua, SharpMask.lua).
    assert sum(p.numel() for p in plain.vector.parameters()) == 12_800 * 512 + 512
    assert sum(p.numel() for p in plain.mask.parameters()) == 512 * 3136 + 3136
    assert sum(p.numel() for p in refined.mask.parameters()) == 512 * 3200 + 3200
    with pytest.raises(ValueError, match="multiple of 16"):
        pw.build("deepmask", encoder="tiny", patch=40)
