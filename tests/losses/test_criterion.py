"""The sum of losses and the wrapper between a model's output and a batch."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pixelwise.losses import (
    Criterion,
    CrossEntropy,
    DeepSupervision,
    Dice,
    Focal,
    WeightedSum,
    cross_entropy,
    dice_loss,
    focal_loss,
    loss_parts,
    make_criterion,
)
from pixelwise.types import Batch, ClassMasks, ClassTable, DenseLogits, value

CLASSES = ClassTable.of("sky", "road", "car")
MULTILABEL = ClassTable(CLASSES.names, CLASSES.colors, exclusive=False)


def example(num_aux: int = 0) -> tuple[DenseLogits, Batch]:
    labels = torch.randint(0, 3, (2, 9, 11))
    labels[:, 0] = 255
    aux = tuple(torch.randn(2, 3, 3, 4) for _ in range(num_aux))
    return DenseLogits(torch.randn(2, 3, 5, 6), (9, 11), aux), Batch.of(torch.rand(2, 3, 9, 11), labels)


def test_a_weighted_sum_is_the_sum_of_its_weighted_parts() -> None:
    output, batch = example()
    logits, labels = output.logits, batch.labels
    loss = WeightedSum({"cross_entropy": CrossEntropy(), "dice": Dice(), "focal": Focal()}, {"dice": 0.5})
    parts = loss.parts(logits, labels)
    expected = {
        "cross_entropy": cross_entropy(logits, labels),
        "dice": 0.5 * dice_loss(logits, labels),
        "focal": focal_loss(logits, labels),
    }
    torch.testing.assert_close(parts, expected)
    assert list(parts) == list(expected)
    torch.testing.assert_close(loss(logits, labels), sum(expected.values()))


def test_the_criterion_takes_the_logits_at_the_size_of_the_image() -> None:
    output, batch = example()
    criterion = Criterion(CrossEntropy())
    torch.testing.assert_close(criterion(output, batch), cross_entropy(output.logits, batch.labels))
    assert list(criterion.parts(output, batch)) == ["cross_entropy"]


def test_every_auxiliary_map_adds_its_loss_times_the_weight() -> None:
    output, batch = example(num_aux=2)
    criterion = make_criterion("cross_entropy+2*dice", CLASSES, aux_weight=0.3)

    def of(logits: Tensor) -> Tensor:
        return cross_entropy(logits, batch.labels) + 2 * dice_loss(logits, batch.labels)

    parts = criterion.parts(output, batch)
    assert list(parts) == ["cross_entropy", "dice", "aux"]
    torch.testing.assert_close(parts["aux"], 0.3 * sum(of(aux) for aux in output.aux_logits))
    torch.testing.assert_close(criterion(output, batch), sum(parts.values()))
    assert make_criterion("dice", CLASSES).aux_weight == 0.4  # PSPNet's


@value
class WithShares(DenseLogits):
    """Scores of every pixel, and the share of each class in the image."""

    shares: Tensor | None = None


@loss_parts.register
def share_losses(output: WithShares, batch: Batch) -> dict[str, Tensor]:
    return {} if output.shares is None else {"shares": 3 * output.shares.square().mean()}


def test_what_a_paper_adds_to_the_loss_of_the_pixels_comes_with_its_output() -> None:
    output, batch = example(num_aux=1)
    criterion, shares = Criterion(CrossEntropy()), torch.rand(2, 3)
    extended = WithShares(output.coarse, output.size, output.aux, shares=shares)
    plain, parts = criterion.parts(output, batch), criterion.parts(extended, batch)
    assert parts == plain | {"shares": 3 * shares.square().mean()}
    torch.testing.assert_close(criterion(extended, batch), criterion(output, batch) + parts["shares"])
    assert "shares" in criterion.breakdown(extended, batch)
    in_evaluation = WithShares(output.coarse, output.size)
    assert set(criterion.parts(in_evaluation, batch)) == {"cross_entropy"}


def test_gradients_reach_main_and_auxiliary_maps() -> None:
    output, batch = example(num_aux=1)
    coarse, aux = output.coarse.requires_grad_(), output.aux[0].requires_grad_()
    make_criterion("cross_entropy+dice+focal", CLASSES)(output, batch).backward()
    assert coarse.grad.abs().sum() > 0
    assert aux.grad.abs().sum() > 0


def test_a_loss_from_elsewhere_can_be_wrapped() -> None:
    output, batch = example()
    criterion = Criterion(nn.CrossEntropyLoss(ignore_index=255))
    torch.testing.assert_close(criterion(output, batch), cross_entropy(output.logits, batch.labels))
    assert list(criterion.parts(output, batch)) == ["cross_entropy_loss"]


def test_the_task_sets_the_ignored_label() -> None:
    output, batch = example()
    table = ClassTable(CLASSES.names, CLASSES.colors, ignore=3)
    renamed = Batch.of(batch.image, torch.where(batch.labels == 255, 3, batch.labels))
    for name in ("cross_entropy", "dice", "focal"):
        loss = make_criterion(name, table)(output, renamed)
        torch.testing.assert_close(loss, make_criterion(name, CLASSES)(output, batch))


def test_class_weights_and_smoothing_reach_their_terms() -> None:
    output, batch = example()
    logits, labels, weight = output.logits, batch.labels, torch.tensor([1.0, 2.0, 0.5])
    criterion = make_criterion(
        "cross_entropy+dice+focal", CLASSES, class_weights=weight.tolist(), label_smoothing=0.1
    )
    expected = {
        "cross_entropy": cross_entropy(logits, labels, weight=weight, label_smoothing=0.1),
        "dice": dice_loss(logits, labels, weight=weight),
        "focal": focal_loss(logits, labels, alpha=weight),
    }
    torch.testing.assert_close(criterion.parts(output, batch), expected)


@pytest.mark.compile
def test_the_criterion_compiles_in_one_graph() -> None:
    output, batch = example(num_aux=1)
    criterion = make_criterion("cross_entropy+dice+focal", CLASSES, class_weights=[1.0, 2.0, 0.5])
    torch._dynamo.reset()
    compiled = torch.compile(criterion, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(output, batch), criterion(output, batch))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cross_entrpy", {}, "no loss is called 'cross_entrpy', did you mean cross_entropy?"),
        ("xyz", {}, "no loss is called 'xyz'; there are cross_entropy, bce, ohem, focal, dice"),
        ("", {}, "no loss is called ''"),
        ("dice+dice", {}, "'dice\\+dice' names a term twice"),
        ("x*dice", {}, "the weight in 'x\\*dice' must be a positive number"),
        ("-1*dice", {}, "the weight in '-1\\*dice' must be a positive number"),
        ("dice", {"class_weights": [1.0]}, "3 classes need as many class_weights, got 1"),
        ("dice", {"label_smoothing": 0.1}, "label_smoothing belongs to cross_entropy, the loss is 'dice'"),
    ],
)
def test_a_criterion_that_cannot_be_is_refused(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_criterion(name, CLASSES, **changes)


def multilabel_example() -> tuple[DenseLogits, Batch]:
    output, batch = example(num_aux=1)
    labels = torch.randint(0, 2, (2, 3, 9, 11))
    labels[0, 1, 0] = 255
    return output, Batch.of(batch.image, ClassMasks(labels))


EVERY_NAME = (
    "cross_entropy",
    "ohem",
    "focal",
    "dice",
    "squared_dice",
    "generalised_dice",
    "jaccard",
    "tversky",
    "focal_tversky",
    "lovasz",
)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_every_name_works_for_both_kinds_of_classes(name: str) -> None:
    for table, (output, batch) in ((CLASSES, example(1)), (MULTILABEL, multilabel_example())):
        criterion = make_criterion(name, table, class_weights=[1.0, 0.5, 0.25])
        coarse = output.coarse.requires_grad_()
        loss = criterion(output, batch)
        loss.backward()
        assert loss > 0
        assert coarse.grad.abs().sum() > 0
        unweighted = make_criterion(name, table)
        assert not torch.isclose(unweighted(output, batch), loss)


def test_bce_is_the_cross_entropy_of_classes_that_are_not_exclusive() -> None:
    output, batch = multilabel_example()
    criterion = make_criterion("bce+dice", MULTILABEL, label_smoothing=0.1, aux_weight=0.0)
    logits, labels = output.logits, batch.labels
    expected = {
        "bce": cross_entropy(logits, labels, exclusive=False, label_smoothing=0.1),
        "dice": dice_loss(logits, labels, exclusive=False),
    }
    parts = criterion.parts(output, batch)
    torch.testing.assert_close({name: parts[name] for name in expected}, expected)
    with pytest.raises(ValueError, match="bce needs a table with exclusive=False"):
        make_criterion("bce", CLASSES)


def test_a_criterion_prints_its_formula_and_its_breakdown() -> None:
    output, batch = example(num_aux=1)
    criterion = make_criterion("cross_entropy+0.5*dice", CLASSES)
    assert "cross_entropy+0.5*dice" in repr(criterion)
    assert "aux_weight=0.4" in repr(criterion)
    head, *lines, total = criterion.breakdown(output, batch).splitlines()
    assert head.split() == ["part", "value", "weight", "added"]
    assert [line.split()[0] for line in lines] == ["cross_entropy", "dice", "aux"]
    assert [line.split()[2] for line in lines] == ["1", "0.5", "0.4"]
    dice = lines[1].split()
    value = dice_loss(output.logits, batch.labels).item()
    assert float(dice[1]) == pytest.approx(value, abs=1e-4)
    assert float(dice[3]) == pytest.approx(0.5 * value, abs=1e-4)
    assert float(total.split()[1]) == pytest.approx(criterion(output, batch).item(), abs=1e-4)


def test_sums_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one term"):
        WeightedSum({})
    with pytest.raises(ValueError, match="the sum has the terms dice, not dise"):
        WeightedSum({"dice": Dice()}, {"dise": 2.0})


@value
class WithRest(DenseLogits):
    """What a paper's network may return: scores, and something with a loss of its own."""

    rest: Float[Tensor, "b"] | None = None


@loss_parts.register
def _(output: WithRest, batch: Batch) -> dict[str, Float[Tensor, ""]]:
    return {} if output.rest is None else {"rest": output.rest.mean()}


def test_what_a_paper_adds_to_the_loss_of_the_scores_is_added() -> None:
    plain, batch = example(num_aux=1)
    rest = torch.tensor([1.0, 3.0], requires_grad=True)
    output = WithRest(plain.coarse, plain.size, plain.aux, rest=rest)
    for criterion in (Criterion(CrossEntropy()), DeepSupervision(CrossEntropy(), [1.0, 0.5])):
        assert criterion.parts(output, batch) == criterion.parts(plain, batch) | {"rest": 2.0}
        torch.testing.assert_close(criterion(output, batch), criterion(plain, batch) + 2)
        assert "rest" not in criterion.parts(WithRest(plain.coarse, plain.size), batch)
        assert criterion.breakdown(output, batch).splitlines()[-2].split() == [
            "rest",
            "2.0000",
            "1",
            "2.0000",
        ]
    criterion(output, batch).backward()
    assert rest.grad.tolist() == [0.5, 0.5]
