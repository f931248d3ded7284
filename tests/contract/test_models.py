"""What every model promises, asked of all of them. A new model is tested by these without a new line.

Each builder is built as small as its signature allows: with the tiny encoder where it takes one, with
the smallest width where it takes one. Those that allow neither are big: their tests are slow.
"""

import inspect
from functools import cache
from math import inf

import pytest
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from pixelwise import models
from pixelwise.checkpoint import load, save
from pixelwise.losses import make_criterion
from pixelwise.registry import build, describe, list_models
from pixelwise.types import Batch, ClassTable, DenseLogits, DenseModel

CLASSES = 5
BIG = 12_000_000
MANY_MODULES = 45  # so many take long to trace


def signature(name: str) -> inspect.Signature:
    return inspect.signature(getattr(models, name))


def small_arguments(name: str) -> dict[str, object]:
    known = signature(name).parameters
    arguments: dict[str, object] = {}
    if "encoder" in known:
        arguments["encoder"] = "tiny"
    if "width" in known:
        arguments["width"] = 4
    if "modules" in known:
        arguments["modules"] = (1, 1, 1)
    if "blocks" in known:
        arguments["blocks"] = 1
    if "steps" in known:
        arguments["steps"] = 1
    if "units" in known:
        arguments["units"] = 2
    return arguments


def is_dense(name: str) -> bool:
    """Whether a model scores the pixels of an image; the others have contracts of their own."""
    return describe(name).tasks in (DenseModel.tasks, DenseModel.tasks[:1])  # some need exclusive classes


@cache
def sizes() -> dict[str, tuple[object, float, float]]:
    """Class, number of parameters and of modules of every model that scores pixels, built without storage.

    One of fixed size, for which one of the same class can stand that is built small, is not built: infinite.
    """
    kinds = {name: signature(name).return_annotation for name in filter(is_dense, list_models())}
    small = {kind for name, kind in kinds.items() if small_arguments(name)}
    found: dict[str, tuple[object, float, float]] = {}
    for name, kind in kinds.items():
        if kind in small and not small_arguments(name):
            found[name] = kind, inf, inf
            continue
        with torch.device("meta"):
            model = build(name, CLASSES, **small_arguments(name))
        modules = sum(1 for _ in model.modules())
        found[name] = kind, sum(p.numel() for p in model.parameters()), modules
    return found


def in_turn(most_modules: float = inf) -> list[object]:
    """All names; slow are the big ones, those of more than `most_modules` modules, and those for which a
    smaller one of the same class stands.
    """
    all_sizes, parameters = sizes(), []
    for name, (kind, count, modules) in all_sizes.items():
        smaller = [n for n, (k, c, _) in all_sizes.items() if k is kind and (c, n) < (count, name)]
        slow = count > BIG or modules > most_modules or bool(smaller)
        parameters.append(pytest.param(name, marks=pytest.mark.slow if slow else ()))
    return parameters


@pytest.fixture(scope="module", params=in_turn())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> DenseModel:
    torch.manual_seed(0)
    return redrawn(build(name, CLASSES, **small_arguments(name)))


def redrawn(model: DenseModel) -> DenseModel:
    """Weights that are nearly zero, and norms that have seen nothing, would make most tests vacuous."""
    for key, parameter in model.named_parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=1e-3 if key.startswith("score") else 0.05)
        elif parameter.ndim > 1 and parameter.abs().max() < 0.01:  # HRNet's, whose norms have seen nothing
            nn.init.kaiming_normal_(parameter, nonlinearity="linear")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return model


def picture(model: DenseModel, *size: int, count: int = 1) -> torch.Tensor:
    return torch.rand(count, model.in_channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_logits_have_the_size_of_the_image(model: DenseModel, size: tuple[int, int]) -> None:
    with torch.no_grad():
        output = model.eval()(picture(model, *size))
    assert isinstance(output, DenseLogits)
    assert output.logits.shape == (1, CLASSES, *size)
    assert output.aux == ()
    assert output.logits.isfinite().all()
    assert output.logits.std(dim=(2, 3)).min() > 0, "a constant output shows nothing"


def test_the_smallest_image_works_and_a_smaller_one_is_refused(model: DenseModel) -> None:
    least = model.minimum_size
    with torch.no_grad():
        assert model.eval()(picture(model, least, least)).logits.shape[-2:] == (least, least)
        with pytest.raises(ValueError, match=f"at least {least} x {least} pixels"):
            model(picture(model, least - 1, least + 7))


def test_one_image_trains_and_every_parameter_gets_a_finite_gradient(
    model: DenseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A ReLU before which a map of few values is negative by chance would leave parameters idle.
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: nn.functional.leaky_relu(x, 0.01))
    model.train()
    for module in model.modules():
        if isinstance(module, _DropoutNd):  # one that drops a whole branch would leave parameters idle
            module.eval()
    model.zero_grad()
    batch = Batch.of(picture(model, 64, 64), torch.randint(0, CLASSES, (1, 64, 64)))
    criterion = make_criterion("cross_entropy", ClassTable.of(*"abcde"), aux_weight=1.0)
    criterion(model(*model.inputs(batch)), batch).backward()
    missing = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    broken = [key for key, p in model.named_parameters() if p.requires_grad and not p.grad.isfinite().all()]
    assert not broken
    if idle := without_gradient(
        model
    ):  # a norm over the batch takes away the biases before it: not in eval mode
        criterion(model.eval()(*model.inputs(batch)), batch).backward()
        idle = without_gradient(model)
    assert not idle
    model.zero_grad(set_to_none=True)


def without_gradient(model: DenseModel) -> list[str]:
    return [key for key, p in model.named_parameters() if p.requires_grad and not p.grad.any()]


def test_evaluation_is_deterministic_and_leaves_no_trace(model: DenseModel) -> None:
    image = picture(model, 64, 96)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        first, second = model.eval()(image).logits, model(image).logits
    assert torch.equal(first, second)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_images_of_a_batch_do_not_see_each_other(model: DenseModel) -> None:
    images = picture(model, 64, 64, count=2)
    with torch.no_grad():
        together = model.eval()(images).logits
        alone = model(images[1:]).logits
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-3)


def test_a_saved_model_comes_back_as_it_was(model: DenseModel, tmp_path) -> None:
    image = picture(model, 64, 64)
    save(model, tmp_path / "model.safetensors", ClassTable.of(*"abcde"))
    checkpoint = load(tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(checkpoint.model(image).logits, model.eval()(image).logits)


def test_other_image_channels_are_taken(name: str) -> None:
    if "in_channels" not in inspect.signature(getattr(models, name)).parameters:
        pytest.fail(f"{name} takes no in_channels")
    model = build(name, CLASSES, in_channels=4, **small_arguments(name)).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 4, 64, 64)).logits.shape == (1, CLASSES, 64, 64)


@pytest.mark.compile
@pytest.mark.parametrize("name", in_turn(MANY_MODULES), indirect=True, scope="module")
def test_a_program_exported_once_equals_eager_at_every_size(model: DenseModel) -> None:
    """Traced at a size that is none of those it is held against, for any from 64 on."""
    sizes = {2: torch.export.Dim("H", min=64, max=4096), 3: torch.export.Dim("W", min=64, max=4096)}
    example = picture(model, 97, 131)
    program = torch.export.export(model.eval(), (example,), dynamic_shapes={"image": sizes}).module()
    for size in ((64, 96), (75, 107), (140, 80)):
        image = picture(model, *size)
        with torch.no_grad():
            expected, found = model(image), program(image)
        assert tuple(found.size) == size
        torch.testing.assert_close(found.coarse, expected.coarse, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)


def test_the_parts_of_the_encoder_exist_and_leave_a_rest(model: DenseModel) -> None:
    roles = model.parameter_roles()
    assert {role.of_encoder for role in roles.values()} == {True, False}
    for part in model.encoder_parts:
        assert isinstance(model.get_submodule(part), torch.nn.Module)


@pytest.mark.compile
@pytest.mark.parametrize("name", in_turn(MANY_MODULES), indirect=True, scope="module")
def test_compiles_in_one_graph(model: DenseModel) -> None:
    image = picture(model, 64, 96)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model.eval(), fullgraph=True, backend="eager")(image)
        torch.testing.assert_close(compiled.logits, model(image).logits, atol=1e-5, rtol=1e-4)


def test_the_card_tells_paper_and_summary(name: str) -> None:
    card = describe(name)
    assert card.paper.url.startswith("https://")
    assert 1950 < card.paper.year < 2100
    assert card.summary.endswith(".")


@pytest.mark.shapes
def test_a_wrong_number_of_axes_is_named(model: DenseModel) -> None:
    with pytest.raises(Exception, match="image"):
        model.eval()(torch.rand(model.in_channels, 64, 64))
