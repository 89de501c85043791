#!/usr/bin/env python3
"""One training step of a language model in PyTorch, with a planner or without: forward, backward, AdamW.

    bench/peers/train_step.py joint/2x128 full/2x128 plain/2x128 ... --threads N [--compile] --seconds S       the cases of bench_train_step: see peer.py
    bench/peers/train_step.py --preset 2x128 --threads 2 [--mode joint|full] [--steps 20] [--compile]
    bench/peers/train_step.py --preset gpt2-1024 --device cuda --precision bf16 [--compile]
    bench/peers/train_step.py --check

Prints one line of JSON (of each case). README.md gives the formulas of weights and inputs, so that another program can
compute the same losses. mode joint: the language model is frozen; adapters and planner are trained through
it. mode full: everything is trained. mode plain, of cases alone: the language model without them, all of it trained. Of a case, `loss`, `loss2`, `loss3` are those before the first three steps at learning rate 1e-3, `norm`
is the Euclidean norm of all gradients at the first. Activations are kept whatever the case says of ours (`_inputs`), but in PRESET_checkpoint, where
`torch.utils.checkpoint` runs blocks again as well: with it eager is smaller and slower.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
import time


def busy_seconds():
    """CPU seconds that all processes of the machine have used (0 where the system does not say), and those of this one."""
    try:
        with open("/proc/stat") as lines:
            user, nice, system, idle, wait, interrupt, soft, steal = map(int, lines.readline().split()[1:9])
    except OSError:
        return 0.0, 0.0
    return (user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK"), time.process_time()


import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import inputs  # noqa: E402
import peer  # noqa: E402
from inputs import hashed  # noqa: E402
from peer import status_bytes  # noqa: E402

torch.optim.AdamW([torch.zeros(1)])  # what the first optimiser imports is not memory of a case
AFTER_IMPORT = status_bytes("VmRSS")
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}  # for glibc


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def mix(self, x, mask=None, causal=False):
        """x (batch, time, width) -> the heads' outputs side by side, before the output projection."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return o.transpose(1, 2).reshape(batch, length, width)


class Mlp(nn.Module):
    def __init__(self, width, hidden, activation):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x):
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    def __init__(self, width, heads, hidden, activation):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden, activation)

    def pre_norm(self, x, extra=None):
        o = self.attention.mix(self.norm1(x), causal=True)
        if extra is not None:
            o = o + extra
        x = x + self.attention.out(o)
        return x + self.mlp(self.norm2(x))

    def post_norm(self, x, mask):
        h = self.norm1(x + self.attention.out(self.attention.mix(x, mask)))
        return self.norm2(h + self.mlp(h))


class LanguageModel(nn.Module):
    def __init__(self, z):
        super().__init__()
        self.token = nn.Embedding(z.vocabulary, z.width)
        self.position = nn.Embedding(z.length, z.width)
        gelu = nn.GELU(approximate="tanh")
        self.blocks = nn.ModuleList(Block(z.width, z.heads, 4 * z.width, gelu) for _ in range(z.layers))
        self.norm = nn.LayerNorm(z.width)

    def forward(self, tokens, targets):
        """Without a planner."""
        x = self.token(tokens) + self.position.weight[:tokens.shape[1]]
        for block in self.blocks:
            x = block.pre_norm(x)
        logits = F.linear(self.norm(x), self.token.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets)


class Adapter(nn.Module):
    def __init__(self, z):
        super().__init__()
        self.table = nn.Parameter(torch.empty(z.labels, z.label_width))
        self.projection = nn.Linear(z.label_width, z.width)

    def forward(self, p):
        return self.projection(p @ self.table)


class Planner(nn.Module):
    def __init__(self, z):
        super().__init__()
        self.input = nn.Linear(z.label_width, z.label_width)
        self.blocks = nn.ModuleList(
            [Block(z.label_width, z.planner_heads, z.planner_mlp_width, nn.ReLU())])
        self.head = nn.Linear(z.label_width, z.labels)
        self.register_buffer("positions", sinusoids(z.context, z.label_width))

    def forward(self, contexts, present):
        """contexts (sentences, context, width), padded at the end; present tells what is not padding."""
        u = self.input(contexts + self.positions)
        mask = present[:, None, None, :]
        for block in self.blocks:
            u = block.post_norm(u, mask)
        kept = present.unsqueeze(-1).to(u.dtype)
        return self.head((u * kept).sum(1) / kept.sum(1))


def sinusoids(rows, width):
    angle = torch.arange(rows).double()[:, None] / 10000.0 ** (torch.arange(0, width, 2).double() / width)
    return torch.stack([angle.sin(), angle.cos()], -1).view(rows, width).float()


class PlannerLm(nn.Module):
    def __init__(self, z):
        super().__init__()
        self.lm = LanguageModel(z)
        self.adapters = nn.ModuleList(Adapter(z) for _ in range(z.layers - z.first_adapted))
        self.planner = Planner(z)
        self.first_adapted = z.first_adapted
        self.checkpoint = False  # adapted blocks keep their inputs alone; nothing is kept of those below, which are frozen

    def forward(self, tokens, sentence, contexts, present, targets):
        # The label distribution belongs to a sentence, so mixing and projecting are done once per sentence
        # and only the result is copied to the sentence's tokens.
        p = torch.softmax(self.planner(contexts, present), -1)
        x = self.lm.token(tokens) + self.lm.position.weight[:tokens.shape[1]]
        for i, block in enumerate(self.lm.blocks):
            if i < self.first_adapted:
                x = block.pre_norm(x)
            else:
                u = self.adapters[i - self.first_adapted](p)
                extra = u.index_select(0, sentence).view(x.shape)
                x = checkpoint(block.pre_norm, x, extra, use_reentrant=False) if self.checkpoint else block.pre_norm(x, extra)
        logits = F.linear(self.lm.norm(x), self.lm.token.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets)


def planlm_name(name):
    """lm.blocks.0.norm1.weight -> lm.blocks.0.norm1.scale, as the formulas and planlm call it."""
    name = name.replace(".projection.", ".")
    owner, _, last = name.rpartition(".")
    kind = owner.rpartition(".")[2]
    if kind in ("token", "position"):
        return owner + ".table"
    if kind.startswith("norm"):
        return owner + (".scale" if last == "weight" else ".shift")
    return owner + {"weight": ".w", "bias": ".b"}[last] if last in ("weight", "bias") else name


def build(z, dtype, plain=False):
    with torch.device("meta"):  # no initialisation that the formulas would overwrite
        model = nn.ModuleDict(dict(lm=LanguageModel(z))) if plain else PlannerLm(z)
    model = model.to_empty(device="cpu")
    if not plain:
        model.planner.positions.copy_(sinusoids(z.context, z.label_width))
    parameters = {planlm_name(name): p for name, p in model.named_parameters()}
    listed = [listed for listed in inputs.parameter_list(z) if not plain or listed[0].startswith("lm.")]
    assert sorted(parameters) == sorted(name for name, *_ in listed)
    for number, (name, shape, scale, offset) in enumerate(listed):
        assert tuple(parameters[name].shape) == tuple(shape), name
        hashed.fill(parameters[name].detach().numpy().reshape(-1), number, scale, offset)
    return model.to(dtype)


def batch(z, dtype):
    tokens = torch.from_numpy(inputs.tokens(z))
    lengths = torch.from_numpy(inputs.context_lengths(z))
    parts = torch.from_numpy(inputs.contexts(z)).to(dtype).split(lengths.tolist())
    contexts = nn.utils.rnn.pad_sequence(parts, batch_first=True)
    if contexts.shape[1] < z.context:
        contexts = F.pad(contexts, (0, 0, 0, z.context - contexts.shape[1]))
    present = torch.arange(z.context)[None, :] < lengths[:, None]
    sentence = torch.from_numpy(inputs.sentence_of_row(z))
    return tokens[:, :-1].contiguous(), sentence, contexts, present, tokens[:, 1:].reshape(-1).contiguous()


def precise(options):
    """What runs in lower precision: on a GPU bf16 means autocast over float32 weights, as PyTorch advises."""
    torch.backends.cuda.matmul.allow_tf32 = options.precision == "tf32"
    if options.precision == "bf16":
        return torch.autocast(options.device, torch.bfloat16)
    return contextlib.nullcontext()


def run(z, options, dtype=torch.float32):
    on_gpu = options.device == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    model = build(z, dtype).to(options.device)
    if options.mode == "joint":
        model.lm.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=options.learning_rate, betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=0.01, **{options.adamw: True} if options.adamw != "loop" else
                                  dict(foreach=False, fused=False))
    given = [t.to(options.device) for t in batch(z, dtype)]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    forward = torch.compile(model) if options.compile else model
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # from here on VmHWM is the peak of training alone, not of filling the weights
    before = status_bytes("VmRSS")
    seconds, losses = [], []
    wait()
    start = time.perf_counter()
    for step in range(options.warm_up + options.steps):
        if step == options.warm_up:
            machine, own = busy_seconds()
        optimiser.zero_grad(set_to_none=True)
        with precise(options):
            loss = forward(*given)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach() if on_gpu else loss.item())
        # On a GPU the timed steps run without waiting in between.
        if not on_gpu or step + 1 in (options.warm_up, options.warm_up + options.steps) or step < options.warm_up:
            wait()
            end = time.perf_counter()
            seconds.append(end - start)
            start = end
    losses = [float(loss) for loss in losses]
    if on_gpu:
        seconds[-1] /= options.steps
    timed = seconds[options.warm_up:]
    machine, own = (after - start for after, start in zip(busy_seconds(), (machine, own)))
    median = statistics.median(timed)
    return dict(
        tokens_per_second=z.batch * z.length / median, median_seconds=median, fastest_seconds=min(timed),
        cores_used_by_others=max(0.0, machine - own) / sum(timed), seconds=timed,
        peak_rss_bytes=status_bytes("VmHWM"), rss_after_import_bytes=AFTER_IMPORT,
        rss_before_steps_bytes=before,
        peak_device_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0, losses=losses, parameters=sum(p.numel() for p in model.parameters()),
        trained_parameters=sum(p.numel() for p in trained))


def make(case, wrap):
    mode, _, preset = case.partition("/")
    again = preset.endswith("_checkpoint")
    z = inputs.PRESETS.get(preset.removesuffix("_checkpoint" if again else "_inputs"))
    if mode not in ("joint", "full", "plain") or z is None or (mode == "plain" and "_" in preset):
        raise KeyError(case)
    plain = mode == "plain"
    model = build(z, torch.float32, plain)
    if mode == "joint":
        model.lm.requires_grad_(False)
    model.checkpoint = again
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, fused=True)
    for p in trained:  # the moments now, written, so that they count as memory of the case
        optimiser.state[p] = dict(step=torch.zeros(()), exp_avg=torch.empty_like(p).fill_(0), exp_avg_sq=torch.empty_like(p).fill_(0))
    given, losses, norms = batch(z, torch.float32), [], []
    if plain:
        given, model = (given[0], given[-1]), model["lm"]
    forward = wrap(model)

    def step():
        optimiser.zero_grad(set_to_none=True)
        loss = forward(*given)
        loss.backward()
        if not norms:
            norms.append(peer.norm(*(p.grad for p in trained if p.grad is not None)))
        optimiser.step()
        losses.append(loss.item())
        del losses[3:]

    def checks():
        while len(losses) < 3:
            step()
        return dict(loss=losses[0], loss2=losses[1], loss3=losses[2], norm=norms[0])

    return peer.Work(step, checks, trained)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(inputs.PRESETS), default="2x128")
    for field in dataclasses.fields(inputs.Sizes):
        parser.add_argument("--" + field.name.replace("_", "-"), type=int)
    parser.add_argument("--mode", choices=["joint", "full"], default="joint")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--adamw", choices=["fused", "foreach", "loop"], default="fused")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "tf32", "bf16"], default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--keep-memory", action="store_true",
                        help="tell glibc not to hand freed tensors back to the system; PyTorch then pays for "
                        "page faults once, not every step")
    parser.add_argument("--double", action="store_true", help="float64, for losses to compare with")
    parser.add_argument("--check", action="store_true",
                        help="three losses at a small size, in float and double")
    options = parser.parse_args()
    if options.keep_memory and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        os.execve(sys.executable, [sys.executable] + sys.argv, os.environ | KEEP_MEMORY)
    torch.set_num_threads(options.threads)
    if options.check:
        options.steps, options.warm_up = 3, 0
        z, out = inputs.PRESETS["check"], {}
        for options.mode in ("joint", "full"):
            for dtype in (torch.float32, torch.float64):
                out[f"{options.mode}_{str(dtype).removeprefix('torch.')}"] = run(z, options, dtype)["losses"]
        print(json.dumps(dict(check=dataclasses.asdict(z), learning_rate=options.learning_rate, losses=out)))
        return
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(inputs.Sizes)
             if getattr(options, field.name) is not None}
    z = dataclasses.replace(inputs.PRESETS[options.preset], **given)
    result = run(z, options, torch.float64 if options.double else torch.float32)
    print(json.dumps(dict(
        program="pytorch", preset=options.preset, mode=options.mode, sizes=dataclasses.asdict(z),
        first_adapted=z.first_adapted, threads=options.threads, adamw=options.adamw, device=options.device,
        precision=options.precision, compiled=options.compile,
        keep_memory=options.keep_memory, double=options.double, torch=torch.__version__, **result)))


if __name__ == "__main__":
    if any("/" in word or word == "-" for word in sys.argv[1:]):
        peer.main(make, __doc__)
    main()
