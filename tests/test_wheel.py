"""A wheel built from the tree, installed where the checkout is not, does the job."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tiny import QUICK, flags

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # which may name the checkout


def run(*command, **options) -> subprocess.CompletedProcess:
    """A program that does not see the checkout, and what it said."""
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=ENVIRONMENT, **options)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The programs of an environment with the wheel and, from this one, the libraries it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    tree = folder / "tree"  # a copy, as building writes into it and would ship what an earlier build left there
    shutil.copytree(ROOT / "semu_diffusion", tree / "semu_diffusion", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    done = run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, tree)
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    programs = folder / "env" / "bin"
    packages = next((folder / "env" / "lib").glob("python*/site-packages"))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth files are not read
    wheel = next(folder.glob("*.whl"))
    done = run(*pip, "--python", programs / "python", "install", "--no-deps", "--force-reinstall", wheel)
    assert done.returncode == 0, done.stderr
    return programs


def test_the_wheel_erases_from_the_embedded_model(installed, tmp_path):
    where = "import semu_diffusion; print(semu_diffusion.__file__)"
    found = run(installed / "python", "-c", where, cwd=tmp_path)
    assert found.stdout.startswith(str(installed.parent)), (found.stdout, found.stderr)
    words = ["erase", "--concept", "cigarette", "--output", "out", "--no-evaluate", "--json", "--quiet"]
    little = flags(**{**QUICK, "latents": 4, "keep_latents": 4, "steps": 2})
    done = run(installed / "semu", *words, *little, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["training"]["layers"] > 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    report = run(installed / "semu", "report", "out", cwd=tmp_path)
    assert report.returncode == 0 and (tmp_path / "out" / "report.html").is_file(), report.stderr
