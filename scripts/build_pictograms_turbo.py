"""Distils the embedded checkpoint to few steps without guidance, as the Turbo and Lightning models are.

    python scripts/build_pictograms_turbo.py                   # everything, into build/pictograms_turbo/model
    python scripts/build_pictograms_turbo.py --stage distil    # one stage; it goes on where it was stopped

Stages: trajectories, distil, export, check. The teacher draws with guidance and twice as many steps; the student learns
to come in one step, without guidance, to where two of the teacher's lead: progressive distillation (arXiv 2202.00512)
of a guided model (arXiv 2210.03142), whose pairs of states are drawn once and learned from several times. The folder's
scheduler is Euler's with trailing steps, as SDXL-Lightning's (arXiv 2402.13929), by which its sampler is known. Half an
hour on one CPU core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from build_pictograms import OBJECTS, STYLES, accuracy, captions, random_caption
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from pictograms_training import averaged, fit, indices
from render_pictograms import sheet
from rich.progress import track
from safetensors import safe_open
from stages import run_stages, stage_parser

from semu_diffusion.adapter.weights import save_atomic
from semu_diffusion.diffusion.families import sampler_of
from semu_diffusion.diffusion.folders import save_folder
from semu_diffusion.pictograms.oracle import load_oracle
from semu_diffusion.pictograms.words import ASSETS, SIZE, caption

TOGETHER = 64  # trajectories of one file


def make_few(scheduler, steps: int) -> EulerDiscreteScheduler:
    """The student's scheduler, its steps set: equal ones from pure noise on."""
    few = EulerDiscreteScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    few.set_timesteps(steps)
    return few


# ---------------------------------------------------------------------------------------------- stages


@torch.no_grad()
def guided_trajectory(pipe, texts: list[str], generator: torch.Generator, args) -> torch.Tensor:
    """The teacher's states (B, student steps + 1, C, H, W) before each of the student's steps, and where it ends."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(args.substeps * args.student_steps)
    text = pipe.text_encoder(captions(pipe.tokenizer, texts + [""] * len(texts)).to(args.device)).last_hidden_state
    noise = torch.randn(len(texts), pipe.unet.config.in_channels, SIZE // 8, SIZE // 8, generator=generator)
    x = scheduler.add_noise(torch.zeros_like(noise), noise, scheduler.timesteps[:1]).to(args.device)
    states = []
    for k, t in enumerate(scheduler.timesteps):
        if k % args.substeps == 0:
            states.append(x)
        own, empty = pipe.unet(x.repeat(2, 1, 1, 1), t, text).sample.chunk(2)
        x = scheduler.step(empty + args.guidance * (own - empty), t, x).prev_sample
    return torch.stack([*states, x], 1).cpu()


def stage_trajectories(args) -> None:
    """Files of trajectories with their captions, each a function of (seed, number) alone."""
    pipe, folder = StableDiffusionPipeline.from_pretrained(args.teacher).to(args.device), args.workdir / "trajectories"
    rank, world = args.accelerator.process_index, args.accelerator.num_processes
    folder.mkdir(exist_ok=True)
    for number in track(range(rank, args.trajectories // TOGETHER, world), "drawing trajectories"):
        if (file := folder / f"{number:04d}.safetensors").exists():
            continue
        rng = np.random.default_rng([args.seed, number])
        cells = zip(rng.integers(len(OBJECTS), size=TOGETHER), rng.integers(len(STYLES), size=TOGETHER), strict=True)
        texts = [random_caption(OBJECTS[o], STYLES[s], rng) for o, s in cells]
        states = guided_trajectory(pipe, texts, torch.Generator().manual_seed(args.seed * 100_003 + number), args)
        save_atomic({"states": states.contiguous()}, file, {"texts": json.dumps(texts)})
    args.accelerator.wait_for_everyone()


def load_trajectories(folder: Path) -> tuple[torch.Tensor, list[str]]:
    """States (N, steps + 1, C, H, W) of all files, and the captions."""
    states, texts = [], []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            states.append(file.get_tensor("states"))
            texts += json.loads(file.metadata()["texts"])
    return torch.cat(states), texts


def stage_distil(args) -> None:
    """One step of the student from each of the teacher's states, against the teacher's next one."""
    pipe = StableDiffusionPipeline.from_pretrained(args.teacher).to(args.device)
    states, texts = load_trajectories(args.workdir / "trajectories")
    few, steps = make_few(pipe.scheduler, args.student_steps), args.student_steps
    times, sigmas = few.timesteps.to(args.device), few.sigmas.to(args.device)  # (steps,), (steps + 1,)
    size = (1 + sigmas.square()).sqrt()  # of the scheduler's x over the model's
    pipe.unet.to(memory_format=torch.channels_last)

    def loss(step: int) -> torch.Tensor:
        i = indices(len(states), args.batch, step, args.seed, args.accelerator.process_index)
        k = torch.arange(args.batch) % steps
        x, target = states[i, k].to(args.device), states[i, k + 1].to(args.device)
        with torch.no_grad():
            text = pipe.text_encoder(captions(pipe.tokenizer, [texts[j] for j in i]).to(args.device)).last_hidden_state
        with args.accelerator.autocast():
            eps = pipe.unet(x, times[k], text).sample.float()
        over = lambda values: values.view(-1, 1, 1, 1)  # noqa: E731
        after = (x * over(size[k]) + over(sigmas[k + 1] - sigmas[k]) * eps) / over(size[k + 1])  # Euler, rescaled
        return F.mse_loss(after, target)

    pipe.unet.requires_grad_(True)
    fit("distil", pipe.unet, loss, args, args.steps, lr=args.lr)


def stage_export(args) -> None:
    """The diffusers folder in fp16, with the student's UNet and scheduler, and the words that the teacher knows."""
    pipe = StableDiffusionPipeline.from_pretrained(args.teacher)
    pipe.unet.requires_grad_(True)
    averaged(args.workdir / "distil", pipe.unet)
    pipe.scheduler = make_few(pipe.scheduler, args.student_steps)
    pipe.to(torch.float16)
    pipe.text_encoder.float()  # transformers 5 loads the stored dtype, diffusers fp32: they must meet
    save_folder(pipe, args.output)
    (args.output / "vocabulary.json").write_text((ASSETS / "vocabulary.json").read_text())


@torch.no_grad()
def stage_check(args) -> None:
    """What the oracle names on unseen seeds, drawn as the folder itself says: its own steps, its own guidance."""
    pipe = StableDiffusionPipeline.from_pretrained(args.output).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    own, oracle = sampler_of(pipe), load_oracle(ASSETS / "oracle").to(args.device)
    cells = [(o, s) for o in range(len(OBJECTS)) for s in range(len(STYLES))] * args.seeds
    images = []
    for start in track(range(0, len(cells), 48), "drawing"):
        part = cells[start : start + 48]
        generators = [torch.Generator().manual_seed(90_000 + start + k) for k in range(len(part))]
        prompts = [caption(OBJECTS[o], STYLES[s]) for o, s in part]
        asked = {"num_inference_steps": own.steps, "guidance_scale": own.guidance, "generator": generators}
        images.append(pipe(prompts, **asked, output_type="pt").images)
    images, (objects, styles) = torch.cat(images), (torch.tensor(x) for x in zip(*cells, strict=True))
    sampler = {"steps": own.steps, "guidance": own.guidance, "few": own.few}
    scores = {"seeds": args.seeds, "sampler": sampler, "drawn": accuracy(oracle, images, objects, styles)}
    grid = (255 * images[: len(OBJECTS) * len(STYLES)]).byte().permute(0, 2, 3, 1).cpu().numpy()
    sheet(grid.reshape(12, 12, SIZE, SIZE, 3)).save(args.output / "sheet.png")
    (args.output / "check.json").write_text(json.dumps(scores, indent=1))
    print(json.dumps(scores))


STAGES = {"trajectories": stage_trajectories, "distil": stage_distil, "export": stage_export, "check": stage_check}


def parse_args() -> argparse.Namespace:
    place = Path("build/pictograms_turbo")
    parser = stage_parser(__doc__.splitlines()[0], STAGES, str(place), place / "model")
    add = parser.add_argument
    add("--teacher", type=Path, default=ASSETS, help="the diffusers folder that is distilled")
    add("--guidance", type=float, default=3.0, help="of the teacher")
    add("--student_steps", type=int, default=4, help="steps that the student draws in")
    add("--substeps", type=int, default=2, help="of the teacher in each step of the student")
    add("--trajectories", type=int, default=2048, help="pictures that the teacher draws")
    add("--steps", type=int, default=400, help="of the training")
    add("--batch", type=int, default=32, help="pairs of states in a step")
    add("--lr", type=float, default=3e-4)
    add("--seeds", type=int, default=2, help="check: pictures per (object, style)")
    return parser.parse_args()


if __name__ == "__main__":
    run_stages(parse_args(), STAGES)
