"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "pixelwise"


def modules_with_examples() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>>" in path.read_text():
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0, f"{results.failed} examples of {name} do not print what they say (see above)"
    # A decorator can hide a docstring from doctest: what is written must have been tried.
    written = Path(module.__file__).read_text().count(">>> ")
    assert results.attempted == written


def test_an_example_that_lies_is_noticed() -> None:
    liar = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "liar", None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(liar, out=lambda _: None).failed == 1
