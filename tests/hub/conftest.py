"""A hub on this machine: enough of its interface to publish a repository and to fetch it."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest


@dataclass
class Hub:
    """What was published, by repository and name of the file."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    made: list[dict] = field(default_factory=list)  # what was asked for by those who made repositories
    requests: list[str] = field(default_factory=list)

    def commit(self, name: str) -> str:
        """A hash that changes with the files."""
        told = json.dumps({file: hashlib.sha1(data).hexdigest() for file, data in self.files[name].items()})
        return hashlib.sha1(told.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._tell(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            files = self.hub.files.get(found[1], {})
            self._json(200, [_entry(name, data) for name, data in files.items()])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[3])
        else:
            self._json(404, {"error": "Not found"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.hub.made.append(asked)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            self.hub.files.setdefault(name, {})
            self._json(200, {"url": f"{self.hub.address}/{name}"})
        elif path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            files = json.loads(body)["files"]
            answer = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self._json(200, {"files": answer})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            for line in body.decode().splitlines():
                told = json.loads(line)
                if told["key"] == "file":
                    data = base64.b64decode(told["value"]["content"])
                    self.hub.files[found[1]][told["value"]["path"]] = data
            commit = self.hub.commit(found[1])
            url = f"{self.hub.address}/{found[1]}/commit/{commit}"
            self._json(200, {"success": True, "commitOid": commit, "commitUrl": url})
        else:
            self._json(404, {"error": "Not found"})

    def _tell(self, name: str, revision: str) -> None:
        if name not in self.hub.files:
            self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", self.hub.commit(name)):
            self._json(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [{"rfilename": file} for file in self.hub.files[name]]
            told = {"id": name, "sha": self.hub.commit(name), "siblings": siblings, "private": False}
            self._json(200, told | {"tags": [], "downloads": 0, "likes": 0})

    def _file(self, name: str, file: str) -> None:
        data = self.hub.files.get(name, {}).get(file)
        if data is None:
            self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": self.hub.commit(name)}
        self._answer(200, data, {**headers, "Content-Type": "application/octet-stream"})

    def _json(self, status: int, what: object, headers: dict[str, str] | None = None) -> None:
        self._answer(
            status, json.dumps(what).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _entry(name: str, data: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A hub that huggingface_hub talks to."""
    state = Hub()
    handler = type("Handler", (_Handler,), {"hub": state})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=lambda: listening.serve_forever(0.01), daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{listening.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", state.address)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield state
    listening.shutdown()
    listening.server_close()
    thread.join()
