"""The state of a training run in one safetensors file, so that it goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from ..adapter.sealed import load_sealed, save_sealed


class Checkpoint:
    """Model, momentum, learning rates and random states of a run; `run` says which, in plain numbers and words."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
        run: dict,
    ):
        self.path, self.model, self.optimizer, self.schedule = path, model, optimizer, schedule
        self.generator, self.run = generator, json.loads(json.dumps(run))

    def save(self, epoch: int) -> None:
        """Writes the state after `epoch` epochs; a temporary name first."""
        moments = self.optimizer.state_dict()
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"sgd.{k}.{name}": v for k, row in moments["state"].items() for name, v in row.items()}
        tensors |= {"random.order": self.generator.get_state(), "random.torch": torch.get_rng_state()}
        groups = [{k: group[k] for k in ("lr", "momentum")} for group in moments["param_groups"]]  # both cycle
        header = {"epoch": epoch, "groups": groups, "step": self.schedule.last_epoch, "run": self.run}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_sealed(tensors, self.path, {"run": json.dumps(header)})

    def load(self) -> int:
        """Restores what `save` wrote; returns the epochs that are done, 0 where there is no file.

        Raises:
            ValueError: the file is damaged, or the checkpoint of another run.
        """
        if not self.path.is_file():
            return 0
        tensors, facts = load_sealed(self.path)
        header = json.loads(facts["run"])
        if header["run"] != self.run:
            raise ValueError(f"{self.path} is of another run ({header['run']}, not {self.run}); remove it or rename it")
        groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "sgd": {}, "random": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            groups[kind][name] = value
        self.model.load_state_dict(groups["model"])
        state = self.optimizer.state_dict()
        for key, value in groups["sgd"].items():
            k, _, name = key.partition(".")
            state["state"].setdefault(int(k), {})[name] = value
        for group, saved in zip(state["param_groups"], header["groups"], strict=True):
            group.update(saved)
        self.optimizer.load_state_dict(state)
        self.schedule.last_epoch = header["step"]
        self.generator.set_state(groups["random"]["order"])
        torch.set_rng_state(groups["random"]["torch"])
        return header["epoch"]
