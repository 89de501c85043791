#!/usr/bin/env python3
"""Our joint training step beside PyTorch's, in turn (ours, theirs, ours, theirs, ...), on the same inputs and weights.

    .venv/bin/python bench/peers/compare_steps.py --ours build/release/bench/bench_train_step --repeats 3 [--threads 2]

Prints a Markdown table: median over repeats of the median step, and peak memory of the process. `theirs` is PyTorch eager twice: as
installed, and with glibc told to keep freed memory (--keep-memory), which is faster and larger. A run during which other programs used
more than 0.1 cores is marked "disturbed". Losses of both programs are compared first: a case is not won by computing something else.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def busy_seconds():
    with open("/proc/stat") as lines:
        user, nice, system, idle, wait, interrupt, soft, steal = map(int, lines.readline().split()[1:9])
    return (user + nice + system + interrupt + soft) / os.sysconf("SC_CLK_TCK")


def run(command):
    before = busy_seconds()
    children = os.times()
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = os.times()
    own = after.children_user + after.children_system - children.children_user - children.children_system
    wall = after.elapsed - children.elapsed
    result = json.loads(text.strip().splitlines()[-1])
    result["others"] = max(0.0, (busy_seconds() - before - own) / wall)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", default="2x128:joint:activations,4x256:joint:activations,gpt2:joint:inputs,gpt2:joint:activations")
    options = parser.parse_args()
    print("| case | ours tokens/s | PyTorch eager | ratio | keeping memory | ratio | ours MiB | PyTorch MiB | ratio | others' cores |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in options.cases.split(","):
        preset, mode, kept = case.split(":")
        steps = "4" if preset == "gpt2" else "20"
        base = ["--preset", preset, "--mode", mode, "--threads", str(options.threads), "--steps", steps]
        ours = [options.ours, *base, "--keep", kept]
        theirs = [sys.executable, str(HERE / "train_step.py"), *base, "--learning-rate", "1e-4"]
        all_ours, eager, keeping = [], [], []
        for _ in range(options.repeats):
            all_ours.append(run(ours))
            eager.append(run(theirs))
            keeping.append(run([*theirs, "--keep-memory"]))
        for a, b in zip(all_ours[0]["losses"][:4], eager[0]["losses"][:4]):
            if abs(a - b) > 1e-4 * abs(b):
                sys.exit(f"{case}: losses differ, {a} and {b}: not the same computation")

        def middle(runs, key):
            return statistics.median(r[key] for r in runs)

        o, e, k = (middle(r, "tokens_per_second") for r in (all_ours, eager, keeping))
        om, em = middle(all_ours, "peak_rss") / 2**20, middle(eager, "peak_rss_bytes") / 2**20
        others = max(r["others"] for r in all_ours + eager + keeping)
        print(f"| {preset} {mode}, keep {kept} | {o:.0f} | {e:.0f} | {o / e:.2f} | {k:.0f} | {o / k:.2f} | {om:.0f} | {em:.0f} "
              f"| {om / em:.2f} | {others:.2f}{' disturbed' if others > 0.1 else ''} |", flush=True)


if __name__ == "__main__":
    main()
