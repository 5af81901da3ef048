// philox, a block of four words a thread
// kernel0<<<(n + 4095)//4096, 256>>>(key, n, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long* key, const long long n0_, u8* w0) {
    const Index n0 = (Index)n0_;
    const u64 mixed_key = mixed((u64)key[0], (u64)key[1]), counter = (u64)key[2];
    for (int k = 0; k < 4; ++k) {
        const Index block = ((Index)blockIdx.x * 4 + k) * 256 + threadIdx.x;
        const Index at = block * 4;
        if (at >= n0) break;
        const Words words = words_of(mixed_key, counter, (u64)block);
        const Pack<4, u8> some = {{(u8)((words.at[0] >> 8) < 5033165u), (u8)((words.at[1] >> 8) < 5033165u), (u8)((words.at[2] >> 8) < 5033165u), (u8)((words.at[3] >> 8) < 5033165u)}};
        put<4>(w0 + at, (int)least<Index>(n0 - at, 4), true, some);
    }
}
