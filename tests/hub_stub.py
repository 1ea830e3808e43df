"""A Hub of one process: the few endpoints that push and pull of small files use. Stores commits in memory."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import huggingface_hub


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def parse_request(self):
        if not self.server.hub.up:
            self.close_connection = True
            return False
        return super().parse_request()

    def put_off(self) -> bool:
        """Answers with a refusal, or waits, where the Hub shall misbehave; whether that was all."""
        hub = self.server.hub
        if hub.silent:
            hub.silent.wait(20)
        status = hub.busy.pop(0) if hub.busy else hub.refuse
        if status:
            self.answer({"error": "refused"}, status, **({"Retry-After": hub.retry_after} if hub.retry_after else {}))
        return bool(status)

    def answer(self, value=b"", status=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, header in {"Content-Length": len(body), **headers}.items():
            self.send_header(key.replace("_", "-"), str(header))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = b""
        while size := int(self.rfile.readline(), 16):
            parts += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return parts

    def do_POST(self):
        hub, body, path = self.server.hub, self.body(), self.path.split("?")[0]
        hub.requests.append(path)
        if self.put_off():
            return
        if path == "/api/repos/create":
            spec = json.loads(body)
            name = f"{spec['organization']}/{spec['name']}" if spec.get("organization") else spec["name"]
            hub.private[name] = spec.get("private") is True or spec.get("visibility") == "private"
            hub.repos.setdefault(name, {})
            return self.answer({"url": f"{hub.url}/{name}"})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        repo, rest = path.removeprefix("/api/models/").split("/", 2)[:2], path.split("/", 5)[5]
        name = "/".join(repo)
        if name not in hub.repos:
            return self.answer({"error": "no such repository"}, 404, X_Error_Code="RepoNotFound")
        if rest.startswith("branch/"):
            hub.repos[name].setdefault(unquote(rest.removeprefix("branch/")), hub.repos[name].get("main", {}))
            return self.answer({})
        if rest.startswith("preupload"):
            files = json.loads(body)["files"]
            return self.answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        if hub.break_commit:
            self.close_connection = True
            return self.connection.close()
        lines = [json.loads(line) for line in body.splitlines()]
        files = {l["value"]["path"]: base64.b64decode(l["value"]["content"]) for l in lines if l["key"] == "file"}
        revision = unquote(rest.removeprefix("commit/"))
        before = hub.repos[name].get(revision, {})
        commit = hashlib.sha1(body).hexdigest()
        hub.repos[name][commit] = {**before, **files}
        hub.commits.append((name, sorted(files)))
        answer = {"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True}
        if "create_pr=1" in self.path:
            hub.repos[name]["refs/pr/1"] = hub.repos[name][commit]
            return self.answer({**answer, "pullRequestUrl": f"{hub.url}/{name}/discussions/1"})
        hub.repos[name][revision] = hub.repos[name][commit]
        self.answer(answer)

    def do_GET(self):
        hub = self.server.hub
        if self.put_off():
            return
        if hub.gated:
            return self.answer({"error": "gated"}, 403, X_Error_Code="GatedRepo")
        if self.path.startswith("/api/models/"):
            return self.list_files(*unquote(self.path.split("?")[0]).removeprefix("/api/models/").split("/", 3))
        owner, name, _, revision, file = map(unquote, self.path.split("?")[0].lstrip("/").split("/", 4))
        repo = hub.repos.get(f"{owner}/{name}")
        if repo is None:
            return self.answer(status=404, X_Error_Code="RepoNotFound")
        if revision not in repo:
            return self.answer(status=404, X_Error_Code="RevisionNotFound")
        if file not in repo[revision]:
            return self.answer(status=404, X_Error_Code="EntryNotFound", X_Repo_Commit="0" * 40)
        value = repo[revision][file]
        commit = next(k for k, v in repo.items() if v is repo[revision] and len(k) == 40)
        kind = hashlib.sha256 if hub.large and file.endswith(".safetensors") else hashlib.sha1
        tag = kind(value).hexdigest()
        if file in hub.damage and self.command == "GET":
            hub.damage.remove(file)
            value = value[:-1] + bytes([value[-1] ^ 1])
        self.answer(value, ETag=f'"{tag}"', X_Repo_Commit=commit)

    do_HEAD = do_GET

    def do_DELETE(self):
        hub, spec = self.server.hub, json.loads(self.body())
        name = f"{spec['organization']}/{spec['name']}" if spec.get("organization") else spec["name"]
        if hub.repos.pop(name, None) is None:
            return self.answer({"error": "no such repository"}, 404, X_Error_Code="RepoNotFound")
        self.answer({})

    def list_files(self, owner, name, kind="", revision="main"):
        """A repository's files, as model information or, for kind "tree", as a tree."""
        repo = self.server.hub.repos.get(f"{owner}/{name}")
        if repo is None:
            return self.answer(status=404, X_Error_Code="RepoNotFound")
        if revision not in (repo or {"main", "0" * 40}):  # a new repository has one commit without files
            return self.answer(status=404, X_Error_Code="RevisionNotFound")
        files = repo.get(revision, {})
        if kind == "tree":
            return self.answer([{"type": "file", "path": f, "size": len(v), "oid": f} for f, v in files.items()])
        commit = next((k for k, v in repo.items() if v is files and len(k) == 40), "0" * 40)
        self.answer({"id": f"{owner}/{name}", "siblings": [{"rfilename": f} for f in files], "sha": commit})


class Hub:
    """Repositories by name: {revision: {file: bytes}}."""

    def __init__(self):
        self.repos, self.private, self.commits, self.requests = {}, {}, [], []
        self.refuse, self.break_commit, self.gated, self.up = 0, False, False, True
        self.busy, self.retry_after = [], None  # statuses of the next answers, and the time to wait
        self.silent, self.large, self.damage = None, False, []  # an event to wait for; files that arrive damaged once
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.up = False  # for connections that are kept open
        huggingface_hub.close_session()
        self.server.shutdown()
        self.server.server_close()
