"""Files appear whole or not at all."""

import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pixelwise.files import (
    atomic_write,
    check_targets,
    lock_folder,
    make_folder,
    record,
    remove_temporary,
    was_written,
)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_appears_only_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert left_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert left_in(tmp_path) == ["a.txt"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (1000, hard)
        )  # the kernel stops the write, as a full disk does
        with (
            pytest.raises(ValueError, match=r"cannot write .*a\.bin: File too large"),
            atomic_write(path) as temporary,
        ):
            temporary.write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_in(tmp_path) == []


def test_a_disk_that_fills_up_at_the_last_step_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with (
        pytest.raises(ValueError, match="No space left on device"),
        atomic_write(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("whole")
    assert left_in(tmp_path) == []


def test_a_file_where_a_folder_must_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match=r"cannot make the folder .*file"),
        atomic_write(tmp_path / "file" / "a.txt"),
    ):
        pytest.fail("nothing can be written here")
    with pytest.raises(ValueError, match=r"cannot make the folder .*file"):
        make_folder(tmp_path / "file")


def test_a_folder_where_a_file_must_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with (
        pytest.raises(ValueError, match=r"cannot write .*a\.txt: Is a directory"),
        atomic_write(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("x")
    assert left_in(tmp_path) == []


def test_no_name_is_told() -> None:
    with pytest.raises(ValueError, match="names no file"), atomic_write(""):
        pytest.fail("there is no such place")


def test_a_folder_without_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ValueError, match="permission denied"):
        make_folder(tmp_path)


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".txt")
    with atomic_write(path) as temporary:
        temporary.write_text("x")
    assert path.read_text() == "x"


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    both_inside = threading.Barrier(2)

    def write(text: str) -> None:
        with atomic_write(path) as temporary:
            both_inside.wait(5)
            temporary.write_text(text)

    writers = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert left_in(tmp_path) == ["a.txt"]


def test_a_private_file_of_a_writer_becomes_as_readable_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("new")
    with atomic_write(tmp_path / "weights") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_only_our_own_temporary_files_are_swept(tmp_path: Path) -> None:
    ours = [".last.0a1b2c3d.ckpt", ".metrics.00000000.csv"]
    theirs = [
        ".last.ckpt",
        ".last.0a1b2c3d.txt",
        ".last.xyz.ckpt",
        "last.0a1b2c3d.ckpt",
        ".other.0a1b2c3d.ckpt",
    ]
    for name in (*ours, *theirs, "last.ckpt"):
        (tmp_path / name).write_text("")
    assert remove_temporary(tmp_path, ["last.ckpt", "metrics.csv"]) == ours
    assert left_in(tmp_path) == sorted([*theirs, "last.ckpt"])


def test_a_locked_folder_is_refused_until_its_holder_ends_however_it_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pixelwise.files import lock_folder\n"
        "with lock_folder(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(ValueError, match=rf"another process \({holder.pid}\) is working in"),
        lock_folder(tmp_path),
    ):
        pytest.fail("two hold it")
    holder.kill()
    holder.communicate()
    for _ in range(2):
        with lock_folder(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())


# --- files of the user ----------------------------------------------------------------------------


def test_only_a_file_that_is_listed_as_it_is_now_is_ours(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a file.txt"
    target.parent.mkdir()
    target.write_text("one")
    assert not was_written(target, tmp_path)
    record(target, tmp_path)
    assert was_written(target, tmp_path)
    target.write_text("two")
    assert not was_written(target, tmp_path)
    record(target, tmp_path)
    target.write_text("one")  # as it was once written
    assert was_written(target, tmp_path)
    target.unlink()
    assert not was_written(target, tmp_path)
    target.mkdir()
    assert not was_written(target, tmp_path)


def test_targets_that_would_lose_something_are_named(tmp_path: Path) -> None:
    ours, theirs, source = (tmp_path / name for name in ("ours.txt", "theirs.txt", "source.txt"))
    for path in (ours, theirs, source):
        path.write_text(path.name)
    record(ours, tmp_path)
    record(source, tmp_path)
    (tmp_path / "link.txt").symlink_to(source)
    (tmp_path / "dead.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    check_targets([tmp_path / "new.txt", tmp_path / "no" / "where.txt"], tmp_path, sources=[source])
    check_targets([ours], tmp_path, sources=[source], overwrite=True)
    with pytest.raises(ValueError, match=r"ours\.txt was written before"):
        check_targets([ours], tmp_path, sources=[source])
    for name, said in (
        ("theirs.txt", "did not write it"),
        ("source.txt", "is one of the sources"),
        ("link.txt", "is one of the sources"),
        ("dead.txt", "link to nowhere"),
        ("folder", "is a folder"),
    ):
        with pytest.raises(ValueError, match=rf"{name}\b.*{said}"):
            check_targets([tmp_path / name], tmp_path, sources=[source], overwrite=True)
