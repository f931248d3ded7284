"""The model card of a repository on the hub: what the network is, what it scored, how it was trained."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from ..checkpoint import Checkpoint
from ..recipe import Recipe
from ..registry import describe, list_models
from ..tasks import get_task
from ..wording import counted, score_name

# Of a run directory; nothing else of it is told, as paths and pictures may be private.
_RECIPE, _SCORES, _ENVIRONMENT = "recipe.json", "scores.json", "environment.json"
_PATHS = ("data", "out", "init_from", "classes", "val_images", "test_images", "left_out")


def model_card(checkpoint: Checkpoint, name: str, run: Path | None, licence: str | None) -> str:
    """The text of `README.md`: metadata as the hub reads it, and a page.

    Args:
        checkpoint: what is published.
        name: of the model; OWNER/NAME where it is known.
        run: directory of its training, whose settings and scores are told; None without.
        licence: identifier of the hub, such as apache-2.0; None for that of published weights.
    """
    recipe, scores, versions = _told(run)
    data = Path(recipe.data).name if recipe is not None and recipe.data else ""
    task = get_task(checkpoint.task or checkpoint.model.tasks[0])
    builder = checkpoint.built_by.builder
    metadata: dict[str, Any] = {
        "library_name": "pixelwise",
        "pipeline_tag": task.hub_name,
        "tags": ["pixelwise", "image-segmentation", task.name, builder],
    }
    licence = (licence or checkpoint.notes.get("licence", "")).lower()
    if licence.startswith("licenseref-"):
        metadata |= {"license": "other", "license_name": licence.removeprefix("licenseref-")}
    elif licence:
        metadata["license"] = licence
    values: Mapping[str, float | None] = scores.get("values", {})
    if values:
        metadata["model-index"] = [_results(name, task.hub_name, data, values)]
    size = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    paper = f", after “{describe(builder).paper.title}”" if builder in list_models() else ""
    about = [
        f"# {name.rpartition('/')[2]}",
        f"`{builder}`{paper}: {size:,} parameters, task {task.name}, "
        f"{counted(len(checkpoint.classes), 'class', 'classes')}. Trained with pixelwise.",
        "## Use",
        f"```python\nimport pixelwise as pw\n\npredictor = pw.Predictor(pw.from_hub({name!r}))\n"
        'prediction = predictor("photo.jpg")\n```',
        f"```\npixelwise weights get {name} --out weights.safetensors\n"
        "pixelwise predict weights.safetensors IMAGES --out predictions\n```",
        f"Images have {counted(checkpoint.model.in_channels, 'channel')} in [0, 1]; "
        "mean and deviation are inside the model.",
    ]
    if values:
        about += ["## Scores", *scores.get("remarks", []), _table(("score", ""), _named(values))]
        if rows := scores.get("classes", {}):
            columns = tuple(next(iter(rows.values())))
            about.append(_table(("class", *columns), ((key, *row.values()) for key, row in rows.items())))
        about += [scores["note"]] if scores.get("note") else []
    if checkpoint.decoding:
        about += ["## Settings that belong to the weights", _table(("", ""), checkpoint.decoding.items())]
    if recipe is not None:
        about += ["## Training", _table(("setting", "value"), _settings(recipe, data))]
        if versions:
            about.append(", ".join(f"{key} {version}" for key, version in versions.items()))
    about += ["## Classes", ", ".join(f"{number} {it}" for number, it in enumerate(checkpoint.classes.names))]
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(about) + "\n"


def _told(run: Path | None) -> tuple[Recipe | None, dict[str, Any], dict[str, str]]:
    """Settings, scores and versions of a run, as far as it tells them."""
    if run is None:
        return None, {}, {}
    recipe = Recipe.read(run / _RECIPE) if (run / _RECIPE).is_file() else None
    versions = _json(run / _ENVIRONMENT).get("versions", {})
    return recipe, _json(run / _SCORES), versions


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return told if isinstance(told, dict) else {}


def _results(name: str, task: str, data: str, values: Mapping[str, float | None]) -> dict[str, Any]:
    """An entry of `model-index`, from which the hub makes its table of results."""
    metrics = [
        {"type": key, "name": score_name(key), "value": round(value, 6)}
        for key, value in values.items()
        if value is not None
    ]
    identifier = re.sub(r"[^\w.-]+", "-", data) or "unknown"  # the hub takes no other letters
    dataset = {"name": data or "unknown", "type": identifier, "split": "validation"}
    return {
        "name": name.rpartition("/")[2],
        "results": [{"task": {"type": task}, "dataset": dataset, "metrics": metrics}],
    }


def _settings(recipe: Recipe, data: str) -> Iterable[tuple[str, Any]]:
    """What was not as usual, without paths."""
    usual = Recipe.of({"data": recipe.data, **get_task(recipe.task).defaults}).as_dict()
    told = {
        "data": data,
        "model": recipe.model,
        "epochs": recipe.epochs,
        "lr": recipe.lr,
        "crop": recipe.crop,
    }
    changed = {
        key: value
        for key, value in recipe.as_dict().items()
        if value != usual[key] and key not in _PATHS and not isinstance(value, dict)
    }
    arguments = {f"model: {key}": value for key, value in recipe.model_arguments.items()}
    return {**told, **arguments, **changed}.items()


def _named(values: Mapping[str, float | None]) -> Iterable[tuple[str, Any]]:
    return [(score_name(key), value) for key, value in values.items()]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and np.ndim(value) > 1:
        return "x".join(map(str, np.shape(value))) + " numbers"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
