"""Models as OpenVINO files: a network in .xml, its weights in the .bin beside it, behind the same interface.

The files are made of the ONNX file that `export_onnx` checks, and are compared with the model again. The
.xml holds the digest of the .bin that belongs to it: a pair that was mixed up is refused.
"""

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint import Checkpoint
from ..files import atomic_write
from ..types import ClassTable, Model
from .onnx_model import FORMAT, KEY, Difference, as_checkpoint, checked, export_onnx, form_of

SUFFIX = ".xml"


class OpenVinoSession:
    """A model of OpenVINO on the CPU, used as a session of ONNX Runtime is.

    Under `torch.autocast("cpu", torch.bfloat16)`, as `Predictor(..., precision="bf16")` runs it, it computes
    in bfloat16, else in float32.

    Args:
        network: as OpenVINO read it.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.outputs = [sorted(output.get_names()) for output in network.outputs]
        self.compiled: dict[str, Any] = {}
        self.lock = threading.Lock()

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """What the network says of the image."""
        low = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        request = self._compiled("bf16" if low else "f32").create_infer_request()
        found = request.infer({0: inputs["image"]})
        places = (
            range(len(self.outputs))
            if names is None
            else [next(i for i, one in enumerate(self.outputs) if name in one) for name in names]
        )
        return [found[place] for place in places]

    def _compiled(self, precision: str) -> Any:
        with self.lock:
            if precision not in self.compiled:
                settings = {
                    "INFERENCE_PRECISION_HINT": precision,
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                }
                self.compiled[precision] = _core().compile_model(self.network, "CPU", settings)
            return self.compiled[precision]


def export_openvino(
    model: Model,
    path: str | os.PathLike[str],
    classes: ClassTable,
    *,
    task: str | None = None,
    decoding: Mapping[str, Any] | None = None,
    labels: bool = False,
) -> list[Difference]:
    """Write a model as a pair of OpenVINO files, which appear only if they compute what the model computes.

    Args:
        model: of two-dimensional images.
        path: of the file with the network, ending in .xml; the weights go to the .bin beside it.
        classes: what its labels mean.
        task: name of the task; None for the first that the model serves.
        decoding: settings of decoding that belong to the weights.
        labels: whether the files give the class of every pixel instead of scores, see `export_onnx`.

    Returns:
        The largest difference at each of three sizes.

    Raises:
        ValueError: as `export_onnx`, or if the extra `pixelwise[openvino]` is missing.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"a file of OpenVINO ends in {SUFFIX}, got {path}")
    _core()
    form = form_of(model, classes, task=task, decoding=decoding, labels=labels)[0]
    with tempfile.TemporaryDirectory() as folder:
        source, written = Path(folder) / "model.onnx", Path(folder) / "model.xml"
        export_onnx(model, source, classes, task=task, decoding=decoding, labels=labels)
        write_openvino(source, written)
        found = checked(model, load_openvino(written).model, "OpenVINO", form)
        place(written, path)
    return found


def write_openvino(source: Path, path: Path) -> None:
    """Write the network of an ONNX file of `export_onnx` and its weights, with what that says of itself."""
    import onnx
    import openvino

    network = read_network(source)
    told = {one.key: one.value for one in onnx.load(source, load_external_data=False).metadata_props}
    openvino.save_model(network, path, compress_to_fp16=False)
    digest = hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()
    network.set_rt_info(json.dumps({**json.loads(told[KEY]), "weights": digest}), [KEY])
    openvino.save_model(network, path, compress_to_fp16=False)


def place(written: Path, path: Path) -> None:
    """Move a pair of files to where it belongs, the weights first."""
    with atomic_write(path) as network, atomic_write(path.with_suffix(".bin")) as weights:
        weights.write_bytes(written.with_suffix(".bin").read_bytes())
        network.write_bytes(written.read_bytes())


def load_openvino(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what `export_openvino` wrote; `Predictor` and `evaluate` do this for a path that ends in .xml.

    Raises:
        ValueError: if the extra `pixelwise[openvino]` is missing, the .bin beside the file is missing or
            belongs to another one, or the file is damaged or not ours.
    """
    path = Path(path)
    weights = path.with_suffix(".bin")
    for file in (path, weights):
        if not file.is_file():
            raise ValueError(f"there is no file {file}")
    network = read_network(path)
    if not network.has_rt_info([KEY]):
        raise ValueError(f"{path} does not tell its classes: it was not written by `pixelwise export`")
    try:
        about = json.loads(network.get_rt_info([KEY]).astype(str))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r:.40}, not {FORMAT}")
        if about["weights"] != hashlib.sha256(weights.read_bytes()).hexdigest():
            raise ValueError(f"{weights.name} does not belong to it, or is damaged")
        return as_checkpoint(OpenVinoSession(network), about, "openvino")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def _core() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ValueError(
            f"OpenVINO needs more packages: pip install 'pixelwise[export,openvino]' ({error})"
        ) from error
    return openvino.Core()


def read_network(path: Path) -> Any:
    """A network of OpenVINO from its own files or an ONNX file.

    Raises:
        ValueError: if the file is damaged, or the extra `pixelwise[openvino]` is missing.
    """
    core = _core()
    try:
        return core.read_model(path)
    except Exception as error:  # its errors have no common base
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a file of OpenVINO: {reason:.200}") from error
