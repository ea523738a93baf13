#!/usr/bin/env python3
"""The training step of a small GPT in PyTorch, on the CPU and in f32.

The same step as `starling bench train --layers 4 --dim 256 --heads 4 --seq 128 --batch 16 --vocab 96`:
forward, cross-entropy, backward, clipping of the gradients' norm, AdamW. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import time

parser = argparse.ArgumentParser()
for name, default in [
    ("layers", 4), ("dim", 256), ("heads", 4), ("seq", 128), ("batch", 16), ("vocab", 96),
    ("threads", 1), ("steps", 15),
]:
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--fused", action="store_true", help="AdamW in one kernel")
parser.add_argument("--clip", type=float, default=0.0, help="largest norm of the gradients; 0: none")
options = parser.parse_args()
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = str(options.threads)

import torch  # noqa: E402  (reads the number of threads)
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

torch.set_num_threads(options.threads)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        batch, seq, dim = x.shape
        parts = self.qkv(self.norm_1(x)).split(dim, -1)
        q, k, v = (p.view(batch, seq, self.heads, -1).transpose(1, 2) for p in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, dim))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(o.vocab, o.dim), nn.Embedding(o.seq, o.dim)
        self.blocks = nn.ModuleList(Block(o.dim, o.heads) for _ in range(o.layers))
        self.norm = nn.LayerNorm(o.dim)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, inputs, targets):
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


model = Gpt(options)
fused = options.fused or None
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, fused=fused)
times = []
for _ in range(options.steps):
    data = torch.randint(options.vocab, (options.batch, options.seq + 1))
    inputs, targets = data[:, :-1].contiguous(), data[:, 1:].contiguous()
    start = time.perf_counter()
    loss = model(inputs, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if options.clip:
        nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    optimizer.step()
    times.append(time.perf_counter() - start)
median = statistics.median(times[3:])
print(json.dumps({
    "op": "train", "peer": f"torch {torch.__version__}", "fused": bool(options.fused),
    "clip": options.clip, "threads": options.threads,
    "parameters": sum(p.numel() for p in model.parameters()),
    "median_ms": round(median * 1e3, 2), "min_ms": round(min(times[3:]) * 1e3, 2),
    "tokens_per_s": round(options.batch * options.seq / median), "loss": round(loss.item(), 4),
}))
