#!/usr/bin/env python3
"""Writes adapters.json: one small language model under every adapter, gate and placement, in float64 by PyTorch.

    python3 tests/golden/make_adapters.py        (needs numpy and torch: see bench/peers/make-venv)

The model, y = x W^T + b with W (out, in), rows packed:
  x = token[tok] + position[pos] (no token: zeros); per layer a = LN1 x; q, k, v = a Wqkv^T + bqkv (heads
  consecutive in each); o = causal attention inside the row's own sequence; x += o Wout^T + bout;
  x += GELU_tanh(f Wup^T + bup) Wdown^T + bdown with f = LN2 x; logits = LN(x) token^T; eps = 1e-5.
  Loss = the mean of -log softmax(logits)[target] over the rows that have a target.
A plan for sentence s: c = softmax(z_s / T) C, u = c W^T + b. It is added, row t to its own sentence's, to
  o (attention_output) or f (feed_forward_input) of every layer from first_adapted on, or to x before the first
  layer (embedding). Where a sentence has P rows of its own, u is (P, width), and only those rows take one.
Gates: learned, u o g. Context: W and b have further rows, a = the last of u; with m_t the mean over the rows up to
  t, of the row's own sequence, of what the plan is added to, sigmoid(a + m_t V^T) multiplies u, V (1, width) or
  (width, width).

Before anything is written, central differences along random directions must agree with every gradient.
"""

import hashlib
import pathlib

import numpy
import torch
import torch.nn.functional as F

import hashed

HERE = pathlib.Path(__file__).resolve().parent

SIZES = dict(vocabulary=23, positions=16, width=8, heads=2, layers=2, mlp_width=32, first_adapted=0, labels=5,
             label_width=6, temperature=0.7)
TOKENS = [3, 17, 8, 0, 22, 11, 3, 14, 5, 20, 9]
TARGETS = [17, 8, 0, 22, 11, 3, 14, 5, 20, 9, 1]
SENTENCE = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]  # sentence 2 crosses the border of the two sequences
OFFSETS = [0, 7, 11]
CASES = {  # placement, gate, one table for all layers, rows of its own per plan
    "shared table": dict(placement="attention_output", gate="learned", shared=True, rows=0),
    "context gate": dict(placement="attention_output", gate="context", shared=False, rows=0),
    "context gate by column": dict(placement="feed_forward_input", gate="context by column", shared=True, rows=0),
    "feed-forward": dict(placement="feed_forward_input", gate="none", shared=False, rows=0),
    "embedding": dict(placement="embedding", gate="none", shared=False, rows=0),
    "embedding, context gate": dict(placement="embedding", gate="context", shared=True, rows=0),
    "inserted rows": dict(placement="embedding", gate="none", shared=False, rows=2),
}


def parameter_list(case):
    """(name, shape, scale, offset), in the order that numbers them."""
    z = SIZES
    V, P, D, M, K, C = (z[n] for n in ("vocabulary", "positions", "width", "mlp_width", "labels", "label_width"))
    out = [("labels.table", (K, C), 2.4, 0)] if case["shared"] else []
    out += [("lm.token.table", (V, D), 1.5, 0), ("lm.position.table", (P, D), 0.8, 0)]

    def norm(name, width):
        return [(name + ".scale", (width,), 0.6, 1), (name + ".shift", (width,), 0.4, 0)]

    def linear(name, rows, columns, scale):
        return [(name + ".w", (rows, columns), scale, 0), (name + ".b", (rows,), 0.4, 0)]

    for i in range(z["layers"]):
        at = f"lm.blocks.{i}."
        out += norm(at + "norm1", D) + linear(at + "attention.qkv", 3 * D, D, 1.6)
        out += linear(at + "attention.out", D, D, 1.2) + norm(at + "norm2", D)
        out += linear(at + "mlp.up", M, D, 1.2) + linear(at + "mlp.down", D, M, 0.8)
    out += norm("lm.norm", D)
    adapters = 1 if case["placement"] == "embedding" else z["layers"] - z["first_adapted"]
    gates = {"context": 1, "context by column": D}.get(case["gate"], 0)
    for j in range(adapters):
        if not case["shared"]:
            out += [(f"adapters.{j}.table", (K, C), 2.4, 0)]
        out += linear(f"adapters.{j}", max(case["rows"], 1) * D + gates, C, 1.4)
        if case["gate"] == "learned":
            out += [(f"adapters.{j}.gate", (D,), 1.2, 0.8)]
        if gates:
            out += [(f"adapters.{j}.gate", (gates, D), 1.6, 0)]
    return out


def rows_of(case):
    """tokens, targets, the plan of each row, offsets; rows of plans have token and target -1."""
    per_plan = case["rows"]
    if not per_plan:
        return TOKENS, TARGETS, SENTENCE, OFFSETS
    tokens, targets, plan, offsets = [], [], [], [0]
    for first, last in zip(OFFSETS, OFFSETS[1:]):
        for t in range(first, last):
            if t == first or SENTENCE[t] != SENTENCE[t - 1]:  # before the row whose target begins the sentence
                tokens += [-1] * per_plan
                targets += [-1] * per_plan
                plan += [SENTENCE[t] * per_plan + j for j in range(per_plan)]
            tokens.append(TOKENS[t])
            targets.append(TARGETS[t])
            plan.append(-1)
        offsets.append(len(tokens))
    return tokens, targets, plan, offsets


def running_mean(x, offsets):
    return torch.cat([x[a:b].cumsum(0) / torch.arange(1, b - a + 1, dtype=x.dtype)[:, None]
                      for a, b in zip(offsets, offsets[1:])])


def norm(x, p, name):
    return F.layer_norm(x, x.shape[-1:], p[name + ".scale"], p[name + ".shift"], 1e-5)


def linear(x, p, name):
    return F.linear(x, p[name + ".w"], p[name + ".b"])


def attention(qkv, offsets):
    parts = []
    for a, b in zip(offsets, offsets[1:]):
        q, k, v = (part.view(b - a, SIZES["heads"], -1).transpose(0, 1) for part in qkv[a:b].chunk(3, dim=1))
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(b - a, -1))
    return torch.cat(parts)


def loss_of(case, p, z):
    tokens, targets, plan, offsets = rows_of(case)
    width, plan = SIZES["width"], torch.tensor(plan)
    weights = torch.softmax(z / SIZES["temperature"], -1)

    def add_plan(j, x):
        table = p["labels.table" if case["shared"] else f"adapters.{j}.table"]
        u = linear(weights @ table, p, f"adapters.{j}")
        if case["gate"].startswith("context"):
            u, a = u[:, :width], u[:, width:]
            return x + torch.sigmoid(a[plan] + running_mean(x, offsets) @ p[f"adapters.{j}.gate"].T) * u[plan]
        if case["gate"] == "learned":
            u = u * p[f"adapters.{j}.gate"]
        taken = (plan >= 0).to(x.dtype)[:, None]
        return x + taken * u.reshape(-1, width)[plan.clamp(min=0)]

    tokens = torch.tensor(tokens)
    positions = torch.cat([torch.arange(b - a) for a, b in zip(offsets, offsets[1:])])
    x = (tokens >= 0).to(z.dtype)[:, None] * p["lm.token.table"][tokens.clamp(min=0)] + p["lm.position.table"][positions]
    if case["placement"] == "embedding":
        x = add_plan(0, x)
    for i in range(SIZES["layers"]):
        at, j = f"lm.blocks.{i}.", i - SIZES["first_adapted"]
        o = attention(linear(norm(x, p, at + "norm1"), p, at + "attention.qkv"), offsets)
        if case["placement"] == "attention_output" and j >= 0:
            o = add_plan(j, o)
        x = x + linear(o, p, at + "attention.out")
        f = norm(x, p, at + "norm2")
        if case["placement"] == "feed_forward_input" and j >= 0:
            f = add_plan(j, f)
        x = x + linear(F.gelu(linear(f, p, at + "mlp.up"), approximate="tanh"), p, at + "mlp.down")
    logits = norm(x, p, "lm.norm") @ p["lm.token.table"].T
    return F.cross_entropy(logits, torch.tensor(targets), ignore_index=-1)


def run(case):
    listed = parameter_list(case)
    p = {name: torch.from_numpy(hashed.values(shape, n, scale, offset)).requires_grad_()
         for n, (name, shape, scale, offset) in enumerate(listed)}
    z = torch.from_numpy(hashed.values((max(SENTENCE) + 1, SIZES["labels"]), len(listed), 3.0)).requires_grad_()
    loss = loss_of(case, p, z)
    loss.backward()
    random, worst, step = numpy.random.default_rng(1), 0.0, 1e-4
    for x in [*p.values(), z]:  # one random direction per array, differences of fourth order
        direction, start = torch.from_numpy(random.standard_normal(tuple(x.shape))), x.detach().clone()
        ends = {}
        with torch.no_grad():
            for n in (-2, -1, 1, 2):
                x.copy_(start + n * step * direction)
                ends[n] = loss_of(case, p, z)
            x.copy_(start)
        difference = (8 * (ends[1] - ends[-1]) - (ends[2] - ends[-2])) / (12 * step) - (x.grad * direction).sum()
        worst = max(worst, float(difference.abs() / x.grad.norm()))
    assert worst < 1e-7, f"central differences disagree by {worst}"
    print(f"loss {loss.item():.9g}, central differences agree to {worst:.1e}")
    kept = {name: v.grad for name, v in p.items() if name.startswith(("labels.", "adapters.", "lm.position."))}
    return dict(**case, parameters=[dict(name=n, shape=list(s), scale=c, offset=o) for n, s, c, o in listed],
                loss=loss.item(), dz=z.grad.numpy(), gradients={name: g.numpy() for name, g in kept.items()})


def main():
    torch.set_num_threads(1)
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in ("hashed.py", "make_adapters.py")))
    about = f"""\
A language model under every adapter, gate and placement: the equations stand at the top of make_adapters.py.
{hashed.ABOUT}.
Parameter number n of a case is its place in the list, from 0; the logits z come after them, scale 3.
Gradients of what belongs to the adapters, of the positions, and of z; float64, row-major."""
    out = dict(about=about.split("\n"),
               made_by=dict(script="make_adapters.py", sha256=digest.hexdigest(), torch=torch.__version__.split("+")[0]),
               sizes=SIZES, tokens=TOKENS, targets=TARGETS, sentence=SENTENCE, sequence_offsets=OFFSETS,
               cases={name: run(case) for name, case in CASES.items()})
    (HERE / "adapters.json").write_text(hashed.json_text(out) + "\n")


main()
