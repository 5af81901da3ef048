// lines by blocks
// kernel0<<<9, 256>>>(read 0, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, const float* r1, float* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 2304) {
        const Index team = number_1 / 256;
        auto load_2 = [&](Index at, int count, Affine<float>(&steps)[4]) {
            const auto x0 = along<4, false>(&r0[team * 5000 + at], 1, count, true);
            const auto x1 = along<4, false>(&r1[team * 5000 + at], 1, count, true);
            #pragma unroll
            for (int v = 0; v < 4; ++v) steps[v] = Affine<float>{(float)x0.item[v], (float)x1.item[v], 0};
        };
        auto store_3 = [&](Index at, int count, const float(&values)[4]) {
            Pack<4, float> some;
            #pragma unroll
            for (int v = 0; v < 4; ++v) some.item[v] = (float)(values[v]);
            put_along<4, false>(&w0[team * 5000 + at], 1, count, true, some);
        };
        scanned<256, 4, true, Affine<float>>(load_2, store_3, 0, 5000, (float)1.0f);
    }
}
