//! Every shader that the table of cases needs, in every variant, is valid WGSL and translates to
//! SPIR-V, MSL and HLSL. No device is needed.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use starling_conformance::{Tier, cases};
use starling_contract::{HostStorage, Storage, Verb, View};
use starling_ops::wgsl::Fma;
use starling_webgpu::plan::{Scope, shaders, supports, workspace_bytes};
use starling_webgpu::{Limits, Variant};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// The browser's baseline.
const BASELINE: Limits = Limits {
    slots: 8,
    binding_bytes: 128 << 20,
    buffer_bytes: 256 << 20,
    workgroup_bytes: 16 << 10,
    invocations: 256,
    lanes: 1,
    matrix: 0,
};

fn memory(bytes: usize) -> starling_contract::Result<Arc<dyn Storage>> {
    Ok(HostStorage::new(bytes)?)
}

/// The texts of a variant's shaders by their keys.
fn texts(variant: Variant, software: bool, matrix: usize) -> HashMap<String, String> {
    let limits = Limits {
        lanes: if variant.subgroups { 8 } else { 1 },
        workgroup_bytes: if variant.matrix { 32 << 10 } else { BASELINE.workgroup_bytes },
        matrix,
        ..BASELINE
    };
    let faults = View::contiguous(memory(16).unwrap(), starling_contract::DType::U32, &[4]);
    let (limits, turns) = (&limits, usize::MAX);
    let scope = Scope { limits, variant, software, turns, alloc: &memory, faults: &faults };
    let mut found = HashMap::new();
    for case in cases(Tier::Quick) {
        let problem = case.problem();
        let mut verb: Verb = problem.over(&problem.on_host().unwrap());
        if supports(&verb) != starling_contract::Support::Native {
            continue;
        }
        let bytes = workspace_bytes(&verb);
        if let (true, Some(slot)) = (bytes > 0, verb.workspace_mut()) {
            let storage = memory(bytes).unwrap();
            *slot = Some(View::contiguous(storage, starling_contract::DType::U8, &[bytes]));
        }
        let fma = if software { Fma::Separate } else { Fma::Fused };
        found.extend(shaders(&verb, scope, fma).unwrap());
    }
    found
}

fn validate(text: &str, abilities: Capabilities) -> Result<(naga::Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let info = Validator::new(ValidationFlags::all(), abilities)
        .validate(&module)
        .map_err(|e| e.emit_to_string(text))?;
    Ok((module, info))
}

/// Writes the module in the three languages that drivers take.
fn translate(module: &naga::Module, info: &ModuleInfo, newer: bool) -> Result<(), String> {
    let words = spv::write_vec(module, info, &spv::Options::default(), None);
    words.map_err(|e| format!("SPIR-V: {e}"))?;
    let options =
        msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    let pipeline = msl::PipelineOptions::default();
    msl::write_string(module, info, &options, &pipeline).map_err(|e| format!("MSL: {e}"))?;
    let model = if newer { hlsl::ShaderModel::V6_2 } else { hlsl::ShaderModel::V5_1 };
    let options =
        hlsl::Options { shader_model: model, fake_missing_bindings: true, ..Default::default() };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
        .write(module, info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    Ok(())
}

/// Writes every text to a file of its own where `STARLING_SHADERS` names a folder: what
/// `cargo xtask test` gives to another compiler than naga.
fn keep(variant: &str, texts: &HashMap<String, String>) {
    let Some(folder) = std::env::var_os("STARLING_SHADERS") else { return };
    let folder = PathBuf::from(folder).join(variant);
    std::fs::create_dir_all(&folder).unwrap();
    let sorted: BTreeMap<_, _> = texts.iter().collect();
    for (i, (key, text)) in sorted.into_iter().enumerate() {
        let template = key.split(' ').next().unwrap();
        std::fs::write(folder.join(format!("{i:04}-{template}.wgsl")), text).unwrap();
    }
}

fn all_valid(name: &str, software: bool) {
    let variant: Variant = name.parse().unwrap();
    let mut abilities = Capabilities::default();
    abilities.set(Capabilities::SUBGROUP, variant.subgroups);
    abilities.set(Capabilities::SHADER_FLOAT16, variant.f16);
    let found = texts(variant, software, 0);
    keep(&if software { format!("{name}+software") } else { name.to_string() }, &found);
    let mut wrong = Vec::new();
    for (key, text) in &found {
        let result = validate(text, abilities)
            .and_then(|(module, info)| translate(&module, &info, variant != Variant::default()));
        if let Err(message) = result {
            wrong.push(format!("{key}: {message}"));
        }
    }
    println!("{variant}: {} shaders", found.len());
    assert!(wrong.is_empty(), "{} of {} are wrong: {}", wrong.len(), found.len(), wrong[0]);
    assert!(found.len() > 500, "the table needs more than {} shaders", found.len());
}

#[test]
fn plain() {
    all_valid("plain", false);
}

#[test]
fn subgroup() {
    all_valid("subgroup", false);
}

#[test]
fn f16() {
    all_valid("f16", false);
}

#[test]
fn subgroup_and_f16() {
    all_valid("subgroup+f16", false);
}

#[test]
fn for_a_driver_on_the_processor() {
    all_valid("plain", true);
}

#[test]
fn subgroup_and_f16_for_a_driver_on_the_processor() {
    all_valid("subgroup+f16", true);
}

/// No device of ours has cooperative matrices, and neither MSL nor SPIR-V of them is checked by
/// anything else here.
#[test]
fn cooperative_matrices() {
    let variant: Variant = "subgroup+f16+matrix".parse().unwrap();
    let mut abilities = Capabilities::default();
    abilities.set(Capabilities::SUBGROUP, true);
    abilities.set(Capabilities::SHADER_FLOAT16, true);
    abilities.set(Capabilities::COOPERATIVE_MATRIX, true);
    for size in [8, 16] {
        let found = texts(variant, false, size);
        let found: Vec<_> =
            found.iter().filter(|(key, _)| key.starts_with("gemm_matrix ")).collect();
        assert!(found.len() >= 4, "only {} layouts of operands", found.len());
        for (key, text) in found {
            let (module, info) = validate(text, abilities).unwrap_or_else(|e| panic!("{key}: {e}"));
            let words = spv::write_vec(&module, &info, &spv::Options::default(), None);
            assert!(!words.unwrap().is_empty(), "{key}");
            let options = msl::Options {
                lang_version: (2, 4),
                fake_missing_bindings: true,
                ..Default::default()
            };
            let text = msl::write_string(&module, &info, &options, &Default::default());
            assert!(text.unwrap().0.contains("simdgroup"), "{key}");
        }
    }
}
