//! One step of a graph: an operation of tests/golden/graphs.py as the engine's method. A new
//! method of `Tensor` gets an arm here, an entry in `OPS` there and its cases in make_tensor.py.

use super::{Run, dtype, number, overwrite, usizes};
use serde_json::Value;
use starling_engine::{AttentionOptions, Definition, Device, Result, Tensor, WeightLayout};
use std::sync::Arc;

/// A step's options by name.
struct Options<'a>(&'a Value);

impl Options<'_> {
    fn size(&self, key: &str) -> usize {
        self.0[key].as_u64().unwrap_or_else(|| panic!("{key} is no size")) as usize
    }

    fn sizes(&self, key: &str) -> Vec<usize> {
        usizes(&self.0[key])
    }

    fn signed(&self, key: &str) -> isize {
        self.0[key].as_i64().unwrap_or_else(|| panic!("{key} is no integer")) as isize
    }

    fn axes(&self) -> Vec<isize> {
        let axes = self.0["axes"].as_array().expect("axes");
        axes.iter().map(|a| a.as_i64().expect("an axis") as isize).collect()
    }

    fn number(&self, key: &str) -> f64 {
        number(&self.0[key])
    }

    fn is(&self, key: &str) -> bool {
        self.0[key].as_bool().unwrap_or(false)
    }

    fn values(&self) -> Vec<f64> {
        let values = self.0["values"].as_array().map_or(&[][..], Vec::as_slice);
        values.iter().map(number).collect()
    }

    fn given(&self, name: &str) -> bool {
        self.0["given"].as_array().is_some_and(|all| all.iter().any(|x| x == name))
    }

    // An option that the table does not know yet keeps its default.
    #[allow(clippy::needless_update)]
    fn attention(&self, mask: Option<&Tensor>) -> AttentionOptions {
        AttentionOptions {
            causal: self.is("causal"),
            scale: self.0["scale"].as_f64().map(|x| x as f32),
            mask: mask.cloned(),
            ..Default::default()
        }
    }
}

impl Run<'_> {
    /// Runs one step; its results become nodes.
    pub fn step(&mut self, step: &Value) -> Result<()> {
        let name = step[0].as_str().expect("an operation");
        let at = usizes(&step[1]);
        let x: Vec<Tensor> = at.iter().map(|&i| self.nodes[i].clone()).collect();
        let x: Vec<&Tensor> = x.iter().collect();
        let options = Options(&step[2]);
        if self.act(name, &at, &options)? {
            return Ok(());
        }
        let results = match name {
            "split" => x[0].split(options.size("axis"), &options.sizes("lengths"))?,
            "chunk" => x[0].chunk(options.size("axis"), options.size("parts"))?,
            "unbind" => x[0].unbind(options.size("axis"))?,
            _ => vec![self.operation(name, &x, &options)?],
        };
        self.nodes.extend(results);
        Ok(())
    }

    /// Steps that write, or move gradients; false for any other.
    fn act(&mut self, name: &str, at: &[usize], options: &Options<'_>) -> Result<bool> {
        let node = |i: usize| &self.nodes[at[i]];
        match name {
            "copy_from_slice" => {
                overwrite(node(0), options.0["data"].as_array().expect("numbers"))?;
            }
            "slice_assign" => {
                node(0).slice_assign(options.size("axis"), options.size("start"), node(1))?;
            }
            "backward" => node(0).backward()?,
            "backward_with" => node(0).backward_with(node(1))?,
            "set_grad" => node(0).set_grad(Some(node(1).clone()))?,
            "zero_grad" => node(0).zero_grad(),
            "grad" => {
                let gradient = node(0).grad().expect("a gradient");
                self.nodes.push(gradient);
            }
            "look" => {
                super::download(node(0))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn operation(&self, name: &str, x: &[&Tensor], o: &Options<'_>) -> Result<Tensor> {
        let (axis, keep) = (|| o.signed("axis"), o.is("keep"));
        let d = self.device;
        match name {
            "sum" => x[0].sum(&o.axes(), keep),
            "mean" => x[0].mean(&o.axes(), keep),
            "max" => x[0].max(&o.axes(), keep),
            "min" => x[0].min(&o.axes(), keep),
            "var" => x[0].var(&o.axes(), o.size("correction") as u32, keep),
            "argmax" => x[0].argmax(axis(), keep),
            "argmin" => x[0].argmin(axis(), keep),
            "sum_all" => x[0].sum_all(),
            "mean_all" => x[0].mean_all(),
            "add_scalar" => x[0].add_scalar(o.number("value")),
            "sub_scalar" => x[0].sub_scalar(o.number("value")),
            "mul_scalar" => x[0].mul_scalar(o.number("value")),
            "div_scalar" => x[0].div_scalar(o.number("value")),
            "pow_scalar" => x[0].pow_scalar(o.number("value")),
            "masked_fill" => x[0].masked_fill(x[1], o.number("value")),
            "full" => Tensor::full(d, dtype(&o.0["dtype"]), &o.sizes("shape"), o.number("value")),
            "zeros" => Tensor::zeros(d, dtype(&o.0["dtype"]), &o.sizes("shape")),
            "ones" => Tensor::ones(d, dtype(&o.0["dtype"]), &o.sizes("shape")),
            "zeros_like" => x[0].zeros_like(),
            "arange" => Tensor::arange(d, o.size("n")),
            "detach" => Ok(x[0].detach()),
            "to_device" => {
                let other = Arc::new(starling_reference::ReferenceBackend::new());
                x[0].to_device(&Device::from_backend(other)?)?.to_device(d)
            }
            "gather" => x[0].gather(o.size("axis"), x[1]),
            "embedding" => x[0].embedding(x[1]),
            "scatter_add" => x[0].scatter_add(o.size("axis"), x[1], x[2]),
            _ => self.view(name, x, o).unwrap_or_else(|| self.block(name, x, o)),
        }
    }

    fn view(&self, name: &str, x: &[&Tensor], o: &Options<'_>) -> Option<Result<Tensor>> {
        let (axis, start, len) = (|| o.size("axis"), || o.size("start"), || o.size("len"));
        Some(match name {
            "reshape" => x[0].reshape(&o.sizes("shape")),
            "permute" => x[0].permute(&o.sizes("axes")),
            "transpose" => x[0].transpose(o.signed("a"), o.signed("b")),
            "narrow" => x[0].narrow(axis(), start(), len()),
            "slice" => x[0].slice(axis(), start(), len(), o.signed("step")),
            "broadcast_to" => x[0].broadcast_to(&o.sizes("shape")),
            "unsqueeze" => x[0].unsqueeze(axis()),
            "squeeze" => x[0].squeeze(axis()),
            "flatten" => x[0].flatten(),
            "contiguous" => x[0].contiguous(),
            "to_dtype" => x[0].to_dtype(dtype(&o.0["dtype"])),
            "cat" => Tensor::cat(x, axis()),
            "stack" => Tensor::stack(x, axis()),
            _ => return None,
        })
    }

    /// Rows, products, attention; what is left is a definition's name.
    fn block(&self, name: &str, x: &[&Tensor], o: &Options<'_>) -> Result<Tensor> {
        let ignored = o.0["ignore_index"].as_i64();
        let weight = o.given("weight").then(|| x[1]);
        let bias = o.given("bias").then(|| x[x.len() - 1]);
        match name {
            "softmax" => x[0].softmax(o.signed("axis")),
            "log_softmax" => x[0].log_softmax(o.signed("axis")),
            "layer_norm" => x[0].layer_norm(weight, bias, o.number("eps")),
            "rms_norm" => x[0].rms_norm(weight, o.number("eps")),
            "cross_entropy_rows" => x[0].cross_entropy_rows(x[1], ignored),
            "cross_entropy" => x[0].cross_entropy(x[1], ignored),
            "matmul" => x[0].matmul(x[1]),
            "linear" => {
                let layout = match o.0["layout"].as_str() {
                    Some("out_in") => WeightLayout::OutIn,
                    _ => WeightLayout::InOut,
                };
                let activation = o.0["activation"].as_str();
                let activation = activation.map(|a| Definition::find(a).expect("a definition"));
                x[0].linear(x[1], x.get(2).copied(), layout, activation)
            }
            "attention" => x[0].attention(x[1], x[2], &o.attention(x.get(3).copied())),
            "attention_packed" => {
                let (heads, kv_heads) = (o.size("heads"), o.size("kv_heads"));
                x[0].attention_packed(heads, kv_heads, &o.attention(x.get(1).copied()))
            }
            "apply" => {
                let name = o.0["definition"].as_str().unwrap_or("");
                let def = Definition::find(name).expect("a definition");
                Tensor::apply(def, x, &o.values())
            }
            _ => definition(name, x, &o.values()),
        }
    }
}

macro_rules! definitions {
    ($({
        [$($doc:literal)*] $name:ident $ty:ident ($first:ident $(, $x:ident)*) ($($s:ident),*)
    })*) => {
        /// The method of an elementwise definition.
        fn definition(name: &str, x: &[&Tensor], values: &[f64]) -> Result<Tensor> {
            match name {
                $(stringify!($name) => {
                    let [$first $(, $x)*] = *x else { panic!("operands of {name}") };
                    let [$($s),*] = *values else { panic!("values of {name}") };
                    $first.$name($($x,)* $($s),*)
                })*
                _ => panic!("no step is called {name}"),
            }
        }
    };
}

starling_ops::for_each_method!(definitions);
