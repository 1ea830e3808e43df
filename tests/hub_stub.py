"""A Hub of one process: the few endpoints that push and pull of small files use. Stores commits in memory."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

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
        if hub.refuse:
            return self.answer({"error": "refused"}, hub.refuse)
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
        before = hub.repos[name].get("main", {})
        commit = hashlib.sha1(body).hexdigest()
        hub.repos[name]["main"] = hub.repos[name][commit] = {**before, **files}
        hub.commits.append((name, sorted(files)))
        self.answer({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def do_GET(self):
        hub = self.server.hub
        if hub.refuse or self.path.startswith("/api/"):
            return self.answer({"error": "refused"}, hub.refuse or 404)
        owner, name, _, revision, file = unquote(self.path.split("?")[0]).lstrip("/").split("/", 4)
        repo = hub.repos.get(f"{owner}/{name}")
        if repo is None:
            return self.answer(status=404, X_Error_Code="RepoNotFound")
        if revision not in repo:
            return self.answer(status=404, X_Error_Code="RevisionNotFound")
        if file not in repo[revision]:
            return self.answer(status=404, X_Error_Code="EntryNotFound", X_Repo_Commit="0" * 40)
        value = repo[revision][file]
        commit = next(k for k, v in repo.items() if v is repo[revision] and k != "main")
        self.answer(value, ETag=f'"{hashlib.sha1(value).hexdigest()}"', X_Repo_Commit=commit)

    do_HEAD = do_GET


class Hub:
    """Repositories by name: {revision: {file: bytes}}."""

    def __init__(self):
        self.repos, self.private, self.commits, self.requests = {}, {}, [], []
        self.refuse, self.break_commit = 0, False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
