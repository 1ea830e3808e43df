"""Pipelines of today's families with random weights, as small as they go."""

import json
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny import STYLES, SUBJECTS, WORDS, text_encoder, tokenizer
from tiny_families import SIZE, clip, diffusion, flux, lively, sdxl, vae
from tokenizers import Tokenizer, models, pre_tokenizers, processors

CHAT = (
    "{% for m in messages %}user {{ m['content'] if m['content'] is string else m['content'][0]['text'] }} {% endfor %}"
    "{% if add_generation_prompt %}an image {% endif %}"
)
WIDTH = 16
LM = {
    "hidden_size": WIDTH, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "num_hidden_layers": 2, "max_position_embeddings": 1024,
}  # fmt: skip


def pieces() -> transformers.PreTrainedTokenizerFast:
    """Whole words, of which all but those of `tiny` are unknown, so that the pipelines' instructions are short."""
    words = {word: k for k, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": CHAT}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **named)


def language_model(kind: str, vocabulary: int, **options):
    """A base model of transformers, such as "Qwen3"."""
    config = getattr(transformers, f"{kind}Config")(vocab_size=vocabulary, pad_token_id=0, **{**LM, **options})
    return getattr(transformers, f"{kind}Model")(config).eval()


def umt5(vocabulary: int) -> transformers.UMT5EncoderModel:
    config = transformers.UMT5Config(vocab_size=vocabulary, d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return transformers.UMT5EncoderModel(config).eval()


def z_image(folder: Path):
    words = pieces()
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=1, n_kv_heads=1, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[1024, 32, 32],
    )  # fmt: skip
    return diffusers.ZImagePipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(shift_factor=0.1),
        text_encoder=language_model("Qwen3", len(words)), tokenizer=words,
    )  # fmt: skip


def qwen_image(folder: Path):
    words = pieces()
    coder = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.1, 0.2, 0.0], latents_std=[1.5, 2.0, 1.0, 0.7],
    )  # fmt: skip
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return diffusers.QwenImagePipeline(
        transformer=transformer, vae=coder, text_encoder=language_model("Qwen3", len(words)), tokenizer=words,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
    )  # fmt: skip


def flux2_parts(guidance: bool, joint: int) -> dict:
    coder = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8, sample_size=2 * SIZE,
    )  # fmt: skip
    coder.bn.running_var.fill_(2.0)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=joint, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance,
    )  # fmt: skip
    return {"vae": coder, "transformer": transformer,
            "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)}  # fmt: skip


def flux2(folder: Path):
    words, layers = pieces(), 31
    encoder = language_model("Mistral", len(words), num_hidden_layers=layers, hidden_size=8, head_dim=4)
    return diffusers.Flux2Pipeline(**flux2_parts(True, 24), text_encoder=encoder, tokenizer=words)


def klein(folder: Path):
    words, layers = pieces(), 28
    encoder = language_model("Qwen3", len(words), num_hidden_layers=layers, hidden_size=8, head_dim=4)
    return diffusers.Flux2KleinPipeline(**flux2_parts(False, 24), text_encoder=encoder, tokenizer=words)


def chroma(folder: Path):
    words = pieces()
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6), approximator_num_channels=8, approximator_hidden_dim=16,
        approximator_layers=1,
    )  # fmt: skip
    return diffusers.ChromaPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.5), vae=vae(shift_factor=0.1),
        text_encoder=umt5(len(words)), tokenizer=words,
    )  # fmt: skip


def sana(folder: Path):
    words = pieces()
    coder = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), scaling_factor=0.41, encoder_block_types="ResBlock",
    )  # fmt: skip
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=16,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH,
    )  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    return diffusers.SanaPipeline(
        transformer=transformer, scheduler=scheduler, vae=coder, text_encoder=language_model("Gemma2", len(words)),
        tokenizer=words,
    )  # fmt: skip


def lumina2(folder: Path):
    words = pieces()
    coder = diffusers.AutoencoderKL(  # of factor 8, which the pipeline takes for granted
        block_out_channels=(8,) * 4, norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, shift_factor=0.1,
    )  # fmt: skip
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=SIZE, in_channels=4, hidden_size=24, num_layers=1, num_refiner_layers=1, num_attention_heads=1,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(8, 8, 8), axes_lens=(300, 32, 32), cap_feat_dim=WIDTH,
    )  # fmt: skip
    return diffusers.Lumina2Pipeline(
        transformer=transformer, vae=coder, scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0), tokenizer=words,
        text_encoder=language_model("Gemma2", len(words)),
    )  # fmt: skip


def aura_flow(folder: Path):
    words = pieces()
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=SIZE, in_channels=4, out_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16,
        pos_embed_max_size=64,
    )  # fmt: skip
    return diffusers.AuraFlowPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73), vae=vae(),
        text_encoder=umt5(len(words)), tokenizer=words,
    )  # fmt: skip


def hidream(folder: Path):
    words, parts = tokenizer(folder / "words"), pieces()
    parts.pad_token = parts.eos_token
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_channels=[WIDTH, WIDTH], text_emb_dim=64, num_routed_experts=2,
        num_activated_experts=1, axes_dims_rope=(4, 2, 2), max_resolution=(8, 8), llama_layers=[0, 1],
    )  # fmt: skip
    return diffusers.HiDreamImagePipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(shift_factor=0.1),
        text_encoder=clip(len(words), 128), tokenizer=words, text_encoder_2=clip(len(words), 128), tokenizer_2=words,
        text_encoder_3=umt5(len(parts)), tokenizer_3=pieces(), tokenizer_4=parts,
        text_encoder_4=language_model("Llama", len(parts)),
    )  # fmt: skip


def wan(folder: Path, experts: int = 2):
    words = pieces()
    coder = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[True, True],
        latents_mean=[0.1, -0.1, 0.2, 0.0], latents_std=[1.5, 2.0, 1.0, 0.7], scale_factor_spatial=4,
    )  # fmt: skip
    transformers = [
        diffusers.WanTransformer3DModel(
            num_attention_heads=1, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=WIDTH, freq_dim=8,
            ffn_dim=16, num_layers=1, rope_max_seq_len=32,
        ) for _ in range(experts)
    ]  # fmt: skip
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    return diffusers.WanPipeline(
        transformer=transformers[0], transformer_2=transformers[-1] if experts == 2 else None, vae=coder,
        text_encoder=umt5(len(words)), tokenizer=words, scheduler=scheduler, expand_timesteps=experts == 1,
        boundary_ratio=0.75 if experts == 2 else None,
    )  # fmt: skip


def wan_small(folder: Path):
    """Wan 2.2 5B, with one transformer and a time for each token."""
    return wan(folder, 1)


def refiner(folder: Path):
    parts = sdxl(folder).components
    config = {k: v for k, v in parts["unet"].config.items() if not k.startswith("_")}
    own = {"cross_attention_dim": 32, "projection_class_embeddings_input_dim": 5 * 8 + 32}
    parts |= {"unet": diffusers.UNet2DConditionModel(**{**config, **own}), "text_encoder": None, "tokenizer": None}
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        **parts, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False, add_watermarker=False
    )


def kontext(folder: Path):
    parts = {k: v for k, v in flux(folder).components.items() if v is not None}
    return diffusers.FluxKontextPipeline(**parts)


def stable_diffusion(kind: type, folder: Path, scheduler, **unet):
    """A pipeline of the first Stable Diffusion's parts, its UNet with these choices."""
    words = tokenizer(folder / "words")
    model = diffusers.UNet2DConditionModel(
        sample_size=SIZE, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **unet,
    )  # fmt: skip
    return kind(
        vae=vae(), text_encoder=text_encoder(len(words)).eval(), tokenizer=words, unet=model, safety_checker=None,
        scheduler=scheduler, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def lcm(folder: Path):
    kind = diffusers.LatentConsistencyModelPipeline
    return stable_diffusion(kind, folder, diffusers.LCMScheduler(), time_cond_proj_dim=16)


def inpainting(folder: Path):
    return stable_diffusion(diffusers.StableDiffusionInpaintPipeline, folder, diffusion(), in_channels=9)


def inpainting_xl(folder: Path):
    pipe = sdxl(folder)
    config = {k: v for k, v in pipe.unet.config.items() if not k.startswith("_")}
    unet = diffusers.UNet2DConditionModel(**{**config, "in_channels": 9})
    return diffusers.StableDiffusionXLInpaintPipeline(**{**pipe.components, "unet": unet}, add_watermarker=False)


NAMES = ("z_image", "qwen_image", "flux2", "klein", "chroma", "sana", "lcm", "inpainting", "inpainting_xl", "kontext",
         "lumina2", "aura_flow", "hidream", "wan", "wan_small")  # fmt: skip


def build_dit(name: str, folder: Path):
    """The pipeline of a family at its small size, and its vocabulary in a folder that it says it is from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = globals()[name](folder)
        for part in ("unet", "transformer", "transformer_2"):
            if getattr(pipe, part, None) is not None:
                lively(getattr(pipe, part).eval())
    (folder / "vocabulary.json").write_text(json.dumps({"subjects": SUBJECTS, "styles": STYLES}))
    pipe.register_to_config(_name_or_path=str(folder))
    pipe.default_sample_size = SIZE
    return pipe
