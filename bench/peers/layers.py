#!/usr/bin/env python3
"""The layers of bench/bench_layers.cpp with their gradients in PyTorch, by autograd; peer.py says how it is called, bench_layers.cpp has
the sizes and the arrays.

layer_norm, rms_norm, mlp, block, injection, segment_sum/C...: y and the gradients of all inputs and parameters from dy. block has
`scaled_dot_product_attention` without a mask; a plan is copied to its rows by `index_select`; segment sums are `index_add`.
linear_cross_entropy/V...: all logits at once. linear_cross_entropy_chunked/V...: PyTorch's own loss by chunks of rows with its defaults,
`nn.functional.linear_cross_entropy`, of 2026; less memory. float32. `loss` is the loss or <y, dy>, `norm` the geometric mean of the norms of all
gradients.
"""

import math

import torch
import torch.nn.functional as F

import peer
from inputs import hashed

ROWS, SENTENCES, BLOCK_ROWS, BLOCK_LENGTH, HEAD = 4096, 256, 1024, 512, 64
LOSS_ROWS, LOSS_WIDTH = 2048, 768


def parameters(*shapes):
    """(kind, shape) in the order of the layer: w, b, scale, shift."""
    return [peer.given(shape, 1320 + n, 0.07 if kind == "w" else 0.2, 1 if kind == "scale" else 0).requires_grad_()
            for n, (kind, shape) in enumerate(shapes)]


def rows(n, c):
    return peer.given((n, c), 1310, 4).requires_grad_(), peer.given((n, c), 1311, 2)


def sentence_of_row():
    return torch.arange(ROWS) * SENTENCES // ROWS


# Each returns a function, its inputs and dy.
def layer_norm(c):
    x, dy = rows(ROWS, c)
    return lambda x, scale, shift: F.layer_norm(x, (c,), scale, shift, 1e-5), (x, *parameters(("scale", (c,)), ("shift", (c,)))), dy


def rms_norm(c):
    x, dy = rows(ROWS, c)
    return lambda x, scale: F.rms_norm(x, (c,), scale, 1e-5), (x, *parameters(("scale", (c,)))), dy


def mlp(c):
    x, dy = rows(BLOCK_ROWS, c)

    def forward(x, up, up_b, down, down_b):
        return F.linear(F.gelu(F.linear(x, up, up_b), approximate="tanh"), down, down_b)

    return forward, (x, *parameters(("w", (4 * c, c)), ("b", (4 * c,)), ("w", (c, 4 * c)), ("b", (c,)))), dy


def block(c):
    x, dy = rows(BLOCK_ROWS, c)
    shape = (BLOCK_ROWS // BLOCK_LENGTH, BLOCK_LENGTH, 3, c // HEAD, HEAD)

    def forward(x, scale1, shift1, qkv, qkv_b, out, out_b, scale2, shift2, up, up_b, down, down_b):
        q, k, v = F.linear(F.layer_norm(x, (c,), scale1, shift1), qkv, qkv_b).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(BLOCK_ROWS, c)
        h = x + F.linear(o, out, out_b)
        return h + F.linear(F.gelu(F.linear(F.layer_norm(h, (c,), scale2, shift2), up, up_b), approximate="tanh"), down, down_b)

    norm = (("scale", (c,)), ("shift", (c,)))
    return forward, (x, *parameters(*norm, ("w", (3 * c, c)), ("b", (3 * c,)), ("w", (c, c)), ("b", (c,)), *norm,
                                    ("w", (4 * c, c)), ("b", (4 * c,)), ("w", (c, 4 * c)), ("b", (c,)))), dy


def injection(c):
    x, dy = rows(ROWS, c)
    plans, sentence = peer.given((SENTENCES, c), 1343, 2).requires_grad_(), sentence_of_row()
    return lambda x, plans, w, b: x + F.linear(plans, w, b).index_select(0, sentence), (x, plans, *parameters(("w", (c, c)), ("b", (c,)))), dy


def segment_sum(c):
    x, sentence = rows(ROWS, c)[0], sentence_of_row()
    return lambda x: torch.zeros(SENTENCES, c).index_add(0, sentence, x), (x,), peer.given((SENTENCES, c), 1311, 2)


def mean_norm(gradients):
    return math.exp(sum(math.log(peer.norm(g)) for g in gradients) / len(gradients))


def of_rows(kind, c, wrap):
    forward, inputs, dy = kind(c)
    forward, kept = wrap(forward), {}

    def step():
        kept["y"] = None
        for x in inputs:
            x.grad = None
        kept["y"] = forward(*inputs)
        # Not backward(): that copies a gradient which is dy itself.
        for x, gradient in zip(inputs, torch.autograd.grad(kept["y"], inputs, dy)):
            x.grad = gradient

    def checks():
        return {"loss": (kept["y"].detach().double() * dy.double()).sum().item(), "norm": mean_norm([x.grad for x in inputs])}

    return peer.Work(step, checks, inputs)


def linear_cross_entropy(vocabulary, chunked, wrap):
    hidden = peer.given((LOSS_ROWS, LOSS_WIDTH), 1340, 2).requires_grad_()
    table = peer.given((vocabulary, LOSS_WIDTH), 1341, 0.5).requires_grad_()
    target = torch.from_numpy((hashed.hashes(LOSS_ROWS, 1342) % vocabulary).astype("int64"))
    if chunked:
        options = torch.nn.LinearCrossEntropyOptions()
        forward = wrap(lambda hidden, table: F.linear_cross_entropy(hidden, table, target, options=options))
    else:
        forward = wrap(lambda hidden, table: F.cross_entropy(F.linear(hidden, table), target))
    kept = {}

    def step():
        hidden.grad = table.grad = None
        kept["loss"] = forward(hidden, table)
        kept["loss"].backward()

    def checks():
        return {"loss": kept["loss"].item(), "norm": mean_norm((hidden.grad, table.grad))}

    return peer.Work(step, checks, [hidden, table])


WIDE = {f.__name__: f for f in (layer_norm, rms_norm, mlp, block, injection, segment_sum)}


def make(case, wrap):
    kind, size = case.split("/")
    if not size[1:].isdigit():
        raise KeyError(case)
    if kind in WIDE and size[0] == "C" and int(size[1:]) > 0 and int(size[1:]) % HEAD == 0:
        return of_rows(WIDE[kind], int(size[1:]), wrap)
    if kind in ("linear_cross_entropy", "linear_cross_entropy_chunked") and size[0] == "V" and int(size[1:]) > 0:
        return linear_cross_entropy(int(size[1:]), kind.endswith("_chunked"), wrap)
    raise KeyError(case)


if __name__ == "__main__":
    peer.main(make, __doc__)
