// lines by threads
// kernel0<<<1, 256>>>(read 0, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, const float* r1, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 40) {
        const Index team = number_1;
        auto load_2 = [&](Index at, int count, Affine<float>(&steps)[4]) {
            const auto x0 = along<4, true>(&r0[(3 - 1 - at) * 40 + team], 40, count, false);
            const auto x1 = along<4, true>(&r1[(3 - 1 - at) * 40 + team], 40, count, false);
            #pragma unroll
            for (int v = 0; v < 4; ++v) steps[v] = Affine<float>{(float)x0.item[v], (float)x1.item[v], 0};
        };
        auto store_3 = [&](Index at, int count, const float(&values)[4]) {
            Pack<4, float> some;
            #pragma unroll
            for (int v = 0; v < 4; ++v) some.item[v] = (float)(values[v]);
            put_along<4, true>(&w0[(3 - 1 - at) * 40 + team], 40, count, false, some);
        };
        scanned<1, 4, true, Affine<float>>(load_2, store_3, 0, 3, (float)0.0f);
    }
}
