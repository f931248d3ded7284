"""Which pixels online hard example mining keeps, told again in NumPy."""

import numpy as np
import pytest
import torch

from pixelwise.losses import cross_entropy, ohem_loss

IGNORE = 255


def example() -> tuple[torch.Tensor, torch.Tensor]:
    logits, labels = 2 * torch.randn(2, 3, 8, 9, dtype=torch.float64), torch.randint(0, 3, (2, 8, 9))
    labels[0, 0] = IGNORE
    return logits, labels


def reference(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weight: list[float],
    threshold: float,
    min_kept: int,
    fraction: float | None,
) -> float:
    x = np.moveaxis(logits.numpy(), 1, -1)
    valid = labels.numpy() != IGNORE
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    y = labels.numpy()[valid]
    p = p[valid][np.arange(len(y)), y]
    order = np.argsort(p)
    if fraction is None:
        count = max(min(min_kept * len(logits), len(p)), int((p < threshold).sum()))
    else:
        count = int(np.ceil(fraction * len(p)))
    kept = order[:count]
    factor = np.array(weight)[y[kept]]
    return float((factor * -np.log(p[kept])).sum() / factor.sum())


@pytest.mark.parametrize("weight", [None, [1.0, 0.5, 2.0]])
@pytest.mark.parametrize(
    "threshold, min_kept, fraction",
    [
        (0.7, 0, None),  # the threshold alone
        (0.3, 20, None),  # whichever keeps more
        (0.0, 5, None),  # the hardest alone
        (1.0, 0, None),  # all
        (0.2, 10_000, None),  # more than there are
        (0.7, 100, 0.1),
        (0.7, 100, 0.25),
        (0.7, 100, 1.0),
    ],
)
def test_the_hardest_pixels_are_kept(
    weight: list[float] | None, threshold: float, min_kept: int, fraction: float | None
) -> None:
    logits, labels = example()
    ours = ohem_loss(
        logits,
        labels,
        weight=None if weight is None else torch.tensor(weight),
        threshold=threshold,
        min_kept=min_kept,
        fraction=fraction,
    )
    theirs = reference(logits, labels, weight or [1.0] * 3, threshold, min_kept, fraction)
    assert ours.item() == pytest.approx(theirs)


def test_keeping_everything_is_cross_entropy() -> None:
    logits, labels = example()
    torch.testing.assert_close(ohem_loss(logits, labels), cross_entropy(logits, labels))
    each = ohem_loss(logits, labels, fraction=0.1, reduction="none")
    assert (each > 0).sum() == np.ceil(0.1 * int((labels != IGNORE).sum()))
    everywhere = cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(each[each > 0], everywhere[each > 0])


def test_hard_is_told_without_weights_and_pixels_as_hard_as_the_last_are_kept_too() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1.0, 3.0]]])
    labels = torch.ones(1, 4, dtype=torch.long)
    weight = torch.tensor([1.0, 0.0])
    kept = ohem_loss(logits, labels, threshold=0.0, min_kept=2, reduction="none")
    assert (kept[0] > 0).tolist() == [True, True, True, False]
    assert ohem_loss(logits, labels, weight=weight).item() == 0


def test_entries_of_classes_that_are_not_exclusive_are_mined_one_by_one() -> None:
    logits = torch.tensor([[[3.0, -3.0], [0.5, 0.1]]])
    labels = torch.tensor([[[1, 1], [1, 0]]])  # p_y = 0.95, 0.05; 0.62, 0.48
    each = ohem_loss(logits, labels, exclusive=False, threshold=0.6, min_kept=0, reduction="none")
    assert (each > 0).tolist() == [[[False, True], [False, True]]]


@pytest.mark.parametrize("fraction", [None, 0.3])
@pytest.mark.compile
def test_a_graph_keeps_the_same_pixels(fraction: float | None) -> None:
    logits, labels = example()
    torch._dynamo.reset()
    compiled = torch.compile(ohem_loss, fullgraph=True, backend="eager")
    settings = {"threshold": 0.1, "min_kept": 7, "fraction": fraction, "reduction": "none"}
    torch.testing.assert_close(
        compiled(logits, labels, **settings), ohem_loss(logits, labels, **settings), rtol=0, atol=0
    )
