"""What the benchmark programs share: their command line, what a result was made with, and results files.

Importing it loads nothing heavy, so that `--help` of a program stays quick.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

# ---------------------------------------------------------------------------------------- command line


class DefaultsHelp(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not those that say nothing: None and an empty list."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser that is described by the first line of the program's docstring."""
    return argparse.ArgumentParser(description=doc.splitlines()[0], formatter_class=DefaultsHelp)


def option(text: str) -> tuple[str, object]:
    """OPTION=VALUE as the keyword and the value in it, read as YAML; a `type` for argparse.

    Raises:
        argparse.ArgumentTypeError: no "=" in it, or no YAML behind that.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not OPTION=VALUE")
    try:
        return name.replace("-", "_"), yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"cannot read the value of {text!r}") from None


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of a program with sizes, whose tiny one is for tests: it may not take the results file's place."""
    args = parser.parse_args()
    if args.size == "tiny" and args.output == parser.get_default("output"):
        parser.error("the tiny size is no result: give it another --output")
    return args


def add_set(parser: argparse.ArgumentParser, flag: str = "--set", help: str = "an option of semu erase") -> None:
    """A repeatable flag for options of `semu erase`; `dict` of the parsed value has them by keyword."""
    parser.add_argument(flag, action="append", default=[], type=option, metavar="OPTION=VALUE", help=help)


# ------------------------------------------------------------------------------------------ provenance


def command() -> str:
    """The command line of this program, for a shell; of `python -m` the module's name, not its file's."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec else sys.argv[:1]
    return shlex.join(["python", *program, *sys.argv[1:]])


def machine(**more) -> dict:
    """Where the numbers were made, with `more` about how, such as workers and threads."""
    return {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), **more}


def resolved(options: dict) -> dict:
    """All options of an erasure with these set and the others at their defaults, without the concept.

    Raises:
        SystemExit: an option that does not exist, or a value outside its range.
    """
    from semu_diffusion.diffusion import EraseConfig
    from semu_diffusion.evaluation.suites.pictograms import GUIDANCE, SAMPLER_STEPS

    own = {"sampler_steps": SAMPLER_STEPS, "guidance": GUIDANCE}  # of the embedded model, which all benchmarks are on
    try:
        config = EraseConfig(concept="x", **{**own, **options})
    except (TypeError, ValueError) as error:
        raise SystemExit(f"--set: {error}") from None
    return {k: v for k, v in config.to_dict().items() if k != "concept"}


# ----------------------------------------------------------------------------------------------- files


def read_json(path: Path) -> dict:
    """A results file; {} where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def write_text(path: Path, text: str) -> None:
    """The whole file or, if that fails, the one before; its folder is made."""
    from semu_diffusion.adapter.weights import write_atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)


def write_json(path: Path, content: dict) -> None:
    """A results file, as `write_text`."""
    write_text(path, json.dumps(content, indent=1))


def rows_like(path: Path, head: dict, keys: Iterable[str]) -> list[dict]:
    """The rows of a results file that has what `head` has under these keys; none of another file."""
    old = read_json(path)
    return old["rows"] if old and all(old.get(key) == head[key] for key in keys) else []


def resumed(path: Path, head: dict, keys: Iterable[str]) -> dict:
    """A results file to go on with; {} where there is none. `head` gets, as `earlier`, the other commands of its rows.

    Raises:
        SystemExit: it has something else than `head` under one of these keys; measured rows are not written over.
    """
    old, new = read_json(path), json.loads(json.dumps(head))  # as it would come back: lists for tuples
    name = next((difference(key, old.get(key), new[key]) for key in keys if old and old.get(key) != new[key]), None)
    if name:
        raise SystemExit(f"error: {path} was made with another {name}; give another --output, or remove it")
    commands = dict.fromkeys([*old.get("earlier", []), old.get("command")])
    if earlier := [one for one in commands if one not in (None, head.get("command"))]:
        head["earlier"] = earlier
    return old


def difference(key: str, old: object, new: object) -> str:
    """What differs between two values of a key: of two dicts their first such entry."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return key
    return next(k for k in {**new, **old} if k not in old or k not in new or old[k] != new[k])
