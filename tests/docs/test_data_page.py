"""The page on data names what the code knows."""

from pathlib import Path

from pixelwise.data.datasets import FORMATS, Tree
from pixelwise.data.datasets.exports import EXPORTS
from pixelwise.data.label_encoding import MASK_RULES

PAGE = (Path(__file__).parent.parent.parent / "docs" / "data.md").read_text()


def test_every_layout_every_export_and_every_rule_is_on_the_page() -> None:
    layouts = [name for name, layout in FORMATS.items() if not isinstance(layout, Tree)]
    for name in (*layouts, *MASK_RULES):
        assert f"`{name}`" in PAGE
    assert "`pixelwise datasets`" in PAGE  # lists the data sets
    for export in EXPORTS:
        assert export.name in PAGE
