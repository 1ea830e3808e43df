"""A CLIP model with random weights, for what is judged by one."""

from pathlib import Path

import torch
from tiny import TOKENS, tokenizer


def build_clip(folder: Path) -> Path:
    """Writes model and processor to a folder and returns that."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    words = tokenizer(folder / "words")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(words), "max_position_embeddings": TOKENS, "eos_token_id": len(words) - 1,
            "bos_token_id": len(words) - 2, "pad_token_id": len(words) - 1}  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 16, "patch_size": 8}, projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor=images, tokenizer=words).save_pretrained(folder)
    return folder
