#!/usr/bin/env python3
"""Writes look_ahead.json: a look-ahead planner over three unrolls and two encoders of sets of plans, in float64 by
PyTorch, with every gradient.

    python3 tests/golden/make_look_ahead.py        (needs numpy and torch: see bench/peers/make-venv)

Look-ahead: H = (z + PE) Win^T + bin for each sentence's context, PE sinusoidal, 0 for the oldest; each unroll
with label a: H = g([actions[a] + arrival ; H]), then H = 0.5 H + 0.5 H.detach(); at every step
s = (mean over rows of f(H)) Whead^T + bhead. f and g are torch.nn.TransformerEncoderLayer (post-norm, ReLU). A
label of -1 adds `arrival` alone. The output is the mean cross-entropy over the targets that are not -1; logits are
[steps, sentences, labels].
Plans: rows table[label] + PE(step) or + a learned row, encoder layers, mean over steps; then encoder layers without
positions over the paths, or none, and their mean. The gradients are those of sum(upstream * output).

Before anything is written, central differences along random directions must agree with the gradients of the plan
encoders and of the look-ahead without halving.
"""

import hashlib
import math
import pathlib

import numpy
import torch
import torch.nn.functional as F
from torch.func import functional_call

import hashed

HERE = pathlib.Path(__file__).resolve().parent
CASES = {}
numbers = iter(range(1000))
TORCH_NAMES = {"attention.qkv.w": "self_attn.in_proj_weight", "attention.qkv.b": "self_attn.in_proj_bias",
               "attention.out.w": "self_attn.out_proj.weight", "attention.out.b": "self_attn.out_proj.bias",
               "norm1.scale": "norm1.weight", "norm1.shift": "norm1.bias", "mlp.up.w": "linear1.weight",
               "mlp.up.b": "linear1.bias", "mlp.down.w": "linear2.weight", "mlp.down.b": "linear2.bias",
               "norm2.scale": "norm2.weight", "norm2.shift": "norm2.bias"}


def array(name, shape, scale, offset=0):
    return dict(name=name, shape=list(shape), number=next(numbers), scale=scale, offset=offset)


def values(spec):
    return hashed.values(spec["shape"], spec["number"], spec["scale"], spec["offset"])


def block_arrays(at, width, inner):
    def linear(name, rows, columns):
        return [array(at + name + ".w", (rows, columns), 1.5), array(at + name + ".b", (rows,), 0.6)]

    def norm(name):
        return [array(at + name + ".scale", (width,), 0.6, 1), array(at + name + ".shift", (width,), 0.6)]

    return (linear("attention.qkv", 3 * width, width) + linear("attention.out", width, width) + norm("norm1")
            + linear("mlp.up", inner, width) + linear("mlp.down", width, inner) + norm("norm2"))


def encode(layer, p, at, depth, rows):
    """(N, width) -> (N, width): one sequence through blocks at.0, at.1, ..."""
    for i in range(depth):
        state = {theirs: p[f"{at}.{i}.{ours}"] for ours, theirs in TORCH_NAMES.items()}
        rows = functional_call(layer, state, (rows.unsqueeze(0),)).squeeze(0)
    return rows


def sinusoids(rows, width):
    code = [[(math.sin, math.cos)[i % 2](p / 10000.0 ** ((i - i % 2) / width)) for i in range(width)] for p in range(rows)]
    return torch.tensor(code, dtype=torch.float64)


def encoder_layer(width, heads, inner):
    return torch.nn.TransformerEncoderLayer(width, heads, inner, dropout=0.0, activation="relu", batch_first=True,
                                            norm_first=False, dtype=torch.float64)


def directional_check(name, function, leaves):
    """Central differences of a scalar function of the leaves along random directions."""
    gradients = torch.autograd.grad(function(leaves), list(leaves.values()))
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        way = [torch.randn(leaf.shape, generator=generator, dtype=torch.float64) for leaf in leaves.values()]
        step = 1e-6
        with torch.no_grad():
            ends = [function({key: leaf + sign * step * w for (key, leaf), w in zip(leaves.items(), way)}).item()
                    for sign in (1, -1)]
        numeric = (ends[0] - ends[1]) / (2 * step)
        analytic = sum((g * w).sum().item() for g, w in zip(gradients, way))
        assert abs(numeric - analytic) < 1e-6 * max(1, abs(analytic)), f"{name}: {numeric} against {analytic}"


def look_ahead():
    sizes = dict(width=6, labels=5, heads=2, inner=8, plan_depth=1, depth=2, context_offsets=[0, 1, 4, 6],
                 targets=[[2, 0, 4], [1, 3, 4], [0, -1, 2], [3, -1, -1]], valid=9)
    C, K = sizes["width"], sizes["labels"]
    offsets, targets = sizes["context_offsets"], sizes["targets"]
    specs = [array("plan.input.w", (C, C), 1.5), array("plan.input.b", (C,), 0.6)]
    for i in range(sizes["plan_depth"]):
        specs += block_arrays(f"plan.blocks.{i}.", C, sizes["inner"])
    specs += [array("plan.head.w", (K, C), 2), array("plan.head.b", (K,), 1),
              array("ahead.actions", (K, C), 2), array("ahead.arrival", (C,), 1)]
    for i in range(sizes["depth"]):
        specs += block_arrays(f"ahead.blocks.{i}.", C, sizes["inner"])
    contexts = array("z", (offsets[-1], C), 2)
    z = torch.from_numpy(values(contexts))
    layer = encoder_layer(C, sizes["heads"], sizes["inner"])
    leaves = {spec["name"]: torch.from_numpy(values(spec)).requires_grad_() for spec in specs}

    def logits(p, halved):
        out = []
        for s in range(len(offsets) - 1):
            own = z[offsets[s]:offsets[s + 1]]
            h = F.linear(own + sinusoids(len(own), C), p["plan.input.w"], p["plan.input.b"])
            for t in range(len(targets)):
                if t:
                    a = targets[t - 1][s]
                    v = p["ahead.arrival"] + (p["ahead.actions"][a] if a >= 0 else 0)
                    h = encode(layer, p, "ahead.blocks", sizes["depth"], torch.cat([v.unsqueeze(0), h]))
                    if halved:
                        h = h * 0.5 + h.detach() * 0.5
                r = encode(layer, p, "plan.blocks", sizes["plan_depth"], h).mean(0)
                out.append(F.linear(r, p["plan.head.w"], p["plan.head.b"]))
        return torch.stack(out).view(len(offsets) - 1, len(targets), K).transpose(0, 1)

    def loss(s):
        return F.cross_entropy(s.reshape(-1, K), torch.tensor(targets).reshape(-1), ignore_index=-1)

    directional_check("look_ahead", lambda p: loss(logits(p, False)), leaves)
    s = logits(leaves, True)
    mean = loss(s)
    gradients = torch.autograd.grad(mean, list(leaves.values()))
    CASES["look_ahead"] = dict(
        about="mean cross-entropy of targets [steps, sentences] over those that are not -1, gradients halved at each "
        "unroll; the labels of step t are the targets of step t - 1",
        sizes=sizes, arrays=specs, contexts=contexts, logits=s.detach().numpy(), output=mean.detach().numpy(),
        gradients={name: g.numpy() for name, g in zip(leaves, gradients)})


def plans(name, about, learned, set_depth):
    S, P, T, K, C = 2, 3, 4, 5, 6
    labels = [[[0, 2, 2, 1], [4, 0, 1, 3], [2, 2, 3, 3]], [[1, 1, 1, 4], [0, 3, 4, 2], [1, 1, 1, 4]]]
    sizes = dict(sentences=S, paths=P, steps=T, labels=K, width=C, heads=2, inner=8, path_depth=2, set_depth=set_depth,
                 length=6, plan=labels)
    specs = [array("table", (K, C), 2)]
    if learned:
        specs.append(array("path.code.table", (sizes["length"], C), 1.5))
    for at, depth in (("path", sizes["path_depth"]), ("set", set_depth)):
        for i in range(depth):
            specs += block_arrays(f"{at}.blocks.{i}.", C, sizes["inner"])
    layer = encoder_layer(C, sizes["heads"], sizes["inner"])
    leaves = {spec["name"]: torch.from_numpy(values(spec)).requires_grad_() for spec in specs}

    def output(p):
        code = p["path.code.table"][:T] if learned else sinusoids(T, C)
        out = []
        for sentence in labels:
            e = torch.stack([encode(layer, p, "path.blocks", sizes["path_depth"], p["table"][torch.tensor(path)] + code).mean(0)
                             for path in sentence])
            out.append(encode(layer, p, "set.blocks", set_depth, e).mean(0))
        return torch.stack(out)

    upstream = array("upstream", (S, C), 2)
    dc = torch.from_numpy(values(upstream))
    directional_check(name, lambda p: (output(p) * dc).sum(), leaves)
    c = output(leaves)
    gradients = torch.autograd.grad((c * dc).sum(), list(leaves.values()))
    CASES[name] = dict(about=about, sizes=sizes, arrays=specs, upstream=upstream, output=c.detach().numpy(),
                       gradients={key: g.numpy() for key, g in zip(leaves, gradients)})


def main():
    look_ahead()
    plans("plan_encoder", "sinusoidal step code, two blocks over steps, one block over paths", False, 1)
    plans("plan_encoder_learned", "learned step code, two blocks over steps, mean over paths", True, 0)
    scripts = (HERE / "hashed.py").read_bytes() + (HERE / "make_look_ahead.py").read_bytes()
    made_by = dict(script="make_look_ahead.py", sha256=hashlib.sha256(scripts).hexdigest(),
                   torch=torch.__version__.split("+")[0])
    out = dict(
        about=["A look-ahead planner and encoders of sets of plans in float64; arrays row-major.",
               hashed.ABOUT + ". Each array carries its number n, scale and offset."],
        made_by=made_by, cases=CASES)
    (HERE / "look_ahead.json").write_text(hashed.json_text(out) + "\n")
    print(f"{len(CASES)} cases")


main()
