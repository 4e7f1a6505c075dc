//! A template written anew, so that every operation that Python does in its own way passes through a function.
//!
//! The engine lets filters, tests, methods and the printing of values be replaced, but not its operators: `~` writes
//! floats as Rust does, `%` knows no strings, slices panic on negative steps of empty lists. So the template is parsed,
//! and written again with `a ~ b` as `__concat(a, b)` and so on. Text becomes constants, which settles the white space
//! and lets the length of what is written be counted. Lines stay where they were: errors name them.

use minijinja::machinery::ast::{BinOpKind, Call, CallArg, CompareOpKind, Expr, Macro, Stmt, UnaryOpKind};
use minijinja::machinery::{Span, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::methods::is_method_name;
use super::python_text::python_float;
use super::string_literal::python_string;

/// `source` with functions for operators. An error names the line of `source`.
pub(super) fn rewrite(source: &str, name: &str, syntax: SyntaxConfig) -> Result<String, Error> {
    let Stmt::Template(template) = parse(source, name, syntax)? else {
        return Err(Error::new(ErrorKind::SyntaxError, "not a template"));
    };
    let mut writer = Writer { source, out: String::with_capacity(2 * source.len()), line: 1, escaping: 0 };
    writer.body(&template.children);
    Ok(writer.out)
}

struct Writer<'s> {
    source: &'s str,
    out: String,
    /// The line that the end of `out` is in, from 1.
    line: u16,
    /// How many `autoescape` blocks are open: what the template itself says is never escaped.
    escaping: usize,
}

impl Writer<'_> {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Goes down to the line of `span`, between two tokens.
    fn go_to(&mut self, span: Span) {
        while self.line < span.start_line {
            self.out.push('\n');
            self.line += 1;
        }
    }

    fn body(&mut self, statements: &[Stmt<'_>]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    /// `{% keyword ... %}`.
    fn tag(&mut self, span: Span, keyword: &str, rest: impl FnOnce(&mut Self)) {
        self.put("{% ");
        self.go_to(span);
        self.put(keyword);
        self.put(" ");
        rest(self);
        self.put(" %}");
    }

    fn end(&mut self, keyword: &str) {
        self.put("{% ");
        self.put(keyword);
        self.put(" %}");
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(template) => self.body(&template.children),
            Stmt::EmitExpr(emit) => {
                self.put("{{ ");
                self.go_to(emit.span());
                self.expr(&emit.expr);
                self.put(" }}");
            }
            Stmt::EmitRaw(raw) => {
                self.put("{{ ");
                self.text(raw.raw);
                self.put(if self.escaping > 0 { " | safe }}" } else { " }}" });
            }
            Stmt::ForLoop(loop_) => {
                self.tag(loop_.span(), "for", |w| {
                    w.target(&loop_.target);
                    w.put(" in ");
                    w.call("__iter", [&loop_.iter]);
                    if let Some(condition) = &loop_.filter_expr {
                        w.put(" if ");
                        w.operand(condition);
                    }
                    if loop_.recursive {
                        w.put(" recursive");
                    }
                });
                self.body(&loop_.body);
                if !loop_.else_body.is_empty() {
                    self.end("else");
                    self.body(&loop_.else_body);
                }
                self.end("endfor");
            }
            Stmt::IfCond(first) => {
                self.tag(first.span(), "if", |w| w.operand(&first.expr));
                self.body(&first.true_body);
                let mut rest = &first.false_body;
                // flat, however many there are: the engine refuses deep nesting
                while let [Stmt::IfCond(next)] = rest.as_slice() {
                    self.tag(next.span(), "elif", |w| w.operand(&next.expr));
                    self.body(&next.true_body);
                    rest = &next.false_body;
                }
                if !rest.is_empty() {
                    self.end("else");
                    self.body(rest);
                }
                self.end("endif");
            }
            Stmt::WithBlock(with) => {
                self.tag(with.span(), "with", |w| {
                    w.list(&with.assignments, |w, (target, value)| {
                        match target {
                            Expr::List(_) => {
                                w.put("(");
                                w.target(target);
                                w.put(")");
                            }
                            _ => w.target(target),
                        }
                        w.put(" = ");
                        w.expr(value);
                    });
                });
                self.body(&with.body);
                self.end("endwith");
            }
            Stmt::Set(set) => self.tag(set.span(), "set", |w| {
                w.target(&set.target);
                w.put(" = ");
                w.expr(&set.expr);
            }),
            Stmt::SetBlock(set) => {
                self.tag(set.span(), "set", |w| {
                    w.target(&set.target);
                    if let Some(filter) = &set.filter {
                        w.put(" | ");
                        w.filters(filter);
                    }
                });
                self.body(&set.body);
                self.end("endset");
            }
            Stmt::AutoEscape(escape) => {
                self.tag(escape.span(), "autoescape", |w| w.expr(&escape.enabled));
                self.escaping += 1;
                self.body(&escape.body);
                self.escaping -= 1;
                self.end("endautoescape");
            }
            Stmt::FilterBlock(block) => {
                self.tag(block.span(), "filter", |w| w.filters(&block.filter));
                self.body(&block.body);
                self.end("endfilter");
            }
            Stmt::Block(block) => {
                self.tag(block.span(), "block", |w| w.put(block.name));
                self.body(&block.body);
                self.end("endblock");
            }
            Stmt::Import(import) => self.no_other_templates(import.span(), "import"),
            Stmt::FromImport(import) => self.no_other_templates(import.span(), "import"),
            Stmt::Extends(extends) => self.no_other_templates(extends.span(), "extends"),
            Stmt::Include(include) => self.no_other_templates(include.span(), "include"),
            Stmt::Macro(macro_) => {
                self.tag(macro_.span(), "macro", |w| {
                    w.put(macro_.name);
                    w.parameters(macro_);
                });
                self.computed_defaults(macro_);
                self.body(&macro_.body);
                self.end("endmacro");
            }
            Stmt::CallBlock(block) => {
                self.tag(block.span(), "call", |w| {
                    if !block.macro_decl.args.is_empty() {
                        w.parameters(&block.macro_decl);
                        w.put(" ");
                    }
                    w.call_expr(&block.call);
                });
                self.computed_defaults(&block.macro_decl);
                self.body(&block.macro_decl.body);
                self.end("endcall");
            }
            Stmt::Continue(statement) => self.tag(statement.span(), "continue", |_| ()),
            Stmt::Break(statement) => self.tag(statement.span(), "break", |_| ()),
            Stmt::Do(statement) => self.tag(statement.span(), "do", |w| w.call_expr(&statement.call)),
        }
    }

    fn no_other_templates(&mut self, span: Span, tag: &str) {
        self.put("{{ ");
        self.go_to(span);
        self.put("raise_exception(");
        self.text(&format!("a chat template is alone: nothing to {tag}"));
        self.put(") }}");
    }

    fn parameters(&mut self, macro_: &Macro<'_>) {
        let without_default = macro_.args.len().saturating_sub(macro_.defaults.len());
        self.put("(");
        let numbered: Vec<_> = macro_.args.iter().enumerate().collect();
        self.list(&numbered, |w, (index, name)| {
            w.target(name);
            if let Some(default) = index.checked_sub(without_default).and_then(|index| macro_.defaults.get(index)) {
                w.put("=");
                match is_constant(default) {
                    true => w.expr(default),
                    false => w.put("__missing"),
                }
            }
        });
        self.put(")");
    }

    /// Gives parameters their computed defaults, where the body begins.
    fn computed_defaults(&mut self, macro_: &Macro<'_>) {
        for (name, default) in macro_.args.iter().rev().zip(macro_.defaults.iter().rev()).rev() {
            if let (Expr::Var(name), false) = (name, is_constant(default)) {
                self.put("{% if ");
                self.put(name.id);
                self.put(" is undefined %}{% set ");
                self.put(name.id);
                self.put(" = ");
                self.expr(default);
                self.put(" %}{% endif %}");
            }
        }
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.put(", ");
            }
            write(self, item);
        }
    }

    /// What is assigned to: names, and attributes of namespaces.
    fn target(&mut self, target: &Expr<'_>) {
        match target {
            Expr::List(list) => {
                self.list(&list.items, |w, item| match item {
                    Expr::List(_) => {
                        w.put("(");
                        w.target(item);
                        w.put(")");
                    }
                    _ => w.target(item),
                });
                if list.items.len() == 1 {
                    self.put(",");
                }
            }
            Expr::GetAttr(attribute) => {
                self.target(&attribute.expr);
                self.put(".");
                self.put(attribute.name);
            }
            Expr::Var(name) => self.put(name.id),
            other => self.expr(other),
        }
    }

    /// An expression that something binds to: in parentheses unless it holds together by itself.
    fn operand(&mut self, expr: &Expr<'_>) {
        let whole = match expr {
            Expr::Var(_)
            | Expr::Const(_)
            | Expr::Slice(_)
            | Expr::GetAttr(_)
            | Expr::GetItem(_)
            | Expr::Call(_)
            | Expr::List(_)
            | Expr::Tuple(_)
            | Expr::Map(_) => true,
            Expr::BinOp(operation) => function_of(operation.op).is_some(),
            Expr::UnaryOp(_) | Expr::Compare(_) | Expr::IfExpr(_) | Expr::Filter(_) | Expr::Test(_) => false,
        };
        if whole {
            return self.expr(expr);
        }
        self.put("(");
        self.expr(expr);
        self.put(")");
    }

    fn expr(&mut self, expr: &Expr<'_>) {
        self.go_to(expr.span());
        match expr {
            Expr::Var(name) => self.put(name.id),
            Expr::Const(constant) => {
                let written =
                    self.source.get(constant.span().start_offset as usize..constant.span().end_offset as usize);
                match written.and_then(python_string).filter(|_| constant.value.kind() == ValueKind::String) {
                    Some(text) => self.text(&text),
                    None => self.constant(&constant.value),
                }
            }
            Expr::Slice(slice) => {
                self.put("__slice(");
                self.expr(&slice.expr);
                for bound in [&slice.start, &slice.stop, &slice.step] {
                    self.put(", ");
                    match bound {
                        Some(bound) => self.expr(bound),
                        None => self.put("none"),
                    }
                }
                self.put(")");
            }
            Expr::UnaryOp(operation) => {
                self.put(match operation.op {
                    UnaryOpKind::Not => "not ",
                    UnaryOpKind::Neg => "-",
                });
                self.operand(&operation.expr);
            }
            Expr::BinOp(operation) => match function_of(operation.op) {
                Some(function) => {
                    // a chain is one call: the engine refuses deep nesting
                    let mut operands = vec![&operation.right];
                    let mut left = &operation.left;
                    while let Expr::BinOp(inner) = left
                        && matches!(operation.op, BinOpKind::Add | BinOpKind::Concat)
                        && function_of(inner.op) == Some(function)
                    {
                        operands.push(&inner.right);
                        left = &inner.left;
                    }
                    operands.push(left);
                    self.call(function, operands.into_iter().rev());
                }
                None => {
                    match &operation.left {
                        Expr::BinOp(inner) if is_same_word(inner.op, operation.op) => self.expr(&operation.left),
                        left => self.operand(left),
                    }
                    self.put(match operation.op {
                        BinOpKind::ScAnd => " and ",
                        BinOpKind::ScOr => " or ",
                        BinOpKind::Eq => " == ",
                        BinOpKind::Ne => " != ",
                        BinOpKind::Sub => " - ",
                        BinOpKind::Div => " / ",
                        BinOpKind::FloorDiv => " // ",
                        // the rest are functions
                        _ => " ** ",
                    });
                    self.operand(&operation.right);
                }
            },
            Expr::Compare(chain) => {
                self.operand(&chain.expr);
                for comparison in &chain.ops {
                    self.put(match comparison.op {
                        CompareOpKind::Eq => " == ",
                        CompareOpKind::Ne => " != ",
                        CompareOpKind::Lt => " < ",
                        CompareOpKind::Lte => " <= ",
                        CompareOpKind::Gt => " > ",
                        CompareOpKind::Gte => " >= ",
                        CompareOpKind::In => " in ",
                        CompareOpKind::NotIn => " not in ",
                    });
                    self.operand(&comparison.expr);
                }
            }
            Expr::IfExpr(choice) => {
                self.operand(&choice.true_expr);
                self.put(" if ");
                self.operand(&choice.test_expr);
                if let Some(otherwise) = &choice.false_expr {
                    self.put(" else ");
                    self.operand(otherwise);
                }
            }
            Expr::Filter(_) => self.filters(expr),
            Expr::Test(test) => {
                self.operand(&test.expr);
                self.put(" is ");
                self.put(test.name);
                self.arguments(&test.args);
            }
            Expr::GetAttr(attribute) if is_method_name(attribute.name) => {
                self.put("__attribute(");
                self.expr(&attribute.expr);
                self.put(", ");
                self.text(attribute.name);
                self.put(")");
            }
            Expr::GetAttr(attribute) => {
                self.operand(&attribute.expr);
                self.put(".");
                self.put(attribute.name);
            }
            Expr::GetItem(item) if names_method(&item.subscript_expr) => {
                self.call("__item", [&item.expr, &item.subscript_expr]);
            }
            Expr::GetItem(item) => {
                self.operand(&item.expr);
                self.put("[");
                self.expr(&item.subscript_expr);
                self.put("]");
            }
            Expr::Call(call) => self.call_expr(call),
            Expr::List(list) => {
                self.put("[");
                self.list(&list.items, |w, item| w.expr(item));
                self.put("]");
            }
            Expr::Tuple(tuple) => {
                self.put("(");
                self.list(&tuple.items, |w, item| w.expr(item));
                self.put(if tuple.items.len() == 1 { ",)" } else { ")" });
            }
            Expr::Map(map) => {
                self.put("{");
                let pairs: Vec<_> = map.keys.iter().zip(&map.values).collect();
                self.list(&pairs, |w, (key, value)| {
                    w.expr(key);
                    w.put(": ");
                    w.expr(value);
                });
                self.put("}");
            }
        }
    }

    fn call<'e, 's: 'e>(&mut self, function: &str, operands: impl IntoIterator<Item = &'e Expr<'s>>) {
        self.put(function);
        self.put("(");
        for (index, operand) in operands.into_iter().enumerate() {
            if index > 0 {
                self.put(", ");
            }
            self.expr(operand);
        }
        self.put(")");
    }

    fn call_expr(&mut self, call: &Call<'_>) {
        match &call.expr {
            Expr::GetAttr(method) => {
                self.operand(&method.expr);
                self.put(".");
                self.put(method.name);
            }
            function => self.operand(function),
        }
        // also where there are no arguments
        self.put("(");
        self.argument_list(&call.args);
        self.put(")");
    }

    /// A chain of filters; one in front of which nothing stands belongs to a block.
    fn filters(&mut self, expr: &Expr<'_>) {
        let Expr::Filter(filter) = expr else {
            return self.operand(expr);
        };
        if let Some(inner) = &filter.expr {
            self.filters(inner);
            self.put(" | ");
        }
        self.go_to(filter.span());
        self.put(filter.name);
        self.arguments(&filter.args);
    }

    fn arguments(&mut self, arguments: &[CallArg<'_>]) {
        if !arguments.is_empty() {
            self.put("(");
            self.argument_list(arguments);
            self.put(")");
        }
    }

    fn argument_list(&mut self, arguments: &[CallArg<'_>]) {
        self.list(arguments, |w, argument| match argument {
            CallArg::Pos(value) => w.expr(value),
            CallArg::Kwarg(name, value) => {
                w.put(name);
                w.put("=");
                w.expr(value);
            }
            CallArg::PosSplat(values) => {
                w.put("*");
                w.operand(values);
            }
            CallArg::KwargSplat(values) => {
                w.put("**");
                w.operand(values);
            }
        });
    }

    fn constant(&mut self, value: &Value) {
        match value.kind() {
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Bool => self.put(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.put(&value.to_string()),
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(number) if number.is_finite() => self.put(&python_float(number)),
                // the only other number that can be written
                _ => self.put("1e999"),
            },
            _ => self.put("none"),
        }
    }

    /// A string constant.
    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.put("\\\""),
                '\\' => self.put("\\\\"),
                '\n' => self.put("\\n"),
                // the lexer would make a line feed of it
                '\r' => self.put("\\r"),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Whether an index is the name of a method of Python's types.
fn names_method(index: &Expr<'_>) -> bool {
    matches!(index, Expr::Const(name) if name.value.as_str().is_some_and(is_method_name))
}

/// The default of a parameter that the engine takes as it is; one that is computed may name earlier parameters, which
/// the engine does not know yet.
fn is_constant(default: &Expr<'_>) -> bool {
    matches!(default, Expr::Const(_))
}

/// The function in place of an operator, if the engine's own does not do.
fn function_of(operator: BinOpKind) -> Option<&'static str> {
    Some(match operator {
        BinOpKind::Add => "__add",
        BinOpKind::Concat => "__concat",
        BinOpKind::Mul => "__mul",
        BinOpKind::Rem => "__mod",
        BinOpKind::In => "__in",
        BinOpKind::Lt => "__lt",
        BinOpKind::Lte => "__le",
        BinOpKind::Gt => "__gt",
        BinOpKind::Gte => "__ge",
        _ => return None,
    })
}

fn is_same_word(a: BinOpKind, b: BinOpKind) -> bool {
    matches!((a, b), (BinOpKind::ScAnd, BinOpKind::ScAnd) | (BinOpKind::ScOr, BinOpKind::ScOr))
}
