// lines by threads
// kernel0<<<1, 256>>>(read 0, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, const float* r1, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 40) {
        const Index team = number_1;
        auto load_2 = [&](Index at, int count, Affine<float>(&steps)[8]) {
            const auto x0 = along<8, true>(&r0[(3 - 1 - at) * 40 + team], 40, count, false);
            const auto x1 = along<8, true>(&r1[(3 - 1 - at) * 40 + team], 40, count, false);
            #pragma unroll
            for (int v = 0; v < 8; ++v) {
                steps[v] = Affine<float>{(float)x0.item[v], (float)x1.item[v], 0};
            }
        };
        auto store_3 = [&](Index at, int count, const float(&values)[8]) {
            Pack<8, float> some;
            #pragma unroll
            for (int v = 0; v < 8; ++v) {
                some.item[v] = (float)(values[v]);
            }
            put_along<8, true>(&w0[(3 - 1 - at) * 40 + team], 40, count, false, some);
        };
        scanned<1, 8, true, Affine<float>>(load_2, store_3, Next(), 0, 3, (float)0.0f);
    }
}
