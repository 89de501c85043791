#!/usr/bin/env python3
"""The plain language-model step of llm.c on the CPU (https://github.com/karpathy/llm.c, train_gpt2.c), beside the cases plain/SIZE.

    bench/peers/llm_c.py CHECKOUT plain/gpt2 ... --threads N [--seconds S]        one line of JSON per case, in the words of peer.py
    bench/peers/llm_c.py CHECKOUT plain/gpt2 --threads 2 --ours build/release/bench/bench_train_step [--turns 3]
    bench/peers/llm_c.py CHECKOUT - --threads N                                   reads lines "CASE SECONDS", as the other peers do

CHECKOUT is a folder with train_gpt2.c; none of it is in this repository. It is compiled with $CC (cc), -O3 -march=native -fopenmp and the
-Ofast of its own Makefile; its weights and tokens are those of README.md, written in its checkpoint format (wte, wpe, then every kind of
tensor of all layers; rows of the vocabulary padded to a multiple of 128). A step is forward, zero gradients, backward, AdamW, and trains
everything. With --ours, both run in turn and the numbers have to agree to 1e-4 before anything is timed.
"""

import argparse
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import numpy

import inputs
from inputs import hashed

# What train_gpt2.c calls its functions, and nothing else of it. Prints the losses before the first three steps, the norm of all gradients at
# the first, the peak of memory, and the milliseconds of every step after the first: of as many as fit into the seconds given, two at least.
DRIVER = r"""
#define TESTING
#include "train_gpt2.c"

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static double status_bytes(const char* field) {
  FILE* f = fopen("/proc/self/status", "r");
  char line[256];
  double value = 0;
  while (f && fgets(line, sizeof line, f))
    if (!strncmp(line, field, strlen(field))) value = 1024 * atof(line + strlen(field));
  if (f) fclose(f);
  return value;
}
int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const int batch = atoi(argv[3]), length = atoi(argv[4]);
  const double seconds = atof(argv[5]), begin = status_bytes("VmRSS:");
  int* given = malloc(2 * sizeof(int) * (size_t)(batch * length));  // tokens, then targets
  FILE* f = fopen(argv[2], "rb");
  if (!f || fread(given, sizeof(int), (size_t)(2 * batch * length), f) != (size_t)(2 * batch * length)) return 3;
  fclose(f);
  GPT2 model;
  gpt2_build_from_checkpoint(&model, argv[1]);
  double losses[3] = {0}, norm = 0, end = 0;
  for (int step = 0; step < 3 || seconds_now() < end; ++step) {
    if (step == 1) end = seconds_now() + seconds;
    const double start = seconds_now();
    gpt2_forward(&model, given, given + batch * length, (size_t)batch, (size_t)length);
    gpt2_zero_grad(&model);
    gpt2_backward(&model);
    if (step == 0)
      for (size_t i = 0; i < model.num_parameters; ++i) norm += (double)model.grads_memory[i] * model.grads_memory[i];
    gpt2_update(&model, 1e-3f, 0.9f, 0.999f, 1e-8f, 0.01f, step + 1);
    if (step > 0) printf("milliseconds %.6f\n", 1e3 * (seconds_now() - start));
    if (step < 3) losses[step] = model.mean_loss;
  }
  printf("said %.9g %.9g %.9g %.9g %.0f %.0f\n", losses[0], losses[1], losses[2], sqrt(norm), status_bytes("VmHWM:"), begin);
  return 0;
}
"""
KINDS = ["norm1.scale", "norm1.shift", "attention.qkv.w", "attention.qkv.b", "attention.out.w", "attention.out.b", "norm2.scale", "norm2.shift",
         "mlp.up.w", "mlp.up.b", "mlp.down.w", "mlp.down.b"]


class Failed(Exception):
    pass


def write_checkpoint(z, path):
    """Version 3 of its format: 256 integers, then float32."""
    padded = -(-z.vocabulary // 128) * 128
    numbered = {name: (number, math.prod(shape), scale, offset) for number, (name, shape, scale, offset) in enumerate(inputs.parameter_list(z))}

    def values(name):
        number, size, scale, offset = numbered[name]
        out = numpy.empty(size, dtype=numpy.float32)
        hashed.fill(out, number, scale, offset)
        return out

    header = numpy.zeros(256, dtype=numpy.int32)
    header[:8] = 20240326, 3, z.length, z.vocabulary, z.layers, z.heads, z.width, padded
    with open(path, "wb") as file:
        file.write(header.tobytes())
        file.write(values("lm.token.table").tobytes())
        file.write(bytes(4 * (padded - z.vocabulary) * z.width))
        file.write(values("lm.position.table").tobytes())
        for kind in KINDS:
            for layer in range(z.layers):
                file.write(values(f"lm.blocks.{layer}.{kind}").tobytes())
        file.write(values("lm.norm.scale").tobytes())
        file.write(values("lm.norm.shift").tobytes())


class Program:
    """Compiled once; weights and tokens of a case are written once."""

    def __init__(self, checkout, threads, folder):
        self.threads, self.folder, self.made = threads, folder, set()
        self.path = folder / "llm_c"
        (folder / "driver.c").write_text(DRIVER)
        source = pathlib.Path(checkout).resolve()
        if not (source / "train_gpt2.c").exists():
            raise Failed(f"there is no {source}/train_gpt2.c; name a checkout of llm.c")
        command = [os.environ.get("CC", "cc"), "-O3", "-Ofast", "-march=native", "-fopenmp", "-DOMP", "-w", f"-I{source}", str(folder / "driver.c"),
                   "-o", str(self.path), "-lm"]
        try:
            built = subprocess.run(command, capture_output=True, text=True)
        except OSError as e:
            raise Failed(f"{command[0]}: {e.strerror}") from None
        if built.returncode != 0:
            raise Failed(f"{command[0]} failed: {' '.join(built.stderr.split())[:300]}")

    def measure(self, case, seconds):
        mode, _, preset = case.partition("/")
        z = inputs.PRESETS.get(preset)
        if mode != "plain" or z is None:
            raise Failed("there is no such case")
        weights, tokens = (self.folder / f"{preset}.{what}" for what in ("bin", "tokens"))
        if preset not in self.made:
            write_checkpoint(z, weights)
            ids = inputs.tokens(z).astype(numpy.int32)
            tokens.write_bytes(ids[:, :-1].tobytes() + ids[:, 1:].tobytes())
            self.made.add(preset)
        done = subprocess.run([str(self.path), str(weights), str(tokens), str(z.batch), str(z.length), str(seconds)], capture_output=True, text=True,
                              env=os.environ | {"OMP_NUM_THREADS": str(self.threads)})
        said = re.search(r"^said (.*)$", done.stdout, re.M)
        if done.returncode != 0 or not said:
            raise Failed(f"llm.c ended with {done.returncode}: {' '.join((done.stdout + done.stderr).split())[-300:]}")
        times = [float(ms) for ms in re.findall(r"^milliseconds (.*)$", done.stdout, re.M)]
        loss, loss2, loss3, norm, peak, begin = map(float, said[1].split())
        return dict(case=case, process_bytes=peak, peak_bytes=peak - begin, milliseconds=statistics.median(times), runs=len(times), loss=loss,
                    loss2=loss2, loss3=loss3, norm=norm)


def ours(program, case, threads, seconds):
    try:
        done = subprocess.run([program, f"--threads={threads}", "--benchmark_format=json", f"--benchmark_filter=^{case}/real_time$",
                               f"--benchmark_min_time={max(seconds, 1e-6):g}"], capture_output=True, text=True)
    except OSError as e:
        raise Failed(f"--ours {program}: {e.strerror}; scripts/bench --cases train_step builds it") from None
    found = json.loads(done.stdout or "{}").get("benchmarks") if done.returncode == 0 else None
    if not found:
        raise Failed(f"{program} measures no {case}")
    return dict(found[0], milliseconds=found[0]["real_time"])


def compare(program, case, options):
    one, other = ours(options.ours, case, options.threads, 0), program.measure(case, 0)
    for name in ("loss", "loss2", "loss3", "norm"):
        if not abs(one[name] - other[name]) <= 1e-4 * abs(other[name]):
            raise Failed(f"{name} is {one[name]:.9g} here and {other[name]:.9g} there: not the same computation")
    turns = [(ours(options.ours, case, options.threads, options.seconds)["milliseconds"], program.measure(case, options.seconds)["milliseconds"])
             for _ in range(options.turns)]
    mine, theirs = (statistics.median(side) for side in zip(*turns))
    ratios = [b / a for a, b in turns]
    return dict(case=case, against="llm.c", ours=mine, theirs=theirs, unit="ms", ratio=theirs / mine, spread=[min(ratios), max(ratios)],
                ours_process_bytes=one["process_bytes"], theirs_process_bytes=other["process_bytes"],
                checks={name: [one[name], other[name]] for name in ("loss", "loss2", "loss3", "norm")})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout")
    parser.add_argument("cases", nargs="+", metavar="plain/SIZE")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--ours", help="bench_train_step, to run in turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = Program(options.checkout, options.threads, pathlib.Path(folder))
        except Failed as e:
            sys.exit(f"llm_c.py: {e}")
        asked = (line.split() for line in sys.stdin) if options.cases == ["-"] else ((case, options.seconds) for case in options.cases)
        for case, seconds in asked:
            try:
                out = compare(program, case, options) if options.ours else program.measure(case, float(seconds))
            except Failed as e:
                out = dict(case=case, error=str(e))
            print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
