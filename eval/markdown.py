"""What the pages of results share: numbers as tables print them, tables, and the line on where they come from."""

from __future__ import annotations

DIGITS = {"drift": 3, "FID": 2}  # of these scores, behind the point; all others are percent, with one


def shown(value: float | None, key: str) -> str:
    """A score as the tables print it."""
    return "–" if value is None else f"{value:.{DIGITS.get(key, 1)}f}"


def seconds(value: float) -> str:
    """Seconds with two digits: 0.082, 1.4, 71."""
    return f"{value:.0f}" if value >= 10 else f"{float(f'{value:.2g}'):g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def made_with(found: dict) -> str:
    """The commands, machine and versions behind a table."""
    machine = found["machine"]
    place = f"{machine['cores']} cores ({machine['processor']})"
    place += f", {machine['workers']} at a time" if "workers" in machine else ""
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    commands = ", ".join(f"`{command}`" for command in [*found.get("earlier", []), found["command"]])
    return f"{commands} on {place}. Versions: {versions}.\n"


def filled(page: str, name: str, text: str) -> str:
    """The page with a text between its marks `<!-- name -->` and `<!-- /name -->`. ValueError where it lacks these."""
    before, begin, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not end:
        raise ValueError(f"the page has no marks <!-- {name} --> and <!-- /{name} -->")
    return f"{before}{begin}\n{text}\n{end}{after}"
