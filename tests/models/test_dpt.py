"""DPT: reassembled tokens, fused from coarse to fine."""

import pytest
import torch
from torch import nn

from pixelwise.encoders import make_token_encoder
from pixelwise.models import dpt, dpt_hybrid, dpt_large

UNITS = 2 * (9 * 256 * 256 + 2 * 256)  # of the residual unit that the authors' coarsest fusion never uses


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_those_of_the_authors_without_what_they_never_use() -> None:
    with torch.device("meta"):
        large, hybrid = dpt_large(150), dpt_hybrid(150)
    # Idle there: a residual unit, the classifier of the backbone and its last norm.
    assert count(large) == 344_985_364 - UNITS - (1024 * 1000 + 1000) - 2 * 1024
    assert count(hybrid) == 124_076_884 - UNITS - (768 * 1000 + 1000) - 2 * 768
    assert large.encoder.last == (5, 11, 17, 23)
    assert hybrid.encoder.last[2:] == (8, 11)


def test_four_layers_become_four_scales() -> None:
    model = dpt(3, encoder="tiny", width=8).eval()
    sizes = []
    for lateral in model.laterals:
        lateral.register_forward_hook(lambda module, given, x: sizes.append(tuple(x.shape[1:])))
    with torch.no_grad():
        output = model(torch.rand(1, 3, 64, 96))
    assert sizes == [(8, 16, 24), (8, 8, 12), (8, 4, 6), (8, 2, 3)]
    assert output.coarse.shape == (1, 3, 32, 48)
    assert output.align_corners


def test_the_class_token_reaches_every_patch() -> None:
    torch.manual_seed(1)
    block = dpt(3, encoder="tiny", width=8).reassemble[2].double()
    encoder = make_token_encoder("tiny", depths=(0.25, 0.5, 0.75, 1)).double().eval()
    with torch.no_grad():
        tokens = encoder(torch.rand(1, 3, 48, 48, dtype=torch.float64))
        found = block(tokens)
        whole, patch = tokens.layers[2][0, 0], tokens.layers[2][0, 1 + 4]
        linear = block.readout[0]
        read = nn.functional.gelu(linear.weight @ torch.cat([patch, whole]) + linear.bias)
        wanted = block.project.weight[:, :, 0, 0] @ read + block.project.bias
    torch.testing.assert_close(found[0, :, 1, 1], wanted, atol=1e-10, rtol=1e-8)


def test_the_second_classifier_reads_the_fusion_before_the_last() -> None:
    model = dpt(3, encoder="tiny", width=8)
    output = model.train()(torch.rand(2, 3, 64, 96))
    assert [aux.shape[2:] for aux in output.aux] == [(16, 24)]
    assert model.eval()(torch.rand(1, 3, 64, 96)).aux == ()
    assert dpt(3, encoder="tiny", width=8, aux=False).train()(torch.rand(2, 3, 64, 64)).aux == ()


def test_what_does_not_fit_is_told_in_a_sentence() -> None:
    without = make_token_encoder("tiny", depths=(0.25, 0.5, 0.75, 1), prefix=False)
    with pytest.raises(ValueError, match="reads the class token: the encoder has none"):
        dpt(3, encoder=without)
    with pytest.raises(ValueError, match="channels must be those of four maps, got 3"):
        dpt(3, encoder="tiny", channels=(8, 8, 8))
