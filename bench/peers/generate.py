#!/usr/bin/env python3
"""Rollouts of a language model in PyTorch: the work of bench/bench_generate.cpp, tokens per second.

    bench/peers/generate.py [--rows 1 64] [--threads 1 2] [--new-tokens 128] [--repetitions 7]
    bench/peers/generate.py --check

Eager, float32, no gradients, keys and values in tensors made beforehand. Every step keeps log q(token) and
log q(stop) of all rows, the stop masked; nothing is read back before the end. Prints one line of JSON for each
number of rows and threads: the median of the repetitions. --check compares decoding with a forward pass over
whole sequences.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

PROMPT = 8


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, cache, begin):
        """x (rows, new, width) at positions begin .. begin + new; the cache gets their keys and values."""
        rows, new, width = x.shape
        q, k, v = (t.view(rows, new, self.heads, -1).transpose(1, 2)
                   for t in self.qkv(self.norm1(x)).split(width, dim=-1))
        keys, values = cache
        keys[:, :, begin:begin + new] = k
        values[:, :, begin:begin + new] = v
        y = F.scaled_dot_product_attention(q, keys[:, :, :begin + new], values[:, :, :begin + new],
                                           is_causal=new > 1)
        x = x + self.out(y.transpose(1, 2).reshape(rows, new, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class LanguageModel(nn.Module):
    def __init__(self, vocabulary, length, width, heads, layers):
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def make_caches(self, rows, length):
        heads, width = self.blocks[0].heads, self.token.weight.shape[1]
        return [[torch.zeros(rows, heads, length, width // heads) for _ in range(2)] for _ in self.blocks]

    def forward(self, tokens, caches, begin):
        """tokens (rows, new) -> logits (rows, vocabulary) of the last position."""
        x = self.token(tokens) + self.position.weight[begin:begin + tokens.shape[1]]
        for block, cache in zip(self.blocks, caches):
            x = block(x, cache, begin)
        return F.linear(self.norm(x[:, -1]), self.token.weight)


def generate(model, prompts, caches, new_tokens, stop):
    """Tokens, log q(token) and log q(stop), each (rows, new_tokens)."""
    rows = prompts.shape[0]
    tokens = torch.empty(rows, new_tokens, dtype=torch.long)
    taken, stops = torch.empty(rows, new_tokens), torch.empty(rows, new_tokens)
    now, begin = prompts, 0
    for k in range(new_tokens):
        logits = model(now, caches, begin)
        begin += now.shape[1]
        logits[:, stop] = -torch.inf
        log_q = F.log_softmax(logits, dim=-1)
        now = torch.multinomial(log_q.exp(), 1)
        tokens[:, k] = now[:, 0]
        taken[:, k] = log_q.gather(1, now)[:, 0]
        stops[:, k] = log_q[:, stop]
    return tokens, taken, stops


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, nargs="+", default=[1, 64])
    arguments.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    arguments.add_argument("--new-tokens", type=int, default=128)
    arguments.add_argument("--repetitions", type=int, default=7)
    arguments.add_argument("--check", action="store_true")
    o = arguments.parse_args()
    torch.manual_seed(1)
    stop = 13
    model = LanguageModel(vocabulary=4096, length=256, width=128, heads=4, layers=2)
    with torch.inference_mode():
        if o.check:
            prompts = torch.arange(3 * PROMPT).view(3, PROMPT)
            tokens, taken, _ = generate(model, prompts, model.make_caches(3, 256), 20, stop)
            worst = 0.0
            for k in range(20):
                logits = model(torch.cat([prompts, tokens[:, :k]], 1), model.make_caches(3, 256), 0)
                logits[:, stop] = -torch.inf
                again = F.log_softmax(logits, dim=-1).gather(1, tokens[:, k:k + 1])[:, 0]
                worst = max(worst, (again - taken[:, k]).abs().max().item())
            print(json.dumps(dict(check="decoding against whole sequences", largest_difference=worst)))
            return
        for threads in dict.fromkeys(o.threads):
            torch.set_num_threads(threads)
            for rows in o.rows:
                prompts = torch.arange(1, PROMPT).repeat(rows, 1)
                prompts = torch.cat([torch.arange(rows)[:, None], prompts], 1)
                caches = model.make_caches(rows, PROMPT + o.new_tokens)
                seconds = []
                for i in range(-2, o.repetitions):
                    start = time.perf_counter()
                    generate(model, prompts, caches, o.new_tokens, stop)
                    if i >= 0:
                        seconds.append(time.perf_counter() - start)
                median = statistics.median(seconds)
                print(json.dumps(dict(program="pytorch", rows=rows, threads=threads, new_tokens=o.new_tokens,
                                      tokens_per_second=rows * o.new_tokens / median, median_seconds=median,
                                      fastest_seconds=min(seconds), torch=torch.__version__)), flush=True)


main()
