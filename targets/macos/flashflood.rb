# Homebrew's formula. It belongs into a tap (a repository homebrew-flashflood, Formula/flashflood.rb); then
#   brew install flashflood/flashflood/flashflood
# Before a release: brew style, brew audit --new --formula, brew install --build-from-source, brew test.
class Flashflood < Formula
  desc "Runs Mixture-of-Experts language models far larger than memory"
  homepage "https://github.com/flashflood/flashflood"
  license any_of: ["MIT", "Apache-2.0"]
  head "https://github.com/flashflood/flashflood.git", branch: "main"

  # A release adds the two lines of its source archive:
  #   url "https://github.com/flashflood/flashflood/archive/refs/tags/vVERSION.tar.gz"
  #   sha256 "what `shasum -a 256` says of it"

  depends_on "rust" => :build

  def install
    system "cargo", "install", *std_cargo_args
    generate_completions_from_executable(bin/"flashflood", "completions", shells: [:bash, :zsh, :fish])
    system bin/"flashflood", "man", "--folder", man1
  end

  service do
    run [opt_bin/"flashflood", "serve"]
    keep_alive crashed: true
    log_path var/"log/flashflood.log"
    error_log_path var/"log/flashflood.log"
  end

  test do
    # the small model inside the program, on the processor: machines that build have no GPU
    output = shell_output("#{bin}/flashflood run --device cpu --max-tokens 8 --seed 1 --raw 'Once upon a time'")
    assert_match(/\AOnce upon a time \w/, output)
  end
end
