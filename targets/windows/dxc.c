// dxc.exe DLL: compiles shaders with dxcompiler.dll as wgpu does, in one process, for its start under Wine takes longer than
// a shader. Standard input holds lines of `FILE PROFILE ENTRY`. Prints what the compiler, with its validator, says against
// a shader, and at the end how many it took. Exit: 0 when it took all and said nothing, as wgpu wants it.
#include <windows.h>
#include <stdio.h>

typedef struct {
    const void *bytes;
    SIZE_T size;
    UINT encoding;
} Source;

// an object of COM: only the few methods that are called here, by their places
typedef struct {
    void **methods;
} Object;

typedef HRESULT(WINAPI *Create)(const GUID *, const GUID *, Object **);
typedef HRESULT(WINAPI *Compile)(Object *, const Source *, const wchar_t *const *, UINT32, void *, const GUID *, Object **);
typedef HRESULT(WINAPI *GetStatus)(Object *, HRESULT *);
typedef HRESULT(WINAPI *GetBlob)(Object *, Object **);
typedef ULONG(WINAPI *Release)(Object *);
typedef const void *(WINAPI *GetPointer)(Object *);
typedef SIZE_T(WINAPI *GetSize)(Object *);
enum { RELEASE = 2, COMPILE = 3, POINTER = 3, STATUS = 3, LENGTH = 4, RESULT = 4, ERRORS = 5 };

static const GUID DXC_COMPILER = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const GUID IDXC_COMPILER_3 = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const GUID IDXC_RESULT = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};
static const UINT UTF8 = 65001;

static char text[1 << 22];

static void release(Object *object)
{
    if (object)
        ((Release)object->methods[RELEASE])(object);
}

// Bytes of DXIL, or 0 after it has printed what is wrong.
static SIZE_T compile(Object *compiler, const char *path, const char *profile, const char *entry)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        printf("%s: cannot be read\n", path);
        return 0;
    }
    Source source = {text, fread(text, 1, sizeof text, file), UTF8};
    fclose(file);

    wchar_t wide_profile[16], wide_entry[128];
    swprintf(wide_profile, 16, L"%hs", profile);
    swprintf(wide_entry, 128, L"%hs", entry);
    const wchar_t *arguments[] = {L"-E", wide_entry, L"-T", wide_profile, L"-HV", L"2018", L"-no-warnings", L"-Ges"};
    Object *result = NULL, *errors = NULL, *made = NULL;
    HRESULT status = ((Compile)compiler->methods[COMPILE])(compiler, &source, arguments, sizeof arguments / sizeof *arguments,
                                                           NULL, &IDXC_RESULT, &result);
    if (FAILED(status)) {
        printf("%s: the compiler cannot be called: %lx\n", path, (unsigned long)status);
        return 0;
    }
    ((GetStatus)result->methods[STATUS])(result, &status);
    ((GetBlob)result->methods[ERRORS])(result, &errors);
    SIZE_T bytes = 0, said = errors ? ((GetSize)errors->methods[LENGTH])(errors) : 0;
    // a zero byte ends what is said
    if (FAILED(status) || said > 1) {
        const char *words = said > 1 ? ((GetPointer)errors->methods[POINTER])(errors) : "";
        printf("%s, %s: %.*s (%lx)\n", path, profile, (int)said, words, (unsigned long)status);
    } else {
        ((GetBlob)result->methods[RESULT])(result, &made);
        bytes = made ? ((GetSize)made->methods[LENGTH])(made) : 0;
        if (!bytes)
            printf("%s, %s: nothing came out\n", path, profile);
    }
    release(made);
    release(errors);
    release(result);
    return bytes;
}

int main(int count, char **arguments)
{
    HMODULE library = count == 2 ? LoadLibraryA(arguments[1]) : NULL;
    Create create = library ? (Create)(void *)GetProcAddress(library, "DxcCreateInstance") : NULL;
    Object *compiler = NULL;
    if (!create || FAILED(create(&DXC_COMPILER, &IDXC_COMPILER_3, &compiler))) {
        printf("dxcompiler.dll cannot be loaded: %lu\n", GetLastError());
        return 2;
    }
    char path[1024], profile[16], entry[128];
    int shaders = 0, refused = 0;
    unsigned long long bytes = 0;
    while (scanf("%1023s %15s %127s", path, profile, entry) == 3) {
        SIZE_T made = compile(compiler, path, profile, entry);
        shaders++;
        refused += !made;
        bytes += made;
        fflush(stdout);
    }
    printf("%d of %d shaders compiled, %llu bytes of DXIL\n", shaders - refused, shaders, bytes);
    return shaders == 0 || refused > 0;
}
