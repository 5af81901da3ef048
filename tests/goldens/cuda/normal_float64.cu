// philox, a block of four words a thread
// kernel0<<<1, 256>>>(key, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long* key, double* w0) {
    const u64 mixed_key = mixed((u64)key[0], (u64)key[1]), counter = (u64)key[2];
    for (int k = 0; k < 4; ++k) {
        const Index block = ((Index)blockIdx.x * 4 + k) * 256 + threadIdx.x;
        const Index at = block * 2;
        if (at >= 1000) break;
        const Words words = words_of(mixed_key, counter, (u64)block);
        const Pair64 z0 = normal_pair((double)(joined(words.at[0], words.at[1]) >> 11) * 0x1p-53, (double)(joined(words.at[2], words.at[3]) >> 11) * 0x1p-53);
        const Pack<2, double> some = {{(z0.first), (z0.second)}};
        put<2>(w0 + at, (int)least<Index>(1000 - at, 2), true, some);
    }
}
