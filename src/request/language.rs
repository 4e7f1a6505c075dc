//! What stands between a request and the engine: tokenizer, chat template, defaults, grammars. It needs no device, so
//! requests are made ready on any thread while the engine computes.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::conversation::{arrangements, plain_messages, shows_system};
use super::fields::check_tools;
use super::forms::grammar_of;
use super::{Prompt, Request, RequestError, ToolChoice};
use crate::engine::{Engine, EngineError};
use crate::state::chat_boundaries;
use crate::text::{
    ChatTemplate, Content, Grammar, InfillPiece, Message, ModelText, ReplyParser, Sampler, TextError, Tokenizer,
    ToolCall, without_marks,
};

/// Bytes of a text, for each position of the context, beyond which its tokens are counted before it is taken as a whole.
const LONG: usize = 8;

/// Bytes that are counted at a time.
const PIECE: usize = 64 << 10;

/// A loaded model as far as text is concerned.
pub struct Language {
    text: Arc<ModelText>,
    context: usize,
    /// Tokens that the model knows: rows of its embedding.
    rows: usize,
}

/// When text ends, and what it may be.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Most tokens to make.
    pub max_tokens: usize,
    /// Ids that end the text.
    pub stop_ids: Vec<u32>,
    /// Strings that end the text; they are not part of it. They are looked for in the answer, not in thoughts or calls.
    pub stop_strings: Vec<String>,
    /// Positions of the prompt at which the state is kept, because later prompts are likely to begin with the same
    /// tokens; [`chat_boundaries`] finds those of a conversation.
    pub boundaries: Vec<usize>,
    /// Takes the answer apart; the default gives everything as text.
    pub reply: ReplyParser,
    /// The position of a token of the prompt that is chosen anew, among those that begin with its text: where a text is to
    /// go on, it may end in the middle of a word.
    pub heals: Option<usize>,
    /// What the answer must look like; it begins where thoughts end.
    pub grammar: Option<Grammar>,
    /// Most tokens of thoughts: then they are ended, and the answer begins.
    pub thinking_budget: Option<usize>,
    /// Ends behind the first call of a tool.
    pub one_call: bool,
    /// Of how many of the most likely tokens [`Event::Token`](crate::Event::Token) tells the probabilities; `None` is
    /// none, not even the chosen token's.
    pub probabilities: Option<usize>,
    /// Tells those of the prompt's tokens as well ([`Event::Prompt`](crate::Event::Prompt)), which are then all computed.
    pub prompt_probabilities: bool,
}

/// A request that an engine can compute.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub(crate) language: Arc<Language>,
    pub(crate) prompt: Vec<u32>,
    pub(crate) sampler: Sampler,
    pub(crate) options: GenerateOptions,
    seed: u64,
}

impl Prepared {
    /// The tokens of the prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// The seed that tokens are chosen with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Where a later turn of the same conversation parts from this prompt at the earliest.
    #[cfg(feature = "server")]
    pub(crate) fn last_boundary(&self) -> usize {
        self.options.boundaries.last().copied().unwrap_or(0)
    }

    /// The texts that end the answer.
    pub fn stop(&self) -> &[String] {
        &self.options.stop_strings
    }
}

/// A prompt in the form that the model reads.
struct Encoded {
    /// Empty where tokens were given.
    text: String,
    tokens: Vec<u32>,
    /// The last token of a text that is to go on.
    end: Option<usize>,
    /// What it was rendered from, if that is a conversation.
    conversation: Option<Conversation>,
}

/// A conversation as a template takes it.
struct Conversation {
    messages: Vec<Message>,
    tools: Option<Value>,
    /// Whether the last message is the beginning of the answer.
    is_begun: bool,
}

impl Engine {
    /// What turns requests into tokens. It may be used from other threads while the engine computes.
    ///
    /// # Errors
    /// A tokenizer or a `generation_config.json` that is missing or cannot be used.
    pub fn language(&self) -> Result<Arc<Language>, EngineError> {
        Ok(Arc::new(Language { text: self.text()?, context: self.context(), rows: self.shape().vocab }))
    }
}

impl Language {
    /// Positions that the engine has room for.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The text of tokens, special ones among them.
    pub(crate) fn decode(&self, tokens: &[u32]) -> String {
        self.text.tokenizer.decode(tokens, false)
    }

    /// The same of tokens that somebody else gives.
    #[cfg(feature = "server")]
    pub(crate) fn text_of(&self, tokens: &[u32]) -> Result<String, RequestError> {
        self.check_vocabulary(tokens).map_err(|error| error.at("tokens"))?;
        Ok(self.decode(tokens))
    }

    fn check_vocabulary(&self, tokens: &[u32]) -> Result<(), RequestError> {
        let vocab = self.text.tokenizer.vocab_size();
        match tokens.iter().find(|id| **id as usize >= vocab) {
            Some(id) => Err(RequestError::invalid(format!("{id} is no token: there are {vocab}"))),
            None => Ok(()),
        }
    }

    /// The bytes that a token stands for: not always whole characters.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.text.tokenizer.token_bytes(id).unwrap_or_default()
    }

    /// The tokens of a text, in which the spellings of special tokens are those tokens, or text.
    #[cfg(feature = "server")]
    pub(crate) fn tokens_of(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, RequestError> {
        match parse_special {
            true => self.encode(text, false),
            false => self.encode(&self.text.typed.text(text), true),
        }
    }

    /// The prompt of a request as text: empty where tokens were given.
    pub fn rendered(&self, mut request: Request) -> Result<String, RequestError> {
        Ok(without_marks(&self.render(&mut request)?.0))
    }

    /// The tokens of a request's prompt.
    pub fn prompt_tokens(&self, mut request: Request) -> Result<Vec<u32>, RequestError> {
        Ok(self.prompt_of(&mut request)?.tokens)
    }

    /// Whether the model knows all of these tokens: some tokenizers have more than it has embeddings.
    fn check_known(&self, tokens: &[u32]) -> Result<(), RequestError> {
        let Some(id) = tokens.iter().find(|id| **id as usize >= self.rows) else { return Ok(()) };
        let (token, rows) = (self.decode(&[*id]), self.rows);
        let message = format!("the token {token:?} ({id}) is none that the model knows: it has {rows} embeddings");
        Err(RequestError::invalid(message).at("prompt"))
    }

    /// Checks a request and turns it into what [`Session::answer`](crate::Session::answer) takes.
    ///
    /// # Errors
    /// What of the request cannot be done; a prompt that leaves no room for an answer. Nothing is cut off.
    pub fn prepare(self: &Arc<Self>, request: Request) -> Result<Prepared, RequestError> {
        self.prepare_while(request, &|| true)
    }

    /// As [`prepare`](Self::prepare), as long as `is_wanted`: a grammar may take a moment.
    ///
    /// # Errors
    /// As there, and that it was given up.
    pub fn prepare_while(
        self: &Arc<Self>,
        mut request: Request,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Prepared, RequestError> {
        let Encoded { text, tokens: prompt, end, conversation } = self.prompt_of(&mut request)?;
        if prompt.is_empty() {
            return Err(RequestError::invalid("the prompt is empty").at("prompt"));
        }
        self.check_known(&prompt)?;
        // an answer of no tokens needs no room
        if prompt.len() + usize::from(request.max_tokens != Some(0)) > self.context {
            return Err(RequestError::context(prompt.len(), self.context, false));
        }
        let seed = request.seed.unwrap_or_else(any_number);
        let sampler = Sampler::new(request.sampling.or(self.text.sampler), seed)
            .map_err(|e| RequestError::invalid(e.to_string()))?;
        if let Some((id, _)) =
            request.logit_bias.iter().find(|(id, _)| *id as usize >= self.text.tokenizer.vocab_size())
        {
            let message = format!("logit_bias: {id} is no token: there are {}", self.text.tokenizer.vocab_size());
            return Err(RequestError::invalid(message).at("logit_bias"));
        }
        let sampler = sampler.for_answer(std::mem::take(&mut request.logit_bias), prompt.len());
        let heals = end.filter(|at| self.heals(&request, &prompt, *at));
        let boundaries = match &conversation {
            Some(Conversation { messages, tools, .. }) => chat_boundaries(
                self.template()?,
                &self.text.tokenizer,
                messages,
                tools.as_ref(),
                &request.template,
                &prompt,
            ),
            // the same text again, to be continued otherwise
            None => vec![prompt.len() - 1 - usize::from(heals.is_some())],
        };
        if let ToolChoice::Named(name) = &request.tool_choice {
            request.tools.retain(|tool| name_of(tool) == Some(name));
        }
        let reply = match request.prompt {
            Prompt::Chat(_) => ReplyParser::new(self.text.dialect, &text, request.tools.clone()),
            Prompt::Text(_) | Prompt::Tokens(_) | Prompt::Infill { .. } => ReplyParser::default(),
        };
        let one_call = request.one_call || matches!(request.tool_choice, ToolChoice::Named(_));
        let grammar = grammar_of(&self.text, &request, one_call, reply.is_thinking(), is_wanted)?;
        let reply = if grammar.is_some() { reply.with_grammar() } else { reply };
        let mut stop_ids = self.text.stop_ids.clone();
        if let (Prompt::Infill { .. }, Some(infill)) = (&request.prompt, &self.text.infill) {
            stop_ids.extend(infill.ends());
        }
        let options = GenerateOptions {
            // the context ends an answer that nothing else ends
            max_tokens: request.max_tokens.unwrap_or(usize::MAX),
            stop_ids,
            stop_strings: request.stop,
            heals: heals.filter(|_| grammar.is_none()),
            thinking_budget: request.thinking_budget,
            one_call,
            reply,
            grammar,
            probabilities: request.probabilities,
            prompt_probabilities: request.prompt_probabilities,
            boundaries,
        };
        Ok(Prepared { language: self.clone(), prompt, sampler, options, seed })
    }

    /// Whether the token at `at`, the last of a text that is to go on, is chosen anew. Where probabilities are told, every
    /// token is one that was given or one that was chosen.
    fn heals(&self, request: &Request, prompt: &[u32], at: usize) -> bool {
        let tells = request.probabilities.is_some() || request.prompt_probabilities;
        // what begins or ends thoughts and calls stands there as it must
        let is_mark = |id: u32| {
            let marks = self.text.dialect.markers();
            self.tokenizer().is_special(id) || marks.iter().any(|mark| self.tokenizer().token_to_id(mark) == Some(id))
        };
        let around = &prompt[at.saturating_sub(1)..=at];
        at > 0 && !tells && request.max_tokens != Some(0) && !around.iter().any(|id| is_mark(*id))
    }

    fn template(&self) -> Result<&ChatTemplate, RequestError> {
        self.text.template.as_ref().map_err(|reason| RequestError::invalid(reason.clone()))
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.text.tokenizer
    }

    /// Remembers how the model wrote a turn with calls, so that its history reads the same; `thoughts` is whether it
    /// thought before.
    pub(crate) fn keep_turn(&self, calls: &[ToolCall], text: &str, tokens: &[u32], thoughts: bool) {
        let Some(first) = calls.first() else { return };
        let written = self.decode(tokens);
        let Some(call) = written.find(&first.source) else { return };
        let begin = match self.text.dialect.end_of_thoughts(&written[..call]) {
            Some(end) => end,
            // the call itself ended them
            None if thoughts => call,
            None => 0,
        };
        let calls = calls.iter().map(|call| (call.id.clone(), Value::from(call.arguments.clone()).to_string()));
        self.text.replay().keep(calls.collect(), text, &written[begin..]);
    }

    /// The tokens of a text. One that is far too long is refused after the first pieces of it: the tokenizer takes 100
    /// bytes for every byte of text.
    fn encode(&self, text: &str, is_marked: bool) -> Result<Vec<u32>, RequestError> {
        let encode = |text: &str| {
            let tokenizer = &self.text.tokenizer;
            let tokens = if is_marked { tokenizer.encode_marked(text) } else { tokenizer.encode(text) };
            tokens.map_err(|e| RequestError::invalid(e.to_string()))
        };
        let (mut found, mut rest) = (0, if text.len() > LONG * self.context { text } else { "" });
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
            found += encode(piece)?.len();
            // a cut through a word may add some tokens
            if found / 10 * 9 > self.context {
                return Err(RequestError::context(found / 10 * 9, self.context, true));
            }
            rest = after;
        }
        encode(text)
    }

    /// Whether gaps can be filled.
    #[cfg(feature = "server")]
    pub(crate) fn fills_gaps(&self) -> bool {
        self.text.infill.is_some()
    }

    fn infill(
        &self,
        before: &str,
        after: &str,
        files: &[(String, String)],
    ) -> Result<(Vec<u32>, Option<usize>), RequestError> {
        let infill = self.text.infill.as_ref().ok_or_else(|| {
            let message =
                "this model's tokenizer has no tokens for a gap, such as <|fim_prefix|>: it cannot fill one in";
            RequestError::unsupported("suffix", message)
        })?;
        let (mut tokens, mut end) = (Vec::new(), None);
        for piece in infill.prompt(before, after, files) {
            match piece {
                InfillPiece::Token(id) => tokens.push(id),
                InfillPiece::Text(text) => {
                    tokens.extend(self.encode(&self.text.typed.text(text), true)?);
                    // what is filled in goes on with this one
                    if std::ptr::eq(text, before) && !before.is_empty() {
                        end = tokens.len().checked_sub(1);
                    }
                }
            }
        }
        Ok((tokens, end))
    }

    /// The prompt as text and as tokens; checks tools and messages.
    fn prompt_of(&self, request: &mut Request) -> Result<Encoded, RequestError> {
        if let Prompt::Tokens(ids) = &request.prompt {
            self.check_vocabulary(ids).map_err(|error| error.at("prompt"))?;
            let tokens = ids.clone();
            return Ok(Encoded { text: String::new(), tokens, end: None, conversation: None });
        }
        if let Prompt::Infill { before, after, files } = &request.prompt {
            let (tokens, end) = self.infill(before, after, files)?;
            return Ok(Encoded { text: String::new(), tokens, end, conversation: None });
        }
        let (text, conversation) = self.render(request)?;
        let tokens = self.encode(&text, conversation.is_some())?;
        let goes_on = conversation.as_ref().is_none_or(|conversation| conversation.is_begun);
        let end = if goes_on { tokens.len().checked_sub(1) } else { None };
        Ok(Encoded { tokens, text, end, conversation })
    }

    /// The prompt as text, in which what people typed is marked, and the conversation that it was rendered from.
    fn render(&self, request: &mut Request) -> Result<(String, Option<Conversation>), RequestError> {
        check_tools(&request.tools)?;
        match &request.tool_choice {
            ToolChoice::None => request.tools.clear(),
            ToolChoice::Required if request.tools.is_empty() => {
                return Err(RequestError::invalid("a call is required, but there are no tools").at("tool_choice"));
            }
            ToolChoice::Named(name) => {
                if !request.tools.iter().any(|tool| name_of(tool) == Some(name)) {
                    return Err(RequestError::invalid(format!("there is no tool {name:?}")).at("tool_choice"));
                }
            }
            ToolChoice::Auto | ToolChoice::Required => {}
        }
        let messages = match &mut request.prompt {
            Prompt::Tokens(_) | Prompt::Infill { .. } => return Ok((String::new(), None)),
            Prompt::Text(text) => return Ok((text.clone(), None)),
            Prompt::Chat(messages) => std::mem::take(messages),
        };
        let mut plain = plain_messages(messages)?;
        plain.iter_mut().for_each(|message| self.text.replay().restore(message));
        plain.iter_mut().for_each(|message| self.text.typed.message(message));
        let mut tools = tools_of(request);
        tools.iter_mut().for_each(|tools| self.text.typed.value(tools));
        let template = self.template()?;
        let (mut dropped, mut refused) = (None, None);
        for messages in arrangements(&plain) {
            match render_answered(template, &messages, tools.as_ref(), request) {
                Ok(text) if shows_system(&text, &messages) => {
                    let is_begun = begun(&messages, request).is_some();
                    return Ok((text, Some(Conversation { messages, tools, is_begun })));
                }
                Ok(text) => drop(dropped.get_or_insert((text, messages))),
                Err(e @ TextError::TemplateBusy { .. }) => return Err(RequestError::busy(e.to_string())),
                Err(e) => drop(refused.get_or_insert(e)),
            }
        }
        match (dropped, refused) {
            (Some((text, messages)), _) => {
                let is_begun = begun(&messages, request).is_some();
                Ok((text, Some(Conversation { messages, tools, is_begun })))
            }
            (None, refused) => {
                let reason = refused.map(|e| without_folder(&e)).unwrap_or_default();
                Err(RequestError::invalid(reason).at("messages"))
            }
        }
    }
}

/// What is wrong with a template, by the name of its file alone: whoever asks need not know where on this machine it is.
fn without_folder(error: &TextError) -> String {
    match error {
        TextError::ChatTemplate { path, line, reason } => {
            let path = path.file_name().map_or_else(|| path.clone(), PathBuf::from);
            TextError::ChatTemplate { path, line: *line, reason: reason.clone() }.to_string()
        }
        other => other.to_string(),
    }
}

/// The text of an answer that is begun, and the messages before it.
fn begun<'m>(messages: &'m [Message], request: &Request) -> Option<(&'m String, &'m [Message])> {
    match messages.split_last() {
        Some((Message { role, content: Content::Text(text), tool_calls: None, .. }, before))
            if role == "assistant" && !request.new_turn && !text.trim().is_empty() =>
        {
            Some((text, before))
        }
        _ => None,
    }
}

/// A conversation with its answer to come: with the beginning of one, or, where the last message is the assistant's and
/// no turn of its own, up to the end of that message.
fn render_answered(
    template: &ChatTemplate,
    messages: &[Message],
    tools: Option<&Value>,
    request: &Request,
) -> Result<String, TextError> {
    let extra = &request.template;
    let Some((text, before)) = begun(messages, request) else { return template.render(messages, tools, true, extra) };
    // templates trim what they are given
    let (written, blanks) = text.split_at(text.trim_end().len());
    let mut rendered = template.render(messages, tools, false, extra)?;
    match rendered.rfind(written.trim_start()) {
        Some(at) => rendered.truncate(at + written.trim_start().len()),
        // the template makes something else of it
        None => rendered = template.render(before, tools, true, extra)? + written,
    }
    Ok(rendered + blanks)
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Language").field("context", &self.context).finish_non_exhaustive()
    }
}

/// The tools as a template sees them: nothing where there are none.
fn tools_of(request: &Request) -> Option<Value> {
    (!request.tools.is_empty()).then(|| Value::from(request.tools.clone()))
}

fn name_of(tool: &Value) -> Option<&str> {
    tool.pointer("/function/name").and_then(Value::as_str)
}

/// A number that is not used again.
pub(crate) fn any_number() -> u64 {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    time.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// A new id, such as `chatcmpl-3f…`.
pub(crate) fn new_id(prefix: &str) -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    static HASH: OnceLock<RandomState> = OnceLock::new();
    let mut hasher = HASH.get_or_init(RandomState::new).build_hasher();
    hasher.write_u64(any_number());
    format!("{prefix}{:016x}{:08x}", hasher.finish(), any_number() as u32)
}
