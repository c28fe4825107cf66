"""As much of the Hugging Face Hub as a push and a pull ask for; files are kept in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_scripted"
COMMIT = "0123456789" * 4


@dataclass
class Hub:
    """Repositories by name, each its files by path; what the tests look at and change."""

    url: str
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    downloads: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = self._parts()
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif parts[4] == "commit":
            self._commit("/".join(parts[2:4]), body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self._parts()
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.hub.repositories.get(name)
        if files is None:
            self._answer(401, {"error": "Invalid username or password."}, error="RepoNotFound")
        elif parts[0] != "api":
            self._file(files, revision=parts[3], path="/".join(parts[4:]))
        elif len(parts) > 5 and parts[5] not in ("main", COMMIT):
            self._answer(404, {"error": "Invalid rev id"}, error="RevisionNotFound")
        elif parts[4:5] == ["tree"]:
            self._answer(200, [_entry(path, content) for path, content in files.items()])
        else:
            siblings = [{"rfilename": path} for path in files]
            facts = {"id": name, "sha": COMMIT, "private": name in self.hub.private}
            self._answer(200, {**facts, "siblings": siblings})

    def _create(self, form: dict[str, Any]) -> None:
        name = f"{form['organization']}/{form['name']}"
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repositories:
            self._answer(409, {"error": "You already created this model repo", **url})
            return
        if form.get("visibility") == "private":
            self.hub.private.add(name)
        self.hub.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self._answer(200, url)

    def _commit(self, name: str, body: bytes) -> None:
        files = self.hub.repositories[name]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        url = f"{self.hub.url}/{name}/commit/{COMMIT}"
        self._answer(200, {"commitUrl": url, "commitOid": COMMIT})

    def _file(self, files: dict[str, bytes], revision: str, path: str) -> None:
        if revision not in ("main", COMMIT):
            self._answer(404, {"error": "Invalid rev id"}, error="RevisionNotFound")
        elif path not in files:
            self._answer(404, {"error": "Entry not found"}, error="EntryNotFound")
        else:
            if self.command == "GET":
                self.hub.downloads.append(path)
            etag = _entry(path, files[path])["oid"]
            self._send(200, files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _answer(self, status: int, value: Any, error: str | None = None) -> None:
        headers = {"Content-Type": "application/json"}
        if error:
            headers |= {"X-Error-Code": error, "X-Error-Message": value["error"]}
        self._send(status, json.dumps(value).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


def _entry(path: str, content: bytes) -> dict[str, Any]:
    """Return a file as the tree of a repository lists it; the id is git's."""
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": oid}


@contextmanager
def scripted_hub() -> Iterator[Hub]:
    """Run it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()
