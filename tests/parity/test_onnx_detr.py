"""DETR gives in ONNX Runtime what it gives here, at any size and for any number of images."""

import onnxruntime
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim

import pixelwise as pw
from pixelwise import decode
from pixelwise.models.detr.network import SetOfBoxes
from pixelwise.models.detr.panoptic import DETRPanoptic

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


class Plain(nn.Module):
    """A network whose output is a tuple of tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Float[Tensor, "b c H W"]) -> tuple[Tensor, ...]:
        output = self.model(image)
        if isinstance(self.model, DETRPanoptic):
            return output.found.class_logits, output.found.boxes, output.mask_logits
        return output.class_logits, output.boxes


@pytest.mark.parametrize("name", ["detr", "detr_panoptic"])
def test_a_network_in_onnx_at_any_size_and_number_of_images(name: str, tmp_path) -> None:
    torch.manual_seed(0)
    model = pw.build(name, 5, encoder="tiny", width=16, num_queries=6, blocks=2, min_size=None)
    module = Plain(model).eval()
    axes = {0: Dim("b", min=1, max=64), 2: Dim("h", min=64, max=4096), 3: Dim("w", min=64, max=4096)}
    program = torch.onnx.export(
        module, (torch.rand(2, 3, 97, 131),), dynamo=True, dynamic_shapes=({**axes},), verbose=False
    )
    program.save(tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    for size in ((1, 3, 65, 97), (3, 3, 140, 80)):
        image = torch.rand(*size)
        with torch.no_grad():
            expected = module(image)
        found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        for ours, theirs in zip(expected, found, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-4, rtol=1e-3)


def test_queries_that_all_say_no_object_leave_nothing_sure() -> None:
    logits = torch.zeros(1, 6, 4)
    logits[..., -1] = 20
    found = decode.boxes(SetOfBoxes(logits, torch.rand(1, 6, 4), (40, 60)))[0]
    assert found.scores.max() < 1e-6
