"""The choices of how a model is loaded, apart from the loading: they are read before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import option, require

DTYPES = ("fp32", "fp16", "bf16")
TORCH = {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}  # torch's names -> ours
OFFLOADS = ("none", "model", "group", "sequential")
QUANTISED = ("bnb-4bit", "bnb-8bit", "torchao-int8", "quanto-int8")


@dataclass
class Loading:
    """How a model is loaded; the arguments of diffusers' `from_pretrained`, and where its parts are kept.

    Raises:
        ValueError: an unknown dtype, way to quantise or way to offload.
    """

    dtype: str = option("auto", "fp32, fp16 or bf16; default: the files'.")
    variant: str | None = option(None, "Of the files, such as fp16; default: the plain ones, or the only one.")
    revision: str | None = option(None, "Branch, tag or commit on the Hub.")
    token: str | None = option(None, "Hub token; default: the one of `hf auth login`.")
    subfolder: str | None = option(None, "Folder inside the repository or folder.")
    local_files_only: bool = option(False, "Download nothing.")
    cache_dir: str | None = option(None, "Where downloads are kept.")
    quantize: str | None = option(None, f"Quantise the denoiser while it is loaded: {', '.join(QUANTISED)}.")
    offload: str = option("none", "Parts on the CPU while they are idle: none, model, group or sequential.")

    def __post_init__(self):
        self.dtype = TORCH.get(str(self.dtype), str(self.dtype)) if self.dtype else "auto"
        kinds = ", ".join(QUANTISED)
        checks = (
            (self.dtype in ("auto", *DTYPES), f"dtype must be auto, {', '.join(DTYPES)}, got {self.dtype!r}"),
            (
                self.quantize in (None, *QUANTISED),
                f"quantize must be one of {kinds}, got {self.quantize!r}",
            ),
            (self.offload in OFFLOADS, f"offload must be one of {', '.join(OFFLOADS)}, got {self.offload!r}"),
        )
        require(checks)

    @property
    def hub(self) -> dict:
        """What calls to the Hub take."""
        names = ("revision", "token", "local_files_only", "cache_dir")
        return {name: value for name in names if (value := getattr(self, name))}
