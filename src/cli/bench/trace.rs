use std::path::Path;

use super::BenchArgs;

pub(super) fn run(_: &BenchArgs, _: &Path) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
