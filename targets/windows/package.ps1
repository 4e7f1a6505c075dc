<#
.SYNOPSIS
Packs the program for Windows: flashflood-VERSION-x86_64-windows.zip and its .sha256 in target\packages.
.DESCRIPTION
Runs on Windows with Rust. Builds a release, unless -Program names one that is built.
.PARAMETER Program
flashflood.exe that is built.
.PARAMETER Dxc
Folder with dxcompiler.dll and dxil.dll, of DirectXShaderCompiler v1.8.2502 or newer: they are packed too, for GPUs
without Vulkan.
.EXAMPLE
powershell -File targets\windows\package.ps1 -Dxc C:\dxc\bin\x64
#>
param([string]$Program, [string]$Dxc)
$ErrorActionPreference = "Stop"
Set-Location (Join-Path $PSScriptRoot "..\..")

function Stop-With([string]$What, [string]$Hint) {
    [Console]::Error.WriteLine("error: $What")
    [Console]::Error.WriteLine("hint: $Hint")
    exit 1
}

if ($env:OS -ne "Windows_NT") { Stop-With "this needs Windows" "a package for Linux: targets/linux/tarball.sh" }
if ($Dxc) {
    foreach ($dll in "dxcompiler.dll", "dxil.dll") {
        if (-not (Test-Path (Join-Path $Dxc $dll))) {
            Stop-With "$Dxc has no $dll" "github.com/microsoft/DirectXShaderCompiler/releases, folder bin\x64"
        }
    }
}
if (-not $Program) {
    if (-not (Get-Command cargo -ErrorAction SilentlyContinue)) {
        Stop-With "cargo is not there" "https://rustup.rs installs Rust; or give -Program"
    }
    # without the Visual C++ runtime, which not every machine has
    $env:RUSTFLAGS = "-C target-feature=+crt-static"
    cargo build --release --locked --target x86_64-pc-windows-msvc
    if ($LASTEXITCODE -ne 0) { Stop-With "cargo failed" "see above" }
    $folder = if ($env:CARGO_TARGET_DIR) { $env:CARGO_TARGET_DIR } else { "target" }
    $Program = Join-Path $folder "x86_64-pc-windows-msvc\release\flashflood.exe"
}
if (-not (Test-Path $Program)) { Stop-With "$Program is not there" "give -Program, or leave it out" }
$words = (& $Program --version) -split " "
if ($LASTEXITCODE -ne 0 -or $words[0] -ne "flashflood") { Stop-With "$Program --version fails" "is it flashflood?" }

$name = "flashflood-$($words[1])-x86_64-windows"
$work = Join-Path ([IO.Path]::GetTempPath()) ([Guid]::NewGuid())
$inside = Join-Path $work $name
New-Item -ItemType Directory -Force $inside | Out-Null
Copy-Item $Program, "README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT" $inside
if ($Dxc) { Copy-Item (Join-Path $Dxc "dxcompiler.dll"), (Join-Path $Dxc "dxil.dll") $inside }
& $Program completions powershell | Out-File -Encoding utf8 (Join-Path $inside "flashflood.completion.ps1")

$out = "target\packages"
New-Item -ItemType Directory -Force $out | Out-Null
$zip = Join-Path $out "$name.zip"
Compress-Archive -Force -Path $inside -DestinationPath $zip
$hash = (Get-FileHash -Algorithm SHA256 $zip).Hash.ToLower()
"$hash  $name.zip" | Out-File -Encoding ascii "$zip.sha256"
Remove-Item -Recurse $work
Write-Output $zip "$hash"
