"""Three minutes of `make bench-soak`: no answer of a server is lost or wrong, and its memory stays flat."""

import os
import subprocess
import sys

import pytest

from tests.product.conftest import ROOT, THREADS


@pytest.mark.slow
def test_a_server_under_load_loses_no_answer_and_no_memory() -> None:
    variables = {k: v for k, v in os.environ.items() if k.removesuffix("_NUM_THREADS") not in THREADS}
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "soak.py"), "--minutes", "3"],
        capture_output=True,
        text=True,
        env={**variables, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout
