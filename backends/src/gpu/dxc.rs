//! DirectX 12's shader compiler. Kernels are compiled by Microsoft's DXC alone: FXC, which wgpu would fall back to, knows
//! shader model 5.1, neither subgroups nor products of four bytes, and the kernels were never checked with it.

#[cfg(any(windows, test))]
use std::path::PathBuf;

/// Names DXC to wgpu: the one beside the program, else the first one on the PATH. Without one DirectX 12 is left out, and the
/// result says so, for the error that follows when there is no adapter of Vulkan either.
#[cfg(windows)]
pub(super) fn name_compiler(descriptor: &mut wgpu::InstanceDescriptor) -> &'static str {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(std::path::Path::parent).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    match find(beside.into_iter().chain(std::env::split_paths(&path))) {
        Some(dxc_path) => {
            descriptor.backend_options.dx12.shader_compiler = wgpu::Dx12Compiler::DynamicDxc { dxc_path };
            ""
        }
        None => {
            descriptor.backends.remove(wgpu::Backends::DX12);
            "; DirectX 12 was not asked, for dxcompiler.dll (github.com/microsoft/DirectXShaderCompiler/releases) is neither \
             beside the program nor on the PATH"
        }
    }
}

#[cfg(not(windows))]
pub(super) fn name_compiler(_descriptor: &mut wgpu::InstanceDescriptor) -> &'static str {
    ""
}

/// The first `dxcompiler.dll` in `folders`, by its whole path: by its name alone Windows would also look into the working
/// folder, where a download may lie.
#[cfg(any(windows, test))]
fn find(folders: impl Iterator<Item = PathBuf>) -> Option<String> {
    let files = folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join("dxcompiler.dll"));
    files.filter(|file| file.is_file()).find_map(|file| file.into_os_string().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_that_has_it() {
        let [without, first, second] = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
        for folder in [&first, &second] {
            std::fs::write(folder.path().join("dxcompiler.dll"), "").expect("a file");
        }
        let find = |folders: &[&std::path::Path]| find(folders.iter().map(PathBuf::from));
        let expected = first.path().join("dxcompiler.dll").into_os_string().into_string().ok();
        assert_eq!(find(&[without.path(), first.path(), second.path()]), expected);
        assert_eq!(find(&[without.path()]), None);
        // whatever the working folder holds
        assert_eq!(find(&[std::path::Path::new("."), std::path::Path::new("")]), None);
    }
}
