// philox, a block of four words a thread
// kernel0<<<1, 256>>>(key, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long* key, float* w0) {
    const u64 mixed_key = mixed((u64)key[0], (u64)key[1]), counter = (u64)key[2];
    for (int k = 0; k < 4; ++k) {
        const Index block = ((Index)blockIdx.x * 4 + k) * 256 + threadIdx.x;
        const Index at = block * 4;
        if (at >= 1000) break;
        const Words words = words_of(mixed_key, counter, (u64)block);
        const Pair32 z0 = normal_pair(words.at[0], words.at[1]);
        const Pair32 z2 = normal_pair(words.at[2], words.at[3]);
        const Pack<4, float> some = {{(0.5f * z0.first), (0.5f * z0.second), (0.5f * z2.first), (0.5f * z2.second)}};
        put<4>(w0 + at, (int)least<Index>(1000 - at, 4), true, some);
    }
}
