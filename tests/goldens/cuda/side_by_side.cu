// 2 regions side by side
// kernel0<<<(5*n + 255)//256 + (9*n + 255)//256, 256>>>((5*n + 255)//256, 5*n, read 0, write 0, (5*n + 255)//256 + (9*n + 255)//256, 9*n, read 1)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long n0_, const long long n1_, const float* r0, float* w0, const long long n2_, const long long n3_, const float* r1) {
    const Index n0 = (Index)n0_;
    const Index n1 = (Index)n1_;
    const Index n2 = (Index)n2_;
    const Index n3 = (Index)n3_;
    if ((Index)blockIdx.x < n0) {
        const Index unit_1 = (Index)blockIdx.x * 256 + threadIdx.x;
        const Index row_2 = least<Index>(unit_1, n1 - 1);
        const Index i_3 = row_2 % 5;
        const Index rest_4 = row_2 / 5;
        const Index v_5 = i_3 * 4;
        const Index at_6 = rest_4 * 20 + v_5;
        const Index at_7 = rest_4 * 56 + v_5;
        const Pack<4, float> x_8 = fetched<4>(r0 + at_6);
        Pack<4, float> out_9;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            out_9.item[v] = x_8.item[v];
        }
        if (unit_1 < n1) {
            put<4>(w0 + at_7, out_9);
        }
    }
    if ((Index)blockIdx.x >= n0 && (Index)blockIdx.x < n2) {
        const Index unit_10 = ((Index)blockIdx.x - n0) * 256 + threadIdx.x;
        const Index row_11 = least<Index>(unit_10, n3 - 1);
        const Index i_12 = row_11 % 9;
        const Index rest_13 = row_11 / 9;
        const Index v_14 = i_12 * 4;
        const Index at_15 = rest_13 * 36 + v_14;
        const Index at_16 = 20 + rest_13 * 56 + v_14;
        const Pack<4, float> x_17 = fetched<4>(r1 + at_15);
        Pack<4, float> out_18;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            out_18.item[v] = x_17.item[v];
        }
        if (unit_10 < n3) {
            put<4>(w0 + at_16, out_18);
        }
    }
}
