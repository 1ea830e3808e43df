"""The app: its commands, and the one way out for every error."""

from __future__ import annotations

import sys
import typing
from typing import Annotated

import typer

from .. import __version__
from .attack import attack
from .classify import classify
from .doctor import doctor
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

ABOUT = "Erase concepts from diffusion models with small adapters (SEMU)."
COMMANDS = {
    "Erase": {"erase": erase, "classify": classify},
    "Look and measure": {"generate": generate, "eval": evaluate, "report": report, "attack": attack},
    "Ship": {"inspect": show, "export": export, "merge": merge, "push": push, "pull": pull},
    "About": {"models": models, "doctor": doctor},
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
    """Entry point: every error of the user's ends in one line and exit status 2."""
    try:
        status = app(modernised(sys.argv[1:]), standalone_mode=False)
    except (ValueError, FloatingPointError) as error:
        fail(str(error))
    except OSError as error:
        fail(str(error))
    except Exception as error:
        # Typer and click raise usage errors of their own classes; they know how to say what is wrong.
        if hasattr(error, "format_message"):
            fail(error.format_message())
        if (said := device_trouble(error)) is None:
            raise
        fail(said)
    if status == 130:  # what Typer makes of Ctrl-C
        fail("interrupted; an erasure goes on with --resume", 130)
    sys.exit(status if isinstance(status, int) else 0)


def device_trouble(error: Exception) -> str | None:
    """What a full or half-empty device means to the user; None for any other error."""
    if type(error).__name__ == "OutOfMemoryError":
        return (
            f"the device's memory is full ({str(error).split('. ')[0]}); give --max-memory, --dtype bf16 or --offload"
        )
    if isinstance(error, NotImplementedError) and "meta tensor" in str(error):
        return "this model cannot be offloaded layer by layer; use --offload model or group"
    return None


def fail(message: str, status: int = 2) -> typing.NoReturn:
    """One line on stderr; none where the help, which was shown, says it all."""
    if message:
        print(f"semu: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
