"""Builds a class-conditional DDPM on CIFAR-10 in pixels: a UNet2DModel with labels, dropped for guidance.

    python scripts/build_cifar10_ddpm.py --data folder-with-train-and-test.parquet      # then check with a classifier:
    python scripts/build_cifar10_ddpm.py --stage check --classifier folder --data ...
    python scripts/build_cifar10_ddpm.py --stage unet --steps 100000 --mixed_precision bf16     # it goes on

One core with AVX-512 bf16 trains 65 pictures a second in bf16, 50 in fp32: the default 40,000 steps of 64 are 11 hours
of it. Stages: data, unet, export, check. The state of the training is in --workdir; a stopped run goes on where it was.
The folder that is written loads as a `DDIMPipeline`; classes go by name in `semu erase --model FOLDER --concept
airplane`, and the empty prompt is the class that stands for none.
"""

from __future__ import annotations

import argparse
import json
import math
from functools import partial
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from pictograms_training import averaged, fit, indices
from PIL import Image
from rich.progress import track
from safetensors.torch import load_file
from stages import run_stages, stage_parser
from torch import nn

from semu_diffusion.adapter.weights import save_atomic, write_atomic
from semu_diffusion.classification import PictureJudge, load_classifier, load_data
from semu_diffusion.diffusion.generate import draw
from semu_diffusion.diffusion.loading import load_pipeline
from semu_diffusion.metrics.fid import InceptionDistance, feature_fid

SIDE = 32
DROPPED = 0.1  # share of training pictures that are shown without their label
CARD = """---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [class-conditional, cifar10, toy-scale, unlearning-benchmark]
---

# Class-conditional DDPM on CIFAR-10

A `UNet2DModel` of {weights:,} weights, channels {channels}, with an embedding of {classes} classes and one more for
none; v prediction, cosine schedule; written by `scripts/build_cifar10_ddpm.py` after {steps:,} steps of {batch}
pictures, moving average. Classes by number: {names}.

```bash
semu generate --model FOLDER --prompt {first} --output pictures     # semu-diffusion: classes go by name
semu erase --model FOLDER --concept {first} --output no-{first}
```

Training data: {count:,} pictures of {size} x {size} pixels, CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of
features from tiny images"), from {source}.
{scores}"""
SCORES = """
Of {pictures:,} pictures ({sampler_steps} DDIM steps, guidance {guidance:g}) the classifier names the asked class in
{accuracy:.1f} %; of as many test pictures, {real_accuracy:.1f} % right. FID to the training pictures in the
classifier's features: {fid:.2f} drawn, {fid_test:.2f} for as many test pictures{inception}.

![ten pictures of each class](sheet.png)
"""


def make_unet(channels: list[int], layers: int, classes: int) -> UNet2DModel:
    """Pixels (3, 32, 32), attention from 8 x 8 pixels on; the last of `classes` + 1 labels stands for none."""
    deep = [SIDE >> k <= 8 for k in range(len(channels))]
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=["AttnDownBlock2D" if d else "DownBlock2D" for d in deep],
        up_block_types=["AttnUpBlock2D" if d else "UpBlock2D" for d in reversed(deep)],
        attention_head_dim=min(32, channels[-1]),
        norm_num_groups=min(16, channels[0]),
        num_class_embeds=classes + 1,
    )


def make_scheduler() -> DDIMScheduler:
    """Cosine schedule (arXiv 2102.09672) and v prediction (arXiv 2202.00512), which is stable where no signal is."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
    )


# ---------------------------------------------------------------------------------------------- stages


def stage_data(args) -> None:
    """Decodes the pictures once: all that has labels for training, the test set for the check."""
    if pictures_file(args).is_file():
        return
    data = load_data(str(args.data), SIDE)
    train = [torch.cat([getattr(part, k) for part in (data.train, data.held_out)]) for k in "xy"]
    tensors = dict(zip(("train.x", "train.y", "test.x", "test.y"), (*train, data.test.x, data.test.y)))
    names = {"classes": json.dumps(data.classes)}
    save_atomic(tensors, pictures_file(args), names)


def pictures_file(args) -> Path:
    return args.workdir / "pictures.safetensors"


def class_names(args) -> list[str]:
    """In the order of the labels."""
    from safetensors import safe_open

    with safe_open(pictures_file(args), framework="pt") as file:
        return json.loads(file.metadata()["classes"])


def stage_unet(args) -> None:
    """The velocity at a random time, with min-SNR weights (arXiv 2303.09556, gamma 5); a tenth without the label."""
    stored, classes = load_file(pictures_file(args)), len(class_names(args))
    pictures, labels = (stored[f"train.{k}"].to(args.device) for k in "xy")
    model = make_unet(args.channels, args.layers, classes).to(args.device)  # channels last is no faster
    if args.compile:
        model.compile(mode="reduce-overhead")  # CUDA graphs: the kernels are shorter than their launches
    scheduler = make_scheduler()
    cumulative = scheduler.alphas_cumprod.to(args.device)

    def loss(step: int) -> torch.Tensor:
        rank, many = args.accelerator.process_index, args.batch_size
        i = indices(len(pictures), many, step, args.seed, rank).to(args.device)
        generator = torch.Generator(args.device).manual_seed(hash((args.seed, step, rank)) % 2**63)
        uniform = partial(torch.rand, generator=generator, device=args.device)
        x = pictures[i] / 127.5 - 1
        x = torch.where((uniform(many) < 0.5)[:, None, None, None], x.flip(3), x)
        y = torch.where(uniform(many) < DROPPED, classes, labels[i])
        t = ((uniform(1) + torch.arange(many, device=args.device) / many) % 1 * 1000).long()
        noise = torch.randn(x.shape, generator=generator, device=args.device)
        noisy = scheduler.add_noise(x, noise, t)
        with args.accelerator.autocast():
            predicted = model(noisy, t, class_labels=y).sample.float()
        snr = cumulative[t] / (1 - cumulative[t])
        weight = snr.clamp(max=5) / (snr + 1)  # of the velocity's error
        return (weight * (predicted - scheduler.get_velocity(x, noise, t)).square().mean((1, 2, 3))).mean()

    fit("unet", model, loss, args, args.steps, args.lr, args.decay)


def stage_export(args) -> None:
    """Writes the diffusers folder in fp16 safetensors, with what training has reached so far."""
    names = class_names(args)
    unet = averaged(args.workdir / "unet", make_unet(args.channels, args.layers, len(names)))
    args.output.mkdir(parents=True, exist_ok=True)
    DDIMPipeline(unet.half(), make_scheduler()).save_pretrained(args.output, safe_serialization=True)
    write_atomic(args.output / "vocabulary.json", json.dumps({"subjects": names, "styles": []}))
    write_card(args)


def write_card(args, scores: str = "") -> None:
    """README.md of the model."""
    names, stored = class_names(args), load_file(pictures_file(args))
    text = CARD.format(
        weights=sum(p.numel() for p in make_unet(args.channels, args.layers, len(names)).parameters()),
        channels=tuple(args.channels), classes=len(names), steps=args.steps, batch=args.batch_size,
        names=", ".join(f"{k} {name}" for k, name in enumerate(names)), count=len(stored["train.x"]), size=SIDE,
        source=args.origin, scores=scores, first=names[0],
    )  # fmt: skip
    write_atomic(args.output / "README.md", text)


@torch.no_grad()
def stage_check(args) -> None:
    """Whether the classifier names what was asked for, and FID to the training pictures beside that of the test set."""
    if not args.classifier:
        print("check: left out; it needs --classifier, a folder of `save_classifier` for the same classes")
        return
    pipe = load_pipeline(str(args.output), str(args.device))
    names, stored = class_names(args), load_file(pictures_file(args))
    judge = PictureJudge(load_classifier(str(args.classifier))).to(args.device)
    asked = torch.arange(args.pictures) % len(names)
    seeds = [1_000_000 + k for k in range(args.pictures)]
    prompts = [names[k] for k in asked]
    drawn = draw(pipe, prompts, seeds, args.sampler_steps, args.guidance, args.batch_size)
    test, labels = stored["test.x"][: args.pictures], stored["test.y"][: args.pictures]
    scores = {"pictures": args.pictures, "sampler_steps": args.sampler_steps, "guidance": args.guidance}
    scores |= {"accuracy": right(judge, drawn, asked), "real_accuracy": right(judge, test / 255, labels)}
    scores["classes"] = {n: right(judge, drawn[asked == k], asked[asked == k]) for k, n in enumerate(names)}
    scores["fid"], scores["fid_test"] = distances(partial(feature_fid, judge), stored["train.x"], (drawn, test / 255))
    try:
        scores["inception"] = distances(InceptionDistance, stored["train.x"], (drawn, test / 255))
    except (ValueError, OSError) as error:  # the extra or its weights are missing
        scores["inception"], scores["no_inception"] = None, str(error).splitlines()[0]
        print(f"check: no FID with Inception: {scores['no_inception']}")
    sheet(drawn, asked, len(names)).save(args.output / "sheet.png")
    write_atomic(args.output / "check.json", json.dumps(scores, indent=1))
    found = scores["inception"]
    inception = f"; with Inception {found[0]:.2f} and {found[1]:.2f}" if found else ""
    write_card(args, SCORES.format(**{**scores, "inception": inception}))
    print(json.dumps({k: v for k, v in scores.items() if k != "classes"}))


def right(judge: PictureJudge, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images that the classifier names as the labels do, in %."""
    named = torch.cat([judge(part.to(next(judge.parameters()))).argmax(1).cpu() for part in images.split(256)])
    return 100 * (named == labels).double().mean().item() if len(labels) else math.nan


def distances(make, real: torch.Tensor, sets: tuple[torch.Tensor, ...]) -> list[float]:
    """FID of each set of pictures in [0, 1] to the training pictures, uint8; every process has all of them."""
    metric, found = make(sync_on_compute=False), []
    metric.reset_real_features = False
    for part in track(real.split(256), "training pictures"):
        metric.update(part / 255, real=True)
    for images in sets:
        metric.reset()
        for part in images.split(256):
            metric.update(part, real=False)
        found.append(metric.compute().item())
    return found


def sheet(images: torch.Tensor, labels: torch.Tensor, classes: int) -> Image.Image:
    """Ten pictures of each class, a class per row."""
    rows = [torch.cat(list(images[labels == k][:10]), 2) for k in range(classes)]
    width = max(row.shape[2] for row in rows)
    rows = [nn.functional.pad(row, (0, width - row.shape[2])) for row in rows]
    array = (255 * torch.cat(rows, 1)).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array).resize((2 * array.shape[1], 2 * array.shape[0]), Image.Resampling.NEAREST)


STAGES = {"data": stage_data, "unet": stage_unet, "export": stage_export, "check": stage_check}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = stage_parser(__doc__.splitlines()[0], STAGES, "build/cifar10", Path("build/cifar10/model"))
    add = parser.add_argument
    add("--data", default="../shared/data/cifar10", help="folder of parquet files or pictures, or a Hub id")
    add("--origin", default="parquet copies", help="where the data came from, for the card")
    add("--channels", type=int, nargs="+", default=[32, 64, 128, 192], help="of the UNet's levels")
    add("--layers", type=int, default=1, help="residual blocks per level")
    add("--steps", type=int, default=40_000)
    add("--batch_size", type=int, default=64)
    add("--lr", type=float, default=6e-4)
    add("--decay", type=float, default=0.9995, help="of the moving average")
    add("--compile", action="store_true", help="torch.compile the UNet with CUDA graphs: for a GPU")
    add("--classifier", type=Path, help="check: folder of a classifier of the same classes")
    add("--pictures", type=int, default=1000, help="check: how many")
    add("--sampler_steps", type=int, default=30, help="check: of DDIM")
    add("--guidance", type=float, default=2.5, help="check: classifier-free")
    args = parser.parse_args(arguments)
    if args.channels[0] % 2 or any(c % min(16, args.channels[0]) for c in args.channels):
        parser.error(f"--channels must all be multiples of {min(16, args.channels[0])}, the norm's groups")
    return args


def main(arguments: list[str] | None = None) -> None:
    run_stages(parse_args(arguments), STAGES)


if __name__ == "__main__":
    main()
