"""Rules of the house that a machine can keep."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "pixelwise"
FILES = sorted(PACKAGE.rglob("*.py"))
MODELS = [path for path in sorted((PACKAGE / "models").glob("*.py")) if path.stem != "__init__"]

# Who may import whom inside the package; the first part of the path names the part.
FOUNDATION = {"types", "wording"}
ALLOWED = {
    "types": {"wording"},
    "wording": set(),
    "files": set(),
    "kernels": set(),
    "rle": {"kernels"},
    "layers": FOUNDATION,
    "ops": FOUNDATION | {"layers"},
    "heatmaps": FOUNDATION,
    "decode": FOUNDATION | {"layers", "kernels", "rle", "heatmaps"},
    "losses": FOUNDATION | {"kernels", "heatmaps"},
    "metrics": FOUNDATION | {"kernels", "rle"},
    "algorithms": FOUNDATION | {"kernels"},
    "data": FOUNDATION | {"files", "kernels", "rle"},
    "draw": FOUNDATION | {"files"},
    "draw_objects": FOUNDATION | {"draw"},
    "encoders": FOUNDATION | {"layers", "ops"},
    "models": FOUNDATION | {"layers", "ops", "encoders", "losses", "decode", "rle"},
    "registry": FOUNDATION | {"models", "encoders"},
    "checkpoint": FOUNDATION | {"registry", "files"},
    "report": FOUNDATION | {"data", "draw", "files", "metrics", "predict", "tasks"},
}
MODEL_LINES, CLOSURE_FILES, CLOSURE_LINES = 400, 4, 600
# Networks in two stages stand on the papers of their parts: files and lines.
LARGER = {"mask_rcnn": (4, 760), "panoptic_fpn": (6, 900)}


def part(path: Path) -> str:
    """types.py -> types, models/fcn.py -> models."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def module_of(path: Path) -> str:
    parts = ["pixelwise", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Full names of the modules of this package that a file imports, wherever in the file it does."""
    package = module_of(path) if path.stem == "__init__" else module_of(path).rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join([*base, name]) for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pixelwise"):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("pixelwise")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_in_one_direction(path: Path) -> None:
    here = part(path)
    if here not in ALLOWED:
        return
    for name in imported(path):
        other = name.split(".")[1] if "." in name else "__init__"
        assert other == here or other in ALLOWED[here], f"{here} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_a_parts_bin_and_annotations_are_real(path: Path) -> None:
    assert path.stem not in {"utils", "helpers", "misc", "common", "util"}
    assert "from __future__ import annotations" not in path.read_text()
    assert "importorskip" not in path.read_text()


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


def siblings(path: Path) -> list[Path]:
    """Model files that a model file imports."""
    names = [name.split(".")[-1] for name in imported(path) if name.startswith("pixelwise.models.")]
    return [PACKAGE / "models" / f"{name}.py" for name in names]


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_a_model_file_is_one_paper_and_cites_only_its_elders(path: Path) -> None:
    module = importlib.import_module(f"pixelwise.models.{path.stem}")
    assert module.__doc__
    assert module.PAPER.url.startswith("https://")
    assert len(path.read_text().splitlines()) <= MODEL_LINES
    for other in siblings(path):
        elder = importlib.import_module(f"pixelwise.models.{other.stem}")
        assert elder.PAPER.year <= module.PAPER.year, f"{path.stem} imports the younger {other.stem}"


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_a_model_class_has_few_arguments_and_no_catch_all(path: Path) -> None:
    module = importlib.import_module(f"pixelwise.models.{path.stem}")
    for thing in vars(module).values():
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__ == module.__name__:
            function = thing.__init__ if inspect.isclass(thing) else thing
            parameters = list(inspect.signature(function).parameters.values())
            named = [p for p in parameters if p.name != "self" and p.kind is not p.VAR_POSITIONAL]
            assert not any(p.kind is p.VAR_KEYWORD for p in named), thing
            assert len(named) <= 8, thing
    assert "hasattr(" not in path.read_text()


def own_code(path: Path) -> set[Path]:
    """The model files that must be open to read one model: itself and, in turn, those it imports."""
    files, todo = set(), [path]
    while todo:
        current = todo.pop()
        if current not in files:
            files.add(current)
            todo += siblings(current)
    return files


def used_lines(path: Path) -> int:
    """Lines of a file and of the definitions it takes, in turn, from other model files."""
    total, seen, todo = len(path.read_text().splitlines()), set(), [(path, None)]
    while todo:
        current, names = todo.pop()
        tree = ast.parse(current.read_text())
        definitions = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        if names is not None:
            names = {name for name in names if (current, name) not in seen}
            seen |= {(current, name) for name in names}
            nodes = [definitions[name] for name in names if name in definitions]
            total += sum(node.end_lineno - node.lineno + 1 for node in nodes)
            inside = {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}
            if local := inside & set(definitions) - {name for p, name in seen if p == current}:
                todo.append((current, local))
        for node in tree.body:
            sibling = current.parent / f"{getattr(node, 'module', None)}.py"
            if isinstance(node, ast.ImportFrom) and node.level == 1 and sibling.exists():
                taken = {alias.name for alias in node.names}
                if names is None or taken & inside:
                    todo.append((sibling, taken if names is None else taken & inside))
    return total


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_the_reading_budget_is_kept(path: Path) -> None:
    # Encoders are a separate part; what stays open on the desk is model files, layers.py and types.py.
    if path.stem == "smp":  # holds six networks, each read alone
        return
    files, lines = LARGER.get(path.stem, (CLOSURE_FILES, CLOSURE_LINES))
    assert len(own_code(path)) <= files
    assert used_lines(path) <= lines


def test_every_builder_starts_with_the_name_of_its_file() -> None:
    from pixelwise import models
    from pixelwise.registry import list_models

    for name in list_models():
        stem = getattr(models, name).__module__.rpartition(".")[2]
        assert name.startswith(stem), f"{name} lives in {stem}.py"
