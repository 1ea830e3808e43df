"""The app: its commands, and the one way out for every error."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from typing import Annotated

import typer

from .. import __version__
from .attack import attack
from .classify import classify
from .doctor import doctor
from .erase import erase
from .errors import DEBUG, fail, message_of
from .evaluate import evaluate
from .export import export
from .generate import generate
from .inspect import show
from .merge import merge
from .models import models
from .prompts import prompts
from .pull import pull
from .push import push
from .recipes import recipes
from .report import report

ABOUT = "Erase concepts from diffusion models with small adapters (SEMU)."
COMMANDS = {
    "Erase": {"erase": erase, "prompts": prompts, "classify": classify},
    "Look and measure": {"generate": generate, "eval": evaluate, "report": report, "attack": attack},
    "Ship": {"inspect": show, "export": export, "merge": merge, "push": push, "pull": pull},
    "About": {"models": models, "recipes": recipes, "doctor": doctor},
}
FORMER = ("generate", "eval", "export", "attack")  # commands that took the adapter as --adapter

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)


def show_version(wanted: bool) -> None:
    """The version on stdout, and nothing else."""
    if wanted:
        print(f"semu {__version__}")
        raise typer.Exit()


@app.callback(help=ABOUT)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show where an error came from; may stand anywhere.")] = False,
) -> None:
    pass


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
        status = app(modernised(arguments), standalone_mode=False)
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
