"""Gated-SCNN: published count, gates, Canny edges, edge targets and the losses of the two tasks."""

import pytest
import torch
from torch import nn

from pixelwise.losses import make_criterion
from pixelwise.models import GatedConvolution, gated_scnn, gated_scnn_wide_resnet38
from pixelwise.models.gated_scnn import canny, dual_task_loss, edge_loss, edge_targets, strength_of_change
from pixelwise.types import Batch, ClassMasks, ClassTable


def test_parameters_are_as_many_as_the_authors_have() -> None:
    with torch.device("meta"):
        model = gated_scnn_wide_resnet38(19)
    unused = 64 + 1 + 6  # a convolution that nothing uses in the authors' code, and biases before norms
    assert sum(p.numel() for p in model.parameters()) == 137_278_190 - unused


def test_a_gate_is_the_formula_of_the_paper() -> None:
    torch.manual_seed(0)
    gated = GatedConvolution(3).eval()
    x, regular = torch.randn(2, 3, 5, 4), torch.randn(2, 1, 5, 4)
    with torch.no_grad():
        attention = gated.gate(torch.cat([x, regular], 1))
        expected = torch.einsum("oc,bchw->bohw", gated.convolution.weight[..., 0, 0], x * attention + x)
        torch.testing.assert_close(gated(x, regular), expected)
    assert attention.shape == (2, 1, 5, 4)


# --- edges of the image ---------------------------------------------------------------------------


def test_canny_draws_a_thin_line_where_the_image_steps() -> None:
    image = torch.zeros(1, 3, 12, 16)
    image[:, 1, :, 9:] = 0.5
    edges = canny(image)
    assert edges.shape == (1, 1, 12, 16)
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(edges[0, 0].sum(1), torch.ones(12))  # one pixel per row
    assert edges[0, 0, :, 8:10].sum() == 12
    assert torch.equal(canny(image.transpose(2, 3)), edges.transpose(2, 3))
    assert not canny(torch.full((1, 3, 12, 16), 0.7)).any()


def test_canny_follows_a_weak_edge_from_a_strong_one_only() -> None:
    weak = torch.zeros(1, 1, 20, 16)
    weak[:, :, :, 8:] = 0.05  # a Sobel strength of 0.2, between both thresholds
    assert not canny(weak).any()
    started = weak.clone()
    started[:, :, :3, 8:] = 0.5
    assert canny(started)[0, 0, :16].sum(1).min() == 1
    assert not canny(started, steps=2)[0, 0, 8:].any()


# --- losses ---------------------------------------------------------------------------------------


def test_edge_targets_are_pixels_within_two_of_another_class() -> None:
    torch.manual_seed(1)
    labels = torch.randint(0, 2, (1, 3, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[:, :, 3] = 255
    edges, known = edge_targets(labels)
    assert torch.equal(known, labels != 255)
    height, width = labels.shape[1:]
    for i in range(height):
        for j in range(width):
            near = [
                labels[0, y, x]
                for y in range(height)
                for x in range(width)
                if (y - i) ** 2 + (x - j) ** 2 <= 4 and labels[0, y, x] != 255
            ]
            own = labels[0, i, j]
            assert bool(edges[0, i, j]) == bool(own != 255 and any(other != own for other in near)), (i, j)


def test_edges_of_classes_that_overlap_are_the_edges_of_any() -> None:
    masks = torch.zeros(1, 2, 9, 9, dtype=torch.long)
    masks[:, 0, :, 4:] = 1
    edges, known = edge_targets(masks)
    assert known.all()
    assert edges[0, 0].nonzero()[:, 0].tolist() == [2, 3, 4, 5]


def test_edges_and_the_rest_count_alike() -> None:
    edges = torch.zeros(1, 10, 10, dtype=torch.bool)
    edges[0, 0] = True
    known = torch.ones_like(edges)
    silent = edge_loss(torch.full((1, 10, 10), -9.0), edges, known)
    loud = edge_loss(torch.full((1, 10, 10), 9.0), edges, known)
    assert silent.item() == pytest.approx(loud.item(), rel=1e-4)
    right = edge_loss(torch.where(edges, 9.0, -9.0), edges, known)
    assert right < 0.01 * silent
    assert edge_loss(torch.zeros(1, 2, 2), edges[:, :2, :2], known[:, :2, :2] & False) == 0


def test_the_strength_of_change_of_a_ramp_is_its_slope() -> None:
    ramp = 0.1 * torch.arange(12.0).expand(1, 1, 9, 12)
    strength = strength_of_change(ramp)[0, 0, 3:-3, 3:-3]
    torch.testing.assert_close(strength, torch.full_like(strength, 0.1 / 2**0.5), atol=1e-5, rtol=1e-4)


def test_the_dual_task_loss_is_small_where_borders_agree() -> None:
    torch.manual_seed(2)
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    labels[:, 4:12, 4:12] = 1
    right = 40 * torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    assert dual_task_loss(right, labels) < 1e-3
    assert dual_task_loss(right.roll(4, 2), labels) > 0.02
    logits = torch.zeros(1, 2, 16, 16, requires_grad=True)
    dual_task_loss(logits, labels).backward()
    assert logits.grad.any()


@pytest.mark.parametrize("exclusive", [True, False])
def test_training_adds_the_losses_of_the_shape_stream(exclusive: bool) -> None:
    torch.manual_seed(3)
    model = gated_scnn(3, encoder="tiny", width=4).train()
    labels = torch.zeros(2, 33, 48, dtype=torch.long)
    labels[:, 8:20, 10:30], labels[:, :4] = 1, 255
    target = labels if exclusive else ClassMasks(labels[:, None].expand(2, 3, 33, 48).contiguous())
    batch = Batch.of(torch.rand(2, 3, 33, 48), target)
    classes = ClassTable(tuple("abc"), ClassTable.of(*"abc").colors, exclusive=exclusive)
    criterion = make_criterion("cross_entropy", classes)
    parts = criterion.parts(model(batch.image), batch)
    assert set(parts) == {"cross_entropy", "edges", "on_edges", "dual_task"}
    criterion(model(batch.image), batch).backward()
    assert model.shape.fuse.weight.grad.any()
    assert model.eval()(batch.image).edges is None


def test_the_edges_reach_the_scores() -> None:
    torch.manual_seed(4)
    model = gated_scnn(3, encoder="tiny", width=4).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before = model(image).logits
        nn.init.constant_(model.mix.weight, 3.0)
        assert not torch.allclose(model(image).logits, before)
