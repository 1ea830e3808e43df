"""The versions that a result depends on."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

OWN = "semu-diffusion"
PACKAGES = (OWN, "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Package -> version, Python's first; "none" where one is not installed, "source" for this package itself."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source" if name == OWN else "none"
    return found
