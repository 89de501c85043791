"""Sizes, weights, tokens and contexts of the training step benchmark: what README.md writes down as formulas.

The weights follow tests/golden/hashed.py, so a program in another language can start from the same numbers.
"""

import dataclasses
import math
import pathlib
import sys

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"))
import hashed  # noqa: E402

TOKENS, CONTEXTS = 1000, 1001  # array numbers, far above those of the parameters
SENTENCES_PER_DOCUMENT = 32


@dataclasses.dataclass
class Sizes:
    layers: int
    width: int
    heads: int
    vocabulary: int
    labels: int
    label_width: int
    batch: int
    length: int
    sentences_per_chunk: int
    context: int
    planner_heads: int
    planner_mlp_width: int

    @property
    def first_adapted(self):
        """The first two layers carry no label; of two layers, the first."""
        return min(2, self.layers // 2)

    @property
    def sentences(self):
        return self.batch * self.sentences_per_chunk


PRESETS = {
    "check": Sizes(2, 16, 2, 61, 7, 12, 2, 9, 3, 4, 2, 20),
    "2x128": Sizes(2, 128, 4, 4096, 64, 64, 16, 128, 8, 16, 2, 256),
    "4x256": Sizes(4, 256, 8, 8192, 128, 128, 16, 128, 8, 16, 2, 512),
    "gpt2": Sizes(12, 768, 12, 50257, 1024, 768, 1, 512, 32, 16, 2, 2048),
    "gpt2-1024": Sizes(12, 768, 12, 50257, 1024, 768, 16, 1024, 64, 16, 2, 2048),
}


def parameter_list(z):
    """(name, shape, scale, offset) in the order that numbers them, from 0."""
    D, V, C, K = z.width, z.vocabulary, z.label_width, z.labels
    body, bias = 0.07, 0.02  # standard deviation 0.0202 and 0.0058
    out = [("lm.token.table", (V, D), body, 0), ("lm.position.table", (z.length, D), body, 0)]

    def norm(name, width):
        return [(name + ".scale", (width,), 0, 1), (name + ".shift", (width,), 0, 0)]

    def linear(name, rows, columns, scale):
        return [(name + ".w", (rows, columns), scale, 0), (name + ".b", (rows,), bias, 0)]

    for i in range(z.layers):
        at = f"lm.blocks.{i}."
        out += norm(at + "norm1", D) + linear(at + "attention.qkv", 3 * D, D, body)
        out += linear(at + "attention.out", D, D, body) + norm(at + "norm2", D)
        out += linear(at + "mlp.up", 4 * D, D, body) + linear(at + "mlp.down", D, 4 * D, body)
    out += norm("lm.norm", D)
    unit = math.sqrt(12 / C)  # rows of about unit length
    for j in range(z.layers - z.first_adapted):
        out += [(f"adapters.{j}.table", (K, C), unit, 0)]
        out += linear(f"adapters.{j}", D, C, math.sqrt(24 / (C + D)))
    planner = 2 / math.sqrt(C)
    out += linear("planner.input", C, C, planner)
    at = "planner.blocks.0."
    out += linear(at + "attention.qkv", 3 * C, C, planner) + linear(at + "attention.out", C, C, planner)
    out += norm(at + "norm1", C) + linear(at + "mlp.up", z.planner_mlp_width, C, planner)
    out += linear(at + "mlp.down", C, z.planner_mlp_width, 2 / math.sqrt(z.planner_mlp_width))
    out += norm(at + "norm2", C) + linear("planner.head", K, C, unit)
    return out


def tokens(z):
    """batch x (length + 1) token ids; the first `length` of a row are inputs, the last `length` targets."""
    h = hashed.hashes(z.batch * (z.length + 1), TOKENS)
    return (h % numpy.uint32(z.vocabulary)).astype(numpy.int64).reshape(z.batch, z.length + 1)


def sentence_of_row(z):
    """The sentence, 0 .. sentences - 1, of each of the batch * length rows."""
    row = numpy.arange(z.length) * z.sentences_per_chunk // z.length
    return (numpy.arange(z.batch)[:, None] * z.sentences_per_chunk + row[None, :]).reshape(-1)


def context_lengths(z):
    """Sentence s is number s mod 32 of its document and sees at most `context` of those before it."""
    return numpy.clip(numpy.arange(z.sentences) % SENTENCES_PER_DOCUMENT, 1, z.context)


def contexts(z):
    """The embeddings of all contexts, one after the other, oldest first: (sum of lengths, label_width)."""
    rows = int(context_lengths(z).sum())
    out = numpy.empty(rows * z.label_width, dtype=numpy.float32)
    hashed.fill(out, CONTEXTS, math.sqrt(12 / z.label_width))
    return out.reshape(rows, z.label_width)
