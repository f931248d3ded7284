"""`pixelwise warmup` compiles what the common paths need, and says so in few lines."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pixelwise import warmup
from pixelwise.cli import app
from pixelwise.kernels.compiling import ANNOUNCER, Announcer
from pixelwise.kernels.pixels import confusion
from pixelwise.metrics import confusion_matrix


class Work:
    """What the compiler tells of a kernel."""

    def __init__(self, function: object) -> None:
        self.data = {"dispatcher": type("Dispatcher", (), {"py_func": function})}


def test_the_compiler_is_announced_once_in_a_process(capfd: pytest.CaptureFixture[str]) -> None:
    announcer = Announcer()
    for function in (confusion.count_pairs, confusion.encoded, np.pad):
        announcer.on_start(Work(function))  # type: ignore[arg-type]
        announcer.on_end(Work(function))  # type: ignore[arg-type]
    assert announcer.compiled == ["count_pairs", "encoded"]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert "pixelwise warmup" in said[0]


def test_all_types_of_labels_share_few_compiled_functions() -> None:
    types = [
        torch.bool,
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.uint16,
        torch.int32,
        torch.uint32,
        torch.int64,
    ]
    labels = torch.tensor([[0, 1, 1, 0]] * 20)
    for prediction in types:
        for target in types:
            found = confusion_matrix(labels.to(prediction), labels.to(target), 2)
            assert torch.equal(found, torch.tensor([[40, 0], [0, 40]]))
    codes = {signature[3].dtype for signature in confusion.encode.signatures}  # uint8; int32 of many classes
    for code in codes:
        assert len([s for s in confusion.encode.signatures if s[3].dtype == code]) <= 3
    assert len(confusion.add_pairs.signatures) <= 2


def test_warming_up_twice_compiles_nothing_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: warmup.PATHS[name] for name in ("prediction", "metrics of pixels")}
    monkeypatch.setattr(warmup, "PATHS", some)
    warmup.warm_up(lambda line: None)
    lines: list[str] = []
    assert warmup.warm_up(lines.append) == []
    assert [line.partition(":")[0] for line in lines[:2]] == ["1/2 prediction", "2/2 metrics of pixels"]
    assert not ANNOUNCER.silent


def test_the_command_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "PATHS", {"prediction": warmup.PATHS["prediction"]})
    done = CliRunner().invoke(app, ["warmup"])
    assert done.exit_code == 0, done.output
    assert "1/1 prediction" in done.output
    assert "functions compiled in" in done.output


@pytest.mark.slow
def test_after_a_warm_up_a_fresh_process_compiles_nothing(tmp_path: Path) -> None:
    variables = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    counts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "pixelwise", "warmup"],
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        counts.append(int(done.stdout.splitlines()[-1].split()[0]))
    assert counts[0] > 20
    assert counts[1] == 0
