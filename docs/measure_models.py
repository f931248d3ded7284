"""Measure models for docs/models/: parameters, FLOPs, stride of the scores, receptive field.

    python docs/measure_models.py              # those that were never measured
    python docs/measure_models.py unet fpn     # these, again

Writes docs/models_measured.json, which docs/make_models.py reads. Sizes and FLOPs are counted without
memory for weights; receptive fields take a forward and a backward pass, some seconds for a large network.
"""

import json
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import pixelwise as pw
from pixelwise.ops import measured_receptive_field
from pixelwise.registry import describe, takes_classes
from pixelwise.summary import count_parameters
from pixelwise.types import DenseLogits, DenseModel, Model

CLASSES, SIDE = 21, 512
LONG, NARROW = 1024, 64  # fields are square, so a strip shows them at a sixteenth of the cost
NEEDS_NUMBERS = {"crf_rnn"}  # its random field looks at the colours of the image
FILE = Path(__file__).parent / "models_measured.json"
PAPERS = tomllib.loads((Path(__file__).parent / "models.toml").read_text())["papers"]


def file_of(name: str) -> str:
    """The file or folder of `pixelwise/models` that a builder is in, without a suffix."""
    return vars(pw.models)[name].__module__.partition(".models.")[2].partition(".")[0]


def paper_of(name: str) -> dict[str, Any]:
    """What docs/models.toml says of the file of a model."""
    return PAPERS[file_of(name)]


def built(name: str) -> Model:
    """The model with its default arguments, for `CLASSES` classes where it takes them."""
    return (pw.build(name, CLASSES) if takes_classes(name) else pw.build(name)).eval()


def scores_pixels(name: str) -> bool:
    """Whether a model gives a map of scores of a plain image."""
    card = describe(name)
    return card.tasks[:1] == DenseModel.tasks[:1] and issubclass(card.output, DenseLogits)


def count(name: str) -> dict[str, Any]:
    """Parameters, FLOPs and stride of the scores.

    `gflops` is of one image of 512 x 512, a multiplication with its addition counted as two; `stride` is
    in pixels of the image per value of the scores before they are resized. None: does not apply.
    """
    with torch.device("meta"):
        model = built(name)
    row: dict[str, Any] = {"parameters": count_parameters(model), "gflops": None, "stride": None}
    if not scores_pixels(name):
        return row
    if name in NEEDS_NUMBERS:
        model = built(name)
    with torch.device("cpu" if name in NEEDS_NUMBERS else "meta"), torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            output = model(torch.zeros(1, model.in_channels, SIDE, SIDE))
    row["gflops"] = round(counter.get_total_flops() / 1e9, 1)
    row["stride"] = round(SIDE / output.coarse.shape[-1], 2)
    return row


def published(name: str) -> tuple[int, dict[str, Any]] | None:
    """Number of classes and further arguments for which authors tell a count; None where they do not."""
    entry = paper_of(name).get("published", {}).get(name)
    return None if entry is None else (entry[1], entry[3] if len(entry) > 3 else {})


def count_as_published(name: str) -> int:
    """Parameters of a model built as the authors' one."""
    num_classes, arguments = published(name) or (CLASSES, {})
    with torch.device("meta"):
        return count_parameters(pw.build(name, num_classes or None, **arguments))


def receptive_field(name: str) -> int:
    """Side in pixels of what the middle pixel of the scores depends on; 1024 where it is no less."""
    model = built(name)
    return measured_receptive_field(model, (LONG, max(NARROW, model.minimum_size)))[0]


def main() -> None:
    """Measure the models named on the command line, or what is missing."""
    warnings.simplefilter("ignore")
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    rows = {name: known.get(name, {}) for name in pw.list_models()}
    for name in sys.argv[1:]:
        rows[name] = {}

    def note(name: str, row: dict[str, Any]) -> None:
        rows[name] |= row
        print(name, rows[name], flush=True)
        FILE.write_text(json.dumps(rows, indent=1) + "\n")

    for name, row in rows.items():
        if "parameters" not in row:
            note(name, count(name))
        if published(name) is not None and "as_published" not in row:
            note(name, {"as_published": count_as_published(name)})
    for name in sorted(rows, key=lambda name: rows[name]["parameters"]):
        # Where the whole image reaches every pixel, there is nothing to measure.
        if scores_pixels(name) and not paper_of(name).get("global") and "receptive_field" not in rows[name]:
            note(name, {"receptive_field": receptive_field(name)})


if __name__ == "__main__":
    main()
