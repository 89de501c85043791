#!/usr/bin/env python3
"""Writes layers.json: every layer, loss, mixing policy and optimiser once, small, in float64 by PyTorch.

    python3 tests/golden/make_layers.py            (needs numpy and torch: see bench/peers/make-venv)

Each case holds its inputs as numbers of the formula in hashed.py, the output, and the gradient of
sum(upstream * output) with respect to every input; the equation stands in "about". Before a case is kept, its
equation in plain numpy must give the same output, and central differences of that numpy function, element by
element, the same gradients. Optimisers hold the parameters after each of three steps.
"""

import hashlib
import math
import pathlib

import numpy
import torch
import torch.nn.functional as F

import hashed

HERE = pathlib.Path(__file__).resolve().parent
CASES = {}
numbers = iter(range(1000))
worst = 0.0


def array(name, shape, scale, offset=0):
    return dict(name=name, shape=list(shape), number=next(numbers), scale=scale, offset=offset)


def numpy_values(spec):
    return hashed.values(spec["shape"], spec["number"], spec["scale"], spec["offset"])


def case(name, about, sizes, inputs, by_torch, by_numpy, tolerance=1e-7):
    """Adds one differentiable case; `inputs` are (name, shape, scale[, offset])."""
    global worst
    specs = [array(*each) for each in inputs]
    start = [numpy_values(spec) for spec in specs]
    leaves = [torch.from_numpy(x).clone().requires_grad_() for x in start]
    output = by_torch(*leaves)
    plain = by_numpy(*start)
    assert numpy.abs(output.detach().numpy() - plain).max() < 1e-12, f"{name}: numpy and PyTorch disagree"
    if output.dim():
        upstream = array("upstream", output.shape, 2.0)
        dy = numpy_values(upstream)
    else:
        upstream, dy = None, numpy.ones(())
    output.backward(torch.from_numpy(dy))
    gradients = {spec["name"]: leaf.grad.numpy() for spec, leaf in zip(specs, leaves)}
    for index, spec in enumerate(specs):
        numeric = numpy.zeros(start[index].size)
        for i in range(numeric.size):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [x.copy() for x in start]
                moved[index].flat[i] += step
                ends.append((by_numpy(*moved) * dy).sum())
            numeric[i] = (ends[0] - ends[1]) / 2e-6
        error = numpy.abs(numeric - gradients[spec["name"]].reshape(-1)).max()
        assert error < tolerance, f"{name}: the gradient of {spec['name']} is off by {error}"
        worst = max(worst, error)
    CASES[name] = dict(about=about, sizes=sizes, arrays=specs, **({"upstream": upstream} if upstream else {}),
                       output=output.detach().numpy(), gradients=gradients)


def softmax(s):
    e = numpy.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def linear_layers():
    case("linear", "y = x W^T + b", dict(rows=5, inputs=4, outputs=3),
         [("x", (5, 4), 2), ("w", (3, 4), 2), ("b", (3,), 1)],
         F.linear, lambda x, w, b: numpy.einsum("ni,oi->no", x, w) + b)
    rank, alpha = 2, 8.0
    case("lora", "y = x W^T + (alpha / rank) (x A^T) B^T, A (rank, inputs), B (outputs, rank); W frozen",
         dict(rows=4, inputs=5, outputs=3, rank=rank, alpha=alpha),
         [("x", (4, 5), 2), ("w", (3, 5), 2), ("a", (rank, 5), 1), ("b", (3, rank), 1)],
         lambda x, w, a, b: F.linear(x, w) + alpha / rank * F.linear(F.linear(x, a), b),
         lambda x, w, a, b: x @ (w + alpha / rank * b @ a).T)
    rows = [2, 0, 2, 5]
    case("embedding", "y[n] = table[token[n]]", dict(vocabulary=6, width=4, tokens=rows),
         [("table", (6, 4), 2)], lambda t: F.embedding(torch.tensor(rows), t),
         lambda t: numpy.stack([t[r] for r in rows]))


def norms():
    eps = 1e-5

    def plain(x, scale, shift):
        mean = x.mean(1, keepdims=True)
        return (x - mean) / numpy.sqrt(((x - mean) ** 2).mean(1, keepdims=True) + eps) * scale + shift

    case("layer_norm", "y = (x - mean) / sqrt(var + eps) * scale + shift, var over width (biased), per row",
         dict(rows=4, width=7, epsilon=eps),
         [("x", (4, 7), 3), ("scale", (7,), 0.6, 1), ("shift", (7,), 1)],
         lambda x, scale, shift: F.layer_norm(x, (7,), scale, shift, eps), plain)
    case("rms_norm", "y = x / sqrt(mean(x^2) + eps) * scale, per row", dict(rows=4, width=7, epsilon=eps),
         [("x", (4, 7), 3), ("scale", (7,), 0.6, 1)],
         lambda x, scale: F.rms_norm(x, (7,), scale, eps),
         lambda x, scale: x / numpy.sqrt((x * x).mean(1, keepdims=True) + eps) * scale)


def activations():
    sizes, x = dict(rows=3, width=5), [("x", (3, 5), 8)]
    case("gelu", "y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))", sizes, x,
         lambda x: F.gelu(x, approximate="tanh"),
         lambda x: 0.5 * x * (1 + numpy.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))))
    case("silu", "y = x / (1 + exp(-x))", sizes, x, F.silu, lambda x: x / (1 + numpy.exp(-x)))
    case("relu", "y = max(x, 0)", sizes, x, F.relu, lambda x: numpy.where(x > 0, x, 0))


def attentions():
    heads, kv_heads, d, offsets = 4, 2, 3, [0, 5, 8]
    width, kv_width = heads * d, kv_heads * d

    def by_torch(qkv, causal):
        out = []
        for a, b in zip(offsets, offsets[1:]):
            parts = qkv[a:b].split([width, kv_width, kv_width], dim=1)
            q, k, v = (part.reshape(b - a, -1, d).transpose(0, 1) for part in parts)
            o = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
            out.append(o.transpose(0, 1).reshape(b - a, width))
        return torch.cat(out)

    def by_numpy(qkv, causal):
        out = numpy.zeros((offsets[-1], width))
        for a, b in zip(offsets, offsets[1:]):
            for h in range(heads):
                at = h // (heads // kv_heads) * d
                for t in range(a, b):
                    end = t + 1 if causal else b
                    q = qkv[t, h * d:(h + 1) * d]
                    k = qkv[a:end, width + at:width + at + d]
                    v = qkv[a:end, width + kv_width + at:width + kv_width + at + d]
                    out[t, h * d:(h + 1) * d] = softmax(k @ q / math.sqrt(d)) @ v
        return out

    for name, causal in (("attention_causal", True), ("attention_bidirectional", False)):
        case(name, "columns of qkv: 4 query heads, 2 key heads, 2 value heads, d each; query head h reads "
             "key/value head h / 2; softmax(q k^T / sqrt(d)) v within each sequence; heads concatenated",
             dict(heads=heads, kv_heads=kv_heads, head_width=d, sequence_offsets=offsets),
             [("qkv", (8, width + 2 * kv_width), 3)],
             lambda x: by_torch(x, causal), lambda x: by_numpy(x, causal))


def positions():
    heads, d, at = 2, 6, [0, 1, 2, 5, 9]

    def rotate(x, sin, cos, stack):
        even, odd = x[..., 0::2], x[..., 1::2]
        return stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(len(at), heads * d)

    angle = numpy.array([[[p * 10000.0 ** (-2 * i / d) for i in range(d // 2)]] for p in at])
    sin, cos = torch.from_numpy(numpy.sin(angle)), torch.from_numpy(numpy.cos(angle))

    def by_numpy(x):
        y = numpy.zeros_like(x)
        for n, p in enumerate(at):
            for h in range(heads):
                for i in range(d // 2):
                    c, a = h * d + 2 * i, p * 10000.0 ** (-2 * i / d)
                    y[n, c] = x[n, c] * math.cos(a) - x[n, c + 1] * math.sin(a)
                    y[n, c + 1] = x[n, c] * math.sin(a) + x[n, c + 1] * math.cos(a)
        return y

    case("rotary", "interleaved pairs: in a head, (x[2i], x[2i+1]) is turned by position * 10000^(-2i/d): "
         "y[2i] = x[2i] cos - x[2i+1] sin, y[2i+1] = x[2i] sin + x[2i+1] cos",
         dict(heads=heads, head_width=d, base=10000, positions=at), [("x", (len(at), heads * d), 2)],
         lambda x: rotate(x.view(len(at), heads, d), sin, cos, torch.stack), by_numpy)

    rows, width = 7, 6
    table = [[(math.sin, math.cos)[i % 2](p / 10000.0 ** ((i - i % 2) / width)) for i in range(width)]
             for p in range(rows)]
    case("sinusoidal", "y[p] = x[p] + PE[p]; PE[p, 2i] = sin(p / 10000^(2i/width)), PE[p, 2i+1] its cos",
         dict(rows=rows, width=width), [("x", (rows, width), 1)],
         lambda x: x + torch.tensor(table, dtype=torch.float64), lambda x: x + numpy.array(table))


def losses():
    targets = [3, 0, -1, 6, 2]

    def plain(s):
        kept = [n for n, target in enumerate(targets) if target >= 0]
        return numpy.array(-sum(math.log(softmax(s[n])[targets[n]]) for n in kept) / len(kept))

    case("cross_entropy", "mean of -log softmax(s)[target] over the rows whose target is not -1",
         dict(rows=5, vocabulary=7, targets=targets), [("s", (5, 7), 6)],
         lambda s: F.cross_entropy(s, torch.tensor(targets), ignore_index=-1), plain)
    case("linear_cross_entropy", "cross_entropy of the logits x W^T",
         dict(rows=5, width=4, vocabulary=7, targets=targets), [("x", (5, 4), 3), ("w", (7, 4), 3)],
         lambda x, w: F.cross_entropy(x @ w.T, torch.tensor(targets), ignore_index=-1),
         lambda x, w: plain(x @ w.T))


def mixings():
    S, K, C, T, kept = 3, 5, 4, 0.7, 2
    sizes = dict(sentences=S, labels=K, label_width=C, temperature=T)
    inputs = [("s", (S, K), 4), ("table", (K, C), 2)]
    case("mixture", "c = softmax(s / T) table", sizes, inputs,
         lambda s, t: torch.softmax(s / T, 1) @ t, lambda s, t: softmax(s / T) @ t)

    def top(s, t):
        best = s.topk(kept, 1).indices
        only = torch.full_like(s, -math.inf).scatter(1, best, s.gather(1, best))
        return torch.softmax(only / T, 1) @ t

    def plain_top(s, t):
        p = softmax(s / T)
        p = numpy.where(p >= numpy.sort(p, 1)[:, -kept:-kept + 1], p, 0)
        return p / p.sum(1, keepdims=True) @ t

    case("top_k", "p = softmax(s / T), all but its k largest set to 0, divided by their sum; c = p table; "
         "the choice of labels is constant in the gradient", {**sizes, "k": kept}, inputs, top, plain_top)

    # Straight-through has no function of which it is the gradient, so its identity is checked instead:
    # ds_k = p_k / T (g . table_k - sum_j p_j g . table_j), and dtable only in the chosen row.
    specs = [array(*each) for each in inputs]
    s, t = (numpy_values(spec) for spec in specs)
    upstream = array("upstream", (S, C), 2.0)
    g = numpy_values(upstream)
    leaves = [torch.from_numpy(x).clone().requires_grad_() for x in (s, t)]
    p = torch.softmax(leaves[0] / T, 1)
    q = F.one_hot(p.argmax(1), K).double()
    constant = leaves[1].detach()
    c = (q - p).detach() @ constant + p @ constant + q @ (leaves[1] - constant)
    c.backward(torch.from_numpy(g))
    p, hard = softmax(s / T), s.argmax(1)
    scores = g @ t.T
    ds = p / T * (scores - (p * scores).sum(1, keepdims=True))
    dt = numpy.zeros_like(t)
    for n in range(S):
        dt[hard[n]] += g[n]
    assert numpy.abs(leaves[0].grad.numpy() - ds).max() < 1e-12
    assert numpy.abs(leaves[1].grad.numpy() - dt).max() < 1e-12
    assert numpy.abs(c.detach().numpy() - t[hard]).max() < 1e-12
    CASES["straight_through"] = dict(
        about="forward c = table[argmax s]; ds is that of softmax(s / T) table; dtable in the chosen rows",
        sizes=sizes, arrays=specs, upstream=upstream, output=t[hard], gradients=dict(s=ds, table=dt))


def adamw(p, gradients, lr, beta1, beta2, eps, decay):
    m = v = numpy.zeros_like(p)
    out = []
    for t, g in enumerate(gradients, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        p = p - lr * decay * p - lr * (m / (1 - beta1 ** t)) / (numpy.sqrt(v / (1 - beta2 ** t)) + eps)
        out.append(p)
    return out


def sgd(p, gradients, lr, momentum):
    v = numpy.zeros_like(p)
    out = []
    for g in gradients:
        v = momentum * v + g
        p = p - lr * v
        out.append(p)
    return out


def lion(p, gradients, lr, beta1, beta2, decay):
    m = numpy.zeros_like(p)
    out = []
    for g in gradients:
        p = p - lr * (numpy.sign(beta1 * m + (1 - beta1) * g) + decay * p)
        m = beta2 * m + (1 - beta2) * g
        out.append(p)
    return out


def optimisers():
    def add(name, about, sizes, rule, peer=None):
        specs = [array("p", (6,), 2)] + [array(f"gradient{step}", (6,), 3) for step in (1, 2, 3)]
        p, *gradients = (numpy_values(spec) for spec in specs)
        steps = rule(p, gradients, *sizes.values())
        if peer:
            leaf = torch.from_numpy(p).clone().requires_grad_()
            optimiser = peer([leaf])
            for g, expected in zip(gradients, steps):
                leaf.grad = torch.from_numpy(g)
                optimiser.step()
                assert numpy.abs(leaf.detach().numpy() - expected).max() < 1e-12, name
        CASES[name] = dict(about=about, sizes=sizes, arrays=specs,
                           steps={f"after{step}": x for step, x in enumerate(steps, 1)})

    add("adamw", "m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p -= lr weight_decay p; "
        "p -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)",
        dict(learning_rate=1e-2, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01), adamw,
        lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01))
    add("sgd", "v = momentum v + g; p -= lr v (v starts at 0)", dict(learning_rate=0.1, momentum=0.9), sgd,
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    add("lion", "p -= lr (sign(b1 m + (1 - b1) g) + weight_decay p), then m = b2 m + (1 - b2) g; by its "
        "equations, without a second implementation",
        dict(learning_rate=1e-2, beta1=0.9, beta2=0.99, weight_decay=0.1), lion)


def main():
    for part in (linear_layers, norms, activations, attentions, positions, losses, mixings, optimisers):
        part()
    scripts = (HERE / "hashed.py").read_bytes() + (HERE / "make_layers.py").read_bytes()
    made_by = dict(script="make_layers.py", sha256=hashlib.sha256(scripts).hexdigest(),
                   torch=torch.__version__.split("+")[0])
    out = dict(
        about=["Layers, losses, mixing policies and optimisers in float64; arrays row-major.",
               hashed.ABOUT + ". Each array carries its number n, scale and offset.",
               "gradients: of sum(upstream * output), or of the output itself where it is one number."],
        made_by=made_by, layers=CASES)
    (HERE / "layers.json").write_text(hashed.json_text(out) + "\n")
    print(f"{len(CASES)} cases; numpy central differences against PyTorch: {worst:.1e} at most")


main()
