"""SAM against the authors' `segment_anything`: random weights carried over, equal answers."""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn

from pixelwise.models import SAM, from_segment_anything
from pixelwise.ops import pillow_resize
from pixelwise.predict import AutomaticMasks, FoundMasks, Predictor
from pixelwise.types import Prompts

SIDE = 96
HEIGHT, WIDTH = 61, 83


def peer(
    width: int = 32,
    heads: int = 2,
    side: int = SIDE,
    window: int = 4,
    global_blocks: Sequence[int] = (1,),
    seed: int = 0,
) -> Sam:
    """A SAM of two blocks with random weights; what begins with zeros is drawn too."""
    torch.manual_seed(seed)
    grid = side // 16
    encoder = ImageEncoderViT(
        img_size=side,
        embed_dim=width,
        depth=2,
        num_heads=heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=tuple(global_blocks),
    )
    made = Sam(
        encoder,
        PromptEncoder(256, (grid, grid), (side, side), 16),
        MaskDecoder(
            transformer_dim=256,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048),
        ),
    )
    for parameter in made.parameters():
        if parameter.min() == parameter.max():
            nn.init.normal_(parameter, parameter.min().item(), 0.1)
    return made.eval()


def local(model: Sam) -> Sam:
    """The same with masks of some connected places, so that there are boxes of all sizes."""
    model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix *= 0.3
    for name, parameter in model.mask_decoder.named_parameters():
        if "cross_attn" in name or "final_attn" in name:
            parameter.data *= 2
        elif "output_upscaling" in name and parameter.ndim == 4:
            parameter.data = 3 * parameter.data.mean((2, 3), keepdim=True).repeat(1, 1, 2, 2)
        elif "hypernetworks" in name and name.endswith("2.bias"):
            parameter.data -= 0.03
    return model


@cache
def pair() -> tuple[SamPredictor, SAM]:
    theirs = local(peer())
    predictor = SamPredictor(theirs)
    predictor.set_image(picture())
    return predictor, from_segment_anything(theirs.state_dict())


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255


POINTS = np.array([[20.0, 31.5], [60.0, 12.0]])
BOX = np.array([7.0, 9.0, 55.5, 50.0])
MASK = np.random.default_rng(4).normal(size=(1, SIDE // 4, SIDE // 4)).astype(np.float32)


def as_tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x)[None].float()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            {"point_coords": POINTS[:1], "point_labels": np.array([1]), "multimask_output": True},
            Prompts.of(as_tensor(POINTS[:1])),
        ),
        (
            {"point_coords": POINTS, "point_labels": np.array([1, 0]), "multimask_output": False},
            Prompts.of(as_tensor(POINTS), torch.tensor([[1, 0]])),
        ),
        ({"box": BOX, "multimask_output": False}, Prompts.of(boxes=as_tensor(BOX))),
        (
            {
                "point_coords": POINTS,
                "point_labels": np.array([0, 1]),
                "box": BOX,
                "mask_input": MASK,
                "multimask_output": False,
            },
            Prompts.of(as_tensor(POINTS), torch.tensor([[0, 1]]), as_tensor(BOX), torch.from_numpy(MASK)),
        ),
    ],
    ids=["point", "points", "box", "all"],
)
def test_masks_scores_and_logits_equal_the_authors(theirs: dict[str, object], ours: Prompts) -> None:
    predictor, model = pair()
    masks, iou, low = predictor.predict(return_logits=True, **theirs)
    with torch.no_grad():
        embedding = model.embed(tensor(picture()))
        found = model.masks(embedding, ours)
    torch.testing.assert_close(embedding.maps[0], predictor.get_image_embedding(), atol=1e-4, rtol=0)
    for mine, expected in ((found.logits, masks), (found.coarse, low), (found.iou, iou)):
        assert expected.std() > 1e-3 or expected.size == 1, "a constant output shows nothing"
        torch.testing.assert_close(mine[0], torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_several_prompts_and_images_of_different_size_equal_one_at_a_time() -> None:
    model = pair()[1]
    images = [tensor(picture())[0], tensor(picture(96, 40))[0]]
    prompts = Prompts.at([(20, 31), (33, 40), (39, 9)])
    with torch.no_grad():
        together = model.embed_all(images)
        for image, embedding in zip(images, together, strict=True):
            alone = model.embed(image[None])
            assert alone.size == embedding.size == tuple(image.shape[1:])
            torch.testing.assert_close(embedding.maps[0], alone.maps[0], atol=1e-5, rtol=1e-4)
            found = model.masks(embedding, prompts)
            assert found.logits.shape == (3, 3, *image.shape[1:])
            for i in range(3):
                one = model.masks(embedding, Prompts.of(prompts.points[i : i + 1]))
                torch.testing.assert_close(found.coarse[i : i + 1], one.coarse, atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(found.iou[i : i + 1], one.iou, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1280, 16)])
def test_an_encoder_of_each_published_width_gives_equal_embeddings(width: int, heads: int) -> None:
    theirs = peer(width, heads, side=256, window=14)
    ours = from_segment_anything(theirs.state_dict())
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = theirs.image_encoder(image)
        torch.testing.assert_close(ours.image_encoder(image), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    ("size", "resized"), [((61, 83), (96, 72)), ((61, 83), (45, 61)), ((40, 40), (97, 13))]
)
def test_images_are_resized_as_pillow_does(size: tuple[int, int], resized: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR))
    found = pillow_resize(torch.from_numpy(image).float(), resized)
    assert np.array_equal(found.numpy(), expected)


# --- automatic masks ------------------------------------------------------------------------------


def told(image: np.ndarray, **settings: object) -> tuple[list[dict[str, object]], FoundMasks]:
    """What the authors' generator and ours find with the same weights."""
    predictor, model = pair()
    names = {
        "points_per_side": "points_per_side",
        "min_iou": "pred_iou_thresh",
        "min_stability": "stability_score_thresh",
        "stability_offset": "stability_score_offset",
        "box_overlap": "box_nms_thresh",
        "crop_layers": "crop_n_layers",
        "crop_overlap": "crop_nms_thresh",
        "crop_points_divisor": "crop_n_points_downscale_factor",
        "min_area": "min_mask_region_area",
    }
    generator = SamAutomaticMaskGenerator(
        predictor.model, points_per_batch=7, **{names[key]: value for key, value in settings.items()}
    )
    find = AutomaticMasks(points_per_batch=9, **settings)
    return generator.generate(image), find(Predictor(model), image)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((HEIGHT, WIDTH), {"points_per_side": 4}),
        ((120, 77), {"points_per_side": 4, "crop_layers": 1, "crop_points_divisor": 2, "box_overlap": 0.9}),
        ((HEIGHT, WIDTH), {"points_per_side": 3, "min_area": 40}),
    ],
    ids=["grid", "crops", "small regions"],
)
def test_automatic_masks_are_the_authors_in_their_order(
    size: tuple[int, int], settings: dict[str, object]
) -> None:
    rules = {"min_iou": -0.5, "min_stability": 0.3, "stability_offset": 0.02}
    expected, found = told(picture(*size), **{**rules, **settings})
    assert len(expected) == len(found) > 3
    for i, theirs in enumerate(expected):
        mask = found.masks[i].decode()[0]
        assert np.array_equal(mask, theirs["segmentation"]), i
        assert theirs["predicted_iou"] == pytest.approx(float(found.iou[i]), abs=1e-5)
        assert theirs["stability_score"] == pytest.approx(float(found.stability[i]), abs=1e-4)
        assert theirs["point_coords"] == [pytest.approx(found.points[i].tolist())]
        left, top, right, bottom = found.crops[i].tolist()
        assert theirs["crop_box"] == [left, top, right - left, bottom - top]


def test_nothing_is_found_where_nothing_is_good_enough() -> None:
    _, model = pair()
    found = AutomaticMasks(points_per_side=2, min_iou=1e9)(Predictor(model), picture())
    assert len(found) == 0
    assert found.prediction.annotation.size == (HEIGHT, WIDTH)
