//! The page of `flashflood serve` for browsers: a chat, and the machine room.
//!
//! It is one text with everything in it. Its sources are in `src/`, beside this file; `build.sh` makes the bundle of them,
//! with the libraries of `package.json`, whose licences stand at its end. It is a crate of its own, as `models/`
//! is: files, with their own limit of the registry, and a test that needs nothing of the program.

/// The page.
pub const HTML: &str = include_str!("bundle/index.html");

/// What a browser lets the page do, the value of `Content-Security-Policy`: its own script and style alone run, nothing is
/// loaded, and nobody but the server that sent it is called.
pub const POLICY: &str = include_str!("bundle/policy.txt");

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::fmt::Write;
    use std::path::Path;

    use sha2::{Digest, Sha256};

    /// As `build.mjs` takes it.
    #[test]
    fn the_bundle_is_of_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let names = std::fs::read_dir(root.join("src")).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| format!("src/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
        names.sort_unstable();
        let mut hash = Sha256::new();
        for name in ["build.mjs", "package-lock.json"].into_iter().chain(names.iter().map(String::as_str)) {
            hash.update(format!("{name}\n").as_bytes());
            hash.update(std::fs::read(root.join(name)).unwrap());
        }
        let found = hash.finalize().iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
        let stands = super::HTML.rsplit_once("of sources ").and_then(|(_, rest)| rest.get(..64)).unwrap();
        assert_eq!(stands, found, "the bundle is of other sources (hint: targets/page/build.sh makes it anew)");
    }

    /// The policy names what it lets run by hashes: nothing else is let in by a word.
    #[test]
    fn the_policy_lets_nothing_else_run() {
        assert!(!super::POLICY.contains("unsafe") && !super::POLICY.contains("http"), "{}", super::POLICY);
        assert!(super::POLICY.starts_with("default-src 'none'; script-src 'sha256-"), "{}", super::POLICY);
        let outside = ["src=\"http", "href=\"http", "url(http", "@import"];
        assert_eq!(outside.iter().find(|sign| super::HTML.contains(**sign)), None);
    }
}
