"""Networks of mask classification give in ONNX Runtime what they give here, at sizes that were not traced."""

import onnxruntime
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim

import pixelwise as pw
from pixelwise.models.mask2former import DeformableAttention, in_a_row
from pixelwise.types import MaskModel

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


class Attended(nn.Module):
    """Deformable attention among three maps, with offsets and weights that depend on what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = DeformableAttention(16)
        for layer in (self.attention.offsets, self.attention.weights):
            nn.init.normal_(layer.weight)

    def forward(
        self, x: Float[Tensor, "b c _ _"], y: Float[Tensor, "b c _ _"], z: Float[Tensor, "b c _ _"]
    ) -> Float[Tensor, "b n c"]:
        row = torch.cat([map.flatten(2).transpose(1, 2) for map in (x, y, z)], 1)
        return self.attention(row, row, in_a_row([x, y, z]))


class Scores(nn.Module):
    """A network whose output is a pair of tensors."""

    def __init__(self, model: MaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Float[Tensor, "b c H W"]) -> tuple[Tensor, Tensor]:
        output = self.model(image)
        return output.class_logits, output.mask_logits


def session(module: nn.Module, example: tuple[Tensor, ...], least: int, path) -> onnxruntime.InferenceSession:
    sides = tuple(
        {2: Dim(f"h{i}", min=least, max=4096), 3: Dim(f"w{i}", min=least, max=4096)}
        for i in range(len(example))
    )
    program = torch.onnx.export(module.eval(), example, dynamo=True, dynamic_shapes=sides, verbose=False)
    program.save(path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def check(module: nn.Module, found: onnxruntime.InferenceSession, given: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        expected = module(*given)
    names = [one.name for one in found.get_inputs()]
    outputs = found.run(None, {name: x.numpy() for name, x in zip(names, given, strict=True)})
    for ours, theirs in zip(expected if isinstance(expected, tuple) else (expected,), outputs, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-5, rtol=1e-4)


def test_deformable_attention_in_onnx(tmp_path) -> None:
    module = Attended()
    example = tuple(torch.randn(1, 16, *size) for size in ((3, 5), (7, 9), (13, 17)))
    exported = session(module, example, 2, tmp_path / "attention.onnx")
    check(module, exported, example)
    check(module, exported, tuple(torch.randn(1, 16, *size) for size in ((2, 4), (5, 3), (11, 6))))


@pytest.mark.parametrize("name", ["mask2former", "maskformer"])
def test_a_network_in_onnx_at_odd_sizes(name: str, tmp_path) -> None:
    module = Scores(pw.build(name, 5, encoder="tiny", width=8, num_queries=6, blocks=1))
    exported = session(module, (torch.rand(1, 3, 97, 131),), 64, tmp_path / "network.onnx")
    for size in ((65, 97), (140, 80)):
        check(module, exported, (torch.rand(1, 3, *size),))
