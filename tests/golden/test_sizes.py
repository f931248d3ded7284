"""The table of parameters that `pixelwise models` shows; written by python -m tests.golden.test_sizes."""

import random
import tomllib
from pathlib import Path

import pytest

from pixelwise.registry import list_models
from pixelwise.summary import counted_size, published_size

TABLE = Path(__file__).parents[2] / "pixelwise" / "model_sizes.toml"
HEAD = """# Parameters of each model with its default arguments, for 21 classes (`pixelwise models`).
# Written by: python -m tests.golden.test_sizes
[parameters]
"""


def known() -> dict[str, int]:
    return tomllib.loads(TABLE.read_text())["parameters"]


def test_every_model_is_in_the_table_and_no_other() -> None:
    assert sorted(known()) == sorted(list_models())


@pytest.mark.parametrize("name", ["unet", "bisenet", *random.Random(0).sample(sorted(list_models()), 4)])
def test_a_number_of_the_table_is_that_of_the_model(name: str) -> None:
    assert counted_size(name) == known()[name]
    assert published_size(name) == known()[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(list_models()))
def test_every_number_of_the_table_is_that_of_the_model(name: str) -> None:
    assert counted_size(name) == known()[name]


def test_other_numbers_of_classes_are_counted() -> None:
    assert published_size("unet", 7) < published_size("unet", 22)


if __name__ == "__main__":
    rows = "".join(f"{name!r} = {counted_size(name)}\n" for name in sorted(list_models()))
    TABLE.write_text(HEAD + rows.replace("'", '"'))
