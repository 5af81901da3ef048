// 4 elements a thread
// kernel0<<<196, 256>>>(read 0, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, const float* r1, float* w0) {
    const Index unit_1 = (Index)blockIdx.x * 256 + threadIdx.x;
    const Index row_2 = least<Index>(unit_1, 50000 - 1);
    const Index i_3 = row_2 % 25000;
    const Index rest_4 = row_2 / 25000;
    const Index v_5 = i_3 * 4;
    const Index at_6 = rest_4 * 100000 + v_5;
    const Pack<4, float> x_7 = fetched<4>(r0 + at_6);
    const float x_8 = r1[rest_4];
    Pack<4, float> out_9;
    #pragma unroll
    for (int v = 0; v < 4; ++v) {
        const float v_10 = x_7.item[v] / x_8;
        out_9.item[v] = v_10;
    }
    if (unit_1 < 50000) {
        put<4>(w0 + at_6, out_9);
    }
}
