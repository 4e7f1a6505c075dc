// Runs kernels that clang compiled from MSL, as scripts of buffers and dispatches say: `run SCRIPT...`.
// What a script reads goes to SCRIPT.out. With `--instead A=B` kernel B runs where a script says A.
//
// A threadgroup's threads are fibers of one operating-system thread. They run one after the other up to a barrier, in
// ascending order of their numbers, or descending with `--descending`: without the right barriers the two give different
// results. Threadgroup memory is full of NaN when a threadgroup begins.
//
// Built with -DSANITIZED for kernels with -fsanitize=thread (this file goes without: its own accesses are no races) it tells ThreadSanitizer of each fiber and of each barrier, and of nothing else: accesses of
// two threads, of one threadgroup or of two, that no barrier orders are reported whatever the order they ran in. It can
// tell 255 threads apart, so that in large threadgroups several are one for it: neighbours, or with `--apart` those that
// are far apart. Any two threads are told apart in one of these.

#include "run.hpp"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <string>
#include <vector>

#ifdef SANITIZED
#include <sanitizer/tsan_interface.h>
#define IF_SANITIZED(...) __VA_ARGS__
constexpr bool sanitized = true;
#else
#define IF_SANITIZED(...)
constexpr bool sanitized = false;
#endif

namespace runner {

[[noreturn]] static void fail(const std::string &what) {
    fprintf(stderr, "error: %s\n", what.c_str());
    exit(1);
}

// ---- kernels --------------------------------------------------------------------------------------------------------

static const Kernel *kernels;
static std::vector<std::pair<uint32_t, uint32_t>> instead;

Kernel::Kernel(uint32_t number, const char *name, Entry entry, uint32_t memory_bytes, uint32_t threads)
    : number(number), name(name), entry(entry), memory_bytes(memory_bytes), threads(threads), next(kernels) {
    kernels = this;
}

static const Kernel &kernel_of(uint32_t number) {
    for (auto [wanted, taken] : instead)
        if (wanted == number) number = taken;
    for (auto k = kernels; k; k = k->next)
        if (k->number == number) return *k;
    fail("no kernel has number " + std::to_string(number));
}

// ---- memory ---------------------------------------------------------------------------------------------------------

constexpr size_t guard = 256; // bytes on both sides of a buffer
constexpr int untouched = 0xa5, garbage = 0xff;

// Bytes between two guards that shaders must not write.
struct Buffer {
    size_t size;
    char *start;

    explicit Buffer(size_t size) : size(size) {
        auto all = static_cast<char *>(aligned_alloc(guard, guard + (size + guard - 1) / guard * guard + guard));
        start = all + guard;
        memset(all, untouched, guard);
        memset(start, 0, size);
        memset(start + size, untouched, guard);
    }
    bool is_guarded() const {
        for (size_t i = 0; i < guard; i++)
            if (start[i - guard] != char(untouched) || start[size + i] != char(untouched)) return false;
        return true;
    }
    char *at(size_t offset, size_t length) const {
        if (offset > size || length > size - offset) fail("a range lies outside of its buffer");
        return start + offset;
    }
};

// ---- threads --------------------------------------------------------------------------------------------------------

constexpr size_t stack_bytes = 64 << 10;
constexpr uint32_t told_apart = 128; // by ThreadSanitizer: the square of it is more than the threads of a threadgroup

struct Fiber {
    ucontext_t context;
    bool done;
    uint32_t barriers; // passed
    IF_SANITIZED(void *known_as;)
};

static bool descending, apart;
static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static uint32_t current;
static const Kernel *running;
static Workgroup *workgroup;
IF_SANITIZED(static void *scheduler_state; static char barriers[2], end_of_dispatch;)

static void to_scheduler() {
    IF_SANITIZED(__tsan_switch_to_fiber(scheduler_state, __tsan_switch_to_fiber_no_sync);)
    swapcontext(&fibers[current].context, &scheduler);
}

static void to_fiber(uint32_t thread) {
    current = thread;
    IF_SANITIZED(__tsan_switch_to_fiber(fibers[thread].known_as, __tsan_switch_to_fiber_no_sync);)
    swapcontext(&scheduler, &fibers[thread].context);
}

static void run_thread() {
    running->entry(*workgroup, current);
    IF_SANITIZED(__tsan_release(&end_of_dispatch);)
    fibers[current].done = true;
    to_scheduler();
}

static void wait() {
    // two of them in turn: one that went ahead to the next barrier is not what others wait for at this one
    IF_SANITIZED(char *barrier = &barriers[fibers[current].barriers++ % 2]; __tsan_release(barrier);)
    to_scheduler();
    IF_SANITIZED(__tsan_acquire(barrier);)
}

// Stacks for a threadgroup's threads, all of them new for ThreadSanitizer: it must not take two threads' for one.
static char *stacks(uint32_t threads, std::vector<std::pair<char *, size_t>> &mapped) {
    size_t bytes = threads * stack_bytes;
    if (!sanitized && !mapped.empty() && mapped.back().second >= bytes) return mapped.back().first;
    void *start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) fail("no memory for stacks");
    mapped.emplace_back(static_cast<char *>(start), bytes);
    return mapped.back().first;
}

static void run_workgroup(char *stack) {
    uint32_t threads = running->threads;
    fibers.resize(threads);
    IF_SANITIZED(
        std::vector<void *> known(std::min(threads, told_apart));
        for (auto &one : known) one = __tsan_create_fiber(0);
        size_t together = (threads + known.size() - 1) / known.size();)
    for (uint32_t i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack = {};
        fiber.context.uc_stack.ss_sp = stack + i * stack_bytes;
        fiber.context.uc_stack.ss_size = stack_bytes;
        fiber.done = false;
        fiber.barriers = 0;
        makecontext(&fiber.context, run_thread, 0);
        IF_SANITIZED(fiber.known_as = known[apart ? i % known.size() : i / together];)
    }
    for (;;) {
        for (uint32_t i = 0; i < threads; i++) to_fiber(descending ? threads - 1 - i : i);
        uint32_t done = 0;
        for (auto &fiber : fibers) done += fiber.done;
        if (done == threads) break;
        if (done > 0)
            fail(std::string(running->name) + ": " + std::to_string(done) + " threads ended while others wait at a barrier");
    }
    IF_SANITIZED(for (auto one : known) __tsan_destroy_fiber(one);)
}

static void run_dispatch(const Kernel &kernel, const uint32_t grid[3], char *const *buffers) {
    static std::vector<std::pair<char *, size_t>> mapped;
    static std::vector<char *> blocks; // a workgroup's place and memory
    running = &kernel;
    size_t bytes = guard + (kernel.memory_bytes + guard - 1) / guard * guard;
    for (uint32_t z = 0; z < grid[2]; z++)
        for (uint32_t y = 0; y < grid[1]; y++)
            for (uint32_t x = 0; x < grid[0]; x++) {
                if (sanitized || blocks.empty()) blocks.push_back(static_cast<char *>(aligned_alloc(guard, bytes)));
                char *memory = blocks.back() + guard;
                memset(memory, garbage, kernel.memory_bytes);
                workgroup = new (blocks.back()) Workgroup{{x, y, z}, memory, buffers};
                run_workgroup(stacks(kernel.threads, mapped));
            }
    IF_SANITIZED(
        __tsan_acquire(&end_of_dispatch);
        for (auto &[start, length] : mapped) munmap(start, length);
        mapped.clear();)
    for (auto block : blocks) free(block);
    blocks.clear();
}

// ---- scripts --------------------------------------------------------------------------------------------------------

// 32-bit words and bytes, one after the other.
struct Script {
    std::string bytes;
    size_t at = 0;

    const char *take(size_t length) {
        if (length > bytes.size() - at) fail("the script ends too early");
        at += length;
        return bytes.data() + at - length;
    }
    uint32_t word() {
        uint32_t word;
        memcpy(&word, take(4), 4);
        return word;
    }
};

enum Command : uint32_t { END, BUFFER, WRITE, READ, DISPATCH };

// DISPATCH: kernel, grid, words of immediates, bindings; then the immediates; then of each binding buffer, offset, size.
static void dispatch(Script &script, const std::vector<Buffer> &buffers) {
    const Kernel &kernel = kernel_of(script.word());
    uint32_t grid[3] = {script.word(), script.word(), script.word()};
    uint32_t words = script.word(), bindings = script.word();
    alignas(16) char immediates[256];
    alignas(16) char no_sizes[256];
    memset(immediates, garbage, sizeof immediates);
    memset(no_sizes, garbage, sizeof no_sizes);
    memcpy(immediates, script.take(4 * words), 4 * words);
    std::vector<char *> bound{immediates};
    std::vector<const Buffer *> touched;
    for (uint32_t i = 0; i < bindings; i++) {
        uint32_t id = script.word(), offset = script.word(), size = script.word();
        if (id >= buffers.size()) fail("a binding has no buffer");
        bound.push_back(buffers[id].at(offset, size));
        touched.push_back(&buffers[id]);
    }
    bound.push_back(no_sizes);
    run_dispatch(kernel, grid, bound.data());
    for (size_t i = 0; i < touched.size(); i++)
        if (!touched[i]->is_guarded()) fail(std::string(kernel.name) + ": wrote outside of binding " + std::to_string(i));
}

static void run_script(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    Script script{{std::istreambuf_iterator<char>(in), {}}};
    std::ofstream out(path + ".out", std::ios::binary);
    std::vector<Buffer> buffers;
    for (;;) {
        switch (script.word()) {
        case END: {
            for (auto &buffer : buffers) free(buffer.start - guard);
            return;
        }
        case BUFFER: { // size
            buffers.emplace_back(script.word());
            break;
        }
        case WRITE: { // buffer, offset, length, bytes
            const Buffer &buffer = buffers.at(script.word());
            uint32_t offset = script.word(), length = script.word();
            memcpy(buffer.at(offset, length), script.take(length), length);
            break;
        }
        case READ: { // buffer, offset, length
            const Buffer &buffer = buffers.at(script.word());
            uint32_t offset = script.word(), length = script.word();
            out.write(buffer.at(offset, length), length);
            break;
        }
        case DISPATCH:
            dispatch(script, buffers);
            break;
        default:
            fail(path + ": unknown command");
        }
    }
}

} // namespace runner

void wait_for_threadgroup() { runner::wait(); }
uint32_t thread_in_threadgroup() { return runner::current; }

#ifdef SANITIZED
// Called with every report: it cannot name a fiber's kernel.
extern "C" void __tsan_on_report(void *) { fprintf(stderr, "error: a data race in %s\n", runner::running->name); }
#endif

int main(int count, char **arguments) {
    IF_SANITIZED(runner::scheduler_state = __tsan_get_current_fiber();)
    for (int i = 1; i < count; i++) {
        if (!strcmp(arguments[i], "--descending"))
            runner::descending = true;
        else if (!strcmp(arguments[i], "--apart"))
            runner::apart = true;
        else if (!strcmp(arguments[i], "--instead") && i + 1 < count) {
            uint32_t wanted = 0, taken = 0;
            if (sscanf(arguments[++i], "%u=%u", &wanted, &taken) != 2) runner::fail("--instead A=B");
            runner::instead.emplace_back(wanted, taken);
        } else
            runner::run_script(arguments[i]);
    }
}
