"""Stands in for a peer: fixed times, one line of JSON per case."""
import json
import os
import sys

TIMES = {("steady/N1", False): [10, 12, 9], ("steady/N1", True): [6, 8, 3]}
flags = sys.argv[1:]
compiled = "--compile" in flags
turns = {}


def answer(case, seconds):
    turn = turns.get(case, 0)
    if seconds > 0:
        turns[case] = turn + 1
    if case == "dying/N1":
        print("no more memory", file=sys.stderr)
        os._exit(9)
    if case == "strange/N1":
        print("hello", flush=True)
        return
    out = {"case": case, "milliseconds": TIMES.get((case, compiled), [8] * 9)[turn % 3], "loss": 2.0, "norm": 3.0, "own_bytes": 8 * 2**20, "process_bytes": 2**24}
    if case == "wrong/N1":
        out["loss"] = 2.0 * (1 + 2e-4)
    if case == "close/N1":
        out["loss"] = 2.0 * (1 + 0.5e-4)
    if case == "silent/N1":
        del out["norm"]
    print(json.dumps(out), flush=True)


if flags[-1] == "-":
    for line in sys.stdin:
        name, seconds = line.split()
        answer(name, float(seconds))
else:
    answer(flags[-1], 0)
