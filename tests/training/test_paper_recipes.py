"""The recipes of papers are complete, fit their networks and train."""

import inspect
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pixelwise as pw
from pixelwise import models
from pixelwise.losses import Criterion, paper_criterion
from pixelwise.paper_recipes import list_recipes, paper_recipe
from pixelwise.recipe import SETTINGS, Recipe
from pixelwise.registry import describe, taken_by
from pixelwise.tasks import get_task
from pixelwise.training import make_experiment
from pixelwise.training.samplers import train_loader
from pixelwise.types import ClassTable, DenseLogits, Skeleton

CLASSES = replace(ClassTable.of("sky", "road", "car"), skeleton=Skeleton(("front", "back")))
# One of each family, and of each kind of optimiser, schedule and loss of its own.
TRAINED = (
    "fcn8s_voc", "unet_isbi2012", "fc_densenet56_camvid", "unetplusplus_nuclei", "dfn_cityscapes",
    "deeplabv2_voc", "denseaspp_cityscapes", "danet_cityscapes", "encnet_context", "hrnetv2_cityscapes",
    "hmsa_cityscapes", "nasfpn_b7_voc",
    "segformer_ade20k", "swin_upernet_ade20k", "setr_ade20k", "segmenter_ade20k", "dpt_ade20k", "pvt_ade20k",
    "hrformer_cityscapes", "maskformer_ade20k", "mask2former_ade20k", "eomt_ade20k",
)  # fmt: skip
SLOW = {
    "fcn8s_voc",
    "unet_isbi2012",
    "denseaspp_cityscapes",
    "mask2former_ade20k",
    "eomt_ade20k",
}  # without a small form, or with large tiles or many masks
SMALL = {"encoder": "tiny", "width": 8, "modules": (1, 1, 1), "blocks": 1, "steps": 1}


def small(name: str) -> tuple[str, dict[str, Any]]:
    """A model of the same class with few channels: its builder and arguments."""
    made = inspect.signature(getattr(models, name)).return_annotation
    for other in (name, *pw.list_models()):
        known = inspect.signature(getattr(models, other))
        arguments = {key: given for key, given in SMALL.items() if key in known.parameters}
        if known.return_annotation == made and arguments:
            return other, arguments
    return name, {}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("street")
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for i in range(6):
        labels = np.zeros((96, 96), np.uint8)
        labels[48:], labels[60:80, 20 : 60 + 4 * i] = 1, 2
        image = (70 * labels[..., None] + random.integers(0, 40, (96, 96, 3))).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray(labels).save(folder / "masks" / f"{i}.png")
    return str(folder)


def year_of(source: str) -> int:
    return int(re.findall(r"\b(20\d\d)\b", source)[0])


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_names_its_source_and_fits_its_network(name: str) -> None:
    told = paper_recipe(name)
    task = get_task(told.settings.get("task") or describe(told.settings["model"]).tasks[0])
    recipe = Recipe.of({"data": "street", **task.defaults, **told.settings})  # refuses what it cannot do
    assert abs(describe(recipe.model).paper.year - year_of(told.source)) <= 2
    assert set(told.settings) <= set(SETTINGS)
    assert set(told.uncertain) <= set(SETTINGS)
    if recipe.epochs is recipe.steps is None:
        assert "epochs" in told.uncertain or recipe.early_stopping
    assert recipe.task is None or recipe.task in describe(recipe.model).tasks
    assert callable(task.transform(CLASSES, vars(recipe)))
    criterion = task.criterion(CLASSES, vars(recipe) | {"class_weights": "none"})
    if isinstance(criterion, Criterion):
        assert criterion.aux_weight == recipe.aux_weight
    if not issubclass(describe(recipe.model).output, DenseLogits):
        paper_criterion(vars(recipe))  # refuses what it would not use


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in list_recipes() if year_of(paper_recipe(name).source) > 2020]
)
def test_the_network_of_a_recipe_is_built_with_its_arguments(name: str) -> None:
    told = paper_recipe(name).settings
    with torch.device("meta"):
        model = pw.build(told["model"], len(CLASSES), **told.get("model_arguments", {}))
    assert model.num_classes == len(CLASSES)
    assert min(told["crop"]) >= model.minimum_size


def test_networks_whose_auxiliary_maps_count_fully_get_it_from_their_recipe() -> None:
    whole = (
        "bisenet_cityscapes",
        "dfn_cityscapes",
        "danet_cityscapes",
        "unetplusplus_nuclei",
        "deeplabv2_voc",
    )
    assert {paper_recipe(name).settings["aux_weight"] for name in whole} == {1.0}
    assert paper_recipe("encnet_context").settings["aux_weight"] == 0.2
    assert "aux_weight" not in paper_recipe("pspnet_voc").settings  # 0.4 is what is not said


def test_an_entry_that_is_like_another_takes_what_it_does_not_say() -> None:
    first, second = paper_recipe("pspnet_voc"), paper_recipe("pspnet_cityscapes")
    assert first.settings | {"epochs": 200, "crop": [713, 713]} == second.settings
    assert first.source == second.source


def test_a_misspelt_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="there is no recipe 'psp_voc': did you mean 'pspnet_voc'"):
        paper_recipe("psp_voc")
    with pytest.raises(ValueError, match="no recipe 'zzzz': see `pixelwise models --recipes`"):
        paper_recipe("zzzz")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in TRAINED]
)
def test_two_steps_with_the_settings_of_a_paper_change_the_weights(name: str, street: str) -> None:
    told = paper_recipe(name).settings
    model, arguments = small(told["model"])
    arguments |= taken_by(model, {"pretrained": False})
    crop = (188, 188) if told["model"] == "unet_original" else (64, 64)
    changes = {
        "model": model, "model_arguments": arguments, "crop": crop, "batch_size": 2, "steps": 2,
        "epochs": None, "warmup_steps": 0, "workers": 0,
    }  # fmt: skip
    experiment = make_experiment(Recipe(street).changed(**told | changes))
    module = experiment.module.train()
    batches = iter(train_loader(experiment.batches, experiment.classes, workers=0))
    optimizer, schedule = module.optimization.make(module.model)
    before = torch.cat([p.detach().flatten().clone() for p in module.model.parameters()])
    for _ in range(2):
        batch = next(batches)
        optimizer.zero_grad()
        loss = module.criterion(module.model(batch.image), batch)
        loss.backward()
        optimizer.step()
        schedule.step()
    assert loss.isfinite()
    after = torch.cat([p.detach().flatten() for p in module.model.parameters()])
    # What lies behind scores that begin at 0 moves later.
    assert (before != after).float().mean() > (0.0 if told["model"] == "fcn8s_vgg16" else 0.5)
