//! What a shader takes from Rust, as naga reads its WGSL.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use naga::{AddressSpace, Scalar, TypeInner};

/// What the WGSL of a shader takes.
pub(crate) struct Taken {
    /// Fields of its `struct Params`, all of them words; empty where it has none.
    pub(crate) params: Vec<String>,
    pub(crate) bytes: u32,
    pub(crate) constants: BTreeSet<String>,
}

impl Taken {
    pub(crate) fn by(shader: &str) -> Self {
        let (source, _) = super::source(shader).unwrap();
        let module =
            naga::front::wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{shader}: {}", e.emit_to_string(&source)));
        let constants = module.overrides.iter().map(|(_, constant)| constant.name.clone().unwrap()).collect();
        let mut variables = module.global_variables.iter().map(|(_, variable)| variable);
        let Some(variable) = variables.find(|variable| variable.space == AddressSpace::Immediate) else {
            return Taken { params: Vec::new(), bytes: 0, constants };
        };
        let TypeInner::Struct { members, span } = &module.types[variable.ty].inner else {
            panic!("{shader}: its parameters are no struct");
        };
        let name = |(index, member): (usize, &naga::StructMember)| {
            let name = member.name.clone().unwrap();
            let is_word = [Scalar::U32, Scalar::F32].map(TypeInner::Scalar).contains(&module.types[member.ty].inner);
            assert!(is_word && member.offset == 4 * index as u32, "{shader}: {name} is no word, or not after the last");
            name
        };
        Taken { params: members.iter().enumerate().map(name).collect(), bytes: *span, constants }
    }
}
