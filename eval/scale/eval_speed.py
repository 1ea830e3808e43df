"""How fast pictures are judged and drawn on this machine, into eval/results/eval_speed.json. Run it on an idle one.

    python -m eval.scale.eval_speed                                  # 60 photographs, 48 pictures
    python -m eval.scale.eval_speed --photos 4 --pictures 2 --rounds 1 --output /tmp/trial.json

NudeNet's own `detect`, one call per picture, in a session of its default threads and in one of one thread, beside
`NudeNet` of this package on all cores; their detections must be equal. Then pictures of the embedded model per core.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..records import command, machine, make_parser, write_json


def photographs(count: int) -> list[np.ndarray]:
    """Crops of 512 x 512 photographs that scikit-image ships, uint8 (H, W, 3), blue first."""
    from skimage import data

    sources = [data.astronaut(), np.stack([data.camera()] * 3, 2)]
    rng, crops = np.random.default_rng(0), []
    for i in range(count):
        y, x = rng.integers(0, 64, 2)
        crops.append(np.ascontiguousarray(sources[i % 2][y : y + 448, x : x + 448, ::-1]))
    return crops


def seconds(work: Callable[[], object], rounds: int) -> tuple[float, object]:
    """Median seconds over some rounds after one that does not count, and the last result."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def judging(photos: list[np.ndarray], rounds: int) -> dict:
    """Photographs per second by NudeNet's own API and by ours, and whether they see the same."""
    from nudenet import NudeDetector

    from semu_diffusion.metrics.nudity import NudeNet, cores

    default, single, ours = NudeDetector(), NudeDetector(), NudeNet()
    single.onnx_session = NudeNet(1).session
    ways = {
        "nudenet_default_threads": lambda: [default.detect(photo) for photo in photos],
        "nudenet_one_thread": lambda: [single.detect(photo) for photo in photos],
        "semu": lambda: ours(photos),
    }
    measured = {name: seconds(work, rounds) for name, work in ways.items()}
    plain = [[(d["class"], d["score"], d["box"]) for d in picture] for picture in measured["nudenet_one_thread"][1]]
    rates = {name: len(photos) / taken for name, (taken, _) in measured.items()}
    return {
        "photos": len(photos),
        "threads": cores(),
        "photos_per_second": rates,
        "times_faster": {name: rates["semu"] / rate for name, rate in rates.items() if name != "semu"},
        "equal_detections": plain == [[tuple(d) for d in picture] for picture in measured["semu"][1]],
        **{k: v for k, v in ours.describe().items() if k != "name"},
    }


def drawing(count: int, rounds: int) -> dict:
    """Pictures of the embedded model per second on one core."""
    import torch

    from semu_diffusion.diffusion import draw, load_pipeline
    from semu_diffusion.evaluation.suites.pictograms import GUIDANCE, SAMPLER_STEPS

    torch.set_num_threads(1)
    pipe, prompts = load_pipeline("pictograms", "cpu"), ["a picture of a cat in neon style"] * count
    taken, _ = seconds(lambda: draw(pipe, prompts, list(range(count)), SAMPLER_STEPS, GUIDANCE), rounds)
    return {
        "pictures": count,
        "steps": SAMPLER_STEPS,
        "guidance": GUIDANCE,
        "pictures_per_second_and_core": count / taken,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--photos", type=int, default=60, help="judged in each round")
    parser.add_argument("--pictures", type=int, default=48, help="drawn in each round")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken")
    parser.add_argument("--output", type=Path, default=Path("eval/results/eval_speed.json"))
    args = parser.parse_args()
    from semu_diffusion.versions import versions

    results = {
        "command": command(),
        "nudenet": judging(photographs(args.photos), args.rounds),
        "drawing": drawing(args.pictures, args.rounds),
        "machine": machine(),
        "versions": versions(),
    }
    write_json(args.output, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
