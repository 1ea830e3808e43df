"""What is shipped, what importing it costs, which layer may know which, and the pinned versions."""

import ast
import glob
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from semu_diffusion.cli.app import COMMANDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "semu_diffusion"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# Package data


@pytest.mark.parametrize("folder", ["app", "assets", "evaluation", "recipes"])
def test_every_data_file_is_shipped(folder):
    within = (path for path in (PACKAGE / folder).rglob("*") if path.is_file())
    files = {path.relative_to(PACKAGE) for path in within if path.suffix not in (".py", ".pyc")}
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["semu_diffusion"]
    shipped = {Path(hit) for pattern in patterns for hit in glob.glob(pattern, root_dir=PACKAGE, recursive=True)}
    assert files, f"semu_diffusion/{folder} is empty"
    assert not files - shipped, "no package-data pattern of pyproject.toml matches these"


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert PACKAGE in folders
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


# Imports


def test_import_leaves_the_heavy_libraries_alone():
    code = "import json, sys, semu_diffusion; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = json.loads(result.stdout.splitlines()[-1])
    assert "semu_diffusion" in modules
    assert not {"diffusers", "transformers", "peft"} & set(modules)


HELP = [[name, "--help"] for commands in COMMANDS.values() for name in commands]


@pytest.mark.parametrize("words", (["--version"], ["--help"], ["erasse"], *HELP), ids=" ".join)
def test_the_shell_answers_before_torch_is_there(words):
    code = f"""import json, sys
sys.argv = ["semu", *{words}]
from semu_diffusion.cli import main
try: main()
except SystemExit: print(json.dumps(sorted(sys.modules)))"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = {*json.loads(result.stdout.splitlines()[-1])}
    assert "semu_diffusion.cli.app" in modules and not {"torch", "peft", "gradio"} & modules


def test_commands_are_listed_as_they_call_themselves():
    from semu_diffusion.cli.app import find

    for name, (place, about) in ((n, c) for commands in COMMANDS.values() for n, c in commands.items()):
        assert inspect.getdoc(find(place)).split("\n\n")[0].replace("\n", " ") == about, name


def imported_modules(source: str, package: str) -> set[str]:
    """Absolute names of all that a module of `package` imports, wherever the statement stands in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join(parts + ([node.module] if node.module else []))
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return names


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import semu_diffusion.hub as h", "semu_diffusion.hub"),
        ("from semu_diffusion import hub", "semu_diffusion.hub"),
        ("from semu_diffusion.hub import push", "semu_diffusion.hub"),
        ("from .. import hub", "semu_diffusion.hub"),
        ("def f():\n    from ..hub import push", "semu_diffusion.hub"),
        ("from .svd import cut", "semu_diffusion.adapter.svd"),
    ],
)
def test_imported_modules(source, name):
    assert name in imported_modules(source, "semu_diffusion.adapter")


# From the top to the ground. A room imports from lower floors only; two rooms on one floor leave each other alone.
FLOORS = (
    ("cli",),
    ("app",),
    ("attacks",),
    ("evaluation",),
    ("hub",),
    ("diffusion", "classification"),
    ("adapter",),
    ("metrics", "pictograms"),
    ("inputs",),
)
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
SHARED = ("callbacks", "lazy", "messages", "options", "versions")  # files at the top level, which all may import
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path, typing_only: bool = False) -> set[str]:
    """The modules of this package that a file imports; not those that only a type checker follows."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing_only:
            node.body = [ast.Pass()]
    package = ".".join(path.parent.relative_to(ROOT).parts)
    found = imported_modules(ast.unparse(tree), package)
    named = {name for name in found if name in MODULES}
    packages = {f"{name}.__init__" for name in found if f"{name}.__init__" in MODULES}
    return {name for name in named | packages if MODULES[name] != path}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_floor():
    tops = {room_of(module) for module in MODULES if module != "semu_diffusion.__init__"}
    assert tops == {*ROOMS, *SHARED}


@pytest.mark.parametrize("room", [*ROOMS, *SHARED])
def test_imports_run_one_way(room):
    back = []
    for module, path in MODULES.items():
        if room_of(module) != room:
            continue
        for target in imports_of(path):
            to = room_of(target)
            if to in (room, "__init__", *SHARED):
                continue
            if room in SHARED or ROOMS[to] <= ROOMS[room]:
                back.append(f"{module} -> {target}")
    assert not back, "these imports run back up"


def test_no_file_imports_in_a_circle():
    arrows = {module: {t for t in imports_of(path) if not t.endswith("__init__")} for module, path in MODULES.items()}
    left = dict(arrows)
    while free := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in free:
            del left[module]
    circles = {module: sorted(targets & left.keys()) for module, targets in left.items()}
    assert not circles, "these import each other, or stand above some that do"


@pytest.mark.parametrize("package", sorted(m for m in MODULES if m.endswith("__init__")))
def test_every_name_that_a_package_offers_is_there(package):
    module = importlib.import_module(package.removesuffix(".__init__"))
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None


def test_no_file_is_long():
    long = {str(p.relative_to(ROOT)): n for p in MODULES.values() if (n := p.read_text().count("\n")) > 350}
    assert not long, "a file over 350 lines would read better as two rooms"


# Versions


def read_pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def names_of(requirements: list[Requirement]) -> list[str]:
    return [canonicalize_name(requirement.name) for requirement in requirements]


def test_pinned_versions_satisfy_the_ranges():
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    installed = [Requirement(line) for line in project["dependencies"] + extras["dev"]]  # by `make`
    ranges = [*installed, *(Requirement(line) for lines in extras.values() for line in lines)]
    pins = read_pins()
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in pins)
    assert not set(names_of(installed)) - set(names_of(pins)), "constraints.txt pins no version of these"

    wrong = {
        f"{pin} does not satisfy {wanted}"
        for wanted in ranges
        for pin in pins
        if names_of([pin]) == names_of([wanted])
        and not wanted.specifier.contains(str(pin.specifier).removeprefix("=="), prereleases=True)
    }
    assert not wrong


@pytest.mark.parametrize(
    ("library", "versions", "why"),
    [
        ("peft", ["0.17.1", "0.20.0"], "knows no SEMU of others: Unknown PEFT type"),
        ("transformers", ["4.56.2", "4.57.6"], "TypeError while a pipeline is loaded"),
        ("transformers", ["5.0.0", "5.5.4"], "random text encoders where names lack text_model."),
        ("transformers", ["5.6.0", "5.16.0"], "AutoImageProcessor needs torchvision, which not every torch has"),
        ("accelerate", ["1.10.0"], "the bases of bf16 models lie elsewhere: 0.69 of the fp32 ones"),
        ("diffusers", ["0.36.0", "0.37.1"], "runs code that a stranger's folder holds"),
        ("diffusers", ["0.38.0", "0.39.0"], "reads the kohya file wrongly, or no folder offline"),
        ("diffusers", ["0.40.0"], "cannot read the text encoders of a kohya file under transformers 5.6 and later"),
        ("typer", ["0.12.5", "0.15.4"], "--help is a TypeError with click 8.5"),
        ("typer", ["0.16.0"], "another wording of what is missing, and another first screen"),
        ("torch", ["2.4.1", "2.9.1"], "is below the lowest that the suite was run at"),
        ("safetensors", ["0.4.5", "0.7.0"], "is below the lowest that the suite was run at"),
    ],
)
def test_versions_that_fail_are_not_allowed(library, versions, why):
    """What was found when each bound was installed; `make test-lowest` runs the suite at those that are left."""
    ranges = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
    (wanted,) = (r for r in ranges if canonicalize_name(r.name) == library)
    assert not any(wanted.specifier.contains(version) for version in versions), why


def test_the_lowest_versions_are_those_of_the_project():
    lines = subprocess.run([sys.executable, ROOT / "scripts" / "lower_bounds.py"], capture_output=True, text=True)
    lowest = {canonicalize_name(r.name): str(r.specifier) for r in map(Requirement, lines.stdout.splitlines())}
    project = PYPROJECT["project"]
    for wanted in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]]):
        bound = next(s.version for s in wanted.specifier if s.operator == ">=")
        assert lowest[canonicalize_name(wanted.name)] == f"=={bound}" and wanted.specifier.contains(bound)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_a_python_has_one_pin_of_each_library(python):
    applying = [pin for pin in read_pins() if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    assert len(applying) == len(set(names_of(applying)))
    assert "torch" in names_of(applying)
