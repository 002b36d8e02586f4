"""Chunk formulas of docs/measurements.md in plain Python, independent of `routing`.

Slow, without NumPy except for the seeded phases, and without code of `routing`. The golden session's chunks and
keyframe were computed with it, and the instruments are checked against it.
"""

from __future__ import annotations

import cmath
import math

import numpy as np


def jensen_shannon(p, q):
    def relative_entropy(a, b):
        return sum(x * math.log2(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return math.sqrt(max(0.0, (relative_entropy(p, middle) + relative_entropy(q, middle)) / 2))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


class PlainRun:
    """Tokens as dictionaries (the lines of a session file) in, chunks as dictionaries out."""

    def __init__(self, layers, experts, k, chunk_size, seed):
        self.layers, self.experts, self.chunk_size = layers, experts, chunk_size
        self.k = k if isinstance(k, list) else [k] * layers
        self.phases = np.random.default_rng(seed).uniform(0, 2 * math.pi, (layers, experts)).tolist()
        self.averages = {half: [[0.0] * experts for _ in range(layers)] for half in (50, 500)}
        self.rows = [0] * layers
        self.before = None
        self.chunk = []
        self.start = None
        self.coherence = None
        self.residual = 0.0
        self.chunks = []

    def sets(self, token):
        return self.by_layer(token["experts"])

    def by_layer(self, flat):
        """Split a flat list into one list per layer."""
        ends = [sum(self.k[: layer + 1]) for layer in range(self.layers)]
        return [flat[end - k : end] for end, k in zip(ends, self.k, strict=True)]

    def add(self, token):
        sets = self.sets(token)
        if token["phase"] == "decode":
            if not self.chunk:
                self.start = {half: self.corrected(half) for half in (50, 500)}
            self.chunk.append((token, sets, self.before))
            for layer, chosen in enumerate(sets):
                for expert, weight in zip(chosen, self.by_layer(token["weights"])[layer], strict=True):
                    self.phases[layer][expert] += 0.1 * weight * 1e-4
        self.average(sets)
        self.before = sets
        if len(self.chunk) == self.chunk_size:
            self.close()

    def average(self, sets):
        for layer, chosen in enumerate(sets):
            if None in chosen:
                continue
            self.rows[layer] += 1
            for half in (50, 500):
                step = 1 - 2 ** (-1 / half)
                for expert in range(self.experts):
                    share = (expert in chosen) / self.k[layer]
                    self.averages[half][layer][expert] += step * (share - self.averages[half][layer][expert])

    def corrected(self, half):
        return [
            [value / (1 - 2 ** (-n / half)) for value in row] if n else None
            for row, n in zip(self.averages[half], self.rows, strict=True)
        ]

    def overlap(self, now, before):
        return len(set(now) & set(before)) / len(set(now) | set(before))

    def close(self):
        usage = [
            [
                sum(expert in sets[layer] for _, sets, _ in self.chunk) / (len(self.chunk) * self.k[layer])
                for expert in range(self.experts)
            ]
            for layer in range(self.layers)
        ]
        meso, macro = self.start[50], self.start[500]
        entropy = mean(value * 1e-4 for token, _, _ in self.chunk for value in token["entropy"])
        router_margin = mean(value * 1e-4 for token, _, _ in self.chunk for value in token["margin"])
        top_margin = mean(token["top_margin"] for token, _, _ in self.chunk)
        transition = mean(
            self.overlap(now, then)
            for _, sets, before in self.chunk
            for now, then in zip(sets, before, strict=True)
            if None not in then
        )
        far = {
            name: mean(jensen_shannon(u, a) for u, a in zip(usage, old, strict=True))
            for name, old in (("meso", meso), ("macro", macro))
        }
        confidence = 1 - mean(jensen_shannon(a, b) for a, b in zip(meso, macro, strict=True))
        flat = [phase for row in self.phases for phase in row]
        coherence = abs(sum(cmath.exp(1j * phase) for phase in flat) / len(flat))
        change = 0.0 if self.coherence is None else coherence - self.coherence
        self.coherence = coherence
        th = math.tanh
        fast = 0.5 * (-entropy / 2) + 0.3 * th(router_margin) + 0.2 * th(change)
        mid = 0.4 * th(1 - top_margin) + 0.3 * th(transition) + 0.2 * th(1 / (1 + far["meso"])) + 0.1 * th(change)
        slow = confidence * 0.3 * th(1 / (1 + far["macro"]))
        w_fast, w_mid, w_slow = min(0.2, 1 - entropy / 2), 0.5 + 0.5 * self.residual, 0.3 * confidence
        self.residual = min(1.0, 0.7 * self.residual + 0.3 * mid)
        self.chunks.append(
            {
                "event": "chunk",
                "index": len(self.chunks),
                "first": self.chunk[0][0]["i"],
                "last": self.chunk[-1][0]["i"],
                "tokens": len(self.chunk),
                "warm_up": True,
                "signals": {
                    "router_entropy": entropy,
                    "router_margin": router_margin,
                    "top_margin": top_margin,
                    "transition_prob": transition,
                    "proximity_meso": far["meso"],
                    "proximity_macro": far["macro"],
                    "slow_confidence": confidence,
                    "coherence": coherence,
                    "delta_coherence": change,
                    "constraint_penalty": 0.0,
                },
                "pressures": {
                    "fast": fast,
                    "mid": mid,
                    "slow": slow,
                    "net": w_fast * fast + w_mid * mid + w_slow * slow,
                    "w_fast": w_fast,
                    "w_mid": w_mid,
                    "w_slow": w_slow,
                },
                "residual": self.residual,
            }
        )
        self.chunk = []
