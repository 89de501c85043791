"""Numbers that any language can make again, so that golden files and benchmarks need not store their inputs.

Element i (row-major) of array number n, in unsigned 32-bit arithmetic that wraps:

    h = i * 2654435761 + (n + 1) * 2246822519
    h = h ^ (h >> 15);  h = h * 2246822519;  h = h ^ (h >> 13)
    value = offset + (h / 2^32 - 0.5) * scale     computed in double, then rounded to float

so value - offset lies in [-scale/2, scale/2) and has standard deviation scale / sqrt(12).
"""

import json

import numpy

ABOUT = ("element i (row-major) of array number n: h = i*2654435761 + (n+1)*2246822519; h ^= h >> 15; "
         "h *= 2246822519; h ^= h >> 13 (all mod 2^32); value = offset + (h / 2^32 - 0.5) * scale in double, "
         "rounded to float")


def hashes(count, number, first=0):
    """The 32-bit hashes of elements first .. first + count - 1 of array `number`."""
    shift = (number + 1) * 2246822519 % 2**32
    h = numpy.arange(first, first + count, dtype=numpy.uint64).astype(numpy.uint32)
    h *= numpy.uint32(2654435761)
    h += numpy.uint32(shift)
    h ^= h >> numpy.uint32(15)
    h *= numpy.uint32(2246822519)
    h ^= h >> numpy.uint32(13)
    return h


def fill(target, number, scale, offset=0.0):
    """Fills a flat float32 array in blocks, so that a large table costs no second copy of itself."""
    block = 1 << 20
    for first in range(0, target.size, block):
        count = min(block, target.size - first)
        target[first:first + count] = offset + (hashes(count, number, first) / 2.0**32 - 0.5) * scale


def values(shape, number, scale, offset=0.0):
    """The array as float64, every element already rounded to float32."""
    flat = numpy.empty(int(numpy.prod(shape)), dtype=numpy.float32)
    fill(flat, number, scale, offset)
    return flat.astype(numpy.float64).reshape(shape)


def json_text(x, pad=""):
    """JSON; each array of numbers, and each object that has a "name", on one line; 9 significant digits."""
    if isinstance(x, numpy.ndarray):
        x = x.reshape(-1).tolist()
    if isinstance(x, (str, bool)):
        return json.dumps(x)
    if not isinstance(x, (list, tuple, dict)):
        return f"{x + 0.0:.9g}" if x else "0"
    below = pad + " "
    if isinstance(x, dict):
        items = [f"{json.dumps(key)}: {json_text(value, below)}" for key, value in x.items()]
        if "name" in x and not any(isinstance(value, dict) for value in x.values()):
            return "{" + ", ".join(items) + "}"
        return "{\n" + ",\n".join(below + item for item in items) + "}"
    items = [json_text(value, below) for value in x]
    if not any(isinstance(value, (str, list, tuple, dict)) for value in x):
        return "[" + ",".join(items) + "]"
    return "[\n" + ",\n".join(below + item for item in items) + "]"
