// rows by 512 threads, 4 elements a thread
// kernel0<<<300, 512>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(512) kernel0(const float* r0, float* w0) {
    const Index position_1 = (Index)threadIdx.x % 512;
    const Index unit_2 = (Index)blockIdx.x;
    const Index at_3 = unit_2 * 5000;
    Greatest<float>::Type acc_4[4] = {Greatest<float>::start(), Greatest<float>::start(), Greatest<float>::start(), Greatest<float>::start()};
    for (Index chunk_5 = position_1; chunk_5 < 1250; chunk_5 += 512) {
        const Index v_6 = chunk_5 * 4;
        const Pack<4, float> x_7 = fetched<4>(r0 + at_3 + v_6);
        #pragma unroll
        for (int v = 0; v < 4; ++v) {
            acc_4[v] = Greatest<float>::join(acc_4[v], x_7.item[v]);
        }
    }
    const Greatest<float>::Type whole_8 = joined<Greatest<float>, 512, 512>(joined_values<Greatest<float>, 4>(acc_4));
    if (position_1 == 0) {
        w0[unit_2] = whole_8;
    }
}
