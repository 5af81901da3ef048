// rows by 128 threads, an element a thread
// kernel0<<<150, 256>>>(n, read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(256) kernel0(const long long n0_, const float* r0, float* w0) {
    const Index n0 = (Index)n0_;
    const Index position_1 = (Index)threadIdx.x % 128;
    const Index unit_2 = (Index)blockIdx.x * 2 + (Index)threadIdx.x / 128;
    const Index at_3 = unit_2 * n0;
    Greatest<float>::Type acc_4[1] = {Greatest<float>::start()};
    for (Index chunk_5 = position_1; chunk_5 < n0; chunk_5 += 128) {
        const float x_6 = r0[at_3 + chunk_5];
        acc_4[0] = Greatest<float>::join(acc_4[0], x_6);
    }
    const Greatest<float>::Type whole_7 = joined<Greatest<float>, 128, 256>(acc_4[0]);
    Sum<float>::Type acc_8[1] = {Sum<float>::start()};
    for (Index chunk_9 = position_1; chunk_9 < n0; chunk_9 += 128) {
        const float x_10 = r0[at_3 + chunk_9];
        const float v_11 = x_10 - whole_7;
        const float v_12 = expf(v_11);
        acc_8[0] = Sum<float>::join(acc_8[0], v_12);
    }
    const Sum<float>::Type whole_13 = joined<Sum<float>, 128, 256>(acc_8[0]);
    for (Index chunk_14 = position_1; chunk_14 < n0; chunk_14 += 128) {
        const float x_15 = r0[at_3 + chunk_14];
        const float v_16 = x_15 - whole_7;
        const float v_17 = expf(v_16);
        const float v_18 = v_17 / whole_13;
        w0[at_3 + chunk_14] = v_18;
    }
}
