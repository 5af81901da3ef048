// What CUDA C needs to run on a CPU: a block's threads are fibers that take turns at barriers and shuffles, and a grid
// runs block by block. A thread that waits for others that have gone elsewhere is an error, not a deadlock.
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __shared__ static
#define __constant__ static const
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim = {1, 1, 1}, gridDim = {1, 1, 1};

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) double2 { double x, y; };

// ---------------------------------------------------------------------------------------------------------- fibers

// Blocks of a grid and threads of a block run in their order, or, to show that it doesn't matter, from the last one on.
#ifndef BACKWARDS
#define BACKWARDS 0
#endif
static int nth(int k, int count) { return BACKWARDS ? count - 1 - k : k; }

namespace fibers {

const int MOST = 1024;  // threads of a block
const int WARP = 32;
const size_t STACK = 256 << 10;  // bytes, of which those in use have memory
enum State { FREE, READY, AT_BLOCK, AT_WARP, DONE };

static jmp_buf scheduler;
static jmp_buf place[MOST];
static ucontext_t context[MOST], first;
static State state[MOST];
static uint32_t slots[2][MOST];     // what threads show to their warps, in turns
static int turn[MOST];
static bool made[MOST];
static int current, running;
static char* stacks;
static void (*body)(const long long*);
static const long long* arguments;

static void work() {
    for (;;) {
        body(arguments);
        state[current] = DONE;
        if (!_setjmp(place[current])) _longjmp(scheduler, 1);
    }
}

static void resume(int thread) {
    current = thread;
    threadIdx.x = thread;
    state[thread] = READY;
    if (_setjmp(scheduler)) return;
    if (made[thread]) _longjmp(place[thread], 1);
    if (!stacks) {
        stacks = (char*)mmap(0, STACK * MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    made[thread] = true;
    getcontext(&context[thread]);
    context[thread].uc_stack.ss_sp = stacks + STACK * thread;
    context[thread].uc_stack.ss_size = STACK;
    context[thread].uc_link = &first;
    makecontext(&context[thread], work, 0);
    setcontext(&context[thread]);
}

static void wait(State why) {
    int self = current;
    state[self] = why;
    if (!_setjmp(place[self])) _longjmp(scheduler, 1);
}

// Run each thread until all wait or are done; let go those that all of their block or warp wait for. 1 if there are none.
static int block(int threads) {
    running = threads;
    for (int t = 0; t < threads; ++t) state[t] = READY, turn[t] = 0;
    for (;;) {
        for (int k = 0; k < threads; ++k) {
            int t = nth(k, threads);
            if (state[t] == READY) resume(t);
        }
        int done = 0, at_block = 0, freed = 0;
        for (int t = 0; t < threads; ++t) done += state[t] == DONE, at_block += state[t] == AT_BLOCK;
        if (done == threads) return 0;
        if (done + at_block == threads) {
            for (int t = 0; t < threads; ++t) state[t] = state[t] == AT_BLOCK ? READY : state[t];
            continue;
        }
        for (int warp = 0; warp < threads; warp += WARP) {
            int last = warp + WARP < threads ? warp + WARP : threads, here = 0;
            for (int t = warp; t < last; ++t) here += state[t] == AT_WARP;
            if (here < last - warp) continue;
            for (int t = warp; t < last; ++t) state[t] = READY;
            freed = 1;
        }
        if (freed) continue;
        memset(made, 0, sizeof made);  // their stacks are left as they are
        return 1;
    }
}

// What lane `from` of the same warp shows.
static uint32_t exchanged(uint32_t mine, int from) {
    int parity = turn[current]++ & 1;
    slots[parity][current] = mine;
    wait(AT_WARP);
    int warp = current & ~(WARP - 1);
    return warp + from < running ? slots[parity][warp + from] : 0;
}

template <typename T> static T shown(T x, int from) {
    uint32_t words[(sizeof(T) + 3) / 4] = {};
    memcpy(words, &x, sizeof(T));
    for (uint32_t& word : words) word = exchanged(word, from);
    memcpy(&x, words, sizeof(T));
    return x;
}

static unsigned ballot(bool vote) {
    int parity = turn[current]++ & 1;
    slots[parity][current] = vote;
    wait(AT_WARP);
    int warp = current & ~(WARP - 1);
    unsigned found = 0;
    for (int lane = 0; lane < WARP && warp + lane < running; ++lane) found |= slots[parity][warp + lane] << lane;
    return found;
}

}  // namespace fibers

static inline void __syncthreads() { fibers::wait(fibers::AT_BLOCK); }
static inline int __syncthreads_or(int vote) {
    static int any[2];
    static int round;
    __syncthreads();
    if (fibers::current == 0) any[++round & 1] = 0;
    __syncthreads();
    any[round & 1] |= vote != 0;
    __syncthreads();
    return any[round & 1];
}
static inline void __syncwarp(unsigned = ~0u) { fibers::wait(fibers::AT_WARP); }
static inline void __threadfence() {}
static inline unsigned __ballot_sync(unsigned, bool vote) { return fibers::ballot(vote); }
static inline bool __any_sync(unsigned, bool vote) { return fibers::ballot(vote) != 0; }
static inline int lane_of_warp() { return fibers::current & 31; }
template <typename T> static inline T __shfl_sync(unsigned, T x, int lane, int width = 32) {
    return fibers::shown(x, (lane_of_warp() & ~(width - 1)) + (lane & (width - 1)));
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T x, int mask, int width = 32) {
    return fibers::shown(x, lane_of_warp() ^ mask);
}
template <typename T> static inline T __shfl_down_sync(unsigned, T x, int by, int width = 32) {
    int lane = lane_of_warp();
    return fibers::shown(x, (lane & (width - 1)) + by < width ? lane + by : lane);
}
template <typename T> static inline T __shfl_up_sync(unsigned, T x, int by, int width = 32) {
    int lane = lane_of_warp();
    return fibers::shown(x, (lane & (width - 1)) >= by ? lane - by : lane);
}

// -------------------------------------------------------------------------------------------------------- functions

template <typename T> static inline T atomicAdd(T* at, T x) { T old = *at; *at = old + x; return old; }
template <typename T> static inline T atomicMax(T* at, T x) { T old = *at; *at = old < x ? x : old; return old; }
template <typename T> static inline T atomicMin(T* at, T x) { T old = *at; *at = x < old ? x : old; return old; }
template <typename T> static inline T atomicOr(T* at, T x) { T old = *at; *at = old | x; return old; }
template <typename T> static inline T atomicExch(T* at, T x) { T old = *at; *at = x; return old; }
template <typename T> static inline T atomicCAS(T* at, T was, T x) { T old = *at; if (old == was) *at = x; return old; }
template <typename T> static inline T __ldg(const T* at) { return *at; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline float __fdividef(float a, float b) { return a / b; }
template <typename T> static inline T min(T a, T b) { return b < a ? b : a; }
template <typename T> static inline T max(T a, T b) { return a < b ? b : a; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }

// Calls a kernel with arguments that come as 64 bits each.
template <size_t... I> struct Numbers {};
template <size_t N, size_t... I> struct Counted : Counted<N - 1, N - 1, I...> {};
template <size_t... I> struct Counted<0, I...> { typedef Numbers<I...> Type; };
template <class... A, size_t... I>
static inline void applied(void (*kernel)(A...), const long long* values, Numbers<I...>) {
    kernel((A)values[I]...);
}
template <class... A> static inline void applied(void (*kernel)(A...), const long long* values) {
    applied(kernel, values, typename Counted<sizeof...(A)>::Type());
}

// A grid: 0, or 1 if threads wait for others that don't come. Without `waits`, no thread waits for any.
static int grid(void (*kernel)(const long long*), const long long* values, unsigned blocks, int threads, int waits) {
    blockDim.x = threads;
    gridDim.x = blocks;
    fibers::body = kernel;
    fibers::arguments = values;
    for (unsigned b = 0; b < blocks; ++b) {
        blockIdx.x = nth(b, blocks);
        if (waits) {
            if (fibers::block(threads)) return 1;
            continue;
        }
        for (int t = 0; t < threads; ++t) {
            threadIdx.x = nth(t, threads);
            kernel(values);
        }
    }
    return 0;
}
