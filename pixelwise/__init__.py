"""pixelwise: image segmentation, every system of the field under one interface.

>>> import pixelwise as pw
>>> model = pw.build("pspnet", 11, encoder="tiny")
>>> type(model).__name__
'PSPNet'
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint as Checkpoint, ensemble as ensemble, load as load, save as save
    from .converters import from_mmseg as from_mmseg, from_transformers as from_transformers
    from .data import DataSplits as DataSplits, check_data as check_data
    from .hub import from_hub as from_hub, push_to_hub as push_to_hub, save_for_hub as save_for_hub
    from .losses import Criterion as Criterion, make_criterion as make_criterion
    from .predict import Predictor as Predictor, evaluate as evaluate
    from .registry import build as build, describe as describe, list_models as list_models
    from .tasks import open_data as open_data
    from .training import TrainResult as TrainResult, resume as resume, train as train
    from .types import (
        Batch as Batch,
        ClassTable as ClassTable,
        DenseLogits as DenseLogits,
        LabelMap as LabelMap,
        Sample as Sample,
    )
    from .weights import list_weights as list_weights, load_weights as load_weights

__version__ = "0.1.0"

# `import pixelwise` must cost next to nothing: torch and what needs it are imported when first used. So the
# command line answers `--help` at once, and can say how the threads of torch wait before it is there.
_LAZY = {
    "build": "registry",
    "describe": "registry",
    "list_models": "registry",
    "Checkpoint": "checkpoint",
    "ensemble": "checkpoint",
    "load": "checkpoint",
    "save": "checkpoint",
    "from_mmseg": "converters",
    "from_transformers": "converters",
    "DataSplits": "data",
    "check_data": "data",
    "open_data": "tasks",
    "from_hub": "hub",
    "push_to_hub": "hub",
    "save_for_hub": "hub",
    "Criterion": "losses",
    "make_criterion": "losses",
    "Predictor": "predict",
    "evaluate": "predict",
    "list_weights": "weights",
    "load_weights": "weights",
    "TrainResult": "training",
    "train": "training",
    "resume": "training",
    "Batch": "types",
    "ClassTable": "types",
    "DenseLogits": "types",
    "LabelMap": "types",
    "Sample": "types",
}
_SUBMODULES = (
    "algorithms",
    "data",
    "decode",
    "draw",
    "encoders",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "predict",
    "rle",
    "training",
    "types",
)

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
