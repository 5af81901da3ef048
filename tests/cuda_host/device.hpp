// In the place of what a GPU has of its own: conversions of bits and of 16-bit floats, and copies to shared memory.
static inline float float_of(u32 bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline double double_of(u64 bits) { double x; memcpy(&x, &bits, 8); return x; }
static inline u32 bits_of(float x) { u32 bits; memcpy(&bits, &x, 4); return bits; }
static inline u64 bits_of(double x) { u64 bits; memcpy(&bits, &x, 8); return bits; }
static inline float widened(f16 x) {
    int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    float size = exponent == 31 ? (fraction ? NAN : INFINITY)
        : exponent ? ldexpf((float)(fraction + 1024), exponent - 25) : ldexpf((float)fraction, -24);
    return x.bits & 0x8000 ? -size : size;
}
static inline u16 half_bits(double x) {
    u16 sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x)) return sign | 0x7e00;
    x = fabs(x);
    if (x >= 65520.0) return sign | 0x7c00;
    int exponent = x < 6.103515625e-05 ? -14 : ilogb(x);
    double steps = rint(ldexp(x, 10 - exponent));  // half to even, in units of the last place
    return sign | (u16)((exponent + 14) * 1024 + (int)steps);
}
static inline u16 half_bits(float x) { return half_bits((double)x); }
// Copies that a GPU makes by itself happen as late as they may: when the thread that asked for them waits.
const bool ASYNCHRONOUS = true;
struct Copying { void* to; const void* from; int bytes; };
static Copying copying[1024][64];
static int begun[1024];
template <int BYTES> static inline void sent(void* to, const void* from) {
    if ((size_t)to % BYTES || (size_t)from % BYTES) abort();
    copying[threadIdx.x][begun[threadIdx.x]++] = Copying{to, from, BYTES};
}
static inline void arrived() {
    int& count = begun[threadIdx.x];
    while (count) {
        const Copying& copy = copying[threadIdx.x][--count];
        if (copy.from) memcpy(copy.to, copy.from, copy.bytes); else memset(copy.to, 0, copy.bytes);
    }
}
