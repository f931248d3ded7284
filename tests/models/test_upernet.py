"""UPerNet on any encoder, Swin Transformer and ConvNeXt: equal to transformers, timm and SMP."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from transformers import ConvNextConfig, SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

from pixelwise.checkpoint import load, save
from pixelwise.converters import from_mmseg
from pixelwise.encoders import SwinTransformer, rename_timm_swin
from pixelwise.encoders.swin_transformer import SWIN_SIZES, ShiftedWindowAttention, lay_out
from pixelwise.models import from_smp, from_transformers_convnext, from_transformers_swin, upernet
from pixelwise.registry import build
from pixelwise.types import ClassTable
from tests.models.test_segformer import close, redrawn

STAGES = ["stage1", "stage2", "stage3", "stage4"]


def swin_peer(*, window: int = 3, **settings: object) -> nn.Module:
    backbone = SwinConfig(
        embed_dim=32, depths=[1, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=window, out_features=STAGES
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_in_channels=128, num_labels=5, **settings
    )
    return redrawn(UperNetForSemanticSegmentation(config), seed=3)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("swin_tiny_upernet", 59.941862),
        ("swin_small_upernet", 81),
        ("swin_base_upernet", 121),
        ("swin_large_upernet", 234),
        ("convnext_tiny_upernet", 60),
        pytest.param("convnext_small_upernet", 82, marks=pytest.mark.slow),
        pytest.param("convnext_base_upernet", 122, marks=pytest.mark.slow),
        pytest.param("convnext_large_upernet", 235, marks=pytest.mark.slow),
        pytest.param("convnext_xlarge_upernet", 391, marks=pytest.mark.slow),
    ],
)
def test_every_size_has_as_many_parameters_as_published(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build(name, 150)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.005)


@pytest.mark.parametrize("window", [2, 3, 7])
def test_logits_on_swin_are_those_of_transformers_at_any_size(window: int) -> None:
    theirs = swin_peer(window=window)
    ours = from_transformers_swin(theirs.state_dict())
    for size in ((65, 97), (64, 96), (33, 150)):
        image = torch.rand(2, 3, *size)
        with torch.no_grad():
            close(ours(image).logits, theirs(ours.encoder.normalize(image)).logits)


def test_files_of_the_hub_have_other_names_for_the_same_weights(tmp_path) -> None:
    from safetensors.torch import load_file

    theirs = swin_peer()
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert set(weights) != set(theirs.state_dict())
    ours, again = from_transformers_swin(theirs.state_dict()), from_transformers_swin(weights)
    image = torch.rand(1, 3, 65, 70)
    with torch.no_grad():
        assert torch.equal(ours(image).logits, again(image).logits)
    save(again, tmp_path / "a.safetensors", ClassTable.of(*"abcde"))
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "a.safetensors").model(image).logits, ours(image).logits)


def test_logits_on_convnext_are_those_of_transformers() -> None:
    backbone = ConvNextConfig(hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2], out_features=STAGES)
    config = UperNetConfig(backbone_config=backbone, hidden_size=16, auxiliary_in_channels=160, num_labels=5)
    theirs = redrawn(UperNetForSemanticSegmentation(config), seed=5)
    ours = from_transformers_convnext(theirs.state_dict())
    assert ours.built_by.arguments["encoder"] == "convnext_atto"
    for size in ((65, 97), (64, 96)):
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            close(ours(image).logits, theirs(ours.encoder.normalize(image)).logits)


@pytest.mark.parametrize("zoo", ["OpenMMLab", "authors"])
def test_names_of_convnext_of_openmmlab_and_of_its_authors_are_read(zoo: str) -> None:
    backbone = ConvNextConfig(hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2], out_features=STAGES)
    config = UperNetConfig(backbone_config=backbone, hidden_size=16, auxiliary_in_channels=160, num_labels=5)
    theirs = redrawn(UperNetForSemanticSegmentation(config), seed=5)
    ours = from_transformers_convnext(theirs.state_dict())
    # Layers as backbone/convnext.py of the authors and convnext.py of mmpretrain name them.
    in_block = {"layernorm": "norm", "layer_scale_parameter": "gamma"}
    if zoo == "OpenMMLab":
        in_block |= {"dwconv": "depthwise_conv", "pwconv1": "pointwise_conv1", "pwconv2": "pointwise_conv2"}
    names = {}
    for key, tensor in theirs.state_dict().items():
        parts = key.split(".")
        if key.startswith("backbone.embeddings."):
            place = "0" if parts[2] == "patch_embeddings" else "1"
            key = f"backbone.downsample_layers.0.{place}.{parts[3]}"
        elif ".downsampling_layer." in key:
            key = f"backbone.downsample_layers.{parts[3]}.{parts[5]}.{parts[6]}"
        elif key.startswith("backbone.encoder."):
            rest = ".".join(in_block.get(part, part) for part in parts[6:])
            key = f"backbone.stages.{parts[3]}.{parts[5]}.{rest}"
        elif ".hidden_states_norms." in key:
            key = f"backbone.norm{int(parts[2][-1]) - 1}.{parts[3]}"
        else:
            key = key.replace(".batch_norm.", ".bn.").replace(".classifier.", ".conv_seg.")
        names[key] = tensor
    assert {"backbone.downsample_layers.1.0.bias", "backbone.norm0.weight"} <= set(names)
    read = from_mmseg(names)
    assert read.built_by == ours.built_by
    state = read.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in ours.state_dict().items())
    names.pop("backbone.stages.2.5.gamma")
    with pytest.raises(ValueError, match="state_dict"):
        from_mmseg(names)


def test_the_second_classifier_is_that_of_transformers() -> None:
    theirs = swin_peer()
    ours = from_transformers_swin(theirs.state_dict()).train()
    assert (
        len(
            from_transformers_swin(swin_peer(use_auxiliary_head=False).state_dict())
            .train()(torch.rand(2, 3, 64, 64))
            .aux
        )
        == 0
    )
    for model in (ours, theirs.train()):
        for module in model.modules():
            if "Drop" in type(module).__name__:
                module.eval()
    image = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        maps = theirs.backbone(ours.encoder.normalize(image)).feature_maps
        output = ours(image)
        close(output.aux[0], theirs.auxiliary_head(maps))
        close(output.coarse, theirs.decode_head(maps))


@pytest.mark.parametrize("encoder", ["resnet18", "tu-convnext_atto"])
def test_logits_are_those_of_smp(encoder: str) -> None:
    theirs = redrawn(smp.UPerNet(encoder, encoder_weights=None, classes=5, decoder_channels=32), seed=8)
    ours = from_smp(theirs.state_dict(), "UPerNet", encoder=encoder)
    for size in ((64, 96), (160, 32)):
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            close(ours(image).logits, theirs(ours.encoder.normalize(image)))


def test_weights_of_other_networks_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"not that of transformers' UPerNet: .*decode_head"):
        from_transformers_swin({"weight": torch.zeros(1)})
    weights = swin_peer().state_dict()
    with pytest.raises(ValueError, match="UPerNet on ConvNeXt: it has no patch embedding"):
        from_transformers_convnext(weights)
    del weights["backbone.hidden_states_norms.stage3.bias"]
    with pytest.raises(ValueError, match=r"does not fit UPerNet on Swin: .*norms\.c4\.bias"):
        from_transformers_swin(weights)


def test_only_maps_that_need_it_are_normed() -> None:
    plain = upernet(3, encoder="tiny", width=8)
    assert not any(p.numel() for p in plain.norms.parameters())
    normed = upernet(3, encoder="tiny", width=8, norm_eps=1e-5)
    assert [norm.eps for norm in normed.norms] == [1e-5] * 4


# --- Swin Transformer -------------------------------------------------------------------------------


def test_a_shifted_block_is_attention_of_neighbours_in_shifted_windows() -> None:
    """By brute force: which pairs see each other, and with which bias, told from their places alone."""
    torch.manual_seed(0)
    window, shift, height, width = 3, 1, 4, 7
    module = ShiftedWindowAttention(6, 2, window, shift=shift)
    redrawn(module)
    x = torch.rand(1, height, width, 6)
    padded = torch.zeros(6, 9, 6)
    padded[:height, :width] = x[0]
    attention = module.attention
    q, k, v = attention.qkv(padded).chunk(3, 2)
    table = attention.relative_position_bias_table.view(5, 5, 2)

    def window_of(row: int, column: int) -> tuple[int, int]:
        return (row + window - shift) // window, (column + window - shift) // window

    found = torch.zeros(height, width, 6)
    for row in range(height):
        for column in range(width):
            seen = [(r, c) for r in range(6) for c in range(9) if window_of(r, c) == window_of(row, column)]
            for head in range(2):
                part = slice(3 * head, 3 * head + 3)
                scores = torch.stack(
                    [
                        q[row, column, part] @ k[r, c, part] / 3**0.5
                        + table[row - r + 2, column - c + 2, head]
                        for r, c in seen
                    ]
                )
                values = torch.stack([v[r, c, part] for r, c in seen])
                found[row, column, part] = scores.softmax(0) @ values
    torch.testing.assert_close(module(x)[0], attention.proj(found))


def test_every_token_lies_at_the_place_that_its_window_holds() -> None:
    for height, width, window, shift, centred in (
        (5, 8, 3, 1, False),
        (4, 4, 7, 3, False),
        (5, 9, 4, 0, True),
    ):
        layout = lay_out(height, width, window, shift=shift, centred=centred)
        held = layout.tokens.flatten()[layout.places.flatten()]
        assert held.tolist() == list(range(height * width))
        assert sorted(t for t in layout.tokens.flatten().tolist() if t < height * width) == held.tolist()


def test_inside_of_the_windows_it_is_timms_swin_transformer() -> None:
    """Where no map needs filling and all have several windows, the classifier's and ours are equal."""
    name = "swin_tiny_patch4_window7_224"
    theirs = timm.models.swin_transformer.SwinTransformer(
        img_size=128, window_size=2, embed_dim=32, depths=(1, 2, 2, 2), num_heads=(1, 2, 4, 8), num_classes=0
    )
    redrawn(theirs)
    ours = SwinTransformer(1, (1, 2, 2, 2), window=2).eval()
    weights = rename_timm_swin(theirs.state_dict())
    ours.load_state_dict({key: weights.get(key, own) for key, own in ours.state_dict().items()})
    ours.norms = nn.ModuleDict({stage: nn.Identity() for stage in ours.norms})  # the classifier has none
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        _, maps = theirs.forward_intermediates(ours.normalize(image))
        for found, expected in zip(ours(image).maps.values(), maps, strict=True):
            close(found, expected)
    assert SWIN_SIZES["swin_tiny"][3] == name


@pytest.mark.parametrize("name", SWIN_SIZES)
def test_timms_weights_have_a_place_in_every_size(name: str) -> None:
    heads, depths, window, published = SWIN_SIZES[name]
    with torch.device("meta"):
        ours = SwinTransformer(heads, depths, window=window).state_dict()
        theirs = timm.create_model(published, features_only=True).state_dict()
    weights: dict[str, Tensor] = rename_timm_swin(theirs)
    for key, own in ours.items():
        if not key.startswith(("normalize.", "norms.")):
            assert weights[key].shape == own.shape
