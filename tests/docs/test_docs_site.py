"""The docs as a site and as files: links, pages, the reference, and nothing that is fetched from elsewhere."""

import importlib
import re
import sys
from dataclasses import fields

import pytest
import yaml
from pages import PAGES, ROOT

from semu_diffusion.diffusion import EraseConfig

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
TEXTS = {**PAGES, **{n: (ROOT / n).read_text() for n in ("CHANGELOG.md", "SECURITY.md", "docs/benchmark.md")}}


def leaves(nav) -> list[str]:
    """The pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [leaf for part in (nav if isinstance(nav, list) else nav.values()) for leaf in leaves(part)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub and mkdocs give to headings."""
    heads = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_every_page_is_in_the_navigation_and_the_other_way_round():
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert sorted(leaves(SITE["nav"])) == sorted(pages)


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), (page, target)
        assert not anchor or anchor in anchors(file.read_text()), (page, target)


def test_the_reference_names_what_is_there():
    named = re.findall(r"^::: ([\w.]+)$", "\n".join(PAGES.values()), re.MULTILINE)
    assert len(named) > 50
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name


def test_the_map_names_what_is_there():
    """`file.py: name` and every `folder/file.py` of docs/architecture.md."""
    text = PAGES["docs/architecture.md"]
    named = re.findall(r"`((?:\w+/)+\w+\.py)(?:: (\w+))?`", text)
    assert len(named) > 15
    for file, name in named:
        path = next((p for p in (ROOT / "semu_diffusion" / file, ROOT / file) if p.is_file()), None)
        assert path is not None, file
        assert not name or re.search(rf"^ *(class|def) {name}\b", path.read_text(), re.MULTILINE), (file, name)


def test_the_public_names_are_in_the_reference():
    import semu_diffusion

    text = "\n".join(text for name, text in PAGES.items() if name.startswith("docs/api/"))
    missing = [n for n in semu_diffusion.__all__ if n != "__version__" and not re.search(rf"^::: .*\.{n}$", text, re.M)]
    assert not missing


def test_option_tables_are_filled_in(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from docs_options import on_page_markdown

    page = on_page_markdown(PAGES["docs/api/diffusion.md"])
    assert "<!-- options" not in page
    assert all(f"| `{f.name}` | `" in page for f in fields(EraseConfig)) and f"`{EraseConfig.gamma!r}` |" in page
    sys.modules.pop("docs_options")


def test_nothing_is_fetched_from_elsewhere():
    assert SITE["theme"]["font"] is False and "analytics" not in SITE.get("extra", {}) and "repo_url" not in SITE
    assert not any(
        str(url).startswith("http") for key in ("extra_css", "extra_javascript") for url in SITE.get(key, [])
    )


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 120


@pytest.mark.parametrize("page", ["README.md", "docs/formats.md"])
def test_it_is_said_how_an_eraser_stays_on_beside_another_lora(page):
    assert (
        'pipe.set_adapters(["no-cigarette", "style"])' in PAGES[page] and 'adapter_name="no-cigarette"' in PAGES[page]
    )


def test_citation_is_that_of_this_version():
    import semu_diffusion

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == semu_diffusion.__version__ and citation["license"] == "Apache-2.0"
    assert "2502.07587" in citation["preferred-citation"]["identifiers"][0]["value"]
    assert f"[{semu_diffusion.__version__}]" in TEXTS["CHANGELOG.md"] and "[Unreleased]" in TEXTS["CHANGELOG.md"]


@pytest.mark.parametrize("file", sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / ".github").rglob("*.yml")))
def test_workflows_are_yaml_and_run_targets_that_exist(file):
    found = yaml.safe_load((ROOT / file).read_text())
    makefile = (ROOT / "Makefile").read_text()
    steps = [s for job in found.get("jobs", {}).values() for s in job["steps"]]
    targets = [s["run"].split()[1] for s in steps if s.get("run", "").startswith("make ")]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
