# Wine, Microsoft's shader compiler and a Direct3D 12 on Linux: for scripts that say `. targets/windows/tools.sh` after
# targets/standard-library.sh. Everything but the packages goes to target/windows.

tools=$PWD/target/windows
stand_ins=$PWD/targets/windows/stand-ins
# what flashflood.exe finds beside itself
programs=$tools/programs
mingw=x86_64-w64-mingw32

# no .NET and no browser are asked for, and Direct3D 12 is the one beside the program if there is one
# what vkd3d has to say of every shader is left out
export VKD3D_DEBUG=${VKD3D_DEBUG:-none} VKD3D_SHADER_DEBUG=${VKD3D_SHADER_DEBUG:-none}
export WINEPREFIX=$tools/prefix WINEDEBUG=${WINEDEBUG:--all} WINEDLLOVERRIDES="mscoree=;mshtml=;d3d12=n,b"
export VK_DRIVER_FILES=${VK_DRIVER_FILES:-/usr/share/vulkan/icd.d/lvp_icd.x86_64.json}

# wine PROGRAM ARGUMENTS...
wine() {
    "$(wine_program)" "$@"
}

# wine_with_display PROGRAM ARGUMENTS...: DXGI wants one.
wine_with_display() {
    xvfb-run -a -s '-screen 0 640x480x24' "$(wine_program)" "$@"
}

# Debian puts the 64-bit one where no PATH leads.
wine_program() {
    command -v wine64 || echo /usr/lib/wine/wine64
}

# Wine, a linker, and dxcompiler.dll with dxil.dll, which PyPI has within the Windows package of Slang's Python library.
prepare_dxc() {
    [[ $(uname -sm) == "Linux x86_64" ]] || not_checked "this is $(uname -sm), not Linux on x86-64"
    install_packages wine64 gcc-mingw-w64-x86-64-posix
    mkdir -p "$programs"
    # once and alone: two programs that both begin with it get in each other's way
    [[ -e $tools/prefix/system.reg ]] || wine wineboot --init
    [[ ! -e $programs/dxcompiler.dll || ! -e $programs/dxil.dll ]] || return 0
    python3 -m pip --version >/dev/null 2>&1 || not_checked "python3 has no pip, which gets DXC"
    local wheel=slangpy-0.43.1-cp311-cp311-win_amd64.whl
    echo "getting DXC out of $wheel"
    echo "slangpy==0.43.1 --hash=sha256:$wheel_sha256" >"$tools/wheel.txt"
    python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --platform win_amd64 \
        -d "$tools/wheels" -r "$tools/wheel.txt" || not_checked "PyPI does not give $wheel"
    python3 - "$tools/wheels/$wheel" "$programs" <<'PYTHON'
import sys, zipfile
wheel, folder = sys.argv[1:]
for name in ("dxil.dll", "dxcompiler.dll"):
    with zipfile.ZipFile(wheel) as files, open(f"{folder}/{name}", "wb") as file:
        file.write(files.read(f"slangpy/{name}"))
PYTHON
}
# of that wheel
wheel_sha256=3da28207fa1f173c81b22efc1cd02e4804066b975a18749b1a7b09c0708018d6

# Rust's standard library takes random bytes from a DLL that Wine has from version 9 on.
prepare_random_bytes() {
    $mingw-gcc -shared -Wall -O1 -o "$programs/bcryptprimitives.dll" "$stand_ins/bcryptprimitives.c" -ladvapi32 -static
}

# A d3d12.dll that takes DXIL, which wgpu needs and Wine's own does not: vkd3d as it is within Wine's source, compiled with
# its reader of DXIL, on the first Vulkan device. Its authors call that reader unfinished.
prepare_d3d12() {
    install_packages gcc-mingw-w64-x86-64-posix mingw-w64-tools bison flex libvulkan-dev xz-utils wine wine64 xvfb xauth mesa-vulkan-drivers
    [[ ! $programs/d3d12.dll -nt $stand_ins/d3d12.c ]] || return 0
    local wine=$tools/wine vkd3d=$tools/wine/libs/vkd3d made=$tools/vkd3d
    if [[ ! -d $vkd3d ]]; then
        echo "getting the source of Wine from Debian trixie"
        read_suite trixie
        mkdir -p "$tools/download"
        (cd "$tools/download" && own_apt apt-get -qq source --download-only wine) || not_checked "Debian does not give Wine's source"
        rm -rf "$tools/unpacking" && mkdir -p "$tools/unpacking"
        tar -xf "$tools"/download/wine_*.orig.tar.xz -C "$tools/unpacking" --strip-components=1 --wildcards \
            '*/include' '*/libs/vkd3d'
        mv "$tools/unpacking" "$wine"
    fi
    echo "building a Direct3D 12 that takes DXIL"
    rm -rf "$made" && mkdir -p "$made"/{include/wine,objects}
    local headers=/usr/share/mingw-w64/include include=$made/include idl name
    cp "$wine"/include/wine/{rbtree,list}.h "$include/wine/"
    cp -r /usr/include/vulkan /usr/include/vk_video "$include/"
    cp "$vkd3d"/include/vulkan/*.h "$include/vulkan/"
    printf '#ifndef VK_NO_PROTOTYPES\n#define VK_NO_PROTOTYPES\n#endif\n#include <vulkan/vulkan.h>\n' >"$include/wine/vulkan.h"
    cp $headers/{d3dx9,d3dx9math,d3dx9shader}.h "$include/"
    : >"$include/d3dx9math.inl"
    for idl in "$wine"/include/d3d12*.idl "$wine/include/d3dcommon.idl"; do
        name=$(basename "$idl" .idl)
        $mingw-widl -I $headers -I "$wine/include" -h -o "$include/$name.h" "$idl"
    done
    local shader=$vkd3d/libs/vkd3d-shader
    for name in hlsl preproc; do
        bison -o "$made/$name.tab.c" --defines="$made/$name.tab.h" "$shader/$name.y"
        flex --nounistd -o "$made/$name.yy.c" "$shader/$name.l"
    done
    # vkd3d names the members that mingw's headers leave without a name
    local flags=(-O1 -w -DNONAMELESSUNION -D__C89_NAMELESS= -D_WIN32_WINNT=0x0a00 -DWIN32_LEAN_AND_MEAN) n
    for n in '' 1 2 3 4 5 6 7 8 9; do flags+=("-D__C89_NAMELESSUNIONNAME$n=u$n" "-D__C89_NAMELESSSTRUCTNAME$n=s$n"); done
    flags+=(-DLIBVKD3D_SOURCE -DLIBVKD3D_SHADER_SOURCE -DLIBVKD3D_UTILS_SOURCE -DVKD3D_SHADER_UNSUPPORTED_DXIL
        -D__USE_MINGW_ANSI_STDIO=1 -I"$vkd3d" -I"$include" -I"$vkd3d/include" -I"$vkd3d/include/private"
        -I"$vkd3d/libs/vkd3d" -I"$shader" -I"$made" -include config.h)
    local source
    for source in "$vkd3d"/libs/{vkd3d-common,vkd3d-shader,vkd3d}/*.c "$made"/*.c "$stand_ins/d3d12.c"; do
        $mingw-gcc "${flags[@]}" -c "$source" -o "$made/objects/$(basename "$(dirname "$source")")_$(basename "$source").o"
    done
    $mingw-gcc -shared -o "$made/d3d12.dll" "$made"/objects/*.o "$stand_ins/d3d12.def" -ldxguid -luuid -static
    mv "$made/d3d12.dll" "$programs/"
}
