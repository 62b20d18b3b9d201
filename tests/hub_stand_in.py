"""A small real Hub over HTTP on 127.0.0.1, for tests: repositories, commits, large files, tags, downloads, faults.

Example:
    with HubStandIn() as hub:
        print(hub.run("from huggingface_hub import whoami; print(whoami()['name'])", tmp_path).stdout)
"""

import asyncio
import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import uvicorn
from safetensors.numpy import save_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

TOKEN = "hf_invented"
ACCOUNT = "inventor"


# What can go wrong with a request:
#   status     another answer instead: `status` with `headers`
#   reset      the connection is reset before any answer, a request's body read to its half
#   lost       the request is done, its answer never comes
#   hang       nothing is ever said
#   cut        the answer ends in its middle
#   loop       a redirect to the same address
#   garbage    200 with something that is no JSON
#   overtaken  somebody else commits just before
#   restart    as reset, and the server is away for half a second
FaultKind = Literal["status", "reset", "lost", "hang", "cut", "loop", "garbage", "overtaken", "restart"]


@dataclass
class Fault:
    """What happens to the next `left` requests whose path holds `part`."""

    part: str
    kind: FaultKind = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    left: int = 1
    method: str = ""


@dataclass
class Repo:
    """A repository: whether it is private, its commits (newest last) with all their files, its tags.

    `pushes` are the hashes of the commits that came over HTTP.
    """

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    pushes: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        text = f"{len(self.commits)} {sorted((path, _sha256(content)) for path, content in files.items())}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit that a branch, tag or hash names."""
        wanted = self.commits[-1][0] if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == wanted), None)


class HubStandIn:
    """The server; a context manager. `requests` holds every request's method and path, `repos` what was published."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.times: list[float] = []
        self.bodies: list[tuple[str, Any]] = []
        self._large: dict[str, bytes] = {}
        self._faults: list[Fault] = []
        self._garbled: list[str] = []
        self._port = 0

    def __enter__(self) -> "HubStandIn":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, after a stop at the same address as before."""
        config = uvicorn.Config(
            self._app(), host="127.0.0.1", port=self._port, log_level="critical", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.02)
            assert self._thread.is_alive(), "the stand-in did not start"
        self._port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def stop(self) -> None:
        """Be gone: connections are refused. What is stored stays."""
        self._server.should_exit = True
        self._thread.join(10)

    def environment(self, folder: Path) -> dict[str, str]:
        """The variables that send a process here and nowhere else."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(folder / "hf-home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "",
            "TRANSFORMERS_OFFLINE": "",
            "HF_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1",
        }

    def run(self, code: str, folder: Path, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run Python code that talks to this Hub in its own process, as huggingface_hub reads its address on import."""
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, **self.environment(folder), **changes},
            cwd=Path(__file__).resolve().parents[1],
            capture_output=True,
            text=True,
            timeout=120,
        )

    def fail_next(self, path_part: str, status: int, times: int = 1) -> None:
        """Answer the next requests whose path holds `path_part` with an error."""
        self.fault(Fault(path_part, status=status, left=times))

    def fault(self, fault: Fault) -> None:
        """Let something go wrong; the earliest that fits a request happens to it."""
        self._faults.append(fault)

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self._faults.clear()
        self._garbled.clear()

    def garble_next(self, path_part: str) -> None:
        """Answer the next download of such a file with its bytes changed, as a broken store would."""
        self._garbled.append(path_part)

    def count(self, method: str, path_part: str) -> int:
        """How many requests of this method had `path_part` in their path."""
        return sum(one == method and path_part in path for one, path in self.requests)

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """Put a commit into a repository without HTTP; returns its hash."""
        repo = self.repos.setdefault(name, Repo(private))
        return repo.commit({**(repo.commits[-1][1] if repo.commits else {}), **files})

    def _app(self) -> Starlette:
        table = [
            ("GET", "/api/whoami-v2", self._whoami),
            ("POST", "/api/repos/create", self._create),
            ("POST", "/api/validate-yaml", self._validate),
            ("GET", "/api/models/{name:path}/refs", self._refs),
            ("GET", "/api/models/{name:path}/revision/{revision}", self._info),
            ("GET", "/api/models/{name:path}/tree/{revision}", self._tree),
            ("POST", "/api/models/{name:path}/preupload/{revision}", self._preupload),
            ("POST", "/api/models/{name:path}/commit/{revision}", self._commit),
            ("POST", "/api/models/{name:path}/tag/{revision}", self._tag),
            ("GET", "/api/models/{name:path}", self._info),
            ("GET", "/api/datasets/{name:path}/revision/{revision}", self._info),
            ("GET", "/api/datasets/{name:path}/tree/{revision}/{folder:path}", self._tree),
            ("GET", "/api/datasets/{name:path}/tree/{revision}", self._tree),
            ("POST", "/api/datasets/{name:path}/paths-info/{revision}", self._paths_info),
            ("GET", "/api/datasets/{name:path}", self._info),
            ("POST", "/{name:path}.git/info/lfs/objects/batch", self._batch),
            ("PUT", "/large/{oid}", self._put_large),
            ("GET", "/{name:path}/resolve/{revision}/{path:path}", self._resolve),
        ]

        def guarded(handler: Any) -> Any:
            async def answer(request: Request) -> Response:
                self.requests.append((request.method, request.url.path))
                self.times.append(time.monotonic())
                for fault in self._faults:
                    if fault.left and fault.part in request.url.path and fault.method in ("", request.method):
                        fault.left -= 1
                        return await self._go_wrong(fault, request, handler)
                return await handler(request)

            return answer

        return Starlette(routes=[Route(path, guarded(handler), methods=[method]) for method, path, handler in table])

    async def _go_wrong(self, fault: Fault, request: Request, handler: Any) -> Response:
        if fault.kind == "status":
            return JSONResponse({"error": "made to fail"}, fault.status, headers=fault.headers)
        if fault.kind == "garbage":
            return Response("<html>Please log in to this network</html>")
        if fault.kind == "loop":
            return RedirectResponse(str(request.url), 307)
        if fault.kind == "hang":
            await asyncio.sleep(3600)
        if fault.kind == "overtaken":
            self.add(request.path_params["name"], {"NOTES.md": str(len(self.requests)).encode()})
            return await handler(request)
        if fault.kind == "cut":
            whole = await handler(request)

            async def half() -> Any:
                yield whole.body[: len(whole.body) // 2]
                await asyncio.sleep(0.1)
                self._reset(request)

            return StreamingResponse(half(), whole.status_code, dict(whole.headers))
        if fault.kind == "lost":
            await handler(request)
        elif request.method == "PUT":
            expected, seen = int(request.headers.get("content-length", "0")), 0
            async for chunk in request.stream():
                seen += len(chunk)
                if 2 * seen >= expected:
                    break
        self._reset(request)
        if fault.kind == "restart":
            threading.Thread(target=self._restart, daemon=True).start()
        return Response()

    def _reset(self, request: Request) -> None:
        """End the connection of a request, as a cable that is pulled."""
        for connection in list(self._server.server_state.connections):
            if getattr(connection, "client", None) == request.scope["client"]:
                connection.transport.abort()  # type: ignore[union-attr]

    def _restart(self) -> None:
        self.stop()
        time.sleep(0.5)
        self.start()

    # Every handler below answers as the real Hub does, as far as the client looks.

    async def _whoami(self, request: Request) -> Response:
        return JSONResponse({"type": "user", "name": ACCOUNT}) if _may_write(request) else _refuse(401)

    async def _create(self, request: Request) -> Response:
        if not _may_write(request):
            return _refuse(401)
        body = await request.json()
        self.bodies.append((request.url.path, body))
        name = f"{body.get('organization') or ACCOUNT}/{body['name']}"
        answer = {"url": f"{self.url}/{name}"}
        if name in self.repos:
            return JSONResponse({**answer, "error": "You already created this model repo"}, 409)
        self.repos[name] = Repo(body.get("visibility") == "private" or body.get("private") is True)
        self.repos[name].commit({".gitattributes": b""})
        return JSONResponse(answer)

    async def _validate(self, request: Request) -> Response:
        self.bodies.append((request.url.path, await request.json()))
        return JSONResponse({"errors": [], "warnings": []})

    async def _info(self, request: Request) -> Response:
        repo, commit, problem = self._find(request)
        if problem:
            return problem
        assert repo and commit
        files = [{"rfilename": path} for path in commit[1]]
        name = request.path_params["name"]
        return JSONResponse({"id": name, "sha": commit[0], "private": repo.private, "tags": [], "siblings": files})

    async def _tree(self, request: Request) -> Response:
        _, commit, problem = self._find(request)
        if problem:
            return problem
        assert commit
        folder = request.path_params.get("folder", "")
        if folder and not any(path.startswith(f"{folder}/") for path in commit[1]):
            return _refuse(404, "EntryNotFound")
        inside = {
            path: content for path, content in commit[1].items() if path.startswith(f"{folder}/" if folder else "")
        }
        folders = {parent.as_posix() for path in inside for parent in PurePosixPath(path).parents} - {".", folder}
        entries = [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
        entries += [_entry(path, content) for path, content in inside.items()]
        if request.query_params.get("recursive", "").lower() != "true":
            depth = len(PurePosixPath(folder).parts)
            entries = [entry for entry in entries if len(PurePosixPath(entry["path"]).parts) == depth + 1]
        return JSONResponse(entries)

    async def _paths_info(self, request: Request) -> Response:
        _, commit, problem = self._find(request)
        if problem:
            return problem
        assert commit
        asked = (await request.form()).getlist("paths")
        return JSONResponse([_entry(path, content) for path, content in commit[1].items() if path in asked])

    async def _refs(self, request: Request) -> Response:
        repo, commit, problem = self._find(request)
        if problem:
            return problem
        assert repo and commit
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in repo.tags.items()]
        branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": commit[0]}]
        return JSONResponse({"branches": branches, "converts": [], "tags": tags})

    async def _tag(self, request: Request) -> Response:
        repo, commit, problem = self._find(request)
        if problem or not _may_write(request):
            return problem or _refuse(401)
        assert repo and commit
        tag = (await request.json())["tag"]
        if tag in repo.tags:
            return JSONResponse({"error": "Tag reference exists already"}, 409)
        repo.tags[tag] = commit[0]
        return Response(status_code=201)

    async def _preupload(self, request: Request) -> Response:
        _, commit, problem = self._find(request)
        if problem or not _may_write(request):
            return problem or _refuse(401)
        assert commit
        answers = []
        for file in (await request.json())["files"]:
            old = commit[1].get(file["path"])
            entry = _entry(file["path"], old) if old is not None else {}
            mode = "lfs" if _is_large(file["path"]) else "regular"
            oid = entry["lfs"]["oid"] if "lfs" in entry else entry.get("oid")
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return JSONResponse({"files": answers})

    async def _batch(self, request: Request) -> Response:
        if not _may_write(request):
            return _refuse(401)
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | ({} if one["oid"] in self._large else {"actions": {"upload": {"href": f"{self.url}/large/{one['oid']}"}}})
            for one in (await request.json())["objects"]
        ]
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _put_large(self, request: Request) -> Response:
        content = await request.body()
        if _sha256(content) != request.path_params["oid"]:
            return _refuse(400)
        self._large[request.path_params["oid"]] = content
        return Response()

    async def _commit(self, request: Request) -> Response:
        repo, commit, problem = self._find(request)
        if problem or not _may_write(request):
            return problem or _refuse(401)
        assert repo and commit
        files = dict(commit[1])
        for line in (await request.body()).splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header" and value.get("parentCommit", commit[0]) != commit[0]:
                return JSONResponse({"error": "A commit has happened since. Please refresh and try again."}, 412)
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self._large[value["oid"]]
            elif item["key"] == "deletedFile":
                files.pop(value["path"])
        oid = repo.commit(files)
        repo.pushes.append(oid)
        address = f"{self.url}/{request.path_params['name']}/commit/{oid}"
        return JSONResponse({"success": True, "commitOid": oid, "commitUrl": address})

    async def _resolve(self, request: Request) -> Response:
        _, commit, problem = self._find(request)
        if problem:
            return problem
        assert commit
        content = commit[1].get(request.path_params["path"])
        if content is None:
            return _refuse(404, "EntryNotFound")
        headers = {"X-Repo-Commit": commit[0], "ETag": f'"{_sha256(content)}"'}
        garbled = next((part for part in self._garbled if part in request.path_params["path"]), None)
        if garbled and request.method == "GET":
            self._garbled.remove(garbled)
            content = bytes(len(content))
        return Response(content, media_type="application/octet-stream", headers=headers)

    def _find(self, request: Request) -> tuple[Repo | None, tuple[str, dict[str, bytes]] | None, Response | None]:
        """The repository and commit of a request, or the answer that says what is missing."""
        # Data sets live under `datasets/`, in their addresses and here.
        prefix = "datasets/" if request.url.path.startswith("/api/datasets/") else ""
        repo = self.repos.get(prefix + request.path_params["name"])
        if repo is None or (repo.private and not _may_write(request)):
            return None, None, _refuse(404 if _may_write(request) else 401, "RepoNotFound")
        commit = repo.at(request.path_params.get("revision", "main"))
        return repo, commit, None if commit else _refuse(404, "RevisionNotFound")


def write_small_checkpoint(folder: Path, *, weight: float = 1.0, **config: Any) -> Path:
    """A folder with the files of a finished checkpoint: tiny, and of no real model."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"a": np.full((4, 8), weight, np.float32), "b": np.zeros(3, np.float16)}, folder / "model.safetensors")
    facts = {"model_type": "concept_autoencoder", "variant": "perceiver_mlm", "max_sequence_length": 64, **config}
    (folder / "config.json").write_text(json.dumps(facts))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "configuration.py").write_text("# the remote code\n")
    return folder


def _may_write(request: Request) -> bool:
    return request.headers.get("authorization") == f"Bearer {TOKEN}"


def _refuse(status: int, code: str = "") -> Response:
    return JSONResponse({"error": code or "refused"}, status, headers={"X-Error-Code": code} if code else None)


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def _entry(path: str, content: bytes) -> dict[str, Any]:
    """A line of a tree listing; blob ids are as git computes them."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    entry["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if _is_large(path):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
    return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
