"""Adapters on the Hugging Face Hub: one commit per push, `user/name` wherever a folder is taken."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from pathlib import Path

from ..adapter.claims import read_json
from ..adapter.config import without_paths
from ..adapter.files import disk_error
from ..adapter.weights import CONFIG, WEIGHTS, open_weights, read_config
from .contents import PLACES
from .patience import explain, patiently

JSON = (CONFIG, "results.json", "evaluation.json", "records.json", "attacks.json", "split.json")
FILES = ("*.safetensors", "*.png", "README.md", *JSON)  # of an adapter folder; nothing hidden, nothing else
BASE = ("base/*.json", "base/*.safetensors")  # the model that a classifier's adapter is for
REPO = re.compile(r"[\w.-]+/[\w.-]+")


def is_repo(name: str | Path) -> bool:
    """Whether a name that is no local path looks like user/name."""
    return not Path(name).exists() and REPO.fullmatch(str(name)) is not None and not str(name).startswith(".")


# ----------------------------------------------------------------------------------------------- push


def to_push(folder: str | Path, repo: str = "") -> dict[str, Path | bytes]:
    """What of an adapter folder goes to the Hub: name there -> file, or its text where that is changed for others.

    Others get the model card with the repository's name, and JSON without the paths of this machine.

    Raises:
        ValueError: no adapter there, one that is not whole, a link, or a file of the adapter that names a path.
    """
    from .card import HERE

    folder = Path(folder)
    places = [place for place in PLACES if (folder / place / CONFIG).exists() or (folder / place / WEIGHTS).exists()]
    for place in places or [""]:
        read_config(folder / place)
        for needed in (CONFIG, WEIGHTS):
            if not (folder / place / needed).is_file():
                raise ValueError(f"{folder / place} has no {needed}; push a folder that `semu erase` wrote")
    found = [f for pattern in FILES for f in folder.glob(pattern) if not f.name.startswith(".")]
    found += [folder / place / name for place in places if place for name in (CONFIG, WEIGHTS)]
    found += [f for pattern in BASE for f in folder.glob(pattern)]
    files: dict[str, Path | bytes] = {f.relative_to(folder).as_posix(): f for f in sorted(found)}
    for name, file in files.items():
        check_plain(folder, file)
        files[name] = shareable(file)
    if repo and "README.md" in files:
        files["README.md"] = (folder / "README.md").read_text("utf-8").replace(HERE, repo).encode()
    return files


def check_plain(folder: Path, file: Path) -> None:
    """ValueError unless a file of the folder is a plain one, reached without links: they may lead anywhere."""
    parts = file.relative_to(folder).parts
    link = next((p for k in range(len(parts)) if (p := folder.joinpath(*parts[: k + 1])).is_symlink()), None)
    if link or not file.is_file():
        raise ValueError(f"{link or file} is {'a link' if link else 'no file'}; put the file itself there")


def shareable(file: Path) -> Path | bytes:
    """A file as it may be shared: JSON without this machine's paths. ValueError where an adapter's header has one."""
    if file.suffix == ".json":
        value = read_json(file)
        shared = without_paths(value)
        return file if shared == value else json.dumps(shared, indent=1).encode()
    if file.name == WEIGHTS:
        with open_weights(file) as weights:
            text = (weights.metadata() or {}).get("semu_config")
        if text and without_paths(about := json.loads(text).get("about")) != about:
            raise ValueError(f"{file} names a folder of this machine; write it again with `semu export --to native`")
    return file


def check_free(api, repo: str, revision: str | None) -> None:
    """ValueError where a repository of that name holds something else than a SEMU adapter."""
    from huggingface_hub import errors

    try:
        listed = patiently(lambda: api.list_repo_files(repo, revision=revision))
    except errors.RevisionNotFoundError:  # a new branch, or a repository without any commit
        return
    names = [name for name in listed if not name.startswith(".git")]
    ours = any(name.rpartition("/")[2] == CONFIG for name in names)
    if names and not ours:
        raise ValueError(f"{repo} exists and holds something else (such as {names[0]}); choose another name")


def push_to_hub(
    folder: str | Path,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Add SEMU adapter",
) -> str:
    """Uploads an adapter folder in one commit; returns the commit's address, or the pull request's.

    A repository, or a branch, that does not exist is made first; not so for a pull request, which needs no right to
    write. An interrupted upload leaves the repository as it was; one that was made for it is deleted again.

    Raises:
        ValueError: no adapter there, a bad or taken name, no token, no right, no network.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if not REPO.fullmatch(repo):
        raise ValueError(f"{repo!r} is not a repository name; expected user/name")
    files, api, made = to_push(folder, repo), HfApi(), False
    if get_token() is None:
        raise ValueError("no token: run `hf auth login`, or set HF_TOKEN")
    operations = [CommitOperationAdd(name, str(f) if isinstance(f, Path) else f) for name, f in files.items()]
    try:
        if not create_pr and not patiently(lambda: api.repo_exists(repo)):
            patiently(lambda: api.create_repo(repo, private=private, exist_ok=True))
            made = True
        check_free(api, repo, revision)
        if revision and not create_pr:
            patiently(lambda: api.create_branch(repo, branch=revision, exist_ok=True))
        commit = patiently(
            lambda: api.create_commit(repo, operations, commit_message=message, revision=revision, create_pr=create_pr)
        )
    except BaseException as error:  # the client's HTTP library, whose errors have no common base, differs by version
        left = made and not deleted(api, repo)
        if not isinstance(error, Exception) or isinstance(error, ValueError) and str(error).startswith(repo):
            raise
        said = explain(error, repo, write=True)
        raise (
            ValueError(f"{said}; the empty repository {repo} is left, delete it on its page") if left else said
        ) from None
    return commit.pr_url or commit.commit_url


def deleted(api, repo: str) -> bool:
    """Takes a repository away that was made for a push which then failed; whether that worked."""
    with contextlib.suppress(Exception):
        api.delete_repo(repo, missing_ok=True)
        return True
    return False


# ----------------------------------------------------------------------------------------------- pull


def pull(repo: str, revision: str | None = None) -> Path:
    """The local folder of an adapter on the Hub (cached): configs and weights of one commit only, never pickles.

    Raises:
        ValueError: no such repository or revision, no adapter in it, weights that arrive damaged, no network.
    """
    wanted = [f"{place}/{name}" if place else name for place in PLACES for name in (CONFIG, WEIGHTS)]
    folder = fetch(repo, revision, [*wanted, *BASE])
    if damaged(folder, repo):  # now out of the cache
        folder = fetch(repo, revision, [*wanted, *BASE])
        if bad := damaged(folder, repo):
            raise ValueError(f"{bad[0]} of {repo} arrives damaged: its SHA-256 is not the Hub's; try again later")
    if not any((folder / place / CONFIG).is_file() and (folder / place / WEIGHTS).is_file() for place in PLACES):
        raise ValueError(f"{repo} holds no SEMU adapter ({CONFIG} or {WEIGHTS} is missing)")
    return folder


def fetch(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """`snapshot_download` of some files. ValueError where they cannot be had."""
    from huggingface_hub import snapshot_download

    try:
        return Path(patiently(lambda: snapshot_download(repo, revision=revision, allow_patterns=patterns)))
    except Exception as error:  # as in `push_to_hub`
        raise disk_error(error) or explain(error, repo) from None


def damaged(folder: Path, repo: str) -> list[str]:
    """The weights in a snapshot whose SHA-256 is not the one the Hub has for them; they leave the cache."""
    bad = []
    for file in sorted(folder.rglob("*.safetensors")):
        if not file.is_symlink():
            warnings.warn(
                f"cannot compare {file.name} of {repo} with the Hub's hash: a cache without links", stacklevel=3
            )
            continue
        etag = Path(os.readlink(file)).name  # of large files the SHA-256, of small ones git's own hash
        if re.fullmatch(r"[0-9a-f]{64}", etag) and etag != sha256(file):
            bad.append(file.relative_to(folder).as_posix())
            for place in (file.resolve(), file.parent / os.readlink(file), file):
                place.unlink(missing_ok=True)
    return bad


def sha256(file: Path) -> str:
    """Of a file's bytes."""
    with open(file, "rb") as opened:
        found = hashlib.sha256()
        while part := opened.read(2**22):
            found.update(part)
    return found.hexdigest()


def local(path: str | Path, revision: str | None = None) -> Path:
    """A folder or file as it is; "user/name" pulled. ValueError as `pull`."""
    return pull(str(path), revision) if is_repo(path) else Path(path)
