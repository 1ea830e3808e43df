"""The entry point: which commands are read, and the one way out for every error."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback

from ..lazy import uncollected
from ..messages import DEBUG, message_of
from .errors import fail

FORMER = ("generate", "eval", "export", "attack")  # commands that took the adapter as --adapter


def commands(arguments: list[str]):
    """The Typer app with the command that is called; with all where the shell asks what could be typed."""
    from .app import NAMES, make_app

    called = next((a for a in arguments if not a.startswith("-")), "")
    completing = any(name in os.environ for name in ("_SEMU_COMPLETE", "_TYPER_COMPLETE_ARGS"))
    with uncollected():
        return make_app(NAMES if completing else [called])


def modernised(arguments: list[str]) -> list[str]:
    """The command line with the former `--adapter X` as the argument X, and a notice of it on stderr."""
    place = next((k for k, a in enumerate(arguments) if a == "--adapter" or a.startswith("--adapter=")), None)
    if not arguments or arguments[0] not in FORMER or place is None:
        return arguments
    _, equals, value = arguments[place].partition("=")
    given = [value] if equals else arguments[place + 1 : place + 2]
    rest = arguments[1:place] + arguments[place + (1 if equals else 2) :]
    print(f"semu: --adapter is an argument now: semu {arguments[0]} {' '.join(given)}", file=sys.stderr)
    return [arguments[0], *given, *rest]


def main() -> None:
    """Entry point: whatever is raised ends in one line, with exit status 2, or 130 after Ctrl-C."""
    arguments = [a for a in sys.argv[1:] if a != DEBUG]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        prepare_process()
        status = commands(arguments)(modernised(arguments), standalone_mode=False)
        sys.stdout.flush()  # here, so that a reader that has gone is noticed
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the interpreter's end
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        fail(*message_of(error))
    if status == 130:  # what Typer makes of Ctrl-C
        fail("interrupted", 130)
    sys.exit(status if isinstance(status, int) else 0)


def prepare_process() -> None:
    """What has to be in order before a command runs: an stdout that takes all letters, and a parent."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: torchrun, killed, leaves no process behind
