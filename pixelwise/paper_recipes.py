"""The settings with which papers trained their networks, by name: paper_recipes.toml, read."""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any

from .wording import brief


@dataclass(frozen=True)
class PaperRecipe:
    """A training as a paper tells it.

    Attributes:
        name: network and data set.
        source: paper and section, and the authors' code where it was read.
        settings: of a `Recipe`; all but `data`.
        note: what the paper does otherwise; "" for nothing.
        uncertain: settings that the source does not print or that were not checked against it. "epochs" is
            also among them where no length is given.
    """

    name: str
    source: str
    settings: dict[str, Any]
    note: str = ""
    uncertain: tuple[str, ...] = ()


def list_recipes() -> list[str]:
    """The names that `paper_recipe` knows, sorted.

    >>> "pspnet_voc" in list_recipes()
    True
    """
    return sorted(_all())


def paper_recipe(name: str) -> PaperRecipe:
    """The recipe of that name.

    Raises:
        ValueError: if there is none; suggests the nearest.

    >>> paper_recipe("pspnet_voc").settings["crop"]
    [473, 473]
    """
    recipes = _all()
    if name not in recipes:
        near = get_close_matches(name, recipes, n=1, cutoff=0.4)
        hint = f": did you mean {near[0]!r}?" if near else ": see `pixelwise models --recipes`"
        raise ValueError(f"there is no recipe {brief(name)}{hint}")
    return recipes[name]


@cache
def _all() -> dict[str, PaperRecipe]:
    text = (resources.files(__package__) / "paper_recipes.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    default = tables.pop("default")
    whole: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        base = whole[table.pop("like")] if "like" in table else default
        whole[name] = base | table
    recipes = {}
    for name, settings in whole.items():
        source, note = settings.pop("source"), settings.pop("note", "")
        recipes[name] = PaperRecipe(name, source, settings, note, tuple(settings.pop("uncertain", ())))
    return recipes
