"""Whether a pipeline is one that can be drawn with and erased from: what its configurations must say."""

from __future__ import annotations

LONGEST = 100_000  # tokens; a tokenizer without a limit of its own says 10^30


def check_whole(pipe) -> None:
    """Compares what a pipeline's parts say about each other.

    Raises:
        ValueError: a size that is not given, parts that do not fit each other, or an adapter that needs pictures.
    """
    kind, model = type(pipe).__name__, getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    config = getattr(model, "config", {})
    if "sample_size" in config and config.get("sample_size") is None:
        raise ValueError(f"this {kind} does not say how large its pictures are; set sample_size in its config.json")
    if config.get("encoder_hid_dim_type") == "ip_image_proj":
        raise ValueError("the model carries an IP-Adapter, which needs a picture; call pipe.unload_ip_adapter() first")
    check_channels(pipe, config)
    check_tokenizers(pipe)


def check_channels(pipe, config) -> None:
    """ValueError where the denoiser of a text-to-image pipeline takes more than the autoencoder's latents."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    latents = getattr(getattr(pipe, "vae", None), "config", {}).get("latent_channels")
    own = config.get("in_channels")
    if type(pipe) in (StableDiffusionPipeline, StableDiffusionXLPipeline) and latents and own != latents:
        raise ValueError(
            f"the UNet takes {own} channels, the autoencoder gives {latents}: this is a model for inpainting or "
            f"editing in a {type(pipe).__name__}; use one that draws from text alone"
        )


def check_tokenizers(pipe) -> None:
    """ValueError where the tokenizer of a CLIP gives no length, as one that was made up for a missing file does."""
    for end in ("", "_2", "_3"):
        tokenizer, encoder = getattr(pipe, f"tokenizer{end}", None), getattr(pipe, f"text_encoder{end}", None)
        limited = type(encoder).__name__.startswith("CLIP")  # others' pipelines bring a length of their own
        if tokenizer is not None and limited and tokenizer.model_max_length > LONGEST:
            raise ValueError(f"the model's tokenizer{end} is incomplete; download the model's folder again")
