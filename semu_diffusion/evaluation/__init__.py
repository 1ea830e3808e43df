"""What an erased model forgot and what it kept, and the charts that show it."""

from .charts import before_after, concept_chart, loss_chart
from .grid import Cell, Pairs, cells, evaluate, score, showcase, split
from .intervals import bootstrap, wilson

__all__ = [
    "Cell",
    "Pairs",
    "before_after",
    "bootstrap",
    "cells",
    "concept_chart",
    "evaluate",
    "loss_chart",
    "score",
    "showcase",
    "split",
    "wilson",
]
