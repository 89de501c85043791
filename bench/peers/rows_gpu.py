"""The memory-bound operations of a training step in PyTorch on a GPU: what rows_bench.cu is compared with. JSON lines.

Eager and torch.compile, bf16. `bytes` is what the operation needs at least, as in rows_bench.cu; the loss is linear + cross-entropy, forward and
backward, at (8192 tokens, 768, 50257 words), with the peak of memory beyond its inputs and gradients.
Arguments: beginnings of names; all without.
"""
import json
import math
import statistics
import sys

import torch
import torch.nn.functional as F

WANTED = sys.argv[1:]
DEVICE = "cuda"


def seconds(f, calls=20):
    for _ in range(3):
        f()
    times = []
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            f()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / calls)
    return statistics.median(times)


def report(kernel, mode, shape, nbytes, f, calls=20):
    if WANTED and not any(kernel.startswith(w) for w in WANTED):
        return
    try:
        s = seconds(f, calls)
        line = {"microseconds": round(s * 1e6, 2), "megabytes": round(nbytes * 1e-6, 1), "gigabytes_per_second": round(nbytes / s * 1e-9)}
    except Exception as e:  # one operation that does not run must not hide the others
        line = {"error": str(e)[:200]}
    print(json.dumps({"program": "pytorch", "mode": mode, "kernel": kernel, "shape": shape, **line}), flush=True)


def both(kernel, shape, nbytes, f, calls=20):
    report(kernel, "eager", shape, nbytes, f, calls)
    if not WANTED or any(kernel.startswith(w) for w in WANTED):
        torch._dynamo.reset()
        report(kernel, "compile", shape, nbytes, torch.compile(f, dynamic=False), calls)


def rows(n, c):
    shape, nc = f"({n}, {c})", 2.0 * n * c
    new = lambda *s: torch.randn(*s, device=DEVICE, dtype=torch.bfloat16)
    x, dy, scale, shift = new(n, c), new(n, c), new(c), new(c)
    both("layer_norm", shape, 2 * nc, lambda: F.layer_norm(x, (c,), scale, shift))
    y, mean, rstd = torch.ops.aten.native_layer_norm(x, [c], scale, shift, 1e-5)
    both("layer_norm_pullback", shape, 3 * nc,
         lambda: torch.ops.aten.native_layer_norm_backward(dy, x, [c], mean, rstd, scale, shift, [True, True, True]))
    for length in (20, 200):
        s = n // length
        ids = (torch.arange(n, device=DEVICE) * s // n)
        u, du = new(s, c), torch.zeros(s, c, device=DEVICE, dtype=torch.bfloat16)
        of, sc = f"{shape} by {s}", 2.0 * s * c
        both("injection", of, 2 * nc + sc, lambda: x + u.index_select(0, ids))
        both("segment_sum", of, nc + 2 * sc, lambda: du.index_add_(0, ids, x))
    v = 50257
    ids = (torch.exp(torch.rand(n, device=DEVICE) * math.log(v)).long() - 1).clamp(0, v - 1)
    touched = 2.0 * ids.unique().numel() * c
    table = new(v, c)
    both("embedding", f"{shape} of 50257", nc + touched, lambda: F.embedding(ids, table))
    report("embedding_pullback", "eager", f"{shape} of 50257", nc + 2 * touched,
           lambda: torch.ops.aten.embedding_dense_backward(x, ids, v, -1, False))
    both("column_sums", shape, nc, lambda: x.sum(0))
    both("gelu", shape, 2 * nc, lambda: F.gelu(x, approximate="tanh"))
    both("gelu_pullback", shape, 3 * nc, lambda: torch.ops.aten.gelu_backward(dy, x, approximate="tanh"))
    both("sum", shape, 3 * nc, lambda: x + dy)


def adamw():
    n = 124_439_808
    # Twelve blocks' worth of tensors of GPT-2 small: the shapes matter to multi-tensor kernels, not to the bytes.
    sizes = [50257 * 768, 1024 * 768] + [s for _ in range(12) for s in (768 * 2304, 2304, 768 * 768, 768, 768, 768, 768 * 3072, 3072, 3072 * 768, 768)]
    scale = n / sum(sizes)
    for fused in (True, False):
        p = [torch.nn.Parameter(torch.randn(max(int(s * scale), 1), device=DEVICE)) for s in sizes]
        total = sum(q.numel() for q in p)
        for q in p:
            q.grad = torch.randn_like(q)
        step = torch.optim.AdamW(p, lr=1e-3, fused=fused, foreach=None if fused else True)
        report("adamw", "fused" if fused else "foreach", f"{total} float32 weights and gradients", 28.0 * total, step.step, 5)


def loss():
    if WANTED and not any("linear_cross_entropy".startswith(w) for w in WANTED):
        return
    n, c, v = 8192, 768, 50257
    h = torch.randn(n, c, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    w = (0.02 * torch.randn(v, c, device=DEVICE)).to(torch.bfloat16).requires_grad_()
    ids = torch.arange(n, device=DEVICE) * 7919 % v

    def both_ways(f):
        def run():
            h.grad = w.grad = None
            f(h, w, ids).backward()
        return run

    def plain(h, w, ids):
        return F.cross_entropy(h @ w.T, ids)

    def in_float(h, w, ids):
        return F.cross_entropy((h @ w.T).float(), ids)

    for name, f in (("bf16 logits", plain), ("float32 logits", in_float)):
        for mode in ("eager", "compile"):
            torch._dynamo.reset()
            try:
                run = both_ways(torch.compile(f, dynamic=False) if mode == "compile" else f)
                run()
                h.grad = w.grad = None
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                run()
                torch.cuda.synchronize()
                extra = torch.cuda.max_memory_allocated() - before - 2 * (h.numel() + w.numel())
                s = seconds(run, 5)
                line = {"microseconds": round(s * 1e6, 1), "teraflops": round(6.0 * n * c * v / s * 1e-12), "extra_megabytes": round(extra * 1e-6)}
            except Exception as e:
                line = {"error": str(e)[:200]}
            print(json.dumps({"program": "pytorch", "mode": mode, "kernel": "linear_cross_entropy", "logits": name,
                              "shape": f"({n}, {c}, {v})", **line}), flush=True)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        print("SKIPPED: there is no GPU for PyTorch")
        sys.exit(77)
    copy = torch.empty(1 << 28, device=DEVICE, dtype=torch.bfloat16)
    to = torch.empty_like(copy)
    report("copy", "eager", "512 MiB", 4.0 * copy.numel(), lambda: to.copy_(copy))
    del copy, to
    loss()
    rows(65536, 768)
    rows(65536, 2048)
    adamw()
