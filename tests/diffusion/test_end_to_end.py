"""The embedded model: erased through the shell, then drawn by a script that imports nothing but diffusers."""

import subprocess
import sys

import torch
from safetensors.torch import load_file
from shell import MAIN
from tiny import flags

from semu_diffusion.pictograms.oracle import load_oracle
from semu_diffusion.pictograms.words import OBJECTS, STYLES, caption

SHORT = {"anchor": "knife", "near": 0, "latents": 16, "keep_latents": 16, "sampler_steps": 6, "batch_size": 4,
         "steps": 70, "gradient_records": 64, "moment_records": 64}  # fmt: skip
PLAIN = """
import sys
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

model, adapter, output, *prompts = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(model)
pipe.set_progress_bar_config(disable=True)

def draw():
    generators = [torch.Generator().manual_seed(k) for k in range(len(prompts))]
    return pipe(prompts, num_inference_steps=10, guidance_scale=3.0, generator=generators, output_type="pt").images

base = draw()
pipe.load_lora_weights(adapter)
erased = draw()
pipe.unload_lora_weights()
save_file({"base": base, "erased": erased, "unloaded": draw()}, output)
assert not any(name.split(".")[0] == "semu_diffusion" for name in sys.modules)
"""


def python(code: str, *arguments) -> None:
    """Runs code in a process of its own, with one thread."""
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)


def test_plain_diffusers_draws_the_concept_no_more_and_the_base_again_once_unloaded(assets, tmp_path):
    folder, output = tmp_path / "no-cigarette", tmp_path / "pictures.safetensors"
    python(MAIN, "erase", "--concept", "cigarette", "--output", folder, "--no-evaluate", "--quiet", *flags(**SHORT))
    prompts = [caption("cigarette", style) for style in STYLES] + [caption("cat", style) for style in STYLES]
    python(PLAIN, assets, folder, output, *prompts)
    pictures, oracle = load_file(output), load_oracle(assets / "oracle")
    with torch.no_grad():
        named = {key: [OBJECTS[k] for k in oracle(value)[0].argmax(1)] for key, value in pictures.items()}
    assert named["base"][:6].count("cigarette") >= 5 and named["base"][6:].count("cat") >= 5
    assert named["erased"][:6].count("cigarette") <= 1 and named["erased"][6:].count("cat") >= 5
    assert torch.equal(pictures["unloaded"], pictures["base"])
