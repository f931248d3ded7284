"""The public names are written down: one that vanishes or appears does so on purpose."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pixelwise
from pixelwise import models

FROZEN = Path(__file__).with_name("public_api.txt")


def public_names() -> list[str]:
    top = [f"pixelwise.{name}" for name in pixelwise.__all__]
    built = [f"pixelwise.models.{name}" for name in vars(models) if not name.startswith("_")]
    modules = {path.stem for path in Path(models.__file__).parent.glob("*.py")}
    return sorted(
        name for name in top + built if name.rpartition(".")[2] not in modules or callable_model(name)
    )


def callable_model(name: str) -> bool:
    """A builder may have the name of its file (`unet`)."""
    return callable(getattr(models, name.rpartition(".")[2], None))


def test_the_public_names_are_the_frozen_ones() -> None:
    # To change them on purpose: python -m tests.house.test_public_api
    assert public_names() == FROZEN.read_text().splitlines()


def test_every_public_name_can_be_reached() -> None:
    for name in pixelwise.__all__:
        assert getattr(pixelwise, name) is not None


def test_editors_and_type_checkers_are_shown_the_same_names() -> None:
    # They read the imports under TYPE_CHECKING; the program goes by the table of lazy names.
    tree = ast.parse(Path(pixelwise.__file__).read_text())
    (shown,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in shown.body if isinstance(node, ast.ImportFrom)]
    assert {name.name: node.module for node in imports for name in node.names} == pixelwise._LAZY


def test_no_module_takes_the_place_of_a_public_name() -> None:
    # Importing a submodule sets an attribute of its package: `pixelwise.train` would become a module.
    for module in pkgutil.walk_packages(pixelwise.__path__, "pixelwise."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    modules = {module.name for module in pkgutil.iter_modules(pixelwise.__path__)}
    assert not modules & set(pixelwise.__all__)
    for name in pixelwise.__all__:
        assert not inspect.ismodule(getattr(pixelwise, name)), name


if __name__ == "__main__":
    FROZEN.write_text("\n".join(public_names()) + "\n")
