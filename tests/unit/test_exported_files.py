"""Files of torch, OpenVINO and 8-bit integers: the same results, and nothing that a stranger could hide."""

import copy
import json
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from typer.testing import CliRunner

import pixelwise as pw
from pixelwise.checkpoint import Checkpoint, save
from pixelwise.cli import app
from pixelwise.export import (
    export,
    export_int8,
    export_onnx,
    int8,
    load,
    load_openvino,
    load_torch,
    onnx_model,
    torch_program,
)
from pixelwise.types import BuiltBy, ClassTable, LabelMap, Model

pytestmark = pytest.mark.compile
CLASSES = ClassTable.of("sky", "road", "car")


@pytest.fixture(scope="module")
def found() -> Checkpoint:
    """A small network whose labels change from place to place."""
    torch.manual_seed(3)
    model = pw.build("full_resolution_cnn", 3, width=4, depth=3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():  # every class is somewhere
        list(model.parameters())[-1].sub_(model(picture()[None]).logits[0].flatten(1).median(1).values)
    return Checkpoint(model, CLASSES, BuiltBy("x", {}), {}, "semantic", {"flip": True, "min_component": 4})


@pytest.fixture(scope="module")
def files(found: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Its files, with scores and with labels."""
    folder = tmp_path_factory.mktemp("exported")
    paths = {name: folder / name for name in ("m.pt2", "m.onnx", "m.xml", "l.pt2", "l.onnx", "l.xml")}
    for name, path in paths.items():
        differences = export(found, path, labels=name.startswith("l"))
        assert max(one.largest for one in differences) < 1e-4
    return paths


def picture(height: int = 60, width: int = 75, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 7, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "onnx", "xml"])
def test_a_predictor_takes_every_kind_of_file(kind: str, found: Checkpoint, files: dict[str, Path]) -> None:
    image = picture()
    expected = pw.Predictor(found)(image, probabilities=True)
    given = pw.Predictor(files[f"m.{kind}"])(image, probabilities=True)
    torch.testing.assert_close(given.probabilities, expected.probabilities, atol=1e-5, rtol=1e-4)
    assert given.annotation.labels.equal(expected.annotation.labels)
    assert len(expected.annotation.labels.unique()) > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "onnx", "xml"])
def test_labels_inside_the_file_are_those_outside(
    kind: str, found: Checkpoint, files: dict[str, Path]
) -> None:
    image = picture()
    read = load(files[f"l.{kind}"])
    with torch.no_grad():
        assert read.model(image[None]).labels.dtype == torch.uint8
    assert read.decoding == {"min_component": 4}  # of a mirror image a file of labels knows nothing
    expected = pw.Predictor(found, flip=False)(image).annotation
    given = pw.Predictor(files[f"l.{kind}"])(image).annotation
    assert isinstance(given, LabelMap)
    assert given.labels.equal(expected.labels)
    assert expected.labels.unique(return_counts=True)[1].min() >= 4  # small components are gone in both
    for option in ({"flip": True}, {"views": "turns"}):  # two views of labels tie where they differ
        with pytest.raises(ValueError, match=f"{next(iter(option))} needs scores of pixels, and this file"):
            pw.Predictor(files[f"l.{kind}"], **option)


@pytest.mark.slow
def test_a_threshold_is_part_of_the_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    table = ClassTable.of("ground", "crack")
    model = pw.build("full_resolution_cnn", 2, width=4, depth=3).eval()
    with torch.no_grad():  # probabilities between a quarter and three quarters
        scores = model(picture()[None]).logits[0]
        list(model.parameters())[-1][1] -= (scores[1] - scores[0]).median()
    found = Checkpoint(model, table, BuiltBy("x", {}), {}, "semantic", {"threshold": 0.47})
    export(found, tmp_path / "m.pt2", labels=True)
    plain = pw.Predictor(model, table)(picture()).annotation.labels
    expected = pw.Predictor(found)(picture()).annotation.labels
    assert not expected.equal(plain)
    assert pw.Predictor(tmp_path / "m.pt2")(picture()).annotation.labels.equal(expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_integers_agree_and_say_how_well(kind: str, found: Checkpoint, tmp_path: Path) -> None:
    images = [picture(seed=i) for i in range(6)]
    agreement = export_int8(found, tmp_path / f"q.{kind}", images)
    assert agreement.images == 1
    given = pw.Predictor(tmp_path / f"q.{kind}", flip=False)(images[3], probabilities=True)
    expected = pw.Predictor(found, flip=False)(images[3], probabilities=True)
    same = (given.annotation.labels == expected.annotation.labels).float().mean().item()
    assert abs(same - agreement.labels) < 0.05
    assert same > 0.9
    assert not given.probabilities.equal(expected.probabilities), "nothing was rounded"
    if kind == "onnx":
        kinds = {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_layers_whose_rounding_changes_labels_stay_in_float32(
    kind: str, found: Checkpoint, tmp_path: Path
) -> None:
    model = copy.deepcopy(found.model)
    with torch.no_grad():  # scores that differ by less than a step of 8 bits
        list(model.parameters())[-1].add_(torch.tensor([1000.0, 1000.0, 1000.0]))
    far = Checkpoint(model, CLASSES, BuiltBy("x", {}), {}, "semantic")
    images = [picture(seed=i) for i in range(12)]
    with pytest.raises(ValueError, match="in 8-bit integers only"):
        export_int8(far, tmp_path / f"all.{kind}", images, tolerance=0)
    assert export_int8(far, tmp_path / f"most.{kind}", images).labels > 0.92
    if kind == "onnx":
        kinds = [node.op_type for node in onnx.load(tmp_path / "most.onnx").graph.node]
        assert kinds.index("QuantizeLinear") < len(kinds) - kinds[::-1].index("DequantizeLinear") < len(kinds)


@pytest.mark.slow
def test_integers_that_compute_nonsense_are_refused(
    found: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "LEAST", 1.01)
    with pytest.raises(ValueError, match=r"only \d.* of the labels of 1 images .* no file was written"):
        export_int8(found, tmp_path / "q.onnx", [picture(), picture(seed=1)])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("mean", [False, True])
def test_products_of_integers_fit_into_16_bits_and_ranges_hold_all_values_or_are_means(
    mean: bool, found: Checkpoint, tmp_path: Path
) -> None:
    plain, dark, bright = tmp_path / "plain.onnx", 0.3 * picture(), picture()
    export_onnx(found.model, plain, CLASSES)
    steps = {}
    for name, images in {"dark": [dark], "bright": [bright], "both": [dark, bright]}.items():
        assert int8.Quantizer(plain, images).write(tmp_path / f"{name}.onnx", mean=mean)
        graph = onnx.load(tmp_path / f"{name}.onnx").graph
        values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
        steps[name] = float(values[first.input[1]])
        weights = [one for one in values.values() if one.dtype == "int8" and one.ndim == 4]
        assert len(weights) > 2
        # Without VNNI two products of an unsigned and a signed byte are added in 16 bits.
        assert max(2 * 255 * abs(one.astype(int)).max() for one in weights) < 2**15
        assert min(abs(one.astype(int)).max() for one in weights) > 60, "the 7 bits are used"
    assert steps["dark"] < 0.5 * steps["bright"]
    expected = (steps["dark"] + steps["bright"]) / 2 if mean else steps["bright"]
    assert steps["both"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_files_of_one_quantizer_are_those_of_onnx_runtime_and_ranges_are_measured_once_of_each_kind(
    found: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime import quantization

    plain, images = tmp_path / "plain.onnx", [picture(), 0.3 * picture(seed=1)]
    export_onnx(found.model, plain, CLASSES)
    make, measured = quantization.create_calibrator, []

    def counted(*given: object, **more: object) -> object:
        measured.append(more)
        return make(*given, **more)

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"image": image[None].numpy()} for image in images]

        def get_next(self) -> dict | None:
            return self.left.pop(0) if self.left else None

    with monkeypatch.context() as patch:
        patch.setattr(quantization, "create_calibrator", counted)
        quantizer = int8.Quantizer(plain, images)
        ways = [((0, 0), False), ((0, 1), True), ((0, 1), False), ((1, 1), True), ((0, 0), False)]
        for number, (in_float, mean) in enumerate(ways):
            assert quantizer.write(tmp_path / f"{number}.onnx", in_float=in_float, mean=mean)
    assert len(measured) == 2
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "4.onnx").read_bytes()
    nodes = onnx.load(quantizer.prepared).graph.node
    layers = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    for number, ((first, last), mean) in enumerate(ways):
        kept = [nodes[place] for place in layers[:first]] + list(nodes[layers[-last] :] if last else [])
        quantization.quantize_static(
            str(quantizer.prepared),
            str(tmp_path / "whole.onnx"),
            Images(),
            activation_type=quantization.QuantType.QUInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=list(int8._TYPES),
            nodes_to_exclude=[node.name for node in kept],
            extra_options={"CalibMovingAverage": mean},
        )
        expected, written = onnx.load(tmp_path / "whole.onnx"), onnx.load(tmp_path / f"{number}.onnx")
        assert written.graph.SerializeToString() == expected.graph.SerializeToString(), (first, last, mean)
        assert [one.key for one in written.metadata_props] == [onnx_model.KEY]


@pytest.mark.slow
def test_layers_at_both_ends_stay_in_float32(found: Checkpoint, tmp_path: Path) -> None:
    plain, quantized = tmp_path / "plain.onnx", tmp_path / "q.onnx"
    export_onnx(found.model, plain, CLASSES)
    quantizer = int8.Quantizer(plain, [picture()])
    assert not quantizer.write(quantized, in_float=(8, 8)), "more than half of them"

    def in_integers(in_float: tuple[int, int]) -> list[bool]:
        assert quantizer.write(quantized, in_float=in_float)
        graph = onnx.load(quantized).graph
        made = {output: node for node in graph.node for output in node.output}
        layers = [node for node in graph.node if node.op_type == "Conv"]
        return [
            node.input[1] in made and made[node.input[1]].op_type == "DequantizeLinear" for node in layers
        ]

    assert all(in_integers((0, 0)))
    assert in_integers((0, 1)) == [True] * (len(in_integers((0, 0))) - 1) + [False]
    assert in_integers((1, 1))[0] is in_integers((1, 1))[-1] is False
    assert any(in_integers((1, 1)))


def test_layers_are_chosen_on_images_that_measured_no_range_and_told_on_further_ones(
    found: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, measured, judged, asked = [picture(seed=i) for i in range(8)], [], [], []

    class Quantizer:
        def __init__(self, source: Path, given: list[torch.Tensor]) -> None:
            measured.append(given)

        def write(self, path: Path, *, in_float: tuple[int, int], mean: bool) -> bool:
            asked.append((in_float, mean))
            path.write_bytes(b"x")
            return True

    class Wrong(torch.nn.Module):
        """Of the labels some are wrong, fewer with each try."""

        def forward(self, image: torch.Tensor) -> object:
            judged.append(image[0])
            output = found.model(image)
            wrong = output.coarse.clone()
            columns = {1: 20, 2: 1, 3: 1}.get(len(asked), 0)
            wrong[..., :columns] = wrong[..., :columns].roll(1, 1)  # another class everywhere
            return type(output)(wrong, output.size)

    monkeypatch.setattr(int8, "Quantizer", Quantizer)
    monkeypatch.setattr(int8, "load_onnx", lambda path: Checkpoint(Wrong(), CLASSES, found.built_by, {}))
    int8._quantize_enough(found, tmp_path / "a", tmp_path / "b", images, tolerance=0.995)
    assert asked == [((0, 0), False), ((0, 1), False), ((2, 1), False), ((2, 1), True)]
    (given,) = measured
    assert [any(one is image for one in given) for image in images] == [True, False] * 4
    assert len(judged) == 8
    assert all(one.equal(images[1 + 4 * (number % 2)]) for number, one in enumerate(judged))
    assert [any(one is image for one in int8.unused(images)) for image in images] == [False] * 3 + [
        True,
        False,
        False,
        False,
        True,
    ]


def test_integers_need_images_and_scores(found: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least two images .* got 1"):
        export_int8(found, tmp_path / "q.onnx", [picture()])
    with pytest.raises(ValueError, match=r"ends in \.onnx or \.xml"):
        export_int8(found, tmp_path / "q.pt2", [picture(), picture()])
    with pytest.raises(ValueError, match=r"an exported model ends in \.pt2, \.onnx, \.xml"):
        export(found, tmp_path / "q.tflite")


def rewritten(source: Path, target: Path, name: str, change) -> Path:
    """A copy of a .pt2 file with one part changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for part in old.namelist():
            content = old.read(part)
            new.writestr(part, change(content) if part.endswith(name) else content)
    return target


class Pickled:
    """Makes a file where it is read."""

    def __reduce__(self):
        return exec, ("open('code_was_run', 'w')",)


@pytest.fixture(scope="module")
def program(found: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    export(found, path)
    return path


def test_a_program_of_a_stranger_cannot_run_code(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    monkeypatch.chdir(tmp_path)
    load_torch(program)

    def graph(change):
        def apply(content: bytes) -> bytes:
            told = json.loads(content)
            change(told)
            return json.dumps(told).encode()

        return apply

    def call(told) -> None:
        told["graph_module"]["graph"]["nodes"][3]["target"] = "torch.hub.load"

    def size(told) -> None:
        values = told["graph_module"]["graph"]["sym_int_values"]
        values["x"] = {"as_expr": {"expr_str": "lambdify('x', '__import__(1)')", "hint": None}}

    def guard(told) -> None:
        told["guards_code"] = ["L['image'].size()[2] >= open('code_was_run', 'w').fileno()"]

    def weight(told) -> None:
        next(iter(told["config"].values()))["use_pickle"] = True

    cases = {
        "models/model.json": [
            (call, "calls 'torch.hub.load"),
            (size, "lambdify"),
            (guard, "checks sizes by"),
        ],
        "model_weights_config.json": [(weight, "holds a pickle")],
    }
    for name, changes in cases.items():
        for change, sentence in changes:
            bad = rewritten(program, tmp_path / "bad.pt2", name, graph(change))
            with pytest.raises(ValueError, match=sentence):
                load_torch(bad)
    code = pickle.dumps(Pickled())
    bad = rewritten(program, tmp_path / "bad.pt2", "sample_inputs/model.pt", lambda _: code)
    with pytest.raises(ValueError, match="could run code"):
        load_torch(bad)
    twice = rewritten(program, tmp_path / "twice.pt2", "nothing", bytes)
    with zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("other/models/model.json", b"{}")
    with pytest.raises(ValueError, match="a part twice"):
        load_torch(twice)
    with zipfile.ZipFile(tmp_path / "bad.pt2", "a") as archive:
        archive.writestr("model/data/aotinductor/model/a.so", b"")
    with pytest.raises(ValueError, match="which is not needed"):
        load_torch(bad)
    assert not (tmp_path / "code_was_run").exists()


def test_a_program_holds_no_paths_of_this_machine(program: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        assert not any(
            str(Path(pw.__file__).parent).encode() in archive.read(name) for name in archive.namelist()
        )


def test_damaged_programs_are_told(program: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        load_torch(tmp_path / "nothing.pt2")
    (tmp_path / "cut.pt2").write_bytes(program.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut\.pt2 cannot be used: it is not a whole \.pt2 file"):
        load_torch(tmp_path / "cut.pt2")
    other = torch.export.export(torch.nn.Linear(2, 2), (torch.rand(1, 2),))
    torch.export.save(other, tmp_path / "other.pt2")
    with pytest.raises(ValueError, match="was not written by `pixelwise export`"):
        load_torch(tmp_path / "other.pt2")


@pytest.mark.slow
def test_damaged_pairs_of_openvino_are_told(files: dict[str, Path], tmp_path: Path) -> None:
    network, weights = tmp_path / "m.xml", tmp_path / "m.bin"
    network.write_bytes(files["m.xml"].read_bytes())
    with pytest.raises(ValueError, match=r"there is no file .*m\.bin"):
        load_openvino(network)
    changed = bytearray(files["m.xml"].with_suffix(".bin").read_bytes())
    changed[8] ^= 255
    weights.write_bytes(changed)
    with pytest.raises(ValueError, match=r"m\.bin does not belong to it, or is damaged"):
        load_openvino(network)
    network.write_text("<net>")
    with pytest.raises(ValueError, match=r"m\.xml cannot be read as a file of OpenVINO"):
        load_openvino(network)


@pytest.mark.slow
def test_bfloat16_is_a_choice_of_the_predictor(found: Checkpoint, files: dict[str, Path]) -> None:
    image = picture()
    exact, low = (
        pw.Predictor(files["m.xml"], precision=precision)(image, probabilities=True).probabilities
        for precision in ("32", "bf16")
    )
    torch.testing.assert_close(low, exact, atol=0.05, rtol=0)


def other_program(path: Path, classes: int, *, labels: bool = False, channels: int = 3) -> Path:
    """An ONNX file as another program writes it: one convolution."""
    from onnx import TensorProto, helper

    weight = torch.Generator().manual_seed(0)
    values = torch.randn(classes, channels, 1, 1, generator=weight)
    nodes = [helper.make_node("Conv", ["pixels", "w"], ["scores"])]
    out = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", classes, "h", "w"])
    if labels:
        nodes.append(helper.make_node("ArgMax", ["scores"], ["classes"], axis=1, keepdims=0))
        out = helper.make_tensor_value_info("classes", TensorProto.INT64, ["n", "h", "w"])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [out],
        [helper.make_tensor("w", TensorProto.FLOAT, list(values.shape), values.flatten().tolist())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("labels", [False, True])
def test_a_file_of_another_program_works_with_classes(tmp_path: Path, labels: bool) -> None:
    path = other_program(tmp_path / "theirs.onnx", 3, labels=labels)
    with pytest.raises(ValueError, match="give a class table"):
        pw.Predictor(path)
    image = picture()
    weight = torch.randn(3, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(image[None], weight)[0].argmax(0)
    assert pw.Predictor(path, CLASSES)(image).annotation.labels.equal(expected)
    if not labels:
        with pytest.raises(ValueError, match=r"must be scores b x 2 x h x w, got scores \(n x 3 x h x w\)"):
            pw.Predictor(path, ClassTable.of("a", "b"))


def test_the_commands_take_a_file_of_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other_program(Path("theirs.onnx"), 3)
    pw.data.write_image("photo.png", picture())
    Path("classes.txt").write_text("sky\nroad\ncar\n")
    run = CliRunner().invoke
    refused = run(app, ["predict", "theirs.onnx", "photo.png"])
    assert refused.exit_code == 2
    assert "give a class table (--classes)" in refused.stderr
    done = run(app, ["predict", "theirs.onnx", "photo.png", "--classes", "classes.txt", "--out", "found"])
    assert done.exit_code == 0, done.stderr
    labels = pw.data.read_mask(next(Path("found").rglob("*.png")), CLASSES)
    assert labels.equal(pw.Predictor("theirs.onnx", CLASSES)("photo.png").annotation.labels)


def test_wrong_options_are_a_sentence_and_code_2(
    found: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(pw.build("full_resolution_cnn", 3, width=4, depth=3), "model.safetensors", CLASSES)
    Path("empty").mkdir()
    cases = {
        ("--to", "tflite"): "--to takes torch, onnx, openvino",
        ("--to", "torch", "--out", "m.onnx"): "--to torch writes a file that ends in .pt2",
        ("--out", "m.tflite"): "an exported model ends in .pt2, .onnx, .xml",
        ("--to", "torch", "--int8", "empty"): "--int8 is for --to onnx and --to openvino",
        ("--int8", "empty"): "there is no image in the folder empty",
        ("--int8", "nothing"): "there is no folder nothing",
    }
    for options, sentence in cases.items():
        done = CliRunner().invoke(app, ["export", "model.safetensors", *options])
        assert done.exit_code == 2, options
        assert sentence in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "empty"}


@pytest.mark.parametrize(("kind", "extra"), [("onnx", "export"), ("xml", "openvino")])
def test_a_missing_extra_is_named(
    kind: str, extra: str, found: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, {"onnx": "onnxruntime", "xml": "openvino"}[kind], None)
    with pytest.raises(ValueError, match=rf"pip install 'pixelwise\[.*{extra}\]'"):
        export(found, tmp_path / f"m.{kind}")


def test_a_program_that_computes_something_else_does_not_appear(
    found: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = torch_program.TorchProgram.forward

    def wrong(self: Model, image: torch.Tensor):
        output = run(self, image)
        output.coarse[..., -1] += 1.0
        return output

    monkeypatch.setattr(torch_program.TorchProgram, "forward", wrong)
    with pytest.raises(
        ValueError, match=r"exported to torch differs from the model by .* no file was written"
    ):
        export(found, tmp_path / "wrong.pt2")
    assert not list(tmp_path.iterdir())
    assert onnx_model.CLOSE < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "xml"])
def test_sizes_that_are_rounded_up_are_right_at_odd_sizes(kind: str, tmp_path: Path) -> None:
    """The exporter's own division of -97 by 2 gave -48."""

    class Halved(pw.types.DenseModel):
        def __init__(self) -> None:
            super().__init__()
            self.num_classes, self.weight = 3, torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))

        def forward(self, image: torch.Tensor) -> pw.types.DenseLogits:
            height, width = image.shape[2:]
            rows = torch.arange(-(-height // 2), device=image.device) * 2
            columns = torch.arange(-(-width // 2), device=image.device) * 2
            coarse = image[:, :, rows][..., columns] * self.weight[:, None, None]
            return pw.types.DenseLogits(coarse, (height, width))

    model = Halved().eval()
    found = Checkpoint(model, CLASSES, BuiltBy("x", {}), {}, "semantic")
    assert max(one.largest for one in export(found, tmp_path / f"m.{kind}")) < 1e-6
    image = torch.rand(1, 3, 51, 67)
    assert load(tmp_path / f"m.{kind}").model(image).coarse.equal(model(image).coarse)
