"""The frame of a peer: cases by name in, one line of JSON per case out, as scripts/bench reads it.

    bench/peers/NAME.py CASE/SIZE ... --threads N [--compile] --seconds S
    bench/peers/NAME.py - --threads N [--compile]        reads lines "CASE/SIZE SECONDS" until its input ends

    {"case": "full/K64", "milliseconds": 1.25, "runs": 40, "loss": ..., "norm": ..., "process_bytes": ..., "peak_bytes": ..., "own_bytes": ...}
    {"case": "full/K65", "error": "there is no such case"}

milliseconds: the median of the steps of S seconds, at least three (one for 0 seconds), after one step that is not timed. The second form
keeps what a case has made, compiled code above all, until the process ends. Other numbers are what bench/NAME.cpp has to reproduce; they must
not depend on how many steps were made (of a training step: the losses of the first steps).
Memory is that of the process, so it is told only by the first form with one case and --seconds 0: `own_bytes` above inputs, parameters and
gradients, `peak_bytes` with them, neither counts Python, PyTorch and the compiler of torch.compile; `process_bytes` does: the whole process as
the system shows it. None of them is the peak of making inputs or of compiling, only that of a later step.

A peer is a function and a call:

    def make(case, wrap):                      # case: "full/K64", KeyError(case) if unknown; wrap: torch.compile, or nothing (wrap.compiled)
        forward = wrap(lambda s, table: torch.softmax(s, -1) @ table)
        def step(): ...                        # forward, backward
        return peer.Work(step, checks=lambda: {"loss": ..., "norm": ...}, leaves=[s, table])

    peer.main(make, __doc__)
"""

import argparse
import ctypes
import dataclasses
import json
import math
import os
import statistics
import sys
import time
import typing

import torch

from inputs import hashed


@dataclasses.dataclass
class Work:
    step: typing.Callable[[], object]
    checks: typing.Callable[[], dict]
    leaves: typing.Sequence[torch.Tensor] = ()  # those that get a gradient


def given(shape, number, scale, offset=0.0):
    """The hashed array `number` of README.md as a float32 tensor."""
    out = torch.empty(shape)
    hashed.fill(out.numpy().reshape(-1), number, scale, offset)
    return out


def norm(*tensors):
    """The Euclidean norm of all of them together, in double, by parts: a second copy of a table would count as memory."""
    return math.sqrt(sum(part.double().square().sum().item() for x in tensors for part in x.detach().reshape(-1).split(1 << 20)))


def status_bytes(field):
    try:
        with open("/proc/self/status") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)
    except OSError:
        return 0


def forget_peak():
    """Gives freed memory back to the system, and lets the peak begin anew; returns what is resident."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
    except (OSError, AttributeError):
        pass
    return status_bytes("VmRSS")


class Peer:
    def __init__(self, make, compiled):
        self.make, self.made = make, {}
        # A shape is compiled for itself, as a user with one shape would have it.
        self.wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.wrap.compiled = compiled
        self.wrap(lambda: None)  # what it imports should not count as memory of the first case

    def measure(self, case, seconds):
        out = dict(case=case)
        if case not in self.made:
            before = forget_peak()
            work = self.made[case] = self.make(case, self.wrap)
            made = forget_peak()
            work.step()
            for x in work.leaves:
                x.grad = None
            held = forget_peak()
            out.update(inputs_bytes=made - before)
        work = self.made[case]
        if seconds > 0:
            work.step()
        times, until = [], time.perf_counter() + seconds
        while len(times) < (3 if seconds > 0 else 1) or time.perf_counter() < until:
            start = time.perf_counter()
            work.step()
            times.append(time.perf_counter() - start)
        if "inputs_bytes" in out:
            above = status_bytes("VmHWM") - held
            gradients = sum(x.grad.nbytes for x in work.leaves if x.grad is not None)
            out.update(process_bytes=status_bytes("VmHWM"))
            out.update(own_bytes=max(0, above - gradients), peak_bytes=max(0, above + out.pop("inputs_bytes")))
        out.update(milliseconds=1e3 * statistics.median(times), runs=len(times), **work.checks())
        return out

    def answer(self, case, seconds):
        try:
            out = self.measure(case, seconds)
        except Exception as e:  # one case that cannot run must not end the others
            self.made.pop(case, None)
            unknown = isinstance(e, KeyError) and e.args == (case,)
            out = dict(case=case, error="there is no such case" if unknown else f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")
        print(json.dumps(out), flush=True)


def main(make, about):
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="CASE/SIZE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.compile:
        from torch import _dynamo
        for limit in ("recompile_limit", "cache_size_limit"):  # the name depends on the version
            if hasattr(_dynamo.config, limit):
                setattr(_dynamo.config, limit, 256)
    peer = Peer(make, options.compile)
    if options.cases == ["-"]:
        for line in sys.stdin:
            case, seconds = line.split()
            peer.answer(case, float(seconds))
    else:
        for case in options.cases:
            peer.answer(case, options.seconds)
    # Compiling leaves workers behind that take a second to go.
    sys.stdout.flush()
    os._exit(0)
