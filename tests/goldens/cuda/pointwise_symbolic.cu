// 8 elements a thread
// kernel0<<<(n + 2047)//2048, 256>>>((n + 7)//8, n, read 0, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long n0_, const long long n1_, const f16* r0, const f16* r1, f16* w0) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index unit_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    const Index row_2 = least<Index>(unit_1, n0 - 1);
    const Index v_3 = row_2 * 8;
    const int count_4 = (int)least<Index>(8, n1 - v_3);
    const int count_5 = (int)least<Index>(8, n1 - v_3);
    const Pack<8, f16> x_6 = fetched<8>(r0 + v_3, count_5, true);
    const Pack<8, f16> x_7 = fetched<8>(r1 + v_3, count_5, true);
    Pack<8, f16> out_8;
    #pragma unroll
    for (int v = 0; v < 8; ++v) {
        const float v_9 = widened(x_6.item[v]) * widened(x_7.item[v]);
        out_8.item[v] = narrowed<f16>(v_9);
    }
    if (unit_1 < n0) {
        put<8>(w0 + v_3, count_5, true, out_8);
    }
}
