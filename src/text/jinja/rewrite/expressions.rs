//! Expressions, written anew.

use minijinja::Value;
use minijinja::machinery::ast::{BinOpKind, Call, CallArg, CompareOpKind, Expr, UnaryOpKind};
use minijinja::value::ValueKind;

use super::Writer;
use crate::text::jinja::methods::is_method_name;
use crate::text::jinja::python_text::python_float;
use crate::text::jinja::string_literal::python_string;

impl Writer<'_> {
    /// An expression that something binds to: in parentheses unless it holds together by itself.
    pub(super) fn operand(&mut self, expr: &Expr<'_>) {
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

    pub(super) fn expr(&mut self, expr: &Expr<'_>) {
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

    pub(super) fn call<'e, 's: 'e>(&mut self, function: &str, operands: impl IntoIterator<Item = &'e Expr<'s>>) {
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

    pub(super) fn call_expr(&mut self, call: &Call<'_>) {
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
    pub(super) fn filters(&mut self, expr: &Expr<'_>) {
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
    pub(super) fn text(&mut self, text: &str) {
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
