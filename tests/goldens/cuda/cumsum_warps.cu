// lines by warps
// kernel0<<<2, 256>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 288) {
        const Index team = number_1 / 32;
        auto load_2 = [&](Index at, int count, Shift<float>(&steps)[4]) {
            const auto x0 = along<4, true>(&r0[team * 300 + (300 - 1 - at)], 1, count, true);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                steps[v] = Shift<float>{(float)x0.item[v]};
            }
        };
        auto store_3 = [&](Index at, int count, const float(&values)[4]) {
            Pack<4, float> some;
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                some.item[v] = (float)(values[v]);
            }
            put_along<4, true>(&w0[team * 300 + (300 - 1 - at)], 1, count, true, some);
        };
        scanned<32, 4, false, Shift<float>>(load_2, store_3, Next(), 0, 300, (float)0.0f);
    }
}
