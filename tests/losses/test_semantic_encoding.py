"""EncNet's loss against binary cross-entropy in NumPy."""

import numpy as np
import pytest
import torch

from pixelwise.losses.semantic_encoding import SemanticEncoding, class_presence, semantic_encoding_loss

IGNORE = 255


@pytest.mark.parametrize("grid", [(6, 5), (3, 4, 5)])
@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("weight", [None, [1.0, 0.25, 3.0, 2.0]])
def test_the_loss_is_its_formula(grid: tuple[int, ...], exclusive: bool, weight: list[float] | None) -> None:
    scores = torch.randn(3, 4, dtype=torch.float64)
    labels = torch.randint(0, 3, (3, *grid)) if exclusive else torch.randint(0, 2, (3, 4, *grid))
    labels[0, 0], labels[2] = IGNORE, IGNORE
    if not exclusive:
        labels[1, 2] = 0
    p, y = 1 / (1 + np.exp(-scores.numpy())), labels.numpy()
    factors = np.array(weight or [1.0] * 4)
    total = share = 0.0
    for b in range(2):  # of the third image nothing is known
        for c in range(4):
            if not exclusive and (y[b, c] == IGNORE).all():
                continue
            there = (y[b] == c).any() if exclusive else (y[b, c] == 1).any()
            total += -factors[c] * np.log(p[b, c] if there else 1 - p[b, c])
            share += factors[c]
    known = {"exclusive": exclusive, "weight": None if weight is None else torch.tensor(weight)}
    assert semantic_encoding_loss(scores, labels, factor=1.0, **known).item() == pytest.approx(total / share)
    assert semantic_encoding_loss(scores, labels, **known).item() == pytest.approx(0.2 * total / share)
    assert semantic_encoding_loss(scores, labels, reduction="sum", **known).item() == pytest.approx(
        0.2 * total
    )


def test_ten_pixels_count_as_much_as_ten_thousand() -> None:
    labels = torch.zeros(1, 100, 100, dtype=torch.long)
    labels[0, 0, :10] = 1
    each = semantic_encoding_loss(torch.zeros(1, 3), labels, reduction="none")
    assert each[0, 0] == each[0, 1]


def test_a_class_hidden_under_ignored_cells_counts_as_absent() -> None:
    present, known = class_presence(torch.tensor([[0, IGNORE, IGNORE]]), 2)
    assert present.tolist() == [[True, False]]
    assert known.all()


def test_nothing_known_costs_nothing_and_moves_nothing() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    loss = SemanticEncoding()(scores, torch.full((2, 4, 4), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_extreme_scores(dtype: torch.dtype) -> None:
    labels = torch.randint(0, 3, (2, 4, 4))
    scores = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]]).to(dtype).requires_grad_()
    loss = SemanticEncoding()(scores, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences() -> None:
    labels = torch.randint(0, 3, (2, 4, 4))
    scores = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: SemanticEncoding(weight=[1.0, 2.0, 3.0])(x, labels), scores)


@pytest.mark.compile
def test_compiles_in_one_graph() -> None:
    labels, scores = torch.randint(0, 3, (2, 4, 4)), torch.randn(2, 3)
    compiled = torch.compile(SemanticEncoding(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(scores, labels), SemanticEncoding()(scores, labels))


def test_bad_arguments_are_named() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    with pytest.raises(
        (ValueError, TypeError), match=r"scores of 3 images need labels of as many, got 2|labels"
    ):
        semantic_encoding_loss(torch.zeros(3, 2), labels)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1"):
        semantic_encoding_loss(torch.zeros(2, 2), labels + 2)
    with pytest.raises(ValueError, match="5 classes need as many label maps, got 4"):
        semantic_encoding_loss(torch.zeros(2, 5), labels, exclusive=False)
