"""Embeddings: kept on disk, reused, and refused where they do not belong to the network."""

from pathlib import Path

import pytest
import torch

import pixelwise as pw
from pixelwise.predict import AutomaticMasks, Predictor
from pixelwise.types import Prompts


def tiny(seed: int = 0) -> Predictor:
    torch.manual_seed(seed)
    return Predictor(pw.build("sam", image_size=64, patch=8, width=16, depth=2, decoder_width=32))


def test_an_embedding_from_disk_gives_the_same_masks(tmp_path: Path) -> None:
    predictor = tiny()
    embedded = predictor.embed(torch.rand(3, 40, 52))
    path = embedded.save(tmp_path / "seen.safetensors")
    again = predictor.load_embedded(path)
    prompts = Prompts.at([(10, 12), (50, 3)])
    expected, found = (predictor.candidates(one, prompts) for one in (embedded, again))
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.iou, expected.iou)
    assert again.embedding.size == (40, 52)
    torch.testing.assert_close(again.image, embedded.image, atol=0.5 / 255 + 1e-6, rtol=0)


def test_an_embedding_of_another_network_or_another_file_is_refused(tmp_path: Path) -> None:
    path = tiny().embed(torch.rand(3, 40, 52)).save(tmp_path / "seen.safetensors")
    other = tiny(seed=1)
    with pytest.raises(ValueError, match="made by a network with other weights: embed the image again"):
        other.load_embedded(path)
    with pytest.raises(ValueError, match="exists already"):
        other.embed(torch.rand(3, 40, 52)).save(path)
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        other.embed(torch.rand(3, 40, 52)).save(tmp_path / "seen.pt")
    with pytest.raises(ValueError, match="there is no file"):
        other.load_embedded(tmp_path / "none.safetensors")
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="holds no embedding of an image"):
        other.load_embedded(path)


def test_several_images_are_embedded_together() -> None:
    predictor = tiny()
    images = [torch.rand(3, 40, 52), torch.rand(3, 64, 30)]
    together = predictor.embed(images)
    assert [one.embedding.size for one in together] == [(40, 52), (64, 30)]
    alone = predictor.embed(images[1])
    torch.testing.assert_close(together[1].embedding.maps[0], alone.embedding.maps[0], atol=1e-5, rtol=1e-4)
    assert predictor.embed([]) == []


@pytest.mark.parametrize(
    "prompts, told",
    [
        (Prompts.at([(60, 12)]), "the point 60,12 lies outside of the image, which is 52 pixels wide and 40"),
        (Prompts.at([(5, -1)]), "the point 5,-1 lies outside"),
        (Prompts.of(boxes=torch.tensor([[5.0, 5, 5, 9]])), "the box 5,5,5,9 has no area"),
        (Prompts.of(boxes=torch.tensor([[9.0, 5, 5, 9]])), "the box 9,5,5,9 has no area"),
        (Prompts.of(boxes=torch.tensor([[60.0, 5, 70, 9]])), "the box 60,5,70,9 lies outside"),
        (Prompts.of(torch.ones(1, 1, 2), torch.tensor([[3]])), "a point is labelled 1, 0 or.* got 3"),
    ],
)
def test_prompts_that_mean_nothing_are_refused_in_a_sentence(prompts: Prompts, told: str) -> None:
    predictor = tiny()
    with pytest.raises(ValueError, match=told):
        predictor.masks(predictor.embed(torch.rand(3, 40, 52)), prompts)


def test_prompts_before_an_image_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="prompts come after an image"):
        tiny().masks(torch.rand(3, 40, 52), Prompts.at([(1, 2)]))  # type: ignore[arg-type]


def test_a_missing_point_is_not_looked_at() -> None:
    predictor = tiny()
    embedded = predictor.embed(torch.rand(3, 40, 52))
    points, labels = torch.tensor([[[3.0, 4], [-9, 999]]]), torch.tensor([[1, -1]])
    assert len(predictor.masks(embedded, Prompts.of(points, labels)).annotation) == 1


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"points_per_side": 0}, "points_per_side must be at least 1, got 0"),
        ({"box_overlap": 1.5}, "box_overlap must lie in 0..1, got 1.5"),
        ({"min_area": -1}, "min_area must be at least 0, got -1"),
    ],
)
def test_settings_of_automatic_masks_are_checked(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AutomaticMasks(**wrong)
