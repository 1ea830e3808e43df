"""`semu doctor`: what a bug report needs."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

from .options import Json


def doctor(as_json: Json = False) -> None:
    """Print versions, devices, memory, optional packages, cache and token state, for a bug report.

    semu doctor
    """
    from ..versions import OWN, versions

    needed, optional = requirements(OWN)
    installed = {name: found for name, found in versions(optional).items() if name != "python"}
    facts = {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}, Python {platform.python_version()}",
        "packages": versions((OWN, *needed)),
        "optional packages": installed,
        "devices": devices(),
        "memory": memory(),
        "hub": hub(),
    }
    if as_json:
        print(json.dumps(facts))
        return
    for title, fact in facts.items():
        print(f"{title}: {fact}" if isinstance(fact, str) else f"{title}:")
        for key, value in fact.items() if isinstance(fact, dict) else ():
            print(f"  {key}: {value}")


def requirements(package: str) -> tuple[list[str], list[str]]:
    """What a package needs, and what its extras need; nothing where it runs from a bare checkout."""
    try:
        lines = [Requirement(line) for line in requires(package) or ()]
    except PackageNotFoundError:
        return [], []
    is_extra = lambda line: line.marker is not None and "extra" in str(line.marker)  # noqa: E731
    needed = sorted({line.name for line in lines if not is_extra(line)})
    return needed, sorted({line.name for line in lines if is_extra(line)} - {*needed})


def devices() -> dict[str, str]:
    """What torch can compute on."""
    import torch

    found = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    for k in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(k)
        name = torch.cuda.get_device_name(k)
        found[f"cuda:{k}"] = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        found["mps"] = "available"
    return found


def memory() -> dict[str, str]:
    """Memory and disk of this machine."""
    import psutil
    from huggingface_hub.constants import HF_HUB_CACHE

    ram, place = psutil.virtual_memory(), Path(HF_HUB_CACHE)
    disk = shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists()))
    return {
        "memory": f"{ram.available / 2**30:.1f} of {ram.total / 2**30:.1f} GiB free",
        "disk of the cache": f"{disk.free / 2**30:.1f} of {disk.total / 2**30:.1f} GiB free",
    }


def hub() -> dict[str, str]:
    """Where models are cached, and whether there is a token; never the token itself."""
    from huggingface_hub import constants, get_token

    return {
        "cache": constants.HF_HUB_CACHE,
        "offline": "yes" if constants.HF_HUB_OFFLINE else "no",
        "token": "present" if get_token() else "none",
    }
