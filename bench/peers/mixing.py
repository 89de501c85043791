#!/usr/bin/env python3
"""The label mixture c = softmax(s / T) C in PyTorch, forward and backward, and the matrix products alone.

    bench/peers/mixing.py --sizes 64,64,64 512,1024,768 4096,4096,768 --threads 2 [--compile]

Sizes are sentences,labels,width. Prints one line of JSON per size. The bare products are p C, g C^T and
p^T g, into memory that is there already. README.md gives the formulas of the inputs.
"""

import argparse
import json
import math
import statistics
import time

import torch

from inputs import hashed

SCORES, TABLE, UPSTREAM = 1100, 1101, 1102  # array numbers


def given(shape, number, scale):
    out = torch.empty(shape)
    hashed.fill(out.numpy().reshape(-1), number, scale)
    return out


def time_of(work, least_runs, least_seconds):
    for _ in range(3):
        work()
    times, begin = [], time.perf_counter()
    while len(times) < least_runs or time.perf_counter() - begin < least_seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return dict(median=statistics.median(times), fastest=min(times), runs=len(times))


def measure(sentences, labels, width, options):
    s = given((sentences, labels), SCORES, 8.0).requires_grad_()
    table = given((labels, width), TABLE, math.sqrt(12 / width)).requires_grad_()
    g = given((sentences, width), UPSTREAM, 2.0)

    def mix(s, table):
        return torch.softmax(s / options.temperature, -1) @ table

    forward = torch.compile(mix) if options.compile else mix
    kept = {}

    def step():
        s.grad = table.grad = None
        kept["c"] = forward(s, table)
        kept["c"].backward(g)

    mixture = time_of(step, options.runs, options.seconds)
    p = torch.softmax(s.detach() / options.temperature, -1)
    t = table.detach()
    c, dp, dt = torch.empty(sentences, width), torch.empty(sentences, labels), torch.empty(labels, width)

    def products():
        torch.mm(p, t, out=c)
        torch.mm(g, t.t(), out=dp)
        torch.mm(p.t(), g, out=dt)

    bare = time_of(products, options.runs, options.seconds)
    return dict(
        program="pytorch", sentences=sentences, labels=labels, width=width, temperature=options.temperature,
        threads=options.threads, compiled=options.compile, torch=torch.__version__, seconds=mixture,
        seconds_of_products=bare, ratio=mixture["median"] / bare["median"],
        gflops=6e-9 * sentences * labels * width / mixture["median"],
        dot_of_output_and_upstream=(kept["c"].detach().double() * g.double()).sum().item(),
        norm_of_score_gradient=s.grad.double().norm().item(),
        norm_of_table_gradient=table.grad.double().norm().item())


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["64,64,64", "512,1024,768", "4096,4096,768"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=5, help="at least so many runs of each")
    parser.add_argument("--seconds", type=float, default=1.0, help="and for at least so long")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for each in options.sizes:
        print(json.dumps(measure(*map(int, each.split(",")), options)), flush=True)


main()
