"""Does PyTorch, given the same start and the same batches, see the losses that Starling reported?

    replay.py RUN_DIR TEXT_FILE [--steps 50]

RUN_DIR holds initial/ (a Hugging Face gpt2 checkpoint from before the first step), run.json (how
the run was trained) and metrics.jsonl (a row for each step: loss, learning rate, and where in the
token stream its sequences start). Tokens are the bytes of TEXT_FILE. Every loss must agree within
a thousandth; exits with 1 when one does not. Needs: torch, transformers.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel
from transformers.utils import logging

TOLERANCE = 1e-3


def load_rows(path, steps):
    """The first `steps` training rows of metrics.jsonl, in order."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    rows = [row for row in rows if "offsets" in row][:steps]
    if len(rows) < steps:
        sys.exit(f"{path}: {steps} steps asked for, {len(rows)} found; pass --steps {len(rows)}")
    numbers = [row["step"] for row in rows]
    if numbers != list(range(1, steps + 1)):
        sys.exit(f"{path}: the first rows are not the steps 1..={steps}: {numbers}")
    return rows


def open_model(folder):
    model = GPT2LMHeadModel.from_pretrained(
        folder, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    return model.train()


def groups_of(model, optimizer):
    """The parameters that decay and those that do not, by the names that run.json gives."""

    def short(name):
        return name.removeprefix("transformer.")

    parameters = {short(name): x for name, x in model.named_parameters()}
    decay, rest = ([short(name) for name in optimizer[key]] for key in ("decay", "no_decay"))
    named = decay + rest
    if sorted(named) != sorted(parameters):
        twice = sorted({name for name in named if named.count(name) > 1})
        sys.exit(
            "run.json must name every tensor once, as `decay` or `no_decay`: "
            f"missing {sorted(set(parameters) - set(named))}, "
            f"unknown {sorted(set(named) - set(parameters))}, twice {twice}"
        )
    return [
        {"params": [parameters[n] for n in decay], "weight_decay": optimizer["weight_decay"]},
        {"params": [parameters[n] for n in rest], "weight_decay": 0.0},
    ]


def make_optimizer(model, run):
    spec = run["optimizer"]
    if spec["name"] != "adamw":
        sys.exit(f"only adamw can be replayed; this run used {spec['name']}")
    betas = (spec["beta1"], spec["beta2"])
    # The rate is set at every step, from metrics.jsonl.
    return torch.optim.AdamW(groups_of(model, spec), lr=0.0, betas=betas, eps=spec["eps"])


def sequences(tokens, offsets, length):
    """One input of `length` tokens for each offset, and its targets one token later."""
    outside = [o for o in offsets if not 0 <= o <= len(tokens) - length - 1]
    if outside:
        sys.exit(f"offsets {outside} leave no {length + 1} tokens in a text of {len(tokens)}")
    rows = torch.stack([tokens[o : o + length + 1] for o in offsets])
    return rows[:, :-1], rows[:, 1:]


def train_step(model, optimizer, tokens, row, run):
    """One step over `accumulate` micro-batches; its mean loss and gradient norm before clipping."""
    accumulate = run.get("accumulate", 1)
    size, offsets = run["batch"], row["offsets"]
    if len(offsets) != size * accumulate:
        sys.exit(f"step {row['step']}: {len(offsets)} offsets for {accumulate} batches of {size}")
    total = 0.0
    optimizer.zero_grad(set_to_none=True)
    for start in range(0, len(offsets), size):
        x, y = sequences(tokens, offsets[start : start + size], run["seq"])
        logits = model(x).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()) / accumulate
        loss.backward()
        total += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), run.get("clip") or math.inf)
    for group in optimizer.param_groups:
        group["lr"] = row["lr"]
    optimizer.step()
    return total, norm.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", metavar="RUN_DIR", type=Path)
    parser.add_argument("text", metavar="TEXT_FILE", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    logging.disable_progress_bar()

    run = json.loads((args.run / "run.json").read_text())
    rows = load_rows(args.run / "metrics.jsonl", args.steps)
    tokens = torch.tensor(list(args.text.read_bytes()))
    model = open_model(args.run / "initial")
    optimizer = make_optimizer(model, run)

    failed = []
    print("step   Starling    PyTorch  relative   gradient norms")
    for row in rows:
        loss, norm = train_step(model, optimizer, tokens, row, run)
        difference = abs(row["loss"] - loss) / abs(loss)
        agrees = difference <= TOLERANCE
        print(
            f"{row['step']:4} {row['loss']:10.6f} {loss:10.6f}   {difference:.1e}"
            f"   {row['grad_norm']:.5f} {norm:.5f}{'' if agrees else '   DIFFERS'}",
            flush=True,
        )
        if not agrees:
            failed.append(row["step"])
    if failed:
        sys.exit(f"MISMATCH: the loss differs by more than {TOLERANCE} at the steps {failed}")
    print(f"The losses of all {args.steps} steps agree.")


if __name__ == "__main__":
    main()
