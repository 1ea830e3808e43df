"""Pipelines of every family with random weights, small enough to be trained in a test; nothing is downloaded."""

from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from tiny import WORDS, build, text_encoder, tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5TokenizerFast

from semu_diffusion import load_pipeline

FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux", "pixart", "classes")
WIDTH = 32  # of every text encoder
SIZE = 8  # of the latents
CLASSES = 5


def t5_tokenizer() -> T5TokenizerFast:
    """Unigrams: letters and the words of `tiny`, by their first space."""
    letters = [(chr(c), -9.0) for c in range(97, 123)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -5.0), *letters]
    pieces += [(f"▁{word}", -3.0) for word in WORDS if word != "a"] + [("▁a", -3.0)]
    core = Tokenizer(models.Unigram(pieces, unk_id=2))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return T5TokenizerFast(tokenizer_object=core, vocab=pieces, extra_ids=0)


def t5(vocabulary: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=vocabulary, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ).eval()


def clip(vocabulary: int, tokens: int = 16) -> CLIPTextModelWithProjection:
    """CLIP with a projection, as SDXL's second encoder and both of SD3."""
    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=tokens, bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1, projection_dim=WIDTH,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config).eval()


def vae(channels: int = 4, **config) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=channels, **config,
    )  # fmt: skip


def diffusion() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    )


def sdxl(folder: Path):
    words = tokenizer(folder / "words")
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIZE, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=2 * WIDTH,
        attention_head_dim=(2, 4), norm_num_groups=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=text_encoder(len(words)).eval(), text_encoder_2=clip(len(words)), tokenizer=words,
        tokenizer_2=words, unet=unet, scheduler=diffusion(), add_watermarker=False,
    )  # fmt: skip


def sd3(folder: Path):
    words, pieces = tokenizer(folder / "words"), t5_tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIZE, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=2 * WIDTH, caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH, pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(shift_factor=0.1),
        text_encoder=clip(len(words)), tokenizer=words, text_encoder_2=clip(len(words)), tokenizer_2=words,
        text_encoder_3=wide(t5(len(pieces))), tokenizer_3=pieces,
    )  # fmt: skip


def wide(encoder: T5EncoderModel) -> T5EncoderModel:
    """SD3 pads the CLIP states to T5's width, which so has to be at least both of theirs."""
    config = encoder.config
    config.d_model = 2 * WIDTH
    return T5EncoderModel(config).eval()


def flux(folder: Path):
    words, pieces = tokenizer(folder / "words"), t5_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(shift_factor=0.1), text_encoder=text_encoder(len(words)).eval(), tokenizer=words,
        text_encoder_2=t5(len(pieces)), tokenizer_2=pieces,
    )  # fmt: skip


def pixart(folder: Path):
    pieces = t5_tokenizer()
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=SIZE, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, cross_attention_dim=32, caption_channels=WIDTH, use_additional_conditions=False,
    )  # fmt: skip
    return diffusers.PixArtAlphaPipeline(
        transformer=transformer, scheduler=diffusion(), vae=vae(), text_encoder=t5(len(pieces)), tokenizer=pieces
    )


def classes(folder: Path):
    unet = diffusers.UNet2DModel(
        sample_size=SIZE, in_channels=3, out_channels=3, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8, attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), num_class_embeds=CLASSES,
    )  # fmt: skip
    return diffusers.DDPMPipeline(unet=unet, scheduler=DDPMScheduler())


def lively(model) -> None:
    """Random values where a new transformer has zeros (its last layer, its gates), so that the prompt matters."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.abs().max() == 0 and weight.ndim > 1:
                weight.normal_(std=0.1)
            if ("attn2" in name or "add_" in name or "class_embed" in name) and weight.ndim > 1:
                weight.mul_(3)


def build_family(name: str, folder: Path) -> Path:
    """Writes the pipeline of a family to a folder and returns that."""
    if name in ("sd1", "sd2"):
        return build(folder, prediction_type="epsilon" if name == "sd1" else "v_prediction")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = globals()[name](folder)
        lively(getattr(pipe, "unet", None) or pipe.transformer)
    pipe.save_pretrained(folder)
    return folder


def load_family(folder: Path):
    """The pipeline of a folder, at the size of its small transformer."""
    pipe = load_pipeline(str(folder), "cpu")
    if hasattr(pipe, "default_sample_size"):
        pipe.default_sample_size = SIZE  # FLUX has it nowhere in its configuration
    return pipe
