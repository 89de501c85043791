#!/usr/bin/env python3
"""Causal attention of bench/bench_attention.cpp in PyTorch: `scaled_dot_product_attention` without a mask; peer.py says how it is called.

causal/T...: 2048 rows in sequences of T, 12 heads of 64; causal_narrow/T...: 4 heads of 32. float32. Queries, keys and values are three arrays
with gradients of their own, so that no gradient has to be put into a packed one, as ours does. The numbers in them are those of one packed
array (2048, 3 C), number 1300 with scale 4; dy is array 1301 with scale 2. `loss` is <y, dy>, `norm` that of all three gradients.
"""

import torch
import torch.nn.functional as F

import peer

ROWS = 2048
HEADS = {"causal": (12, 64), "causal_narrow": (4, 32)}


def make(case, wrap):
    kind, size = case.split("/")
    if kind not in HEADS or not size[1:].isdigit() or size[0] != "T" or ROWS % int(size[1:]):
        raise KeyError(case)
    (heads, width), length = HEADS[kind], int(size[1:])
    packed = peer.given((ROWS // length, length, 3, heads, width), 1300, 4)
    dy = peer.given((ROWS // length, length, heads, width), 1301, 2).transpose(1, 2)
    q, k, v = (packed[:, :, i].contiguous().transpose(1, 2).requires_grad_() for i in range(3))
    del packed
    forward, kept = wrap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)), {}

    def step():
        kept["y"] = q.grad = k.grad = v.grad = None
        kept["y"] = forward(q, k, v)
        q.grad, k.grad, v.grad = torch.autograd.grad(kept["y"], (q, k, v), dy)  # backward() may copy them

    def checks():
        return {"loss": (kept["y"].detach().double() * dy.double()).sum().item(), "norm": peer.norm(q.grad, k.grad, v.grad)}

    return peer.Work(step, checks, [q, k, v])


if __name__ == "__main__":
    peer.main(make, __doc__)
