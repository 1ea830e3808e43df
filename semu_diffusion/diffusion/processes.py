"""Several processes, as `accelerate launch` or `torchrun` start them: which device each takes, what they share out, and
what they cannot be asked for, said before anything is loaded."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator

from ..adapter.base_layers import is_quantised
from ..adapter.config import SemuConfig
from ..adapter.model import find_layers
from ..adapter.ranks import Ranks
from .config import EraseConfig
from .loading_choices import Loading

INSTEAD = "use --offload, --max-memory or a quantised base on each GPU instead"


def said(name: str) -> bool:
    """Whether a variable of accelerate's launcher says yes."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


def number(name: str, default: int) -> int:
    """A variable of torch's launcher."""
    return int(os.environ.get(name) or default)


def wants_sharding() -> bool:
    """Whether the launcher asks for a base that is sharded over the processes (`use_fsdp` in accelerate's file)."""
    return said("ACCELERATE_USE_FSDP")


def own_gpu() -> str:
    """The GPU of this process; of several on a machine, each takes its own.

    Raises:
        ValueError: there are more processes than GPUs.
    """
    local, here = number("LOCAL_WORLD_SIZE", 1), torch.cuda.device_count()
    if local == 1:
        return "cuda"
    if local > here:
        raise ValueError(
            f"{local} processes on a machine with {here} GPUs; use --num_processes {here}, or --device cpu"
        )
    return f"cuda:{number('LOCAL_RANK', 0)}"


def check_processes(config: EraseConfig, loading: Loading | None) -> None:
    """What several processes cannot do, before anything is loaded.

    Raises:
        ValueError: a batch that they cannot share, a way to divide a model that there is none for, or choices that do
            not go with a sharded base.
    """
    check_parts(config, Ranks(count=number("WORLD_SIZE", 1), sharded=wants_sharding()))
    for name, variable in (("DeepSpeed", "ACCELERATE_USE_DEEPSPEED"), ("Megatron-LM", "ACCELERATE_USE_MEGATRON_LM")):
        if said(variable):
            raise ValueError(f"an erasure does not run under {name}; use FSDP2 (fsdp_version: 2), or {INSTEAD}")
    if not wants_sharding():
        return
    checks = (
        (number("WORLD_SIZE", 1) > 1, "FSDP divides a base over several processes, and this is one: --num_processes"),
        (number("FSDP_VERSION", 1) == 2, f"FSDP 1 is not supported: set fsdp_version: 2, or {INSTEAD}"),
        (not said("FSDP_OFFLOAD_PARAMS"), f"a sharded base stays on the GPUs: set fsdp_offload_params: false, or "
                                          f"{INSTEAD}"),
        (not said("FSDP_ACTIVATION_CHECKPOINTING"), "use --gradient-checkpointing instead of "
                                                    "fsdp_activation_checkpointing"),
        (loading is None or loading.offload == "none", "a base is sharded over the GPUs or offloaded to the CPU, not "
                                                       "both: leave out --offload, or FSDP"),
        (config.train == "denoiser", "only the denoiser is sharded: leave out --train text_encoder, or FSDP"),
        (config.mixed_precision != "fp16", "a sharded base has no loss scaling: use --mixed-precision bf16"),
    )  # fmt: skip
    for fine, text in checks:
        if not fine:
            raise ValueError(text)


def check_parts(config: EraseConfig, ranks: Ranks) -> None:
    """ValueError where a batch cannot be divided evenly by the processes, and by the parts of a step."""
    parts = config.accumulate * ranks.count
    if config.batch_size % parts:
        raise ValueError(f"batch-size must be a multiple of accumulate times processes, here {parts}")
    if ranks.sharded and config.adversarial and config.batch_size < 2 * ranks.count:
        raise ValueError(f"adversarial rounds of a sharded base need a batch-size of at least {2 * ranks.count}")


def ranks_of(accelerator: Accelerator) -> Ranks:
    """The processes of an accelerator."""
    count = accelerator.num_processes
    return Ranks(accelerator.process_index, count, accelerator.device, wants_sharding() and count > 1)


def shard(family, accelerator: Accelerator) -> None:
    """Divides the denoiser over the processes with FSDP2 and accelerate's plugin, from its first call on.

    Precision stays what --dtype and autocast make it, as FSDP's own would round the times too. The adapter is laid
    beside the shards and is whole in each process.

    Raises:
        ValueError: a quantised base, one of fp16, or one that consists of several models.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    model, plain = family.model, find_layers(family.model, SemuConfig()).values()
    if len(family.members) > 1:
        raise ValueError(f"a pipeline with two denoisers cannot be sharded by FSDP; {INSTEAD}")
    if any(map(is_quantised, plain)):
        raise ValueError("a quantised base cannot be sharded by FSDP; it is smaller, so start without it")
    if family.dtype == torch.float16:
        raise ValueError("an fp16 base cannot be sharded by FSDP, which has no loss scaling here; use --dtype bf16")
    plugin = getattr(accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()  # none on CPUs
    plugin.auto_wrap_policy = plugin.auto_wrap_policy or transformer_auto_wrap_policy  # else all of it is one unit
    names = plugin.transformer_cls_names_to_wrap or getattr(model, "_no_split_modules", None) or []
    present = {type(module).__name__ for module in model.modules()}
    plugin.transformer_cls_names_to_wrap = [name for name in names if name in present]
    plugin.mixed_precision_policy = None
    plugin.cpu_ram_efficient_loading = False  # each process has read its weights already
    accelerator.state.fsdp_plugin = plugin
    fsdp2_prepare_model(accelerator, model).set_reshard_after_forward(True)  # the rest beside the units, too
