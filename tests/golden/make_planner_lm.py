#!/usr/bin/env python3
"""Writes planner_lm.json and planner_lm_straight_through.json: one small planner-conditioned language model
computed by PyTorch in float64, with every gradient and ten training losses.

    python3 tests/golden/make_planner_lm.py        (needs numpy and torch: see bench/peers/make-venv)

The model, y = x W^T + b with W (out, in), rows packed:
  LM (pre-norm): x = token[tok] + position[pos]; per layer i: a = LN1 x; q, k, v = a Wqkv^T + bqkv (in this
  order, heads consecutive in each); o = causal attention inside the row's own sequence, scale 1/sqrt(d); if
  i >= first_adapted: o += u[sentence], u = (p C) W^T + b; x += o Wout^T + bout;
  x += GELU_tanh(LN2(x) Wup^T + bup) Wdown^T + bdown. Logits = LN(x) token^T.
  Loss = mean over all rows of -log softmax(logits)[target]. eps = 1e-5 in every norm.
  Planner: u_j = (z_j + PE_j) Win^T + bin, PE sinusoidal with position 0 for the oldest embedding; one
  post-norm encoder layer, bidirectional: h = LN1(u + attention),
  y = LN2(h + relu(h Wup^T + bup) Wdown^T + bdown); r = mean_j y_j; s = r Whead^T + bhead. p = softmax(s / T).
  Straight-through: p is replaced by its one-hot argmax, in the forward pass only.

Before anything is written, the same model in plain numpy must give the same loss, and central differences of
that numpy loss along random directions must give the same directional derivatives.
"""

import hashlib
import math
import pathlib

import numpy
import torch
import torch.nn.functional as F

import hashed

HERE = pathlib.Path(__file__).resolve().parent

SIZES = dict(vocabulary=23, positions=8, width=8, heads=2, layers=3, mlp_width=32, first_adapted=1, labels=5,
             label_width=6, planner_heads=2, planner_mlp_width=10, mixing_temperature=0.7, norm_epsilon=1e-5)
TOKENS = [3, 17, 8, 0, 22, 11, 3, 14, 5, 20, 9]
TARGETS = [17, 8, 0, 22, 11, 3, 14, 5, 20, 9, 1]
POSITIONS = [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]
SEQUENCE_OFFSETS = [0, 7, 11]
SENTENCE = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]  # sentence 2 crosses the border of the two sequences
CONTEXT_OFFSETS = [0, 1, 4, 6, 10]
TRAINING = dict(steps=10, learning_rate=1e-2, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01,
                clip_norm=1.0)


def parameter_list():
    """(name, shape, scale, offset), in the order that numbers them."""
    z = SIZES
    V, P, D, M = z["vocabulary"], z["positions"], z["width"], z["mlp_width"]
    K, C, F_ = z["labels"], z["label_width"], z["planner_mlp_width"]
    out = [("lm.token.table", (V, D), 1.5, 0), ("lm.position.table", (P, D), 0.8, 0)]

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
    for j in range(z["layers"] - z["first_adapted"]):
        out += [(f"adapters.{j}.table", (K, C), 2.4, 0)] + linear(f"adapters.{j}", D, C, 1.4)
    out += linear("planner.input", C, C, 1.6)
    at = "planner.blocks.0."
    out += linear(at + "attention.qkv", 3 * C, C, 1.8) + linear(at + "attention.out", C, C, 1.6)
    out += norm(at + "norm1", C) + linear(at + "mlp.up", F_, C, 1.6) + linear(at + "mlp.down", C, F_, 1.4)
    out += norm(at + "norm2", C) + linear("planner.head", K, C, 2.4)
    return out


PARAMETERS = parameter_list()
CONTEXT_NUMBER, CONTEXT_SCALE = len(PARAMETERS), 2.0


def context_embeddings():
    return hashed.values((CONTEXT_OFFSETS[-1], SIZES["label_width"]), CONTEXT_NUMBER, CONTEXT_SCALE)


def sinusoids(rows, width):
    table = numpy.zeros((rows, width))
    for pos in range(rows):
        for i in range(0, width, 2):
            angle = pos / 10000.0 ** (i / width)
            table[pos, i], table[pos, i + 1] = math.sin(angle), math.cos(angle)
    return table


# --- PyTorch ------------------------------------------------------------------------------------------

class straight_through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p):
        return F.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype)

    @staticmethod
    def backward(ctx, dq):
        return dq


def norm(x, p, name):
    return F.layer_norm(x, x.shape[-1:], p[name + ".scale"], p[name + ".shift"], SIZES["norm_epsilon"])


def linear(x, p, name):
    return F.linear(x, p[name + ".w"], p[name + ".b"])


def attention(qkv, heads, causal):
    rows, width = qkv.shape[0], qkv.shape[1] // 3
    q, k, v = (part.view(rows, heads, width // heads).transpose(0, 1) for part in qkv.split(width, dim=1))
    o = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return o.transpose(0, 1).reshape(rows, width)


def planner(p, contexts):
    s = []
    for first, last in zip(CONTEXT_OFFSETS, CONTEXT_OFFSETS[1:]):
        pe = torch.from_numpy(sinusoids(last - first, contexts.shape[1])).to(contexts.dtype)
        u = linear(contexts[first:last] + pe, p, "planner.input")
        at = "planner.blocks.0."
        o = attention(linear(u, p, at + "attention.qkv"), SIZES["planner_heads"], False)
        h = norm(u + linear(o, p, at + "attention.out"), p, at + "norm1")
        y = norm(h + linear(F.relu(linear(h, p, at + "mlp.up")), p, at + "mlp.down"), p, at + "norm2")
        s.append(linear(y.mean(0), p, "planner.head"))
    return torch.stack(s)


def language_model(p, weights):
    x = p["lm.token.table"][torch.tensor(TOKENS)] + p["lm.position.table"][torch.tensor(POSITIONS)]
    for i in range(SIZES["layers"]):
        at = f"lm.blocks.{i}."
        qkv = linear(norm(x, p, at + "norm1"), p, at + "attention.qkv")
        o = torch.cat([attention(qkv[a:b], SIZES["heads"], True)
                       for a, b in zip(SEQUENCE_OFFSETS, SEQUENCE_OFFSETS[1:])])
        j = i - SIZES["first_adapted"]
        if j >= 0:
            u = linear(weights @ p[f"adapters.{j}.table"], p, f"adapters.{j}")
            o = o + u[torch.tensor(SENTENCE)]
        x = x + linear(o, p, at + "attention.out")
        f = F.gelu(linear(norm(x, p, at + "norm2"), p, at + "mlp.up"), approximate="tanh")
        x = x + linear(f, p, at + "mlp.down")
    return F.linear(norm(x, p, "lm.norm"), p["lm.token.table"])


def run(p, contexts, hard):
    s = planner(p, contexts)
    weights = torch.softmax(s / SIZES["mixing_temperature"], -1)
    if hard:
        weights = straight_through.apply(weights)
    logits = language_model(p, weights)
    return s, weights, logits, F.cross_entropy(logits, torch.tensor(TARGETS))


def start(dtype):
    p = {name: torch.from_numpy(hashed.values(shape, n, scale, offset)).to(dtype).requires_grad_()
         for n, (name, shape, scale, offset) in enumerate(PARAMETERS)}
    return p, torch.from_numpy(context_embeddings()).to(dtype)


def gradients(dtype, hard):
    p, contexts = start(dtype)
    s, weights, logits, loss = run(p, contexts, hard)
    loss.backward()
    values = dict(s=s, weights=weights, logits=logits, loss=loss)
    values = {name: v.detach().double().numpy() for name, v in values.items()}
    return values, {name: v.grad.double().numpy() for name, v in p.items()}


def train(dtype):
    t = TRAINING
    p, contexts = start(dtype)
    adamw = torch.optim.AdamW(p.values(), lr=t["learning_rate"], betas=(t["beta1"], t["beta2"]),
                              eps=t["epsilon"], weight_decay=t["weight_decay"])
    losses, norms = [], []
    for _ in range(t["steps"]):
        adamw.zero_grad()
        loss = run(p, contexts, False)[3]
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(p.values(), t["clip_norm"])))
        adamw.step()
        losses.append(loss.item())
    return losses, norms


# --- the same loss in plain numpy, as the check on the above ------------------------------------------

def numpy_norm(x, p, name):
    d = x - x.mean(-1, keepdims=True)
    d = d / numpy.sqrt((d * d).mean(-1, keepdims=True) + SIZES["norm_epsilon"])
    return d * p[name + ".scale"] + p[name + ".shift"]


def numpy_linear(x, p, name):
    return x @ p[name + ".w"].T + p[name + ".b"]


def numpy_softmax(s):
    e = numpy.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy_attention(qkv, heads, causal):
    rows, width = len(qkv), qkv.shape[1] // 3
    d, out = width // heads, numpy.zeros((len(qkv), qkv.shape[1] // 3))
    for h in range(heads):
        q, k, v = (qkv[:, part * width + h * d:part * width + (h + 1) * d] for part in range(3))
        for t in range(rows):
            seen = t + 1 if causal else rows
            out[t, h * d:(h + 1) * d] = numpy_softmax(k[:seen] @ q[t] / math.sqrt(d)) @ v[:seen]
    return out


def numpy_loss(p, contexts):
    s = []
    for a, b in zip(CONTEXT_OFFSETS, CONTEXT_OFFSETS[1:]):
        u = numpy_linear(contexts[a:b] + sinusoids(b - a, contexts.shape[1]), p, "planner.input")
        at = "planner.blocks.0."
        o = numpy_attention(numpy_linear(u, p, at + "attention.qkv"), SIZES["planner_heads"], False)
        h = numpy_norm(u + numpy_linear(o, p, at + "attention.out"), p, at + "norm1")
        f = numpy.maximum(numpy_linear(h, p, at + "mlp.up"), 0)
        y = numpy_norm(h + numpy_linear(f, p, at + "mlp.down"), p, at + "norm2")
        s.append(numpy_linear(y.mean(0), p, "planner.head"))
    weights = numpy_softmax(numpy.array(s) / SIZES["mixing_temperature"])
    x = p["lm.token.table"][TOKENS] + p["lm.position.table"][POSITIONS]
    for i in range(SIZES["layers"]):
        at = f"lm.blocks.{i}."
        qkv = numpy_linear(numpy_norm(x, p, at + "norm1"), p, at + "attention.qkv")
        o = numpy.concatenate([numpy_attention(qkv[a:b], SIZES["heads"], True)
                               for a, b in zip(SEQUENCE_OFFSETS, SEQUENCE_OFFSETS[1:])])
        j = i - SIZES["first_adapted"]
        if j >= 0:
            for t, sentence in enumerate(SENTENCE):
                c = sum(weights[sentence, k] * p[f"adapters.{j}.table"][k] for k in range(SIZES["labels"]))
                o[t] += numpy_linear(c, p, f"adapters.{j}")
        x = x + numpy_linear(o, p, at + "attention.out")
        a = numpy_linear(numpy_norm(x, p, at + "norm2"), p, at + "mlp.up")
        f = 0.5 * a * (1 + numpy.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a ** 3)))
        x = x + numpy_linear(f, p, at + "mlp.down")
    q = numpy_softmax(numpy_norm(x, p, "lm.norm") @ p["lm.token.table"].T)
    return -sum(math.log(q[t, target]) for t, target in enumerate(TARGETS)) / len(TARGETS)


def check(loss, grads):
    p, contexts = start(torch.float64)
    p = {name: v.detach().numpy() for name, v in p.items()}
    contexts = contexts.numpy()
    assert abs(numpy_loss(p, contexts) - loss) < 1e-12, "numpy and PyTorch disagree on the loss"
    random, worst = numpy.random.default_rng(1), 0.0
    for name in p:  # one random direction per parameter
        direction = random.standard_normal(p[name].shape)
        step = 1e-6
        ends = [numpy_loss({**p, name: p[name] + sign * step * direction}, contexts) for sign in (1, -1)]
        difference = abs((ends[0] - ends[1]) / (2 * step) - (grads[name] * direction).sum())
        worst = max(worst, difference / numpy.linalg.norm(grads[name]))
    assert worst < 1e-7, f"numpy and PyTorch disagree on a gradient by {worst}"
    return worst


def digest():
    h = hashlib.sha256()
    for name in ("hashed.py", "make_planner_lm.py"):
        h.update((HERE / name).read_bytes())
    return h.hexdigest()


def relative(a, b):
    """Largest difference of two gradient sets, each array measured against its own largest element."""
    return max(numpy.abs(a[name] - b[name]).max() / numpy.abs(b[name]).max() for name in b)


def main():
    torch.set_num_threads(1)
    values, grads = gradients(torch.float64, False)
    worst = check(float(values["loss"]), grads)
    values32, grads32 = gradients(torch.float32, False)
    losses64, norms64 = train(torch.float64)
    losses32, norms32 = train(torch.float32)
    made_by = dict(script="make_planner_lm.py", sha256=digest(), torch=torch.__version__.split("+")[0])
    about = f"""\
Planner-conditioned language model: the equations stand at the top of make_planner_lm.py.
{hashed.ABOUT}.
Parameter number n is its place in the list, from 0; contexts are number {CONTEXT_NUMBER}, scale \
{CONTEXT_SCALE}.
logits, loss, planner_logits, probabilities, gradients: float64 from those float values; row-major.
training: AdamW on every parameter, the same batch each step; losses[k] is the loss before step k + 1. \
Clipping multiplies all gradients by min(1, clip_norm / (norm + 1e-6)); gradient_norms are before it.
PyTorch's own float32 gradients differ from these by {relative(grads32, grads):.1e} at most, relative to the \
largest element of each array."""
    out = dict(
        about=about.split("\n"), made_by=made_by, sizes=SIZES,
        parameters=[dict(name=n, shape=list(s), scale=c, offset=o) for n, s, c, o in PARAMETERS],
        tokens=TOKENS, positions=POSITIONS, targets=TARGETS, sequence_offsets=SEQUENCE_OFFSETS,
        sentence=SENTENCE, context_offsets=CONTEXT_OFFSETS, contexts=context_embeddings(),
        planner_logits=values["s"], probabilities=values["weights"], logits=values["logits"],
        loss=float(values["loss"]), gradients=grads,
        training={**TRAINING, "losses_float64": losses64, "losses_float32": losses32,
                  "gradient_norms_float64": norms64})
    (HERE / "planner_lm.json").write_text(hashed.json_text(out) + "\n")

    hard, hard_grads = gradients(torch.float64, True)
    _, hard32 = gradients(torch.float32, True)
    kept = {name: g for name, g in hard_grads.items() if name.startswith(("adapters.", "planner."))}
    about = """\
The model, parameters and inputs of planner_lm.json with straight-through mixing: the forward pass mixes \
with the one-hot argmax of softmax(s / T); the pullback hands its gradient to softmax(s / T) unchanged.
Gradients of the adapters and the planner."""
    out = dict(about=about.split("\n"), made_by=made_by, planner_logits=hard["s"],
               labels=hard["weights"].argmax(-1), loss=float(hard["loss"]), gradients=kept)
    (HERE / "planner_lm_straight_through.json").write_text(hashed.json_text(out) + "\n")

    print(f"loss {values['loss']:.9g}, straight-through {hard['loss']:.9g}")
    print(f"numpy against PyTorch in float64: directional derivatives differ by {worst:.1e}")
    print(f"PyTorch float32 against float64: gradients {relative(grads32, grads):.1e}, straight-through "
          f"{relative({k: hard32[k] for k in kept}, kept):.1e}, logits "
          f"{numpy.abs(values32['logits'] - values['logits']).max():.1e}, training losses "
          f"{max(abs(a / b - 1) for a, b in zip(losses32, losses64)):.1e}")


main()
