"""What every test shares: one thread, no network, the same random numbers each time."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

ASSETS = Path(__file__).resolve().parents[1] / "semu_diffusion" / "assets" / "pictograms"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of the embedded pictograms checkpoint."""
    if not ASSETS.is_dir():
        pytest.skip("the pictograms checkpoint (semu_diffusion/assets/pictograms) is absent")
    return ASSETS
