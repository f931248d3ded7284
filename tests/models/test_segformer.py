"""SegFormer: the networks of transformers, SMP and OpenMMLab with the same weights give the same logits."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from pixelwise.checkpoint import load, save
from pixelwise.encoders import MiT
from pixelwise.models import from_mmseg_segformer, from_smp_segformer, from_transformers_segformer
from pixelwise.registry import build
from pixelwise.types import ClassTable

TOLERANCE = 1e-4
SIZES = ((65, 97), (64, 64), (75, 130))


def redrawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """No parameter is constant, and batch norms have seen something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
            else:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator) + float(p.detach().mean() > 0.5))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def close(found: Tensor, expected: Tensor) -> None:
    """Equal up to 1e-4 where logits are of the order of 1."""
    expected = expected.detach()
    assert expected.std() > 1e-2, "a constant peer shows nothing"
    torch.testing.assert_close(
        found, expected, atol=TOLERANCE * float(expected.abs().max().clamp(min=1)), rtol=0
    )


@pytest.fixture(scope="module")
def peer() -> SegformerForSemanticSegmentation:
    return redrawn(SegformerForSemanticSegmentation(SegformerConfig(num_labels=5)), seed=4)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("segformer_b0", 3.752694),
        ("segformer_b1", 13.7),
        ("segformer_b2", 27.5),
        ("segformer_b3", 47.3),
        ("segformer_b4", 64.1),
        ("segformer_b5", 84.7),
    ],
)
def test_every_size_has_as_many_parameters_as_published(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build(name, 150)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.005)


def test_logits_are_those_of_transformers_in_either_naming(
    peer: SegformerForSemanticSegmentation, tmp_path
) -> None:
    from safetensors.torch import load_file

    peer.save_pretrained(tmp_path)  # a file of the hub: names of version 4
    for weights in (peer.state_dict(), load_file(tmp_path / "model.safetensors")):
        ours = from_transformers_segformer(weights)
        for size in SIZES:
            image = torch.rand(2, 3, *size)
            with torch.no_grad():
                close(ours(image).coarse, peer(ours.encoder.normalize(image)).logits)
    assert any("encoder.block" in key for key in weights), "the file shows nothing that the model does not"


def test_gradients_in_training_are_those_of_transformers(peer: SegformerForSemanticSegmentation) -> None:
    ours = from_transformers_segformer(peer.state_dict())
    for model in (ours, peer):
        model.train()
        for module in model.modules():
            if "Drop" in type(module).__name__:
                module.eval()
    image = torch.rand(2, 3, 65, 97)
    found, expected = ours(image).coarse, peer(ours.encoder.normalize(image)).logits
    close(found, expected)
    wanted = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * wanted).sum().backward()
    (expected * wanted).sum().backward()
    theirs = peer.segformer.stages[0].patch_embeddings.proj.weight.grad
    grad = ours.encoder.body["c2"].embed.weight.grad
    torch.testing.assert_close(grad, theirs, atol=1e-3 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("encoder", ["mit_b0", "resnet18", "tu-convnext_atto"])
def test_logits_are_those_of_smp(encoder: str) -> None:
    theirs = redrawn(smp.Segformer(encoder, encoder_weights=None, classes=5), seed=8)
    ours = from_smp_segformer(theirs.state_dict(), encoder=encoder)
    assert len(ours.project) == 5 if encoder == "resnet18" else 4
    for size in ((64, 96), (160, 32)):
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            close(ours(image).logits, theirs(ours.encoder.normalize(image)))


def test_a_converted_network_can_be_saved_and_loaded(
    peer: SegformerForSemanticSegmentation, tmp_path
) -> None:
    ours = from_transformers_segformer(peer.state_dict())
    save(ours, tmp_path / "a.safetensors", ClassTable.of(*"abcde"))
    image = torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "a.safetensors").model(image).logits, ours(image).logits)


def test_weights_of_other_networks_are_refused_in_one_sentence(
    peer: SegformerForSemanticSegmentation,
) -> None:
    with pytest.raises(
        ValueError, match=r"is not that of a SegFormer: 'encoder.body.c2.embed.weight' is missing"
    ):
        from_transformers_segformer({"weight": torch.zeros(1)})
    fewer = {k: v for k, v in peer.state_dict().items() if ".blocks.1." not in k}
    with pytest.raises(ValueError, match=r"no published size .* 32 channels and \(1, 1, 1, 1\) blocks"):
        from_transformers_segformer(fewer)
    fewer = {k: v for k, v in peer.state_dict().items() if "stages.3.layer_norm.bias" not in k}
    with pytest.raises(ValueError, match=r"does not fit SegFormer: .*encoder\.body\.c5\.norm\.bias"):
        from_transformers_segformer(fewer)
    with pytest.raises(ValueError, match="does not fit SMP's Segformer with 'mit_b1'"):
        from_smp_segformer(smp.Segformer("mit_b0", encoder_weights=None).state_dict(), encoder="mit_b1")


# --- OpenMMLab, which is not installed: its layers, as its keys and configuration tell them ------------


class MMAttention(nn.Module):
    """Their attention is PyTorch's, with joined projections."""

    def __init__(self, c: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(c, heads)
        if reduction > 1:
            self.sr, self.norm = nn.Conv2d(c, c, reduction, reduction), nn.LayerNorm(c, eps=1e-6)
        self.reduction = reduction

    def forward(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        source = x
        if self.reduction > 1:
            source = self.norm(self.sr(x.mT.unflatten(2, hw)).flatten(2).mT)
        x, source = x.transpose(0, 1), source.transpose(0, 1)
        return self.attn(x, source, source)[0].transpose(0, 1)


class MMBlock(nn.Module):
    def __init__(self, c: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(c, eps=1e-6), MMAttention(c, heads, reduction)
        self.norm2, self.ffn = nn.LayerNorm(c, eps=1e-6), nn.Module()
        convolution = nn.Conv2d(4 * c, 4 * c, 3, padding=1, groups=4 * c)
        self.ffn.layers = nn.Sequential(
            nn.Conv2d(c, 4 * c, 1), convolution, nn.GELU(), nn.Dropout(0), nn.Conv2d(4 * c, c, 1)
        )

    def forward(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        x = x + self.attn(self.norm1(x), hw)
        return x + self.ffn.layers(self.norm2(x).mT.unflatten(2, hw)).flatten(2).mT


def conv_module(c_in: int, c_out: int) -> nn.Module:
    module = nn.Module()
    module.conv, module.bn = nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
    module.forward = lambda x: F.relu(module.bn(module.conv(x)))
    return module


class MMSegFormer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.decode_head = nn.Module(), nn.Module()
        self.backbone.layers = nn.ModuleList()
        widths = (32, 64, 160, 256)
        for i, c in enumerate(widths):
            embed = nn.Module()
            embed.projection = nn.Conv2d(widths[i - 1], c, 3, 2, 1) if i else nn.Conv2d(3, c, 7, 4, 3)
            embed.norm = nn.LayerNorm(c, eps=1e-6)
            blocks = nn.ModuleList(MMBlock(c, c // 32, (8, 4, 2, 1)[i]) for _ in range(2))
            self.backbone.layers.append(nn.ModuleList([embed, blocks, nn.LayerNorm(c, eps=1e-6)]))
        self.decode_head.conv_seg = nn.Conv2d(256, 5, 1)
        self.decode_head.convs = nn.ModuleList(conv_module(c, 256) for c in widths)
        self.decode_head.fusion_conv = conv_module(4 * 256, 256)

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for (embed, blocks, norm), convolution in zip(
            self.backbone.layers, self.decode_head.convs, strict=True
        ):
            x = embed.projection(x)
            hw = (x.shape[2], x.shape[3])
            x = embed.norm(x.flatten(2).mT)
            for block in blocks:
                x = block(x, hw)
            x = norm(x).mT.unflatten(2, hw)
            maps.append(F.interpolate(convolution(x), maps[0].shape[2:] if maps else hw, mode="bilinear"))
        # Their decoder concatenates the finest map first.
        return self.decode_head.conv_seg(self.decode_head.fusion_conv(torch.cat(maps, 1)))


def test_logits_are_those_of_openmmlabs_layers() -> None:
    theirs = redrawn(MMSegFormer(), seed=2)
    ours = from_mmseg_segformer(theirs.state_dict())
    for size in SIZES:
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            close(ours(image).coarse, theirs(ours.encoder.normalize(image)))


# --- the encoder ------------------------------------------------------------------------------------


def test_a_token_attends_to_the_whole_map_at_reduced_size() -> None:
    from pixelwise.encoders.pvt import SpatialReductionAttention

    torch.manual_seed(0)
    attention = redrawn(SpatialReductionAttention(12, 3, 2))
    x = torch.rand(1, 5, 6, 12)
    reduced = attention.norm(attention.sr(x.permute(0, 3, 1, 2)).flatten(2).mT)[0]  # 2 x 3 tokens
    q, (k, v) = attention.q(x)[0], attention.kv(reduced).chunk(2, 1)
    gathered = torch.zeros(5, 6, 12)
    for row in range(5):
        for column in range(6):
            for head in range(3):
                part = slice(4 * head, 4 * head + 4)
                weights = (k[:, part] @ q[row, column, part] / 2).softmax(0)
                gathered[row, column, part] = weights @ v[:, part]
    torch.testing.assert_close(attention(x)[0], attention.proj(gathered))


def test_branches_are_dropped_more_often_the_deeper_they_are() -> None:
    encoder = MiT(4, (1, 2, 1, 1), drop_path=0.4)
    rates = [block.drop_path.p for part in encoder.body.values() for block in part.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
