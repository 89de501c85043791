#!/usr/bin/env python3
"""PyTorch's times for what bench/cuda/decode_bench.cu measures: drawing tokens, attention of one row over a cache.

    decode_gpu.py [--device cuda] [--repeats 10]

Eager functions and, for sampling, torch.compile. Times are medians of runs of calls in a row, the device idle before and after.
"""
import argparse
import statistics
import time

import torch


def microseconds(f, repeats, device):
    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    times = []
    for i in range(-2, 5):
        wait()
        begin = time.perf_counter()
        for _ in range(repeats):
            f()
        wait()
        if i >= 0:
            times.append((time.perf_counter() - begin) / repeats * 1e6)
    return statistics.median(times)


def draw(p):
    """One token a row, by the exponential race: the usual way without a synchronisation."""
    return (p / torch.empty_like(p).exponential_(1)).argmax(dim=-1)


def all_tokens(z):
    return draw(torch.softmax(z.float() / 0.9, dim=-1))


def top_k(z, k=50):
    z = z.float() / 0.9
    bound = torch.topk(z, k, dim=-1).values[:, -1:]
    return draw(torch.softmax(z.masked_fill(z < bound, -float("inf")), dim=-1))


def top_p(z, p=0.9):
    ordered, index = torch.sort(z.float(), dim=-1, descending=True)
    probability = torch.softmax(ordered, dim=-1)
    beyond = probability.cumsum(dim=-1) - probability >= p
    at = draw(probability.masked_fill(beyond, 0.0))
    return index.gather(-1, at[:, None])[:, 0]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--repeats", type=int, default=10)
    arguments.add_argument("--compile", action="store_true", help="also torch.compile")
    o = arguments.parse_args()
    torch.manual_seed(1)
    for rows in (1, 64, 1024):
        z = 2 * torch.randn(rows, 50257, device=o.device)
        for name, f in (("greedy", lambda x: x.argmax(dim=-1)), ("all tokens", all_tokens), ("top-k 50", top_k), ("top-p 0.9", top_p)):
            line = f"sampling float, {rows:4d} rows of 50257, {name:12s} eager {microseconds(lambda: f(z), o.repeats, o.device):8.1f} us"
            if o.compile:
                g = torch.compile(f)
                line += f", compiled {microseconds(lambda: g(z), o.repeats, o.device):8.1f} us"
            print(line, flush=True)
    for dtype in (torch.float32, torch.bfloat16):
        for heads, kv_heads, width in ((12, 12, 64), (32, 8, 128)):
            for rows, keys in ((1, 1024), (64, 1024), (1, 16384), (16, 16384)):
                q = torch.randn(rows, heads, 1, width, device=o.device, dtype=dtype)
                k, v = (torch.randn(rows, kv_heads, keys, width, device=o.device, dtype=dtype) for _ in range(2))

                def attend():
                    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads)

                us = microseconds(attend, o.repeats, o.device)
                print(f"attention {str(dtype)[6:]}, {heads}/{kv_heads} heads of {width}, {rows:2d} rows over {keys:5d} keys: {us:8.1f} us, "
                      f"{2 * k.numel() * k.element_size() / us / 1e3:6.0f} GB/s", flush=True)


if __name__ == "__main__":
    main()
