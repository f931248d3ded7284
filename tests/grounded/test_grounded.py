"""Text to boxes to masks."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelwise.grounded import ClipSeg, DetectorBoxes, GroundingDino, grounded_sam, phrases_of
from pixelwise.predict import Predictor
from pixelwise.registry import build
from pixelwise.types import Boxes, ClassTable, Embedding, MaskSet, PromptableModel, PromptMasks, Prompts


class FillsBoxes(PromptableModel):
    """The mask of a box is the box."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def embed(self, image: Tensor) -> Embedding:
        return Embedding((image * self.weight,), (image.shape[-2], image.shape[-1]))

    def masks(self, embedding: Embedding, prompts: Prompts) -> PromptMasks:
        assert prompts.boxes is not None
        height, width = embedding.size
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        left, top, right, bottom = (side[:, None, None] for side in prompts.boxes.unbind(1))
        inside = (x > left) & (x < right) & (y > top) & (y < bottom)
        return PromptMasks(inside.float()[:, None] - 0.5, torch.ones(len(inside), 1), embedding.size)


@pytest.fixture
def segment() -> Predictor:
    return Predictor(FillsBoxes(), ClassTable.of("object"))


def test_phrases_are_parted_by_points_and_commas() -> None:
    assert phrases_of("A  Dog. red ball,cat;") == ("a dog", "red ball", "cat")
    for wrong in ("", " . ,", "dog, Dog"):
        with pytest.raises(ValueError, match="a text prompt names"):
            phrases_of(wrong)


def test_each_box_becomes_a_mask_with_the_class_and_the_score_of_its_phrase(segment: Predictor) -> None:
    def find(image: Tensor, phrases: tuple[str, ...]) -> Boxes:
        assert phrases == ("dog", "ball")
        return Boxes.of(
            torch.tensor([[4.0, 4, 20, 12], [10.0, 2, 30, 30]]),
            torch.tensor([1, 0]),
            torch.tensor([0.9, 0.4]),
        )

    found = grounded_sam(torch.rand(3, 32, 40), ("dog", "ball"), find, segment)
    masks = found.annotation
    assert isinstance(masks, MaskSet)
    assert found.classes.names == ("dog", "ball")
    assert masks.classes.tolist() == [1, 0]
    torch.testing.assert_close(masks.scores, torch.tensor([0.9, 0.4]))
    assert masks.dense.sum((1, 2)).tolist() == [16 * 8, 20 * 28]
    assert masks.dense[0, 5, 5]
    found.overlay()


def test_nothing_found_is_a_set_without_masks(segment: Predictor) -> None:
    def find(image: Tensor, phrases: tuple[str, ...]) -> Boxes:
        return Boxes.of(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    found = grounded_sam(torch.rand(3, 32, 40), ("dog",), find, segment)
    assert len(found.annotation) == 0
    assert found.annotation.size == (32, 40)
    found.overlay()


def test_grounding_dino_gives_the_boxes_and_scores_of_the_network_of_transformers(networks: Path) -> None:
    find = GroundingDino.load(networks / "dino", min_score=0.0)
    find.short_side, find.long_side = 64, 96  # the image has that size: nothing is resized
    image = torch.rand(3, 64, 96)
    phrases = ("red ball", "cat")
    found = find(image, phrases)

    tokens = find.tokenizer("red ball. cat.", return_tensors="pt")
    words = find.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0].tolist())
    assert words == ["[CLS]", "red", "ball", ".", "cat", ".", "[SEP]"]
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    pixels = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        said = find.model(pixel_values=pixels[None], **tokens)
    scores = said.logits[0].sigmoid()
    of_phrases = torch.stack([scores[:, 1:3].amax(1), scores[:, 4]], 1)
    x, y, w, h = (said.pred_boxes[0] * torch.tensor([96.0, 64, 96, 64])).unbind(1)
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, 96), boxes[:, 1::2].clamp(0, 64)
    assert len(found) > 0
    assert (found.scores.diff() <= 0).all()
    for box, label, score in zip(found.boxes, found.classes, found.scores, strict=True):
        place = int((boxes - box).abs().sum(1).argmin())
        torch.testing.assert_close(boxes[place], box, atol=1e-3, rtol=0)
        torch.testing.assert_close(of_phrases[place].max(), score)
        assert int(of_phrases[place].argmax()) == int(label)


def test_unsure_boxes_are_left_out_and_the_size_of_the_image_counts(networks: Path) -> None:
    find = GroundingDino.load(networks / "dino", min_score=0.0)
    find.short_side, find.long_side = 48, 80
    found = find(torch.rand(3, 120, 200), ("dog",))
    assert 0 <= found.boxes.min()
    assert found.boxes[:, 2].max() > 80  # in pixels of the image, not of what the network sees
    middle = float(found.scores.median())
    find.min_score = middle
    assert (find(torch.rand(3, 120, 200), ("dog",)).scores >= middle).all()


def test_a_detector_of_ours_stands_in_for_text(segment: Predictor) -> None:
    table = ClassTable.of("Dog", "ball", "tree")
    detector = Predictor(build("fcos", 3, encoder="tiny"), table, task="detection")
    find = DetectorBoxes(detector, min_score=0.0)
    everything = Boxes.of(
        torch.tensor([[-5.0, 2, 10, 12], [0.0, 0, 20, 20], [3.0, 3, 9, 9], [5.0, 5, 5, 9]]),
        torch.tensor([0, 2, 1, 1]),
        torch.tensor([0.5, 0.9, 0.8, 0.7]),
    )

    class Known:
        annotation = everything

    find.predictor = type("Stub", (), {"classes": table, "__call__": lambda self, image: Known()})()
    found = find(torch.rand(3, 32, 40), ("ball", "dog"))
    assert found.classes.tolist() == [0, 1]  # tree was not asked for, and a box without width is none
    assert found.boxes.tolist() == [[3, 3, 9, 9], [0, 2, 10, 12]]
    find.min_score = 0.6
    assert find(torch.rand(3, 32, 40), ("ball", "dog")).classes.tolist() == [0]
    with pytest.raises(ValueError, match="knows Dog, ball, tree, not 'cow'"):
        find(torch.rand(3, 32, 40), ("cow",))
    real = grounded_sam(torch.rand(3, 64, 64), ("Dog",), DetectorBoxes(detector, min_score=0.0), segment)
    assert set(real.annotation.classes.tolist()) <= {0}
    with pytest.raises(ValueError, match="finds objects"):
        DetectorBoxes(Predictor(build("pspnet", 3, encoder="tiny"), table))


def test_clipseg_gives_a_soft_mask_for_each_phrase_as_the_network_of_transformers(networks: Path) -> None:
    ask = ClipSeg.load(networks / "clipseg")
    ask.side = 32
    image = torch.rand(3, 32, 32)
    found = ask(image, ("a dog", "ball"), threshold=0.4)
    assert found.classes.names == ("a dog", "ball")
    assert not found.classes.exclusive
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    pixels = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    for number, phrase in enumerate(("a dog", "ball")):
        tokens = ask.tokenizer([phrase], return_tensors="pt")
        with torch.no_grad():
            logits = ask.model(
                pixel_values=pixels[None],
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
            ).logits
        expected = logits.reshape(32, 32).sigmoid()
        torch.testing.assert_close(found.annotation.probabilities[number], expected, atol=1e-5, rtol=0)
    assert (found.annotation.masks == (found.annotation.probabilities >= 0.4)).all()
    assert ask(torch.rand(3, 50, 70), ("cat",)).annotation.masks.shape == (1, 50, 70)


def test_text_without_transformers_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for network in (GroundingDino, ClipSeg):
        with pytest.raises(ValueError, match=r"pip install pixelwise\[text\]"):
            network.load()


def test_what_cannot_be_loaded_or_read_is_told(networks: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot load"):
        GroundingDino.load(tmp_path)
    find = GroundingDino.load(networks / "dino")
    with pytest.raises(ValueError, match="at most 32 parts"):
        find(torch.rand(3, 64, 64), ["dog " * 40])
    with pytest.raises(ValueError, match="min_score"):
        GroundingDino(find.model, find.tokenizer, min_score=2)
    ask = ClipSeg.load(networks / "clipseg")
    with pytest.raises(ValueError, match="at most 16 parts"):
        ask(torch.rand(3, 64, 64), ["dog " * 40])
