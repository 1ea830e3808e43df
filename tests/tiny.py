"""A whole Stable Diffusion pipeline with random weights, small enough to be trained in a test."""

import contextlib
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from semu_diffusion import erase
from semu_diffusion.diffusion.trainer import Trainer

SUBJECTS = ("cat", "dog", "cigarette", "apple", "tree")
STYLES = ("photo", "neon", "sepia")
WORDS = (*SUBJECTS, *STYLES, "a", "an", "of", "in", "picture", "image", "style")
TOKENS = 16

# An erasure in a second or two.
QUICK = {"target_modules": "cross-attention", "geometry": "euclidean", "latents": 6, "keep_latents": 6,
         "sampler_steps": 4, "batch_size": 4, "steps": 4}  # fmt: skip


def quick(model, concept="cigarette", output=None, **options):
    """Erases with `QUICK` and these options; `overwrite` and `resume` go to the run."""
    run = {k: options.pop(k) for k in ("overwrite", "resume") if k in options}
    return erase(str(model), concept, output, **{**QUICK, **options}, **run)


def interrupted(monkeypatch, attempts: int, model, **options):
    """`quick`, interrupted after each of its steps and resumed; what the last of so many attempts returned."""
    step, left = Trainer.step, 0

    def stop(self, *arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", stop)
    for attempt in range(attempts):
        left, result = 1, None
        with contextlib.suppress(KeyboardInterrupt):
            result = quick(model, resume=attempt > 0, **options)
    return result


def flags(**options) -> list[str]:
    """The options as `semu erase` takes them."""
    return [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]


def tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer with the letters and, by merges from the left, the words above."""
    letters = [chr(c) for c in range(33, 127)]
    merges = dict.fromkeys(
        (word[:i], word[i] + ("</w>" if i == len(word) - 1 else "")) for word in WORDS for i in range(1, len(word))
    )
    tokens = [*letters, *(f"{c}</w>" for c in letters), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]))
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=TOKENS)


def text_encoder(vocabulary: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS, bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )  # fmt: skip
    return CLIPTextModel(config)


def unet() -> UNet2DConditionModel:
    model = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "attn2.to_" in name and weight.ndim == 2:
                weight.mul_(3)  # so that the prompt matters
    return model


def build(folder: Path, seed: int = 0, prediction_type: str = "epsilon") -> Path:
    """Writes the pipeline and its vocabulary.json to a folder and returns that."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        words = tokenizer(folder / "words")
        vae = AutoencoderKL(
            block_out_channels=(8, 16), norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        scheduler = DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
            steps_offset=1, prediction_type=prediction_type,
        )  # fmt: skip
        pipe = StableDiffusionPipeline(
            vae=vae, text_encoder=text_encoder(len(words)), tokenizer=words, unet=unet(), scheduler=scheduler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    pipe.save_pretrained(folder)
    (folder / "vocabulary.json").write_text(json.dumps({"subjects": SUBJECTS, "styles": STYLES}))
    return folder
