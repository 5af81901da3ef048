"""What CUDA C of all kernels may use: types, accesses of 16 bytes, joins in a fixed order, integers as NumPy has them.

`DEVICE` is what a GPU has of its own: conversions of 16-bit floats and of bits. Tests put something else in its place,
to run the rest on a CPU. No header is included, so that nothing but NVRTC is needed.

Functions that all threads of a block must call together: `joined`, `joined_columns`.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc.runtime.cuda.launches import CudaKernel

# No product and sum become one operation that rounds once, unless the text says `fma`: so elementary arithmetic has the
# bits that NumPy gives. Denormals stay, divisions and roots are rounded correctly.
UNUSED = "--diag-suppress=177"  # variables that nothing refers to: not every pass needs every index
OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", UNUSED)

TYPES = r"""
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
struct f16 { u16 bits; };
struct bf16 { u16 bits; };
"""

DEVICE = r"""
__device__ __forceinline__ float float_of(u32 bits) { return __uint_as_float(bits); }
__device__ __forceinline__ double double_of(u64 bits) { return __longlong_as_double((i64)bits); }
__device__ __forceinline__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ u64 bits_of(double x) { return (u64)__double_as_longlong(x); }
__device__ __forceinline__ float widened(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ u16 half_bits(float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ u16 half_bits(double x) {
    u16 y;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(y) : "d"(x));
    return y;
}
// Copies of 4, 8 or 16 bytes to shared memory that go on by themselves until `arrived`; of null, zeros.
#if __CUDA_ARCH__ >= 800
constexpr bool ASYNCHRONOUS = true;
template <int BYTES> __device__ __forceinline__ void sent(void* to, const void* from) {
    const u32 place = (u32)__cvta_generic_to_shared(to);
    const u32 count = from != nullptr ? BYTES : 0;
    if constexpr (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(count) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(place), "l"(from), "n"(BYTES), "r"(count)
                     : "memory");
    }
}
__device__ __forceinline__ void arrived() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#else
constexpr bool ASYNCHRONOUS = false;
template <int BYTES> __device__ __forceinline__ void sent(void*, const void*) {}
__device__ __forceinline__ void arrived() {}
#endif
"""

NUMBERS = r"""
__device__ __forceinline__ float widened(bf16 x) { return float_of((u32)x.bits << 16); }
__device__ __forceinline__ u16 brain_bits(float x) {  // half to even; a nan keeps its sign
    u32 bits = bits_of(x);
    return x != x ? (u16)(bits >> 16 & 0x8000u | 0x7fc0u) : (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
template <typename T> __device__ T narrowed(float x);
template <> __device__ __forceinline__ f16 narrowed<f16>(float x) { return f16{half_bits(x)}; }
template <> __device__ __forceinline__ bf16 narrowed<bf16>(float x) { return bf16{brain_bits(x)}; }

template <typename T> __device__ __forceinline__ T least(T a, T b) { return b < a ? b : a; }
template <typename T> __device__ __forceinline__ T most(T a, T b) { return a < b ? b : a; }
// The greater or smaller of two; nan if one is.
template <typename T> __device__ __forceinline__ T maximum(T a, T b) { return a != a || a > b ? a : b; }
template <typename T> __device__ __forceinline__ T minimum(T a, T b) { return a != a || a < b ? a : b; }
template <typename T> __device__ __forceinline__ T sign(T x) { return T(0) < x ? T(1) : x < T(0) ? T(-1) : x + T(0); }

// The greatest integer <= a / b, and the remainder of that; 0 where b is 0. The lowest number, by -1, stays it.
template <typename T> __device__ __forceinline__ T quotient(T a, T b) {
    if (b == T(0)) return T(0);
    if (b == T(-1) && T(-1) < T(0)) return T(u64(0) - u64(a));
    T whole = a / b;
    return a % b != T(0) && (a < T(0)) != (b < T(0)) ? T(whole - T(1)) : whole;
}
template <typename T> __device__ __forceinline__ T remainder_of(T a, T b) {
    if (b == T(0) || b == T(-1) && T(-1) < T(0)) return T(0);
    T rest = a % b;
    return rest != T(0) && (rest < T(0)) != (b < T(0)) ? T(rest + b) : rest;
}
// a ** b, wrapping; to a negative power it is truncated.
template <typename T> __device__ __forceinline__ T integer_power(T a, T b) {
    if (b < T(0)) {
        if (a != T(1) && a != T(-1)) return T(0);
        b = b & T(1);
    }
    u64 result = 1, base = (u64)a;
    for (u64 left = (u64)b; left; left >>= 1) {
        if (left & 1) result *= base;
        base *= base;
    }
    return T(result);
}
__device__ __forceinline__ float modulo(float a, float b) { return fmodf(a, b); }
__device__ __forceinline__ double modulo(double a, double b) { return fmod(a, b); }
template <typename T> __device__ __forceinline__ T float_remainder(T a, T b) {
    T rest = modulo(a, b);
    if (rest == T(0)) return copysign(T(0), b);
    return (rest < T(0)) != (b < T(0)) && rest == rest && b == b ? rest + b : rest;
}
// As NumPy has it: the quotient without the remainder is rounded to the integer that it nearly is.
template <typename T> __device__ __forceinline__ T float_quotient(T a, T b) {
    if (b == T(0)) return a / b;
    T rest = modulo(a, b);
    T whole = (a - rest) / b;
    if (rest != T(0) && (rest < T(0)) != (b < T(0))) whole -= T(1);
    if (whole == T(0)) return copysign(T(0), a / b);
    T low = floor(whole);
    return whole - low > T(0.5) ? low + T(1) : low;
}
// Towards 0, by way of an i32 or i64; what doesn't fit that, and nan, becomes its lowest.
template <typename T> __device__ __forceinline__ i32 integer_of(T x) {
    return (i32)(fabs(x) < T(2147483648.0) ? x : T(-2147483648.0));
}
template <typename T> __device__ __forceinline__ i64 long_of(T x) {
    return (i64)(fabs(x) < T(9223372036854775808.0) ? x : T(-9223372036854775808.0));
}
"""

MEMORY_ACCESS = r"""
// V neighbours; a pack that is aligned is loaded and stored by accesses of up to 16 bytes.
template <int V, typename T> struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Pack {
    T item[V];
};
template <int V, typename T> __device__ __forceinline__ Pack<V, T> fetched(const T* at) {
    return *reinterpret_cast<const Pack<V, T>*>(at);
}
template <int V, typename T> __device__ __forceinline__ void put(T* at, const Pack<V, T>& x) {
    *reinterpret_cast<Pack<V, T>*>(at) = x;
}
// The first `count` of V elements so far apart; the others are 0 bits.
template <int V, typename T> __device__ __forceinline__ Pack<V, T> gathered(const T* at, Index stride, int count) {
    Pack<V, T> x = {};
#pragma unroll
    for (int v = 0; v < V; ++v) {
        if (v < count) x.item[v] = at[v * stride];
    }
    return x;
}
template <int V, typename T> __device__ __forceinline__
void scattered(T* at, Index stride, int count, const Pack<V, T>& x) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
        if (v < count) at[v * stride] = x.item[v];
    }
}
// The same of neighbours, of which an `aligned` pack is one access.
template <int V, typename T> __device__ __forceinline__ Pack<V, T> fetched(const T* at, int count, bool aligned) {
    return aligned && count >= V ? fetched<V>(at) : gathered<V>(at, 1, count);
}
template <int V, typename T> __device__ __forceinline__ void put(T* at, int count, bool aligned, const Pack<V, T>& x) {
    if (aligned && count >= V) put<V>(at, x); else scattered<V>(at, 1, count, x);
}
"""

JOINS = r"""
template <typename T> struct Wrapping { typedef u32 Type; };  // in which sums and products wrap
template <> struct Wrapping<i64> { typedef u64 Type; };
template <> struct Wrapping<u64> { typedef u64 Type; };
template <> struct Wrapping<float> { typedef float Type; };
template <> struct Wrapping<double> { typedef double Type; };
// How reductions join what they have: `start` is that of nothing; of two, `a` holds what comes earlier.
template <typename T> struct Sum {
    typedef T Type;
    typedef typename Wrapping<T>::Type Word;
    static __device__ __forceinline__ T start() { return T(0); }
    static __device__ __forceinline__ T join(T a, T b) { return T(Word(a) + Word(b)); }
};
template <typename T> struct Product {
    typedef T Type;
    typedef typename Wrapping<T>::Type Word;
    static __device__ __forceinline__ T start() { return T(1); }
    static __device__ __forceinline__ T join(T a, T b) { return T(Word(a) * Word(b)); }
};
template <typename T> struct Any {
    typedef T Type;
    static __device__ __forceinline__ T start() { return T(0); }
    static __device__ __forceinline__ T join(T a, T b) { return a | b; }
};
template <typename T> struct All {
    typedef T Type;
    static __device__ __forceinline__ T start() { return T(1); }
    static __device__ __forceinline__ T join(T a, T b) { return a & b; }
};
template <typename T> __device__ __forceinline__ T lowest() {
    return T(-1) < T(0) ? T(1ULL << (8 * sizeof(T) - 1)) : T(0);
}
template <typename T> __device__ __forceinline__ T highest() { return T(~lowest<T>()); }
template <> __device__ __forceinline__ float lowest<float>() { return float_of(0xff800000u); }
template <> __device__ __forceinline__ float highest<float>() { return float_of(0x7f800000u); }
template <> __device__ __forceinline__ double lowest<double>() { return double_of(0xfff0000000000000ULL); }
template <> __device__ __forceinline__ double highest<double>() { return double_of(0x7ff0000000000000ULL); }
// Whether `b` takes the place of `a`, which comes first: it is more extreme, or the first nan.
template <bool GREATER, typename T> __device__ __forceinline__ bool beats(T a, T b) {
    return (GREATER ? b > a : b < a) || (b != b && a == a);
}
template <bool GREATER, typename T> struct Extreme {
    typedef T Type;
    static __device__ __forceinline__ T start() { return GREATER ? lowest<T>() : highest<T>(); }
    static __device__ __forceinline__ T join(T a, T b) { return beats<GREATER>(a, b) ? b : a; }
};
template <typename T> using Greatest = Extreme<true, T>;
template <typename T> using Smallest = Extreme<false, T>;
template <typename T> struct Placed {
    T value;
    i64 position;
};
template <bool GREATER, typename T> struct Place {
    typedef Placed<T> Type;
    static __device__ __forceinline__ Type start() {
        return Type{GREATER ? lowest<T>() : highest<T>(), (i64)(1ULL << 62)};
    }
    static __device__ __forceinline__ Type join(Type a, Type b) {
        if (beats<GREATER>(a.value, b.value)) return b;
        return b.position < a.position && !beats<GREATER>(b.value, a.value) ? b : a;
    }
};
template <typename T> using GreatestPlace = Place<true, T>;
template <typename T> using SmallestPlace = Place<false, T>;

template <typename A> __device__ __forceinline__ A shuffled(A x, int lane, int width) {
    const int words = (sizeof(A) + 3) / 4;
    union { A whole; u32 word[words]; } from, to;
    from.whole = x;
#pragma unroll
    for (int k = 0; k < words; ++k) to.word[k] = __shfl_sync(0xffffffffu, from.word[k], lane, width);
    return to.whole;
}
// Of TEAM neighbouring lanes (a power of 2, up to 32): what they have, joined in a fixed tree; all get it.
template <class R, int TEAM> __device__ __forceinline__ typename R::Type joined_lanes(typename R::Type x) {
    const int lane = threadIdx.x % TEAM;
#pragma unroll
    for (int by = TEAM / 2; by > 0; by /= 2) {
        typename R::Type y = shuffled(x, lane + by, TEAM);
        x = lane < by ? R::join(x, y) : x;
    }
    return TEAM > 1 ? shuffled(x, 0, TEAM) : x;
}
// Of TEAM neighbouring threads (a power of 2, up to the block), the same.
template <class R, int TEAM, int THREADS> __device__ __forceinline__ typename R::Type joined(typename R::Type x) {
    if constexpr (TEAM <= 32) {
        return joined_lanes<R, TEAM>(x);
    } else {
        __shared__ typename R::Type part[THREADS / 32];
        x = joined_lanes<R, 32>(x);
        __syncthreads();  // the last use of `part` is over
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
        __syncthreads();
        const int first = threadIdx.x / TEAM * (TEAM / 32);
        x = part[first];
#pragma unroll
        for (int k = 1; k < TEAM / 32; ++k) x = R::join(x, part[first + k]);
        return x;
    }
}
// Of the TEAM threads whose numbers are the same modulo COLUMNS, V values each.
template <class R, int TEAM, int COLUMNS, int V> __device__ __forceinline__
void joined_columns(typename R::Type (&x)[V]) {
    if constexpr (TEAM > 1) {
        __shared__ typename R::Type part[TEAM][COLUMNS];
        const int column = threadIdx.x % COLUMNS, row = threadIdx.x / COLUMNS;
#pragma unroll
        for (int v = 0; v < V; ++v) {
            __syncthreads();
            part[row][column] = x[v];
            __syncthreads();
            x[v] = part[0][column];
#pragma unroll
            for (int k = 1; k < TEAM; ++k) x[v] = R::join(x[v], part[k][column]);
        }
    }
}
// Of the V values of a thread.
template <class R, int V> __device__ __forceinline__ typename R::Type joined_values(typename R::Type (&x)[V]) {
#pragma unroll
    for (int by = 1; by < V; by *= 2) {
#pragma unroll
        for (int v = 0; v + by < V; v += 2 * by) x[v] = R::join(x[v], x[v + by]);
    }
    return x[0];
}
"""


def translation_unit(kernel: CudaKernel, dims: Mapping[str, int]) -> str:
    """What NVRTC compiles for a kernel and sizes of symbolic dimensions: one of two texts, by how wide `Index` is."""
    return f"{prelude(kernel.is_wide(dims))}\n{kernel.source}"


def prelude(wide: bool, device: str = DEVICE) -> str:
    """What comes before the source of a kernel."""
    index = f"typedef {'long long' if wide else 'int'} Index;"
    return "\n".join([TYPES.strip(), index, device.strip(), NUMBERS.strip(), MEMORY_ACCESS.strip(), JOINS.strip()])
