"""PVT and PVT v2 with semantic FPN: transformers' encoders, and the decoder by hand."""

import pytest
import timm
import torch
from torch.nn import functional as F
from transformers import PvtConfig, PvtModel, PvtV2Config, PvtV2Model

from pixelwise.encoders import PVT, TimmEncoder, make_encoder
from pixelwise.encoders.pvt import fit_pvt_weights
from pixelwise.models import pvt
from pixelwise.models.pvt import SemanticHead
from pixelwise.registry import build
from tests.models.test_segformer import close, redrawn

LEVELS = ("c2", "c3", "c4", "c5")


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("pvt_tiny", 17.0),
        ("pvt_small", 28.2),
        ("pvt_medium", 48.0),
        ("pvt_large", 65.1),
        ("pvtv2_b1", 17.8),
        ("pvtv2_b2", 29.1),
        pytest.param("pvtv2_b3", 49.0, marks=pytest.mark.slow),
        pytest.param("pvtv2_b4", 66.3, marks=pytest.mark.slow),
        pytest.param("pvtv2_b5", 85.7, marks=pytest.mark.slow),
    ],
)
def test_every_size_has_as_many_parameters_as_published(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build(name, 150)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.005)


@pytest.mark.parametrize(
    ("size", "count"),
    [("tiny", 13_229_288), ("small", 24_485_864), ("medium", 44_208_104), ("large", 61_369_320)],
)
def test_the_authors_classifiers_have_a_norm_a_class_token_and_a_head_more(size: str, count: int) -> None:
    with torch.device("meta"):
        encoder = make_encoder(f"pvt_{size}")
    classifier = (512 + 1) * 1000 + 2 * 512 + 2 * 512  # the token has a position
    assert sum(p.numel() for p in encoder.parameters()) + classifier == count


def authors_names(peer: PvtModel) -> dict[str, torch.Tensor]:
    """The weights of transformers' PVT under the names of the authors'."""
    names = {}
    for key, tensor in peer.state_dict().items():
        if ".self.query." in key:
            key = key.replace("attention.self.query", "attn.q")
        elif ".self.key." in key:
            value = peer.state_dict()[key.replace("self.key", "self.value")]
            key, tensor = key.replace("attention.self.key", "attn.kv"), torch.cat([tensor, value])
        elif ".self.value." in key:
            continue
        _, kind, *rest = key.split(".")
        if kind not in ("block", "patch_embeddings"):
            continue
        number, tail = int(rest[0]) + 1, ".".join(rest[1:])
        for theirs, ours in (
            ("attention.output.dense", "attn.proj"),
            ("attention.self.sequence_reduction", "attn.sr"),
            ("attention.self.layer_norm", "attn.norm"),
            ("layer_norm_", "norm"),
            ("mlp.dense", "mlp.fc"),
        ):
            tail = tail.replace(theirs, ours)
        if tail == "position_embeddings":
            names[f"pos_embed{number}"] = tensor
        elif kind == "block":
            names[f"block{number}.{tail}"] = tensor
        else:
            tail = tail.replace("projection", "proj").replace("layer_norm", "norm")
            names[f"patch_embed{number}.{tail}"] = tensor
    return names


def test_maps_are_those_of_transformers_without_its_class_token() -> None:
    config = PvtConfig(
        hidden_sizes=[8, 16, 40, 64], depths=[2, 1, 1, 2], image_size=224, mlp_ratios=[8, 8, 4, 4]
    )
    theirs = redrawn(PvtModel(config), seed=6)
    last = theirs.encoder.patch_embeddings[3]
    last.cls_token = None  # networks for segmentation have none
    last.position_embeddings = torch.nn.Parameter(last.position_embeddings[:, 1:])
    ours = PVT((2, 1, 1, 2), width=8).eval()
    ours.load_state_dict(fit_pvt_weights(authors_names(theirs), ours.state_dict()))
    image = torch.rand(1, 3, 224, 224)
    found = {}
    for stage, blocks in zip(LEVELS, theirs.encoder.block, strict=True):
        blocks[-1].register_forward_hook(lambda m, i, o, stage=stage: found.update({stage: o[0]}))
    with torch.no_grad():
        theirs(ours.normalize(image))
        for stage, map in ours(image).maps.items():
            close(map, found[stage].mT.unflatten(2, map.shape[2:]))


def test_positions_are_interpolated_to_the_map() -> None:
    encoder = redrawn(PVT((1, 1, 1, 1), width=4))
    stage = encoder.body["c2"]
    x = torch.rand(1, 3, 65, 97)
    tokens = stage.embed_norm(stage.embed(x).permute(0, 2, 3, 1))
    assert tokens.shape[1:3] == (16, 24)
    positions = F.interpolate(stage.pos_embed, (16, 24), mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(stage(x), stage.blocks(tokens + positions).permute(0, 3, 1, 2))


def test_a_class_token_of_the_authors_is_left_out() -> None:
    encoder = PVT((1, 1, 1, 1), width=4)
    own = encoder.state_dict()["body.c5.pos_embed"]
    source = torch.rand(1, 50, 32)
    from pixelwise.encoders.pvt import _theirs

    fitted = _theirs({"pos_embed4": source}, "body.c5.pos_embed", own)
    assert torch.equal(fitted[0, :, 2, 3], source[0, 1 + 2 * 7 + 3])
    with pytest.raises(ValueError, match=r"not those of this PVT: patch_embed1\.proj\.weight is missing"):
        fit_pvt_weights({"pos_embed1": torch.rand(1, 3136, 4)}, encoder.state_dict())


def test_pvt_v2_is_that_of_transformers() -> None:
    theirs = redrawn(PvtV2Model(PvtV2Config()), seed=6)
    ours = TimmEncoder("pvt_v2_b0").eval()
    weights = {}
    for key, tensor in theirs.state_dict().items():
        if ".attention.key." in key:
            tensor = torch.cat([tensor, theirs.state_dict()[key.replace(".key.", ".value.")]])
        for old, new in (
            ("encoder.layers.0.patch_embedding.layer_norm", "patch_embed.norm"),
            ("encoder.layers.0.patch_embedding", "patch_embed"),
            ("patch_embedding.layer_norm", "downsample.norm"),
            ("patch_embedding", "downsample"),
            ("encoder.layers.", "stages_"),
            ("attention.layer_norm", "attn.norm"),
            ("layer_norm_", "norm"),
            ("layer_norm", "norm"),
            ("attention.query", "attn.q"),
            ("attention.key", "attn.kv"),
            ("attention.spatial_reduction", "attn.sr"),
            ("attention.", "attn."),
            ("dense", "fc"),
            ("dwconv.dwconv", "dwconv"),
        ):
            key = key.replace(old, new)
        weights[key] = tensor
    ours.body.load_state_dict({key: weights[key] for key in ours.body.state_dict()})
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        expected = theirs(ours.normalize(image), output_hidden_states=True).hidden_states
        for found, wanted in zip(ours(image).maps.values(), expected[-4:], strict=True):
            close(found, wanted)
    assert timm.is_model("pvt_v2_b5")


def test_levels_are_convolved_and_doubled_until_stride_4_summed_and_classified() -> None:
    head = redrawn(SemanticHead(8, 3, c_inner=6))
    levels = [torch.rand(1, 8, 16 >> i, 24 >> i) for i in range(4)]
    total = torch.zeros(1, 6, 16, 24)
    for i, (x, branch) in enumerate(zip(levels, head.branches, strict=True)):
        assert len(branch) == max(i, 1)
        for convolution in branch:
            x = convolution(x)
            if i:
                x = F.interpolate(x, scale_factor=2, mode="bilinear")
        total = total + x
    torch.testing.assert_close(head(levels), head.classify(total))


def test_drop_path_is_that_of_the_paper_where_the_builder_names_a_size() -> None:
    rates = [
        block.drop_path.p
        for part in pvt(3, encoder="pvt_tiny").encoder.body.values()
        for block in part.blocks
    ]
    assert (rates[0], rates[-1]) == (0, pytest.approx(0.1))
    model = build("pvtv2_b0", 3)
    assert model.encoder.body.stages_3.blocks[1].drop_path1.drop_prob == pytest.approx(0.1)
