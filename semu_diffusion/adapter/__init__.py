"""The SEMU adapter: a PEFT tuner that knows nothing of diffusion or classes."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import SemuConfig, SemuPeftType
from .layer import SemuConv2d, SemuLayer, SemuLinear
from .model import SemuModel, find_layers

# `peft.register_peft_method` takes members of peft.PeftType only; these dicts are all that it fills.
PEFT_TYPE_TO_CONFIG_MAPPING[SemuPeftType.SEMU] = SemuConfig
PEFT_TYPE_TO_TUNER_MAPPING[SemuPeftType.SEMU] = SemuModel
PEFT_TYPE_TO_PREFIX_MAPPING[SemuPeftType.SEMU] = SemuModel.prefix

__all__ = ["SemuConfig", "SemuConv2d", "SemuLayer", "SemuLinear", "SemuModel", "SemuPeftType", "find_layers"]
