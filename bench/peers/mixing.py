#!/usr/bin/env python3
"""The label mixtures of bench/bench_mixing.cpp in PyTorch, forward and backward, by autograd; peer.py says how it is called.

POLICY/SIZE: full, top5, top5_adding, gumbel, gumbel_hard, straight_through, hard, sampled, uniform, fixed, oracle; products are the three
bare products, into memory that is there already. SIZE: 512 sentences, 1024 labels, 768 columns with one of them replaced, K64, S64, C64, or S64xK64xC64.
README.md gives the formulas of the inputs.

Each policy is written as PyTorch does it best: labels that have all weight are rows of the table (`embedding`), not one-hot products. top5 is
`embedding_bag` with the five weights, which is faster by far, eager and compiled, than top5_gathered, a weighted sum of gathered rows, and
top5_dense, five weights scattered into a row of zeros and a product. straight_through and gumbel_hard are one-hot rows times the table, as PyTorch's own
`gumbel_softmax(hard=True)` has it: an `autograd.Function` could take rows forward.

The gradient of the table is None before a step, so that autograd need not add to it, but with top5_adding: there it is zeroed in the step, as by
`zero_grad(set_to_none=False)`.

What gumbel and sampled draw while they are timed comes from PyTorch's generator, as in its own `gumbel_softmax`; for the check numbers the
same function is given our draws, philox4x32 of sentence and label.
"""

import math
import re

import numpy
import torch
import torch.nn.functional as F

import peer
from inputs import hashed

SCORES, TABLE, UPSTREAM, LABELS = 1100, 1101, 1102, 1103  # array numbers
GUMBEL, SAMPLED = 0x67756D62, 0x73616D70  # streams of our draws, seed and step 0


def uniforms(rows, columns, stream):
    """Word `column` of row `row` of philox4x32 with ten rounds, as a number in (0, 1), double."""
    low, half = numpy.uint64(0xFFFFFFFF), numpy.uint64(32)
    blocks = (columns + 3) // 4
    a = numpy.tile(numpy.arange(blocks, dtype=numpy.uint64), rows)
    b = numpy.repeat(numpy.arange(rows, dtype=numpy.uint64), blocks)
    c, d = numpy.full_like(a, stream), numpy.zeros_like(a)
    key0 = key1 = 0
    for _ in range(10):
        p, q = numpy.uint64(0xD2511F53) * a, numpy.uint64(0xCD9E8D57) * c
        a, b, c, d = (q >> half) ^ b ^ numpy.uint64(key0), q & low, (p >> half) ^ d ^ numpy.uint64(key1), p & low
        key0, key1 = (key0 + 0x9E3779B9) & 0xFFFFFFFF, (key1 + 0xBB67AE85) & 0xFFFFFFFF
    words = numpy.stack([a, b, c, d], 1).reshape(rows, 4 * blocks)[:, :columns]
    return ((words >> numpy.uint64(9)) + 0.5) * 2.0**-23


def full(s, table):
    return torch.softmax(s, -1) @ table


def top5_dense(s, table):
    values, at = s.topk(5, -1)
    return torch.zeros_like(s).scatter(-1, at, torch.softmax(values, -1)) @ table


def top5_gathered(s, table):
    values, at = s.topk(5, -1)
    return (torch.softmax(values, -1)[:, :, None] * F.embedding(at, table)).sum(1)


def top5(s, table):
    values, at = s.topk(5, -1)
    return F.embedding_bag(at, table, mode="sum", per_sample_weights=torch.softmax(values, -1))


def chosen_of(s, p):
    """One-hot of the largest score forward, p backward."""
    return torch.zeros_like(s).scatter(-1, s.argmax(-1, keepdim=True), 1.0) - p.detach() + p


def noise_of(s):
    return -torch.empty_like(s).exponential_().log()


def gumbel(s, table, noise=None):
    return torch.softmax(s + (noise_of(s) if noise is None else noise), -1) @ table


def gumbel_hard(s, table, noise=None):
    y = s + (noise_of(s) if noise is None else noise)
    return chosen_of(y, torch.softmax(y, -1)) @ table


def straight_through(s, table):
    return chosen_of(s, torch.softmax(s, -1)) @ table


def hard(s, table):
    return F.embedding(s.argmax(-1), table)


def sampled(s, table, draw=None):
    p = torch.softmax(s, -1)
    at = torch.multinomial(p, 1)[:, 0] if draw is None else (p.double().cumsum(-1) > draw).int().argmax(-1)
    return F.embedding(at, table)


def uniform(s, table):
    return table.mean(0).expand(s.shape[0], -1)


def fixed(s, table):
    return table[3].expand(s.shape[0], -1)


def oracle(s, table, label):
    return F.embedding(label, table)


POLICIES = {f.__name__: f for f in (full, top5_dense, top5_gathered, top5, gumbel, gumbel_hard, straight_through, hard, sampled, uniform,
                                    fixed, oracle)}
POLICIES["top5_adding"] = top5  # its step differs, not its mixture
WITHOUT_GRADIENT = ("hard", "sampled", "uniform", "fixed", "oracle")  # of the scores


def sizes(text, case):
    """Sentences, labels, columns."""
    out = dict(S=512, K=1024, C=768)
    if not re.fullmatch(r"[SKC][0-9]+|S[0-9]+xK[0-9]+xC[0-9]+", text):
        raise KeyError(case)
    out.update((part[0], int(part[1:])) for part in text.split("x"))
    return out["S"], out["K"], out["C"]


def products(s, table, g):
    c, ds, dt = torch.empty_like(g), torch.empty_like(s), torch.empty_like(table)

    def step():
        torch.mm(s, table, out=c)
        torch.mm(g, table.t(), out=ds)
        torch.mm(s.t(), g, out=dt)

    return peer.Work(step, dict)


def make(case, wrap):
    name, _, size = case.partition("/")
    sentences, labels, width = sizes(size, case)
    policy = POLICIES.get(name)
    if policy is None and name != "products":
        raise KeyError(case)
    s = peer.given((sentences, labels), SCORES, 8.0)
    table = peer.given((labels, width), TABLE, math.sqrt(12 / width))
    g = peer.given((sentences, width), UPSTREAM, 2.0)
    if name == "products":
        return products(s, table, g)
    s.requires_grad_(name not in WITHOUT_GRADIENT)
    table.requires_grad_()
    forward, kept = wrap(policy), {}
    always = (torch.from_numpy((hashed.hashes(sentences, LABELS) % labels).astype("int64")),) if name == "oracle" else ()

    def step(*draws):
        kept["c"] = s.grad = None
        if name == "top5_adding" and table.grad is not None:
            table.grad.zero_()
        else:
            table.grad = None
        kept["c"] = forward(s, table, *always, *draws)
        kept["c"].backward(g)

    def checks():
        if name.startswith("gumbel"):
            step(torch.from_numpy(-numpy.log(-numpy.log(uniforms(sentences, labels, GUMBEL)))).float())
        elif name == "sampled":
            step(torch.from_numpy(uniforms(sentences, 1, SAMPLED)))
        gradients = [x.grad for x in (s, table) if x.grad is not None]
        return dict(loss=(kept["c"].detach().double() * g.double()).sum().item(), norm=peer.norm(*gradients),
                    score_gradient=peer.norm(s.grad) if s.grad is not None else 0.0, table_gradient=peer.norm(table.grad))

    return peer.Work(step, checks, [x for x in (s, table) if x.requires_grad])


if __name__ == "__main__":
    peer.main(make, __doc__)
