"""How well pictures follow their prompts in CLIP's eyes, and which of some labels it would give them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .drift import check_images
from .mean import MeanOver


class ClipEncoder(nn.Module):
    """A CLIP model of transformers: unit vectors of pictures and of texts, in one space.

    Args:
        model: `CLIPModel`.
        processor: its `CLIPProcessor`; texts longer than the model's context are cut off.
    """

    def __init__(self, model: nn.Module, processor):
        super().__init__()
        self.model, self.processor = model.eval().requires_grad_(False), processor
        self.num_features = int(model.config.projection_dim)

    @classmethod
    def load(cls, name: str, device: str | torch.device = "cpu") -> ClipEncoder:
        """From a folder or a Hub id such as openai/clip-vit-large-patch14. ValueError where there is none."""
        from transformers import CLIPModel, CLIPProcessor

        try:
            return cls(CLIPModel.from_pretrained(name).to(device), CLIPProcessor.from_pretrained(name))
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot load the CLIP model {name}: {str(error).strip().splitlines()[0]}") from None

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Unit vectors (B, d) of images, floats (B, 3, H, W) in [0, 1]; also what FID and KID may be taken over."""
        check_images(images)
        pixels = (255 * images.float().cpu()).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        inputs = self.processor.image_processor(images=list(pixels), return_tensors="pt")
        found = self.model.get_image_features(pixel_values=inputs["pixel_values"].to(self.model.device))
        return nn.functional.normalize(tensor_of(found), dim=-1).to(images.device)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, d) of texts, on the model's device."""
        inputs = self.processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        found = self.model.get_text_features(**{k: v.to(self.model.device) for k, v in inputs.items()})
        return nn.functional.normalize(tensor_of(found), dim=-1)


def tensor_of(output) -> Tensor:
    """Features as transformers 4 returns them, or as its version 5 wraps them."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _clip_score_update(images: Tensor, texts: Sequence[str], encoder: ClipEncoder) -> Tensor:
    """Per pair max(100 cos, 0), fp64 (B,): as torchmetrics has it; ESD and others print the same scale."""
    if len(images) != len(texts):
        raise ValueError(f"expected one text per image, got {len(images)} images and {len(texts)} texts")
    a, b = encoder.features(images).double(), encoder.texts(texts).to(images.device).double()
    return (100 * (a * b).sum(1)).clamp_min(0)


def zero_shot(images: Tensor, labels: Sequence[str], encoder: ClipEncoder, template: str = "a picture of {}") -> Tensor:
    """CLIP as a classifier: logits (B, C), cosines with "a picture of" each of C labels, x 100."""
    classes = encoder.texts([template.format(label) for label in labels]).to(images.device)
    return 100 * encoder.features(images) @ classes.T


class ClipScore(MeanOver):
    """Mean CLIP score of pictures and their prompts, in 0..100.

    `update` takes images, floats (B, 3, H, W) in [0, 1] (another type or range is an error), and B texts. `compute`
    returns an fp64 scalar, NaN before any pair. Works with transformers 4 and 5. Source: Hessel et al. 2021,
    arXiv 2104.08718, equation 1, with w = 100 as torchmetrics has it, not 2.5.

    Args:
        encoder: a `ClipEncoder`, or the name of a model that `ClipEncoder.load` takes.

    Raises:
        ValueError: no such model; from `update`, for other shapes, types, ranges or numbers.
    """

    higher_is_better = True

    def __init__(self, encoder: ClipEncoder | str, **kwargs):
        super().__init__(**kwargs)
        self.encoder = ClipEncoder.load(encoder) if isinstance(encoder, str) else encoder

    def update(self, images: Tensor, texts: Sequence[str]) -> None:
        """Add a batch: images (B, 3, H, W) and B texts."""
        self.add(_clip_score_update(images, texts, self.encoder))
