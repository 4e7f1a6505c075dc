//! A template written anew, so that every operation that Python does in its own way passes through a function.
//!
//! The engine lets filters, tests, methods and the printing of values be replaced, but not its operators: `~` writes
//! floats as Rust does, `%` knows no strings, slices panic on negative steps of empty lists. So the template is parsed,
//! and written again with `a ~ b` as `__concat(a, b)` and so on. Text becomes constants, which settles the white space
//! and lets the length of what is written be counted. Lines stay where they were: errors name them.

mod expressions;

use minijinja::machinery::ast::{Expr, Macro, Stmt};
use minijinja::machinery::{Span, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

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
}

/// The default of a parameter that the engine takes as it is; one that is computed may name earlier parameters, which
/// the engine does not know yet.
fn is_constant(default: &Expr<'_>) -> bool {
    matches!(default, Expr::Const(_))
}
