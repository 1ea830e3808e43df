"""What every test shares: one thread, no network, the same random numbers each time."""

import functools
import gc
import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # also of other processes; where it is absent, Accelerate takes all cores for each

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "semu_diffusion" / "assets" / "pictograms"


@pytest.fixture(scope="session", autouse=True)
def frozen_imports():
    """What the imports made is never garbage: looking through it costs 0.3 s each time, and every erasure does once."""
    import diffusers.pipelines.stable_diffusion
    import peft
    import transformers.models.clip

    from semu_diffusion.cli.app import make_app

    assert all((diffusers.pipelines.stable_diffusion, peft, transformers.models.clip, make_app()))
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_of_either():
    """One forgotten and one kept picture in before_after.png: eight take longer than a small erasure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("semu_diffusion.evaluation.finish.SHOWN", 1)
        yield


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def semu(capsys):
    """Runs the entry point with arguments: status, stdout, stderr."""
    from shell import call_semu

    return lambda *arguments: (call_semu(*arguments), *capsys.readouterr())


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of the embedded pictograms checkpoint."""
    if not ASSETS.is_dir():
        pytest.skip("the pictograms checkpoint (semu_diffusion/assets/pictograms) is absent")
    return ASSETS


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of a tiny Stable Diffusion pipeline with random weights; nothing may write into it."""
    from tiny import build

    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_v_model(tmp_path_factory) -> Path:
    """The same with v prediction."""
    from tiny import build

    return build(tmp_path_factory.mktemp("tiny_v"), prediction_type="v_prediction")


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory):
    """Name -> the folder of a tiny pipeline of that family, built once; nothing may write into it."""
    from tiny_families import build_family

    return functools.cache(lambda name: build_family(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def browser():
    """This machine's Chromium, headless."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'semu-diffusion[browser]'")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def examples():
    """200 small pictures of four classes, for classifiers."""
    from classifiers import pictures

    return pictures(200, 0)


@pytest.fixture(scope="session")
def classifier(examples):
    """A small classifier that was trained on them; nothing may change it."""
    from classifiers import Net

    from semu_diffusion.classification import fit

    torch.manual_seed(0)
    return fit(Net(), examples, epochs=8, batch_size=32)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local server that answers as the Hub does."""
    from hub_stub import Hub

    hub = Hub()
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
    monkeypatch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("diffusers.loaders.lora_base.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_dummy")
    yield hub
    if hub.up:
        hub.close()
