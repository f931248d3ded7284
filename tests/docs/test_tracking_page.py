"""The page on videos names the options and functions that there are."""

import re
from pathlib import Path

import typer

from pixelwise import predict
from pixelwise.cli import app
from pixelwise.weights import list_weights

PAGE = (Path(__file__).parent.parent.parent / "docs" / "tracking.md").read_text()


def test_every_option_on_the_page_exists_and_every_prompt_is_on_it() -> None:
    command = typer.main.get_command(app).commands["track"]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"--[a-z-]+", PAGE)) <= options
    for option in ("--point", "--outside", "--box", "--mask", "--truth", "--direction", "--no-overlay"):
        assert option in PAGE


def test_every_function_and_all_weights_on_the_page_exist() -> None:
    for name in ("track_video", "save_tracks", "load_tracks"):
        assert name in PAGE
        assert callable(getattr(predict, name))
    assert set(re.findall(r"sam2\.1_hiera_[a-z]+", PAGE)) <= set(list_weights())
