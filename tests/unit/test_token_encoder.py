"""Plain ViTs of timm as encoders that give tokens, at any image size."""

from typing import Any

import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import HybridEmbed, _resnetv2
from torch import nn

from pixelwise.encoders import TokenEncoder, make_token_encoder
from pixelwise.layers import without_padding

SIZE = {"img_size": 48, "patch_size": 16, "num_classes": 0, "embed_dim": 16, "depth": 4, "num_heads": 2}


def hybrid(**arguments: Any) -> nn.Module:
    return VisionTransformer(
        embed_layer=lambda **given: HybridEmbed(_resnetv2((1, 1, 1)), **given),
        **{**SIZE, "patch_size": 1},
        **arguments,
    )


# Each as timm builds the published ones, but small: class tokens, registers, kind of positions.
FAMILIES: dict[str, tuple[type[nn.Module] | Any, dict[str, Any]]] = {
    "vit": (VisionTransformer, {}),
    "deit": (VisionTransformerDistilled, {}),
    "deit3": (VisionTransformer, {"no_embed_class": True, "init_values": 1e-6}),
    "clip": (VisionTransformer, {"pre_norm": True, "norm_layer": nn.LayerNorm}),
    "dinov2": (VisionTransformer, {"no_embed_class": True, "reg_tokens": 4, "init_values": 1.0}),
    "beit": (Beit, {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.1}),
    "eva": (Eva, {"use_abs_pos_emb": True}),
    "eva02": (Eva, {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4), "swiglu_mlp": True}),
    "dinov3": (
        Eva,
        {"use_rot_pos_emb": True, "rope_type": "dinov3", "num_reg_tokens": 4, "use_abs_pos_emb": False,
         "rope_rotate_half": True, "no_embed_class": True},
    ),
    "mixed": (
        Eva,
        {"use_rot_pos_emb": True, "rope_type": "mixed", "global_pool": "token", "use_abs_pos_emb": False},
    ),
    "hybrid": (hybrid, {}),
}  # fmt: skip
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("beit", "eva", "eva02", "hybrid")]
EXPORTED = ["deit", "dinov3", *SLOW]
PREFIX = {"deit": (2, 0), "dinov2": (1, 4), "dinov3": (1, 4)}


def body(family: str) -> nn.Module:
    """One whose weights all matter."""
    torch.manual_seed(3)
    kind, arguments = FAMILIES[family]
    dynamic = {} if kind is Beit else {"dynamic_img_size": True}
    made: nn.Module = kind(**(SIZE if kind is not hybrid else {}), **arguments, **dynamic)
    for key, parameter in made.named_parameters():
        if parameter.ndim > 1 or "gamma" in key or "norm" in key:
            nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return made.eval()


def picture(*size: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_timm_where_timm_takes_the_size(family: str) -> None:
    whole, encoder = body(family), TokenEncoder(body(family), depths=(0.5, 1)).eval()
    sizes = [(48, 48)] if family == "beit" else [(48, 48), (80, 112)]
    for size in sizes:
        x = encoder.normalize(picture(*size))
        with torch.no_grad():
            layers = whole.forward_intermediates(x, output_fmt="NLC", intermediates_only=True)
            tokens = encoder(picture(*size))
        norm = whole.norm if isinstance(whole.fc_norm, nn.Identity) else whole.fc_norm
        assert tokens.grid == (size[0] // 16, size[1] // 16)
        torch.testing.assert_close(tokens.patches(0), layers[1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokens.patches(1), norm(layers[3]), atol=1e-5, rtol=1e-5)
        assert layers[1].std() > 0.1


def test_tables_of_beit_are_resized_for_another_grid() -> None:
    encoder = TokenEncoder(body("beit")).eval()
    kind, arguments = FAMILIES["beit"]
    other = kind(**{**SIZE, "img_size": (80, 112)}, **arguments).eval()
    weights = body("beit").state_dict()
    for key, table in weights.items():
        if key.endswith("bias_table"):
            map = table[:-3].T.reshape(1, 2, 5, 5)
            map = nn.functional.interpolate(map, (9, 13), mode="bilinear").reshape(2, -1).T
            weights[key] = torch.cat([map, table[-3:]])
    other.load_state_dict(weights)
    with torch.no_grad():
        wanted = other.fc_norm(other.forward_features(encoder.normalize(picture(80, 112))))
        torch.testing.assert_close(encoder(picture(80, 112)).layers[0], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_size_works_and_kinds_of_tokens_are_told_apart(family: str) -> None:
    encoder = TokenEncoder(body(family), depths=(0.25, 0.5, 1)).eval()
    with torch.no_grad():
        tokens = encoder(picture(33, 97))
    num_class, num_registers = PREFIX.get(family, (1, 0))
    assert tokens.grid == (3, 7)
    assert [layer.shape for layer in tokens.layers] == [(2, num_class + num_registers + 21, 16)] * 3
    assert tokens.class_tokens().shape == (2, num_class, 16)
    assert tokens.registers().shape == (2, num_registers, 16)
    whole = torch.cat([tokens.class_tokens(), tokens.registers(), tokens.patches()], dim=1)
    assert torch.equal(whole, tokens.layers[-1])
    assert torch.equal(tokens.map()[:, :, 2, 5], tokens.patches()[:, 2 * 7 + 5])
    maps = [(256, 12, 28), (512, 6, 14), (1024, 3, 7)] if family == "hybrid" else []
    assert [tuple(map.shape[1:]) for map in tokens.maps] == maps
    assert encoder.map_channels == tuple(map[0] for map in maps)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient_with_and_without_prefix(family: str) -> None:
    for prefix in (True, False):
        encoder = TokenEncoder(body(family), depths=(0.5,), norm=False, prefix=prefix)
        tokens = encoder(picture(65, 97))
        assert (tokens.num_class_tokens + tokens.num_registers > 0) == prefix
        tokens.layers[0].square().sum().backward()
        assert not [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.compile
@pytest.mark.parametrize("family", EXPORTED)
def test_one_exported_program_serves_all_sizes(family: str) -> None:
    encoder = Patches(TokenEncoder(body(family)).eval())
    dims = {2: torch.export.Dim("H", min=48, max=512), 3: torch.export.Dim("W", min=48, max=512)}
    program = torch.export.export(encoder, (picture(97, 131),), dynamic_shapes=(dims,)).module()
    for size in ((48, 48), (65, 97), (128, 80)):
        with torch.no_grad():
            wanted, found = encoder(picture(*size)), program(picture(*size))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.compile
@pytest.mark.parametrize("family", EXPORTED)
def test_compiles_in_one_graph(family: str) -> None:
    encoder = Patches(TokenEncoder(body(family)).eval())
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(encoder, fullgraph=True, backend="eager")(picture(65, 97))
        torch.testing.assert_close(compiled, encoder(picture(65, 97)), atol=1e-5, rtol=1e-5)


class Patches(nn.Module):
    """The map of the last layer, as a program can give it."""

    def __init__(self, encoder: TokenEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        map: torch.Tensor = self.encoder(image).map()
        return map


@pytest.mark.parametrize("family", ["vit", "beit", "dinov3", "mixed"])
def test_further_tokens_lie_nowhere_and_masks_hide(family: str) -> None:
    encoder = TokenEncoder(body(family)).eval()
    x, grid, _ = encoder.start(picture(48, 80))
    more = torch.randn(2, 3, 16)
    places = encoder.places(grid, more=3)
    seen = torch.ones(2, 1, x.shape[1] + 3, x.shape[1] + 3, dtype=torch.bool)
    seen[:, :, : x.shape[1], x.shape[1] :] = False  # the others do not see what is new
    with torch.no_grad():
        alone = encoder.block(0, x, encoder.places(grid))
        both = encoder.block(0, torch.cat([x, more], 1), places, seen)
        swapped = encoder.block(0, torch.cat([x, more.flip(1)], 1), places, seen)
        unhidden = encoder.block(0, torch.cat([x, more], 1), places)
    torch.testing.assert_close(both[:, :-3], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(swapped[:, -3:].flip(1), both[:, -3:], atol=1e-5, rtol=1e-5)
    assert (unhidden[:, :-3] - alone).abs().max() > 1e-3


def test_positions_are_resized_as_asked() -> None:
    encoders = [make_token_encoder("tiny", interpolation=how) for how in ("bicubic", "bilinear")]
    encoders[1].load_state_dict(encoders[0].state_dict())
    at_home, abroad = [
        [encoder.eval()(picture(*size)).patches() for encoder in encoders] for size in ((64, 64), (96, 64))
    ]
    assert torch.equal(*at_home)
    assert (abroad[0] - abroad[1]).abs().max() > 1e-4


def test_blocks_behind_the_last_layer_and_the_classifier_are_cut_off() -> None:
    whole = timm.create_model("vit_tiny_patch16_224")
    encoder = make_token_encoder("vit_tiny_patch16_224", depths=(0.25, 0.75), norm=False)
    cut = [whole.blocks[9:], whole.norm, whole.head]
    assert encoder.last == (2, 8)
    assert count(encoder) == count(whole) - sum(map(count, cut))
    assert make_token_encoder(encoder, depths=(0.25, 0.75)) is encoder


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_pretrained_weights_are_fitted_to_patch_image_and_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "vit_tiny_patch16_224"
    published = timm.create_model(name, num_classes=0, dynamic_img_size=True).state_dict()
    monkeypatch.setattr("pixelwise.encoders.vit.fetch", lambda name, **options: published)
    encoder = make_token_encoder(name, pretrained=True, in_channels=1)
    filters = encoder.body.patch_embed.proj.weight
    torch.testing.assert_close(filters, published["patch_embed.proj.weight"].sum(1, keepdim=True))
    assert encoder(torch.rand(1, 1, 64, 64)).grid == (4, 4)


def test_published_sizes_and_other_patches() -> None:
    with torch.device("meta"):
        large = make_token_encoder("vit_large_patch16_384")
        other = make_token_encoder("vit_small_patch14_reg4_dinov2", image_size=640, patch_size=16)
    assert count(large) == 303_690_752
    assert (other.patch_size, other.old_grid) == (16, (40, 40))


def test_branches_are_dropped_more_often_the_deeper_they_lie() -> None:
    for name in ("tiny", "vit_tiny_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224"):
        with torch.device("meta"):
            blocks = make_token_encoder(name, drop_path=0.3).body.blocks
            plain = make_token_encoder(name).body.blocks
        found = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
        wanted = [0.3 * i / (len(blocks) - 1) for i in range(len(blocks))]
        assert found == pytest.approx(wanted, abs=1e-6)
        assert not any(getattr(block.drop_path1, "drop_prob", 0.0) for block in plain)


def test_what_does_not_fit_is_told_in_a_sentence() -> None:
    encoder = make_token_encoder("tiny")
    with pytest.raises(ValueError, match="at least as large as a patch of 16 x 16 pixels, got 15 x 40"):
        encoder(picture(15, 40))
    with pytest.raises(ValueError, match="patches must be square, got 16 x 8 pixels"):
        TokenEncoder(VisionTransformer(**{**SIZE, "patch_size": (16, 8)}))
    with pytest.raises(ValueError, match="backbone 'resnet18' is no plain ViT"):
        make_token_encoder("resnet18")
    with torch.device("meta"), pytest.raises(ValueError, match=r"'swin_tiny_patch4_window7_224' .*plain ViT"):
        make_token_encoder("swin_tiny_patch4_window7_224")
    with pytest.raises(ValueError, match="no backbone 'vit_tiny_patch16': did you mean"):
        make_token_encoder("vit_tiny_patch16")
    with pytest.raises(ValueError, match="image_size must be at least a patch of 16 pixels"):
        make_token_encoder("tiny", image_size=15)
    with pytest.raises(ValueError, match="takes 3 channels, not 4"):
        make_token_encoder(encoder, in_channels=4)
    with pytest.raises(ValueError, match="must give 2 layers, it gives 1"):
        make_token_encoder(encoder, depths=(0.5, 1))
    with pytest.raises(ValueError, match="no pretrained weights are published for 'tiny'"):
        make_token_encoder("tiny", pretrained=True)


@pytest.mark.parametrize("align_corners", [False, True])
def test_padding_is_taken_out_of_a_coarse_map(align_corners: bool) -> None:
    # A map that grows linearly shows whether every value lies at its place.
    padded, size = (64, 96), (50, 81)
    rows = torch.arange(64.0)[:, None].expand(64, 96)
    coarse = nn.functional.interpolate(
        rows[None, None], (16, 24), mode="bilinear", align_corners=align_corners
    )
    cut = without_padding(coarse, size, padded, align_corners=align_corners)
    found = nn.functional.interpolate(cut, size, mode="bilinear", align_corners=align_corners)
    inner = found[0, 0, 5:-5] - rows[5:45, :81]
    assert inner.abs().max() < 1e-4
    uncut = nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=align_corners)
    assert (uncut[0, 0, 5:-5] - rows[5:45, :81]).abs().max() > 10
    assert without_padding(coarse, padded, padded) is coarse
