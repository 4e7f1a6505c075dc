use super::{attention, delta_net, feed_forward, moe};
use crate::model::recorder::{RecordError, Recorder};
use crate::model::shape::{FeedForward, Mixer, Shape};

/// A decoder whose layers norm before what they add: `x = embed(tokens)`, then of each layer
/// `x += mixer(norm(x))` and `x += feed_forward(norm(x))`, and the logits of `norm(x)`.
pub(crate) fn decoder(r: &mut Recorder<'_>, shape: &Shape) -> Result<(), RecordError> {
    let x = r.embed(shape.vocab, shape.hidden)?;
    for (i, layer) in shape.layers.iter().enumerate() {
        r.begin_layer(i);
        let normed = r.norm("input_norm", x)?;
        match &layer.mixer {
            Mixer::Attention(shape) => attention(r, shape, normed, x)?,
            Mixer::DeltaNet(shape) => delta_net(r, shape, normed, x)?,
        }
        let normed = r.norm("post_norm", x)?;
        match &layer.feed_forward {
            FeedForward::Dense { width } => feed_forward(r, *width, normed, x)?,
            FeedForward::Moe(shape) => moe(r, shape, normed, x)?,
        }
        r.end_layer(i);
    }
    let normed = r.norm("norm", x)?;
    r.logits(normed, shape.tied_embeddings)
}
