//! What costs on Apple's GPUs, counted in the Metal of a kernel and in the module that it is written from.

use naga::{AddressSpace, Expression, Function, Handle, Module, TypeInner};

/// Counts of one pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Costs {
    /// Workgroup variables that thread 0 sets to zero while the others wait.
    pub(crate) zeroed: usize,
    /// Loops that count their rounds, so that a compiler knows that they end.
    pub(crate) bounded: usize,
    /// Indices that are clamped, divisors and conversions that are checked.
    pub(crate) checked: usize,
    /// Accesses to arrays or vectors of one thread at a place that is not a constant: such memory is no registers.
    pub(crate) private: usize,
    /// Barriers in the text.
    pub(crate) barriers: usize,
    /// Bytes of workgroup memory.
    pub(crate) workgroup: u32,
}

impl Costs {
    pub(crate) fn of(msl: &str, module: &Module) -> Self {
        let count = |what: &str| msl.matches(what).count();
        let entry = module.entry_points.iter().map(|entry| &entry.function);
        let functions = module.functions.iter().map(|(_, function)| function).chain(entry);
        let workgroup = |space| space == AddressSpace::WorkGroup;
        let shared = module.global_variables.iter().filter(|(_, variable)| workgroup(variable.space));
        Costs {
            // without a type before the name: no declaration
            zeroed: msl.lines().filter(|line| line.trim().split(' ').skip(1).eq(["=", "{};"])).count(),
            bounded: count("uint2 loop_bound"),
            checked: count("metal::min(unsigned(") + count("naga_div(") + count("naga_mod("),
            private: functions.map(|function| private(module, function)).sum(),
            barriers: count("threadgroup_barrier("),
            workgroup: shared.map(|(_, variable)| module.types[variable.ty].inner.size(module.to_ctx())).sum(),
        }
    }

    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Costs {
            zeroed: self.zeroed.max(other.zeroed),
            bounded: self.bounded.max(other.bounded),
            checked: self.checked.max(other.checked),
            private: self.private.max(other.private),
            barriers: self.barriers.max(other.barriers),
            workgroup: self.workgroup.max(other.workgroup),
        }
    }
}

/// Accesses of a function with an index that is no constant, to what belongs to one thread.
fn private(module: &Module, function: &Function) -> usize {
    let is_private = |mut at: Handle<Expression>| loop {
        match &function.expressions[at] {
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => at = *base,
            Expression::GlobalVariable(variable) => {
                break module.global_variables[*variable].space == AddressSpace::Private;
            }
            Expression::FunctionArgument(index) => {
                break match module.types[function.arguments[*index as usize].ty].inner {
                    TypeInner::Pointer { space, .. } => space == AddressSpace::Function,
                    _ => true,
                };
            }
            // a local variable, or a value
            _ => break true,
        }
    };
    let accesses = function.expressions.iter().filter_map(|(_, expression)| match expression {
        Expression::Access { base, .. } => Some(*base),
        _ => None,
    });
    accesses.filter(|base| is_private(*base)).count()
}
