"""Attacks on erased models: what it takes to get the concept back, with and without access to the weights.

The attacker holds the merged model; whoever holds the base model and the adapter needs no attack.
"""

from ..lazy import lazy

_EXPORTS = {
    "ATTACKS": "suite",
    "AttackConfig": "suite",
    "PictogramsJudge": "judge",
    "Target": "target",
    "Verdict": "judge",
    "run_attacks": "suite",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
