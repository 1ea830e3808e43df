"""Random adapters on models and pipelines, and what these then put out."""

import torch
from models import build

from semu_diffusion import draw, load_pipeline
from semu_diffusion.adapter import SemuConfig, find_layers
from semu_diffusion.adapter.base_layers import matrix_shape
from semu_diffusion.adapter.weights import (
    inject,
    semu_layers,
)
from semu_diffusion.diffusion.pipeline import adapted_parts

CAPTION = "a picture of a cigarette in neon style"


def put_on(model, seed=0, targets=None):
    """A random adapter of ranks 1 to 4 on every layer that reaches the output, strong enough to be seen."""
    g = torch.Generator().manual_seed(seed)
    layers = find_layers(model, SemuConfig(target_modules=targets))
    layers = {n: m for n, m in layers.items() if "text_projection" not in n}
    inject(model, SemuConfig(ranks={n: min(1 + k % 4, *matrix_shape(m)) for k, (n, m) in enumerate(layers.items())}))
    for layer in semu_layers(model).values():
        r = layer.r["default"]
        U, V = (torch.linalg.qr(torch.randn(k, r, generator=g)).Q for k in matrix_shape(layer.get_base_layer()))
        layer.set_basis("default", U, V, 0.3 * torch.randn(r, r, generator=g))


@torch.no_grad()
def outputs(pipe):
    """Of the text encoder for a caption, of the UNet with a fixed context, and a whole picture."""
    ids = pipe.tokenizer(CAPTION, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    g = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 16, 32, generator=g)
    picture = draw(pipe, [CAPTION], [0], steps=2)
    return {
        "text": pipe.text_encoder(ids)[0],
        "unet": pipe.unet(x, torch.tensor([3, 900]), context).sample,
        "picture": picture,
    }


@torch.no_grad()
def truth(adapted, folder):
    """The base model with W + U R V^T, added up in float64."""
    plain = load_pipeline(str(folder), "cpu")
    for part, model in adapted_parts(adapted).items():
        for name, layer in semu_layers(model).items():
            U, R, V = (getattr(layer, f"semu_{p}")["default"].double() for p in "URV")
            weight = getattr(plain, part).get_submodule(name).weight
            weight.copy_((weight.double() + (U @ R @ V.T).reshape(weight.shape)).float())
    return outputs(plain)


def same(found, expected, atol=1e-5):
    torch.testing.assert_close(found["text"], expected["text"], rtol=0, atol=atol)
    torch.testing.assert_close(found["unet"], expected["unet"], rtol=0, atol=atol)
    assert (found["picture"] - expected["picture"]).abs().max() < 1 / 255


def batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    x, context = torch.randn(3, 4, 8, 8, generator=g), torch.randn(3, 16, 32, generator=g)
    return {"x": x, "t": torch.tensor([3, 400, 990]), "context": context}


@torch.no_grad()
def predict_noise(pipe):
    inputs = batch()
    return pipe.unet(inputs["x"], inputs["t"], inputs["context"]).sample


def put_on_unet(pipe):
    """A large random adapter on every layer, of ranks 1 to 5 (4 where a side is no longer)."""
    g, layers = torch.Generator().manual_seed(0), find_layers(pipe.unet, SemuConfig())
    inject(
        pipe.unet, SemuConfig(ranks={n: min(1 + k % 5, *matrix_shape(m)) for k, (n, m) in enumerate(layers.items())})
    )
    for layer in semu_layers(pipe.unet).values():
        U, V = (
            torch.linalg.qr(torch.randn(k, layer.r["default"], generator=g)).Q for k in matrix_shape(layer.base_layer)
        )
        layer.set_basis("default", U, V, 0.3 * torch.randn(U.shape[1], U.shape[1], generator=g))


def adapted_model(name, adapter="default", **kwargs):
    """A bare model with an adapter of random values and ranks 1, 2, 3, 1, ... on all targeted layers."""
    model = build(name)
    layers = find_layers(model, SemuConfig(**kwargs))
    config = SemuConfig(**kwargs, ranks={k: 1 + i % 3 for i, k in enumerate(layers)})
    inject(model, config, adapter)
    for layer in semu_layers(model, adapter).values():
        U, R, V = (getattr(layer, f"semu_{part}")[adapter] for part in "URV")
        layer.set_basis(adapter, *(0.3 * torch.randn_like(t) for t in (U, V, R)))
    return model
