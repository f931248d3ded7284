"""MiT, PVT, Swin and HRFormer as encoders: any image size, any stages, no idle parameter."""

import pytest
import torch
from torch import Tensor, nn

from pixelwise.encoders import PVT, Encoder, HRFormer, MiT, SwinTransformer, WeightsUnavailable, make_encoder
from pixelwise.encoders.transformer import DropPath, drop_path_rates

FAMILIES = {
    "mit": lambda **more: MiT(4, (1, 1, 1, 1), **more),
    "pvt": lambda **more: PVT((1, 1, 1, 1), width=4, **more),
    "swin": lambda **more: SwinTransformer(1, (1, 2, 1, 2), window=3, **more),
    "hrformer": lambda **more: HRFormer(8, 1, modules=(1, 1, 1), blocks=1, window=3, **more),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def test_maps_have_the_announced_channels_and_strides_at_any_size(family: str) -> None:
    encoder: Encoder = FAMILIES[family](in_channels=4).eval()
    for height, width in ((65, 97), (32, 32), (33, 150)):
        with torch.no_grad():
            features = encoder(torch.rand(1, 4, height, width))
        for stage, map in features.maps.items():
            stride = getattr(encoder.strides, stage)
            assert map.shape[1] == getattr(encoder.channels, stage)
            assert map.shape[2] in (-(-height // stride), -(-height // stride) - 1)
            assert map.shape[3] in (-(-width // stride), -(-width // stride) - 1)


def test_stages_that_are_not_wanted_are_cut_off(family: str) -> None:
    encoder = FAMILIES[family](stages=("c4", "c2")).train()
    assert encoder.stages == ("c2", "c4")
    assert encoder.channels.c3 == encoder.channels.c5 == 0
    torch.stack([map.sum() for map in encoder(torch.rand(2, 3, 64, 96)).maps.values()]).sum().backward()
    assert not [key for key, p in encoder.named_parameters() if p.grad is None]
    with pytest.raises(ValueError, match="it has no c1"):
        FAMILIES[family](stages=("c1",))
    with pytest.raises(ValueError, match="at least one stage"):
        FAMILIES[family](stages=())


class Maps(nn.Module):
    """Exported programs return tensors, not features."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(image).maps.values())


@pytest.mark.slow
@pytest.mark.compile
def test_a_program_exported_once_equals_eager_at_every_size(family: str) -> None:
    torch.manual_seed(0)
    encoder = Maps(FAMILIES[family]()).eval()
    sizes = {2: torch.export.Dim("H", min=64, max=4096), 3: torch.export.Dim("W", min=64, max=4096)}
    program = torch.export.export(
        encoder, (torch.rand(1, 3, 97, 131),), dynamic_shapes={"image": sizes}
    ).module()
    for size in ((64, 96), (65, 97), (140, 80), (203, 301)):
        image = torch.rand(1, 3, *size)
        with torch.no_grad():
            for found, expected in zip(program(image), encoder(image), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.compile
def test_compiles_in_one_graph(family: str) -> None:
    encoder = FAMILIES[family]().eval()
    image = torch.rand(1, 3, 65, 97)
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(encoder, fullgraph=True, backend="eager")(image).c5
        torch.testing.assert_close(found, encoder(image).c5, atol=1e-5, rtol=1e-4)


def test_dropped_branches_are_made_up_for_by_those_that_stay() -> None:
    torch.manual_seed(0)
    x, drop = torch.ones(4000, 2, 3), DropPath(0.25)
    y = drop(x)
    assert sorted(y.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (y == y[:, :1, :1]).all(), "an image loses the whole branch"
    assert y.mean() == pytest.approx(1, abs=0.05)
    assert drop.eval()(x) is x
    assert drop_path_rates(0.3, (1, 3)) == [
        [0.0],
        [pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.3)],
    ]


def test_what_they_cannot_do_is_said() -> None:
    with pytest.raises(ValueError, match="'mit_b0' cannot be dilated to stride 8"):
        make_encoder("mit_b0", output_stride=8)
    with pytest.raises(WeightsUnavailable, match="no pretrained weights of 'hrformer_small'"):
        make_encoder("hrformer_small", pretrained=True)


def test_pretrained_weights_of_timm_and_of_the_authors_are_carried_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pixelwise.encoders import pvt, swin_transformer

    monkeypatch.setitem(swin_transformer.SWIN_SIZES, "swin_tiny", (1, (1, 1, 1, 1), 3, "published"))
    published = SwinTransformer(1, (1, 1, 1, 1), window=3)
    names = {"body.c2.downsample.": "patch_embed.", ".attention.attention.": ".attn.", ".ffn.": ".mlp."}
    theirs = {}
    for key, tensor in published.state_dict().items():
        for ours, name in names.items():
            key = key.replace(ours, name)
        for i, stage in enumerate(("c2", "c3", "c4", "c5")):
            key = key.replace(f"body.{stage}.", f"layers_{i}.")
        theirs[key] = tensor
    monkeypatch.setattr(swin_transformer, "fetch", lambda name: theirs if name == "published" else {})
    encoder = make_encoder("swin_tiny", in_channels=1, pretrained=True, stages=("c3",))
    weight = published.body["c2"].downsample.proj.weight
    torch.testing.assert_close(encoder.body["c2"].downsample.proj.weight, weight.sum(1, keepdim=True))
    assert torch.equal(
        encoder.body["c3"].downsample.reduction.weight, published.body["c3"].downsample.reduction.weight
    )

    monkeypatch.setattr(pvt, "fetch_file", lambda name, url: {"url": url})
    with pytest.raises(ValueError, match=r"not those of this PVT: pos_embed1 is missing"):
        make_encoder("pvt_tiny", pretrained=True)
