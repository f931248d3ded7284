"""What all networks that find instances in one stage promise: gradients, sizes, files, ONNX, learning."""

import warnings
from collections.abc import Callable

import onnxruntime
import pytest
import torch
import torchvision  # torch.onnx knows its operators only if it is imported before the export
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from pixelwise import build, decode
from pixelwise.checkpoint import load, save
from pixelwise.losses import loss_parts
from pixelwise.models.yolact_plus import MaskScoring
from pixelwise.types import Batch, Boxes, ClassTable, LabelMap, MaskSet, Model, Sample

CLASSES = 3
NAMES = ("centermask", "condinst", "polarmask", "solov2", "tensormask", "yolact", "yolact_plus")
TINY: dict[str, object] = {"encoder": "tiny", "width": 16}
LEARNED = {
    "centermask": 0.7,
    "condinst": 0.8,
    "polarmask": 0.7,
    "solov2": 0.7,
    "tensormask": 0.7,
    "yolact": 0.7,
    "yolact_plus": 0.7,
}  # IoU of each mask


def tiny(name: str, **changes: object) -> Model:
    torch.manual_seed(0)
    scale = {"size": None} if "yolact" in name else {"min_size": None}
    return build(name, CLASSES, **(TINY | scale | changes))


def scene(height: int = 96, width: int = 128) -> Sample:
    """Bright boxes of three colours on a dark wall, as instances."""
    generator = torch.Generator().manual_seed(0)
    image = 0.2 + 0.05 * torch.rand(3, height, width, generator=generator)
    masks = torch.zeros(CLASSES, height, width, dtype=torch.bool)
    for i, (top, left) in enumerate([(8, 10), (40, 70), (50, 12)]):
        masks[i, top : top + 36, left : left + 44] = True
        image[i, masks[i]] = 0.9
    return Sample(image, MaskSet.of(masks, torch.arange(CLASSES)), "scene")


def nothing(height: int = 70, width: int = 90) -> Sample:
    none = MaskSet.of(torch.zeros(0, height, width, dtype=torch.bool), torch.zeros(0, dtype=torch.long))
    return Sample(torch.rand(3, height, width), none, "nothing")


def crowded(count: int = 200) -> Sample:
    """Many small objects, some on top of others, one without a pixel and one crowd."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(count, 96, 128, dtype=torch.bool)
    places = torch.rand(count, 2, generator=generator) * torch.tensor([80.0, 112.0])
    for mask, (top, left) in zip(masks[1:], places.long().tolist(), strict=False):
        mask[top : top + 14, left : left + 12] = True
    classes = torch.arange(count) % CLASSES
    crowd = torch.arange(count) == 7
    return Sample(scene().image, MaskSet.of(masks, classes, is_crowd=crowd), "crowded")


def conv(c_in: int, c_out: int, kernel: int = 3, *, bias: bool = True) -> int:
    """Weights of a convolution."""
    return c_out * (c_in * kernel**2 + bias)


def normed(c_in: int, c_out: int, kernel: int = 3, *, bias: bool = False) -> int:
    """Weights of a convolution and a norm."""
    return conv(c_in, c_out, kernel, bias=bias) + 2 * c_out


# The layers of the authors' code, on COCO's 80 classes. ResNets are without their last layer.
RESNET50, RESNET101 = 23_508_032, 42_500_160
PYRAMID = sum(conv(c, 256, 1) for c in (512, 1024, 2048)) + 5 * conv(256, 256)
FCOS = 8 * normed(256, 256, bias=True) + conv(256, 80) + conv(256, 4) + conv(256, 1) + 5
CONDINST = conv(256, 169) + 3 * normed(256, 128) + 4 * normed(128, 128) + conv(128, 8, 1)
POLAR = 12 * normed(256, 256) + conv(256, 80 + 4 + 36 + 1) + 10
YOLACT = 5 * conv(256, 256) + conv(256, 32, 1) + conv(256, 3 * (81 + 4 + 32)) + conv(256, 80, 1)
SAG = 4 * conv(256, 256) + conv(2, 1, bias=False) + 4 * 256 * 256 + 256 + conv(256, 80, 1)
MASK_IOU = conv(257, 256) + 3 * conv(256, 256) + 1025 * 1024 + (7 * 7 * 256 + 1) * 1024 + 1025 * 80
SOLO_TOWERS = normed(256, 512) + normed(258, 512) + 6 * normed(512, 512) + conv(512, 80 + 256)
SOLO_MAPS = 3 * normed(256, 128) + normed(258, 128) + 3 * normed(128, 128) + normed(128, 256, 1)
SOLO_PYRAMID = sum(conv(c, 256, 1) for c in (256, 512, 1024, 2048)) + 4 * conv(256, 256)
TENSOR_PYRAMID = sum(conv(c, 256, 1) for c in (256, 512, 1024, 2048)) + 5 * conv(256, 256) + conv(2048, 256)
TENSOR_CLASSES = 4 * conv(256, 256) + conv(256, 2 * 80)
TENSOR_MASKS = conv(128, 2 * 4) + conv(128, 128) + conv(128, 11**2 + 15**2, 1)
TENSOR = TENSOR_PYRAMID + TENSOR_CLASSES + 2 * (conv(256, 128) + 3 * conv(128, 128)) + TENSOR_MASKS
COUNTS = {
    "condinst_resnet50": RESNET50 + PYRAMID + FCOS + CONDINST,
    "polarmask_resnet50": RESNET50 + PYRAMID + POLAR,
    "yolact_resnet50": RESNET50 + PYRAMID + YOLACT,
    "yolact_resnet101": RESNET101 + PYRAMID + YOLACT,
    "centermask_resnet50": RESNET50 + PYRAMID + FCOS + SAG + MASK_IOU,
    "centermask_resnet101": RESNET101 + PYRAMID + FCOS + SAG + MASK_IOU,
    "tensormask_resnet50": RESNET50 + TENSOR,
    "tensormask_resnet101": RESNET101 + TENSOR,
    "solov2_resnet50": RESNET50 + SOLO_PYRAMID + SOLO_TOWERS + SOLO_MAPS,
}


@pytest.mark.parametrize("name, count", COUNTS.items())
def test_parameters_are_those_of_the_authors_layers(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build(name, 80)
    assert sum(p.numel() for p in model.parameters()) == count


SAMPLES: dict[str, Callable[[], list[Sample]]] = {
    "one": lambda: [scene()],
    "two of other sizes": lambda: [scene(), nothing()],
    "none": lambda: [nothing()],
    "200": lambda: [crowded()],
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def objects_of(output: object) -> object:
    """What tells the sizes of the images."""
    return getattr(output, "objects", output)


def total(model: Model, batch: Batch) -> Tensor:
    parts = loss_parts(model(*model.inputs(batch)), batch)
    assert all(part.isfinite() and part.ndim == 0 for part in parts.values()), parts
    return torch.stack(list(parts.values())).sum()


@pytest.mark.parametrize("which", SAMPLES)
def test_every_parameter_gets_a_finite_gradient(name: str, which: str) -> None:
    model = tiny(name).train()
    total(model, Batch.collate(SAMPLES[which]())).backward()
    gradients = {key: p.grad for key, p in model.named_parameters()}
    assert not [key for key, grad in gradients.items() if grad is None or not grad.isfinite().all()]
    if which != "none":
        # Biases in front of norms are taken away again. YOLACT learns from few anchors, in few levels, and
        # no small object lies in a large window of TensorMask.
        idle = {key for key, grad in gradients.items() if not grad.any() and not key.endswith("bias")}
        allowed = {"tensormask": ("head.masks.1.",), "yolact": ("pyramid.further.",)}
        allowed["yolact_plus"] = ("detector.pyramid.further.", "scoring.")
        assert not [key for key in idle if not key.startswith(allowed.get(name, ()))]


def test_images_of_a_batch_do_not_see_each_other_and_evaluation_repeats(name: str) -> None:
    model = tiny(name).eval()
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        both, again, alone = model(images), model(images), model(images[1:])
    for first, second in zip(pytree.tree_leaves(both), pytree.tree_leaves(again), strict=True):
        assert first == second if isinstance(first, int) else torch.equal(first, second)
    first, second = decode.instances(both)[1], decode.instances(alone)[0]
    torch.testing.assert_close(first.scores, second.scores, atol=1e-4, rtol=1e-3)


def biased(model: Model, towards: float) -> Model:
    """Everything is an object, or nothing is."""
    for key, parameter in model.named_parameters():
        if key.startswith("head.masks.") and key.endswith("bias"):  # the pixels of TensorMask's windows
            nn.init.constant_(parameter, 2.0)
        if key.endswith("classes.bias"):
            nn.init.constant_(parameter, towards)
            if "yolact" in model.built_by.builder:
                with torch.no_grad():
                    parameter[:: CLASSES + 1] = -towards
    return model


def certain(model: Model) -> Model:
    return biased(model, 2.0)


@pytest.mark.parametrize("size", [(33, 40), (65, 97), (120, 64)])
def test_masks_and_boxes_are_in_pixels_of_the_image(name: str, size: tuple[int, int]) -> None:
    model = certain(tiny(name)).eval()
    with torch.no_grad():
        output = model(torch.rand(1, 3, *size))
    (masks,), (boxes,) = decode.instances(output), decode.boxes(output)
    assert masks.size == size
    assert 0 < len(masks) <= 100
    assert (masks.scores.diff() <= 0).all()
    assert masks.dense.flatten(1).any(1).all() or name == "centermask"
    assert (boxes.boxes >= 0).all()
    assert (boxes.boxes <= torch.tensor([size[1], size[0]] * 2) + 1e-3).all()


def test_images_that_are_resized_come_back_at_their_size(name: str) -> None:
    scale = {"size": 96} if "yolact" in name else {"min_size": 100, "max_size": 130}
    model = certain(tiny(name, **scale)).eval()
    batch = Batch.collate([scene(), nothing()])
    with torch.no_grad():
        output = model(batch.image, sizes=batch.sizes)
    found = decode.instances(output)
    assert [one.size for one in found] == [(96, 128), (70, 90)]
    assert all(len(one) for one in found)
    for boxes, (height, width) in zip(decode.boxes(output), batch.sizes, strict=True):
        assert boxes.boxes[:, 2].max() > 0.8 * width
        assert (boxes.boxes <= torch.tensor([width, height] * 2) + 1e-3).all()


def test_an_image_without_detections_decodes_to_nothing(name: str) -> None:
    model = biased(tiny(name), -50.0).eval()
    with torch.no_grad():
        output = model(torch.rand(2, 3, 65, 97))
    assert [(len(one), one.size) for one in decode.instances(output)] == [(0, (65, 97))] * 2
    assert [len(one) for one in decode.boxes(output)] == [0, 0]


def test_what_cannot_be_learned_from_is_refused(name: str) -> None:
    model = tiny(name).train()
    sample = scene()
    boxes = Batch.collate([Sample(sample.image, sample.target.boxes, "boxes")])
    with pytest.raises(ValueError, match="learns from MaskSet, got Boxes"):
        loss_parts(model(*model.inputs(boxes)), boxes)
    labels = Batch.of(sample.image[None], [LabelMap(torch.zeros(96, 128, dtype=torch.long))])
    with pytest.raises(ValueError, match="got LabelMap"):
        loss_parts(model(*model.inputs(labels)), labels)
    with pytest.raises(ValueError, match="at least 32 x 32"):
        model.eval()(torch.rand(1, 3, 31, 64))


def test_a_saved_model_comes_back_as_it_was(name: str, tmp_path) -> None:
    model = certain(tiny(name)).eval()
    save(model, tmp_path / "model.safetensors", ClassTable.of(*"abc"))
    again = load(tmp_path / "model.safetensors").model
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        first, second = decode.boxes(model(image))[0], decode.boxes(again(image))[0]
    assert torch.equal(first.boxes, second.boxes)


def test_only_weights_of_the_encoder_are_those_of_the_encoder(name: str) -> None:
    roles = tiny(name).parameter_roles()
    assert {key for key, role in roles.items() if role.of_encoder} == {
        key for key in roles if "encoder.body." in key
    }


def test_other_image_channels_are_taken(name: str) -> None:
    with torch.no_grad():
        output = tiny(name, in_channels=4).eval()(torch.rand(1, 4, 64, 64))
    assert len(decode.instances(output)) == 1


class Tensors(nn.Module):
    """A network whose output is a tuple of tensors."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        leaves = pytree.tree_leaves(self.model(image))
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("towards", [2.0, -50.0], ids=["objects", "nothing found"])
def test_a_network_in_onnx_runtime_equals_eager_at_any_size_and_batch(
    name: str, towards: float, tmp_path
) -> None:
    assert torchvision.ops.nms
    module = Tensors(biased(tiny(name), towards).eval())
    shapes = ({0: Dim("b", min=1, max=64), 2: Dim("h", min=64, max=4096), 3: Dim("w", min=64, max=4096)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, (torch.rand(2, 3, 290, 330),), dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    program.save(tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 97, 131), (3, 3, 140, 80)):
        image = torch.rand(shape)
        with torch.no_grad():
            expected = module(image)
        outputs = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        for ours, theirs in zip(expected, outputs, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_one_image_is_learned_by_heart(name: str) -> None:
    batch = Batch.collate([scene()])
    model = tiny(name, width=32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        loss = total(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        (found,) = decode.instances(model.eval()(batch.image))
    sure = found.take(found.scores > 0.4)
    assert sorted(sure.classes.tolist()) == [0, 1, 2]
    for mask, label in zip(sure.dense, sure.classes, strict=True):
        wanted = batch.annotations[0].masks[label]
        assert (mask & wanted).sum() / (mask | wanted).sum() > LEARNED[name]


def test_boxes_of_a_detector_are_boxes() -> None:
    model = build("fcos", CLASSES, encoder="tiny", width=16, min_size=None).train()
    sample = scene()
    batch = Batch.collate([Sample(sample.image, sample.target.boxes, "boxes")])
    total(model, batch).backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    with torch.no_grad():
        (found,) = decode.boxes(certain(model).eval()(batch.image))
    assert isinstance(found, Boxes)
    assert 0 < len(found) <= 100


def test_a_mask_that_is_expected_to_be_worse_than_nothing_is_learned_from() -> None:
    scoring = MaskScoring(CLASSES)
    with torch.no_grad():
        scoring[-1].bias.fill_(-1.0)
    answers = scoring(torch.rand(4, 33, 47))
    assert (answers < 0).all()
    answers.sum().backward()
    assert (scoring[-1].bias.grad != 0).all()
