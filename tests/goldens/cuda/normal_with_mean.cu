// philox, a block of four words a thread
// kernel0<<<1, 256>>>(key, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long* key, f16* w0) {
    const u64 mixed_key = mixed((u64)key[0], (u64)key[1]), counter = (u64)key[2];
    for (int k = 0; k < 4; ++k) {
        const Index block = ((Index)blockIdx.x * 4 + k) * 256 + threadIdx.x;
        const Index at = block * 4;
        if (at >= 1000) break;
        const Words words = words_of(mixed_key, counter, (u64)block);
        const Pair64 z0 = normal_pair((double)words.at[0] * 0x1p-32, (double)words.at[1] * 0x1p-32);
        const Pair64 z2 = normal_pair((double)words.at[2] * 0x1p-32, (double)words.at[3] * 0x1p-32);
        const Pack<4, f16> some = {{narrowed<f16>(((float)(1.0 + 0.5 * z0.first))), narrowed<f16>(((float)(1.0 + 0.5 * z0.second))), narrowed<f16>(((float)(1.0 + 0.5 * z2.first))), narrowed<f16>(((float)(1.0 + 0.5 * z2.second)))}};
        put<4>(w0 + at, (int)least<Index>(1000 - at, 4), true, some);
    }
}
