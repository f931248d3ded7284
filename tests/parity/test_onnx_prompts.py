"""The decoder of SAM alone, run by ONNX Runtime as segment-anything's users do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import pixelwise as pw
from pixelwise.export import export_decoder
from pixelwise.models import SAM
from pixelwise.models.sam import ImageEncoder
from pixelwise.types import PromptMasks, Prompts


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, size",
    [
        (lambda: SAM(ImageEncoder(64, 8, 16, 2, [0], c_out=32), 64, 8, width=32), (64, 64)),
        (lambda: pw.build("sam", image_size=64, patch=8, width=16, depth=2, decoder_width=32), (40, 64)),
    ],
    ids=["the paper's", "the small one's"],
)
def test_the_exported_decoder_answers_a_click_as_the_network_does(
    make: Callable[[], SAM], size: tuple[int, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    assert export_decoder(model, tmp_path / "decoder.onnx") < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "decoder.onnx"))
    with torch.no_grad():
        embedding = model.embed(torch.rand(1, 3, 40, 64))
        expected = model.masks(embedding, Prompts.at([(20, 11)]))
    low, iou = session.run(
        None,
        {
            "image_embeddings": embedding.maps[0].numpy(),
            "point_coords": np.array([[[20, 11], [0, 0]]], np.float32),
            "point_labels": np.array([[1, -1]]),
            "mask_input": np.zeros((1, 1, size[0] // 2, size[1] // 2), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
        },
    )
    found = PromptMasks(torch.from_numpy(low[:, 1:]), torch.from_numpy(iou[:, 1:]), (40, 64), (40, 64), size)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.iou, expected.iou, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        export_decoder(model, tmp_path / "decoder.pt")
