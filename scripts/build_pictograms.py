"""Builds the embedded checkpoint: renders pictograms, then trains an oracle, an autoencoder and a UNet on them.

    python scripts/build_pictograms.py                            # everything, into build/pictograms, then export
    python scripts/build_pictograms.py --stage unet --steps 8000  # one stage; it goes on where it was stopped
    accelerate launch scripts/build_pictograms.py --mixed_precision bf16

Stages: render, oracle, autoencoder, latents, decoder, unet, export, check. Each stage keeps its state in
--workdir and resumes from it. `decoder` (polishing with the encoder frozen) and `unet` need only `latents`, so they
may run side by side. Times on 2 CPU cores are in semu_diffusion/assets/pictograms/README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from pictograms_models import (
    LATENT_CHANNELS,
    TOKENS,
    make_autoencoder,
    make_sampler,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
)
from pictograms_training import STATE, averaged, fit, indices
from render_pictograms import render_all, sheet
from rich.progress import track
from safetensors.torch import load_file, save_file
from stages import run_stages, stage_parser
from torch import nn
from transformers import CLIPTokenizer

from semu_diffusion.diffusion.folders import save_folder
from semu_diffusion.pictograms.oracle import Oracle, load_oracle
from semu_diffusion.pictograms.words import ASSETS, OBJECTS, SIZE, STYLES, SYNONYMS, article, caption

TEMPLATES = (
    "a picture of {a} in {style} style", "{a} in {style} style", "a {style} picture of {a}", "{a}, {style} style",
    "{o} {style}", "an image of {a} in {style} style",
)  # fmt: skip
OBJECT_TEMPLATES = ("a picture of {a}", "{a}", "an image of {a}", "{o}")
STYLE_TEMPLATES = ("a picture in {style} style", "{style} style", "an image in {style} style")


# ------------------------------------------------------------------------------------------------ data


def load_pictures(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, 64, 64) uint8 with object and style labels (N,)."""
    pictures = np.load(path)  # (24, 6, n, 64, 64, 3)
    count = pictures.shape[2]
    objects = torch.arange(len(OBJECTS)).repeat_interleave(len(STYLES) * count)
    styles = torch.arange(len(STYLES)).repeat_interleave(count).repeat(len(OBJECTS))
    return torch.from_numpy(pictures).flatten(0, 2).permute(0, 3, 1, 2).contiguous(), objects, styles


def random_caption(obj: str, style: str, rng: np.random.Generator) -> str:
    """A caption of the picture: complete, without style, without object, or (1 in 10) empty."""
    if obj in SYNONYMS and rng.random() < 0.15:
        obj = SYNONYMS[obj]
    kind = rng.choice(4, p=(0.1, 0.1, 0.05, 0.75))
    templates = (("",), OBJECT_TEMPLATES, STYLE_TEMPLATES, TEMPLATES)[kind]
    return templates[rng.integers(len(templates))].format(a=article(obj), o=obj, style=style)


def captions(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids (B, 32)."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids


# ---------------------------------------------------------------------------------------------- stages


def initial(args, **parts: nn.Module) -> None:
    """With --init, the weights of that folder's parts instead of random ones."""
    for name, part in parts.items() if args.init else ():
        part.load_state_dict(type(part).from_pretrained(args.init / name).float().state_dict())


def reached(args, stage: str, model: nn.Module, **parts: nn.Module) -> nn.Module:
    """The model with what a stage has reached so far; with --init's weights where it was not run."""
    if args.init and not (args.workdir / stage / STATE).exists():
        initial(args, **parts)
        return model.eval()
    return averaged(args.workdir / stage, model)


def stage_render(args) -> None:
    for name, count, seed in (("train", args.renders, 1), ("test", 10, 2)):
        if not (args.workdir / f"{name}.npy").exists():
            np.save(args.workdir / f"{name}.npy", render_all(count, seed))


def stage_oracle(args) -> None:
    """Noise and blur as augmentation keep the oracle honest on the soft pictures of a diffusion model."""
    pictures, objects, styles = load_pictures(args.workdir / "train.npy")
    oracle = Oracle().to(args.device)

    def loss(step: int) -> torch.Tensor:
        i = indices(len(pictures), 64, step, args.seed, args.accelerator.process_index)
        images = augment(pictures[i].to(args.device) / 255)
        obj, style = oracle(images)
        return F.cross_entropy(obj, objects[i].to(args.device)) + F.cross_entropy(style, styles[i].to(args.device))

    oracle = fit("oracle", oracle, loss, args, args.steps or 900, lr=3e-3)
    save_file(oracle.state_dict(), args.workdir / "oracle" / "model.safetensors")
    pictures, objects, styles = load_pictures(args.workdir / "test.npy")
    print("oracle on fresh renders:", accuracy(oracle, pictures.to(args.device) / 255, objects, styles))


def augment(images: torch.Tensor) -> torch.Tensor:
    """Mirror, blur half of the pictures (down and up by 2), add noise of a random strength up to 0.08."""
    images = torch.where(torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5, images.flip(3), images)
    soft = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    images = torch.where(torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5, soft, images)
    strength = 0.08 * torch.rand(len(images), 1, 1, 1, device=images.device)
    return (images + strength * torch.randn_like(images)).clamp(0, 1)


@torch.no_grad()
def accuracy(oracle: Oracle, images: torch.Tensor, objects: torch.Tensor, styles: torch.Tensor) -> dict[str, float]:
    """Shares of pictures whose object and style the oracle names right."""
    obj, style = map(torch.cat, zip(*(oracle(b) for b in images.split(256)), strict=True))
    right = lambda logits, labels: (logits.argmax(1).cpu() == labels).float().mean().item()  # noqa: E731
    return {"object": right(obj, objects), "style": right(style, styles)}


def edges(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Horizontal and vertical differences."""
    yield images.diff(dim=2)
    yield images.diff(dim=3)


def chroma(images: torch.Tensor) -> torch.Tensor:
    """What remains of the colours without their brightness."""
    return images - images.mean(1, keepdim=True)


def picture_loss(drawn: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """L1 of the pixels, of their chroma and, at half weight, of their differences; L2 of the coarse colours."""
    sharp = sum(F.l1_loss(a, b) for a, b in zip(edges(drawn), edges(true), strict=True))
    coarse = F.mse_loss(F.avg_pool2d(drawn, 8), F.avg_pool2d(true, 8))  # L1 alone greys the rarer colours
    return F.l1_loss(drawn, true) + F.l1_loss(chroma(drawn), chroma(true)) + 0.5 * sharp + 4 * coarse


def colour_guide(latents: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Asks the last two latent channels for the coarse red-blue and green-magenta, which come last by themselves."""
    r, g, b = F.avg_pool2d(images, 8).unbind(1)
    wanted = torch.stack([r - b, 2 * g - r - b], 1)  # (B, 2, 8, 8)
    return F.mse_loss(latents[:, -2:], wanted)


def stage_autoencoder(args) -> None:
    pictures, *_ = load_pictures(args.workdir / "train.npy")
    vae = make_autoencoder()
    initial(args, vae=vae)
    vae = vae.to(args.device, memory_format=torch.channels_last)

    def loss(step: int) -> torch.Tensor:
        i = indices(len(pictures), 8, step, args.seed, args.accelerator.process_index)
        images = (pictures[i].to(args.device) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        latents = vae.encode(images).latent_dist
        drawn = vae.decode(latents.sample()).sample
        guide = colour_guide(latents.mean, images)
        return picture_loss(drawn, images) + 0.2 * guide + 3e-4 * latents.kl().mean() / latents.mean[0].numel()

    fit("autoencoder", vae, loss, args, args.steps or 8000, lr=1.2e-3)


@torch.no_grad()
def stage_latents(args) -> None:
    """Encodes all pictures once; the scaling factor brings the latents to unit variance."""
    vae = make_autoencoder()
    vae = reached(args, "autoencoder", vae, vae=vae).to(args.device, memory_format=torch.channels_last)
    pictures, *_ = load_pictures(args.workdir / "train.npy")
    batches = track(pictures.split(64), "encoding")
    latents = torch.cat([vae.encode(b.to(args.device) / 127.5 - 1).latent_dist.mean.cpu() for b in batches])
    save_file({"latents": latents.contiguous(), "scale": 1 / latents.std()}, args.workdir / "latents.safetensors")


def stage_decoder(args) -> None:
    """Polishes the decoder on the latents of the frozen encoder, with a little noise as the UNet will leave some."""
    pictures, *_ = load_pictures(args.workdir / "train.npy")
    latents = load_file(args.workdir / "latents.safetensors")["latents"]
    noise = 0.1 * latents.std()
    vae = make_autoencoder()
    vae = reached(args, "autoencoder", vae, vae=vae)
    vae = vae.to(args.device, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)

    def loss(step: int) -> torch.Tensor:
        i = indices(len(pictures), 16, step, args.seed + 1, args.accelerator.process_index)
        z = latents[i] + noise * torch.rand(len(i), 1, 1, 1) * torch.randn(len(i), *latents.shape[1:])
        images = pictures[i].to(args.device) / 127.5 - 1
        return picture_loss(vae.decode(z.to(args.device)).sample, images)

    fit("decoder", vae, loss, args, args.steps or 5000, lr=1e-3)


def stage_unet(args) -> None:
    """Noise prediction with min-SNR weights (Hang et al. 2023, gamma 5); text encoder and UNet together."""
    device = args.device
    stored = load_file(args.workdir / "latents.safetensors")
    latents = stored["latents"] * stored["scale"]
    _, objects, styles = load_pictures(args.workdir / "train.npy")
    tokenizer = make_tokenizer(args.workdir)
    model = nn.ModuleDict({"unet": make_unet(), "text_encoder": make_text_encoder(tokenizer)})
    initial(args, **model)
    model = model.to(device)
    model["unet"].to(memory_format=torch.channels_last)
    scheduler = make_scheduler()
    cumulative = scheduler.alphas_cumprod.to(device)

    def loss(step: int) -> torch.Tensor:
        rank = args.accelerator.process_index
        i = indices(len(latents), 32, step, args.seed + 2, rank)
        rng = np.random.default_rng([args.seed, step, rank])
        texts = [random_caption(OBJECTS[objects[j]], STYLES[styles[j]], rng) for j in i]
        t = (torch.from_numpy((rng.random() + np.arange(len(i))) % len(i) / len(i)) * 1000).long().to(device)
        z = latents[i].to(device)
        noise = torch.from_numpy(rng.standard_normal(z.shape, np.float32)).to(device)
        context = model["text_encoder"](captions(tokenizer, texts).to(device)).last_hidden_state
        with args.accelerator.autocast():
            predicted = model["unet"](scheduler.add_noise(z, noise, t), t, context).sample
        snr = cumulative[t] / (1 - cumulative[t])
        weight = (snr.clamp(max=5) / snr).clamp(max=1)
        return (weight * (predicted.float() - noise).square().mean((1, 2, 3))).mean()

    fit("unet", model, loss, args, args.steps or 12000, lr=1e-3)


def build_pipeline(args) -> StableDiffusionPipeline:
    """The pipeline from whatever the stages have reached so far."""
    tokenizer = make_tokenizer(args.workdir)
    model = nn.ModuleDict({"unet": make_unet(), "text_encoder": make_text_encoder(tokenizer)})
    model = reached(args, "unet", model, **model)
    vae = make_autoencoder()
    if (args.workdir / "decoder" / STATE).exists():
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
        vae = averaged(args.workdir / "decoder", vae)
    else:
        vae = reached(args, "autoencoder", vae, vae=vae)
    scale = load_file(args.workdir / "latents.safetensors")["scale"].item()
    vae.register_to_config(scaling_factor=scale)
    return StableDiffusionPipeline(
        vae.requires_grad_(True),
        model["text_encoder"],
        tokenizer,
        model["unet"],
        make_sampler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stage_export(args) -> None:
    """Writes the diffusers folder and the oracle in fp16 safetensors."""
    pipe = build_pipeline(args).to(torch.float16)
    pipe.text_encoder.float()  # transformers 5 loads the stored dtype, diffusers fp32: they must meet
    save_folder(pipe, args.output)
    (args.output / "vocabulary.json").write_text(json.dumps({"subjects": OBJECTS, "styles": STYLES}))
    (args.output / "oracle").mkdir(exist_ok=True)
    made = args.workdir if (args.workdir / "oracle" / "model.safetensors").exists() else args.init
    oracle = load_file(made / "oracle" / "model.safetensors")
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in oracle.items()},
        args.output / "oracle" / "model.safetensors",
    )


@torch.no_grad()
def stage_check(args) -> None:
    """The floor: on 10 unseen seeds per cell the oracle names the object (>= 95 %) and the style (>= 97 %)."""
    pipe = StableDiffusionPipeline.from_pretrained(args.output).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    oracle = load_oracle(args.output / "oracle").to(args.device)
    cells = [(o, s) for o in range(len(OBJECTS)) for s in range(len(STYLES))]
    images = []
    for seed in track(range(args.seeds), "drawing"):
        for chunk in range(0, len(cells), 48):
            prompts = [caption(OBJECTS[o], STYLES[s]) for o, s in cells[chunk : chunk + 48]]
            generators = [torch.Generator().manual_seed(90_000 + 1000 * seed + chunk + k) for k in range(len(prompts))]
            images.append(
                pipe(prompts, num_inference_steps=10, guidance_scale=3.0, generator=generators, output_type="pt").images
            )
    images = torch.cat(images)
    objects, styles = (torch.tensor(x).repeat(args.seeds) for x in zip(*cells, strict=True))
    pictures, o, s = load_pictures(args.workdir / "test.npy")
    scores = {
        "seeds": args.seeds,
        "drawn": accuracy(oracle, images, objects, styles),
        "fresh renders": accuracy(oracle, pictures.to(args.device) / 255, o, s),
        "object": {
            name: accuracy(oracle, images[objects == k], objects[objects == k], styles[objects == k])
            for k, name in enumerate(OBJECTS)
        },
    }
    grid = (255 * images[: len(cells)]).byte().permute(0, 2, 3, 1).cpu().numpy()
    sheet(grid.reshape(12, 12, SIZE, SIZE, 3)).save(args.output / "sheet.png")
    (args.output / "check.json").write_text(json.dumps(scores, indent=1))
    write_card(args, pipe, oracle, scores)
    print(json.dumps(scores["drawn"]), json.dumps(scores["fresh renders"]))


def write_card(args, pipe: StableDiffusionPipeline, oracle: Oracle, scores: dict) -> None:
    """README.md of the model, with the sizes and scores of this very folder."""
    weights = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    history = args.output / "history.txt"  # how long each stage ran, if somebody wrote it down
    card = (Path(__file__).parent / "pictograms_card.md").read_text()
    files = [f for f in args.output.rglob("*") if f.suffix == ".safetensors"]
    text = card.format(
        size=SIZE,
        megabytes=sum(f.stat().st_size for f in files) / 1e6,
        objects=", ".join(OBJECTS),
        styles=", ".join(STYLES),
        unet=weights(pipe.unet),
        text=weights(pipe.text_encoder),
        vae=weights(pipe.vae),
        oracle=weights(oracle),
        channels=LATENT_CHANNELS,
        history=history.read_text().strip() if history.exists() else "",
        seeds=scores["seeds"],
        renders=10 * len(OBJECTS) * len(STYLES),
        **{k: 100 * v for k, v in scores["drawn"].items()},
        **{f"oracle_{k}": 100 * v for k, v in scores["fresh renders"].items()},
    )
    (args.output / "README.md").write_text(text)


STAGES = {
    "render": stage_render,
    "oracle": stage_oracle,
    "autoencoder": stage_autoencoder,
    "latents": stage_latents,
    "decoder": stage_decoder,
    "unet": stage_unet,
    "export": stage_export,
    "check": stage_check,
}


def parse_args() -> argparse.Namespace:
    parser = stage_parser(__doc__.splitlines()[0], STAGES, "build/pictograms", ASSETS)
    add = parser.add_argument
    add("--init", type=Path, help="a diffusers folder whose weights stages start from")
    add("--renders", type=int, default=120, help="training pictures per (object, style)")
    add("--steps", type=int, help="steps of the chosen stage instead of its own number")
    add("--seeds", type=int, default=10, help="check: pictures per (object, style)")
    return parser.parse_args()


if __name__ == "__main__":
    run_stages(parse_args(), STAGES)
