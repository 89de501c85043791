#!/usr/bin/env python3
"""Lists of preferences and weighted tokens in PyTorch, forward and backward, beside `bench_losses`.

    .venv/bin/python bench/peers/preference.py --case average --threads 2
    .venv/bin/python bench/peers/preference.py --ours build/release/bench/bench_losses --turns 5 --threads 1 2

average, soft_min: 32 lists of 5 generations of 4 to 128 tokens, padded to 128 as released code of the method has them: rewards from logits,
aggregation under a mask, a sort by true score, `logcumsumexp` from the end. 2048x256x8192 and 512x768x50257 (rows, width, vocabulary):
sum of w nll - h H through `log_softmax`, gradients of hidden states and table. float32, eager (`--compile`: torch.compile), autograd,
gradients set to None before each pass; `inputs.py` has the hashed numbers.

One line of JSON: median seconds of a forward and backward pass, the loss, the Euclidean norms of its gradients, the peak of resident memory.
With --ours both programs run in turn, each in a process of its own; a table of medians comes out, with the lowest and the highest ratio of
the turns and how many cores other programs used at most. A case whose losses or gradients differ by more than 1e-4 of themselves is an error.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time

LISTS, PLACES, LONGEST = 32, 5, 128
CASES = {
    "average": r"^listwise_preference_average/",
    "soft_min": r"^listwise_preference_soft_min/",
    "2048x256x8192": r"^token_objective/2048/",
    "512x768x50257": r"^token_objective/512/",
}
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}


def busy_seconds():
    with open("/proc/stat") as lines:
        user, nice, system, idle, wait, interrupt, soft, steal = map(int, lines.readline().split()[1:9])
    return (user + nice + system + interrupt + soft) / os.sysconf("SC_CLK_TCK")


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def given(shape, number, scale, offset=0.0):
    out = torch.empty(shape)
    hashed.fill(out.numpy().reshape(-1), number, scale, offset)
    return out


def softplus_squash(z, most=1.0, least=1e-8):
    clipped = most - torch.nn.functional.softplus(most - z)
    return least + torch.nn.functional.softplus(clipped - least)


def preference(case):
    rows = LISTS * PLACES
    z = given((rows, LONGEST), 1210, 4).requires_grad_()
    length = torch.from_numpy(4 + (hashed.hashes(rows, 1211) % 125).astype("int64"))
    score = given((LISTS, PLACES), 1212, 2)
    mask = torch.arange(LONGEST)[None, :] < length[:, None]
    common = length.view(LISTS, PLACES).float().mean(1, keepdim=True)

    def loss():
        r = softplus_squash(z)
        if case == "average":
            e = torch.where(mask, r, 0.0).sum(1) / length
        else:
            e = -2.0 * torch.logsumexp(torch.where(mask, -r / 2.0, -math.inf), 1)
        e = common * e.view(LISTS, PLACES)
        ordered = e.gather(1, score.argsort(1, descending=True))
        suffix = torch.logcumsumexp(ordered.flip(1), 1).flip(1)
        return (suffix - ordered).sum(1).mean()

    return [("gradient", z)], loss


def token_objective(case):
    rows, width, vocabulary = map(int, case.split("x"))
    hidden = given((rows, width), 1220, 2).requires_grad_()
    table = given((vocabulary, width), 1221, 0.5).requires_grad_()
    weight, bonus = given((rows,), 1222, 1, 0.7) / rows, given((rows,), 1223, 0.1, 0.125) / rows
    token = torch.from_numpy((hashed.hashes(rows, 1224) % vocabulary).astype("int64"))[:, None]

    def loss():
        log_p = torch.log_softmax(hidden @ table.T, 1)
        nll = -log_p.gather(1, token)[:, 0]
        entropy = -(log_p.exp() * log_p).sum(1)
        return (weight * nll).sum() - (bonus * entropy).sum()

    return [("gradient", hidden), ("table_gradient", table)], loss


def norm(x):
    """In double, by rows: a second copy of a table would count as memory of the loss."""
    return math.sqrt(sum(part.double().square().sum().item() for part in x.split(4096)))


def measure(options):
    inputs, loss_of = (token_objective if "x" in options.case else preference)(options.case)
    if options.compile:
        loss_of = torch.compile(loss_of)

    def step():
        for _, x in inputs:
            x.grad = None
        loss = loss_of()
        loss.backward()
        return loss

    step()
    times, until = [], time.perf_counter() + options.seconds
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        loss = step()
        times.append(time.perf_counter() - start)
    return dict(program="pytorch", case=options.case, compiled=options.compile, threads=options.threads[0], torch=torch.__version__,
                seconds=statistics.median(times), fastest=min(times), runs=len(times), loss=loss.item(),
                peak_bytes=peak_bytes(), import_bytes=AFTER_IMPORT, **{name: norm(x.grad) for name, x in inputs})


def run(command):
    """What the program printed, its peak of resident memory, and the mean number of cores that others used."""
    before, start = busy_seconds(), time.perf_counter()
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    text = program.stdout.read()
    _, status, used = os.wait4(program.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)} failed")
    wall = time.perf_counter() - start
    return text, used.ru_maxrss * 1024, max(0.0, busy_seconds() - before - used.ru_utime - used.ru_stime) / wall


def run_ours(options, case, threads):
    text, peak, others = run([options.ours, f"--threads={threads}", f"--benchmark_filter={CASES[case]}", "--benchmark_format=json",
                              f"--benchmark_min_time={options.seconds}"])
    found = json.loads(text)["benchmarks"][0]
    return dict(found, seconds=found["real_time"] * SECONDS[found["time_unit"]], peak_bytes=peak, others=others)


def run_theirs(options, case, threads):
    text, peak, others = run([sys.executable, __file__, "--case", case, "--threads", str(threads), "--seconds", str(options.seconds)]
                             + ["--compile"] * options.compile)
    return dict(json.loads(text.splitlines()[-1]), peak_bytes=peak, others=others)


def same_numbers(case, ours, theirs):
    for name in ("loss", "gradient", "table_gradient"):
        if name in theirs and not abs(ours[name] - theirs[name]) <= 1e-4 * abs(theirs[name]):
            sys.exit(f"{case}: {name} is {ours[name]} here and {theirs[name]} there: not the same computation")


def compare(options):
    print("| case | threads | ours ms | PyTorch ms | ratio (lowest, highest) | ours MiB | PyTorch MiB (import) | loss | gradient | others' cores |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in options.cases:
        for threads in options.threads:
            turns = []
            for _ in range(options.turns):
                turns.append((run_ours(options, case, threads), run_theirs(options, case, threads)))
                same_numbers(case, *turns[-1])
            middle = [statistics.median(turn[side]["seconds"] for turn in turns) for side in (0, 1)]
            ratios = sorted(b["seconds"] / a["seconds"] for a, b in turns)
            memory = [statistics.median(turn[side]["peak_bytes"] for turn in turns) / 2**20 for side in (0, 1)]
            imported = statistics.median(theirs["import_bytes"] for _, theirs in turns) / 2**20
            print(f"| {case} | {threads} | {1e3 * middle[0]:.4g} | {1e3 * middle[1]:.4g} | {middle[1] / middle[0]:.2f} ({ratios[0]:.2f}, {ratios[-1]:.2f}) "
                  f"| {memory[0]:.0f} | {memory[1]:.0f} ({imported:.0f}) | {turns[0][1]['loss']:.6g} | {turns[0][1]['gradient']:.6g} "
                  f"| {max(side['others'] for turn in turns for side in turn):.2f} |", flush=True)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--case", choices=CASES, default="average")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--ours", help="bench_losses: run both in turn")
parser.add_argument("--cases", choices=CASES, nargs="+", default=list(CASES))
parser.add_argument("--turns", type=int, default=5)
parser.add_argument("--threads", type=int, nargs="+", default=[2], help="without --ours the first counts")
parser.add_argument("--seconds", type=float, default=0.5, help="of steps that are timed, three at least")
options = parser.parse_args()
if options.ours:
    compare(options)
else:
    import torch

    from inputs import hashed
    AFTER_IMPORT = peak_bytes()
    torch.set_num_threads(options.threads[0])
    print(json.dumps(measure(options)), flush=True)
