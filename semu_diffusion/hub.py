"""Adapters on the Hugging Face Hub: one commit per push, `user/name` wherever a folder is taken."""

from __future__ import annotations

import re
from pathlib import Path

from .adapter.weights import CONFIG, WEIGHTS, read_config

FILES = ("*.safetensors", "*.json", "*.png", "README.md")  # of an adapter folder; nothing hidden, nothing else
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
        (errors.EntryNotFoundError, f"{repo} holds no SEMU adapter ({WEIGHTS} is missing)"),
        (errors.LocalEntryNotFoundError, f"cannot reach the Hub, and {repo} is not in the local cache"),
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


def to_push(folder: str | Path) -> list[Path]:
    """The files of an adapter folder that go to the Hub.

    Raises:
        ValueError: no adapter there.
    """
    folder = Path(folder)
    read_config(folder)
    for needed in (CONFIG, WEIGHTS):
        if not (folder / needed).is_file():
            raise ValueError(f"{folder} has no {needed}; push a folder that `semu erase` wrote")
    return sorted(f for pattern in FILES for f in folder.glob(pattern) if not f.name.startswith("."))


def push_to_hub(
    folder: str | Path,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Add SEMU adapter",
) -> str:
    """Uploads an adapter folder in one commit; returns the commit's address.

    Raises:
        ValueError: no adapter there, a bad name, no token, no right, no network.
    """
    from huggingface_hub import HfApi

    if not REPO.fullmatch(repo):
        raise ValueError(f"{repo!r} is not a repository name; expected user/name")
    files, api = to_push(folder), HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            allow_patterns=[f.name for f in files],
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
        )
    except Exception as error:  # the client's HTTP library, whose errors have no common base, changes with its version
        raise explain(error, repo) from None
    return commit.pr_url or commit.commit_url


def pull(repo: str, revision: str | None = None) -> Path:
    """The local folder of an adapter on the Hub (cached): config and weights only, never pickles.

    Raises:
        ValueError: no such repository or revision, no adapter in it, no network.
    """
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(repo, CONFIG, revision=revision)
        return Path(hf_hub_download(repo, WEIGHTS, revision=revision)).parent
    except Exception as error:  # the client's HTTP library, whose errors have no common base, changes with its version
        raise explain(error, repo) from None


def load_adapter(
    pipe, path: str | Path, adapter_name: str = "default", scale: float = 1.0, revision: str | None = None
):
    """`diffusion.load_adapter` from a folder, a `.safetensors` file, or a Hub repository "user/name".

    Raises:
        ValueError: as `pull`, or an adapter for another model (names the first layer that differs).
    """
    from .diffusion.pipeline import load_adapter as load_local

    return load_local(pipe, pull(str(path), revision) if is_repo(path) else path, adapter_name, scale)
