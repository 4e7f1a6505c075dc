//! Back to every position of a timeline, and on from there.

use crate::compute::LogitRows;
use crate::weights::safetensors::TensorSet;

use super::*;

/// Tokens of the oracle and its logits, `[tokens, vocab]`.
fn oracle() -> (Vec<u32>, Vec<f32>) {
    let tensors = TensorSet::open_file(&tiny().join("oracle.safetensors")).unwrap();
    let bytes = &tensors.get("tokens").unwrap().bytes;
    let tokens = bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
    (tokens, tensors.get("logits_prefill").unwrap().to_f32().unwrap())
}

/// Logits of all tokens from where the session stands, in one step.
fn all_logits(session: &mut Session<'_>, tokens: &[u32]) -> Vec<f32> {
    session.extend(tokens, LogitRows::All, |_, _| true).unwrap();
    session.logits().unwrap()
}

fn check_every_cut(device: Device) {
    let (tokens, golden) = oracle();
    let mut engine = engine(&tiny(), device, 96);
    let vocab = engine.shape().vocab;
    let expected = all_logits(&mut engine.session().unwrap(), &tokens);
    let difference = largest_difference(&expected, &golden);
    assert!(difference <= TOLERANCE, "{device:?}: uninterrupted logits differ by {difference}");
    let row = |t: usize| &expected[t * vocab..(t + 1) * vocab];

    let mut session = engine.session().unwrap();
    session.keep_checkpoints(EVERYWHERE);
    assert_eq!(sync(&mut session, &tokens, &[]), Synced { reused: 0, computed: 96, interrupted: false });
    assert_eq!(session.checkpoints(), (1..96).collect::<Vec<_>>());
    assert!(agree(device, &session.logits().unwrap(), row(95)), "{device:?}: checkpoints on the way change logits");
    for cut in (1..96).rev() {
        // another token here: what comes after is gone
        let other = [&tokens[..cut], &[(tokens[cut] + 1) % 100]].concat();
        let one = Synced { reused: cut, computed: 1, interrupted: false };
        assert_eq!(sync(&mut session, &other, &[]), one);
        assert_eq!(session.tokens(), other);
        assert!(bits(&session.logits().unwrap()) != bits(row(cut)), "another token gives other logits");
        assert_eq!(session.checkpoints(), (1..=cut).collect::<Vec<_>>());
        assert_eq!(sync(&mut session, &tokens[..=cut], &[]), one);
        let mut found = session.logits().unwrap();
        if cut < 95 {
            found.extend(all_logits(&mut session, &tokens[cut + 1..]));
        }
        assert!(
            agree(device, &found, &expected[cut * vocab..]),
            "{device:?}: not the same logits after a cut at {cut}"
        );
        let difference = largest_difference(&found, &golden[cut * vocab..]);
        assert!(difference <= TOLERANCE, "{device:?}: logits after a cut at {cut} differ by {difference}");
    }
}

/// Text after a restored state is that without the detour.
fn check_decode(device: Device) {
    let (tokens, _) = oracle();
    let mut engine = engine(&tiny(), device, 40);
    for cut in [1, 5, 48, 90] {
        let decode = |session: &mut Session<'_>| {
            let logits = tokens[cut..].iter().take(4).map(|&token| {
                session.decode(token).unwrap();
                session.logits().unwrap()
            });
            logits.collect::<Vec<_>>().concat()
        };
        let mut session = engine.session().unwrap();
        session.keep_checkpoints(CheckpointOptions { bytes: 0, ..EVERYWHERE });
        sync(&mut session, &tokens[..cut], &[]);
        let expected = decode(&mut session);
        let mut session = engine.session().unwrap();
        session.keep_checkpoints(CheckpointOptions { every: 1000, ..EVERYWHERE });
        let boundary = cut - 1;
        sync(&mut session, &tokens[..cut], &[boundary]);
        for round in 0..2 {
            let found = decode(&mut session);
            assert!(agree(device, &found, &expected), "{device:?}: other logits after {cut} tokens, round {round}");
            let synced = sync(&mut session, &tokens[..cut], &[]);
            assert_eq!((synced.reused, synced.computed), (boundary, cut - boundary));
        }
    }
}

#[test]
fn every_cut_on_the_cpu() {
    check_every_cut(Device::Cpu);
}

#[test]
fn every_cut_on_the_gpu() {
    check_every_cut(Device::Gpu);
}

#[test]
fn decode_after_a_cut() {
    DEVICES.into_iter().for_each(check_decode);
}

/// Without recurrent state every position can be gone back to.
#[test]
fn attention_alone_needs_no_checkpoints() {
    let path = tiny().with_file_name("mini_q3moe");
    for device in DEVICES {
        let mut engine = engine(&path, device, 16);
        let tokens: Vec<u32> = (0..40).map(|n| (n * 7 + 3) % 64).collect();
        let mut session = engine.session().unwrap();
        sync(&mut session, &tokens, &[10]);
        assert!(session.checkpoints().is_empty());
        let expected = bits(&session.logits().unwrap());
        let synced = sync(&mut session, &[&tokens[..23], &[1, 2, 3]].concat(), &[]);
        assert_eq!((synced.reused, synced.computed), (23, 3));
        let synced = sync(&mut session, &tokens, &[]);
        assert_eq!((synced.reused, synced.computed), (23, 17));
        assert!(bits(&session.logits().unwrap()) == expected, "{device:?}: other bits");
    }
}

/// A state that is copied in the middle of a step is that of a step that ends there, on both devices; and what comes after
/// it in the step does not notice.
#[test]
fn marks_in_the_middle_of_a_step() {
    let (tokens, _) = oracle();
    for device in DEVICES {
        let mut engine = engine(&tiny(), device, 96);
        let mut logits = Vec::new();
        let mut states = Vec::new();
        // one step with both marks; steps that end at them
        for every in [1000, 32] {
            let mut session = engine.session().unwrap();
            session.keep_checkpoints(CheckpointOptions { every, ..EVERYWHERE });
            let mut steps = 0;
            let boundaries: &[usize] = if every == 1000 { &[32, 64] } else { &[] };
            let ends: &[usize] = if every == 1000 { &[96] } else { &[32, 64, 96] };
            for end in ends {
                let count = |p: crate::session::PrefillProgress| {
                    steps += usize::from(p.step > 0 && p.layer == p.layers);
                    true
                };
                session.sync(&tokens[..*end], boundaries, count).unwrap();
            }
            assert_eq!(steps, ends.len(), "{device:?}");
            logits.push(bits(&session.logits().unwrap()));
            assert_eq!(session.checkpoints(), [32, 64]);
            // back to each, one token on
            for cut in [64, 32] {
                let synced = sync(&mut session, &tokens[..=cut], &[]);
                assert_eq!((synced.reused, synced.computed), (cut, 1));
                states.push(bits(&session.logits().unwrap()));
            }
        }
        assert!(logits[0] == logits[1], "{device:?}: marks change what follows");
        assert!(states[..2] == states[2..], "{device:?}: another state at a mark than at the end of a step");
    }
}
