"""What the pictograms' oracle says of pictures, and whether a picture is a proper picture at all.

Proper means: close to a reference picture of the same name, named surely, neither much flatter nor much
rougher than references. Attacks and evaluations ask for the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..metrics.drift import check_images
from ..metrics.naturalness import SHARE, nearest, roughness, sureness, typical_distance, typical_roughness
from ..pictograms.oracle import Oracle
from ..pictograms.words import ASSETS, OBJECTS, STYLES

KINDS = {"object": OBJECTS, "style": STYLES}  # in the order of the oracle's heads
SURE = 0.5  # least probability of the named object and of the named style
REFERENCES = ASSETS / "oracle" / "references.safetensors"
NOTHING = "no proper picture"


class Look(NamedTuple):
    """What is seen in N pictures: features (N, d), the name given (N,), how sure of it (N,), the roughness (N,)."""

    features: Tensor
    named: Tensor
    sure: Tensor
    rough: Tensor

    def part(self, rows) -> Look:
        """The look at some of the pictures."""
        return Look(*(values[rows] for values in self))


@torch.no_grad()
def judge(images: Tensor, oracle: Oracle, batch_size: int = 256) -> dict[str, Tensor]:
    """The oracle's logits for images (N, 3, H, W) in [0, 1]: {"object": (N, 24), "style": (N, 6)}, on the CPU."""
    check_images(images)
    weight = next(oracle.parameters(), images)
    logits = [[head.cpu() for head in oracle(batch.to(weight))] for batch in images.split(batch_size)]
    return {kind: torch.cat(heads) for kind, heads in zip(KINDS, zip(*logits))}


@torch.no_grad()
def looks(images: Tensor, oracle: Oracle) -> dict[str, Look]:
    """The oracle's look at pictures, by the kind that gives the names; "sure" is that of the less sure head."""
    logits = judge(images, oracle)
    sure = torch.stack([sureness(head) for head in logits.values()]).min(0).values
    weight = next(oracle.parameters(), images)
    features = torch.cat([oracle.features(part.to(weight)).cpu() for part in images.split(256)])
    return {kind: Look(features, head.argmax(1), sure, roughness(images)) for kind, head in logits.items()}


def load_references() -> dict[str, Look]:
    """The oracle's looks at 288 pictures of the embedded model (`scripts/pictograms_references.py`)."""
    found = {name: value.long() if name in KINDS else value.float() for name, value in load_file(REFERENCES).items()}
    rest = (found["sure"], found["rough"])
    return {kind: Look(found["features"], found[kind], *rest) for kind in KINDS}


class Proper:
    """Whether a picture is a proper one, beside references.

    Args:
        references: The base model's pictures, of everything that may be drawn.
        share: Of the references that the closeness must let pass.
        sure: The least sureness of a name.
    """

    def __init__(self, references: Look, share: float = SHARE, sure: float = SURE):
        self.references, self.sure = references, sure
        self.limit = typical_distance(references.features, references.named, share)
        self.rough = typical_roughness(references.rough)

    def __call__(self, seen: Look, own: Iterable[int] | None = None) -> Tensor:
        """Whether each of N pictures is proper, bool (N,).

        Args:
            own: For each picture the number of the reference with the same prompt and noise, which does not count: a
                picture is compared with others than itself, and an erased model's with others than its original.
        """
        allowed = seen.named[:, None] == self.references.named
        if own is not None:
            allowed[torch.arange(len(seen.named)), torch.as_tensor(own)] = False
        near = nearest(seen.features, self.references.features, allowed) <= self.limit
        low, high = self.rough
        return near & (seen.sure >= self.sure) & (low <= seen.rough) & (seen.rough <= high)


def counted(names: Iterable[str], proper: Iterable[bool | None], gone: Iterable[str]) -> dict[str, int]:
    """What is drawn instead: name -> pictures, most first; those that are named what was to go are left out.

    Args:
        names: What each picture is named.
        proper: Whether it is a proper picture; those that are not count as `NOTHING`, whatever else they are named.
        gone: For each, the name that was to go.
    """
    rows = (name if fine is None or fine else NOTHING for name, fine, old in zip(names, proper, gone) if name != old)
    return dict(Counter(rows).most_common())
