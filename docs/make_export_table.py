"""Export networks, compare the files with the networks, and write docs/export_table.md.

    python docs/make_export_table.py               # what was never measured, then the page
    python docs/make_export_table.py unet fpn      # these, again
    python docs/make_export_table.py --page        # the page only

One network per file of `pixelwise/models`, in its smallest form, is traced at 2 x 130 x 166 and run at three
other sizes. Results are kept in docs/export_measured.json after each network, so the script may be stopped
and goes on where it was. Networks of which nothing is known come first, then those that lack a column.
"""

import inspect
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

import pixelwise as pw
from pixelwise import models
from pixelwise.export import load_onnx, load_openvino, onnx_model, openvino_model
from pixelwise.export.int8 import Quantizer
from pixelwise.export.torch_program import TorchProgram
from pixelwise.files import atomic_write
from pixelwise.registry import describe, list_models
from pixelwise.types import ClassTable, DenseModel, Model

DOCS = Path(__file__).parent
FILE, PAGE = DOCS / "export_measured.json", DOCS / "export_table.md"
CLASSES = ClassTable.of("sky", "road", "car", "tree", "sign")
SMALL: dict[str, Any] = {
    "encoder": "tiny", "width": 4, "modules": (1, 1, 1), "blocks": 1, "steps": 1, "units": 2,
}  # fmt: skip
CHOSEN = {  # of files without a builder of their name: the smallest
    "swin": "swin_tiny_upernet", "convnext": "convnext_tiny_upernet", "hrnet": "hrnetv2_w18",
}  # fmt: skip
RUNTIMES = ("torch", "onnx", "openvino", "int8", "compile")

TEXT = """# Exported networks

Made by `python docs/make_export_table.py` from measurements (`docs/export_measured.json`): {count} of
{all} networks that score pixels, one of each file of `pixelwise/models`, in their smallest form with random
weights, traced at 2 x 130 x 166 pixels and run at {sizes}. A number is the largest
difference of a score from the network's own, over the largest score; a second number is the share of pixels
whose label differs, where any does. How to export: [export.md](export.md).

`int8` is the OpenVINO file in 8-bit integers, its ranges measured on four other images. Of random weights and
noise it keeps fewer labels than of trained weights and photographs: the column shows that the file is sound,
not how good it is. `pixelwise export --int8` prints the share of labels on your images, and writes no file
below 90 %. `compile` is `torch.compile(fullgraph=True, dynamic=True)` with the back end `aot_eager`: the
network is one graph for all sizes.

Measured with torch {torch}, ONNX Runtime {onnxruntime}, OpenVINO {openvino}, on a CPU, {date}.

| network | torch.export | ONNX | OpenVINO, float32 | OpenVINO, int8 | compile |
|---|---|---|---|---|---|
{rows}
{failures}"""


def names() -> list[str]:
    """One builder of each file: that with the name of the file, else the first."""
    chosen: dict[str, str] = {}
    for name in list_models():
        if describe(name).tasks not in (DenseModel.tasks, DenseModel.tasks[:1]):
            continue
        file = getattr(models, name).__module__.rpartition(".")[2]
        if file not in chosen or name == CHOSEN.get(file, file):
            chosen[file] = name
    return sorted(chosen.values(), key=parameters_of)


def small(name: str) -> dict[str, Any]:
    """Arguments of the smallest form of a network."""
    known = inspect.signature(getattr(models, name)).parameters
    return {key: value for key, value in SMALL.items() if key in known}


def parameters_of(name: str) -> int:
    """Number of parameters of the smallest form."""
    with torch.device("meta"):
        return sum(p.numel() for p in pw.build(name, len(CLASSES), **small(name)).parameters())


def drawn(name: str) -> Model:
    """A network without weights that are nearly zero or norms that have seen nothing."""
    torch.manual_seed(0)
    model = pw.build(name, len(CLASSES), **small(name))
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
        elif parameter.ndim > 1 and parameter.abs().max() < 0.01:
            nn.init.kaiming_normal_(parameter, nonlinearity="linear")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return model.eval()


def measured(name: str, missing: Sequence[str]) -> dict[str, Any]:
    """Of each runtime the largest difference and share of other labels, or why there is none."""
    started, row = time.monotonic(), dict[str, Any]()
    model = drawn(name)
    form, about = onnx_model.form_of(model, CLASSES, task=None, decoding=None, labels=False)
    programs: list[ExportedProgram] = []

    def torch_program() -> Model:
        programs.append(onnx_model.traced(model, form))
        return TorchProgram(programs[0], about)

    def onnx() -> Model:
        if not programs:
            torch_program()
        onnx_model.write_onnx(programs[0], file, model, form, about)
        return load_onnx(file).model

    def openvino() -> Model:
        if not file.exists():
            onnx()
        return written(file, file.with_name("plain.xml"))

    def int8() -> Model:
        if not file.exists():
            onnx()
        quantized = file.with_name("int8.onnx")
        images = [onnx_model._example(model, (1, side, side))[0] for side in (96, 104, 112, 128)]
        Quantizer(file, images).write(quantized)
        return written(quantized, file.with_name("int8.xml"))

    def written(source: Path, path: Path) -> Model:
        openvino_model.write_openvino(source, path)
        return load_openvino(path).model

    def compiled() -> Model:
        torch._dynamo.reset()
        found: Model = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
        return found

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        steps: tuple[Callable[[], Model], ...] = (torch_program, onnx, openvino, int8, compiled)
        for runtime, step in zip(RUNTIMES, steps, strict=True):
            if runtime not in missing:
                continue
            try:
                row[runtime] = compared(model, step())
            except Exception as error:
                row[runtime] = f"{type(error).__name__}: {onnx_model.cause_of(error)}"
    row["seconds"] = round(time.monotonic() - started, 1)
    return row


def compared(model: Model, exported: Model) -> list[float]:
    """The largest difference of scores at the three sizes, and the share of pixels with another label."""
    largest = labels = 0.0
    for size in onnx_model._CHECKED:
        image = onnx_model._example(model, size)
        with torch.no_grad():
            expected, found = model(image).logits, exported(image).logits
        difference = (found - expected).abs().max() / expected.abs().max()
        largest = max(largest, difference.item() if difference.isfinite() else float("inf"))
        labels = max(labels, (found.argmax(1) != expected.argmax(1)).float().mean().item())
    return [largest, labels]


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The table."""
    import onnxruntime
    import openvino

    sizes = ", ".join(" x ".join(map(str, size)) for size in onnx_model._CHECKED)
    table = [f"| {name} | {' | '.join(told(rows[name].get(r)) for r in RUNTIMES)} |" for name in sorted(rows)]
    failed = [
        f"- {name}, {runtime}: {row[runtime]}"
        for name, row in sorted(rows.items())
        for runtime in RUNTIMES
        if isinstance(row.get(runtime), str)
    ]
    return TEXT.format(
        count=len(rows),
        all=len(names()),
        sizes=sizes,
        torch=torch.__version__.partition("+")[0],
        onnxruntime=onnxruntime.__version__,
        openvino=openvino.__version__.partition("-")[0],
        date=time.strftime("%Y-%m-%d"),
        rows="\n".join(table),
        failures="\nWhy one fails:\n\n" + "\n".join(failed) + "\n" if failed else "",
    )


def told(found: list[float] | str | None) -> str:
    """One cell; nothing where nothing was measured."""
    if found is None:
        return ""
    if isinstance(found, str):
        return "fails"
    largest, labels = found
    return f"{largest:.0e}" + (f", {labels:.2%}" if labels else "")


def main(arguments: list[str]) -> None:
    """Measure and write."""
    warnings.filterwarnings("ignore")
    rows = json.loads(FILE.read_text()) if FILE.exists() else {}
    if arguments != ["--page"]:
        lacking = {name: [r for r in RUNTIMES if r not in rows.get(name, {})] for name in names()}
        for name in arguments or sorted(lacking, key=lambda one: -len(lacking[one])):
            missing = RUNTIMES if arguments else lacking[name]
            if not missing:
                continue
            rows[name] = rows.get(name, {}) | measured(name, missing)
            print(name, rows[name], flush=True)
            with atomic_write(FILE) as temporary:
                temporary.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
            with atomic_write(PAGE) as temporary:
                temporary.write_text(page(rows))
    with atomic_write(PAGE) as temporary:
        temporary.write_text(page(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
