"""Whether a static library is one that an app for iPhones can be linked with.

    library.py LIBRARY.a HEADER.h APPLE-SYMBOLS.txt

- every object is Mach-O for arm64, and for iOS
- every function of the header is defined
- what is used and not defined is Apple's: a name of the list, where `name*` stands for all that begin so

Exit: 0 when all of it holds. Written here because binutils as Debian ships them read no Mach-O.
"""

import re
import struct
import sys
from pathlib import Path

MACH_O_64, ARM64 = 0xFEEDFACF, 0x0100000C
SYMTAB, BUILD_VERSION, IOS = 0x2, 0x32, 2
# of objects that also iOS 11 takes, as rustup's standard library: there were no others for arm64 then
VERSION_MIN_IPHONEOS = 0x25
# of a symbol's type: debugging, visible outside, the kind, and the kind "not defined here"
STAB, EXTERNAL, KIND, UNDEFINED = 0xE0, 0x01, 0x0E, 0x00


def members(archive: bytes):
    """Names and bytes of an archive's files, in the ways of GNU and BSD."""
    if archive[:8] != b"!<arch>\n":
        sys.exit("not an archive")
    place, long_names = 8, b""
    while place + 60 <= len(archive):
        name = archive[place : place + 16].decode().rstrip()
        size = int(archive[place + 48 : place + 58])
        data = archive[place + 60 : place + 60 + size]
        place += 60 + size + size % 2
        if name == "//":
            long_names = data
            continue
        if name.startswith("#1/"):
            length = int(name[3:])
            name, data = data[:length].rstrip(b"\0").decode(), data[length:]
        elif re.fullmatch(r"/\d+", name):
            start = int(name[1:])
            name = long_names[start : long_names.index(b"\n", start)].decode().rstrip("/")
        if name not in ("/", "/SYM64/") and not name.startswith("__.SYMDEF"):
            yield name.rstrip("/"), data


def symbols(name: str, data: bytes):
    """Names that an object defines for others, and those it uses of others."""
    defined, used = set(), set()
    magic, cpu, _, _, commands = struct.unpack_from("<5I", data)
    if (magic, cpu) != (MACH_O_64, ARM64):
        sys.exit(f"{name}: not Mach-O for arm64 ({magic:x}, {cpu:x})")
    place, platform = 32, None
    for _ in range(commands):
        command, size = struct.unpack_from("<2I", data, place)
        if command == BUILD_VERSION:
            (platform,) = struct.unpack_from("<I", data, place + 8)
        if command == VERSION_MIN_IPHONEOS:
            platform = IOS
        if command == SYMTAB:
            table, count, texts, _ = struct.unpack_from("<4I", data, place + 8)
            for index in range(count):
                text, kind, _, _, value = struct.unpack_from("<IBBHQ", data, table + 16 * index)
                if kind & STAB or not kind & EXTERNAL:
                    continue
                start = texts + text
                symbol = data[start : data.index(b"\0", start)].decode()
                # a value other than zero: storage that whoever needs it makes
                is_used = kind & KIND == UNDEFINED and value == 0
                (used if is_used else defined).add(symbol)
        place += size
    if platform != IOS:
        sys.exit(f"{name}: for platform {platform}, not for iOS")
    return defined, used


def main(library: str, header: str, apple: str) -> None:
    defined, used, objects = set(), set(), 0
    for name, data in members(Path(library).read_bytes()):
        here = symbols(name, data)
        defined |= here[0]
        used |= here[1]
        objects += 1

    code = re.sub(r"//[^\n]*|/\*.*?\*/", "", Path(header).read_text(), flags=re.DOTALL)
    functions = set(re.findall(r"\b(flashflood_\w+)\(", code))
    missing = sorted(function for function in functions if f"_{function}" not in defined)
    lines = [line.split("#")[0].strip() for line in Path(apple).read_text().splitlines()]
    names = {f"_{line}" for line in lines if line and not line.endswith("*")}
    prefixes = tuple(f"_{line[:-1]}" for line in lines if line.endswith("*"))
    foreign = sorted(s for s in used - defined if s not in names and not s.startswith(prefixes))

    apples = len(used - defined) - len(foreign)
    print(f"{objects} objects, {len(functions)} functions of the header, {apples} symbols of Apple's libraries")
    for function in missing:
        print(f"not defined: {function}")
    for symbol in foreign:
        print(f"neither defined nor among Apple's: {symbol}")
    if missing or foreign or not functions or not objects:
        sys.exit(1)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
