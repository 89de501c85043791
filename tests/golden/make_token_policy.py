#!/usr/bin/env python3
"""Writes token_policy.json: the head of a policy that may stop, under every rule, in float64 by PyTorch.

    python3 tests/golden/make_token_policy.py    (needs numpy and torch: see bench/peers/make-venv)

z = h T^T + penalty; z[stop] = -infinity in rows that must not stop, all but z[stop] where they must. Per row
log p(token), log p(stop) and H = -sum p log p of the softmax of z. Gradients are of
  sum of dtaken log p(token), where one was taken, + dstop log p(stop), where the row is free to stop, + dentropy H
with respect to h, T and the logits h T^T. Before anything is written, central differences along random directions
of h and T must agree.
"""

import hashlib
import pathlib

import numpy
import torch

import hashed

HERE = pathlib.Path(__file__).resolve().parent
ROWS, WIDTH, VOCABULARY, STOP = 11, 5, 13, 4
FREE, FORBIDDEN, FORCED = range(3)
TOKENS = [3, 12, -1, 0, 4, 7, -1, 4, 9, 1, -1]
STOPPING = [FREE, FORBIDDEN, FORCED, FREE, FREE, FORBIDDEN, FREE, FORCED, FREE, FREE, FORBIDDEN]
ARRAYS = [  # name, shape, scale; an array's number is its place
    ("hidden", (ROWS, WIDTH), 3), ("table", (VOCABULARY, WIDTH), 2), ("penalty", (VOCABULARY,), 4),
    ("dtaken", (ROWS,), 2), ("dstop", (ROWS,), 2), ("dentropy", (ROWS,), 2)]


def outputs(z, stopping):
    """Values of rows of logits."""
    stop = torch.arange(VOCABULARY) == STOP
    rule = torch.tensor(stopping)[:, None]
    excluded = ((rule == FORBIDDEN) & stop) | ((rule == FORCED) & ~stop)
    logp = torch.log_softmax(z.masked_fill(excluded, -torch.inf), dim=1)
    p = logp.exp()
    entropy = -(p * torch.where(p > 0, logp, 0.0)).sum(1)
    row = torch.arange(ROWS)
    token = torch.tensor(TOKENS)
    taken = torch.where(token < 0, 0.0, logp[row, token.clamp(min=0)])
    return taken, logp[:, STOP], entropy


def loss(z, stopping, dtaken, dstop, dentropy):
    taken, stop, entropy = outputs(z, stopping)
    free = torch.tensor(stopping) == FREE
    return (dtaken * taken).sum() + (dstop * torch.where(free, stop, 0.0)).sum() + (dentropy * entropy).sum()


def main():
    arrays = {name: torch.from_numpy(hashed.values(shape, n, scale)) for n, (name, shape, scale) in enumerate(ARRAYS)}
    cases = {}
    for case, stopping, penalised in (("free", [FREE] * ROWS, False), ("rules", STOPPING, True)):
        h, table = (arrays[name].clone().requires_grad_() for name in ("hidden", "table"))
        penalty = arrays["penalty"] if penalised else torch.zeros(VOCABULARY, dtype=torch.float64)
        upstreams = [arrays[name] for name in ("dtaken", "dstop", "dentropy")]

        def of(h, table):
            return loss(h @ table.T + penalty, stopping, *upstreams)

        z = h @ table.T
        z.retain_grad()
        taken, stop, entropy = (x.detach().numpy() for x in outputs(z + penalty, stopping))
        loss(z + penalty, stopping, *upstreams).backward()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _ in range(8):
                a, b = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (h, table))
                numeric = (of(h + 1e-6 * a, table + 1e-6 * b) - of(h - 1e-6 * a, table - 1e-6 * b)) / 2e-6
                analytic = (a * h.grad).sum() + (b * table.grad).sum()
                assert abs(numeric - analytic) < 1e-7 * max(1, abs(numeric)), case
        cases[case] = dict(
            stopping=stopping, penalised=penalised, taken=taken,
            stop=stop[numpy.array(stopping) != FORBIDDEN], entropy=entropy,
            dhidden=h.grad.numpy(), dtable=table.grad.numpy(), dz=z.grad.numpy())
    scripts = (HERE / "hashed.py").read_bytes() + (HERE / "make_token_policy.py").read_bytes()
    out = dict(
        about=["The head of a policy that may stop: the equations stand at the top of make_token_policy.py; float64, row-major.",
               hashed.ABOUT + ".", "stop: of the rows that may stop, in their order."],
        made_by=dict(script="make_token_policy.py", sha256=hashlib.sha256(scripts).hexdigest(),
                     torch=torch.__version__.split("+")[0]),
        sizes=dict(rows=ROWS, width=WIDTH, vocabulary=VOCABULARY, stop=STOP), tokens=TOKENS,
        arrays=[dict(name=name, number=n, scale=scale) for n, (name, _, scale) in enumerate(ARRAYS)], cases=cases)
    (HERE / "token_policy.json").write_text(hashed.json_text(out) + "\n")


main()
