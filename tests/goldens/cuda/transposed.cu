// tiles of 32x32 by way of shared memory
// kernel0<<<10*((n + 31)//32), 256>>>(n, read 0, read 1, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long n0_, const float* r0, const float* r1, float* w0) {
    const Index n0 = (Index)n0_;
    const Index i_1 = (Index)blockIdx.x % 10;
    const Index rest_2 = (Index)blockIdx.x / 10;
    const int lane_3 = threadIdx.x % 32;
    const int first_4 = threadIdx.x / 32;
    __shared__ float tile_5[32][32 + 1];
    #pragma unroll
    for (int row_6 = first_4; row_6 < 32; row_6 += 8) {
        const Index i_7 = rest_2 * 32 + lane_3;
        const Index i_8 = i_1 * 32 + row_6;
        if (i_7 < n0 && i_8 < 300) {
            tile_5[row_6][lane_3] = r0[i_7 + i_8 * n0];
        }
    }
    __syncthreads();
    #pragma unroll
    for (int row_9 = first_4; row_9 < 32; row_9 += 8) {
        const Index i_10 = i_1 * 32 + lane_3;
        const Index i_11 = rest_2 * 32 + row_9;
        if (i_10 < 300 && i_11 < n0) {
            const float x_12 = r1[i_11 * 300 + i_10];
            const float v_13 = tile_5[lane_3][row_9] + x_12;
            w0[i_11 * 300 + i_10] = v_13;
        }
    }
}
