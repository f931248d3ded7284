"""Training that begins with the weights of another run: what fits is taken, what does not is told."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pixelwise as pw
from pixelwise.checkpoint import save
from pixelwise.models import fcn8s_vgg16, fcn16s_vgg16, fcn32s_vgg16
from pixelwise.training import Recipe, make_experiment, resume, run
from pixelwise.training.init_from import Taken, take_weights
from pixelwise.types import ClassTable, Model

MakeRecipe = Callable[..., Recipe]
CLASSES = ClassTable.of("background", "box")


def saved(path: Path, model: str, classes: ClassTable = CLASSES) -> Model:
    """A network of other random weights, in a file."""
    torch.manual_seed(5)
    made = pw.build(model, len(classes), encoder="tiny")
    for buffer in made.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.25)
    save(made, path, classes)
    return made


def test_the_same_network_begins_where_the_other_ended(tiny: MakeRecipe, tmp_path: Path) -> None:
    other = saved(tmp_path / "other.safetensors", "pspnet").state_dict()
    experiment = make_experiment(tiny(init_from=str(tmp_path / "other.safetensors")))
    found = experiment.module.model.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in other.items())
    assert experiment.taken is not None
    assert len(experiment.taken.taken) == len(other)
    assert (experiment.taken.new, experiment.taken.unused) == ((), ())
    assert make_experiment(tiny()).taken is None


def test_of_another_network_what_fits_is_taken_and_the_rest_is_told(tmp_path: Path) -> None:
    other = saved(tmp_path / "other.safetensors", "linknet").state_dict()
    torch.manual_seed(1)
    model = pw.build("pspnet", 2, encoder="tiny")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    taken = take_weights(model, tmp_path / "other.safetensors", CLASSES.names)
    encoder = {key for key in before if key.startswith("encoder.")}
    assert set(taken.taken) == encoder
    assert set(taken.new) == set(before) - encoder
    assert set(taken.unused) == set(other) - encoder
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, other[key] if key in encoder else before[key]), key
    shown = str(taken)
    assert f"{len(encoder)} of {len(before)} tensors begin as in" in shown
    assert f"and {len(taken.new) - 6} more" in shown
    assert "The classes" not in shown


def test_weights_of_another_shape_begin_anew_and_other_classes_are_told(tmp_path: Path) -> None:
    saved(tmp_path / "three.safetensors", "pspnet", ClassTable.of(*"abc"))
    model = pw.build("pspnet", 2, encoder="tiny")
    with pytest.raises(
        ValueError, match=r"knows 3 classes, .* trained 2: with reset_head \(--reset-head\), h"
    ):
        take_weights(model, tmp_path / "three.safetensors", CLASSES.names)
    taken = take_weights(model, tmp_path / "three.safetensors", CLASSES.names, reset_head=True)
    assert {"head.2.weight", "head.2.bias"} <= set(taken.new) & set(taken.unused)
    assert "head.0.0.weight" in taken.taken
    assert str(taken).endswith("The classes of the run are others.")


def test_the_head_begins_anew_where_that_is_asked_for_though_it_would_fit(tmp_path: Path) -> None:
    saved(tmp_path / "two.safetensors", "pspnet")
    model = pw.build("pspnet", 2, encoder="tiny")
    taken = take_weights(model, tmp_path / "two.safetensors", ("sky", "ground"), reset_head=True)
    head = {key for key in taken.new if not key.startswith("aux")}
    assert head == {"head.2.weight", "head.2.bias"}
    assert take_weights(model, tmp_path / "two.safetensors", ("sky", "ground")).new == ()


def test_a_mask_rcnn_of_other_classes_begins_with_all_but_its_last_layers(tmp_path: Path) -> None:
    made = pw.build("mask_rcnn", 3, encoder="tiny", width=8)
    save(made, tmp_path / "three.safetensors", ClassTable.of(*"abc"))
    model = pw.build("mask_rcnn", 2, encoder="tiny", width=8)
    with pytest.raises(ValueError, match="knows 3 classes"):
        take_weights(model, tmp_path / "three.safetensors", "ab")
    taken = take_weights(model, tmp_path / "three.safetensors", "ab", reset_head=True)
    layers = {key.rpartition(".")[0] for key in taken.new}
    assert layers == {"detector.head.classes", "detector.head.boxes", "mask_head.logits"}


def test_a_network_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "other.safetensors", "linknet")
    model = pw.build("unetplusplus", 2, width=2)
    with pytest.raises(ValueError, match=r"no weight of .*, a linknet, fits the model to be trained"):
        take_weights(model, tmp_path / "other.safetensors", CLASSES.names)
    with pytest.raises(ValueError, match="there is no checkpoint"):
        take_weights(model, tmp_path / "nowhere", CLASSES.names)


def test_a_run_says_what_it_took_and_remembers_from_where(
    tiny: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "other.safetensors", "pspnet")
    monkeypatch.chdir(tmp_path)
    result = run(tiny(epochs=1, init_from="other.safetensors"), progress=False, report=False)
    assert "tensors begin as in other.safetensors" in capsys.readouterr().err
    told = json.loads((result.path / "recipe.json").read_text())["init_from"]
    assert told == str(tmp_path / "other.safetensors")
    # Continued, it goes on with its own weights, whatever became of the other's.
    (tmp_path / "other.safetensors").unlink()
    longer = resume(result.path, epochs=2, progress=False, report=False)
    assert len(longer.history) == 2
    assert "begin as in" not in capsys.readouterr().err


def test_nothing_is_fetched_where_another_run_gives_the_weights(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "other.safetensors", "pspnet")
    module = sys.modules[make_experiment.__module__]
    monkeypatch.setattr(module, "may_be_pretrained", lambda *_: pytest.fail("asked"))
    make_experiment(tiny(init_from=str(tmp_path / "other.safetensors")))


def test_each_stage_of_fcn_takes_all_of_the_one_before_but_its_last_upsampling() -> None:
    # Without storage: which of the names have the same shape.
    with torch.device("meta"):
        stages = [fcn32s_vgg16(2), fcn16s_vgg16(2), fcn8s_vgg16(2)]
    shapes = [{key: t.shape for key, t in model.state_dict().items()} for model in stages]
    for before, after, left in ((0, 1, "upscore.weight"), (1, 2, "upscore16.weight")):
        common = {key for key, shape in shapes[before].items() if shapes[after].get(key) == shape}
        assert set(shapes[before]) - common == {left}


def test_what_was_taken_is_one_sentence_each() -> None:
    taken = Taken("runs/fcn32s", ("a", "b"), ("c",), (), True)
    assert str(taken) == (
        "2 of 3 tensors begin as in runs/fcn32s. Begin anew: c. Of the run not used: none. The classes of "
        "the run are others."
    )
