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
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from render_pictograms import render_all, sheet
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from semu_diffusion.pictograms import ASSETS, OBJECTS, SIZE, STYLES, SYNONYMS, Oracle, article, caption, load_oracle

STAGES = ("render", "oracle", "autoencoder", "latents", "decoder", "unet", "export", "check")
TEMPLATES = (
    "a picture of {a} in {style} style", "{a} in {style} style", "a {style} picture of {a}", "{a}, {style} style",
    "{o} {style}", "an image of {a} in {style} style",
)  # fmt: skip
OBJECT_TEMPLATES = ("a picture of {a}", "{a}", "an image of {a}", "{o}")
STYLE_TEMPLATES = ("a picture in {style} style", "{style} style", "an image in {style} style")
TOKENS = 32  # length of a tokenized caption
LATENT_CHANNELS = 8  # with 4, colours come very late in the autoencoder's training


# ---------------------------------------------------------------------------------------------- models


def make_autoencoder() -> AutoencoderKL:
    """f8 autoencoder without attention: (3, 64, 64) <-> (8, 8, 8)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def make_unet() -> UNet2DConditionModel:
    """Cross-attention UNet on (8, 8, 8) latents, 7.2 M weights."""
    return UNet2DConditionModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        sample_size=SIZE // 8,
        block_out_channels=(96, 160),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128,
        attention_head_dim=8,
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two-layer CLIP text model, 128 wide, trained together with the UNet."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_tokenizer(workdir: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges are learned from the captions; any text can be encoded."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = [*OBJECTS, *STYLES, *SYNONYMS.values(), "a picture image of an in style ,"]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=4096, end_of_word_suffix="</w>", initial_alphabet=[], show_progress=False)
    bpe.train_from_iterator([w for w in words for _ in range(2)], trainer)
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder = workdir / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(dict.fromkeys(tokens))}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=TOKENS)


# ------------------------------------------------------------------------------------------------ data


def load_pictures(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, 64, 64) uint8 with object and style labels (N,)."""
    pictures = np.load(path)  # (24, 6, n, 64, 64, 3)
    count = pictures.shape[2]
    objects = torch.arange(len(OBJECTS)).repeat_interleave(len(STYLES) * count)
    styles = torch.arange(len(STYLES)).repeat_interleave(count).repeat(len(OBJECTS))
    return torch.from_numpy(pictures).flatten(0, 2).permute(0, 3, 1, 2).contiguous(), objects, styles


def indices(count: int, batch: int, step: int, seed: int, rank: int) -> torch.Tensor:
    """The batch of a step: a function of (seed, step, rank), so that resuming needs no data-loader state."""
    generator = torch.Generator().manual_seed(hash((seed, step, rank)) % 2**63)
    return torch.randint(count, (batch,), generator=generator)


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


# -------------------------------------------------------------------------------------------- training


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm-up over 200 steps, then linear to 0."""
    rate = lambda k: min((k + 1) / 200, max(0.0, 1 - k / steps))  # noqa: E731
    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def fit(name: str, model: nn.Module, loss: Callable[[int], torch.Tensor], args, steps: int, lr: float) -> nn.Module:
    """Trains `model` on `loss(step)` with AdamW and returns its moving average; resumes from the stage's folder."""
    accelerator, folder = args.accelerator, args.workdir / name
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    scheduler = schedule(optimizer, steps)
    optimizer, scheduler = accelerator.prepare(optimizer, scheduler)
    ema = EMAModel(weights, decay=0.999, use_ema_warmup=True, power=0.75)
    start, saved = load_state(folder, model, optimizer, scheduler, ema), time.time()
    log = (folder / "loss.txt").open("a")
    for step in range(start, steps):
        value = loss(step)
        accelerator.backward(value)
        average_gradients(accelerator, weights)
        accelerator.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        ema.step(weights)
        if step % 50 == 0 and accelerator.is_main_process:
            print(f"{name} {step}/{steps} loss {value.item():.4f}", file=log, flush=True)
        if accelerator.is_main_process and time.time() - saved > args.save_every:
            save_state(folder, step + 1, model, optimizer, scheduler, ema)
            saved = time.time()
    if accelerator.is_main_process:
        save_state(folder, steps, model, optimizer, scheduler, ema)
    accelerator.wait_for_everyone()
    ema.copy_to(weights)
    return model.eval()


def average_gradients(accelerator: Accelerator, weights: list[nn.Parameter]) -> None:
    """The mean over processes, in one message: the losses call several modules, so DistributedDataParallel won't do."""
    if accelerator.num_processes == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in weights])
    flat = accelerator.reduce(flat, reduction="mean")
    for p, part in zip(weights, flat.split([p.numel() for p in weights]), strict=True):
        p.grad.copy_(part.view_as(p))


def save_state(folder: Path, step: int, model, optimizer, scheduler, ema) -> None:
    """Everything needed to go on, under a temporary name first."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "ema": ema.state_dict(),
    }
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")


def load_state(folder: Path, model, optimizer, scheduler, ema) -> int:
    """Restores what `save_state` wrote; returns the step to go on from (0 where nothing was saved)."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "state.pt").exists():
        return 0
    state = torch.load(folder / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if state["scheduler"]["last_epoch"] == state["step"]:
        scheduler.load_state_dict(state["scheduler"])
    ema.load_state_dict(state["ema"])
    return state["step"]


def averaged(folder: Path, model: nn.Module) -> nn.Module:
    """The model with the moving average of a stage that is under way or done."""
    state = torch.load(folder / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    weights = [p for p in model.parameters() if p.requires_grad]
    for weight, average in zip(weights, state["ema"]["shadow_params"], strict=True):
        weight.data.copy_(average)
    return model.eval()


# ---------------------------------------------------------------------------------------------- stages


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
    """L1 of the pixels, of their chroma (else colours come last) and, at half weight, of their differences."""
    sharp = sum(F.l1_loss(a, b) for a, b in zip(edges(drawn), edges(true), strict=True))
    return F.l1_loss(drawn, true) + F.l1_loss(chroma(drawn), chroma(true)) + 0.5 * sharp


def stage_autoencoder(args) -> None:
    pictures, *_ = load_pictures(args.workdir / "train.npy")
    vae = make_autoencoder().to(args.device, memory_format=torch.channels_last)

    def loss(step: int) -> torch.Tensor:
        i = indices(len(pictures), 16, step, args.seed, args.accelerator.process_index)
        images = (pictures[i].to(args.device) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        latents = vae.encode(images).latent_dist
        return picture_loss(vae.decode(latents.sample()).sample, images) + 3e-4 * latents.kl().mean() / 512

    fit("autoencoder", vae, loss, args, args.steps or 4000, lr=1.5e-3)


@torch.no_grad()
def stage_latents(args) -> None:
    """Encodes all pictures once; the scaling factor brings the latents to unit variance."""
    vae = averaged(args.workdir / "autoencoder", make_autoencoder()).to(args.device)
    pictures, *_ = load_pictures(args.workdir / "train.npy")
    batches = track(pictures.split(64), "encoding")
    latents = torch.cat([vae.encode(b.to(args.device) / 127.5 - 1).latent_dist.mean.cpu() for b in batches])
    save_file({"latents": latents, "scale": 1 / latents.std()}, args.workdir / "latents.safetensors")


def stage_decoder(args) -> None:
    """Polishes the decoder on the latents of the frozen encoder, with a little noise as the UNet will leave some."""
    pictures, *_ = load_pictures(args.workdir / "train.npy")
    latents = load_file(args.workdir / "latents.safetensors")["latents"]
    noise = 0.1 * latents.std()
    vae = averaged(args.workdir / "autoencoder", make_autoencoder())
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
    model = nn.ModuleDict({"unet": make_unet(), "text_encoder": make_text_encoder(tokenizer)}).to(device)
    model["unet"].to(memory_format=torch.channels_last)
    scheduler = make_scheduler()
    cumulative = scheduler.alphas_cumprod.to(device)

    def loss(step: int) -> torch.Tensor:
        rank = args.accelerator.process_index
        i = indices(len(latents), 64, step, args.seed + 2, rank)
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

    fit("unet", model, loss, args, args.steps or 6000, lr=1.2e-3)


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_pipeline(args) -> StableDiffusionPipeline:
    """The pipeline from whatever the stages have reached so far."""
    tokenizer = make_tokenizer(args.workdir)
    model = nn.ModuleDict({"unet": make_unet(), "text_encoder": make_text_encoder(tokenizer)})
    model = averaged(args.workdir / "unet", model)
    vae = make_autoencoder()
    if (args.workdir / "decoder" / "state.pt").exists():
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
        vae = averaged(args.workdir / "decoder", vae)
    else:
        vae = averaged(args.workdir / "autoencoder", vae)
    scale = load_file(args.workdir / "latents.safetensors")["scale"].item()
    vae.register_to_config(scaling_factor=scale)
    return StableDiffusionPipeline(
        vae.requires_grad_(True),
        model["text_encoder"],
        tokenizer,
        model["unet"],
        make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stage_export(args) -> None:
    """Writes the diffusers folder and the oracle in fp16 safetensors."""
    build_pipeline(args).to(torch.float16).save_pretrained(args.output, safe_serialization=True)
    (args.output / "vocabulary.json").write_text(json.dumps({"subjects": OBJECTS, "styles": STYLES}))
    (args.output / "oracle").mkdir(exist_ok=True)
    oracle = load_file(args.workdir / "oracle" / "model.safetensors")
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
                pipe(prompts, num_inference_steps=20, guidance_scale=3.0, generator=generators, output_type="pt").images
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
    print(json.dumps(scores["drawn"]), json.dumps(scores["fresh renders"]))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this stage (may be repeated)")
    parser.add_argument("--workdir", type=Path, default=Path("build/pictograms"), help="renders, states, logs")
    parser.add_argument("--output", type=Path, default=ASSETS, help="the diffusers folder to write")
    parser.add_argument("--renders", type=int, default=120, help="training pictures per (object, style)")
    parser.add_argument("--steps", type=int, help="steps of the chosen stage instead of its own number")
    parser.add_argument("--seeds", type=int, default=10, help="check: pictures per (object, style)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="torch threads on a CPU")
    parser.add_argument("--save_every", type=float, default=120.0, help="seconds between checkpoints")
    parser.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default="no")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.workdir.mkdir(parents=True, exist_ok=True)
    args.accelerator = Accelerator(mixed_precision=args.mixed_precision)
    args.device = args.accelerator.device
    for stage in args.stage or STAGES:
        set_seed(args.seed)
        started = time.time()
        globals()[f"stage_{stage}"](args)
        print(f"{stage}: {math.ceil(time.time() - started)} s", flush=True)


if __name__ == "__main__":
    main()
