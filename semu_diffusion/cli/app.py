"""The app: its commands, and the one way out for every error."""

from __future__ import annotations

import sys
import typing

import typer

from .attack import attack
from .classify import classify
from .erase import erase
from .evaluate import evaluate
from .export import export
from .generate import generate
from .inspect import show
from .merge import merge
from .models import models
from .pull import pull
from .push import push
from .report import report

app = typer.Typer(
    help="Erase concepts from diffusion models with small adapters (SEMU).",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in {
    "erase": erase,
    "classify": classify,
    "attack": attack,
    "generate": generate,
    "export": export,
    "merge": merge,
    "push": push,
    "pull": pull,
    "report": report,
    "inspect": show,
    "eval": evaluate,
    "models": models,
}.items():
    app.command(name)(command)


def main() -> None:
    """Entry point: every error of the user's ends in one line and exit status 2."""
    try:
        status = app(standalone_mode=False)
    except (ValueError, FloatingPointError) as error:
        fail(str(error))
    except OSError as error:
        fail(str(error))
    except Exception as error:
        # Typer and click raise usage errors of their own classes; they know how to say what is wrong.
        if not hasattr(error, "format_message"):
            raise
        fail(error.format_message())
    if status == 130:  # what Typer makes of Ctrl-C
        fail("interrupted; an erasure goes on with --resume", 130)
    sys.exit(status if isinstance(status, int) else 0)


def fail(message: str, status: int = 2) -> typing.NoReturn:
    """One line on stderr."""
    print(f"semu: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
