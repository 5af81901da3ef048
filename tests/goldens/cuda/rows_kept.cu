// rows by 32 threads, kept in registers, 4 elements a thread
// kernel0<<<150, 64>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(64) kernel0(const float* r0, float* w0) {
    const Index position_1 = (Index)threadIdx.x % 32;
    const Index unit_2 = (Index)blockIdx.x * 2 + (Index)threadIdx.x / 32;
    const Index at_3 = unit_2 * 1000;
    Greatest<float>::Type acc_4[4] = {Greatest<float>::start(), Greatest<float>::start(), Greatest<float>::start(), Greatest<float>::start()};
    Pack<4, float> kept_5[8];
    #pragma unroll
    for (int k = 0; k < 8; ++k) {
        const Index chunk_6 = position_1 + k * 32;
        if (chunk_6 < 250) {
            const Index v_7 = chunk_6 * 4;
            kept_5[k] = fetched<4>(r0 + at_3 + v_7);
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                acc_4[v] = Greatest<float>::join(acc_4[v], kept_5[k].item[v]);
            }
        }
    }
    const Greatest<float>::Type whole_8 = joined<Greatest<float>, 32, 64>(joined_values<Greatest<float>, 4>(acc_4));
    Sum<float>::Type acc_9[4] = {Sum<float>::start(), Sum<float>::start(), Sum<float>::start(), Sum<float>::start()};
    float kept_10[8][4];
    #pragma unroll
    for (int k = 0; k < 8; ++k) {
        const Index chunk_11 = position_1 + k * 32;
        if (chunk_11 < 250) {
            const Index v_12 = chunk_11 * 4;
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                const float v_13 = kept_5[k].item[v] - whole_8;
                const float v_14 = expf(v_13);
                kept_10[k][v] = v_14;
                acc_9[v] = Sum<float>::join(acc_9[v], v_14);
            }
        }
    }
    const Sum<float>::Type whole_15 = joined<Sum<float>, 32, 64>(joined_values<Sum<float>, 4>(acc_9));
    #pragma unroll
    for (int k = 0; k < 8; ++k) {
        const Index chunk_16 = position_1 + k * 32;
        if (chunk_16 < 250) {
            const Index v_17 = chunk_16 * 4;
            Pack<4, float> out_18;
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                const float v_19 = kept_10[k][v] / whole_15;
                out_18.item[v] = v_19;
            }
            put<4>(w0 + at_3 + v_17, out_18);
        }
    }
}
