// Blocks of threads as fibers. See emulated.h.
#include "emulated.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <ucontext.h>
#include <vector>

#include "launch.h"

namespace emulated {
thread_local Place place;

namespace {
const size_t STACK = 128 << 10;
const int THREADS_MAX = 1024, WARPS_MAX = THREADS_MAX / 32;

[[noreturn]] void die(const char *why) {
    fprintf(stderr, "emulated GPU: kernel `%s`, block %d %d, thread %d: %s\n", launching.load(), place.block_x, place.block_y, place.thread, why);
    abort();
}

// Those who wait for each other.
struct Barrier {
    int live, arrived;
    unsigned turns; // times that it opened
};

struct Fiber {
    jmp_buf at;
    ucontext_t start;
    bool begun, done;
    unsigned collectives; // of its warp, so far: which of two buffers is next
};

// One block at a time on a thread of the processor.
struct Block {
    Fiber fibers[THREADS_MAX];
    Barrier block, warps[WARPS_MAX];
    Words words[2][THREADS_MAX];
    int order[THREADS_MAX], position[THREADS_MAX];
    uint8_t *stacks = nullptr;
    jmp_buf back;
    const Kernel *kernel;
    void **arguments;
    int threads, idle; // fibers that ran since one got on

    Block() {
        void *map = mmap(nullptr, STACK * THREADS_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (map == MAP_FAILED) die("no memory for stacks");
        stacks = (uint8_t *)map;
    }
    ~Block() { munmap(stacks, STACK * THREADS_MAX); }
};
thread_local std::unique_ptr<Block> block;

void switch_to_next();

void start() {
    block->kernel->call(block->kernel->function, block->arguments);
    Fiber &fiber = block->fibers[place.thread];
    fiber.done = true;
    block->idle = 0;
    for (Barrier *barrier : {&block->block, &block->warps[place.thread / 32]}) {
        barrier->live--;
        if (barrier->live > 0 && barrier->arrived == barrier->live) barrier->arrived = 0, barrier->turns++;
    }
    switch_to_next();
}

void resume(int index) {
    Fiber &fiber = block->fibers[index];
    place.thread = index;
    if (fiber.begun) _longjmp(fiber.at, 1);
    fiber.begun = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = block->stacks + index * STACK;
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, start, 0);
    setcontext(&fiber.start);
}

// Goes on with the next fiber that has not ended; never comes back here.
void switch_to_next() {
    const int from = block->position[place.thread];
    for (int i = 1; i <= block->threads; i++) {
        const int next = block->order[(from + i) % block->threads];
        if (!block->fibers[next].done) resume(next);
    }
    _longjmp(block->back, 1);
}

void wait(Barrier &barrier) {
    barrier.arrived++;
    block->idle = 0;
    if (barrier.arrived == barrier.live) {
        barrier.arrived = 0;
        barrier.turns++;
        return;
    }
    const unsigned turns = barrier.turns;
    Fiber &fiber = block->fibers[place.thread];
    while (barrier.turns == turns) {
        if (block->idle++ > 2 * block->threads) die("threads wait for each other at different barriers");
        if (_setjmp(fiber.at) == 0) switch_to_next();
    }
    block->idle = 0;
}

void run_block(const Kernel &kernel, const Launch &launch, int index, unsigned seed, std::vector<uint8_t> &shared) {
    if (!block) block.reset(new Block);
    memset(shared.data(), 0xff, shared.size());
    block->kernel = &kernel;
    block->arguments = launch.arguments;
    block->threads = launch.threads;
    block->idle = 0;
    block->block = {launch.threads, 0, 0};
    for (int warp = 0; warp < launch.threads / 32; warp++) block->warps[warp] = {32, 0, 0};
    for (int i = 0; i < launch.threads; i++) {
        Fiber &fiber = block->fibers[i];
        fiber.begun = fiber.done = false;
        fiber.collectives = 0;
        block->order[i] = i;
    }
    unsigned random = seed + index * 2654435761u;
    for (int i = launch.threads - 1; seed != 0 && i > 0; i--) {
        random = random * 1664525u + 1013904223u;
        std::swap(block->order[i], block->order[(random >> 8) % (i + 1)]);
    }
    for (int i = 0; i < launch.threads; i++) block->position[block->order[i]] = i;
    place = {block->order[0], launch.threads, index % launch.blocks_x, index / launch.blocks_x, launch.blocks_y, shared.data()};
    if (_setjmp(block->back) == 0) resume(block->order[0]);
}

std::map<std::string, Kernel> &kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}
} // namespace

std::atomic<const char *> launching;

void sync_block() { wait(block->block); }
void sync_warp() { wait(block->warps[place.thread / 32]); }

const Words *exchange(const Words &mine) {
    const unsigned buffer = block->fibers[place.thread].collectives++ & 1;
    memcpy(block->words[buffer][place.thread], mine, sizeof(Words));
    sync_warp();
    return block->words[buffer] + place.thread / 32 * 32;
}

void Entry::add(const char *name, void (*kernel)(), size_t argument_bytes, Call call) { kernels()[name] = {name, kernel, argument_bytes, call}; }

const Kernel *find(const char *name) {
    const auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

void run(const Kernel &kernel, const Launch &launch) {
    launching = kernel.name.c_str();
    if (launch.threads % 32 != 0 || launch.threads > THREADS_MAX) die("a block is whole warps, 32 at most");
    static const unsigned seed = getenv("EMULATED_SEED") ? atoi(getenv("EMULATED_SEED")) : 0;
    const int blocks = launch.blocks_x * launch.blocks_y;
    const int workers = blocks < 8 ? 1 : std::min<int>(2, std::thread::hardware_concurrency());
    auto work = [&](int first) {
        std::vector<uint8_t> shared(launch.shared_bytes + 16);
        for (int i = first; i < blocks; i += workers) run_block(kernel, launch, i, seed, shared);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < workers; i++) others.emplace_back(work, i);
    work(0);
    for (auto &other : others) other.join();
}
} // namespace emulated
