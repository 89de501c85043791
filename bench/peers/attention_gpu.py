"""scaled_dot_product_attention on a GPU, every backend it has: the peer of bench/cuda/attention_bench.cu.

One line of JSON per case: forward and backward (forward + backward less forward) medians between CUDA events and TFLOP/s, the fastest backend
of each. 16384 tokens in all, heads 2048 / width. With --errors, instead: each backend's error ||out - ref|| / ||ref|| against double.
"""
import argparse
import json
import math
import statistics

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}


def median_ms(run, repeats):
    times = []
    for i in range(-3, repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        if i >= 0:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def measure(width, length, causal, repeats, dtype):
    heads, batch = 2048 // width, 16384 // length
    # What a model has: one packed projection (batch, length, 3, heads, width), seen as three transposed views.
    qkv = torch.randn(batch, length, 3, heads, width, device="cuda", dtype=dtype)
    q, k, v = (qkv[:, :, i].transpose(1, 2).detach().requires_grad_() for i in range(3))
    dy = torch.randn(batch, length, heads, width, device="cuda", dtype=dtype).transpose(1, 2)
    flops = 4 * length * length * width * heads * batch * (0.5 if causal else 1)
    out = {"who": "PyTorch", "type": str(dtype).split(".")[1], "causal": causal, "width": width, "heads": heads, "length": length,
           "sequences": batch}
    for name, backend in BACKENDS.items():
        try:
            with sdpa_kernel(backend):
                with torch.no_grad():
                    forward = median_ms(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal), repeats)
                y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
                backward = median_ms(lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True), repeats)
            out[name] = {"forward_ms": round(forward, 4), "forward_tflops": round(flops / forward / 1e9, 1),
                         "backward_ms": round(backward, 4), "backward_tflops": round(2.5 * flops / backward / 1e9, 1)}
        except RuntimeError as e:
            out[name] = {"error": str(e).splitlines()[0][:100]}
    ran = [out[name] for name in BACKENDS if "forward_ms" in out[name]]
    for direction in ("forward", "backward"):
        best = min(ran, key=lambda r: r[direction + "_ms"])
        out[direction + "_ms"], out[direction + "_tflops"] = best[direction + "_ms"], best[direction + "_tflops"]
    print(json.dumps(out), flush=True)


def errors(width, length, causal):
    torch.manual_seed(0)
    q, k, v, dy = (torch.randn(1, 4, length, width, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    q64, k64, v64 = (x.double().requires_grad_() for x in (q, k, v))
    mask = torch.ones(length, length, dtype=torch.bool, device="cuda").tril() if causal else None
    p = q64 @ k64.transpose(-1, -2) / math.sqrt(width)
    if causal:
        p = p.masked_fill(~mask, -math.inf)
    y64 = torch.softmax(p, -1) @ v64
    expected = [y64] + list(torch.autograd.grad(y64, (q64, k64, v64), dy.double()))
    relative = lambda a, b: float((a.double() - b).norm() / b.norm())
    out = {"who": "PyTorch", "causal": causal, "width": width, "length": length, "floor": relative(y64.bfloat16(), y64)}
    for name, backend in BACKENDS.items():
        try:
            with sdpa_kernel(backend):
                a, b, c = (x.clone().requires_grad_() for x in (q, k, v))
                y = F.scaled_dot_product_attention(a, b, c, is_causal=causal)
                got = [y] + list(torch.autograd.grad(y, (a, b, c), dy))
            out[name] = {n: float(f"{relative(g, e):.3e}") for n, g, e in zip(("y", "dq", "dk", "dv"), got, expected)}
        except RuntimeError as e:
            out[name] = {"error": str(e).splitlines()[0][:100]}
    print(json.dumps(out), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--length", type=int, nargs="*", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--errors", action="store_true")
    options = parser.parse_args()
    for width in options.width:
        for causal in (True, False):
            if options.errors:
                errors(width, 1000, causal)
                continue
            for length in options.length:
                measure(width, length, causal, options.repeats, torch.float32 if options.float32 else torch.bfloat16)


if __name__ == "__main__":
    main()
