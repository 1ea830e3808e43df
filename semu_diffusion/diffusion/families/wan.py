"""Wan 2.1 and 2.2, text to video."""

from __future__ import annotations

import torch
from torch import nn

from .base import Conditions
from .latents import encode_standardised
from .schedules import Flow

SIZE = 480, 832  # pixels of a frame, as the pipeline draws where it is not told
FRAMES = 17  # of the clips that are learned from and looked at; the pipeline's own 81 take five times the memory


class Wan(Flow):
    """UMT5; latents (B, C, frames, H, W). Wan 2.2 has two transformers, one for the noisy and one for the clean end.

    Conditions: text (N, tokens, width).
    """

    pipelines = ("WanPipeline",)
    title = "Wan 2.1/2.2 text to video (WanTransformer3DModel, one or two, flow matching)"
    autoencoder = "AutoencoderKLWan"
    spaced = False

    def __init__(self, pipe):
        super().__init__(pipe)
        if getattr(pipe, "transformer_2", None) is not None and pipe.config.boundary_ratio is not None:
            boundary = pipe.config.boundary_ratio * pipe.scheduler.config.num_train_timesteps
            self.model = Experts(pipe.transformer, pipe.transformer_2, boundary)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(channels, frames, height, width)."""
        frames, scale = (FRAMES - 1) // self.pipe.vae_scale_factor_temporal + 1, self.pipe.vae_scale_factor_spatial
        return self.pipe.transformer.config.in_channels, frames, SIZE[0] // scale, SIZE[1] // scale

    @property
    def members(self) -> dict[str, nn.Module]:
        if not isinstance(self.model, Experts):
            return super().members
        return {"transformer.": self.model.transformer, "transformer_2.": self.model.transformer_2}

    @property
    def image_size(self) -> tuple[int, int]:
        return SIZE

    def asked(self, prompts: list[str], guidance: float) -> dict:
        size = {"height": SIZE[0], "width": SIZE[1], "num_frames": FRAMES}
        return {**super().asked(prompts, guidance), **size}

    def pictures(self, drawn) -> torch.Tensor:
        """The middle frame of each clip."""
        return drawn.frames[:, drawn.frames.shape[1] // 2]

    def encode_pictures(self, vae: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Pictures that stand still."""
        return encode_standardised(vae, images, FRAMES)

    def encode_part(self, prompts: list[str], guidance: float) -> Conditions:
        length = self.reach(self.pipe.tokenizer)
        text, _ = self.pipe.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=length)
        return {"text": text}

    def call(self, model: nn.Module, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        if self.pipe.config.expand_timesteps:  # a time for each token
            _, height, width = self.pipe.transformer.config.patch_size
            t = t[:, None].expand(-1, x[0, 0, :, ::height, ::width].numel())
        return model(hidden_states=x, timestep=t, encoder_hidden_states=conditions["text"], return_dict=False)[0]


class Experts(nn.Module):
    """Two transformers as one: each answers at its own times."""

    def __init__(self, transformer: nn.Module, transformer_2: nn.Module, boundary: float):
        super().__init__()
        self.transformer, self.transformer_2, self.boundary = transformer, transformer_2, boundary

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, **others) -> tuple[torch.Tensor]:
        noisy, out = timestep.flatten(1).amax(1) if timestep.ndim > 1 else timestep, torch.empty_like(hidden_states)
        for model, rows in ((self.transformer, noisy >= self.boundary), (self.transformer_2, noisy < self.boundary)):
            if rows.any():
                given = {key: value[rows] if torch.is_tensor(value) else value for key, value in others.items()}
                found = model(hidden_states=hidden_states[rows], timestep=timestep[rows], **given)[0]
                out = out.to(found.dtype).index_put((rows.nonzero().flatten(),), found)
        return (out,)

    def enable_gradient_checkpointing(self) -> None:
        """Of both."""
        self.transformer.enable_gradient_checkpointing()
        self.transformer_2.enable_gradient_checkpointing()

    def disable_gradient_checkpointing(self) -> None:
        """Of both."""
        self.transformer.disable_gradient_checkpointing()
        self.transformer_2.disable_gradient_checkpointing()
