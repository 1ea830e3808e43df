"""Every family in every precision: erased, reloaded, as a LoRA in plain diffusers, and as a whole model again.

    python -m eval.scale.matrix                  # what is not measured yet; each family is written when it is done
    python -m eval.scale.matrix --page           # docs/families.md from the results file

On tiny pipelines of the real classes with random weights, on a CPU. A share is how far predictions are from those of
the pipeline that was erased, relative to what the erasure changed: 0 is the same, 1 is no effect. int8 is quanto's.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import warnings
from pathlib import Path

from ..markdown import made_with, table
from ..records import command, machine, make_parser, read_json, write_json, write_text

RESULTS, PAGE = Path("eval/results/matrix.json"), Path("docs/families.md")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
WAYS = ("erase", "reload", "LoRA", "export")
OLD = ("sd1", "sd2", "sdxl", "sd3", "flux", "pixart", "classes")
QUICK = {"geometry": "euclidean", "latents": 2, "keep_latents": 2, "sampler_steps": 2, "batch_size": 2, "steps": 2,
         "max_rank": 2, "strength": 1.0, "lr": 0.1, "near": 0.0}  # fmt: skip
HEAD = """# Families

What `semu erase` erases from: pipelines of diffusers by their classes, and what was run with each. Written by
`eval/scale/matrix.py` from `eval/results/matrix.json`; nothing here is typed by hand. The pipelines are tiny ones of
the real classes with random weights, so this shows that every step works and what it loses in precision, not how well
a concept is forgotten.

Each cell: **erase** says how many layers carry the adapter, and how many of those targeted have no gradient; **reload**
how far the predictions of a fresh pipeline with the saved adapter are from those of the one that was erased, as a share
of what the erasure changed; **LoRA** the same for the fp16 file in plain diffusers' `load_lora_weights`; **export** the
same for the whole model, written by `semu export --to merged` and loaded again. 0 is the same to the last bit, 1 no
effect. What cannot be is said in the words of its refusal. int8 is quanto's, of the denoiser's Linear layers; in half
precision a merged model rounds its weights, and of so small an update much is rounded away. The refiner of SDXL, which
learns from given pictures only, is run in the tests and not here.
"""


def tiny(name: str, folder: Path):
    """The tiny pipeline of a family, as the tests build it."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import tiny_dits
    import tiny_families

    from semu_diffusion.diffusion.families import wan

    wan.SIZE, wan.FRAMES = (32, 32), 5
    if name not in OLD:
        return tiny_dits.build_dit(name, folder)
    return tiny_families.load_family(tiny_families.build_family(name, folder))


def in_precision(pipe, precision: str):
    """A copy of the pipeline in another precision; int8 is the denoiser's Linear layers."""
    import torch

    from semu_diffusion.diffusion.pipeline import EXPERTS, component

    pipe = copy.deepcopy(pipe)
    if precision in ("bf16", "fp16"):
        pipe.to(torch.bfloat16 if precision == "bf16" else torch.float16)
    if precision == "int8":
        from optimum.quanto import freeze, qint8, quantize

        for part in (component(pipe), *EXPERTS):
            if (model := getattr(pipe, part, None)) is not None:
                linear = [n for n, m in model.named_modules() if type(m) is torch.nn.Linear]
                quantize(model, weights=qint8, include=linear)
                freeze(model)
    return pipe


def predictions(pipe):
    """What the denoiser says of two prompts at two times, in fp32."""
    import torch

    from semu_diffusion.diffusion.families import family_of

    family = family_of(pipe)
    x = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(1)).to(family.dtype)
    prompts = ["3", "1"] if family.empty is None else ["a picture of a cigarette", ""]
    with torch.no_grad():
        return family.predict(x, family.times(torch.tensor([0.2, 0.99])), family.encode(prompts)).float()


def tried(run) -> dict:
    """What a way gave, or in what words it was refused; an error that is not a refusal stands out."""
    try:
        return run()
    except ValueError as error:
        return {"refused": str(error).splitlines()[0]}
    except Exception as error:  # goes into the table, where a reader sees it
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def load_plainly(pipe, folder: Path, **options) -> None:
    """diffusers' own loading. ValueError where that ends in an error, in its words."""
    try:
        pipe.load_lora_weights(folder, **options)
    except Exception as error:  # whatever diffusers and PEFT raise on a base of this kind
        raise ValueError(f"diffusers' own loading ends in {type(error).__name__}: {error}") from None


def measure(name: str, precision: str, base_pipe) -> dict:
    """The cells of a family in a precision."""
    import torch

    from semu_diffusion import erase, load_adapter
    from semu_diffusion.adapter.weights import LORA
    from semu_diffusion.diffusion.export import export
    from semu_diffusion.diffusion.lora import has_lora

    fresh = lambda: in_precision(base_pipe, precision)  # noqa: E731  # quanto's weights cannot be copied
    pipe, cells = fresh(), {}
    base = predictions(pipe)
    with tempfile.TemporaryDirectory() as scratch:
        out, said = Path(scratch) / "out", []

        def erased() -> dict:
            with warnings.catch_warnings(record=True) as said_now:
                warnings.simplefilter("always")
                result = erase(pipe, "3" if name == "classes" else "cigarette", out, **QUICK,
                               **({} if name == "classes" else {"anchor": "apple"}))  # fmt: skip
            said.extend(str(w.message).splitlines()[0] for w in said_now if "targeted layers" in str(w.message))
            return {
                "layers": result.facts["layers"],
                "without": said,
                "finite": bool(predictions(pipe).isfinite().all()),
            }

        cells["erase"] = tried(erased)
        if "layers" not in cells["erase"]:
            return cells | dict.fromkeys(WAYS[1:], {"refused": "not erased"})
        after = predictions(pipe)
        share = lambda other: {"share": float((other - after).norm() / (after - base).norm())}  # noqa: E731

        def reloaded() -> dict:
            other = fresh()
            load_adapter(other, out)
            return share(predictions(other))

        def lora() -> dict:
            other = fresh()
            if not has_lora(pipe):
                raise ValueError(f"diffusers loads no LoRA into a {type(pipe).__name__}")
            load_plainly(other, out, weight_name=LORA)
            if (out / "transformer_2" / LORA).is_file():
                load_plainly(other, out / "transformer_2", weight_name=LORA, load_into_transformer_2=True)
            return share(predictions(other))

        def exported() -> dict:
            whole = export(pipe, Path(scratch) / "whole", "merged")
            dtype = getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}.get(precision, "float32"))
            other = type(pipe).from_pretrained(str(whole), torch_dtype=dtype)
            if hasattr(pipe, "default_sample_size"):
                other.default_sample_size = pipe.default_sample_size
            return share(predictions(other))

        return cells | {"reload": tried(reloaded), "LoRA": tried(lora), "export": tried(exported)}


# ------------------------------------------------------------------------------------------------- page


def cell(found: dict) -> str:
    """A cell in words."""
    if "failed" in found or "refused" in found:
        return found.get("refused") or f"**failed**: {found['failed']}"
    if "layers" in found:
        words = f"{found['layers']} layers" + ("" if found["finite"] else ", **not finite**")
        return words + (f"; {found['without'][0].split(' have no')[0]} without gradient" if found["without"] else "")
    share = found["share"]
    return "0" if share == 0 else f"{share:.1g}" if share < 0.1 else f"{share:.2f}"


def page(found: dict) -> str:
    """docs/families.md."""
    rows = []
    for facts in found["families"].values():
        for precision in PRECISIONS:
            cells = facts["cells"].get(precision)
            shown = [cell(cells[way]) for way in WAYS] if cells else ["not run"] * len(WAYS)
            rows.append([facts["pipeline"], precision, *shown])
    rows = [[column.replace("|", "\\|") for column in row] for row in rows]
    return f"{HEAD}\n{table(['pipeline', 'precision', *WAYS], rows)}\n\n{made_with(found)}"


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--only", nargs="*", default=[], help="these families; by default all")
    args = parser.parse_args(arguments)
    found = read_json(RESULTS)
    if not args.page:
        found = run(found, args.only)
    write_text(PAGE, page(found))


def run(found: dict, only: list[str]) -> dict:
    """Measures what is missing, and writes after each precision of each family."""
    import diffusers
    import torch
    import transformers

    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from tiny_dits import NAMES

    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    versions = {
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    found = {"command": command(), "machine": machine(), "versions": versions, "families": {}, **found}
    for name in only or (*OLD[:5], *NAMES, *OLD[5:]):
        facts = found["families"].get(name, {"cells": {}})
        if set(facts["cells"]) == set(PRECISIONS):
            continue
        with tempfile.TemporaryDirectory() as folder:
            pipe = tiny(name, Path(folder))
            facts["pipeline"] = type(pipe).__name__ + {"sd2": ", v prediction", "wan_small": ", one transformer",
                                                       "wan": ", two transformers"}.get(name, "")  # fmt: skip
            for precision in PRECISIONS:
                if precision not in facts["cells"]:
                    facts["cells"][precision] = measure(name, precision, pipe)
                    found["families"][name] = facts
                    write_json(RESULTS, found)
                    print(name, precision, facts["cells"][precision], flush=True)
    return found


if __name__ == "__main__":
    main()
