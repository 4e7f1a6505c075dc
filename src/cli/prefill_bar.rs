//! The bar that shows how much of a prompt is read.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// A prompt that is read sooner has no bar.
const PATIENCE: Duration = Duration::from_millis(400);

/// Tokens done, their rate, and the time left. On standard error where that is a terminal, wherever the text goes.
pub(super) struct PrefillBar {
    bar: ProgressBar,
    /// When the first token was computed, and how many were done then.
    start: Option<(Instant, f64)>,
    patience: Duration,
}

impl PrefillBar {
    /// A bar that shows nothing yet, or never where it is not `wanted`.
    pub(super) fn new(wanted: bool) -> Self {
        // indicatif hides it where there is no terminal
        let target = if wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self::on(target, PATIENCE)
    }

    fn on(target: ProgressDrawTarget, patience: Duration) -> Self {
        PrefillBar { bar: ProgressBar::with_draw_target(None, target), start: None, patience }
    }

    /// Whether there is somebody to see it.
    pub(super) fn is_visible(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// `done` of `total` tokens are read, a step that runs counted by its layers.
    pub(super) fn show(&mut self, done: f64, total: usize) {
        let (start, reused) = *self.start.get_or_insert_with(|| (Instant::now(), done));
        if self.bar.is_hidden() || start.elapsed() < self.patience {
            return;
        }
        let rate = (done - reused) / start.elapsed().as_secs_f64().max(1e-9);
        let left = left((total as f64 - done) / rate);
        self.bar.set_style(style(rate, left));
        if self.bar.length().is_none() {
            self.bar.set_length(total as u64);
        }
        self.bar.set_position(done as u64);
    }

    /// Removes the bar, so that text may follow.
    pub(super) fn erase(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What is drawn: the rate is ours, because reused tokens took no time.
fn style(rate: f64, left: String) -> ProgressStyle {
    // a template that does not parse would be a bar of another look
    let style = ProgressStyle::with_template("reading the prompt {wide_bar} {pos}/{len} tokens, {rate}, {left} left");
    let rate = format!("{rate:.1} t/s");
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = out.write_str(&rate);
        })
        .with_key("left", move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = out.write_str(&left);
        })
}

/// Seconds as `7 s`, `3 min 5 s` or `2 h 10 min`.
fn left(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".to_owned();
    }
    match seconds.round() as u64 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal of one line.
    #[derive(Clone, Debug, Default)]
    struct Line(Arc<Mutex<String>>);

    impl TermLike for Line {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn drawn_and_erased() {
        let line = Line::default();
        let on = |patience| PrefillBar::on(ProgressDrawTarget::term_like(Box::new(line.clone())), patience);
        let mut bar = on(Duration::ZERO);
        bar.show(100.0, 400);
        std::thread::sleep(Duration::from_millis(120));
        bar.show(250.5, 400);
        let drawn = line.0.lock().unwrap().clone();
        assert!(drawn.contains("reading the prompt") && drawn.contains(" 250/400 tokens, "), "{drawn:?}");
        // 150 tokens in some more than 0.12 s: those that were reused do not count
        assert!(drawn.contains(" t/s, 0 s left") && !drawn.contains("? left"), "{drawn:?}");
        bar.erase();
        assert_eq!(line.0.lock().unwrap().trim(), "");
        // a prompt that is read at once
        let mut bar = on(Duration::from_secs(60));
        (0..5).for_each(|n| bar.show(f64::from(n), 5));
        bar.erase();
        assert_eq!(line.0.lock().unwrap().trim(), "");
    }

    #[test]
    fn time_for_people() {
        let texts = [0.2, 59.6, 185.0, 7830.0, f64::INFINITY, f64::NAN].map(left);
        assert_eq!(texts, ["0 s", "1 min 0 s", "3 min 5 s", "2 h 10 min", "?", "?"]);
    }
}
