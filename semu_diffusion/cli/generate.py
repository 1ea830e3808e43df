"""`semu generate`: pictures with an adapter at any strength."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .loading import Loading, loads_model
from .options import Device, MaybeAdapter, Model, Quiet, Scale, Seed, check_scale, display, open_pipeline


@loads_model
def generate(
    prompt: Annotated[list[str], typer.Option(help="What to draw. Repeatable.")],
    output: Annotated[Path, typer.Option(help="A .png file, or a folder for several pictures.")],
    adapter: MaybeAdapter = None,
    model: Model = "pictograms",
    scale: Scale = 1.0,
    count: Annotated[int, typer.Option(min=1, help="Pictures per prompt.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps; default: the pipeline's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance; default: the pipeline's own.")] = None,
    seed: Seed = 0,
    device: Device = None,
    quiet: Quiet = False,
    *,
    loading: Loading,
) -> None:
    """Draw pictures with an adapter at any strength; without one the base model draws.

    semu generate no-cigarette --prompt "a picture of a cigarette" --output smoke.png
    """
    from PIL import Image

    from ..adapter.claims import check_writable
    from ..adapter.files import replacing
    from ..diffusion import draw
    from ..hub.loaders import load_adapter

    check_scale(scale)
    prompts = [p for p in prompt for _ in range(count)]
    single = output.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
    if single and len(prompts) > 1:
        raise ValueError(f"{len(prompts)} pictures do not fit into the file {output}; give a folder")
    folder = output.parent if single else output
    check_writable(folder)
    pipe = open_pipeline(model, device, loading)
    if adapter:
        load_adapter(pipe, adapter, scale=scale)
    with display(quiet) as callback:
        callback.stage("drawing", len(prompts))
        seeds = [seed + k for k in range(len(prompts))]
        images = draw(pipe, prompts, seeds, steps, guidance, progress=callback.advance)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for k, image in enumerate(images):
        file = output if single else output / f"{k:04d}.png"
        picture = Image.fromarray((255 * image.permute(1, 2, 0)).round().byte().numpy())
        with replacing(file) as opened:
            picture.save(opened, Image.registered_extensions()[file.suffix.lower()])
        files.append(file)
    for file in files:  # once all are there: a reader of this list may leave early
        print(file)
