//! Every kernel in every weight format, as other platforms will see it: naga lowers it to MSL, HLSL and SPIR-V, and
//! spirv-val accepts the SPIR-V.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};

use flashflood_backends::gpu::MatrixUnits;

use super::kernels::msl::costs::Costs;
use super::kernels::msl::lower;
use super::kernels::random::formats;
use crate::compute::ops::{CooperativeTile, ExpertDown, ProductShape, Tile};
use crate::compute::shaders::{self, Form};
use naga::back::PipelineConstants;
use naga::valid::ModuleInfo;
use naga::{Module, ShaderStage};

/// Constants as the engine sets them, for the widest and the narrowest matrices; none for plain kernels.
fn constants(shader: &str) -> Vec<PipelineConstants> {
    let kernel = shaders::source(shader).unwrap().1;
    if ["attention", "attention_prefill", "attention_prefill_cooperative", "kv_norm_rope"].contains(&kernel) {
        // their names end with formats of caches
        let mut all: Vec<_> = [64.0, 256.0].map(|dim| named(vec![("dim", dim)])).into();
        if kernel == "attention" {
            all.push(named(vec![("pack", 1.0), ("interleave", 2.0)]));
        }
        return all;
    }
    if kernel == "attention_merge" {
        // of a prompt, and of a token
        let of = |threads: f64, sharers| {
            let packs = [("pack", 1.0), ("interleave", 2.0), ("quantisers", threads)];
            named([("threads", threads), ("sharers", sharers)].into_iter().chain(packs).collect())
        };
        return vec![of(64.0, 1.0), of(256.0, 4.0)];
    }
    let mut of_shader: Vec<_> =
        formats("").into_iter().filter(|f| shader.ends_with(&format!("_{}", f.suffix()))).collect();
    // iq4_nl before nl, were there such
    of_shader.sort_by_key(|format| format.suffix().len());
    let Some(format) = of_shader.pop() else { return vec![PipelineConstants::default()] };
    let form = if shader.contains("_int8_") { Form::Int8 } else { Form::F32 };
    let of = |cols| {
        let shape = ProductShape::new(kernel, form, format, 4096, cols);
        named(shape.constants(shape.team()))
    };
    if kernel == "matmul_cooperative" {
        let shape = ProductShape::new(kernel, form, format, 4096, 4096);
        return CooperativeTile::matrix(form).map(|tile| named(shape.cooperative_constants(tile))).into();
    }
    if kernel.starts_with("expert_matmul_cooperative") {
        let shape = ProductShape::new(kernel, form, format, 4096, 4096);
        let tiles = CooperativeTile::expert(form).map(|tile| {
            let quantises = kernel.ends_with("gate_up").then_some(("quantisers", tile.threads() as f64));
            named(shape.cooperative_constants(tile).into_iter().chain(quantises).collect())
        });
        return tiles.into();
    }
    if kernel.contains("matmul") {
        let shape = ProductShape::new(kernel, form, format, 4096, 4096);
        let tiles = match kernel {
            "matmul" => [Tile::of_matrix(form, 4096), Tile::of_matrix(form, 256)].concat(),
            _ => Tile::EXPERT.to_vec(),
        };
        let mut all: Vec<_> = tiles.iter().map(|&tile| named(shape.tile_constants(tile))).collect();
        if kernel == "expert_matmul_gate_up" {
            let packed = [("packed", 1.0), ("interleave", 2.0), ("quantisers", tiles[0].threads() as f64)];
            let packed: Vec<_> = shape.tile_constants(tiles[0]).into_iter().chain(packed).collect();
            all.push(named(packed));
        }
        if kernel == "expert_matmul_down" {
            all.push(named(shape.tile_constants(tiles[0]).into_iter().chain(OF_TOKENS).collect()));
        }
        return all;
    }
    if kernel == "expert_down_combine" {
        let pipelines = [(64, 1), (1024, 10), (1024, 24), (1024, 32), (4096, 8)].map(|(cols, top_k)| {
            let shape = ProductShape::new(kernel, form, format, 4096, cols);
            let (constants, threads) = ExpertDown::constants(&shape, top_k, 1024);
            let packed = [("pack", 1.0), ("interleave", 2.0), ("quantisers", threads as f64)];
            named(constants.into_iter().chain(packed).collect())
        });
        return pipelines.into();
    }
    let mut all = vec![of(64), of(4096)];
    if kernel == "expert_gate_up" {
        // hidden values in 8 bits
        let mut packed: PipelineConstants = of(4096);
        packed.extend([("packed".to_owned(), 1.0), ("interleave".to_owned(), 2.0)]);
        all.push(packed);
    }
    if kernel == "matvec_norm" {
        let threads = ProductShape::new(kernel, form, format, 4096, 4096).team().threads;
        let mut packed: PipelineConstants = of(4096);
        packed.extend(named(vec![("pack", 1.0), ("interleave", 2.0), ("quantisers", threads as f64)]));
        all.push(packed);
    }
    if kernel == "expert_down" {
        let mut of_tokens: PipelineConstants = of(4096);
        of_tokens.extend(named(OF_TOKENS.into()));
        all.push(of_tokens);
    }
    all
}

/// Gate or up by itself.
const OF_TOKENS: [(&str, f64); 2] = [("of_tokens", 1.0), ("out_column", 512.0)];

fn named(constants: Vec<(&'static str, f64)>) -> PipelineConstants {
    constants.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn every_shader(mut check: impl FnMut(&str, &str, &Module, &ModuleInfo)) {
    let mut checked = 0;
    for shader in shaders::names() {
        let (source, entry) = shaders::source(shader).unwrap();
        for constants in constants(shader) {
            let (module, info) = lower::module(shader, &source, &constants, entry);
            check(shader, entry, &module, &info);
            checked += 1;
        }
    }
    assert!(checked > 700, "kernels of products in 35 formats, in 32 of them with int8, and the plain ones");
}

/// Everything is lowered to MSL, and what costs on Apple's GPUs is as it was: of each kernel the most of any pipeline that
/// they run.
#[test]
fn lowers_to_msl() {
    let mut all: BTreeMap<String, Costs> = BTreeMap::new();
    every_shader(|shader, entry, module, info| {
        let costs = Costs::of(&lower::msl(shader, entry, module, info), module);
        match shaders::units_of(shader) {
            Some(MatrixUnits::By16) => return,
            Some(MatrixUnits::By8) => assert!(costs.workgroup <= 32 << 10, "{shader}: {costs:?}"),
            None => {}
        }
        if matches!(
            entry,
            "attention"
                | "attention_prefill"
                | "kv_norm_rope"
                | "matvec"
                | "matvec_norm"
                | "expert_down"
                | "expert_down_combine"
                | "expert_gate_up"
        ) {
            assert!(
                costs.workgroup <= 16 << 10,
                "{shader}: {} bytes of workgroup memory, every device has 16 KB",
                costs.workgroup
            );
        }
        let most = all.entry(entry.to_owned()).or_default();
        *most = most.max(costs);
    });
    let mut table = format!("{:22}zeroed bounded checked private barriers workgroup\n", "");
    for (entry, Costs { zeroed, bounded, checked, private, barriers, workgroup }) in all {
        table += &format!("{entry:22}{zeroed:6} {bounded:7} {checked:7} {private:7} {barriers:8} {workgroup:9}\n");
    }
    insta::assert_snapshot!("costs_on_apple", table);
}

/// What is counted is found where it is: in what naga writes with checks.
#[test]
fn costs_are_counted() {
    let source = "
        @group(0) @binding(0) var<storage, read_write> x: array<u32>;
        var<workgroup> shared_words: array<u32, 8>;
        @compute @workgroup_size(8)
        fn costs(@builtin(local_invocation_index) local: u32) {
            var own = array<u32, 4>();
            for (var i = 0u; i < x[0]; i++) {
                own[i % 4u] += x[i] / x[1];
            }
            shared_words[local] = own[local % 4u];
            workgroupBarrier();
            x[local] = shared_words[7u - local];
        }";
    let (module, info) = lower::module("costs", source, &PipelineConstants::default(), "costs");
    let restrict = naga::proc::BoundsCheckPolicy::Restrict;
    let options = naga::back::msl::Options {
        lang_version: (3, 0),
        fake_missing_bindings: true,
        bounds_check_policies: naga::proc::BoundsCheckPolicies {
            index: restrict,
            buffer: restrict,
            ..Default::default()
        },
        ..Default::default()
    };
    let (checked, _) = naga::back::msl::write_string(&module, &info, &options, &Default::default()).unwrap();
    let with = Costs::of(&checked, &module);
    assert!(with.zeroed > 0 && with.bounded > 0 && with.checked > 3, "{with:?} in {checked}");
    // the one that naga adds waits for zeros
    assert_eq!((with.private, with.barriers, with.workgroup), (2, 2, 32), "{checked}");
    let without = Costs::of(&lower::msl("costs", "costs", &module, &info), &module);
    assert_eq!(without, Costs { private: 2, barriers: 1, workgroup: 32, ..Costs::default() });
}

/// As wgpu writes it for the oldest devices that it takes, with runtime checks, and for those of today without.
/// `FLASHFLOOD_HLSL=FOLDER` keeps it there, with a `list` of lines `FILE PROFILE ENTRY` for a compiler (targets/windows).
#[test]
fn lowers_to_hlsl() {
    use naga::back::hlsl::{BindTarget, Options, ShaderModel, Writer};
    let folder = std::env::var_os("FLASHFLOOD_HLSL").map(std::path::PathBuf::from);
    let mut list = Vec::new();
    every_shader(|shader, entry, module, info| {
        // naga writes no matrix units for DX12; these kernels are for devices on Vulkan
        if shader.contains("cooperative") {
            return;
        }
        for (shader_model, checks) in [(ShaderModel::V6_0, true), (ShaderModel::V6_8, false)] {
            let options = Options {
                shader_model,
                fake_missing_bindings: true,
                immediates_target: Some(BindTarget { space: 1, ..Default::default() }),
                zero_initialize_workgroup_memory: false,
                restrict_indexing: checks,
                force_loop_bounding: checks,
                ..Default::default()
            };
            let mut hlsl = String::new();
            // the writer panics on what it does not know
            let written = catch_unwind(AssertUnwindSafe(|| {
                Writer::new(&mut hlsl, &options, &Default::default()).write(module, info, None).map(|_| ())
            }));
            match written {
                Ok(Ok(())) => assert!(hlsl.contains(entry), "{shader}: no entry point in\n{hlsl}"),
                Ok(Err(e)) => panic!("{shader}: {e}"),
                Err(_) => panic!("{shader}: naga's HLSL writer panicked"),
            }
            if let Some(folder) = &folder {
                let profile = format!("cs_{}", shader_model.to_str());
                let file = format!("{shader}.{}.hlsl", list.len());
                std::fs::write(folder.join(&file), hlsl).unwrap();
                list.push(format!("{file} {profile} {entry}\n"));
            }
        }
    });
    if let Some(folder) = folder {
        std::fs::write(folder.join("list"), list.concat()).unwrap();
    }
}

#[test]
fn spirv_is_valid() {
    every_shader(|shader, entry, module, info| {
        let is_cooperative = shader.contains("cooperative");
        let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
        let pipeline =
            naga::back::spv::PipelineOptions { entry_point: entry.to_owned(), shader_stage: ShaderStage::Compute };
        let words = naga::back::spv::write_vec(module, info, &options, Some(&pipeline))
            .unwrap_or_else(|e| panic!("{shader}: {e}"));
        // spirv-val of today's distributions does not know the instructions of matrix units
        if is_cooperative {
            assert!(!words.is_empty());
            return;
        }
        let mut validator = Command::new("spirv-val")
            .args(["--target-env", "vulkan1.1", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("spirv-val must be installed: apt-get install spirv-tools");
        validator.stdin.take().unwrap().write_all(bytemuck::cast_slice(&words)).unwrap();
        let output = validator.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{shader}: {said}");
    });
}

/// Every file of `wgsl/` by its name: kernels as they are called, shared pieces as they are imported.
fn files(folder: &str) -> BTreeMap<String, String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let paths = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let files = paths.filter(|path| path.extension().is_some_and(|e| e == "wgsl"));
    files.map(|p| (p.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(p).unwrap())).collect()
}

/// A kernel is found by its name: file stem, entry point, first line that says what it does, shapes of its bindings, and
/// the file of the op that runs it.
#[test]
fn files_are_what_they_say() {
    let known: Vec<&str> = shaders::names().map(|name| shaders::source(name).unwrap().1).collect();
    let ops = ops();
    let files = files("wgsl");
    for (stem, text) in &files {
        assert!(known.contains(&stem.as_str()), "{stem} is not among the shaders");
        assert!(ops.contains(&format!("\"{stem}\"")), "{stem} is a stage of no op");
        assert!(text.contains(&format!("fn {stem}(")), "{stem}: the entry point has another name");
        assert!(text.starts_with("// "), "{stem}: the first line says what the kernel does");
        for line in text.lines().filter(|l| l.starts_with("@group")) {
            assert!(line.contains("; // "), "{stem}: a binding without its shape: {line}");
        }
    }
    assert_eq!(files.len(), 36, "one file per kernel");
}

/// What is in `src/compute/ops`, without its tests.
fn ops() -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/compute/ops");
    let inside = |folder: &std::path::Path| std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let paths = inside(&folder).flat_map(|path| if path.is_dir() { inside(&path).collect() } else { vec![path] });
    let texts = paths.map(|path| std::fs::read_to_string(path).unwrap());
    texts.map(|text| text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned()).collect()
}

/// The code of a file: no comments.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect()
}

/// Words of code, and whether a bracket follows: a call.
fn words(code: &str) -> impl Iterator<Item = (&str, bool)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let starts = code.match_indices(is_word).filter(move |(at, _)| !code[..*at].ends_with(is_word));
    starts.map(move |(at, _)| {
        let rest = &code[at..];
        let (word, after) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        (word, after.starts_with('('))
    })
}

/// What a file declares outside of functions, and whether it is a function.
fn declared(code: &str) -> BTreeMap<&str, bool> {
    let declarations = code.lines().filter(|line| !line.starts_with([' ', '}'])).filter_map(|line| {
        let at =
            ["fn ", "struct ", "override ", "const ", "alias ", "var<"].into_iter().find(|word| line.contains(word))?;
        let name = line.split_once(at)?.1;
        let name = if at == "var<" { name.split_once("> ")?.1 } else { name };
        Some((name.split(|c: char| !c.is_alphanumeric() && c != '_').next()?, at == "fn "))
    });
    declarations.collect()
}

/// The shared pieces that an import may stand for.
fn pieces<'a>(import: &'a str, shared: &'a BTreeMap<String, String>) -> impl Iterator<Item = &'a str> {
    let is = move |name: &str| match import {
        "activations" | "weights" | "separate" | "block" | "unit" | "prepare" | "keys" | "values" | "matrix_unit"
        | "add_whole" => name.strip_prefix(import).is_some_and(|rest| rest.starts_with('_')),
        "ready" => matches!(name, "ready_nothing" | "cache_tq4"),
        "turn" => matches!(name, "turn_nothing" | "turn_head"),
        "separate_two" => matches!(name, "separate_q2_k" | "separate_q3_k" | "separate_q6_k"),
        "separate_numbers" => matches!(name, "separate_fp4" | "separate_mxfp4"),
        "separate_numbers_16" => matches!(name, "separate_fp4_16" | "separate_nvfp4"),
        "eight_signs" => matches!(name, "signs_computed" | "signs_of_four"),
        "seven_signs" => matches!(name, "sevens_computed" | "signs_of_seven"),
        "kept_signs" => matches!(name, "signs_none" | "signs_of_four" | "signs_of_seven"),
        "four_values" => matches!(name, "table_of_device" | "table_of_fours"),
        "eight_values" => matches!(name, "table_of_device" | "table_of_eights"),
        "kept_table" => matches!(name, "table_of_device" | "table_of_eights" | "table_of_fours"),
        "tile_form" => matches!(name, "tile_f32" | "tile_int8"),
        "tile_parts" => matches!(name, "tile_parts_f32" | "tile_parts_int8"),
        "tile_scales" => matches!(name, "tile_scales_32" | "tile_scales_16"),
        "weight_halves" => matches!(name, "weight_halves" | "weight_halves_16" | "weight_halves_f32"),
        _ => name == import,
    };
    shared.keys().map(String::as_str).filter(move |name| is(name))
}

/// A file imports each piece whose functions it calls, and nothing that it does not use. What a piece leaves to whoever
/// imports it may be in another piece, which imports it.
#[test]
fn files_import_what_they_use() {
    let shared = files("wgsl/shared");
    let codes: BTreeMap<&str, String> = shared.iter().map(|(name, text)| (name.as_str(), code(text))).collect();
    let mut used = std::collections::BTreeSet::new();
    let mut imports_seen = 0;
    let kernels = files("wgsl");
    for (file, text) in kernels.iter().chain(&shared) {
        let imports: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("//import ")).collect();
        let (code, in_order) = (code(text), imports.is_sorted_by(|a, b| a < b));
        assert!(in_order, "{file}: imports are sorted, each once: {imports:?}");
        for import in &imports {
            let mut of_import = pieces(import, &shared).peekable();
            assert!(of_import.peek().is_some(), "{file} imports {import}, which is no file and no role");
            for piece in of_import {
                used.insert(piece);
                let names = declared(&codes[piece]);
                assert!(words(&code).any(|(word, _)| names.contains_key(word)), "{file} uses nothing of {piece}");
            }
            imports_seen += 1;
        }
        let own = declared(&code);
        for (word, _) in words(&code).filter(|(word, is_call)| *is_call && !own.contains_key(word)) {
            let homes: Vec<&str> = codes
                .iter()
                .filter(|(_, code)| declared(code).get(word) == Some(&true))
                .map(|(name, _)| *name)
                .collect();
            let is_imported = imports.iter().any(|import| pieces(import, &shared).any(|piece| homes.contains(&piece)));
            let is_left = homes.iter().all(|home| shared[*home].contains(&format!("//import {file}\n")));
            assert!(is_left || is_imported, "{file} calls {word} of {homes:?}, which it does not import");
        }
    }
    assert_eq!(used.len(), shared.len(), "pieces that nothing imports");
    assert!(imports_seen > 80, "{imports_seen}");
}
