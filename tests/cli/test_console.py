"""Names with brackets are names, not styles of the terminal."""

import pytest

from pixelwise.console import console, plain_table, report_table
from pixelwise.types import Report


def test_brackets_in_names_and_notes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report({"mean_iou": 0.5}, {"car [moving]": {"IoU": 0.5}}, note="pip install 'pixelwise[export]'")
    console().print(report_table(report, "[bold]"))
    console().print(plain_table({"[red] light": {"IoU": 0.25}}, "lights"))
    shown = capsys.readouterr().out
    for text in ("car [moving]", "pixelwise[export]", "[bold]", "[red] light"):
        assert text in shown
