"""A checkpoint is used as it was saved, or refused in one sentence."""

import json
import os
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from pixelwise.checkpoint import find, load, save
from pixelwise.encoders import Tiny
from pixelwise.registry import build
from pixelwise.types import ClassTable, DenseModel

TABLE = ClassTable(("sky", "road", "car"), ((0, 0, 255), (90, 90, 90), (255, 0, 0)), ignore=254, things=(2,))


@pytest.fixture
def model() -> DenseModel:
    return build("pspnet", 3, encoder="tiny", in_channels=4, output_stride=16)


@pytest.fixture
def path(model: DenseModel, tmp_path: Path) -> Path:
    save(model, tmp_path / "model.safetensors", TABLE, notes={"mean IoU": "0.5"})
    return tmp_path / "model.safetensors"


def changed(path: Path, **metadata: str | None) -> Path:
    """The checkpoint with other entries in its metadata; None takes one out."""
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
        entries = {**file.metadata(), **metadata}
    save_file(weights, path, {name: text for name, text in entries.items() if text is not None})
    return path


def refused(path: Path) -> str:
    """The message that `load` refuses a file with: one short sentence that names it."""
    with pytest.raises(ValueError) as caught:
        load(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_all_that_was_saved_comes_back(model: DenseModel, path: Path) -> None:
    checkpoint = load(path)
    assert checkpoint.classes == TABLE
    assert checkpoint.notes == {"mean IoU": "0.5"}
    assert checkpoint.built_by.builder == "pspnet"
    assert checkpoint.built_by.arguments == {
        "num_classes": 3, "encoder": "tiny", "in_channels": 4, "output_stride": 16
    }  # fmt: skip
    assert not checkpoint.model.training
    image = torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(checkpoint.model(image).logits, model.eval()(image).logits)
    again = path.with_name("again.safetensors")
    save(checkpoint.model, again, checkpoint.classes, notes=checkpoint.notes)
    assert load(again).built_by == checkpoint.built_by


def test_loading_downloads_nothing(path: Path) -> None:
    arguments = {
        "num_classes": 3,
        "encoder": "tiny",
        "in_channels": 4,
        "output_stride": 16,
        "pretrained": True,
    }
    checkpoint = load(changed(path, arguments=json.dumps(arguments)))
    assert checkpoint.built_by.arguments["pretrained"] is True  # it is told, not done


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_come_back_as_float32(model: DenseModel, tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save(model.to(dtype), tmp_path / "low.safetensors", TABLE)
    with safe_open(tmp_path / "low.safetensors", framework="pt") as file:
        assert file.get_tensor("head.2.weight").dtype == dtype
    for name, tensor in load(tmp_path / "low.safetensors").model.state_dict().items():
        assert tensor.dtype == weights[name].dtype
        assert torch.equal(
            tensor, weights[name].to(dtype).to(tensor.dtype) if tensor.is_floating_point() else tensor
        )


def test_tied_and_strided_weights_can_be_saved(model: DenseModel, tmp_path: Path) -> None:
    wide = torch.randn(10, *model.head[2].weight.shape[1:])
    model.head[2].weight = nn.Parameter(wide[:3])  # a part of a larger storage
    model.aux_head.bias2 = model.head[2].bias  # the same storage twice
    model.to(memory_format=torch.channels_last)
    save(model, tmp_path / "a.safetensors", TABLE)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("head.2.weight"), wide[:3])
        assert torch.equal(file.get_tensor("aux_head.bias2"), file.get_tensor("head.2.bias"))
    assert (tmp_path / "a.safetensors").stat().st_size < 4 * sum(
        p.numel() for p in model.parameters()
    ) + 50_000


@pytest.mark.compile
def test_a_compiled_model_is_saved_under_its_own_names(model: DenseModel, tmp_path: Path) -> None:
    save(torch.compile(model, backend="eager"), tmp_path / "a.safetensors", TABLE)
    assert torch.equal(load(tmp_path / "a.safetensors").model.head[2].weight, model.head[2].weight)


def test_a_run_directory_means_its_best_weights_else_its_last(model: DenseModel, path: Path) -> None:
    run = path.parent
    path = path.rename(run / "weights.safetensors")
    with pytest.raises(ValueError, match=r"holds no checkpoint \(best.safetensors or last.safetensors\)"):
        load(run)
    path.rename(run / "last.safetensors")
    assert find(run).name == "last.safetensors"
    save(model, run / "best.safetensors", TABLE)
    assert find(run).name == "best.safetensors"
    assert load(run).classes == TABLE


def test_a_header_whose_length_looks_like_a_pickle_is_read(model: DenseModel, tmp_path: Path) -> None:
    # A safetensors file starts with the length of its header, and that may start with any byte.
    starts = set()
    for length in range(0, 264, 8):
        save(model, tmp_path / "a.safetensors", TABLE, notes={"text": "x" * length})
        starts.add((tmp_path / "a.safetensors").read_bytes()[0])
        assert load(tmp_path / "a.safetensors").notes["text"] == "x" * length
    assert 0x80 in starts


# --- bad input --------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing.safetensors").startswith("there is no checkpoint")


def zip_pickle(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def legacy_pickle(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [0.0]}))


@pytest.mark.parametrize("write", [zip_pickle, legacy_pickle, plain_pickle])
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "last.ckpt"])
def test_a_pickle_is_refused_whatever_its_name(
    write: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    assert "is a pickle, which can run code" in refused(tmp_path / name)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.write_text, (Path("exploded"), "x"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_of_any_protocol_is_run(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.safetensors").write_bytes(pickle.dumps(Bomb(), protocol))
    refused(tmp_path / "a.safetensors")
    assert not Path("exploded").exists()


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    assert refused(tmp_path / "a.safetensors").endswith("is empty")


@pytest.mark.parametrize(
    "text", [b"x", b"this is no checkpoint but a text of some length", b"{}", bytes(100), b"\xff" * 64]
)
def test_a_file_of_something_else_is_told(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(text)
    assert "is not a whole safetensors file" in refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_told(share: float, path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "is not a whole safetensors file" in refused(path)


def test_a_broken_header_is_told(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[8:40] = b"#" * 32
    path.write_bytes(whole)
    assert "is not a whole safetensors file" in refused(path)


def test_weights_of_somebody_else_are_told(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    assert "not written by pixelwise" in refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("entry", ["builder", "arguments", "classes", "preprocessing", "notes"])
def test_a_missing_entry_is_named(entry: str, path: Path) -> None:
    assert f"lacks {entry!r}" in refused(changed(path, **{entry: None}))


@pytest.mark.parametrize("entry", ["arguments", "classes", "preprocessing", "notes"])
@pytest.mark.parametrize("text", ["", "{", "nonsense", "3", '["a"]', "null"])
def test_a_garbled_entry_is_told(entry: str, text: str, path: Path) -> None:
    refused(changed(path, **{entry: text}))


@pytest.mark.parametrize(
    "entry, text, said",
    [
        ("builder", "pspnett", "did you mean pspnet"),
        ("builder", "__import__", "there is no model"),
        ("arguments", '{"num_classes": 3, "encodr": "tiny"}', "did you mean 'encoder'"),
        ("arguments", '{"encoder": "tiny"}', "num_classes"),
        pytest.param(
            "arguments",
            '{"num_classes": "3", "encoder": "tiny"}',
            "cannot be used",
            marks=pytest.mark.compile,
        ),
        ("classes", '{"names": ["a"]}', "lacks 'colors'"),
        ("preprocessing", '{"channels": 4, "range": [0, 255]}', "[0, 255]"),
        ("preprocessing", '{"channels": 3, "range": [0, 1]}', "'channels': 3"),
        ("format", "pixelwise-99", "not written by pixelwise"),
    ],
)
def test_an_entry_that_does_not_fit_is_told(entry: str, text: str, said: str, path: Path) -> None:
    assert said in refused(changed(path, **{entry: text}))


def test_a_class_table_of_another_length_is_told(path: Path) -> None:
    table = json.dumps({**ClassTable.of("a", "b").__dict__})
    assert "names 2 classes for a model of 3" in refused(changed(path, classes=table))


def test_weights_for_another_number_of_classes_are_told_in_short(path: Path) -> None:
    arguments = {"num_classes": 7, "encoder": "tiny", "in_channels": 4, "output_stride": 16}
    table = json.dumps(ClassTable.of(*"abcdefg").__dict__)
    message = refused(changed(path, arguments=json.dumps(arguments), classes=table))
    assert "has shape (3, " in message
    assert "the model needs (7, " in message


def test_missing_and_needless_weights_are_told_in_short(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}
    save_file({name: weights[name] for name in weights if name != "head.2.bias"}, path, metadata)
    assert f"head.2.bias is missing (1 of {len(weights)})" in refused(path)
    save_file({**weights, "extra": torch.zeros(1)}, path, metadata)
    assert "extra has no place in it" in refused(path)


# --- what cannot be saved -----------------------------------------------------------------------------


def test_a_model_of_unknown_origin_is_not_saved(tmp_path: Path) -> None:
    from pixelwise.models import pspnet

    with pytest.raises(ValueError, match=r"make it with pixelwise\.build"):
        save(pspnet(3, encoder="tiny"), tmp_path / "a.safetensors", TABLE)
    assert not list(tmp_path.iterdir())


def test_an_argument_that_cannot_be_written_down_is_told(tmp_path: Path) -> None:
    model = build("pspnet", 3, encoder=Tiny())
    with pytest.raises(ValueError, match="pass encoders by name"):
        save(model, tmp_path / "a.safetensors", TABLE)


def test_a_table_of_another_length_and_endless_notes_are_refused(model: DenseModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 3 classes, the class table 2"):
        save(model, tmp_path / "a.safetensors", ClassTable.of("a", "b"))
    with pytest.raises(ValueError, match="20 MiB, a checkpoint holds at most 16"):
        save(model, tmp_path / "a.safetensors", TABLE, notes={"log": "x" * (20 << 20)})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_checkpoint(model: DenseModel, path: Path) -> None:
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (10_000, hard)
        )  # the kernel stops the write, as a full disk does
        with pytest.raises(ValueError, match=f"cannot write .*{path.name}"):
            save(model, path, TABLE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_unwritable_place_is_named(model: DenseModel, path: Path) -> None:
    with pytest.raises(ValueError, match="cannot make the folder"):
        save(model, path / "below" / "a.safetensors", TABLE)


def test_the_same_model_gives_the_same_bytes_in_every_process(model: DenseModel, tmp_path: Path) -> None:
    save(model, tmp_path / "source.safetensors", TABLE, notes={"b": "2", "a": '\u00fc \x01 " \\', "c": "3"})
    code = (
        "import sys; from pixelwise.checkpoint import load, save\n"
        "found = load(sys.argv[1])\n"
        "for path in sys.argv[2:]: save(found.model, path, found.classes, notes=found.notes)"
    )
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    command = [sys.executable, "-c", code, str(tmp_path / "source.safetensors"), *map(str, paths)]
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": other}, check=True)
    assert {path.read_bytes() for path in paths} == {(tmp_path / "source.safetensors").read_bytes()}
    assert load(paths[0]).notes["a"] == '\u00fc \x01 " \\'


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"width": -4}, "cannot be"),
        ({"width": 0}, "width must be a whole number of at least 1"),
        ({"width": "wide"}, "cannot be"),
        ({"width": 60_000}, "has shape"),
        ({"width": 10**12}, "above 1,048,576"),
        ({"in_channels": 10**9}, "above 1,048,576"),
        ({"in_channels": float("inf")}, "above 1,048,576"),
        ({"num_classes": 200_000}, "has shape"),
    ],
)
def test_a_model_that_the_weights_do_not_have_is_refused_before_it_takes_memory(
    tmp_path: Path, arguments: dict[str, object], words: str
) -> None:
    save(build("unet", 3, width=2), tmp_path / "model.safetensors", TABLE)
    told = json.dumps({"num_classes": 3, "width": 2, **arguments})
    path = changed(tmp_path / "model.safetensors", arguments=told)
    started = time.monotonic()
    assert words in refused(path)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "classes",
    [
        "[" * 100_000,
        '{"names": ' * 100_000,
        '{"names": ["a"], "colors": [[1e999, 0, 0]], "ignore": 255, "exclusive": true, "things": []}',
        '{"names": 3, "colors": [], "ignore": 255, "exclusive": true, "things": []}',
        "1" * 5000,
    ],
)
def test_class_tables_that_make_no_sense_are_refused(path: Path, classes: str) -> None:
    refused(changed(path, classes=classes))


def test_a_checkpoint_is_shown_in_three_lines(path: Path) -> None:
    first, second, third = repr(load(path)).splitlines()
    assert first.startswith("Checkpoint of pspnet(encoder=tiny, in_channels=4, output_stride=16), ")
    assert second == "  3 classes: sky, road, car"
    assert third == "  notes: mean IoU 0.5"
