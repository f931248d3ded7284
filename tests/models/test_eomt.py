"""EoMT: queries among the tokens of a plain ViT."""

import pytest
import torch
from torch import nn

from pixelwise.models import EoMT, eomt, eomt_base, eomt_large, eomt_small


def small(**arguments: object) -> EoMT:
    torch.manual_seed(6)
    model = eomt(4, encoder="tiny", num_queries=5, blocks=2, image_size=64, **arguments)
    for key, parameter in model.named_parameters():
        if "pos_embed" in key or "cls_token" in key:
            nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize(("builder", "d"), [(eomt_small, 384), (eomt_base, 768), (eomt_large, 1024)])
def test_parameters_are_those_of_the_vit_and_three_small_heads(builder, d: int) -> None:
    with torch.device("meta"):
        model = builder(133)
    depth = 24 if d == 1024 else 12
    # Blocks with layer scale; patches, 40 x 40 positions, class token and four registers; the final norm.
    vit = depth * (12 * d * d + 13 * d + 2 * d) + (3 * 256 * d + d) + 1600 * d + 5 * d + 2 * d
    heads = 200 * d + (134 * d + 134) + 3 * (d * d + d) + 2 * ((4 * d * d + d) + 9 * d + 2 * d)
    assert sum(p.numel() for p in model.parameters()) == vit + heads
    assert model.blocks == (4 if d == 1024 else 3)


def test_in_training_a_query_sees_patches_of_its_mask_alone() -> None:
    model = small()
    masks = torch.randn(2, 5, 12, 20)
    n = 1 + 15 + 5
    seen = model.seen(masks, (3, 5), n, torch.tensor(1.0))
    inside = nn.functional.interpolate(masks, (3, 5), mode="bilinear") > 0
    for b in range(2):
        for one in range(n):
            for other in range(n):
                masked = one >= 16 and 1 <= other < 16
                wanted = inside[b, one - 16].flatten()[other - 1] if masked else True
                assert seen[b, 0, one, other] == wanted
    assert model.seen(masks, (3, 5), n, torch.tensor(0.0)).all()


def test_part_of_the_queries_is_masked() -> None:
    model = small()
    seen = model.seen(-torch.ones(400, 5, 4, 4), (4, 4), 22, torch.tensor(0.3))
    masked = ~seen[:, 0, -5:, 1:-5]
    assert torch.equal(masked.any(2), masked.all(2)), "a query is masked as a whole"
    assert masked[:, :, 0].float().mean() == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    "total, starts, ends",
    [  # steps of the authors' configurations: ADE20K, 31 epochs, ViT-L; COCO, 24 epochs, ViT-S and ViT-B
        (39_153, (6520, 13_040, 19_560, 26_080), (13_040, 19_560, 26_080, 32_600)),
        (177_432, (29_564, 73_910, 118_256), (59_128, 103_474, 147_820)),
    ],
)
def test_masks_are_annealed_block_after_block(
    total: int, starts: tuple[int, ...], ends: tuple[int, ...]
) -> None:
    model = eomt(4, encoder="tiny", blocks=len(starts))
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for step, wanted in ((start, 1.0), ((start + end) / 2, 0.5**0.9), (end, 0.0)):
            model.progress(step / total)
            assert model.attn_mask_probs[i].item() == pytest.approx(wanted, abs=1e-2)
    model.progress(1 / 6)
    assert model.attn_mask_probs.tolist() == [1.0] * len(starts)
    model.progress(5 / 6)
    assert model.attn_mask_probs.max() < 1e-4
    assert "attn_mask_probs" in model.state_dict()


def test_predictions_before_each_last_block_train_and_evaluation_masks_nothing() -> None:
    model = small()
    image = torch.rand(2, 3, 65, 97)
    output = model.train()(image)
    assert len(output.aux) == 2
    assert {one.mask_logits.shape for one in (output, *output.aux)} == {(2, 5, 20, 28)}
    model.progress(1.0)
    trained = model(image)
    with torch.no_grad():
        evaluated = model.eval()(image)
    assert evaluated.aux == ()
    torch.testing.assert_close(trained.mask_logits, evaluated.mask_logits, atol=1e-4, rtol=1e-4)
    assert (output.mask_logits - evaluated.mask_logits).abs().max() > 1e-3


def test_more_blocks_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks must be at most 4, as the encoder has, got 5"):
        eomt(4, encoder="tiny", blocks=5)
