#!/usr/bin/env python3
"""Text from a language model with a KV cache in PyTorch: the cases of bench/bench_generate.cpp; peer.py says how it is called.

    bench/peers/generate.py plain/B1 plain/B64 replay/B1 planned/B1 ... --threads N [--compile] --seconds S
    bench/peers/generate.py --check

float32, inference_mode, keys and values in tensors made beforehand; a run is 128 new tokens from a prompt of eight. plain keeps log q(token)
and log q(stop) of every step, the stop masked; planned asks the planner of train_step.py at every sentence of 16 tokens and keeps
log q(token). Eager mode attends to what is in the cache; compiled, the step has one shape throughout, so it writes at a position that is a
tensor and attends to the whole cache with a mask; weights are frozen into it and its calls are C++ (together a tenth less time than the default
of torch.compile at batch 1). The check numbers are those of given tokens (planned: of the most probable ones) through
the same functions. --check compares decoding with forward passes over whole sequences.
"""

import json
import math
import sys

import torch
import torch.nn.functional as F

import inputs
import peer
import train_step
from inputs import hashed

PROMPT, NEW, STOP, SENTENCE = 8, 128, 13, 16
SIZES = inputs.Sizes(layers=2, width=128, heads=4, vocabulary=4096, labels=64, label_width=64, batch=1, length=256, sentences_per_chunk=1,
                     context=16, planner_heads=2, planner_mlp_width=256)
TOKENS, EMBEDDINGS = 1300, 1301  # array numbers


class Decoder:
    """The language model of train_step.py, new rows at a time."""

    def __init__(self, model, rows, capacity, wrap):
        self.model, self.compiled, self.capacity = model, wrap.compiled, capacity
        shape = (rows, SIZES.heads, capacity, SIZES.width // SIZES.heads)
        self.caches = [[torch.zeros(shape) for _ in range(2)] for _ in model.lm.blocks]
        self.places = torch.arange(capacity)
        if wrap.compiled:
            from torch._inductor import config
            config.freezing = config.cpp_wrapper = True
        self.run = wrap(self.forward)
        self.plan = wrap(self.plans)

    def plans(self, contexts, present):
        """What each adapted block adds, (rows, 1, width)."""
        p = torch.softmax(self.model.planner(contexts, present), -1)
        return [adapter(p)[:, None] for adapter in self.model.adapters]

    def attend(self, block, x, cache, at, end, mask):
        rows, new, width = x.shape
        q, k, v = (t.view(rows, new, SIZES.heads, -1).transpose(1, 2) for t in block.attention.qkv(x).split(width, dim=-1))
        keys, values = cache
        if self.compiled:
            keys.index_copy_(2, at, k)
            values.index_copy_(2, at, v)
            o = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        else:
            keys[:, :, end - new:end] = k
            values[:, :, end - new:end] = v
            o = F.scaled_dot_product_attention(q, keys[:, :, :end], values[:, :, :end], is_causal=new > 1)
        return o.transpose(1, 2).reshape(rows, new, width)

    def forward(self, tokens, at, end, extra, masked, forced, greedy):
        """tokens (rows, new) at positions `at` -> the next token (rows, 1), its log-probability, that of the stop."""
        lm = self.model.lm
        x = lm.token(tokens) + lm.position.weight[at]
        mask = self.places[None, :] <= at[:, None] if self.compiled else None
        for i, (block, cache) in enumerate(zip(lm.blocks, self.caches)):
            o = self.attend(block, block.norm1(x), cache, at, end, mask)
            if extra is not None and i >= SIZES.first_adapted:
                o = o + extra[i - SIZES.first_adapted]
            x = x + block.attention.out(o)
            x = x + block.mlp(block.norm2(x))
        logits = F.linear(lm.norm(x[:, -1]), lm.token.weight)
        if masked:
            logits[:, STOP] = -torch.inf
        log_q = F.log_softmax(logits, -1)
        if forced is not None:
            token = forced
        elif greedy:
            token = log_q.argmax(-1, keepdim=True)
        else:  # a draw from softmax without its sums: the largest of p / Exp(1)
            token = (log_q.exp() / torch.empty_like(log_q).exponential_()).argmax(-1, keepdim=True)
        return token, log_q.gather(1, token)[:, 0], log_q[:, STOP]

    def generate(self, prompts, masked, contexts=None, forced=None, greedy=False, new=NEW):
        """Tokens, log q(token) and log q(stop), each (rows, new). contexts: the planner's arguments of every sentence."""
        rows, known = prompts.shape
        tokens = torch.empty(rows, new, dtype=torch.long)
        taken, stops = torch.empty(rows, new), torch.empty(rows, new)
        now, extra, sentence, begin = prompts, None, -1, 0
        for k in range(new):
            if contexts is not None and (known - 1 + k) // SENTENCE > sentence:  # the sentence that holds the coming token
                sentence += 1
                extra = self.plan(*contexts[sentence])
            end = begin + now.shape[1]
            at = self.places[begin:end]
            # A number that changes would be compiled anew each time.
            now, q, s = self.run(now, at.clone() if self.compiled else at, None if self.compiled else end, extra, masked,
                                 None if forced is None else forced[:, k:k + 1].contiguous(), greedy)
            begin = end
            tokens[:, k], taken[:, k], stops[:, k] = now[:, 0], q, s
        return tokens, taken, stops


def prompts_of(rows):
    return torch.cat([torch.arange(rows)[:, None], torch.arange(1, PROMPT).repeat(rows, 1)], 1)


def contexts_of(rows):
    """For every sentence: (rows, 16, label width), of which as many count as sentences came before it, at least one."""
    width = SIZES.label_width
    all_of_them = peer.given((rows, SIZES.context, width), EMBEDDINGS, math.sqrt(12 / width))
    out = []
    for sentence in range((PROMPT - 1 + NEW - 1) // SENTENCE + 1):
        present = (torch.arange(SIZES.context) < max(1, sentence))[None, :].repeat(rows, 1)
        out.append((all_of_them * present[:, :, None], present))
    return out


def make(case, wrap):
    kind, _, size = case.partition("/")
    if kind not in ("plain", "replay", "planned") or not size.startswith("B") or not size[1:].isdigit():
        raise KeyError(case)
    rows = int(size[1:])
    with torch.inference_mode():
        decoder = Decoder(train_step.build(SIZES, torch.float32), rows, PROMPT + NEW, wrap)
        prompts, contexts = prompts_of(rows), contexts_of(rows) if kind == "planned" else None
        given = torch.from_numpy((hashed.hashes(rows * NEW, TOKENS) % 4096).astype("int64")).view(rows, NEW)
        given = torch.where(given == STOP, STOP + 1, given)

    @torch.inference_mode()
    def step():
        return decoder.generate(prompts, kind != "planned", contexts, forced=given if kind == "replay" else None)

    @torch.inference_mode()
    def checks():
        if kind == "planned":
            _, taken, stops = decoder.generate(prompts, False, contexts, greedy=True)
            stops = taken
        else:
            _, taken, stops = decoder.generate(prompts, False, forced=given)
        return dict(loss=-taken.double().mean().item(), norm=peer.norm(stops))

    return peer.Work(step, checks)


@torch.inference_mode()
def check(wrap):
    model, rows, new = train_step.build(SIZES, torch.float32), 3, 20
    prompts = prompts_of(rows)
    tokens, taken, _ = Decoder(model, rows, PROMPT + new, wrap).generate(prompts, True, new=new)
    worst = 0.0
    for k in range(new):
        whole = torch.cat([prompts, tokens[:, :k]], 1)
        again = Decoder(model, rows, PROMPT + new, wrap).generate(whole, True, forced=tokens[:, k:k + 1], new=1)[1][:, 0]
        worst = max(worst, (again - taken[:, k]).abs().max().item())
    return dict(check="decoding against whole sequences", largest_difference=worst)


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        eager = lambda f: f  # noqa: E731
        eager.compiled = False
        print(json.dumps(check(eager)))
    else:
        peer.main(make, __doc__)
