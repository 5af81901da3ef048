// tiles of 32x32 by way of shared memory
// kernel0<<<4, 256>>>(read 0, read 1, read 2, read 3, read 4, read 5, read 6, read 7, read 8, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const double* r0, const double* r1, const double* r2, const double* r3, const double* r4, const double* r5, const double* r6, const double* r7, const double* r8, double* w0) {
    const Index i_1 = (Index)blockIdx.x % 2;
    const Index rest_2 = (Index)blockIdx.x / 2;
    const int lane_3 = threadIdx.x % 32;
    const int first_4 = threadIdx.x / 32;
    __shared__ double tile_5[32][32 + 1];
    __shared__ double tile_6[32][32 + 1];
    __shared__ double tile_7[32][32 + 1];
    __shared__ double tile_8[32][32 + 1];
    #pragma unroll
    for (int row_9 = first_4; row_9 < 32; row_9 += 8) {
        const Index i_10 = rest_2 * 32 + lane_3;
        const Index i_11 = i_1 * 32 + row_9;
        if (i_10 < 50 && i_11 < 40) {
            tile_5[row_9][lane_3] = r0[i_10 + i_11 * 50];
            tile_6[row_9][lane_3] = r1[i_10 + i_11 * 50];
            tile_7[row_9][lane_3] = r2[i_10 + i_11 * 50];
            tile_8[row_9][lane_3] = r3[i_10 + i_11 * 50];
        }
    }
    __syncthreads();
    #pragma unroll
    for (int row_12 = first_4; row_12 < 32; row_12 += 8) {
        const Index i_13 = i_1 * 32 + lane_3;
        const Index i_14 = rest_2 * 32 + row_12;
        if (i_13 < 40 && i_14 < 50) {
            const double x_15 = r4[i_14 + i_13 * 50];
            const double x_16 = r5[i_14 + i_13 * 50];
            const double x_17 = r6[i_14 + i_13 * 50];
            const double x_18 = r7[i_14 + i_13 * 50];
            const double x_19 = r8[i_14 + i_13 * 50];
            const double v_20 = 0.0 + tile_5[lane_3][row_12];
            const double v_21 = v_20 + tile_6[lane_3][row_12];
            const double v_22 = v_21 + tile_7[lane_3][row_12];
            const double v_23 = v_22 + tile_8[lane_3][row_12];
            const double v_24 = v_23 + x_15;
            const double v_25 = v_24 + x_16;
            const double v_26 = v_25 + x_17;
            const double v_27 = v_26 + x_18;
            const double v_28 = v_27 + x_19;
            w0[i_14 * 40 + i_13] = v_28;
        }
    }
}
