"""Each peer's first steps on a fixed batch, against its paper's formula written down here once more.

The batches are those that `Work` picks with the same seed; predictions, losses and updates are computed by hand from
the plain UNet and text encoder.
"""

import copy
import itertools
from dataclasses import replace

import pytest
import torch

from eval.peers.diffusion import Budget, edit
from eval.peers.diffusion.pictures import clean_latents
from eval.peers.diffusion.work import Work
from semu_diffusion.diffusion import load_pipeline

SMALL = Budget(evaluations=10**6, latents=4, keep_latents=4, sampler_steps=3, batch_size=3)
LR = 1e-3


@pytest.fixture(scope="module")
def loaded(tiny_model):
    return load_pipeline(str(tiny_model), "cpu")


def fresh(loaded):
    """The tiny pipeline with a denoiser of its own."""
    pipe = type(loaded)(**{**loaded.components, "unet": copy.deepcopy(loaded.unet)}, requires_safety_checker=False)
    pipe.register_to_config(_name_or_path=loaded.config["_name_or_path"])
    return pipe


class ByHand:
    """A fresh model, the frozen one, and the batches of a method whose `Work` is built with these arguments."""

    def __init__(self, loaded, prompts: str, **options):
        self.pipe = fresh(loaded)
        self.work = Work(self.pipe, "cigarette", SMALL, 0, prompts, **options)
        self.model, self.frozen = self.pipe.unet, copy.deepcopy(self.pipe.unet)
        self.drawn = self.work.meter.samples
        self.anchor = {pair.prompt: pair.anchor for pair in self.work.pairs}

    def text(self, prompts: list[str]) -> torch.Tensor:
        ids = self.pipe.tokenizer(prompts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
        return self.pipe.text_encoder(ids.input_ids)[0].detach()

    def ask(self, model, index: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """eps(x_t, prompt) at records."""
        s = self.work.states
        return model(s.x[index], s.t[index], self.text(prompts)).sample

    def asked(self, index: torch.Tensor) -> list[str]:
        """The prompts of records."""
        prompts = list(self.work.contexts.rows)
        return [prompts[row] for row in self.work.states.prompt[index]]

    def error(self, index: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """|eps(x_t, c) - target|^2, the mean."""
        return (self.ask(self.model, index, self.asked(index)) - target.detach()).square().mean()

    def to_anchor(self, index: torch.Tensor, strength: float = 0.0) -> torch.Tensor:
        """|eps(x_t, c) - eps*(x_t, c')|^2 of the frozen model, and `strength` of the way from c beyond c'."""
        c = self.asked(index)
        e_c, e_a = (self.ask(self.frozen, index, p) for p in (c, [self.anchor[p] for p in c]))
        return self.error(index, e_a + strength * (e_a - e_c))

    def stays(self, index: torch.Tensor) -> torch.Tensor:
        """|eps(x_t, c_k) - eps*(x_t, c_k)|^2 of what is kept."""
        return self.error(index, self.ask(self.frozen, index, self.asked(index)))

    def parameters(self, trained) -> dict[str, torch.nn.Parameter]:
        found = {name: p for name, p in self.model.named_parameters() if trained(name)}
        for p in found.values():
            p.requires_grad_(True)
        return found

    def train(self, trained, loss, steps: int = 2, mask=None, changed=None, **adam) -> dict[str, torch.Tensor]:
        """Adam by hand on the loss; `steps` of it. `changed` makes of a step's number and gradients others."""
        parameters = self.parameters(trained)
        (b1, b2), moments = adam.get("betas", (0.9, 0.999)), {k: [0, 0] for k in parameters}
        for k in range(1, steps + 1):
            grads = torch.autograd.grad(loss(), parameters.values(), allow_unused=True)
            found = {name: g for name, g in zip(parameters, grads) if g is not None}
            with torch.no_grad():
                for name, g in (changed(k, found) if changed else found).items():
                    p = parameters[name]
                    g = g * mask[name] if mask else g
                    m, v = moments[name]
                    moments[name] = m, v = [b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g]
                    p -= adam.get("lr", LR) * (m / (1 - b1**k)) / ((v / (1 - b2**k)).sqrt() + 1e-8)
        return parameters


def edited(loaded, name: str, evaluations: int, **hyper):
    """The UNet after the method's own steps, as many as fit so many evaluations."""
    pipe = fresh(loaded)
    edit(name, pipe, "cigarette", replace(SMALL, evaluations=evaluations), 0, **hyper)
    return pipe.unet


def check(hand: ByHand, unet) -> None:
    """All weights agree, and some have moved."""
    theirs, start = dict(unet.named_parameters()), dict(hand.frozen.named_parameters())
    moved = 0
    for name, mine in hand.model.named_parameters():
        change, expected = theirs[name].detach() - start[name].detach(), mine.detach() - start[name].detach()
        # Adam's first steps are about lr each, whatever the gradient; where it is rounding, so is its sign.
        off = (change - expected).abs() > 0.05 * LR
        assert off.float().mean() < 0.02, (name, off.float().mean())
        moved += int((expected.abs() > 0.5 * LR).sum())
    assert moved > 100


cross = lambda name: ".attn2." in name  # noqa: E731
cross_weights = lambda name: ".attn2." in name and name.endswith("weight")  # noqa: E731
keys_values = lambda name: ".attn2.to_k" in name or ".attn2.to_v" in name  # noqa: E731
rest = lambda name: not any(part in name for part in (".attn2.", "time_embedding", "conv_out"))  # noqa: E731
every = lambda name: True  # noqa: E731


@pytest.mark.parametrize(("name", "trained"), [("esd-x", cross_weights), ("esd-u", rest)])
def test_esd(name, trained, loaded):
    """Eq. 7: eps(x, c) <- eps*(x) - eta (eps*(x, c) - eps*(x))."""
    hand = ByHand(loaded, "name", keep=False, steer="concept")

    def loss():
        index = hand.work.pick(hand.work.forget, 6)
        e_c, e_0 = (hand.ask(hand.frozen, index, p) for p in (["cigarette"] * 6, [""] * 6))
        return hand.error(index, e_0 - 0.7 * (e_c - e_0))

    hand.train(trained, loss)
    check(hand, edited(loaded, name, hand.drawn + 12, lr=LR, strength=0.7))


def test_concept_ablation(loaded):
    """Eq. 4 and its regulariser, on trajectories of the anchor."""
    hand = ByHand(loaded, "image", keep=False, steer="anchor")

    def loss():
        index = hand.work.pick(hand.work.forget, 3)
        return hand.to_anchor(index) + 0.5 * hand.stays(hand.work.pick(hand.work.anchors, 3))

    hand.train(keys_values, loss)
    check(hand, edited(loaded, "concept-ablation", hand.drawn + 12, lr=LR, regular=0.5))


def test_full_fine_tuning(loaded):
    hand = ByHand(loaded, "shared")

    def loss():
        index = hand.work.pick(hand.work.forget, 3)
        return hand.to_anchor(index, 0.5) + hand.stays(hand.work.pick_kept(3))

    hand.train(every, loss, betas=(0.9, 0.99))
    check(hand, edited(loaded, "full", hand.drawn + 12, lr=LR, strength=0.5))


def test_salun(loaded):
    """Eq. 4: the mask has the largest |gradient of the forgetting loss|; eq. 6 trains within it."""
    hand = ByHand(loaded, "image")
    index = hand.work.pick(hand.work.forget, len(hand.work.forget))
    parameters = hand.parameters(every)
    grads = torch.autograd.grad(hand.to_anchor(index), parameters.values(), allow_unused=True)
    sizes = {k: torch.zeros_like(p) if g is None else g.abs() for (k, p), g in zip(parameters.items(), grads)}
    limit = torch.cat([s.flatten() for s in sizes.values()]).quantile(0.7)
    mask = {name: (s > limit).float() for name, s in sizes.items()}

    def loss():
        index = hand.work.pick(hand.work.forget, 3)
        return hand.to_anchor(index) + 0.5 * hand.stays(hand.work.pick_kept(3))

    hand.train(every, loss, mask=mask)
    check(hand, edited(loaded, "salun", hand.drawn + len(index) + 12, lr=LR, share=0.3))


def test_forget_me_not(loaded):
    """Algorithm 1: the attention that pictures pay to the concept's token, squared."""
    hand = ByHand(loaded, "image", keep=False, steer="concept")
    seen, ids = {}, hand.pipe.tokenizer("an image of a cigarette").input_ids
    place = [hand.pipe.tokenizer.decode([k]).strip() for k in ids].index("cigarette")
    layers = {name: m for name, m in hand.model.named_modules() if name.endswith("attn2")}
    for name, layer in layers.items():
        keep = lambda m, a, kwargs, name=name: seen.update({name: (a[0], kwargs["encoder_hidden_states"])})  # noqa: E731
        layer.register_forward_pre_hook(keep, with_kwargs=True)

    def loss():
        index, found = hand.work.pick(hand.work.forget, 6), []
        hand.ask(hand.model, index, hand.asked(index))
        for name, layer in layers.items():
            x, text = seen[name]
            q, k = (v.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for v in (layer.to_q(x), layer.to_k(text)))
            A = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)  # (B, heads, pixels, tokens)
            found.append(A[..., place].square().mean())
        return sum(found) / len(found)

    hand.train(cross, loss)
    check(hand, edited(loaded, "forget-me-not", 10**6, lr=LR, steps=2))


def test_selective_amnesia(loaded):
    """Eq. 7: surrogate loss + replay + lambda / 2 sum F (theta - theta*)^2, F the diagonal Fisher information."""
    hand = ByHand(loaded, "image", steer="anchor")
    work, start = hand.work, dict(hand.frozen.named_parameters())
    parameters, count = hand.parameters(every), min(128, len(hand.work.keep))
    F = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for index in work.pick(work.keep, count).split(1):
        e = hand.ask(hand.model, index, hand.asked(index))
        y = e.detach() + torch.randn(e.shape, generator=work.generator)  # drawn from N(eps, 1)
        grads = torch.autograd.grad((e - y).square().sum() / 2, parameters.values(), allow_unused=True)
        for name, g in zip(F, grads):
            F[name] += 0 if g is None else g.square() / count
    mean = torch.cat([f.flatten() for f in F.values()]).mean()

    def loss():
        elastic = sum((F[k] / mean * (p - start[k].detach()).square()).sum() for k, p in parameters.items()) / 2
        index = work.pick(work.forget, 3)
        return hand.to_anchor(index) + hand.stays(work.pick_kept(3)) + 0.3 * elastic

    hand.train(every, loss)
    check(hand, edited(loaded, "selective-amnesia", hand.drawn + count + 12, lr=LR, elastic=0.3))


def noised(hand: ByHand, latents: torch.Tensor, rows: torch.Tensor, n: int) -> torch.Tensor:
    """|eps(sqrt(a) z + sqrt(1 - a) e, c) - e|^2 of n pictures, with the draws of `noising_errors`; (n,)."""
    g, work = hand.work.generator, hand.work
    pick, u = torch.randint(len(latents), (n,), generator=g), torch.rand(n, generator=g)
    z, t = latents[pick], work.family.times(u)
    e = torch.randn(z.shape, generator=g)
    a = hand.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
    prompts = list(work.contexts.rows)
    predicted = hand.model(a.sqrt() * z + (1 - a).sqrt() * e, t, hand.text([prompts[r] for r in rows[pick]])).sample
    return (predicted - e).square().flatten(1).mean(1)


def test_sfron(loaded):
    """Algorithm 1: an ascent step weighted by eq. 13 in the mask of eq. 14, then a descent step on what is kept."""
    hand = ByHand(loaded, "image", steer="concept")
    work, parameters = hand.work, hand.parameters(every)
    latents, rows = clean_latents(work)

    def squares(loss) -> dict[str, torch.Tensor]:
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for _ in range(min(64, len(work.forget))):
            for name, g in zip(total, torch.autograd.grad(loss(), parameters.values(), allow_unused=True)):
                total[name] += 0 if g is None else g.square()
        return total

    def kept():
        index = work.pick(work.keep, 1)
        e = hand.ask(hand.model, index, hand.asked(index))
        return (e - (e.detach() + torch.randn(e.shape, generator=work.generator))).square().mean()

    forget = squares(lambda: noised(hand, latents, rows, 1).mean())
    remain = squares(kept)
    mask = {name: (forget[name] >= remain[name]).float() for name in forget}
    count = 2 * min(64, len(work.forget))

    def ascent() -> torch.Tensor:
        errors = noised(hand, latents, rows, 3)
        weight = errors.detach() ** -0.5
        return -10 * (3 / weight.sum() * weight * errors).mean()

    def clipped(k: int, grads: dict) -> dict:
        if k > 1:
            return grads
        masked = {name: g * mask[name] for name, g in grads.items()}
        length = torch.cat([g.flatten() for g in masked.values()]).norm().item()
        return {name: min(1.0, 7 / length) * g for name, g in masked.items()}

    turns = iter([ascent, lambda: hand.stays(work.pick_kept(3))])
    hand.train(every, lambda: next(turns)(), changed=clipped)  # one Adam, as in the released code
    unet = edited(loaded, "sfr-on", hand.drawn + count + 6, lr=LR, forget_weight=10.0)
    check(hand, unet)
    lighter = edited(loaded, "sfr-on", hand.drawn + count + 6, lr=LR, forget_weight=0.1).parameters()
    assert any(not torch.allclose(p, q) for p, q in zip(unet.parameters(), lighter))  # two Adams saw no weight


def lora_step(loaded, name: str, hand: ByHand, loss, evaluations: int, **hyper) -> None:
    """The first step of a LoRA A, B = 0 by Adam: B = -lr sign(G A^T), for G the loss's gradient by the whole weight."""
    pipe = fresh(loaded)
    edit(name, pipe, "cigarette", replace(SMALL, evaluations=evaluations), 0, **hyper)
    layers = {k: m for k, m in pipe.unet.named_modules() if hasattr(m, "lora_A")}
    weights = [hand.model.get_submodule(k).weight.requires_grad_(True) for k in layers]
    G = dict(zip(layers, torch.autograd.grad(loss(), weights, allow_unused=True)))
    moved = 0
    for k, layer in layers.items():
        A, B = (getattr(layer, f"lora_{part}")["default"].weight.detach().flatten(1) for part in "AB")
        if G[k] is None:
            assert not B.any()
            continue
        g = G[k].flatten(1) @ A.T  # (m, r)
        off = (B + hyper["lr"] * g / (g.abs() + 1e-8)).abs() > 0.1 * hyper["lr"]
        assert off.float().mean() <= 0.02, (k, off.float().mean())
        moved += int((B.abs() > 0.5 * hyper["lr"]).sum())
    assert moved > 100


def test_low_rank(loaded):
    """SPM, eq. 3: |eps(x, c) - (eps*(x, c0) - eta (eps*(x, c) - eps*(x, c0)))|^2, in the attention blocks."""
    hand = ByHand(loaded, "name")
    loss = lambda: hand.to_anchor(hand.work.pick(hand.work.forget, 3), 1.0)  # noqa: E731
    lora_step(loaded, "low-rank", hand, loss, hand.drawn + 6, lr=LR, rank=2)


def test_fade(loaded):
    """|eps(x, c) - eps*(x, c')|^2, in the layers whose weights the concept's own training loss is steepest in."""
    hand = ByHand(loaded, "image", steer="concept")
    work = hand.work
    layers = {k: m for k, m in hand.model.named_modules() if type(m) in (torch.nn.Linear, torch.nn.Conv2d)}
    latents, rows = clean_latents(work)
    count, total = len(work.forget), 0
    for n in (6, 6):
        weights = [m.weight.requires_grad_(True) for m in layers.values()]
        grads = torch.autograd.grad(noised(hand, latents, rows, n).sum(), weights, allow_unused=True)
        total = [t + (0 * w if g is None else g) for t, w, g in zip(total or itertools.repeat(0), weights, grads)]
    assert count == 12
    means = dict(zip(layers, (t.abs().mean().item() for t in total)))
    expected = set(sorted(means, key=means.get)[-int(0.3 * len(means)) :])
    loss = lambda: hand.to_anchor(work.pick(work.forget, 3))  # noqa: E731
    pipe = fresh(loaded)
    edit("fade", pipe, "cigarette", replace(SMALL, evaluations=hand.drawn + count + 6), 0, share=0.3, rank=2)
    assert {k for k, m in pipe.unet.named_modules() if hasattr(m, "lora_A")} == expected
    lora_step(loaded, "fade", hand, loss, hand.drawn + count + 6, lr=LR, share=0.3, rank=2)


def test_semu_as_published(loaded):
    """dW = U R V^T, R = -lr sign(U^T G V) after a step; U, V of the noised pictures' gradient, whole in attention."""
    hand = ByHand(loaded, "image", keep=False, steer="concept")
    work = hand.work
    latents, rows = clean_latents(work)
    layers = {k: m for k, m in hand.model.named_modules() if type(m) in (torch.nn.Linear, torch.nn.Conv2d)}
    weights = [m.weight.requires_grad_(True) for m in layers.values()]
    basis_of = [torch.autograd.grad(noised(hand, latents, rows, 6).sum(), weights, allow_unused=True) for _ in range(2)]
    index = work.pick(work.forget, 3)
    G = torch.autograd.grad(hand.to_anchor(index), weights, allow_unused=True)
    unet = edited(loaded, "semu-published", hand.drawn + 12 + 6, lr=LR, keep_weight=0.0)
    kinds = set()
    for (name, layer), first, second, g in zip(layers.items(), *basis_of, G):
        change = unet.get_submodule(name).weight.detach() - layer.weight.detach()
        if first is None or g is None:
            continue
        gamma, M, D, g = 1.0 if "attn" in name else 0.95, first + second, change, g
        blocks = [(M, D, g)] if M.ndim == 2 else [(M[:, c].flatten(1), D[:, c].flatten(1), g[:, c].flatten(1))
                                                  for c in range(M.shape[1])]  # fmt: skip
        for M_c, D_c, g_c in blocks:
            U, S, Vh = torch.linalg.svd(M_c, full_matrices=False)
            energy = S.square().cumsum(0) / S.square().sum()
            r = len(S) if gamma == 1.0 else int((energy <= gamma).sum())
            if r == 0:
                assert not D_c.any()
                continue
            U, Vh = U[:, :r], Vh[:r]
            outside = D_c - U @ (U.T @ D_c @ Vh.T) @ Vh
            assert outside.norm() <= 0.02 * max(D_c.norm().item(), LR)
            k = int((S[:r] > 1e-3 * S[0]).sum())  # beyond that the directions are rounding
            R, g_R = ((U.T @ M_R @ Vh.T)[:k, :k] for M_R in (D_c, g_c))
            expected, sure = -LR * g_R / (g_R.abs() + 1e-8), g_R.abs() > 0.02 * g_c.abs().max()
            if sure.any():
                agree = ((R - expected).abs() < 0.2 * LR)[sure].float().mean()
                assert agree > 0.8, (name, agree)  # nearly equal directions may be turned
                kinds.add("attention" if "attn" in name else "convolution" if M.ndim == 4 else "linear")
    assert kinds == {"attention", "convolution", "linear"}
