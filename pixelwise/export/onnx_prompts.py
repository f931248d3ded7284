"""The decoder of a promptable network as an ONNX file, for programs that answer clicks without Python.

Inputs have the names and units of those that segment-anything's own export has: the embedding of an image,
points and corners of boxes in pixels of the image as the network sees it (its longer side is `image_size`),
what each point is, and an earlier mask. Points without a box end with one of label -1. Outputs are the scores
of all four masks at the network's resolution, and the IoU expected of each; the caller resizes the scores to
the square, drops its padding, and resizes to the image, as `PromptMasks.logits` does.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.export import Dim

from ..files import atomic_write
from ..models import SAM
from ..types import PromptableModel
from .onnx_model import SUFFIX, installed, quiet

INPUTS = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")
OUTPUTS = ("low_res_masks", "iou_predictions")
CLOSE = 1e-4  # largest difference that is allowed


class DecoderProgram(nn.Module):
    """A decoder on tensors only.

    Args:
        model: whose decoder.
    """

    def __init__(self, model: SAM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        image_embeddings: Float[Tensor, "1 c h w"],
        point_coords: Float[Tensor, "p n 2"],
        point_labels: Int64[Tensor, "p n"],
        mask_input: Float[Tensor, "p 1 4h 4w"],
        has_mask_input: Float[Tensor, " p"],
    ) -> tuple[Float[Tensor, "p 4 4h 4w"], Float[Tensor, "p 4"]]:
        """All masks of each prompt, and the IoU expected of them."""
        places = (point_coords + 0.5) / self.model.image_size
        return self.model.decode(image_embeddings, places, point_labels, mask_input, has_mask_input)


def export_decoder(model: PromptableModel, path: str | os.PathLike[str]) -> float:
    """Write the decoder of a network as an ONNX file, which appears only if it computes the same.

    Args:
        model: a `SAM`, also one with another encoder.
        path: of the file, ending in .onnx.

    Returns:
        The largest difference that was found, at numbers of prompts and points that were not traced.

    Raises:
        ValueError: if the extra `pixelwise[export]` is missing, the network is of another kind, the results
            differ, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"an ONNX file ends in {SUFFIX}, got {path}")
    if not isinstance(model, SAM):
        raise ValueError(f"the decoder of {type(model).__name__} cannot be exported: only that of SAM")
    installed()
    program = DecoderProgram(model.cpu().eval()).eval()
    prompts, points = Dim("p", min=1, max=4096), Dim("n", min=1, max=4096)
    size, cells = _map_sizes(model)
    shapes = {
        "image_embeddings": size,
        "point_coords": {0: prompts, 1: points},
        "point_labels": {0: prompts, 1: points},
        "mask_input": {0: prompts, **cells},
        "has_mask_input": {0: prompts},
    }
    with quiet(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            exported = torch.onnx.export(
                program,
                _example(model, 3, 5),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                verbose=False,
            )
        except Exception as error:  # whatever the tracer and the translation raise
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise ValueError(f"{type(model).__name__} cannot be exported to ONNX: {reason}") from error
    assert exported is not None
    with atomic_write(path) as temporary:
        exported.save(temporary)
        worst = max(_difference(program, temporary, _example(model, *two)) for two in ((1, 2), (4, 3)))
        if not worst <= CLOSE:
            raise ValueError(f"the exported decoder differs by {worst:.1e}: no file was written")
    return worst


def _map_sizes(model: SAM) -> tuple[dict[int, Any], dict[int, Any]]:
    """Which sides of the map and of an earlier mask may change: those of a network that pads no image."""
    if model.covered((1, 1)) == model.covered((1, model.image_size)):
        return {}, {}
    height, width = (Dim(name, min=2, max=4096) for name in ("h", "w"))
    return {2: height, 3: width}, {2: 4 * height, 3: 4 * width}


def _example(model: SAM, prompts: int, points: int) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(points)
    size = (model.image_size, max(model.image_size * points // 5, model.patch * 2))
    rows, columns = (side // model.patch for side in model.covered(size))
    return (
        torch.randn(1, model.map_channels, rows, columns, generator=rng),
        torch.rand(prompts, points, 2, generator=rng) * model.image_size,
        torch.randint(-1, 4, (prompts, points), generator=rng),
        torch.randn(prompts, 1, 4 * rows, 4 * columns, generator=rng),
        (torch.arange(prompts) % 2).float(),
    )


def _difference(program: nn.Module, path: Path, given: tuple[Tensor, ...]) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = session.run(list(OUTPUTS), {name: x.numpy() for name, x in zip(INPUTS, given, strict=True)})
    with torch.no_grad():
        expected = program(*given)
    return max(
        float((torch.from_numpy(one) - other).abs().max() / other.abs().max().clamp(min=1))
        for one, other in zip(found, expected, strict=True)
    )
