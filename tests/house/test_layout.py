"""Rules of the package that a machine can keep."""

import ast
import importlib
import inspect
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "pixelwise"
FILES = sorted(PACKAGE.rglob("*.py"))
# A model is a file, or a folder with what belongs together.
MODELS = [
    path
    for path in sorted((PACKAGE / "models").iterdir())
    if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")
]

# Who may import whom inside the package; the first part of the path names the part.
FOUNDATION = {"types", "wording"}
ALLOWED = {
    "backgrounds": FOUNDATION | {"data", "draw", "ops", "predict", "weights"},
    "types": {"wording"},
    "wording": set(),
    "files": set(),
    "machine": set(),
    "kernels": set(),
    "rle": {"kernels"},
    "layers": FOUNDATION,
    "ops": FOUNDATION | {"layers", "rle"},
    "grounded": FOUNDATION | {"data", "layers", "ops", "predict", "tasks"},
    "heatmaps": FOUNDATION,
    "tiling": FOUNDATION | {"files"},
    "merging": FOUNDATION | {"layers"},
    "decode": FOUNDATION | {"layers", "kernels", "rle", "heatmaps", "merging"},
    "losses": FOUNDATION | {"kernels", "heatmaps"},
    "metrics": FOUNDATION | {"kernels", "rle"},
    "algorithms": FOUNDATION | {"kernels", "files", "draw"},
    "data": FOUNDATION | {"files", "kernels", "machine", "rle"},
    "video": {"data", "files"},
    "planning": FOUNDATION | {"data", "files", "machine"},
    "draw": FOUNDATION | {"files"},
    "draw_objects": FOUNDATION | {"draw"},
    "encoders": FOUNDATION | {"layers", "ops"},
    "models": FOUNDATION
    | {"layers", "ops", "encoders", "losses", "decode", "heatmaps", "merging", "rle", "algorithms"},
    "registry": FOUNDATION | {"models", "encoders"},
    "converters": FOUNDATION | {"models"},
    "reduced": FOUNDATION | {"layers", "registry"},
    "ensembles": FOUNDATION | {"decode", "reduced"},
    "checkpoint": FOUNDATION | {"ensembles", "reduced", "files"},
    "export": FOUNDATION | {"checkpoint", "decode", "files", "layers", "models", "ops", "rle"},
    "tasks": FOUNDATION
    | {"data", "decode", "draw", "draw_objects", "files", "heatmaps", "kernels", "losses", "metrics", "ops"}
    | {"planning", "rle", "tiling"},
    "predict": FOUNDATION
    | {"algorithms", "checkpoint", "data", "decode", "draw", "export", "files", "kernels", "metrics", "ops"}
    | {"rle", "tasks", "tiling", "video"},
    "serve": FOUNDATION
    | {"__version__", "algorithms", "checkpoint", "data", "files", "kernels", "machine", "predict", "rle"}
    | {"tasks"},
    "report": FOUNDATION | {"data", "draw", "files", "metrics", "predict", "tasks"},
    "recipe": {"files", "machine", "wording"},
    "paper_recipes": {"wording"},
    "interruption": set(),
    "style": FOUNDATION | {"encoders", "layers"},
    "summary": FOUNDATION | {"ops", "registry"},
    "checksums": set(),
    "pickled_arrays": set(),
    "download": {"checksums", "files"},
    "weights": FOUNDATION | {"checkpoint", "checksums", "download", "pickled_arrays"},
    "training": FOUNDATION
    | {"checkpoint", "data", "draw", "encoders", "files", "interruption", "kernels", "losses", "machine"}
    | {"planning", "predict", "recipe", "reduced", "registry", "report", "tasks", "tiling"},
    "hub": FOUNDATION
    | {"__version__", "checkpoint", "converters", "files", "recipe", "registry", "tasks", "weights"},
    "console": FOUNDATION | {"paper_recipes", "planning", "registry", "summary", "weights"},
    "warmup": FOUNDATION | {"algorithms", "data", "decode", "kernels", "losses", "metrics", "rle"},
    "demo": FOUNDATION | {"console", "data", "draw", "files", "predict", "report", "training"},
    "cli": FOUNDATION
    | {
        "__version__",
        "algorithms",
        "checkpoint",
        "console",
        "data",
        "demo",
        "export",
        "files",
        "interruption",
        "machine",
    }
    | {"paper_recipes", "planning", "predict", "recipe", "registry", "report", "serve", "summary"}
    | {"tasks"}
    | {"tiling", "training", "video", "warmup"}
    | {"backgrounds", "checksums", "grounded", "hub", "style", "weights"},
    "__main__": {"cli"},
    "__init__": FOUNDATION
    | {
        "checkpoint",
        "converters",
        "data",
        "hub",
        "losses",
        "predict",
        "registry",
        "tasks",
        "training",
        "weights",
    },
}
TASK_NAMES = {
    "semantic", "multilabel", "detection", "instance", "panoptic", "keypoints", "volume", "promptable",
    "keypoint_detection", "volume_slices",
}  # fmt: skip
# Metrics and data have kinds of their own ("keypoints" in COCO files); a model declares its `tasks`.
MAY_NAME_TASKS = {"tasks", "metrics", "data"}
MODEL_LINES, CLOSURE_FILES, CLOSURE_LINES = 400, 4, 600
# Networks in two stages stand on the papers of their parts: files and lines.
LARGER = {
    "mask_rcnn": (4, 760),
    "panoptic_fpn": (6, 900),
    "upsnet": (6, 900),
    "keypoint_rcnn": (5, 760),
    "retinamask": (5, 760),
    "shapemask": (5, 760),
    "panet": (5, 900),
    "fcis": (5, 760),
    "video_network": (8, 850),  # of SAM 2, which is SAM with a memory
    "small": (4, 820),  # of SAM, whose prompts it keeps beside an encoder and a decoder of its own
}


def part(path: Path) -> str:
    """types.py -> types, models/fcn.py -> models."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def module_of(path: Path) -> str:
    parts = ["pixelwise", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> set[str]:
    """Full names of the modules of this package that a file imports, wherever in the file it does."""
    package = module_of(path) if path.stem == "__init__" else module_of(path).rpartition(".")[0]
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join([*base, name]) for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pixelwise"):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("pixelwise")}
    return found


def test_imports_run_in_one_direction() -> None:
    wrong = []
    for path in FILES:
        here = part(path)
        assert here in ALLOWED, f"{here} is a new part: say in ALLOWED what it may import"
        for name in imported(path):
            other = name.split(".")[1] if "." in name else "__init__"
            if other != here and other not in ALLOWED[here]:
                wrong.append(f"{path.relative_to(PACKAGE)} must not import {name}")
    assert not wrong


def test_no_file_is_a_parts_bin_and_annotations_are_real() -> None:
    assert not [path for path in FILES if path.stem in {"utils", "helpers", "misc", "common", "util"}]
    for words in ("from __future__ import annotations", "importorskip"):
        assert not [path for path in FILES if words in path.read_text()]


def test_every_part_that_is_named_exists() -> None:
    parts = {part(path) for path in FILES}
    assert set(ALLOWED) == parts
    assert set().union(*ALLOWED.values()) - parts <= {"__version__"}


def named_tasks(tree: ast.AST) -> set[str]:
    """Names of tasks among the strings of a file, except what the attribute `tasks` of a class declares."""
    declared: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign | ast.AnnAssign):
                    targets = line.targets if isinstance(line, ast.Assign) else [line.target]
                    if [ast.unparse(x) for x in targets] == ["tasks"]:
                        declared |= set(ast.walk(line))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node not in declared and node.value in TASK_NAMES
    }


def test_only_the_file_of_a_task_names_it() -> None:
    others = [path for path in FILES if part(path) not in MAY_NAME_TASKS]
    assert not [path for path in others if named_tasks(tree_of(path))]


def test_the_names_of_tasks_are_all_of_them_and_found_in_code() -> None:
    from pixelwise.tasks import TASKS

    assert set(TASKS) <= TASK_NAMES
    assert named_tasks(ast.parse("if task == 'panoptic': pass")) == {"panoptic"}
    assert not named_tasks(ast.parse("class A:\n    tasks = ('panoptic',)"))
    assert not named_tasks(ast.parse("class A:\n    tasks: tuple[str, ...] = ('panoptic',)"))
    assert named_tasks(ast.parse("class A:\n    other: str = 'panoptic'")) == {"panoptic"}


def test_there_are_no_import_cycles() -> None:
    graph = {module_of(path): imported(path) for path in FILES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join([*trail, name])}"
        if name in done or name not in graph:
            return
        for other in graph[name]:
            if other != "pixelwise":  # the root imports its parts lazily
                visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def files_of(model: Path) -> list[Path]:
    return [model] if model.suffix else sorted(model.rglob("*.py"))


def model_of(path: Path) -> Path:
    """The model, a file or a folder, to which a file belongs."""
    return PACKAGE / "models" / path.relative_to(PACKAGE / "models").parts[0]


def file_of(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def siblings(model: Path) -> set[Path]:
    """Other models that the files of a model import."""
    names = {name for path in files_of(model) for name in imported(path)}
    found = {model_of(file_of(name)) for name in names if name.startswith("pixelwise.models.")}
    return found - {model}


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_a_model_file_is_one_paper_and_cites_only_older_papers(path: Path) -> None:
    module = importlib.import_module(f"pixelwise.models.{path.stem}")
    assert module.__doc__
    assert module.PAPER.url.startswith("https://")
    for file in files_of(path):
        assert len(file.read_text().splitlines()) <= MODEL_LINES, file.name
    for other in siblings(path):
        cited = importlib.import_module(f"pixelwise.models.{other.stem}")
        assert cited.PAPER.year <= module.PAPER.year, f"{path.stem} imports the younger {other.stem}"


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_a_model_class_has_few_arguments_and_no_catch_all(path: Path) -> None:
    from pixelwise.types import Value

    for file in files_of(path):
        module = importlib.import_module(module_of(file))
        things = [
            thing for thing in vars(module).values() if inspect.isclass(thing) or inspect.isfunction(thing)
        ]
        for thing in things:
            if thing.__module__ != module.__name__:
                continue
            if inspect.isclass(thing) and issubclass(thing, Value | tuple):
                continue  # what a network says may have many fields
            if inspect.isclass(thing) and "__init__" not in vars(thing):
                continue  # what it takes is the business of its base
            function = thing.__init__ if inspect.isclass(thing) else thing
            parameters = list(inspect.signature(function).parameters.values())
            named = [p for p in parameters if p.name != "self" and p.kind is not p.VAR_POSITIONAL]
            assert not any(p.kind is p.VAR_KEYWORD for p in named), thing
            assert len(named) <= (8 if inspect.isclass(thing) else 9), thing  # a builder of one task more
        assert "hasattr(" not in file.read_text(), file.name


def networks() -> list[type]:
    """The classes of models, each of which is read alone; `smp.py` holds several."""
    from pixelwise.types import Model

    found = []
    for path in MODELS:
        module = importlib.import_module(f"pixelwise.models.{path.stem}")
        own = [
            thing for thing in vars(module).values() if inspect.isclass(thing) and issubclass(thing, Model)
        ]
        found += [thing for thing in own if thing.__module__.startswith(module.__name__)]
    return found


Definition = tuple[Path, str]


@cache
def definitions(path: Path) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    return {
        node.name: node for node in tree_of(path).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }


@cache
def taken_from_models(path: Path) -> dict[str, Path]:
    """The file of each name that a file takes from a model file."""
    found = {}
    for node in tree_of(path).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = module_of(path).split(".")[: -node.level]
            source = file_of(".".join([*base, node.module or ""]))
            if source.is_relative_to(PACKAGE / "models") and source.exists():
                found |= {alias.asname or alias.name: source for alias in node.names}
    return found


def read_with(start: Definition) -> set[Definition]:
    """The classes and functions in model files that must be read to understand one of them."""
    read: set[Definition] = set()
    todo = [start]
    while todo:
        path, name = todo.pop()
        known, taken = definitions(path), taken_from_models(path)
        if name not in known or (path, name) in read:
            continue
        read.add((path, name))
        used = {node.id for node in ast.walk(known[name]) if isinstance(node, ast.Name)}
        todo += [(path, other) for other in used & set(known)]
        todo += [(taken[other], other) for other in used & set(taken)]
    return read


@pytest.mark.parametrize("network", networks(), ids=lambda network: network.__name__)
def test_the_reading_budget_is_kept(network: type) -> None:
    # Encoders are a separate part; what stays open on the desk is model files, layers.py and types.py.
    path = file_of(network.__module__)
    read = read_with((path, network.__name__))
    header = len(path.read_text().splitlines()) - sum(lines(node) for node in definitions(path).values())
    files, most = LARGER.get(path.stem, (CLOSURE_FILES, CLOSURE_LINES))
    assert len({file for file, _ in read}) <= files
    assert header + sum(lines(definitions(file)[name]) for file, name in read) <= most


def lines(node: ast.ClassDef | ast.FunctionDef) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def test_every_builder_starts_with_the_name_of_its_file() -> None:
    from pixelwise import models
    from pixelwise.registry import list_models

    for name in list_models():
        stem = getattr(models, name).__module__.split(".")[2]
        assert name.startswith(stem), f"{name} lives in {stem}"
