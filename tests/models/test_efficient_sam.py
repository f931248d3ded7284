"""EfficientSAM: sizes, names of weights, and what its prompts mean."""

import json

import pytest
import torch

import pixelwise as pw
from pixelwise.models import from_efficient_sam
from pixelwise.types import Prompts

SIZES = {"efficient_sam_ti": 10_223_204, "efficient_sam_s": 26_413_028}
FILES = {"efficient_sam_ti": "efficient_sam_vitt", "efficient_sam_s": "efficient_sam_vits"}


@pytest.mark.parametrize("name", SIZES)
def test_published_numbers_of_parameters(name: str) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in pw.build(name).parameters()) == SIZES[name]


@pytest.mark.parametrize("name", SIZES)
def test_names_and_shapes_of_weights_are_the_published_ones(name: str, shared_data) -> None:
    table = json.loads(shared_data("statedicts", f"{FILES[name]}.json").read_text())["state"]
    with torch.device("meta"):
        ours = pw.build(name).state_dict()
    assert {key: tuple(x.shape) for key, x in ours.items() if not key.startswith("normalize.")} == {
        key: tuple(one["shape"]) for key, one in table.items()
    }


@pytest.fixture(scope="module")
def model() -> pw.models.EfficientSAM:
    torch.manual_seed(0)
    made = pw.build("efficient_sam_ti", image_size=64).eval()
    for parameter in made.parameters():
        if parameter.min() == parameter.max():
            torch.nn.init.normal_(parameter, parameter.min().item(), 0.1)
    return made


def test_points_boxes_and_both_have_three_candidates(model) -> None:
    point, box = (
        torch.tensor([[[20.0, 10.0]], [[3.0, 30.0]]]),
        torch.tensor([[1.0, 2, 30, 33], [4, 4, 20, 20]]),
    )
    with torch.no_grad():
        embedding = model.embed(torch.rand(1, 3, 40, 50))
        for prompts in (Prompts.of(point), Prompts.of(boxes=box), Prompts.of(point, boxes=box)):
            found = model.masks(embedding, prompts)
            assert found.logits.shape == (2, 3, 40, 50)
            alone = Prompts.of(*(None if x is None else x[1:] for x in (prompts.points, None, prompts.boxes)))
            torch.testing.assert_close(
                model.masks(embedding, alone).coarse, found.coarse[1:], atol=1e-5, rtol=1e-4
            )
        with pytest.raises(ValueError, match="takes points and boxes, no masks"):
            model.masks(embedding, Prompts.of(point, masks=torch.zeros(2, 8, 8)))


def test_a_missing_point_is_as_no_point_and_the_seventh_is_not_looked_at(model) -> None:
    points = torch.tensor([[[20.0, 10], [5, 5], [7, 9], [30, 2], [11, 12], [3, 4], [40, 30]]])
    with torch.no_grad():
        embedding = model.embed(torch.rand(1, 3, 40, 50))
        six = model.masks(embedding, Prompts.of(points[:, :6])).coarse
        assert torch.equal(model.masks(embedding, Prompts.of(points)).coarse, six)
        one = model.masks(embedding, Prompts.of(points[:, :1])).coarse
        labels = torch.tensor([[1, -1]])
        assert torch.equal(model.masks(embedding, Prompts.of(points[:, :2], labels)).coarse, one)
        outside = model.masks(embedding, Prompts.of(points[:, :1], torch.tensor([[0]]))).coarse
        assert not torch.allclose(outside, one)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size must be a multiple of 16, got 100"):
        pw.build("efficient_sam_ti", image_size=100)
    with pytest.raises(ValueError, match="these are not the weights of EfficientSAM"):
        from_efficient_sam({"encoder.weight": torch.zeros(1)})
