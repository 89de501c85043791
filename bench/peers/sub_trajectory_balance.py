#!/usr/bin/env python3
"""Modified sub-trajectory balance in PyTorch, forward and backward, as released code of the method evaluates it.

    bench/peers/sub_trajectory_balance.py --batch 64 --lengths 64 512 4096 --threads 2

One-step residuals, their cumulative sum, then one pass per length of pairs: the difference of two slices, invalid
entries set to 0, its square into the numerator and the number of pairs into the denominator; float32, gradients by
autograd. Every row has the whole length. Prints one line of JSON per length: median seconds of a forward and backward
pass, the loss and the norm of the gradient of the actions' log-probabilities, which have to agree with the counters of
bench_losses (float32 sums: to about four digits). `inputs.py` has the hashed numbers.
"""

import argparse
import json
import statistics
import time

import torch

from inputs import hashed

TAKEN, STOP, REWARD = 1200, 1201, 1202  # array numbers


def given(shape, number, scale, offset):
    out = torch.empty(shape)
    hashed.fill(out.numpy().reshape(-1), number, scale, offset)
    return out


def loss_of(taken, stop, reward, length, decay):
    steps = taken.shape[1]
    delta = reward[:, :-1] + taken + stop[:, 1:] - reward[:, 1:] - stop[:, :-1]
    points = torch.cat([torch.zeros_like(delta[:, :1]), delta], 1).cumsum(1)
    valid = torch.arange(steps + 1)[None, :] <= length[:, None]
    numerator, denominator = 0.0, 0.0
    for distance in range(1, steps + 1):
        ends = valid[:, distance:]
        difference = torch.where(ends, points[:, distance:] - points[:, :-distance], 0.0)
        weight = decay ** (distance - 1)
        numerator = numerator + weight * difference.square().sum()
        denominator = denominator + weight * ends.sum()
    return numerator / denominator


def measure(length, options):
    rows = options.batch
    taken = given((rows, length), TAKEN, 8, -4).requires_grad_()
    stop = given((rows, length + 1), STOP, 8, -4).requires_grad_()
    reward = given((rows, length + 1), REWARD, 20, -20)
    lengths = torch.full((rows,), length)

    def step():
        taken.grad = stop.grad = None
        loss = loss_of(taken, stop, reward, lengths, options.decay)
        loss.backward()
        return loss

    step()
    times = []
    for _ in range(options.runs):
        start = time.perf_counter()
        loss = step()
        times.append(time.perf_counter() - start)
    return dict(program="pytorch", batch=rows, length=length, threads=options.threads, torch=torch.__version__,
                seconds=statistics.median(times), fastest=min(times), runs=options.runs, loss=loss.item(),
                gradient=taken.grad.double().norm().item())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--decay", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for length in options.lengths:
        print(json.dumps(measure(length, options)), flush=True)


main()
