"""Networks of mmsegmentation, which is not installed: its layers, as its code and configurations tell."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import pixelwise as pw
from pixelwise.checkpoint import load, save
from pixelwise.encoders.swin_transformer import PatchMerging
from pixelwise.models import from_rstrudel, pvt
from pixelwise.types import ClassTable
from tests.models.test_segformer import close, redrawn
from tests.models.test_upernet import swin_peer

CLASSES, D = 5, 32


def named(**parts: nn.Module | nn.Parameter) -> nn.Module:
    """A module of these parts."""
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


class ConvModule(nn.Module):
    """Their convolution, batch norm and ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Layer(nn.Module):
    """Their encoder layer, whose attention is PyTorch's."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(D, eps), nn.LayerNorm(D, eps)
        self.attn = named(attn=nn.MultiheadAttention(D, 2, batch_first=True))
        hidden = nn.Sequential(nn.Linear(D, 2 * D), nn.GELU())
        self.ffn = named(layers=nn.Sequential(hidden, nn.Linear(2 * D, D)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln1(x)
        x = x + self.attn.attn(y, y, y)[0]
        return x + self.ffn.layers(self.ln2(x))


class Vit(nn.Module):
    """Their ViT, with patches of 16 pixels, for images of 64 pixels."""

    def __init__(self, *, final_norm: bool, with_class_token: bool = True) -> None:
        super().__init__()
        self.patch_embed = named(projection=nn.Conv2d(3, D, 16, 16))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, D))
        self.layers = nn.ModuleList(Layer(1e-6) for _ in range(4))
        if final_norm:
            self.ln1 = nn.LayerNorm(D, 1e-6)
        self.final_norm, self.with_class_token = final_norm, with_class_token

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.patch_embed.projection(x)
        hw = (x.shape[2], x.shape[3])
        old = self.pos_embed[:, 1:].mT.unflatten(2, (4, 4))
        positions = F.interpolate(old, hw, mode="bilinear").flatten(2).mT
        positions = torch.cat([self.pos_embed[:, :1], positions], 1)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).mT], 1) + positions
        x = x if self.with_class_token else x[:, 1:]
        maps = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = self.ln1(x) if self.final_norm and i == 3 else x
            patches = x[:, 1:] if self.with_class_token else x
            maps.append(patches.mT.unflatten(2, hw))
        return maps


def normed(norm: nn.Module, map: Tensor) -> Tensor:
    return norm(map.flatten(2).mT).mT.unflatten(2, map.shape[2:])


def larger(factor: int) -> nn.Module:
    return nn.Upsample(scale_factor=factor, mode="bilinear")


class Setr(nn.Module):
    """SETR-Naive and SETR-PUP."""

    def __init__(self, kernel: int, convolutions: int, factor: int) -> None:
        super().__init__()
        self.backbone = Vit(final_norm=False)
        steps = [
            nn.Sequential(ConvModule(8 if i else D, 8, kernel), larger(factor)) for i in range(convolutions)
        ]
        self.decode_head = named(
            norm=nn.LayerNorm(D, 1e-6), up_convs=nn.ModuleList(steps), conv_seg=nn.Conv2d(8, CLASSES, 1)
        )
        self.auxiliary_head = nn.ModuleList([nn.Conv2d(8, CLASSES, 1)])

    def forward(self, image: Tensor) -> Tensor:
        x = normed(self.decode_head.norm, self.backbone(image)[-1])
        for step in self.decode_head.up_convs:
            x = step(x)
        return self.decode_head.conv_seg(x)


class SetrMla(nn.Module):
    """SETR-MLA."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Vit(final_norm=False, with_class_token=False)
        self.neck = named(
            norm=nn.ModuleList(nn.LayerNorm(D, 1e-6) for _ in range(4)),
            mla=named(
                channel_proj=nn.ModuleList(ConvModule(D, 8) for _ in range(4)),
                feat_extract=nn.ModuleList(ConvModule(8, 8, 3) for _ in range(4)),
            ),
        )
        levels = [nn.Sequential(ConvModule(8, 4, 3), ConvModule(4, 4, 3), larger(4)) for _ in range(4)]
        self.decode_head = named(up_convs=nn.ModuleList(levels), conv_seg=nn.Conv2d(16, CLASSES, 1))

    def forward(self, image: Tensor) -> Tensor:
        maps = [normed(norm, x) for norm, x in zip(self.neck.norm, self.backbone(image), strict=True)]
        maps = [one(x) for one, x in zip(self.neck.mla.channel_proj, maps, strict=True)][::-1]
        sums = [maps[0]]
        for x in maps[1:]:
            sums.append(sums[-1] + x)
        found = [one(x) for one, x in zip(self.neck.mla.feat_extract, sums, strict=True)]
        levels = [one(x) for one, x in zip(self.decode_head.up_convs, found, strict=True)]
        return self.decode_head.conv_seg(torch.cat(levels, 1))


class Segmenter(nn.Module):
    """The mask transformer, or the linear decoder that is their FCN head without convolutions."""

    def __init__(self, *, mask: bool) -> None:
        super().__init__()
        self.backbone, self.mask = Vit(final_norm=True), mask
        self.decode_head = named(conv_seg=nn.Conv2d(D, CLASSES, 1))
        if mask:
            self.decode_head = named(
                conv_seg=nn.Conv2d(D, CLASSES, 1),
                dec_proj=nn.Linear(D, D),
                cls_emb=nn.Parameter(torch.zeros(1, CLASSES, D)),
                layers=nn.ModuleList(Layer(1e-5) for _ in range(2)),
                patch_proj=nn.Linear(D, D, bias=False),
                classes_proj=nn.Linear(D, D, bias=False),
                decoder_norm=nn.LayerNorm(D),
                mask_norm=nn.LayerNorm(CLASSES),
            )
            for layer in self.decode_head.layers:  # the decoder's perceptrons are four times as wide
                layer.ffn = named(
                    layers=nn.Sequential(nn.Sequential(nn.Linear(D, 4 * D), nn.GELU()), nn.Linear(4 * D, D))
                )

    def forward(self, image: Tensor) -> Tensor:
        map, head = self.backbone(image)[-1], self.decode_head
        if not self.mask:
            return head.conv_seg(map)
        x = head.dec_proj(map.flatten(2).mT)
        x = torch.cat([x, head.cls_emb.expand(len(x), -1, -1)], 1)
        for layer in head.layers:
            x = layer(x)
        x = head.decoder_norm(x)
        patches = F.normalize(head.patch_proj(x[:, :-CLASSES]), dim=2)
        classes = F.normalize(head.classes_proj(x[:, -CLASSES:]), dim=2)
        return head.mask_norm(patches @ classes.mT).mT.unflatten(2, map.shape[2:])


PEERS: dict[str, Callable[[], nn.Module]] = {
    "setr_naive": lambda: Setr(1, 1, 4),
    "setr_pup": lambda: Setr(3, 4, 2),
    "setr_mla": SetrMla,
    "segmenter_mask": lambda: Segmenter(mask=True),
    "segmenter_linear": lambda: Segmenter(mask=False),
}


@pytest.mark.parametrize("name", PEERS)
def test_logits_are_those_of_their_layers_on_a_plain_vit(name: str, tmp_path) -> None:
    theirs = redrawn(PEERS[name](), seed=3)
    ours = pw.from_mmseg(theirs.state_dict())
    for size in ((64, 64), (48, 80)):
        image = torch.rand(2, 3, *size)
        with torch.no_grad():
            expected = theirs(ours.encoder.normalize(image))
            close(ours(image).logits, F.interpolate(expected, size, mode="bilinear"))
    save(ours, tmp_path / "a.safetensors", ClassTable.of(*"abcde"))
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "a.safetensors").model(image).logits, ours(image).logits)


def test_images_are_normalised_as_each_was_trained() -> None:
    setr = pw.from_mmseg(redrawn(SetrMla()).state_dict())
    assert setr.encoder.normalize.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    segmenter = pw.from_mmseg(redrawn(Segmenter(mask=True)).state_dict())
    assert segmenter.encoder.normalize.mean.flatten().tolist() == [0.5] * 3


def test_the_authors_segmenter_multiplies_from_the_right() -> None:
    theirs = redrawn(Segmenter(mask=True), seed=7)
    weights = {}
    for key, tensor in theirs.state_dict().items():
        for name, other in {
            "backbone.patch_embed.projection.": "encoder.patch_embed.proj.",
            "backbone.ln1.": "encoder.norm.",
            "backbone.layers.": "encoder.blocks.",
            "backbone.": "encoder.",
            "decode_head.layers.": "decoder.blocks.",
            "decode_head.dec_proj.": "decoder.proj_dec.",
            "decode_head.patch_proj.weight": "decoder.proj_patch",
            "decode_head.classes_proj.weight": "decoder.proj_classes",
            "decode_head.": "decoder.",
            ".ln": ".norm",
            ".attn.attn.in_proj_": ".attn.qkv.",
            ".attn.attn.out_proj.": ".attn.proj.",
            ".ffn.layers.0.0.": ".mlp.fc1.",
            ".ffn.layers.1.": ".mlp.fc2.",
        }.items():
            key = key.replace(name, other)
        weights[key] = tensor.T if key in ("decoder.proj_patch", "decoder.proj_classes") else tensor
    weights = {key: tensor for key, tensor in weights.items() if "conv_seg" not in key}
    weights |= {"encoder.head.weight": torch.zeros(1000, D), "encoder.head.bias": torch.zeros(1000)}
    ours = from_rstrudel(weights)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        close(ours(image).coarse, theirs(ours.encoder.normalize(image)))


def test_keys_of_the_authors_segformer() -> None:
    peer = redrawn(SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES)), seed=4)
    own = peer.state_dict()
    theirs: dict[str, Tensor] = {}
    for i in range(4):
        stage = f"segformer.stages.{i}"
        for name, other in (("proj", "proj"), ("norm", "layer_norm")):
            for kind in ("weight", "bias"):
                theirs[f"backbone.patch_embed{i + 1}.{name}.{kind}"] = own[
                    f"{stage}.patch_embeddings.{other}.{kind}"
                ]
        for j in range(2):
            block, other = f"backbone.block{i + 1}.{j}", f"{stage}.blocks.{j}"
            pairs = {
                "norm1": "layernorm_before",
                "attn.q": "attention.q_proj",
                "attn.proj": "attention.o_proj",
                "norm2": "layernorm_after",
                "mlp.fc1": "mlp.fc1",
                "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
                "mlp.fc2": "mlp.fc2",
            }
            if i < 3:
                pairs |= {
                    "attn.sr": "attention.sequence_reduction.sequence_reduction",
                    "attn.norm": "attention.sequence_reduction.layer_norm",
                }
            for name, own_name in pairs.items():
                for kind in ("weight", "bias"):
                    theirs[f"{block}.{name}.{kind}"] = own[f"{other}.{own_name}.{kind}"]
            for kind in ("weight", "bias"):
                keys_and_values = [own[f"{other}.attention.{one}_proj.{kind}"] for one in "kv"]
                theirs[f"{block}.attn.kv.{kind}"] = torch.cat(keys_and_values)
        for kind in ("weight", "bias"):
            theirs[f"backbone.norm{i + 1}.{kind}"] = own[f"{stage}.layer_norm.{kind}"]
            theirs[f"decode_head.linear_c{i + 1}.proj.{kind}"] = own[
                f"decode_head.linear_projections.{i}.proj.{kind}"
            ]
    theirs["decode_head.linear_fuse.conv.weight"] = own["decode_head.linear_fuse.weight"]
    for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        theirs[f"decode_head.linear_fuse.bn.{kind}"] = own[f"decode_head.batch_norm.{kind}"]
    for kind in ("weight", "bias"):
        theirs[f"decode_head.linear_pred.{kind}"] = own[f"decode_head.classifier.{kind}"]
        theirs[f"decode_head.conv_seg.{kind}"] = torch.zeros(1)  # they never use it
    ours = pw.from_mmseg(theirs)
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        close(ours(image).coarse, peer(ours.encoder.normalize(image)).logits)


def test_patches_are_merged_channel_by_channel_in_openmmlabs_swin() -> None:
    from pixelwise.encoders.from_mmseg import _pixel_by_pixel

    norm, reduction = redrawn(nn.LayerNorm(12)), redrawn(nn.Linear(12, 6, bias=False))
    ours = PatchMerging(3)
    weights = {f"norm.{key}": _pixel_by_pixel(x) for key, x in norm.state_dict().items()}
    ours.load_state_dict(weights | {"reduction.weight": _pixel_by_pixel(reduction.weight)})
    x = torch.rand(2, 3, 4, 6)
    with torch.no_grad():
        expected = reduction(norm(F.unfold(x, 2, stride=2).mT))
        torch.testing.assert_close(ours(x).flatten(1, 2), expected)


@pytest.mark.parametrize("by", ["OpenMMLab", "authors"])
def test_keys_of_upernet_on_swin(by: str) -> None:
    peer = swin_peer()
    theirs: dict[str, Tensor] = {}
    joined: dict[str, list[Tensor]] = {}
    own = peer.state_dict()
    mm = by == "OpenMMLab"
    names = {
        "backbone.embeddings.patch_embeddings.projection.": (
            f"backbone.patch_embed.{'projection' if mm else 'proj'}."
        ),
        "backbone.embeddings.norm.": "backbone.patch_embed.norm.",
        "backbone.encoder.layers.": f"backbone.{'stages' if mm else 'layers'}.",
        ".layernorm_before.": ".norm1.",
        ".layernorm_after.": ".norm2.",
        ".attention.relative_position_bias.": ".attn.w_msa." if mm else ".attn.",
        ".attention.o_proj.": ".attn.w_msa.proj." if mm else ".attn.proj.",
        ".mlp.fc1.": ".ffn.layers.0.0." if mm else ".mlp.fc1.",
        ".mlp.fc2.": ".ffn.layers.1." if mm else ".mlp.fc2.",
        ".batch_norm.": ".bn.",
        ".classifier.": ".conv_seg.",
    }
    for key, tensor in own.items():
        if key.startswith("backbone.swin.layernorm."):  # of their classifier
            continue
        key = key.replace("backbone.swin.", "backbone.")
        for i in range(4):
            key = key.replace(f"backbone.hidden_states_norms.stage{i + 1}.", f"backbone.norm{i}.")
        if mm and ".downsample." in key:  # ours say (column, row, channel), theirs (channel, row, column)
            tensor = tensor.unflatten(-1, (2, 2, -1)).transpose(-3, -1).flatten(-3)
        for name, other in names.items():
            key = key.replace(name, other)
        if ".attention." in key:
            block, _, kind = key.split(".attention.")[0], *key.rsplit(".", 1)
            joined.setdefault(f"{block}.attn.{'w_msa.' if mm else ''}qkv.{kind}", []).append(tensor)
        else:
            theirs[key] = tensor
    theirs |= {key: torch.cat(parts) for key, parts in joined.items()}
    theirs |= {
        key.replace("bias_table", "index"): x for key, x in theirs.items() if key.endswith("bias_table")
    }
    expected = {
        "backbone.norm3.bias",
        "decode_head.psp_modules.3.1.bn.running_var",
        "auxiliary_head.conv_seg.bias",
    }
    expected |= (
        {
            f"backbone.stages.1.blocks.1.attn.w_msa.{name}"
            for name in ("relative_position_bias_table", "qkv.weight", "qkv.bias", "proj.weight", "proj.bias")
        }
        if mm
        else {"backbone.layers.1.blocks.1.attn.qkv.weight", "backbone.layers.0.downsample.reduction.weight"}
    )
    assert expected <= set(theirs), "the table above is that of the facts"
    ours = pw.from_mmseg(theirs)
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        close(ours(image).logits, peer(ours.encoder.normalize(image)).logits)


def test_keys_of_the_authors_pvt() -> None:
    model = redrawn(pvt(CLASSES, encoder="pvt_tiny", width=16), seed=2)
    theirs: dict[str, Tensor] = {}
    for key, tensor in model.encoder.state_dict().items():
        if key.startswith("normalize."):
            continue
        stage = int(key.split(".")[1][1]) - 1
        for name, other in {
            f"body.c{stage + 1}.embed.": f"backbone.patch_embed{stage}.proj.",
            f"body.c{stage + 1}.embed_norm.": f"backbone.patch_embed{stage}.norm.",
            f"body.c{stage + 1}.pos_embed": f"backbone.pos_embed{stage}",
            f"body.c{stage + 1}.blocks.": f"backbone.block{stage}.",
            ".attention.": ".attn.",
            ".ffn.": ".mlp.",
        }.items():
            key = key.replace(name, other)
        theirs[key] = tensor.flatten(2).mT if "pos_embed" in key else tensor
    token = theirs["backbone.pos_embed4"]
    theirs["backbone.pos_embed4"] = torch.cat([torch.zeros_like(token[:, :1]), token], 1)  # of a class token
    for i in range(4):
        for kind in ("weight", "bias"):
            theirs[f"neck.lateral_convs.{i}.conv.{kind}"] = model.decoder.lateral[i].state_dict()[kind]
            theirs[f"neck.fpn_convs.{i}.conv.{kind}"] = model.decoder.out[i].state_dict()[kind]
        for n, convolution in enumerate(model.head.branches[i]):
            for kind, tensor in convolution.state_dict().items():
                number, kind = kind.split(".")
                theirs[f"decode_head.scale_heads.{i}.{2 * n}.{('conv', 'bn')[int(number)]}.{kind}"] = tensor
    for kind in ("weight", "bias"):
        theirs[f"decode_head.conv_seg.{kind}"] = model.head.classify[1].state_dict()[kind]
    ours = pw.from_mmseg(theirs)
    assert ours.built_by.arguments["encoder"] == "pvt_tiny"
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        close(ours(image).coarse, model(image).coarse)


def test_weights_of_other_networks_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"no network of mmsegmentation that can be read: it holds 'weight'"):
        pw.from_mmseg({"weight": torch.zeros(1)})
    setr = Setr(1, 1, 4).state_dict()
    with pytest.raises(ValueError, match=r"not that of OpenMMLab's SETR: .*conv_seg|.*head\.3\.weight"):
        pw.from_mmseg({key: x for key, x in setr.items() if "conv_seg" not in key})
    with pytest.raises(ValueError, match=r"no plain ViT: 'encoder\.body\.pos_embed' is missing"):
        pw.from_mmseg({key: x for key, x in setr.items() if "pos_embed" not in key})
    with pytest.raises(ValueError, match=r"no published ViT: it has 32 channels, 3 blocks"):
        pw.from_mmseg({key: x for key, x in setr.items() if ".layers.3." not in key})
    segmenter = Segmenter(mask=True).state_dict()
    del segmenter["decode_head.mask_norm.bias"]
    with pytest.raises(ValueError, match=r"not that of a Segmenter: .*decoder\.mask_norm\.bias"):
        pw.from_mmseg(segmenter)
    with pytest.raises(ValueError, match=r"no published PVT: its stages have \(0, 0, 0, 0\) blocks"):
        pw.from_mmseg({"backbone.pos_embed1": torch.zeros(1)})
