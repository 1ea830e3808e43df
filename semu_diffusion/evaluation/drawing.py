"""Drawing and judging many pictures: shared out over processes, in batches, to files, and taken up where it stopped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..adapter.weights import write_atomic
from ..callbacks import Callback
from ..diffusion.families import family_of
from ..diffusion.generate import draw
from ..diffusion.pipeline import base_name, denoiser, shipped_name
from ..diffusion.processes import ranks_of
from .pictures import is_whole, write_picture
from .prompts import Shot

MADE_BY = "made_by.json"  # what a folder's pictures depend on, beside them
PICTURES = r"made_by\.json|-?\d+-[0-9a-f]{12}\.png"  # the names of all that `draw_shots` writes


def team() -> PartialState:
    """The processes that `torchrun` or `accelerate launch` started, else this one alone.

    They speak over gloo, also where each has a GPU: all they exchange is what judges wrote down.
    """
    return PartialState(cpu=True)


def source_of(pipe) -> dict[str, str]:
    """What a model's pictures depend on beside prompt and seed: where it is from, its type, its sampler; and its
    quantiser, where it has one."""
    name = shipped_name(base_name(pipe))
    quantiser = getattr(denoiser(pipe), "hf_quantizer", None)
    said = {} if quantiser is None else {"quantised": quantiser.quantization_config.quant_method.value}
    return {"model": name, "dtype": str(pipe.dtype), "sampler": type(pipe.scheduler).__name__, **said}


def picture_bytes(pipe) -> int:
    """Of a PNG that a pipeline draws, about: two of a pixel's three bytes; 0 where the size is not known beforehand."""
    try:
        height, width = family_of(pipe).image_size
    except (ValueError, AttributeError, TypeError):
        return 0
    return 2 * height * width


def claim(folder: Path, made_by: dict, first: bool) -> None:
    """Makes a folder for pictures made in one way. ValueError where it holds pictures made in another."""
    note, made_by = folder / MADE_BY, json.loads(json.dumps(made_by))
    if note.is_file():
        old = json.loads(note.read_text())
        other = [key for key in {**old, **made_by} if old.get(key) != made_by.get(key)]
        if other:
            raise ValueError(f"{folder} holds pictures of another {other[0]}; use --overwrite, or another --output")
    elif first:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_atomic(note, json.dumps(made_by, indent=1))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()  # empty, it would be in the way of the same command
            raise


def draw_together(
    pipe, prompts: Sequence[str], seeds: Sequence[int], steps: int | None = None, guidance: float | None = None,
    batch_size: int = 48, progress: Callable[[int], None] | None = None,
) -> torch.Tensor:  # fmt: skip
    """`draw`, shared out over the processes: each draws its share, and all have all pictures."""
    ranks, n = ranks_of(team()), len(prompts)
    own = ranks.places(n).tolist()
    told = progress and (lambda count: progress(count * ranks.count))
    images = draw(pipe, [prompts[k] for k in own], [seeds[k] for k in own], steps, guidance, batch_size, told)
    return ranks.rows(images, n)


def draw_shots(
    pipe, shots: Sequence[Shot], folder: Path, steps: int, guidance: float, batch_size: int, made_by: dict,
    callback: Callback | None = None,
) -> list[Path]:  # fmt: skip
    """The files of all shots, of which those that are not there yet, or not whole, are drawn.

    Batches are fixed parts of the list and go round the processes. A batch that misses a picture is drawn whole, since
    rounding depends on the batch, and only what is missing is written: any number of processes, and any interruption,
    give the same files.

    Args:
        made_by: everything else that the pictures depend on; kept beside them and compared.

    Raises:
        ValueError: the folder holds pictures made in another way.
    """
    processes, callback = team(), callback or Callback()
    made_by = {**made_by, "steps": steps, "guidance": guidance, "batch_size": batch_size}
    claim(folder, made_by, processes.is_main_process)
    processes.wait_for_everyone()
    shots = list({shot.file: shot for shot in shots}.values())
    batches = [shots[start : start + batch_size] for start in range(0, len(shots), batch_size)]
    own = batches[processes.process_index :: processes.num_processes]
    callback.stage(f"drawing, {folder.name}", sum(map(len, own)))
    for batch in own:
        missing = [not is_whole(folder / shot.file) for shot in batch]
        if any(missing):
            images = draw(pipe, [s.prompt for s in batch], [s.seed for s in batch], steps, guidance, batch_size)
            for shot, image, absent in zip(batch, images, missing):
                if absent:
                    write_picture(image, folder / shot.file)
        callback.advance(len(batch))
    processes.wait_for_everyone()
    return [folder / shot.file for shot in shots]


def judged(
    judge: Callable[[Sequence, Sequence], list[dict]], files: Sequence, shots: Sequence[Shot], callback: Callback,
    batch_size: int = 16,
) -> list[dict]:  # fmt: skip
    """What a judge says about each picture, in their order, in every process; each process judges its share."""
    processes, found = team(), []
    own = list(range(len(files)))[processes.process_index :: processes.num_processes]
    callback.stage("judging", len(own))
    for start in range(0, len(own), batch_size):
        part = own[start : start + batch_size]
        found += zip(part, judge([files[i] for i in part], [shots[i] for i in part]))
        callback.advance(len(part))
    if processes.num_processes > 1:
        found = gather_object(found)
    return [record for _, record in sorted(found, key=lambda pair: pair[0])]
