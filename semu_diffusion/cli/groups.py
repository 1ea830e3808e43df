"""Options in groups: a command gets one object in the place of many arguments, and several commands the same one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable


def taking(name: str, options: dict[str, inspect.Parameter], make: Callable[..., object]) -> Callable:
    """A decorator that gives a command these options where it has the argument `name`, which `make` makes of them."""

    def give(command: Callable) -> Callable:
        @functools.wraps(command)
        def run(**given):
            own = {key: given.pop(key) for key in options}
            return command(**{name: make(**own)}, **given)

        parameters = []  # not by get_type_hints: on Python 3.10 it hides an annotation whose default is None
        for p in inspect.signature(command, eval_str=True).parameters.values():
            own = p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += options.values() if p.name == name else [own]
        run.__signature__ = inspect.Signature(parameters)
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return give


def keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    """An option of a group."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
