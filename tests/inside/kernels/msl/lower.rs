//! A kernel as a Metal compiler gets it: with the options of wgpu's Metal backend for shaders that the program trusts.

use std::collections::BTreeMap;

use naga::back::PipelineConstants;
use naga::back::msl::{BindTarget, EntryPointResources, Options, PipelineOptions};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ResourceBinding, ShaderStage};

/// Parses and validates a shader, and sets its constants.
pub(crate) fn module(shader: &str, source: &str, constants: &PipelineConstants, entry: &str) -> (Module, ModuleInfo) {
    let module =
        naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{shader}: {}", e.emit_to_string(source)));
    // unpacking f16 to f32 is not a 16-bit type: every device that wgpu opens has it
    let mut capabilities = Capabilities::IMMEDIATES | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if shader.contains("cooperative") {
        capabilities |= Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX;
    }
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{shader}: {}", e.emit_to_string(source)));
    let entry = Some((ShaderStage::Compute, entry));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, constants)
        .unwrap_or_else(|e| panic!("{shader}: {e}"));
    (module.into_owned(), info.into_owned())
}

/// Lowers a module as wgpu 30 does for Metal: immediates are buffer 0, then come the bindings in their order, then the
/// sizes of the bindings.
pub(crate) fn msl(shader: &str, entry: &str, module: &Module, info: &ModuleInfo) -> String {
    let bindings: BTreeMap<u32, (ResourceBinding, bool)> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let binding = variable.binding?;
            let AddressSpace::Storage { access } = variable.space else { panic!("{shader}: not a storage buffer") };
            Some((binding.binding, (binding, access.contains(naga::StorageAccess::STORE))))
        })
        .collect();
    // in a layout every binding takes a number, used or not
    let resources = bindings
        .values()
        .map(|&(binding, mutable)| {
            (binding, BindTarget { buffer: Some(1 + binding.binding as u8), mutable, ..Default::default() })
        })
        .collect();
    let last = bindings.keys().next_back().map_or(0, |last| last + 1);
    let resources = EntryPointResources { resources, immediates_buffer: Some(0), sizes_buffer: Some(1 + last as u8) };
    let options = Options {
        lang_version: (3, 0),
        per_entry_point_map: [(entry.to_owned(), resources)].into(),
        inline_samplers: Vec::new(),
        spirv_cross_compatibility: false,
        fake_missing_bindings: false,
        bounds_check_policies: BoundsCheckPolicies {
            index: BoundsCheckPolicy::Unchecked,
            buffer: BoundsCheckPolicy::Unchecked,
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        task_dispatch_limits: None,
        mesh_shader_primitive_indices_clamp: false,
        emit_int_div_checks: false,
        ray_query_initialization_tracking: false,
    };
    let pipeline = PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry.to_owned())),
        vertex_pulling_transform: true,
        ..Default::default()
    };
    let (source, info) =
        naga::back::msl::write_string(module, info, &options, &pipeline).unwrap_or_else(|e| panic!("{shader}: {e}"));
    let name = info.entry_point_names[0].as_ref().unwrap_or_else(|e| panic!("{shader}: {e}"));
    assert!(source.contains(&format!("kernel void {name}(")), "{shader}: no entry point in\n{source}");
    source
}
