"""Tiny models that the tests share; each call gives the same weights, each batch number the same inputs."""

import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.second = nn.Linear(20, 16, bias=False)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.second(torch.tanh(self.first(x))))))


class CNN(nn.Module):
    """A grouped, a strided, a dilated, a 1x1 and a reflect-padded convolution, with BatchNorm and Dropout."""

    def __init__(self):
        super().__init__()
        self.reflect = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.bn = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.strided = nn.Conv2d(12, 8, (3, 2), stride=(2, 1), padding=(1, 0), bias=False)
        self.dilated = nn.Conv2d(8, 10, 3, padding=2, dilation=2)
        self.point = nn.Conv2d(10, 6, 1)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.tanh(self.bn(self.reflect(x)))
        x = torch.tanh(self.strided(torch.tanh(self.grouped(x))))
        x = torch.tanh(self.point(torch.tanh(self.dilated(x))))
        return self.head(self.dropout(x.mean((2, 3))))


def unet_model():
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def text_model():
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=10, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return CLIPTextModel(config)


BUILDERS = {"mlp": MLP, "cnn": CNN, "unet": unet_model, "text": text_model}


def build(name):
    """The model called `name`, in eval mode, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BUILDERS[name]().eval()
        if name == "cnn":
            model.bn.running_mean.normal_(0, 0.1)
            model.bn.running_var.uniform_(0.5, 1.5)
    return model


def bare(model):
    return model.get_base_model() if isinstance(model, PeftModel) else model


def inputs(model, batch=0):
    """The arguments of batch number `batch` for the model."""
    g = torch.Generator().manual_seed(100 + batch)
    if isinstance(model, MLP):
        return (torch.randn(6, 12, generator=g),)
    if isinstance(model, CNN):
        return (torch.randn(3, 3, 9, 8, generator=g),)
    if isinstance(model, CLIPTextModel):
        return (torch.randint(2, 50, (2, 7), generator=g),)
    noisy = torch.randn(2, 4, 8, 8, generator=g)
    return noisy, torch.tensor([7, 400]), torch.randn(2, 5, 24, generator=g)


def predict(model, batch=0, dtype=None):
    """The output tensor for a batch, computed by `model`, which may be wrapped by PEFT."""
    args = inputs(bare(model), batch)
    out = model(*(a.to(dtype) if dtype and a.is_floating_point() else a for a in args))
    return out if torch.is_tensor(out) else out[0]


def loss(model, batch=0, dtype=None):
    """A loss with a gradient in every layer that reaches the output."""
    out = predict(model, batch, dtype)
    target = torch.randn(out.shape, generator=torch.Generator().manual_seed(batch)).to(out.dtype)
    return (out - target).square().mean()
