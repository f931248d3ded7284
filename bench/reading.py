"""What has to be read to follow a network, a loss, a metric or an algorithm: files and lines.

    python bench/reading.py

Counted are the file itself and, in turn, the definitions that it takes from other files of the package. Left
out is what a reader knows before: core types, layers, encoders (a part of its own), and small services
(atomic writing, wording).
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "pixelwise"
KNOWN = ("types", "layers", "encoders", "files", "wording", "__init__")
ENTRIES = {
    "U-Net": "models/unet.py",
    "DeepLabV3+": "models/deeplabv3plus.py",
    "Mask R-CNN": "models/mask_rcnn.py",
    "Panoptic FPN": "models/panoptic_fpn.py",
    "HRNet pose": "models/hrnet_pose.py",
    "V-Net": "models/vnet.py",
    "Lovász": "losses/lovasz.py",
    "COCO AP": "metrics/coco/evaluate.py",
    "dense CRF": "algorithms/dense_crf.py",
}


def source_of(current: Path, node: ast.ImportFrom, name: str) -> tuple[Path, str | None] | None:
    """The file that a relative import takes a name from, and the name; no name for a whole module."""
    base = current.parent
    for _ in range(node.level - 1):
        base = base.parent
    place = base.joinpath(*(node.module or "").split(".")) if node.module else base
    for file in (place / f"{name}.py", place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            if file.stem == name and file.parent == place:
                return file, None
            if file.stem != "__init__":
                return file, name
            return follow(file, name)
    return None


def follow(package: Path, name: str) -> tuple[Path, str | None] | None:
    """Where a package takes a public name from."""
    for node in ast.parse(package.read_text()).body:
        if isinstance(node, ast.ImportFrom) and any(name in (a.name, a.asname) for a in node.names):
            return source_of(package, node, name)
    return None


def closure(entry: Path) -> dict[Path, int]:
    """The lines to read for one file, by the file in which they stand."""
    files = {entry: len(entry.read_text().splitlines())}
    seen: set[tuple[Path, str]] = set()
    todo = [(entry, ast.parse(entry.read_text()))]
    while todo:
        current, tree = todo.pop()
        module = ast.parse(current.read_text())
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        attributes = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        wanted: list[tuple[Path, str]] = []
        for node in ast.walk(module):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            for alias in node.names:
                if (alias.asname or alias.name) not in used:
                    continue
                found = source_of(current, node, alias.name)
                if found is None or found[0].relative_to(PACKAGE).parts[0].removesuffix(".py") in KNOWN:
                    continue
                file, name = found
                wanted += [(file, name)] if name else [(file, attribute) for attribute in attributes]
        if current != entry:
            wanted += [(current, name) for name in used]
        for file, name in wanted:
            definitions = {
                n.name: n
                for n in ast.parse(file.read_text()).body
                if isinstance(n, ast.ClassDef | ast.FunctionDef)
            }
            if name in definitions and file != entry and (file, name) not in seen:
                seen.add((file, name))
                definition = definitions[name]
                files[file] = files.get(file, 0) + (definition.end_lineno or 0) - definition.lineno + 1
                todo.append((file, definition))
    return files


def main() -> None:
    """Print the table."""
    print(f"{'':14} {'within its part':>16}  {'with losses, kernels, ...':>26}")
    print(f"{'to follow':14} {'files':>8} {'lines':>7}  {'files':>18} {'lines':>7}")
    for title, place in ENTRIES.items():
        read = closure(PACKAGE / place)
        own = [lines for file, lines in read.items() if file.is_relative_to(PACKAGE / Path(place).parts[0])]
        print(f"{title:14} {len(own):8} {sum(own):7}  {len(read):18} {sum(read.values()):7}")


if __name__ == "__main__":
    main()
