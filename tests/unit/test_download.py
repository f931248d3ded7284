"""A file is fetched whole and checked, or not at all; what a broken connection left is gone on with."""

import hashlib
import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pixelwise.download import download
from tests.unit.conftest import Server

CONTENT = np.random.default_rng(0).integers(0, 256, 1_000_003, np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(server: Server) -> Server:
    """Serves CONTENT as net.pth."""
    server.content = CONTENT
    server.address += "/net.pth"
    return server


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_alone(server: Server, tmp_path: Path) -> None:
    download([server.address], tmp_path / "new" / "net.pth", SHA256, title="net")
    assert names(tmp_path / "new") == ["net.pth"]
    assert (tmp_path / "new" / "net.pth").read_bytes() == CONTENT


def test_a_connection_that_breaks_is_gone_on_with_at_once(server: Server, tmp_path: Path) -> None:
    server.cut = [300_000, 300_000]
    download([server.address], tmp_path / "net.pth", SHA256, title="net")
    assert server.asked == ["", "bytes=300000-", "bytes=600000-"]
    assert (tmp_path / "net.pth").read_bytes() == CONTENT


def test_a_later_call_fetches_only_what_lacks(server: Server, tmp_path: Path) -> None:
    server.cut = [100_000] * 4
    with pytest.raises(ValueError, match=r"broke off after 400000 of 1000003 bytes; the same call goes on"):
        download([server.address], tmp_path / "net.pth", SHA256, title="net")
    assert names(tmp_path) == [".net.pth.part"]
    server.asked.clear()
    download([server.address], tmp_path / "net.pth", SHA256, title="net")
    assert server.asked == ["bytes=400000-"]
    assert names(tmp_path) == ["net.pth"]


def test_a_server_without_ranges_sends_everything_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / ".net.pth.part").write_bytes(CONTENT[:5000])
    download([server.address], tmp_path / "net.pth", SHA256, title="net")
    assert (tmp_path / "net.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("length", [5000, len(CONTENT), len(CONTENT) + 10])
def test_a_partial_file_of_something_else_is_thrown_away(length: int, server: Server, tmp_path: Path) -> None:
    (tmp_path / ".net.pth.part").write_bytes(bytes(length))
    download([server.address], tmp_path / "net.pth", SHA256, title="net")
    assert server.asked[-1] == ""
    assert names(tmp_path) == ["net.pth"]


def test_a_partial_file_that_is_whole_already_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".net.pth.part").write_bytes(CONTENT)
    download([server.address], tmp_path / "net.pth", SHA256, title="net")
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert names(tmp_path) == ["net.pth"]


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1]
    with pytest.raises(ValueError, match=r"net\.pth is not the published file of 'net': its SHA-256 must"):
        download([server.address], tmp_path / "net.pth", SHA256, title="net")
    assert names(tmp_path) == []
    assert server.asked == [""]  # asking again would give the same


def test_a_wrong_file_never_takes_the_place_of_one_that_lies_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"earlier")
    server.content = b"wrong"
    with pytest.raises(ValueError, match="is not the published file"):
        download([server.address], tmp_path / "net.pth", SHA256, title="net")
    assert (tmp_path / "net.pth").read_bytes() == b"earlier"


@pytest.mark.parametrize("status", [404, 403, 500])
def test_what_the_server_answers_is_told(status: int, server: Server, tmp_path: Path) -> None:
    server.status = status
    with pytest.raises(ValueError, match=rf"cannot fetch {server.address}: the server answers {status} "):
        download([server.address], tmp_path / "net.pth", SHA256, title="net")
    assert names(tmp_path) == []


def test_the_next_address_is_tried_and_goes_on_with_what_arrived(server: Server, tmp_path: Path) -> None:
    server.cut = [100_000] * 4
    mirror = server.address.replace("net.pth", "mirror/net.pth")
    download([mirror, server.address], tmp_path / "net.pth", SHA256, title="net")
    assert server.paths == ["/mirror/net.pth"] * 4 + ["/net.pth"]
    assert server.asked[-1] == "bytes=400000-"


def test_all_addresses_that_fail_are_told(tmp_path: Path) -> None:
    nowhere = (tmp_path / "nowhere.pth").as_uri()
    with pytest.raises(
        ValueError, match=r"cannot fetch file:.*nowhere.*; cannot fetch nonsense: unknown url"
    ):
        download([nowhere, "nonsense"], tmp_path / "net.pth", SHA256, title="net")


def test_a_file_of_this_machine_is_copied(tmp_path: Path) -> None:
    (tmp_path / "there.pth").write_bytes(CONTENT)
    download([(tmp_path / "there.pth").as_uri()], tmp_path / "net.pth", SHA256, title="net")
    assert (tmp_path / "net.pth").read_bytes() == CONTENT


def fetch(address: str, path: Path) -> None:
    download([address], path, SHA256, title="net")


def test_two_processes_fetch_a_file_once(server: Server, tmp_path: Path) -> None:
    server.go_on = threading.Event()
    start = multiprocessing.get_context("spawn")
    both = [start.Process(target=fetch, args=(server.address, tmp_path / "net.pth")) for _ in range(2)]
    for process in both:
        process.start()
    while not server.asked:  # one holds the file until it may go on, the other waits for it
        assert all(process.is_alive() for process in both)
        time.sleep(0.05)
    time.sleep(0.3)
    assert all(process.is_alive() for process in both)
    assert names(tmp_path) == [".net.pth.part"]
    server.go_on.set()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert server.asked == [""]
    assert (tmp_path / "net.pth").read_bytes() == CONTENT
    assert names(tmp_path) == ["net.pth"]
