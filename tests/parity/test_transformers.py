"""One function reads every network of transformers that is known, by the name in its configuration."""

import pytest
import torch
from transformers import (
    ConvNextConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

import pixelwise as pw
from pixelwise.models import SegFormer, UPerNet
from tests.models.test_segformer import redrawn
from tests.models.test_upernet import STAGES, swin_peer


def test_a_model_tells_itself_what_it_is() -> None:
    theirs = redrawn(SegformerForSemanticSegmentation(SegformerConfig(num_labels=3)))
    ours = pw.from_transformers(theirs)
    assert isinstance(ours, SegFormer)
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        expected = theirs(ours.encoder.normalize(image)).logits
        torch.testing.assert_close(ours(image).coarse, expected, atol=1e-4, rtol=1e-4)


def test_a_state_dict_needs_its_configuration() -> None:
    theirs = SegformerForSemanticSegmentation(SegformerConfig(num_labels=3))
    with pytest.raises(ValueError, match="config must be given beside a state dict"):
        pw.from_transformers(theirs.state_dict())
    config = {"architectures": ["SegformerForSemanticSegmentation"]}
    assert isinstance(pw.from_transformers(theirs.state_dict(), config), SegFormer)


def test_the_backbone_of_upernet_is_told_by_its_configuration() -> None:
    assert pw.from_transformers(swin_peer()).built_by.builder == "swin_upernet"
    backbone = ConvNextConfig(hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2], out_features=STAGES)
    config = UperNetConfig(backbone_config=backbone, hidden_size=8, auxiliary_in_channels=160, num_labels=3)
    ours = pw.from_transformers(UperNetForSemanticSegmentation(config))
    assert isinstance(ours, UPerNet)
    assert ours.built_by.builder == "convnext_upernet"
    told = {"architectures": ["UperNetForSemanticSegmentation"], "backbone_config": {"model_type": "beit"}}
    with pytest.raises(ValueError, match="UPerNet is read on swin or convnext, not on beit"):
        pw.from_transformers({}, told)


def test_a_network_that_is_not_known_is_named_beside_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"SegformerForSemanticSegmentation, .* got 'BertModel'"):
        pw.from_transformers({}, {"architectures": ["BertModel"]})
    with pytest.raises(ValueError, match="got none"):
        pw.from_transformers({}, {})
