"""Do Starling and Hugging Face transformers compute the same model?

    check_transformers.py RUN_DIR STARLING_BINARY TEXT_FILE

RUN_DIR is a folder that Starling wrote: config.json and model.safetensors in the gpt2 layout. The
evaluation loss on TEXT_FILE and the logits of its first bytes are compared; then the same for a
random tiny GPT-2 that transformers itself wrote. Tokens are bytes. Exits with 1 on a mismatch.
Needs: torch, transformers, safetensors.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

TOLERANCE = 1e-4
WINDOWS_AT_ONCE = 32


class Mismatch(Exception):
    """What differs, in words."""


def tokens_of(path):
    data = Path(path).read_bytes()
    if len(data) < 2:
        raise Mismatch(f"{path}: at least two bytes are needed, {len(data)} found")
    return torch.tensor(list(data))


def open_model(folder):
    model, found = GPT2LMHeadModel.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    # The output layer is tied to the embedding, so its absence is right; nothing else may lack.
    missing = set(found["missing_keys"]) - {"lm_head.weight"}
    unexpected = set(found["unexpected_keys"])
    if missing or unexpected or found["mismatched_keys"]:
        raise Mismatch(
            f"{folder}: tensors missing {sorted(missing)}, unexpected {sorted(unexpected)}, "
            f"of another shape {found['mismatched_keys']}"
        )
    return model.eval()


@torch.no_grad()
def evaluation_loss(model, tokens):
    """The mean loss of every token but the first, each predicted once.

    Window i feeds the tokens [i*C, i*C + C) and predicts [i*C + 1, i*C + C], where C is the
    model's context; the last window may be shorter.
    """
    context = model.config.n_positions
    inputs, targets = tokens[:-1], tokens[1:]
    full = len(inputs) // context * context
    batches = list(
        zip(
            inputs[:full].view(-1, context).split(WINDOWS_AT_ONCE),
            targets[:full].view(-1, context).split(WINDOWS_AT_ONCE),
        )
    )
    if full < len(inputs):
        batches.append((inputs[None, full:], targets[None, full:]))
    total = 0.0
    for x, y in batches:
        losses = F.cross_entropy(model(x).logits.flatten(0, 1), y.flatten(), reduction="none")
        total += losses.double().sum().item()
    return total / len(targets)


def starling(binary, *args):
    command = [str(binary), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Mismatch(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr}")
    return done.stdout


def check_loss(model, folder, binary, text):
    tokens = tokens_of(text)
    expected = evaluation_loss(model, tokens)
    output = starling(binary, "eval", "--run", folder, "--text", text, "--json")
    try:
        report = json.loads(output)
        loss, perplexity, count = (report[key] for key in ("loss", "perplexity", "tokens"))
    except (ValueError, KeyError, TypeError) as error:
        raise Mismatch(f"eval --json printed something else ({error!r}):\n{output}") from error
    difference = abs(loss - expected)
    print(f"  loss: transformers {expected:.6f}, Starling {loss:.6f}, difference {difference:.1e}")
    if not difference <= TOLERANCE:
        raise Mismatch(f"the losses differ by {difference:.3e}; allowed is {TOLERANCE}")
    if count != len(tokens) - 1:
        raise Mismatch(f"{count} tokens were predicted; a file of {len(tokens)} has one fewer")
    if not math.isclose(perplexity, math.exp(loss), rel_tol=1e-5):
        raise Mismatch(f"perplexity {perplexity} is not exp(loss) = {math.exp(loss)}")


@torch.no_grad()
def check_logits(model, folder, binary, text, scratch):
    tokens = tokens_of(text)[: model.config.n_positions]
    expected = model.double()(tokens[None]).logits[0]
    out = scratch / "logits.safetensors"
    args = ["--run", folder, "--text", text, "--tokens", len(tokens), "--out", out]
    starling(binary, "logits", *args)
    tensors = load_file(out)
    if "logits" not in tensors or tensors["logits"].shape != expected.shape:
        found = {name: list(x.shape) for name, x in tensors.items()}
        raise Mismatch(f"expected logits of shape {list(expected.shape)}; the file has {found}")
    difference = (tensors["logits"].double() - expected).abs().max().item()
    print(f"  logits {list(expected.shape)}: largest difference {difference:.1e}")
    if not difference <= TOLERANCE:
        raise Mismatch(f"the logits differ by up to {difference:.3e}; allowed is {TOLERANCE}")


def check(folder, binary, text, scratch):
    model = open_model(folder)
    check_loss(model, folder, binary, text)
    check_logits(model, folder, binary, text, scratch)


def write_tiny_gpt2(folder):
    """A random model, every tensor of which matters: biases too are random, not zero."""
    torch.manual_seed(7)
    config = GPT2Config(
        vocab_size=256,
        n_positions=64,
        n_embd=48,
        n_layer=3,
        n_head=4,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, x in model.named_parameters():
            center = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            x.normal_(center, 0.2)
    model.save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", metavar="RUN_DIR", type=Path)
    parser.add_argument("binary", metavar="STARLING_BINARY", type=Path)
    parser.add_argument("text", metavar="TEXT_FILE", type=Path)
    args = parser.parse_args()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        tiny = scratch / "tiny-gpt2"
        write_tiny_gpt2(tiny)
        try:
            for title, folder in ((f"{args.run} (by Starling)", args.run), ("tiny GPT-2", tiny)):
                print(title)
                check(folder, args.binary.resolve(), args.text, scratch)
        except Mismatch as mismatch:
            sys.exit(f"MISMATCH: {mismatch}")
    print("Starling and transformers agree.")


if __name__ == "__main__":
    main()
