"""Writes optimizers.json: runs of the real torch optimizers in float64, and learning-rate schedules.

A run trains three small parameters, and computes with a frozen one, for 20 steps on a loss whose
gradients follow from formulas that engine/tests/optimizers.rs has too.
"""

import json
from pathlib import Path

import torch
from torch.optim import lr_scheduler

from make_elementwise import plain

torch.set_default_dtype(torch.float64)
SHAPES = {"w": [3, 4], "b": [4], "e": [2, 2], "frozen": [4]}
STEPS, SHOWN = 20, (1, 2, 3, 10, 20)
ADAM = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8}


# Schedules ---------------------------------------------------------------------------------------


def rates(schedule, steps):
    """The rate of each step from 1: LinearLR until the peak, then CosineAnnealingLR or ConstantLR."""
    peak, warmup, last = (schedule[key] for key in ("peak", "warmup", "last"))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    after = (
        lr_scheduler.CosineAnnealingLR(optimizer, max(steps - warmup, 1), eta_min=last)
        if schedule["name"] == "cosine"
        else lr_scheduler.ConstantLR(optimizer, 1)
    )
    scheduler = after
    if warmup > 1:
        rise = lr_scheduler.LinearLR(optimizer, 1 / warmup, 1, total_iters=warmup - 1)
        scheduler = lr_scheduler.SequentialLR(optimizer, [rise, after], [warmup - 1])
    # Without a warm-up the first step is already one step down.
    seen = []
    for _ in range(steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen[1:] if warmup == 0 else seen[:steps]


def schedules():
    for name in ("constant", "cosine"):
        for peak, warmup, last, steps in [
            (2.0, 10, 0.25, 30), (1e-3, 0, 0.0, 12), (0.5, 1, 0.125, 9), (6e-4, 2, 6e-5, 20),
            (1.0, 7, 0.5, 7), (0.75, 12, 0.0, 8),
        ]:  # fmt: skip
            schedule = {"name": name, "peak": peak, "warmup": warmup, "last": last}
            yield {"schedule": schedule, "steps": steps, "rates": rates(schedule, steps)}


# Optimizers --------------------------------------------------------------------------------------


def start(k, n):
    """The first values of parameter `k`."""
    return [((i * 5 + k * 3 + 3) % 11 - 5) / 4 for i in range(n)]


def pull(k, n, step):
    """What drags at parameter `k` in a step."""
    return [((i * 7 + step * 13 + k * 5) % 17 - 8) / 8 for i in range(n)]


def make(rule, parameters, groups):
    """torch's optimizer, its groups at their share of a rate of 1."""
    rule = dict(rule)
    name = rule.pop("name")
    rule.pop("weight_decay")
    if name != "sgd":
        rule["betas"] = (rule.pop("beta1"), rule.pop("beta2"))
    torch_class = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    every = [
        {"params": [parameters[n] for n in g["names"]], "lr": g["rate"], "weight_decay": g["decay"]}
        for g in groups
    ]
    return torch_class(every, **rule)


def run(title, rule, groups, schedule, clip=None, lacking=None):
    p = {}
    for k, (name, shape) in enumerate(SHAPES.items()):
        values = start(k, torch.Size(shape).numel())
        p[name] = torch.tensor(values).reshape(shape).requires_grad_(name != "frozen")
    optimizer = make(rule, p, groups)
    trained = [p[n] for g in groups for n in g["names"]]
    rate, shown = rates(schedule, STEPS), []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss = (p["w"] * p["frozen"]).sum() / 2
        for k, name in enumerate(SHAPES):
            if name == "frozen" or (name == lacking and step % 3 == 0):
                continue
            pulled = torch.tensor(pull(k, p[name].numel(), step)).reshape(p[name].shape)
            loss = loss + (p[name] * pulled).sum() + 0.05 * (p[name] * p[name]).sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, clip or float("inf"))
        for group, own in zip(optimizer.param_groups, groups):
            group["lr"] = rate[step - 1] * own["rate"]
        optimizer.step()
        if step in SHOWN:
            values = {name: x.detach().flatten().tolist() for name, x in p.items()}
            shown.append({"step": step, "loss": loss.item(), "norm": norm.item()} | values)
    names = {"exp_avg": "mean", "exp_avg_sq": "var", "momentum_buffer": "momentum"}
    memory = {
        f"{names[kind]}.{name}": x.flatten().tolist()
        for name in SHAPES
        for kind, x in optimizer.state.get(p[name], {}).items()
        if kind in names and x is not None
    }
    config = {"title": title, "rule": rule, "groups": groups, "schedule": schedule, "clip": clip}
    return config | {"lacking": lacking, "shown": shown, "memory": memory}


def group(names, rate=1.0, decay=0.0):
    return {"names": names.split(), "rate": rate, "decay": decay}


def runs():
    constant = {"name": "constant", "peak": 0.0625, "warmup": 0, "last": 0.0}
    cosine = {"name": "cosine", "peak": 0.125, "warmup": 5, "last": 0.0125}
    several = [group("w", 1, 0.1), group("b", 0.5), group("e", 2, 0.3)]
    # What Optimizer::new makes: matrices decay, the rest does not.
    usual = [group("w e", 1, 0.1), group("b")]
    adamw, adam = ({"name": n} | ADAM | {"weight_decay": 0.1} for n in ("adamw", "adam"))
    sgd = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}
    yield run("AdamW, matrices decay", adamw, usual, constant)
    yield run("AdamW, groups, clipped, cosine", adamw, several, cosine, clip=1.0)
    yield run("AdamW, never clipped", adamw, usual, cosine, clip=1e3)
    yield run("Adam, groups, clipped", adam, several, cosine, clip=2.0)
    yield run("Adam without memory", adam | {"beta1": 0.0, "beta2": 0.0, "eps": 0.5}, usual, constant)
    yield run("SGD, groups, clipped", sgd, several, cosine, clip=1.5)
    yield run("SGD without momentum", sgd | {"momentum": 0.0}, usual, constant)
    yield run("SGD, b often lacks a gradient", sgd, several, constant, clip=1.0, lacking="b")


def main():
    lines = lambda rows: ",\n".join(json.dumps(plain(r), allow_nan=False) for r in rows)  # noqa: E731
    version = torch.__version__.split("+")[0]
    text = f'{{"torch": "{version}",\n "schedules": [\n{lines(schedules())}\n],\n'
    text += f' "runs": [\n{lines(runs())}\n]}}\n'
    Path(__file__).with_name("optimizers.json").write_text(text, encoding="utf-8")
    print(len(text), "bytes")


if __name__ == "__main__":
    main()
