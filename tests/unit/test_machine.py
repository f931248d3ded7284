"""Memory of the C library, in processes of their own."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
from pixelwise.machine import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def layers():
    for _ in range(10):
        several = [b"x" * (int(mebibytes) << 20) for mebibytes in sys.argv[2:]]
        del several

def in_thread():
    thread = threading.Thread(target=layers)
    thread.start()
    thread.join()

in_thread()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
in_thread()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*words: str, **variables: str) -> int:
    """Pages of memory that a thread had to ask for."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, env={**clean, **variables}, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.parametrize("mebibytes", [("8", "12", "8"), ("30", "40", "30")])
def test_freed_memory_is_kept_for_the_next_tensors_unless_the_user_sets_malloc(
    mebibytes: tuple[str, ...],
) -> None:
    plain = faults("plain", *mebibytes)
    if plain < 10_000:
        pytest.skip("the C library keeps memory by itself")
    assert faults("kept", *mebibytes) < plain / 5
    assert faults("kept", *mebibytes, MALLOC_MMAP_THRESHOLD_="131072") > plain / 2
