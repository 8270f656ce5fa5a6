// Between the driver's functions and the fibers that run kernels.
#pragma once
#include <atomic>
#include <string>

#include "emulated.h"

namespace emulated {
struct Kernel {
    std::string name;
    void (*function)();
    size_t argument_bytes;
    Entry::Call call;
};
struct Launch {
    int blocks_x, blocks_y, threads, shared_bytes;
    void **arguments;
};
extern std::atomic<const char *> launching; // the kernel that runs, or one of them, for messages
const Kernel *find(const char *name);
void run(const Kernel &kernel, const Launch &launch);
} // namespace emulated
