"""Models as programs of `torch.export`: a .pt2 file that needs torch, and not the code of the network.

torch reads pickles and runs Python inside such files, so a file is looked through before torch sees it: it
may hold tensors as plain bytes, a graph of torch's own operators, and arithmetic of sizes, nothing else.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..checkpoint import Checkpoint, read_classes
from ..files import atomic_write
from ..types import BuiltBy, ClassTable, Model
from .onnx_model import FORMAT, Difference, _as_tuples, _output_type, checked, form_of, quiet, traced

SUFFIX = ".pt2"
_ABOUT = "pixelwise.json"
_FILES = re.compile(
    r"data/(weights/weight_\d+|constants/tensor_\d+|weights/model_weights_config\.json|"
    r"constants/model_constants_config\.json|sample_inputs/model\.pt)|models/model\.json|"
    r"extra/pixelwise\.json|archive_format|archive_version|byteorder|\.data/\w+"
)
_OPERATORS = re.compile(
    r"torch\.ops\.(aten|torchvision|pixelwise)\.\w+(\.\w+)?|torch\.sym_\w+|math\.(ceil|floor|trunc|sqrt)|"
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
# Of arithmetic of sizes, as sympy writes it.
_WORDS = set(
    "Symbol Integer Rational Add Mul Pow FloorDiv CeilDiv CleanDiv Mod PythonMod ModularIndexing Max Min "
    "CeilToInt FloorToInt IntTrueDiv FloatTrueDiv ToFloat TruncToInt Float Identity Where Eq Ne Equality "
    "Unequality LessThan GreaterThan StrictLessThan StrictGreaterThan And Or Not positive nonnegative "
    "integer True False precision".split()
)
_GUARD = re.compile(
    r"L\['image'\]\.size\(\)\[\d\]|\b(and|or|not|math\.ceil|math\.floor|torch\.sym_max|torch\.sym_min)\b|[\d\s(),.<>=!+*/%-]"
)


def export_torch(
    model: Model,
    path: str | os.PathLike[str],
    classes: ClassTable,
    *,
    task: str | None = None,
    decoding: Mapping[str, Any] | None = None,
    labels: bool = False,
) -> list[Difference]:
    """Write a model as a program of torch, which appears only if it computes what the model computes.

    Args:
        model: of two-dimensional images.
        path: of the file, ending in .pt2.
        classes: what its labels mean.
        task: name of the task; None for the first that the model serves.
        decoding: settings of decoding that belong to the weights.
        labels: whether the file gives the class of every pixel instead of scores, see `export_onnx`.

    Returns:
        The largest difference at each of three sizes.

    Raises:
        ValueError: if the model cannot be exported, its results differ, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"a program of torch ends in {SUFFIX}, got {path}")
    model = model.cpu().eval()
    form, about = form_of(model, classes, task=task, decoding=decoding, labels=labels)
    program = traced(model, form)
    with atomic_write(path) as temporary:
        torch.export.save(program, temporary, extra_files={_ABOUT: json.dumps(about)})
        return checked(model, load_torch(temporary).model, "torch", form)


def load_torch(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what `export_torch` wrote; `Predictor` and `evaluate` do this for a path that ends in .pt2.

    Raises:
        ValueError: if the file is damaged, not ours, or holds anything that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        about = json.loads(_looked_through(path))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r:.40}, not {FORMAT}")
        with quiet():
            program = torch.export.load(path)
        classes = read_classes(about["classes"])
        model = TorchProgram(program, about)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{path} cannot be used: {' '.join(str(error).split()):.300}") from error
    model.num_classes = len(classes)
    return Checkpoint(model.eval(), classes, BuiltBy("torch", {}), {}, about["task"], about["decoding"])


class TorchProgram(Model):
    """A network as a program; it cannot be trained.

    Args:
        program: as torch read it.
        about: what the file says of itself.
    """

    encoder_parts = ()

    def __init__(self, program: torch.export.ExportedProgram, about: Mapping[str, Any]) -> None:
        super().__init__()
        self.program, self.in_channels = program, int(about["in_channels"])
        self.minimum_size = int(about["minimum_size"])
        self.tasks = tuple(about["tasks"])  # type: ignore[misc]
        described = about["output"]
        self.output = _output_type(described["type"])  # type: ignore[misc]
        self.names, self.constants = list(described["tensors"]), _as_tuples(described["constants"])
        # Not a submodule: it knows neither train() nor eval().
        self._run = [program.module()]

    def forward(self, image: Float[Tensor, "b c H W"]) -> Any:
        """The output of the network."""
        if min(image.shape[2:]) < self.minimum_size:
            raise ValueError(
                f"the image must have at least {self.minimum_size} pixels on each side, got "
                f"{image.shape[2]} x {image.shape[3]}"
            )
        try:
            found = self._run[0](image)
        except AssertionError as error:
            raise ValueError(
                f"this program of torch takes no image of {image.shape[2]} x {image.shape[3]} pixels, only "
                f"larger ones ({' '.join(str(error).split()):.200})"
            ) from error
        found = found if isinstance(found, tuple | list) else (found,)
        tensors = dict(zip(self.names, found, strict=True))
        return self.output(**tensors, **self.constants, size=(image.shape[2], image.shape[3]))


def _looked_through(path: Path) -> str:
    """What a file says of itself, after every part of it was found harmless.

    Raises:
        ValueError: if there is a part that could run code, or the file is damaged or not ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            if len(names) < len(archive.namelist()):
                raise ValueError("it holds a part twice")
            if wrong := [name for name in names if not _FILES.fullmatch(name)]:
                raise ValueError(f"it holds {wrong[0]!r:.80}, which is not needed")
            if f"extra/{_ABOUT}" not in names:
                raise ValueError("it does not tell its classes: it was not written by `pixelwise export`")
            for kind in ("weights", "constants"):
                listed = json.loads(archive.read(names[f"data/{kind}/model_{kind}_config.json"]))
                if any(one.get("use_pickle", True) for one in listed["config"].values()):
                    raise ValueError("it holds a pickle, which can run code when it is read")
            torch.load(io.BytesIO(archive.read(names["data/sample_inputs/model.pt"])), weights_only=True)
            _check_graph(json.loads(archive.read(names["models/model.json"])))
            return archive.read(names[f"extra/{_ABOUT}"]).decode()
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not a whole .pt2 file ({error})") from error
    except Exception as error:
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"it holds what could run code ({type(error).__name__})") from error


def _check_graph(graph: Mapping[str, Any]) -> None:
    """Refuse other operators than torch's, and other arithmetic than that of sizes.

    Raises:
        ValueError: if there is any.
    """
    for guard in graph.get("guards_code", ()):
        if _GUARD.sub("", guard):
            raise ValueError(f"it checks sizes by {guard!r:.80}, which is not arithmetic")
    for key, text in _texts(graph):
        if key == "target" and not _OPERATORS.fullmatch(text):
            raise ValueError(f"it calls {text!r:.80}, which is no operator of torch")
        if key == "expr_str":
            words = set(re.findall(r"[A-Za-z_]\w*", text))
            strange = [word for word in words if word not in _WORDS and not re.fullmatch(r"[suf]\d+", word)]
            if strange or not re.fullmatch(r"[\w\s(),'=<>+*/.-]*", text):
                raise ValueError(f"it computes sizes by {text!r:.80}, which is not arithmetic")


def _texts(part: Any) -> Iterator[tuple[str, str]]:
    """Every text of a file in JSON with its name."""
    for key, one in part.items() if isinstance(part, dict) else (("", x) for x in part):
        if isinstance(one, str):
            yield key, one
        elif isinstance(one, dict | list):
            yield from _texts(one)
