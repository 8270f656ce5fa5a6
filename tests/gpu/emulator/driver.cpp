// The part of CUDA's driver that Outstation calls, on memory of the host: `libcuda.so` for machines without a GPU.
//
// A stream is done before a call returns. A graph is the list of what was launched or copied while it was captured. Memory
// starts as NaN and ends at a page that nobody may touch, so that a read past its end stops the program.
//
// Sources: the CUDA driver API's reference; names and numbers of its header.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include <sys/mman.h>

#include "launch.h"

using emulated::Kernel;

namespace {
enum Result { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500 };

const size_t MEMORY = size_t(8) << 30, PAGE = 4096;

// The driver's CUlaunchConfig.
struct Config {
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    void *stream, *attributes;
    unsigned attributes_count;
};

struct Work {
    const Kernel *kernel; // or a copy
    Config config;
    std::vector<uint8_t> argument;
    void *to;
    const void *from;
    size_t bytes;
};
struct Graph {
    std::vector<Work> work;
};

std::mutex lock;
std::map<uintptr_t, size_t> allocations; // from their start to the bytes that are mapped
size_t used = 0;
thread_local Graph *capturing = nullptr; // by this thread, as the engine asks for it

void run(const Work &work) {
    if (!work.kernel) {
        memmove(work.to, work.from, work.bytes);
        return;
    }
    void *arguments[1] = {(void *)work.argument.data()};
    emulated::run(*work.kernel, {(int)work.config.grid_x, (int)work.config.grid_y, (int)work.config.block_x, (int)work.config.shared_bytes, arguments});
}

int submit(Work work) {
    if (capturing) capturing->work.push_back(std::move(work));
    else run(work);
    return SUCCESS;
}

int allocate(uintptr_t *at, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    const size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    std::lock_guard<std::mutex> guard(lock);
    if (used + whole > MEMORY) return OUT_OF_MEMORY;
    void *map = mmap(nullptr, whole + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect((uint8_t *)map + whole, PAGE, PROT_NONE);
    memset(map, 0xff, whole);
    // As far to the end as the alignment that kernels rely on lets it.
    *at = (uintptr_t)map + (whole - (bytes + 15) / 16 * 16);
    allocations[*at] = whole;
    used += whole;
    return SUCCESS;
}

int release(uintptr_t at) {
    std::lock_guard<std::mutex> guard(lock);
    const auto found = allocations.find(at);
    if (found == allocations.end()) return INVALID_VALUE;
    munmap((void *)(at / PAGE * PAGE), found->second + PAGE);
    used -= found->second;
    allocations.erase(found);
    return SUCCESS;
}
} // namespace

extern "C" {
int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int *device, int index) { return *device = index, index == 0 ? SUCCESS : NO_DEVICE; }
int cuDeviceGetName(char *name, int bytes, int) { return snprintf(name, bytes, "emulated GPU"), SUCCESS; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = MEMORY, SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
    case 16: *value = 2; break;       // multiprocessors
    case 18: *value = 0; break;       // integrated
    case 75: *value = 9; break;       // compute capability, major
    case 76: *value = 0; break;       // and minor
    case 97: *value = 232448; break;  // shared memory of a block, when asked for
    default: return INVALID_VALUE;
    }
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void *) { return SUCCESS; }
int cuMemGetInfo_v2(size_t *available, size_t *total) {
    std::lock_guard<std::mutex> guard(lock);
    *available = MEMORY - used;
    *total = MEMORY;
    return SUCCESS;
}
int cuMemAlloc_v2(uintptr_t *at, size_t bytes) { return allocate(at, bytes); }
int cuMemFree_v2(uintptr_t at) { return release(at); }
int cuMemHostAlloc(void **at, size_t bytes, unsigned) { return allocate((uintptr_t *)at, bytes); }
int cuMemFreeHost(void *at) { return release((uintptr_t)at); }
int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *) { return submit({nullptr, {}, {}, (void *)to, from, bytes}); }
int cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t bytes, void *) { return submit({nullptr, {}, {}, to, (void *)from, bytes}); }
int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void *) { return submit({nullptr, {}, {}, (void *)to, (void *)from, bytes}); }
int cuMemsetD8Async(uintptr_t at, unsigned char value, size_t bytes, void *) { return memset((void *)at, value, bytes), SUCCESS; }
int cuStreamCreate(void **stream, unsigned) { return *stream = (void *)2, SUCCESS; }
int cuStreamDestroy_v2(void *) { return SUCCESS; }
int cuStreamSynchronize(void *) { return SUCCESS; }
int cuEventCreate(void **event, unsigned) { return *event = calloc(1, sizeof(double)), SUCCESS; }
int cuEventDestroy_v2(void *event) { return free(event), SUCCESS; }
int cuEventRecord(void *event, void *) {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *(double *)event = now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
    return SUCCESS;
}
int cuEventSynchronize(void *) { return SUCCESS; }
int cuEventElapsedTime(float *ms, void *start, void *end) { return *ms = float(*(double *)end - *(double *)start), SUCCESS; }
int cuModuleLoadData(void **module, const void *) { return *module = (void *)3, SUCCESS; }
int cuModuleUnload(void *) { return SUCCESS; }
int cuModuleGetFunction(void **function, void *, const char *name) {
    *function = (void *)emulated::find(name);
    return *function ? SUCCESS : NOT_FOUND;
}
int cuFuncSetAttribute(void *, int, int) { return SUCCESS; }
int cuLaunchKernelEx(const Config *config, void *function, void **arguments, void **) {
    if (config->grid_z != 1 || config->block_y != 1 || config->block_z != 1) return INVALID_VALUE;
    if (config->grid_x == 0 || config->grid_y == 0 || config->grid_y > 65535 || config->shared_bytes > 232448) return INVALID_VALUE;
    const Kernel *kernel = (const Kernel *)function;
    const uint8_t *argument = (const uint8_t *)arguments[0];
    return submit({kernel, *config, std::vector<uint8_t>(argument, argument + kernel->argument_bytes), nullptr, nullptr, 0});
}
int cuStreamBeginCapture_v2(void *, int) { return capturing ? INVALID_VALUE : (capturing = new Graph, SUCCESS); }
int cuStreamEndCapture(void *, void **graph) {
    *graph = capturing;
    capturing = nullptr;
    return *graph ? SUCCESS : INVALID_VALUE;
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) { return *executable = new Graph(*(Graph *)graph), SUCCESS; }
int cuGraphDestroy(void *graph) { return delete (Graph *)graph, SUCCESS; }
int cuGraphExecDestroy(void *graph) { return delete (Graph *)graph, SUCCESS; }
int cuGraphLaunch(void *graph, void *) {
    for (const Work &work : ((Graph *)graph)->work) run(work);
    return SUCCESS;
}
int cuGetErrorName(int error, const char **name) { return *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR", SUCCESS; }
int cuGetErrorString(int, const char **text) { return *text = "an emulated driver has no more to say", SUCCESS; }
}
