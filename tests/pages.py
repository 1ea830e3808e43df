"""The README and the pages of docs/ that were written by hand, and what stands in their blocks."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ("benchmark.md", "cifar10.md", "classification.md", "pictograms.md", "scaling.md")
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text()
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if page.name not in GENERATED
}


def words_of(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


def blocks(text: str, language: str) -> list[str]:
    """The contents of all fenced blocks of a language."""
    return re.findall(rf"^```{language}(?: [^\n]*)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The lines of its bash blocks."""
    return [line for b in blocks(text, "bash") for line in b.replace("\\\n", " ").splitlines() if line.strip()]


def files(text: str) -> dict[str, str]:
    """The blocks that a page shows as a file: name -> contents."""
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', text, re.DOTALL | re.MULTILINE))
