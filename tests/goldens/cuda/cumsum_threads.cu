// lines by threads
// kernel0<<<9, 256>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const f16* r0, f16* w0) {
    const Index number_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    if (number_1 < 2100) {
        const Index team = number_1;
        const Index i_2 = team % 300;
        const Index rest_3 = team / 300;
        auto load_4 = [&](Index at, int count, Shift<float>(&steps)[8]) {
            const auto x0 = along<8, false>(&r0[at * 2100 + rest_3 * 300 + i_2], 2100, count, false);
            #pragma unroll
            for (int v = 0; v < 8; ++v) {
                steps[v] = Shift<float>{(float)widened(x0.item[v])};
            }
        };
        auto store_5 = [&](Index at, int count, const float(&values)[8]) {
            Pack<8, f16> some;
            #pragma unroll
            for (int v = 0; v < 8; ++v) {
                some.item[v] = (f16)(narrowed<f16>(values[v]));
            }
            put_along<8, false>(&w0[at * 2100 + rest_3 * 300 + i_2], 2100, count, false, some);
        };
        scanned<1, 8, true, Shift<float>>(load_4, store_5, Next(), 0, 5, (float)0.0f);
    }
}
