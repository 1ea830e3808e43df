"""Adapters on the Hugging Face Hub: one commit per push, `user/name` wherever a folder is taken."""

from __future__ import annotations

import re
from pathlib import Path

from ..adapter.weights import CONFIG, WEIGHTS, read_config
from .contents import PLACES

FILES = ("*.safetensors", "*.json", "*.png", "README.md")  # of an adapter folder; nothing hidden, nothing else
BASE = ("base/*.json", "base/*.safetensors")  # the model that a classifier's adapter is for
REPO = re.compile(r"[\w.-]+/[\w.-]+")


def is_repo(name: str | Path) -> bool:
    """Whether a name that is no local path looks like user/name."""
    return not Path(name).exists() and REPO.fullmatch(str(name)) is not None and not str(name).startswith(".")


def explain(error: Exception, repo: str) -> ValueError:
    """What a Hub error means to the user, in one line."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    known = (
        (errors.LocalTokenNotFoundError, "no token: run `hf auth login`, or set HF_TOKEN"),
        (errors.GatedRepoError, f"{repo} is gated; ask for access on its page"),
        (errors.RepositoryNotFoundError, f"no repository {repo} that this token may see"),
        (errors.RevisionNotFoundError, f"{repo} has no such revision"),
        (
            errors.LocalEntryNotFoundError,
            f"cannot reach the Hub, and {repo} is neither in the local cache nor a folder",
        ),
    )
    for kind, text in known:
        if isinstance(error, kind):
            return ValueError(text)
    if status == 401:
        return ValueError("the Hub does not accept this token; make one with write access and run `hf auth login`")
    if status == 403:
        return ValueError(f"this token has no right to write to {repo}")
    if status is None:
        return ValueError(f"cannot reach the Hub: {' '.join(str(error).split())[:200]}")
    return ValueError(f"the Hub refused {repo}: {' '.join(str(error).split())[:200]}")


def to_push(folder: str | Path, repo: str = "") -> dict[str, Path | bytes]:
    """What of an adapter folder goes to the Hub: name there -> file, or for the model card its text with that name.

    Raises:
        ValueError: no adapter there, or one that is not whole.
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
    if repo and "README.md" in files:
        files["README.md"] = (folder / "README.md").read_text("utf-8").replace(HERE, repo).encode()
    return files


def check_free(api, repo: str, revision: str | None) -> None:
    """ValueError where a repository of that name holds something else than a SEMU adapter."""
    from huggingface_hub import errors

    try:
        names = [name for name in api.list_repo_files(repo, revision=revision) if not name.startswith(".git")]
    except errors.RevisionNotFoundError:  # a new branch, or a repository without any commit
        return
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
    write. An interrupted upload leaves the repository as it was.

    Raises:
        ValueError: no adapter there, a bad or taken name, no token, no right, no network.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if not REPO.fullmatch(repo):
        raise ValueError(f"{repo!r} is not a repository name; expected user/name")
    files, api = to_push(folder, repo), HfApi()
    if get_token() is None:
        raise ValueError("no token: run `hf auth login`, or set HF_TOKEN")
    try:
        if not create_pr:
            api.create_repo(repo, private=private, exist_ok=True)
        check_free(api, repo, revision)
        if revision and not create_pr:
            api.create_branch(repo, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, str(f) if isinstance(f, Path) else f) for name, f in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message, revision=revision, create_pr=create_pr)
    except Exception as error:  # the client's HTTP library, whose errors have no common base, changes with its version
        if isinstance(error, ValueError) and str(error).startswith(repo):
            raise
        raise explain(error, repo) from None
    return commit.pr_url or commit.commit_url


def pull(repo: str, revision: str | None = None) -> Path:
    """The local folder of an adapter on the Hub (cached): configs and weights of one commit only, never pickles.

    Raises:
        ValueError: no such repository or revision, no adapter in it, no network.
    """
    from huggingface_hub import snapshot_download

    wanted = [f"{place}/{name}" if place else name for place in PLACES for name in (CONFIG, WEIGHTS)]
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*wanted, *BASE]))
    except Exception as error:  # the client's HTTP library, whose errors have no common base, changes with its version
        raise explain(error, repo) from None
    if not any((folder / place / CONFIG).is_file() and (folder / place / WEIGHTS).is_file() for place in PLACES):
        raise ValueError(f"{repo} holds no SEMU adapter ({CONFIG} or {WEIGHTS} is missing)")
    return folder


def local(path: str | Path, revision: str | None = None) -> Path:
    """A folder or file as it is; "user/name" pulled. ValueError as `pull`."""
    return pull(str(path), revision) if is_repo(path) else Path(path)
