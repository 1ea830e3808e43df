"""Talking to the Hub: waits that end, tries that are repeated, and what its errors mean."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
PASSING = (408, 429, 500, 502, 503, 504)  # statuses of what may be over in a moment
TRIES = 4
LONGEST = 60.0  # seconds that are waited for a busy Hub between two tries
SILENCE = 30.0  # seconds without a byte after which a server counts as hanging


def patiently(call: Callable[[], T]) -> T:
    """What the call returns; tried again while the Hub is busy, after the time that it asks for.

    Raises:
        Exception: the last error, or one that no second try mends.
    """
    for turn in range(TRIES):
        limit_silence()
        try:
            return call()
        except Exception as error:  # the client's HTTP library, whose errors have no common base, differs by version
            wait = wait_of(error, turn)
            if wait is None or turn == TRIES - 1:
                raise
            warnings.warn(f"the Hub is busy ({status_of(error)}); trying again in {wait:g} s", stacklevel=2)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def limit_silence() -> None:
    """Gives the client that all calls share a limit where a call sets none: it would wait for ever."""
    from huggingface_hub.utils import get_session

    hooks = getattr(get_session(), "event_hooks", None)  # before huggingface_hub 1.0 the client had no such thing
    if hooks is not None and limited not in hooks["request"]:
        get_session().event_hooks = {**hooks, "request": [*hooks["request"], limited]}


def limited(request) -> None:
    """Sets the times that a request is waited for, where there are none."""
    given = request.extensions.get("timeout") or {}
    names = ("connect", "read", "write", "pool")
    limits = {name: SILENCE if given.get(name) is None else given[name] for name in names}
    request.extensions = {**request.extensions, "timeout": limits}


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from or instead of, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error, or one behind it, is about."""
    statuses = (getattr(getattr(e, "response", None), "status_code", None) for e in chain_of(error))
    return next((status for status in statuses if status is not None), None)


def wait_of(error: BaseException, turn: int) -> float | None:
    """Seconds to wait before another try; None where there should be none."""
    if status_of(error) not in PASSING:
        return None
    headers = next(e.response.headers for e in chain_of(error) if getattr(e, "response", None) is not None)
    asked = headers.get("Retry-After", "")
    wait = float(asked) if re.fullmatch(r"\d+(\.\d+)?", asked) else 2.0**turn
    return wait if wait <= LONGEST else None


def explain(error: Exception, repo: str, write: bool = False) -> ValueError:
    """What a Hub error means to the user, in one line."""
    from huggingface_hub import errors

    status, said = status_of(error), " ".join(str(error).split())[:200]
    known = (
        (errors.LocalTokenNotFoundError, "no token: run `hf auth login`, or set HF_TOKEN"),
        (errors.GatedRepoError, f"{repo} is gated; ask for access on its page"),
        (errors.RepositoryNotFoundError, f"no repository {repo} that this token may see"),
        (errors.RevisionNotFoundError, f"{repo} has no such revision"),
        (errors.EntryNotFoundError, f"{repo} lacks a file of an adapter"),
    )
    found = next((text for kind, text in known for e in chain_of(error) if answered(e, kind)), None)
    if found or status is not None:
        return ValueError(found or meaning(status, repo, write, said))
    if any("Timeout" in type(e).__name__ for e in chain_of(error)):
        return ValueError(f"the Hub does not answer (for {SILENCE:g} s); try again later")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return ValueError(f"cannot reach the Hub, and {repo} is neither in the local cache nor a folder")
    return ValueError(f"cannot reach the Hub: {said}")


def answered(error: BaseException, kind: type) -> bool:
    """Whether an error is of a kind and the Hub's own: what only the cache lacks may be there."""
    from huggingface_hub import errors

    return isinstance(error, kind) and not isinstance(error, errors.LocalEntryNotFoundError)


def meaning(status: int, repo: str, write: bool, said: str) -> str:
    """An HTTP status in words."""
    if status == 401:
        return "the Hub does not accept this token; make one with write access and run `hf auth login`"
    if status == 403:
        return f"this token has no right to {'write to' if write else 'read'} {repo}"
    if status == 404:
        return f"the Hub has no {repo}, or not this part of it: {said}"
    if status == 409:
        return f"somebody else changes {repo} at this moment; try again"
    if status == 429:
        return "the Hub takes no more requests from here for now; try again later"
    if status >= 500:
        return f"the Hub has a problem of its own ({status}); try again later"
    return f"the Hub refused {repo} ({status}): {said}"
