"""Training starts from published weights where there are any, and says so where it cannot."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from pixelwise.registry import may_be_pretrained
from pixelwise.training import Recipe, resume, run
from pixelwise.training.run import make_experiment


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Tensor]:
    """Weights of a ResNet-18, as if they had been fetched before."""
    weights = timm.create_model("resnet18").state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    monkeypatch.setattr("pixelwise.encoders.published._cached", lambda config: str(tmp_path / "resnet18.pth"))
    return weights


@pytest.fixture
def unpublished(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without network and without a cache."""
    monkeypatch.setattr("pixelwise.encoders.published._cached", lambda config: None)


Tiny = Callable[..., Recipe]
ON_RESNET = {"model": "unet", "epochs": 1}


def on_resnet(tiny: Tiny, **arguments: object) -> Recipe:
    return tiny(**ON_RESNET, model_arguments={"encoder": "resnet18", "width": 1, **arguments})


def first(experiment: object) -> Tensor:
    return experiment.module.model.encoder.body.conv1.weight


@pytest.mark.parametrize(
    "name, arguments, expected",
    [
        ("unet", {}, False),
        ("unet", {"encoder": "resnet18"}, True),
        ("unet", {"encoder": "tiny"}, False),
        ("unet", {"encoder": "resnet19"}, False),
        ("unet_bilinear", {}, False),
        ("pspnet", {}, True),
        ("segnet", {}, True),
        ("deeplabv3_torchvision", {"encoder": "mobilenet_v3_large"}, True),
    ],
)
def test_what_may_start_from_published_weights(
    name: str, arguments: dict[str, object], expected: bool
) -> None:
    assert may_be_pretrained(name, arguments) is expected


def test_published_weights_are_taken_by_default_and_the_recipe_says_so(
    tiny: Tiny, published: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make_experiment(on_resnet(tiny))
    assert torch.equal(first(experiment), published["conv1.weight"])
    assert experiment.recipe.model_arguments["pretrained"] is True
    assert capsys.readouterr().err == ""


def test_without_network_training_starts_from_random_weights_and_says_so_once(
    tiny: Tiny, unpublished: None, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make_experiment(on_resnet(tiny))
    told = capsys.readouterr().err
    assert "weights of 'resnet18' cannot be had" in told
    assert told.endswith("training starts from random weights\n")
    assert told.count("\n") == 1
    assert experiment.recipe.model_arguments["pretrained"] is False
    scratch = make_experiment(on_resnet(tiny, pretrained=False))
    assert torch.equal(first(experiment), first(scratch)), "the same seed gives the same start"


def test_weights_that_were_asked_for_must_be_there(tiny: Tiny, unpublished: None) -> None:
    with pytest.raises(ValueError, match="weights of 'resnet18' cannot be had"):
        make_experiment(on_resnet(tiny, pretrained=True))


def test_scratch_fetches_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("pixelwise.encoders.timm.fetch")
    make_experiment(on_resnet(tiny, pretrained=False))
    make_experiment(tiny(model="unet_bilinear", model_arguments={"width": 2, "pretrained": False}))


def test_a_run_is_resumed_without_fetching(
    tiny: Tiny, published: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = on_resnet(tiny)
    done = run(recipe, progress=False, report=False)
    assert done.recipe.model_arguments["pretrained"] is True
    monkeypatch.delattr("pixelwise.encoders.timm.fetch")
    assert resume(done.path, progress=False, report=False).history == done.history
