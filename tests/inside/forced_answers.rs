//! What grammars allow, against what was asked for: answers of tokens taken at random from the masks, read back and validated
//! under the schema that they were made for.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::text::{
    AnswerForm, Dialect, Grammar, GrammarCompiler, GrammarError, QWEN, ReplyParser, ReplyPart, Tokenizer,
};

/// The embedded model's tokenizer.
fn tokenizer() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe/tokenizer.json");
    Tokenizer::from_json(&path, &std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// The dialect of a template that shows calls as JSON.
fn json_dialect() -> &'static Dialect {
    Dialect::taught_by("<tool_call>\n{\"name\": .., \"arguments\": ..}\n</tool_call>")
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }
}

/// What ends a text, a list or a call: long walks are led there.
const ENDS: [&str; 10] = [
    "\n</parameter>\n",
    "</function>\n</tool_call>",
    "}\n</tool_call>",
    "\"",
    "]",
    "}",
    "0",
    ": 1",
    "@a.bc\"",
    "@a.bc\n</parameter>\n",
];

/// Most tokens of a walk before it is led to an end.
const WILD: usize = 24;

struct Walker {
    tokenizer: Tokenizer,
    compiler: GrammarCompiler,
    markers: Vec<u32>,
}

impl Walker {
    fn new(dialect: &'static Dialect) -> Self {
        let tokenizer = tokenizer();
        let compiler = GrammarCompiler::new(&tokenizer, &[2], dialect).unwrap();
        let markers = dialect.markers().iter().filter_map(|marker| tokenizer.token_to_id(marker)).collect();
        Walker { tokenizer, compiler, markers }
    }

    /// An answer of tokens that the masks allow.
    fn walk(&self, form: &AnswerForm, random: &mut Random) -> String {
        let mut grammar = self.compiler.compile(form).unwrap();
        let mut tokens = Vec::new();
        for step in 0.. {
            assert!(step < 3_000, "no end: {:?}", self.tokenizer.decode(&tokens, false));
            let mask = grammar.mask().unwrap();
            let may_end = mask.allows(2);
            if may_end && (step > WILD || random.below(3) == 0) {
                break;
            }
            if step > WILD && random.below(2) == 0 {
                let end = ENDS[random.below(ENDS.len())];
                if let Some((after, written)) = self.written(&grammar, end) {
                    grammar = after;
                    tokens.extend(written);
                    continue;
                }
            }
            // marks of calls within texts are the reader's affair
            let allowed: Vec<u32> =
                (0..self.tokenizer.vocab_size() as u32).filter(|id| *id != 2 && mask.allows(*id)).collect();
            let plain: Vec<u32> = allowed.iter().copied().filter(|id| !self.markers.contains(id)).collect();
            let choices = if plain.is_empty() { allowed } else { plain };
            assert!(may_end || !choices.is_empty(), "stuck behind {:?}", self.tokenizer.decode(&tokens, false));
            if choices.is_empty() {
                break;
            }
            let token = choices[random.below(choices.len())];
            grammar.accept(token).unwrap();
            tokens.push(token);
        }
        self.tokenizer.decode(&tokens, false)
    }

    /// The grammar behind a text, and its tokens, if the text may come.
    fn written(&self, grammar: &Grammar, text: &str) -> Option<(Grammar, Vec<u32>)> {
        let mut grammar = grammar.clone();
        let tokens = self.tokenizer.encode(text).unwrap();
        for token in &tokens {
            if !grammar.mask().ok()?.allows(*token) {
                return None;
            }
            grammar.accept(*token).ok()?;
        }
        Some((grammar, tokens))
    }
}

fn tool(parameters: &Value) -> Value {
    json!({"type": "function", "function": {"name": "plan", "parameters": parameters}})
}

/// The one call of an answer.
fn called(dialect: &'static Dialect, answer: &str, tool: &Value) -> Value {
    let mut parser = ReplyParser::new(dialect, "", vec![tool.clone()]).with_grammar();
    let mut parts = parser.push(answer);
    parts.extend(parser.finish());
    // told in pieces before it is whole
    parts.retain(|part| !matches!(part, ReplyPart::CallBegin(_) | ReplyPart::CallArguments(_)));
    match &parts[..] {
        [ReplyPart::ToolCall(call)] if call.name == "plan" => call.arguments.clone().into(),
        other => panic!("no call: {answer:?}: {other:?}"),
    }
}

/// Schemas of objects, of every construct.
fn objects() -> Vec<Value> {
    let person = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"], "additionalProperties": false});
    let property = |schema: Value| json!({"type": "object", "properties": {"x": schema}, "required": ["x"]});
    let with_definitions = |schema: Value| {
        let mut whole = property(schema);
        whole["$defs"] = json!({"Person": person, "Kind": {"enum": ["day", "week"], "title": "Kind", "type": "string"},
            "Tree": {"type": "object", "properties": {"left": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]}}, "required": ["left"], "additionalProperties": false}});
        whole
    };
    let mut schemas: Vec<Value> = [
        json!({"type": "string"}),
        json!({"type": "integer"}),
        json!({"type": "integer", "minimum": -5, "maximum": 9_223_372_036_854_775_807_i64}),
        json!({"type": "integer", "minimum": -9_007_199_254_740_991_i64, "maximum": 9_007_199_254_740_991_i64}),
        json!({"type": "integer", "multipleOf": 5, "minimum": -1000, "maximum": 100_000}),
        json!({"type": "boolean"}),
        json!({"type": "null"}),
        json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
        json!({"type": ["integer", "null"]}),
        json!({"type": ["string", "null"]}),
        json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        json!({"anyOf": [{"type": "string"}, {"type": "null"}], "default": null, "title": "X"}),
        json!({"oneOf": [{"type": "integer"}, {"type": "boolean"}]}),
        json!({"anyOf": [{"type": "string", "maxLength": 2}, {"type": "array", "items": {"type": "integer"}}]}),
        json!({"enum": [1, 2]}),
        json!({"enum": ["a", 1, null, true, [1], {"b": 2}]}),
        json!({"const": "only"}),
        json!({"const": 2.5}),
        json!({"type": "string", "enum": ["C", "F", "it's \"quoted\""]}),
        json!({"type": "string", "minLength": 2, "maxLength": 4}),
        json!({"type": "string", "pattern": "^[a-z]{2,3}$"}),
        json!({"type": "string", "minLength": 1, "maxLength": 65_536}),
        json!({"type": "string", "pattern": "^[a-z0-9_-]+$", "minLength": 1, "maxLength": 64}),
        json!({"type": "string", "pattern": "b"}),
        json!({"type": "string", "pattern": "^(a|b)+-\\d{2}$"}),
        json!({"type": "string", "pattern": "^#?[0-9a-f]{6}$|^none$"}),
        json!({"type": "string", "format": "password"}),
        json!({"type": "string", "format": "date-time"}),
        json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3}),
        json!({"type": "array", "items": {"enum": [1, 2]}, "minItems": 1}),
        json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": false, "minItems": 2}),
        json!({"items": {"type": "integer"}}),
        json!({"type": "object"}),
        json!({"type": "object", "additionalProperties": {"type": "integer"}}),
        json!({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "number"}, "required": ["a"]}),
        json!({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": {"type": "boolean"}}),
        json!({"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": false}),
        json!({"allOf": [{"type": "object"}, {"properties": {"a": {"type": "integer"}}, "required": ["a"]}]}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "unevaluatedProperties": false}),
        json!({}),
        json!(true),
        json!({"description": "anything", "default": 3, "examples": [1]}),
    ]
    .into_iter()
    .map(property)
    .collect();
    schemas.extend(
        [
            json!({"$ref": "#/$defs/Person"}),
            json!({"$ref": "#/$defs/Person", "description": "who", "type": "object"}),
            json!({"allOf": [{"$ref": "#/$defs/Person"}], "default": {"name": "a", "age": 1}}),
            json!({"anyOf": [{"$ref": "#/$defs/Kind"}, {"type": "null"}]}),
            json!({"type": "array", "items": {"$ref": "#/$defs/Person"}}),
            json!({"$ref": "#/$defs/Kind"}),
            json!({"$ref": "#/$defs/Tree"}),
        ]
        .into_iter()
        .map(with_definitions),
    );
    schemas.extend([
        json!({"$ref": "#/$defs/P", "$defs": {"P": person}}),
        json!({"$ref": "#/definitions/P", "definitions": {"P": person}, "$schema": "http://json-schema.org/draft-07/schema#"}),
        json!({"type": "object", "anyOf": [person, {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"], "additionalProperties": false}]}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        json!({"allOf": [person, {"required": ["age"]}]}),
        json!({"type": "object", "properties": {}}),
        json!({"type": "object", "additionalProperties": {"type": "integer"}}),
        // as an MCP server sends them
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {
            "path": {"type": "string", "description": "where"}, "limit": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9_007_199_254_740_991_i64, "default": 10},
            "deep": {"type": "object", "additionalProperties": {}}}, "required": ["path"], "additionalProperties": {}}),
        // as zod writes a union told apart by a word
        json!({"type": "object", "properties": {"op": {"oneOf": [
            {"type": "object", "properties": {"kind": {"type": "string", "const": "add"}, "n": {"type": "number"}}, "required": ["kind", "n"], "additionalProperties": false},
            {"type": "object", "properties": {"kind": {"type": "string", "const": "stop"}}, "required": ["kind"], "additionalProperties": false}]},
            "mail": {"type": "string", "format": "email", "pattern": "^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$"}},
            "required": ["op"], "additionalProperties": false}),
        // as pydantic writes a model for OpenAI's strict tools
        json!({"$defs": {"Status": {"enum": ["open", "shut"], "title": "Status", "type": "string"}}, "properties": {
            "status": {"allOf": [{"$ref": "#/$defs/Status"}], "default": "open"}, "tags": {"items": {"type": "string"}, "title": "Tags", "type": "array", "uniqueItems": true},
            "when": {"anyOf": [{"format": "date", "type": "string"}, {"type": "null"}], "title": "When"}, "pair": {"maxItems": 2, "minItems": 2, "prefixItems": [{"type": "integer"}, {"type": "string"}], "type": "array"}},
            "required": ["status", "when", "pair"], "title": "Query", "type": "object", "additionalProperties": false}),
    ]);
    schemas
}

/// A validator that looks at all but what is said to be passed over, and knows what people call types.
fn validator(schema: &Value) -> jsonschema::Validator {
    let text =
        schema.to_string().replace("\"uniqueItems\":true", "\"uniqueItems\":false").replace("\"oneOf\"", "\"anyOf\"");
    let text = text.replace("\"int\"", "\"integer\"").replace(r"(?!\\.)(?!.*\\.\\.)", "");
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
}

/// A number's exponent has no limit, but 64 bits do.
fn is_beyond_floats(answer: &str) -> bool {
    let mut exponents = answer.match_indices(['e', 'E']).map(|(at, _)| answer[at + 1..].trim_start_matches(['+', '-']));
    exponents.any(|rest| rest.bytes().take_while(u8::is_ascii_digit).count() > 2)
}

fn calls_obey(dialect: &'static Dialect, runs: usize, more: &[Value]) {
    let walker = Walker::new(dialect);
    let mut random = Random(7);
    // answers cannot be held to a number of members, arguments can
    let some = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": {"enum": ["x"]}},
        "minProperties": 2, "additionalProperties": false});
    let one =
        json!({"allOf": [{"minProperties": 1}, {"properties": {"a": {"type": "integer"}, "b": {"type": "null"}}}]});
    for parameters in objects().into_iter().chain([some, one]).chain(more.iter().cloned()) {
        let tool = tool(&parameters);
        let validator = validator(&parameters);
        let form = AnswerForm { calls: vec![tool.clone()], one_call: true, ..AnswerForm::default() };
        for _ in 0..runs {
            let answer = walker.walk(&form, &mut random);
            if is_beyond_floats(&answer) {
                continue;
            }
            let arguments = called(dialect, &answer, &tool);
            if let Err(error) = validator.validate(&arguments) {
                panic!("{parameters}: {answer:?} is read as {arguments}: {error}");
            };
        }
    }
}

#[test]
fn the_template_says_how_calls_are_written() {
    assert!(std::ptr::eq(Dialect::taught_by("<tool_call>\\n<function=example>\\n and \"arguments\""), &QWEN));
    assert!(std::ptr::eq(Dialect::taught_by("no tools"), &QWEN));
    assert!(!std::ptr::eq(json_dialect(), &QWEN));
    // as a template has it within a text of its own
    let escaped = r#"{{ '<tool_call>\n{\"name\": \"f\", \"arguments\": ..}' }}"#;
    assert!(std::ptr::eq(Dialect::taught_by(escaped), json_dialect()));
}

#[test]
fn calls_as_xml_obey_their_schemas() {
    let others = json!({"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2});
    calls_obey(&QWEN, 6, &[others]);
}

#[test]
fn calls_as_json_obey_their_schemas() {
    calls_obey(json_dialect(), 6, &[]);
}

#[test]
fn answers_obey_their_schemas() {
    let walker = Walker::new(&QWEN);
    let mut random = Random(11);
    let person = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    let roots = [
        json!({"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": true}),
        json!({"anyOf": [{"$ref": "#/$defs/P"}, {"type": "array", "items": {"$ref": "#/$defs/P"}}], "$defs": {"P": person}}),
        json!({"enum": ["a", 1, null]}),
        json!({"type": ["string", "integer"]}),
        json!({"type": "int"}),
        json!({"type": "string", "format": "binary"}),
    ];
    for schema in objects().into_iter().chain(roots) {
        let validator = validator(&schema);
        let form = AnswerForm { json: Some(schema.clone()), ..AnswerForm::default() };
        for _ in 0..4 {
            let answer = walker.walk(&form, &mut random);
            if is_beyond_floats(&answer) {
                continue;
            }
            let value: Value =
                serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {schema}: {answer:?}"));
            assert!(validator.is_valid(&value), "{schema}: {answer:?}");
        }
    }
}

/// Schemas that are made to take long.
fn bombs() -> Vec<(&'static str, Value)> {
    let chain = |part: &dyn Fn(usize) -> Value, length: usize| {
        let definitions: serde_json::Map<String, Value> = (0..length).map(|i| (format!("a{i}"), part(i + 1))).collect();
        let mut definitions = Value::from(definitions);
        definitions[format!("a{length}")] = json!({"type": "integer"});
        json!({"type": "object", "properties": {"x": {"$ref": "#/$defs/a0"}}, "required": ["x"], "$defs": definitions})
    };
    let to = |i: usize| json!({"$ref": format!("#/$defs/a{i}")});
    let property = |schema: Value| json!({"type": "object", "properties": {"x": schema}, "required": ["x"]});
    let mut deep = json!({"type": "integer"});
    for _ in 0..60 {
        deep = json!({"type": "array", "items": deep});
    }
    let words: Vec<String> = (0..50_000).map(|i| format!("word {i}")).collect();
    let many: serde_json::Map<String, Value> =
        (0..5_000).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect();
    let unions: Vec<Value> = (0..12).map(|i| json!({"anyOf": (0..12).map(|j| json!({"properties": {format!("p{i}{j}"): {"type": "integer"}}})).collect::<Vec<_>>()})).collect();
    vec![
        (
            "doubling references",
            chain(&|i| json!({"type": "object", "properties": {"l": to(i), "r": to(i)}, "required": ["l", "r"]}), 40),
        ),
        ("doubling all", chain(&|i| json!({"allOf": [to(i), to(i)]}), 40)),
        ("doubling any", chain(&|i| json!({"anyOf": [to(i), to(i)]}), 40)),
        ("a long way", chain(&|i| json!({"type": "object", "properties": {"l": to(i)}, "required": ["l"]}), 5_000)),
        ("a circle of references", chain(&|i| to(i % 40), 40)),
        ("deep", property(deep)),
        ("as deep as may be", chain(&|i| json!({"type": "object", "properties": {"l": to(i)}, "required": ["l"]}), 90)),
        ("deeper", chain(&|i| json!({"type": "object", "properties": {"l": to(i)}, "required": ["l"]}), 400)),
        ("least items", property(json!({"type": "array", "minItems": 1_000_000_000}))),
        ("most items", property(json!({"type": "array", "items": {"type": "integer"}, "maxItems": 1_000_000_000}))),
        (
            "most items of most items",
            property(
                json!({"type": "array", "maxItems": 99_999, "items": {"type": "array", "maxItems": 99_999, "items": {"type": "string", "maxLength": 99_999}}}),
            ),
        ),
        ("least length", property(json!({"type": "string", "minLength": 1_000_000_000}))),
        ("most length", property(json!({"type": "string", "maxLength": 1_000_000_000}))),
        ("long length", property(json!({"type": "string", "minLength": 9_000, "maxLength": 90_000}))),
        ("many words", property(json!({"enum": words}))),
        ("some words", property(json!({"enum": words[..5_000]}))),
        ("many properties", json!({"type": "object", "properties": many})),
        ("products", json!({"type": "object", "allOf": unions})),
        ("a product within", property(json!({"type": "object", "allOf": unions}))),
        ("long pattern", property(json!({"type": "string", "pattern": "(a|b)*c".repeat(10_000)}))),
        ("repeated pattern", property(json!({"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"}))),
        ("wide pattern", property(json!({"type": "string", "pattern": "(a|b)*a(a|b){40}c.*(x|y)*y(x|y){40}z"}))),
        (
            "nested pattern",
            property(json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(1_900), ")*".repeat(1_900))})),
        ),
        (
            "two patterns",
            property(
                json!({"allOf": [{"type": "string", "pattern": "(a|b)*a(a|b){30}$"}, {"pattern": "^(b|c){3,70}"}, {"minLength": 40, "maxLength": 4_000}]}),
            ),
        ),
        (
            "large numbers",
            property(json!({"type": "number", "minimum": -1e300, "maximum": 1e300, "multipleOf": 0.001})),
        ),
        (
            "many patterns",
            property(
                json!({"type": "object", "patternProperties": (0..200).map(|i| (format!("^{i}x.*"), json!({"type": "integer"}))).collect::<serde_json::Map<_, _>>()}),
            ),
        ),
    ]
}

#[test]
fn schemas_that_would_take_long_end_soon() {
    let walkers = [("xml", Walker::new(&QWEN)), ("json", Walker::new(json_dialect()))];
    for (name, schema) in bombs() {
        let tool = tool(&schema);
        let forms = [
            AnswerForm { calls: vec![tool], ..AnswerForm::default() },
            AnswerForm { json: Some(schema), ..AnswerForm::default() },
        ];
        for ((dialect, walker), form) in walkers.iter().flat_map(|walker| forms.iter().map(move |form| (walker, form)))
        {
            let since = Instant::now();
            let made = walker.compiler.compile(form);
            let took = since.elapsed();
            if std::env::var_os("FLASHFLOOD_SHOW").is_some() {
                let kind = if form.json.is_some() { "answer" } else { dialect };
                eprintln!(
                    "{name} {kind}: {took:?} {:?}",
                    made.as_ref().err().map(|e| e.to_string().chars().take(200).collect::<String>())
                );
            }
            // half a second at most on an idle machine
            assert!(took < Duration::from_secs(5), "{name}: {took:?}");
            match made {
                Ok(_) => {}
                Err(GrammarError::Unusable { reason }) => assert!(reason.len() > 20, "{name}: {reason}"),
                Err(other) => panic!("{name}: {other}"),
            }
        }
    }
}

#[test]
fn what_cannot_be_followed_is_named() {
    let compiler = Walker::new(&QWEN).compiler;
    let object = |schema: Value| json!({"type": "object", "properties": {"x": schema}, "required": ["x"]});
    for (schema, said) in [
        (json!({"type": "string", "pattern": "^(?!x)[a-z]+$"}), "look-around"),
        (json!({"type": "string", "pattern": "^(a)\\1$"}), "back-reference"),
        (json!({"type": "string", "not": {"const": "a"}}), "\"not\""),
        (json!({"if": {"type": "string"}, "then": {"minLength": 2}}), "\"if\""),
        (json!({"type": "fish"}), "\"fish\""),
        (json!({"$ref": "#/$defs/none"}), "#/$defs/none"),
        (json!({"$ref": "https://example.com/schema"}), "https://example.com/schema"),
        (json!({"type": "array", "minItems": 1_000_000_000}), "minItems"),
        (json!({"enum": []}), "enum"),
    ] {
        let form = AnswerForm { json: Some(object(schema.clone())), ..AnswerForm::default() };
        let error = compiler.compile(&form).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("properties/x"), "{schema}: {error}");
        // tools that ask to be followed to the letter are told so as well, others are followed as far as that goes
        let mut strict = tool(&object(schema));
        strict["function"]["strict"] = true.into();
        let form = AnswerForm { calls: vec![strict], ..AnswerForm::default() };
        assert!(compiler.compile(&form).is_err(), "{said}");
    }
    let lenient = tool(&object(json!({"type": "string", "pattern": "^(?!x)[a-z]+$", "not": {"const": "a"}})));
    assert!(compiler.compile(&AnswerForm { calls: vec![lenient], ..AnswerForm::default() }).is_ok());
}
