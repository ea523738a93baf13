"""Draws random graphs: operations, views, dtypes, in-place writes; a line each, by seed.

`make_graphs.py FIRST COUNT FILE` writes the graphs of the seeds FIRST .. FIRST + COUNT - 1. Each
depends on its seed alone. A draw whose result hangs on a rounding is drawn again.
"""

import math
import random
import sys
from pathlib import Path

import torch

from graphs import Run, Unstable, finish, line, sane, tensor

UNARY = "neg abs sqr tanh sigmoid erf relu gelu gelu_tanh silu mish softplus sin cos hardswish".split()
HELD = {"exp": (-8, 4), "expm1": (-8, 4), "sqrt": (0.05, 1e3), "rsqrt": (0.05, 1e3),
        "log": (0.05, 1e3), "log1p": (-0.5, 1e3), "reciprocal": (0.1, 1e3)}  # fmt: skip
VALUED = {"leaky_relu": [0.25], "elu": [1], "clamp": [-1.25, 1.5]}
BINARY = "add sub mul maximum minimum swiglu squared_error absolute_error".split()
COMPARISONS = "lt le eq gt ge ne".split()
LARGEST = 96
# A bound may be this part of a tensor's largest value: more would let wrong numbers pass.
LOOSEST = {"f32": 2e-3, "f16": 0.1, "bf16": 0.3}


class Draw:
    """A graph that grows step by step; PyTorch says whether a step is possible."""

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.dims = [self.draw.randint(1, 5), self.draw.randint(2, 6)]
        self.steps, self.unused, self.final = [], set(), set()
        narrow = self.draw.choice(["bf16", "f16", "bf16"])
        self.mix = self.draw.choice([["f32"]] * 5 + [[narrow], ["f32", narrow]])
        self.inputs = self.make_inputs()
        self.run = Run({"inputs": self.inputs, "steps": []})
        self.unused = set(range(len(self.inputs)))

    def make_inputs(self):
        draw, (a, b) = self.draw, self.dims
        shapes = [[a, b], [b], [a, 1], [b, b], [1, a, b], [a, b]]
        found = []
        for _ in range(draw.randint(2, 4)):
            dtype = draw.choice(self.mix)
            scale = 16 if dtype == "f32" else 4
            grad = draw.random() < 0.8
            found.append(tensor(draw, *draw.choice(shapes), dtype=dtype, grad=grad, scale=scale))
        found[0] |= {"grad": True}
        if draw.random() < 0.5:
            buffer = tensor(draw, *draw.choice(shapes[:2]), grad=False)
            self.buffer = len(found)
            found.append(buffer)
            found.append(tensor(draw, *buffer["shape"], grad=False))
        else:
            self.buffer = None
        if draw.random() < 0.4:
            shape = draw.choice([[a, b], [b], [2, b]])
            data = [draw.randrange(min(a, b)) for _ in range(math.prod(shape))]
            found.append({"dtype": draw.choice(["i32", "u32"]), "shape": shape, "data": data})
        return found

    def nodes(self, *dtypes):
        return [i for i, d in enumerate(self.run.dtypes) if d in dtypes and i not in self.final]

    def pick(self, among):
        """A node, rather one that nothing has read yet."""
        among = [i for i in among if i not in self.final]
        if not among:
            raise IndexError
        fresh = [i for i in among if i in self.unused]
        return self.draw.choice(fresh if fresh and self.draw.random() < 0.6 else among)

    def float(self, dtype=None):
        return self.pick(self.nodes(dtype) if dtype else self.nodes("f32", "f16", "bf16"))

    def shape(self, i):
        return list(self.run.at(i).shape)

    def axis(self, i):
        return self.draw.randrange(self.run.at(i).dim())

    def aliases(self, i):
        """True when writing the buffer shows in node `i`."""
        at = lambda j: self.run.at(j).untyped_storage().data_ptr()  # noqa: E731
        return self.buffer is not None and at(i) == at(self.buffer)

    def try_step(self, step):
        name, nodes, *_ = step
        before = len(self.run.nodes)
        self.run.step(*step)
        fresh = self.run.nodes[before:]
        large = any(t.numel() > LARGEST or not sane(t) or t.dim() > 5 for t in fresh)
        small = any(t.is_floating_point() and t.numel() and t.abs().max() > 500 for t in fresh)
        if large or small:
            del self.run.nodes[before:], self.run.dtypes[before:]
            return
        self.steps.append(step)
        self.unused -= set(nodes)
        self.unused |= set(range(before, len(self.run.nodes)))
        narrow = name in ("sum", "mean", "max", "min", "var", "sum_all", "mean_all")
        if narrow and self.run.dtypes[nodes[0]] != "f32":
            # Its type is the reduction's business; nothing here builds on it.
            self.final.add(before)

    def grow(self):
        kinds = [self.unary] * 4 + [self.binary] * 5 + [self.view] * 5 + [self.reduce] * 3
        kinds += [self.rows] * 2 + [self.product] * 2 + [self.join, self.choose, self.choose]
        kinds += [self.index, self.cast, self.integers, self.rare]
        kinds += [self.write] * 4 if self.buffer is not None else []
        for _ in range(self.draw.randint(6, 22)):
            try:
                step = self.draw.choice(kinds)()
                if step:
                    self.try_step(step)
            except (IndexError, RuntimeError, ValueError, Unstable):
                continue

    # Steps ---------------------------------------------------------------------------------------

    def unary(self):
        x = self.float()
        t = self.run.at(x).detach()
        held = [n for n, (low, high) in HELD.items() if t.numel() and t.min() >= low and t.max() <= high]
        name = self.draw.choice(UNARY + held + list(VALUED) + ["scalar"] * 3)
        if name == "scalar":
            value = self.draw.choice([0.5, -1.5, 2, 3])
            name = self.draw.choice(["add", "sub", "mul", "div"]) + "_scalar"
            return [name, [x], {"value": value}]
        return [name, [x], {"values": VALUED[name]}] if name in VALUED else [name, [x]]

    def binary(self):
        x = self.float()
        y = self.float(self.run.dtypes[x])
        divides = self.run.at(y).numel() and self.run.at(y).detach().abs().min() > 0.2
        name = self.draw.choice(BINARY + ["div"] * (3 if divides else 0))
        if self.draw.random() < 0.1:
            return ["fma", [x, y, self.float(self.run.dtypes[x])]]
        return [name, [x, y]]

    def view(self):
        x = self.pick(range(len(self.run.nodes)))
        shape, draw = self.shape(x), self.draw
        name = draw.choice("reshape permute transpose narrow slice slice broadcast_to unsqueeze "
                           "squeeze flatten contiguous detach".split())  # fmt: skip
        if name == "reshape":
            n = math.prod(shape)
            first = draw.choice([d for d in range(1, n + 1) if n % d == 0]) if n else 0
            return [name, [x], {"shape": [first, n // first] if n else shape}]
        if name == "permute":
            return [name, [x], {"axes": draw.sample(range(len(shape)), len(shape))}]
        if name == "transpose":
            return [name, [x], {"a": self.axis(x), "b": -1 - self.axis(x)}]
        if name in ("narrow", "slice"):
            axis = self.axis(x)
            size = shape[axis]
            start = draw.randrange(size)
            if name == "narrow":
                return [name, [x], {"axis": axis, "start": start, "len": draw.randint(1, size - start)}]
            step = draw.choice([1, 2] if self.aliases(x) else [1, 2, -1, -2])
            room = (size - 1 - start) // step if step > 0 else start // -step
            options = {"axis": axis, "start": start, "len": draw.randint(1, room + 1), "step": step}
            return [name, [x], options]
        if name == "broadcast_to":
            wide = [draw.randint(2, 3) if n == 1 else n for n in shape]
            return [name, [x], {"shape": [draw.randint(1, 3)] * draw.randint(0, 1) + wide}]
        if name == "unsqueeze":
            return [name, [x], {"axis": draw.randint(0, len(shape))}]
        if name == "squeeze":
            return [name, [x], {"axis": shape.index(1)}]
        if name == "detach" and (draw.random() < 0.7 or len(self.steps) > 6):
            return None
        return [name, [x]]

    def reduce(self):
        x, draw = self.float(), self.draw
        rank = len(self.shape(x))
        axes = draw.sample(range(-rank, 0), draw.randint(1, rank))
        name = draw.choice(["sum", "mean", "max", "min", "var", "sum_all", "mean_all"])
        if name.endswith("all"):
            return [name, [x]] if draw.random() < 0.3 else None
        options = {"axes": axes, "keep": draw.random() < 0.5}
        if name == "var":
            if math.prod(self.shape(x)[a] for a in axes) < 2:
                # Its gradient is what rounding leaves of nothing.
                return None
            options["correction"] = draw.randint(0, 1)
        return [name, [x], options]

    def rows(self):
        x, draw = self.float("f32"), self.draw
        name = draw.choice(["softmax", "log_softmax", "layer_norm", "rms_norm", "cross_entropy"])
        if name.endswith("softmax"):
            return [name, [x], {"axis": draw.choice([-1, self.axis(x)])}]
        if name == "cross_entropy":
            classes = self.shape(x)[-1]
            fits = [i for i in self.nodes("i32", "u32") if self.shape(i) == self.shape(x)[:-1]
                    and self.run.at(i).numel() and self.run.at(i).max() < classes and self.run.at(i).min() >= 0]  # fmt: skip
            i = self.pick(fits)
            ignored = {"ignore_index": int(self.run.at(i).flatten()[0])}
            return [draw.choice([name, "cross_entropy_rows"]), [x, i], ignored if draw.random() < 0.5 else {}]
        t = self.run.at(x).detach()
        if name == "layer_norm" and (t.shape[-1] < 2 or t.var(-1).min() < 1e-2):
            return None
        if name == "rms_norm" and t.square().mean(-1).min() < 1e-2:
            return None
        weights = [i for i in self.nodes("f32") if self.shape(i) == [t.shape[-1]]]
        parts = [p for p in ["weight", "bias"][: 2 if name == "layer_norm" else 1] if weights and draw.random() < 0.6]
        options = {"eps": 1e-5} | ({"given": parts} if parts else {})
        return [name, [x, *(self.pick(weights) for _ in parts)], options]

    def product(self):
        x, draw = self.float("f32"), self.draw
        fits = [i for i in self.nodes("f32") if self.shape(i) and self.shape(i)[0] == self.shape(x)[-1]]
        y = self.pick(fits)
        flat = len(self.shape(y)) == 2 and len(self.shape(x)) >= 2
        if flat and draw.random() < 0.5:
            bias = [i for i in self.nodes("f32") if self.shape(i) == self.shape(y)[1:]]
            options = {"layout": "in_out"}
            options |= {"activation": draw.choice(["gelu", "silu", "tanh"])} if draw.random() < 0.5 else {}
            return ["linear", [x, y] + ([self.pick(bias)] if bias else []), options]
        return ["matmul", [x, y]]

    def join(self):
        x = self.pick(range(len(self.run.nodes)))
        same = [i for i in self.nodes(self.run.dtypes[x]) if len(self.shape(i)) == len(self.shape(x))]
        others = [self.pick(same) for _ in range(self.draw.randint(1, 2))]
        return [self.draw.choice(["cat", "cat", "stack"]), [x, *others], {"axis": self.axis(x)}]

    def choose(self):
        x, draw = self.float(), self.draw
        dtype = self.run.dtypes[x]
        masks = [i for i in self.nodes("u8")]
        if not masks or draw.random() < 0.4:
            return [draw.choice(COMPARISONS), [x, self.float(dtype)]]
        mask = self.pick(masks)
        if draw.random() < 0.5:
            return ["masked_fill", [x, mask], {"value": draw.choice([0, -2, 1.5])}]
        return ["select", [mask, x, self.float(dtype)]]

    def index(self):
        indices, draw = self.nodes("i32", "u32"), self.draw
        i, x = self.pick(indices), self.pick(self.nodes("f32", "f32", "i32"))
        if draw.random() < 0.4:
            # A scalar has no rows; PyTorch takes it for one.
            return ["embedding", [x, i]] if self.shape(x) else None
        if draw.random() < 0.3 and self.run.dtypes[x] == "f32":
            source, axis = self.float("f32"), self.axis(x)
            # The engine adds along one axis only; PyTorch also to a part along the others.
            others = lambda i: self.shape(i)[:axis] + self.shape(i)[axis + 1 :]  # noqa: E731
            if self.shape(source) != self.shape(i) or others(i) != others(x):
                return None
            return ["scatter_add", [x, i, source], {"axis": axis}]
        axis = self.axis(x)
        if len(self.shape(i)) != len(self.shape(x)):
            return None
        if any(n > m for k, (n, m) in enumerate(zip(self.shape(i), self.shape(x))) if k != axis):
            return None
        return ["gather", [x, i], {"axis": axis}]

    def cast(self):
        x = self.pick(self.nodes("f32", "f16", "bf16", "u8"))
        return ["to_dtype", [x], {"dtype": self.draw.choice(["f32", "f32", *self.mix])}]

    def integers(self):
        x = self.float()
        name = self.draw.choice(["argmax", "argmin", "to_dtype", "round"])
        if name == "to_dtype":
            return [name, [x], {"dtype": "i32"}]
        if name == "round":
            return [name, [x]]
        return [name, [x], {"axis": self.axis(x), "keep": self.draw.random() < 0.5}]

    def rare(self):
        shape, dtype = self.draw.choice([[], [self.dims[1]]]), self.draw.choice(self.mix)
        return ["full", [], {"shape": shape, "dtype": dtype, "value": self.draw.choice([0.5, -1, 3])}]

    def write(self):
        """Into the buffer: from the host, or a part of it from another value."""
        draw, x = self.draw, self.buffer
        shape = self.shape(x)
        if draw.random() < 0.5:
            data = tensor(draw, *shape)["data"]
            return ["copy_from_slice", [x], {"data": data}]
        axis = self.axis(x)
        fits = lambda s: len(s) == len(shape) and all(  # noqa: E731
            n == m or (k == axis and n <= m) for k, (n, m) in enumerate(zip(s, shape)))  # fmt: skip
        sources = [i for i in self.nodes("f32") if fits(self.shape(i)) and not self.aliases(i)
                   and not self.run.at(i).requires_grad]  # fmt: skip
        source = self.pick(sources)
        start = draw.randint(0, shape[axis] - self.shape(source)[axis])
        return ["slice_assign", [x, source], {"axis": axis, "start": start}]

    def graph(self):
        return {"inputs": self.inputs, "steps": self.steps, "outputs": sorted(self.outputs())}

    def outputs(self):
        made = [i for i in self.unused if i >= len(self.inputs)]
        return set(made[-6:]) | ({self.buffer} if self.buffer is not None else set())


def tight(golden, narrowest):
    """True when no bound is so wide that a wrong number could hide in it."""
    for x in golden["values"] + golden["gradients"]:
        if x is None or "bound" not in x or not x["data"]:
            continue
        if any(isinstance(v, str) for v in x["data"]):
            return False
        largest = max(0.25, max(abs(v) for v in x["data"]))
        if max(x["bound"]) > LOOSEST[narrowest] * largest:
            return False
    return any(x is not None and any(x["data"]) for x in golden["gradients"])


def graph_of(seed):
    """The first draw for this seed that rounding does not decide."""
    for attempt in range(200):
        drawn = Draw(f"{seed} {attempt}")
        drawn.grow()
        if len(drawn.steps) < 3:
            continue
        try:
            golden = finish(drawn.graph())
        except (Unstable, RuntimeError, IndexError):
            # Also an index that a rounding error moves out of its table.
            continue
        narrowest = next((d for d in ("bf16", "f16") if d in drawn.mix), "f32")
        if tight(golden, narrowest):
            return {"seed": seed} | golden
    raise SystemExit(f"seed {seed}: no stable graph")


def main():
    first, count, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    with path.open("w", encoding="utf-8") as file:
        for seed in range(first, first + count):
            file.write(line(graph_of(seed)) + "\n")


if __name__ == "__main__":
    main()
