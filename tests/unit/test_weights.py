"""Published weights: the catalogue is sound, and nothing but the published file is ever loaded."""

import hashlib
import inspect
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import detection, segmentation

from pixelwise import models, weights
from pixelwise.checkpoint import load, save
from pixelwise.checksums import digest_of, is_file_of, kind_and_digits
from pixelwise.models import espnetv2
from pixelwise.registry import describe
from pixelwise.weights import (
    describe_weights,
    fetch_weights,
    find_converter,
    list_weights,
    load_weights,
    read_catalogue,
    read_state_dict,
)
from tests.unit.conftest import Server

NAME = "espnetv2_s_0_5_voc_256x256"


# --- the catalogue ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_weights())
def test_every_entry_has_a_builder_with_its_arguments_and_a_converter(name: str) -> None:
    entry = describe_weights(name)
    builder = getattr(models, entry.builder)
    promptable = entry.task == "promptable"
    first = () if promptable else (len(entry.classes.skeleton or entry.classes),)
    inspect.signature(builder).bind(*first, **entry.arguments)
    converter = find_converter(entry)
    required = [
        parameter.name
        for parameter in inspect.signature(converter).parameters.values()
        if parameter.default is parameter.empty
    ]
    assert required == ["state_dict"]


@pytest.mark.parametrize("name", list_weights())
def test_every_entry_can_be_cited_and_checked_where_its_publisher_tells_how(name: str) -> None:
    entry = describe_weights(name)
    assert entry.url.startswith("https://")
    kind, digits = kind_and_digits(entry.checksum)
    lengths = {"sha256": (0, 8, 64), "md5": (6, 32), "sha384": (12, 96), "git": (40,), "sha1-inside": (40,)}
    assert len(digits) in lengths[kind]
    assert entry.licence in {
        "Apache-2.0",
        "BSD-3-Clause",
        "CC-BY-NC-4.0",
        "CC-BY-SA-3.0",
        "GPL-3.0-only",
        "LicenseRef-NVIDIA-Source-Code-License",
        "MIT",
    }
    assert entry.commercial or entry.note
    assert entry.note or entry.licence not in ("CC-BY-SA-3.0", "GPL-3.0-only")
    assert all(0 < score < 1 for score in entry.scores.values())
    pointed_at = entry.classes.names == ("object",)  # nothing comparable was published
    untold = not entry.scores and "no score" in entry.note
    assert (
        pointed_at
        or untold
        or (
            {"mean_iou", "pq", "box_ap", "mask_ap", "keypoint_ap", "dice"} & set(entry.scores)
            and entry.scores_on
        )
    )
    assert entry.source
    assert entry.task in describe(entry.builder).tasks
    assert (entry.classes.skeleton is not None) == entry.task.startswith("keypoint")
    odd = {1333, 550, 500, 465, 473, 513, 705, 713}  # detectors, YOLACT, VOC, 8 n + 1
    assert all(side % 8 == 0 or side in odd for side in entry.input_size)


TORCHVISION = {
    "fcn_resnet50_coco_voc": "FCN_ResNet50",
    "fcn_resnet101_coco_voc": "FCN_ResNet101",
    "deeplabv3_resnet50_coco_voc": "DeepLabV3_ResNet50",
    "deeplabv3_resnet101_coco_voc": "DeepLabV3_ResNet101",
    "deeplabv3_mobilenet_v3_large_coco_voc": "DeepLabV3_MobileNet_V3_Large",
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_what_is_told_of_torchvisions_weights_is_what_it_tells_itself(name: str) -> None:
    entry = describe_weights(name)
    theirs = getattr(segmentation, f"{TORCHVISION[name]}_Weights").COCO_WITH_VOC_LABELS_V1
    assert entry.url == theirs.url
    assert theirs.url.endswith(f"-{entry.checksum}.pth")
    scores = theirs.meta["_metrics"]["COCO-val2017-VOC-labels"]
    assert entry.scores["mean_iou"] == pytest.approx(scores["miou"] / 100)
    assert entry.scores["pixel_accuracy"] == pytest.approx(scores["pixel_acc"] / 100)
    assert entry.classes.names[1:] == tuple(theirs.meta["categories"][1:])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if "101" in n else []) for n in TORCHVISION]
)
def test_torchvisions_converters_make_what_the_entry_says(name: str) -> None:
    entry = describe_weights(name)
    build = getattr(segmentation, TORCHVISION[name].lower())
    theirs = build(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    model = find_converter(entry)(theirs.state_dict())
    assert model.built_by is not None
    assert model.built_by.builder == entry.builder
    assert entry.arguments.items() <= model.built_by.arguments.items()
    assert model.num_classes == len(entry.classes)


DETECTORS = {
    "faster_rcnn_resnet50_fpn_coco": "FasterRCNN_ResNet50_FPN",
    "faster_rcnn_resnet50_fpn_v2_coco": "FasterRCNN_ResNet50_FPN_V2",
    "mask_rcnn_resnet50_fpn_coco": "MaskRCNN_ResNet50_FPN",
    "mask_rcnn_resnet50_fpn_v2_coco": "MaskRCNN_ResNet50_FPN_V2",
    "retinanet_resnet50_fpn_coco": "RetinaNet_ResNet50_FPN",
    "retinanet_resnet50_fpn_v2_coco": "RetinaNet_ResNet50_FPN_V2",
}


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_told_of_torchvisions_detectors_is_what_it_tells_itself(name: str) -> None:
    entry = describe_weights(name)
    theirs = getattr(detection, f"{DETECTORS[name]}_Weights").COCO_V1
    assert entry.url == theirs.url
    assert theirs.url.endswith(f"-{entry.checksum}.pth")
    scores = theirs.meta["_metrics"]["COCO-val2017"]
    named = {"box_ap": "box_map", "mask_ap": "mask_map"}
    assert {key: round(100 * score, 1) for key, score in entry.scores.items()} == {
        ours: scores[key] for ours, key in named.items() if key in scores
    }
    told = theirs.meta["categories"][1:]
    assert [name for name in entry.classes.names if not name.startswith("unused")] == [
        category for category in told if category != "N/A"
    ]
    assert [category != "N/A" for category in told] == [
        not name.startswith("unused") for name in entry.classes.names
    ]
    assert entry.classes.ids == tuple(range(1, 91))


@pytest.mark.parametrize("suffix, version", [("", "COCO_V1"), ("_legacy", "COCO_LEGACY")])
def test_what_is_told_of_torchvisions_joints_is_what_it_tells_itself(suffix: str, version: str) -> None:
    entry = describe_weights(f"keypoint_rcnn_resnet50_fpn_coco{suffix}")
    theirs = detection.KeypointRCNN_ResNet50_FPN_Weights[version]
    assert entry.url == theirs.url
    assert theirs.url.endswith(f"-{entry.checksum}.pth")
    scores = theirs.meta["_metrics"]["COCO-val2017"]
    named = {"box_ap": "box_map", "keypoint_ap": "kp_map"}
    assert {named[key]: round(100 * score, 1) for key, score in entry.scores.items()} == scores
    assert entry.classes.skeleton is not None
    assert list(entry.classes.skeleton.names) == theirs.meta["keypoint_names"]


def test_names_checksums_and_addresses_are_not_copied_by_mistake() -> None:
    entries = [describe_weights(name) for name in list_weights()]
    told = [entry.checksum for entry in entries if entry.checksum]
    assert len(set(told)) == len(told)
    of_files = [entry.url for entry in entries if "/folders/" not in entry.url]  # a folder holds several
    assert len(set(of_files)) == len(of_files)
    assert len({weights._cache_name(entry) for entry in entries}) == len(entries)
    for entry in entries:
        if "edgenets" in entry.converter:
            height, width = entry.input_size
            assert entry.url.endswith(f"_{width}x{height}.pth")
            assert entry.builder.removeprefix("espnetv2_s_").replace("_", ".") in entry.url


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(ValueError, match="did you mean espnetv2_s_0_5_voc_256x256"):
        load_weights("espnetv2_s_0_5_voc_256")


def test_a_class_table_may_bring_its_colours() -> None:
    cityscapes = describe_weights("espnetv2_s_2_0_cityscapes_1024x512").classes
    assert len(cityscapes) == 20
    assert cityscapes.colors[cityscapes.names.index("sky")] == (70, 130, 180)


def test_a_class_table_may_tell_things_and_the_numbers_of_its_data_set() -> None:
    coco = describe_weights("eomt_large_coco_panoptic").classes
    assert (len(coco), len(coco.things)) == (133, 80)
    assert coco.names[coco.things[-1]] == "toothbrush"
    assert coco.ids[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13)
    assert (coco.names[-1], coco.ids[-1]) == ("rug-merged", 200)


# --- files at hand ---------------------------------------------------------------------------------


def from_tests(state_dict: dict[str, torch.Tensor]) -> models.PSPNet:
    """The converter of the file that these tests publish."""
    if "head.2.bias" not in state_dict:
        raise ValueError("state_dict is not that of the tests")
    model = models.pspnet(len(state_dict["head.2.bias"]), encoder="tiny", aux=False)
    model.load_state_dict(state_dict)
    return model


def published_file(path: Path, num_classes: int = 21) -> Path:
    torch.save(models.pspnet(num_classes, encoder="tiny", aux=False).state_dict(), path)
    return path


def use_entry(monkeypatch: pytest.MonkeyPatch, path: Path, **changes: object) -> None:
    """Make NAME the file at `path`, wherever `changes` say it can be fetched."""
    monkeypatch.setattr(espnetv2, "from_tests", from_tests, raising=False)
    usual = {
        "checksum": hashlib.sha256(path.read_bytes()).hexdigest(),
        "builder": "pspnet",
        "arguments": {"encoder": "tiny", "aux": False},
        "converter": "espnetv2.from_tests",
    }
    known = {NAME: replace(describe_weights(NAME), **{**usual, **changes})}
    monkeypatch.setattr(weights, "_catalogue", lambda: known)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = published_file(tmp_path / "published.pth")
    use_entry(monkeypatch, path)
    return path


def test_a_local_file_loads_without_a_network(published: Path, tmp_path: Path) -> None:
    checkpoint = load_weights(NAME, source=published)
    assert not checkpoint.model.training
    assert checkpoint.classes.names[3] == "bird"
    assert checkpoint.built_by.builder == "pspnet"
    assert checkpoint.notes["licence"] == "MIT"
    assert checkpoint.notes["mean_iou"] == "0.3982"
    save(checkpoint.model, tmp_path / "ours.safetensors", checkpoint.classes, notes=checkpoint.notes)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        again = load(tmp_path / "ours.safetensors").model(image).logits
        assert torch.equal(again, checkpoint.model(image).logits)


def test_another_file_than_the_published_one_is_refused(published: Path) -> None:
    data = bytearray(published.read_bytes())
    data[len(data) // 2] ^= 1
    published.write_bytes(data)
    with pytest.raises(ValueError, match=r"published\.pth is not the published file of .* SHA-256"):
        load_weights(NAME, source=published)


def test_a_missing_local_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*nowhere\.pth"):
        load_weights(NAME, source=tmp_path / "nowhere.pth")


def test_terms_must_be_accepted_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not for commercial use \(Cityscapes.*allow_noncommercial=True"):
        load_weights("espnetv2_s_0_5_cityscapes_512x256", source=tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="no file"):
        load_weights(
            "espnetv2_s_0_5_cityscapes_512x256", source=tmp_path / "nowhere.pth", allow_noncommercial=True
        )


def test_eight_digits_of_the_checksum_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published_file(tmp_path / "published.pth")
    use_entry(monkeypatch, path, checksum=hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    assert load_weights(NAME, source=path).model.num_classes == 21


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_a_pickle_with_code_is_refused_even_with_the_right_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "harmful.pth"
    torch.save({"weight": Harmful()}, path)
    use_entry(monkeypatch, path)
    with pytest.raises(ValueError, match="not a file of weights"):
        load_weights(NAME, source=path)


def test_files_that_are_not_weights_are_told_in_one_sentence(tmp_path: Path) -> None:
    for name, content in {"a.pth": b"", "b.pth": b"hello", "c.safetensors": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a file of weights"):
            read_state_dict(tmp_path / name)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="something else than tensors by name"):
        read_state_dict(tmp_path / "list.pth")


def test_weights_of_another_network_or_task_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(1)}, path)
    use_entry(monkeypatch, path)
    with pytest.raises(ValueError, match="not that of the tests"):
        load_weights(NAME, source=path)
    published_file(path, num_classes=20)
    use_entry(monkeypatch, path)
    with pytest.raises(ValueError, match="scores 20 classes, 'espnetv2_s_0_5_voc_256x256' has 21"):
        load_weights(NAME, source=path)


def test_a_converter_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published_file(tmp_path / "published.pth")
    for converter in ("nowhere.from_nothing", "espnetv2.from_nothing"):
        use_entry(monkeypatch, path, converter=converter)
        with pytest.raises(ValueError, match=f"no converter '{converter}'"):
            load_weights(NAME, source=path)


def test_what_weights_do_not_tell_is_told_to_the_converter() -> None:
    with torch.device("meta"):
        read = find_converter(describe_weights("ccnet_resnet101_r1_cityscapes"))
    assert read.keywords == {"recurrence": 1}


def test_checksums_are_of_the_kind_that_the_publisher_tells(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    for checksum in (
        "5891b5b522d5df08",
        "md5:b1946ac92492d2347c6235b4d2611184",
        "sha1:f572d396fae9206628714fb2ce00f72e94f2258f",
        "git:ce013625030ba8dba906f756967f9e9ca394464a",
        "sha384:1d0f284efe3edea4b9ca3bd514fa134b17eae361ccc7a1eefe",
        "",
    ):
        assert is_file_of(path, checksum)
    assert not is_file_of(path, "md5:b1946ac92492d2347c6235b4d2611185")
    assert not is_file_of(path, "sha1-inside:f572")
    assert not is_file_of(tmp_path / "other", "")
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.write(path, "weights/file")
    assert is_file_of(tmp_path / "one.zip", "sha1-inside:f572d396fae9206628714fb2ce00f72e94f2258f")
    for wrong in ("crc:12", "md5:xyz"):
        with pytest.raises(ValueError, match="a checksum must be"):
            kind_and_digits(wrong)
    assert digest_of(path, "sha1-inside") == ""


def test_weights_without_a_checksum_are_recognised_by_nobody_but_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published_file(tmp_path / "published.pth")
    use_entry(monkeypatch, path, checksum="")
    assert load_weights(NAME, source=path).model.num_classes == 21
    assert weights.name_of_file(path) is None
    use_entry(monkeypatch, path, checksum="md5:" + hashlib.md5(path.read_bytes()).hexdigest()[:6])
    assert weights.name_of_file(path) == NAME
    use_entry(monkeypatch, path, checksum="md5:000000")
    with pytest.raises(ValueError, match="its MD5 must start with 000000, it is "):
        load_weights(NAME, source=path)


def test_a_file_that_only_a_person_can_fetch_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published_file(tmp_path / "published.pth")
    use_entry(monkeypatch, path, url="https://drive.google.com/file/d/1abc/view")
    with pytest.raises(ValueError, match=rf"by hand: open https://drive\S*1abc/view and put .*{NAME}\.pth"):
        fetch_weights(NAME, cache=tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    path.rename(tmp_path / "cache" / f"{NAME}.pth")
    assert load_weights(NAME, cache=tmp_path / "cache").model.num_classes == 21


def test_weights_may_be_packed_or_lie_under_a_name(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2)}
    torch.save({"net": tensors, "iter": 3}, tmp_path / "net.pth")
    torch.save({**tensors, "mask_values": [0, 1]}, tmp_path / "unet.pth")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.write(tmp_path / "net.pth", "x/net.pth")
    for name in ("net.pth", "unet.pth", "packed.zip"):
        found = read_state_dict(tmp_path / name)
        assert list(found) == ["a"]
        assert found["a"].tolist() == [1, 1]
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(tmp_path / "net.pth", "net.pth")
        archive.write(tmp_path / "unet.pth", "unet.pth")
    with pytest.raises(
        ValueError, match=r"two\.zip is not a file of weights: the archive must hold one file"
    ):
        read_state_dict(tmp_path / "two.zip")


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_arrays_are_read_and_nothing_else_is_made_of_them(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pkl"
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f": np.asfortranarray(np.ones((2, 3), np.float64)),
        "n": np.array(7),
    }
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x", "more": OrderedDict(a=[1])}, protocol))
    found = read_state_dict(path)
    assert {key: (x.dtype, tuple(x.shape)) for key, x in found.items()} == {
        "w": (torch.float32, (2, 3)), "f": (torch.float64, (2, 3)), "n": (torch.int64, ()),
    }  # fmt: skip
    assert found["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    harmful = (Harmful(), np.array([Harmful()], dtype=object), np.zeros(2, "V8"), np.float32(3))
    for content in harmful:
        path.write_bytes(pickle.dumps({"model": {"w": content}}, protocol))
        with pytest.raises(ValueError, match=r"model\.pkl"):
            read_state_dict(path)
    for damaged in (b"", b"hello", pickle.dumps([1]), pickle.dumps({"model": arrays})[:-9]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.pkl"):
            read_state_dict(path)


# --- fetching, from a server on this machine -------------------------------------------------------


@pytest.fixture
def online(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    path = published_file(tmp_path / "published.pth")
    server.content = path.read_bytes()
    use_entry(monkeypatch, path, url=f"{server.address}/zoo/espnetv2.pth")
    return server


def test_a_file_is_fetched_once_and_then_taken_from_the_cache(online: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = load_weights(NAME, cache=cache)
    assert [path.name for path in cache.iterdir()] == ["espnetv2.pth"]
    second = load_weights(NAME, cache=cache)
    assert online.paths == ["/zoo/espnetv2.pth"]
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(first.model(image).logits, second.model(image).logits)


def test_files_of_a_hub_that_share_one_name_are_kept_apart(
    online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    for name in ("one", "other"):
        path = published_file(tmp_path / f"{name}.bin")
        online.content = path.read_bytes()
        url = f"{online.address}/zoo/{name}/resolve/0123456/pytorch_model.bin"
        use_entry(monkeypatch, path, url=url, name=name)
        load_weights(NAME, cache=cache)
    assert sorted(path.name for path in cache.iterdir()) == ["one.bin", "other.bin"]
    assert online.paths == [
        "/zoo/one/resolve/0123456/pytorch_model.bin",
        "/zoo/other/resolve/0123456/pytorch_model.bin",
    ]


def test_published_transformers_are_fetched_checked_converted_and_predict(
    online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub has it: names of version 4, one safetensors file."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    theirs = SegformerForSemanticSegmentation(SegformerConfig(num_labels=150)).eval()
    theirs.save_pretrained(tmp_path / "hub")
    path = tmp_path / "hub" / "model.safetensors"
    online.content = path.read_bytes()
    entry = replace(
        read_catalogue((Path(weights.__file__).parent / "weights.toml").read_text())["segformer_b0_ade"],
        url=f"{online.address}/zoo/model.safetensors",
        checksum=hashlib.sha256(online.content).hexdigest(),
    )
    monkeypatch.setattr(weights, "_catalogue", lambda: {entry.name: entry})
    with pytest.raises(ValueError, match="research and evaluation only"):
        load_weights("segformer_b0_ade", cache=tmp_path / "cache")
    checkpoint = load_weights("segformer_b0_ade", cache=tmp_path / "cache", allow_noncommercial=True)
    assert (tmp_path / "cache" / "segformer_b0_ade.safetensors").is_file()
    assert checkpoint.classes.names[2] == "sky"
    image = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        expected = theirs(checkpoint.model.encoder.normalize(image)).logits
        torch.testing.assert_close(checkpoint.model(image).coarse, expected, atol=1e-4, rtol=0)


def test_weights_may_lie_beside_other_things_under_state_dict(tmp_path: Path) -> None:
    torch.save({"meta": {"epoch": 3}, "state_dict": {"a": torch.zeros(1)}}, tmp_path / "a.pth")
    assert list(read_state_dict(tmp_path / "a.pth")) == ["a"]


def test_weights_may_lie_beside_a_score_of_numpy(tmp_path: Path) -> None:
    holds = {"model_state": {"a": torch.ones(1)}, "best_score": np.float64(0.78), "epoch": np.int64(3)}
    torch.save(holds, tmp_path / "best.pth")
    assert read_state_dict(tmp_path / "best.pth")["a"] == 1
    content = (tmp_path / "best.pth").read_bytes()
    # As NumPy 1 wrote it, with the same number of letters.
    assert b"numpy._core.multiarray" in content
    with zipfile.ZipFile(tmp_path / "best.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_state_dict(tmp_path / "old.pth")["a"] == 1


def test_the_cache_is_where_the_environment_says(
    online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXELWISE_CACHE", str(tmp_path / "named"))
    load_weights(NAME)
    assert (tmp_path / "named" / "espnetv2.pth").is_file()


def test_a_broken_file_in_the_cache_is_fetched_anew(online: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "espnetv2.pth").write_bytes(b"half of it")
    load_weights(NAME, cache=cache)
    assert len(online.paths) == 1
    assert (cache / "espnetv2.pth").read_bytes() == online.content


def test_a_corrupted_download_leaves_nothing_behind(online: Server, tmp_path: Path) -> None:
    online.content = online.content[:-1] + b"?"
    with pytest.raises(ValueError, match="is not the published file"):
        load_weights(NAME, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_truncated_download_never_has_the_files_name(online: Server, tmp_path: Path) -> None:
    whole = len(online.content)
    online.ranges, online.cut = False, [whole - 1000] * 9
    with pytest.raises(ValueError, match=f"broke off after {whole - 1000} of {whole} bytes"):
        load_weights(NAME, cache=tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".espnetv2.pth.part"]


def test_a_file_that_the_server_does_not_have_is_told(online: Server, tmp_path: Path) -> None:
    online.status = 404
    with pytest.raises(ValueError, match=r"cannot fetch http://127.*: the server answers 404 Not Found"):
        load_weights(NAME, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unreachable_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published_file(tmp_path / "published.pth")
    use_entry(monkeypatch, path, url="http://127.0.0.1:9/espnetv2.pth")
    with pytest.raises(ValueError, match=r"cannot fetch http://127\.0\.0\.1:9/.*refused"):
        load_weights(NAME, cache=tmp_path / "cache")


def test_a_place_that_cannot_be_written_is_told(online: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=r"cannot .*/file"):
        load_weights(NAME, cache=tmp_path / "file")


def test_offline_takes_what_the_cache_has_and_refuses_the_rest_in_one_sentence(
    online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(
        ValueError, match=r"are not on this machine, and the network must not be used: fetch "
    ):
        load_weights(NAME, cache=cache, offline=True)
    assert not cache.exists()
    assert online.paths == []
    fetched = fetch_weights(NAME, cache=cache)
    assert fetch_weights(NAME, cache=cache, offline=True) == fetched
    monkeypatch.setenv("PIXELWISE_OFFLINE", "1")
    with pytest.raises(ValueError, match="the network must not be used"):
        load_weights(NAME, cache=tmp_path / "other")


@pytest.mark.parametrize("kind", ["folder", "address"])
def test_a_mirror_is_a_copy_of_a_cache_and_is_asked_first(
    kind: str, online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror of ours"
    mirror.mkdir()
    fetched = fetch_weights(NAME, cache=mirror)
    online.paths.clear()
    address = online.address + "/mirror"
    monkeypatch.setenv("PIXELWISE_MIRROR", str(mirror) if kind == "folder" else f"{address}/")
    found = fetch_weights(NAME, cache=tmp_path / "cache", offline=kind == "folder")
    assert found.read_bytes() == fetched.read_bytes()
    assert online.paths == ([] if kind == "folder" else ["/mirror/espnetv2.pth"])


def test_what_a_mirror_lacks_or_has_wrong_comes_from_the_publisher(
    online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXELWISE_MIRROR", str(tmp_path))
    fetch_weights(NAME, cache=tmp_path / "one")
    (tmp_path / "espnetv2.pth").write_bytes(b"something else")
    fetch_weights(NAME, cache=tmp_path / "two")
    assert online.paths == ["/zoo/espnetv2.pth"] * 2


def test_names_are_filtered_by_task_model_licence_and_use() -> None:
    assert list_weights(task="instance", model="mask_rcnn_resnet50_fpn", commercial=True) == [
        "mask_rcnn_resnet50_fpn_coco",
        "mask_rcnn_resnet50_fpn_v2_coco",
    ]
    assert list_weights(model="segformer_b0", licence="nvidia") == ["segformer_b0_ade"]
    free, bound = list_weights(commercial=True), list_weights(commercial=False)
    assert sorted([*free, *bound]) == list_weights()
    assert not any("cityscapes" in name for name in free)
    with pytest.raises(ValueError, match="no published weights for the task 'panoptik', did you mean panop"):
        list_weights(task="panoptik")


def test_weights_are_of_the_task_they_were_trained_for(published: Path) -> None:
    assert load_weights(NAME, source=published).task == "semantic"
    catalogue = read_catalogue((Path(weights.__file__).parent / "weights.toml").read_text())
    assert catalogue["eomt_large_coco_panoptic"].task == "panoptic"


# --- revisions on the hub --------------------------------------------------------------------------


@pytest.fixture
def on_hub(online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """NAME is a file on the hub, which is the server of the tests."""
    path = tmp_path / "published.pth"
    url = "https://huggingface.co/someone/net/resolve/0123456/pytorch_model.bin"
    use_entry(monkeypatch, path, url=url)
    monkeypatch.setenv("HF_ENDPOINT", online.address)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return online


def test_the_endpoint_takes_the_place_of_the_hub(on_hub: Server, tmp_path: Path) -> None:
    assert fetch_weights(NAME, cache=tmp_path / "cache").name == f"{NAME}.bin"
    assert on_hub.paths == ["/someone/net/resolve/0123456/pytorch_model.bin"]


def test_another_revision_is_checked_against_what_the_hub_tells(on_hub: Server, tmp_path: Path) -> None:
    newer = published_file(tmp_path / "newer.pth")
    on_hub.content = newer.read_bytes()
    commit, digest = "c" * 40, hashlib.sha256(on_hub.content).hexdigest()
    on_hub.headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{digest}"', "ETag": f'"{digest}"'}
    found = fetch_weights(NAME, cache=tmp_path / "cache", revision="refs/pr/1")
    assert found.name == f"{NAME}-cccccccccccc.bin"
    assert found.read_bytes() == on_hub.content
    assert on_hub.paths[-1] == "/someone/net/resolve/refs%2Fpr%2F1/pytorch_model.bin"
    assert load_weights(NAME, cache=tmp_path / "cache", revision="main").model.num_classes == 21
    on_hub.headers["X-Linked-Etag"] = on_hub.headers["ETag"] = '"' + "0" * 64 + '"'
    with pytest.raises(ValueError, match="is not the published file"):
        fetch_weights(NAME, cache=tmp_path / "other", revision="main")


def test_a_revision_that_does_not_exist_is_told(on_hub: Server, tmp_path: Path) -> None:
    on_hub.status = 404
    with pytest.raises(ValueError, match=r"the hub does not tell of .*/resolve/nowhere/pytorch_model.bin"):
        fetch_weights(NAME, cache=tmp_path / "cache", revision="nowhere")


def test_only_weights_of_the_hub_have_revisions(online: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have no revisions: they are not on the hub"):
        fetch_weights(NAME, cache=tmp_path / "cache", revision="main")


def test_files_of_the_hub_are_not_fetched_when_its_library_is_offline(
    on_hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="the network must not be used"):
        fetch_weights(NAME, cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="cannot be asked for offline"):
        fetch_weights(NAME, cache=tmp_path / "cache", revision="main")
    assert on_hub.paths == []


# --- the catalogue's format ------------------------------------------------------------------------


def test_a_catalogue_reads_back_what_was_written() -> None:
    entry = read_catalogue(
        """
        [classes.two]
        names = ["no", "yes"]

        [proofs]
        "pspnet.from_nobody" = "code"

        [weights.small]
        builder = "pspnet"
        task = "semantic"
        arguments = { encoder = "tiny" }
        converter = "pspnet.from_nobody"
        url = "https://example.org/small.pth"
        sha256_prefix = "01234567"
        licence = "MIT"
        commercial = true
        classes = "two"
        input_size = [64, 96]
        scores = { mean_iou = 0.5 }
        scores_on = "nothing"
        source = "nobody"
        """
    )["small"]
    assert entry.arguments == {"encoder": "tiny"}
    assert entry.checksum == "01234567"
    assert entry.classes.names == ("no", "yes")
    assert entry.input_size == (64, 96)
    assert entry.note == ""
    assert entry.proof == "code"


def test_outputs_that_are_ids_have_a_place_for_every_number() -> None:
    classes = describe_weights("detr_resnet50_coco").classes
    assert len(classes) == 91
    assert [classes.names[i] for i in (0, 1, 12, 13, 90)] == [
        "unused 0", "person", "unused 12", "stop sign", "toothbrush",
    ]  # fmt: skip
    panoptic = describe_weights("detr_panoptic_resnet50_coco").classes
    assert len(panoptic) == 250
    assert (panoptic.names[92], panoptic.names[200]) == ("banner", "rug-merged")
    assert len(panoptic.things) == 80
    assert panoptic.things[-1] == 90


def test_joints_of_people_are_those_of_coco() -> None:
    from pixelwise.metrics.coco.keypoint_similarity import COCO_SIGMAS

    skeleton = describe_weights("keypoint_rcnn_resnet50_fpn_coco").classes.skeleton
    assert skeleton is not None
    assert skeleton.sigmas == COCO_SIGMAS
    for first, second in skeleton.flip_pairs:
        assert skeleton.names[first].replace("left", "right") == skeleton.names[second]


def test_the_converter_of_espnetv2_is_the_one_in_its_file() -> None:
    assert find_converter(describe_weights(NAME)) is espnetv2.from_edgenets
