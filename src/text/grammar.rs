//! What an answer must look like: a JSON schema, or calls of tools, as a mask over the vocabulary for every token.
//!
//! The grammars are llguidance's. It knows tokens by their bytes; special tokens never match text, but for the ones that
//! answers are told apart by (`<tool_call>`), which are text to a grammar as they are to [`ReplyParser`](super::ReplyParser).

use std::sync::Arc;
use std::time::Duration;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use super::aside::{Aside, GivenUp};
use super::lark::{Rules, json_of, literal};
use super::schema::{SchemaError, Strictness, plain};
use super::{Dialect, Tokenizer};

/// Most bytes of a grammar: llguidance reads as many in a second.
const MOST_BYTES: usize = 1 << 20;

/// Most characters of an error.
const LONGEST_REASON: usize = 400;

/// Bytes of stack for llguidance, which calls itself for every schema within a schema and every member of an object.
const STACK: usize = 64 << 20;

/// How long a grammar may take to make. Those of real schemas take some milliseconds.
const LONGEST: Duration = Duration::from_secs(2);

/// States of the automata of one grammar, of 1 to 2 kB each.
const MOST_STATES: usize = 50_000;

/// Why there is no grammar, or it cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum GrammarError {
    /// The vocabulary has no token that ends a text.
    #[error("a grammar needs a token that ends the text: this model has none")]
    NoEnd,
    /// What was asked for is no grammar, or too large for one.
    #[error("the grammar cannot be used: {reason}")]
    Unusable {
        /// What is wrong with the schema, or what llguidance said.
        reason: String,
    },
    /// Grammars of others that took too long are still being made, or the system has no thread.
    #[error("no grammar can be made now: {0}")]
    Busy(String),
    /// Nobody waits for the answer any more.
    #[error("nobody waits for the answer any more")]
    Unwanted,
}

/// What an answer must look like.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AnswerForm {
    /// The schema of a JSON text; `None` allows none.
    pub json: Option<Value>,
    /// Functions as OpenAI describes them, of which at least one is called. With `json` as well it is one or the other.
    pub calls: Vec<Value>,
    /// No more than one call.
    pub one_call: bool,
    /// Text may stand before, between and instead of calls.
    pub free_text: bool,
    /// The answer follows thoughts.
    pub behind_thoughts: bool,
}

/// Makes grammars for one tokenizer and one dialect of calls. Takes a moment to make: keep it.
pub(crate) struct GrammarCompiler {
    factory: Arc<ParserFactory>,
    dialect: &'static Dialect,
    threads: Aside,
}

impl GrammarCompiler {
    /// For a vocabulary whose texts end with one of `stop_ids`.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        stop_ids: &[u32],
        dialect: &'static Dialect,
    ) -> Result<Self, GrammarError> {
        let size = tokenizer.vocab_size();
        let ends: Vec<u32> = stop_ids.iter().copied().filter(|id| (*id as usize) < size).collect();
        let first = *ends.first().ok_or(GrammarError::NoEnd)?;
        let markers: Vec<u32> = dialect.markers().iter().filter_map(|marker| tokenizer.token_to_id(marker)).collect();
        let words: Vec<Vec<u8>> = (0..size as u32)
            .map(|id| {
                let bytes = tokenizer.token_bytes(id).unwrap_or_default();
                match tokenizer.is_special(id) && !markers.contains(&id) {
                    true => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
                    false => bytes.to_vec(),
                }
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, first), &words).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(unusable)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        factory.limits_mut().max_lexer_states = MOST_STATES;
        let threads = Aside::new("grammar", STACK, LONGEST);
        Ok(GrammarCompiler { factory: Arc::new(factory), dialect, threads })
    }

    /// The grammar of answers of this form, made on a thread of its own while `is_wanted`.
    pub(crate) fn compile_while(
        &self,
        form: AnswerForm,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Grammar, GrammarError> {
        let (factory, dialect) = (self.factory.clone(), self.dialect);
        match self.threads.run(is_wanted, move || make(&factory, dialect, &form)) {
            Ok(made) => made,
            Err(GivenUp::Unwanted) => Err(GrammarError::Unwanted),
            Err(reason @ (GivenUp::Busy(_) | GivenUp::NoThread(_))) => Err(GrammarError::Busy(reason.to_string())),
            Err(GivenUp::Panicked(_)) => Err(unusable("it is beyond what llguidance can do")),
            Err(reason @ GivenUp::TooLong(_)) => Err(unusable(reason)),
        }
    }

    /// The same for somebody who waits.
    #[cfg(test)]
    pub(crate) fn compile(&self, form: &AnswerForm) -> Result<Grammar, GrammarError> {
        self.compile_while(form.clone(), &|| true)
    }
}

fn make(factory: &ParserFactory, dialect: &Dialect, form: &AnswerForm) -> Result<Grammar, GrammarError> {
    let text = lark(form, dialect).map_err(unusable)?;
    if text.len() > MOST_BYTES {
        let reason = format!("it is too large: {} bytes as rules, {MOST_BYTES} are possible", text.len());
        return Err(GrammarError::Unusable { reason });
    }
    let parser = factory.create_parser(TopLevelGrammar::from_lark(text)).map_err(unusable)?;
    let grammar = Grammar { matcher: Matcher::new(Ok(parser)) };
    // a schema that nothing fits is found out here, not in the middle of an answer
    grammar.clone().mask()?;
    grammar.matcher.get_error().map_or(Ok(()), |reason| Err(unusable(reason)))?;
    Ok(grammar)
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

/// A grammar at some place of an answer.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
}

impl Grammar {
    /// The tokens that may come now.
    pub(crate) fn mask(&mut self) -> Result<TokenMask, GrammarError> {
        Ok(TokenMask { allowed: self.matcher.compute_mask_or_eos().map_err(unusable)? })
    }

    /// Takes the token that came, which the mask allowed.
    pub(crate) fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        self.matcher.consume_token(token).map_err(unusable)
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

/// Tokens that may come next.
#[derive(Clone, Debug)]
pub(crate) struct TokenMask {
    allowed: SimpleVob,
}

impl TokenMask {
    /// Only `ids`, of a vocabulary of `size` tokens.
    pub(crate) fn of(size: usize, ids: &[u32]) -> Self {
        let mut allowed = SimpleVob::alloc(size);
        ids.iter().for_each(|id| allowed.allow_token(*id));
        TokenMask { allowed }
    }

    /// Whether `id` may come.
    pub(crate) fn allows(&self, id: u32) -> bool {
        (id as usize) < self.allowed.len() && self.allowed.is_allowed(id)
    }

    /// Sets the logits (`[vocab]`) of all other tokens to -inf.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        for (id, logit) in (0..).zip(logits) {
            if !self.allows(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

/// llguidance shows the whole grammar behind what is wrong with it.
fn unusable(error: impl std::fmt::Display) -> GrammarError {
    let said = error.to_string();
    let line = said.lines().next().unwrap_or_default();
    GrammarError::Unusable { reason: line.chars().take(LONGEST_REASON).collect() }
}

/// The form as rules of Lark.
fn lark(form: &AnswerForm, dialect: &Dialect) -> Result<String, SchemaError> {
    let mut rules = Rules::default();
    let mut answers = Vec::new();
    if let Some(schema) = &form.json {
        answers.push("json".to_owned());
        rules.rule("json", &json_of(plain(schema, schema, Strictness::Strict)?));
    }
    if !form.calls.is_empty() {
        for (i, tool) in form.calls.iter().enumerate() {
            (dialect.call_rules)(&mut rules, i, tool)?;
        }
        let calls: Vec<String> = (0..form.calls.len()).map(|i| format!("call_{i}")).collect();
        rules.rule("call", &calls.join(" | "));
        let mark = literal(dialect.call);
        answers.push(match (form.free_text, form.one_call) {
            (true, _) => {
                // one terminal for text and mark: a terminal takes as much as it can
                let text = format!("/(?s:.*)/ & ~(/(?s:.*)/ {mark} /(?s:.*)/)");
                rules.rule("TEXT_AND_MARK", &format!("({text}) {mark}"));
                rules.rule("TEXT", &format!("/(?s:.+)/ & {text}"));
                "(TEXT_AND_MARK call)* TEXT?".to_owned()
            }
            (false, true) => format!("{mark} call"),
            (false, false) => {
                format!("{mark} call ({} call)*", literal(&format!("{}{}", dialect.between_calls, dialect.call)))
            }
        });
    }
    rules.rule("answer", &answers.join(" | "));
    let behind = format!("answer | {} answer", literal(dialect.gap));
    rules.rule("start", if form.behind_thoughts { &behind } else { "answer" });
    Ok(rules.into_text())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::text::QWEN;
    use serde_json::json;
    use std::path::Path;

    fn tokenizer() -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe");
        let json = std::fs::read_to_string(folder.join("tokenizer.json")).unwrap();
        Tokenizer::from_json(&folder.join("tokenizer.json"), &json).unwrap()
    }

    /// Whether a text in the model's own tokens is an answer of the form, from its first token to its end.
    fn fits(form: &AnswerForm, text: &str) -> bool {
        let tokenizer = tokenizer();
        let compiler = GrammarCompiler::new(&tokenizer, &[2, 0], &QWEN).unwrap();
        let mut grammar = compiler.compile(form).unwrap();
        for id in tokenizer.encode(text).unwrap() {
            if !grammar.mask().unwrap().allows(id) {
                return false;
            }
            grammar.accept(id).unwrap();
        }
        let end = grammar.mask().unwrap();
        assert_eq!(end.allows(2), end.allows(0), "both ends or none: {text}");
        end.allows(2)
    }

    fn json_form(schema: Value) -> AnswerForm {
        AnswerForm { json: Some(schema), ..AnswerForm::default() }
    }

    #[test]
    fn json_follows_its_schema() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["name", "age"],
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "pets": {"type": "array", "items": {"$ref": "#/$defs/pet"}}},
            "$defs": {"pet": {"enum": ["cat", "dog"]}},
        });
        let form = json_form(schema);
        for good in [
            r#"{"name": "Mia", "age": 3}"#,
            r#"{"name":"Zoé \"","age":-1, "pets": ["cat","dog"]}"#,
            "{\n  \"name\": \"\",\n  \"age\": 0\n}",
        ] {
            assert!(fits(&form, good), "{good}");
        }
        for bad in [
            "",
            "Sure: {",
            r#"{"name": 3, "age": 3}"#,
            r#"{"name": "Mia"}"#,
            r#"{"name": "Mia", "age": 3, "pets": ["cow"]}"#,
            r#"{"name": "Mia", "age": 3} "#,
        ] {
            assert!(!fits(&form, bad), "{bad}");
        }
        let long = format!("{{{}\"name\"", "\n".repeat(9));
        assert!(!fits(&form, &long), "blanks have a limit");
        for blanks in [" ".repeat(2), "\n".repeat(2), format!("\n{}", " ".repeat(30))] {
            assert!(!fits(&form, &format!("{{{blanks}\"name\": \"\",\"age\":0}}")), "{blanks:?}");
            assert!(!fits(&form, &format!("{{\"name\": \"\",\"age\":0{blanks}}}")), "{blanks:?}");
        }
        assert!(!fits(&form, &format!(" {}", r#"{"name":"","age":0}"#)));
        assert!(fits(&json_form(json!({"type": "object"})), r#"{"a": [1, {"b": null}]}"#));
        assert!(!fits(&json_form(json!({"type": "object"})), "[1]"));
    }

    #[test]
    fn calls_follow_their_tools() {
        let weather = json!({"type": "function", "function": {"name": "get_weather", "parameters": {
            "type": "object", "required": ["city"],
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
        }}});
        let tools = vec![weather, json!({"function": {"name": "stop"}})];
        let form = AnswerForm { calls: tools.clone(), ..AnswerForm::default() };
        let call = |inner: &str| format!("<tool_call>\n<function={inner}</function>\n</tool_call>");
        let lima = call("get_weather>\n<parameter=city>\nLima\nPeru\n</parameter>\n");
        let whole = call(
            "get_weather>\n<parameter=city>\na < b\n</parameter>\n<parameter=days>\n12\n</parameter>\n<parameter=unit>\nC\n</parameter>\n",
        );
        for good in [&lima, &whole, &call("stop>\n"), &format!("{lima}\n{}", call("stop>\n"))] {
            assert!(fits(&form, good), "{good}");
        }
        for bad in [
            "Lima".to_owned(),
            call("get_weather>\n"),
            call("go>\n"),
            call("get_weather>\n<parameter=city>\nLima\n</parameter>\n<parameter=days>\nsoon\n</parameter>\n"),
            call("get_weather>\n<parameter=city>\nLima\n</parameter>\n<parameter=unit>\nK\n</parameter>\n"),
        ] {
            assert!(!fits(&form, &bad), "{bad}");
        }
        let one = AnswerForm { one_call: true, behind_thoughts: true, calls: tools.clone(), ..AnswerForm::default() };
        assert!(fits(&one, &lima) && fits(&one, &format!("\n\n{lima}")) && !fits(&one, &format!("\n\n\n{lima}")));
        assert!(!fits(&one, &format!("{lima}\n{lima}")));
        let free = AnswerForm { free_text: true, calls: tools.clone(), ..AnswerForm::default() };
        for good in ["", "Lima < Quito", &format!("I look.\n{lima}\n{}", call("stop>\n")), &format!("{lima} Done.")] {
            assert!(fits(&free, good), "{good}");
        }
        for bad in ["<tool_call>", "x <tool_call>Lima", &format!("x {}", call("get_weather>\n"))] {
            assert!(!fits(&free, bad), "{bad}");
        }
        let either = AnswerForm { json: Some(json!({"type": "object"})), calls: tools, ..AnswerForm::default() };
        assert!(fits(&either, "{}") && fits(&either, &lima) && !fits(&either, "Lima"));
    }

    #[test]
    fn what_is_no_grammar_is_an_error() {
        let tokenizer = tokenizer();
        let compiler = GrammarCompiler::new(&tokenizer, &[2], &QWEN).unwrap();
        for bad in [
            json!({"type": "fish"}),
            json!({"$ref": "#/$defs/none"}),
            json!(3),
            json!({"type": "string", "pattern": "("}),
        ] {
            let error = compiler.compile(&json_form(bad.clone())).unwrap_err();
            assert!(matches!(error, GrammarError::Unusable { .. }), "{bad}: {error}");
        }
        assert!(matches!(GrammarCompiler::new(&tokenizer, &[], &QWEN), Err(GrammarError::NoEnd)));
    }

    /// Schemas of a few kilobytes that kept every core for good, or ended the program.
    #[test]
    fn what_would_take_too_long_is_refused_in_time() {
        let tokenizer = tokenizer();
        let compiler = GrammarCompiler::new(&tokenizer, &[2], &QWEN).unwrap();
        let chain: serde_json::Map<String, Value> = (0..=400)
            .map(|i| {
                let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
                (
                    format!("d{i}"),
                    if i < 400 { json!({"type": "array", "items": next}) } else { json!({"type": "integer"}) },
                )
            })
            .collect();
        let names: Vec<String> = (0..20_000).map(|i| format!("p{i}")).collect();
        let members: serde_json::Map<String, Value> = names.iter().map(|name| (name.clone(), json!(1))).collect();
        let open: serde_json::Map<String, Value> = names.iter().map(|name| (name.clone(), json!({}))).collect();
        let patterns: Vec<Value> = (0..200).map(|i| json!({"pattern": format!("^.*a{i}.*$")})).collect();
        let union =
            |i: usize| json!({"anyOf": [{"properties": {format!("a{i}"): {}}}, {"properties": {format!("b{i}"): {}}}]});
        let unions: Vec<Value> = (0..24).map(union).collect();
        let same = |pattern: &str| json!({"type": "string", "pattern": pattern});
        let bombs = [
            json!({"$ref": "#/$defs/d0", "$defs": chain}),
            json!({"type": "object", "required": names}),
            json!({"type": "object", "properties": open}),
            json!({"const": members}),
            json!({"type": "string", "allOf": patterns}),
            json!({"type": "integer", "multipleOf": 1_000_003}),
            json!({"type": "object", "allOf": unions}),
            same("^(.*a){40}.{400}b(.*c){40}$"),
            same("^(((a{1,100}){1,100}){1,100}){1,100}$"),
            same("^(a|b)*a(a|b){500}$"),
            json!({"type": "string", "allOf": [same("(a|b)*a(a|b){60}c"), same("(a|b)*b(a|b){50}d")]}),
        ];
        // those that were given up find their end before the next one's time is taken
        let wait = || {
            let since = std::time::Instant::now();
            while compiler.threads.left() > 0 && since.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        for schema in bombs {
            wait();
            let since = std::time::Instant::now();
            let outcome = compiler.compile(&json_form(schema.clone()));
            let text = schema.to_string();
            let start: String = text.chars().take(80).collect();

            assert!(since.elapsed() < LONGEST + Duration::from_secs(10), "{start}");
            assert!(!matches!(outcome, Err(GrammarError::Busy(_))), "{start}");
            // of a tool as well
            let tool = json!({"function": {"name": "f", "strict": true, "parameters": {"type": "object", "properties": {"x": schema}}}});
            let _ = compiler.compile(&AnswerForm { calls: vec![tool], ..AnswerForm::default() });
            assert!(since.elapsed() < 2 * LONGEST + Duration::from_secs(20), "{start}");
        }
        wait();
        assert!(compiler.compile(&json_form(json!({"type": "integer"}))).is_ok());
    }

    #[test]
    fn a_mask_leaves_what_it_allows() {
        let tokenizer = tokenizer();
        let compiler = GrammarCompiler::new(&tokenizer, &[2], &QWEN).unwrap();
        let mut grammar = compiler.compile(&json_form(json!({"const": 7}))).unwrap();
        let mask = grammar.mask().unwrap();
        let mut logits = vec![1.0; tokenizer.vocab_size() + 3];
        mask.apply(&mut logits);
        let seven = tokenizer.encode("7").unwrap()[0] as usize;
        assert_eq!(logits[seven], 1.0);
        assert_eq!(logits.iter().filter(|logit| logit.is_finite()).count(), 1);
        assert!(!mask.allows(u32::MAX));
    }
}
