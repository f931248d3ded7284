"""SAM and MobileSAM: sizes, names of weights, meaning of prompts (parity: tests/parity)."""

import json
from collections.abc import Callable

import pytest
import torch

import pixelwise as pw
from pixelwise.models import SAM, from_mobile_sam, from_segment_anything
from pixelwise.models.sam import ImageEncoder, SmallSAM
from pixelwise.models.sam.mask_decoder import Attention, AttentionOfImage, AttentionToImage
from pixelwise.types import PromptMasks, Prompts

SIZES = {"sam_vit_b": 93_735_472, "sam_vit_l": 312_342_832, "sam_vit_h": 641_090_608}
UNUSED = 321_640  # parameters of the head that classifies images in the published file of MobileSAM


def tiny(**arguments: object) -> SmallSAM:
    torch.manual_seed(0)
    model = pw.build(
        "sam", **{"image_size": 64, "patch": 8, "width": 16, "depth": 2, "decoder_width": 32, **arguments}
    )
    assert isinstance(model, SmallSAM)
    return model.eval()


def square() -> SAM:
    """As the published sizes, only small: images fill a square."""
    torch.manual_seed(0)
    return SAM(ImageEncoder(64, 8, 16, 2, [0], c_out=32), 64, 8, width=32).eval()


@pytest.mark.parametrize("name", SIZES)
def test_published_numbers_of_parameters(name: str) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in pw.build(name).parameters()) == SIZES[name]


def test_mobile_sam_has_the_published_number_without_its_unused_head() -> None:
    with torch.device("meta"):
        model = pw.build("mobile_sam")
    assert sum(p.numel() for p in model.parameters()) == 10_130_092 - UNUSED
    assert sum(p.numel() for p in model.image_encoder.parameters()) == 6_065_532 - UNUSED


@pytest.mark.parametrize("name, file", [*zip(SIZES, SIZES, strict=True), ("mobile_sam", "mobile_sam_vit_t")])
def test_names_and_shapes_of_weights_are_the_published_ones(name: str, file: str, shared_data) -> None:
    table = shared_data("statedicts", f"{file}.json")
    published = {key: tuple(one["shape"]) for key, one in json.loads(table.read_text())["state"].items()}
    with torch.device("meta"):
        ours = pw.build(name).state_dict()
    unused = ("image_encoder.head.", "image_encoder.norm_head.")
    assert {key: tuple(x.shape) for key, x in ours.items() if not key.startswith("normalize.")} == {
        key: shape for key, shape in published.items() if not key.startswith(unused)
    }


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="these are not the weights of a SAM"):
        from_segment_anything({"encoder.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="these are not the weights of MobileSAM"):
        from_mobile_sam({"encoder.weight": torch.zeros(1)})


@pytest.mark.parametrize("build", [tiny, square])
def test_one_point_has_three_candidates_and_anything_more_one(build: Callable[[], SAM]) -> None:
    model = build()
    point = torch.tensor([[[20.0, 10.0]], [[3.0, 30.0]]])
    box = torch.tensor([[1.0, 2, 30, 33], [4, 4, 20, 20]])
    with torch.no_grad():
        embedding = model.embed(torch.rand(1, 3, 40, 50))
        found = model.masks(embedding, Prompts.of(point))
        assert found.logits.shape == (2, 3, 40, 50)
        again = found.coarse[:, 0]
        for prompts in (
            Prompts.of(point.repeat(1, 2, 1)),
            Prompts.of(boxes=box),
            Prompts.of(point, boxes=box),
            Prompts.of(point, masks=again),
            Prompts.of(masks=again),
        ):
            assert model.masks(embedding, prompts).logits.shape == (2, 1, 40, 50)


def test_a_mask_of_the_image_is_the_same_as_one_of_the_network_where_nothing_is_padded() -> None:
    model = square()
    coarse = torch.randn(1, 32, 32)
    of_image = torch.nn.functional.interpolate(coarse[:, None], (64, 64), mode="nearest")[:, 0]
    found = model.mask_prompts(Prompts.of(masks=of_image), (64, 64))
    torch.testing.assert_close(model.mask_prompts(Prompts.of(masks=coarse), (64, 64))[:, 0], coarse)
    assert torch.corrcoef(torch.stack([found.flatten(), coarse.flatten()]))[0, 1] > 0.9
    padded = model.mask_prompts(Prompts.of(masks=torch.ones(1, 20, 40) * torch.arange(40.0)), (20, 40))
    assert (padded[0, 0, 17:] == 0).all()  # below the image is outside: the least score
    assert padded[0, 0, 5, 30] > 30


def test_the_stability_is_the_iou_of_two_thresholds() -> None:
    scores = torch.tensor([[-2.0, -0.5, 0.5, 2.0]]).repeat(4, 1)[None, None]
    output = PromptMasks(scores, torch.ones(1, 1), (4, 4))
    assert output.stability(1.0).item() == pytest.approx(1 / 3)
    assert PromptMasks(scores - 9, torch.ones(1, 1), (4, 4)).stability().isnan().all()


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"image_size": 65}, "image_size must be a multiple of the patch of 8 pixels, got 65"),
        ({"patch": 12}, "patch must be a power of two from 4 on, got 12"),
        ({"patch": 2}, "patch must be a power of two from 4 on, got 2"),
        ({"decoder_width": 48}, "decoder_width must be a multiple of 32, got 48"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tiny(**wrong)


def test_no_weight_depends_on_the_size_of_the_image_and_positions_are_those_of_patches() -> None:
    small, large = tiny(image_size=64), tiny(image_size=128)
    large.load_state_dict(small.state_dict())
    of_small, of_large = small.prompt_encoder.positions(8, 8), large.prompt_encoder.positions(16, 16)
    torch.testing.assert_close(of_large[..., :8, :8], of_small, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_a_click_is_seen_where_it_is_before_anything_is_learned(seed: int) -> None:
    torch.manual_seed(seed)
    model, side, count = pw.build("sam", image_size=128), 16, 32
    points = torch.rand(count, 1, 2) * 100 + 14
    centres = (
        torch.stack(torch.meshgrid(2 * [torch.arange(side)], indexing="xy"), -1).flatten(0, 1) + 0.5
    ) * 8
    distance = (centres - points).norm(dim=-1)
    image = torch.rand(3, 128, 128)

    def told() -> float:
        """How much more the clicks change the map of the image beside them than elsewhere."""
        (embedding,) = model.embed_all([image])
        encoder, width = model.prompt_encoder, model.channels[0]
        own = torch.cat([model.mask_decoder.iou_token.weight, model.mask_decoder.mask_tokens.weight])
        asked = encoder.points(*model.places(Prompts.of(points), (128, 128)))
        tokens = torch.cat([own.expand(count, -1, -1), asked], 1)
        map = embedding.maps[0][:, :width]  # without the drawn clicks, which cannot be overlooked
        _, map = model.mask_decoder.transformer(map, encoder.positions(side, side), tokens)
        changed = (map - map.mean(0)).norm(dim=1).flatten(1)
        return float(changed[distance < 6].mean() / changed[distance > 20].mean())

    with torch.no_grad():
        assert told() > 2
        for attention in model.mask_decoder.modules():
            if isinstance(attention, Attention):
                for layer in attention.children():
                    layer.reset_parameters()
        assert told() < 1.5  # as the authors' networks begin


def test_prompts_are_drawn_where_they_are() -> None:
    model = tiny(image_size=128)
    prompts = Prompts.of(
        torch.tensor([[[20.0, 10], [50, 30]]]), torch.tensor([[1, 0]]), torch.tensor([[8.0, 4, 40, 24]])
    )
    earlier = torch.linspace(-9, 9, 20 * 32).view(1, 1, 20, 32)
    drawn = model.prompt_encoder.draw(*model.places(prompts, (40, 64)), earlier)[0]
    inside, inside_wide, outside, _, box, mask = drawn
    cell = 2  # pixels
    assert divmod(int(inside.argmax()), 32) == (10 // cell, 20 // cell)
    assert divmod(int(outside.argmax()), 32) == (30 // cell, 50 // cell)
    assert inside.max() > 0.8
    assert inside_wide.sum() > 10 * inside.sum()
    assert (box[14 // cell] > 0.5).nonzero()[:, 0].tolist() == list(range(8 // cell, 40 // cell))
    assert (box[:, 24 // cell] > 0.5).nonzero()[:, 0].tolist() == list(range(4 // cell, 24 // cell))
    torch.testing.assert_close(mask, (earlier[0, 0] / 2).tanh())
    none = model.prompt_encoder.draw(*model.places(Prompts.of(masks=earlier[0]), (40, 64)), earlier)[0]
    assert not none[:5].any()


@pytest.mark.parametrize("build", [tiny, square])
def test_a_mask_that_is_not_given_is_not_looked_at(build: Callable[[], SAM]) -> None:
    model = build()
    with torch.no_grad():
        embedding = model.embed(torch.rand(1, 3, 64, 64))
        places = model.places(Prompts.of(torch.tensor([[[20.0, 10]], [[30.0, 40]]])), (64, 64))
        masks, given = 5 * torch.randn(2, 1, 32, 32), torch.tensor([1.0, 0.0])
        found = model.decode(embedding.maps[0], *places, masks, given)[0]
        all_given = model.decode(embedding.maps[0], *places, masks)[0]
        none = model.decode(embedding.maps[0], *places)[0]
    torch.testing.assert_close(found, torch.stack([all_given[0], none[1]]))
    assert not torch.allclose(all_given[1], none[1])


def test_images_keep_their_scale_unless_they_are_too_large() -> None:
    model = tiny(image_size=128, depth=1)
    image = torch.rand(1, 3, 128, 120)
    with torch.no_grad():
        whole, part = (model.embed(one).maps[0] for one in (image, image[..., :72, :68]))
        assert whole.shape[2:] == (16, 15)
        assert part.shape[2:] == (9, 9)  # whole patches
        torch.testing.assert_close(part[..., :1, :1], whole[..., :1, :1], atol=1e-4, rtol=1e-4)
        assert model.embed(torch.rand(1, 3, 512, 100)).maps[0].shape[2:] == (16, 4)
        found = model.masks(model.embed(image[..., :70, :66]), Prompts.at([(20, 10)]))
    assert found.coarse.shape == (1, 3, 36, 36)
    assert found.seen_size == (70, 66)
    assert found.padded_size == (72, 72)
    assert found.logits.shape == (1, 3, 70, 66)


def test_a_place_carries_the_finer_maps_of_its_patch() -> None:
    model = tiny(image_size=128, depth=1)
    image = torch.rand(1, 3, 64, 64)
    changed = image.clone()
    changed[..., 33, 26] += 1
    with torch.no_grad():
        model.image_encoder.to_middle.weight.zero_()  # what comes back up from the coarse maps
        model.image_encoder.to_fine.weight.zero_()
        before, after = (model.embed(one).maps[0] for one in (image, changed))
    fine = model.channels[2]
    fine_map = torch.nn.functional.pixel_shuffle((after - before)[:, -16 * fine :], 4).abs().sum(1)[0]
    assert divmod(int(fine_map.argmax()), 32) in {(y, x) for y in (16, 17) for x in (12, 13, 14)}


def test_a_small_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 x 16 pixels, got 15 x 40"):
        tiny().embed(torch.rand(1, 3, 15, 40))


def test_a_block_of_tiny_vit_equals_timms() -> None:
    from timm.models.tiny_vit import TinyVitBlock

    from pixelwise.models.mobile_sam import TinyViTBlock

    torch.manual_seed(0)
    ours, theirs = TinyViTBlock(20, 2, 7).eval(), TinyVitBlock(20, 2, window_size=7).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
        theirs.local_conv.bn.running_mean.normal_()
        theirs.local_conv.bn.running_var.uniform_(0.5, 2)
        names = {"local_conv.conv.": "local_conv.c."}
        weights = {}
        for key, x in theirs.state_dict().items():
            for old, new in names.items():
                key = key.replace(old, new)
            weights[key] = x
        ours.load_state_dict({key: x for key, x in weights.items() if key in ours.state_dict()})
        image = torch.randn(2, 20, 10, 16)
        expected = theirs(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(ours(image), expected, atol=1e-4, rtol=1e-4)


def test_mobile_sam_works_at_any_multiple_of_sixteen() -> None:
    torch.manual_seed(0)
    model = pw.build("mobile_sam", image_size=96).eval()
    with torch.no_grad():
        found = model(torch.rand(1, 3, 50, 90), Prompts.at([(20, 30)]))
    assert found.logits.shape == (1, 3, 50, 90)
    with pytest.raises(ValueError, match="image_size must be a multiple of 16, got 100"):
        pw.build("mobile_sam", image_size=100)


def test_a_changed_encoder_begins_as_it_was_and_learns_its_changes_only() -> None:
    plain, changed = tiny(), tiny(lora=2)
    missing, unexpected = changed.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert len(missing) == 4
    assert all("lin1.lora_" in name for name in missing)
    image, prompts = torch.rand(1, 3, 40, 50), Prompts.at([(20, 10)])
    torch.testing.assert_close(changed(image, prompts).coarse, plain(image, prompts).coarse)
    learned = {name for name, p in changed.named_parameters() if p.requires_grad}
    assert {name for name in learned if name.startswith("image_encoder.")} == set(missing)
    assert any(name.startswith("mask_decoder.") for name in learned)
    for name, parameter in changed.named_parameters():
        if "lora_b" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.allclose(changed(image, prompts).coarse, plain(image, prompts).coarse)
    changed(image, prompts).coarse.sum().backward()
    assert all(dict(changed.named_parameters())[name].grad.any() for name in missing)


def test_a_changed_encoder_comes_back_from_a_checkpoint(tmp_path) -> None:
    changed = tiny(lora=2)
    pw.save(changed, tmp_path / "a.safetensors", pw.ClassTable.of("object"))
    again = pw.load(tmp_path / "a.safetensors").model
    image, prompts = torch.rand(1, 3, 40, 50), Prompts.at([(20, 10)])
    with torch.no_grad():
        assert torch.equal(again(image, prompts).coarse, changed(image, prompts).coarse)


@pytest.mark.parametrize("maps", [1, 3])
def test_attention_between_tokens_and_an_image_equals_attention_with_keys_and_values(maps: int) -> None:
    torch.manual_seed(0)
    tokens, image, placed = torch.randn(3, 5, 16), torch.randn(maps, 35, 16), torch.randn(maps, 35, 16)
    plain = Attention(16, 8, 2)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter)
    for kind, seen in (
        (AttentionToImage, (tokens, placed, image)),
        (AttentionOfImage, (placed, tokens, tokens + 1)),
    ):
        folded = kind(16, 8, 2)
        folded.load_state_dict(plain.state_dict())
        torch.testing.assert_close(folded(*seen), plain(*seen), rtol=1e-4, atol=1e-4)
