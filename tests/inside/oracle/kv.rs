//! What the formats of keys and values change in logits, whose root mean square is 2 here.

use super::*;

/// Logits of a prompt and of tokens after it.
fn logits(name: &str, device: Device, kv: KvFormat) -> Vec<f32> {
    let (activations, context) = (Activations::F32, Some(96));
    let options = EngineOptions { device, activations, context, kv, ..EngineOptions::default() };
    let mut engine = Engine::open(&folder(name), &options).unwrap();
    let tokens = Oracle::open(name).tokens;
    let mut parts = vec![&tokens[..84]];
    parts.extend(tokens[84..].chunks(1));
    run(&mut engine.session().unwrap(), &parts).0
}

fn mean_difference(found: &[f32], expected: &[f32]) -> f32 {
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).sum::<f32>() / found.len() as f32
}

/// Both devices keep the same codes, so they are nearer to each other than to the reference.
#[test]
fn formats_of_keys_and_values() {
    for name in ["tiny", "mini_heads", "mini_next"] {
        let oracle = Oracle::open(name);
        let expected = oracle.floats("logits_prefill").or_else(|| oracle.floats("logits")).unwrap();
        for (kv, most, most_in_the_mean) in [
            (KvFormat::F16, 2e-3, 2e-4),
            (KvFormat::Q8, 2e-2, 2e-3),
            (KvFormat::K8v4, 1.0, 3e-2),
            (KvFormat::Tq4, 1.0, 4e-2),
        ] {
            let found = logits(name, Device::Cpu, kv);
            let (apart, mean) = (largest_difference(&found, &expected), mean_difference(&found, &expected));
            println!("{name}, {kv}: logits within {apart:.1e}, {mean:.1e} in the mean");
            assert!(apart <= most && apart > 0.0, "{name}, {kv}: logits differ by {apart}");
            assert!(mean <= most_in_the_mean, "{name}, {kv}: logits differ by {mean} in the mean");
            let on_gpu = mean_difference(&logits(name, Device::Gpu, kv), &found);
            assert!(on_gpu <= mean / 4.0, "{name}, {kv}: on the GPU logits differ by {on_gpu} in the mean");
        }
    }
}
