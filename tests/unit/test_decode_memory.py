"""Decoding never holds the scores of all classes at the size of the image."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pixelwise import decode
from pixelwise.predict import Predictor, View
from pixelwise.predict.memory import live_bytes
from pixelwise.types import ClassTable, DenseLogits, DenseModel

K, SIZE = 150, (1024, 2048)


@pytest.fixture(scope="module")
def street() -> DenseLogits:
    """Cityscapes' size and ADE20K's classes, at a stride of 4."""
    torch.manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.randn(1, K, 16, 32), (256, 512), mode="bicubic")
    return DenseLogits(coarse, SIZE)


def taken(work: Callable[[], object]) -> int:
    work()  # what is compiled or kept from the first call on does not count
    return live_bytes(work)


def test_labels_of_150_classes_need_at_most_1_3_times_their_coarse_scores(street: DenseLogits) -> None:
    coarse, labels = street.coarse.nbytes, SIZE[0] * SIZE[1] * 8
    assert coarse + taken(lambda: decode.semantic(street)) <= 1.3 * coarse + labels


def test_confidence_adds_one_map_of_probabilities(street: DenseLogits) -> None:
    coarse, pixels = street.coarse.nbytes, SIZE[0] * SIZE[1]
    assert coarse + taken(lambda: decode.confidence(street)) <= 1.3 * coarse + pixels * (8 + 4)


@pytest.mark.slow
def test_the_best_five_and_bytes_of_all_are_held_in_bands(street: DenseLogits) -> None:
    coarse, pixels = street.coarse.nbytes, SIZE[0] * SIZE[1]
    best = taken(lambda: decode.best_classes(street, 5))
    assert coarse + best <= 1.3 * coarse + 5 * pixels * (8 + 4)
    in_bytes = taken(lambda: decode.probabilities_in_bytes(street))
    assert coarse + in_bytes <= 1.3 * coarse + K * pixels


class Coarse(DenseModel):
    """Scores at a stride of 4."""

    def __init__(self, coarse: Tensor) -> None:
        super().__init__()
        self.num_classes, self.coarse = K, coarse

    def forward(self, image: Tensor) -> DenseLogits:
        size = tuple(side // 4 for side in image.shape[2:])
        return DenseLogits(torch.nn.functional.interpolate(self.coarse, size), tuple(image.shape[2:]))


def predictor(coarse: Tensor, **options: object) -> Predictor:
    classes = ClassTable.of(*(f"class {number}" for number in range(K)))
    return Predictor(Coarse(coarse).eval(), classes, tile=None, **options)


@pytest.mark.slow
@pytest.mark.parametrize("views", [(View(), View(mirror=True)), (View(turns=1), View(scale=0.5))])
def test_labels_of_several_views_need_the_coarse_scores_of_each(views: tuple, street: DenseLogits) -> None:
    image = torch.zeros(1, 3, *SIZE)
    predict = predictor(street.coarse, views=views)
    needed = live_bytes(lambda: predict.labels(image))
    sizes = [view.size_of(SIZE) for view in views]
    coarse = sum(4 * K * (height // 4) * (width // 4) for height, width in sizes)
    seen = max(4 * 3 * height * width for height, width in sizes)
    # While one view is brought back, its scores are there twice.
    assert needed <= 1.3 * (coarse + street.coarse.nbytes) + 2 * seen + 2 * 8 * SIZE[0] * SIZE[1]
    assert needed < 4 * K * SIZE[0] * SIZE[1] / 2


def test_what_refines_adds_its_own_probabilities_only(street: DenseLogits) -> None:
    height, width = 128, 256
    predict = predictor(street.coarse, refine=lambda probable, image: probable.clone())
    needed = live_bytes(lambda: predict.labels(torch.zeros(1, 3, height, width)))
    assert needed <= 3.3 * 4 * K * height * width


@pytest.mark.parametrize("align_corners", [True, False])
def test_what_is_found_in_bands_is_what_whole_scores_give(align_corners: bool) -> None:
    output = DenseLogits(torch.randn(2, 21, 40, 31), (311, 487), (), align_corners)
    whole = output.logits.softmax(1)
    found = decode.best_classes(output, 3)
    expected = whole.topk(3, dim=1)
    torch.testing.assert_close(found.probability, expected.values, atol=1e-5, rtol=1e-4)
    assert (found.labels == expected.indices).float().mean() > 0.9999
    in_bytes = decode.probabilities_in_bytes(output)
    assert (in_bytes.float() / 255 - whole).abs().max() < 0.5 / 255 + 1e-5
    sigmoids = decode.probabilities_in_bytes(output, exclusive=False)
    assert (sigmoids.float() / 255 - output.logits.sigmoid()).abs().max() < 0.5 / 255 + 1e-5
    rows = [scores for _, scores in decode.scores_in_rows(output)]
    assert len(rows) > 1
    torch.testing.assert_close(torch.cat(rows, 2), output.logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="count must be 1 to 21"):
        decode.best_classes(output, 22)
