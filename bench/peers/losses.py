#!/usr/bin/env python3
"""The losses of bench/bench_losses.cpp with their gradients in PyTorch, by autograd; peer.py says how it is called.

sub_trajectory_balance/T...: 64 trajectories, as released code has it: one-step residuals, their cumulative sum, then one pass per length of
pairs. torch.compile unrolls that loop and takes minutes for hundreds of lengths, so what it gets instead is all pairs at once, which it can
make one kernel of. Both take time and the latter memory by the square of the length, as ours would if it did the same: sub_trajectory_balance_closed/T... is
what somebody would write who noticed that with lambda 1 the sum over pairs is n sum p^2 - (sum p)^2. trajectory_balance/T512. listwise_average, listwise_soft_min/L32x5: 32 lists of 5 generations of 4 to 128 tokens, padded to 128, an
exact `logcumsumexp`. token_objective/V...: sum of w nll - h H through `log_softmax`. float32; `gradient` is the norm of the gradient of the
first array (actions, logits, hidden states), `table_gradient` that of the table.
"""

import math

import torch

import peer
from inputs import hashed

ROWS, LISTS, PLACES, LONGEST, FLOW = 64, 32, 5, 128, 3.5
OBJECTIVES = {"V8192": (2048, 256, 8192), "V50257": (512, 768, 50257)}  # rows, width, vocabulary


def trajectories(length):
    return (peer.given((ROWS, length), 1200, 8, -4).requires_grad_(), peer.given((ROWS, length + 1), 1201, 8, -4).requires_grad_(),
            peer.given((ROWS, length + 1), 1202, 20, -20))


def sub_trajectory_balance(length, compiled, closed=False):
    taken, stop, reward = trajectories(length)
    lengths = torch.full((ROWS,), length)

    def loss(taken, stop, reward):
        delta = reward[:, :-1] + taken + stop[:, 1:] - reward[:, 1:] - stop[:, :-1]
        points = torch.cat([torch.zeros_like(delta[:, :1]), delta], 1).cumsum(1)
        valid = torch.arange(length + 1)[None, :] <= lengths[:, None]
        if closed:
            n = (lengths + 1).float()
            present = torch.where(valid, points, 0.0)
            from_mean = torch.where(valid, points - (present.sum(1) / n)[:, None], 0.0)  # else the two terms of the difference cancel
            return (n * from_mean.square().sum(1)).sum() / (n * (n - 1) / 2).sum()
        if compiled:
            pairs = valid[:, None, :] & (torch.arange(length + 1)[None, :] > torch.arange(length + 1)[:, None])
            return torch.where(pairs, points[:, None, :] - points[:, :, None], 0.0).square().sum() / pairs.sum()
        numerator, denominator = 0.0, 0.0
        for distance in range(1, length + 1):
            ends = valid[:, distance:]
            difference = torch.where(ends, points[:, distance:] - points[:, :-distance], 0.0)
            numerator = numerator + difference.square().sum()
            denominator = denominator + ends.sum()
        return numerator / denominator

    return loss, (taken, stop, reward), {"gradient": taken}


def sub_trajectory_balance_closed(length, compiled):
    return sub_trajectory_balance(length, compiled, closed=True)


def trajectory_balance(length, compiled):
    taken, stop, reward = trajectories(length)

    def loss(taken, stop, reward):
        return (FLOW + taken.sum(1) + stop[:, -1] - reward[:, -1]).square().mean()

    return loss, (taken, stop, reward), {"gradient": taken}


def listwise(aggregate):
    rows = LISTS * PLACES
    z = peer.given((rows, LONGEST), 1210, 4).requires_grad_()
    length = torch.from_numpy(4 + (hashed.hashes(rows, 1211) % 125).astype("int64"))
    score = peer.given((LISTS, PLACES), 1212, 2)
    mask = torch.arange(LONGEST)[None, :] < length[:, None]
    common = length.view(LISTS, PLACES).float().mean(1, keepdim=True)

    def loss(z):
        clipped = 1.0 - torch.nn.functional.softplus(1.0 - z)
        r = 1e-8 + torch.nn.functional.softplus(clipped - 1e-8)
        if aggregate == "average":
            e = torch.where(mask, r, 0.0).sum(1) / length
        else:
            e = -2.0 * torch.logsumexp(torch.where(mask, -r / 2.0, -math.inf), 1)
        ordered = (common * e.view(LISTS, PLACES)).gather(1, score.argsort(1, descending=True))
        suffix = torch.logcumsumexp(ordered.flip(1), 1).flip(1)
        return (suffix - ordered).sum(1).mean()

    return loss, (z,), {"gradient": z}


def token_objective(rows, width, vocabulary):
    hidden = peer.given((rows, width), 1220, 2).requires_grad_()
    table = peer.given((vocabulary, width), 1221, 0.5).requires_grad_()
    weight, bonus = peer.given((rows,), 1222, 1, 0.7) / rows, peer.given((rows,), 1223, 0.1, 0.125) / rows
    token = torch.from_numpy((hashed.hashes(rows, 1224) % vocabulary).astype("int64"))[:, None]

    def loss(hidden, table):
        log_p = torch.log_softmax(hidden @ table.T, 1)
        nll = -log_p.gather(1, token)[:, 0]
        entropy = -(log_p.exp() * log_p).sum(1)
        return (weight * nll).sum() - (bonus * entropy).sum()

    return loss, (hidden, table), {"gradient": hidden, "table_gradient": table}


def make(case, wrap):
    kind, size = case.split("/")
    if kind in ("sub_trajectory_balance", "sub_trajectory_balance_closed", "trajectory_balance"):
        loss_of, inputs, named = globals()[kind](int(size[1:]), wrap.compiled)
    elif kind.startswith("listwise_") and size == f"L{LISTS}x{PLACES}":
        loss_of, inputs, named = listwise(kind.removeprefix("listwise_"))
    elif kind == "token_objective" and size in OBJECTIVES:
        loss_of, inputs, named = token_objective(*OBJECTIVES[size])
    else:
        raise KeyError(case)
    forward, kept = wrap(loss_of), {}

    def step():
        for x in inputs:
            x.grad = None
        kept["loss"] = forward(*inputs)
        kept["loss"].backward()

    def checks():
        return {"loss": kept["loss"].item()} | {name: peer.norm(x.grad) for name, x in named.items()}

    return peer.Work(step, checks, [x for x in inputs if x.requires_grad])


if __name__ == "__main__":
    peer.main(make, __doc__)
