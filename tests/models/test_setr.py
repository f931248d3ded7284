"""SETR: three decoders on a plain ViT."""

import pytest
import torch
from torch import nn

from pixelwise.models import setr_mla, setr_naive, setr_pup
from pixelwise.types import DenseModel

BUILDERS = {"naive": setr_naive, "pup": setr_pup, "mla": setr_mla}


def small(name: str, **arguments: object) -> DenseModel:
    """One whose weights all matter."""
    torch.manual_seed(2)
    model: DenseModel = BUILDERS[name](4, encoder="tiny", width=8, **arguments)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    nn.init.normal_(model.encoder.body.pos_embed, std=1.0)
    return model


@pytest.mark.parametrize(("name", "published"), [("naive", 305.67e6), ("pup", 318.31e6), ("mla", 310.57e6)])
def test_parameters_are_as_many_as_published(name: str, published: float) -> None:
    # For crops of 768 pixels of Cityscapes, as the paper counts them.
    with torch.device("meta"):
        model = BUILDERS[name](19, image_size=768)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(published, rel=5e-3)


def test_naive_is_its_two_convolutions_on_the_normed_tokens() -> None:
    model = small("naive").eval()
    image = torch.rand(2, 3, 48, 80)
    with torch.no_grad():
        tokens = model.encoder(image).layers[-1]
        assert tokens.shape == (2, 15, 32), "no class token"
        norm, reduce, classify = model.head
        x = nn.functional.layer_norm(tokens, (32,), norm.norm.weight, norm.norm.bias, 1e-6)
        x = torch.einsum("bpd,cd->bpc", x, reduce[0].weight[:, :, 0, 0])
        mean, var = reduce[1].running_mean, reduce[1].running_var
        x = ((x - mean) / (var + 1e-5).sqrt() * reduce[1].weight + reduce[1].bias).relu()
        x = torch.einsum("bpc,kc->bpk", x, classify.weight[:, :, 0, 0]) + classify.bias
        found = model(image)
    torch.testing.assert_close(found.coarse, x.transpose(1, 2).reshape(2, 4, 3, 5), atol=1e-5, rtol=1e-4)
    assert found.coarse.std() > 0.01


def test_pup_upsamples_in_four_steps_of_two() -> None:
    model = small("pup").eval()
    sizes: list[tuple[int, ...]] = []
    for part in model.head:
        part.register_forward_hook(lambda module, given, x: sizes.append(tuple(x.shape[2:])))
    with torch.no_grad():
        output = model(torch.rand(1, 3, 48, 80))
    assert sizes == [(3, 5), (3, 5), (6, 10), (6, 10), (12, 20), (12, 20)] + [(24, 40)] * 3
    assert output.logits.shape[2:] == (48, 80)


def test_mla_adds_layers_from_the_deepest_up() -> None:
    model = small("mla").eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        tokens = model.encoder(image)
        maps = [lateral(tokens) for lateral in model.laterals]
        levels = []
        for i in range(4):
            merged = model.merges[i](sum(maps[i:]))
            levels.insert(0, model.levels[i](merged))
        wanted = model.head(torch.cat(levels, dim=1))
        found = model(image).coarse
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert found.shape == (1, 4, 16, 16)
    assert model.encoder.last == (0, 1, 2, 3)


@pytest.mark.parametrize(("name", "layers"), [("naive", 3), ("pup", 4), ("mla", 4)])
def test_auxiliary_heads_train_and_fall_silent(name: str, layers: int) -> None:
    image = torch.rand(2, 3, 65, 97)
    assert len(small(name).train()(image).aux) == layers
    assert small(name).eval()(image).aux == ()
    assert small(name, aux=False).train()(image).aux == ()


def test_published_depths() -> None:
    with torch.device("meta"):
        assert setr_pup(19).encoder.last == (9, 14, 19, 23)
        assert setr_mla(19).encoder.last == (5, 11, 17, 23)


def test_an_image_of_any_size_is_scored_at_its_places() -> None:
    # One with whole patches, and the same cut: what is far from the cut keeps its place.
    model = small("naive").eval()
    with torch.no_grad():
        model.encoder.body.blocks.apply(lambda m: m.weight.zero_() if isinstance(m, nn.Linear) else None)
        image = torch.rand(1, 3, 96, 160)
        whole, cut = model(image).logits, model(image[:, :, :90, :149]).logits
        uncut = nn.functional.interpolate(
            model.head(model.encoder(image[:, :, :90, :149])), (90, 149), mode="bilinear"
        )
    inner = (slice(None), slice(None), slice(16, 64), slice(16, 120))
    error, without = (
        (cut - whole[:, :, :90, :149])[inner].abs(),
        (uncut - whole[:, :, :90, :149])[inner].abs(),
    )
    assert error.mean() < without.mean() / 1.5
