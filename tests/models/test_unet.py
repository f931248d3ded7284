"""U-Net: the paper's tile arithmetic, milesial's weights, the decoder on any encoder."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelwise.encoders import TimmEncoder, Tiny
from pixelwise.models import EncoderUNet, UNet, from_milesial, unet, unet_bilinear, unet_original, unet_wide
from pixelwise.types import BuiltBy


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("builder", "num_classes", "published"),
    [
        (unet_original, 2, 31_030_658),
        (unet, 2, 31_037_698),
        (unet, 1, 31_037_633),
        (unet_bilinear, 2, 17_263_042),
    ],
)
def test_parameters_are_as_many_as_published(builder, num_classes: int, published: int) -> None:
    with torch.device("meta"):
        assert count(builder(num_classes)) == published


def test_the_wide_one_is_as_large_as_its_authors() -> None:
    # Theirs has a bias where ours has batch norm.
    with torch.device("meta"):
        model = unet_wide(1, in_channels=1)
    assert count(model) == pytest.approx(9_282_246, rel=0.005)
    assert [level[1][0].out_channels for level in model.down] == [35, 70, 140, 280, 560]


# --- the paper's ----------------------------------------------------------------------------------


def test_a_tile_of_572_pixels_gives_388() -> None:
    with torch.no_grad():
        assert unet_original(2, width=1).valid(torch.rand(1, 1, 572, 572)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("size", [(572, 570), (172, 572), (200, 188)])
def test_a_tile_that_would_meet_an_odd_size_or_vanish_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"got {size[0]} x {size[1]}"):
        unet_original(2, width=1).valid(torch.rand(1, 1, *size))


def test_there_are_23_convolutions_and_dropout_follows_the_two_lowest_levels() -> None:
    model = unet_original(2, width=2)
    assert sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in model.modules()) == 23
    assert [level[-1].p for level in model.down] == [0, 0, 0, 0.5, 0.5]
    assert all(level[-1].p == 0 for level in model.merge)


def by_hand(model: nn.Module, tile: Tensor) -> Tensor:
    """The released network from its layer list: up-convolution, ReLU, [up, crop], two convolutions."""

    def convs(x: Tensor, level: nn.Module) -> Tensor:
        return F.relu(
            F.conv2d(F.relu(F.conv2d(x, level[0].weight, level[0].bias)), level[2].weight, level[2].bias)
        )

    x1 = convs(tile, model.down[0])
    x2 = convs(F.max_pool2d(x1, 2), model.down[1])
    x3 = convs(F.max_pool2d(x2, 2), model.down[2])
    x4 = convs(F.max_pool2d(x3, 2), model.down[3])
    x = convs(F.max_pool2d(x4, 2), model.down[4])
    for up, merge, skip, crop in zip(model.up, model.merge, (x4, x3, x2, x1), (4, 16, 40, 88), strict=True):
        x = F.relu(F.conv_transpose2d(x, up.weight, up.bias, stride=2))
        x = convs(torch.cat([x, skip[:, :, crop:-crop, crop:-crop]], dim=1), merge)
    return F.conv2d(x, model.head.weight, model.head.bias)


def test_the_original_is_the_released_network() -> None:
    model, tile = unet_original(3, width=2).eval(), torch.rand(1, 1, 204, 188)
    with torch.no_grad():
        torch.testing.assert_close(model.valid(tile), by_hand(model, tile))


@pytest.mark.parametrize(("height", "width"), [(100, 120), (40, 33)])
def test_an_image_is_mirrored_at_its_border_however_small_it_is(height: int, width: int) -> None:
    model, image = unet_original(2, width=2).eval(), torch.rand(1, 1, height, width)
    padded = [16 * math.ceil((n + 60) / 16) + 124 for n in (height, width)]
    borders = [(92, p - n - 92) for p, n in zip(padded, (height, width), strict=True)]
    tile = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), *borders], mode="reflect"))
    with torch.no_grad():
        scores = model.valid(tile)[:, :, :height, :width]
        assert torch.equal(model(image).logits, scores)


def test_tiles_meet_without_a_seam() -> None:
    model, image = unet_original(2, width=2).eval(), torch.rand(1, 1, 252, 268)
    with torch.no_grad():
        whole, part = model.valid(image), model.valid(image[:, :, 32:220, 48:252])
    assert part.shape[-2:] == (4, 20)
    torch.testing.assert_close(whole[:, :, 32:36, 48:68], part)


def test_weights_of_the_original_have_the_variance_of_he() -> None:
    model = unet_original(2, width=32)
    assert model.down[1][2].weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    assert model.up[0].weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.02)


# --- milesial's -----------------------------------------------------------------------------------


class MilesialUNet(nn.Module):
    """The layout of github.com/milesial/Pytorch-UNet, from its key names and a description of its forward."""

    def __init__(self, n_channels: int, n_classes: int, c: int, *, bilinear: bool, bias: bool) -> None:
        super().__init__()

        def double(a: int, b: int, middle: int | None = None) -> nn.Module:
            middle = middle or b
            holder = nn.Module()
            holder.double_conv = nn.Sequential(
                nn.Conv2d(a, middle, 3, padding=1, bias=bias),
                nn.BatchNorm2d(middle),
                nn.ReLU(),
                nn.Conv2d(middle, b, 3, padding=1, bias=bias),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            )
            return holder

        self.bilinear, factor = bilinear, 2 if bilinear else 1
        self.inc = double(n_channels, c)
        for i, (a, b) in enumerate(
            [(c, 2 * c), (2 * c, 4 * c), (4 * c, 8 * c), (8 * c, 16 * c // factor)], 1
        ):
            down = nn.Module()
            down.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), double(a, b))
            setattr(self, f"down{i}", down)
        for i, (a, b) in enumerate([(16, 8), (8, 4), (4, 2), (2, 1)], 1):
            up = nn.Module()
            if bilinear:
                up.conv = double(a * c, b * c // (1 if i == 4 else 2), a * c // 2)
            else:
                up.up = nn.ConvTranspose2d(a * c, a * c // 2, 2, stride=2)
                up.conv = double(a * c, b * c)
            setattr(self, f"up{i}", up)
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(c, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.inc.double_conv(x)]
        for i in range(1, 5):
            pool, conv = getattr(self, f"down{i}").maxpool_conv
            maps.append(conv.double_conv(pool(maps[-1])))
        x = maps[4]
        for i in range(1, 5):
            up, skip = getattr(self, f"up{i}"), maps[4 - i]
            if self.bilinear:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            else:
                x = up.up(x)
            dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            x = up.conv.double_conv(torch.cat([skip, x], dim=1))
        return self.outc.conv(x)


def randomize(model: nn.Module) -> nn.Module:
    """Weights and statistics that no default hides behind."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) / 10)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


@pytest.mark.parametrize("bias", [False, True], ids=["present", "older revision"])
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (75, 60)])
def test_milesial_weights_give_milesial_scores(bilinear: bool, bias: bool, size: tuple[int, int]) -> None:
    peer = randomize(MilesialUNet(2, 3, 4, bilinear=bilinear, bias=bias))
    model = from_milesial({**peer.state_dict(), "mask_values": [0, 1, 2]})
    image = torch.rand(2, 2, *size)
    with torch.no_grad():
        torch.testing.assert_close(model(image).logits, peer(image), atol=1e-5, rtol=1e-4)
    builder = "unet_bilinear" if bilinear else "unet"
    assert model.built_by == BuiltBy(builder, {"num_classes": 3, "in_channels": 2, "width": 4})


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="not that of milesial's U-Net"):
        from_milesial({"conv1.weight": torch.zeros(1)})


def test_the_padded_network_keeps_the_contract_too() -> None:
    # The contract tests see `unet` on an encoder only.
    model = unet(3, width=2)
    output = model.train()(torch.rand(1, 3, 64, 64))
    output.logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    program = torch.export.export(model.eval(), (torch.rand(1, 3, 65, 97),))
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image).logits, model(image).logits)
        assert model(image).logits.shape == (1, 3, 65, 97)


# --- on any encoder -------------------------------------------------------------------------------


def test_without_an_encoder_it_is_the_padded_network() -> None:
    assert isinstance(unet(2, width=2), UNet)
    assert isinstance(unet(2, encoder="tiny"), EncoderUNet)


def test_pretrained_weights_need_an_encoder() -> None:
    with pytest.raises(ValueError, match="needs an encoder"):
        unet(2, pretrained=True)


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_encoders_without_stride_2_work_without_that_skip(name: str) -> None:
    model = unet(2, encoder=name, width=2).eval()
    assert model.encoder.channels.c1 == 0
    with torch.no_grad():
        assert model(torch.rand(1, 3, 65, 97)).logits.shape == (1, 2, 65, 97)


def test_an_encoder_that_lacks_a_stage_is_named() -> None:
    model = unet(2, encoder=Tiny(stages=("c1", "c2", "c4", "c5")))
    with pytest.raises(ValueError, match="not c3"):
        model(torch.rand(1, 3, 64, 64))


def test_an_encoder_instance_brings_its_own_channels_and_stem() -> None:
    encoder = TimmEncoder("resnet18", in_channels=5, stem="mean")
    model = unet(2, encoder=encoder, in_channels=5, width=2).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 5, 64, 64)).logits.shape == (1, 2, 64, 64)


def test_it_trains_in_bfloat16_with_channels_last() -> None:
    model = unet(3, encoder="resnet18", width=4).to(memory_format=torch.channels_last).train()
    image = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 3, (2, 64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(image)
            loss = F.cross_entropy(output.logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert output.coarse.dtype == torch.bfloat16
    assert output.coarse.is_contiguous(memory_format=torch.channels_last)
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_equals_the_unet_of_segmentation_models_pytorch() -> None:
    import segmentation_models_pytorch as smp

    peer = randomize(smp.Unet("resnet18", encoder_weights=None, classes=4))
    model = unet(4, encoder="resnet18").eval()
    weights = {
        "encoder.normalize.mean": torch.zeros(1, 3, 1, 1),
        "encoder.normalize.std": torch.ones(1, 3, 1, 1),
    }
    for key, tensor in peer.state_dict().items():
        key = key.replace("encoder.", "encoder.body.").replace("segmentation_head.0.", "head.")
        key = (
            key.replace("decoder.blocks.", "decoder.")
            .replace(".conv1.0.", ".0.0.")
            .replace(".conv1.1.", ".0.1.")
        )
        if key.startswith("decoder"):
            key = key.replace(".conv2.", ".1.")
        weights[key] = tensor
    model.load_state_dict(weights)
    for size in ((64, 96), (96, 32)):
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(model(image).logits, peer(image), atol=1e-4, rtol=1e-4)
    # SMP's decoder takes odd sizes, its outermost check does not.
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        expected = peer.segmentation_head(peer.decoder(peer.encoder(image)))
        torch.testing.assert_close(model(image).logits, expected, atol=1e-4, rtol=1e-4)
