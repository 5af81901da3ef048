// columns by 8 threads, 4 elements a thread
// kernel0<<<3, 256>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const float* r0, float* w0) {
    const Index position_1 = (Index)threadIdx.x / 32;
    const Index unit_2 = (Index)blockIdx.x * 32 + (Index)threadIdx.x % 32;
    const Index row_3 = least<Index>(unit_2, 75 - 1);
    const Index v_4 = row_3 * 4;
    Greatest<float>::Type acc_5[4] = {Greatest<float>::start(), Greatest<float>::start(), Greatest<float>::start(), Greatest<float>::start()};
    for (Index chunk_6 = position_1; chunk_6 < 50; chunk_6 += 8) {
        const Pack<4, float> x_7 = fetched<4>(r0 + v_4 + chunk_6 * 300);
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            acc_5[v] = Greatest<float>::join(acc_5[v], x_7.item[v]);
        }
    }
    joined_columns<Greatest<float>, 8, 32, 4>(acc_5);
    Sum<float>::Type acc_8[4] = {Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start()};
    for (Index chunk_9 = position_1; chunk_9 < 50; chunk_9 += 8) {
        const Pack<4, float> x_10 = fetched<4>(r0 + v_4 + chunk_9 * 300);
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            const float v_11 = x_10.item[v] - acc_5[v];
            const float v_12 = expf(v_11);
            acc_8[v] = Sum<float>::join(acc_8[v], v_12);
        }
    }
    joined_columns<Sum<float>, 8, 32, 4>(acc_8);
    for (Index chunk_13 = position_1; chunk_13 < 50; chunk_13 += 8) {
        const Pack<4, float> x_14 = fetched<4>(r0 + v_4 + chunk_13 * 300);
        Pack<4, float> out_15;
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            const float v_16 = x_14.item[v] - acc_5[v];
            const float v_17 = expf(v_16);
            const float v_18 = v_17 / acc_8[v];
            out_15.item[v] = v_18;
        }
        if (unit_2 < 75) {
            put<4>(w0 + v_4 + chunk_13 * 300, out_15);
        }
    }
}
