"""SAM 2: its sizes and names, its blocks against plain references, and its memory bank."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pixelwise as pw
from pixelwise import weights as weights_of
from pixelwise.encoders.hiera import Hiera, HieraBlock, into_windows
from pixelwise.models import SAM2, from_sam2, sam2, sam2_hiera_tiny
from pixelwise.models.sam2.bank import NEAR, POINTERS, keep, recall
from pixelwise.models.sam2.mask_decoder import stable, without_doubt
from pixelwise.models.sam2.memory import RotaryAttention, rotations, sine_of_times
from pixelwise.models.sam2.read_weights import _OF_AUTHORS, _renamed
from pixelwise.types import Memory, Prompts, Track, TrackState
from pixelwise.weights import describe_weights

PUBLISHED = {  # parameters of SAM 2.1 and of SAM 2
    "sam2_hiera_tiny": (38_962_498, 38_945_986),
    "sam2_hiera_small": (46_060_354, 46_043_842),
    "sam2_hiera_base_plus": (80_850_178, 80_833_666),
    "sam2_hiera_large": (224_446_642, 224_430_130),
}
LETTERS = {
    "sam2_hiera_tiny": "t",
    "sam2_hiera_small": "s",
    "sam2_hiera_base_plus": "b+",
    "sam2_hiera_large": "l",
}


def on_meta(name: str, version: str) -> SAM2:
    with torch.device("meta"):
        model = pw.build(name, version=version)
    assert isinstance(model, SAM2)
    return model


def tiny(**arguments: object) -> SAM2:
    torch.manual_seed(0)
    model = sam2(**{"image_size": 64, "encoder_width": 8, "width": 32, "memory_width": 8} | arguments).eval()
    for key, parameter in model.named_parameters():
        if not parameter.any() or key.endswith("gamma"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_there_are_as_many_parameters_as_published(name: str) -> None:
    counts = [
        sum(parameter.numel() for parameter in on_meta(name, version).parameters())
        for version in ("2.1", "2.0")
    ]
    assert tuple(counts) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_every_published_tensor_has_one_place_of_its_shape(
    name: str, version: str, shared_data: Callable[..., Path]
) -> None:
    prefix = "sam2.1" if version == "2.1" else "sam2"
    path = shared_data("statedicts", f"{prefix}_hiera_{LETTERS[name]}.json")
    theirs = {
        key: torch.empty(one["shape"], device="meta")
        for key, one in json.loads(path.read_text())["state"].items()
    }
    renamed = _renamed(theirs, _OF_AUTHORS)
    ours = {key: one for key, one in on_meta(name, version).state_dict().items() if "normalize." not in key}
    assert len(renamed) == len(theirs)
    assert {key: one.shape for key, one in renamed.items()} == {key: one.shape for key, one in ours.items()}


BACK = (  # our names as the authors'
    ("encoder.patches.", "image_encoder.trunk.patch_embed.proj."),
    ("encoder.", "image_encoder.trunk."),
    (".qkv.", ".attn.qkv."),
    (".attention_out.", ".attn.proj."),
    (".shortcut.", ".proj."),
    (".perceptron.0.", ".mlp.layers.0."),
    (".perceptron.2.", ".mlp.layers.1."),
    (".lin1.", ".layers.0."),
    (".lin2.", ".layers.1."),
    ("mask_downsampler.", "mask_downsampler.encoder."),
    ("fuser.", "fuser.layers."),
    ("prompt_encoder.", "sam_prompt_encoder."),
    ("mask_decoder.", "sam_mask_decoder."),
    ("upscale1.", "output_upscaling.0."),
    ("upscale_norm.", "output_upscaling.1."),
    ("upscale2.", "output_upscaling.3."),
)


def published(model: SAM2) -> dict[str, Tensor]:
    """The weights of a model with the authors' names."""
    found = {}
    for key, tensor in model.state_dict().items():
        if key.startswith("neck.convs."):
            key = f"image_encoder.{key[:12]}.conv{key[12:]}"
        for ours, theirs in BACK:
            start = (
                key.startswith(ours)
                if ours[0] != "." and ours[:4] in ("enco", "prom", "mask")
                else ours in key
            )
            if start and not key.startswith(("memory_attention", "image_encoder.neck")):
                if ours != "encoder." or not key.startswith("image_encoder"):
                    key = key.replace(ours, theirs, 1)
        if "normalize." not in key:
            found[key] = tensor
    return found


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_published_weights_become_a_model_that_knows_how_it_was_built(version: str) -> None:
    torch.manual_seed(1)
    source = sam2_hiera_tiny(image_size=64, version=version).eval()
    weights = published(source)
    assert len(weights) == (471 if version == "2.1" else 468)
    model = from_sam2(weights, image_size=64)
    assert model.built_by.builder == "sam2_hiera_tiny"
    assert model.built_by.arguments == {"image_size": 64, "version": version, "in_channels": 3}
    image, prompts = torch.rand(1, 3, 40, 51), Prompts.at([(20, 30)])
    with torch.no_grad():
        torch.testing.assert_close(model(image, prompts), source(image, prompts))
    weights.pop("no_mem_embed")
    with pytest.raises(ValueError, match=r"not that of a SAM 2: .*no_mem_embed"):
        from_sam2(weights)


def test_the_published_file_loads_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "sam2.1_hiera_tiny"
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": published(sam2_hiera_tiny())}, path)  # as the authors wrap it
    entry = replace(describe_weights(name), checksum=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(weights_of, "_catalogue", lambda: {name: entry})
    checkpoint = pw.load_weights(name, source=path)
    assert checkpoint.classes.names == ("object",)
    assert checkpoint.built_by.arguments["version"] == "2.1"
    assert isinstance(pw.Predictor(checkpoint).model, SAM2)


def test_other_arguments_are_refused() -> None:
    for arguments in ({"image_size": 100}, {"version": "3"}, {"width": 20}, {"memory_width": 6}):
        with pytest.raises(ValueError, match="must be"):
            sam2(**arguments)


# --- blocks ---------------------------------------------------------------------------------------


def test_windows_are_cut_row_by_row_and_filled_up_with_zeros() -> None:
    x = torch.arange(1.0, 16).view(1, 3, 5, 1)
    windows, rows = into_windows(x, 2)
    assert windows[..., 0].tolist() == [
        [[1, 2], [6, 7]], [[3, 4], [8, 9]], [[5, 0], [10, 0]],
        [[11, 12], [0, 0]], [[13, 14], [0, 0]], [[15, 0], [0, 0]],
    ]  # fmt: skip
    assert rows == 2


@pytest.mark.parametrize("pools", [False, True])
def test_attention_in_windows_is_attention_of_each_window_alone(pools: bool) -> None:
    torch.manual_seed(2)
    block = HieraBlock(6, 12 if pools else 6, 3, 4)
    x = torch.randn(2, 8, 12, 6)
    found = block(x)
    alone = HieraBlock(6, 12 if pools else 6, 3, 0)
    alone.load_state_dict(block.state_dict())
    side = 2 if pools else 4
    for row in range(2):
        for column in range(3):
            window = x[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            place = found[:, side * row : side * row + side, side * column : side * column + side]
            torch.testing.assert_close(alone(window), place, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (75, 101), (224, 36)])
def test_the_encoder_takes_any_size(size: tuple[int, int]) -> None:
    encoder = Hiera(8, 1, (1, 2, 2, 1), (8, 4, 14, 7), (4,), 7)
    maps = encoder(torch.rand(1, 3, *size))
    assert [map.shape[1] for map in maps] == [8, 16, 32, 64]
    height, width = -(-size[0] // 4), -(-size[1] // 4)
    assert [tuple(map.shape[2:]) for map in maps] == [(height >> i, width >> i) for i in range(4)]


def test_rotations_are_products_of_complex_numbers_and_what_has_no_place_is_not_turned() -> None:
    torch.manual_seed(3)
    attention = RotaryAttention(16, 8).eval()
    frame, memory = torch.randn(1, 16, 3, 5), torch.randn(1, 2 * 15 + 4, 8)
    found = attention(frame.flatten(2).transpose(1, 2), memory, memory, rotations(frame), placeless=4)

    frequency = 10_000.0 ** -(torch.arange(4) * 4 / 16)
    y, x = torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")
    angle = torch.cat([x.flatten()[:, None] * frequency, y.flatten()[:, None] * frequency], 1)
    turn = torch.polar(torch.ones_like(angle), angle)

    def turned(values: Tensor, by: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(values.unflatten(-1, (-1, 2))) * by).flatten(-2)

    query = turned(attention.q_proj(frame.flatten(2).transpose(1, 2)), turn)
    key = attention.k_proj(memory)
    key = torch.cat([turned(key[:, :30].contiguous(), turn.repeat(2, 1)), key[:, 30:]], 1)
    weights = (query @ key.transpose(1, 2) / 16**0.5).softmax(2)
    wanted = attention.out_proj(weights @ attention.v_proj(memory))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_times_are_sines_then_cosines_at_paired_wavelengths() -> None:
    found = sine_of_times(torch.tensor([0.0, 0.5]), 8)
    angles = [0.5, 0.5, 0.5 / 100, 0.5 / 100]
    wanted = [*torch.tensor(angles).sin().tolist(), *torch.tensor(angles).cos().tolist()]
    assert found[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found[1].tolist() == pytest.approx(wanted)


def test_a_mask_that_hangs_on_its_threshold_gives_way_to_the_best_candidate() -> None:
    masks = torch.full((3, 4, 10, 10), -1.0)
    masks[0, 0, :5] = 1.0  # stable
    masks[1, 0, :5] = 0.01  # would vanish at a threshold of 0.05
    assert stable(masks[:, 0]).tolist() == [True, False, True]  # nothing is stable, too
    iou = torch.tensor([[0.1, 0.2, 0.9, 0.3]]).expand(3, -1)
    masks[1, 2] = 7.0
    chosen, expected = without_doubt(masks, iou)
    assert expected[:, 0].tolist() == pytest.approx([0.1, 0.9, 0.1])
    assert torch.equal(chosen[1, 0], masks[1, 2])
    assert torch.equal(chosen[0, 0], masks[0, 0])


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (33, 71), (1, 90)])
def test_masks_have_the_size_of_the_image_and_one_click_has_three(size: tuple[int, int]) -> None:
    model = tiny()
    image = torch.rand(1, 3, *size)
    embedding = model.embed(image)
    one = model.masks(embedding, Prompts.at([(3, 0), (20, 0)]))
    assert one.logits.shape == (2, 3, *size)
    assert ((0 < one.iou) & (one.iou < 1)).all()
    boxes = model.masks(embedding, Prompts.of(boxes=torch.tensor([[0.0, 0, 20, 1]])))
    assert boxes.logits.shape == (1, 1, *size)
    again = model.masks(embedding, Prompts.of(torch.zeros(1, 1, 2), masks=one.coarse[:1, 0]))
    assert again.logits.shape == (1, 1, *size)


def test_prompts_are_answered_each_on_its_own() -> None:
    model = tiny()
    embedding = model.embed(torch.rand(1, 3, 40, 50))
    places = [(3, 4), (20, 30), (49, 0)]
    together = model.masks(embedding, Prompts.at(places))
    for number, place in enumerate(places):
        alone = model.masks(embedding, Prompts.at([place]))
        torch.testing.assert_close(alone.coarse[0], together.coarse[number], atol=1e-5, rtol=1e-5)


def test_every_weight_but_the_unused_one_gets_a_gradient_from_a_clip() -> None:
    model = tiny()
    state, loss = TrackState((40, 50)), torch.zeros(())
    for frame, prompts in enumerate(
        ({1: Prompts.at([(20, 20)])}, {}, {1: Prompts.of(masks=torch.ones(1, 40, 50))})
    ):
        state, found = model.step(state, frame, model.embed(torch.rand(1, 3, 40, 50)), prompts)
        loss = loss + found.coarse.clamp(min=-1).sum() + found.scores.sum()
        loss = loss + sum(memory.features.float().sum() + memory.pointer.sum() for memory in (
            *state.tracks[0].prompted, *state.tracks[0].recent))  # fmt: skip
    image = model(torch.rand(1, 3, 40, 50), Prompts.at([(20, 20)]))
    (loss + image.iou.sum() + image.coarse.sum()).backward()
    without = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    # Softmax does not see what the bias of keys adds: the same number for every place.
    unseen = {f"mask_decoder.transformer.{name}.k_proj.bias" for name in (
        "final_attn_token_to_image",
        "layers.0.cross_attn_token_to_image",
        "layers.1.cross_attn_token_to_image",
    )}  # fmt: skip
    assert without == {"no_mem_pos_enc", *unseen}


# --- the memory bank ------------------------------------------------------------------------------


def memory(frame: int) -> Memory:
    return Memory(frame, torch.zeros(4), torch.zeros(2, 1, 1), None, torch.ones(()))


def test_a_frame_recalls_prompted_frames_its_neighbours_and_pointers_of_the_past() -> None:
    track = keep(Track(1, ()), memory(10), prompted=True)
    for frame in range(11, 50):
        track = keep(track, memory(frame), prompted=False)
    track = keep(track, memory(60), prompted=True)
    seen = recall(track, 50, None, reverse=False)
    assert [(away, one.frame) for away, one in seen.memories] == [
        (0, 10), (0, 60), (6, 44), (5, 45), (4, 46), (3, 47), (2, 48), (1, 49)
    ]  # fmt: skip
    assert [(away, one.frame) for away, one in seen.pointers] == [
        (40, 10),
        *((away, 50 - away) for away in range(1, 16)),
    ]
    back = recall(track, 9, None, reverse=True)
    assert [(away, one.frame) for away, one in back.memories] == [
        (0, 10), (0, 60), (6, 15), (5, 14), (4, 13), (3, 12), (2, 11)
    ]  # fmt: skip
    assert [away for away, _ in back.pointers] == [1, 51, *range(2, 16)]
    short = recall(track, 50, 5, reverse=False)
    assert [away for away, _ in short.pointers] == [40, 1, 2, 3, 4]
    assert short.longest == 4


def test_the_bank_keeps_what_may_be_asked_for_and_nothing_else() -> None:
    track = keep(Track(1, ()), memory(100), prompted=True)
    for frame in range(101, 400):
        track = keep(track, memory(frame), prompted=False)
    near = {*range(101, 101 + NEAR), *range(399 - NEAR, 400)}
    assert {one.frame for one in track.recent if one.features is not None} == near
    assert {one.frame for one in track.recent} == {*range(101, 100 + POINTERS), *range(400 - POINTERS, 400)}
    assert (track.first, track.last) == (101, 399)
    corrected = keep(track, memory(399), prompted=True)
    assert [one.frame for one in corrected.prompted] == [100, 399]
    assert 399 not in {one.frame for one in corrected.recent}
