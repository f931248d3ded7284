"""Promptable segmentation: an image is embedded once, prompts are answered from what is kept of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

import pixelwise as pw
from pixelwise.tasks import get_task
from pixelwise.types import ClassTable, Embedding, MaskSet, PromptableModel, PromptMasks, Prompts

TABLE = ClassTable.of("object")
TASK = get_task("promptable")
HEIGHT, WIDTH = 48, 64


class NearAndAlike(PromptableModel):
    """Three discs of different sizes around each prompt, where the image looks as it does there."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 4, 4, stride=4)
        self.looked = 0

    def embed(self, image: Float[Tensor, "1 c H W"]) -> Embedding:
        self.looked += 1
        return Embedding((self.look(image),), (image.shape[-2], image.shape[-1]))

    def masks(self, embedding: Embedding, prompts: Prompts) -> PromptMasks:
        (features,) = embedding.maps
        height, width = features.shape[-2:]
        points = prompts.points
        if points is None:
            assert prompts.boxes is not None
            points = prompts.boxes.view(-1, 2, 2).mean(1, keepdim=True)
        y, x = (torch.arange(n) * 4 + 2.0 for n in (height, width))
        first = points[:, 0]
        distance = torch.hypot(x - first[:, 0, None, None], y[:, None] - first[:, 1, None, None])
        coarse = torch.stack([radius - distance for radius in (6, 12, 24)], 1)
        expected = torch.tensor([0.3, 0.9, 0.5]).expand(len(coarse), -1)
        return PromptMasks(coarse + 0 * features.mean(), expected, embedding.size)


@pytest.fixture
def predictor() -> pw.Predictor:
    return pw.Predictor(NearAndAlike(), TABLE)


def test_an_image_is_embedded_once_and_each_prompt_gets_the_mask_that_is_expected_to_be_best(
    predictor: pw.Predictor,
) -> None:
    embedded = predictor.embed(torch.rand(3, HEIGHT, WIDTH))
    answers = [
        predictor.masks(embedded, Prompts.at([(20, 24), (50, 10)])),
        predictor.masks(embedded, Prompts.of(boxes=torch.tensor([[10.0, 14, 30, 34]]))),
    ]
    assert predictor.model.looked == 1
    masks = answers[0].annotation
    assert isinstance(masks, MaskSet)
    assert masks.dense.shape == (2, HEIGHT, WIDTH)
    assert masks.scores.tolist() == pytest.approx([0.9, 0.9])
    for mask, (x, y) in zip(masks.dense, ((20, 24), (50, 10)), strict=True):
        assert mask[y, x]
    assert int(masks.dense[0].sum()) == pytest.approx(np.pi * 12**2, rel=0.1)
    assert torch.equal(answers[1].annotation.dense[0], masks.dense[0])  # the box has its centre there
    assert masks.dense.requires_grad is False


def test_every_candidate_is_kept_where_asked() -> None:
    predictor = pw.Predictor(NearAndAlike(), TABLE, decoding={"all": True})
    found = predictor.masks(predictor.embed(torch.rand(3, HEIGHT, WIDTH)), Prompts.at([(20, 24)])).annotation
    assert found.scores.tolist() == pytest.approx([0.3, 0.9, 0.5])
    areas = found.dense.flatten(1).sum(1)
    assert (areas[:-1] < areas[1:]).all()


def test_the_network_alone_does_both_steps() -> None:
    model = NearAndAlike().eval()
    image, prompts = torch.rand(1, 3, HEIGHT, WIDTH), Prompts.at([(20, 24)])
    assert torch.equal(model(image, prompts).coarse, model.masks(model.embed(image), prompts).coarse)
    assert model.num_classes is None


def test_predictions_are_drawn_and_saved(predictor: pw.Predictor, tmp_path: Path) -> None:
    embedded = predictor.embed(torch.zeros(3, HEIGHT, WIDTH))
    prediction = predictor.masks(embedded, Prompts.at([(20, 24), (50, 10)]))
    assert np.load(prediction.save(tmp_path / "masks.npy")).shape == (2, HEIGHT, WIDTH)
    content = json.loads(prediction.save(tmp_path / "masks.json").read_text())
    assert [entry["area"] for entry in content["annotations"]] == (
        prediction.annotation.dense.flatten(1).sum(1).tolist()
    )
    assert np.asarray(prediction.overlay()).any()


def test_masks_are_scored_by_their_iou_in_the_order_of_the_prompts() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 2:] = True, True
    half = masks.clone()
    half[0, 1] = False
    labels = torch.zeros(2).long()
    metrics = TASK.metrics(TABLE, {})
    metrics.update([MaskSet.of(half, labels)], [MaskSet.of(masks, labels)], ["a"])
    assert metrics.compute()["mean_iou"] == 0.75
    with pytest.raises(ValueError, match=r"a: 2 objects .* got 1"):
        metrics.update([MaskSet.of(half[:1], labels[:1])], [MaskSet.of(masks, labels)], ["a"])


def test_what_does_not_belong_together_is_refused(predictor: pw.Predictor) -> None:
    with pytest.raises(ValueError, match="need points, boxes or masks, as many of each, got none"):
        Prompts.of()
    with pytest.raises(ValueError, match="as many of each, got 1 and 2"):
        Prompts.of(torch.zeros(2, 1, 2), boxes=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="need as many points"):
        Prompts.of(torch.zeros(2, 1, 2), torch.ones(1, 1).long())
    with pytest.raises(ValueError, match="answers prompts"):
        predictor(torch.rand(3, HEIGHT, WIDTH))
    plain = pw.Predictor(pw.build("pspnet", 2, encoder="tiny"), ClassTable.of("a", "b"))
    with pytest.raises(ValueError, match="PSPNet takes no prompts"):
        plain.embed(torch.rand(3, HEIGHT, WIDTH))


def test_prompts_and_embeddings_move_as_one() -> None:
    prompts = Prompts.at([(1, 2)]).to(torch.float64)
    assert prompts.points.dtype == torch.float64
    assert prompts.boxes is None
    assert len(prompts) == 1
    assert Embedding((torch.zeros(1, 2, 3, 3),), (12, 12)).to("meta").maps[0].device.type == "meta"
