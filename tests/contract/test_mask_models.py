"""What every network that classifies masks promises, asked of all of them.

A builder of a `MaskModel` that takes an encoder is asked without a new line here, built as small as may be.
"""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from pixelwise import models
from pixelwise.checkpoint import load, save
from pixelwise.losses import PaperCriterion
from pixelwise.registry import build, list_models
from pixelwise.types import Batch, ClassTable, LabelMap, MaskLogits, MaskModel, MaskSet, PanopticMap

CLASSES, QUERIES = 5, 7
SMALL = {"encoder": "tiny", "width": 8, "num_queries": QUERIES, "blocks": 2}
TABLE = ClassTable.of(*"abcde")


def arguments(name: str) -> dict[str, object]:
    known = inspect.signature(getattr(models, name)).parameters
    return {key: value for key, value in SMALL.items() if key in known}


def names() -> list[str]:
    kinds = {name: inspect.signature(getattr(models, name)).return_annotation for name in list_models()}
    masks = [name for name, kind in kinds.items() if inspect.isclass(kind) and issubclass(kind, MaskModel)]
    return [name for name in masks if "encoder" in arguments(name)]


@pytest.fixture(scope="module", params=names())
def model(request: pytest.FixtureRequest) -> MaskModel:
    torch.manual_seed(0)
    made = build(request.param, CLASSES, **arguments(request.param))
    for parameter in made.parameters():
        if parameter.min() == parameter.max():  # layers that begin with a constant would show little
            nn.init.normal_(parameter, parameter.min().item(), 0.1)
    return made


def picture(*size: int, count: int = 1, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(1))


def output_of(model: MaskModel, image: torch.Tensor) -> MaskLogits:
    with torch.no_grad():
        return model.eval()(image)


def labels() -> torch.Tensor:
    found = torch.zeros(1, 64, 64, dtype=torch.long)
    found[:, 10:40, 20:50], found[:, 45:60, 5:60] = 1, 3
    return found


TARGETS: dict[str, Callable[[], LabelMap | MaskSet | PanopticMap]] = {
    "semantic": lambda: LabelMap(labels()[0]),
    "instance": lambda: MaskSet.of(torch.cat([labels() == 1, labels() == 3]), torch.tensor([1, 3])),
    "panoptic": lambda: PanopticMap.of(labels()[0] + 1, torch.tensor([1, 2, 4]), torch.tensor([0, 1, 3])),
}


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (32, 130)])
def test_each_query_has_a_class_and_a_mask_of_at_least_a_quarter_of_the_size(
    model: MaskModel, size: tuple[int, int]
) -> None:
    output = output_of(model, picture(*size, count=2))
    assert output.class_logits.shape == (2, QUERIES, CLASSES + 1)
    assert output.mask_logits.shape[:2] == (2, QUERIES)
    assert all(4 * own >= side for own, side in zip(output.mask_logits.shape[2:], size, strict=True))
    assert (output.size, output.aux) == (size, ())
    assert output.mask_logits.std(dim=(2, 3)).min() > 0
    assert output.class_logits.std(dim=1).min() > 0, "all queries say the same"


def test_a_smaller_image_is_refused(model: MaskModel) -> None:
    least = model.minimum_size
    assert output_of(model, picture(least, least)).size == (least, least)
    with pytest.raises(ValueError, match=f"at least {least} x {least} pixels"):
        output_of(model, picture(least - 1, least + 5))


@pytest.mark.parametrize(
    "task", ["panoptic", *(pytest.param(task, marks=pytest.mark.slow) for task in ("semantic", "instance"))]
)
def test_one_image_of_each_task_gives_every_parameter_a_finite_gradient(model: MaskModel, task: str) -> None:
    assert task in model.tasks
    model.train()
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    model.zero_grad()
    batch = Batch.of(picture(64, 64), [TARGETS[task]()])
    output = model(*model.inputs(batch))
    assert output.aux
    parts = PaperCriterion().parts(output, batch)
    assert set(parts) == {"class", "mask", "dice", "aux"}
    torch.stack(list(parts.values())).sum().backward()
    wanted = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert not [key for key, grad in wanted.items() if grad is None or not grad.isfinite().all()]
    # A bias of keys moves all scores of a query alike, one in front of a norm is taken away again, and the
    # queries of DETR and MaskFormer start at 0.
    first = "layers.0.self_attention.value.weight"
    idle = [key for key, grad in wanted.items() if not grad.any()]
    assert all(key.endswith("bias") or key.startswith("encoder.") or key == first for key in idle), idle
    model.zero_grad(set_to_none=True)


def test_evaluation_is_deterministic_and_images_do_not_see_each_other(model: MaskModel) -> None:
    images = picture(64, 96, count=2)
    both, again, alone = (output_of(model, x) for x in (images, images, images[1:]))
    assert torch.equal(both.mask_logits, again.mask_logits)
    torch.testing.assert_close(both.mask_logits[1:], alone.mask_logits, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(both.class_logits[1:], alone.class_logits, atol=1e-4, rtol=1e-3)


def test_a_saved_model_comes_back_for_each_task(model: MaskModel, tmp_path) -> None:
    image = picture(64, 64)
    for task in model.tasks:
        save(model, tmp_path / "model.safetensors", TABLE, task=task)
        checkpoint = load(tmp_path / "model.safetensors")
        assert checkpoint.task == task
    assert torch.equal(output_of(checkpoint.model, image).mask_logits, output_of(model, image).mask_logits)


def test_other_image_channels_are_taken(model: MaskModel) -> None:
    name = model.built_by.builder
    other = build(name, CLASSES, in_channels=4, **arguments(name))
    assert output_of(other, picture(64, 64, channels=4)).class_logits.shape == (1, QUERIES, CLASSES + 1)


def test_norms_biases_queries_and_embeddings_do_not_decay(model: MaskModel) -> None:
    roles = model.parameter_roles()
    decaying = {key.replace("patch_embed", "") for key, role in roles.items() if role.decays}
    assert any(key.endswith("weight") for key in decaying)
    assert not [
        key for key in decaying if "norm" in key or "embed" in key or "queries" in key or "bias" in key
    ]
    assert {role.of_encoder for role in roles.values()} == {True, False}


@pytest.mark.slow
@pytest.mark.compile
def test_a_program_exported_once_equals_eager_at_every_size(model: MaskModel) -> None:
    sizes = {2: torch.export.Dim("H", min=64, max=4096), 3: torch.export.Dim("W", min=64, max=4096)}
    program = torch.export.export(model.eval(), (picture(97, 131),), dynamic_shapes={"image": sizes}).module()
    for size in ((64, 96), (75, 107), (140, 80)):
        image = picture(*size)
        expected = output_of(model, image)
        with torch.no_grad():
            found = program(image)
        assert tuple(found.size) == size
        torch.testing.assert_close(found.class_logits, expected.class_logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.mask_logits, expected.mask_logits, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.compile
def test_compiles_in_one_graph(model: MaskModel) -> None:
    image = picture(64, 96)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model.eval(), fullgraph=True, backend="eager")(image)
    expected = output_of(model, image)
    torch.testing.assert_close(compiled.mask_logits, expected.mask_logits, atol=1e-5, rtol=1e-4)
