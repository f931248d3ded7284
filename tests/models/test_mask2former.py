"""MaskFormer and Mask2Former: what they are made of, by formulas and by brute force."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pixelwise as pw
from pixelwise.encoders import SwinTransformer
from pixelwise.losses import loss_parts, mask_set_of
from pixelwise.losses.mask_set import MaskSetLoss
from pixelwise.models.detr.transformer import sine_positions
from pixelwise.models.mask2former import (
    DeformableAttention,
    MaskedDecoderLayer,
    in_a_row,
    maps_of,
    seen_by,
)
from pixelwise.models.maskformer import MaskFormerLogits
from pixelwise.ops import deformable_attention
from pixelwise.ops.deformable_attention import read_maps, read_rows
from pixelwise.types import Batch, ClassTable, LabelMap

# Classes without "no object", and parameters as counted in transformers 5.23.
PUBLISHED = {
    "mask2former_resnet50": (133, 44_036_998),
    "mask2former_resnet101": (133, 63_029_126),
    "mask2former_swin_tiny": (133, 47_436_800),
    "mask2former_swin_small": (133, 68_754_704),
    "mask2former_swin_base": (133, 106_919_870),
    "mask2former_swin_large": (133, 215_538_682),
    "maskformer_resnet50": (150, 41_307_863),
    "maskformer_resnet101": (150, 60_299_991),
    "maskformer_swin_tiny": (150, 41_758_545),
    "maskformer_swin_small": (150, 63_076_449),
    "maskformer_swin_base": (150, 101_831_439),
    "maskformer_swin_large": (150, 211_578_699),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name: str) -> None:
    classes, published = PUBLISHED[name]
    with torch.device("meta"):
        model = pw.build(name, classes)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(published, rel=1e-4)


# --- deformable attention -------------------------------------------------------------------------


def read(map: Tensor, x: float, y: float) -> Tensor:
    """The value of a map "c h w" at fractions of its size, interpolated by hand; 0 beyond the border."""
    h, w = map.shape[1:]
    column, row = x * w - 0.5, y * h - 0.5
    found = torch.zeros(map.shape[0], dtype=map.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < h and 0 <= j < w:
                found = found + (1 - abs(row - i)) * (1 - abs(column - j)) * map[:, i, j]
    return found


@pytest.mark.parametrize("sizes", [((3, 5), (7, 4), (1, 9)), ((1, 1),)])
def test_deformable_attention_is_the_sum_by_hand(sizes: tuple[tuple[int, int], ...]) -> None:
    b, n, heads, points, c = 2, 3, 2, 4, 5
    values = [torch.randn(b, heads, c, *size, dtype=torch.float64) for size in sizes]
    locations = 1.6 * torch.rand(b, n, heads, len(sizes), points, 2, dtype=torch.float64) - 0.3
    weights = torch.randn(b, n, heads, len(sizes), points, dtype=torch.float64)
    found = deformable_attention(values, locations, weights)
    assert found.shape == (b, n, heads, c)
    for image in range(b):
        for query in range(n):
            for head in range(heads):
                expected = sum(
                    weights[image, query, head, level, point]
                    * read(values[level][image, head], *locations[image, query, head, level, point].tolist())
                    for level in range(len(sizes))
                    for point in range(points)
                )
                torch.testing.assert_close(found[image, query, head], expected)


def test_both_ways_to_read_the_maps_are_one_function_with_one_gradient() -> None:
    """GPUs and exported programs read maps, a CPU sums up rows."""
    torch.manual_seed(0)
    arguments = (
        torch.randn(2, 3, 5, 4, 6, dtype=torch.float64),
        1.6 * torch.rand(2, 7, 3, 4, 2, dtype=torch.float64) - 0.3,
        torch.randn(2, 7, 3, 4, dtype=torch.float64),
    )
    found = []
    for read in (read_maps, read_rows):
        leaves = [x.clone().requires_grad_() for x in arguments]
        output = read(*leaves)
        output.sin().sum().backward()
        found.append([output.detach(), *(x.grad for x in leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_places_that_are_no_numbers_give_none() -> None:
    value, weights = torch.randn(1, 1, 2, 3, 3), torch.ones(1, 2, 1, 1)
    locations = torch.tensor([0.5, 0.5, torch.nan, 0.5]).view(1, 2, 1, 1, 2)
    assert deformable_attention([value], locations[:, :, :, None], weights[..., None]).isnan().any(
        -1
    ).tolist() == [[[False], [True]]]


def test_at_first_each_head_looks_one_to_four_pixels_in_its_direction() -> None:
    attention = DeformableAttention(16)
    offsets = attention.offsets.bias.detach().view(8, 3, 4, 2)
    assert torch.equal(offsets[0, 0], torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]))
    torch.testing.assert_close(offsets[1, 2], torch.tensor([[1.0, 1], [2, 2], [3, 3], [4, 4]]))
    assert offsets.abs().amax((1, 2, 3)).tolist() == pytest.approx([4] * 8)
    assert not attention.weights.weight.any()


def test_offsets_are_counted_in_pixels_of_each_level() -> None:
    """A head that looks a pixel to the right reads the right neighbour, in every level."""
    attention = DeformableAttention(4)
    for layer in (attention.value, attention.out):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        attention.offsets.bias.copy_(torch.tensor([1.0, 0.0]).repeat(4 * 3 * 4))
    maps = [torch.zeros(1, 4, 4, 4), torch.randn(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)]
    levels = in_a_row(maps)
    row = torch.cat([map.flatten(2).transpose(1, 2) for map in maps], 1)
    found = maps_of(attention(torch.zeros_like(row), row, levels), levels)[1]
    torch.testing.assert_close(
        found[..., :-1], maps[1][..., 1:] / 3
    )  # a third of the weight is on each level
    assert not found[..., -1].any()


def test_the_maps_come_back_from_the_row_of_their_pixels() -> None:
    maps = [torch.randn(2, 4, 2, 3), torch.randn(2, 4, 5, 1)]
    row = torch.cat([map.flatten(2).transpose(1, 2) for map in maps], 1)
    levels = in_a_row(maps)
    assert all(torch.equal(*pair) for pair in zip(maps_of(row, levels), maps, strict=True))
    torch.testing.assert_close(levels.centres[5], torch.tensor([2.5 / 3, 1.5 / 2]))
    torch.testing.assert_close(levels.pixels, torch.tensor([[1 / 3, 1 / 2], [1, 1 / 5]]))


# --- queries and masks ----------------------------------------------------------------------------


def test_positions_are_sines_and_cosines_of_place_by_frequency() -> None:
    height, width, c = 3, 5, 8
    places = sine_positions(torch.zeros(2, c, height, width, dtype=torch.float64))
    assert places.shape == (1, height * width, c)
    for y in range(height):
        for x in range(width):
            expected = []
            for place, length in ((y, height), (x, width)):
                for pair in range(c // 4):
                    angle = 2 * math.pi * (place + 1) / (length + 1e-6) / 10_000 ** (4 * pair / c)
                    expected += [math.sin(angle), math.cos(angle)]
            assert places[0, y * width + x].tolist() == pytest.approx(expected)


def test_a_query_sees_its_mask_only_and_everything_where_that_is_empty() -> None:
    masks = torch.tensor([[[[1.0, -1], [-1, 0]], [[-1, -1], [-1, -2]]]])
    assert seen_by(masks).tolist() == [[[True, False, False, True], [True, True, True, True]]]
    layer = MaskedDecoderLayer(8)
    x, places, memory, memory_places = (torch.randn(1, n, 8) for n in (2, 2, 4, 4))
    # Of the cross-attention alone: the queries see each other afterwards.
    found = [
        layer.cross_attention(x + places, memory + memory_places, one, seen_by(masks))
        for one in (memory, memory + torch.tensor([0.0, 9, 9, 0])[None, :, None])
    ]
    torch.testing.assert_close(found[0][:, 0], found[1][:, 0])
    assert not torch.isclose(found[0][:, 1], found[1][:, 1]).any()


def test_masks_of_resized_embeddings_are_the_resized_masks() -> None:
    pixels, queries = torch.randn(1, 8, 17, 25), torch.randn(1, 6, 8)
    whole = torch.einsum("bqc,bchw->bqhw", queries, pixels)
    for size in ((3, 4), (5, 7), (9, 13)):
        first, then = (F.interpolate(x, size, mode="bilinear") for x in (pixels, whole))
        torch.testing.assert_close(torch.einsum("bqc,bchw->bqhw", queries, first), then)


def test_each_layer_of_the_decoder_gives_masks_in_training() -> None:
    image = torch.rand(1, 3, 64, 64)
    for name, count in (("mask2former", 6), ("maskformer", 1)):
        model = pw.build(name, 3, encoder="tiny", width=8, num_queries=5, blocks=2)
        assert len(model.train()(image).aux) == count
        assert model.eval()(image).aux == ()


def test_maskformer_is_learned_by_its_own_loss() -> None:
    output = MaskFormerLogits(torch.randn(1, 5, 4), torch.randn(1, 5, 8, 8), (16, 16))
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    labels[:, :9], labels[:, :, 12:] = 1, 2
    batch = Batch.of(torch.rand(1, 3, 16, 16), labels)
    own = MaskSetLoss(class_weight=1, mask_weight=20, dice_weight=1, pixel_loss="focal", points=None)
    masks = batch.annotations[0]
    assert isinstance(masks, LabelMap)
    parts = loss_parts(output, batch)
    expected = own.parts(output.class_logits, output.mask_logits, [mask_set_of(masks, 3, (16, 16))[0]])
    assert {key: part.item() for key, part in parts.items()} == pytest.approx(
        {key: part.item() for key, part in expected.items()}
    )


def test_a_width_that_positions_cannot_share_is_refused() -> None:
    for name in ("mask2former", "maskformer"):
        with pytest.raises(ValueError, match="width must be a multiple of 4, got 6"):
            pw.build(name, 3, encoder="tiny", width=6)


# --- Swin Transformers of dense prediction --------------------------------------------------------


def small_swin(**changes) -> SwinTransformer:
    return SwinTransformer(1, (2, 1, 1, 1), window=3, **changes)


def test_a_swin_takes_any_size_and_norms_each_stage() -> None:
    encoder = small_swin().eval()
    for height, width in ((64, 96), (65, 97), (33, 32)):
        features = encoder(torch.rand(1, 3, height, width))
        for stage, stride, channels in zip(
            ("c2", "c3", "c4", "c5"), (4, 8, 16, 32), (32, 64, 128, 256), strict=True
        ):
            map = features[stage]
            assert map.shape == (1, channels, -(-height // stride), -(-width // stride))
            assert map.mean(1).abs().max() < 1e-5
    assert tuple(encoder.channels) == (0, 32, 64, 128, 256)
    assert tuple(encoder.strides) == (0, 4, 8, 16, 32)
    with pytest.raises(ValueError, match="a Swin Transformer gives c2, c3, c4, c5: it has no c1"):
        small_swin(stages=("c1", "c2"))


def test_a_swin_is_cut_behind_its_last_stage() -> None:
    whole, half = small_swin(), small_swin(stages=("c2", "c3"))
    assert sum(p.numel() for p in half.parameters()) < 0.3 * sum(p.numel() for p in whole.parameters())
    image = torch.rand(1, 3, 40, 48)
    half.load_state_dict({key: x for key, x in whole.state_dict().items() if key in half.state_dict()})
    torch.testing.assert_close(half.eval()(image).c3, whole.eval()(image).c3)


def test_semantic_labels_of_a_batch_are_those_of_its_classes() -> None:
    model = pw.build("mask2former", 3, encoder="tiny", width=8, num_queries=5, blocks=1)
    predict = pw.Predictor(model, ClassTable.of(*"abc"), task="semantic")
    labels = predict(torch.rand(3, 65, 97)).label_map.labels
    assert labels.shape == (65, 97)
    assert labels.max() < 3
