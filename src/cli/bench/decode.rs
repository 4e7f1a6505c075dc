use super::BenchArgs;

pub(super) fn run(_: &BenchArgs) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
