// philox, a block of four words a thread
// kernel0<<<(3*n + 4095)//4096, 256>>>(key, 3*n, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long* key, const long long n0_, float* w0) {
    const Index n0 = (Index)n0_;
    const u64 mixed_key = mixed((u64)key[0], (u64)key[1]), counter = (u64)key[2];
    for (int k = 0; k < 4; ++k) {
        const Index block = ((Index)blockIdx.x * 4 + k) * 256 + threadIdx.x;
        const Index at = block * 4;
        if (at >= n0) break;
        const Words words = words_of(mixed_key, counter, (u64)block);
        const Pack<4, float> some = {{(fminf((float)(words.at[0] >> 8) * 5.960464477539063e-08f * 3.0f + (-1.0f), 1.9999998807907104f)), (fminf((float)(words.at[1] >> 8) * 5.960464477539063e-08f * 3.0f + (-1.0f), 1.9999998807907104f)), (fminf((float)(words.at[2] >> 8) * 5.960464477539063e-08f * 3.0f + (-1.0f), 1.9999998807907104f)), (fminf((float)(words.at[3] >> 8) * 5.960464477539063e-08f * 3.0f + (-1.0f), 1.9999998807907104f))}};
        put<4>(w0 + at, (int)least<Index>(n0 - at, 4), true, some);
    }
}
