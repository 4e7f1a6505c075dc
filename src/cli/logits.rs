//! `flashflood logits`: runs given token ids and writes what came out, to hold the engine against another.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use flashflood::compute::LogitRows;
use flashflood::engine::Engine;
use flashflood::session::Session;
use safetensors::tensor::{Dtype, TensorView};

use super::model::{ResourceArgs, open_source};
use super::output::write_whole;
use super::{Interrupted, interrupted};

/// Run token ids and write logits and routing as safetensors
#[derive(Args)]
pub(crate) struct LogitsArgs {
    /// Model: a snapshot folder, a GGUF file, a pack, or the name of a repository in the Hugging Face cache
    model: PathBuf,
    #[command(flatten)]
    resources: ResourceArgs,
    /// Token ids: 1,2,3 or @FILE with ids between commas or blanks
    #[arg(long, value_name = "IDS|@FILE", env = "FLASHFLOOD_LOGITS_TOKENS")]
    tokens: String,
    /// One token after the other, as in decode
    #[arg(long, conflicts_with = "chunk")]
    step: bool,
    /// Also write the output of every operation whose label contains OP, such as layer.3.mixer_out; the norm that follows a
    /// sum may be its second output, and on a GPU with --step not scaled yet
    #[arg(long, value_name = "OP")]
    dump: Vec<String>,
    /// File to write: `logits` f32 [tokens, vocab], `routing` u32 [tokens, MoE layers, top_k], dumps f32 [rows, width]
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: LogitsArgs) -> anyhow::Result<()> {
    let ids = token_ids(&args.tokens)?;
    // before hours of work, not after
    if args.out.is_dir() || !args.out.parent().is_none_or(|folder| folder == Path::new("") || folder.is_dir()) {
        bail!("{}: expected a file in a folder that exists", args.out.display());
    }
    let mut options = args.resources.options();
    options.context = args.resources.context.or(Some(ids.len()));
    let source = open_source(&args.model, &args.resources.stripe)?;
    let mut engine = Engine::from_source(source, &options)?;
    let vocab = engine.shape().vocab;
    let mut session = engine.session()?;
    session.dump(args.dump.clone());
    let mut logits: Vec<f32> = Vec::with_capacity(ids.len() * vocab);
    let mut routing: Vec<u32> = Vec::new();
    // of each layer with experts
    let mut top_k: Vec<usize> = Vec::new();
    let mut dumps: Vec<(String, usize, Vec<f32>)> = Vec::new();
    let mut failed = None;
    let mut keep = |session: &mut Session<'_>| {
        match session.logits() {
            Ok(rows) => {
                let tokens = rows.len() / vocab;
                top_k = session.routing().iter().map(|layer| layer.len() / tokens).collect();
                for t in 0..tokens {
                    let layers = session.routing().iter().zip(&top_k);
                    routing.extend(layers.flat_map(|(layer, top_k)| &layer[t * top_k..(t + 1) * top_k]));
                }
                logits.extend(rows);
            }
            Err(e) => failed = Some(e),
        }
        for (label, width, values) in session.take_dumps() {
            match dumps.iter_mut().find(|(known, ..)| *known == label) {
                Some((_, _, all)) => all.extend(values),
                None => dumps.push((label, width, values)),
            }
        }
        failed.is_none() && !interrupted()
    };
    if args.step {
        for &id in &ids {
            session.decode(id)?;
            if !keep(&mut session) {
                break;
            }
        }
    } else {
        session.extend(&ids, LogitRows::All, |session, _| keep(session))?;
    }
    if let Some(e) = failed {
        return Err(e.into());
    }
    if interrupted() {
        return Err(Interrupted.into());
    }
    if dumps.is_empty() && !args.dump.is_empty() {
        bail!("no operation's label contains {} (hint: labels look like layer.3.mixer_out)", args.dump.join(" or "));
    }
    let mut tensors: Vec<(String, Dtype, Vec<usize>, &[u8])> =
        vec![("logits".to_owned(), Dtype::F32, vec![ids.len(), vocab], bytemuck::cast_slice(&logits))];
    // layers that differ stand one after the other; a model without routed experts has none
    if let Some(&first) = top_k.first() {
        let is_even = top_k.iter().all(|of| *of == first);
        let shape = if is_even { vec![top_k.len(), first] } else { vec![top_k.iter().sum()] };
        let shape = [vec![ids.len()], shape].concat();
        tensors.push(("routing".to_owned(), Dtype::U32, shape, bytemuck::cast_slice(&routing)));
    }
    for (label, width, values) in &dumps {
        let shape = vec![values.len() / width, *width];
        tensors.push((label.clone(), Dtype::F32, shape, bytemuck::cast_slice(values)));
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    write_whole(&args.out, |place| Ok(safetensors::serialize_to_file(views, None, place)?))
}

fn token_ids(text: &str) -> anyhow::Result<Vec<u32>> {
    let text = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.to_owned())?,
        None => text.to_owned(),
    };
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|w| !w.is_empty());
    let ids = words
        .map(|word| word.parse().with_context(|| format!("token id '{word}': expected a whole number")))
        .collect::<anyhow::Result<Vec<u32>>>()?;
    if ids.is_empty() {
        bail!("no token ids (hint: --tokens 1,2,3 or --tokens @FILE)");
    }
    Ok(ids)
}
