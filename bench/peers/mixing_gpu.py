#!/usr/bin/env python3
"""The label mixture c = softmax(s / T) C in PyTorch on the GPU, forward and backward, eager and compiled.

    bench/peers/mixing_gpu.py --sizes 4096,1024,768 16384,1024,2048 65536,4096,768

Sizes are sentences,labels,width; bfloat16. Times are medians over CUDA events around each repetition, in
microseconds. `steady` enqueues twenty repetitions between two events. `forward_error` is the distance of c from the
same inputs in double. Prints one line of JSON per size and mode.
"""

import argparse
import json
import statistics

import torch


def event():
    return torch.cuda.Event(enable_timing=True)


def between(work, count=1):
    begin, end = event(), event()
    begin.record()
    for _ in range(count):
        work()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end) / count


def times(work, runs):
    for _ in range(5):
        work()
    torch.cuda.synchronize()
    return dict(median=round(statistics.median(between(work) for _ in range(runs)), 1),
                steady=round(statistics.median(between(work, 20) for _ in range(3)), 1))


def soft(s, table, temperature):
    return torch.softmax(s / temperature, -1) @ table


def top(s, table, temperature):
    values, at = s.topk(5, -1)
    w = torch.zeros_like(s).scatter(-1, at, torch.softmax(values / temperature, -1))
    return w @ table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["4096,1024,768", "16384,1024,2048", "65536,4096,768"])
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--rules", nargs="+", default=["mixture", "top_5"])
    options = parser.parse_args()
    torch.manual_seed(1)
    for size in options.sizes:
        sentences, labels, width = map(int, size.split(","))
        s = torch.randn(sentences, labels, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        table = (0.05 * torch.randn(labels, width, device="cuda")).bfloat16().requires_grad_()
        g = torch.randn(sentences, width, device="cuda", dtype=torch.bfloat16)
        for rule in options.rules:
            for mode in ("eager", "compile"):
                mix = {"mixture": soft, "top_5": top}[rule]
                torch._dynamo.reset()
                run = torch.compile(mix) if mode == "compile" else mix

                def forward():
                    return run(s, table, options.temperature)

                def step():
                    s.grad = table.grad = None
                    forward().backward(g)

                try:
                    with torch.no_grad():
                        only = times(forward, options.runs)
                        off = None
                        if sentences <= 16384 and rule == "mixture":
                            exact = torch.softmax(s.double() / options.temperature, -1) @ table.double()
                            off = ((forward().double() - exact).norm() / exact.norm()).item()
                            del exact
                    both = times(step, options.runs)
                except RuntimeError as error:  # out of memory, or the compiler's
                    print(json.dumps(dict(what="peer", mode=mode, rule=rule, size=size, error=str(error)[:300])), flush=True)
                    continue
                print(json.dumps(dict(what="peer", program="pytorch", mode=mode, rule=rule, sentences=sentences, labels=labels, width=width,
                                      torch=torch.__version__, device=torch.cuda.get_device_name(), forward_error=off, forward_us=only["median"],
                                      forward_backward_us=both["median"], steady_us=both["steady"])), flush=True)
        del s, table, g
        torch.cuda.empty_cache()


main()
