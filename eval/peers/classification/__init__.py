"""Unlearning in classifiers by other methods, written from their papers, all through one interface.

    from eval.peers.classification import PEERS, Budget

    model = PEERS["SalUn"](model, forget, retain, Budget(examples=10_000), seed=0, lr=0.01)

The model is changed in place and returned. `retain` is None where only the forget set may be used; a method that
cannot work so says it by a ValueError.
"""

from . import bad_teacher, ft, ga, l1_sparse, retrain, rl, salun, scrub, semu, sfron, ssd
from .common import Budget, Peer, bill

MODULES = (retrain, ft, ga, rl, l1_sparse, salun, ssd, sfron, scrub, bad_teacher)
PEERS = {peer.name: peer for peer in (*(module.PEER for module in MODULES), *semu.PEERS)}

__all__ = ["PEERS", "Budget", "Peer", "bill"]
