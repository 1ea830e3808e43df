"""Trains R: the forgetting loss on the concept's states, the keep loss on all others, teacher from the records."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from ..adapter.gradients import LossScale
from ..adapter.sealed import load_sealed, save_sealed
from ..adapter.subspace import param_groups
from ..callbacks import Stopped
from .adversary import Adversary
from .checkpoint import put_back, trained_state
from .config import EraseConfig
from .devices import is_hooked
from .families import Family, beside, moved
from .lasting import strengths, weights
from .memory import Batches, default_batches, parts_of
from .objectives import OBJECTIVES, remaining_share, squared_error
from .pipeline import base_name
from .precision import set_scaler
from .processes import check_parts
from .schedule import Progress, Schedule
from .states import ANCHOR, EMPTY, FORGET, KEEP, REMAIN, States, fingerprint

PLANNED = ("sketch", "gradient_checkpointing", "accumulate", "geometry")  # --max-memory may choose these by machine
HELD_OUT = 48  # records of the concept that are measured on and never trained on


@dataclass
class Batch:
    """Indices into the states: forgotten and kept records of one step, and the forgotten ones' adversarial shifts."""

    forget: torch.Tensor
    keep: torch.Tensor
    shift: torch.Tensor


class Trainer:
    """Owns the loop and knows nothing of prompts: states in, trained R out."""

    def __init__(self, family: Family, config: EraseConfig, states: States, accelerator: Accelerator, folder: Path,
                 scale: LossScale | None = None, batches: Batches | None = None):  # fmt: skip
        self.batches = batches or default_batches(config)
        self.family, self.config, self.states = family, config, states
        self.accelerator, self.folder, self.scale, self.ranks = accelerator, folder, scale, family.ranks
        check_parts(config, self.ranks)
        order = states.of_kind(FORGET)
        order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(config.seed))]
        held = min(HELD_OUT, len(order) // 4)
        self.held_out, self.forget = order[:held], order[held:]
        kept = [(KEEP, 0.7), (EMPTY, 0.15), (ANCHOR, 0.15)] if config.keep_weight else []
        kept += [(REMAIN, 1.0)] if config.beta else []
        self.kept = [(index, share) for kind, share in kept if len(index := states.of_kind(kind))]
        empty = states.prompt[states.of_kind(EMPTY)[:1]].tolist()
        self.schedule = Schedule(config)
        self.far = False  # whether a lasting round is on
        self.adversary = Adversary(moved(states.contexts, accelerator.device), *empty or [None])
        if config.adversarial and self.adversary.shifts is None:
            raise ValueError("adversarial rounds shift text states, which this model is not given; use --adversarial 0")

    # ------------------------------------------------------------------------------------------ losses

    def predict(self, model: nn.Module, index: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
        """The model's predictions at records, under adversarial shifts by number where given."""
        device, s = self.accelerator.device, self.states
        x, t, prompt = s.x[index].to(device), s.t[index].to(device), s.prompt[index].to(device)
        with self.accelerator.autocast():
            return self.family.call(model, x, t, self.adversary.conditions(prompt, shift))

    def targets(self, index: torch.Tensor, strength: torch.Tensor | None = None) -> torch.Tensor:
        """Where forgotten records shall go, as strong as the choices say or each by its own (N,)."""
        s, device = self.states, self.accelerator.device
        concept, anchor, empty = (v[index].to(device) for v in (s.concept, s.anchor, s.empty))
        strength = self.config.strength if strength is None else beside(strength, concept).to(concept)
        return OBJECTIVES[self.config.objective](concept, anchor, empty, strength)

    def forgetting_loss(self, answers: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Mean squared error of answers at forgotten records to their targets; in lasting rounds to far ones."""
        if not self.far:
            return squared_error(answers, self.targets(index))
        strength = strengths(self.config.strength, self.states.shown[index])
        weight = weights(strength).to(answers.device)
        error = squared_error(answers, self.targets(index, strength), weight)
        return error * weight.mean()  # so that no record's share depends on the others in its part of the batch

    def loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Forgetting, keep and remain losses in one forward pass; and the parts."""
        shift = torch.cat([batch.shift, torch.zeros_like(batch.keep)])
        predicted = self.predict(model, torch.cat([batch.forget, batch.keep]), shift)
        drop, stay = predicted.split([len(batch.forget), len(batch.keep)])
        forgetting = self.forgetting_loss(drop, batch.forget)
        loss, parts = forgetting, {"forget": forgetting.item()}
        if len(batch.keep):
            remain = self.states.kind[batch.keep] == REMAIN
            weight = torch.where(remain, self.config.beta, self.config.keep_weight).to(predicted.device)
            error = squared_error(stay, self.states.concept[batch.keep].to(predicted.device), weight)
            loss = loss + error * weight.mean()
            parts["keep"] = error.item()
        return loss, parts

    def forgetting_gradient(self, model: nn.Module) -> Callable[[], None]:
        """A closure that back-propagates the forgetting loss over this process's share of the forget records."""
        records = self.ranks.whole(self.forget_records)

        def backward() -> None:
            for index in parts_of(self.ranks.own(records), self.batches.gradient):
                share = len(index) / len(records)
                loss = share * squared_error(self.predict(model, index), self.targets(index))
                (self.scale.value * loss if self.scale else loss).backward()

        return backward

    @property
    def forget_records(self) -> torch.Tensor:
        """The records of the forgetting gradient, of all processes."""
        return self.forget[: self.config.gradient_records]  # in random order since __init__

    @property
    def kept_records(self) -> torch.Tensor:
        """The records of what must stay, of all processes: 3 of 4 of kept prompts."""
        generator, count = torch.Generator().manual_seed(self.config.seed), self.config.moment_records
        kinds = [self.states.of_kind(kind) for kind in (KEEP, EMPTY)]
        keep, empty = (index[torch.randperm(len(index), generator=generator)] for index in kinds)
        prompted = count - min(count // 4, len(empty))
        return torch.cat([keep[:prompted], empty[: count - prompted]])

    def kept_forward(self, model: nn.Module) -> Callable[[], None]:
        """A closure that runs the model on this process's share of what must stay, for the remain geometry."""
        own = self.ranks.own(self.ranks.whole(self.kept_records))
        return lambda: [self.predict(model, index) for index in parts_of(own, self.batches.moments)]

    def forgotten_forward(self, model: nn.Module) -> Callable[[], None]:
        """A closure that runs the model on the concept's records, as many as `kept_forward` does on others."""
        own = self.ranks.own(self.ranks.whole(self.forget[: self.config.moment_records]))
        return lambda: [self.predict(model, index) for index in parts_of(own, self.batches.moments)]

    @torch.no_grad()
    def share_left(self, model: nn.Module) -> float:
        """How much of the way to the targets is still to go, on held-out records: 1 untouched, 0 there."""
        way, shifts = torch.zeros(2, dtype=torch.float64), self.adversary.spread(len(self.held_out))
        own = (parts_of(self.ranks.own(self.ranks.whole(v)), self.batches.checked) for v in (self.held_out, shifts))
        for index, shift in zip(*own, strict=True):
            concept = self.states.concept[index].to(self.accelerator.device)
            way += torch.tensor(
                remaining_share(self.predict(model, index, shift), concept, self.targets(index)), dtype=torch.float64
            )
        over, under = self.ranks.add(way).tolist()  # the same everywhere, or some would stop before others
        return over / under if under else 0.0

    # ------------------------------------------------------------------------------------------- batches

    def batch(self, step: int) -> Batch:
        """The batch of a step over all processes, a function of (seed, step) alone."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        n = self.config.batch_size
        forget = self.forget[torch.randint(len(self.forget), (n,), generator=generator)]
        keep = [torch.empty(0, dtype=torch.long)]
        if self.kept:  # n records in all, at even distances along the shares: each kind has its share on average
            shares = torch.tensor([share for _, share in self.kept]).cumsum(0)
            places = (torch.arange(n) + torch.rand(1, generator=generator)) / n * shares[-1]
            kinds = torch.bucketize(places, shares[:-1], right=True)
            for kind, (index, _) in enumerate(self.kept):
                count = int((kinds == kind).sum())
                keep.append(index[torch.randint(len(index), (count,), generator=generator)])
        return Batch(forget, torch.cat(keep), self.adversary.pick(n, generator))

    # ---------------------------------------------------------------------------------------------- loop

    def optimizer(self) -> torch.optim.Adam:
        return torch.optim.Adam(param_groups(self.family.model, self.config.lr), betas=(0.9, 0.99))

    def prepared(self, optimizer: torch.optim.Adam) -> tuple[nn.Module, object]:
        """The model and its optimizer as accelerate trains them; what is sharded is so already, and R is whole."""
        if self.ranks.sharded:
            return self.family.model, self.accelerator.prepare_optimizer(optimizer, device_placement=False)
        placed = [not is_hooked(self.family.model), False]  # hooks place what is offloaded
        with warnings.catch_warnings():
            # Of accelerate's words for torch: the argument's new name is not known to all versions allowed here.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return self.accelerator.prepare(self.family.model, optimizer, device_placement=placed)

    def train(self, report: Callable[[dict], None]) -> Progress:
        """Runs until the stop rule and the cooldown after it are done; `report` gets a row per step.

        Raises:
            FloatingPointError: the loss is not finite; the last checkpoint is left as it is.
        """
        progress, optimizer = Progress(), self.optimizer()
        set_scaler(self.accelerator, self.scale)
        base = [group["lr"] for group in optimizer.param_groups]
        progress, base = self.resume(optimizer, progress, base)
        model, prepared = self.prepared(optimizer)
        held = len(self.ranks.whole(self.held_out)) > 0
        while progress.step < self.schedule.end(progress):
            for group, lr in zip(prepared.param_groups, base, strict=True):
                group["lr"] = lr * self.schedule.rate(progress)
            self.far = len(progress.attacks) > self.config.adversarial
            row = self.step(model, prepared, progress.step)
            progress.step += 1
            if held and self.schedule.check_due(progress):
                row["left"] = self.share_left(self.family.model)
            progress.history.append(row)
            if self.schedule.attack_due(progress):
                self.attack(progress)
            progress.reached = progress.reached or progress.step * (
                self.schedule.met(progress) and not progress.attacks
            )
            try:
                report(row)
            except Stopped:
                self.save(optimizer, progress)
                raise
            if progress.step % self.config.save_every == 0:
                self.save(optimizer, progress)
        model = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # DDP and autocast come off again
        self.accelerator.free_memory()
        self.save(optimizer, progress)
        return progress

    def step(self, model: nn.Module, optimizer, step: int) -> dict:
        """One optimizer step over `accumulate` parts of the batch."""
        whole = self.batch(step)
        if len(self.adversary):
            self.follow(whole)
        while True:
            row = self.gradient(model, whole, step)
            optimizer.step()
            optimizer.zero_grad()
            if not optimizer.step_was_skipped:  # else fp16 overflowed, and the loss is scaled less from now on
                return row

    def gradient(self, model: nn.Module, whole: Batch, step: int) -> dict:
        """Back-propagates the loss of a batch; the step's row of the history."""
        row, n = {"step": step + 1}, self.config.accumulate
        own = (self.ranks.own(v).tensor_split(n) for v in (whole.forget, whole.keep, whole.shift))
        for part in zip(*own, strict=True):
            loss, parts = self.loss(model, Batch(*part))
            self.accelerator.backward(loss / n)
            row["loss"] = row.get("loss", 0.0) + loss.item() / n
            for key, value in parts.items():
                row[key] = row.get(key, 0.0) + value / n
        if self.ranks.sharded:  # as DDP does where the model is whole
            self.ranks.average([p.grad for p in self.family.model.parameters() if p.grad is not None])
        row = self.over_processes(row)
        if not torch.isfinite(torch.tensor(row["loss"])):
            raise FloatingPointError(
                f"the loss is {row['loss']} at step {step + 1}; lower --lr or use --mixed-precision no"
            )
        return row

    def over_processes(self, row: dict) -> dict:
        """The losses as means over the processes, each of which saw its part of the batch."""
        if self.ranks.count == 1:
            return row
        values = torch.tensor([*row.values()], dtype=torch.float64)
        self.ranks.average([values])
        return {**dict(zip(row, values.tolist())), "step": row["step"]}

    # ------------------------------------------------------------------------------------------- rounds

    def attack(self, progress: Progress) -> None:
        """Begins a round; an adversarial one with more shifts, which `follow` takes to where the concept is drawn."""
        if len(progress.attacks) < self.config.adversarial:
            generator = torch.Generator().manual_seed((self.config.seed + 1) * 1_000_003 + len(progress.attacks))
            self.adversary.start(generator)
        progress.attacks.append(progress.step)

    def follow(self, batch: Batch) -> None:
        """Moves the shifts of a batch to where the adapted model answers more as the frozen one does to the concept."""
        hit, pull = batch.shift > 0, torch.zeros_like(self.adversary.shifts)
        own = (self.ranks.own(self.ranks.whole(v[hit])) for v in (batch.forget, batch.shift))
        for index, number in zip(*(v.tensor_split(self.config.accumulate) for v in own)):
            if len(index):
                pull = pull + self.adversary.pull(partial(self.distance, index, number))
        self.adversary.follow(self.ranks.add(pull))

    def distance(self, index: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """How far the model's answers to records under shifts are from the frozen model's to the concept, summed."""
        concept = self.states.concept[index].to(self.accelerator.device)
        return (self.predict(self.family.model, index, shift).float() - concept).square().sum()

    # -------------------------------------------------------------------------------------- checkpoints

    @property
    def key(self) -> str:
        """What a checkpoint must have been made of to be gone on with: the model and the options."""
        options = {k: v for k, v in self.config.to_dict().items() if k not in PLANNED}
        return fingerprint(model=base_name(self.family.pipe), **options)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def save(self, optimizer: torch.optim.Adam, progress: Progress) -> None:
        """The adapter, Adam's moments and the history in one file, under a temporary name first."""
        if not self.accelerator.is_main_process:
            return
        tensors = trained_state(self.family.model, optimizer)
        if len(self.adversary):
            tensors["adversary:shifts"] = self.adversary.shifts
        save_sealed(tensors, self.checkpoint, {"key": self.key, "progress": json.dumps(asdict(progress))})

    def resume(self, optimizer: torch.optim.Adam, progress: Progress, base: list[float]):
        """Puts back what `save` wrote, where there is such a file; returns the progress and the base rates.

        Raises:
            ValueError: a damaged file, or the checkpoint of another erasure.
        """
        found = load_sealed(self.checkpoint) if self.accelerator.is_main_process and self.checkpoint.is_file() else None
        found = self.ranks.first(found)  # others may be on machines that do not see the first one's folder
        if found is None:
            return progress, base
        stored, facts = found
        if facts.get("key") != self.key:
            raise ValueError(f"{self.checkpoint} is of another erasure; begin again with --overwrite")
        progress = Progress(**json.loads(facts["progress"]))
        if "adversary:shifts" in stored:
            self.adversary.shifts = stored["adversary:shifts"].to(self.accelerator.device)
        put_back(stored, self.family.model, optimizer, self.optimizer)
        return progress, [group["lr"] for group in optimizer.param_groups]
