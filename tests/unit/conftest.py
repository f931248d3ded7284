"""A server of one file on this machine."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Server:
    """Serves `content` under any path; what it does wrong is set by each test."""

    address: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    status: int = 0  # in place of the right answer
    cut: list[int] = field(default_factory=list)  # bytes after which the next connections end
    go_on: threading.Event | None = None  # waited for in the middle of a file
    asked: list[str] = field(default_factory=list)  # the ranges of the requests
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.asked.append(wanted)
            state.paths.append(self.path)
            if state.status:
                self.send_error(state.status)
                return
            begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if wanted and state.ranges and begin >= len(state.content):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            body = state.content[begin:]
            if begin:
                whole = len(state.content)
                self.send_header("Content-Range", f"bytes {begin}-{whole - 1}/{whole}")
            self.send_header("Content-Length", str(len(body)))
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if state.cut:
                body = body[: state.cut.pop(0)]
            if state.go_on is not None:
                self.wfile.write(body[:1000])
                state.go_on.wait(60)
                body = body[1000:]
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{listening.server_address[1]}")
    thread = threading.Thread(target=lambda: listening.serve_forever(0.01), daemon=True)
    thread.start()
    yield state
    listening.shutdown()
    listening.server_close()
    thread.join()
