// rows by 512 threads, an element a thread
// kernel0<<<64, 512>>>(read 0, write 0)
// workspace 0

extern "C" __global__ void __launch_bounds__(512) kernel0(const float* r0, float* w0) {
    const Index position_1 = (Index)threadIdx.x % 512;
    const Index unit_2 = (Index)blockIdx.x;
    const Index at_3 = unit_2 * 63;
    Sum<float>::Type acc_4[1] = {Sum<float>::start()};
    for (Index chunk_5 = position_1; chunk_5 < 1890; chunk_5 += 512) {
        const Index i_6 = chunk_5 % 63;
        const Index rest_7 = chunk_5 / 63;
        const float x_8 = r0[at_3 + rest_7 * 4032 + i_6];
        acc_4[0] = Sum<float>::join(acc_4[0], x_8);
    }
    const Sum<float>::Type whole_9 = joined<Sum<float>, 512, 512>(acc_4[0]);
    const float v_10 = whole_9 / 1890.0f;
    if (position_1 == 0) {
        w0[unit_2] = v_10;
    }
}
