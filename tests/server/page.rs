//! The page for browsers, in a real one: headless Chromium, through Python's playwright.
//!
//! Where there is no Chromium or no playwright the test says so and passes; with `FLASHFLOOD_CLIENT_TESTS=require` that is
//! a failure. `FLASHFLOOD_SCREENSHOT=FILE` keeps a picture.

use super::clients::{python, run_script};

#[test]
fn a_person_with_a_browser() {
    run_script("page.py", || python("python-browser", &["playwright>=1.40,<2"], "playwright"), chromium);
}

/// The browser of the machine.
fn chromium() -> Result<String, String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<std::path::PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|p| p.exists());
    found.map(|path| path.display().to_string()).ok_or_else(|| "no Chromium is installed".to_owned())
}
